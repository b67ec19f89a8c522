"""Central flow: with slow signals left to learn, descent stays at the edge of its stability."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxdyn import Claim, plot, sweep
from jaxdyn.claims import Domain, worst
from jaxdyn.papers import Experiment
from jaxdyn.papers.descent.rosenfeld2023.linear import (
    SLOWER_SIGNALS,
    THREE_SIGNALS,
    linear_descent,
    linear_flow,
)

__all__ = ["EXPERIMENT", "central_flow"]

# Flow time from the edge on, of what is averaged there: the first bursts are over.
WINDOW = (40.0, 80.0)


def central_flow(
    *,
    outlier=20.0,
    variances=(1.0, 0.1, 0.03, 0.01),
    learning_rate=0.08,
    kick=1e-4,
    draws=4,
    steps=1500,
    sweep=sweep,
):
    """With slow signals left to learn, descent stays at its edge and follows its central flow.

    Small random kicks keep the outlier's weight from vanishing to rounding before the edge is met,
    from where it would return in one large burst.

    Args:
        outlier: variance of the outlier.
        variances: variances of the signals, the first the fastest to be learned.
        learning_rate: learning rate of the descents.
        kick: standard deviation of the noise that is added to every weight in every step.
        draws: number of descents, each with kicks of its own.
        steps: number of steps.
    """
    cases = [(learning_rate, kick, draw) for draw in range(draws)]
    dims = {"b": "signal"}
    with jax.enable_x64(True):
        system = {"variances": jnp.array(variances), "outlier": outlier}
        descend = partial(linear_descent, **system, steps=steps)
        runs = sweep(descend, {("rate", "kick", "draw"): cases}, dims=dims)
        times = learning_rate * np.arange(0, steps + 1, 10)
        follow = partial(linear_flow, **system, times=times)
        flows = sweep(follow, {}, dims=dims)
    runs = runs.rename(rate_kick_draw="case")
    b_flow = flows.b.interp(time=learning_rate * runs.time)
    runs["b_flow"] = b_flow.drop_vars("time")
    return {"descent": runs, "flow": flows}


def in_window(runs):
    time = runs.rate * runs.since
    return (time >= WINDOW[0]) & (time < WINDOW[1])


def averaged(runs, name):
    """The average over the window at the edge and the draws."""
    return runs[name].where(in_window(runs)).mean(("time", "case"))


def distance(runs, name, other):
    return worst(averaged(runs, name), averaged(runs, other))


def output_deviation(results):
    runs = results["descent"]
    return worst(averaged(runs, "c"), averaged(runs, "c_theory"), relative=True)


def distance_of_signals(results):
    """How far descent is from the central flow, in units of how far gradient flow is from it."""
    runs = results["descent"]
    return distance(runs, "b", "b_theory") / distance(runs, "b_flow", "b_theory")


def variance_deviation(results):
    runs = results["descent"]
    return worst(averaged(runs, "variance"), averaged(runs, "variance_theory"), relative=True)


def stays_at_the_edge(results):
    runs = results["descent"]
    last = runs.rate * runs.since.isel(time=-1)
    covered = last.min() >= sum(WINDOW) / 2
    stable = bool(runs.ok.all())
    # Kicks hide an oscillation that is not well above them.
    floor = 100 * float(runs.kick.max()) ** 2
    oscillation = float(averaged(runs, "variance_theory"))
    return covered and stable and floor > 0 and oscillation > floor


def plot_central_flow(results, figure):
    """Draw the valley, the signals and the oscillation beside the central flow."""
    valley, weights, variance = plot.panels(
        figure,
        "Descent holds its valley at 2/rate",
        "Signals follow the central flow",
        "The outlier's weight oscillates as far as it takes to hold the valley",
        columns=1,
        height=2.2,
    )
    runs = results["descent"]
    flows = results["flow"]
    first = runs.isel(case=0)
    rate = float(first.rate)
    flow_steps = flows.time / rate
    valley.plot(first.time, first.valley, label="descent")
    valley.plot(flow_steps, flows.valley, "--", color="black", label="gradient flow")
    valley.axhline(2 / rate, color="0.5", label="2/rate")
    valley.set(xlabel="step", ylabel="curvature of the valley", ylim=(0, None))
    valley.legend(loc="lower right")
    for place in range(first.sizes["signal"]):
        colour = plot.COLOURS[place % len(plot.COLOURS)]
        signal = first.isel(signal=place)
        plot.points_and_line(weights, signal.time, signal.b, signal.b_theory, colour=colour)
        by_flow = flows.b.isel(signal=place)
        weights.plot(flow_steps, by_flow, "--", color=colour, linewidth=0.8)
    weights.set(xlabel="step", ylabel="weight of a signal", ylim=(0, 1.05))
    weights.plot([], [], "--", color="0.3", label="gradient flow")
    plot.legend(weights, simulated="descent", predicted="central flow", loc="lower right")
    # Oscillations fill the window of a hundred steps.
    mean = runs.mean("case").rolling(time=100, center=True).mean()
    plot.points_and_line(variance, mean.time, mean.variance, mean.variance_theory)
    variance.set(xlabel="step", ylabel="mean square of its weight", ylim=(0, None))
    plot.legend(variance, simulated="descent", predicted="central flow")


AT_EDGE = Domain(
    "kicks are not zero, descent runs for 60 units of flow time from its edge on, and the "
    "oscillation predicted there is well above the kicks",
    stays_at_the_edge,
)

CLAIMS = (
    Claim(
        "with slow signals left to learn, descent stays at its edge: the output weight is that of "
        "the central flow to 0.5 %",
        "relative deviation of the output weight's average",
        output_deviation,
        below=0.005,
        when=AT_EDGE,
    ),
    Claim(
        "at its edge descent learns slow signals as the central flow does, twenty times closer to "
        "the central flow than gradient flow is",
        "largest distance of the signals' average weights from the central flow, in units of the "
        "distance of gradient flow",
        distance_of_signals,
        below=0.05,
        when=AT_EDGE,
    ),
    Claim(
        "at the edge the outlier's weight has the mean square that the central flow predicts, to "
        "25 %",
        "relative deviation of the average square of the outlier's weight",
        variance_deviation,
        below=0.25,
        when=AT_EDGE,
    ),
)

LARGER_OUTLIER = THREE_SIGNALS | {"learning_rate": 0.055, "draws": 2}
LARGER_RATE = SLOWER_SIGNALS | {"learning_rate": 0.09}

EXPERIMENT = Experiment(
    central_flow,
    claims=CLAIMS,
    plot=plot_central_flow,
    paper={"draws": 32, "steps": 6000},
    others=(LARGER_OUTLIER, LARGER_RATE),
)
