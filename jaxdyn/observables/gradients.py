"""Observables of the loss and of the field."""

from collections.abc import Callable

import optax
from jaxtyping import Array, Float

from jaxdyn.types import Batch, Field, Observe, Params

__all__ = ["gradient_norm", "loss"]


def loss(of: Callable[[Params, Batch], Float[Array, ""]], batch: Batch) -> Observe:
    """Observe the loss `of(params, batch)`."""
    return lambda state: {"loss": of(state.params, batch)}


def gradient_norm(field: Field, batch: Batch) -> Observe:
    """Observe the Euclidean norm of `field(params, batch)` over all parameters."""
    return lambda state: {"gradient_norm": optax.tree.norm(field(state.params, batch))}
