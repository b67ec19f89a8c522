"""Observables of the Hessian."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from jaxdyn.types import Batch, Observe, Params


def hessian_eigenvalues(
    loss: Callable[[Params, Batch], Float[Array, ""]], batch: Batch, *, top: int = 5, depth: int = 64
) -> Observe:
    """Observe the largest `top` eigenvalues of the Hessian of `loss(params, batch)`, in falling order.

    By Lanczos' method as `sharpness`, in `depth` Hessian-vector products; lower ones take more of them.  A multiple
    eigenvalue is seen once, and NaN stands for those that the Hessian does not have.  Gradient descent is at the edge
    of stability from where the first meets 2/learning rate: `crossing_time(run.hessian_eigenvalues[..., 0], 2 / rate)`.

    Raises ValueError for more eigenvalues than products or parameters.
    """

    def observe(state):
        flat, product = _hessian_product(loss, state.params, batch)
        if not 1 <= top <= min(depth, flat.size):
            raise ValueError(f"top: {top}; pass at least 1, at most {depth=} and the number of parameters {flat.size}")
        start = jax.random.normal(jax.random.key(0), flat.shape, jnp.float32).astype(flat.dtype)
        values, vectors = jnp.linalg.eigh(_tridiagonal(product, start, depth))
        # What the start has no part in lies behind the invariant subspace, and is not the Hessian's.
        values = jnp.sort(jnp.where(vectors[0] == 0, -jnp.inf, values))[::-1][:top]
        return {"hessian_eigenvalues": jnp.where(jnp.isfinite(values), values, jnp.nan)}

    return observe


def sharpness(loss: Callable[[Params, Batch], Float[Array, ""]], batch: Batch, *, depth: int = 32) -> Observe:
    """Observe the largest eigenvalue of the Hessian of `loss(params, batch)`, by Lanczos' method.

    It takes `depth` Hessian-vector products (at most as many as there are parameters, where it is exact to rounding)
    and keeps as many vectors.  Never above the eigenvalue but for rounding; the relative error falls about as
    exp(-4 depth sqrt(gap)), gap = (lambda_1 - lambda_2) / (lambda_1 - lambda_min) (Saad 1980).
    """
    if depth < 1:
        raise ValueError(f"depth: {depth}; pass at least 1")

    def observe(state):
        flat, product = _hessian_product(loss, state.params, batch)
        start = jax.random.normal(jax.random.key(0), flat.shape, jnp.float32).astype(flat.dtype)
        return {"sharpness": jnp.linalg.eigvalsh(_tridiagonal(product, start, depth))[-1]}

    return observe


def _hessian_product(loss, params, batch):
    """Return the parameters in one vector, and the products of the Hessian there with such vectors."""
    flat, unravel = ravel_pytree(params)
    gradient = lambda v: ravel_pytree(jax.grad(loss)(unravel(v), batch))[0]
    return flat, lambda v: jax.jvp(gradient, (flat,), (v,))[1]


def _tridiagonal(product, start, depth):
    """Return Lanczos' matrix from a `start`, whose eigenvalues approximate those of the product."""
    from matfree import decomp

    lanczos = decomp.tridiag_sym(min(depth, start.size), materialize=False, custom_vjp=False)
    diagonal, beside = lanczos(product, start).J_small
    # Behind an invariant subspace (the Hessian has few distinct eigenvalues) come only rounding errors, or NaN.
    size = jnp.nanmax(jnp.abs(diagonal)) + jnp.max(jnp.nan_to_num(jnp.abs(beside)), initial=0.0)
    inside = jnp.cumprod(beside > 100 * jnp.finfo(start.dtype).eps * size).astype(bool)
    beside = jnp.where(inside, beside, 0)
    diagonal = diagonal.at[1:].set(jnp.where(inside, diagonal[1:], diagonal[0]))
    return jnp.diag(diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1)
