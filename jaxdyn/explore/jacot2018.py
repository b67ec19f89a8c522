"""The neural tangent kernel on the circle: how fast waves are learned, by depth, activation and
biases."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdyn import kernels, models, train
from jaxdyn.kernels import finite_width
from jaxdyn.losses import squared_error
from jaxdyn.tasks import full_batch

__all__ = ["AXES", "DEFAULT", "SLIDERS", "WITHIN", "simulate", "theory"]

SLIDERS = {
    "activation": ("relu", "erf"),
    "hidden_layers": (1, 2, 4),
    "biases": (0.0, 0.1, 0.3, 1.0),
}
DEFAULT = {"activation": "relu", "hidden_layers": 1, "biases": 0.3}
AXES = {"xlabel": "flow time", "ylabel": "not yet learned", "xscale": "log", "yscale": "linear"}
POINTS = 32
WAVES = (1, 2, 3, 4)
UNITS = {
    1: 4096,
    2: 1024,
    4: 256,
}  # a layer, by the number of layers, so that an experiment takes seconds
WITHIN = (
    4 * float(finite_width.rectifier_relative_variance([UNITS[1]])) ** 0.5
)  # standard deviations of the kernel
TIMES = np.geomspace(0.1, 100, 60)
ANGLES = 2 * np.pi * np.arange(POINTS) / POINTS
CIRCLE = np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)
COSINES = np.cos(np.outer(WAVES, ANGLES))
NAMES = tuple(f"wave number {k}" for k in WAVES)


def network(width, activation, hidden_layers, biases):
    """Return a network of these layers, whose kernel on the circle depends on angles alone."""
    act, gain = {"relu": (kernels.relu(), 2**0.5), "erf": (kernels.erf(), 1.5)}[activation]
    hidden = (kernels.dense(width, gain, biases), act) * hidden_layers
    return kernels.serial(*hidden, kernels.dense(1, 1.0, biases))


def theory(*, activation, hidden_layers, biases):
    """Return how each wave decays, at its eigenvalue of the kernel at infinite width."""
    kernel = kernels.gram(
        network(1, activation, hidden_layers, biases), jnp.asarray(CIRCLE[:1]), jnp.asarray(CIRCLE)
    )
    rates = COSINES @ kernel[0] / POINTS
    left = jnp.exp(-jnp.maximum(rates, 0)[:, None] * TIMES[None])
    return {"x": TIMES, **dict(zip(NAMES, left, strict=True))}


def simulate(key, *, activation, hidden_layers, biases):
    """Descend on the sum of the waves by a wide network, less what it computes at the start."""
    net = network(UNITS[hidden_layers], activation, hidden_layers, biases)
    start = models.from_layers(net, (2,)).init(key)
    x = jnp.asarray(CIRCLE)
    y = jnp.asarray(COSINES.sum(0))

    def apply(params, x):
        return net.apply(params, x)[:, 0] - net.apply(start, x)[:, 0]

    kernel = kernels.gram(network(1, activation, hidden_layers, biases), x)
    rate = 0.2 * POINTS / float(jnp.linalg.eigvalsh(kernel)[-1])
    steps = np.unique(np.round(TIMES[::3] / rate))

    def observe(state):
        return {"left": 2 / POINTS * COSINES @ (y - apply(state.params, x))}

    rule = jax.grad(squared_error(apply)), optax.sgd(rate), full_batch((x, y))
    left = jax.jit(
        lambda params: train(*rule, params, times=steps, observe=observe).observed["left"]
    )(start)
    return {"x": rate * steps, **dict(zip(NAMES, left.T, strict=True))}
