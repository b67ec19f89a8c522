"""Average: gradient descent at its edge follows its central flow."""

import jax

from jaxdyn import Claim, plot, sweep
from jaxdyn.claims import Domain
from jaxdyn.papers import Experiment
from jaxdyn.papers.descent.cohen2024.courses import (
    MORE_EXAMPLES,
    MORE_INPUTS,
    PAPER,
    at_edge,
    closeness,
    courses,
    loss_deviation,
    networks_of,
    stays,
    windows_at_edge,
)

__all__ = ["EXPERIMENT"]


def time_average(
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
    """Averaged over time, gradient descent at its edge follows its central flow.

    The flow predicts the average loss, with what the oscillations cost.

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


def center_deviation(runs):
    """By how much the average loss is off the loss at the central flow, relatively."""
    return loss_deviation(runs, "loss_center")


def loss_beside_center(runs):
    return loss_deviation(runs) / center_deviation(runs)


def worst_window(runs):
    """By how much the loss is off in the worst window, relatively."""
    deviation = abs(runs.loss_mean / runs.loss_mean_theory - 1)
    return deviation.where(at_edge(runs)).max()


def for_windows(runs):
    return stays(runs) and windows_at_edge(runs) >= 3


def plot_time_average(runs, figure):
    """Draw the loss of one network, and how far its average is from both flows."""
    losses, distances = plot.panels(
        figure, "The flow predicts the average loss", "Averages stay near the flow", height=3.8
    )
    run = runs.isel(network=0)
    losses.plot(run.time, run.loss, ".", color="0.7", markersize=2)
    plot.points_and_line(losses, run.time, run.loss_mean, run.loss_mean_theory)
    orange = plot.COLOURS[1]
    losses.plot(run.time, run.loss_center, ":", color=orange, label="at the central flow")
    losses.plot(run.time, run.loss_stable, "--", color="black", label="gradient flow")
    losses.set(xlabel="step", ylabel="loss", yscale="log")
    plot.legend(losses, simulated="descent, averaged", predicted="central flow", below=True)
    distances.plot(run.time, run.off_central, label="to the central flow")
    distances.plot(run.time, run.off_stable, "--", color="black", label="to gradient flow")
    distances.set(xlabel="step", ylabel="distance of the average", yscale="log")
    plot.legend(distances, simulated="", predicted="", below=True)


AT_EDGE = Domain(
    "every network is at its edge for a window, with no more eigenvalues than the central flow "
    "can hold",
    stays,
)
LONG = Domain(
    "every network is at its edge for three windows, with no more eigenvalues than the central "
    "flow can hold: bursts average out over several windows",
    for_windows,
)

CLAIMS = (
    Claim(
        "gradient descent, averaged over time, ends three times closer to its central flow than to "
        "gradient flow",
        "ratio of the distance of the average from the central flow to that from gradient flow",
        closeness,
        below=1 / 3,
        when=AT_EDGE,
    ),
    Claim(
        "the average loss of gradient descent at its edge is the loss that the central flow "
        "predicts, to 8 %",
        "relative deviation of the average loss",
        loss_deviation,
        below=0.08,
        when=LONG,
    ),
    Claim(
        "the average loss of gradient descent is three times closer to the prediction, with the "
        "cost of oscillations, than to the loss at the central flow itself",
        "ratio of the relative deviation from the prediction to that from the loss at the flow",
        loss_beside_center,
        below=1 / 3,
        when=LONG,
    ),
    Claim(
        "in single windows, in bursts, the loss of gradient descent is off the prediction of the "
        "central flow by more than 8 %",
        "relative deviation of the loss in the worst window",
        worst_window,
        above=0.08,
        when=LONG,
    ),
)

EXPERIMENT = Experiment(
    time_average,
    claims=CLAIMS,
    plot=plot_time_average,
    paper=PAPER,
    others=(MORE_INPUTS, MORE_EXAMPLES),
)
