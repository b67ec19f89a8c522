"""Fluctuations of order parameters at finite size, by the linear noise approximation (van Kampen,
2007).

A Markov chain y <- y + xi/d takes d steps in a unit of time, and its changes xi have the mean F(y)
+ F_1(y)/d and the covariance D(y).  As d -> infinity the chain follows dy/dt = F(y).  At finite d
the chain scatters around this limit as a Gaussian process of covariance C/d, and the chain's mean
deviates from the limit by m/d.  C and m are integrated together with the ODE, at the cost of a few
Jacobians.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from jaxdyn.theory.online.gaussian_integrals import Rule, Unit, erf, root
from jaxdyn.theory.online.order_parameters import Number, Student, Teacher, velocity

__all__ = ["Fluctuations", "linear_noise", "online_velocity", "start"]

Moments = Callable[[PyTree], tuple[Float[Array, "p p"], Float[Array, " p"]]]


class Fluctuations(NamedTuple):
    """The mean and covariance of order parameters at large size d.

    Vectors and matrices are in the order of `jax.flatten_util.ravel_pytree`.

    Attributes:
        limit: the order parameters y in the limit of infinite size.
        covariance: d times the covariance of the order parameters, (p, p).
        shift: d times the deviation of their mean from `limit`, (p,).
    """

    limit: PyTree
    covariance: Float[Array, "p p"]
    shift: Float[Array, " p"]


def start(limit: PyTree, covariance: Float[Array, "p p"] | None = None) -> Fluctuations:
    """Return the start of an integration whose order parameters have a given covariance over runs.

    `covariance` (p, p) is d times the covariance over runs, by default 0.
    """
    flat, _ = ravel_pytree(limit)
    if covariance is None:
        covariance = jnp.zeros((flat.size, flat.size), flat.dtype)
    return Fluctuations(limit, covariance, jnp.zeros_like(flat))


def linear_noise(
    drift: Callable[[Number, PyTree], PyTree], moments: Moments
) -> Callable[[Number, Fluctuations], Fluctuations]:
    """Return the velocity of `Fluctuations` of any chain, for `integrate`.

    `drift(t, y)` is F and `moments(y)` is (D, F_1).  With the Jacobian A = F' and the second
    derivatives F''

        dC/dt = A C + C A^T + D,    dm/dt = A m + F'' : C / 2 + F_1 - A F / 2.

    The term -A F / 2 arises because the chain takes Euler's steps.  The approximation holds while
    C/d is small: from an unstable state C grows without bound.
    """

    drift = jax.jit(drift)  # traced and differentiated once, however often the solver calls it

    def move(time, state):
        y, unravel = ravel_pytree(state.limit)

        def flat(y):
            return ravel_pytree(drift(time, unravel(y)))[0]

        F = flat(y)
        C = state.covariance
        D, F_1 = moments(state.limit)

        # One vmapped program of two nested derivatives gives A C and F'' : C along the columns of
        # C, and A (m - F / 2) along one more vector.
        def slope(y, v):
            return jax.jvp(flat, (y,), (v,))[1]

        def along(v, w):
            return jax.jvp(lambda y: slope(y, v), (y,), (w,))

        zero = jnp.zeros_like(y)[None]
        identity = jnp.eye(len(y), dtype=y.dtype)
        of_shift = state.shift - F / 2
        once = jnp.concatenate([C, of_shift[None]])
        twice = jnp.concatenate([identity, zero])
        first, second = jax.vmap(along)(once, twice)
        moved = first[:-1]
        shift = first[-1] + jnp.sum(second, 0) / 2 + F_1
        return Fluctuations(unravel(F), moved + moved.T + D, shift)

    return move


def online_velocity(
    teacher: Teacher,
    *,
    rule: Rule,
    learning_rate: Number,
    readout_rate: Number = 0.0,
    unit: Unit | None = None,
) -> Callable[[Number, Fluctuations], Fluctuations]:
    """Return the velocity of the fluctuations of a `Student` in online learning, in the time
    examples/d.

    The covariance D of the changes is an average over the K + M fields by `rule`, such as
    `trapezoid(13)`.  F_1 is eta^2 v_k v_l E g'_k g'_l delta^2 (|x|^2 - d), a change of Q that
    arises because fields correlate with the squared norm of their input.
    """
    unit = unit or erf()

    def moments(student):
        Q, R, v = student
        K, M = R.shape
        points, weights = (jnp.asarray(a, Q.dtype) for a in rule(K + M))
        covariance = jnp.block([[Q, R], [R.T, teacher.overlaps]])
        h = points @ root(covariance).T
        g = unit.apply(h)
        of_student = g[:, :K]
        of_teacher = g[:, K:]
        slope = unit.slope(h[:, :K])

        def times(a, b):
            return a[:, :, None] * b[:, None]

        def changes(noise):
            error = of_teacher @ teacher.readout + teacher.noise * noise - of_student @ v
            a = learning_rate * v[None] * slope * error[:, None]
            cross = times(a, h[:, :K])
            overlaps = cross + cross.mT + times(a, a)
            readout = readout_rate * of_student * error[:, None]
            change = Student(overlaps, times(a, h[:, K:]), readout)
            return a, jax.vmap(lambda student: ravel_pytree(student)[0])(change)

        # The changes are averaged over the noise of the labels by three Gauss-Hermite points, which
        # are exact for its powers up to the fourth, the highest that occurs.
        a, xi = jax.vmap(changes)(3**0.5 * jnp.arange(-1.0, 2))
        of_noise = jnp.array([1.0, 4.0, 1.0]) / 6
        weights = of_noise[:, None] * weights[None]
        mean = jnp.einsum("np,npi->i", weights, xi)
        off = xi - mean[None, None]
        lengths = jnp.sum(points**2 - 1, 1)
        size = jnp.einsum("np,npi,npj->ij", weights * lengths[None], a, a)
        F_1, _ = ravel_pytree(Student(size, jnp.zeros_like(R), jnp.zeros_like(v)))
        return jnp.einsum("np,npi,npj->ij", weights, off, off), F_1

    drift = velocity(teacher, learning_rate=learning_rate, readout_rate=readout_rate, unit=unit)
    return linear_noise(drift, moments)
