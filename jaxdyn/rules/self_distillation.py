"""Self-distillation: an encoder and a predictor learn to predict the output of a target encoder for
another view.

The parameters are {"encoder", "predictor", "target"}.  With "target" the methods are BYOL and JEPA;
without "target" the encoder is its own target, as in SimSiam; without "predictor" the encoder's own
output is the prediction, as in SimSiam's ablation.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxdyn.types import Batch, Field, Params

__all__ = ["direct_predictor", "self_distillation"]

LatentLoss = Callable[[Params, Params, Batch], Float[Array, ""]]
"""A function `(online, target, batch) -> loss`: `online` has the blocks "encoder" and "predictor",
and `target` are the parameters of an encoder."""


def self_distillation(
    loss: LatentLoss,
    *,
    stop_gradient: bool = True,
    target_rate: Float[ArrayLike, ""] = 0.0,
    predictor_rate: Float[ArrayLike, ""] = 1.0,
    weight_decay: Float[ArrayLike, ""] = 0.0,
) -> Field:
    """Return the field of a latent loss for parameters {"encoder", "predictor", "target"}, the last
    two optional.

    The encoder gets the gradient + `weight_decay` * weights, and the predictor `predictor_rate`
    times the gradient + `weight_decay` * weights.  The target is constant to gradients; only with
    `stop_gradient=False`, and without a block "target", do gradients also go through the encoder as
    its own target.  The block "target" gets `target_rate` * (target - encoder).  With beta the
    `target_rate`, w the encoder and w_a the target, a flow then has w_a' = beta (w - w_a), and
    `optax.sgd(1.0)`, as a block of `optax.partition`, makes the average w_a <- (1 - beta) w_a +
    beta w of the encoders before their step.

    Raises ValueError for a "target" together with `stop_gradient=False`.
    """

    def field(params: Params, batch: Batch) -> Params:
        if "target" in params and not stop_gradient:
            raise ValueError(
                'stop_gradient: False, but no gradient goes through the averaged block "target"; pass '
                'stop_gradient=True, or leave out the block "target"'
            )
        online = {name: block for name, block in params.items() if name != "target"}
        target = params.get("target", params["encoder"])

        def of(p):
            return loss(p, target if stop_gradient else p["encoder"], batch)

        gradient = jax.grad(of)(online)
        rates = {"encoder": 1.0, "predictor": predictor_rate}

        def decayed(rate):
            return lambda g, w: rate * g + weight_decay * w

        updates = {
            name: jax.tree.map(decayed(rates[name]), gradient[name], online[name])
            for name in online
        }
        if "target" in params:
            behind = jax.tree.map(jnp.subtract, target, params["encoder"])
            updates["target"] = optax.tree.scale(target_rate, behind)
        return updates

    return field


def direct_predictor(
    correlation: Float[Array, "features features"], boost: Float[ArrayLike, ""] = 0.0
) -> Float[Array, "features features"]:
    """Return DirectPred's predictor (features, features), set from the correlation F of the
    features instead of learned.

    For F = Q diag(s) Q^T the predictor is

        Q diag(p) Q^T   with   p = sqrt(s) + boost * sqrt(max s)      (Tian, Chen, Ganguli, 2021).

    The predictor is constant to gradients, since eigenvectors of equal eigenvalues have none.  Use
    it within a latent loss:

    >>> from jaxdyn.losses import latent_covariance_loss
    >>> latent = latent_covariance_loss(lambda w: w)
    >>> def loss(w, target, moments):
    ...     predictor = direct_predictor(w["encoder"] @ moments[1] @ w["encoder"].T, boost=1.0)
    ...     return latent({**w, "predictor": predictor}, target, moments)
    >>> moments = 1.25 * jnp.eye(2), jnp.eye(2), 1.25 * jnp.eye(2)
    >>> field = self_distillation(loss)({"encoder": jnp.eye(2)}, moments)
    >>> [f"{slope:.3f}" for slope in jnp.diagonal(field["encoder"])]
    ['3.000', '3.000']
    """
    s, q = jnp.linalg.eigh(jax.lax.stop_gradient(correlation))
    root = jnp.sqrt(jnp.maximum(s, 0))
    return (q * (root + boost * root[-1])[None]) @ q.T
