"""Wide two-layer ReLU networks that learn a permutation of k bits from the k unit vectors, and
voting ensembles of them.

In the parametrisation f = n^(-1/2) sum_j a_j relu(w_j . x / sqrt(k)) the kernels of unit vectors
are (a I + b 11')/k for the tangent kernel and ((1/2 - b) I + b 11')/k for the initial outputs, with
b = 1/(2 pi) and a = 1 - b.  After training on the unit vectors, the outputs on a normalised sum of
m unit vectors are Gaussian, with one mean where the permuted input is one, another mean where it is
zero, and one variance.  An ensemble of N networks answers by the sign of its average output.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import gammaln, log_ndtr, logsumexp, ndtri
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from jaxdyn._numbers import Values, bisected, floats, normal
from jaxdyn.types import Key

__all__ = [
    "Votes",
    "all_right",
    "crude_size",
    "ensemble_size",
    "ensemble_size_all",
    "log_failure",
    "log_failures",
    "near_full_coefficient",
    "noise_ratio",
    "votes",
    "weight_two_size",
]

B = 1 / (2 * np.pi)
A = 1 - B


class Votes(NamedTuple):
    """The mean outputs of a network, and their variance.

    Attributes:
        on: the mean where the output should be one.
        off: the mean where the output should be zero.
        variance: the variance of each output of a single network.
    """

    on: Float[Array, "..."]
    off: Float[Array, "..."]
    variance: Float[Array, "..."]


def votes(
    bits: Values, weight: Values, steps: Values = np.inf, learning_rate: Values = 0.0
) -> Votes:
    """Return the outputs on an input with `weight` ones after `steps` of descent on the mean
    squared error over k = `bits` inputs.

    The kernel has two eigenvalues, a/k and (a + k b)/k.  No differences cancel for large k.  After
    training (`steps` infinite) networks interpolate, so an input of weight one has no variance.

    >>> [f"{x:.6f}" for x in votes(10, 5)]
    ['0.283730', '-0.040712', '0.012505']
    """
    k, m, steps, rate = jnp.broadcast_arrays(*floats(bits, weight, steps, learning_rate))
    last = jnp.isinf(steps)

    def left(value):
        kept = 1 - rate * value / k**2
        return jnp.where(last, 0, jnp.power(kept, jnp.where(last, 0, steps)))

    full = A + k * B
    each = (1 - left(A)) / A
    all_ones = (1 - left(full)) / full
    cosine = 1 / jnp.sqrt(m)
    rise = _tangent(cosine) - B
    prior_rise = _prior(cosine) - B
    off = all_ones * B - m * rise / k * (each - all_ones)
    on = off + each * rise
    total = m * on + (k - m) * off
    squares = m * on**2 + (k - m) * off**2
    of_outputs = (0.5 - B) * squares
    with_outputs = prior_rise * m * on + B * total
    variance = (0.5 + of_outputs + B * total**2 - 2 * with_outputs) / k
    return Votes(on, off, jnp.maximum(variance, 0))


def log_failure(bits: Values, weight: Values, members: Values) -> Float[Array, "..."]:
    """Return the exact log of the probability that an ensemble of trained networks gets one input
    wrong.

    Outputs are independent, so the probability is 1 - Phi(on r)^m Phi(-off r)^(k - m), r^2 =
    members / variance.
    """
    k, m, members = floats(bits, weight, members)
    on, off, variance = votes(k, m)
    r = jnp.sqrt(members / variance)
    right = m * log_ndtr(on * r) + (k - m) * log_ndtr(-off * r)
    return jnp.log(-jnp.expm1(right))


def log_failures(
    bits: Real[ArrayLike, ""], members: Real[ArrayLike, ""], largest: int
) -> tuple[Float[Array, ""], Float[Array, "weights"]]:
    """Return the log of the expected number of wrong outputs over all inputs of weight 2 to k: (in
    total, by weight).

    The total is log sum_m C(k, m) [m Q(on r) + (k - m) Q(-off r)], r^2 = members / variance.  The
    expected number is an upper bound on the probability that any of the 2^k inputs is wrong, and is
    close to this probability where it is small.  `largest` >= k bounds the weights statically; the
    second array has largest - 1 entries.
    """
    k, members = floats(bits, members)
    return _log_failures(_terms(k, largest), members)


def ensemble_size(bits: Values, weight: Values, risk: Values = 0.05) -> Float[Array, "..."]:
    """Return how many networks get one input of a weight >= 2 right with probability 1 - risk."""
    k, m, risk = jnp.broadcast_arrays(*floats(bits, weight, risk))
    return _smallest(lambda members: log_failure(k, m, members), risk)


def ensemble_size_all(
    bits: Real[ArrayLike, " sizes"], risk: Real[ArrayLike, ""] = 0.05, *, largest: int
) -> Float[Array, " sizes"]:
    """Return how many networks get all 2^k inputs right with probability 1 - risk, by the bound of
    `log_failures`."""
    bits, risk = floats(bits, risk)

    def one(k):
        terms = _terms(k, largest)
        return _smallest(lambda members: _log_failures(terms, members)[0], risk)

    return lax.map(one, bits)


def weight_two_size(bits: Values, tail: Values) -> Float[Array, "..."]:
    """Return how many networks reduce to `tail` the chance that one output that should be zero is
    wrong at weight two.

    With `tail` = risk / (k (k - 1) (k - 2) / 2), the risk shared among all such outputs, the result
    is `ensemble_size_all` up to k of 10^4.
    """
    _, off, variance = votes(bits, 2.0)
    deviations = ndtri(jnp.asarray(tail))
    return variance / off**2 * deviations**2


def crude_size(bits: Values, risk: Values = 0.05) -> Float[Array, "..."]:
    """Return the ensemble size of order k^2 from a union bound that gives all k 2^k outputs the
    risk of the worst one.

    The Gaussian tail Q(x) is bounded by e^(-x^2/2).
    """
    k, risk = floats(bits, risk)
    _, off, variance = votes(k, 2.0)
    return 2 * variance / off**2 * (k * np.log(2) + jnp.log(k / risk))


def all_right(
    key: Key,
    mean: Float[Array, "inputs bits"],
    covariance: Float[Array, "inputs inputs"],
    truth: Real[Array, "inputs bits"],
    members: Float[Array, " sizes"],
    draws: int = 4000,
) -> Float[Array, " sizes"]:
    """Return the probability that an ensemble has the sign of every output right, by `draws` of the
    Gaussian process.

    Bits are independent and have the same covariance between inputs.  The result is the product of
    the bits' probabilities, whose standard error is at most that of `draws` independent trials.
    """
    identity = jnp.eye(len(mean), dtype=mean.dtype)
    # The diagonal term is needed where inputs determine each other: their covariance is singular.
    spread = jnp.linalg.cholesky(covariance + 1e-12 * identity)

    def of_bit(bit):
        key, mean, truth = bit
        noise = normal(key, (draws, len(mean)), mean.dtype) @ spread.T

        def share_right(size):
            outputs = mean[None] + noise / jnp.sqrt(size)
            right = (outputs > 0) == (truth > 0)[None]
            return jnp.mean(jnp.all(right, 1))

        return lax.map(share_right, members)

    keys = jax.random.split(key, mean.shape[1])
    shares = lax.map(of_bit, (keys, mean.T, truth.T))
    return jnp.prod(shares, 0)


def noise_ratio(weight: Values) -> Float[Array, "..."]:
    """Return c_m, the limit of variance / (k off^2) at large k.

    One input of weight m needs 2 c_m k ln k networks; all inputs of weight two need 6 c_2 k ln k.
    """
    (m,) = floats(weight)
    cosine = 1 / jnp.sqrt(m)
    rise = _tangent(cosine) - B
    prior_rise = _prior(cosine) - B
    # k off and the sums of on and off over the bits, at infinite k.
    off = (A - m * rise) / A
    on = rise / A
    total = m * on + off
    of_outputs = (0.5 - B) * m * on**2
    with_outputs = prior_rise * m * on + B * total
    variance = 0.5 + of_outputs + B * total**2 - 2 * with_outputs
    return variance / off**2


def near_full_coefficient() -> float:
    """Return the coefficient C of the ensemble size C k^(3/2) ln k that inputs with few zeros need.

    For k > 10^4 these inputs need more networks than any others.
    """
    return (0.5 - B) * A / 2


def _terms(k, largest):
    """Return four terms for each weight: for ones and for zeros, the log of their number over all
    inputs and mean / deviation."""
    m = jnp.arange(2, largest + 1, dtype=k.dtype)
    there = m <= k
    m = jnp.where(there, m, k)
    zeros = k - m
    # A large negative number instead of minus infinity, whose derivative in Newton's method would be
    # NaN.
    none = jnp.finfo(k.dtype).min / 8
    binomial = gammaln(k + 1) - gammaln(m + 1) - gammaln(zeros + 1)
    inputs = jnp.where(there, binomial, none)
    on, off, variance = votes(k, m)
    scale = jnp.sqrt(variance)
    log_zeros = jnp.where(zeros > 0, jnp.log(jnp.maximum(zeros, 1)), none)
    return inputs + jnp.log(m), on / scale, inputs + log_zeros, -off / scale


def _log_failures(terms, members):
    ones, on, zeros, off = terms
    r = jnp.sqrt(members)
    of_ones = ones + log_ndtr(-on * r)
    of_zeros = zeros + log_ndtr(-off * r)
    by_weight = jnp.logaddexp(of_ones, of_zeros)
    return logsumexp(by_weight), by_weight


def _smallest(log_risk, risk):
    def excess(log_members):
        return log_risk(jnp.exp(log_members)) - jnp.log(risk)

    def newton(_, x):
        value, slope = jax.jvp(excess, (x,), (jnp.ones_like(x),))
        return x - value / slope

    # 14 bisections bring x within 30 / 2^14 of the root, from where Newton's method converges.
    largest = jnp.full_like(risk, 30.0)
    low, high = bisected(lambda x: excess(x) > 0, jnp.zeros_like(risk), largest, 14)
    return jnp.exp(lax.fori_loop(0, 4, newton, (low + high) / 2))


def _prior(cosine):
    """Return E relu(u) relu(v) of unit Gaussians with the given correlation (Cho, Saul, 2009)."""
    angle = jnp.arccos(jnp.minimum(cosine, 1))
    sine = jnp.sqrt(jnp.maximum(1 - cosine**2, 0))
    return (sine + cosine * (np.pi - angle)) * B


def _tangent(cosine):
    angle = jnp.arccos(jnp.minimum(cosine, 1))
    return _prior(cosine) + cosine * (np.pi - angle) * B
