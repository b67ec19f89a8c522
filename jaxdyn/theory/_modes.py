"""What theories of single modes share: numbers of one precision, and the equation du/dt = u^p (s - u)."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Real

from jaxdyn.theory.equivalents import check

Numbers = Real[ArrayLike, "*#shape"]


def floats(*numbers):
    """Promote to one inexact dtype: whole numbers divide, Python's floats take the arrays' precision."""
    for number in numbers:
        if isinstance(number, str | list | tuple | dict) or number is None:
            raise TypeError(f"{number!r} is a {type(number).__name__}; pass a number or an array: np.array(...)")
    dtype = jnp.result_type(float, *numbers)
    return [jnp.asarray(number, dtype) for number in numbers]


def positive(x):
    """Keep off zero what underflows where a start lies on a saddle, which it never leaves."""
    return jnp.maximum(x, jnp.finfo(x.dtype).tiny)


def decayed(x):
    """(1 - e^-x)/x, also at x = 0 and with its derivative there."""
    small = jnp.abs(x) < 1e-3
    series = 1 - x / 2 * (1 - x / 3 * (1 - x / 4 * (1 - x / 5)))
    return jnp.where(small, series, -jnp.expm1(-x) / jnp.where(small, 1.0, x))


def check_positive(**numbers):
    """Raise ValueError for a number that is not positive and finite, where it is concrete."""
    for name, number in numbers.items():
        check(name, number, lambda a: (a > 0) & np.isfinite(a), "positive and finite numbers")


def reaches(u, s, u0):
    """Whether a mode that moves from u0 towards s passes u on its way."""
    return ((u0 <= u) & (u < s)) | ((s < u) & (u <= u0))


def time_between(y0, y1, decay, s, p):
    """The integral of du / (u^p (s - u)) between y0 = log(u0/s) and y1 = log(u/s); `decay` is log((s - u0)/(s - u)).

    64 Gauss-Legendre nodes in log u, once the logarithmic end is taken out; exact to rounding while p |y1 - y0| < 400.
    """
    x, weight = np.polynomial.legendre.leggauss(64)
    x, weight = jnp.asarray((x + 1) / 2, y0.dtype), jnp.asarray(weight / 2, y0.dtype)
    y = y0[..., None] + (y1 - y0)[..., None] * x.reshape((1,) * y0.ndim + (-1,))
    smooth = jnp.exp(y) * jnp.expm1(-p[..., None] * y) / -jnp.expm1(y)
    return s**-p * (decay + (y1 - y0) * (smooth @ weight))


def strength_after(time, s, u0, p):
    """The u(time) of du/dt = u^p (s - u), u(0) = u0 < s: the inverse of `time_between` in the logit of u/s.

    There the time is smooth and monotone: bisection, then Newton's method.
    """
    start = jnp.log(u0 / s) - jnp.log1p(-u0 / s)
    # At a logit of 40 no precision tells u from s.
    rate = s * jnp.maximum(s ** (p - 1), u0 ** (p - 1))
    bracket = start, jnp.minimum(start + rate * time, jnp.maximum(start, 0.0) + 40.0)

    def late(x):
        y0, y = -jax.nn.softplus(-start), -jax.nn.softplus(-x)
        return time_between(y0, y, jax.nn.softplus(x) - jax.nn.softplus(start), s, p) - time

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        before = late(middle) < 0
        return jnp.where(before, middle, low), jnp.where(before, high, middle)

    newton = lambda _, x: x - late(x) * s * (s * jax.nn.sigmoid(x)) ** (p - 1)
    x, _ = lax.fori_loop(0, 12, halve, bracket)
    x = lax.fori_loop(0, 5, newton, x)
    # A step of Newton's method from the root carries the derivatives of the implicit function.
    return s * jax.nn.sigmoid(newton(0, lax.stop_gradient(x)))
