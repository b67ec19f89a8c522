"""Online learning of a student from a teacher, two committees of hidden units, by their order
parameters.

A student f(x) = sum_k v_k g(w_k . x) sees a new example at each step: x ~ N(0, I) of d inputs,
labelled y = sum_m v*_m g(w*_m . x) + noise * z.  Descent on (y - f)^2 / 2, at the rates
learning_rate/d for w_k and readout_rate/d for v_k, moves the order parameters Q = w w^T, R = w w*^T
and v (Saad and Solla, 1995; Goldt et al., 2019).  The generalisation error depends on the order
parameters alone.  As d -> infinity the order parameters obey an ODE in the time alpha = examples/d
(`velocity`).  At finite d they are a Markov chain (`chain`), whose cost does not depend on d.  The
units g are those of `gaussian_integrals`, by default `erf()`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from jaxdyn._numbers import Number, normal
from jaxdyn.theory.online.gaussian_integrals import Unit, erf, root
from jaxdyn.types import Key, State

__all__ = [
    "Student",
    "Teacher",
    "chain",
    "generalisation_error",
    "noise_floor",
    "overlaps",
    "random_start",
    "velocity",
]


class Teacher(NamedTuple):
    """A teacher of M units.

    Attributes:
        overlaps: T = w* w*^T, the overlaps among the teacher's weights.
        readout: v*, the weights of the outputs.
        noise: the standard deviation of the labels' noise.
    """

    overlaps: Float[Array, "M M"]
    readout: Float[Array, " M"]
    noise: Number = 0.0


class Student(NamedTuple):
    """The order parameters of a student of K units.

    Attributes:
        overlaps: Q = w w^T, the overlaps among the student's weights.
        with_teacher: R = w w*^T, the overlaps with the teacher's weights.
        readout: v, the weights of the outputs.
    """

    overlaps: Float[Array, "K K"]
    with_teacher: Float[Array, "K M"]
    readout: Float[Array, " K"]


def overlaps(
    weights: Float[Array, "K d"], readout: Float[Array, " K"], teacher_weights: Float[Array, "M d"]
) -> Student:
    """Return the order parameters of a network y = v g(w x).

    The rows of `weights` w have a norm of order 1, that is entries of order 1/sqrt(d).
    """
    return Student(weights @ weights.T, weights @ teacher_weights.T, readout)


def generalisation_error(
    student: Student, teacher: Teacher, unit: Unit | None = None
) -> Float[Array, ""]:
    """Return the mean of (f - teacher)^2 / 2 over inputs, without the noise of the labels.

    The error is s^T I2 s / 2 with the output s = (-v, v*) of all units and the overlaps I2 of units
    under the covariance of all fields (Saad and Solla, 1995).
    """
    covariance, s = _fields(student, teacher)
    return s @ (unit or erf()).overlap(covariance) @ s / 2


def noise_floor(
    student: Student, teacher: Teacher, learning_rate: Number, unit: Unit | None = None
) -> Float[Array, ""]:
    """Return the final generalisation error at small learning rates of a `student` that is a
    perfect solution.

    For any units and any number of them it is eta noise^2/4 sum_k v_k^2 E g'(h_k)^2, because near
    the solution the weights have the covariance eta noise^2/2.  L units more than the teacher has,
    with Q = 0, add eta noise^2 L/(2 pi) for the error function (Goldt et al., 2019).
    """
    unit = unit or erf()
    slopes = unit.slopes(student.overlaps, len(student.readout))
    squares = student.readout**2 * jnp.diagonal(slopes)
    return jnp.asarray(learning_rate * teacher.noise**2 / 4 * jnp.sum(squares))


def velocity(
    teacher: Teacher, *, learning_rate: Number, readout_rate: Number = 0.0, unit: Unit | None = None
) -> Callable[[Number, Student], Student]:
    """Return the velocity of the order parameters for `integrate`, in the time alpha = examples/d
    as d -> infinity.

    The fields are h = (w x, w* x), the error is delta = sum_b s_b g(h_b) + noise * z, and the rates
    are eta and eta_v:

        dR_km/dalpha = eta v_k E g'_k delta h_m,    dv_k/dalpha = eta_v E g_k delta,

        dQ_kl/dalpha = eta v_k E g'_k delta h_l + (k <-> l) + eta^2 v_k v_l E g'_k g'_l delta^2

    (Saad and Solla, 1995; with the readout and the noise Goldt et al., 2019).
    """
    unit = unit or erf()

    def move(_, student):
        (covariance, s) = _fields(student, teacher)
        v = student.readout
        K = len(v)
        drift = learning_rate * v[:, None] * unit.drift(covariance, s, K)
        noise = teacher.noise**2 * unit.slopes(covariance, K)
        squares = unit.diffusion(covariance, s, K) + noise
        spread = learning_rate**2 * jnp.outer(v, v) * squares
        own = drift[:, :K]
        overlaps = own + own.T + spread
        readout = readout_rate * unit.overlap(covariance)[:K] @ s
        return Student(overlaps, drift[:, K:], jnp.asarray(readout))

    return move


def chain(
    teacher: Teacher,
    inputs: Number,
    *,
    learning_rate: Number,
    readout_rate: Number = 0.0,
    unit: Unit | None = None,
    examples: int = 1,
) -> Callable[[Key, State], State]:
    """Return the map `step(key, state) -> state` of online learning for `iterate`, exact in law,
    without weights.

    Given the order parameters, the fields of a new example are Gaussian, and the squared norm of
    the example beyond the K + M directions of all weights is chi-squared with d - K - M degrees of
    freedom.  A step at any d = `inputs` >= K + M + 2 therefore costs as much as a step at small d.
    A step takes so many `examples`, whose random numbers are drawn at once, which is faster; the
    number of steps is alpha d / examples.  `inputs` may be traced.  The changes are of order 1/d:
    use float64.

    Raises ValueError for fewer inputs than K + M + 2, where they are concrete, or less than one
    example.
    """
    unit = unit or erf()
    if examples < 1:
        raise ValueError(f"examples: {examples}; pass at least 1")

    def step(key, state):
        Q, R, v = state.params
        K, M = R.shape
        if not isinstance(inputs, jax.core.Tracer) and inputs < K + M + 2:
            raise ValueError(
                f"inputs: {inputs}; pass at least {K + M + 2}, two more than there are units"
            )
        # Drawing with the examples as the last axis is twice as fast.
        k_normal, k_rest = jax.random.split(key)
        z = normal(k_normal, (M + K + 1, examples), v.dtype).T
        along = z[:, :M]
        across = z[:, M:-1]
        noise = z[:, -1]
        beyond = _chi_squared(k_rest, inputs - K - M, (examples,)).astype(v.dtype)
        L = root(teacher.overlaps)
        clean = unit.apply(along @ L.T) @ teacher.readout
        labels = clean + teacher.noise * noise
        # Weights are split into their components U in an orthonormal basis of the teacher's weights
        # and the part orthogonal to the teacher, of overlaps S.
        U = jax.scipy.linalg.solve_triangular(L, R.T, lower=True).T

        def learn(parts, draw):
            (U, S, v) = parts
            (along, across, beyond, label) = draw
            outside = root(S) @ across
            h = U @ along + outside
            g = unit.apply(h)
            error = label - v @ g
            a = learning_rate / inputs * error * v * unit.slope(h)
            square = across @ across + beyond
            S = S + jnp.outer(a, outside) + jnp.outer(outside, a) + square * jnp.outer(a, a)
            U = U + jnp.outer(a, along)
            v = v + readout_rate / inputs * error * g
            return (U, S, v), None

        parts = (U, Q - U @ U.T, v)
        (U, S, v), _ = lax.scan(learn, parts, (along, across, beyond, labels))
        return state._replace(params=Student(S + U @ U.T, U @ L.T, v))

    return step


def random_start(
    key: Key, teacher: Teacher, readout: Float[Array, " K"], inputs: Number, scale: Number
) -> Student:
    """Return the order parameters, drawn at random, of a student with weights w ~ N(0, scale^2 /
    d).

    The draw is exact in law and needs no weights: R is Gaussian, and the part of the weights
    orthogonal to the teacher has a Wishart matrix of d - M degrees of freedom (Bartlett, 1933).
    `inputs` = d >= K + M + 2 may be traced.
    """
    K = len(readout)
    M = len(teacher.readout)
    k_normal, k_diagonal = jax.random.split(key)
    z = normal(k_normal, (K, M + K), readout.dtype)
    freedom = inputs - M - jnp.arange(K)
    squares = _chi_squared(k_diagonal, freedom, (K,)).astype(readout.dtype)
    size = jnp.asarray(scale / jnp.sqrt(inputs))
    U = size * z[:, :M]
    below = jnp.tril(z[:, M:], -1)
    L = size * (below + jnp.diag(jnp.sqrt(squares)))
    return Student(U @ U.T + L @ L.T, U @ root(teacher.overlaps).T, readout)


def _chi_squared(
    key: Key, freedom: Real[ArrayLike, "..."], shape: tuple[int, ...]
) -> Float[Array, "..."]:
    """Return float32 chi-squared numbers of `freedom` >= 2, drawn at once by the method of
    Marsaglia and Tsang (2000).

    On CPU `jax.random.chisquare` draws one number after another.
    """
    c = jnp.broadcast_to(jnp.asarray(freedom, jnp.float32) / 2 - 1 / 3, shape)

    def attempt(carry):
        key, drawn, pending = carry
        key, k_attempt = jax.random.split(key)
        # One call draws both a normal number and the logarithm of a uniform one.
        u = jax.random.uniform(k_attempt, (2, *shape), jnp.float32, minval=-1 + 2**-24)
        x = 2**0.5 * lax.erf_inv(u[0])
        log = jnp.log((1 + u[1]) / 2)
        v = (1 + x / jnp.sqrt(9 * c)) ** 3
        log_v = jnp.log(jnp.where(v > 0, v, 1))
        good = (v > 0) & (log < x**2 / 2 + c * (1 - v + log_v))
        drawn = jnp.where(pending & good, 2 * c * v, drawn)
        return key, drawn, pending & ~good

    def unfinished(carry):
        _, _, pending = carry
        return jnp.any(pending)

    start = (key, jnp.zeros(shape, jnp.float32), jnp.ones(shape, bool))
    _, drawn, _ = lax.while_loop(unfinished, attempt, start)
    return drawn


def _fields(student, teacher):
    """Return the covariance of the fields of all units, and the units' coefficients in the
    error."""
    Q, R, v = student
    covariance = jnp.block([[Q, R], [R.T, teacher.overlaps]])
    return covariance, jnp.concatenate([-v, teacher.readout])
