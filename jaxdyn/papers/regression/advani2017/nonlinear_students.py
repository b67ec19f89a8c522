"""Nonlinear students: readouts of random ReLU features, and networks trained in all layers."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdyn import Claim, Trajectory, log_times, plot, sweep, train
from jaxdyn._numbers import check_positive, normal
from jaxdyn.claims import Domain, standard_error
from jaxdyn.losses import squared_error
from jaxdyn.papers import Experiment
from jaxdyn.tasks import full_batch
from jaxdyn.theory.regression import given_data

__all__ = ["EXPERIMENTS"]

# Random features and trained networks share their task and what is seen.


def random_features(*, widths=(20, 50, 80, 100, 125, 200, 400), examples=100, seeds=8, sweep=sweep):
    """Readouts of random ReLU features overtrain most where there are as many as examples.

    Args:
        widths: numbers of random features.
        examples: number of training examples.
        seeds: number of data sets and networks.
    """
    check_positive(widths=np.array(widths), examples=examples)
    times = np.geomspace(0.1, 1e6, 29)
    options = {"examples": examples, "widest": max(widths), "times": times}
    axes = {"width": np.array(widths, float)}
    with jax.enable_x64(True):
        runs = sweep(partial(feature_readout, **options), axes, seeds=seeds)
    return with_overtraining(runs, runs.width / examples)


def trained_networks(*, hidden=(2, 6, 14, 40), examples=60, steps=2000, seeds=8, sweep=sweep):
    """Trained ReLU networks overtrain most where there are about as many parameters as examples.

    Args:
        hidden: numbers of hidden units.
        examples: number of training examples.
        steps: number of steps of gradient descent with momentum.
        seeds: number of data sets and networks.
    """
    check_positive(hidden=np.array(hidden), examples=examples)
    times = log_times(steps, 30)
    options = {"examples": examples, "widest": max(hidden), "times": times}
    axes = {"width": np.array(hidden, float)}
    runs = sweep(partial(network_descent, **options), axes, seeds=seeds)
    # A unit has six incoming weights and an outgoing one.
    return with_overtraining(runs, runs.width * 7 / examples)


def with_overtraining(runs, parameters_per_example):
    """Add the rise of the test error from its minimum to the end."""
    end = runs.test.isel(time=-1)
    runs["rise"] = end - runs.test.min("time")
    return runs.assign_coords(parameters_per_example=parameters_per_example)


class ReluTask(NamedTuple):
    """Examples of a ReLU network of as many units as inputs, and a student's weights.

    Attributes:
        data: noisy examples to learn from.
        test: examples without noise to test on.
        weights: random weights of both layers of the student.
    """

    data: Any
    test: Any
    weights: Any


def relu_task(key, examples, tested, inputs, widest, noise):
    """Draw a task and a student of `widest` units."""
    # Drawn at once, which compiles faster.
    shapes = {
        "x": (examples + tested, inputs),
        "teacher": (inputs, inputs),
        "readout": (inputs,),
        "noise": (examples,),
        "first": (widest, inputs),
        "second": (widest,),
    }
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    numbers = normal(key, (sum(sizes),))
    parts = jnp.split(numbers, np.cumsum(sizes)[:-1])
    named = zip(shapes, parts, strict=True)
    drawn = {name: part.reshape(shapes[name]) for name, part in named}
    x = drawn["x"]
    teacher = drawn["teacher"]
    y = jax.nn.relu(x @ teacher.T / jnp.sqrt(inputs)) @ drawn["readout"]
    tested = y[examples:]
    y = (y - tested.mean()) / tested.std()
    data = x[:examples], y[:examples] + noise * drawn["noise"]
    test = x[examples:], y[examples:]
    return ReluTask(data, test, weights=(drawn["first"], drawn["second"]))


def feature_readout(key, width, *, examples, widest, times, inputs=20, noise=0.5, tested=300):
    """The flow of a linear readout of random ReLU features; those beyond `width` are off."""
    task = relu_task(key, examples, tested, inputs, widest, noise)
    first, _ = task.weights
    on = jnp.where(jnp.arange(widest) < width, 1 / jnp.sqrt(width), 0.0)

    def hidden(x):
        return jax.nn.relu(x @ first.T / jnp.sqrt(inputs)) * on[None]

    x, y = task.data
    x_test, y_test = task.test
    w = given_data.flow(examples * times, hidden(x), y)
    test = given_data.mean_squared_error(w, hidden(x_test), y_test)
    return Trajectory(times, {"test": test})


def network_descent(key, width, *, examples, widest, times, inputs=6, noise=1.0, tested=300):
    """Descent of all weights of a ReLU network; units beyond `width` start at zero, where their
    gradient is zero."""
    task = relu_task(key, examples, tested, inputs, widest, noise)
    on = jnp.where(jnp.arange(widest) < width, 0.1, 0.0)
    x_test, y_test = task.test

    def apply(w, x):
        first, second = w
        hidden = jax.nn.relu(x @ first.T / jnp.sqrt(inputs))
        return hidden @ second / jnp.sqrt(width)

    def observe(state):
        residual = apply(state.params, x_test) - y_test
        return {"test": jnp.mean(residual**2)}

    # Rates in proportion to sqrt(width) move the function at one speed, up to where it is unstable.
    rate = 0.1 * jnp.sqrt(jnp.minimum(width, 50))
    optimizer = optax.sgd(rate, 0.95)
    first, second = task.weights
    start = first * on[:, None], second * on
    gradient = jax.grad(squared_error(apply))
    stream = full_batch(task.data)
    return train(gradient, optimizer, stream, start, times=times, observe=observe)


def peak(runs):
    """Position of the width whose mean over seeds overtrains most."""
    return int(runs.rise.mean("seed").argmax("width"))


def parameters_at_peak(runs):
    return float(runs.parameters_per_example[peak(runs)])


def distance_of_peak(runs):
    return abs(parameters_at_peak(runs) - 1)


def widths_out_of_order(runs):
    """The number of widths that overtrain no less than the next one towards the number of
    examples."""
    rises = np.diff(runs.rise.mean("seed").values) > 0
    towards_examples = runs.parameters_per_example.values[1:] <= 1
    return int(np.sum(rises != towards_examples))


def fall_of_the_widest(runs):
    """By how much the widest network overtrains less than the worst, in standard errors."""
    highest = runs.rise.isel(width=peak(runs))
    fall = highest - runs.rise.isel(width=-1)
    return fall.mean("seed") / standard_error(fall)


def plot_random_features(runs, figure):
    """Draw test errors over time, and overtraining by the number of features."""
    panels = plot.panels(
        figure, "Test errors of random features", "Overtraining peaks at one feature per example"
    )
    draw_overtraining(runs, panels, "features")
    panels[0].set(xlabel="flow time")
    panels[1].set(xlabel="features per example")


def plot_trained_networks(runs, figure):
    """Draw test errors over time, and overtraining by the number of parameters."""
    panels = plot.panels(
        figure, "Test errors of trained networks", "Large networks overtrain less again"
    )
    draw_overtraining(runs, panels, "units")
    panels[0].set(xlabel="step")
    panels[1].set(xlabel="parameters per example")


def draw_overtraining(runs, panels, units):
    """Draw the smallest, the worst and the widest student over time, and the rise of all."""
    errors, rises = panels
    mean = runs.test.mean("seed")
    later = mean.isel(time=slice(1, None))
    for position in sorted({0, peak(runs), runs.sizes["width"] - 1}):
        test = later.isel(width=position)
        errors.plot(test.time, test, label=f"{test.width:g} {units}")
    errors.set(xscale="log", yscale="log", ylabel="test error")
    errors.yaxis.set_minor_formatter("")
    errors.legend()
    rise = runs.rise.mean("seed")
    bars = standard_error(runs.rise)
    rises.errorbar(runs.parameters_per_example, rise, bars, fmt="o-")
    rises.axvline(1, color="0.6", linewidth=0.8, linestyle="--")
    rises.set(xscale="log", yscale="log", ylabel="rise of the test error")
    # Labels of minor ticks would overlap.
    rises.xaxis.set_minor_formatter("")
    rises.set_xticks([0.3, 1, 3], labels=["0.3", "1", "3"])


def spans_the_examples(runs):
    """Whether there are several runs of as many features as examples, of fewer and of more."""
    features = runs.parameters_per_example.values
    fewer = features.min() < 1
    more = features.max() > 1
    around = fewer and more and 1 in features
    return runs.sizes["seed"] > 1 and around


def spans_the_peak(runs):
    """Whether there are enough long runs, with parameters around those of the peak."""
    parameters = runs.parameters_per_example.values
    inside = (parameters > 1) & (parameters < 3.5)
    fewer = parameters.min() < 1
    more = parameters.max() > 3.5
    around = fewer and more and inside.any()
    long = runs.time.max() >= 1000
    return runs.sizes["seed"] >= 8 and around and long


AROUND_THE_EXAMPLES = Domain(
    "there are several data sets, and as many features as examples, fewer and more",
    spans_the_examples,
)
AROUND_THE_PEAK = Domain(
    "there are eight data sets or more, 1000 steps or more, and networks of fewer than 1, of 1 to "
    "3.5 and of more than 3.5 parameters an example",
    spans_the_peak,
)

EXPERIMENTS = (
    Experiment(
        random_features,
        claims=(
            Claim(
                "readouts of random ReLU features overtrain most where there are as many features "
                "as examples",
                "distance from 1 of the features per example at which the test error rises most",
                distance_of_peak,
                below=1e-6,
                when=AROUND_THE_EXAMPLES,
            ),
            Claim(
                "readouts of random ReLU features overtrain the less, the further the number of "
                "features is from that of examples",
                "number of neighbouring widths whose overtraining is out of order",
                widths_out_of_order,
                below=1,
                when=AROUND_THE_EXAMPLES,
            ),
        ),
        plot=plot_random_features,
        paper={"widths": (20, 50, 80, 100, 125, 200, 800), "seeds": 16},
        others=({"examples": 50, "widths": (10, 30, 50, 80, 150)},),
    ),
    Experiment(
        trained_networks,
        claims=(
            Claim(
                "trained ReLU networks overtrain most at 1 to 3.5 parameters an example",
                "parameters per example at which the test error rises most",
                parameters_at_peak,
                within=(1, 3.5),
                when=AROUND_THE_PEAK,
            ),
            Claim(
                "the widest trained ReLU network overtrains less than the worst, by more than "
                "three standard errors",
                "difference of the rises of the test error, worst - widest, in standard errors",
                fall_of_the_widest,
                above=3,
                when=AROUND_THE_PEAK,
            ),
        ),
        plot=plot_trained_networks,
        paper={"hidden": (4, 8, 14, 22, 32, 80), "examples": 100, "steps": 4000, "seeds": 16},
        others=({"hidden": (2, 8, 14, 60)},),
    ),
)
