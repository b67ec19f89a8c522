"""Linear tasks by their second moments: frames, targets of chosen spectra, hierarchical data."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxdyn._numbers import normal
from jaxdyn.types import Key

__all__ = ["Covariances", "binary_tree", "covariances", "frames", "from_svd", "linear_teacher"]


class Covariances(NamedTuple):
    """Uncentred second moments: all that a linear network sees.

    Attributes:
        xx: E x x^T.
        yx: E y x^T.
        yy: E y y^T.
    """

    xx: Float[Array, "inputs inputs"]
    yx: Float[Array, "outputs inputs"]
    yy: Float[Array, "outputs outputs"]


def covariances(x: Float[Array, "n inputs"], y: Float[Array, "n outputs"]) -> Covariances:
    """Return the second moments of n examples in rows, `xx = x^T x / n` and so on."""
    n = x.shape[0]
    return Covariances(x.T @ x / n, y.T @ x / n, y.T @ y / n)


def linear_teacher(
    target: Float[Array, "outputs inputs"],
    xx: Float[Array, "inputs inputs"] | None = None,
    *,
    noise: Float[ArrayLike, ""] = 0.0,
) -> Covariances:
    """Return the population moments of `y = target x + noise * e`, with e of unit covariance and
    inputs of covariance `xx`.

    Without `xx` the inputs are whitened.
    """
    outputs, inputs = target.shape
    xx = jnp.eye(inputs, dtype=target.dtype) if xx is None else xx
    yx = target @ xx
    unexplained = noise**2 * jnp.eye(outputs, dtype=target.dtype)
    return Covariances(xx, yx, yx @ target.T + unexplained)


def frames(key: Key, sizes: Sequence[int], rank: int) -> list[Float[Array, "_ {rank}"]]:
    """Draw Haar frames R_0 ... R_D: matrices (N_l, rank) with orthonormal columns, one for each of
    the `sizes` N_l.

    Raises ValueError where the rank exceeds a size or is below 1.
    """
    if not 1 <= rank <= min(sizes):
        raise ValueError(
            f"rank: {rank} does not fit layers of {tuple(sizes)}; pass 1 <= rank <= {min(sizes)}"
        )
    keys = jax.random.split(key, len(sizes))
    return [_frame(key, size, rank) for key, size in zip(keys, sizes, strict=True)]


def from_svd(
    left: Float[Array, "outputs rank"],
    values: Float[ArrayLike, "rank"],
    right: Float[Array, "inputs rank"],
) -> Float[Array, "outputs inputs"]:
    """Return `left diag(values) right^T`, a target of chosen singular values; with `left = right` a
    covariance of chosen eigenvalues.

    >>> basis = frames(jax.random.key(0), [4], 4)[0]
    >>> xx = from_svd(basis, jnp.arange(1.0, 5.0), basis)
    >>> jnp.linalg.eigvalsh(xx).round(4).tolist()
    [1.0, 2.0, 3.0, 4.0]
    """
    return (left * jnp.asarray(values)[None]) @ right.T


def binary_tree(levels: int) -> tuple[Float[Array, "items items"], Float[Array, "items features"]]:
    """Return hierarchical data: the one-hot items `x` at the leaves of a binary tree, and the
    features `y` of the items.

    There are n = 2^levels items, and one feature for each node of the tree, root and leaves
    included: it is 1 if the node is the item or one of its ancestors, and 0 otherwise (Saxe,
    McClelland, Ganguli 2019).  For a singular value s of `yx`, (n s)^2 is the sum over depths, from
    that of its mode to the leaves, of the number of items below a node: 15 = 8 + 4 + 2 + 1, 7 = 4 +
    2 + 1, 3, 3, 1, 1, 1, 1 for three levels.  Raises ValueError for less than one level.
    """
    if levels < 1:
        raise ValueError(f"levels: {levels}; pass at least 1")
    items = jnp.arange(2**levels)

    def is_below(depth):
        """Return whether each item lies below each node of a depth."""
        nodes = jnp.arange(2**depth)
        return items[:, None] >> (levels - depth) == nodes[None]

    features = jnp.concatenate([is_below(depth) for depth in range(levels + 1)], axis=1)
    return jnp.eye(2**levels), features.astype(float)


def _frame(key, size, rank):
    q, r = jnp.linalg.qr(normal(key, (size, rank)))
    # With the signs of R's diagonal Q is Haar distributed (Mezzadri 2007).
    signs = jnp.where(jnp.diagonal(r) < 0, -1, 1).astype(q.dtype)
    return q * signs[None]
