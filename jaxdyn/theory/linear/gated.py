"""Gated deep linear networks: exact reductions to the strengths of pathways, and the race between
pathways.

The network y = sum_p g_p W_D[r_pD] ... W_1[r_p1] x descends E|y - y_hat|^2 / 2.  The dynamics of
the network decouple into modes if the network starts balanced and aligned with singular vectors
that diagonalise all correlations E g_p y x^T and E g_p g_q x x^T.  Each matrix then becomes one
strength per mode, each pathway the product of its matrices' strengths, and pathways that serve the
same outputs race to explain them (Saxe, Sodhani, Lewallen, 2022).  Pathways whose gates are never
open together do not interact: each obeys `theory.linear` with its own moments.  Times are flow
times.
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
    """Return the velocity(time, strengths) of the neural race reduction, for `integrate`.

    The strength b_e of a matrix in a mode obeys

        db_e/dt = sum_(p through e) (product of p's other strengths) (yx_p - sum_q xx_pq B_q),

    where B_q is the product of the strengths along pathway q.  `yx` and `xx` are the diagonalised E
    g_p y x^T and E g_p g_q x x^T, and `routes` lists for each pathway its matrix in each layer.
    Strengths are a list with one array (matrices, modes) for each layer.
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

        da/dt = first b (s - a b),  db/dt = second a (s - a b)

    describe one mode of a network with alike and equally frequent contexts, where each layer is
    either shared by contexts or has a matrix for each of them.  Dividing a and b by the roots of
    their shares gives `theory.linear.unbalanced_modes` at the rate sqrt(first second).  A balanced
    mode u = a b obeys du/dt = 2 sqrt(first second) u (s - u), so sharing one layer between M
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
    """Return the final strengths of balanced pathways that race to explain the target s.

    The pathways obey du_p/dt = rates_p u_p (s - sum_q u_q), which conserves u_p^(1/rates_p) /
    u_q^(1/rates_q).  Hence u_p = u0_p e^(rates_p x) with x from sum_p u_p = s.  From small starts a
    pathway whose rate is larger by a factor takes almost all of s.  Strengths and rates are
    positive, and the sum of u0 is at most s.

    >>> [f"{u:.3f}" for u in race_outcome(jnp.array([1e-3, 1e-3]), jnp.array([2.0, 1.0]), 1.0)]
    ['0.969', '0.031']
    """
    u0, rates, s = floats(u0, rates, s)

    def gap(x):
        return jax.nn.logsumexp(jnp.log(u0) + rates * x) - jnp.log(s)

    def newton(_, x):
        return x - gap(x) / jnp.sum(rates * jax.nn.softmax(jnp.log(u0) + rates * x))

    # The gap is convex and increasing in x, so Newton's method converges from above: it starts
    # from the least x at which one pathway alone would explain s.
    x = lax.fori_loop(0, 20, newton, lax.stop_gradient(jnp.min(jnp.log(s / u0) / rates)))
    return u0 * jnp.exp(rates * newton(0, lax.stop_gradient(x)))
