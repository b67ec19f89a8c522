"""Gated deep linear networks: linear pathways that a context switches on and off."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxdyn._numbers import normal
from jaxdyn.types import Model

__all__ = ["gated_inputs", "gated_linear", "gated_product"]

Routes = Sequence[Sequence[int]]


def gated_linear(
    sizes: Sequence[int], routes: Routes, *, scale: Float[ArrayLike, ""] = 1.0
) -> Model:
    """Return the network `y = sum_p g_p W_D[r_pD] ... W_1[r_p1] x` of gated pathways p (Saxe,
    Sodhani, Lewallen 2022).

    `sizes = (N_0, ..., N_D)`.  `routes` has a row (r_p1, ..., r_pD) for each pathway, the number of
    its matrix in each layer; pathways with equal numbers share a matrix.  Parameters are the list
    of stacks W_l (matrices, N_l, N_{l-1}), initially from N(0, scale^2 / N_{l-1}).  `apply` maps
    `(x, gates)`, rows (n, N_0) and (n, pathways), to (n, N_D); gates may come with the data or be
    any function of the data.

    Raises ValueError for routes that do not fit the layers.

    >>> shared_encoder = gated_linear((3, 4, 2), [(0, 0), (0, 1)])
    >>> [w.shape for w in shared_encoder.init(jax.random.key(0))]
    [(1, 4, 3), (2, 2, 4)]
    """
    if not routes or any(len(route) != len(sizes) - 1 or min(route) < 0 for route in routes):
        raise ValueError(
            f"routes: {routes} do not fit sizes {tuple(sizes)}; pass a matrix number for each layer"
        )
    counts = [1 + max(layer) for layer in zip(*routes, strict=True)]

    def draw(key, count, n_out, n_in):
        return normal(key, (count, n_out, n_in)) * (scale / n_in**0.5)

    def init(key):
        keys = jax.random.split(key, len(counts))
        stacks = zip(keys, counts, sizes[1:], sizes[:-1], strict=True)
        return [draw(*stack) for stack in stacks]

    def apply(weights, x_and_gates):
        return gated_inputs(*x_and_gates) @ gated_product(weights, routes).T

    return Model(init, apply)


def gated_product(
    weights: Sequence[Float[Array, "_ _ _"]], routes: Routes
) -> Float[Array, "outputs pathways_times_inputs"]:
    """Return the end-to-end matrices of all pathways side by side: the linear map from
    `gated_inputs` to the outputs.

    With this matrix `losses.covariance_loss` trains on the second moments of gated inputs, at a
    cost that does not depend on the number of examples.
    """
    layers = np.array(routes).T
    stacks = [w[layer] for w, layer in zip(weights, layers, strict=True)]
    products = functools.reduce(lambda total, w: w @ total, stacks)
    side_by_side = jnp.moveaxis(products, 0, 1)
    return side_by_side.reshape(len(side_by_side), -1)


def gated_inputs(
    x: Float[Array, "n inputs"], gates: Float[Array, "n pathways"]
) -> Float[Array, "n pathways_times_inputs"]:
    """Return the inputs of all pathways side by side: the row `(g_1 x, ..., g_P x)` for each row
    `x`.

    >>> gated_inputs(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 1.0]])).tolist()
    [[0.0, 0.0, 1.0, 2.0]]
    """
    gated = gates[:, :, None] * x[:, None]
    return gated.reshape(len(x), -1)
