"""Adam: an optimiser that breaks the symmetry of a softmax layer."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdyn import Claim, plot, sweep, train
from jaxdyn.claims import Domain, worst
from jaxdyn.papers import Experiment
from jaxdyn.papers.descent.tanaka2021.networks import LOSSES, distinct, problem
from jaxdyn.tasks import full_batch

__all__ = ["EXPERIMENT"]


def adam(
    *,
    inputs=8,
    classes=4,
    examples=40,
    learning_rates=(0.1, 0.05, 0.025),
    duration=10.0,
    sweep=sweep,
):
    """Adam, whose metric is that of each weight, moves the charges that gradient descent conserves.

    A softmax layer learns all examples by each of the two methods; the sum of the weights from an
    input to all classes is its charge of translation.

    Args:
        inputs: number of inputs of the softmax layer.
        classes: number of its classes.
        examples: number of examples.
        learning_rates: learning rates of both methods.
        duration: learning rate times step that the smallest learning rate takes.
    """
    results = {}
    with jax.enable_x64(True):
        setting = problem(inputs=inputs, classes=classes, examples=examples)
        steps = round(duration / min(learning_rates))
        axis = {"learning_rate": distinct(learning_rates)}
        for name, optimizer in (("adam", optax.adam), ("descent", optax.sgd)):
            experiment = partial(softmax, optimizer=optimizer, problem=setting, steps=steps)
            results[name] = sweep(experiment, axis, dims={"charge": "input"})
    return {name: runs.assign_attrs(classes=classes) for name, runs in results.items()}


def softmax(learning_rate, *, optimizer, problem, steps):
    """Train the softmax layer on all data: its charges at some of the steps."""

    def observe(state):
        return {"charge": jnp.sum(state.params["w"], 1)}

    gradient = jax.grad(LOSSES["translation"])
    stream = full_batch(problem.data["translation"])
    start = problem.start["translation"]
    times = np.unique(np.linspace(0, steps, 41).round())
    return train(gradient, optimizer(learning_rate), stream, start, times=times, observe=observe)


def changes(runs):
    """How far each charge has moved at the end."""
    start = runs.charge.isel(time=0)
    end = runs.charge.isel(time=-1)
    return abs(end - start)


def descent_beside_adam(results):
    by_descent = worst(changes(results["descent"]))
    by_adam = worst(changes(results["adam"]))
    return by_descent / by_adam


def plot_adam(results, figure):
    """Draw one charge under both methods."""
    (axes,) = plot.panels(figure, "Adam moves a charge that gradient descent conserves")
    names = {"adam": "Adam", "descent": "gradient descent"}
    for colour, (method, name) in zip(plot.COLOURS, names.items(), strict=False):
        charge = results[method].charge.isel(learning_rate=0, input=0)
        axes.plot(charge.time, charge, "o-", color=colour, label=name)
    axes.set(xlabel="step", ylabel="charge of translation")
    axes.legend()


THREE_CLASSES = Domain(
    "there are more than two classes: Adam too moves the weights of two classes oppositely",
    lambda results: results["adam"].attrs["classes"] > 2,
)

CLAIMS = (
    Claim(
        "Adam, whose metric is that of each weight, moves the charges of a softmax layer, "
        "which gradient descent conserves",
        "largest change of a charge under gradient descent, in units of that under Adam",
        descent_beside_adam,
        below=1e-6,
        when=THREE_CLASSES,
    ),
)

SMALLER = {"inputs": 5, "classes": 3, "examples": 20, "duration": 5.0}
TWO_LEARNING_RATES = {"learning_rates": (0.05, 0.025)}

EXPERIMENT = Experiment(
    adam,
    claims=CLAIMS,
    plot=plot_adam,
    paper={"inputs": 64, "examples": 400},
    others=(SMALLER, TWO_LEARNING_RATES),
)
