"""Losses of latent prediction: the distance of predicted features from the features of a target."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdyn.types import Batch, Params

__all__ = ["LatentLoss", "latent_covariance_loss", "latent_error"]

LatentLoss = Callable[[Params, Params, Batch], Float[Array, ""]]
"""A function `(online, target, views) -> number`, which has gradients in both parameters."""


def latent_error(
    encode: Callable[[Params, Any], Float[Array, "n features"]],
    predict: Callable[[Params, Any], Float[Array, "n features"]],
) -> LatentLoss:
    """Return `loss(online, target, (x, y)) = 1/2 mean_i |predict(encode(x_i)) -
    encode_target(y_i)|^2` of paired views.

    `encode(params, x)` and `predict(params, features)` are the `apply` of models; `online` has the
    blocks "encoder" and, optionally, "predictor".
    """

    def loss(online: Params, target: Params, batch: tuple[Any, Any]) -> Float[Array, ""]:
        x, y = batch
        features = encode(online["encoder"], x)
        predicted = predict(online["predictor"], features) if "predictor" in online else features
        return 0.5 * jnp.sum((predicted - encode(target, y)) ** 2) / predicted.shape[0]

    return loss


def latent_covariance_loss(
    end_to_end: Callable[[Params], Float[Array, "features inputs"]],
) -> LatentLoss:
    """Return `loss(online, target, (xx, yx, yy)) = 1/2 E|P W x - W_a y|^2` from the second moments
    of paired views.

    W and W_a are `end_to_end` of the parameters of the encoder and of the target, and P is the
    matrix "predictor", the identity where there is none.  The loss is computed as

        1/2 tr(P W xx W^T P^T - 2 P W yx^T W_a^T + W_a yy W_a^T),

    at a cost that does not depend on the number of examples.
    """

    def loss(
        online: Params,
        target: Params,
        moments: tuple[
            Float[Array, "inputs inputs"],
            Float[Array, "inputs inputs"],
            Float[Array, "inputs inputs"],
        ],
    ) -> Float[Array, ""]:
        xx, yx, yy = moments
        w = end_to_end(online["encoder"])
        w_a = end_to_end(target)
        predicted = online["predictor"] @ w if "predictor" in online else w
        return 0.5 * (
            jnp.sum(predicted * (predicted @ xx - 2 * w_a @ yx)) + jnp.sum(w_a * (w_a @ yy))
        )

    return loss
