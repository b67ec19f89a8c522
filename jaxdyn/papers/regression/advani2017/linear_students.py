"""Linear students, whose errors are integrals over the spectrum of the inputs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxdyn import Claim, Trajectory, plot, sweep
from jaxdyn._numbers import check, check_positive
from jaxdyn.claims import Domain, standard_error, worst
from jaxdyn.papers import Experiment
from jaxdyn.tasks import teacher_student
from jaxdyn.theory.regression import equivalents, given_data, isotropic, spectrum

__all__ = ["EXPERIMENTS"]


def learning_curves(
    *,
    inputs=200,
    examples_per_weight=(0.5, 1.0, 2.0),
    signal=5.0,
    start=1.0,
    duration=100.0,
    seeds=8,
    sweep=sweep,
):
    """Students overtrain most where there are as many examples as weights.

    Test and training errors at any time are integrals over the spectrum of the inputs.

    Args:
        inputs: number of inputs, and so of weights.
        examples_per_weight: numbers of examples, divided by the number of weights.
        signal: variance of the teacher's outputs, in variances of the noise.
        start: variance of the student's initial outputs, in variances of the noise.
        duration: flow time at the end.
        seeds: number of data sets.
    """
    check_positive(inputs=inputs, examples_per_weight=np.array(examples_per_weight))
    # Whole numbers of examples.
    examples = np.round(np.array(examples_per_weight) * inputs)
    times = np.r_[0, np.geomspace(0.1, duration, 19)]
    most = round(examples.max())
    options = {"inputs": inputs, "most": most, "times": times}
    student = partial(linear_student, signal=signal, start=start, **options)
    axes = {"examples_per_weight": examples / inputs}
    with jax.enable_x64(True):
        runs = sweep(student, axes, seeds=seeds)
    return runs.assign_attrs(inputs=inputs)


def linear_student(key, examples_per_weight, *, inputs, most, signal, start, times):
    """Test and training error of the flow on some of the examples drawn, beside the integrals over
    the spectrum."""
    data = teacher_student(key, inputs, most, snr=signal, inr=start)
    examples = examples_per_weight * inputs
    # Examples that are left out are zero, so that one program has any number of them.
    used = jnp.arange(most) < jnp.round(examples)
    noise = data.y - data.x @ data.teacher
    noise = jnp.where(used, noise, 0.0)
    x = data.x * used[:, None]
    # Of variance 1 among the examples used.
    normalised = noise * jnp.sqrt(examples / jnp.sum(noise**2))
    y = x @ data.teacher + normalised
    w = given_data.flow(most * times, x, y, data.start)
    theory = learning_curve(times, examples_per_weight, signal, start)
    excess = given_data.excess_error(w, data.teacher, data.eigenvalues)
    train = given_data.mean_squared_error(w, x, y) * most / examples
    simulated = {"test": 1 + excess, "train": train}
    predicted = {"test_theory": 1 + theory.excess, "train_theory": theory.train}
    return Trajectory(times, simulated | predicted)


def learning_curve(times, examples_per_weight, signal, start):
    """The errors of the flow in the paper's clock, that of the sum over examples."""
    population = equivalents.population(1.0, 1.0, signal, start)
    return spectrum.flow(examples_per_weight * times, population, examples_per_weight, 1.0)


def curve_deviation(runs, name):
    """Deviation of a mean error from theory, in units of four standard errors and what the size of
    the system allows.

    The spectrum of N inputs moves means of f by sup f/N (Bai, Silverstein), and resolves it to
    1/(t density).
    """
    deviation = runs[name] - runs[f"{name}_theory"]
    theory = runs[f"{name}_theory"].isel(seed=0)
    gap = (1 - runs.examples_per_weight**0.5) ** 2
    decay = np.exp(-2 * runs.time * gap)
    edge = decay * theory.isel(time=0)
    resolved = theory * (1 + runs.time**0.5)
    size = (edge + resolved) / runs.attrs["inputs"]
    # The contours of the theory are exact to 1e-10.
    allowed = 4 * standard_error(deviation) + size + 1e-10
    return worst(deviation.mean("seed") / allowed)


def deviation_of_test(runs):
    return curve_deviation(runs, "test")


def deviation_of_training(runs):
    return curve_deviation(runs, "train")


def plot_learning_curves(runs, figure):
    """Draw test and training errors over time for each number of examples."""
    panels = plot.panels(figure, "Test errors rise again", "Training errors only fall", height=3.4)
    later = runs.isel(time=slice(1, None))
    for axes, name in zip(panels, ("test", "train"), strict=True):
        for colour, ratio in zip(plot.COLOURS, runs.examples_per_weight.values, strict=False):
            run = later.sel(examples_per_weight=ratio)
            label = f"{ratio:g} examples per weight" if name == "test" else ""
            plot.beside(axes, run, name, colour=colour, label=label)
        axes.set(xscale="log", xlabel="flow time")
    test, train = panels
    test.set(ylabel="test error / noise")
    train.set(ylabel="training error / noise")
    plot.legend(test, simulated="", predicted="", below=True)
    plot.legend(train, below=True)


# The end of training, in theory alone.


def end_of_training(*, examples_per_weight=(0.5, 2.0), signal=5.0, start=1.0, sweep=sweep):
    """The spectrum's integrals, its contours and closed forms agree on the errors of training.

    Args:
        examples_per_weight: numbers of examples, divided by the number of weights; not 1, where
            training takes for ever.
        signal: variance of the teacher's outputs, in variances of the noise.
        start: variance of the student's initial outputs, in variances of the noise.
    """
    ratios = np.array(examples_per_weight, float)
    check("examples_per_weight", ratios, lambda values: values > 0, "positive numbers")
    check("examples_per_weight", ratios, lambda values: values != 1, "numbers other than 1")
    experiment = partial(asymptotics, signal=signal, start=start)
    with jax.enable_x64(True):
        return sweep(experiment, {"examples_per_weight": ratios}, dims={"excess": "record"})


def asymptotics(examples_per_weight, *, signal, start):
    """The excess error at four times by its integral over the spectrum and by the contour for any
    spectrum, and its end in closed form."""
    slowest_rate = (1 - examples_per_weight**-0.5) ** 2
    # After 50 time constants of the slowest mode nothing changes any more.
    late = 50 / slowest_rate
    times = jnp.array([0.1, 1.0, 10.0, late])
    population = equivalents.population(1.0, 1.0, signal, start)
    variances = {"power": signal, "noise": 1.0, "start": start}
    # With 4000 nodes the integral is exact to rounding, also where the spectrum nearly closes.
    integral = isotropic.flow(times, examples_per_weight, **variances, nodes=4000).excess
    contour = spectrum.flow(times, population, examples_per_weight, 1.0).excess
    closed_form = isotropic.trained(examples_per_weight, **variances)
    end = {"end": integral[-1], "end_theory": closed_form}
    return {"times": times, "excess": integral, "excess_theory": contour, **end}


def end_deviation(runs):
    return worst(runs.end, runs.end_theory, relative=True)


def contour_deviation(runs):
    return worst(runs.excess, runs.excess_theory, relative=True)


def plot_end_of_training(runs, figure):
    """Draw the excess error over time by integral and contour, and its end."""
    (axes,) = plot.panels(figure, "Three forms of the theory agree", height=3.2)
    for colour, ratio in zip(plot.COLOURS, runs.examples_per_weight.values, strict=False):
        run = runs.sel(examples_per_weight=ratio)
        curves = (run.times, run.excess, run.excess_theory)
        label = f"{ratio:g} examples per weight"
        plot.points_and_line(axes, *curves, colour=colour, label=label)
        axes.axhline(run.end_theory, color=colour, linestyle=":")
    axes.plot([], [], ":", color="0.3", label="closed form of the end")
    axes.set(xscale="log", xlabel="flow time", ylabel="excess error (variances of noise)")
    plot.legend(axes, simulated="integral over the spectrum", predicted="contour")


# Overtraining, in theory alone.


def overtraining(*, signal=5.0, duration=100.0, sweep=sweep):
    """Overtraining is worst with as many examples as weights, where noise adds up as sqrt(t).

    Args:
        signal: variance of the teacher's outputs, in variances of the noise.
        duration: flow time at the end of training.
    """
    check_positive(signal=signal, duration=duration)
    ratios = np.linspace(0.6, 1.6, 201)
    # The asymptote of the noise is compared with its integral over two decades of late times.
    late = np.geomspace(1e2, 1e4, 5)
    experiment = partial(error_rise, signal=signal, duration=duration)
    with jax.enable_x64(True):
        runs = sweep(experiment, {"examples_per_weight": ratios})
        noise = isotropic.flow(late, 1.0, noise=1.0, nodes=4000).noise
        asymptote = isotropic.noise_at_threshold(late)
    runs = runs.assign_coords(late=late).assign_attrs(duration=duration, signal=signal)
    runs["noise"] = ("late", np.asarray(noise))
    runs["noise_theory"] = ("late", np.asarray(asymptote))
    return runs


def error_rise(examples_per_weight, *, signal, duration):
    """By how much the test error has risen at a late time."""
    times = jnp.geomspace(1e-2, duration, 100)
    errors = learning_curve(times, examples_per_weight, signal, 0.0).excess
    return {"rise": errors[-1] - errors.min()}


def noise_beyond_asymptote(runs):
    return worst(runs.late**0.5 * (runs.noise - runs.noise_theory))


def distance_of_peak(runs):
    peak = int(runs.rise.argmax("examples_per_weight"))
    return abs(runs.examples_per_weight[peak] - 1)


def plot_overtraining(runs, figure):
    """Draw overtraining against the number of examples, and what noise adds at the peak."""
    rises, noises = plot.panels(
        figure,
        "Overtraining peaks at one example per weight",
        "There noise adds up as sqrt(t)",
        height=3.2,
    )
    rises.plot(runs.examples_per_weight, runs.rise)
    rises.axvline(1, color="0.6", linewidth=0.8, linestyle="--")
    rises.set(xlabel="examples per weight", ylabel="rise of the test error")
    plot.points_and_line(noises, runs.late, runs.noise, runs.noise_theory)
    noises.set(xscale="log", yscale="log")
    noises.set(xlabel="flow time", ylabel="error due to noise")
    formula = "0.661 sqrt(t) - 1/2"
    plot.legend(noises, simulated="integral", predicted=formula, below=True)


# Early stopping and ridge, in theory alone.


def early_stopping(*, signals=(1.0, 5.0, 50.0), examples_per_weight=(0.5, 1.0, 2.0), sweep=sweep):
    """Stopping at the best time is nearly as good as the best ridge.

    Args:
        signals: variances of the teacher's outputs, in variances of the noise.
        examples_per_weight: numbers of examples, divided by the number of weights.
    """
    ratios = np.array(examples_per_weight, float)
    check_positive(signals=np.array(signals), examples_per_weight=ratios)
    with jax.enable_x64(True):
        return sweep(stopping, {"signal": signals, "examples_per_weight": ratios})


def stopping(signal, examples_per_weight):
    """The test error of the best time to stop over that of the best ridge."""
    population = equivalents.population(1.0, 1.0, signal)
    _, stopped = spectrum.optimal_stopping(population, examples_per_weight, 1.0)
    _, ridge = isotropic.optimal_ridge(examples_per_weight, power=signal, noise=1.0)
    return {"error_ratio": (1 + stopped) / (1 + ridge)}


def smallest_error_ratio(runs):
    return runs.error_ratio.min(skipna=False)


def largest_error_ratio(runs):
    return runs.error_ratio.max(skipna=False)


def plot_early_stopping(runs, figure):
    """Draw the ratio of test errors."""
    (axes,) = plot.panels(figure, "Early stopping is at most 3 % worse than ridge", height=3.4)
    for colour, signal in zip(plot.COLOURS, runs.signal.values, strict=False):
        ratio = runs.error_ratio.sel(signal=signal)
        label = f"signal {signal:g} times the noise"
        axes.plot(ratio.examples_per_weight, ratio, "o-", color=colour, label=label)
    axes.axhline(1, color="0.6", linewidth=0.8, linestyle="--")
    axes.set(xlabel="examples per weight", ylabel="test error, best stopping / best ridge")
    plot.legend(axes, simulated="", predicted="", below=True, ncols=2)


FEW_EXAMPLES = {"examples_per_weight": (0.3, 1.5), "signal": 2.0, "start": 0.2}

SEVERAL = Domain("there are four data sets or more", lambda runs: runs.sizes["seed"] >= 4)
LONG = Domain(
    "training takes longer than 10 and than signal / noise, when noise prevails",
    lambda runs: runs.attrs["duration"] > max(10, runs.attrs["signal"]),
)

EXPERIMENTS = (
    Experiment(
        learning_curves,
        claims=(
            Claim(
                "test errors are integrals over the spectrum, to four standard errors and what the "
                "size of the system allows",
                "largest deviation of a mean test error, in units of what is allowed",
                deviation_of_test,
                below=1,
                when=SEVERAL,
            ),
            Claim(
                "training errors are integrals over the spectrum, to four standard errors and what "
                "the size of the system allows",
                "largest deviation of a mean training error, in units of what is allowed",
                deviation_of_training,
                below=1,
                when=SEVERAL,
            ),
        ),
        plot=plot_learning_curves,
        paper={"inputs": 400, "duration": 400.0, "seeds": 16},
        others=(
            FEW_EXAMPLES | {"inputs": 80, "duration": 30.0},
            {"inputs": 100, "examples_per_weight": (1.0, 4.0), "start": 3.0},
        ),
    ),
    Experiment(
        end_of_training,
        claims=(
            Claim(
                "training ends in the closed forms for more and for fewer examples than weights",
                "largest relative deviation of the integral's end from the closed form",
                end_deviation,
                below=1e-10,
            ),
            Claim(
                "the contours of deterministic equivalents give the same errors at any time as "
                "integrals over the spectrum",
                "largest relative difference between integral and contour",
                contour_deviation,
                below=1e-10,
            ),
        ),
        plot=plot_end_of_training,
        others=(FEW_EXAMPLES, {"examples_per_weight": (4.0,), "start": 3.0}),
    ),
    Experiment(
        overtraining,
        claims=(
            Claim(
                "with as many examples as weights noise adds 0.661 sqrt(t) - 1/2 to the error, up "
                "to 1/sqrt(t)",
                "largest deviation of the noise's part from the asymptote, times sqrt(t)",
                noise_beyond_asymptote,
                below=1,
            ),
            Claim(
                "overtraining is worst with as many examples as weights, up to 1/sqrt(t)",
                "distance of the worst number of examples per weight from 1",
                distance_of_peak,
                below=lambda runs: runs.attrs["duration"] ** -0.5,
                when=LONG,
            ),
        ),
        plot=plot_overtraining,
        paper={"duration": 400.0},
        others=({"signal": 2.0, "duration": 30.0},),
    ),
    Experiment(
        early_stopping,
        claims=(
            Claim(
                "early stopping is no better than the best ridge",
                "smallest ratio of test errors, best time to stop / best ridge",
                smallest_error_ratio,
                above=1,
            ),
            Claim(
                "early stopping is at most 3 % worse than the best ridge",
                "largest ratio of test errors, best time to stop / best ridge",
                largest_error_ratio,
                below=1.03,
            ),
        ),
        plot=plot_early_stopping,
        others=(
            {"signals": (0.3, 3.0), "examples_per_weight": (0.3, 1.5)},
            {"examples_per_weight": (1.0, 4.0)},
        ),
    ),
)
