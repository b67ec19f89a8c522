"""The first step and the square loss, for which theory has all fractions."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxdyn import Claim, Trajectory, crossing_time, plot, sweep
from jaxdyn._numbers import check_positive
from jaxdyn.claims import Domain, worst
from jaxdyn.papers import Experiment
from jaxdyn.papers.regression.liu2020.clusters import (
    GROUPS,
    check_clusters,
    fractions,
    over_clusters,
    theory_of,
)
from jaxdyn.theory.regression import given_data, memorisation

__all__ = ["EXPERIMENTS"]

# Fractions and their deviations from theory.


def deviation_of(runs, name):
    """The mean over seeds against theory, in units of 3 standard errors and twice the share of one
    example."""
    deviation = runs[name] - runs[f"{name}_theory"]
    deviation = deviation.mean("seed", skipna=False)
    rounding = 2 / runs.attrs["examples"]
    allowed = 3 * runs[f"{name}_error"] + rounding
    return worst(deviation / allowed.mean("seed"))


def memorised_deviation(runs):
    return deviation_of(runs, "memorised")


def clean_deviation(runs):
    return deviation_of(runs, "clean")


def deviation_of_test(runs):
    return deviation_of(runs, "test")


# The first step of descent.


def first_step(
    *,
    examples=400,
    inputs_per_example=0.9,
    flipped=0.2,
    sigmas=(0.25, 0.5),
    seeds=4,
    sweep=sweep,
):
    """The first step of descent predicts the true labels, of mislabelled examples too.

    Args:
        examples: number of examples.
        inputs_per_example: number of inputs, divided by the number of examples.
        flipped: share of the labels that are wrong, below a half.
        sigmas: standard deviations of the clusters; they are 2 apart.
        seeds: number of data sets.
    """
    check_clusters(examples, inputs_per_example, flipped)
    check_positive(sigmas=np.array(sigmas))
    numbers = (examples, inputs_per_example, flipped, sigmas, seeds)
    runs = over_clusters(step_from_zero, *numbers, sweep)
    # Those of the step's length along and across v.
    agreement = 1 - 2 * flipped
    along = runs.sigma**2 / agreement**2
    across = 1 / (2 * inputs_per_example)
    cosine = runs.cosine_theory
    sine_squared = 1 - cosine**2
    relative = np.sqrt((along + across) / examples / seeds)
    runs["cosine_error"] = cosine * sine_squared * relative
    return runs


def step_from_zero(draw, index, *, mixtures, sigmas, flipped):
    """The first step of descent from zero, along which all losses agree."""
    mixture = jax.tree.map(lambda leaf: leaf[draw, index], mixtures)
    sigma = jnp.array(sigmas)[index]
    samples, inputs = mixture.x.shape
    step = mixture.labels @ mixture.x
    norm = jnp.linalg.norm(step)
    cosine, predicted = memorisation.first_step(sigma, flipped, inputs, samples)
    observed = fractions(mixture.x @ step, step[0], norm, mixture, sigma)
    alignment = {"cosine": step[0] / norm, "cosine_theory": cosine}
    return alignment | observed | theory_of(predicted)


def cosine_deviation(runs):
    return deviation_of(runs, "cosine")


def plot_first_step(runs, figure):
    """Draw the step's direction and what it predicts, against the width of the clusters."""
    directions, shares = plot.panels(
        figure, "Steps point along v", "They predict true labels", height=3.4
    )
    plot.beside(directions, runs, "cosine", x="sigma")
    directions.set(xlabel="width sigma of the clusters", ylabel="cosine with v", ylim=(0, 1.05))
    for colour, (group, words) in zip(plot.COLOURS, GROUPS.items(), strict=False):
        plot.beside(shares, runs, group, x="sigma", colour=colour, label=words)
    shares.set(xlabel="width sigma of the clusters", ylabel="fraction", ylim=(-0.05, 1.05))
    plot.legend(directions, below=True)
    plot.legend(shares, simulated="", predicted="", below=True)


# The square loss at all times.


def square_loss(
    *,
    examples=400,
    inputs_per_example=0.9,
    flipped=0.2,
    sigmas=(0.25, 0.5),
    seeds=4,
    sweep=sweep,
):
    """Under the square loss a classifier memorises wrong labels, and forgets, as predicted.

    Args:
        examples: number of examples.
        inputs_per_example: number of inputs, divided by the number of examples.
        flipped: share of the labels that are wrong, below a half.
        sigmas: standard deviations of the clusters; they are 2 apart.
        seeds: number of data sets.
    """
    check_clusters(examples, inputs_per_example, flipped)
    check_positive(sigmas=np.array(sigmas))
    experiment = partial(square_flow, times=np.geomspace(0.01, 3000, 24))
    numbers = (examples, inputs_per_example, flipped, sigmas, seeds)
    return over_clusters(experiment, *numbers, sweep)


def square_flow(draw, index, *, mixtures, sigmas, flipped, times):
    """Gradient flow of the square loss from zero, solved for all times at once."""
    mixture = jax.tree.map(lambda leaf: leaf[draw, index], mixtures)
    sigma = jnp.array(sigmas)[index]
    samples, inputs = mixture.x.shape
    weights = given_data.flow(times, mixture.x, mixture.labels)

    def observed(w):
        norm = jnp.linalg.norm(w)
        return fractions(mixture.x @ w, w[0], norm, mixture, sigma)

    predicted = memorisation.flow(times, sigma, flipped, inputs, samples)
    return Trajectory(times, jax.vmap(observed)(weights) | theory_of(predicted))


def half_times(runs):
    """When half of the wrong labels are memorised, simulated and in theory."""
    simulated = crossing_time(runs.memorised.mean("seed"), 0.5)
    return simulated, crossing_time(runs.memorised_theory.mean("seed"), 0.5)


def half_time_deviation(runs):
    """The deviation of the half-time in units of 3 standard errors, by the slope of the fraction
    there."""
    simulated, predicted = half_times(runs)
    moved = abs(np.log(simulated / predicted))
    theory = runs.memorised_theory.mean("seed")
    slope = theory.differentiate("time") * theory.time
    error = runs.memorised_error.mean("seed")
    steepest = slope.max("time")
    return worst(moved * steepest / (3 * error.max("time")))


def memorises_half(runs):
    return np.isfinite(half_times(runs)[1]).all()


def plot_square_loss(runs, figure):
    """Draw the fractions over time for the narrowest and the widest clusters."""
    narrowest = float(runs.sigma.min())
    widest = float(runs.sigma.max())
    widths = sorted({narrowest, widest})
    titles = [f"Labels are memorised (width {width:g})" for width in widths]
    panels = plot.panels(figure, *titles, height=3.4)
    for axes, width in zip(panels, widths, strict=True):
        run = runs.sel(sigma=width)
        for colour, (group, words) in zip(plot.COLOURS, GROUPS.items(), strict=False):
            label = words if width == narrowest else ""
            plot.beside(axes, run, group, colour=colour, label=label)
        axes.set(xscale="log", xlabel="flow time")
        axes.set(ylabel="fraction", ylim=(-0.05, 1.05))
    plot.legend(panels[-1], below=True)
    if len(panels) > 1:
        plot.legend(panels[0], simulated="", predicted="", below=True)


def error_of_direction(runs):
    """The squared relative error of the examples' mean along v, at most."""
    agreement = 1 - 2 * runs.attrs["flipped"]
    widest = float(runs.sigma.max())
    return widest**2 / agreement**2 / runs.attrs["examples"]


FEW_WRONG = {"examples": 300, "inputs_per_example": 1.2, "flipped": 0.1, "sigmas": (0.4,)}
MANY_WRONG = {"inputs_per_example": 0.8, "flipped": 0.3, "sigmas": (0.2, 0.6), "seeds": 6}
LARGE = {"examples": 1000, "sigmas": (0.15, 0.25, 0.5), "seeds": 16}

WELL_LEARNED = Domain(
    "examples tell v well: sigma^2 / ((1 - 2 flipped)^2 examples) is below 0.01",
    lambda runs: error_of_direction(runs) < 0.01,
)
HALF_MEMORISED = Domain(
    "half of the wrong labels are memorised in theory, and examples tell v well: sigma^2 / ((1 - 2 "
    "flipped)^2 examples) is below 0.01",
    lambda runs: memorises_half(runs) and error_of_direction(runs) < 0.01,
)

EXPERIMENTS = (
    Experiment(
        first_step,
        claims=(
            Claim(
                "the first step of descent is as far along v as predicted",
                "largest deviation of the mean cosine, in units of what sampling allows",
                cosine_deviation,
                below=1,
            ),
            Claim(
                "the first step predicts the true labels of mislabelled examples as often as "
                "predicted",
                "largest deviation of the mean fraction, in units of what sampling allows",
                memorised_deviation,
                below=1,
            ),
            Claim(
                "the first step predicts the true labels of new examples as often as predicted",
                "largest deviation of the mean fraction, in units of what sampling allows",
                deviation_of_test,
                below=1,
            ),
        ),
        plot=plot_first_step,
        paper=LARGE,
        others=(FEW_WRONG, MANY_WRONG),
    ),
    Experiment(
        square_loss,
        claims=(
            Claim(
                "under the square loss wrong labels are memorised as predicted at all times",
                "largest deviation of the mean fraction, in units of what sampling allows",
                memorised_deviation,
                below=1,
                when=WELL_LEARNED,
            ),
            Claim(
                "under the square loss half of the wrong labels are memorised at the predicted "
                "time",
                "largest deviation of the half-time, in units of what sampling allows",
                half_time_deviation,
                below=1,
                when=HALF_MEMORISED,
            ),
            Claim(
                "under the square loss clean examples are predicted right as often as predicted at "
                "all times",
                "largest deviation of the mean fraction, in units of what sampling allows",
                clean_deviation,
                below=1,
                when=WELL_LEARNED,
            ),
            Claim(
                "under the square loss new examples are forgotten as predicted at all times",
                "largest deviation of the mean fraction, in units of what sampling allows",
                deviation_of_test,
                below=1,
                when=WELL_LEARNED,
            ),
        ),
        plot=plot_square_loss,
        paper=LARGE,
        others=(FEW_WRONG, MANY_WRONG),
    ),
)
