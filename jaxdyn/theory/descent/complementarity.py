"""The semidefinite complementarity problem, solved by a primal-dual interior-point method that
works under jit and vmap."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

__all__ = ["Solution", "solve"]

LIMIT = 30  # iterations; a dozen suffice where there is a solution


class Solution(NamedTuple):
    """A solution of the complementarity problem; NaN where none was found.

    Attributes:
        x: the solution X.
        slack: the complement A + B[X].
        ok: whether a solution was found.
    """

    x: Float[Array, "k k"]
    slack: Float[Array, "k k"]
    ok: Bool[Array, ""]


class _Iterate(NamedTuple):
    x: Array
    slack: Array
    error: Array
    steps: Array


def solve(a: Float[Array, "k k"], b: Float[Array, "k k k k"]) -> Solution:
    """Return the symmetric X with X >= 0, A + B[X] >= 0 and <X, A + B[X]> = 0, inequalities of
    semidefinite matrices.

    A (k, k) is symmetric, and B[X]_ij = sum_kl b_ijkl X_kl is positive semidefinite with b_ijkl =
    b_klij = b_jikl.  The solutions are then the minima of <A, X> + <X, B[X]>/2 over X >= 0.  X is
    zero where A >= 0 already; for k = 1 the solution is max(0, -a/b).

    The method is Mehrotra's predictor-corrector in the Nesterov-Todd direction.  The solution is
    accurate to eps^0.8, relative to A, after a dozen steps.  `ok` is False where there is no
    solution, as where A < 0 and B = 0.

    >>> solution = solve(jnp.diag(jnp.array([-1.0, 2.0])), jnp.eye(4).reshape(2, 2, 2, 2))
    >>> solution.x.round(4).tolist(), bool(solution.ok)
    ([[1.0, 0.0], [0.0, 0.0]], True)
    """
    k = len(a)
    dtype = jnp.result_type(a)
    eye = jnp.eye(k, dtype=dtype)
    tolerance = jnp.finfo(dtype).eps ** 0.8
    # A that is positive to rounding counts as positive: where B is singular, there may be no
    # solution for a negative eigenvalue that is only a rounding error.
    rounding = 32 * k * jnp.finfo(dtype).eps * jnp.max(jnp.abs(a))
    trivial = jnp.linalg.eigvalsh(a)[0] >= -rounding
    # Rescale A and B so that X is of order one: b_iiii = 1, except that no a_ii exceeds minus the
    # least eigenvalue of A, which is then scaled to 1.
    own = jnp.einsum("iiii->i", b)
    least = jnp.maximum(1e-8 * own.max(), jnp.finfo(dtype).tiny)
    unit = jnp.maximum(own, least) ** -0.25
    negative = _negative(a * unit[:, None] * unit[None])
    diagonal = jnp.abs(jnp.diagonal(a)) * unit**2
    unit = unit * jnp.sqrt(negative / jnp.maximum(diagonal, negative))
    outer = unit[:, None] * unit[None]
    size = _negative(a * outer)
    a_hat = a * outer / size
    b_hat = b * outer[:, :, None, None] * outer[None, None]
    largest = jnp.max(jnp.abs(a_hat))

    def image(x):
        return jnp.einsum("ijkl,kl->ij", b_hat, x)

    def assess(x, slack, steps):
        residual = jnp.max(jnp.abs(a_hat + image(x) - slack)) / largest
        gap = jnp.abs(jnp.vdot(x, slack)) / k
        return _Iterate(x, slack, jnp.maximum(residual, gap), steps)

    def advance(now):
        residual = a_hat + image(now.x) - now.slack
        x, slack = _step(now.x, now.slack, residual, b_hat)
        new = assess(x, slack, now.steps + 1)
        # Once X is positive only up to rounding, a further step may be NaN.  The iterate before
        # that step is then the last.
        finite = jnp.isfinite(new.error)
        last = now._replace(steps=LIMIT)
        return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, last)

    def unsolved(now):
        return (now.error > tolerance) & (now.steps < LIMIT) & ~trivial

    start = assess(eye, largest * eye, jnp.asarray(0))
    end = lax.while_loop(unsolved, advance, start)
    # Rounding may end the iteration before the tolerance is reached: eps^0.6 is accepted then.
    ok = trivial | (end.error <= jnp.finfo(dtype).eps ** 0.6)
    solved = jnp.where(ok, end.x * outer * size, jnp.nan)
    x = jnp.where(trivial, 0.0, solved)
    return Solution(x, a + jnp.einsum("ijkl,kl->ij", b, x), ok)


def _negative(a):
    """Return minus the least eigenvalue of a matrix, but at least the matrix's rounding error."""
    rounding = jnp.finfo(a.dtype).eps * jnp.max(jnp.abs(a))
    floor = rounding + jnp.finfo(a.dtype).tiny
    return jnp.maximum(-jnp.linalg.eigvalsh(a)[0], floor)


def _step(x, slack, residual, b):
    """Move X and its slack towards complementarity, and the slack towards A + B[X]."""
    k = len(x)
    # The congruence G that turns X and the slack into the same diagonal matrix d: X = G d G^T and
    # slack = G^-T d G^-1.
    root = jnp.linalg.cholesky(x)
    squares, vectors = jnp.linalg.eigh(root.T @ slack @ root)
    squares = jnp.maximum(squares, jnp.finfo(x.dtype).tiny)
    d = jnp.sqrt(squares)
    g = (root @ vectors) * squares[None] ** -0.25
    scaled_b = jnp.einsum("ai,bj,abcd,ck,dl->ijkl", g, g, b, g, g)
    matrix = jnp.eye(k * k, dtype=x.dtype) + scaled_b.reshape(k * k, k * k)
    factor = jax.scipy.linalg.cho_factor(matrix)
    lag = g.T @ residual @ g

    def direction(change):
        # change = dX + dS in the scaled space, where dS = B[dX] + lag.
        dx = jax.scipy.linalg.cho_solve(factor, (change - lag).ravel()).reshape(k, k)
        dx = (dx + dx.T) / 2
        return dx, change - dx

    def length(*changes):
        size = jnp.sqrt(d[:, None] * d[None])
        scaled = jnp.stack(changes) / size[None]
        least = jnp.min(jnp.linalg.eigvalsh(scaled))
        return 1 / jnp.maximum(-least, 1e-30)

    gap = jnp.sum(d**2)
    dx, ds = direction(jnp.diag(-d))
    ahead = jnp.minimum(1.0, length(dx, ds))
    reached = jnp.sum((jnp.diag(d) + ahead * dx) * (jnp.diag(d) + ahead * ds))
    centre = gap / k * jnp.maximum(reached / gap, 0) ** 3
    second = (dx @ ds + ds @ dx) / (d[:, None] + d[None])
    dx, ds = direction(jnp.diag(centre / d - d) - second)
    step = jnp.minimum(1.0, 0.98 * length(dx, ds))
    dx = g @ dx @ g.T
    return x + step * dx, slack + step * (jnp.einsum("ijkl,kl->ij", b, dx) + residual)
