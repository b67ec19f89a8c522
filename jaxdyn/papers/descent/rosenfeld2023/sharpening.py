"""Sharpening: what gradient flow does to the valley of the outlier."""

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
    first_alone,
    linear_flow,
)

__all__ = ["EXPERIMENT"]

CASES = ["one signal", "several signals"]


def sharpening(
    *, outlier=20.0, variances=(1.0, 0.1, 0.03, 0.01), duration=120.0, records=150, sweep=sweep
):
    """Learning all else sharpens the valley in which gradient flow ignores an outlier.

    The flow learns the first signal alone, or all of them.

    Args:
        outlier: variance of the outlier.
        variances: variances of the signals, the first the fastest to be learned.
        duration: flow time.
        records: number of times at which the flow is recorded.
    """
    with jax.enable_x64(True):
        # In tenths of the time between two records.
        tenths = np.arange(0, 10 * records + 1, 10)
        times = duration / (10 * records) * tenths
        cases = jnp.array([first_alone(variances), variances])
        experiment = partial(flow_of, cases=cases, outlier=outlier, times=times)
        runs = sweep(experiment, {"signals": [0, 1]}, dims={"b": "signal"})
    return runs.assign_coords(signals=CASES)


def flow_of(signals, *, cases, outlier, times):
    return linear_flow(variances=cases[signals], outlier=outlier, times=times)


def end_deviation(runs):
    end = runs.sel(signals="one signal").isel(time=-1)
    return worst(end.sharpness, end.valley_theory, relative=True)


def largest_drift(runs):
    return worst(runs.balance, runs.balance.isel(time=0))


def growth(runs):
    """How many times sharper the loss is at the end, the least of both cases."""
    end = runs.sharpness.isel(time=-1)
    ratios = end / runs.sharpness.isel(time=0)
    return ratios.min(skipna=False)


def final_loss(runs):
    loss = runs.loss.sel(signals="one signal")
    return worst(loss.isel(time=-1))


def starts_in_the_valley(runs):
    """Whether the outlier can raise the sharpness, which begins at the variance of a signal."""
    start = runs.sharpness.isel(time=0)
    room = runs.valley_theory.isel(time=0) / start
    return final_loss(runs) < 1e-6 and room.min() > 15


def plot_sharpening(runs, figure):
    """Draw the sharpness over time and the end of the flow in theory."""
    title = "The better all else is learned, the sharper the valley"
    (axes,) = plot.panels(figure, title, height=3)
    for colour, case in zip(plot.COLOURS, CASES, strict=False):
        run = runs.sel(signals=case)
        limit = run.valley_theory
        plot.points_and_line(axes, run.time, run.sharpness, limit, colour=colour, label=case)
    axes.set(xlabel="flow time", ylabel="sharpness", ylim=(0, None))
    plot.legend(axes, predicted="end of the flow in theory", loc="lower right")


LEARNED = Domain("the flow has learned its one signal", lambda runs: final_loss(runs) < 1e-6)
LARGE_OUTLIER = Domain(
    "the signal has been learned, and the outlier's variance lets the sharpness grow 15 times",
    starts_in_the_valley,
)

CLAIMS = (
    Claim(
        "gradient flow on one signal ends as sharp as the conserved difference of its layers says",
        "relative deviation of the final sharpness from the outlier's curvature in theory",
        end_deviation,
        below=1e-3,
        when=LEARNED,
    ),
    Claim(
        "gradient flow conserves the difference of the squared weights of two linear layers",
        "largest change of the difference",
        largest_drift,
        below=1e-6,
    ),
    Claim(
        "learning all else makes the loss around an ignored outlier more than ten times sharper",
        "smallest ratio of the sharpness at the end to that at the start",
        growth,
        above=10,
        when=LARGE_OUTLIER,
    ),
)

EXPERIMENT = Experiment(
    sharpening,
    claims=CLAIMS,
    plot=plot_sharpening,
    paper={"duration": 480.0, "records": 600},
    others=(THREE_SIGNALS, SLOWER_SIGNALS),
)
