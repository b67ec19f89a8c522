"""Fewer examples than weights: descent leaves a subspace of weights frozen."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdyn import Claim, plot, sweep, train
from jaxdyn._numbers import check
from jaxdyn.claims import worst
from jaxdyn.losses import squared_error
from jaxdyn.papers import Experiment
from jaxdyn.tasks import full_batch, teacher_student

__all__ = ["EXPERIMENT"]


def frozen_subspace(
    *,
    inputs=60,
    examples_per_weight=0.6,
    signal=5.0,
    start=1.0,
    steps=2000,
    seeds=8,
    sweep=sweep,
):
    """With fewer examples than weights, gradient descent leaves a subspace of weights frozen.

    Args:
        inputs: number of inputs, and so of weights.
        examples_per_weight: number of examples divided by that of weights, below 1.
        signal: variance of the teacher's outputs, in variances of the noise.
        start: variance of the student's initial outputs, in variances of the noise.
        steps: number of steps of descent.
        seeds: number of data sets.
    """
    examples = round(examples_per_weight * inputs)
    fewer = f"a number that leaves at least one and fewer than {inputs} examples"
    check("examples_per_weight", examples, lambda n: (n > 0) & (n < inputs), fewer)
    options = {"inputs": inputs, "examples": examples, "steps": steps}
    experiment = partial(frozen_descent, signal=signal, start=start, **options)
    with jax.enable_x64(True):
        runs = sweep(experiment, seeds=seeds, dims={"moved": "direction"})
    frozen_share = 1 - examples / inputs
    # The squared length of a random unit vector's part in a subspace is beta distributed.
    moving_share = examples / inputs
    own = 2 * moving_share * (signal**2 + start**2)
    variance = own + 4 * signal * start
    runs["still"] = (runs.moved < 1e-10).sum("direction")
    runs["still_theory"] = inputs - examples
    runs["error_theory"] = frozen_share * (signal + start)
    runs["spread"] = (frozen_share * variance / inputs / seeds) ** 0.5
    return runs


def frozen_descent(key, *, inputs, examples, signal, start, steps):
    """How far descent moves the weights along each direction, and the error in those directions
    that no example constrains."""
    data = teacher_student(key, inputs, examples, snr=signal, inr=start)
    gradient = jax.grad(squared_error(lambda w, x: x @ w))
    # A quarter of the largest stable learning rate.
    largest_singular_value = jnp.linalg.norm(data.x, 2)
    rate = 0.5 * examples / largest_singular_value**2
    optimizer = optax.sgd(rate)
    stream = full_batch((data.x, data.y))

    def observe(state):
        return {}

    run = train(gradient, optimizer, stream, data.start, times=[steps], observe=observe)
    directions = jnp.linalg.svd(data.x)[2]
    moved = abs(directions @ (run.final.params - data.start))
    unseen = directions[examples:] @ (run.final.params - data.teacher)
    error = jnp.sum(unseen**2) / inputs
    return {"moved": jnp.sort(moved), "error": error}


def frozen_miscount(runs):
    return worst(runs.still, runs.still_theory)


def frozen_error_deviation(runs):
    deviation = runs.error.mean("seed") - runs.error_theory
    return worst(deviation / runs.spread)


def plot_frozen_subspace(runs, figure):
    """Draw how far each direction has moved, and the error that frozen directions keep."""
    distances, errors = plot.panels(
        figure, "Some directions never move", "Their error stays", height=3.2
    )
    direction = np.arange(1, runs.sizes["direction"] + 1)
    for moved in runs.moved.transpose("seed", "direction"):
        distances.semilogy(direction, moved, ".", color=plot.COLOURS[0])
    between = float(runs.still_theory) + 0.5
    distances.axvline(between, color="0.3", label="weights - examples")
    distances.set(xlabel="direction, in order of movement", ylabel="distance moved")
    plot.legend(distances, simulated="", predicted="", below=True)
    theory = runs.error_theory + 0 * runs.error
    plot.points_and_line(errors, runs.seed, runs.error, theory)
    errors.set(xlabel="data set", ylabel="error in frozen directions")
    plot.legend(errors, predicted="theory of the mean", below=True)


EXPERIMENT = Experiment(
    frozen_subspace,
    claims=(
        Claim(
            "as many directions as weights outnumber examples do not move during training",
            "largest miscount of the directions that do not move",
            frozen_miscount,
            below=0.5,
        ),
        Claim(
            "directions without examples keep their initial error, within 4.5 standard errors",
            "deviation of their mean error from its initial expectation, in standard errors",
            frozen_error_deviation,
            below=4.5,
        ),
    ),
    plot=plot_frozen_subspace,
    paper={"seeds": 16},
    others=({"signal": 2.0, "start": 0.2}, {"start": 3.0}),
)
