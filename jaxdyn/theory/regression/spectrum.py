"""Linear regression in high dimension: exact learning curves for any spectrum of the inputs.

n samples y = beta . x + noise * e have inputs of covariance Sigma, and weights w start at random
and descend |y - X w|^2 / (2 n).  If n and the number of inputs are large, errors stop fluctuating
and follow from the eigenvalues of Sigma and the teacher's power in each: a contour integral of
deterministic equivalents (`jaxdyn.theory.regression.equivalents`).  Isotropic inputs are the case
of Advani and Saxe (2017), two groups that of Pezeshki et al. (2022).

Time multiplies S = X^T X / n, as in dw/dt = X^T (y - X w) / n, and a penalty is added to S.  For
the flow of the sum, dw/dt = X^T (y - X w), pass n t, and for (X^T X + penalty)^-1 pass penalty / n.
Excess errors are those of noiseless labels, (w - beta)^T Sigma (w - beta); the test error of noisy
labels is excess + noise^2.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from jaxdyn._numbers import Number, around_largest, check
from jaxdyn.theory.regression import equivalents
from jaxdyn.theory.regression.equivalents import Resolvent, Spectrum, bilinear, contract, crossed

__all__ = [
    "Errors",
    "default_nodes",
    "descent",
    "errors_on",
    "flow",
    "optimal_ridge",
    "optimal_stopping",
    "ridge",
]


class Errors(NamedTuple):
    """Expected errors, for each time or penalty.

    Attributes:
        excess: (w - beta)^T Sigma (w - beta), which is bias + noise.
        train: |y - X w|^2 / n.
        bias: the part of the excess due to the unlearned parts of teacher and start.
        noise: the part of the excess due to the noise of the labels.
        overlap: beta^T Sigma w, called R in statistical mechanics.
        self_overlap: w^T Sigma w, called Q in statistical mechanics.
        response: for each group, the fraction of the teacher's coefficients not yet learned.
    """

    excess: Float[Array, "*times"]
    train: Float[Array, "*times"]
    bias: Float[Array, "*times"]
    noise: Float[Array, "*times"]
    overlap: Float[Array, "*times"]
    self_overlap: Float[Array, "*times"]
    response: Float[Array, "*times groups"]


def flow(
    time: Real[ArrayLike, "*times"],
    population: Spectrum,
    samples: Number,
    noise: Number = 0.0,
    *,
    penalty: Number = 0.0,
    nodes: int | None = None,
) -> Errors:
    """Return the errors of gradient flow dw/dt = X^T (y - X w) / n - penalty (w - w_0) on n =
    `samples` samples.

    `noise` is the standard deviation of the labels' noise.  The error of the contour integral,
    relative to the error at time zero, is 6e-4 for 8 `nodes`, 1e-7 for 16, 3e-11 for 24 and below
    rounding for 32.  Rounding errors grow as e^(nodes/4).  The default is therefore 32 in float64,
    with an error of 1e-12, and 16 in float32, with an error of 1e-6, and up to 5e-5 where there are
    as many samples as inputs.

    >>> population = equivalents.population(1.0, 100, power=1.0)
    >>> flow(np.array([0.0, 1e6]), population, samples=200, noise=0.5).excess.round(3).tolist()
    [1.0, 0.25]

    Raises ValueError for times that are negative or not finite, a negative penalty, and samples <=
    0.
    """
    check(
        "time",
        time,
        _finite,
        "finite times >= 0; what is left at infinity is `ridge(penalty, ...)`",
    )
    check("penalty", penalty, _finite, "a finite penalty >= 0")
    time, penalty, samples, noise = _numbers(population, samples, time, penalty, samples, noise)
    return _flow(time, penalty, population, samples, noise, nodes)


def descent(
    steps: Real[ArrayLike, "*times"],
    learning_rate: Number,
    population: Spectrum,
    samples: Number,
    noise: Number = 0.0,
    *,
    penalty: Number = 0.0,
    nodes: int | None = None,
) -> Errors:
    """Return the errors after whole `steps` of gradient descent, Euler's method for `flow` at the
    `learning_rate`.

    The result is as exact as that of `flow`, at twice its number of nodes, for any learning rate.
    Beyond 2 / (`largest_eigenvalue` + penalty) errors grow without bound, to inf where they leave
    the floating-point range.

    Raises ValueError for steps that are negative or not whole, a learning rate or samples <= 0, and
    a negative penalty.
    """
    check("steps", steps, lambda k: _finite(k) & (k == np.round(k)), "whole numbers of steps >= 0")
    check("learning_rate", learning_rate, lambda a: np.isfinite(a) & (a > 0), "a positive number")
    check("penalty", penalty, _finite, "a finite penalty >= 0")
    numbers = _numbers(population, samples, steps, learning_rate, penalty, samples, noise)
    return _descent(*numbers[:3], population, *numbers[3:], nodes)


def ridge(
    penalty: Real[ArrayLike, "*times"], population: Spectrum, samples: Number, noise: Number = 0.0
) -> Errors:
    """Return the errors of the minimum of |y - X w|^2 / n + penalty |w - w_0|^2, where w_0 is the
    start.

    The minimum at penalty 0 is the end of gradient flow, whose excess diverges where there are as
    many samples as inputs.

    Raises ValueError for a negative penalty and for samples <= 0.
    """
    check("penalty", penalty, _finite, "finite penalties >= 0")
    penalty, samples, noise = _numbers(population, samples, penalty, samples, noise)
    return _ridge(penalty, population, samples, noise)


def optimal_ridge(
    population: Spectrum, samples: Number, noise: Number
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return the penalty >= 0 of the least excess error, and that error.

    The penalty is the best of 64 evenly spaced in the logarithm, refined; the penalty is 0 where no
    other is better.  For equal eigenvalues without a start the best penalty is inputs * noise^2 /
    (samples * power).  The error has derivatives, the penalty has none.
    """
    samples, noise = _numbers(population, samples, samples, noise)
    low, high = _scales(population, samples)

    def excess(penalty, *system):
        return ridge(penalty, *system).excess

    return _least(excess, (population, samples, noise), 1e-6 * low, 1e6 * high, 0.0)


def optimal_stopping(
    population: Spectrum, samples: Number, noise: Number
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return the time of gradient flow at which its excess error is least, and that error.

    The time is the best of 64 evenly spaced in the logarithm, refined; the time is inf where no
    finite time is better than training for ever.  The error has derivatives, the time has none.
    """
    samples, noise = _numbers(population, samples, samples, noise)
    low, high = _scales(population, samples)

    def excess(time, *system):
        return flow(time, *system).excess

    return _least(excess, (population, samples, noise), 1e-4 / high, 1e6 / low, jnp.inf)


def errors_on(
    resolvent: Resolvent,
    penalty: Float[Array, ""],
    population: Spectrum,
    samples: Float[Array, ""],
    noise: Float[Array, ""],
) -> Errors:
    """Return the errors of w = w_0 + [1 - f(S)] S^-1 X^T (y - X w_0)/n from the contour of f, S =
    X^T X/n + penalty.

    (S + s)^-1 acts as (k/s) (Sigma + k)^-1 on the teacher, and products of two resolvents are
    divided differences.  The bias is the divided difference of -sum_a b_a lambda_a / (lambda_a +
    k), where b_a is the power of teacher and start in group a; the noise is the divided difference
    of k - s.
    """
    eigenvalues = population.eigenvalues
    kappa = resolvent.kappa
    signal = (population.power + population.start) * eigenvalues
    moment = population.multiplicities * eigenvalues**2 / samples

    def teacher(k, other):
        return crossed(k, other, signal, population)

    def sampling(k, other):
        return crossed(k, other, moment, population)

    def fitted(k, other):
        return teacher(k, other) + noise**2 / (k * other)

    once = resolvent.weights / resolvent.points
    bias = bilinear(resolvent, once * kappa, teacher)
    spread = noise**2 * bilinear(resolvent, once, sampling)
    left = resolvent.rate * resolvent.weights + penalty * once
    train = bilinear(resolvent, left, fitted)
    response = contract((once * kappa)[:, None] / (eigenvalues[None] + kappa[:, None]))
    overlap = jnp.sum(population.power * eigenvalues * (1 - response))
    return _collected(bias, spread, train, overlap, response, population)


@partial(jax.jit, static_argnames="nodes")
def _flow(time, penalty, population, samples, noise, nodes):
    nodes = default_nodes(time) if nodes is None else nodes

    def one(time):
        resolvent = equivalents.flow_resolvent(time, penalty, population, samples, nodes)
        return errors_on(resolvent, penalty, population, samples, noise)

    return _mapped(one, time)


@partial(jax.jit, static_argnames="nodes")
def _descent(steps, rate, penalty, population, samples, noise, nodes):
    growth = jnp.maximum(
        rate * (equivalents.largest_eigenvalue(population, samples) + penalty) - 1, 1
    )
    nodes = default_nodes(steps) if nodes is None else nodes

    def one(steps):
        finite = 2 * steps * jnp.log(growth) < 0.9 * jnp.log(jnp.finfo(steps.dtype).max)
        steps = jnp.where(finite, steps, 0)
        resolvent = equivalents.descent_resolvent(steps, rate, penalty, population, samples, nodes)
        errors = errors_on(resolvent, penalty, population, samples, noise)
        return jax.tree.map(lambda a: jnp.where(finite, a, jnp.inf), errors)

    return _mapped(one, steps)


@jax.jit
def _ridge(penalty, population, samples, noise):
    eigenvalues = population.eigenvalues
    weight = population.multiplicities / samples
    tiny = jnp.finfo(eigenvalues.dtype).tiny

    def one(penalty):
        kappa = jnp.maximum(
            equivalents.effective_regularisation(penalty, population, samples), tiny
        )
        learned = eigenvalues / (eigenvalues + kappa)
        missed = kappa / (eigenvalues + kappa)
        freedom = jnp.sum(weight * learned**2)
        slope = 1 / jnp.maximum(1 - freedom, tiny)
        missing = jnp.sum((population.power + population.start) * eigenvalues * missed**2)
        train = (1 - jnp.sum(weight * learned)) ** 2 * (missing + noise**2) * slope
        overlap = jnp.sum(population.power * eigenvalues * learned)
        return _collected(
            missing * slope, noise**2 * freedom * slope, train, overlap, missed, population
        )

    return _mapped(one, penalty)


def _collected(bias, spread, train, overlap, response, population):
    excess = bias + spread
    self_overlap = excess - jnp.sum(population.power * population.eigenvalues) + 2 * overlap
    return Errors(excess, train, bias, spread, overlap, self_overlap, response)


def _least(error, system, low, high, beyond):
    """Return (place, error) of the least error between `low` and `high`, or `beyond` where the
    limit there is no larger."""
    population = system[0]
    fixed = lax.stop_gradient(system)
    ends = lax.stop_gradient((jnp.log(low), jnp.log(high)))
    left, right = around_largest(lambda place: -error(jnp.exp(place), *fixed), *ends, 5)
    place = jnp.exp((left + right) / 2)
    # A minimum that lies below the limit by rounding errors only does not count.
    signal = jnp.sum(population.power * population.eigenvalues)
    rounding = jnp.finfo(low.dtype).eps ** (2 / 3) * signal
    ended = ridge(0.0, *fixed).excess <= error(place, *fixed) + rounding
    # Where the limit is not used it may diverge and must not be differentiated: the penalty 1
    # replaces 0 there.
    limit = ridge(jnp.where(ended, 0, 1), *system).excess
    return jnp.where(ended, beyond, place), jnp.where(ended, limit, error(place, *system))


def _scales(population, samples):
    eigenvalues = population.eigenvalues
    smallest = jnp.min(jnp.where(eigenvalues > 0, eigenvalues, jnp.inf))
    return smallest, equivalents.largest_eigenvalue(population, samples)


def _finite(values):
    return np.isfinite(values) & (values >= 0)


def default_nodes(time: Array) -> int:
    """Return the number of nodes at which the contour's error falls below that of rounding."""
    return 32 if time.dtype == jnp.float64 else 16


def _numbers(population, samples, *numbers):
    check("samples", samples, lambda n: n > 0, "a positive number")
    return [jnp.asarray(number, population.eigenvalues.dtype) for number in numbers]


def _mapped(one, times):
    """Return `one` applied to each of the times, whatever their shape."""
    errors = jax.vmap(one)(times.ravel())
    return jax.tree.map(lambda a: a.reshape(times.shape + a.shape[1:]), errors)
