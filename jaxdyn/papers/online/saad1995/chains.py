"""Committees of finitely many inputs: one law for networks and chains, fluctuations, escape."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr

from jaxdyn import Claim, Domain, crossing_time, integrate, plot, sweep, train
from jaxdyn.claims import standard_error, worst
from jaxdyn.losses import squared_error
from jaxdyn.papers import Experiment
from jaxdyn.papers.online.saad1995.committees import (
    RECORDS,
    check_learning_rate,
    check_sizes,
    observed,
    plateau_of,
    start_of,
    sweep_chains,
)
from jaxdyn.tasks import labelled
from jaxdyn.tasks import online as stream_of
from jaxdyn.theory import online
from jaxdyn.theory.online import fluctuations, specialisation
from jaxdyn.theory.online.gaussian_integrals import erf, root, sobol, trapezoid

__all__ = ["EXPERIMENTS"]

SOON = 4.0  # the last time of fluctuations
LATE = slice(10, None, 10)  # the records at which they are judged
APART = 0.1  # the gap of their start


# Networks and chains: the same law, with and without weights.


def one_law(*, units=2, learning_rate=1.0, noise=0.1, inputs=50, runs=2048, sweep=sweep):
    """Networks that learn on-line, and chains of their overlaps without any weights, are one in
    law.

    Args:
        units: number of units of the student and of the teacher.
        learning_rate: learning rate eta.
        noise: standard deviation of the noise on the labels.
        inputs: number of inputs d, a multiple of 50.
        runs: number of networks, and of chains.
    """
    check_learning_rate(units, learning_rate)
    check_sizes("inputs", (inputs,))
    setting = {"units": units, "learning_rate": learning_rate}
    kind = {"inputs": inputs, "last": SOON, "gap": APART, "noise": noise, "runs": runs}
    learner = partial(network, inputs=inputs, noise=noise, **setting)
    with jax.enable_x64(True):
        chains = sweep_chains([kind], sweep, **setting)
        networks = sweep(learner, seeds=runs, dims={"overlaps": "entry"})
    return {"chains": chains.isel(time=LATE), "networks": networks.rename(seed="run")}


def network(key, *, inputs, units, learning_rate, noise):
    """Learn by descent on the weights themselves."""
    own, with_teacher, readout = start_of(units, APART)
    teacher = specialisation.teacher(units)
    teacher_weights = jnp.eye(units, inputs)
    gram = jnp.block([[teacher.overlaps, with_teacher.T], [with_teacher, own]])
    start = root(gram)[units:] @ jnp.eye(2 * units, inputs)

    def machine(weights, x):
        return erf().apply(x @ weights.T) @ readout

    def example(key):
        return labelled(key, partial(machine, teacher_weights), 1, inputs, noise=noise)

    def observe(state):
        return observed(online.overlaps(state.params, readout, teacher_weights), teacher)

    field = jax.grad(squared_error(machine))
    optimizer = optax.sgd(learning_rate / inputs)
    times = (SOON * RECORDS[LATE] * inputs).round().astype(int)
    stream = stream_of(example)
    return train(field, optimizer, stream, start, times=times, observe=observe, key=key)


def moments(runs):
    """All overlaps and their products, of every run and time."""
    overlaps = runs.overlaps.transpose("run", "time", "entry").values
    products = overlaps[..., None] * overlaps[..., None, :]
    return np.concatenate([overlaps[..., None], products], -1)


def law_z_score(results):
    chains = moments(results["chains"])
    networks = moments(results["networks"])
    squares = chains.var(0) / len(chains) + networks.var(0) / len(networks)
    return worst((chains.mean(0) - networks.mean(0)) / np.sqrt(squares))


def of_overlaps(runs, statistic):
    """A statistic of each overlap at each time, "mean" or "std"."""
    overlaps = runs.overlaps.transpose("run", "time", "entry")
    return overlaps.reduce(getattr(np, statistic), "run").values.ravel()


def plot_one_law(results, figure):
    """Draw means and standard deviations of all overlaps, of networks against those of chains."""
    panels = plot.panels(figure, "Means of overlaps", "Their standard deviations")
    for axes, statistic in zip(panels, ("mean", "std"), strict=True):
        networks = of_overlaps(results["networks"], statistic)
        chains = of_overlaps(results["chains"], statistic)
        order = np.argsort(chains)
        plot.points_and_line(axes, chains[order], networks[order], chains[order], points=99)
        axes.set(xlabel="chains", ylabel="networks")
    plot.legend(panels[0], simulated="overlaps", predicted="one law")


# Fluctuations: how chains scatter about the ODE.


def finite_size(
    *,
    units=2,
    learning_rate=1.0,
    noise=0.1,
    sizes=(50, 200),
    runs=2048,
    large=5000,
    large_runs=64,
    sweep=sweep,
):
    """With d inputs the mean overlaps are off the ODE by 1/d, and scatter about it by 1/sqrt(d), as
    theory predicts.

    Args:
        units: number of units of the student and of the teacher.
        learning_rate: learning rate eta.
        noise: standard deviation of the noise on the labels.
        sizes: numbers of inputs d of the means, multiples of 50.
        runs: number of chains of each of these sizes.
        large: number of inputs at which the scatter is judged, a multiple of 50.
        large_runs: number of chains of this size.
    """
    check_learning_rate(units, learning_rate)
    check_sizes("sizes and large", (*sizes, large))
    setting = {"units": units, "learning_rate": learning_rate}
    start = {"last": SOON, "gap": APART, "noise": noise}
    kinds = [start | {"inputs": size, "runs": runs} for size in sizes]
    kinds.append(start | {"inputs": large, "runs": large_runs})
    dims = dict.fromkeys(("overlaps", "offset", "variance"), "entry")
    with jax.enable_x64(True):
        chains = sweep_chains(kinds, sweep, **setting)
        theory = sweep(partial(scatter, noise=noise, **setting), dims=dims)
    chains = chains.isel(time=LATE).assign_coords(time=theory.time)
    return {"chains": chains, "fluctuations": theory}


def scatter(*, units, learning_rate, noise):
    """Integrate the ODE with what fluctuates about it at finite d."""
    rule = trapezoid(9) if units == 2 else sobol(15)  # a grid of six dimensions would be too large
    teacher = specialisation.teacher(units, noise)
    kept = 2 * units**2
    velocity = fluctuations.online_velocity(teacher, rule=rule, learning_rate=learning_rate)

    def observe(state):
        student, covariance, offset = state.params
        variance = jnp.diagonal(covariance)[:kept]
        return observed(student, teacher) | {"offset": offset[:kept], "variance": variance}

    start = fluctuations.start(start_of(units, APART))
    times = SOON * RECORDS[LATE]
    # Far below the standard errors of the chains.
    return integrate(velocity, start, times=times, observe=observe, rtol=1e-7)


def sizes_of(results):
    return np.unique(results["chains"].inputs)


def chains_of(results, size):
    """The chains of so many inputs."""
    chains = results["chains"]
    return chains.isel(run=chains.inputs.values == size)


def deviations(results, size, offsets=1):
    """By how much overlaps of runs are off the ODE and their predicted offset, in predicted
    standard deviations."""
    theory = results["fluctuations"]
    expected = theory.overlaps + offsets * theory.offset / size
    overlaps = chains_of(results, size).overlaps
    return (overlaps - expected) / np.sqrt(theory.variance / size)


def mean_deviation(results, size, offsets=1):
    """The largest deviation of a mean, in predicted standard errors."""
    deviation = deviations(results, size, offsets)
    return worst(deviation.mean("run")) * deviation.sizes["run"] ** 0.5


def mean_z_score(results):
    return max(mean_deviation(results, size) for size in sizes_of(results))


def z_score_without_offset(results):
    return mean_deviation(results, sizes_of(results)[0], offsets=0)


def scatter_z_score(results):
    """By how many standard errors the variance at the largest size is off, whose cube root is
    nearly Gaussian."""
    deviation = deviations(results, sizes_of(results)[-1])
    cube_roots = np.cbrt(deviation.var("run", ddof=1))
    return worst(cube_roots, 1.0) * (4.5 * deviation.sizes["run"]) ** 0.5


def offset_shows(results):
    """Whether the predicted offset of the fewest inputs is two standard errors more than what
    would be noticed."""
    theory = results["fluctuations"]
    size = sizes_of(results)[0]
    errors = np.sqrt(theory.variance * size / chains_of(results, size).sizes["run"])
    return worst(theory.offset / errors) > 4.5 + 2


def plot_finite_size(results, figure):
    """Draw the offsets of means of the small sizes, and the variances of the largest."""
    offsets, variances = plot.panels(
        figure, "Means are off by 1/d", "Variances of many inputs", height=3.4
    )
    theory = results["fluctuations"].isel(time=-1)
    *small, large = sizes_of(results)
    order = np.argsort(theory.offset.values)
    predicted = theory.offset[order]
    for colour, size in zip(plot.COLOURS, small, strict=False):
        off = size * (chains_of(results, size).overlaps.isel(time=-1) - theory.overlaps)
        errors = standard_error(off, "run")[order]
        label = f"d = {size:.0f}"
        style = {"errors": errors, "colour": colour, "label": label}
        plot.points_and_line(offsets, predicted, off.mean("run")[order], predicted, **style)
    offsets.set(xlabel="predicted offset times d", ylabel="d (mean - ODE)")
    plot.legend(offsets, below=True, ncols=2)
    overlaps = chains_of(results, large).overlaps.isel(time=-1)
    order = np.argsort(theory.variance.values)
    predicted = theory.variance[order]
    measured = large * overlaps.var("run", ddof=1)[order]
    # The standard error of a variance of Gaussians.
    errors = predicted * np.sqrt(2 / overlaps.sizes["run"])
    label = f"d = {large:.0f}"
    colour = plot.COLOURS[2]
    style = {"errors": errors, "colour": colour, "label": label}
    plot.points_and_line(variances, predicted, measured, predicted, **style)
    variances.set(xlabel="predicted variance times d", ylabel="d times the variance")
    plot.legend(variances, below=True)


# Escape from the plateau: random weights decide when.


def escape_times(
    *, units=2, learning_rate=1.0, sizes=(50, 100, 300), runs=128, scale=0.02, sweep=sweep
):
    """From random weights units specialise after a time that grows as log(d)/(2 rate), and scatters
    as much for any number of inputs d.

    Args:
        units: number of units of the student and of the teacher.
        learning_rate: learning rate eta.
        sizes: numbers of inputs d, multiples of 50.
        runs: number of chains of each size.
        scale: standard deviation of the initial weights.
    """
    check_learning_rate(units, learning_rate)
    check_sizes("sizes", sizes)
    setting = {"units": units, "learning_rate": learning_rate, "scale": scale}
    with jax.enable_x64(True):
        level, rate = plateau_of(units, learning_rate)
        slope, spread = specialisation.escape_time_law(rate, (units - 1) ** 2)
        # One escape in 400 or so is later than the last time, and counts as that.
        lasts = (np.log(sizes) / 2 + 8) / rate
        start = {"gap": 0, "noise": 0, "runs": runs}
        cases = zip(sizes, lasts, strict=True)
        kinds = [start | {"inputs": size, "last": last} for size, last in cases]
        chains = sweep_chains(kinds, sweep, first_draw=FIRST_ESCAPE, **setting)
    specialised = crossing_time(np.log(chains.asymmetry), np.log(SPECIALISED))
    times = specialised.fillna(chains.time.max("time")).values
    escape = xr.DataArray(times.reshape(len(sizes), runs), dims=("inputs", "run"))
    theory = {"slope": float(slope), "spread": float(spread), "level": level}
    escape = xr.Dataset({"escape": escape.assign_coords(inputs=list(sizes)), **theory})
    # For the figure.
    largest = chains.isel(run=slice((len(sizes) - 1) * runs, None))
    return {"escape": escape, "chains": largest.isel(run=slice(8))[["error", "ok"]]}


FIRST_ESCAPE = 4160  # the number of its first draw, beyond those of chains that do not escape
SPECIALISED = 0.1  # the asymmetry of units that are on their way to one teacher each


def time_differences(results):
    """By how much the mean time beyond log(d)/(2 rate) differs between numbers of inputs."""
    escape = results["escape"]
    beyond = escape.escape.mean("run") - escape.slope * np.log(escape.inputs)
    return beyond.max() - beyond.min()


def time_error(results):
    """Three standard errors of the difference of two means."""
    escape = results["escape"]
    return 3 * escape.spread * (2 / escape.sizes["run"]) ** 0.5


def spread_deviation(results):
    escape = results["escape"]
    return worst(escape.escape.std("run", ddof=1), escape.spread, relative=True)


def spread_error(results):
    """Three standard errors of a standard deviation: the fourth cumulant of log|xi| is four squares
    of its variance, or less."""
    return 3 * (1.5 / results["escape"].sizes["run"]) ** 0.5


def several_escapes(results):
    return results["escape"].sizes["run"] >= 20


def several_sizes(results):
    return several_escapes(results) and results["escape"].sizes["inputs"] > 1


def plot_escape_times(results, figure):
    """Draw eight errors of the largest size, and the mean times of escape."""
    errors, times = plot.panels(figure, "Chains leave the plateau", "Later by log(d)/(2 rate)")
    chains = results["chains"]
    escape = results["escape"]
    for run in range(chains.sizes["run"]):
        chain = chains.isel(run=run)
        label = "_" * run + f"chains, d = {float(chain.inputs):.0f}"
        errors.plot(chain.time, chain.error, color=plot.COLOURS[1], linewidth=0.6, label=label)
    errors.axhline(float(escape.level), color="0.3", linestyle="--", label="plateau, theory")
    errors.set(xlabel="examples per input", ylabel="generalisation error", yscale="log")
    errors.legend(loc="lower left")
    mean = escape.escape.mean("run")
    logarithm = np.log(escape.inputs)
    line = mean.mean() + escape.slope * (logarithm - logarithm.mean())
    bars = standard_error(escape.escape, "run")
    plot.points_and_line(times, escape.inputs, mean, line, errors=bars)
    times.set(xlabel="number of inputs d", ylabel="mean time of escape", xscale="log")
    ticks = [str(size) for size in escape.inputs.values]
    times.set_xticks(escape.inputs.values, ticks)
    times.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    plot.legend(times, predicted="slope in theory")


def many_runs(name):
    """The domain of enough runs: products of overlaps have heavy tails, and so have few means."""

    def contains(results):
        return results[name].sizes["run"] >= 400

    return Domain("there are 400 runs or more", contains)


SEVERAL_ESCAPES = Domain("there are 20 chains or more of each size", several_escapes)

ONE_LAW_CLAIM = Claim(
    "networks and chains of as many inputs are one in law, in two moments of all overlaps",
    "largest difference of a first or second moment, in standard errors",
    law_z_score,
    below=4.5,
    when=many_runs("networks"),
)
MEANS = Claim(
    "mean overlaps of d inputs are those of the ODE and an offset of 1/d that theory predicts",
    "largest deviation of a mean overlap, in predicted standard errors",
    mean_z_score,
    below=4.5,
)
OFFSET = Claim(
    "mean overlaps of few inputs are not those of the ODE of infinitely many",
    "largest deviation of a mean overlap from the ODE, in predicted standard errors",
    z_score_without_offset,
    above=4.5,
    when=Domain("the predicted offset is 6.5 standard errors or more", offset_shows),
)
SCATTER = Claim(
    "overlaps of many inputs scatter about the ODE with the predicted variance",
    "largest deviation of the cube root of a variance, in standard errors",
    scatter_z_score,
    below=4.5,
    when=Domain(
        "there are two chains or more of the largest size",
        lambda results: chains_of(results, sizes_of(results)[-1]).sizes["run"] > 1,
    ),
)
ESCAPE = Claim(
    "the mean time of escape from random weights grows with the inputs d as log(d)/(2 rate)",
    "largest difference between sizes of the mean time beyond log(d)/(2 rate), below three "
    "standard errors",
    time_differences,
    below=time_error,
    when=Domain("there are two sizes or more, of 20 chains or more each", several_sizes),
)
SPREAD = Claim(
    "times of escape scatter as the logarithm of a normal amplitude, whatever the number of inputs",
    "largest relative deviation of a standard deviation from theory, below three standard errors",
    spread_deviation,
    below=spread_error,
    when=SEVERAL_ESCAPES,
)

PAPER = {"units": 3, "learning_rate": 0.5}
PAPER_LAW = PAPER | {"inputs": 100, "runs": 8192}
PAPER_SIZES = PAPER | {"sizes": (100, 400), "runs": 8192, "large": 10**6}
PAPER_ESCAPES = PAPER | {"sizes": (100, 400, 1600), "runs": 1024}
SLOWER = {"learning_rate": 0.7, "noise": 0.2}
FASTER = {"learning_rate": 1.3, "noise": 0.05, "runs": 1024}
SLOWER_ESCAPES = {"learning_rate": 0.7, "sizes": (50, 150), "runs": 64}
FASTER_ESCAPES = {"learning_rate": 1.3, "sizes": (50, 100), "scale": 0.1}

ONE_LAW = Experiment(
    one_law,
    claims=(ONE_LAW_CLAIM,),
    plot=plot_one_law,
    paper=PAPER_LAW,
    others=(SLOWER, FASTER),
)
FINITE_SIZE = Experiment(
    finite_size,
    claims=(MEANS, OFFSET, SCATTER),
    plot=plot_finite_size,
    paper=PAPER_SIZES,
    others=(SLOWER | {"large": 2000}, FASTER | {"sizes": (50, 150)}),
)
ESCAPE_TIMES = Experiment(
    escape_times,
    claims=(ESCAPE, SPREAD),
    plot=plot_escape_times,
    paper=PAPER_ESCAPES,
    others=(SLOWER_ESCAPES, FASTER_ESCAPES),
)
EXPERIMENTS = (ONE_LAW, FINITE_SIZE, ESCAPE_TIMES)
