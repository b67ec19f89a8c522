"""Mean-square stability of minima under stochastic gradient descent, by exact second moments.

At a minimum that fits all n examples under squared error, let g_i be the gradient of the network's
output for example i.  A step of SGD changes a small deviation d from the minimum to

    d - (eta / B) sum_(i in batch) g_i (g_i . d)

for batches of B examples drawn with replacement.  The Hessian at the minimum is H = (1/n) sum_i g_i
g_i^T.  The second moments M = E d d^T are mapped linearly, and the minimum is stable in mean square
if none of them grows (Wu, Su, 2023).  Single runs may converge beyond this threshold: large
deviations become rare there, not impossible.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxdyn._numbers import Numbers, bisected, check

__all__ = ["max_learning_rate", "moment_step", "necessary_learning_rate"]

Gradients = Float[Array, "n p"]
"""The rows g_i.  If batches draw single outputs of an example, each output has a row of its own."""


def moment_step(
    moment: Float[Array, "p p"], gradients: Gradients, learning_rate: Numbers, batch_size: Numbers
) -> Float[Array, "p p"]:
    """Return the second moments E d d^T after a step of SGD from `moment`; an infinite `batch_size`
    means gradient descent.

        M - eta (H M + M H) + eta^2 [(1/B) E_i (g_i^T M g_i) g_i g_i^T + (1 - 1/B) H M H]

    This map is exact where deviations are small enough for the network to be linear in them.
    """
    n = len(gradients)
    hessian = gradients.T @ gradients / n
    along = jnp.sum(gradients * (gradients @ moment), 1)
    noise = gradients.T @ (along[:, None] * gradients) / n
    second = noise / batch_size + (1 - 1 / batch_size) * hessian @ moment @ hessian
    first = hessian @ moment + moment @ hessian
    return moment - learning_rate * first + learning_rate**2 * second


def max_learning_rate(gradients: Gradients, batch_size: Numbers) -> Float[Array, ""]:
    """Return the learning rate beyond which second moments grow: the exact threshold of mean-square
    stability.

    Write the map of moments as M - eta L_1 M + eta^2 L_2 M, with L_1 M = H M + M H and L_2 M the
    bracket of `moment_step`.  The map is self-adjoint and keeps positive matrices positive, so it
    is unstable as soon as eta L_2 exceeds L_1.  In the eigenbasis of H, with eigenvalues h, both
    operators are diagonal except for a term of rank n in L_2.  The threshold is therefore the eta
    at which the largest eigenvalue of the (n, n) matrix

        (eta / (B n)) sum_ab g_ka g_kb g_la g_lb / (h_a + h_b - eta (1 - 1/B) h_a h_b)

    passes 1.  The threshold is found by bisection below 2 / max h, the threshold of gradient
    descent.  The cost is n^2 r^2 operations for gradients of rank r, whatever the number of
    parameters.  Derivatives are not available.

    Raises ValueError for a batch size below 1.

    >>> alone = max_learning_rate(2 * jnp.eye(3), 1), max_learning_rate(2 * jnp.eye(3), jnp.inf)
    >>> [f"{eta:.4f}" for eta in alone]
    ['0.5000', '1.5000']
    """
    _check(batch_size)
    n = len(gradients)
    left, singular, _ = jnp.linalg.svd(gradients, full_matrices=False)
    spanned = singular > 10 * jnp.finfo(gradients.dtype).eps * singular[0]
    g = jnp.where(spanned[None], left * singular[None], 0)
    h = singular**2 / n

    def largest_eigenvalue(learning_rate):
        gap = h[:, None] + h[None] - learning_rate * (1 - 1 / batch_size) * h[:, None] * h[None]
        divisor = jnp.where(gap > 0, gap, 1)
        weight = jnp.where(gap > 0, learning_rate / (batch_size * n) / divisor, 0)

        # One row of the matrix at a time, so that memory grows only as n r.
        def row(both):
            return jnp.sum((both @ weight) * both, 1)

        matrix = lax.map(lambda g_k: row(g * g_k[None]), g)
        return jnp.linalg.eigvalsh(matrix)[-1]

    def is_stable(learning_rate):
        return largest_eigenvalue(learning_rate) < 1

    # 60 halvings exhaust the digits of float64.
    low, high = bisected(is_stable, jnp.zeros_like(h[0]), 2 / h[0], 60)
    return (low + high) / 2


def necessary_learning_rate(gradients: Gradients, batch_size: Numbers) -> Float[Array, ""]:
    """Return a learning rate that `max_learning_rate` never exceeds, from two moments of the
    gradients.

        2 tr H / (E |g|^4 / B + (1 - 1/B) |H|_F^2)

    The bound follows from the trace of M^-1 T M = rho, where M is the moment that the map T
    multiplies by rho, and the Cauchy-Schwarz inequality.  For orthogonal gradients of equal norm
    the bound is the threshold itself.  For B = 1 the bound is at most 2 / tr H, as E |g|^4 >= (tr
    H)^2: a stable minimum is flat in its trace (Wu, Su, 2023).

    Raises ValueError for a batch size below 1.
    """
    _check(batch_size)
    gram = gradients @ gradients.T
    squares = jnp.diagonal(gram)
    frobenius = jnp.mean(gram**2)
    noise = jnp.mean(squares**2) / batch_size
    second = noise + (1 - 1 / batch_size) * frobenius
    return 2 * jnp.mean(squares) / second


def _check(batch_size):
    check("batch_size", batch_size, lambda b: b >= 1, "at least 1, inf for gradient descent")
