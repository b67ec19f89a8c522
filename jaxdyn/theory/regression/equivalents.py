"""Deterministic equivalents: functions of a large sample covariance, from the spectrum of the
population.

For n samples with covariance Sigma and the sample covariance S = X^T X / n, the resolvent (S +
s)^-1 acts like (k/s) (Sigma + k)^-1 if n and the number of inputs are large, with the effective
regularisation k(s) = s + (k/n) tr[Sigma (Sigma + k)^-1] (Silverstein, 1995).  Functions of S are
contour integrals of the resolvent.  Functions of two resolvents at s and s' are divided differences
of functions of one, because

    (k - k')/(s - s') = 1/(1 - tr[Sigma^2 (Sigma + k)^-1 (Sigma + k')^-1]/n).
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
    """A population of inputs, in groups of inputs of equal variance.

    `population` builds and checks a spectrum.  Groups of multiplicity and power zero change
    nothing, so spectra of different lengths can be padded to one shape.

    Attributes:
        eigenvalues: the variance of each group.
        multiplicities: the number of inputs in each group.
        power: the teacher's squared coefficients, summed over each group.
        start: the initial weights' squared coefficients, summed over each group.
    """

    eigenvalues: Float[Array, "groups"]
    multiplicities: Float[Array, "groups"]
    power: Float[Array, "groups"]
    start: Float[Array, "groups"]


class Resolvent(NamedTuple):
    """A contour around the sample spectrum, with the deterministic equivalents on its upper half.

    The lower half of the contour is the complex conjugate.  Over the whole contour f(S) = sum_j
    weights_j rate (S + rate points_j)^-1, where S may include a penalty.

    Attributes:
        points: the points s / rate of the contour.
        weights: the quadrature weights of the points.
        rate: the scale of the contour.
        kappa: k at s = rate points + penalty.
        slope: dk/ds at these s.
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
    """Return a population of inputs whose covariance has the `eigenvalues`, each with its
    multiplicity.

    `power` is the sum of squared coefficients of the teacher in each group, and `start` that of the
    initial weights, which are random and independent of the teacher.  A single number stands for
    all groups.

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
    """Return k(s), the penalty with which an infinite sample gives the same mean prediction as n
    samples with penalty s.

    k solves s = k (1 - sum_a m_a lambda_a / (lambda_a + k) / n), for real s >= 0 or complex s off
    the negative real axis.  Of several roots the one returned continues the root at large s.  For
    real s this root is the largest, to which Newton's method falls monotonically.  For complex s
    this root is the only one on the same side of the real axis as s (Earle, Hamilton, 1970), which
    no step leaves.  Derivatives are those of the implicit function.
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
    """Return the upper edge of the sample covariance's spectrum, where ds/dk = 0.

    Gradient descent is stable at learning rates below 2 over this edge.  For one group of variance
    lambda the edge is lambda (1 + sqrt(m/n))^2 (Marchenko, Pastur, 1967).
    """
    weight = population.multiplicities / jnp.asarray(samples, population.eigenvalues.dtype)
    # Groups without inputs must not bound the search from below.
    eigenvalues = jnp.where(weight > 0, population.eigenvalues, 0.0)

    def newton(_, x):
        gap = x - eigenvalues
        gap = jnp.where(gap > 0, gap, 1.0)
        share = weight * (eigenvalues / gap) ** 2
        total = jnp.sum(share)
        slope = jnp.maximum(jnp.sum(share / gap), tiny)
        # Written for the inverse root of the sum, the equation is concave, and linear for a single
        # group.
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
    """Return the contour on which f(S) = e^(-S t), the parabola of Weideman and Trefethen (2007),
    for any t > 0."""
    z, weights = _parabola(nodes, time.dtype)
    # At times below this bound nothing has moved yet, to rounding.
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

    With y = 1 + learning_rate s and the parabola z of `flow_resolvent` the contour has two parts.
    Around the positive eigenvalues of 1 - learning_rate S the contour is y = e^(z/steps), on which
    y^steps = e^z.  Around the negative eigenvalues the contour is y = -A e^(z/steps), where A >= 1
    is beyond their largest modulus.  For fewer than nodes/3 steps the contour is a circle around
    all eigenvalues.
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

    # This radius balances the error of the trapezoidal rule with that of rounding, for the square
    # of y^steps.
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
    """Return the real sum over the whole contour, from values on its upper half; the lower half is
    the conjugate."""
    return 2 * jnp.sum(values.real, 0)


def bilinear(
    resolvent: Resolvent,
    factor: Complex[Array, "nodes"],
    difference: Callable[[Array, Array], Array],
) -> Float[Array, ""]:
    """Return sum_ij x_i x_j (f_i - f_j)/(s_i - s_j) over the whole contour for x = `factor`, with
    f' on the diagonal.

    f is given as `difference(k, k') = (f - f')/(k - k')`, which must be symmetric and smooth at k =
    k': at late times k hardly changes from node to node, and differences of separately computed
    values would cancel.  The double sum is one product with a matrix that depends on the contour
    alone.
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
    """Return sum_a weight_a / ((lambda_a + k)(lambda_a + k')) for each k in `kappa` and the k' in
    `other`."""
    eigenvalues = population.eigenvalues[None]
    both = (eigenvalues + kappa[:, None]) * (eigenvalues + other[:, None])
    return jnp.sum(weight[None] / both, 1)


def _resolvent(points, weights, reference, rate, penalty, population, samples):
    """Return the resolvent on a contour: k at the real reference first, and from there at all other
    points."""
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
    """Return the upper half of a parabola z, and the weights e^z dz / (2 pi i) of the midpoint
    rule."""
    if nodes % 2 or nodes < 4:
        raise ValueError(f"nodes: {nodes}; pass an even number of at least 4")
    angle = (2 * np.arange(nodes // 2) + 1) * np.pi / nodes
    z = nodes * (0.1309 - 0.1194 * angle**2 + 0.25j * angle)
    weights = np.exp(z) * (-0.2388 * angle + 0.25j) / 1j
    complex_dtype = jnp.result_type(dtype, jnp.complex64)
    return jnp.asarray(z, complex_dtype), jnp.asarray(weights, complex_dtype)


def _newton(k, s, population, samples):
    """Return k after a step of Newton's method for s = k - h(k), h = sum_a m_a lambda_a k /
    (lambda_a + k) / n; and h(k)."""
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
    """Return k at complex s in the upper half plane, from `start` = k(size) at real sizes.

    The iteration begins from the local power law of k at `size`, continued to s.
    """

    def step(k, s, population, samples):
        new, fixed_point = _newton(k, s, population, samples)
        # Where a Newton step would leave the upper half plane, in which there is one root, take the
        # iteration k -> s + h(k), which cannot leave it.
        return jnp.where(new.imag >= s.imag / 2, new, s + fixed_point)

    moment = population.multiplicities * population.eigenvalues**2 / samples
    power = size / start / (1 - crossed(start, start, moment, population))
    return _solved(step, start * (s / size) ** power, s, population, samples)


def _solved(step, k, *arguments):
    """Return the fixed point of `step`, with the derivatives of the implicit function.

    The iteration stops when one more step is exact to rounding; the last step is the one that is
    differentiated.
    """
    fixed, k = lax.stop_gradient((arguments, k))
    # Newton's method squares the error: a move of eps^(1/3) leaves an error of eps^(2/3) before the
    # last step.
    tolerance = jnp.finfo(k.dtype).eps ** (1 / 3)

    def advance(carry):
        _, k, count = carry
        new = step(k, *fixed)
        return jnp.max(jnp.abs(new - k) / jnp.abs(new)), new, count + 1

    def unfinished(carry):
        return (carry[0] >= tolerance) & (carry[2] < 64)

    moved = jnp.asarray(jnp.inf, jnp.real(k).dtype)
    return step(lax.while_loop(unfinished, advance, (moved, k, 0))[1], *arguments)
