"""Rules that are no gradients: plasticity whose sign differs from neuron to neuron, and norms that
are kept."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from jaxdyn.types import Field, Params


def sign_diverse(field: Field, signs: PyTree[Any]) -> Field:
    """Return the field whose updates are those of `field` times `signs`, arrays of +1 and -1 that
    broadcast to them.

    Curl descent is the gradient with the sign of all weights from some neurons turned: signs (1,
    inputs) for weights (outputs, inputs).  It has a curl, and no loss descends along it, wherever D
    H is not symmetric, H the Hessian and D the signs (Ninou, Kadmon, Cayco-Gajic, 2025).

    >>> anti = sign_diverse(jax.grad(lambda w, _: jnp.sum(w**2) / 2), jnp.array([1.0, -1.0]))
    >>> anti(jnp.array([3.0, 3.0]), None).tolist()
    [3.0, -3.0]
    """
    return lambda params, batch: jax.tree.map(
        lambda u, s: u * jnp.asarray(s, u.dtype), field(params, batch), signs
    )


def keep_norms() -> optax.GradientTransformation:
    """Return the transformation, last in a chain, after which each array of the parameters keeps
    its initial norm.

    theta <- |theta_0| (theta + u) / |theta + u|, array by array in the Frobenius norm: what bounds
    a field with a curl. It works with any optimiser and model, whose parameters it needs:
    `optimizer.update(updates, memory, params)`.
    """

    def init(params: Params):
        return jax.tree.map(jnp.linalg.norm, jax.tree.map(jnp.ravel, params))

    def update(updates, state, params=None):
        if params is None:
            raise ValueError(
                "params: keep_norms needs the parameters; call update(updates, state, params)"
            )
        moved = optax.apply_updates(params, updates)
        kept = jax.tree.map(lambda w, size: w * (size / jnp.linalg.norm(w.ravel())), moved, state)
        return jax.tree.map(jnp.subtract, kept, params), state

    return optax.GradientTransformation(init, update)
