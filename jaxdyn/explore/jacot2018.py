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
# Units of a layer, by the number of layers, so that an experiment takes seconds.
UNITS = {1: 4096, 2: 1024, 4: 256}
KERNEL_VARIANCE = float(finite_width.rectifier_relative_variance([UNITS[1]]))
WITHIN = 4 * KERNEL_VARIANCE**0.5  # four standard deviations of the kernel
TIMES = np.geomspace(0.1, 100, 60)
ANGLES = 2 * np.pi * np.arange(POINTS) / POINTS
CIRCLE = np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)
COSINES = np.cos(np.outer(WAVES, ANGLES))
NAMES = tuple(f"wave number {k}" for k in WAVES)
ACTIVATIONS = {"relu": (kernels.relu(), 2**0.5), "erf": (kernels.erf(), 1.5)}


def network(width, activation, hidden_layers, biases):
    """Return a network of these layers, whose kernel on the circle depends on angles alone."""
    nonlinearity, gain = ACTIVATIONS[activation]
    hidden = (kernels.dense(width, gain, biases), nonlinearity) * hidden_layers
    readout = kernels.dense(1, 1.0, biases)
    return kernels.serial(*hidden, readout)


def theory(*, activation, hidden_layers, biases):
    """Return how each wave decays, at its eigenvalue of the kernel at infinite width."""
    limit = network(1, activation, hidden_layers, biases)
    circle = jnp.asarray(CIRCLE)
    kernel = kernels.gram(limit, circle[:1], circle)
    eigenvalues = COSINES @ kernel[0] / POINTS
    rates = jnp.maximum(eigenvalues, 0)
    left = jnp.exp(-rates[:, None] * TIMES[None])
    return {"x": TIMES, **dict(zip(NAMES, left, strict=True))}


def simulate(key, *, activation, hidden_layers, biases):
    """Descend on the sum of the waves by a wide network, less what it computes at the start."""
    net = network(UNITS[hidden_layers], activation, hidden_layers, biases)
    start = models.from_layers(net, (2,)).init(key)
    x = jnp.asarray(CIRCLE)
    y = jnp.asarray(COSINES.sum(0))

    def apply(params, x):
        return net.apply(params, x)[:, 0] - net.apply(start, x)[:, 0]

    limit = network(1, activation, hidden_layers, biases)
    eigenvalues = jnp.linalg.eigvalsh(kernels.gram(limit, x))
    rate = 0.2 * POINTS / float(eigenvalues[-1])
    steps = np.unique(np.round(TIMES[::3] / rate))
    field = jax.grad(squared_error(apply))
    optimizer = optax.sgd(rate)
    stream = full_batch((x, y))

    def observe(state):
        missing = y - apply(state.params, x)
        return {"left": jnp.asarray(2 / POINTS * COSINES @ missing)}

    @jax.jit
    def descend(params):
        return train(field, optimizer, stream, params, times=steps, observe=observe).observed

    left = descend(start)["left"].T
    return {"x": rate * steps, **dict(zip(NAMES, left, strict=True))}
