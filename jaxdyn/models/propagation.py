"""Signals through deep random networks, layer by layer, where `draw(key) -> W` (n, n) draws the
weights of each layer."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdyn.dynamics import iterate
from jaxdyn.types import Key

__all__ = ["product_exponents", "propagate"]

Draw = Callable[[Key], Float[Array, "n n"]]


def propagate(
    key: Key,
    draw: Draw,
    start: Float[Array, " n"],
    *,
    depth: int,
    activation: Callable[[Array], Array] = jnp.tanh,
) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """Return the last layer h_D and the Jacobian dh_D/dh_0 of `h_l = activation(W_l h_(l-1))`, h_0
    = `start`.

    The Jacobian is formed as a product of the Jacobians of the layers, so that its singular values
    below eps times the largest are rounding errors.
    """

    def layer(key, state):
        h, jacobian = state.params
        w = draw(key)
        h, slope = jax.jvp(activation, (w @ h,), (jnp.ones_like(h),))
        jacobian = slope[:, None] * (w @ jacobian)
        return state._replace(params=(h, jacobian))

    initial = (start, jnp.eye(start.size, dtype=start.dtype))
    run = iterate(layer, initial, times=[depth], observe=lambda state: {}, key=key)
    return run.final.params


def product_exponents(key: Key, draw: Draw, *, width: int, depth: int) -> Float[Array, " {width}"]:
    """Return the Lyapunov exponents (width,), per layer, of the product `W_D ... W_1`.

    The exponents are the means over layers of log R_ii, from a QR decomposition after each layer
    (Benettin et al. 1980), and fall with i up to fluctuations.  Unlike the singular values of the
    product itself they do not underflow.
    """

    def layer(key, state):
        q, exponents = state.params
        q, r = jnp.linalg.qr(draw(key) @ q)
        growth = jnp.log(jnp.abs(jnp.diagonal(r)))
        return state._replace(params=(q, exponents + growth / depth))

    initial = (jnp.eye(width), jnp.zeros(width))
    run = iterate(layer, initial, times=[depth], observe=lambda state: {}, key=key)
    _, exponents = run.final.params
    return exponents
