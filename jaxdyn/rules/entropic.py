"""Learning in a forward pass only and without labels: layers of sigmoids that lower their own
entropy."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdyn.types import Params

__all__ = ["knowledge_accumulation", "sigmoid_layers"]


def sigmoid_layers(
    params: Params, x: Float[Array, "n inputs"]
) -> dict[str, list[Float[Array, "n _"]]]:
    """Return the inputs z_l = W_l h_{l-1} + b_l (n, units) and the outputs h_l = sigmoid(z_l) of
    all layers, with h_0 = x.

    `params` are those of `models.mlp`.
    """
    seen = {"inputs": [], "outputs": []}
    for w, b in zip(params["weights"], params["biases"], strict=True):
        z = x @ w.T + b[None]
        x = jax.nn.sigmoid(z)
        seen["inputs"].append(z)
        seen["outputs"].append(x)
    return seen


def knowledge_accumulation(params: Params, x: Float[Array, "n inputs"]) -> Params:
    """Return the updates of structured knowledge accumulation, for {"params": weights of an mlp,
    "state": last outputs} (Mahi, 2025).

    Each layer descends its own entropy H = -(1/ln 2) sum z dh along dh, the last change of its
    outputs.  With G = -(z h (1 - h) + dh) / ln 2, the update of W_l is G^T h_{l-1} / n and that of
    b_l is the mean of G, where h_{l-1} is the input x, or the output of the layer below as it was a
    step ago.  There are no labels, and no signal is sent back.  The block "state" holds
    `sigmoid_layers(weights, x)["outputs"]` of the step before, and starts with the outputs of the
    initial weights; train it by `optax.sgd(1.0)`, see `with_state`.
    """
    last = params["state"]
    seen = sigmoid_layers(params["params"], x)
    below = [x, *last[:-1]]

    def slope(z, h, before):
        return -(z * h * (1 - h) + (h - before)) / jnp.log(2)

    slopes = list(map(slope, seen["inputs"], seen["outputs"], last))
    weights = [g.T @ h / len(x) for g, h in zip(slopes, below, strict=True)]
    biases = [jnp.mean(g, 0) for g in slopes]
    moved = jax.tree.map(jnp.subtract, last, seen["outputs"])
    return {"params": {"weights": weights, "biases": biases}, "state": moved}
