"""RMSProp: adaptive methods at the edge of their own rates."""

import jax
import jax.numpy as jnp

from jaxdyn import Claim, plot, sweep
from jaxdyn.claims import Domain, worst
from jaxdyn.papers import Experiment
from jaxdyn.papers.descent.cohen2024.courses import (
    MORE_EXAMPLES,
    MORE_INPUTS,
    PAPER,
    average,
    central_edge_deviation,
    closeness,
    courses,
    edge_deviation,
    networks_of,
    stable_edge,
    stays,
)

__all__ = ["EXPERIMENT"]


def adaptive_edge(
    *,
    examples=32,
    inputs=3,
    width=8,
    scalar_rate=0.04,
    learning_rate=0.005,
    decay=0.95,
    kick=1e-4,
    steps=500,
    window=60,
    top=3,
    networks=2,
    sweep=sweep,
):
    """RMSProp, with one rate for all parameters or one for each, hovers at the edge of its own
    rates.

    The central flow follows parameters and the mean squared gradient together.

    Args:
        examples: number of examples.
        inputs: number of inputs.
        width: number of tanh units.
        scalar_rate: learning rate of RMSProp with one rate for all parameters.
        learning_rate: learning rate of RMSProp with one for each parameter.
        decay: factor by which the mean squared gradient is kept in a step.
        kick: standard deviation of the noise that is added to every parameter in every step.
        steps: number of steps.
        window: number of steps that the methods are averaged over.
        top: number of eigenvalues that the central flow can hold at the edge.
        networks: number of networks.
    """
    results = {}
    with jax.enable_x64(True):
        data, _ = networks_of(examples, inputs, width, networks)
        options = {"data": data, "steps": steps, "window": window, "kick": kick, "top": top}
        for name, method, rate in (
            ("scalar", "scalar RMSProp", scalar_rate),
            ("rmsprop", "RMSProp", learning_rate),
        ):
            rates = jnp.full(networks, rate)
            results[name] = courses(method, rates, sweep, decay=decay, **options)
    return results


def scalar_edge_deviation(results):
    return edge_deviation(results["scalar"])


def lowest_stable_edge(results):
    return min(float(stable_edge(runs)) for runs in results.values())


def largest_central_edge_deviation(results):
    return max(central_edge_deviation(runs) for runs in results.values())


def scalar_closeness(results):
    return closeness(results["scalar"])


def rmsprop_closeness(results):
    return closeness(results["rmsprop"])


def memory_deviation(results):
    return worst(average(results["scalar"], "nu_off"))


def scalar_stays(results):
    return stays(results["scalar"])


def rmsprop_stays(results):
    return stays(results["rmsprop"])


def both_stay(results):
    return scalar_stays(results) and rmsprop_stays(results)


def plot_adaptive_edge(results, figure):
    """Draw the sharpness of one network under both methods, and distances from their flows."""
    edge, distances = plot.panels(
        figure, "Both hover at their edge", "Their averages stay near central flows", height=3.8
    )
    names = {"scalar": "one rate for all", "rmsprop": "a rate for each"}
    for colour, (name, label) in zip(plot.COLOURS, names.items(), strict=False):
        run = results[name].isel(network=0)
        theory = run.edges_theory.isel(rank=0)
        plot.points_and_line(edge, run.time, run.edge, theory, colour=colour, label=label)
        distances.plot(run.time, run.off_central, color=colour, label=f"{label}: central")
        distances.plot(run.time, run.off_stable, "--", color=colour, label=f"{label}: stable")
    edge.set(xlabel="step", ylabel="sharpness in units of the edge")
    distances.set(xlabel="step", ylabel="distance of the average", yscale="log")
    plot.legend(edge, simulated="RMSProp", predicted="central flow", below=True)
    plot.legend(distances, simulated="", predicted="", below=True)


WORDS = "is at its edge for a window, with no more eigenvalues than the central flow can hold"
SCALAR = Domain(f"every network under scalar RMSProp {WORDS}", scalar_stays)
EACH = Domain(f"every network under RMSProp {WORDS}", rmsprop_stays)
BOTH = Domain(f"every network under either method {WORDS}", both_stay)

SCALAR_CLAIMS = (
    Claim(
        "scalar RMSProp hovers at the edge of its own rate, 2/sharpness, to 5 %",
        "largest relative deviation of a network's average sharpness from the edge",
        scalar_edge_deviation,
        below=0.05,
        when=SCALAR,
    ),
    Claim(
        "scalar RMSProp, averaged over time, ends three times closer to its central flow than to "
        "its stable flow",
        "ratio of the distance of the average from the central flow to that from the stable flow",
        scalar_closeness,
        below=1 / 3,
        when=SCALAR,
    ),
    Claim(
        "the mean squared gradient in scalar RMSProp is that of the central flow, to 5 %",
        "largest relative deviation of a network's average mean squared gradient",
        memory_deviation,
        below=0.05,
        when=SCALAR,
    ),
)
BOTH_CLAIMS = (
    Claim(
        "without oscillations scalar RMSProp and RMSProp would end beyond the edge of their rates",
        "smallest sharpness at which a stable flow ends, in units of the edge",
        lowest_stable_edge,
        above=1,
        when=BOTH,
    ),
    Claim(
        "the central flows of scalar RMSProp and RMSProp stay at the edge of their rates to the "
        "order of their steps",
        "largest relative deviation of the average sharpness on a central flow from the edge",
        largest_central_edge_deviation,
        below=1e-3,
        when=BOTH,
    ),
    Claim(
        "RMSProp, averaged over time, ends three times closer to its central flow than to its "
        "stable flow",
        "ratio of the distance of the average from the central flow to that from the stable flow",
        rmsprop_closeness,
        below=1 / 3,
        when=EACH,
    ),
)

EXPERIMENT = Experiment(
    adaptive_edge,
    claims=SCALAR_CLAIMS + BOTH_CLAIMS,
    plot=plot_adaptive_edge,
    paper=PAPER,
    others=(MORE_INPUTS, MORE_EXAMPLES),
)
