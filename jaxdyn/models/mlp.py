"""Fully connected networks."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxdyn._numbers import normal
from jaxdyn.types import Model


def mlp(
    sizes: Sequence[int],
    *,
    activation: Callable[[Array], Array] = jnp.tanh,
    scale: Float[ArrayLike, ""] = 1.0,
    bias_scale: Float[ArrayLike, ""] | None = 0.0,
) -> Model:
    """Return the network `h_l = activation(W_l h_{l-1} + b_l)` of layers `sizes = (N_0, ..., N_D)`,
    its output linear.

    Parameters are {"weights": [W_l (N_l, N_{l-1})], "biases": [b_l (N_l,)]}, l = 1 ... D, without
    "biases" where `bias_scale` is None; `apply` maps rows `x` (..., N_0) to (..., N_D).  Initially
    W_l ~ N(0, scale^2 / N_{l-1}) and b_l ~ N(0, bias_scale^2) (Poole et al. 2016).  Raises
    ValueError for fewer than two sizes.
    """
    if not callable(activation):
        raise TypeError(
            f"activation: is {activation!r}; pass a function, such as jnp.tanh or jax.nn.relu"
        )
    if isinstance(sizes, int):
        raise TypeError(
            f"sizes: {sizes} is an int; pass the units of all layers, such as (inputs, 16, outputs)"
        )
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(
            f"sizes: {tuple(sizes)} are no layers; pass at least (inputs, outputs), each at least 1"
        )

    def init(key):
        weights_key, biases_key = jax.random.split(key)
        keys = jax.random.split(weights_key, len(sizes) - 1)
        shapes = zip(keys, sizes[1:], sizes[:-1], strict=True)
        params = {
            "weights": [normal(k, (n_out, n_in)) * (scale / n_in**0.5) for k, n_out, n_in in shapes]
        }
        if bias_scale is not None:
            keys = jax.random.split(biases_key, len(sizes) - 1)
            params["biases"] = [
                normal(k, (n,)) * bias_scale for k, n in zip(keys, sizes[1:], strict=True)
            ]
        return params

    def apply(params, x):
        biases = params.get("biases", [None] * len(params["weights"]))
        for layer, (w, b) in enumerate(zip(params["weights"], biases, strict=True)):
            x = (x if layer == 0 else activation(x)) @ w.T
            x = x if b is None else x + jnp.broadcast_to(b, x.shape)
        return x

    return Model(init, apply)
