"""Observables of a kernel of the parameters, such as the empirical neural tangent kernel."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdyn.types import Observe, Params

__all__ = ["kernel_change", "kernel_target_alignment"]

KernelFunction = Callable[[Params], Float[Array, "..."]]


def kernel_change(kernel: KernelFunction, reference: Params) -> Observe:
    """Observe how far `kernel(params)` is from K_0, the kernel at the parameters `reference`.

    `kernel_distance` is `|K - K_0|_F / |K_0|_F`, and `kernel_alignment` is the cosine `<K, K_0> /
    (|K|_F |K_0|_F)`, over all entries of K, of any shape.  A kernel is for instance `lambda p:
    kernels.empirical.ntk(apply, p, x)`, or a product of hidden activities.
    """
    initial = kernel(reference)

    def observe(state):
        now = kernel(state.params)
        norm = jnp.sqrt(jnp.sum(initial**2))
        return {
            "kernel_distance": jnp.sqrt(jnp.sum((now - initial) ** 2)) / norm,
            "kernel_alignment": jnp.sum(now * initial) / (jnp.sqrt(jnp.sum(now**2)) * norm),
        }

    return observe


def kernel_target_alignment(
    kernel: KernelFunction, targets: Float[Array, " n"] | Float[Array, "n k"]
) -> Observe:
    """Observe the centred alignment of `kernel(params)` (n, n) with the targets (Cortes, Mohri &
    Rostamizadeh 2012).

    `kernel_target_alignment` is `<K_c, Y_c> / (|K_c|_F |Y_c|_F)` with Y = y y^T and the centred
    matrices A_c = H A H, H = I - 1 1^T / n.  The alignment is 1 where the centred kernel is
    proportional to that of the targets.  Raises ValueError for a kernel that is not (n, n).
    """
    n = len(targets)
    targets = targets.reshape(n, -1)
    targets = targets - jnp.mean(targets, 0, keepdims=True)
    ideal = targets @ targets.T

    def observe(state):
        k = kernel(state.params)
        if k.shape != (n, n):
            raise ValueError(
                f"kernel: shape {k.shape} for {n} targets; pass one of shape {(n, n)}, such as trace=True"
            )
        k = k - jnp.mean(k, 0, keepdims=True)
        k = k - jnp.mean(k, 1, keepdims=True)
        return {
            "kernel_target_alignment": jnp.sum(k * ideal)
            / (jnp.linalg.norm(k) * jnp.linalg.norm(ideal))
        }

    return observe
