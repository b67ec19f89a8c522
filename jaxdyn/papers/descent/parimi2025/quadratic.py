"""Quadratic: how fast each method contracts the modes of a quadratic."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxdyn import Claim, plot, sweep
from jaxdyn.claims import Domain, worst
from jaxdyn.papers import Experiment
from jaxdyn.papers.descent.parimi2025.methods import (
    NAMES,
    check_conditions,
    contractions,
    descend,
    different,
)
from jaxdyn.theory.descent import momentum

__all__ = ["EXPERIMENT"]

# Below this, numbers have no digits left to judge.
SMALLEST = 1e-290


def modes(*, kappas=(25.0, 100.0), dims=40, duration=3.0, sweep=sweep):
    """On a quadratic accelerated methods need sqrt(kappa) steps where gradient descent needs kappa.

    Every mode follows the closed form of a recursion of three terms.

    Args:
        kappas: condition numbers of the quadratics.
        dims: number of modes, of curvatures evenly spaced from 1 to kappa.
        duration: number of steps in units of kappa.
    """
    check_conditions("kappas", kappas)
    kappas = different(kappas)
    with jax.enable_x64(True):
        experiment = partial(descent_of_modes, dims=dims, duration=duration)
        axes = {"rule": np.arange(len(NAMES)), "kappa": kappas}
        runs = sweep(experiment, axes, dims={"x": "mode"})
    rates = [list(contractions(kappa).values()) for kappa in kappas]
    runs["rate_theory"] = ("rule", "kappa"), np.transpose(rates)
    return runs.assign_coords(rule=NAMES)


def descent_of_modes(rule, kappa, *, dims, duration):
    """All modes of a quadratic beside their closed form, for `duration` times kappa steps."""
    curvature = jnp.linspace(1, kappa, dims)
    times = jnp.linspace(0, duration * kappa, 201).round()

    def slope(x):
        return curvature * x

    def observe(time, x, method):
        return {"x": x, "x_theory": momentum.mode(time, method, curvature)}

    return descend(rule, 1.0, kappa, slope, jnp.ones(dims), times=times, observe=observe)


def sizes(runs):
    """The largest mode at every time."""
    return abs(runs.x).max("mode", skipna=False)


def mode_deviation(runs):
    error = abs(runs.x - runs.x_theory).max("mode", skipna=False)
    scale = abs(runs.x_theory).max("mode", skipna=False)
    rounding = 4 * np.finfo(float).eps * (runs.time + 5) ** 2
    return worst(error / scale / rounding)


def rate_deviation(runs):
    """How far the second half of a run is off the predicted contraction, as a power of 4: a double
    or an oscillating root may gain or lose this factor."""
    half = sizes(runs).isel(time=100, drop=True)
    end = sizes(runs).isel(time=200, drop=True)
    expected = second_half(runs) * np.log(runs.rate_theory)
    fell = np.log(end / half)
    return worst(fell, expected) / np.log(4)


def second_half(runs):
    """The number of steps in the second half."""
    half = runs.time.isel(time=100, drop=True)
    return runs.time.isel(time=200, drop=True) - half


def has_digits(runs):
    return not bool((sizes(runs) < SMALLEST).any())


def rates_can_be_told(runs):
    """Whether all are in their last phase in the second half, and have digits left at its end."""
    fallen = sizes(runs).isel(time=100).max() < np.exp(-2)
    return has_digits(runs) and bool(fallen) and second_half(runs).min() >= 10


def plot_modes(runs, figure):
    """Draw how each method contracts the quadratic of the largest condition number."""
    (axes,) = plot.panels(figure, "Accelerated methods need fewer steps", height=3.4)
    largest = runs.sortby("kappa").isel(kappa=-1)
    measured = np.sqrt((largest.x**2).sum("mode"))
    predicted = np.sqrt((largest.x_theory**2).sum("mode"))
    plot.curves(measured, predicted, hue="rule", axes=axes, log="y")
    axes.set(xlabel="step", ylabel="distance to the minimum", ylim=(1e-16, None))


DIGITS = Domain("no method falls below 1e-290, where numbers lose their digits", has_digits)
LAST_PHASE = Domain(
    "every method has fallen by e^-2 at half of the steps, has 10 more of them, and stays above "
    "1e-290",
    rates_can_be_told,
)

CLAIMS = (
    Claim(
        "modes of a quadratic follow the closed form of their three-term recursion, up to "
        "rounding, which a double root amplifies by steps^2",
        "largest relative deviation, in units of this rounding",
        mode_deviation,
        below=1,
        when=DIGITS,
    ),
    Claim(
        "gradient descent contracts a quadratic by about 1 - 2/kappa a step, accelerated methods "
        "by 1 - c/sqrt(kappa), c between 1 and 2",
        "largest deviation of the contraction in the second half of the steps, in powers of 4",
        rate_deviation,
        below=1,
        when=LAST_PHASE,
    ),
)

FEWER_MODES = {"kappas": (9.0, 49.0), "dims": 12}

EXPERIMENT = Experiment(
    modes,
    claims=CLAIMS,
    plot=plot_modes,
    paper={"kappas": (25.0, 100.0, 1e4), "dims": 100},
    others=(FEWER_MODES, {"kappas": (64.0,)}),
)
