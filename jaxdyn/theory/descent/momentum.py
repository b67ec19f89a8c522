"""Gradient methods with momentum: tunings, rates and iterates on quadratics, and their limiting
ODEs.

One three-term recursion contains all of these methods (Lessard, Recht, Packard, 2016; Van Scoy,
Freeman, Lynch, 2018):

    x_{k+1} = x_k + b (x_k - x_{k-1}) - a grad f(y_k),  y_k = x_k + g (x_k - x_{k-1}),

    out_k = x_k + d (x_k - x_{k-1}).

The curvature of f lies between m > 0 (strong convexity) and L (smoothness); kappa = L/m is the
condition number.  The tunings raise ValueError for curvatures that are not positive.  k counts
steps, and the time of the ODEs is t = k sqrt(learning rate).
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdyn._numbers import Numbers, check_positive, decayed, floats

__all__ = [
    "ThreeTerm",
    "gradient_descent",
    "heavy_ball",
    "heavy_ball_oscillator",
    "mode",
    "mode_rate",
    "nesterov",
    "nesterov_flow",
    "nesterov_oscillator",
    "nesterov_quadratic",
    "oscillator",
    "step_velocity",
    "triple_momentum",
]


class ThreeTerm(NamedTuple):
    """The coefficients of a method.

    `optimizers.three_term` takes the first three of them, `optimizers.ahead` the last.

    Attributes:
        learning_rate: a.
        momentum: b.
        lookahead: g.
        output: d.
    """

    learning_rate: Numbers
    momentum: Numbers = 0.0
    lookahead: Numbers = 0.0
    output: Numbers = 0.0


def gradient_descent(m: Numbers, L: Numbers) -> ThreeTerm:
    """Return gradient descent at the fixed learning rate 2/(L + m), the best one in the worst case.

    A step multiplies the distance from the minimum by at most (kappa - 1)/(kappa + 1).
    """
    m, L = _curvatures(m, L)
    return _method(2 / (L + m))


def nesterov(m: Numbers, L: Numbers) -> ThreeTerm:
    """Return Nesterov's method for strongly convex functions.

    The coefficients are a = 1/L and b = g = (sqrt(kappa) - 1)/(sqrt(kappa) + 1) (Nesterov, 2004).
    On quadratics every mode decays by a factor of at most 1 - 1/sqrt(kappa) per step in the end.
    """
    m, L = _curvatures(m, L)
    b = _contrast(jnp.sqrt(L / m))
    return _method(1 / L, b, b)


def nesterov_quadratic(m: Numbers, L: Numbers) -> ThreeTerm:
    """Return Nesterov's method tuned for quadratics.

    The coefficients are a = 4/(3 L + m) and b = g = (sqrt(3 kappa + 1) - 2)/(sqrt(3 kappa + 1) + 2)
    (Lessard, Recht, Packard, 2016).  Every mode decays by a factor of at most 1 - 2/sqrt(3 kappa +
    1) per step in the end.
    """
    m, L = _curvatures(m, L)
    b = _contrast(jnp.sqrt(3 * L / m + 1) / 2)
    return _method(4 / (3 * L + m), b, b)


def heavy_ball(m: Numbers, L: Numbers) -> ThreeTerm:
    """Return Polyak's heavy ball, the fastest method on quadratics.

    The coefficients are a = 4/(sqrt(L) + sqrt(m))^2 and b = ((sqrt(kappa) - 1)/(sqrt(kappa) + 1))^2
    (Polyak, 1964).  Every mode decays by the factor (sqrt(kappa) - 1)/(sqrt(kappa) + 1) per step in
    the end.  On other strongly convex functions the method may cycle for ever (Lessard, Recht,
    Packard, 2016).
    """
    m, L = _curvatures(m, L)
    a = 4 / (jnp.sqrt(L) + jnp.sqrt(m)) ** 2
    b = _contrast(jnp.sqrt(L / m)) ** 2
    return _method(a, b)


def triple_momentum(m: Numbers, L: Numbers) -> ThreeTerm:
    """Return the triple momentum method, of rate 1 - 1/sqrt(kappa) per step on every strongly
    convex function.

    With r = 1 - 1/sqrt(kappa) the coefficients are (Van Scoy, Freeman, Lynch, 2018)

        a = (1 + r)/L,  b = r^2/(2 - r),  g = r^2/((1 + r)(2 - r)),  d = r^2/(1 - r^2).

    On a quadratic the flattest and the steepest mode have the rate r, and all other modes are
    faster.
    """
    m, L = _curvatures(m, L)
    r = 1 - jnp.sqrt(m / L)
    a = (1 + r) / L
    b = r**2 / (2 - r)
    g = r**2 / ((1 + r) * (2 - r))
    d = r**2 / (1 - r**2)
    return _method(a, b, g, d)


def mode_rate(method: ThreeTerm, curvature: Numbers) -> Float[Array, "..."]:
    """Return the factor per step by which a mode of a quadratic decays in the end; unstable modes
    exceed 1.

    With lam the `curvature` the factor is the largest modulus of the roots of

        z^2 - (1 + b - a lam (1 + g)) z + b - a lam g.

    At a double root rounding costs half of the digits; the heavy ball has one at either end of the
    spectrum.

    >>> f"{mode_rate(nesterov(1.0, 100.0), 1.0):.4f}", f"{mode_rate(heavy_ball(1.0, 100.0), 50.0):.4f}"
    ('0.9000', '0.8182')
    """
    large, _, _ = _roots(method, curvature)
    return jnp.abs(large)


def mode(
    steps: Numbers, method: ThreeTerm, curvature: Numbers, start: Numbers = 1.0
) -> Float[Array, "..."]:
    """Return the output out_k of a mode of a quadratic after k = `steps` steps from rest, x_{-1} =
    x_0 = `start`.

    The recursion has the closed form

        x_k = S_{k+1} x_0 - det S_k x_{-1},  S_k = (z_1^k - z_2^k)/(z_1 - z_2),

    where z_1 and z_2 are the roots of the polynomial in `mode_rate` and det is their product.
    Double roots are included.
    """
    steps, start, output = floats(steps, start, method.output)
    large, ratio, det = _roots(method, curvature)
    log_large = jnp.log(large)
    log_ratio = jnp.log(ratio)
    apart = jnp.abs(log_ratio) > jnp.finfo(log_ratio.dtype).eps
    divisor = jnp.where(apart, jnp.expm1(log_ratio), 1.0)

    def power_sum(k):
        # (z_1^k - z_2^k) / (z_1 - z_2) = z_1^(k - 1) (1 - r^k)/(1 - r) with r = z_2 / z_1.  At a
        # double root r = 1, and the quotient is k.
        geometric = jnp.where(apart, jnp.expm1(k * log_ratio) / divisor, k)
        power = jnp.exp((k - 1) * log_large)
        return jnp.where(k == 0, 0.0, power * geometric)

    def position(k):
        return power_sum(k + 1) - det * power_sum(k)

    now = position(steps)
    before = position(jnp.maximum(steps - 1, 0))
    velocity = jnp.where(steps > 0, now - before, 0.0)
    return start * (now + output * velocity).real


def oscillator(
    time: Numbers, damping: Numbers, stiffness: Numbers, x0: Numbers, v0: Numbers
) -> Float[Array, "..."]:
    """Return x(t) of a damped oscillator of positive stiffness.

        x'' + damping x' + stiffness x = 0,  x(0) = x0,  x'(0) = v0.

    One expression covers damping below, at and above the critical one.  The expression never
    overflows, in float32 and in float64.

    >>> f"{oscillator(1.0, 2.0, 1.0, 1.0, 0.0):.4f}", f"{2 / np.e:.4f}"
    ('0.7358', '0.7358')
    """
    numbers = floats(time, damping, stiffness, x0, v0)
    time, damping, stiffness, x0, v0 = jnp.broadcast_arrays(*numbers)
    half = damping / 2
    discriminant = damping**2 / 4 - stiffness
    overdamped = discriminant > 0
    real = jnp.sqrt(jnp.where(overdamped, discriminant, 0.0))
    frequency = jnp.sqrt(jnp.where(discriminant < 0, -discriminant, 0.0))
    phase = frequency * time
    # Above critical damping e^(-damping t/2) cosh(q t) is written with the slower exponential as a
    # factor, and the rate of that exponential without a difference: this avoids cancellation.
    rate = jnp.where(overdamped, stiffness / (half + real), half)
    slow = jnp.exp(-time * rate)
    cosh = (1 + jnp.exp(-2 * real * time)) / 2
    even = jnp.where(overdamped, cosh, jnp.cos(phase))
    odd = jnp.where(overdamped, decayed(2 * real * time), jnp.sinc(phase / np.pi))
    return slow * (x0 * even + (v0 + half * x0) * time * odd)


def nesterov_oscillator(
    learning_rate: Numbers, convexity: Numbers, curvature: Numbers
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Return (damping, stiffness) of the high-resolution ODE of Nesterov's method on a mode, for
    `oscillator`.

    At learning rate s, convexity m and curvature lam the ODE is

        x'' + (2 sqrt(m) + sqrt(s) lam) x' + (1 + sqrt(m s)) lam x = 0

    in the time t = k sqrt(s), for momentum and lookahead (1 - sqrt(m s))/(1 + sqrt(m s)) (Shi, Du,
    Jordan, Su, 2021).
    """
    damping, stiffness = heavy_ball_oscillator(learning_rate, convexity, curvature)
    learning_rate, curvature = floats(learning_rate, curvature)
    return damping + jnp.sqrt(learning_rate) * curvature, stiffness


def heavy_ball_oscillator(
    learning_rate: Numbers, convexity: Numbers, curvature: Numbers
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Return (damping, stiffness) of the high-resolution ODE of the heavy ball on a mode, for
    `oscillator`.

    At learning rate s, convexity m and curvature lam the ODE is

        x'' + 2 sqrt(m) x' + (1 + sqrt(m s)) lam x = 0

    in the time t = k sqrt(s), for momentum (1 - sqrt(m s))/(1 + sqrt(m s)) (Shi, Du, Jordan, Su,
    2021).  The heavy ball and Nesterov's method have the same limit s -> 0; what distinguishes them
    is the damping sqrt(s) lam of `nesterov_oscillator`.
    """
    numbers = floats(learning_rate, convexity, curvature)
    learning_rate, convexity, curvature = jnp.broadcast_arrays(*numbers)
    stiffness = (1 + jnp.sqrt(convexity * learning_rate)) * curvature
    return 2 * jnp.sqrt(convexity), stiffness


def step_velocity(
    change: Numbers, step: Numbers, damping: Numbers, stiffness: Numbers, x0: Numbers
) -> Float[Array, "..."]:
    """Return the initial velocity v of an `oscillator` that changes from x0 by `change` in the
    first `step` of time.

    To second order change = step v + step^2/2 x''.  With this v the high-resolution ODEs agree with
    their methods to O(s) at all times; with v = change/step the agreement is only to O(sqrt(s)).
    """
    change, step, damping, stiffness, x0 = floats(change, step, damping, stiffness, x0)
    half = step / 2
    return (change / step + half * stiffness * x0) / (1 - half * damping)


def nesterov_flow(time: Numbers, curvature: Numbers, start: Numbers = 1.0) -> Float[Array, "..."]:
    """Return x(t) of a mode from rest under the limiting ODE of Nesterov's method for convex
    functions.

    The ODE x'' + (3/t) x' + lam x = 0 has the solution 2 x_0 J_1(w t)/(w t), with w = sqrt(lam) and
    t = k sqrt(learning rate) (Su, Boyd, Candes, 2016).  The Bessel function is computed by
    Poisson's integral up to w t = 30 and by Hankel's expansion beyond.  Relative to the first
    maximum, errors are 1e-14 in float64 and 1e-6 in float32.

    >>> f"{nesterov_flow(60.0, 1.0):.6f}"
    '0.001553'
    """
    time, curvature, start = jnp.broadcast_arrays(*floats(time, curvature, start))
    z = jnp.sqrt(curvature) * time
    near = jnp.minimum(z, 30.0)[..., None]
    far = jnp.maximum(z, 30.0)
    # The trapezoidal rule over a period converges geometrically once it has more nodes than w t.
    angle = np.pi * (np.arange(64) + 0.5) / 64
    weight, cosine = (
        jnp.asarray(a, z.dtype).reshape((1,) * z.ndim + (-1,))
        for a in (np.sin(angle) ** 2, np.cos(angle))
    )
    small = 2 * jnp.mean(jnp.cos(near * cosine) * weight, -1)
    terms = np.cumprod([(4 - (2 * k - 1) ** 2) / (8 * k) for k in range(1, 16)])
    even = 1 + sum((-1) ** (k // 2) * terms[k - 1] / far**k for k in range(2, 16, 2))
    odd = sum((-1) ** (k // 2) * terms[k - 1] / far**k for k in range(1, 16, 2))
    phase = far - 3 * np.pi / 4
    large = 2 * jnp.sqrt(2 / np.pi / far) * (jnp.cos(phase) * even - jnp.sin(phase) * odd) / far
    return start * jnp.where(z > 30, large, small)


def _curvatures(m, L):
    check_positive(m=m, L=L)
    return floats(m, L)


def _method(*coefficients):
    return ThreeTerm(*floats(*coefficients))


def _contrast(root):
    return (root - 1) / (root + 1)


def _roots(method, curvature):
    """Return the root of larger modulus, the ratio of the smaller to the larger, and the product."""
    a, b, g, lam = floats(*method[:3], curvature)
    det = b - a * lam * g
    half = (1 + b - a * lam * (1 + g)) / 2
    root = jnp.sqrt((half**2 - det).astype(jnp.result_type(half, jnp.complex64)))
    large = half + jnp.where(half < 0, -1, 1) * root

    # Roots at zero: gradient descent has one, and two where it lands on the minimum in one step.
    def nonzero(z):
        return jnp.where(z == 0, jnp.finfo(half.dtype).tiny, z)

    return (
        nonzero(large),
        nonzero(jnp.where(large == 0, 0, det / nonzero(large) / nonzero(large))),
        det,
    )
