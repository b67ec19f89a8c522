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

    def observe(state):
        return {"c": state.params[1][0, 0]}

    solver = RK4(0.5 / variance_of_outlier)
    c = flow(
        jax.grad(paper.LOSS), moments, start, times=TIMES, observe=observe, solver=solver
    ).observed["c"]
    held = jnp.minimum(c, opposing.edge(variance_of_outlier, learning_rate))
    edge = jnp.full(TIMES.shape, 2 / learning_rate)
    curvature = {"gradient flow": c, "descent, on average": held}
    return {
        "x": TIMES,
        **{name: variance_of_outlier * c**2 for name, c in curvature.items()},
        "edge": edge,
    }


def simulate(key, *, learning_rate, variance_of_outlier, slowest_signal):
    """Descend, with small kicks, and average over windows between the times."""
    start, moments = paper.linear_start(signals(slowest_signal), variance_of_outlier)
    steps = np.arange(round(TIMES[-1] / learning_rate))

    def observe(state):
        return {"curvature": variance_of_outlier * state.params[1][0, 0] ** 2}

    rule = optax.chain(optax.sgd(learning_rate), kicks(key, 1e-4))
    run = jax.jit(
        lambda w: (
            train(
                jax.grad(paper.LOSS), rule, full_batch(moments), w, times=steps, observe=observe
            ).observed
        )
    )(start)
    windows = np.split(
        np.arange(len(steps)), np.searchsorted(learning_rate * steps, np.geomspace(1, 150, 24))
    )

    def average(values):
        return np.array([np.asarray(values)[w].mean() for w in windows])

    return {"x": average(learning_rate * steps), "descent, on average": average(run["curvature"])}
