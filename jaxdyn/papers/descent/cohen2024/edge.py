"""Edge: gradient descent hovers where it is about to lose stability."""

import jax

from jaxdyn import Claim, plot, sweep
from jaxdyn.claims import Domain
from jaxdyn.papers import Experiment
from jaxdyn.papers.descent.cohen2024.courses import (
    MORE_EXAMPLES,
    MORE_INPUTS,
    PAPER,
    at_edge,
    central_edge_deviation,
    courses,
    edge_deviation,
    networks_of,
    stable_edge,
    stays,
)

__all__ = ["EXPERIMENT"]


def edge_of_stability(
    *,
    examples=32,
    inputs=3,
    width=8,
    learning_rate=0.6,
    kick=1e-4,
    steps=500,
    window=60,
    top=3,
    networks=2,
    sweep=sweep,
):
    """Gradient descent hovers where it is about to lose stability, at the sharpness 2/rate.

    Gradient flow, without oscillations, goes on to sharper minima.

    Args:
        examples: number of examples.
        inputs: number of inputs.
        width: number of tanh units.
        learning_rate: learning rate in units of 2/sharpness at the start.
        kick: standard deviation of the noise that is added to every parameter in every step.
        steps: number of steps.
        window: number of steps that descent is averaged over.
        top: number of eigenvalues that the central flow can hold at the edge.
        networks: number of networks.
    """
    with jax.enable_x64(True):
        data, edges = networks_of(examples, inputs, width, networks)
        options = {"data": data, "steps": steps, "window": window, "kick": kick, "top": top}
        return courses("gradient descent", learning_rate * edges, sweep, **options)


def never_leaves(runs):
    """Whether no flow leaves the edge again by itself, for flatter minima."""
    largest = runs.edges_theory.isel(rank=0)
    return stays(runs) and largest.where(at_edge(runs)).min() > 0.99


def plot_edge_of_stability(runs, figure):
    """Draw the sharpness of one network under descent and its flows."""
    (axes,) = plot.panels(figure, "Descent hovers at the sharpness 2/rate", height=3.2)
    run = runs.isel(network=0)
    largest = run.edges_theory.isel(rank=0)
    plot.points_and_line(axes, run.time, run.edge, largest, points=len(run.time))
    second = run.edges_theory.isel(rank=1)
    orange = plot.COLOURS[1]
    axes.plot(run.time, second, color=orange, label="second eigenvalue of the flow")
    axes.plot(run.time, run.edge_stable, "--", color="black", label="gradient flow")
    axes.set(xlabel="step", ylabel="sharpness x rate / 2", ylim=(0, None))
    plot.legend(axes, simulated="descent", predicted="central flow", below=True, ncols=2)


AT_EDGE = Domain(
    "every network is at its edge for a window, with no more eigenvalues than the central flow "
    "can hold",
    stays,
)
NEVER_LEAVES = Domain(
    "every network is at its edge for a window, with no more eigenvalues than the central flow can "
    "hold, and does not leave the edge again for flatter minima",
    never_leaves,
)

CLAIMS = (
    Claim(
        "gradient descent hovers at its edge of stability: its sharpness averages to 2/rate, to "
        "5 %",
        "largest relative deviation of a network's average sharpness from 2/rate",
        edge_deviation,
        below=0.05,
        when=AT_EDGE,
    ),
    Claim(
        "without oscillations gradient descent would end in minima sharper than 2/rate",
        "smallest sharpness at which a gradient flow ends, in units of 2/rate",
        stable_edge,
        above=1,
        when=AT_EDGE,
    ),
    Claim(
        "the central flow of gradient descent stays at the edge of stability to the order of its "
        "steps",
        "largest relative deviation of the average sharpness on the central flow from 2/rate",
        central_edge_deviation,
        below=1e-3,
        when=NEVER_LEAVES,
    ),
)

EXPERIMENT = Experiment(
    edge_of_stability,
    claims=CLAIMS,
    plot=plot_edge_of_stability,
    paper=PAPER,
    others=(MORE_INPUTS, MORE_EXAMPLES),
)
