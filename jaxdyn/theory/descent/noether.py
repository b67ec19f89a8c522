"""Noether's theorem for learning: the charges that symmetries of the loss conserve, and how finite
steps change them.

A symmetry of the loss makes the gradient g orthogonal to a generator xi(theta).  The generator is a
constant for translations (the rows of a softmax layer), theta itself for scales (weights before a
normalisation), and (u, -w) for rescalings (the weights into and out of a ReLU or linear unit).
Gradient descent with momentum b and weight decay k at learning rate a takes the steps

    v_{t+1} = b v_t - a (g_t + k theta_t),    theta_{t+1} = theta_t + v_{t+1}.

The functions here follow the charges step by step, without an error in the learning rate; at small
learning rates the charges follow the differential equations of Tanaka and Kunin (2021).  A linear
charge c . theta, xi = c, moves as a heavy ball in a quadratic of curvature k:
`theory.descent.momentum.mode(t, ThreeTerm(a, b), k, start)`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxdyn._numbers import Numbers, check, check_positive, floats
from jaxdyn.dynamics import iterate
from jaxdyn.types import Params

__all__ = ["equilibrium_angle", "equilibrium_norm", "quadratic_charges", "symmetry_residual"]


def symmetry_residual(
    generator: Callable[[Params], Params],
    previous: Params,
    current: Params,
    following: Params,
    learning_rate: Numbers,
    momentum: Numbers = 0.0,
    weight_decay: Numbers = 0.0,
) -> Float[Array, ""]:
    """Return xi(theta_t) . [v_{t+1} - b v_t + a k theta_t] of three successive iterates: 0 to
    rounding for a symmetry.

    By the equation of motion the residual is -a xi . g_t, for any stochastic batch.  A residual
    that is not 0 shows that the loss lacks the symmetry, or that the optimiser breaks it, as Adam
    does, which divides by a metric of each weight.  The first step of a run has no previous
    iterate: pass the current one.

    >>> scale = lambda theta: theta
    >>> f"{symmetry_residual(scale, jnp.ones(2), jnp.ones(2), jnp.array([1.1, 0.9]), 0.1):.4f}"
    '0.0000'
    """
    moved = jax.tree.map(jnp.subtract, following, current)
    before = jax.tree.map(jnp.subtract, current, previous)

    def free_of(moved, before, params):
        return moved - momentum * before + learning_rate * weight_decay * params

    forced = jax.tree.map(free_of, moved, before, current)
    return jnp.asarray(optax.tree.vdot(generator(current), forced))


def quadratic_charges(
    kinetic: Float[ArrayLike, "steps *charges"],
    start: Float[ArrayLike, "*charges"],
    learning_rate: Numbers,
    momentum: Numbers = 0.0,
    weight_decay: Numbers = 0.0,
) -> Float[Array, "steps_and_one *charges"]:
    """Return the quadratic charges C_t = theta_t^T A theta_t of the symmetry xi = A theta, from t =
    0 on.

    A is symmetric: the identity for scales, 1 and -1 on the diagonal for rescalings.  `kinetic`
    holds v_t^T A v_t of the steps t = 1, 2, ..., which is all that the gradients contribute.  With
    s_t = theta_{t-1}^T A v_t

        s_{t+1} = b (s_t + v_t^T A v_t) - a k C_t,  C_{t+1} = C_t + 2 s_{t+1} + v_{t+1}^T A v_{t+1}.

    Without momentum C_{t+1} = (1 - a k)^2 C_t + a^2 g_t^T A g_t.
    """
    kinetic = jnp.asarray(kinetic)
    last = jnp.concatenate([jnp.zeros_like(kinetic[:1]), kinetic[:-1]])

    def step(_, state):
        charge, overlap = state.params
        kept = momentum * (overlap + last[state.time])
        overlap = kept - learning_rate * weight_decay * charge
        charge = charge + 2 * overlap + kinetic[state.time]
        return state._replace(params=(charge, overlap))

    def observe(state):
        charge, _ = state.params
        return {"charge": charge}

    charge = jnp.asarray(start, kinetic.dtype)
    at_rest = (charge, jnp.zeros_like(charge))
    times = np.arange(len(kinetic) + 1)
    run = iterate(step, at_rest, times=times, observe=observe)
    return run.observed["charge"]


def equilibrium_angle(
    learning_rate: Numbers, weight_decay: Numbers, momentum: Numbers = 0.0
) -> Float[Array, "..."]:
    """Return the angle (radians) by which scale-invariant weights turn in a step once their norm is
    stationary.

    For any gradients the angle is arccos(1 - a k / (1 + b)), close to sqrt(2 a k / (1 + b)): the
    growth of the norm by turning balances weight decay.

    Raises ValueError for a learning rate or weight decay that is not positive, or a momentum
    outside of [0, 1).

    >>> f"{equilibrium_angle(0.1, 0.01):.6f}"
    '0.044725'
    """
    a, b, k = _optimiser(learning_rate, momentum, weight_decay)
    # 1 - cos x = 2 sin^2(x/2) keeps the digits of small angles.
    squared_sine = a * k / (1 + b) / 2
    return 2 * jnp.arcsin(jnp.sqrt(squared_sine))


def equilibrium_norm(
    gradient: Numbers, learning_rate: Numbers, weight_decay: Numbers, momentum: Numbers = 0.0
) -> Float[Array, "..."]:
    """Return the stationary norm of scale-invariant weights under gradients of norm `gradient` on
    the unit sphere.

        |theta|^4 = a (1 + b) G^2 / (2 k (1 - b) (1 + b - a k / 2))

    The formula holds for gradients that do not correlate with the velocity: for all gradients
    without momentum, for noise with momentum.  To first order the norm is the fourth root of a G^2
    / (2 k (1 - b)).

    Raises ValueError like `equilibrium_angle`.
    """
    a, b, k = _optimiser(learning_rate, momentum, weight_decay)
    gradient = jnp.asarray(gradient, a.dtype)
    growth = a * (1 + b) * gradient**2
    decay = 2 * k * (1 - b) * (1 + b - a * k / 2)
    return (growth / decay) ** 0.25


def _optimiser(learning_rate, momentum, weight_decay):
    check_positive(learning_rate=learning_rate, weight_decay=weight_decay)
    check("momentum", momentum, lambda b: (b >= 0) & (b < 1), "a number in [0, 1)")
    return floats(learning_rate, momentum, weight_decay)
