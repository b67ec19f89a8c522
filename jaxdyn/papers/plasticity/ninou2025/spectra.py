"""Spectra: where a solution of curl descent loses stability."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxdyn import Claim, plot, sweep
from jaxdyn._numbers import normal
from jaxdyn.claims import Domain, ratio
from jaxdyn.papers import Experiment
from jaxdyn.papers.plasticity.ninou2025.students import turned
from jaxdyn.theory.plasticity import curl

__all__ = ["EXPERIMENT"]


def edges(*, units=300, fractions=(0.1, 0.3, 0.5, 0.7), ratios=(0.25, 0.5), sweep=sweep):
    """Spectra of large networks with turned signs end at the edges of free sums.

    A solution is stable where the lower edge of |W_2|^2 D_1 + W_1^T D_2 W_1 is positive.

    Args:
        units: number of inputs.
        fractions: fractions of the inputs, or of the hidden units, whose sign is turned.
        ratios: numbers of inputs for each hidden unit.
    """
    cells = {"layer": ("inputs", "hidden"), "ratio": tuple(dict.fromkeys(ratios))}
    axis = {"fraction": tuple(dict.fromkeys(fractions))}
    with jax.enable_x64(True):
        runs = sweep(partial(edges_of, units=units), axis, static=cells)
    return runs.assign_attrs(units=units)


def edges_of(layer, fraction, ratio, *, units):
    """The lower edge in theory, and of one large network with so many inputs."""
    hidden = round(units / ratio)
    w = normal(jax.random.key(0), (hidden, units)) / units**0.5
    of_inputs = turned(units, fraction * (layer == "inputs"))
    of_hidden = turned(hidden, fraction * (layer == "hidden"))
    matrix = jnp.diag(of_inputs) + w.T @ (of_hidden[:, None] * w)
    eigenvalues = jnp.linalg.eigvalsh(matrix)
    width = eigenvalues[-1] - eigenvalues[0]
    theory = curl.lower_edge(layer, fraction, ratio)
    return {"edge": eigenvalues[0], "width": width, "edge_theory": theory}


def edge_deviation(runs):
    return ratio(abs(runs.edge - runs.edge_theory), runs.width)


def finite_size(runs):
    """What edges of finite networks may differ by, of order -2/3, in units of the spectrum."""
    return 4 * float(runs.attrs["units"]) ** (-2 / 3)


def plot_edges(runs, figure):
    """Draw the lower edges by the fraction that is turned."""
    panels = plot.panels(figure, "Inputs turned", "Hidden units turned", height=3.6)
    for axes, layer in zip(panels, ("inputs", "hidden"), strict=True):
        for colour, cell in zip(plot.COLOURS, runs.ratio.values, strict=False):
            chosen = runs.sel(layer=layer, ratio=cell).sortby("fraction")
            label = f"{cell:g} inputs a hidden unit"
            plot.beside(axes, chosen, "edge", x="fraction", colour=colour, label=label)
        axes.axhline(0, color="black", linewidth=0.5)
        axes.set(xlabel="fraction turned", ylabel="lower edge of the spectrum")
    plot.legend(panels[0], below=True)


LARGE = Domain("the network has 100 inputs or more", lambda runs: runs.attrs["units"] >= 100)

CLAIMS = (
    Claim(
        "spectra of large networks with turned signs end at the edges of free sums, to the order "
        "-2/3 of the number of units",
        "largest deviation of a lower edge, in units of the width of the spectrum",
        edge_deviation,
        below=finite_size,
        when=LARGE,
    ),
)

ONE_RATIO = {"units": 200, "ratios": (0.2,)}
TWO_FRACTIONS = {"units": 200, "fractions": (0.2, 0.6), "ratios": (0.6,)}

EXPERIMENT = Experiment(
    edges,
    claims=CLAIMS,
    plot=plot_edges,
    paper={"units": 1200},
    others=(ONE_RATIO, TWO_FRACTIONS),
)
