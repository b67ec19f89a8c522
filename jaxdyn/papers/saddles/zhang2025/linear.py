"""Layers that are linear in the weights of a unit: directions grow, and the data decide which is
next."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdyn import Claim, Domain, State, models, plot, sweep
from jaxdyn.losses import covariance_loss
from jaxdyn.observables import effective_width
from jaxdyn.papers import Experiment
from jaxdyn.papers.saddles.zhang2025.course import (
    DROP_DEVIATION,
    LEVEL_DISTANCE,
    SADDLES_PASSED,
    Network,
    after_start,
    course_legend,
    courses,
    draw_course,
    draw_drops,
    drop_deviation,
    level_distance,
    passes_saddles,
    width_deviation,
)
from jaxdyn.tasks import from_svd, linear_teacher
from jaxdyn.theory import linear, saddles

__all__ = ["EXPERIMENTS", "linear_neurons", "neurons"]

# Linear neurons: the data decide what is learned next.


def linear_neurons(
    *, strengths=(4.0, 2.0, 1.0, 0.5), width=20, seeds=16, records=1200, sweep=sweep
):
    """Linear neurons learn one direction of the data after another, at times that their initial
    weights predict.

    Networks of 5 inputs and 4 outputs learn the given singular values, and others of random number
    of neurons, spectrum and initial scale theirs.

    Args:
        strengths: singular values of the task, at most four.
        width: number of neurons, four at least.
        seeds: number of networks of each kind.
        records: number of steps of the integration, each of which is recorded.
    """
    check_strengths(strengths)
    check_width(width)
    strengths = tuple(sorted(strengths, reverse=True))
    options = {"strengths": strengths, "width": width}
    kinds = {"random": np.arange(2)}
    with jax.enable_x64(True):
        runs = courses(random_modes, kinds, sweep, seeds, records, **options)
    return runs.assign_coords(random=["given", "random"]).assign_attrs(closest(strengths))


def check_strengths(strengths):
    if not 1 <= len(strengths) <= 4 or min(strengths) <= 0:
        raise ValueError(f"strengths: {strengths}; pass 1 to 4 singular values > 0")


def check_width(width):
    if width < 4:
        raise ValueError(f"width: {width} neurons; pass 4 or more, one for each output")


def closest(strengths):
    """Return the attribute that says how close two singular values are: their largest ratio."""
    ordered = np.sort(strengths)
    ratios = ordered[:-1] / ordered[1:]
    return {"closest": float(max(ratios, default=0.0))}


def neurons(key, s, sizes, scale):
    """Linear neurons, of one initial scale or one for each."""
    # The weights are rotation invariant, so the task may be diagonal.
    left = jnp.eye(sizes[2], s.size)
    right = jnp.eye(sizes[0], s.size)
    first, last = models.deep_linear(sizes).init(key)
    scale_of_rows = jnp.reshape(scale, (-1, 1))
    weights = [first * scale_of_rows, last * scale_of_rows.T]
    seeds = linear.seed_strengths(weights[0], weights[1], left, right)
    drops = saddles.drop_times(s, seeds)
    moments = linear_teacher(from_svd(left, s, right))
    time = 1.3 * jnp.max(jnp.where(s > 0, drops, 0))

    def rows(weights):
        return jnp.concatenate([weights[0], weights[1].T], 1)

    width = directions(rows)
    loss = covariance_loss(models.product)
    return Network(weights, loss, moments, width, time, saddles.linear_plateaus(s), drops)


def directions(rows):
    """How many directions the `rows` of the units fill."""
    return lambda weights: effective_width(rows)(State(0, weights))["direction_width"]


def random_modes(key, *, random, strengths, width):
    """Linear neurons: of given strengths, or of random number, spectrum and scale."""
    k_numbers, k_weights = jax.random.split(key)
    numbers = jax.random.uniform(k_numbers, (5,), jnp.float32).astype(float)
    largest = 2 + 2 * numbers[0]
    ratios = jnp.array([1, 1.6 + 0.9 * numbers[1], 1.6 + 0.9 * numbers[2]])
    spectrum = jnp.append(largest / jnp.cumprod(ratios), 0)
    given = jnp.array([*strengths, 0, 0, 0][:4])
    units = jnp.arange(width) < 4 + numbers[3] * (width - 3)
    small = 1e-5 * jnp.ones(width)
    scales = jnp.stack([small, 10 ** (-6 + 2 * numbers[4]) * units])
    s = jnp.stack([given, spectrum])[random]
    return neurons(k_weights, s, (5, width, 4), scales[random])


def plot_linear_neurons(runs, figure):
    """Draw the course of one network, and the times of all drops."""
    one, drops = plot.panels(
        figure, "The loss falls mode by mode", "Initial weights predict the drops"
    )
    draw_course(one, runs.sel(random="given").isel(seed=0))
    course_legend(figure, one)
    draw_drops(drops, runs)


# Equal modes: nothing to choose, unless the initial weights differ.


def equal_modes(*, width=20, seeds=16, records=1200, sweep=sweep):
    """Linear neurons of equal singular values learn all at once, unless their initial scales
    differ: then the neurons learn one after another.

    Args:
        width: number of neurons, four at least.
        seeds: number of networks of each kind.
        records: number of steps of the integration, each of which is recorded.
    """
    check_width(width)
    axes = {"scales": np.arange(2)}
    with jax.enable_x64(True):
        runs = courses(alike_modes, axes, sweep, seeds, records, width=width)
    return runs.assign_coords(scales=["equal", "different"])


def alike_modes(key, *, scales, width):
    """Linear neurons of four equal modes and one scale, or of three and very different scales."""
    _, k_weights = jax.random.split(key)
    different = jnp.zeros(width).at[:3].set([1e-1, 1e-5, 1e-9])
    small = 1e-5 * jnp.ones(width)
    scale = jnp.stack([small, different])[scales]
    four_modes = jnp.full(4, 2.0)
    three_modes = four_modes.at[3].set(0)
    s = jnp.stack([four_modes, three_modes])[scales]
    return neurons(k_weights, s, (5, width, 4), scale)


def further_saddles(runs):
    """The largest number of saddles that a network of equal scales passes after the start."""
    return after_start(runs.sel(scales="equal")).sum("share").max()


def different_scales_deviation(runs):
    return width_deviation(runs.sel(scales="different"))


def different_scales_pass_saddles(runs):
    return passes_saddles(runs.sel(scales="different"))


def plot_equal_modes(runs, figure):
    """Draw a network of equal scales and one of different scales."""
    panels = plot.panels(figure, "Equal scales: all modes at once", "Different scales: one by one")
    for axes, scales in zip(panels, ("equal", "different"), strict=True):
        run = runs.sel(scales=scales).isel(seed=0)
        # Modes that are alike have no drops of their own.
        draw_course(axes, run.assign(drops_theory=run.drops_theory * np.nan))
    course_legend(figure, panels[0])


# Linear kernels: a convolution learns like linear neurons.


def linear_kernels(*, strengths=(3.0, 1.5, 0.75), width=20, seeds=2, records=1200, sweep=sweep):
    """A linear convolution learns the singular values of its target, as a matrix of patches and
    places within a patch, one after another.

    It has 6 patches of 4 inputs, which do not overlap.

    Args:
        strengths: singular values of the target, at most four.
        width: number of kernels, four at least.
        seeds: number of networks.
        records: number of steps of the integration, each of which is recorded.
    """
    check_strengths(strengths)
    check_width(width)
    strengths = tuple(sorted(strengths, reverse=True))
    options = {"strengths": strengths, "width": width}
    with jax.enable_x64(True):
        runs = courses(convolution, {}, sweep, seeds, records, **options)
    return runs.assign_attrs(closest(strengths))


def convolution(key, *, strengths, width):
    """Kernels of a convolution: the same as linear neurons whose target is a matrix."""
    k_weights = jax.random.split(key, 7)[0]
    network = neurons(k_weights, jnp.array(strengths), (4, width, 6), 1e-4)
    first, last = network.params
    weights = {"u": first, "v": last.T}
    loss = covariance_loss(models.two_layer_product)
    moments = linear_teacher(network.batch.yx.reshape(1, -1))

    def rows(weights):
        return jnp.concatenate([weights["u"], weights["v"]], 1)

    return network._replace(params=weights, loss=loss, batch=moments, width=directions(rows))


def plot_linear_kernels(runs, figure):
    """Draw the course of one convolution, and the times of all drops."""
    one, drops = plot.panels(
        figure, "The loss falls mode by mode", "Initial weights predict the drops"
    )
    draw_course(one, runs.isel(seed=0))
    course_legend(figure, one)
    draw_drops(drops, runs)


# The modes before grow while a mode is learned, by about u0^(1 - ratio) for the initial strength u0
# of 1e-8 or less: at a ratio of 2/3 they move a drop by less than 0.1 %.
APART = Domain(
    "each singular value is at most two thirds of the next larger one",
    lambda runs: runs.attrs["closest"] <= 2 / 3 + 1e-9,
)
TWO_MODES = {"strengths": (3.0, 1.2), "width": 10, "seeds": 6}
THREE_MODES = {"strengths": (5.0, 2.5, 1.2), "seeds": 6}
MORE_NETWORKS = {"width": 40, "seeds": 100, "records": 4000}
MORE_KERNELS = {"width": 40, "seeds": 8, "records": 4000}

NEURONS_DROP = Claim(
    "losses of linear neurons of random number, spectrum and scale drop at the times that their "
    "initial weights predict",
    DROP_DEVIATION,
    drop_deviation,
    below=1e-3,
    when=APART,
)
NEURONS_PAUSE = Claim(
    "at their saddles linear neurons have the losses of the best narrower networks",
    LEVEL_DISTANCE,
    level_distance,
    below=1,
    when=SADDLES_PASSED,
)
NO_SADDLE = Claim(
    "linear neurons of equal scales and equal singular values pass no saddle but the start",
    "largest number of saddles that a network passes after the start",
    further_saddles,
    below=0.5,
)
ONE_BY_ONE = Claim(
    "linear neurons of very different scales learn equal singular values one after another",
    "largest deviation of the number of directions at a saddle from that of the narrow network of "
    "its loss",
    different_scales_deviation,
    below=0.05,
    when=Domain(
        "networks of different scales pass a saddle other than the start",
        different_scales_pass_saddles,
    ),
)
KERNELS_DROP = Claim(
    "losses of linear convolutions drop at the times that the singular values of their targets, as "
    "matrices, predict",
    DROP_DEVIATION,
    drop_deviation,
    below=1e-3,
    when=APART,
)
KERNELS_PAUSE = Claim(
    "at their saddles linear convolutions have the losses of the best ones of fewer kernels",
    LEVEL_DISTANCE,
    level_distance,
    below=1,
    when=SADDLES_PASSED,
)

NEURONS = Experiment(
    linear_neurons,
    claims=(NEURONS_DROP, NEURONS_PAUSE),
    plot=plot_linear_neurons,
    paper=MORE_NETWORKS,
    others=(TWO_MODES, THREE_MODES),
)
EQUAL_MODES = Experiment(
    equal_modes,
    claims=(NO_SADDLE, ONE_BY_ONE),
    plot=plot_equal_modes,
    paper=MORE_NETWORKS,
    others=({"width": 10, "seeds": 6}, {"seeds": 6}),
)
KERNELS = Experiment(
    linear_kernels,
    claims=(KERNELS_DROP, KERNELS_PAUSE),
    plot=plot_linear_kernels,
    paper=MORE_KERNELS,
    others=({"strengths": (2.0, 0.8), "width": 10}, {"strengths": (4.0, 1.5)}),
)
EXPERIMENTS = (NEURONS, EQUAL_MODES, KERNELS)
