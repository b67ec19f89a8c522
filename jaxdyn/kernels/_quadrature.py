"""Expectations of functions of one and of two Gaussians."""

import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

__all__ = ["expectation", "expectation_at_angle", "pair_expectation", "root", "unit"]

# Standard deviations beyond which the weight of a Gaussian is below rounding, by bytes of a float.
REACH = {4: 6.5, 8: 9.5}


def pair_expectation(
    fn: Callable[..., PyTree[Array]],
    q1: Float[Array, "..."],
    q2: Float[Array, "..."],
    cov: Float[Array, "..."],
    *,
    kinks: Sequence[float] = (),
    nodes: int = 96,
) -> PyTree[Array]:
    """Return E fn(u, v) by quadrature, for centred Gaussians with variances `q1` and `q2` and
    covariance `cov`.

    The arrays broadcast; `fn` acts elementwise and may return a pytree.  Without kinks the rule is
    the trapezoidal rule with `nodes` points an axis.  For functions that are analytic in a strip of
    half-width a, in standard deviations, its error falls as exp(-2 pi a / h) with the step h = 19 /
    nodes in float64; Gauss-Hermite rules need many more points for tanh.  Where `fn` is only
    piecewise smooth in u and in v, panels of `nodes` Gauss-Legendre points end at the `kinks`, with
    points that become denser towards the kinks.
    """
    g1 = jnp.sqrt(q1)
    g2 = jnp.sqrt(q2)
    r = g1 * g2
    z = unit((1 - cov / jnp.where(r > 0, r, 1)) / 2)
    return expectation_at_angle(fn, g1, g2, z, kinks=kinks, nodes=nodes)


def expectation_at_angle(fn, g1, g2, z, *, kinks=(), nodes=96):
    """Return E fn(u, v) for standard deviations `g1` and `g2` and correlation 1 - 2 z, by the rules
    of `pair_expectation`.

    For smooth functions the odd powers of the angle cancel, so that derivatives in z are finite at
    z = 0, provided that z is kept away from 0 by one rounding error.  With kinks the expectation
    has a cusp at z = 0, where its derivative is taken to be 0.
    """
    g1, g2, z = jnp.broadcast_arrays(g1, g2, z)
    if not kinks:
        eps = jnp.finfo(z.dtype).eps
        z = eps + (1 - 2 * eps) * z
    rho = 1 - 2 * z
    sigma = 2 * root(z * (1 - z))
    outer, outer_weights = _rule(g1, jnp.zeros_like(g1), kinks, nodes)

    def add(total, node):
        s, weight = node
        inner, inner_weights = _rule(g2 * sigma, g2 * rho * s, kinks, nodes)

        def one(t, w):
            values = fn(g1 * s, g2 * (rho * s + sigma * t))
            return jax.tree.map(lambda f: f * w * weight, values)

        terms = jax.vmap(one)(inner, inner_weights)
        return jax.tree.map(lambda a, b: a + jnp.sum(b, 0), total, terms), None

    start = jax.tree.map(lambda f: jnp.zeros(f.shape, f.dtype), jax.eval_shape(fn, g1, g2))
    return jax.lax.scan(add, start, (outer, outer_weights))[0]


@jax.custom_jvp
def unit(z):
    """Return `z` with rounding errors outside [0, 1] clipped; the derivative is that of the
    identity."""
    return jnp.clip(z, 0, 1)


unit.defjvps(lambda tangent, ans, z: tangent)


@jax.custom_jvp
def root(x):
    """Return sqrt(x), with the derivative at 0 taken to be 0."""
    return jnp.sqrt(x)


def _root_jvp(tangent, ans, x):
    slope = tangent / (2 * jnp.where(ans > 0, ans, 1))
    return jnp.where(ans > 0, slope, 0)


root.defjvps(_root_jvp)


def expectation(fn, g, *, kinks=(), nodes=96):
    """Return E fn(u) for a centred Gaussian u of standard deviation `g`, by the rules of
    `pair_expectation`."""
    points, weights = _rule(g, jnp.zeros_like(g), kinks, nodes)
    return jax.tree.map(lambda f: jnp.sum(f * weights, 0), fn(g[None] * points))


def _rule(scale, shift, kinks, nodes):
    """Return points s (points, ...) and weights of E f(s) for a standard normal s.

    The rule is that for functions of scale * s + shift with the given kinks.
    """
    reach = REACH[scale.dtype.itemsize]

    def in_front(v):
        return jnp.asarray(v, scale.dtype).reshape(-1, *(1,) * scale.ndim)

    if not kinks:
        s = np.linspace(-reach, reach, nodes)
        w = np.exp(-(s**2) / 2)
        shape = (nodes, *scale.shape)
        points = jnp.broadcast_to(in_front(s), shape)
        return points, jnp.broadcast_to(in_front(w / w.sum()), shape)
    # A panel [left, right] is traversed as s(p) with s' = 0 at both ends: features narrower than a
    # panel, which nearly equal inputs have at the kinks, then still contain points.
    p, w = np.polynomial.legendre.leggauss(nodes)
    p = (p + 1) / 2
    w = w / 2
    w = in_front(w * 30 * p**2 * (1 - p) ** 2)
    p = in_front(p**3 * (10 - 15 * p + 6 * p**2))
    safe = jnp.where(scale > 0, scale, 1)

    def edge(kink):
        return jnp.where(scale > 0, jnp.clip((kink - shift) / safe, -reach, reach), reach)

    inner = [edge(kink) for kink in sorted(kinks)]
    edges = [jnp.full_like(scale, -reach), *inner, jnp.full_like(scale, reach)]
    points = []
    weights = []
    for left, right in itertools.pairwise(edges):
        width = (right - left)[None]
        points.append(left[None] + width * p)
        weights.append(width * w)
    s = jnp.concatenate(points)
    density = jnp.exp(-(s**2) / 2) / np.sqrt(2 * np.pi)
    return s, jnp.concatenate(weights) * density
