"""Zeroth-order rules: gradients estimated from how a loss responds to random perturbations.

Batches are pairs (data, key), made by `noisy`: the stream draws the key of the noise, so that a
field stays deterministic.  The mean of each rule is the gradient, up to errors that vanish with the
size of the perturbation; `theory.perturbation` has the variance of each rule, and how fast it
therefore learns.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxdyn._numbers import normal
from jaxdyn.types import Batch, Field, Key, Params, Stream

__all__ = ["forward_gradient", "node_perturbation", "noisy", "weight_perturbation"]

Loss = Callable[[Params, Batch], Float[Array, ""]]
DIRECTIONS = {"normal": jax.random.normal, "rademacher": jax.random.rademacher}


def noisy(stream: Stream) -> Stream:
    """Return the stream of pairs (batch of `stream`, key), which are the batches of the rules of
    this module."""

    def paired(key: Key, step: Any):
        batch_key, noise_key = jax.random.split(key)
        return stream(batch_key, step), noise_key

    return paired


def weight_perturbation(
    loss: Loss, sigma: Float[ArrayLike, ""], *, antithetic: bool = False, directions: str = "normal"
) -> Field:
    """Return the field (loss(theta + sigma xi) - loss(theta)) / sigma times xi, with xi a random
    direction of all weights.

    With `antithetic` the factor of xi is (loss(theta + sigma xi) - loss(theta - sigma xi)) / (2
    sigma), which for quadratic losses is exactly the slope along xi.  `directions="rademacher"`
    (signs) is simultaneous perturbation (SPSA: Spall, 1992).  In float32 a sigma below 1e-3 loses
    the difference of losses to rounding.  Raises ValueError for other directions.
    """
    draw = _directions(directions)

    def field(params: Params, batch: tuple[Batch, Key]) -> Params:
        data, key = batch
        flat, unravel = ravel_pytree(params)
        xi = _drawn(draw, key, flat.shape, flat.dtype)

        def value(shift):
            return loss(unravel(flat + shift * xi), data)

        return unravel(_slope(value, sigma, antithetic) * xi)

    return field


def forward_gradient(loss: Loss, *, directions: str = "normal") -> Field:
    """Return the field (g . xi) xi, the gradient g along a random direction xi, by one forward
    pass.

    The field is the limit of `weight_perturbation` for small perturbations (Baydin et al., 2022).
    Raises ValueError for other directions.
    """
    draw = _directions(directions)

    def field(params: Params, batch: tuple[Batch, Key]) -> Params:
        data, key = batch
        flat, unravel = ravel_pytree(params)
        xi = _drawn(draw, key, flat.shape, flat.dtype)
        _, slope = jax.jvp(lambda w: loss(unravel(w), data), (flat,), (xi,))
        return unravel(slope * xi)

    return field


def node_perturbation(
    nodes: Callable[[Params, Any, Sequence[Array] | None], tuple[Array, Sequence[Array]]],
    error: Callable[[Array, Array], Float[Array, " n"]],
    sigma: Float[ArrayLike, ""],
    *,
    antithetic: bool = False,
) -> Field:
    """Return the field that perturbs the inputs of all units: (l(sigma xi) - l(0)) / sigma times
    xi_l h_{l-1}^T (Williams, 1992; Fiete, Seung, 2006).

    `nodes(params, x, noise) -> (outputs, [a_1, ..., a_L])` is a network that adds noise[l] to the
    inputs a_l (n, units) of its layers, and nothing if `noise` is None.  It lets no gradient pass
    from layer to layer (by `jax.lax.stop_gradient` of what enters a layer), so that an update needs
    only what is known at the weight.  `error(outputs, y)` (n,) is the loss l of each example, and
    the field is the mean over examples.  `antithetic` is that of `weight_perturbation`.

    >>> def layer(w, x, noise):
    ...     a = x @ w.T if noise is None else x @ w.T + noise[0]
    ...     return a, [a]
    >>> field = node_perturbation(layer, lambda out, y: jnp.sum((y - out) ** 2, 1) / 2, 1e-2, antithetic=True)
    >>> batch = (jnp.ones((4, 3)), jnp.zeros((4, 2))), jax.random.key(0)
    >>> field(jnp.ones((2, 3)), batch).shape
    (2, 3)
    """

    def field(params: Params, batch: tuple[Batch, Key]) -> Params:
        (x, y), key = batch

        def unit_inputs(params):
            _, inputs = nodes(params, x, None)
            return inputs

        shapes = jax.eval_shape(unit_inputs, params)
        keys = jax.random.split(key, len(shapes))
        xi = [normal(key, a.shape, a.dtype) for key, a in zip(keys, shapes, strict=True)]

        def value(shift):
            outputs, _ = nodes(params, x, [shift * a for a in xi])
            return error(outputs, y)

        slope = _slope(value, sigma, antithetic)
        _, pull = jax.vjp(unit_inputs, params)
        (update,) = pull([slope[:, None] * a / len(slope) for a in xi])
        return update

    return field


def _directions(name):
    if name not in DIRECTIONS:
        raise ValueError(f"directions: {name!r} is unknown; pass one of {sorted(DIRECTIONS)}")
    return DIRECTIONS[name]


def _drawn(draw, key, shape, dtype):
    """Draw in float32, so that float64 repeats the same run."""
    return draw(key, shape, jnp.float32).astype(dtype)


def _slope(value, sigma, antithetic):
    if antithetic:
        return (value(sigma) - value(-sigma)) / (2 * sigma)
    return (value(sigma) - value(0.0)) / sigma
