"""Averages of hidden units over joint Gaussian fields, from which the velocities of order
parameters are made.

Fields h (n,) ~ N(0, G) belong to n units g, of which the first k are a student's.  An output is
sum_b s_b g(h_b), such as the error of the student.  `erf`, `relu` and `linear` have closed forms
(Saad and Solla, 1995, for the error function); `smooth` averages any other smooth unit by
quadrature.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdyn.theory.online import _orthants

__all__ = ["Unit", "erf", "linear", "relu", "root", "smooth", "sobol", "trapezoid"]

Rule = Callable[[int], tuple[Float[np.ndarray, "points dim"], Float[np.ndarray, " points"]]]
"""`rule(dim)` returns points and weights that average over dim independent normal variables."""


class Unit(NamedTuple):
    """A hidden unit g and its averages, as functions of the covariance G (n, n), the output s (n,)
    and the number k.

    - `apply`, `slope`: g and its derivative, elementwise;
    - `overlap(G)` (n, n): E g(h_a) g(h_b), the I2 of Saad and Solla (1995);
    - `drift(G, s, k)` (k, n): E g'(h_i) h_a output, their I3 summed over s;
    - `diffusion(G, s, k)` (k, k): E g'(h_i) g'(h_j) output^2, their I4 summed over s twice;
    - `slopes(G, k)` (k, k): E g'(h_i) g'(h_j).
    """

    apply: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    overlap: Callable[[Array], Array]
    drift: Callable[[Array, Array, int], Array]
    diffusion: Callable[[Array, Array, int], Array]
    slopes: Callable[[Array, int], Array]


def erf() -> Unit:
    """Return the unit g(h) = erf(h / sqrt(2)).

    The slope of g is a Gaussian, so an average that contains it is an average over other Gaussian
    fields, of covariance G' = (G^-1 + e_i e_i^T)^-1.  All averages therefore follow from E g(h_a)
    g(h_b) = (2/pi) asin[G_ab / sqrt((1 + G_aa)(1 + G_bb))].  No inverse of G is taken, so G may be
    singular.

    >>> f"{erf().overlap(jnp.ones((1, 1)))[0, 0]:.4f}"  # (2/pi) asin(1/2)
    '0.3333'
    """

    def overlap(G):
        scale = jnp.sqrt(1 + jnp.diagonal(G))
        return 2 / np.pi * jnp.arcsin(G / (scale[:, None] * scale[None]))

    def drift(G, s, k):
        def one(i):
            scale = 1 + G[i, i]
            tilted = G - jnp.outer(G[i], G[i]) / scale
            outputs = s / jnp.sqrt(1 + jnp.diagonal(tilted))
            return tilted @ outputs / jnp.sqrt(scale)

        return 2 / np.pi * jax.vmap(one)(jnp.arange(k))

    def determinant(G, i, j):
        return (1 + G[i, i]) * (1 + G[j, j]) - G[i, j] ** 2

    def slopes(G, k):
        i = jnp.arange(k)
        return 2 / np.pi / jnp.sqrt(determinant(G, i[:, None], i[None]))

    def diffusion(G, s, k):
        def one(i, j):
            a = G[i]
            b = G[j]
            own = (1 + b[j]) * jnp.outer(a, a) + (1 + a[i]) * jnp.outer(b, b)
            mixed = own - a[j] * (jnp.outer(a, b) + jnp.outer(b, a))
            tilted = G - mixed / determinant(G, i, j)
            return s @ overlap(tilted) @ s

        i = jnp.arange(k)
        of_row = jax.vmap(one, (None, 0))
        return slopes(G, k) * jax.vmap(of_row, (0, None))(i, i)

    def apply(h):
        return jax.scipy.special.erf(h / 2**0.5)

    def slope(h):
        return (2 / np.pi) ** 0.5 * jnp.exp(-(h**2) / 2)

    return Unit(apply, slope, overlap, drift, diffusion, slopes)


def relu() -> Unit:
    """Return the rectifier g(h) = max(h, 0).

    Most averages are arc-cosine forms (Cho and Saul, 2009).  The diffusion takes moments over
    orthants of up to four fields, by Stein's lemma; those of four different fields are integrals
    over the strength of the correlations (Plackett, 1954), with 24 Gauss-Legendre nodes.  The
    diffusion requires fields that are not linearly dependent: the diffusion is NaN where a student
    has learned its teacher.
    """

    def correlation(G):
        scale = jnp.sqrt(jnp.diagonal(G))
        return jnp.clip(G / (scale[:, None] * scale[None]), -1, 1)

    def both_positive(G):
        return 0.25 + jnp.arcsin(correlation(G)) / (2 * np.pi)

    def rest(G):
        """Return the square root of G_aa G_bb - G_ab^2."""
        q = jnp.diagonal(G)
        return jnp.sqrt(jnp.maximum(q[:, None] * q[None] - G**2, 0))

    def overlap(G):
        return rest(G) / (2 * np.pi) + G * both_positive(G)

    def drift(G, s, k):
        variances = jnp.diagonal(G)[:k, None]
        unexplained = rest(G)[:k] @ s
        along = G[:k] * unexplained[:, None] / (2 * np.pi * variances)
        explained = both_positive(G)[:k] * s[None]
        return along + explained @ G

    def slope(h):
        return (h > 0).astype(h.dtype)

    def slopes(G, k):
        return both_positive(G[:k, :k])

    return Unit(jax.nn.relu, slope, overlap, drift, _orthants.diffusion, slopes)


def linear() -> Unit:
    """Return the linear unit g(h) = h."""

    def diffusion(G, s, k):
        return (s @ G @ s) * jnp.ones((k, k), G.dtype)

    def drift(G, s, k):
        return jnp.broadcast_to((G @ s)[None], (k, len(G)))

    def slopes(G, k):
        return jnp.ones((k, k), G.dtype)

    return Unit(lambda h: h, jnp.ones_like, lambda G: G, drift, diffusion, slopes)


def smooth(apply: Callable[[Array], Array], rule: Rule) -> Unit:
    """Return the unit of any smooth function `apply`, with averages over the points of a `rule`,
    such as `sobol(13)`.

    The slope is the derivative of `apply`, so `apply` must accept single numbers as well as arrays.
    """

    def slope(h):
        return jax.vmap(jax.grad(apply))(h.ravel()).reshape(h.shape)

    def fields(G):
        points, weights = (jnp.asarray(a, G.dtype) for a in rule(len(G)))
        return points @ root(G).T, weights

    def overlap(G):
        h, weights = fields(G)
        g = apply(h)
        return (g * weights[:, None]).T @ g

    def drift(G, s, k):
        h, weights = fields(G)
        outputs = weights * (apply(h) @ s)
        return slope(h[:, :k]).T @ (h * outputs[:, None])

    def diffusion(G, s, k):
        h, weights = fields(G)
        slopes = slope(h[:, :k])
        squares = weights * (apply(h) @ s) ** 2
        return slopes.T @ (slopes * squares[:, None])

    def slopes(G, k):
        h, weights = fields(G)
        slopes = slope(h[:, :k])
        return (slopes * weights[:, None]).T @ slopes

    return Unit(apply, slope, overlap, drift, diffusion, slopes)


def trapezoid(points: int) -> Rule:
    """Return the trapezoidal rule with `points` along each of `dim` variables, points^dim in all.

    The rule covers |z| <= sqrt(pi (points - 1) / 2).  The bound on |z| balances the error of
    cutting off the tails with that of the finite steps, for functions that vary twice as fast as
    the Gaussian weight.  Both errors fall geometrically with the number of points, for functions
    without poles near the real axis.

    >>> points, weights = trapezoid(25)(2)
    >>> points.shape, f"{weights @ points[:, 0] ** 4:.6f}"
    ((625, 2), '3.000000')
    """
    x = np.linspace(-1, 1, points) * np.sqrt(np.pi * (points - 1) / 2)
    w = np.exp(-(x**2) / 2)

    def rule(dim):
        def grid(a):
            return np.stack(np.meshgrid(*[a] * dim, indexing="ij"), -1).reshape(-1, dim)

        return grid(x), np.prod(grid(w / w.sum()), 1)

    return rule


def sobol(log2_points: int) -> Rule:
    """Return the rule with 2^log2_points points of equal weight in any dimension, in pairs of both
    signs.

    The points are a scrambled Sobol sequence (Sobol, 1967; Owen, 1998), made normal and stretched
    to exact second moments; odd moments are exact by symmetry.  For smooth units of four fields
    errors are some 1e-3 at 2^13 points and fall as one over the number of points.  In up to four
    dimensions `trapezoid` is more accurate.
    """
    from scipy.special import ndtri
    from scipy.stats import qmc

    def rule(dim):
        z = ndtri(qmc.Sobol(dim, rng=0).random_base2(log2_points - 1))
        z = np.concatenate([z, -z])
        n = len(z)
        stretch = np.linalg.inv(np.linalg.cholesky(z.T @ z / n))
        return z @ stretch.T, np.full(n, 1 / n)

    return rule


def root(G: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Return the lower triangular L with L L^T = G, also for a singular G.

    Where a pivot of a singular G is zero, the entries of L on and below the diagonal are zero.  The
    factor is written out entry by entry, which for small matrices under vmap is faster than one
    decomposition after another.
    """
    L: list[list[Array]] = []
    for i in range(len(G)):
        L.append([])
        for j in range(i + 1):
            rest = G[i, j] - sum(a * b for a, b in zip(L[i], L[j], strict=False))
            pivot = rest if i == j else L[j][j]
            divisor = jnp.where(pivot > 0, pivot, 1)
            entry = jnp.sqrt(divisor) if i == j else rest / divisor
            L[i].append(jnp.where(pivot > 0, entry, 0))
    zero = jnp.zeros((), G.dtype)
    rows = [[*row, *[zero] * (len(G) - len(row))] for row in L]
    return jnp.stack(list(map(jnp.stack, rows)))
