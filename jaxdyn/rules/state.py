"""Fields of parameters with one block that does not minimise the loss but is set by the loss, such
as running statistics."""

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
    `state - new state`, from which `optax.sgd(1.0)` makes the new state, up to rounding:
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
