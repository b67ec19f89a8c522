"""Moments of Gaussian vectors over their positive orthant, for up to four variables."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

__all__ = ["diffusion", "first_moment", "probability", "second_moment"]


def diffusion(G: Float[Array, "n n"], s: Float[Array, " n"], k: int) -> Float[Array, "{k} {k}"]:
    """Return E 1(h_i > 0) 1(h_j > 0) (sum_b s_b max(h_b, 0))^2 for i, j < k, over fields h ~ N(0,
    G)."""
    n = len(G)
    groups = {}
    for i, j in zip(*np.triu_indices(k), strict=True):
        for a, b in zip(*np.triu_indices(n), strict=True):
            fields = list(dict.fromkeys((a, b, i, j)))
            groups.setdefault((len(fields), a == b), []).append((fields, i, j, a, b))
    total = jnp.zeros((k, k), G.dtype)
    for (_, square), entries in groups.items():
        fields, i, j, a, b = map(np.array, zip(*entries, strict=True))
        covariances = G[fields[:, :, None], fields[:, None, :]]
        moment = functools.partial(second_moment, j=0 if square else 1)
        moments = jax.vmap(moment)(covariances)
        # Pairs a < b are listed once and stand for (b, a) too.
        orders = 1 if square else 2
        total = total.at[i, j].add(orders * s[a] * s[b] * moments)
    return total + jnp.triu(total, 1).T


def second_moment(C: Float[Array, "n n"], j: int) -> Float[Array, ""]:
    """Return E X_0 X_j 1(X > 0) for X ~ N(0, C), by Stein's lemma: E X_i f(X) = sum_q C_iq E
    df/dX_q."""
    n = len(C)
    total = C[0, j] * probability(C)
    for q in set(range(n)) - {j}:
        moment = first_moment(_given(C, q), j - (q < j))
        total = total + C[0, q] * _density(C, q) * moment
    return total


def first_moment(C: Float[Array, "n n"], j: int) -> Float[Array, ""]:
    """Return E X_j 1(X > 0) for X ~ N(0, C), of up to three variables."""
    terms = [C[j, q] * _density(C, q) * probability(_given(C, q)) for q in range(len(C))]
    return functools.reduce(jnp.add, terms)


def probability(C: Float[Array, "n n"]) -> Float[Array, ""]:
    """Return the probability that all of up to four variables X ~ N(0, C) are positive.

    For up to three variables the probability is a sum of arcsines (Sheppard).  For four variables
    its derivative in the covariance of a pair is the density of this pair at zero times the
    probability that the other two are positive given that the pair is zero (Plackett, 1954).  The
    derivative is integrated from independent variables on, with 24 Gauss-Legendre nodes.
    """
    n = len(C)
    if n < 4:
        angles = jnp.zeros((), C.dtype)
        for j in range(n):
            for i in range(j):
                correlation = C[i, j] / jnp.sqrt(C[i, i] * C[j, j])
                angles = angles + jnp.arcsin(jnp.clip(correlation, -1, 1))
        return 0.5**n + angles / (np.pi * 2 ** (n - 1))
    node, weight = np.polynomial.legendre.leggauss(24)
    diagonal = jnp.diag(jnp.diagonal(C))

    def slope(strength):
        path = diagonal + strength * (C - diagonal)
        total = 0.0
        for i, j in zip(*np.triu_indices(4, 1), strict=True):
            determinant = path[i, i] * path[j, j] - path[i, j] ** 2
            density = 1 / (2 * np.pi * jnp.sqrt(determinant))
            others = probability(_given(_given(path, j), i))
            total = total + C[i, j] * density * others
        return total

    slopes = jax.vmap(slope)(jnp.asarray((node + 1) / 2, C.dtype))
    return 1 / 16 + slopes @ jnp.asarray(weight / 2, C.dtype)


def _density(C, q):
    return 1 / jnp.sqrt(2 * np.pi * C[q, q])


def _given(C, q):
    """Return the covariance of the other variables given X_q = 0."""
    others = np.delete(np.arange(len(C)), q)
    with_q = C[others, q]
    return C[np.ix_(others, others)] - jnp.outer(with_q, with_q) / C[q, q]
