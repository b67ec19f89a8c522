"""Three networks, each with a symmetry, and the samples that they learn."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdyn._numbers import normal
from jaxdyn.claims import order
from jaxdyn.losses import cross_entropy, squared_error

__all__ = ["LOSSES", "charges_of", "decayed_descent", "distinct", "order_in_rate", "problem"]


def softmax_layer(params, x):
    return x @ params["w"]


def normalised(params, x):
    return jnp.tanh(x @ (params["w"] / jnp.linalg.norm(params["w"])))


def relu_units(params, x):
    return jax.nn.relu(x @ params["w"]) @ params["v"]


LOSSES = {
    "translation": cross_entropy(softmax_layer),
    "scale": squared_error(normalised),
    "rescaling": squared_error(relu_units),
}


def charges_of(params):
    """The charges of each symmetry; the generator is along their gradient."""
    # The logits of all classes can be shifted together: a charge for each input.
    translation = jnp.sum(params["translation"]["w"], 1)
    scale = jnp.sum(params["scale"]["w"] ** 2, keepdims=True).ravel()
    # A factor can move from the weights into a unit to that out of it: a charge for each unit.
    units = params["rescaling"]
    rescaling = jnp.sum(units["w"] ** 2, 0) - units["v"] ** 2
    return {"translation": translation, "scale": scale, "rescaling": rescaling}


class Problem(NamedTuple):
    """Three networks and what they learn.

    Attributes:
        data: the (inputs, targets) of each network.
        start: its initial weights.
    """

    data: dict
    start: dict


def problem(*, inputs, examples, classes=2, hidden=1):
    keys = jax.random.split(jax.random.key(0), 6)
    # Inputs of one norm, so that one learning rate is stable at any size.
    x = 2 * normal(keys[0], (examples, inputs)) / inputs**0.5
    y = normal(keys[1], (examples,))
    labels = jnp.arange(examples) % classes
    softmax = 0.3 * normal(keys[2], (inputs, classes))
    vector = normal(keys[3], (inputs,))
    incoming = 0.4 * normal(keys[4], (inputs, hidden))
    outgoing = 0.4 * normal(keys[5], (hidden,))
    units = {"w": incoming, "v": outgoing}
    data = {"translation": (x, labels), "scale": (x, y), "rescaling": (x, y)}
    start = {"translation": {"w": softmax}, "scale": {"w": vector}, "rescaling": units}
    return Problem(data, start)


def distinct(values):
    """The different values of an option in their order: equal ones are one run."""
    return tuple(dict.fromkeys(values))


def order_in_rate(values):
    """The order at which values vanish with the learning rate, from the two smallest rates."""
    smallest = values.sortby("learning_rate").isel(learning_rate=slice(2))
    return order(smallest, smallest.learning_rate)


def decayed_descent(learning_rate, momentum, decay):
    return optax.chain(
        optax.add_decayed_weights(decay), optax.sgd(learning_rate, momentum=momentum)
    )
