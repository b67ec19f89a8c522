"""The neural race reduction: dynamics of abstraction in gated networks (Saxe, Sodhani, Lewallen,
2022).

A gated deep linear network is a set of pathways, each of which is a linear network that a gate
opens for some of the examples.  Every pathway learns a singular value s of the correlations that it
sees like a network of its own, and pathways that are open together share what there is to explain:
they race.  The equations of motion depend on covariances of gated inputs alone, all in float64.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from jaxdyn import RK4, Claim, crossing_time, flow, plot, sweep
from jaxdyn.claims import worst
from jaxdyn.losses import covariance_loss, squared_error
from jaxdyn.models import gated_inputs, gated_linear, gated_product
from jaxdyn.papers import Experiment, Reference
from jaxdyn.tasks import Covariances, covariances, frames
from jaxdyn.theory import linear
from jaxdyn.theory.linear import gated

__all__ = ["EXPERIMENTS", "REFERENCE"]

REFERENCE = Reference(
    title="The neural race reduction: dynamics of abstraction in gated networks",
    authors="Saxe, Sodhani, Lewallen",
    year=2022,
    arxiv="2207.10430",
    name="The neural race reduction",
    reproduces="gated networks: pathways that race, and what sharing speeds up",
)

EXAMPLES = ["(+, +)", "(+, -)", "(-, +)", "(-, -)"]


# Exclusive or: four pathways, each for one example.


def exclusive_or(*, hidden=8, scale=1e-3, seeds=4, sweep=sweep):
    """A gated network learns exclusive or along the sigmoids of its four pathways.

    The network has one pathway for each of the four examples and starts from small random weights.

    Args:
        hidden: number of hidden units of each pathway.
        scale: standard deviation of the initial weights.
        seeds: number of networks.
    """
    network = partial(xor_network, hidden=hidden, scale=scale)
    dims = {"output": "example", "initial_strength": "example"}
    with jax.enable_x64(True):
        runs = sweep(network, seeds=seeds, dims=dims)
    return runs.assign_coords(example=EXAMPLES)


def xor_network(key, *, hidden, scale):
    """Flow of the network on the four examples of exclusive or, beside the sigmoid of each."""
    # The third input is a bias.
    first_input = jnp.array([1.0, 1.0, -1.0, -1.0])
    second_input = jnp.array([1.0, -1.0, 1.0, -1.0])
    x = jnp.stack([first_input, second_input, jnp.ones(4)], axis=1)
    y = -x[:, :1] * x[:, 1:2]
    gates = jnp.eye(4)
    routes = [(pathway, pathway) for pathway in range(4)]
    model = gated_linear((3, hidden, 1), routes)
    # The model scales its layers by 1/sqrt(fan-in); here all weights have the same variance.
    first, second = model.init(key)
    start = [scale * 3**0.5 * first, scale * hidden**0.5 * second]
    loss = covariance_loss(lambda weights: gated_product(weights, routes))
    moments = covariances(gated_inputs(x, gates), y)

    # A pathway sees a quarter of the data, the correlation |y| |x| / 4 and the variance |x|^2 / 4.
    # It starts from the part of the weights that grows, |W_1 v + W_2^T u|^2 / 4.
    size = 3**0.5
    incoming = jnp.einsum("phi,pi->ph", start[0], x / size)
    outgoing = start[1][:, 0]
    growing = incoming + y * outgoing
    initial_strength = jnp.sum(growing**2, 1) / 4
    correlation = size / 4
    variance = size**2 / 4

    gradient = jax.grad(loss)
    gradient_of_examples = jax.grad(squared_error(model.apply))

    def observe(state):
        by_moments = gradient(state.params, moments)
        by_examples = gradient_of_examples(state.params, ((x, gates), y))
        apart = jax.tree.map(largest_difference, by_moments, by_examples)
        output = model.apply(state.params, (x, gates))
        time = variance * state.time
        strength = linear.mode_strength(time, correlation / variance, initial_strength)
        return {
            "output": output[:, 0],
            "output_theory": y[:, 0] * size * strength,
            "gradients_apart": jnp.max(jnp.stack(apart)),
            "initial_strength": initial_strength,
        }

    times = np.linspace(0, 60, 121)
    return flow(gradient, moments, start, times=times, observe=observe, solver=RK4(0.05))


def largest_difference(one, other):
    return jnp.max(jnp.abs(one - other))


def output_deviation(runs):
    return worst(runs.output, runs.output_theory) / float(runs.initial_strength.max())


def gradient_difference(runs):
    return worst(runs.gradients_apart)


def plot_exclusive_or(runs, figure):
    """Draw the outputs for the four examples of one network."""
    (axes,) = plot.panels(figure, "Outputs follow the sigmoids of their pathways")
    one = runs.isel(seed=0)
    plot.curves(one.output, one.output_theory, hue="example", axes=axes, points=40)
    axes.set(xlabel="flow time", ylabel="output of the network")


# Contexts: one linear map that is learned in several of them.


def networks_of(contexts, strengths, start):
    """Return what networks of as many modes as `strengths` share, and the axis of their sweep."""
    strengths = np.array(strengths)
    modes = strengths.size
    sizes = (modes + 1, modes + 2, modes)
    bases = frames(jax.random.key(0), sizes, modes)
    network = {"most": max(contexts), "strengths": strengths, "start": start, "bases": bases}
    return network, {"contexts": np.array(contexts, float)}


def sharing(*, contexts=(4, 9, 16), strengths=(2.0, 1.0), start=1e-3, sweep=sweep):
    """Sharing one of two layers between M contexts makes learning sqrt(M) times faster.

    In each context the same linear map is learned by a pathway of its own, whose output layer
    belongs to this pathway; the input layer is its own too, or shared by all.

    Args:
        contexts: numbers of contexts, all equally frequent.
        strengths: singular values of the linear map.
        start: strength of every mode at time zero.
    """
    half = xr.DataArray(np.array(strengths) / 2, dims="mode")
    results = {}
    with jax.enable_x64(True):
        network, axis = networks_of(contexts, strengths, start)
        for name, shared in (("separate", False), ("shared", True)):
            experiment = partial(context_network, **network, shared=shared)
            runs = sweep(experiment, axis, dims={"strength": "mode"})
            runs["half_time"] = crossing_time(runs.strength, half)
            results[name] = runs
    return results


def race(*, contexts=(4, 9, 16), strengths=(2.0, 1.0), start=1e-3, sweep=sweep):
    """A pathway that is always open and those of single contexts share what there is to learn.

    The network has a pathway for each context and one more, which is open in all contexts: the
    faster explains more.

    Args:
        contexts: numbers of contexts, all equally frequent.
        strengths: singular values of the linear map.
        start: strength of every mode at time zero.
    """
    with jax.enable_x64(True):
        network, axis = networks_of(contexts, strengths, start)
        experiment = partial(context_network, **network, racing=True)
        runs = sweep(experiment, axis, dims={"strength": ("pathway", "mode")})
    return runs.assign_coords(pathway=["open in all contexts", "open in one context"])


def context_network(contexts, *, most, strengths, start, bases, shared=False, racing=False):
    """Flow of a gated network in `contexts` of at most `most`, from weights aligned with `bases`,
    the orthonormal modes of its inputs, hidden units and outputs."""
    s = strengths
    u0 = start
    right, hidden, left = bases
    always = int(racing)
    output_layers = np.arange(most + always)
    input_layers = np.zeros_like(output_layers) if shared else output_layers
    routes = list(zip(input_layers.tolist(), output_layers.tolist(), strict=True))
    gates = np.eye(most)
    if racing:
        gates = np.pad(gates, ((0, 0), (1, 0)), constant_values=1)
    frequency = jnp.where(jnp.arange(most) < contexts, 1 / contexts, 0.0)
    # Inputs are white in each context, so that pathways correlate by how often both are open.
    open_share = frequency @ gates
    both_open = jnp.einsum("c,cp,cq->pq", frequency, gates, gates)
    yx = (left * s[None]) @ right.T
    gated_xx = jnp.kron(both_open, jnp.eye(len(right)))
    gated_yx = jnp.kron(open_share[None], yx)
    moments = Covariances(gated_xx, gated_yx, yx @ yx.T)
    # In balance the layer that is used more often is larger.
    imbalance = contexts**0.25 if shared else 1.0
    first = jnp.full(s.size, u0**0.5 * imbalance)
    second = jnp.full(s.size, u0**0.5 / imbalance)
    input_layer = (hidden * first[None]) @ right.T
    output_layer = (left * second[None]) @ hidden.T
    weights = [
        jnp.stack([input_layer] * (1 if shared else len(routes))),
        jnp.stack([output_layer] * len(routes)),
    ]

    def shared_theory(time):
        in_all = 1.0 if shared else 1 / contexts
        modes = gated.shared_modes(time, s, first, second, first=in_all, second=1 / contexts)
        return modes[0] * modes[1]

    def race_theory():
        rates = 2 / jnp.array([1.0, contexts])
        starts = jnp.full(2, u0)
        return jax.vmap(lambda one: gated.race_outcome(starts, rates, one))(s).T

    def observe(state):
        product = gated_product(state.params, routes)
        pathways = product.reshape(len(left), len(routes), len(right))
        strength = jnp.einsum("oa,opi,ia->pa", left, pathways, right)
        if racing:
            # All pathways of single contexts are alike.
            return {"strength": strength[:2], "strength_theory": race_theory()}
        return {"strength": strength[0], "strength_theory": shared_theory(state.time)}

    # All modes are learned by 1.3 times the number of contexts that the slowest needs alone; a race
    # needs ten more of its time constants to settle.
    delay = jnp.log(s.min() / u0) / s.min() / 2
    end = delay + 10 / s.min() if racing else 1.3 * contexts * delay
    times = jnp.linspace(0.0, 1.0, 201) * end
    loss = covariance_loss(lambda weights: gated_product(weights, routes))
    solver = RK4(0.02 / s.max())
    return flow(jax.grad(loss), moments, weights, times=times, observe=observe, solver=solver)


def speed_up(results):
    """How many times faster networks with a shared layer learn half of each mode."""
    return results["separate"].half_time / results["shared"].half_time


def hyperbolic_deviation(results):
    return max(worst(runs.strength, runs.strength_theory) for runs in results.values())


def speed_up_deviation(results):
    ratios = speed_up(results)
    return worst(ratios, ratios.contexts**0.5, relative=True)


def race_deviation(runs):
    end = runs.isel(time=-1)
    return worst(end.strength, end.strength_theory)


def plot_sharing(results, figure):
    """Draw the slowest mode in the most contexts, and what sharing speeds up."""
    modes, speed = plot.panels(
        figure, "A shared layer learns the same map sooner", "It is sqrt(M) times faster"
    )
    for colour, (name, runs) in zip(plot.COLOURS, results.items(), strict=False):
        slowest = runs.isel(contexts=-1, mode=-1)
        plot.beside(modes, slowest, "strength", colour=colour, label=f"{name} layers")
    plot.legend(modes, below=True)
    modes.set(xlabel="flow time", ylabel="strength of the weakest mode")
    ratios = speed_up(results).isel(mode=-1)
    plot.points_and_line(speed, ratios.contexts, ratios, ratios.contexts**0.5)
    plot.legend(speed, below=True)
    speed.set(xlabel="number of contexts M", ylabel="half-time, separate / shared")


def plot_race(runs, figure):
    """Draw what each pathway explains in the end, for every number of contexts."""
    titles = [f"Mode {mode + 1}: who wins the race" for mode in range(runs.sizes["mode"])]
    panels = plot.panels(figure, *titles)
    end = runs.isel(time=-1)
    for mode, axes in enumerate(panels):
        for colour, pathway in zip(plot.COLOURS, runs.pathway.values, strict=False):
            one = end.isel(mode=mode).sel(pathway=pathway)
            plot.beside(axes, one, "strength", x="contexts", colour=colour, label=str(pathway))
        axes.set(xlabel="number of contexts", ylabel="strength in the end")
    plot.legend(panels[0])


MORE_CONTEXTS = {"contexts": (2, 4, 9, 16, 25, 36)}
FEW_CONTEXTS = {"contexts": (2, 6), "start": 1e-2}
THREE_MODES = {"contexts": (3, 5), "strengths": (3.0, 1.5, 1.0), "start": 1e-4}

EXPERIMENTS = (
    Experiment(
        exclusive_or,
        claims=(
            Claim(
                "outputs on exclusive or follow the sigmoids of their pathways, to first order in "
                "the initial strength",
                "largest deviation of an output, in units of the largest initial strength",
                output_deviation,
                below=10,
            ),
            Claim(
                "the gradient of a gated network depends on its examples only by the covariances "
                "of gated inputs",
                "largest difference between the gradient on examples and that on covariances",
                gradient_difference,
                below=1e-12,
            ),
        ),
        plot=plot_exclusive_or,
        paper={"hidden": 32, "seeds": 16},
        others=(
            {"hidden": 4, "scale": 3e-3, "seeds": 2},
            {"hidden": 16, "seeds": 2},
        ),
    ),
    Experiment(
        sharing,
        claims=(
            Claim(
                "whether the input layer is shared or not, modes follow the hyperbolic solution in "
                "the shares of the data that the layers see",
                "largest deviation of a mode's strength from the hyperbolic solution",
                hyperbolic_deviation,
                below=1e-6,
            ),
            Claim(
                "sharing one of two layers between M contexts makes learning sqrt(M) times faster",
                "largest relative deviation of the ratio of half-times from sqrt(M)",
                speed_up_deviation,
                below=0.01,
            ),
        ),
        plot=plot_sharing,
        paper=MORE_CONTEXTS,
        others=(FEW_CONTEXTS, THREE_MODES),
    ),
    Experiment(
        race,
        claims=(
            Claim(
                "a pathway that is always open and one of a single context end with the shares of "
                "each mode that the race between them predicts",
                "largest deviation of a pathway's final strength from the outcome of the race",
                race_deviation,
                below=1e-6,
            ),
        ),
        plot=plot_race,
        paper=MORE_CONTEXTS,
        others=(FEW_CONTEXTS, THREE_MODES),
    ),
)
