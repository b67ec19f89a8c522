"""Growth of a single mode, du/dt = u^p (s - u): the strengths it passes, the time it takes, the
strength at a time."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdyn._numbers import bisected

__all__ = ["reaches", "strength_after", "time_between"]


def reaches(u, s, u0):
    """Return whether a mode that moves from u0 towards s passes the strength u on its way."""
    return ((u0 <= u) & (u < s)) | ((s < u) & (u <= u0))


def time_between(y0, y1, decay, s, p):
    """Return the integral of du / (u^p (s - u)) from y0 = log(u0/s) to y1 = log(u/s).

    `decay` is log((s - u0)/(s - u)), the singular part of the integral at u = s.  The smooth rest
    takes 64 Gauss-Legendre nodes in log u, which is exact to rounding while p |y1 - y0| < 400.
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
    """Return the solution u(time) of du/dt = u^p (s - u), u(0) = u0 < s.

    The solution is the inverse of `time_between`, computed in the logit of u/s, in which the time
    is smooth and monotone: bisection, then Newton's method.
    """
    start = jnp.log(u0 / s) - jnp.log1p(-u0 / s)
    # At a logit of 40 u equals s to rounding, in float64 too.
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
    # A last step of Newton's method from the root, held constant, has the derivatives of the
    # implicit function.
    return s * jax.nn.sigmoid(newton(0, lax.stop_gradient(x)))
