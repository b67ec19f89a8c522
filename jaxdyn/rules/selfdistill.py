"""Self-distillation: an encoder and a predictor learn to predict what a target encoder makes of another view.

The parameters are {"encoder", "predictor", "target"}.  Without "predictor" the encoder's own output predicts (SimSiam's
ablation), without "target" the encoder is its own target (SimSiam; with it BYOL and JEPA).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxdyn.types import Batch, Field, Params

LatentLoss = Callable[[Params, Params, Batch], Float[Array, ""]]
"""`(online, target, batch) -> loss`: `online` has the blocks "encoder" and "predictor", `target` is an encoder's."""


def self_distillation(
    loss: LatentLoss,
    *,
    stop_gradient: bool = True,
    target_rate: Float[ArrayLike, ""] = 0.0,
    predictor_rate: Float[ArrayLike, ""] = 1.0,
    weight_decay: Float[ArrayLike, ""] = 0.0,
) -> Field:
    """Return the field of a latent loss for parameters {"encoder", "predictor", "target"}, the last two optional.

    Encoder and predictor get gradient + `weight_decay` * weights, the predictor `predictor_rate` times the gradient.
    The target is held constant, unless `stop_gradient` is False: then gradients also go through the encoder as its own
    target.  The block "target" gets `target_rate` * (target - encoder): in a flow w_a' = beta (w - w_a), and under
    `optax.sgd(1.0)`, as a block of `optax.partition`, the average w_a <- (1 - beta) w_a + beta w of the encoders before
    their step.

    Raises ValueError for a "target" together with `stop_gradient=False`.
    """

    def field(params: Params, batch: Batch) -> Params:
        if "target" in params and not stop_gradient:
            raise ValueError('stop_gradient: no gradient goes through an average; leave out the block "target"')
        online = {name: block for name, block in params.items() if name != "target"}
        target = params.get("target", params["encoder"])
        of = lambda p: loss(p, target if stop_gradient else p["encoder"], batch)
        gradient = jax.grad(of)(online)
        rates = {"encoder": 1.0, "predictor": predictor_rate}
        decayed = lambda rate: lambda g, w: rate * g + weight_decay * w
        updates = {name: jax.tree.map(decayed(rates[name]), gradient[name], online[name]) for name in online}
        if "target" in params:
            behind = jax.tree.map(jnp.subtract, target, params["encoder"])
            updates["target"] = optax.tree.scale(target_rate, behind)
        return updates

    return field


def latent_error(
    encode: Callable[[Params, Any], Float[Array, "n features"]],
    predict: Callable[[Params, Any], Float[Array, "n features"]],
) -> LatentLoss:
    """Return `loss(online, target, (x, y)) = 1/2 mean_i |predict(encode(x_i)) - encode_target(y_i)|^2` of paired views.

    `encode(params, x)` and `predict(params, features)` are the `apply` of models.
    """

    def loss(online: Params, target: Params, batch: tuple[Any, Any]) -> Float[Array, ""]:
        x, y = batch
        features = encode(online["encoder"], x)
        predicted = predict(online["predictor"], features) if "predictor" in online else features
        return 0.5 * jnp.sum((predicted - encode(target, y)) ** 2) / predicted.shape[0]

    return loss


def latent_covariance_loss(end_to_end: Callable[[Params], Float[Array, "features inputs"]]) -> LatentLoss:
    """Return `loss(online, target, (xx, yx, yy)) = 1/2 E|P W x - W_a y|^2` from the second moments of paired views.

    W and W_a are `end_to_end` of the encoder's and the target's parameters, P is the matrix "predictor": computed as
    1/2 tr(P W xx W^T P^T - 2 P W yx^T W_a^T + W_a yy W_a^T), at a cost that does not depend on the number of examples.
    """

    def loss(
        online: Params,
        target: Params,
        moments: tuple[Float[Array, "inputs inputs"], Float[Array, "inputs inputs"], Float[Array, "inputs inputs"]],
    ) -> Float[Array, ""]:
        xx, yx, yy = moments
        w, w_a = end_to_end(online["encoder"]), end_to_end(target)
        predicted = online["predictor"] @ w if "predictor" in online else w
        return 0.5 * (jnp.sum(predicted * (predicted @ xx - 2 * w_a @ yx)) + jnp.sum(w_a * (w_a @ yy)))

    return loss


def direct_predictor(
    correlation: Float[Array, "features features"], boost: Float[ArrayLike, ""] = 0.0
) -> Float[Array, "features features"]:
    """Return DirectPred's predictor, set from the correlation F of the features instead of learned.

    Q diag(p) Q^T with p = sqrt(s) + `boost` * sqrt(max s) for F = Q diag(s) Q^T (Tian, Chen, Ganguli, 2021).  It is a
    constant to gradients, which the eigenvectors of equal eigenvalues do not have.  Use it within a latent loss:

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
