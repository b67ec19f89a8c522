"""Gated deep linear networks: exact reductions to the strengths of pathways, and the race between
these.

The network y = sum_p g_p W_D[r_pD] ... W_1[r_p1] x descends E|y - y_hat|^2 / 2.  Started balanced
and aligned with singular vectors that diagonalise all correlations E g_p y x^T and E g_p g_q x x^T,
it decouples into modes: each matrix becomes one strength, each pathway the product of its
strengths, and pathways that serve the same outputs race to explain them (Saxe, Sodhani, Lewallen,
2022).  Pathways whose gates are never open together do not interact: each obeys `theory.linear`
with its own moments.  Times are flow times.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxdyn._numbers import Numbers, floats
from jaxdyn.theory.linear.modes import unbalanced_modes

__all__ = ["race_outcome", "race_velocity", "shared_modes"]

Strengths = list[Float[Array, "matrices modes"]]


def race_velocity(
    routes: Sequence[Sequence[int]],
    yx: Float[Array, "pathways modes"],
    xx: Float[Array, "pathways pathways modes"],
) -> Callable[[object, Strengths], Strengths]:
    """Return the velocity(time, strengths) of the matrices' strengths, the neural race reduction,
    for `integrate`.

    db_e/dt = sum over the pathways p through e of (product of p's other strengths) (yx_p - sum_q
    xx_pq B_q), B_q the product along pathway q; `yx` and `xx` are the diagonalised E g_p y x^T and
    E g_p g_q x x^T, `routes` the matrix of each pathway in each layer, strengths one (matrices,
    modes) for each layer.
    """
    layers = [jnp.asarray(layer) for layer in zip(*routes, strict=True)]

    def explained(strengths):
        along = [b[layer] for b, layer in zip(strengths, layers, strict=True)]
        products = jnp.prod(jnp.stack(along), axis=0)
        shared = products[:, None] * xx * products[None]
        return jnp.sum(products * yx) - jnp.sum(shared) / 2

    def velocity(time, strengths):
        return jax.grad(explained)(strengths)

    return velocity


def shared_modes(
    time: Numbers,
    s: Numbers,
    a0: Numbers,
    b0: Numbers,
    *,
    first: Numbers = 1.0,
    second: Numbers = 1.0,
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Return the strengths (a, b) of two layers used in the shares `first` and `second` > 0 of all
    examples.

    da/dt = first b (s - a b), db/dt = second a (s - a b): one mode of a network whose contexts,
    alike and equally frequent, each use their own or a shared matrix.  Dividing a and b by the
    roots of their shares gives `theory.linear.unbalanced_modes` at the rate sqrt(first second);
    balanced, u = a b obeys du/dt = 2 sqrt(first second) u (s - u), so sharing one layer between M
    contexts learns sqrt(M) times faster than sharing none (Saxe, Sodhani, Lewallen, 2022).
    """
    time, s, a0, b0, first, second = floats(time, s, a0, b0, first, second)
    rate = jnp.sqrt(first * second)
    unit_a = jnp.sqrt(first)
    unit_b = jnp.sqrt(second)
    a, b = unbalanced_modes(rate**2 * time, s / rate, a0 / unit_a, b0 / unit_b)
    return unit_a * a, unit_b * b


def race_outcome(
    u0: Float[Array, " pathways"], rates: Numbers, s: Numbers
) -> Float[Array, " pathways"]:
    """Return the final strengths of balanced pathways that race to explain s: du_p/dt = rates_p u_p
    (s - sum_q u_q).

    u_p^(1/rates_p) / u_q^(1/rates_q) is conserved, so that u_p = u0_p e^(rates_p x) with x from
    sum_p u_p = s: who is faster by a factor takes almost all from small starts.  Positive strengths
    and rates, sum of u0 <= s.

    >>> [f"{u:.3f}" for u in race_outcome(jnp.array([1e-3, 1e-3]), jnp.array([2.0, 1.0]), 1.0)]
    ['0.969', '0.031']
    """
    u0, rates, s = floats(u0, rates, s)

    def gap(x):
        return jax.nn.logsumexp(jnp.log(u0) + rates * x) - jnp.log(s)

    def newton(_, x):
        return x - gap(x) / jnp.sum(rates * jax.nn.softmax(jnp.log(u0) + rates * x))

    # Convex and increasing: Newton's method comes down from where one pathway alone would explain
    # s.
    x = lax.fori_loop(0, 20, newton, lax.stop_gradient(jnp.min(jnp.log(s / u0) / rates)))
    return u0 * jnp.exp(rates * newton(0, lax.stop_gradient(x)))
