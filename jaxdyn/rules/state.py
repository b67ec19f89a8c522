"""Fields of parameters of which one block is no minimiser of the loss but moves with it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdyn.types import Batch, Field, Params

__all__ = ["with_state"]


def with_state(loss: Callable[[Params, Batch], tuple[Float[Array, ""], Params]]) -> Field:
    """Return the field of `loss(params, batch) -> (value, new state)` for params {"params": ...,
    "state": ...}.

    The block "params" gets the gradient.  The block "state" (running statistics, averages) gets
    `state - new state`, of which `optax.sgd(1.0)` makes the new state, to rounding:
    `optax.partition({"params": optimizer, "state": optax.sgd(1.0)}, {"params": "params", "state":
    "state"})`.
    """

    def field(params: Params, batch: Batch) -> Params:
        def loss_of(weights):
            return loss({**params, "params": weights}, batch)

        gradient, state = jax.grad(loss_of, has_aux=True)(params["params"])
        moved = jax.tree.map(jnp.subtract, params["state"], state)
        return {"params": gradient, "state": moved}

    return field
