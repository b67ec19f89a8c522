"""Turning: the equilibrium of weights before a normalisation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxdyn import Claim, plot, sweep, train
from jaxdyn._numbers import normal
from jaxdyn.claims import Domain, worst
from jaxdyn.papers import Experiment
from jaxdyn.papers.descent.tanaka2021.networks import decayed_descent, distinct
from jaxdyn.theory.descent import noether

__all__ = ["EXPERIMENT"]


def turning(
    *,
    learning_rates=(0.2, 0.05),
    decays=(0.1, 0.2),
    momentum=0.9,
    dimension=50,
    averaged=2000,
    sweep=sweep,
):
    """Weights before a normalisation come to turn by a fixed angle a step, whatever the gradients.

    Their gradients are random unit tangents of the sphere; their norm settles where weight decay
    balances the growth that turning causes.

    Args:
        learning_rates: learning rates of the descents.
        decays: weight decays, one for each learning rate.
        momentum: momentum of the descents that have any.
        dimension: number of weights.
        averaged: number of steps that angle and norm are averaged over.
    """
    if len(decays) != len(learning_rates):
        raise ValueError(
            f"decays: {decays} are not as many as learning_rates: {learning_rates}; pass one for "
            "each"
        )
    if min(decays) <= 0 or min(learning_rates) <= 0:
        raise ValueError(
            f"decays: {decays} or learning_rates: {learning_rates} hold a number that is not "
            "positive; pass positive ones: without decay no norm settles"
        )
    with jax.enable_x64(True):
        pairs = distinct(zip(learning_rates, decays, strict=True))
        # The norm settles as e^(-4 a k steps).
        slowest = min(learning_rate * decay for learning_rate, decay in pairs)
        burn = int(6 / slowest)
        turn = partial(turned, dimension=dimension, burn=burn, averaged=averaged)
        axes = {("learning_rate", "decay"): pairs, "momentum": distinct((0.0, momentum))}
        runs = sweep(turn, axes, seeds=1)
    return runs.assign_attrs(samples=dimension * averaged)


def turned(key, learning_rate, momentum, decay, *, dimension, burn, averaged):
    """Train scale-invariant weights until their norm settles: their mean angle a step and norm."""

    def field(weights, key):
        unit = weights / jnp.linalg.norm(weights)
        noise = normal(key, weights.shape)
        tangent = noise - unit * (unit @ noise)
        return tangent / jnp.linalg.norm(tangent) / jnp.linalg.norm(weights)

    def stream(key, step):
        return key

    def observe(state):
        return {"weights": state.params}

    angle = noether.equilibrium_angle(learning_rate, decay, momentum)
    norm = noether.equilibrium_norm(1.0, learning_rate, decay, momentum)
    start = 1.5 * (norm * (jnp.ones(dimension) / dimension**0.5))
    optimizer = decayed_descent(learning_rate, momentum, decay)
    times = burn + np.arange(averaged + 1)
    run = train(field, optimizer, stream, start, times=times, observe=observe, key=key)
    weights = run.observed["weights"]
    square = jnp.mean(jnp.sum(weights**2, 1))
    overlaps = jnp.sum(weights[1:] * weights[:-1], 1)
    cosine = jnp.mean(overlaps) / square
    return {
        "angle": jnp.arccos(cosine),
        "norm": square**0.5,
        "angle_theory": angle,
        "norm_theory": norm,
    }


def plain(runs):
    return runs.sel(momentum=0.0)


def with_momentum(runs):
    return runs.isel(momentum=-1)


def angle_deviation(runs):
    return worst(runs.angle, runs.angle_theory, relative=True)


def norm_deviation(runs):
    return worst(runs.norm, runs.norm_theory, relative=True)


def plain_angle_deviation(runs):
    return angle_deviation(plain(runs))


def plain_norm_deviation(runs):
    return norm_deviation(plain(runs))


def momentum_angle_deviation(runs):
    return angle_deviation(with_momentum(runs))


def momentum_norm_deviation(runs):
    return norm_deviation(with_momentum(runs))


def noise(runs):
    """Noise and velocity correlate by 1/sqrt(dimension) a step, which is averaged over what
    momentum forgets: four standard deviations."""
    independent = runs.attrs["samples"] * (1 - float(runs.momentum.max()))
    return 4 / np.sqrt(independent)


def plot_turning(runs, figure):
    """Draw measured angles and norms against those in theory."""
    titles = {
        "angle": "Weights come to turn by the predicted angle a step",
        "norm": "Their norm settles where theory predicts",
    }
    units = {"angle": "angle (radians)", "norm": "norm"}
    panels = plot.panels(figure, *titles.values(), height=3)
    for axes, (name, unit) in zip(panels, units.items(), strict=True):
        for place in range(runs.sizes["momentum"]):
            chain = runs.isel(momentum=place, seed=0).sortby(f"{name}_theory")
            theory = chain[f"{name}_theory"]
            colour = plot.COLOURS[place]
            label = f"momentum {float(chain.momentum):g}"
            plot.points_and_line(axes, theory, chain[name], theory, colour=colour, label=label)
        axes.set(xlabel=f"{unit} in theory", ylabel=f"{unit} measured")
    plot.legend(panels[0], below=True, ncols=2)


MOMENTUM = Domain("momentum is not zero", lambda runs: float(runs.momentum.max()) > 0)

CLAIMS = (
    Claim(
        "without momentum, weights before a normalisation come to turn by arccos(1 - a k) "
        "a step at learning rate a and weight decay k",
        "largest relative deviation of the mean angle",
        plain_angle_deviation,
        below=1e-8,
    ),
    Claim(
        "with momentum b, weights before a normalisation come to turn by "
        "arccos(1 - a k / (1 + b)) a step at learning rate a and weight decay k",
        "largest relative deviation of the mean angle",
        momentum_angle_deviation,
        below=noise,
        when=MOMENTUM,
    ),
    Claim(
        "without momentum, the norm of weights before a normalisation settles where weight "
        "decay balances the growth by turning",
        "largest relative deviation of the norm from the balance",
        plain_norm_deviation,
        below=1e-8,
    ),
    Claim(
        "momentum raises the norm at which weights before a normalisation settle as "
        "predicted for random gradients",
        "largest relative deviation of the norm from the prediction",
        momentum_norm_deviation,
        below=noise,
        when=MOMENTUM,
    ),
)

LOWER_DIMENSION = {"momentum": 0.5, "dimension": 20}
ONE_RATE = {"learning_rates": (0.3,), "decays": (0.05,), "averaged": 1000}

EXPERIMENT = Experiment(
    turning,
    claims=CLAIMS,
    plot=plot_turning,
    paper={"averaged": 20000},
    others=(LOWER_DIMENSION, ONE_RATE),
)
