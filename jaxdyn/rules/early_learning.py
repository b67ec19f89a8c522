"""Early-learning regularisation: a memory of the predictions for each example keeps the network
from learning wrong labels."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PyTree

from jaxdyn.rules.state import with_state
from jaxdyn.types import Field, Params

__all__ = ["early_learning"]


def early_learning(
    apply: Callable[..., Float[Array, "n classes"]],
    strength: Float[ArrayLike, ""],
    decay: Float[ArrayLike, ""],
    *,
    clip: float = 1e-4,
) -> Field:
    """Return the field of cross-entropy with early-learning regularisation, for parameters
    {"params", "state"} (Liu et al., 2020).

    The loss is

        L = mean_i [-log p_i,label + strength log(1 - <t_i, p_i>)],

    with p_i the softmax of apply(params, x_i), clipped to [clip, 1 - clip] in the second term.  The
    targets t_i <- decay t_i + (1 - decay) p_i / sum p_i average the predictions for example i over
    its visits; they are updated before use, and are constant to gradients.  Batches are (x, labels,
    index), where `index` are the examples' rows of the block "state" (examples, classes), which
    starts at zeros.  Strength 0 is plain cross-entropy.  Train the block "state" by
    `optax.sgd(1.0)`, see `with_state`.
    """

    def loss(params: Params, batch: tuple[PyTree[Array], Int[Array, "n"], Int[Array, "n"]]):
        x, labels, index = batch
        logits = apply(params["params"], x)
        p = jnp.clip(jax.nn.softmax(logits), clip, 1 - clip)
        seen = jax.lax.stop_gradient(p / jnp.sum(p, 1, keepdims=True))
        targets = decay * params["state"][index] + (1 - decay) * seen
        fit = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        held = jnp.log1p(-jnp.sum(targets * p, 1))
        return jnp.mean(fit + strength * held), params["state"].at[index].set(targets)

    return with_state(loss)
