"""Functions of a kernel that is known only by its products with vectors: Lanczos' method and
conjugate gradients."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxdyn.kernels._eigenmodes import Modes, filtered, turned
from jaxdyn.kernels._inputs import check_product

__all__ = ["functions", "lanczos", "solve"]

Product = Callable[[Float[Array, "..."]], Float[Array, "..."]]


def lanczos(
    product: Product, start: Float[Array, "..."], count: int
) -> tuple[Float[Array, "count ..."], Modes]:
    """Return `count` orthonormal vectors, the first along `start`, and the modes of the kernel
    restricted to them (Lanczos, 1950).

    Each vector is orthogonalised twice against all vectors before it.  Where fewer vectors already
    span all that powers of the kernel make of `start`, the remaining vectors are zero and decoupled
    from the others.
    """
    check_product(product, start)
    flat = jnp.ravel(start)
    count = min(count, flat.size)

    def apply(q):
        return jnp.ravel(product(q.reshape(start.shape)))

    tiny = jnp.finfo(flat.dtype).tiny

    def unit(v, norm):
        return jnp.where(norm > 0, v / jnp.where(norm > 0, norm, 1), 0)

    def advance(i, state):
        basis, diagonal, beside, size = state
        new = apply(basis[i])
        along = basis @ new
        new = new - along @ basis
        new = new - (basis @ new) @ basis
        size = jnp.maximum(size, jnp.linalg.norm(along))
        squared = jnp.sum(new**2)
        ended = squared <= (10 * jnp.finfo(flat.dtype).eps * size) ** 2
        norm = jnp.where(ended, 0, jnp.sqrt(jnp.where(ended, 1, squared)))
        basis = basis.at[i + 1].set(unit(new, norm), mode="drop")
        return basis, diagonal.at[i].set(along[i]), beside.at[i].set(norm), size

    basis = jnp.zeros((count, flat.size), flat.dtype).at[0].set(flat / _norm(flat))
    zeros = jnp.zeros(count, flat.dtype)
    basis, diagonal, beside, _ = lax.fori_loop(0, count, advance, (basis, zeros, zeros, tiny))
    small = jnp.diag(diagonal) + jnp.diag(beside[:-1], 1) + jnp.diag(beside[:-1], -1)
    values, vectors = jnp.linalg.eigh(lax.stop_gradient(small))
    rounding = 10 * jnp.finfo(flat.dtype).eps * values[-1]
    return basis.reshape(count, *start.shape), Modes(
        small, jnp.where(values > rounding, values, 0), vectors
    )


def functions(
    gain: Callable,
    product: Product,
    times: Array,
    numbers: tuple,
    start: Float[Array, "..."],
    count: int,
) -> tuple[Float[Array, "times ..."], Float[Array, "times ..."]]:
    """Return kernel gain(kernel) start and gain(kernel) start at each time; NaN where `count`
    vectors are too few.

    Derivatives in the numbers are exact, and so are those in `start`, since the result is linear in
    `start` and the kernel is symmetric.  Derivatives in the kernel would need vectors that products
    with the kernel have not made, and raise NotImplementedError.
    """

    @jax.custom_jvp
    def both(times, numbers, start):
        return _functions(gain, product, times, numbers, start, count)

    @both.defjvp
    def both_jvp(primals, tangents):
        def fixed(times, numbers):
            return _functions(gain, product, times, numbers, primals[2], count)

        found, change = jax.jvp(fixed, primals[:2], tangents[:2])

        def of_start(at, tangent):
            return both(*at, tangent)

        def transposed(at, cotangents):
            times, numbers = at

            def back(one):
                return [both(one[0][None], numbers, ct)[i][0] for i, ct in enumerate(one[1])]

            return sum(jnp.sum(part, 0) for part in lax.map(back, (times, cotangents)))

        moved = jax.custom_derivatives.linear_call(of_start, transposed, primals[:2], tangents[2])
        return found, jax.tree.map(jnp.add, change, moved)

    try:
        return both(times, numbers, start)
    except jax.errors.UnexpectedTracerError as error:
        message = "ntk: derivatives in a kernel that is a function are not available; pass the kernel as a matrix"
        raise NotImplementedError(message) from error


def _functions(gain, product, times, numbers, start, count):
    basis, small = lanczos(product, start, count)
    first = small.vectors[0][:, None] * _norm(start)

    def outputs(learned):
        inside = filtered(gain, learned, times, numbers, small.values, turned(small), first)
        coefficients = inside[:, :, 0] @ small.vectors.T
        if len(basis) < start.size:
            size = jnp.linalg.norm(lax.stop_gradient(coefficients), axis=1, keepdims=True)
            enough = jnp.abs(coefficients[:, -1:]) <= jnp.finfo(size.dtype).eps ** 0.5 * size
            coefficients = jnp.where(enough, coefficients, jnp.nan)
        return jnp.tensordot(coefficients, basis, 1)

    return outputs(True), outputs(False)


def _norm(v):
    return jnp.sqrt(jnp.maximum(jnp.sum(v**2), jnp.finfo(v.dtype).tiny))


def solve(product: Product, right: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return kernel^-1 right by conjugate gradients (lineax), or NaN where rounding keeps them from
    converging."""
    import lineax

    check_product(product, right)
    operator = lineax.FunctionLinearOperator(
        product, jax.eval_shape(lambda: right), lineax.positive_semidefinite_tag
    )
    eps = float(jnp.finfo(right.dtype).eps)
    method = lineax.CG(rtol=eps ** (2 / 3), atol=0.0, max_steps=10 * right.size)
    solution = lineax.linear_solve(operator, right, method, throw=False)
    return jnp.where(solution.result == lineax.RESULTS.successful, solution.value, jnp.nan)
