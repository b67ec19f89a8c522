"""Charges: what finite steps do to them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxdyn import Claim, plot, sweep, train
from jaxdyn.claims import Domain, worst
from jaxdyn.papers import Experiment
from jaxdyn.papers.descent.tanaka2021.networks import (
    LOSSES,
    charges_of,
    decayed_descent,
    distinct,
    order_in_rate,
    problem,
)
from jaxdyn.theory.descent import momentum as heavy_ball
from jaxdyn.theory.descent import noether

__all__ = ["EXPERIMENT"]

# The dimension of the charges of each symmetry.
PARTS = {"translation": "input", "scale": "network", "rescaling": "unit"}


def charges(
    *,
    inputs=8,
    classes=4,
    hidden=6,
    examples=40,
    learning_rates=(0.1, 0.05, 0.025),
    momentum=0.9,
    decay=0.1,
    duration=10.0,
    sweep=sweep,
):
    """Finite steps move the charges of symmetries by laws that are exact at every step.

    A softmax layer, weights before a normalisation and a layer of ReLU units are trained with and
    without momentum and weight decay, on all examples and on random samples of them.

    Args:
        inputs: number of inputs of each network.
        classes: number of classes of the softmax layer.
        hidden: number of ReLU units.
        examples: number of examples.
        learning_rates: learning rates of the descents.
        momentum: momentum of the descents that have any.
        decay: weight decay of the descents that have any.
        duration: flow time, learning rate times step, that the smallest learning rate takes.
    """
    with jax.enable_x64(True):
        setting = problem(inputs=inputs, classes=classes, hidden=hidden, examples=examples)
        steps = round(duration / min(learning_rates))
        train_all = partial(trained, problem=setting, steps=steps)
        chains = distinct([(0.0, 0.0), (momentum, 0.0), (0.0, decay), (momentum, decay)])
        axes = {"learning_rate": distinct(learning_rates), ("momentum", "decay"): chains}
        axes["resampled"] = (False, True)
        dims = {name: ("step", part) for name, part in PARTS.items()}
        runs = sweep(train_all, axes, seeds=1, dims=dims)
        x, _ = setting.data["scale"]
        variance = float(jnp.linalg.eigvalsh(x.T @ x / examples).max())
    runs = runs.assign_coords(step=np.arange(steps + 1))
    return runs.assign_attrs(duration=duration, largest_variance=variance)


def trained(key, learning_rate, momentum, decay, resampled, *, problem, steps):
    """Train all networks, on all data or on samples of it: charges at all steps beside their
    laws."""
    data = problem.data
    examples = len(data["scale"][1])
    times = np.arange(steps + 1)
    method = (learning_rate, momentum, decay)

    def field(params, rows):
        batches = jax.tree.map(lambda column: column[rows], data)
        return {name: jax.grad(loss)(params[name], batches[name]) for name, loss in LOSSES.items()}

    def stream(key, step):
        sample = jax.random.randint(key, (examples,), 0, examples, jnp.int32)
        return jnp.where(resampled, sample, jnp.arange(examples))

    def observe(state):
        return {"flat": ravel_pytree(state.params)[0]}

    optimizer = decayed_descent(*method)
    run = train(field, optimizer, stream, problem.start, times=times, observe=observe, key=key)
    unravel = ravel_pytree(problem.start)[1]
    path = jax.vmap(unravel)(run.observed["flat"])

    def iterates(first):
        return jax.tree.map(lambda weights: weights[first : steps - 1 + first], path)

    def residual(previous, current, following):
        return noether.symmetry_residual(generator, previous, current, following, *method)

    forced = jax.vmap(residual)(iterates(0), iterates(1), iterates(2))
    moves = jax.tree.map(lambda weights: jnp.diff(weights, axis=0), path)
    measured = jax.vmap(charges_of)(path)
    kinetic = jax.vmap(charges_of)(moves)

    def quadratic(parts):
        return jnp.concatenate([parts["scale"], parts["rescaling"]], 1)

    law = noether.quadratic_charges(quadratic(kinetic), quadratic(measured)[0], *method)
    ball = heavy_ball.mode(times, heavy_ball.ThreeTerm(learning_rate, momentum), decay)
    return {
        **measured,
        "translation_theory": ball[:, None] * measured["translation"][:1],
        "scale_theory": law[:, :1],
        "rescaling_theory": law[:, 1:],
        "residual": jnp.abs(forced).max(),
    }


def generator(params):
    """The generators of all symmetries together, the gradient of the sum of all charges."""

    def total(params):
        return sum(jnp.sum(charge) for charge in charges_of(params).values())

    return jax.grad(total)(params)


def translation_deviation(runs):
    return worst(runs.translation, runs.translation_theory)


def scale_deviation(runs):
    return worst(runs.scale, runs.scale_theory)


def rescaling_deviation(runs):
    return worst(runs.rescaling, runs.rescaling_theory)


def largest_residual(runs):
    return worst(runs.residual)


def largest_charge(runs):
    return max(worst(runs[name]) for name in PARTS)


def drifts(runs):
    """How far plain descent on all data has moved any imbalance when the duration is over."""
    # The first chain is the one without momentum and decay.
    plain = runs.rescaling.isel(momentum_decay=0, resampled=0, seed=0)
    moved = abs(plain - plain.isel(step=0)).max("unit", skipna=False)
    end = np.round(runs.attrs["duration"] / plain.learning_rate).astype(int)
    return moved.isel(step=end)


def order_of_drift(runs):
    return order_in_rate(drifts(runs))


def rates_are_small(runs):
    """Whether an order can be told: the drifts have a next order, in the rate times curvature."""
    smallest = np.sort(runs.learning_rate)[:2]
    return smallest.size == 2 and smallest[-1] * runs.attrs["largest_variance"] < 0.1


def plot_charges(runs, figure):
    """Draw a charge of each symmetry beside its law, and how one drifts by the learning rate."""
    titles = {
        "translation": "A softmax layer's charge is a heavy ball",
        "scale": "A squared norm follows its law",
        "rescaling": "A ReLU unit's imbalance follows its law",
    }
    panels = plot.panels(figure, *titles.values(), "Plain steps move it by their size", height=2.8)
    samples = runs.isel(learning_rate=0, resampled=1, seed=0)
    for axes, (name, part) in zip(panels, PARTS.items(), strict=False):
        charge = samples.isel({part: 0})
        for place in range(samples.sizes["momentum_decay"]):
            chain = charge.isel(momentum_decay=place)
            label = f"momentum {float(chain.momentum):g}, decay {float(chain.decay):g}"
            colour = plot.COLOURS[place]
            plot.beside(axes, chain, name, x="step", colour=colour, label=label, points=20)
        axes.set(xlabel="step", ylabel=f"charge of {name}")
    panels[1].set_yscale("log")
    drift = drifts(runs).sortby("learning_rate")
    slope = drift[0] / drift.learning_rate[0]
    plot.points_and_line(panels[3], drift.learning_rate, drift, slope * drift.learning_rate)
    panels[3].set(xlabel="learning rate", ylabel="drift of an imbalance")
    plot.legend(panels[3])
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)


STABLE = Domain(
    "training is stable: every charge stays below 1000", lambda runs: largest_charge(runs) < 1e3
)
SMALL_RATES = Domain(
    "there are two learning rates that, times the largest variance of the inputs, are below 0.1",
    rates_are_small,
)

CLAIMS = (
    Claim(
        "the charges of a softmax layer move as a heavy ball whose curvature is the weight "
        "decay, whatever the batches",
        "largest deviation of a charge of translation from the heavy ball's closed form",
        translation_deviation,
        below=1e-11,
        when=STABLE,
    ),
    Claim(
        "the squared norm of weights before a normalisation follows its exact law at every step",
        "largest deviation of the charge of scale from its law",
        scale_deviation,
        below=1e-11,
        when=STABLE,
    ),
    Claim(
        "the imbalance of every ReLU unit, incoming minus outgoing squared weights, follows "
        "its exact law at every step",
        "largest deviation of a charge of rescaling from its law",
        rescaling_deviation,
        below=1e-11,
        when=STABLE,
    ),
    Claim(
        "along the generators of its symmetries descent obeys an equation of motion without "
        "the gradient",
        "largest residual of the equation of motion along the generators",
        largest_residual,
        below=1e-12,
        when=STABLE,
    ),
    Claim(
        "finite steps of plain descent move the conserved imbalances of ReLU units in "
        "proportion to the learning rate",
        "order in the learning rate of the largest drift of an imbalance",
        order_of_drift,
        within=(0.9, 1.1),
        when=SMALL_RATES,
    ),
)

SMALLER = {
    "inputs": 5,
    "classes": 3,
    "examples": 20,
    "momentum": 0.5,
    "decay": 0.3,
    "duration": 5.0,
}
TWO_LEARNING_RATES = {"hidden": 3, "learning_rates": (0.05, 0.025)}

EXPERIMENT = Experiment(
    charges,
    claims=CLAIMS,
    plot=plot_charges,
    paper={"inputs": 64, "hidden": 32, "examples": 400},
    others=(SMALLER, TWO_LEARNING_RATES),
)
