"""Starts that are balanced and aligned with the task: modes, unbalanced layers, and depth."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdyn import RK4, Claim, crossing_time, flow, iterate, plot, sweep, train
from jaxdyn._numbers import check
from jaxdyn.claims import Domain, ratio, worst
from jaxdyn.losses import covariance_loss
from jaxdyn.models import aligned, product, product_to_depth
from jaxdyn.observables import mode_strengths
from jaxdyn.papers import Experiment
from jaxdyn.tasks import frames, from_svd, linear_teacher
from jaxdyn.theory import linear

__all__ = ["EXPERIMENTS"]

# Modes: gradient flow and descent from an aligned start.


def modes(*, strengths=(3.0, 2.0, 1.0), start=0.05, depths=(2, 3, 5), sweep=sweep):
    """Every mode of an aligned network is learned by itself, the strongest first, at any depth.

    Its strength follows du/dt = D u^(2 - 2/D) (s - u) under gradient flow (section 1.3).

    Args:
        strengths: singular values of the task.
        start: strength of every mode at time zero.
        depths: numbers of weight matrices, 2 or more.
    """
    network = networks_of(strengths, start, depths)
    with jax.enable_x64(True):
        experiment = partial(aligned_flow, **network())
        runs = sweep(experiment, {"depth": depths}, dims={"strength": "mode"})
    return runs.assign_coords(singular_value=("mode", np.array(strengths)))


def descent_lag(
    *,
    strengths=(3.0, 2.0, 1.0),
    start=0.05,
    depths=(2, 3, 5),
    learning_rates=(1e-2, 4e-3),
    sweep=sweep,
):
    """Gradient descent lags behind gradient flow in proportion to the learning rate.

    Args:
        strengths: singular values of the task.
        start: strength of every mode at time zero.
        depths: numbers of weight matrices, 2 or more.
        learning_rates: learning rates of descent.
    """
    network = networks_of(strengths, start, depths)
    axes = {"depth": depths, "learning_rate": learning_rates}
    with jax.enable_x64(True):
        experiment = partial(aligned_descent, **network())
        runs = sweep(experiment, axes, dims={"lag": "mode"})
        largest_stable = linear.max_learning_rate(max(strengths), np.array(depths))
    runs["sharpness"] = ("depth", 2 / np.asarray(largest_stable))
    return runs


def networks_of(strengths, start, depths):
    """Check the options that describe aligned networks, and return a function that draws the bases
    which all of these networks share."""
    check("strengths", strengths, lambda values: values > 0, "positive singular values")
    learned = 0.99 * min(strengths)
    below_all = f"a positive strength below {learned:g}, where the weakest mode is learned"
    check("start", start, lambda value: (value > 0) & (value < learned), below_all)
    check("depths", depths, lambda values: values >= 2, "two weight matrices or more")

    def network():
        sizes = [len(strengths) + 1] * (max(depths) + 1)
        bases = frames(jax.random.key(0), sizes, len(strengths))
        return {"bases": bases, "strengths": jnp.array(strengths), "start": start}

    return network


class AlignedNetwork(NamedTuple):
    """A network that starts balanced and aligned with its task.

    Attributes:
        loss: the loss, a function of the weights and the moments.
        moments: the covariances of the task.
        weights: the initial weights.
        observe: an observable, the strengths of the modes.
        times: 50 flow times until the slowest mode has reached 99 % of its strength.
    """

    loss: Any
    moments: Any
    weights: Any
    observe: Any
    times: Any


def aligned_network(bases, strengths, start, depth):
    """Return the network of `depth` layers whose modes all start with the strength `start`."""
    end_to_end = partial(product_to_depth, depth=depth)
    left = jnp.stack(bases)[depth]
    right = bases[0]
    # The weights are drawn for the deepest network; a shallower one uses the first of them.
    layers = len(bases) - 1
    weights = aligned(bases, jnp.full(strengths.size, start) ** (layers / depth))
    slowest = strengths.min()
    end = linear.time_of_strength(0.99 * slowest, slowest, start, depth)
    return AlignedNetwork(
        loss=covariance_loss(end_to_end),
        moments=linear_teacher(from_svd(left, strengths, right)),
        weights=weights,
        observe=mode_strengths(end_to_end, left, right),
        times=end * np.linspace(0.02, 1, 50),
    )


def aligned_flow(depth, *, bases, strengths, start):
    """Gradient flow beside the closed form of each mode."""
    network = aligned_network(bases, strengths, start, depth)

    def observe(state):
        return {
            "strength": network.observe(state)["mode_strengths"],
            "strength_theory": linear.deep_mode_strength(state.time, strengths, start, depth),
        }

    # At 0.015 of the largest stable step the fourth-order error stays below 1e-9.
    solver = RK4(0.015 * linear.max_learning_rate(strengths.max(), depth))
    gradient = jax.grad(network.loss)
    options = {"times": network.times, "observe": observe, "solver": solver}
    return flow(gradient, network.moments, network.weights, **options)


def aligned_descent(depth, learning_rate, *, bases, strengths, start):
    """Descent of the same networks: by how much its modes are behind those of the flow."""
    network = aligned_network(bases, strengths, start, depth)

    def observe(state):
        mode = learning_rate * state.time, strengths, start, depth
        lag = network.observe(state)["mode_strengths"] - linear.deep_mode_strength(*mode)
        return {"lag": lag, "lag_theory": linear.descent_lag(*mode, learning_rate)}

    def stream(key, step):
        return network.moments

    steps = jnp.round(network.times / learning_rate)
    gradient = jax.grad(network.loss)
    optimizer = optax.sgd(learning_rate)
    return train(gradient, optimizer, stream, network.weights, times=steps, observe=observe)


def relative_strength_deviation(runs):
    return worst(runs.strength, runs.strength_theory, relative=True)


def lag_beyond_first_order(runs):
    """The part of the lag that is not proportional to the learning rate, in units of the largest
    lag, divided by learning rate times sharpness."""
    beyond = abs(runs.lag - runs.lag_theory)
    largest = abs(runs.lag_theory).max(("time", "mode"))
    return ratio(beyond / largest, rate_times_sharpness(runs))


def rate_times_sharpness(runs):
    return runs.learning_rate * runs.sharpness


def plot_modes(runs, figure):
    """Draw all modes of the shallowest network, and the slowest mode at every depth."""
    panels = plot.panels(
        figure,
        "Each mode waits, then is learned quickly",
        "Depth sharpens the transition",
        height=3.2,
    )
    shallow = runs.isel(depth=0)
    for colour, mode in zip(plot.COLOURS, range(runs.sizes["mode"]), strict=False):
        one = shallow.isel(mode=mode)
        plot.beside(panels[0], one, "strength", colour=colour, label=f"mode {mode + 1}")
    weakest = np.argmin(runs.singular_value.values)
    slowest = runs.isel(mode=weakest)
    for colour, depth in zip(plot.COLOURS, runs.depth.values, strict=False):
        run = slowest.sel(depth=depth)
        plot.beside(panels[1], run, "strength", colour=colour, label=f"{depth} layers")
    for axes in panels:
        axes.set(xlabel="flow time", ylabel="strength of the mode")
        plot.legend(axes, below=True, ncols=2)


def plot_descent_lag(runs, figure):
    """Draw the lag of the strongest mode in units of the learning rate, for two depths."""
    depths = runs.depth.values[[0, -1]]
    panels = plot.panels(
        figure, *(f"{depth} layers: the lag is proportional to the rate" for depth in depths)
    )
    strongest = runs.isel(mode=0)
    for axes, depth in zip(panels, depths, strict=True):
        for colour, rate in zip(plot.COLOURS, runs.learning_rate.values, strict=False):
            run = strongest.sel(depth=depth, learning_rate=rate)
            curves = (rate * run.time, run.lag / rate, run.lag_theory / rate)
            plot.points_and_line(axes, *curves, colour=colour, label=f"rate {rate:g}")
        axes.set(xlabel="learning rate x step", ylabel="lag / learning rate")
    plot.legend(panels[0])


# Layers that start unbalanced.

TARGET = 2.0
FIRST_LAYER = 1.3


def unbalanced_layers(*, second=(0.02, 1.3, -0.9), sweep=sweep):
    """Two layers that start with different weights, of any signs, follow a hyperbola.

    The network has a single input, hidden unit and output.  Its first weight starts at 1.3 and the
    product of both has to become 2 (appendix A of the paper).

    Args:
        second: initial weights of the second layer.
    """
    # Seen until time 10, twenty time constants of the slowest approach.
    experiment = partial(unbalanced_flow, times=np.linspace(0, 10, 101))
    with jax.enable_x64(True):
        runs = sweep(experiment, {"second": second}, dims={"weight": "layer"})
    return runs.assign_coords(layer=["first layer", "second layer"])


def unbalanced_flow(second, *, times):
    """Flow of a network of single units whose layers differ."""
    first_layer = jnp.full((1, 1), FIRST_LAYER)
    second_layer = jnp.full((1, 1), second)
    target = jnp.full((1, 1), TARGET)
    moments = linear_teacher(target)

    def observe(state):
        theory = linear.unbalanced_modes(state.time, TARGET, FIRST_LAYER, second)
        return {
            "weight": jnp.ravel(jnp.stack(state.params)),
            "weight_theory": jnp.stack(theory),
        }

    # A step of 0.002 leaves a fourth-order error of 1e-11.
    solver = RK4(0.002)
    gradient = jax.grad(covariance_loss(product))
    weights = [first_layer, second_layer]
    return flow(gradient, moments, weights, times=times, observe=observe, solver=solver)


def weight_deviation(runs):
    return worst(runs.weight, runs.weight_theory)


def plot_unbalanced_layers(runs, figure):
    """Draw one layer against the other, on the way to the curve of solutions."""
    (axes,) = plot.panels(
        figure, "Layers move along hyperbolas until their product is 2", height=3.2
    )
    for colour, second in zip(plot.COLOURS, runs.second.values, strict=False):
        run = runs.sel(second=second)
        layers = {name: run.sel(layer=f"{name} layer") for name in ("first", "second")}
        place = layers["first"].weight
        label = f"second layer starts at {second:g}"
        plot.points_and_line(axes, place, layers["second"].weight, colour=colour, label=label)
        theory = layers["second"].weight_theory
        axes.plot(layers["first"].weight_theory, theory, color=colour)
    axes.set(xlabel="weight of the first layer", ylabel="weight of the second layer")
    plot.legend(axes)


# Depth: one mode of a network with equal layers.

LEARNED = 0.95
SMALL = 0.05
STEPS = 200


def depth(*, depths=(2, 3, 5, 10, 20, 50, 100, 200), sweep=sweep):
    """However deep the network, descent at half the largest stable rate needs as few steps.

    One mode of strength 1 starts at 0.05 and is learned when it has reached 0.95.  The largest
    stable learning rate, 2/(D s^(2 - 2/D)), is found for a mode of strength 2 that starts close to
    its solution.

    Args:
        depths: numbers of weight matrices, 2 or more.
    """
    check("depths", depths, lambda values: values >= 2, "two weight matrices or more")
    depths = np.array(depths, float)
    # The grid of rates brackets the bound by 2 % in steps of 0.1 %.
    near_bound = {"depth": depths, "ratio": np.linspace(0.98, 1.02, 40)}
    at_half = {"depth": depths, "ratio": (0.5,)}
    late = np.array([0, 2000])
    with jax.enable_x64(True):
        perturbed = partial(chain_descent, target=2.0, start=2.002, steps=late)
        stability = sweep(perturbed, near_bound)
        small = partial(chain_descent, target=1.0, start=SMALL, steps=np.arange(STEPS))
        learning = sweep(small, at_half).isel(ratio=0)
        scaled = depths * linear.time_of_strength(LEARNED, 1.0, SMALL, depths)
        limit = linear.time_of_strength_limit(LEARNED, 1.0, SMALL)
    distance = abs(stability.strength - 2)
    settles = distance.isel(time=1) < distance.isel(time=0)
    stability["stable"] = stability.ratio.where(settles).max("ratio")
    learning["steps"] = crossing_time(learning.strength, LEARNED)
    learning["steps_theory"] = ("depth", np.asarray(scaled))
    learning["steps_limit"] = float(limit)
    return {"stability": stability, "learning": learning}


def chain_descent(depth, ratio, *, target, start, steps):
    """Descent of one mode, whose balanced layers stay equal, at `ratio` of the largest stable
    learning rate."""
    rate = ratio * linear.max_learning_rate(target, depth)

    def move(layer):
        return layer + rate * (target - layer**depth) * layer ** (depth - 1)

    def step(key, state):
        return state._replace(params=move(state.params))

    def observe(state):
        return {"strength": state.params**depth}

    return iterate(step, start ** (1 / depth), times=steps, observe=observe)


def largest_stable_rate_deviation(results):
    return worst(results["stability"].stable, 1.0)


def steps_deviation(results):
    return worst(results["learning"].steps, results["learning"].steps_theory)


def steps_beyond_limit(results):
    learning = results["learning"]
    return (learning.steps - learning.steps_limit).max(skipna=False)


def plot_depth(results, figure):
    """Draw the steps that learning takes and the largest stable rate, by depth."""
    panels = plot.panels(figure, "Depth costs few steps", "The largest stable rate is as predicted")
    learning = results["learning"]
    plot.beside(panels[0], learning, "steps", x="depth")
    panels[0].axhline(learning.steps_limit, color="0.5", linestyle="--", label="infinite depth")
    panels[0].set(xscale="log", xlabel="number of layers", ylabel="steps until learned")
    stable = results["stability"].stable
    plot.points_and_line(panels[1], stable.depth, stable, np.ones(stable.size))
    panels[1].set(xscale="log", ylim=(0.98, 1.02))
    panels[1].set(xlabel="number of layers", ylabel="stable rate / theory")
    for axes in panels:
        plot.legend(axes)


DEEP = {"depths": (2, 3, 5, 10)}
TWO_MODES = {"strengths": (2.0, 1.5), "start": 0.02, "depths": (2, 4)}
LATER_START = {"start": 0.1}

SLOW = Domain(
    "the learning rate times the sharpness is below 1, so that the first order is the largest",
    lambda runs: rate_times_sharpness(runs).max() < 1,
)

EXPERIMENTS = (
    Experiment(
        modes,
        claims=(
            Claim(
                "every mode of a network that starts aligned with the task follows its own "
                "equation, at any depth",
                "largest relative deviation of a mode's strength from du/dt = D u^(2-2/D) (s-u)",
                relative_strength_deviation,
                below=1e-8,
            ),
        ),
        plot=plot_modes,
        paper=DEEP,
        others=(TWO_MODES, LATER_START),
    ),
    Experiment(
        descent_lag,
        claims=(
            Claim(
                "gradient descent lags behind gradient flow in proportion to the learning rate, up "
                "to the relative order of rate times sharpness",
                "deviation from the lag of first order, relative to the largest lag, divided by "
                "rate times sharpness",
                lag_beyond_first_order,
                below=1,
                when=SLOW,
            ),
        ),
        plot=plot_descent_lag,
        paper=DEEP | {"learning_rates": (1e-2, 4e-3, 1e-3)},
        others=(TWO_MODES, LATER_START),
    ),
    Experiment(
        unbalanced_layers,
        claims=(
            Claim(
                "layers that start unbalanced, with any signs, follow the hyperbolic solution",
                "largest deviation of a layer's weight from the hyperbolic solution",
                weight_deviation,
                below=1e-10,
            ),
        ),
        plot=plot_unbalanced_layers,
        others=({"second": (0.5, -0.2)},),
    ),
    Experiment(
        depth,
        claims=(
            Claim(
                "learning is stable up to the learning rate 2/(D s^(2 - 2/D))",
                "largest deviation of the largest stable rate on the grid from that bound, "
                "relative to the bound",
                largest_stable_rate_deviation,
                below=0.01,
            ),
            Claim(
                "at half of the largest stable rate descent takes as many steps as gradient flow "
                "at that rate, give or take one",
                "largest difference between the steps of descent and those of the flow",
                steps_deviation,
                below=1,
            ),
            Claim(
                "however deep the network, descent at half of the largest stable rate takes at "
                "most one step more than a network of infinite depth",
                "largest excess of the steps of descent over those of infinite depth",
                steps_beyond_limit,
                below=1,
            ),
        ),
        plot=plot_depth,
        others=({"depths": (2, 4, 30)},),
    ),
)
