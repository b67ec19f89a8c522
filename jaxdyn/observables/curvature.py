"""Observables of the Hessian."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from jaxdyn.types import Batch, Observe, Params


def sharpness(loss: Callable[[Params, Batch], Float[Array, ""]], batch: Batch, *, depth: int = 32) -> Observe:
    """Observe the largest eigenvalue of the Hessian of `loss(params, batch)`, by Lanczos' method.

    It takes `depth` Hessian-vector products (at most as many as there are parameters, where it is exact to rounding)
    and keeps as many vectors.  Never above the eigenvalue but for rounding; the relative error falls about as
    exp(-4 depth sqrt(gap)), gap = (lambda_1 - lambda_2) / (lambda_1 - lambda_min) (Saad 1980).
    """
    if depth < 1:
        raise ValueError(f"depth: {depth}; pass at least 1")

    def observe(state):
        from matfree import decomp

        flat, unravel = ravel_pytree(state.params)
        gradient = lambda v: ravel_pytree(jax.grad(loss)(unravel(v), batch))[0]
        product = lambda v: jax.jvp(gradient, (flat,), (v,))[1]
        lanczos = decomp.tridiag_sym(min(depth, flat.size), materialize=False, custom_vjp=False)
        start = jax.random.normal(jax.random.key(0), flat.shape, jnp.float32).astype(flat.dtype)
        diagonal, beside = lanczos(product, start).J_small
        # Behind an invariant subspace (the Hessian has few distinct eigenvalues) come only rounding errors, or NaN.
        size = jnp.nanmax(jnp.abs(diagonal)) + jnp.max(jnp.nan_to_num(jnp.abs(beside)), initial=0.0)
        inside = jnp.cumprod(beside > 100 * jnp.finfo(flat.dtype).eps * size).astype(bool)
        beside = jnp.where(inside, beside, 0)
        diagonal = diagonal.at[1:].set(jnp.where(inside, diagonal[1:], diagonal[0]))
        tridiagonal = jnp.diag(diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1)
        return {"sharpness": jnp.linalg.eigvalsh(tridiagonal)[-1]}

    return observe
