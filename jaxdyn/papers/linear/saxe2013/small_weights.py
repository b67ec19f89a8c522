"""Small random weights: the modes that they seed, and a hierarchy that is learned by levels."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from jaxdyn import RK4, Claim, crossing_time, flow, plot, sweep
from jaxdyn._numbers import check_positive
from jaxdyn.claims import Domain, worst
from jaxdyn.losses import covariance_loss
from jaxdyn.models import deep_linear, product
from jaxdyn.observables import mode_strengths
from jaxdyn.papers import Experiment
from jaxdyn.tasks import binary_tree, linear_teacher
from jaxdyn.theory import linear

__all__ = ["EXPERIMENTS"]

# Modes of different strengths.


def random_start(*, strengths=(4.0, 3.0, 2.0, 1.5, 1.0, 0.5), scale=1e-3, seeds=4, sweep=sweep):
    """From small random weights modes are learned one by one, each along a sigmoid of its own.

    The sigmoids start from the strengths that the QR decomposition of the initial weights seeds.

    Args:
        strengths: singular values of the task, all different.
        scale: factor of the initial weights; at 1 they keep the signal's size.
        seeds: number of networks.
    """
    check_positive(strengths=np.array(strengths), scale=scale)
    modes = len(strengths)
    target = np.diag(strengths) @ np.eye(modes, modes + 2)
    # Ten time constants of the weakest mode.
    end = 10 / min(strengths)
    with jax.enable_x64(True):
        runs = from_random(target, 1.0, scale, seeds, end, sweep)
    runs.attrs["scale"] = scale
    return runs


def from_random(target, variance, scale, seeds, end, sweep):
    """Flows of a task from small random weights, and when each mode is half learned."""
    times = np.linspace(0, end, 401)
    options = {"target": target, "variance": variance, "scale": scale, "times": times}
    # Rounded, so that equal singular values are one value.
    singular_values = np.linalg.svd(target, compute_uv=False).round(9)
    singular_value = xr.DataArray(singular_values, dims="mode")
    experiment = partial(random_flow, **options)
    runs = sweep(experiment, seeds=seeds, dims={"strength": "mode"})
    runs = runs.assign_coords(singular_value=singular_value)
    for name in ("strength", "strength_theory"):
        half_time = name.replace("strength", "half_time")
        runs[half_time] = crossing_time(runs[name], singular_value / 2)
    return runs


def random_flow(key, *, target, variance, scale, times):
    """Flow from small random weights, for inputs of covariance `variance`, beside the sigmoids that
    their QR decomposition seeds."""
    decomposition = np.linalg.svd(target, full_matrices=False)
    left, strengths, right = map(jnp.asarray, decomposition)
    outputs, inputs = target.shape
    hidden = 2 * strengths.size
    weights = deep_linear((inputs, hidden, outputs), scale=scale).init(key)
    first, last = weights
    moments = linear_teacher(jnp.asarray(target), variance * jnp.eye(inputs))
    observe_modes = mode_strengths(product, left, right.T)
    seeded = linear.seed_strengths(first, last, left, right.T)

    def observe(state):
        return {
            "strength": observe_modes(state)["mode_strengths"],
            "strength_theory": linear.mode_strength(variance * state.time, strengths, seeded),
        }

    # A twentieth of the fastest time constant.
    solver = RK4(0.05 / (variance * strengths[0]))
    gradient = jax.grad(covariance_loss(product))
    return flow(gradient, moments, weights, times=times, observe=observe, solver=solver)


def half_time_deviation(runs):
    return worst(runs.half_time, runs.half_time_theory, relative=True)


def size_of_next_mode(runs):
    """Relative size of a mode when the one before is learned, at most, by exponential growth.

    Modes start with about the square of the weights' scale, and grow at rates proportional to their
    singular values.
    """
    values = np.sort(runs.singular_value.values)
    smallest_gap = min(np.diff(values) / values[1:], default=1.0)
    return runs.attrs["scale"] ** (2 * smallest_gap)


def plot_random_start(runs, figure):
    """Draw the strengths of the modes of one network."""
    (axes,) = plot.panels(figure, "Small random weights learn mode by mode", height=3.0)
    network = runs.isel(seed=0).swap_dims(mode="singular_value")
    network["singular_value"].attrs["long_name"] = "singular value"
    options = {"mode": "singular_value", "axes": axes, "points": 40}
    plot.modes(network.strength, network.strength_theory, **options)
    axes.set(xlabel="flow time", ylabel="strength of the mode")


# A hierarchy, whose modes of one level have equal strengths.


def hierarchy(*, levels=3, scale=1e-3, seeds=4, sweep=sweep):
    """A binary tree of categories is learned level by level, the broadest distinction first.

    Each item has the properties of all its ancestors, so that distinctions of one level have one
    singular value.  These modes mix, so that only their mean time is defined.

    Args:
        levels: number of levels of the tree, which has 2^levels items.
        scale: factor of the initial weights; at 1 they keep the signal's size.
        seeds: number of networks.
    """
    check_positive(levels=levels, scale=scale)
    items = 2**levels
    with jax.enable_x64(True):
        _, properties = binary_tree(levels)
        target = np.asarray(properties).T
        # The items are one-hot inputs, all equally frequent; the last level takes ten of its time
        # constants.
        runs = from_random(target, 1 / items, scale, seeds, 10 * items, sweep)
    half_times = runs[["half_time", "half_time_theory"]]
    by_level = half_times.groupby("singular_value").mean(..., skipna=False)
    return {"tree": runs, "levels": by_level}


def level_deviation(results):
    return half_time_deviation(results["levels"])


def plot_hierarchy(results, figure):
    """Draw the mean strength of each level of one network."""
    (axes,) = plot.panels(figure, "Broad distinctions are learned before fine ones", height=3.0)
    network = results["tree"].isel(seed=0)
    by_level = network[["strength", "strength_theory"]].groupby("singular_value").mean()
    by_level["singular_value"].attrs["long_name"] = "singular value"
    options = {"hue": "singular_value", "axes": axes, "points": 40}
    plot.curves(by_level.strength, by_level.strength_theory, **options)
    axes.set(xlabel="flow time", ylabel="mean strength of the level")


ONE_BY_ONE = Domain(
    "strengths differ and weights start at a scale below 0.1, so small that each mode is below a "
    "tenth of its strength when the one before is learned",
    lambda runs: runs.attrs["scale"] < 0.1 and size_of_next_mode(runs) < 0.1,
)

EXPERIMENTS = (
    Experiment(
        random_start,
        claims=(
            Claim(
                "from small random weights each mode is half learned at the time of the sigmoid "
                "that starts from the strength which their QR decomposition seeds",
                "largest relative deviation of a half-time from that of the seeded sigmoid",
                half_time_deviation,
                below=0.01,
                when=ONE_BY_ONE,
            ),
        ),
        plot=plot_random_start,
        paper={"seeds": 16},
        others=({"strengths": (5.0, 3.0, 2.0), "scale": 3e-4}, {"seeds": 2}),
    ),
    Experiment(
        hierarchy,
        claims=(
            Claim(
                "a hierarchy is learned level by level at the times of the sigmoids that small "
                "random weights seed",
                "largest relative deviation of a level's mean half-time from the predicted one",
                level_deviation,
                below=0.02,
            ),
        ),
        plot=plot_hierarchy,
        paper={"seeds": 16},
        others=({"levels": 2}, {"scale": 3e-4}),
    ),
)
