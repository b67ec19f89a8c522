"""Thresholds: the learning rate up to which SGD is stable at a minimum, and its bounds."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxdyn import Claim, plot, sweep
from jaxdyn._numbers import normal
from jaxdyn.claims import Domain, ratio, worst
from jaxdyn.papers import Experiment
from jaxdyn.theory.descent import stability

__all__ = ["EXPERIMENT", "gradients_at_minima"]

KINDS = ["Gaussian", "very different norms", "orthogonal"]


def thresholds(*, examples=12, batches=(1, 2, 4), sweep=sweep):
    """The learning rate at which SGD leaves a minimum is bounded by two moments of its gradients.

    The gradients of the examples are Gaussian, of very different norms, or orthogonal; gradient
    descent is stable up to 2 / lambda_max.

    Args:
        examples: number of examples, and of weights; also the largest batch size.
        batches: batch sizes, drawn with replacement.
    """
    sizes = np.array(sorted({*batches, examples}), float)
    with jax.enable_x64(True):
        bounds = partial(bounded, gradients=gradients_at_minima(examples))
        runs = sweep(bounds, {"kind": np.arange(3), "batch": sizes})
    return runs.assign_coords(kind=KINDS).assign_attrs(examples=examples)


def gradients_at_minima(examples):
    """Gradients of three kinds at a minimum, an example a row: Gaussian, of very different norms,
    orthogonal."""
    plain = normal(jax.random.key(0), (examples, examples))
    norms = jnp.linspace(0.3, 2, examples)
    unequal = plain * norms[:, None] + 1.5
    orthogonal = 2 * jnp.linalg.qr(plain)[0]
    return jnp.stack([plain, unequal, orthogonal])


def bounded(kind, batch, *, gradients):
    """The exact threshold of mean-square stability, and what bounds it."""
    g = gradients[kind]
    trace = jnp.mean(jnp.sum(g**2, 1))
    return {
        "exact": stability.max_learning_rate(g, batch),
        "bound": stability.necessary_learning_rate(g, batch),
        "trace_bound": 2 * batch / trace,
        "descent": stability.max_learning_rate(g, jnp.inf),
    }


def generic(runs):
    """The gradients that are not orthogonal: all bounds are equal for one orthogonal example."""
    return runs.drop_sel(kind="orthogonal")


def exact_to_bound(runs):
    return ratio(generic(runs).exact, generic(runs).bound)


def bound_to_trace(runs):
    return ratio(generic(runs).bound, generic(runs).trace_bound)


def orthogonal_deviation(runs):
    orthogonal = runs.sel(kind="orthogonal")
    return worst(orthogonal.exact, orthogonal.bound, relative=True)


def smaller_to_larger(runs):
    """The threshold of a batch over that of the next larger one, the largest of all."""
    larger = runs.exact.isel(batch=slice(1, None))
    smaller = runs.exact.isel(batch=slice(None, -1))
    return ratio(smaller.values, larger.values)


def exact_to_descent(runs):
    return ratio(runs.exact, runs.descent)


def plot_thresholds(runs, figure):
    """Draw thresholds and bounds against the batch size."""
    panels = plot.panels(
        figure,
        "Two moments bound the threshold of Gaussian gradients",
        "They are the threshold of orthogonal ones",
        height=3.8,
    )
    for axes, kind in zip(panels, ("Gaussian", "orthogonal"), strict=True):
        thresholds = runs.sel(kind=kind)
        batch = thresholds.batch
        plot.points_and_line(axes, batch, thresholds.exact, thresholds.bound)
        orange = plot.COLOURS[1]
        axes.plot(batch, thresholds.trace_bound, ":", color=orange, label="2 B / tr H")
        axes.plot(batch, thresholds.descent, "--", color="0.3", label="gradient descent")
        axes.set(xlabel="batch size B", ylabel="largest stable learning rate")
        axes.set(xscale="log", yscale="log")
    plot.legend(panels[0], simulated="exact", predicted="bound by two moments", below=True)


SEVERAL = Domain("there are several examples", lambda runs: runs.attrs["examples"] > 1)
SEVERAL_BATCHES = Domain(
    "there are several examples and batch sizes",
    lambda runs: runs.attrs["examples"] > 1 and runs.sizes["batch"] > 1,
)

CLAIMS = (
    Claim(
        "SGD leaves a minimum, whose gradients are not orthogonal, at smaller learning rates than "
        "the bound by two moments of the gradients",
        "largest ratio of the exact threshold to the bound",
        exact_to_bound,
        below=1,
        when=SEVERAL,
    ),
    Claim(
        "the bound on learning rates by two moments of the gradients at a minimum, which are not "
        "orthogonal, is below 2 B / tr H, B the batch size",
        "largest ratio of the bound by two moments to 2 B / tr H",
        bound_to_trace,
        below=1,
        when=SEVERAL,
    ),
    Claim(
        "for orthogonal gradients of one norm the bound by two moments is the threshold of "
        "stability itself",
        "largest relative deviation of the exact threshold from the bound",
        orthogonal_deviation,
        below=1e-9,
    ),
    Claim(
        "larger batches are stable at larger learning rates",
        "largest ratio of the threshold of a batch size to that of the next larger one",
        smaller_to_larger,
        below=1,
        when=SEVERAL_BATCHES,
    ),
    Claim(
        "SGD of any batch size leaves a minimum at smaller learning rates than gradient descent",
        "largest ratio of the threshold of SGD to that of gradient descent",
        exact_to_descent,
        below=1,
        when=SEVERAL,
    ),
)

OTHER_BATCHES = {"examples": 8, "batches": (1, 3, 16)}

EXPERIMENT = Experiment(
    thresholds,
    claims=CLAIMS,
    plot=plot_thresholds,
    others=({"examples": 6}, OTHER_BATCHES),
)
