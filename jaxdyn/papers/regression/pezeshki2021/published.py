"""The published closed form beside the exact theory."""

from functools import partial

import jax
import numpy as np

from jaxdyn import Claim, plot, sweep
from jaxdyn.claims import Domain, ratio, worst
from jaxdyn.papers import Experiment
from jaxdyn.papers.regression.pezeshki2021.systems import (
    FEWER,
    MANY,
    NOISY,
    over,
    systems_of,
    theory,
    words_of,
)

__all__ = ["EXPERIMENTS"]

# The published closed form, in theory alone.


def published_formula(
    *,
    examples=(150, 130, 120),
    large=(60, 70, 80),
    ratios=(50.0, 100.0, 40.0),
    noises=(0.0, 0.0, 0.2),
    inputs=100,
    times=29,
    sweep=sweep,
):
    """The published closed form is not exact: it gives each group of features all examples.

    With nine examples to ten inputs its overlap R even exceeds the largest possible one, n/d.

    Args:
        examples: number of examples of each system.
        large: number of large features of each system.
        ratios: scale of the large features of each system, divided by that of the small.
        noises: standard deviation of each system's noise, relative to that of the teacher.
        inputs: number of features of both scales, d.
        times: number of times and inverse penalties, from 0.1 to a million.
    """
    systems = systems_of(examples, large, ratios, noises, inputs)
    few = systems.copy()
    few[:, 0] = 0.9 * inputs
    # Without noise.
    few[:, 3] = 0.0
    times = np.geomspace(0.1, 1e6, times)
    experiment = partial(theory, inputs=inputs, times=times)
    with jax.enable_x64(True):
        given = over(sweep, experiment, systems).assign_attrs(inputs=inputs)
        fewer = over(sweep, experiment, few).assign_attrs(inputs=inputs)
    return {"given": given, "few": fewer}


def published_deviation(results):
    given = results["given"]
    return worst(given.published_E, given.ridge_E)


def resolution(results):
    return 1 / results["given"].attrs["inputs"]


def published_overlap(results):
    few = results["few"]
    return ratio(few.published_R, few.examples / few.attrs["inputs"])


def exact_overlap(results):
    few = results["few"]
    return ratio(few.ridge_R, few.examples / few.attrs["inputs"])


def coarse_contour_error(results):
    return worst(results["few"].contour)


def plot_published_formula(results, figure):
    """Draw exact and published errors of ridge regression, and overlaps for few examples."""
    errors, overlaps = plot.panels(
        figure, "The published error is off", "Published R exceeds n/d", height=3.4
    )
    few = results["few"]
    largest = few.examples / few.attrs["inputs"]
    for colour, system in zip(plot.COLOURS, range(few.sizes["system"]), strict=False):
        run = results["given"].isel(system=system)
        words = words_of(run)
        errors.plot(run.time, run.ridge_E, color=colour, label=words)
        errors.plot(run.time, run.published_E, "--", color=colour)
        share = (few / largest).isel(system=system)
        overlaps.plot(few.time, share.ridge_R, color=colour)
        overlaps.plot(few.time, share.published_R, "--", color=colour)
    overlaps.plot([], [], color="0.3", label="exact")
    overlaps.plot([], [], "--", color="0.3", label="published")
    overlaps.axhline(1, color="0.6", linewidth=0.8)
    for axes in (errors, overlaps):
        axes.set(xscale="log", xlabel="1 / penalty")
    errors.set(ylabel="test error of ridge")
    overlaps.set(ylabel="overlap R / (n/d)")
    plot.legend(errors, simulated="", predicted="", below=True)
    plot.legend(overlaps, simulated="", predicted="", below=True)


TWO_SCALES = Domain(
    "the scales of all features differ tenfold or more",
    lambda results: results["given"].ratio.min() >= 10,
)

EXPERIMENTS = (
    Experiment(
        published_formula,
        claims=(
            Claim(
                "the published closed form is that of ridge regression, to 1/d",
                "largest deviation of the published test error from the exact one",
                published_deviation,
                below=resolution,
                when=TWO_SCALES,
                holds=False,
            ),
            Claim(
                "with fewer examples than inputs the published R keeps to R <= n/d",
                "largest published R, divided by n/d",
                published_overlap,
                below=1,
                when=TWO_SCALES,
                holds=False,
            ),
            Claim(
                "with fewer examples than inputs the exact R keeps to R <= n/d",
                "largest exact R, divided by n/d",
                exact_overlap,
                below=1,
            ),
            Claim(
                "24 nodes on the contour are exact to 1e-6 with fewer examples than inputs",
                "largest deviation of the test error from that by more nodes",
                coarse_contour_error,
                below=1e-6,
            ),
        ),
        plot=plot_published_formula,
        paper=MANY,
        others=(NOISY, FEWER),
    ),
)
