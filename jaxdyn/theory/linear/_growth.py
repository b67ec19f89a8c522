"""Growth of a single mode, du/dt = u^p (s - u): where it goes, how long it takes, and its inverse."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdyn._numbers import bisected

__all__ = ["reaches", "strength_after", "time_between"]


def reaches(u, s, u0):
    """Whether a mode that moves from u0 towards s passes u on its way."""
    return ((u0 <= u) & (u < s)) | ((s < u) & (u <= u0))


def time_between(y0, y1, decay, s, p):
    """The integral of du / (u^p (s - u)) between y0 = log(u0/s) and y1 = log(u/s); `decay` is
    log((s - u0)/(s - u)).

    64 Gauss-Legendre nodes in log u, once the logarithmic end is taken out; exact to rounding while
    p |y1 - y0| < 400.
    """
    x, weight = np.polynomial.legendre.leggauss(64)
    x = jnp.asarray((x + 1) / 2, y0.dtype)
    weight = jnp.asarray(weight / 2, y0.dtype)
    length = y1 - y0
    nodes = x.reshape((1,) * y0.ndim + (-1,))
    y = y0[..., None] + length[..., None] * nodes
    smooth = jnp.exp(y) * jnp.expm1(-p[..., None] * y) / -jnp.expm1(y)
    return s**-p * (decay + length * (smooth @ weight))


def strength_after(time, s, u0, p):
    """The u(time) of du/dt = u^p (s - u), u(0) = u0 < s: the inverse of `time_between` in the logit
    of u/s.

    There the time is smooth and monotone: bisection, then Newton's method.
    """
    start = jnp.log(u0 / s) - jnp.log1p(-u0 / s)
    # At a logit of 40 no precision tells u from s.
    fastest = s * jnp.maximum(s ** (p - 1), u0 ** (p - 1))
    highest = jnp.maximum(start, 0.0) + 40.0
    end = jnp.minimum(start + fastest * time, highest)

    def late(x):
        y0 = -jax.nn.softplus(-start)
        y = -jax.nn.softplus(-x)
        decay = jax.nn.softplus(x) - jax.nn.softplus(start)
        return time_between(y0, y, decay, s, p) - time

    def newton(_, x):
        return x - late(x) * s * (s * jax.nn.sigmoid(x)) ** (p - 1)

    x, _ = bisected(lambda x: late(x) < 0, start, end, 12)
    x = lax.fori_loop(0, 5, newton, x)
    # A step of Newton's method from the root carries the derivatives of the implicit function.
    return s * jax.nn.sigmoid(newton(0, lax.stop_gradient(x)))
