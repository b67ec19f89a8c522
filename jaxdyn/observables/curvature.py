"""Observables of the Hessian."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxdyn._numbers import normal
from jaxdyn.types import Batch, Observe, Params

__all__ = ["hessian_eigenvalues", "hessian_index", "sharpness"]


def hessian_eigenvalues(
    loss: Callable[[Params, Batch], Float[Array, ""]],
    batch: Batch,
    *,
    top: int = 5,
    depth: int = 64,
) -> Observe:
    """Observe the largest `top` eigenvalues of the Hessian of `loss(params, batch)`, in decreasing
    order.

    The method is that of Lanczos, as for `sharpness`, with `depth` Hessian-vector products; lower
    eigenvalues need more products than the first.  A multiple eigenvalue is seen once.  NaN stands
    for eigenvalues that the Hessian does not have.  Gradient descent is at the edge of stability
    from the time at which the first eigenvalue reaches 2/learning rate:
    `crossing_time(run.hessian_eigenvalues[..., 0], 2 / rate)`.

    Raises ValueError for more eigenvalues than products or parameters.
    """

    def observe(state):
        flat, product = _hessian_product(loss, state.params, batch)
        if not 1 <= top <= min(depth, flat.size):
            raise ValueError(
                f"top: {top}; pass at least 1, at most {depth=} and the number of parameters "
                f"{flat.size}"
            )
        start = normal(jax.random.key(0), flat.shape, flat.dtype)
        values, vectors = jnp.linalg.eigh(_tridiagonal(product, start, depth))
        # Eigenvectors without a component along the start lie outside of the invariant subspace:
        # their eigenvalues are not the Hessian's.
        values = jnp.where(vectors[0] == 0, -jnp.inf, values)
        largest = jnp.sort(values)[::-1][:top]
        return {"hessian_eigenvalues": jnp.where(jnp.isfinite(largest), largest, jnp.nan)}

    return observe


def sharpness(
    loss: Callable[[Params, Batch], Float[Array, ""]], batch: Batch, *, depth: int = 32
) -> Observe:
    """Observe the largest eigenvalue of the Hessian of `loss(params, batch)`, by Lanczos' method.

    The method takes `depth` Hessian-vector products and keeps as many vectors; as many products as
    parameters are the most that the method takes, and make the result exact to rounding.  Except
    for rounding errors the result is never above the eigenvalue.  The relative error falls about as
    exp(-4 depth sqrt(gap)), gap = (lambda_1 - lambda_2) / (lambda_1 - lambda_min) (Saad 1980).
    """
    if depth < 1:
        raise ValueError(f"depth: {depth}; pass at least 1")

    def observe(state):
        flat, product = _hessian_product(loss, state.params, batch)
        start = normal(jax.random.key(0), flat.shape, flat.dtype)
        values = jnp.linalg.eigvalsh(_tridiagonal(product, start, depth))
        return {"sharpness": values[-1]}

    return observe


def hessian_index(
    loss: Callable[[Params, Batch], Float[Array, ""]],
    batch: Batch,
    *,
    threshold: Float[ArrayLike, ""] = 1e-3,
    dense: int = 1000,
    depth: int = 64,
    probes: int = 16,
) -> Observe:
    """Observe the `index` of the Hessian of `loss(params, batch)`: the number of directions in
    which a saddle falls.

    Eigenvalues below -threshold * max |eigenvalue| are counted, exactly for up to `dense`
    parameters.  For more parameters the index is an estimate by stochastic Lanczos quadrature
    (Ubaru, Chen, Saad, 2017), with a standard error of about sqrt(2 index / probes).  The estimate
    is the mean over `probes` random vectors z of z^T P z, where P projects on the space of the
    counted eigenvalues.  Each probe takes `depth` Hessian-vector products, which must suffice to
    separate these eigenvalues from the others.
    """
    if min(depth, probes) < 1:
        raise ValueError(f"depth, probes: {depth}, {probes}; pass at least 1 of each")

    def is_below(values):
        return values < -(threshold * jnp.max(jnp.abs(values)))

    def observe(state):
        flat, product = _hessian_product(loss, state.params, batch)
        if flat.size <= dense:
            hessian = jax.vmap(product)(jnp.eye(flat.size, dtype=flat.dtype))
            values = jnp.linalg.eigvalsh(hessian)
            return {"index": jnp.sum(is_below(values)).astype(flat.dtype)}

        def probed(key):
            start = jax.random.rademacher(key, flat.shape, flat.dtype)
            values, vectors = jnp.linalg.eigh(_tridiagonal(product, start, depth))
            return values, flat.size * vectors[0] ** 2

        # One probe after the other, as each keeps `depth` vectors of the size of the parameters.
        values, weights = jax.lax.map(probed, jax.random.split(jax.random.key(0), probes))
        counted = jnp.where(is_below(values), weights, 0)
        return {"index": jnp.sum(counted) / probes}

    return observe


def _hessian_product(loss, params, batch):
    """Return the parameters as one vector, and the function that multiplies such vectors by the
    Hessian at them."""
    flat, unravel = ravel_pytree(params)

    def gradient(v):
        return ravel_pytree(jax.grad(loss)(unravel(v), batch))[0]

    def product(v):
        return jax.jvp(gradient, (flat,), (v,))[1]

    return flat, product


def _tridiagonal(product, start, depth):
    """Return the tridiagonal matrix of Lanczos' method from a `start`; its eigenvalues approximate
    those of `product`."""
    from matfree import decomp

    lanczos = decomp.tridiag_sym(min(depth, start.size), materialize=False, custom_vjp=False)
    diagonal, beside = lanczos(product, start).J_small
    # If the Hessian has few distinct eigenvalues, the method exhausts an invariant subspace; the
    # entries after that are rounding errors or NaN, and are replaced.
    size = jnp.nanmax(jnp.abs(diagonal)) + jnp.max(jnp.nan_to_num(jnp.abs(beside)), initial=0.0)
    rounding = 100 * jnp.finfo(start.dtype).eps * size
    inside = jnp.cumprod(beside > rounding).astype(bool)
    beside = jnp.where(inside, beside, 0)
    diagonal = diagonal.at[1:].set(jnp.where(inside, diagonal[1:], diagonal[0]))
    return jnp.diag(diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1)
