"""Spike: what descent does where gradient flow would end too sharp for its steps."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxdyn import Claim, plot, sweep
from jaxdyn.claims import Domain, ratio, worst
from jaxdyn.papers import Experiment
from jaxdyn.papers.descent.rosenfeld2023.linear import linear_descent

__all__ = ["EXPERIMENT"]


def spike(
    *,
    outlier=20.0,
    learning_rates=(0.11, 0.13, 0.15),
    variance=1.0,
    steps=1500,
    sweep=sweep,
):
    """At the edge the loss of descent spikes, which takes it to where the valley is flat enough.

    Descent learns one signal beside an outlier, at learning rates that are too large for the valley
    at which gradient flow ends.

    Args:
        outlier: variance of the outlier.
        learning_rates: learning rates of the descents.
        variance: variance of the signal.
        steps: number of steps.
    """
    rates = tuple(dict.fromkeys(learning_rates))
    with jax.enable_x64(True):
        signals = jnp.array([variance])
        descend = partial(linear_descent, variances=signals, outlier=outlier, steps=steps)
        without_kicks = partial(descend, kick=0.0, draw=0)
        runs = sweep(without_kicks, {"rate": rates}, dims={"b": "signal"})
    return runs.assign_attrs(variance=variance)


def smallest_rise(runs):
    """The highest loss after the edge is met over that where it is met, the least of all rates."""
    before = runs.loss.where(runs.since == 0).max("time")
    after = runs.loss.where(runs.since > 0).max("time")
    return (after / before).min(skipna=False)


def edge(runs):
    return 2 / runs.rate


def final_sharpness(runs):
    return ratio(runs.sharpness.isel(time=-1), edge(runs))


def final_loss(runs):
    return worst(runs.loss.isel(time=-1))


def too_sharp(runs):
    beyond = runs.flow_valley.isel(time=0) / edge(runs)
    return beyond.min() > 1.05


def too_sharp_for_long(runs):
    """Whether the signal has been learned in the steps that there are, spike included."""
    steps = runs.sizes["time"] - 1
    time_constants = runs.rate * runs.attrs["variance"] * steps
    return too_sharp(runs) and time_constants.min() > 50


def plot_spike(runs, figure):
    """Draw the losses around the spike, and where descent ends by its learning rate."""
    losses, valley = plot.panels(
        figure,
        "At the edge the loss spikes",
        "Descent ends below its edge, unlike gradient flow",
        height=3.6,
    )
    runs = runs.sortby("rate")
    start = runs.isel(time=slice(300))
    for place, rate in enumerate(runs.rate.values):
        loss = start.loss.isel(rate=place)
        # A descent that blows up would leave no room for the others.
        loss = loss.where(loss < 1e3)
        losses.plot(loss.time, loss, label=f"learning rate {rate:g}")
    losses.set(xlabel="step", ylabel="loss", yscale="log", ylim=(1e-12, None))
    plot.legend(losses, simulated="", predicted="", below=True)
    end = runs.isel(time=-1)
    plot.points_and_line(valley, end.rate, end.sharpness, edge(end), colour="black")
    valley.plot(end.rate, end.flow_valley, "--", color="black", label="end of gradient flow")
    valley.set(xlabel="learning rate", ylabel="sharpness", ylim=(0, None))
    plot.legend(valley, simulated="end of descent", predicted="2/rate", below=True)


TOO_SHARP = Domain(
    "gradient flow ends at least 5 % too sharp for the learning rates to descend in", too_sharp
)
LEARNED = Domain(
    "gradient flow ends at least 5 % too sharp for the learning rates to descend in, and learning "
    "rate x variance of the signal x steps is above 50",
    too_sharp_for_long,
)

CLAIMS = (
    Claim(
        "where gradient flow would end too sharp for the learning rate, the loss of descent rises "
        "more than tenfold at the edge",
        "smallest ratio of the highest loss after the edge is met to the loss where it is met",
        smallest_rise,
        above=10,
        when=TOO_SHARP,
    ),
    Claim(
        "the spike takes descent to where the valley is flatter than 2/(learning rate)",
        "largest ratio of the final sharpness to 2/(learning rate)",
        final_sharpness,
        below=1,
        when=LEARNED,
    ),
    Claim(
        "after the spike descent learns its signal completely",
        "largest final loss",
        final_loss,
        below=1e-12,
        when=LEARNED,
    ),
)

LARGER_OUTLIER = {"outlier": 30.0, "learning_rates": (0.075, 0.1)}

EXPERIMENT = Experiment(
    spike,
    claims=CLAIMS,
    plot=plot_spike,
    paper={"steps": 6000},
    others=(LARGER_OUTLIER, {"variance": 0.5}),
)
