"""Rates: how far the central flow of gradient descent goes."""

import jax
import numpy as np

from jaxdyn import Claim, plot, sweep
from jaxdyn.claims import Domain
from jaxdyn.papers import Experiment
from jaxdyn.papers.descent.cohen2024.courses import (
    MORE_EXAMPLES,
    MORE_INPUTS,
    PAPER,
    courses,
    loss_deviation,
    networks_of,
    stays,
    windows_at_edge,
)

__all__ = ["HIGH", "UNSTABLE"]

# Several eigenvalues at the edge.


def high_rate(
    *,
    examples=32,
    inputs=3,
    width=8,
    learning_rate=0.9,
    kick=1e-4,
    steps=500,
    window=60,
    top=3,
    networks=2,
    sweep=sweep,
):
    """At a high learning rate, with several eigenvalues near the edge, the predicted loss is right
    on average.

    The path itself then depends on chance, as bursts in one direction set off others.

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


def for_windows(runs):
    return stays(runs) and windows_at_edge(runs) >= 3


def plot_high_rate(runs, figure):
    """Draw the eigenvalues on the central flow, and the loss of one network."""
    edges, losses = plot.panels(
        figure, "Several eigenvalues are near the edge", "Yet the loss is as predicted", height=3.6
    )
    run = runs.isel(network=0)
    for rank, colour in zip(range(run.sizes["rank"]), plot.COLOURS, strict=False):
        eigenvalue = run.edges_theory.isel(rank=rank)
        edges.plot(run.time, eigenvalue, color=colour, label=f"eigenvalue {rank + 1}")
    edges.set(xlabel="step", ylabel="eigenvalue x rate / 2")
    plot.legend(edges, simulated="", predicted="", below=True)
    plot.points_and_line(losses, run.time, run.loss_mean, run.loss_mean_theory)
    losses.set(xlabel="step", ylabel="loss", yscale="log")
    plot.legend(losses, simulated="descent, averaged", predicted="central flow", below=True)


# A start far beyond the edge.


def unstable_rate(
    *,
    examples=32,
    inputs=3,
    width=8,
    learning_rate=2.0,
    kick=1e-4,
    steps=500,
    window=60,
    top=3,
    networks=2,
    sweep=sweep,
):
    """Descent that starts far beyond the edge blows up, also where the central flow goes on.

    The central flow is an average of oscillations that stay small, and knows nothing of this.

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
        runs = courses("gradient descent", learning_rate * edges, sweep, **options)
    return runs.assign_attrs(learning_rate=learning_rate)


def share_blown_up(runs):
    last = runs.loss.isel(time=-1)
    return 1 - np.isfinite(last).mean()


def share_of_flows(runs):
    last = runs.loss_center.isel(time=-1)
    return np.isfinite(last).mean()


def far_beyond(runs):
    return runs.attrs["learning_rate"] >= 2 and int(runs.time[-1]) >= 100


def far_beyond_with_few(runs):
    return far_beyond(runs) and bool(runs.enough.all())


def plot_unstable_rate(runs, figure):
    """Draw the loss of descent and at the central flow, for every network."""
    (axes,) = plot.panels(figure, "Descent blows up where its flow goes on", height=3)
    every = runs.sizes["time"]
    for network, colour in zip(range(runs.sizes["network"]), plot.COLOURS, strict=False):
        run = runs.isel(network=network)
        loss = run.loss.where(run.loss < 1e12)
        curves = (run.time, loss, run.loss_center)
        label = f"network {network + 1}"
        plot.points_and_line(axes, *curves, colour=colour, label=label, points=every)
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    plot.legend(axes, simulated="descent", predicted="central flow")


LONG = Domain(
    "every network is at its edge for three windows, with no more eigenvalues than the central "
    "flow can hold: bursts average out over several windows",
    for_windows,
)
FAR = Domain("descent starts at twice its edge or beyond, for 100 steps or more", far_beyond)
FAR_WITH_FEW = Domain(
    "descent starts at twice its edge or beyond, for 100 steps or more, with no more eigenvalues "
    "at the edge than the central flow can hold",
    far_beyond_with_few,
)

HIGH_CLAIMS = (
    Claim(
        "at a high learning rate, with several eigenvalues near the edge, the average loss of "
        "gradient descent is what the central flow predicts, to 25 %",
        "relative deviation of the average loss",
        loss_deviation,
        below=0.25,
        when=LONG,
    ),
)
UNSTABLE_CLAIMS = (
    Claim(
        "every gradient descent that starts far beyond its edge blows up",
        "share of the networks whose descent blows up",
        share_blown_up,
        above=0.999,
        when=FAR,
    ),
    Claim(
        "the central flow goes on in networks whose gradient descent blows up",
        "share of the networks whose central flow has a finite loss at the end",
        share_of_flows,
        above=0,
        when=FAR_WITH_FEW,
    ),
)

OTHERS = (MORE_INPUTS, MORE_EXAMPLES)

HIGH = Experiment(high_rate, claims=HIGH_CLAIMS, plot=plot_high_rate, paper=PAPER, others=OTHERS)
UNSTABLE = Experiment(
    unstable_rate, claims=UNSTABLE_CLAIMS, plot=plot_unstable_rate, paper=PAPER, others=OTHERS
)
