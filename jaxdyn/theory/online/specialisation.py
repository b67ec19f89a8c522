"""Soft committee machines that learn from one of their own kind online: plateaus, escape, and the
end of learning.

K units g(h) = erf(h / sqrt(2)) learn K orthonormal units, T = I, with all readouts 1 (Saad and
Solla, 1995).  For a long time all units of the student are alike, each the mean of the teacher's
units, until they specialise; then the error falls to a floor set by noise and learning rate.  Times
are alpha = examples/d, and rates are per alpha.  Readouts of c instead of 1 multiply the learning
rate by c^2.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Complex, Float

from jaxdyn._numbers import floats
from jaxdyn.theory.online.order_parameters import (
    Number,
    Student,
    Teacher,
    generalisation_error,
    velocity,
)

__all__ = [
    "Plateau",
    "asymmetry",
    "decay_rate",
    "deviations",
    "escape_time_law",
    "growth_rates",
    "max_learning_rate",
    "moving_plateau",
    "noise_floor_at_rate",
    "optimal_learning_rate",
    "plateau",
    "teacher",
]


class Plateau(NamedTuple):
    """A saddle at which no unit has specialised.

    Attributes:
        student: the order parameters at the saddle.
        error: the generalisation error at the saddle.
        rate: the rate of escape, per alpha and per learning rate.
        index: the number of directions in which units specialise.
    """

    student: Student
    error: Float[Array, ""]
    rate: Float[Array, ""]
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]


def teacher(units: int, noise: Number = 0.0) -> Teacher:
    """Return the teacher of `units` orthonormal units, read out with weights 1."""
    return Teacher(jnp.eye(units), jnp.ones(units), noise)


def plateau(blocks: Sequence[int]) -> Plateau:
    """Return the saddle, for small learning rates, at which each block of the student's units is
    the mean of as many teacher units.

    A block of B alike units has Q_kl = 1/(2B - 1), R_km = 1/sqrt(B (2B - 1)) and the error (B/pi)
    (pi/6 - B asin 1/(2B)).  (K,) is the plateau of Saad and Solla (1995), and (1, ..., 1) is the
    perfect solution.  As B g(h) = E[teacher | h] at the saddle, blocks do not interact and their
    errors add up.

    Each block specialises in (B - 1)^2 directions, at the learning rate times (2/pi) B (2B -
    1)^(-1/2) (2B + 1)^(-3/2).  The fastest of the blocks' rates and the total number of these
    directions are returned.  B (B + 1)/2 - 1 further directions, which split Q, are exactly
    neutral.  Two blocks of several units, as in (2, 2) and (3, 2), also escape in one or two slower
    directions, which mix the blocks and are not counted.

    >>> saddle = plateau((2,))
    >>> f"{saddle.error:.4f}, {saddle.rate:.4f}", saddle.index
    ('0.0116, 0.0657', 1)

    Raises ValueError for no blocks or a block without units.
    """
    if not blocks or min(blocks) < 1:
        raise ValueError(
            f"blocks: {tuple(blocks)}; pass the sizes of one block or more, each at least 1"
        )
    B = np.array(blocks)
    label = np.repeat(np.arange(len(blocks)), blocks)
    together = label[:, None] == label[None]
    Q = 1 / (2 * B - 1)
    R = 1 / np.sqrt(B * (2 * B - 1))
    errors = B / np.pi * (np.pi / 6 - B * np.arcsin(1 / (2 * B)))
    growth = 2 / np.pi * B * (2 * B - 1) ** -0.5 * (2 * B + 1) ** -1.5
    rates = np.where(B > 1, growth, 0)
    directions = (B - 1) ** 2

    def within(a):
        return jnp.asarray(together * a[label][:, None], float)

    student = Student(within(Q), within(R), jnp.ones(len(label)))
    error = jnp.asarray(errors.sum())
    return Plateau(student, error, jnp.asarray(rates.max()), int(directions.sum()))


def moving_plateau(units: int, learning_rate: Number, noise: Number = 0.0) -> Plateau:
    """Return the plateau of (`units`,) at a finite learning rate, with the rate of escape per
    learning rate.

    Units that are alike stay alike; Newton's method, from the plateau of small rates, finds the (Q,
    R) at which alike units rest.  In the (K - 1)^2 modes of escape R_km deviates by rows and
    columns of sum zero, at fixed Q.
    """
    (learning_rate,) = floats(learning_rate)
    start = plateau((units,)).student
    student, error, rate = _moved(start, teacher(units, noise), learning_rate)
    return Plateau(student, error, rate, (units - 1) ** 2)


def asymmetry(with_teacher: Float[Array, "K K"]) -> Float[Array, ""]:
    """Return the size of R in the modes in which units specialise: its norm without the means of
    rows and columns."""
    centred = with_teacher - jnp.mean(with_teacher, 0, keepdims=True)
    centred = centred - jnp.mean(centred, 1, keepdims=True)
    return jnp.linalg.norm(centred)


def escape_time_law(rate: Number, index: int = 1) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return how the escape time from a plateau depends on d for random starts: (slope in log d,
    standard deviation).

    The unstable modes, `index` in number, grow as xi e^(rate alpha)/sqrt(d) with xi standard
    normal.  The mean escape time is therefore log(d)/(2 rate) up to a constant.  The standard
    deviation is that of log|xi| over the rate, whatever d is: sqrt(psi'(index/2))/(2 rate), and
    pi/(sqrt(8) rate) for one mode.  `rate` is per alpha, at the learning rate used.
    """
    rate = jnp.asarray(rate, float)
    variance = jax.scipy.special.polygamma(1, jnp.asarray(index / 2, float))
    return 1 / (2 * rate), jnp.sqrt(variance) / (2 * rate)


def growth_rates(
    student: Student, teacher: Teacher, learning_rate: Number
) -> Complex[Array, " modes"]:
    """Return the eigenvalues, sorted by real part, of the linearised dynamics of Q_kl (k <= l) and
    R at a fixed point.

    The eigenvalues are rates per alpha.  The readout is held fixed.
    """
    return _growth_rates(student, teacher, *floats(learning_rate))


def max_learning_rate(units: int) -> Float[Array, ""]:
    """Return the largest learning rate at which the perfect solution is stable.

    At this rate eta H - eta^2 N of `deviations` is singular; for one unit the rate is sqrt(5/3) pi.

    >>> [f"{max_learning_rate(K):.4f}" for K in (1, 2, 3)]
    ['4.0558', '2.3068', '1.6207']
    """
    H, N, _ = deviations(units)
    inverse = np.linalg.inv(np.linalg.cholesky(H))
    whitened = inverse @ N @ inverse.T
    return jnp.asarray(1 / np.linalg.eigvalsh(whitened)[-1])


def decay_rate(units: int, learning_rate: Number) -> Float[Array, ""]:
    """Return the rate at which the generalisation error decays to the perfect solution without
    noise.

    Two kinds of deviations decay, and the slower one decides.  The covariance of weights orthogonal
    to the teacher decays with eta H - eta^2 N of `deviations`.  Weights along the teacher descend
    on the error, so that the error decays at 2 eta times the smallest eigenvalue of its Hessian.
    The rate is negative beyond the `max_learning_rate`.
    """
    H, N, _ = deviations(units)
    decay = learning_rate * H - jnp.asarray(learning_rate) ** 2 * N
    across = jnp.linalg.eigvalsh(decay)[0]
    # For a field h along a teacher unit, E g'_k g'_l h^2 is m_2/3 if k and l both match this unit,
    # and m_1^2/2 if one of them does.
    (_, m1, m2, _, _) = _slope_moments()
    mixed = (units - 1) ** 0.5 * m1**2 / 2
    rest = m2 + (units - 2) * m1**2
    hessian = np.array([[m2 / 3, mixed], [mixed, rest]])
    used = min(units, 2)
    least = np.linalg.eigvalsh(hessian[:used, :used])[0]
    return jnp.minimum(across, 2 * learning_rate * least)


def optimal_learning_rate(units: int) -> Float[Array, ""]:
    """Return the learning rate of the largest `decay_rate`, found by ternary search to 1e-7 of the
    `max_learning_rate`.

    For one unit weights along the teacher and orthogonal to it then decay alike, at 2/3 of the
    `max_learning_rate`.  For more units the orthogonal weights decide.
    """

    def narrowed(_, ends):
        low, high = ends
        a = low + (high - low) / 3
        b = high - (high - low) / 3
        rising = decay_rate(units, a) < decay_rate(units, b)
        return jnp.where(rising, a, low), jnp.where(rising, high, b)

    largest = max_learning_rate(units)
    low, high = lax.fori_loop(0, 40, narrowed, (jnp.zeros_like(largest), largest))
    return (low + high) / 2


def noise_floor_at_rate(units: int, learning_rate: Number) -> Float[Array, ""]:
    """Return the final generalisation error over noise^2, to lowest order in noise^2, at any stable
    learning rate.

    The floor is (K/2) eta f^T (H - eta N)^-1 f with H, N and f of `deviations`.  For small learning
    rates the floor is eta K / (2 pi sqrt(3)):

    >>> f"{noise_floor_at_rate(1, 0.01) / 0.01:.3f}, {1 / (2 * np.pi * 3**0.5):.3f}"
    '0.092, 0.092'
    """
    H, N, force = deviations(units)
    response = jnp.linalg.solve(H - learning_rate * N, jnp.asarray(force))
    return learning_rate * units / 2 * force @ response


def deviations(units: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the symmetric matrices H and N and the vector f of small deviations u from the perfect
    solution.

    The deviations are orthogonal to the teacher.  u = (q, sqrt(K - 1) c), where q is the variance
    of each unit's deviation and c the covariance of each pair of units; for one unit u = (q,).  The
    deviations obey

        du/dalpha = -eta H u + eta^2 N u + eta^2 noise^2 f,

    and the generalisation error is K f.u/2.
    """
    K = units
    (_, m1, m2, m3, m4) = _slope_moments()
    pair = (K - 1) ** 0.5
    drift = pair * m1**2
    noise = pair * (2 * m3 * m1 + (K - 2) * m1**2 * m2)
    one = m4 + (K - 1) * m2**2
    pairs = 2 * m2**2 + 4 * (K - 2) * m2 * m1**2 + (K - 2) * (K - 3) * m1**4
    H = 2 * np.array([[m2, drift], [drift, m2 + (K - 2) * m1**2]])
    N = np.array([[one, noise], [noise, pairs]])
    force = np.array([m2, drift])
    used = min(K, 2)
    return H[:used, :used], N[:used, :used], force[:used]


@jax.jit
def _moved(start, teacher, learning_rate):
    move = velocity(teacher, learning_rate=learning_rate)
    (K, M) = start.with_teacher.shape

    def alike(q, r):
        return Student(jnp.full((K, K), q), jnp.full((K, M), r), start.readout)

    def rest(point):
        q, r = point
        speed = move(0.0, alike(q, r))
        return jnp.array([speed.overlaps[0, 0], speed.with_teacher[0, 0]]) / learning_rate

    def newton(_, point):
        slope = jax.jacfwd(rest)(point)
        return point - jnp.linalg.solve(slope, rest(point))

    point = jnp.array([start.overlaps[0, 0], start.with_teacher[0, 0]])
    q, r = lax.fori_loop(0, 20, newton, point)
    student = alike(q, r)
    # One of the modes of escape: two units each turn towards their own teacher unit and away from
    # the other's.
    signs = 1.0 - 2.0 * jnp.arange(K)
    pair = jnp.where(jnp.arange(K) < 2, signs, 0) * (K > 1)

    def escaping(size):
        with_teacher = student.with_teacher + size * jnp.outer(pair, pair)
        speed = move(0.0, student._replace(with_teacher=with_teacher))
        return speed.with_teacher[0, 0]

    rate = jax.jacfwd(escaping)(0.0) / learning_rate
    return student, generalisation_error(student, teacher), rate


@jax.jit
def _growth_rates(student, teacher, learning_rate):
    K, M = student.with_teacher.shape
    upper = np.triu_indices(K)
    pairs = K * (K + 1) // 2
    move = velocity(teacher, learning_rate=learning_rate)

    def packed(student):
        return jnp.concatenate([student.overlaps[upper], student.with_teacher.ravel()])

    def speed(modes):
        half = jnp.zeros((K, K), modes.dtype).at[upper].set(modes[:pairs])
        Q = half + jnp.triu(half, 1).T
        R = modes[pairs:].reshape(K, M)
        return packed(move(0.0, Student(Q, R, student.readout)))

    jacobian = jax.jacfwd(speed)(packed(student))
    values = jnp.linalg.eigvals(jacobian)
    return values[jnp.argsort(values.real)]


def _slope_moments():
    """Return the means of g'(z)^p, z standard normal, for p = 0 ... 4."""
    p = np.arange(5)
    return (2 / np.pi) ** (p / 2) / np.sqrt(1 + p)
