"""Groups of examples whose losses change together or oppositely."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

__all__ = ["opposing_groups"]


def opposing_groups(
    losses: Float[Array, "times n"], size: int
) -> tuple[Int[Array, " {size}"], Float[Array, " {size}"]]:
    """Return the `size` examples whose losses change most, and the correlations of their changes
    with the leader's.

    The changes are those from record to record.  Examples are ranked by the mean absolute value of
    their changes; the leader is the first of them and has the correlation 1.  Examples with
    correlations of one sign are a group.  The two groups are opposing signals if the correlations
    of the group without the leader are close to -1 (Rosenfeld & Risteski, 2023).

    >>> up, still = jnp.array([0.0, 3.0, 1.0, 2.0]), jnp.array([0.0, 0.1, 0.2, 0.2])
    >>> members, correlations = opposing_groups(jnp.stack([still, up, -0.5 * up], axis=1), 2)
    >>> members.tolist(), correlations.round(2).tolist()
    ([1, 2], [1.0, -1.0])

    Raises ValueError for a size beyond the examples, or fewer than 3 records.
    """
    if not (1 <= size <= losses.shape[1] and losses.shape[0] >= 3):
        raise ValueError(
            f"size, losses: {size} members from losses of shape {losses.shape}; pass 1 <= size <= n of at least 3 times"
        )
    changes = jnp.diff(losses, axis=0)
    members = jax.lax.top_k(jnp.mean(jnp.abs(changes), 0), size)[1]
    changes = changes[:, members]
    changes = changes - jnp.mean(changes, 0, keepdims=True)
    norms = jnp.linalg.norm(changes, axis=0)
    return members, changes[:, 0] @ changes / (norms[0] * norms)
