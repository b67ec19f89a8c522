"""Two-layer linear networks from any lambda-balanced start: the exact solution of their matrix
Riccati equation.

The flow of the loss E|y - W_2 W_1 x|^2 / 2 with inputs of covariance d I conserves W_2^T W_2 - W_1
W_1^T.  A start is lambda-balanced if this matrix is lambda I.  Then Q = [W_1^T; W_2] obeys

    dQ/dt = F Q - (d/2) Q Q^T Q,  F = [[-d lambda/2, yx^T], [yx, d lambda/2]],

and the Gram matrix Q Q^T a matrix Riccati equation (Fukumizu, 1998; Braun, Domine, Fitzgerald,
Saxe, 2022; Domine et al., 2024).  Weights are the list [W_1 (hidden, inputs), W_2 (outputs,
hidden)], lambda is called their imbalance, and times are flow times.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from jaxdyn._numbers import decayed, floats

__all__ = ["generator", "gram", "imbalance", "late_rate", "ntk", "solution", "trajectory"]

Weights = Sequence[Float[Array, "_ _"]]


def solution(
    time: Real[ArrayLike, ""],
    weights: Weights,
    yx: Float[Array, "outputs inputs"],
    variance: Real[ArrayLike, ""] = 1.0,
) -> list[Float[Array, "_ _"]]:
    """Return the weights at a time >= 0 from a lambda-balanced start, up to one common rotation of
    the hidden units.

        Q(t) = e^(Ft) Q_0 M^(-1/2),  M = I + d Q_0^T (integral of e^(2Fs)) Q_0

    is evaluated in the eigenbasis of F.  F may be singular, and yx may have any shape and rank.
    The rows of [e^(Ft) Q_0; I] grow at different rates; column operations that pivot on the largest
    entry at that time keep the scales apart, so that nothing overflows or cancels at any time.

    The Gram matrix Q Q^T is exact to rounding: to 1e-13 of its norm in float64 and 5e-6 in float32.
    Every quantity that is invariant to the rotation is as exact: W_2 W_1, W_1^T W_1, W_2 W_2^T,
    losses, kernels.  The rotation itself depends on the whole path and is not known in closed form.
    Only a run that starts exactly on a saddle leaves the saddle by rounding errors, once e^(2 w t)
    exceeds 1/eps, w being the largest eigenvalue of F.

    vmap works over times, starts and targets.  Derivatives are those along lambda-balanced starts,
    correct to first order also where eigenvalues of F coincide.  To continue with a second task,
    pass the weights at the end of the first.

    Raises ValueError for times that are negative or not finite and, where the weights are concrete,
    for a start that is not lambda-balanced.

    >>> start = [jnp.full((1, 1), 0.1), jnp.full((1, 1), 0.1)]
    >>> first, second = solution(2.0, start, jnp.ones((1, 1)))
    >>> f"{(second @ first)[0, 0]:.4f}", f"{1 / (1 + 99 * jnp.exp(-4.0)):.4f}"
    ('0.3555', '0.3555')
    """
    first, second = _checked(weights, yx, time)
    return _evolved(*floats(time, first, second, yx, variance))


def trajectory(
    times: Real[ArrayLike, " times"],
    weights: Weights,
    yx: Float[Array, "outputs inputs"],
    variance: Real[ArrayLike, ""] = 1.0,
) -> list[Float[Array, "times _ _"]]:
    """Return the weights at increasing times, up to rotations of the hidden units, at less cost
    than `solution` at each time.

    From one time to the next

        Q = e^(F dt) Q_0 L^-T,  L L^T = I + d Q_0^T (integral of e^(2Fs)) Q_0,

    in steps of 2 max(w) dt <= 16, with w the eigenvalues of F, over which the Cholesky factor L is
    well conditioned.  The accuracy is that of `solution`, except that next to saddles the flow
    itself amplifies earlier rounding errors.  Derivatives are forward-mode only.

    Raises ValueError like `solution`, and for times that do not increase.
    """
    ordered: Any = times if isinstance(times, jax.core.Tracer) else np.asarray(times)
    if isinstance(ordered, np.ndarray):
        increasing = np.all(np.diff(ordered) > 0)
        if not (increasing and np.all(np.isfinite(ordered))):
            raise ValueError(f"times: {times} do not increase; pass finite times >= 0 in order")
    first, second = _checked(weights, yx, ordered[0])
    times, first, second, yx, variance = floats(times, first, second, yx, variance)
    return _advanced(times, first, second, yx, variance)


def imbalance(weights: Weights) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return lambda, the mean eigenvalue of W_2^T W_2 - W_1 W_1^T, and the relative deviation from
    lambda I.

    The deviation is |W_2^T W_2 - W_1 W_1^T - lambda I|_F / (|W_1|_F^2 + |W_2|_F^2).  The flow
    conserves lambda and the numerator of the deviation.

    >>> [float(x) for x in imbalance([jnp.eye(2), 2 * jnp.eye(2)])]
    [3.0, 0.0]
    """
    first, second = weights
    difference = second.T @ second - first @ first.T
    identity = jnp.eye(len(difference), dtype=difference.dtype)
    mean = jnp.trace(difference) / len(difference)
    off = jnp.linalg.norm(difference - mean * identity)
    size = jnp.sum(first**2) + jnp.sum(second**2)
    return mean, off / jnp.maximum(size, jnp.finfo(size.dtype).tiny)


def generator(
    yx: Float[Array, "outputs inputs"],
    imbalance: Real[ArrayLike, ""],
    variance: Real[ArrayLike, ""] = 1.0,
) -> Float[Array, "units units"]:
    """Return the symmetric matrix F = [[-d lambda/2, yx^T], [yx, d lambda/2]], units = inputs +
    outputs."""
    yx, imbalance, variance = floats(yx, imbalance, variance)
    outputs, inputs = yx.shape
    sign = jnp.concatenate([-jnp.ones(inputs, yx.dtype), jnp.ones(outputs, yx.dtype)])
    of_inputs = jnp.zeros((inputs, inputs), yx.dtype)
    of_outputs = jnp.zeros((outputs, outputs), yx.dtype)
    correlation = jnp.block([[of_inputs, yx.T], [yx, of_outputs]])
    return correlation + jnp.diag(sign * variance * imbalance / 2)


def gram(weights: Weights) -> Float[Array, "units units"]:
    """Return the Gram matrix Q Q^T = [[W_1^T W_1, (W_2 W_1)^T], [W_2 W_1, W_2 W_2^T]].

    The Gram matrix holds all that rotations of the hidden units do not change.
    """
    first, second = weights
    q = jnp.concatenate([first.T, second])
    return q @ q.T


def ntk(weights: Weights, x: Float[Array, "n inputs"]) -> Float[Array, "n_outputs n_outputs"]:
    """Return the neural tangent kernel of W_2 W_1 on the rows of `x`, for example-major outputs.

        K = (x W_1^T W_1 x^T) (x) I + (x x^T) (x) W_2 W_2^T

    with (x) the Kronecker product (Jacot, Gabriel, Hongler, 2018).  The kernel is invariant to
    rotations of the hidden units and therefore exact along `solution`.
    """
    first, second = weights
    hidden = x @ first.T
    identity = jnp.eye(second.shape[0], dtype=hidden.dtype)
    of_second = jnp.kron(hidden @ hidden.T, identity)
    of_first = jnp.kron(x @ x.T, second @ second.T)
    return of_second + of_first


def late_rate(
    yx: Float[Array, "outputs inputs"],
    hidden: int,
    imbalance: Real[ArrayLike, ""],
    variance: Real[ArrayLike, ""] = 1.0,
) -> Float[Array, ""]:
    """Return the rate at which W_2 W_1 approaches its limit in the end, from a generic
    lambda-balanced start.

    The eigenvalues w of F are +-sqrt(s^2 + (d lambda)^2/4) for each singular value s of yx, -d
    lambda/2 for each further input and +d lambda/2 for each further output.  The `hidden` largest
    positive ones are learned.  Perturbations among the learned directions decay at w_i + w_j, those
    into the other directions at w_i - w_j.  For a square invertible yx and enough hidden units the
    slowest rate is sqrt(4 s_min^2 + (d lambda)^2).  Directions without a target make the slowest
    rate smaller: s_min for lambda = 0.  yx must have full rank.
    """
    yx, imbalance, variance = floats(yx, imbalance, variance)
    modes = min(hidden, *yx.shape)
    w = jnp.linalg.eigvalsh(generator(yx, imbalance, variance))[::-1]
    rounding = 100 * jnp.finfo(w.dtype).eps * w[0]
    learned = jnp.minimum(jnp.sum(w > rounding), hidden)
    slowest = jnp.minimum(w[learned - 1], -w[learned])
    return w[modes - 1] + slowest


@jax.jit
def _evolved(time, first, second, yx, variance):
    """Return the weights at a time: Q(t) = e^(Ft) Q_0 M^(-1/2) in the eigenbasis of F.

    The rows of [e^(Ft) Q_0; I] are stored without their growth e^height, so that nothing overflows.
    M is formed from rows that `_graded` has brought to similar sizes.
    """
    w, basis, mixing = _eigenbasis(generator(yx, imbalance([first, second])[0], variance))
    start = basis.T @ jnp.concatenate([first.T, second])
    growth = jnp.maximum(w * time, 0)
    spent, slope = _spent(w, time, growth)

    # The rows of e^(Ft) Q_0 over those of I, with the weights that M gives them.
    hidden = len(first)
    still = jnp.zeros(hidden, w.dtype)
    height = jnp.r_[growth, still]
    weight = jnp.r_[variance * spent, still + 1]
    rows = jnp.concatenate([start, jnp.eye(hidden, dtype=w.dtype)])
    rows, pivots = _graded(rows, height, weight)

    # Each column is scaled by the growth of its pivot's row.  The exponent is bounded so that
    # entries of other rows do not overflow.
    rise = height[:, None] - lax.stop_gradient(height)[pivots][None]
    highest = jnp.log(jnp.finfo(w.dtype).max) - 1
    rows = rows * jnp.exp(jnp.minimum(rise, highest))
    moving = rows[: len(w)]
    fixed = rows[len(w) :]

    # Among equal eigenvalues a change of F mixes modes: `mixing` is 0, but its tangent carries
    # the derivative of the metric.
    mean_slope = (slope[:, None] + slope[None]) / 2
    metric = variance * (jnp.diag(spent) + mixing * mean_slope)
    gram = moving.T @ metric @ moving + fixed.T @ fixed
    factor = jnp.linalg.cholesky(gram)
    moving = lax.linalg.triangular_solve(factor, moving, lower=True, transpose_a=True)
    decay = jnp.exp(jnp.minimum(w * time, 0))
    moving = decay[:, None] * moving
    end = basis @ (moving + time * mixing @ moving)
    inputs = first.shape[1]
    return [end[:inputs].T, end[inputs:]]


def _spent(w, time, growth):
    """Return the integral of e^(2 w s) up to `time` over e^(2 growth), and its slope in w."""

    def integral(w):
        left = jnp.exp(2 * (jnp.maximum(w * time, 0) - growth))
        return left * time * decayed(2 * jnp.abs(w) * time)

    return jax.jvp(integral, (w,), (jnp.ones_like(w),))


@jax.jit
def _advanced(times, first, second, yx, variance):
    w, basis, _ = _eigenbasis(generator(yx, imbalance([first, second])[0], variance))

    def advance(q, gap):
        steps = jnp.maximum(jnp.ceil(2 * w[-1] * gap / 16), 1)
        dt = gap / steps
        # The integral of e^(2 w s) over the step.
        growth = jnp.exp(2 * jnp.maximum(w, 0) * dt)
        spent = variance * growth * dt * decayed(2 * jnp.abs(w) * dt)

        def step(_, q):
            identity = jnp.eye(q.shape[1], dtype=q.dtype)
            gram = q.T @ (spent[:, None] * q)
            factor = jnp.linalg.cholesky(identity + gram)
            moved = jnp.exp(w * dt)[:, None] * q
            return lax.linalg.triangular_solve(factor, moved, lower=True, transpose_a=True)

        q = lax.fori_loop(0, steps.astype(int), step, q)
        return q, q

    start = basis.T @ jnp.concatenate([first.T, second])
    _, path = lax.scan(advance, start, jnp.diff(times, prepend=0.0))
    path = basis @ path
    inputs = first.shape[1]
    return [jnp.swapaxes(path[:, :inputs], 1, 2), path[:, inputs:]]


@jax.custom_jvp
def _eigenbasis(matrix):
    """Return eigenvalues, eigenvectors, and a zero matrix whose tangent is the mixing among equal
    eigenvalues."""
    return *jnp.linalg.eigh(matrix), jnp.zeros_like(matrix)


@_eigenbasis.defjvp
def _eigenbasis_jvp(primals, tangents):
    w, v, mixing = _eigenbasis(*primals)
    (tangent,) = tangents
    change = v.T @ tangent @ v
    gap = w[None] - w[:, None]
    # Eigenvalues that agree to half of their digits count as equal: their eigenvectors would turn
    # by 1/gap, too fast to be distinguished.
    close = jnp.finfo(w.dtype).eps ** 0.5 * jnp.max(jnp.abs(w))
    equal = jnp.abs(gap) <= close
    turn = jnp.where(equal, 0, change / jnp.where(equal, 1, gap))
    own = jnp.diagonal(change)
    mixed = jnp.where(equal, change, 0) - jnp.diag(own)
    return (w, v, mixing), (own, v @ turn, mixed)


def _graded(rows, height, weight):
    """Return combined columns whose entries are largest in their pivots' rows, and the pivots.

    The size of an entry is its modulus times e^height sqrt(weight).  The method is Gaussian
    elimination with complete pivoting: multipliers never exceed one, and rows are compared with
    each other by their heights only (Demmel et al., 1999).  Each returned column has a one at its
    pivot.
    """
    level = lax.stop_gradient(height + jnp.log(weight) / 2)

    def eliminate(_, state):
        rows, pivots, left = state
        logarithm = jnp.log(jnp.abs(lax.stop_gradient(rows)))
        size = jnp.where(left[None], level[:, None] + logarithm, -jnp.inf)
        i, j = jnp.unravel_index(jnp.argmax(size), size.shape)
        left = left.at[j].set(False)
        column = rows[:, j] / rows[i, j]
        rows = rows - column[:, None] * jnp.where(left, rows[i], 0)[None]
        # Eliminated entries are set to exactly zero, as their row may grow without bound.
        rows = rows.at[i].set(jnp.where(left, 0, rows[i])).at[:, j].set(column)
        return rows, pivots.at[j].set(i), left

    columns = rows.shape[1]
    state = rows, jnp.zeros(columns, int), jnp.ones(columns, bool)
    return lax.fori_loop(0, columns, eliminate, state)[:2]


def _checked(weights, yx, time):
    """Return the weights, after a check that they fit the target and each other; `time` is the
    first time."""
    first, second = weights
    if (second.shape[1], *yx.shape) != (first.shape[0], second.shape[0], first.shape[1]):
        raise ValueError(
            f"weights, yx: shapes {first.shape}, {second.shape} and {yx.shape} do not fit; pass W_1 (hidden, inputs), "
            "W_2 (outputs, hidden) and yx (outputs, inputs)"
        )
    if not isinstance(time, jax.core.Tracer) and not (np.isfinite(time) and time >= 0):
        raise ValueError(
            f"time: {time} is no finite time >= 0; pass one, as backwards the solution may not exist"
        )
    _check_balanced(first, second)
    return first, second


def _check_balanced(first, second):
    if isinstance(first, jax.core.Tracer) or isinstance(second, jax.core.Tracer):
        return
    with jax.ensure_compile_time_eval():
        mean, deviation = map(np.asarray, imbalance([first, second]))
    if not deviation <= np.finfo(deviation.dtype).eps ** 0.5:
        raise ValueError(
            f"weights: W_2^T W_2 - W_1 W_1^T deviates from {mean:.3g} I by {deviation:.1e} of the weights' squared "
            "norm; start lambda-balanced (models.lambda_balanced), or integrate any other start by jaxdyn.flow"
        )
