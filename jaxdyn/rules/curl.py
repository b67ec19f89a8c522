"""Plasticity whose sign differs from neuron to neuron: a field that is not a gradient."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jaxdyn.types import Batch, Field, Params

__all__ = ["sign_diverse"]


def sign_diverse(field: Field, signs: PyTree[Any]) -> Field:
    """Return the field whose updates are those of `field` times `signs`, arrays of +1 and -1 that
    broadcast to the updates.

    Curl descent is the gradient with the opposite sign for all weights from some neurons: signs (1,
    inputs) for weights (outputs, inputs).  With D the signs and H the Hessian, the field has a
    curl, and is the gradient of no loss, wherever D H is not symmetric (Ninou, Kadmon, Cayco-Gajic,
    2025).

    >>> anti = sign_diverse(jax.grad(lambda w, _: jnp.sum(w**2) / 2), jnp.array([1.0, -1.0]))
    >>> anti(jnp.array([3.0, 3.0]), None).tolist()
    [3.0, -3.0]
    """

    def turned(params: Params, batch: Batch) -> Params:
        updates = field(params, batch)
        return jax.tree.map(lambda u, sign: u * jnp.asarray(sign, u.dtype), updates, signs)

    return turned
