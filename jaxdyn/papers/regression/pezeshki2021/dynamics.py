"""Dynamics: double descent, one scale, and a penalty."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxdyn import Claim, Trajectory, plot, sweep
from jaxdyn.claims import Domain, standard_error, worst
from jaxdyn.papers import Experiment
from jaxdyn.papers.regression.pezeshki2021.systems import (
    FEWER,
    MANY,
    NAMES,
    NOISY,
    PARTS,
    named,
    order_parameters,
    over,
    population,
    systems_of,
    theory,
    words_of,
)
from jaxdyn.tasks import regression
from jaxdyn.theory.regression import given_data, spectrum

__all__ = ["EXPERIMENTS"]

# Learning curves, from data and in exact theory.


def double_descent(
    *,
    examples=(150, 130, 120),
    large=(60, 70, 80),
    ratios=(50.0, 100.0, 40.0),
    noises=(0.0, 0.0, 0.2),
    inputs=100,
    seeds=24,
    times=29,
    sweep=sweep,
):
    """With features of two scales the test error falls, rises and falls again during training.

    Args:
        examples: number of examples of each system.
        large: number of large features of each system.
        ratios: scale of the large features of each system, divided by that of the small.
        noises: standard deviation of each system's noise, relative to that of the teacher.
        inputs: number of features of both scales, d.
        seeds: number of data sets of each system.
        times: number of recorded times, from 0.1 to a million.
    """
    systems = systems_of(examples, large, ratios, noises, inputs)
    times = np.geomspace(0.1, 1e6, times)
    common = {"inputs": inputs, "times": times}
    with jax.enable_x64(True):
        exact = over(sweep, partial(theory, **common), systems)
        student = partial(simulate, most=max(examples), **common)
        runs = over(sweep, student, systems, seeds=seeds)
    for part in PARTS:
        for name in NAMES:
            runs[f"{part}_{name}_theory"] = exact[f"{part}_{name}"]
    return runs.assign_attrs(inputs=inputs)


def simulate(key, examples, large, ratio, noise, *, inputs, most, times):
    """The same from data: the flow, and ridge regression."""
    data = regression(key, most, 1 / inputs, (inputs,), inputs, noise=1.0)
    is_large = jnp.arange(inputs) < large
    scale = jnp.where(is_large, 1.0, 1 / ratio)[None]
    # Examples that are left out are zero, so that one program has any number of them.
    used = jnp.where(jnp.arange(most) < examples, 1.0, 0.0)
    x = data.x * used[:, None]
    unit_noise = data.y - data.x @ data.teacher
    y = (data.y + (noise - 1) * unit_noise) * used
    flow = given_data.flow(most * times, x * scale, y) * scale
    penalty = 1 / (most * times)
    ridge = given_data.ridge(penalty, x * scale, y) * scale

    def overlaps(w):
        with_teacher = w @ data.teacher / inputs
        with_itself = jnp.sum(w**2, -1) / inputs
        return order_parameters(with_teacher, with_itself)

    parts = {"flow": overlaps(flow), "ridge": overlaps(ridge)}
    return Trajectory(times, named(parts))


def deviation_of(runs, part):
    """Largest deviation of a mean order parameter from theory, in units of what is allowed: four
    standard errors, and 1/d for the finite size."""
    deviations = []
    for name in NAMES:
        deviation = runs[f"{part}_{name}"] - runs[f"{part}_{name}_theory"]
        allowed = 4 * standard_error(deviation) + 1 / runs.attrs["inputs"]
        deviations.append(worst(deviation.mean("seed") / allowed))
    return max(deviations)


def flow_deviation(runs):
    return deviation_of(runs, "flow")


def ridge_deviation(runs):
    return deviation_of(runs, "ridge")


def turns(error, theory):
    """How far an error rises, and then falls again, between the times of theory's extrema."""
    low = int(np.argmax(np.diff(theory) > 1e-6))
    high = low + int(np.argmax(theory[low:]))
    last = high + int(np.argmin(theory[high:]))
    at_high = error.isel(time=high)
    rise = at_high - error.isel(time=low)
    fall = at_high - error.isel(time=last)
    return [rise, fall]


def turns_of(runs, name):
    """Rises and falls of the variable `name`, for each system."""
    both = []
    for system in range(runs.sizes["system"]):
        run = runs.isel(system=system).reset_coords(drop=True)
        both += turns(run[name], run.flow_E_theory.values)
    return both


def smallest_turn(runs):
    """The smallest mean rise or fall, in its standard errors."""
    both = turns_of(runs, "flow_E")
    return np.min([turn.mean("seed") / standard_error(turn) for turn in both])


def smallest_turn_in_theory(runs):
    return np.min(turns_of(runs, "flow_E_theory"))


def plot_double_descent(runs, figure):
    """Draw the test error of each system, and both overlaps of the first."""
    errors, overlaps = plot.panels(
        figure, "Errors fall, rise and fall", "Overlaps grow in two steps", height=3.4
    )
    for colour, system in zip(plot.COLOURS, range(runs.sizes["system"]), strict=False):
        run = runs.isel(system=system)
        plot.beside(errors, run, "flow_E", colour=colour, label=words_of(run))
    first = runs.isel(system=0)
    for colour, name in zip(plot.COLOURS[3:], ("R", "Q"), strict=False):
        plot.beside(overlaps, first, f"flow_{name}", colour=colour, label=f"{name} of the first")
    errors.set(xscale="log", xlabel="flow time", ylabel="test error")
    overlaps.set(xscale="log", xlabel="flow time", ylabel="overlap")
    plot.legend(errors, simulated="", predicted="", below=True)
    plot.legend(overlaps, below=True)


# One scale, in theory alone.


def one_scale(*, examples=(150, 130, 120), large=(60, 70, 80), inputs=100, times=29, sweep=sweep):
    """With features of one scale and without noise the test error only falls.

    Args:
        examples: number of examples of each system.
        large: number of features in the first of two groups, which are alike here.
        inputs: number of features of both groups, d.
        times: number of recorded times, from 0.1 to a million.
    """
    ratios = (1.0,) * len(examples)
    noises = (0.0,) * len(examples)
    systems = systems_of(examples, large, ratios, noises, inputs)
    times = np.geomspace(0.1, 1e6, times)
    experiment = partial(theory, inputs=inputs, times=times)
    with jax.enable_x64(True):
        return over(sweep, experiment, systems)


def largest_rise(runs):
    return runs.flow_E.diff("time").max(skipna=False)


def contour_error(runs):
    return worst(runs.contour)


def plot_one_scale(runs, figure):
    """Draw the test error of each system."""
    (axes,) = plot.panels(figure, "With one scale test errors only fall", height=3.0)
    for colour, system in zip(plot.COLOURS, range(runs.sizes["system"]), strict=False):
        run = runs.isel(system=system)
        label = f"{run.examples:g} examples"
        axes.plot(run.time, run.flow_E, color=colour, label=label)
    axes.set(xscale="log", xlabel="flow time", ylabel="test error in theory")
    axes.legend()


# A penalty, in theory alone.


def penalties(
    *,
    examples=150,
    large=60,
    ratio=50.0,
    noise=0.0,
    inputs=100,
    number=24,
    sweep=sweep,
):
    """A penalty on the weights makes the rise of the test error smaller, the more the larger it is.

    Args:
        examples: number of examples.
        large: number of large features.
        ratio: scale of the large features, divided by that of the small.
        noise: standard deviation of the noise, relative to that of the teacher.
        inputs: number of features of both scales, d.
        number: number of penalties, from a millionth to 1; twice as many times are recorded.
    """
    # Checked like a list of one system.
    systems_of((examples,), (large,), (ratio,), (noise,), inputs)
    numbers = {"examples": examples, "large": large, "ratio": ratio, "noise": noise}
    numbers = {name: np.float64(number) for name, number in numbers.items()}
    times = np.geomspace(0.1, 1e6, 2 * number)
    experiment = partial(penalised, inputs=inputs, times=times, **numbers)
    with jax.enable_x64(True):
        grid = np.geomspace(1e-6, 1, number)
        return sweep(experiment, {"penalty": grid})


def penalised(penalty, examples, large, ratio, noise, *, inputs, times):
    """The test error of the flow of a penalised loss."""
    system = population(examples, large, ratio, inputs=inputs), examples, noise
    flow = spectrum.flow(examples * times, *system, penalty=penalty / examples)
    return Trajectory(times, {"error": flow.excess / 2})


def rises(runs):
    """By how much the error rises after its lowest value so far, for each penalty."""
    errors = runs.error.transpose("penalty", "time").values
    lowest = np.minimum.accumulate(errors, axis=1)
    return (errors - lowest).max(axis=1)


def growth_of_rise(runs):
    return np.diff(rises(runs)).max()


def plot_penalties(runs, figure):
    """Draw the error over time and penalty, and its rise."""
    errors, heights = plot.panels(
        figure, "Test error over time and penalty", "A penalty lowers the rise", height=2.8
    )
    runs["error"].attrs["long_name"] = "test error"
    plot.phase_diagram(runs.error, x="time", y="penalty", axes=errors, log="xy")
    errors.set(xlabel="flow time", ylabel="penalty")
    heights.plot(runs.penalty, rises(runs), "o-")
    heights.set(xscale="log", xlabel="penalty", ylabel="rise of the test error")


SEVERAL = Domain("there are four data sets or more", lambda runs: runs.sizes["seed"] >= 4)
TURNING = Domain(
    "theory has the error rise and fall by 0.02 or more, and there are eight data sets or more",
    lambda runs: smallest_turn_in_theory(runs) > 0.02 and runs.sizes["seed"] >= 8,
)
EXPERIMENTS = (
    Experiment(
        double_descent,
        claims=(
            Claim(
                "R, Q and E_G of gradient flow are those of the exact theory, to four standard "
                "errors and 1/d",
                "largest deviation of a mean, in units of what is allowed",
                flow_deviation,
                below=1,
                when=SEVERAL,
            ),
            Claim(
                "R, Q and E_G of ridge regression are those of the exact theory, to four standard "
                "errors and 1/d",
                "largest deviation of a mean, in units of what is allowed",
                ridge_deviation,
                below=1,
                when=SEVERAL,
            ),
            Claim(
                "the test error falls, rises and falls again, each by three standard errors",
                "smallest mean rise or fall, in standard errors",
                smallest_turn,
                above=3,
                when=TURNING,
            ),
        ),
        plot=plot_double_descent,
        paper=MANY | {"seeds": 40},
        others=(NOISY | {"seeds": 16}, FEWER),
    ),
    Experiment(
        one_scale,
        claims=(
            Claim(
                "with one scale and no noise the test error only falls",
                "largest rise of the test error from one time to the next",
                largest_rise,
                below=1e-10,
            ),
            Claim(
                "24 nodes on the contour are exact to 1e-6 with one scale",
                "largest deviation of the test error from that by more nodes",
                contour_error,
                below=1e-6,
            ),
        ),
        plot=plot_one_scale,
        paper=MANY,
        others=({"examples": (160,), "large": (50,)}, {"examples": (90, 75), "large": (40, 45)}),
    ),
    Experiment(
        penalties,
        claims=(
            Claim(
                "a penalty makes the rise of the test error smaller, the more the larger it is",
                "largest growth of the rise from one penalty to the next larger",
                growth_of_rise,
                below=1e-10,
            ),
        ),
        plot=plot_penalties,
        paper={"examples": 600, "large": 240, "inputs": 400, "number": 48},
        others=(
            {"examples": 160, "large": 50, "ratio": 30.0, "noise": 0.1},
            {"examples": 90, "large": 40, "ratio": 60.0, "inputs": 60},
        ),
    ),
)
