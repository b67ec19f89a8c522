"""Training: how the kernel moves, and what it does to functions."""

import numpy as np
import xarray as xr

from jaxdyn import Claim, Domain, plot, power_law, sweep
from jaxdyn.claims import standard_error, worst, z_score
from jaxdyn.papers import Experiment
from jaxdyn.papers.width.jacot2018.networks import (
    ANGLES,
    KINDS,
    LATER,
    circle_task,
    descents,
    target,
    with_limit,
)

__all__ = ["EXPERIMENTS"]

# The kernel moves in training, by less the wider the network.


def kernel_drift(
    *, widths=(32, 64, 128), seeds=32, examples=12, noise=0.5, rate=1.0, last=100, sweep=sweep
):
    """Training moves the kernel by 1/width, faster than in the proof, and makes it larger; only
    single layers' weights move by 1/sqrt(width).

    Networks of one hidden layer of error functions, and of three of rectifiers, learn 2 x_1 x_2 on
    the circle.

    Args:
        widths: numbers of units in each hidden layer, three at least.
        seeds: number of networks of each kind and width.
        examples: number of examples on the circle.
        noise: standard deviation of the noise on the labels for error functions.
        rate: learning rate.
        last: number of steps of descent.
    """
    task = circle_task(examples=examples, noise=noise, rate=rate, last=last)
    runs = descents(task, list(KINDS), widths, seeds, sweep)
    return with_limit(runs[["drift", "moved", "row", "ok"]], task, "row_theory")


def exponent(runs, name):
    """The power of the width by which a quantity falls, and its margin: three standard errors and
    0.1 for the next order in 1/width."""
    values = runs[name].transpose("seed", "width")
    widths = values.width.broadcast_like(values)
    fit = power_law(widths.values.ravel(), values.values.ravel(), confidence=0.9973)
    margin = (fit.high - fit.low) / 2
    return fit.exponent, margin + 0.1


def erf_drift_exponent(runs):
    return exponent(runs.sel(kind="erf"), "drift")[0]


def relu_drift_exponent(runs):
    return exponent(runs.sel(kind="relu"), "drift")[0]


def moved_exponent(runs):
    return exponent(runs.sel(kind="erf"), "moved")[0]


def around(power, name):
    """Return the bounds of an exponent as a function of the results: `power` -+ its margin."""

    def bounds(runs):
        margin = exponent(runs.sel(kind="erf"), name)[1]
        return power - margin, power + margin

    return bounds


def clearly_faster(runs):
    return -0.5 - exponent(runs.sel(kind="relu"), "drift")[1]


def growth_z_score(runs):
    """By how many standard errors the kernel of rectifiers grows, at the width where it is least
    sure, and more at the narrowest than at the widest."""
    diagonal = runs.row.sel(kind="relu").isel(point=0)
    growth = diagonal.isel(when=1) - diagonal.isel(when=0)
    more = growth.isel(width=0, drop=True) - growth.isel(width=-1, drop=True)
    return min(smallest_z_score(growth), smallest_z_score(more))


def smallest_z_score(changes):
    scores = changes.mean("seed") / standard_error(changes)
    return float(scores.min(skipna=False))


def plot_kernel_drift(runs, figure):
    """Draw kernels on the circle before and after training, and how far they move."""
    circle, drift = plot.panels(
        figure,
        "Training makes kernels larger, narrow ones most",
        "They move by 1/width",
        height=3.2,
    )
    rectifiers = runs.sel(kind="relu")
    for colour, place in ((plot.COLOURS[0], 0), (plot.COLOURS[1], -1)):
        rows = rectifiers.row.isel(width=place).mean("seed")
        width = f"n = {float(rectifiers.width[place]):.0f}"
        circle.plot(ANGLES, rows.isel(when=0), "--", color=colour, label=f"{width}, before")
        circle.plot(ANGLES, rows.isel(when=1), "-", color=colour, label=f"{width}, after")
    circle.plot(ANGLES, rectifiers.row_theory, color="black", label="limit")
    circle.set(xlabel="angle on the circle", ylabel="kernel K(0, angle)")
    circle.legend(loc="upper center")
    for colour, kind in zip(plot.COLOURS[2:], KINDS, strict=False):
        moves = runs.drift.sel(kind=kind)
        mean = moves.mean("seed")
        line = (mean * mean.width).isel(width=0) / runs.width
        style = {"errors": standard_error(moves), "colour": colour, "label": kind}
        plot.points_and_line(drift, runs.width, mean, line, **style)
    drift.set(xlabel="width n", ylabel="relative move of a kernel", xscale="log", yscale="log")
    # Room for the legend below the curves.
    drift.set_ylim(bottom=float(runs.drift.mean("seed").min()) / 10)
    ticks = [f"{width:.0f}" for width in runs.width.values]
    drift.set_xticks(runs.width.values, ticks)
    drift.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    plot.legend(drift, predicted="1/n", loc="lower left", ncols=2)


# Trained networks are a Gaussian process.


def gaussian_process(
    *, widths=(32, 128), seeds=32, examples=12, noise=0.5, rate=1.0, last=100, sweep=sweep
):
    """Wide networks are a Gaussian process at all steps of training; narrow and deep ones are not.

    Networks of one hidden layer of error functions, and of three of rectifiers, learn 2 x_1 x_2 on
    the circle.

    Args:
        widths: numbers of units in each hidden layer.
        seeds: number of networks of each kind and width.
        examples: number of examples on the circle.
        noise: standard deviation of the noise on the labels for error functions.
        rate: learning rate.
        last: number of steps of descent.
    """
    task = circle_task(examples=examples, noise=noise, rate=rate, last=last)
    runs = descents(task, list(KINDS), widths, seeds, sweep)
    return with_limit(runs[["outputs", "ok"]], task, "outputs_theory", "covariance")


def process_z_score(runs):
    """How far trained outputs are off the limit's Gaussian process: the largest z-score of their
    means and of their summed variances."""
    runs = runs.isel(step=slice(1, None))
    outputs = runs.outputs
    seeds = outputs.sizes["seed"]
    diagonal = np.diagonal(runs.covariance, axis1=1, axis2=2)
    variances = xr.DataArray(diagonal, dims=("step", "point"))
    deviation = outputs.mean("seed") - runs.outputs_theory
    mean = deviation / (variances / seeds) ** 0.5
    # The summed squares of Gaussians vary by twice the sum of their squared covariances.
    surplus = (outputs.var("seed", ddof=1) - variances).sum("point")
    squares = (runs.covariance**2).sum(("point", "other"))
    spread = surplus / np.sqrt(2 / seeds * squares)
    return max(worst(mean), worst(spread))


def wide_erf_z_score(runs):
    return process_z_score(runs.sel(kind="erf").isel(width=-1))


def narrow_relu_z_score(runs):
    return process_z_score(runs.sel(kind="relu").isel(width=0))


def wide_relu_z_score(runs):
    return process_z_score(runs.sel(kind="relu").isel(width=-1))


def plot_gaussian_process(runs, figure):
    """Draw ten trained networks of each kind over the mean and two deviations of the limit."""
    panels = plot.panels(figure, "Wide: the Gaussian process", "Narrow and deep: not")
    wide = runs.sel(kind="erf").isel(width=-1)
    narrow = runs.sel(kind="relu").isel(width=0)
    for axes, case in zip(panels, (wide, narrow), strict=True):
        end = case.isel(step=-1)
        mean = end.outputs_theory
        deviation = np.sqrt(np.diagonal(end.covariance))
        band = (mean - 2 * deviation, mean + 2 * deviation)
        axes.fill_between(ANGLES, *band, color="0.85", label="theory, two deviations")
        axes.plot(ANGLES, mean, color="0.3", label="theory, mean")
        networks = end.outputs.isel(seed=slice(10)).transpose("point", "seed")
        lines = axes.plot(ANGLES, networks, color=plot.COLOURS[0], linewidth=0.6)
        lines[0].set_label("trained networks")
        axes.set(xlabel="angle on the circle", ylabel="trained outputs")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)


# Principal components of the kernel are learned each at its rate.


def component_rates(
    *, width=128, seeds=32, examples=12, noise=0.5, rate=1.0, last=100, sweep=sweep
):
    """Principal components of the kernel are learned each at a rate of its own, the largest first.

    Networks of one hidden layer of error functions learn 2 x_1 x_2 on the circle.

    Args:
        width: number of hidden units.
        seeds: number of networks.
        examples: number of examples on the circle.
        noise: standard deviation of the noise on the labels.
        rate: learning rate.
        last: number of steps of descent.
    """
    task = circle_task(examples=examples, noise=noise, rate=rate, last=last)
    runs = descents(task, ["erf"], (width,), seeds, sweep)
    runs = with_limit(runs[["residual", "drift", "ok"]], task, "decay", "modes")
    return runs.isel(kind=0, width=0)


def components(runs):
    """The residuals in the basis of the kernel's principal components."""
    return runs.residual.dot(runs.modes, "example")


def rate_z_score(runs):
    """By how many standard errors the mean factor by which a component decays is off, beyond what
    the kernel's drift allows."""
    component = components(runs)
    start = component.isel(step=0)
    size = (start**2).mean("seed")
    off = (component - runs.decay * start) * start / size
    # To first order the moving kernel feeds all components into this one, by at most max(t e^-t) =
    # 1/e of it.
    fed = (start**2).sum("mode").mean("seed") / size
    drift = runs.drift.mean("seed")
    allowed = drift * fed**0.5 / np.e
    # At the start all are exact.
    scores = (abs(off.mean("seed")) - allowed) / standard_error(off)
    return float(scores.isel(step=slice(1, None)).max(skipna=False))


def plot_component_rates(runs, figure):
    """Draw the means by which five components have decayed."""
    (axes,) = plot.panels(figure, "Each component decays at its rate", height=3)
    component = components(runs)
    start = component.isel(step=0)
    factor = (component * start).mean("seed") / (start**2).mean("seed")
    modes = runs.sizes["mode"]
    shown = np.linspace(modes - 1, 0, 5).round().astype(int)
    for colour, mode in zip(plot.COLOURS, shown, strict=False):
        measured = factor.isel(mode=mode, step=slice(1, None))
        theory = runs.decay.isel(mode=mode, step=slice(1, None))
        # Eigenvalues ascend, components are counted from the largest.
        label = f"component {modes - mode}"
        plot.points_and_line(axes, measured.step, measured, theory, colour=colour, label=label)
    axes.set(xlabel="step", ylabel="part of the residual that is left", xscale="log")
    plot.legend(axes, loc="upper left", bbox_to_anchor=(1, 1))


# Stopping early leaves the slow components, which are mostly noise.


def stopping_early(*, width=128, seeds=32, examples=12, noise=0.5, rate=1.0, last=100, sweep=sweep):
    """With noisy labels the test error falls and then rises, as the limit of wide networks says:
    stopping early helps.

    Networks of one hidden layer of error functions learn 2 x_1 x_2 on the circle.

    Args:
        width: number of hidden units.
        seeds: number of networks.
        examples: number of examples on the circle.
        noise: standard deviation of the noise on the labels.
        rate: learning rate.
        last: number of steps of descent; theory goes on for ten thousand times as many.
    """
    task = circle_task(examples=examples, noise=noise, rate=rate, last=last)
    runs = descents(task, ["erf"], (width,), seeds, sweep)
    errors = ((runs.outputs - target(task.points)) ** 2).mean("point")
    runs = with_limit(runs[["ok"]].assign(error=errors), task, "error_theory", "later")
    runs = runs.isel(kind=0, width=0).assign_attrs(label_noise=noise)
    return runs.assign_coords(time=task.steps[-1] * LATER)


def error_z_score(runs):
    return z_score(runs.error, runs.error_theory)


def lowest_error(runs):
    return runs.error_theory.min()


def last_error(runs):
    return runs.later.isel(time=-1)


def plot_stopping_early(runs, figure):
    """Draw test errors of networks and, for longer, in theory."""
    (axes,) = plot.panels(figure, "The test error is lowest before the end", height=3)
    later = runs.isel(step=slice(1, None))
    errors = standard_error(later.error)
    mean = later.error.mean("seed")
    plot.points_and_line(axes, later.step, mean, later.error_theory, errors=errors)
    times = np.append(later.step[-1:], runs.time)
    expected = np.append(later.error_theory[-1:], runs.later)
    axes.plot(times, expected, color=plot.COLOURS[0])
    axes.set(xlabel="steps of descent", ylabel="test error", xscale="log")
    plot.legend(axes)


def enough_networks(runs):
    return runs.sizes["seed"] >= 20


def wide_networks(runs):
    enough_units = float(runs.width.max()) >= 16 * runs.sizes["seed"] ** 0.5
    return enough_networks(runs) and enough_units


def narrow_networks(runs):
    return enough_networks(runs) and float(runs.width.min()) <= 64


def several_widths(runs):
    return runs.sizes["width"] > 1


def drift_fits(runs):
    return several_widths(runs) and bool((runs.drift > 0).all())


def drift_tells(runs):
    _, margin = exponent(runs.sel(kind="erf"), "drift")
    return margin < 0.5


# Of fewer networks Student's tails are heavy where a Gaussian's end; deviations of order 1/width
# have to be small beside the standard errors of order 1/sqrt(networks).
LAZY = Domain(
    "there are 20 networks or more, whose kernel moves by less than a fifth",
    lambda runs: enough_networks(runs) and float(runs.drift.mean()) < 0.2,
)
WIDE = Domain(
    "there are 20 networks or more, of at least 16 sqrt(networks) units",
    wide_networks,
)
WIDTHS = Domain("there are two widths or more, and every kernel moves", drift_fits)
TELLING = Domain(
    "every kernel moves, and the power is known to less than 0.5",
    lambda runs: drift_fits(runs) and drift_tells(runs),
)
NARROW = Domain(
    "there are 20 networks or more, the narrowest of 64 units or fewer",
    narrow_networks,
)
TWO_WIDTHS = Domain(
    "there are two widths or more of 20 networks or more",
    lambda runs: several_widths(runs) and enough_networks(runs),
)
FROM_NARROW = Domain(
    "there are 20 networks or more, the narrowest of 64 units or fewer and the widest of at least "
    "16 sqrt(networks)",
    lambda runs: narrow_networks(runs) and wide_networks(runs),
)
NOISY = Domain(
    "the noise of the labels is a tenth of the target or more",
    lambda runs: runs.attrs["label_noise"] >= 0.07,
)
RELATIVE_MOVE = "power of the width by which the relative move of the kernel falls"

PROOF = Claim(
    "training moves the kernel by 1/sqrt(width), as in the proof",
    RELATIVE_MOVE,
    erf_drift_exponent,
    within=around(-0.5, "drift"),
    when=TELLING,
    holds=False,
)
SMOOTH_DRIFT = Claim(
    "training moves the kernel of smooth networks by 1/width",
    RELATIVE_MOVE,
    erf_drift_exponent,
    within=around(-1, "drift"),
    when=WIDTHS,
)
RELU_DRIFT = Claim(
    "training moves the kernel of deep rectifiers by less than 1/sqrt(width)",
    RELATIVE_MOVE,
    relu_drift_exponent,
    below=clearly_faster,
    when=WIDTHS,
)
LAST_LAYER = Claim(
    "training moves the weights of the last layer by 1/sqrt(width)",
    "power of the width by which the move of the last layer's weights falls",
    moved_exponent,
    within=around(-0.5, "moved"),
    when=WIDTHS,
)
GROWTH = Claim(
    "training makes kernels of rectifiers on the circle larger, those of narrow networks more than "
    "those of wide ones",
    "smallest growth, or growth of the narrowest beyond the widest, in standard errors",
    growth_z_score,
    above=3,
    when=TWO_WIDTHS,
)
WIDE_PROCESS = Claim(
    "wide networks of one hidden layer are the limit's Gaussian process at all steps, in mean and "
    "variance",
    "largest deviation of a mean or of the summed variances, in standard errors",
    wide_erf_z_score,
    below=4.5,
    when=WIDE,
)
NARROW_PROCESS = Claim(
    "narrow networks of three hidden layers are the limit's Gaussian process at all steps, in mean "
    "and variance",
    "largest deviation of a mean or of the summed variances, in standard errors",
    narrow_relu_z_score,
    below=4.5,
    when=NARROW,
    holds=False,
)
WIDER_CLOSER = Claim(
    "of networks of three hidden layers the widest are closer to the limit's Gaussian process than "
    "the narrowest",
    "largest deviation of the widest, in standard errors, below that of the narrowest",
    wide_relu_z_score,
    below=narrow_relu_z_score,
    when=FROM_NARROW,
)
RATES = Claim(
    "principal components of the kernel decay at their rates -log(1 - rate lambda/P)",
    "largest deviation of a component's mean factor beyond what the kernel's drift allows, in "
    "standard errors",
    rate_z_score,
    below=4.5,
    when=LAZY,
)
EXPECTED_ERRORS = Claim(
    "test errors with noisy labels are those that the limit of wide networks expects",
    "largest deviation of a mean test error, in standard errors",
    error_z_score,
    below=4.5,
    when=WIDE,
)
STOPPING = Claim(
    "with noisy labels the expected test error is lowest before the end of training",
    "lowest expected test error at a step, below that at the end",
    lowest_error,
    below=last_error,
    when=NOISY,
)

PAPER = {"seeds": 100, "examples": 20, "last": 200}
PAPER_WIDTHS = PAPER | {"widths": (64, 160, 400)}
PAPER_TWO_WIDTHS = PAPER | {"widths": (64, 400)}
PAPER_WIDTH = PAPER | {"width": 400}
NARROWER = {"widths": (24, 48, 96), "seeds": 24}
NARROWER_TWO = {"widths": (24, 96), "seeds": 24}
NARROWER_WIDTH = {"width": 96, "seeds": 24}
OTHER_TASK = {"seeds": 24, "examples": 16, "noise": 0.4, "rate": 0.7, "last": 150}

KERNEL_DRIFT = Experiment(
    kernel_drift,
    claims=(PROOF, SMOOTH_DRIFT, RELU_DRIFT, LAST_LAYER, GROWTH),
    plot=plot_kernel_drift,
    paper=PAPER_WIDTHS,
    others=(NARROWER, OTHER_TASK),
)
GAUSSIAN_PROCESS = Experiment(
    gaussian_process,
    claims=(WIDE_PROCESS, NARROW_PROCESS, WIDER_CLOSER),
    plot=plot_gaussian_process,
    paper=PAPER_TWO_WIDTHS,
    others=(NARROWER_TWO, OTHER_TASK),
)
COMPONENT_RATES = Experiment(
    component_rates,
    claims=(RATES,),
    plot=plot_component_rates,
    paper=PAPER_WIDTH,
    others=(NARROWER_WIDTH, OTHER_TASK),
)
STOPPING_EARLY = Experiment(
    stopping_early,
    claims=(EXPECTED_ERRORS, STOPPING),
    plot=plot_stopping_early,
    paper=PAPER_WIDTH,
    others=(NARROWER_WIDTH, OTHER_TASK),
)
EXPERIMENTS = (KERNEL_DRIFT, GAUSSIAN_PROCESS, COMPONENT_RATES, STOPPING_EARLY)
