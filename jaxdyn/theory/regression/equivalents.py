"""Deterministic equivalents: what a large sample covariance does, from the spectrum of the
population it is drawn from.

For n samples with covariance Sigma and the sample covariance S = X^T X / n, the resolvent (S +
s)^-1 acts like (k/s) (Sigma + k)^-1 once n and the number of inputs are large, with the effective
regularisation k(s) = s + (k/n) tr[Sigma (Sigma + k)^-1] (Silverstein, 1995).  Functions of S are
contour integrals of the resolvent, functions of two resolvents at s and s' divided differences of
functions of one, because (k - k')/(s - s') = 1/(1 - tr[Sigma^2 (Sigma + k)^-1 (Sigma
+ k')^-1]/n).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Complex, Float, Inexact, Num, Real

from jaxdyn._numbers import check

__all__ = [
    "Resolvent",
    "Spectrum",
    "bilinear",
    "contract",
    "crossed",
    "descent_resolvent",
    "effective_regularisation",
    "flow_resolvent",
    "largest_eigenvalue",
    "population",
]

Numbers = Real[ArrayLike, "..."] | Sequence[int | float]


class Spectrum(NamedTuple):
    """A population: groups of inputs of one variance.

    See `population`, which builds and checks it.  Groups of multiplicity and power zero change
    nothing, so spectra of different length can be padded to one shape.

    Attributes:
        eigenvalues: the variance of each group.
        multiplicities: the number of inputs in it.
        power: how much of the teacher lies in it.
        start: how much of the initial weights lies in it.
    """

    eigenvalues: Float[Array, "groups"]
    multiplicities: Float[Array, "groups"]
    power: Float[Array, "groups"]
    start: Float[Array, "groups"]


class Resolvent(NamedTuple):
    """A contour round the sample spectrum with the equivalents on its upper half; its other half is
    the conjugate.

    f(S) = sum_j weights_j rate (S + rate points_j)^-1, where S may include a penalty.

    Attributes:
        points: the points s / rate of the contour.
        weights: their weights.
        rate: the scale of the contour.
        kappa: k at s = rate points + penalty.
        slope: dk/ds there.
        distance: (kappa - reference) / rate.
        reference: k at a real point to the right of the contour.
    """

    points: Complex[Array, "nodes"]
    weights: Complex[Array, "nodes"]
    rate: Float[Array, ""]
    kappa: Complex[Array, "nodes"]
    slope: Complex[Array, "nodes"]
    distance: Complex[Array, "nodes"]
    reference: Float[Array, ""]


def population(
    eigenvalues: Numbers,
    multiplicities: Numbers,
    power: Numbers,
    start: Numbers = 0.0,
) -> Spectrum:
    """Return a population of inputs with `eigenvalues` of their covariance, each `multiplicities`
    times.

    `power` is the sum of squared coefficients of the teacher in each group and `start` that of the
    initial weights, which are random and independent of it.  Numbers stand for all groups.

    >>> population([1.0, 0.01], [60, 40], power=[60, 40]).multiplicities.tolist()
    [60.0, 40.0]

    Raises ValueError for an empty spectrum, for negative or infinite numbers, and for lists of
    different lengths.
    """
    names = {
        "eigenvalues": eigenvalues,
        "multiplicities": multiplicities,
        "power": power,
        "start": start,
    }
    dtype = jnp.result_type(float, *jax.tree.leaves(tuple(names.values())))
    arrays = {name: jnp.atleast_1d(jnp.asarray(values, dtype)) for name, values in names.items()}
    lengths = {a.size for a in arrays.values()} - {1} or {1}
    if any(a.ndim != 1 or not a.size for a in arrays.values()) or len(lengths) != 1:
        shapes = {name: a.shape for name, a in arrays.items()}
        raise ValueError(
            f"population: shapes {shapes}; pass one number for each of the same groups, at least one"
        )
    for name, values in arrays.items():
        check(
            name,
            values,
            lambda a: np.isfinite(a) & (a >= 0),
            "finite numbers that are not negative",
        )
    check("multiplicities", arrays["multiplicities"].sum(), lambda a: a > 0, "at least one input")
    return Spectrum(*(jnp.broadcast_to(a, (max(lengths),)) for a in arrays.values()))


def effective_regularisation(
    penalty: Inexact[ArrayLike, "*shape"], population: Spectrum, samples: Real[ArrayLike, ""]
) -> Inexact[Array, "*shape"]:
    """Return k(s), by which an infinite sample would have to be penalised to learn as n samples
    with penalty s do.

    s = k (1 - sum_a m_a lambda_a / (lambda_a + k) / n) for real s >= 0, or complex s off the
    negative real axis.  Only one root is continued from large s: the largest for real s, to which
    Newton's method falls monotonically; for complex s the only one on their side of the real axis
    (Earle, Hamilton, 1970), which no step leaves.  Derivatives are those of the implicit function.
    """
    s = jnp.asarray(penalty, jnp.result_type(float, penalty))
    flat = jnp.ravel(s)
    samples = jnp.asarray(samples, population.eigenvalues.dtype)
    if not jnp.iscomplexobj(s):
        return _from_above(flat, population, samples).reshape(s.shape)
    size = jnp.abs(flat)
    mirrored = jnp.where(flat.imag < 0, flat.conj(), flat)
    k = _continued(mirrored, size, _from_above(size, population, samples), population, samples)
    return jnp.where(flat.imag < 0, k.conj(), k).reshape(s.shape)


def largest_eigenvalue(population: Spectrum, samples: Real[ArrayLike, ""]) -> Float[Array, ""]:
    """Return the upper edge of the sample covariance's spectrum, where ds/dk = 0; descent is stable
    below 2 over it.

    For one group of variance lambda this is lambda (1 + sqrt(m/n))^2 (Marchenko, Pastur, 1967).
    """
    weight = population.multiplicities / jnp.asarray(samples, population.eigenvalues.dtype)
    # What is absent must not hold up the search from below.
    eigenvalues = jnp.where(weight > 0, population.eigenvalues, 0.0)

    def newton(_, x):
        gap = x - eigenvalues
        gap = jnp.where(gap > 0, gap, 1.0)
        share = weight * (eigenvalues / gap) ** 2
        total = jnp.sum(share)
        slope = jnp.maximum(jnp.sum(share / gap), tiny)
        # In the inverse root of the sum the equation is concave, and linear for a single group.
        return x + (total**1.5 - total) / slope

    tiny = jnp.finfo(eigenvalues.dtype).tiny
    start = jnp.max(eigenvalues * (1 + jnp.sqrt(weight)))
    x = newton(0, lax.stop_gradient(lax.fori_loop(0, 30, newton, lax.stop_gradient(start))))
    gap = x - eigenvalues
    return x + jnp.sum(weight * eigenvalues * x / jnp.where(gap > 0, gap, 1.0))


def flow_resolvent(
    time: Float[Array, ""],
    penalty: Float[Array, ""],
    population: Spectrum,
    samples: Float[Array, ""],
    nodes: int,
) -> Resolvent:
    """Return the contour on which f(S) = e^(-S t): the parabola of Weideman and Trefethen (2007),
    for any t > 0."""
    z, weights = _parabola(nodes, time.dtype)
    # Below this nothing has moved yet, to rounding.
    scale = (
        jnp.max(population.eigenvalues)
        + jnp.sum(population.eigenvalues * population.multiplicities) / samples
    )
    time = jnp.maximum(time, jnp.finfo(time.dtype).eps / lax.stop_gradient(scale + penalty))
    return _resolvent(
        z, weights, jnp.asarray(0.1309 * nodes, time.dtype), 1 / time, penalty, population, samples
    )


def descent_resolvent(
    steps: Float[Array, ""],
    learning_rate: Float[Array, ""],
    penalty: Float[Array, ""],
    population: Spectrum,
    samples: Float[Array, ""],
    nodes: int,
) -> Resolvent:
    """Return the contour on which f(S) = (1 - learning_rate S)^steps, for any learning rate.

    In y = 1 + learning_rate s the parabola z becomes y = e^(z/steps), where y^steps = e^z, round
    the eigenvalues of 1 - learning_rate S that are positive, and -A e^(z/steps) round those that
    are negative, where A >= 1 is beyond their largest size.  For fewer than nodes/3 steps it is a
    circle round all of them.
    """
    z, weights = _parabola(nodes, learning_rate.dtype)
    largest = largest_eigenvalue(population, samples) + penalty
    edge = lax.stop_gradient(learning_rate * largest - 1)
    far = jnp.maximum(1.0, edge)
    few = 3 * steps < nodes
    k = jnp.maximum(steps, nodes / 3)
    sign = 1 - 2 * jnp.mod(steps, 2.0)
    y = jnp.exp(z / k)
    shifted = jnp.expm1(z / k)
    around = y * weights / k
    mirrored = -far * sign * far**k * jnp.conj(around)
    many_points = jnp.concatenate([shifted, -far * jnp.conj(y) - 1])
    many_weights = jnp.concatenate([around, mirrored])

    # This radius balances the error of the trapezoidal rule with that of rounding, at twice the
    # power.
    k = jnp.minimum(steps, nodes / 3)
    radius = far * jnp.finfo(k.dtype).eps ** (-1 / (2 * nodes + 2 * k))
    unit_circle = jnp.exp(1j * jnp.pi * (jnp.arange(nodes) + 0.5) / nodes)
    circle = radius * unit_circle.astype(z.dtype)
    points = jnp.where(few, circle - 1, many_points)
    weights = jnp.where(few, circle * circle**k / (2 * nodes), many_weights)
    beyond = jnp.expm1(0.1309 * nodes / jnp.maximum(steps, nodes / 3))
    reference = jnp.where(few, radius - 1, beyond)
    return _resolvent(points, weights, reference, 1 / learning_rate, penalty, population, samples)


def contract(values: Complex[Array, "nodes *rest"]) -> Float[Array, "*rest"]:
    """Return the real sum over the whole contour of what is conjugate on its lower half."""
    return 2 * jnp.sum(values.real, 0)


def bilinear(
    resolvent: Resolvent,
    factor: Complex[Array, "nodes"],
    difference: Callable[[Array, Array], Array],
) -> Float[Array, ""]:
    """Return sum_ij x_i x_j (f_i - f_j)/(s_i - s_j) over the whole contour for x = `factor`, with
    f' on the diagonal.

    f is given as `difference(k, k') = (f - f')/(k - k')`, symmetric and smooth at k = k': at late
    times k hardly changes from node to node, and values computed apart would cancel.  The double
    sum is one product with a matrix that depends on the contour alone.
    """
    p = resolvent.points
    k = resolvent.kappa
    k_reference = resolvent.reference
    f = resolvent.distance * difference(k, k_reference[None])
    same = jnp.eye(p.size, dtype=bool)
    gap = jnp.where(same, 1, p[:, None] - p[None])
    kernel = jnp.where(same, 0, 1 / gap)
    across = 1 / (p[:, None] - p.conj()[None])
    inner = kernel @ factor + across @ factor.conj()
    diagonal = factor * resolvent.slope * difference(k, k)
    return contract(factor * (diagonal + 2 * f * inner))


def crossed(
    kappa: Num[Array, "nodes"], other: Num[Array, "..."], weight: Array, population: Spectrum
) -> Array:
    """Return sum_a weight_a / ((lambda_a + k)(lambda_a + k')) for each k and its k'."""
    eigenvalues = population.eigenvalues[None]
    both = (eigenvalues + kappa[:, None]) * (eigenvalues + other[:, None])
    return jnp.sum(weight[None] / both, 1)


def _resolvent(points, weights, reference, rate, penalty, population, samples):
    """Find k on a contour: at the reference by descent, elsewhere from there."""
    reference = reference.astype(rate.dtype)[None]
    size = rate * reference + penalty
    start = _from_above(size, population, samples)
    kappa = _continued(rate * points + penalty, size, start, population, samples)
    moment = population.multiplicities * population.eigenvalues**2 / samples
    apart = crossed(kappa, start, moment, population)
    slope = 1 / (1 - crossed(kappa, kappa, moment, population))
    distance = (points - reference) / (1 - apart)
    return Resolvent(points, weights, rate, kappa, slope, distance, start[0])


def _parabola(nodes, dtype):
    """The upper half of a parabola z, and weights e^z dz / (2 pi i) by the midpoint rule."""
    if nodes % 2 or nodes < 4:
        raise ValueError(f"nodes: {nodes}; pass an even number of at least 4")
    angle = (2 * np.arange(nodes // 2) + 1) * np.pi / nodes
    z = nodes * (0.1309 - 0.1194 * angle**2 + 0.25j * angle)
    weights = np.exp(z) * (-0.2388 * angle + 0.25j) / 1j
    complex_dtype = jnp.result_type(dtype, jnp.complex64)
    return jnp.asarray(z, complex_dtype), jnp.asarray(weights, complex_dtype)


def _newton(k, s, population, samples):
    """One step towards s = k - h(k), h = sum_a m_a lambda_a k / (lambda_a + k) / n; and h(k)
    itself."""
    weight = population.multiplicities * population.eigenvalues / samples
    closeness = 1 / (population.eigenvalues[None] + k[:, None])
    share = weight[None] * closeness
    numerator = s + jnp.sum(share * closeness, 1) * k**2
    denominator = 1 - jnp.sum(share * closeness * population.eigenvalues[None], 1)
    return numerator / denominator, k * jnp.sum(share, 1)


def _from_above(s, population, samples):
    def step(k, s, population, samples):
        return _newton(k, s, population, samples)[0]

    start = s + jnp.sum(population.multiplicities * population.eigenvalues) / samples
    return _solved(step, start, s, population, samples)


def _continued(s, size, start, population, samples):
    """Solve for complex s in the upper half plane, from `start` = k(size) for real sizes and the
    power law there."""

    def step(k, s, population, samples):
        new, fixed_point = _newton(k, s, population, samples)
        # The iteration k -> s + h(k) cannot leave the upper half plane, in which there is one root.
        return jnp.where(new.imag >= s.imag / 2, new, s + fixed_point)

    moment = population.multiplicities * population.eigenvalues**2 / samples
    power = size / start / (1 - crossed(start, start, moment, population))
    return _solved(step, start * (s / size) ** power, s, population, samples)


def _solved(step, k, *arguments):
    """Iterate until one step more is exact to rounding, and take it with the derivatives of the
    implicit function."""
    fixed, k = lax.stop_gradient((arguments, k))
    tolerance = jnp.finfo(k.dtype).eps ** (1 / 3)

    def advance(carry):
        _, k, count = carry
        new = step(k, *fixed)
        return jnp.max(jnp.abs(new - k) / jnp.abs(new)), new, count + 1

    def unfinished(carry):
        return (carry[0] >= tolerance) & (carry[2] < 64)

    moved = jnp.asarray(jnp.inf, jnp.real(k).dtype)
    return step(lax.while_loop(unfinished, advance, (moved, k, 0))[1], *arguments)
