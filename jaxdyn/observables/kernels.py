"""Observables of the empirical neural tangent kernel."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxdyn.types import Observe, Params


def ntk_change(apply: Callable[..., Array], x: PyTree[Array], reference: Params) -> Observe:
    """Observe how far the empirical neural tangent kernel K of `apply` on `x` is from K_0, that at `reference`.

    `ntk_distance` is `|K - K_0|_F / |K_0|_F`, `ntk_alignment` the cosine `<K, K_0> / (|K|_F |K_0|_F)`.  The kernel is
    K = J J^T, J the Jacobian of all outputs on all of `x` (n_x * n_outputs, n_params): it is held in full.
    """

    def kernel(params):
        jacobian = jax.jacrev(lambda p: apply(p, x).reshape(-1))(params)
        rows = [j.reshape(j.shape[0], -1) for j in jax.tree.leaves(jacobian)]
        return sum(j @ j.T for j in rows)

    initial = kernel(reference)

    def observe(state):
        now = kernel(state.params)
        norm, norm_now = jnp.linalg.norm(initial), jnp.linalg.norm(now)
        return {
            "ntk_distance": jnp.linalg.norm(now - initial) / norm,
            "ntk_alignment": jnp.sum(now * initial) / (norm_now * norm),
        }

    return observe
