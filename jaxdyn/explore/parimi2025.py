"""Momentum on a quadratic: four methods by its condition number, tuned to a largest curvature
over-estimated or not."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdyn import train
from jaxdyn.optimizers import ahead, three_term
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
        out = momentum.mode(STEPS[:, None], tune(1.0, overestimate * condition), curvature[None])
        return jnp.maximum(jnp.linalg.norm(out, axis=1) / MODES**0.5, LEAST)

    return {"x": STEPS.astype(float), **{name: distance(tune) for name, tune in METHODS.items()}}


def simulate(key, *, condition, overestimate):
    """Descend by each method, from the same distance along each mode, in a direction drawn."""
    curvature = jnp.linspace(1.0, condition, MODES)
    points = {"x": STEPS[::2].astype(float)}
    start = jax.random.rademacher(key, (MODES,), float)
    for name, tune in METHODS.items():
        method = tune(1.0, overestimate * condition)

        def out(state, method=method):
            return ahead(state, method.output - method.lookahead)

        def observe(state, out=out):
            return {"distance": jnp.linalg.norm(out(state)) / MODES**0.5}

        options = {"times": STEPS[::2], "observe": observe}
        run = train(
            lambda x, _: curvature * x,
            three_term(*method[:3]),
            lambda key, step: (),
            start,
            **options,
        )
        points[name] = jnp.maximum(run.observed["distance"], LEAST)
    return points
