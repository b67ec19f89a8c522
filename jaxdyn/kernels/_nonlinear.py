"""Elementwise nonlinearities in the limit of infinite width: closed forms for some functions, and
quadrature for all others."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdyn.kernels._kernel import Kernel, Layer, Need, lift, snap
from jaxdyn.kernels._quadrature import expectation, expectation_at_angle, root, unit

__all__ = [
    "abrelu",
    "abs_",
    "angle",
    "cos",
    "elementwise",
    "erf",
    "exp",
    "gaussian",
    "gelu",
    "hermite",
    "lag",
    "leaky_relu",
    "monomial",
    "polynomial",
    "rbf",
    "rectified_monomial",
    "relu",
    "sign",
    "sin",
]

Scalar = Float[Array, ""] | float
Covariance = Callable[[Array, Array, Array], Array]


def elementwise(
    fn: Callable[[Array], Array],
    *,
    kinks: Sequence[float] = (),
    nodes: int = 96,
    rule: Covariance | None = None,
) -> Layer:
    """Return the layer x -> fn(x), with its kernel E fn(u) fn(v) by quadrature or by a closed form.

    `rule(q1, q2, cov)` is the closed form of E fn(u) fn(v) for centred Gaussians u and v with
    variances q1 and q2 and covariance `cov`.  The layer multiplies the NTK by E fn'(u) fn'(v),
    which is the derivative of E fn(u) fn(v) in `cov` (Price 1958).  Without a `rule` both
    expectations are computed by quadrature, with `nodes` points an axis for a smooth `fn`; `kinks`
    are the points where `fn` is not smooth, and `nodes` is then the number of points between two
    neighbouring kinks.  Quadrature misses the derivative at a jump, so that the NTK of a function
    with jumps needs a `rule`.

    Raises ValueError for `nodes` below 1.

    >>> softplus = elementwise(jax.nn.softplus)
    >>> hard_tanh = elementwise(lambda x: jnp.clip(x, -1, 1), kinks=(-1.0, 1.0))
    """
    name = getattr(fn, "__name__", "elementwise")
    kinks = tuple(float(kink) for kink in kinks)
    if nodes < 1:
        raise ValueError(f"nodes: {nodes}; pass at least 1 point")

    def mean(q):
        return expectation(fn, root(q), kinks=kinks, nodes=nodes)

    if rule is not None:
        return _layer(name, fn, _from_covariance(rule, mean))
    slope = jax.grad(lambda x: jnp.sum(fn(x)))

    def quadrature(k):
        g1, g2, z, _ = _angle_of(k)

        def both(u, v):
            return ((fn(u) - fn(v)) ** 2, slope(u) * slope(v))

        d, factor = expectation_at_angle(both, g1, g2, z, kinks=kinks, nodes=nodes)

        def square(g):
            return expectation(lambda u: fn(u) ** 2, g, kinks=kinks, nodes=nodes)

        k = replace(k, m1=mean(k.q1), m2=mean(k.q2), d=d, s=None, ntk=k.ntk * factor)
        return replace(k, q1=square(g1), q2=square(g2))

    return _layer(name, fn, quadrature)


def abrelu(a: Scalar, b: Scalar) -> Layer:
    """Return the layer a min(x, 0) + b max(x, 0), with Cho and Saul's arc-cosine kernel (2009) as a
    map of distances.

    With t the angle between the two inputs, A = (a^2 + b^2)/2, B = (a - b)^2 and r = sqrt(q1 q2),
    the distance d = E (u - v)^2 becomes

        d -> A d - B r (sin t - t cos t)/pi,

    and the NTK is multiplied by A - B t / (2 pi).  Neither expression loses digits near t = 0.
    """
    return _piecewise_linear("abrelu", a, b)


def relu() -> Layer:
    """Return the layer max(x, 0), the rectifier."""
    return _piecewise_linear("relu", 0.0, 1.0)


def leaky_relu(slope: Scalar = 0.01) -> Layer:
    """Return the layer that is x for x > 0 and slope x otherwise."""
    return _piecewise_linear("leaky_relu", slope, 1.0)


def abs_() -> Layer:
    """Return the layer |x|."""
    return _piecewise_linear("abs_", -1.0, 1.0)


def _piecewise_linear(name, a, b):
    even = (a * a + b * b) / 2
    odd = (a - b) ** 2

    def rule(k):
        g1, g2, z, y = _angle_of(k)
        theta = angle(z, y)
        mean = (b - a) / math.sqrt(2 * math.pi)
        d = even * k.d - odd * (g1 * g2) * lag(z, y, theta)
        ntk = k.ntk * (even - odd / (2 * math.pi) * theta)
        k = replace(k, q1=even * k.q1, q2=even * k.q2, m1=mean * g1, m2=mean * g2)
        return replace(k, d=d, s=None, ntk=ntk)

    def fn(x):
        return a * jnp.minimum(x, 0) + b * jnp.maximum(x, 0)

    return _layer(name, fn, rule)


def sign() -> Layer:
    """Return the layer sign(x), whose kernel is 1 - 2 t / pi at the angle t between the inputs; its
    derivative, and so its NTK, counts as 0."""

    def rule(k):
        _, _, z, y = _angle_of(k)
        theta = angle(z, y)
        one1 = jnp.ones_like(k.q1)
        one2 = jnp.ones_like(k.q2)
        d = 4 / math.pi * theta
        zero = jnp.zeros_like(k.ntk)
        return replace(k, q1=one1, q2=one2, m1=0 * one1, m2=0 * one2, d=d, s=4 - d, ntk=zero)

    return _layer("sign", jnp.sign, rule)


def rectified_monomial(degree: int) -> Layer:
    """Return the layer max(x, 0)^degree, with the arc-cosine kernel of that degree (Cho and Saul
    2009).

    Degree 0 is the step function, whose derivative, and so its NTK, counts as 0.  Raises ValueError
    for a negative degree.
    """
    if degree < 0:
        raise ValueError(f"degree: {degree}; pass an int >= 0")
    if degree == 1:
        return relu()

    def fn(x):
        return jnp.where(x > 0, x, 0) ** degree if degree else jnp.where(x > 0, 1.0, 0.0)

    def moment(q, power):
        return q ** (power / 2) * _half_moment(power)

    def rule(k):
        g1, g2, z, y = _angle_of(k)
        theta = angle(z, y)
        cov = _rectified(degree, degree, g1, g2, z, y, theta)
        slope = (
            degree**2 * _rectified(degree - 1, degree - 1, g1, g2, z, y, theta) if degree else 0.0
        )
        q1, q2 = (moment(q, 2 * degree) for q in (k.q1, k.q2))
        m1, m2 = (moment(q, degree) for q in (k.q1, k.q2))
        d = _distance(k, q1, q2, cov)
        return replace(k, q1=q1, q2=q2, m1=m1, m2=m2, d=d, s=None, ntk=k.ntk * slope)

    return _layer("rectified_monomial", fn, rule)


def erf(a: Scalar = 1.0, b: Scalar = 1.0, c: Scalar = 0.0) -> Layer:
    """Return the layer a erf(b x) + c, with the kernel of Williams (1997)."""

    def cov(q1, q2, k12):
        p1 = 2 * b**2 * q1
        p2 = 2 * b**2 * q2
        p12 = 2 * b**2 * k12
        # (1 + p1)(1 + p2) - p12^2 is a sum of positive terms in exact arithmetic.
        rest = jnp.maximum(1 + p1 + p2 + (p1 * p2 - p12**2), 1)
        return a**2 * (2 / math.pi) * jnp.arctan2(p12, jnp.sqrt(rest)) + c**2

    def fn(x):
        return a * jax.scipy.special.erf(b * x) + c

    return _layer("erf", fn, _from_covariance(cov, lambda q: jnp.full_like(q, c), odd=_is_zero(c)))


def gelu() -> Layer:
    """Return the layer x Phi(x), with Phi the distribution function of a standard normal variable,
    not its approximation by tanh."""

    def cov(q1, q2, k12):
        norm = (1 + q1) * (1 + q2)
        det = jnp.maximum(1 + q1 + q2 + (q1 * q2 - k12**2), 1)
        density = 1 / (2 * math.pi * jnp.sqrt(det))
        both = 1 / 4 + jnp.arctan2(k12, jnp.sqrt(det)) / (2 * math.pi)
        slopes = q1 * q2 - k12**2 + k12**2 * (2 + q1 + q2) / norm
        return k12 * both + density * slopes

    def mean(q):
        return q / jnp.sqrt(2 * math.pi * (1 + q))

    exact = functools.partial(jax.nn.gelu, approximate=False)
    return _layer("gelu", exact, _from_covariance(cov, mean))


def sin(a: Scalar = 1.0, b: Scalar = 1.0, c: Scalar = 0.0) -> Layer:
    """Return the layer a sin(b x + c)."""

    def cov(q1, q2, k12):
        def decayed(sign):
            return jnp.exp(-(b**2) / 2 * (q1 + q2 + sign * 2 * k12))

        return a**2 / 2 * (decayed(-1) - jnp.cos(2 * c) * decayed(1))

    def mean(q):
        return a * jnp.sin(c) * jnp.exp(-(b**2) / 2 * q)

    def fn(x):
        return a * jnp.sin(b * x + c)

    return _layer("sin", fn, _from_covariance(cov, mean, odd=_is_zero(c)))


def cos(a: Scalar = 1.0, b: Scalar = 1.0, c: Scalar = 0.0) -> Layer:
    """Return the layer a cos(b x + c)."""
    return sin(a, b, c + math.pi / 2)


def rbf(gamma: Scalar = 1.0) -> Layer:
    """Return the layer sqrt(2) sin(sqrt(2 gamma) x + pi/4), whose kernel is exp(-gamma E (u - v)^2)
    (Rahimi and Recht 2007)."""
    return sin(math.sqrt(2), jnp.sqrt(2 * gamma), math.pi / 4)


def gaussian(a: Scalar = 1.0, b: Scalar = -1.0) -> Layer:
    """Return the layer a exp(b x^2), for b < 0 or any b with 4 b q < 1 at all variances q of its
    input."""

    def cov(q1, q2, k12):
        determinant = (1 - 2 * b * q1) * (1 - 2 * b * q2) - (2 * b * k12) ** 2
        return a**2 / jnp.sqrt(determinant)

    def mean(q):
        return a / jnp.sqrt(1 - 2 * b * q)

    return _layer("gaussian", lambda x: a * jnp.exp(b * x**2), _from_covariance(cov, mean))


def exp(a: Scalar = 1.0, b: Scalar = 1.0) -> Layer:
    """Return the layer a exp(b x)."""

    def cov(q1, q2, k12):
        return a**2 * jnp.exp(b**2 / 2 * (q1 + q2 + 2 * k12))

    def mean(q):
        return a * jnp.exp(b**2 / 2 * q)

    return _layer("exp", lambda x: a * jnp.exp(b * x), _from_covariance(cov, mean))


def polynomial(coefficients: Sequence[float]) -> Layer:
    """Return the layer sum_i coefficients[i] x^i, whose kernel is a sum of the moments E u^i v^j
    (Isserlis 1918)."""
    terms = [(i, a) for i, a in enumerate(coefficients) if not _is_zero(a)]

    def cov(q1, q2, k12):
        pairs = [
            (a * b * w, i, j, power)
            for i, a in terms
            for j, b in terms
            for w, power in _moments(i, j)
        ]
        powers = (w * q1 ** ((i - p) // 2) * q2 ** ((j - p) // 2) * k12**p for w, i, j, p in pairs)
        return sum(powers, jnp.zeros_like(q1 * q2 * k12))

    even = [(i // 2, a * math.prod(range(1, i, 2))) for i, a in terms if i % 2 == 0]

    def mean(q):
        return sum((a * q**i for i, a in even), jnp.zeros_like(q))

    def fn(x):
        return sum((a * x**i for i, a in terms), jnp.zeros_like(x))

    return _layer("polynomial", fn, _from_covariance(cov, mean, odd=all(i % 2 for i, _ in terms)))


def monomial(degree: int) -> Layer:
    """Return the layer x^degree.  Raises ValueError for a negative degree."""
    if degree < 0:
        raise ValueError(f"degree: {degree}; pass an int >= 0")
    return polynomial([0.0] * degree + [1.0])


def hermite(degree: int) -> Layer:
    """Return the layer He_degree(x) / sqrt(degree!), the probabilists' Hermite polynomial of unit
    norm for inputs of variance 1.

    Raises ValueError for a negative degree.
    """
    if degree < 0:
        raise ValueError(f"degree: {degree}; pass an int >= 0")
    coefficients = np.polynomial.hermite_e.herme2poly([0.0] * degree + [1.0])
    norm = math.sqrt(math.factorial(degree))
    return polynomial([float(a) for a in coefficients / norm])


def _layer(name: str, fn: Callable[[Array], Array], rule: Callable[[Kernel], Kernel]) -> Layer:
    def kernel(k):
        if not k.gaussian:
            raise ValueError(
                f"{name}: its input is not Gaussian, so that no kernel is known; put a dense or "
                "conv layer before it"
            )
        if not k.known:
            raise Need("selves")
        return replace(rule(k), gaussian=False)

    return Layer(lambda key, shape: (shape, ()), lambda params, x, key=None: fn(x), lift(kernel))


def _from_covariance(cov: Covariance, mean: Callable[[Array], Array], *, odd: bool = False):
    """Return the rule of a function fn with E fn(u) fn(v) = cov(q1, q2, E u v) and E fn(u) =
    mean(q1).

    With `odd`, opposite inputs stay exactly opposite.
    """

    def rule(k):
        def of_covariance(c):
            return cov(k.q1, k.q2, c)

        value, slope = jax.jvp(of_covariance, (k.cov,), (jnp.ones_like(k.d),))
        q1 = cov(k.q1, k.q1, k.q1)
        q2 = cov(k.q2, k.q2, k.q2)
        s = _snap(q1 + q2 + 2 * value, k.s) if odd and k.s is not None else None
        d = _distance(k, q1, q2, value)
        m1 = mean(k.q1)
        m2 = mean(k.q2)
        return replace(k, q1=q1, q2=q2, m1=m1, m2=m2, d=d, s=s, ntk=k.ntk * slope)

    return rule


def _distance(k, q1, q2, cov):
    return _snap(q1 + q2 - 2 * cov, k.d)


def _snap(distance, before):
    """Return `distance`, at least 0, and exactly 0 where the distance `before` the layer was 0; the
    derivatives stay unchanged."""
    rounding = jnp.where(before == 0, distance, jnp.minimum(distance, 0))
    return distance - jax.lax.stop_gradient(rounding)


def _angle_of(k: Kernel) -> tuple[Array, Array, Array, Array]:
    """Return the standard deviations of u and v, and sin^2 and cos^2 of half the angle between the
    two inputs."""
    g1 = root(k.q1)
    g2 = root(k.q2)

    def half_inverse(g):
        return jnp.where(g > 0, 0.5 / jnp.where(g > 0, g, 1), 0)

    scale = half_inverse(g1) * half_inverse(g2)
    gap = (g1 - g2) ** 2

    def part(distance):
        # For collinear inputs of different lengths the difference is a rounding error only.
        apart = snap(distance - gap, jnp.abs(k.q1 - k.q2))
        return unit(apart * scale)

    z = part(k.d)
    return g1, g2, z, 1 - z if k.s is None else part(k.s)


def _half_angle_series(degree):
    """Return the coefficients of asin(sqrt z) / sqrt z as a polynomial in 4 z - 1, for 0 <= z <=
    1/2."""
    z = (1 - np.cos(np.pi * (np.arange(200) + 0.5) / 200)) / 4
    values = np.arcsin(np.sqrt(z)) / np.sqrt(z)
    chebyshev = np.polynomial.chebyshev
    fitted = chebyshev.chebfit(4 * z - 1, values, degree)
    return chebyshev.cheb2poly(fitted)


# By the bytes of a float: the degree from which on the error is rounding.
_HALF_ANGLE = {4: _half_angle_series(8), 8: _half_angle_series(21)}


@jax.custom_jvp
def angle(z: Float[Array, "..."], y: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return the angle t with sin^2(t/2) = z and cos^2(t/2) = y = 1 - z, accurate near t = 0 and
    near t = pi.

    A polynomial and a square root give the angle without a call of the C library.  The derivative
    in z, 1/sqrt(z y), is taken to be 0 at t = 0 and t = pi, where kernels have a cusp.
    """
    low = jnp.minimum(z, y)
    u = 4 * low - 1
    series = jnp.zeros_like(z)
    for c in _HALF_ANGLE[z.dtype.itemsize][::-1]:
        series = series * u + jnp.asarray(c, z.dtype)
    half = jnp.sqrt(low) * series
    return jnp.where(z > y, math.pi - 2 * half, 2 * half)


@angle.defjvp
def _(primals, tangents):
    z, y = primals
    sine = jnp.sqrt(z * y)
    slope = tangents[0] / jnp.where(sine > 0, sine, 1)
    return angle(z, y), jnp.where(sine > 0, slope, 0)


@jax.custom_jvp
def lag(
    z: Float[Array, "..."], y: Float[Array, "..."], theta: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Return (sin t - t cos t) / pi at the angle t = `theta` = `angle(z, y)`; its derivative in z
    is 2 t / pi."""
    return (2 * jnp.sqrt(z * y) - theta * (y - z)) / math.pi


@lag.defjvp
def _(primals, tangents):
    return lag(*primals), tangents[0] * (2 / math.pi) * primals[2]


def _rectified(i, j, g1, g2, z, y, theta):
    """Return E u_+^i v_+^j by integration by parts, down to (pi - t) / 2 pi, the probability that u
    and v are both positive."""
    cov = g1 * g2 * (1 - 2 * z)

    def below(i, j):
        return _rectified(i, j, g1, g2, z, y, theta)

    sine = 2 * root(z * y)
    if i == 0 and j == 0:
        return (math.pi - theta) / (2 * math.pi)
    if i == 0:
        first = (j - 1) * g2**2 * below(0, j - 2) if j > 1 else g2 / math.sqrt(8 * math.pi)
        given = (g2 * sine) ** (j - 1) * _half_moment(j - 1)
        return first + (1 - 2 * z) * g2 / math.sqrt(2 * math.pi) * given
    crossed = j * cov * below(i - 1, j - 1) if j else 0
    if i == 1:
        given = (g2 * sine) ** j * _half_moment(j)
        return g1 / math.sqrt(2 * math.pi) * given + crossed
    return (i - 1) * g1**2 * below(i - 2, j) + crossed


def _half_moment(power):
    """Return E t_+^power of a standard normal t."""
    return 2 ** (power / 2 - 1) * math.gamma((power + 1) / 2) / math.sqrt(math.pi)


def _moments(i, j):
    """Yield the pairs (weight, p) with E u^i v^j = sum weight q1^((i-p)/2) q2^((j-p)/2) cov^p."""
    for p in range(i % 2, min(i, j) + 1, 2) if i % 2 == j % 2 else ():
        halves = ((i - p) // 2, (j - p) // 2)
        ways = math.factorial(i) * math.factorial(j) / math.factorial(p)
        repeated = math.prod(2**h * math.factorial(h) for h in halves)
        yield ways / repeated, p


def _is_zero(a):
    return isinstance(a, int | float) and a == 0
