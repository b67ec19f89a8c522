"""Piecewise: a strongly convex function on which the heavy ball cycles."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxdyn import Claim, plot, sweep
from jaxdyn.claims import Domain, ratio, worst
from jaxdyn.papers import Experiment
from jaxdyn.papers.descent.parimi2025.methods import NAMES, descend
from jaxdyn.theory.descent import momentum

__all__ = ["EXPERIMENT"]

# What holds for every strongly convex function of condition number 25, up to a factor of it.
GUARANTEES = {"gradient descent": 12 / 13, "Nesterov": np.sqrt(0.8), "triple momentum": 0.8}


def cycle(*, start=3.3, steps=200, sweep=sweep):
    """The heavy ball, the fastest on quadratics, cycles for ever on a function that is none.

    The function has the slope 25 x below 1, x + 24 up to 2 and 25 x - 24 beyond (Lessard, Recht,
    Packard, 2016): it is strongly convex, of curvatures 1 and 25.

    Args:
        start: the point at which all methods start.
        steps: number of steps.
    """
    with jax.enable_x64(True):
        experiment = partial(descent_in_pieces, start=start, steps=steps)
        runs = sweep(experiment, {"rule": np.arange(len(NAMES))})
        runs["cycle"] = "point", cycle_points()
    return runs.assign_coords(rule=NAMES)


def descent_in_pieces(rule, *, start, steps):
    def slope(x):
        above = jnp.where(x < 2, x + 24, 25 * x - 24)
        return jnp.where(x < 1, 25 * x, above)

    def observe(time, x, method):
        return {"x": x}

    times = np.arange(steps + 1)
    return descend(rule, 1.0, 25.0, slope, jnp.array(start), times=times, observe=observe)


def cycle_points():
    """The points x_{k+1} = (1 + b - 25 a) x_k - b x_{k-1} + 24 a [x_k >= 2] of a cycle with one of
    them beyond 2."""
    method = momentum.heavy_ball(1.0, 25.0)
    a = np.asarray(method.learning_rate).item()
    b = np.asarray(method.momentum).item()
    shift = np.eye(3)[[1, 2, 0]]
    recursion = shift - (1 + b - 25 * a) * np.eye(3) + b * shift.T
    return np.sort(np.linalg.solve(recursion, [0, 24 * a, 0]))


def last_points(runs):
    return np.sort(runs.x.sel(rule="heavy ball").values[-3:])


def cycle_deviation(runs):
    return worst(last_points(runs), runs.cycle.values)


def guaranteed(runs):
    """The guarantees of the methods that have one, at every time."""
    rates = np.array(list(GUARANTEES.values()))
    start = abs(float(runs.x.isel(rule=0, time=0)))
    decay = rates[:, None] ** runs.time.values
    return 25 * start * decay


def distance_to_guarantee(runs):
    x = abs(runs.x.sel(rule=list(GUARANTEES)))
    return ratio(x.values, guaranteed(runs))


def leaves_the_minimum(runs):
    start = float(runs.x.isel(rule=0, time=0))
    return start == 3.3 and int(runs.time[-1]) >= 100


def plot_cycle(runs, figure):
    """Draw the heavy ball on its cycle, and the other methods below their guarantees."""
    cycle, others = plot.panels(
        figure, "The heavy ball cycles", "Other methods contract as guaranteed", height=3.6
    )
    ball = runs.x.sel(rule="heavy ball")[:40]
    cycle.plot(ball.time, ball, "o", label="heavy ball")
    for point in runs.cycle.values:
        cycle.axhline(point, color="0.3", linewidth=1)
    cycle.set(xlabel="step", ylabel="position")
    plot.legend(cycle, simulated="", predicted="cycle in theory", below=True)
    chosen = runs.sel(rule=list(GUARANTEES)).isel(time=slice(None, 121))
    bounds = guaranteed(chosen)
    for place, (name, colour) in enumerate(zip(GUARANTEES, plot.COLOURS, strict=False)):
        x = abs(chosen.x.isel(rule=place))
        plot.points_and_line(others, x.time, x, bounds[place], colour=colour, label=name)
    others.set(xlabel="step", ylabel="distance to the minimum", yscale="log", ylim=(1e-12, 1e3))
    plot.legend(others, simulated="", predicted="guarantee", below=True)


FAR_START = Domain(
    "the methods start at 3.3 and make 100 steps: from other points the heavy ball may reach the "
    "minimum",
    leaves_the_minimum,
)

CLAIMS = (
    Claim(
        "the heavy ball, the fastest method on quadratics, ends on a cycle of three points of a "
        "piecewise quadratic function",
        "largest deviation of the last three positions from the cycle in theory",
        cycle_deviation,
        below=1e-9,
        when=FAR_START,
    ),
    Claim(
        "gradient descent, Nesterov's and the triple momentum method contract a piecewise "
        "quadratic function as is guaranteed for strongly convex ones, up to kappa times the start",
        "largest ratio of the distance to the minimum to the guarantee",
        distance_to_guarantee,
        below=1,
    ),
)

EXPERIMENT = Experiment(
    cycle,
    claims=CLAIMS,
    plot=plot_cycle,
    others=({"steps": 120}, {"steps": 160}),
)
