"""Observables of saddles: what `analysis.saddle_table` needs, the effective width of a network,
conserved charges."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxdyn.types import Batch, Observe, Params

__all__ = ["charges", "clusters", "effective_width", "rank_distance", "snapshot"]

Loss = Callable[[Params, Batch], Float[Array, ""]]


def snapshot(loss: Loss, batch: Batch) -> Observe:
    """Observe what `saddle_table` needs: `loss`, `gradient_norm` and `params`, all parameters in
    one vector.

    A run with T records of P parameters stores T P numbers.
    """

    def observe(state):
        value, gradient = jax.value_and_grad(loss)(state.params, batch)
        norm = jnp.linalg.norm(ravel_pytree(gradient)[0])
        return {"loss": value, "gradient_norm": norm, "params": ravel_pytree(state.params)[0]}

    return observe


def effective_width(units: Callable[[Params], Float[Array, "units ..."]]) -> Observe:
    """Observe the number of units at work, `unit_width`, and of their directions,
    `direction_width`.

    Both numbers are participation ratios (sum x)^2 / sum x^2.  For `unit_width` x are the squared
    norms of the rows of `units(params)`, for `direction_width` the squared singular values of this
    matrix.  A row holds all weights of a unit, incoming and outgoing, or what the unit contributes
    (such as `models.attention_heads`).  At a saddle of rank r the units have r directions, in r
    units (sparse) or spread over all units.  Both numbers are NaN where all rows are 0.

    >>> from jaxdyn.types import State
    >>> widths = effective_width(lambda w: w)(State(0, jnp.ones((4, 2))))
    >>> {name: f"{width:.1f}" for name, width in widths.items()}
    {'unit_width': '4.0', 'direction_width': '1.0'}
    """

    def observe(state):
        rows = units(state.params)
        rows = rows.reshape(len(rows), -1)
        # Without this scale fourth powers of small initial weights would underflow.
        rows = rows / jnp.max(jnp.abs(rows))
        products = rows @ rows.T
        norms = jnp.diagonal(products)
        # The sum of the fourth powers of the singular values equals the sum of the squared inner
        # products of all pairs of rows.
        squared = jnp.sum(norms) ** 2
        return {
            "unit_width": squared / jnp.sum(norms**2),
            "direction_width": squared / jnp.sum(products**2),
        }

    return observe


def clusters(
    units: Callable[[Params], tuple[Float[Array, "units place"], Float[Array, " units"]]],
    *,
    radius: Float[ArrayLike, ""],
    active: Float[ArrayLike, ""] = 0.03,
) -> Observe:
    """Observe how many `clusters` units form: distinct directions of rectifiers, or kinks of a
    piecewise linear function.

    `units(params)` returns points and weights: u_i / |u_i| and v_i |u_i| for directions, -bias /
    slope and v_i slope_i for kinks.  Units count if their |weight| is at least the fraction
    `active` of the largest.  Units of one sign within the `radius` of each other form one cluster.
    The result is the sum over units of 1 / (the number of units in their neighbourhood), which is
    the number of clusters if these are tight and separate.
    """

    def observe(state):
        place, weight = units(state.params)
        works = (jnp.abs(weight) >= active * jnp.max(jnp.abs(weight))) & (weight != 0)
        apart = jnp.sqrt(jnp.sum((place[:, None] - place[None]) ** 2, -1))
        together = (apart <= radius) & (weight[:, None] * weight[None] > 0) & works[None]
        return {"clusters": jnp.sum(jnp.where(works, 1 / jnp.maximum(jnp.sum(together, 1), 1), 0))}

    return observe


def rank_distance(of: Callable[[Params], Float[Array, "_ _"]], rank: int) -> Observe:
    """Observe how far the matrix `of(params)` is from the given `rank`: sigma_(rank + 1) /
    sigma_rank.

    For linear units with all their weights in the rows this ratio is the distance to the invariant
    manifold of a narrower network.  Raises ValueError for a rank below 1, or not below the number
    of singular values.
    """

    def observe(state):
        singular = jnp.linalg.svd(of(state.params), compute_uv=False)
        if not 1 <= rank < len(singular):
            raise ValueError(
                f"rank: {rank} of {len(singular)} singular values; pass 1 <= rank < {len(singular)}"
            )
        return {"rank_distance": singular[rank] / singular[rank - 1]}

    return observe


def charges(
    of: Callable[[Params], Float[Array, "..."]], loss: Loss, batch: Batch, like: Params
) -> Observe:
    """Observe the `charges` that a symmetry of the loss conserves under gradient flow, any array
    `of(params)`.

    A charge is conserved if its gradient xi is the generator of a symmetry: params + s xi(params)
    leaves the loss unchanged to first order in s, so that d charge / dt = -<xi, grad loss> = 0.
    For the generator A params with a symmetric matrix A the charge is <params, A params> / 2:
    |u_i|^2 - p v_i^2 for units of degree p, and W_1 W_1^T - W_2^T W_2 for linear layers.

    Raises ValueError if a charge is not conserved at the concrete parameters `like`: if the largest
    |cosine| of the angle between a charge's gradient and the loss's gradient is not 0 to half the
    digits.
    """
    flat, unravel = ravel_pytree(like)

    @jax.jit
    def largest_cosine(flat):
        gradient = jax.grad(lambda w: loss(unravel(w), batch))(flat)
        generators = jax.jacrev(lambda w: jnp.ravel(of(unravel(w))))(flat)
        sizes = jnp.linalg.norm(generators, axis=1) * jnp.linalg.norm(gradient)
        return jnp.max(jnp.abs(generators @ gradient) / jnp.where(sizes == 0, 1, sizes))

    cosine = largest_cosine(flat)
    if not isinstance(cosine, jax.core.Tracer) and cosine > jnp.finfo(flat.dtype).eps ** 0.5:
        raise ValueError(
            "of: is no charge of a symmetry of this loss: the cosine between its gradient and the loss's is "
            f"{cosine:.3g}, not 0; pass one whose gradient is the generator of a symmetry"
        )
    return lambda state: {"charges": of(state.params)}
