"""Learning rates: one flow, along which the entropies of all steps add up."""

import numpy as np

from jaxdyn import Claim, Domain, crossing_time, plot, sweep
from jaxdyn.claims import order, worst
from jaxdyn.papers import Experiment
from jaxdyn.papers.plasticity.mahi2025.layers import (
    FOUR_LAYERS,
    PAPER,
    SMALLER,
    check_task,
    train_layers,
)

__all__ = ["EXPERIMENTS"]

# Learning rates: one flow.


def learning_rates(
    *,
    examples=60,
    inputs=32,
    classes=5,
    widths=(16, 8, 5),
    duration=9.0,
    rates=(0.04, 0.02, 0.01),
    scale=0.05,
    sweep=sweep,
):
    """At the same product of learning rate and step all learning rates do the same: the rule is one
    flow, which steps follow to first order.

    Args:
        examples: number of inputs that are learned from.
        inputs: number of entries of an input.
        classes: number of patterns whose noisy copies the inputs are.
        widths: numbers of units of the layers.
        duration: flow time, learning rate times steps.
        rates: three learning rates, of which the largest is a multiple of the others.
        scale: scale of the initial weights.
    """
    task = check_task(examples, inputs, classes, widths, duration, max(rates))
    return by_rate(rates, scale, task, duration, sweep)


def by_rate(rates, scale, task, duration, sweep):
    """Runs at several learning rates, recorded at whole steps of every one."""
    rates = sorted(set(rates))
    steps = [rates[-1] / rate for rate in rates]
    if len(rates) < 3 or rates[0] <= 0 or not np.allclose(steps, np.round(steps)):
        raise ValueError(f"rates: {rates}; pass three > 0, the largest a multiple of all others")
    points = [(rate, scale) for rate in rates]
    runs = train_layers(points, rates[-1], task, duration, sweep)
    return runs.swap_dims(point="rate").drop_vars("scale")


def off_finest(runs):
    """How far activities are from those at the finest learning rate, of the largest."""
    finest = runs.activity.isel(rate=0)
    relative = abs(runs.activity - finest) / finest.max("time")
    return relative.max(("time", "layer"))


def order_of_activity(runs):
    """The order of convergence, when each differs from the finest by as much as first order parts
    them both from the limit."""
    others = slice(1, 3)
    distance = runs.rate - runs.rate[0]
    return order(off_finest(runs)[others], distance[others])


def around_one(runs):
    """One, and the next order of Euler's method in the largest learning rate."""
    margin = 2 * float(runs.rate.max()) * runs.attrs["growth"]
    return 1 - margin, 1 + margin


def crossings(runs):
    """When the tensor net of each layer crosses zero, after the first two records."""
    return crossing_time(runs.tensor_net.isel(time=slice(2, None)), 0.0)


def crossing_shift(runs):
    """How far a refinement of the learning rate moves these times, in steps of the coarser one, of
    layers whose tensor net crosses zero."""
    when = crossings(runs)
    moves = (when[1] - when[0]) / when.rate[1]
    return worst(moves.dropna("layer"))


def small_steps(runs):
    return float(runs.rate.max()) * runs.attrs["growth"] <= 0.1


def crossings_exist(runs):
    both = crossings(runs).isel(rate=slice(0, 2)).notnull().all("rate")
    return small_steps(runs) and bool(both.any())


def plot_learning_rates(runs, figure):
    """Draw the activities at the finest and coarsest learning rate, and how far all are apart."""
    activity, apart = plot.panels(figure, "One flow at all rates", "First order in the rate")
    for colour, layer in zip(plot.COLOURS, range(runs.sizes["layer"]), strict=False):
        one = runs.activity.isel(layer=layer)
        fine = one.isel(rate=0)
        label = f"layer {layer + 1}"
        style = {"colour": colour, "label": label, "points": 12}
        plot.points_and_line(activity, one.time, one.isel(rate=-1), fine, **style)
    activity.set(xlabel="learning rate x step", ylabel="activity |z|", yscale="log")
    fine = f"rate {float(runs.rate[0]):g}"
    coarse = f"rate {float(runs.rate[-1]):g}"
    plot.legend(activity, simulated=coarse, predicted=fine, loc="lower right")
    error = off_finest(runs)[1:]
    distance = (runs.rate - runs.rate[0])[1:]
    line = error[-1] * distance / distance[-1]
    plot.points_and_line(apart, distance, error, line)
    apart.set(xlabel="rate above the finest", ylabel="largest relative difference")
    apart.set(xlim=(0, None), ylim=(0, None))
    plot.legend(apart, predicted="first order")


# Entropy: what all steps spend is what the decisions gain.


def telescoping_entropy(
    *,
    examples=60,
    inputs=32,
    classes=5,
    widths=(16, 8, 5),
    duration=9.0,
    rates=(0.04, 0.02, 0.01),
    scale=0.05,
    sweep=sweep,
):
    """The entropies of all steps add up to the change of the binary entropy of the decisions: what
    is accumulated is certainty.

    Args:
        examples: number of inputs that are learned from.
        inputs: number of entries of an input.
        classes: number of patterns whose noisy copies the inputs are.
        widths: numbers of units of the layers.
        duration: flow time, learning rate times steps.
        rates: three learning rates, of which the largest is a multiple of the others.
        scale: scale of the initial weights.
    """
    task = check_task(examples, inputs, classes, widths, duration, max(rates))
    runs = by_rate(rates, scale, task, duration, sweep)
    return runs[["spent", "gained", "ok"]].rename(gained="spent_theory")


def gaps(runs):
    """The difference of both at the end, by learning rate and layer."""
    return abs(runs.spent - runs.spent_theory).isel(time=-1)


def worst_order(runs):
    """Of the orders at which the gaps of layers vanish, by the two finest rates, the farthest from
    one."""
    fine = gaps(runs).isel(rate=slice(0, 2)).transpose("layer", "rate")
    orders = np.array([order(gap, fine.rate) for gap in fine])
    return orders[np.argmax(abs(orders - 1))]


def plot_telescoping_entropy(runs, figure):
    """Draw entropy as it is spent and as decisions lose it, and the gap in the end."""
    course, gap = plot.panels(figure, "All steps add up", "Gaps vanish with the rate", height=3.4)
    errors = gaps(runs)
    for colour, layer in zip(plot.COLOURS, range(runs.sizes["layer"]), strict=False):
        one = runs.isel(layer=layer, rate=0)
        label = f"layer {layer + 1}"
        plot.beside(course, one, "spent", colour=colour, label=label, points=12)
        error = errors.isel(layer=layer)
        line = error[0] * runs.rate / runs.rate[0]
        plot.points_and_line(gap, runs.rate, error, line, colour=colour)
    course.set(xlabel="learning rate x step", ylabel="entropy (bits)")
    plot.legend(course, simulated="all steps", predicted="decisions", below=True)
    gap.set(xlabel="learning rate", ylabel="gap in the end (bits)", xscale="log", yscale="log")
    ticks = [f"{rate:g}" for rate in runs.rate.values]
    gap.set_xticks(runs.rate.values, ticks)
    gap.tick_params(axis="x", which="minor", labelbottom=False)
    plot.legend(gap, simulated="gap", predicted="first order", below=True)


SMALL_STEPS = Domain(
    "the largest learning rate is a tenth of the time of growth or less", small_steps
)
ONE_FLOW = Claim(
    "activities at one product of learning rate and step are the same, to first order in the "
    "learning rate",
    "order at which the difference from the finest learning rate vanishes",
    order_of_activity,
    within=around_one,
    when=SMALL_STEPS,
)
CROSSINGS = Claim(
    "where the tensor net of a layer crosses zero, the learning rate moves the time of the crossing "
    "by less than a step",
    "largest move from one learning rate to the next, in steps",
    crossing_shift,
    below=1,
    when=Domain("steps are small, and the tensor net of some layer crosses zero", crossings_exist),
)
TELESCOPE = Claim(
    "the entropies of all steps add up to the change of the decisions' binary entropy, to first "
    "order in the learning rate",
    "order at which the gap of a layer vanishes, the farthest from one",
    worst_order,
    within=(0.9, 1.1),
    when=SMALL_STEPS,
)
LARGER_START = FOUR_LAYERS | {"scale": 0.1}

LEARNING_RATES = Experiment(
    learning_rates,
    claims=(ONE_FLOW, CROSSINGS),
    plot=plot_learning_rates,
    paper=PAPER,
    others=(SMALLER, LARGER_START),
)
TELESCOPING = Experiment(
    telescoping_entropy,
    claims=(TELESCOPE,),
    plot=plot_telescoping_entropy,
    paper=PAPER,
    others=(SMALLER, LARGER_START),
)
EXPERIMENTS = (LEARNING_RATES, TELESCOPING)
