"""Observables of the weights, where `of(params)` is a matrix of weights, such as a linear network's
product."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxdyn.types import Observe, Params

__all__ = ["alignment", "leakage", "mode_strengths", "singular_values", "weight_distance"]

Matrix = Callable[[Params], Float[Array, "outputs inputs"]]


def mode_strengths(
    of: Matrix, left: Float[Array, "outputs rank"], right: Float[Array, "inputs rank"]
) -> Observe:
    """Observe the mode strengths `u_a = left_a^T W right_a` (rank,) of `W = of(params)` for fixed
    singular vectors."""
    return lambda state: {"mode_strengths": _strengths(of(state.params), left, right)}


def leakage(
    of: Matrix, left: Float[Array, "outputs rank"], right: Float[Array, "inputs rank"]
) -> Observe:
    """Observe `|W - left diag(u) right^T|_F`, u the mode strengths: the part of `W = of(params)`
    outside its modes."""

    def observe(state):
        w = of(state.params)
        strengths = _strengths(w, left, right)
        inside = (left * strengths[None]) @ right.T
        return {"leakage": jnp.linalg.norm(w - inside)}

    return observe


def singular_values(of: Matrix) -> Observe:
    """Observe the singular values of `of(params)` in decreasing order.

    For a product of many matrices only singular values above eps times the largest have correct
    digits.
    """
    return lambda state: {"singular_values": jnp.linalg.svd(of(state.params), compute_uv=False)}


def alignment(
    of: Matrix, left: Float[Array, "outputs rank"], right: Float[Array, "inputs rank"]
) -> Observe:
    """Observe `left_alignment` and `right_alignment` (rank,): |cosines| between singular vectors
    and given ones.

    The a-th singular vectors of `of(params)` are compared with `left_a` and `right_a`.  Singular
    vectors are in order of decreasing singular values, so order `left` and `right` likewise.
    Singular vectors of equal singular values are arbitrary, and so are their cosines.
    """

    def observe(state):
        u, _, vt = jnp.linalg.svd(of(state.params), full_matrices=False)
        rank = left.shape[1]
        return {
            "left_alignment": jnp.abs(jnp.sum(u[:, :rank] * left, 0)),
            "right_alignment": jnp.abs(jnp.sum(vt[:rank].T * right, 0)),
        }

    return observe


def weight_distance(reference: Params) -> Observe:
    """Observe `|params - reference| / |reference|`, Euclidean norms over all parameters."""

    def observe(state):
        moved = jax.tree.map(jnp.subtract, state.params, reference)
        return {"weight_distance": optax.tree.norm(moved) / optax.tree.norm(reference)}

    return observe


def _strengths(w, left, right):
    return jnp.sum(left * (w @ right), 0)
