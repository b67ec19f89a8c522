"""Fully connected networks."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxdyn._numbers import normal
from jaxdyn.types import Model

__all__ = ["mlp"]


def mlp(
    sizes: Sequence[int],
    *,
    activation: Callable[[Array], Array] = jnp.tanh,
    scale: Float[ArrayLike, ""] = 1.0,
    bias_scale: Float[ArrayLike, ""] | None = 0.0,
) -> Model:
    """Return the network `h_l = activation(W_l h_{l-1} + b_l)` of layers `sizes = (N_0, ..., N_D)`,
    with a linear output.

    Parameters are {"weights": [W_l (N_l, N_{l-1})], "biases": [b_l (N_l,)]}, l = 1 ... D, without
    "biases" if `bias_scale` is None; `apply` maps rows `x` (..., N_0) to (..., N_D).  Initially W_l
    ~ N(0, scale^2 / N_{l-1}) and b_l ~ N(0, bias_scale^2) (Poole et al. 2016).

    Raises ValueError for fewer than two sizes or a size below 1; TypeError for an activation that
    is not a function, and for `sizes` that are one int.
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

    def draw(key, n_out, n_in):
        return normal(key, (n_out, n_in)) * (scale / n_in**0.5)

    def init(key):
        weights_key, biases_key = jax.random.split(key)
        keys = jax.random.split(weights_key, len(sizes) - 1)
        layers = zip(keys, sizes[1:], sizes[:-1], strict=True)
        params = {"weights": [draw(*layer) for layer in layers]}
        if bias_scale is not None:
            keys = jax.random.split(biases_key, len(sizes) - 1)
            units = zip(keys, sizes[1:], strict=True)
            params["biases"] = [normal(key, (n,)) * bias_scale for key, n in units]
        return params

    def apply(params, x):
        biases = params.get("biases", [None] * len(params["weights"]))
        for layer, (w, b) in enumerate(zip(params["weights"], biases, strict=True)):
            hidden = x if layer == 0 else activation(x)
            x = hidden @ w.T
            if b is not None:
                x = x + jnp.broadcast_to(b, x.shape)
        return x

    return Model(init, apply)
