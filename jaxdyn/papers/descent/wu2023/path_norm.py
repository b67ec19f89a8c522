"""Path norm: how flat a ReLU network has to be for its size."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxdyn import Claim, plot, sweep
from jaxdyn._numbers import normal
from jaxdyn.claims import Domain, ratio, worst
from jaxdyn.papers import Experiment

__all__ = ["EXPERIMENT"]


def path_norm(*, inputs=20, width=8, drawn=2000, seeds=3, sweep=sweep):
    """The trace of the Hessian of a two-layer ReLU network bounds the network's path norm.

    On d Gaussian inputs the trace is sum (|w|^2 + d a^2) / 2 over the units, w their incoming and a
    their outgoing weights, and the path norm is sum |a| |w|.

    Args:
        inputs: number of inputs.
        width: number of ReLU units.
        drawn: number of inputs that the trace is averaged over.
        seeds: number of networks.
    """
    with jax.enable_x64(True):
        trace = partial(relu_trace, inputs=inputs, width=width, drawn=drawn)
        runs = sweep(trace, seeds=seeds)
    return runs.assign_attrs(drawn=drawn)


def relu(params, x):
    return jax.nn.relu(x @ params["w"].T) @ params["a"]


def relu_trace(key, *, inputs, width, drawn):
    """The trace of the Hessian of a ReLU network on Gaussian inputs, over `drawn` of them and in
    closed form."""
    keys = jax.random.split(key, 3)
    params = {"w": normal(keys[0], (width, inputs)), "a": normal(keys[1], (width,))}

    def size(x):
        gradient = jax.grad(relu)(params, x)
        return sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient))

    def closed_form(norm, a):
        return jnp.sum(norm**2 + inputs * a**2) / 2

    examples = normal(keys[2], (drawn, inputs))
    squares = jax.vmap(size)(examples)
    error = jnp.std(squares) / drawn**0.5
    norm = jnp.linalg.norm(params["w"], axis=1)
    a = jnp.abs(params["a"])
    trace = closed_form(norm, a)
    path = inputs**0.5 * jnp.sum(a * norm)
    # The same function, with equal shares of all units' two layers.
    balance = (inputs**0.5 * a / norm) ** 0.5
    balanced = closed_form(norm * balance, a / balance)
    return {
        "trace": jnp.mean(squares),
        "trace_theory": trace,
        "trace_error": error,
        "z": (jnp.mean(squares) - trace) / error,
        "path": path,
        "balanced": balanced / path - 1,
        "path_share": path / trace,
    }


def trace_deviation(runs):
    return worst(runs.z)


def path_to_trace(runs):
    return ratio(runs.path_share, 1.0)


def balanced_deviation(runs):
    return worst(runs.balanced)


def plot_path_norm(runs, figure):
    """Draw the traces of all networks against their closed form and their path norm."""
    left, right = plot.panels(
        figure, "The trace has a closed form", "It is above the path norm", height=2.8
    )
    runs = runs.sortby("trace_theory")
    theory = runs.trace_theory
    plot.points_and_line(left, theory, runs.trace, theory, errors=runs.trace_error)
    left.set(xlabel="trace in closed form", ylabel="trace on drawn inputs")
    plot.legend(left)
    runs = runs.sortby("path")
    plot.points_and_line(right, runs.path, runs.trace, runs.path)
    right.set(xlabel="path norm x sqrt(inputs)", ylabel="trace on drawn inputs")
    plot.legend(right, predicted="bound")


MANY = Domain("the trace is averaged over 100 inputs", lambda runs: runs.attrs["drawn"] >= 100)

CLAIMS = (
    Claim(
        "the trace of the Hessian of two-layer ReLU networks on d Gaussian inputs is sum (|w|^2 + "
        "d a^2) / 2 over their units",
        "largest deviation of the trace on drawn inputs, in standard errors",
        trace_deviation,
        below=4.5,
        when=MANY,
    ),
    Claim(
        "the trace of the Hessian of two-layer ReLU networks is never below sqrt(inputs) times "
        "their path norm",
        "largest ratio of sqrt(inputs) times the path norm to the trace",
        path_to_trace,
        below=1 + 1e-12,
    ),
    Claim(
        "two-layer ReLU networks whose layers are balanced reach the smallest trace of the Hessian "
        "that their path norm allows",
        "largest relative deviation of their trace from sqrt(inputs) times the path norm",
        balanced_deviation,
        below=1e-12,
    ),
)

SMALLER = {"inputs": 8, "width": 4, "drawn": 500, "seeds": 2}
WIDER = {"width": 16, "seeds": 2}

EXPERIMENT = Experiment(
    path_norm,
    claims=CLAIMS,
    plot=plot_path_norm,
    paper={"drawn": 20000, "seeds": 8},
    others=(SMALLER, WIDER),
)
