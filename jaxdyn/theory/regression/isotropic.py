"""Linear regression on isotropic inputs in high dimension, by integrals over the Marchenko-Pastur
law.

This module treats the case of one group in `jaxdyn.theory.regression.spectrum`, with the same clock
and `Errors` but independent formulas (Advani, Saxe, 2017).  There are n = alpha d samples of d
inputs of unit variance, a teacher of squared norm `power`, random initial weights of squared norm
`start`, and labels with noise of standard deviation `noise`.  Time multiplies X^T X / n.  For
inputs of variance 1/d and the flow of the sum over samples, pass alpha t for the time and penalty /
alpha for a penalty of that sum.
"""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from jaxdyn._numbers import Number, check
from jaxdyn.theory.regression.given_data import descended
from jaxdyn.theory.regression.spectrum import Errors

__all__ = [
    "descent",
    "flow",
    "noise_at_threshold",
    "optimal_ridge",
    "quadrature",
    "ridge",
    "trained",
]

Numbers = Real[ArrayLike, "*times"]


def quadrature(
    alpha: Number, nodes: int = 400
) -> tuple[Float[Array, " {nodes}"], Float[Array, " {nodes}"]]:
    """Return eigenvalues of X^T X / n and weights, which sum to the fraction min(1, alpha) that is
    not zero.

    The rule is the midpoint rule in theta for the eigenvalues 1 + 1/alpha + 2
    cos(theta)/sqrt(alpha) (Marchenko, Pastur, 1967).  The rule converges exponentially.  At alpha =
    1, where eigenvalues come down to zero, the rule resolves times up to (nodes/20)^2.

    >>> eigenvalues, weights = quadrature(4.0)
    >>> f"{weights.sum():.4f} {weights @ eigenvalues:.4f} {weights @ eigenvalues**2:.4f}"
    '1.0000 1.0000 1.2500'

    Raises ValueError for alpha that is not positive and finite.
    """
    check(
        "alpha", alpha, lambda a: np.isfinite(a) & (a > 0), "a positive ratio of samples to inputs"
    )
    alpha = jnp.asarray(alpha, jnp.result_type(float, alpha))
    angle = jnp.asarray((np.arange(nodes) + 0.5) * np.pi / nodes, alpha.dtype)
    # Both terms are squares, so that nothing cancels near zero.
    root = 1 / jnp.sqrt(alpha)
    eigenvalues = (1 - root) ** 2 + 4 * root * jnp.cos(angle / 2) ** 2
    return eigenvalues, 2 * jnp.sin(angle) ** 2 / (eigenvalues * nodes)


def flow(
    time: Numbers,
    alpha: Number,
    *,
    power: Number = 1.0,
    noise: Number = 0.0,
    start: Number = 0.0,
    nodes: int = 400,
) -> Errors:
    """Return the errors of gradient flow, which leaves the fraction e^(-lambda t) of the mode of
    each eigenvalue lambda.

    Raises ValueError for alpha <= 0 and for times that are negative or not finite.
    """
    _check_times("time", time)

    def filtered(rate, t):
        return (jnp.exp(-rate * t), -jnp.expm1(-rate * t))

    return _errors(filtered, time, alpha, power, noise, start, nodes)


def descent(
    steps: Numbers,
    learning_rate: Number,
    alpha: Number,
    *,
    power: Number = 1.0,
    noise: Number = 0.0,
    start: Number = 0.0,
    nodes: int = 400,
) -> Errors:
    """Return the errors of gradient descent, which leaves (1 - learning_rate lambda)^steps of each
    eigenvalue's mode.

    Beyond the learning rate 2 / (1 + 1/sqrt(alpha))^2 errors grow without bound.  Raises ValueError
    like `flow`.
    """
    _check_times("steps", steps)

    def filtered(rate, k):
        return descended(learning_rate * rate, k)

    return _errors(filtered, steps, alpha, power, noise, start, nodes)


def ridge(
    penalty: Numbers,
    alpha: Number,
    *,
    power: Number = 1.0,
    noise: Number = 0.0,
    start: Number = 0.0,
    nodes: int = 400,
) -> Errors:
    """Return the errors of the minimum of |y - X w|^2 / n + s |w - w_0|^2 for the `penalty` s.

    The minimum leaves the fraction s/(lambda + s) of the mode of each eigenvalue lambda.

    Raises ValueError for alpha <= 0 and for a negative penalty.
    """
    _check_times("penalty", penalty)

    def filtered(rate, s):
        return (s / (rate + s), rate / (rate + s))

    return _errors(filtered, penalty, alpha, power, noise, start, nodes)


def trained(
    alpha: Number, *, power: Number = 1.0, noise: Number = 0.0, start: Number = 0.0
) -> Float[Array, ""]:
    """Return the excess error at the end of gradient flow.

    With more samples than inputs (alpha > 1) it is noise^2/(alpha - 1), with fewer (1 - alpha)
    (power + start) + noise^2 alpha/(1 - alpha), and at alpha = 1 it is infinite.
    """
    alpha = jnp.asarray(alpha, jnp.result_type(float, alpha))
    unseen = jnp.maximum(1 - alpha, 0) * (jnp.asarray(power) + start)
    return unseen + jnp.asarray(noise) ** 2 * jnp.minimum(alpha, 1) / jnp.abs(1 - alpha)


def optimal_ridge(
    alpha: Number, *, power: Number = 1.0, noise: Number = 0.0
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return the best penalty, noise^2 / (alpha power), and its excess error power k/(1 + k), k =
    k(penalty).

    No other linear method that treats all directions alike has a smaller error.  At alpha = 1 and
    power = noise^2 the test error is the golden ratio.

    >>> f"{optimal_ridge(1.0, power=1.0, noise=1.0)[1] + 1:.4f}"
    '1.6180'
    """
    alpha = jnp.asarray(alpha, jnp.result_type(float, alpha))
    penalty = jnp.asarray(noise) ** 2 / (alpha * power)
    half = (penalty + 1 / alpha - 1) / 2
    k = half + jnp.sqrt(half**2 + penalty)
    return penalty, jnp.asarray(power * k / (1 + k))


def noise_at_threshold(time: Numbers, noise: Number = 1.0) -> Float[Array, "*times"]:
    """Return the late contribution of noise to the excess error at alpha = 1, noise^2 (2 (2 -
    sqrt(2)) sqrt(t / pi) - 1/2).

    The error of this formula is of order 1/sqrt(t).  The square root comes from eigenvalues below
    1/t, of density 1/(pi sqrt(lambda)), and -1/2 is the finite part of the mean of 1/lambda.
    """
    growth = 2 * (2 - np.sqrt(2)) * jnp.sqrt(jnp.asarray(time) / np.pi)
    return (growth - 0.5) * jnp.asarray(noise) ** 2


def _check_times(name, values):
    check(name, values, lambda t: np.isfinite(t) & (t >= 0), "finite numbers >= 0")


def _errors(filtered, time, alpha, power, noise, start, nodes):
    dtype = jnp.result_type(float, time, alpha, power, noise, start)
    numbers = (jnp.asarray(a, dtype) for a in (time, alpha, power, noise, start))
    time, alpha, power, noise, start = numbers
    rate, weight = quadrature(alpha, nodes)
    of_modes = rate.reshape((1,) * time.ndim + (-1,))
    left, learned = filtered(of_modes, time[..., None])

    def average(values):
        return values @ weight

    unseen = jnp.maximum(1 - alpha, 0)
    total = power + start
    bias = total * (average(left**2) + unseen)
    spread = noise**2 / alpha * ((learned**2) @ (weight / rate))
    residual = average(left**2) / alpha + jnp.maximum(1 - 1 / alpha, 0)
    train = total * ((left**2) @ (weight * rate)) + noise**2 * residual
    response = average(left) + unseen
    overlap = power * (1 - response)
    excess = bias + spread
    self_overlap = excess - power + 2 * overlap
    return Errors(excess, train, bias, spread, overlap, self_overlap, response[..., None])
