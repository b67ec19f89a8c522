"""Momentum on a quadratic: four methods by its condition number, tuned to a largest curvature
over-estimated or not."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdyn import train
from jaxdyn.optimizers import ahead, three_term
from jaxdyn.tasks import full_batch
from jaxdyn.theory.descent import momentum

__all__ = ["AXES", "DEFAULT", "SLIDERS", "WITHIN", "simulate", "theory"]

SLIDERS = {
    "condition": (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0),
    "overestimate": (1.0, 1.5, 2.0, 4.0, 8.0),
}
DEFAULT = {"condition": 100.0, "overestimate": 1.0}
AXES = {
    "xlabel": "step",
    "ylabel": "distance from the minimum",
    "xscale": "linear",
    "yscale": "log",
}
WITHIN = 1e-9  # rounding
METHODS = {
    "gradient descent": momentum.gradient_descent,
    "Nesterov": momentum.nesterov,
    "heavy ball": momentum.heavy_ball,
    "triple momentum": momentum.triple_momentum,
}
LEAST = 1e-9  # of the distances shown
STEPS = np.arange(0, 201, 4)
MODES = 24  # of curvatures evenly spaced between 1 and the condition number


def theory(*, condition, overestimate):
    """Return the distances of the methods, each mode of the quadratic in closed form."""
    curvature = jnp.linspace(1.0, condition, MODES)

    def distance(tune):
        method = tune(1.0, overestimate * condition)
        modes = momentum.mode(STEPS[:, None], method, curvature[None])
        return jnp.maximum(jnp.linalg.norm(modes, axis=1) / MODES**0.5, LEAST)

    distances = {name: distance(tune) for name, tune in METHODS.items()}
    return {"x": STEPS.astype(float)} | distances


def simulate(key, *, condition, overestimate):
    """Descend by each method, from the same distance along each mode, in a direction drawn."""
    curvature = jnp.linspace(1.0, condition, MODES)
    start = jax.random.rademacher(key, (MODES,), float)
    times = STEPS[::2]

    def field(x, _):
        return curvature * x

    def distance(tune):
        method = tune(1.0, overestimate * condition)

        def observe(state):
            out = ahead(state, method.output - method.lookahead)
            return {"distance": jnp.linalg.norm(out) / MODES**0.5}

        optimizer = three_term(method.learning_rate, method.momentum, method.lookahead)
        run = train(field, optimizer, full_batch(()), start, times=times, observe=observe)
        return jnp.maximum(run.observed["distance"], LEAST)

    distances = {name: distance(tune) for name, tune in METHODS.items()}
    return {"x": times.astype(float)} | distances
