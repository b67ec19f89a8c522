"""Two groups with opposing signals: a valley sharpens until descent is at its edge, by learning
rate and outlier."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdyn import RK4, flow, train
from jaxdyn.optimizers import kicks
from jaxdyn.papers.descent import rosenfeld2023 as paper
from jaxdyn.tasks import full_batch
from jaxdyn.theory.descent import opposing

__all__ = ["AXES", "DEFAULT", "SLIDERS", "WITHIN", "simulate", "theory"]

SLIDERS = {
    "learning_rate": (0.03, 0.04, 0.05, 0.06, 0.07, 0.08),
    "variance_of_outlier": (10.0, 15.0, 20.0),
    "slowest_signal": (0.003, 0.01, 0.03),
}
DEFAULT = {"learning_rate": 0.08, "variance_of_outlier": 20.0, "slowest_signal": 0.01}
AXES = {
    "xlabel": "learning rate x step",
    "ylabel": "curvature of the valley",
    "xscale": "linear",
    "yscale": "linear",
}
WITHIN = 0.1  # a margin: descent crosses the edge in bursts
TIMES = np.append(0, np.geomspace(0.5, 200, 50))


def signals(slowest_signal):
    """Return the variances of four signals, the weakest of them last."""
    return jnp.append(jnp.array([1.0, 0.1, 0.03]), slowest_signal)


def theory(*, learning_rate, variance_of_outlier, slowest_signal):
    """Return the curvature on gradient flow, and of descent on average, held at 2/(learning
    rate)."""
    start, moments = paper.linear_start(signals(slowest_signal), variance_of_outlier)
    field = jax.grad(paper.LOSS)
    solver = RK4(0.5 / variance_of_outlier)

    def observe(state):
        return {"c": state.params[1][0, 0]}

    run = flow(field, moments, start, times=TIMES, observe=observe, solver=solver)
    c = run.observed["c"]
    held = jnp.minimum(c, opposing.edge(variance_of_outlier, learning_rate))
    return {
        "x": TIMES,
        "gradient flow": variance_of_outlier * c**2,
        "descent, on average": variance_of_outlier * held**2,
        "edge": jnp.full(TIMES.shape, 2 / learning_rate),
    }


def simulate(key, *, learning_rate, variance_of_outlier, slowest_signal):
    """Descend, with small kicks, and average over windows between the times."""
    start, moments = paper.linear_start(signals(slowest_signal), variance_of_outlier)
    steps = np.arange(round(TIMES[-1] / learning_rate))

    def observe(state):
        return {"curvature": variance_of_outlier * state.params[1][0, 0] ** 2}

    field = jax.grad(paper.LOSS)
    optimizer = optax.chain(optax.sgd(learning_rate), kicks(key, 1e-4))
    stream = full_batch(moments)

    @jax.jit
    def descend(params):
        return train(field, optimizer, stream, params, times=steps, observe=observe).observed

    curvature = np.asarray(descend(start)["curvature"])
    times = learning_rate * steps
    ends = np.searchsorted(times, np.geomspace(1, 150, 24))

    def average(values):
        return np.array([window.mean() for window in np.split(values, ends)])

    return {"x": average(times), "descent, on average": average(curvature)}
