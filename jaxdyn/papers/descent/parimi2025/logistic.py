"""Logistic: a function that is a quadratic only near its minimum."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdyn import RK4, Claim, integrate, plot, sweep
from jaxdyn.claims import Domain, ratio, worst
from jaxdyn.papers import Experiment
from jaxdyn.papers.descent.parimi2025.methods import (
    NAMES,
    TUNINGS,
    check_conditions,
    descend,
)
from jaxdyn.theory.descent import momentum

__all__ = ["POTENTIAL", "RATES"]


class Regression(NamedTuple):
    """A random logistic regression with weight decay.

    Attributes:
        loss: the loss.
        slope: its gradient.
        m: its convexity, the weight decay.
        L: its smoothness, a bound on curvatures.
        minimum: where it is lowest.
    """

    loss: Callable
    slope: Callable
    m: float
    L: float
    minimum: np.ndarray


def regression(examples, features, kappa):
    """Return a random regression of condition number kappa."""
    rows = jnp.asarray(np.random.default_rng(0).standard_normal((examples, features)))
    smoothness = float(jnp.linalg.eigvalsh(rows.T @ rows)[-1]) / 4
    decay = smoothness / (kappa - 1)
    minimum = jnp.zeros(features)

    def loss(x):
        return jnp.sum(jax.nn.softplus(-rows @ x)) + decay / 2 * jnp.sum(x**2)

    slope = jax.grad(loss)
    # Newton's method has converged to rounding after these.
    for _ in range(20):
        minimum -= jnp.linalg.solve(jax.hessian(loss)(minimum), slope(minimum))
    return Regression(loss, slope, decay, smoothness + decay, np.asarray(minimum))


# Rates: how fast each method converges in the end.


def local_rates(*, kappa=401.0, examples=60, features=20, sweep=sweep):
    """On a logistic regression each method ends at the rate of the curvatures at the minimum.

    These are further apart from the bounds that methods are tuned to, so that Nesterov's and the
    triple momentum method beat what is guaranteed.

    Args:
        kappa: condition number, smoothness over convexity, that weight decay makes.
        examples: number of examples.
        features: number of their features.
    """
    check_conditions("kappa", (kappa,))
    with jax.enable_x64(True):
        problem = regression(examples, features, kappa)
        rules = {"rule": np.arange(len(NAMES))}
        runs = sweep(partial(descent_to_minimum, problem=problem), rules)
        curvatures = jnp.linalg.eigvalsh(jax.hessian(problem.loss)(problem.minimum))
        methods = [tune(problem.m, problem.L) for tune in TUNINGS.values()]
        slowest = [momentum.mode_rate(method, curvatures).max() for method in methods]
    runs["rate_theory"] = "rule", [float(rate) for rate in slowest]
    runs = runs.assign_coords(rule=NAMES)
    return runs.assign_attrs(kappa=kappa, examples=examples, features=features)


def descent_to_minimum(rule, *, problem):
    """Distance to the minimum of a logistic regression."""
    _, slope, m, L, minimum = problem

    def observe(time, x, method):
        return {"distance": jnp.linalg.norm(x - minimum)}

    # In 13 kappa steps gradient descent falls by e^-26.
    times = np.arange(0, 13 * L / m, 1 + np.sqrt(L / m) // 4)
    return descend(rule, m, L, slope, minimum + 3, times=times, observe=observe)


def log_distances(runs):
    """Logarithms of distances in units of that at the start, between 1e-3 and 1e-11."""
    log = np.log(runs.distance / runs.distance.isel(time=0))
    return log.where((log < np.log(1e-3)) & (log > np.log(1e-11)))


def local_rate_deviation(runs):
    """How far each is off its rate, as a power of 4: a double or an oscillating root may gain or
    lose this factor."""
    near = log_distances(runs)
    fell = near.max("time") - near.min("time")
    steps = near.idxmin("time") - near.idxmax("time")
    return worst(fell, -steps * np.log(runs.rate_theory)) / np.log(4)


def rate_to_guarantee(runs):
    guarantee = 1 - 1 / np.sqrt(runs.attrs["kappa"])
    rates = runs.rate_theory.sel(rule=["Nesterov", "triple momentum"])
    return ratio(rates, guarantee)


def covers_the_range(runs):
    near = log_distances(runs)
    steps = near.idxmin("time") - near.idxmax("time")
    start = runs.distance.isel(time=0)
    end = runs.distance.isel(time=-1) / start
    return bool(steps.min() >= 20 and end.max() < 1e-10)


def plot_local_rates(runs, figure):
    """Draw the distances to the minimum beside the rate at which each method ends."""
    (axes,) = plot.panels(figure, "Each method ends at its local rate", height=3.4)
    near = log_distances(runs)
    for place, (name, colour) in enumerate(zip(NAMES, plot.COLOURS, strict=False)):
        log = near.isel(rule=place).dropna("time")
        rate = np.log(float(runs.rate_theory[place]))
        theory = log[0] + rate * (log.time - log.time[0])
        style = {"colour": colour, "label": name, "points": 12}
        plot.points_and_line(axes, log.time, np.exp(log), np.exp(theory), **style)
    axes.set(xlabel="step", ylabel="distance to the minimum / start", yscale="log")
    plot.legend(axes, loc="upper left", bbox_to_anchor=(1, 1))


# The potential of the flow of low resolution.


def potential(*, kappa=401.0, examples=60, features=20, sweep=sweep):
    """The potential of an accelerated flow falls at least as fast as e^(-sqrt(m) t).

    The flow of low resolution is X' = sqrt(m) (Z - X), Z' = sqrt(m) (X - Z) - grad f(X) / sqrt(m),
    and its potential is f - f* + m |Z - x*|^2 / 2, here of a logistic regression of convexity m.

    Args:
        kappa: condition number, smoothness over convexity, that weight decay makes.
        examples: number of examples.
        features: number of their features.
    """
    check_conditions("kappa", (kappa,))
    with jax.enable_x64(True):
        problem = regression(examples, features, kappa)
        runs = sweep(partial(accelerated_flow, problem=problem))
    return runs.assign_attrs(root=np.sqrt(problem.m))


def accelerated_flow(*, problem):
    """The flow of low resolution, and its potential times e^(sqrt(m) t)."""
    loss, slope, m, L, minimum = problem
    root = np.sqrt(m)
    start = minimum + 3
    times = np.linspace(0, 8 / root, 201)

    def velocity(_, pair):
        x, z = pair
        return root * (z - x), root * (x - z) - slope(x) / root

    def height(x, z):
        return loss(x) - loss(minimum) + m / 2 * jnp.sum((z - minimum) ** 2)

    def observe(state):
        growth = jnp.exp(root * state.time)
        return {"potential": height(*state.params) * growth}

    # A fifth of the time of the fastest oscillation.
    solver = RK4(0.2 / np.sqrt(L))
    return integrate(velocity, (start, start), times=times, observe=observe, solver=solver)


def largest_increase(runs):
    return runs.potential.diff("time").max(skipna=False)


def plot_potential(runs, figure):
    """Draw the potential beside the bound."""
    (axes,) = plot.panels(figure, "The potential falls faster than its bound", height=3)
    decay = np.exp(-runs.attrs["root"] * runs.time)
    bound = runs.potential[0] * decay
    plot.points_and_line(axes, runs.time, runs.potential * decay, bound)
    axes.set(xlabel="flow time", ylabel="potential", yscale="log")
    plot.legend(axes, simulated="flow", predicted="bound")


COVERED = Domain(
    "every method falls from 1e-3 to 1e-10 of its start, in 20 steps or more", covers_the_range
)
MORE_EXAMPLES = Domain(
    "there are more examples than features: else weight decay alone curves some directions",
    lambda runs: runs.attrs["examples"] > runs.attrs["features"],
)

RATES_CLAIMS = (
    Claim(
        "on a logistic regression every method ends at the rate that the curvatures at the minimum "
        "give",
        "largest deviation of the contraction between 1e-3 and 1e-11 of the start, in powers of 4",
        local_rate_deviation,
        below=1,
        when=COVERED,
    ),
    Claim(
        "on a logistic regression Nesterov's and the triple momentum method end faster than the "
        "guaranteed 1 - 1/sqrt(kappa) a step",
        "larger ratio of their local rates to the guarantee",
        rate_to_guarantee,
        below=1,
        when=MORE_EXAMPLES,
    ),
)
POTENTIAL_CLAIMS = (
    Claim(
        "the potential f - f* + m/2 |Z - x*|^2 of the flow of low resolution falls at least as "
        "fast as e^(-sqrt(m) t)",
        "largest increase of the potential times e^(sqrt(m) t) between two records",
        largest_increase,
        below=0,
    ),
)

PAPER = {"features": 50}
OTHERS = ({"kappa": 150.0, "features": 10}, {"examples": 30})

RATES = Experiment(
    local_rates, claims=RATES_CLAIMS, plot=plot_local_rates, paper=PAPER, others=OTHERS
)
POTENTIAL = Experiment(
    potential, claims=POTENTIAL_CLAIMS, plot=plot_potential, paper=PAPER, others=OTHERS
)
