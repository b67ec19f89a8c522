"""Observables of single examples."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdyn.types import Batch, Observe, Params

__all__ = ["sample_losses"]


def sample_losses(loss: Callable[[Params, Batch], Float[Array, ""]], batch: Batch) -> Observe:
    """Observe the loss of each example, (n,): `loss(params, batch)` for batches of one row of
    `batch`.

    The mean of the sample losses is the loss of the whole batch, if that is a mean over independent
    examples.
    """
    rows = jax.tree.map(lambda a: jnp.asarray(a)[:, None], batch)

    def observe(state):
        losses = jax.vmap(lambda row: loss(state.params, row))(rows)
        return {"sample_losses": losses}

    return observe
