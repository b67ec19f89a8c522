"""Learning several targets in turn: continual learning, and reversal."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxdyn import RK4, Claim, State, flow, iterate, plot, sweep
from jaxdyn._numbers import check, check_positive
from jaxdyn.claims import Domain, worst
from jaxdyn.losses import covariance_loss
from jaxdyn.models import product
from jaxdyn.papers import Experiment
from jaxdyn.papers.linear.braun2022.starts import (
    FEW_OUTPUTS,
    MANY,
    UNEQUAL,
    named,
    problem,
    unequal_networks,
)
from jaxdyn.tasks import linear_teacher
from jaxdyn.theory.linear import riccati

__all__ = ["EXPERIMENTS"]

# Three targets in turn.

RECORDS = 40


def continual_learning(
    *,
    strengths=(3.0, 2.0, 1.0),
    inputs=5,
    outputs=4,
    imbalances=(0.5, 2.0),
    scale=0.3,
    draws=2,
    learned=1.5,
    sweep=sweep,
):
    """The exact solution goes on from task to task, through a reversal, as the flow does.

    The network learns a target, then its reverse for four times as long, then another target.

    Args:
        strengths: singular values of the target.
        inputs: number of inputs.
        outputs: number of outputs.
        imbalances: sizes of lambda, which is given both signs; zero is always there.
        scale: singular values of the initial weights, about.
        draws: number of networks of each imbalance.
        learned: flow time for which the first target is learned.
    """
    check_positive(learned=learned)
    with jax.enable_x64(True):
        networks = unequal_networks(strengths, inputs, outputs, imbalances, scale, draws)
        options = {"observe_modes": networks.observe, "learned": learned}
        experiment = partial(continual, **options, **networks.weights)
        dims = {"gram": ("row", "column"), "strength": "mode"}
        runs = sweep(experiment, networks.axes, dims=dims)
    first = runs.time.clip(max=RECORDS)
    later = (runs.time - RECORDS).clip(min=0)
    clock = learned * (first + 4 * later) / RECORDS
    weakest = int(np.argmin(strengths))
    return named(runs, weakest=weakest, learned=learned).assign_coords(flow_time=clock)


def continual(imbalance, opposed, index, draw, *, observe_modes, learned, **weights):
    """Learn a target for the time `learned`, then its reverse, then another one, by flow and by the
    exact solution."""
    start, yx = problem(index, draw, opposed, **weights)
    targets = jnp.stack([yx, -yx, yx[::-1]])
    gradient = jax.grad(covariance_loss(product))
    # A step of 0.015 of the fastest time constant leaves an error of 1e-9.
    fastest = jnp.hypot(imbalance, 2 * jnp.linalg.norm(yx, 2))
    solver = RK4(0.015 / fastest)

    def advance(key, state):
        task = state.time // RECORDS
        dt = jnp.where(task == 0, learned, 4 * learned) / RECORDS
        moments = linear_teacher(targets[task])
        simulated, exact = state.params
        options = {"times": dt[None], "observe": lambda state: {}, "solver": solver}
        moved = flow(gradient, moments, simulated, **options).final.params
        solved = riccati.solution(dt, exact, targets[task])
        return state._replace(params=(moved, solved))

    def observe(state):
        def observed(weights):
            strength = observe_modes(State(state.time, weights))["mode_strengths"]
            return {"strength": strength, "gram": riccati.gram(weights)}

        simulated, exact = state.params
        theory = {f"{name}_theory": value for name, value in observed(exact).items()}
        return observed(simulated) | theory

    times = np.arange(3 * RECORDS + 1)
    return iterate(advance, (start, start), times=times, observe=observe)


def gram_deviation(runs):
    """Deviation of networks that start out of balance."""
    unbalanced = runs.isel(run=(runs.imbalance != 0).values)
    return worst(unbalanced.gram, unbalanced.gram_theory)


def plot_continual_learning(runs, figure):
    """Draw the weakest mode as it is learned, reversed and learned anew."""
    (axes,) = plot.panels(figure, "Balanced starts reverse late, others at once", height=3.2)
    weakest = runs.isel(mode=runs.attrs["weakest"])
    weakest = weakest.isel(run=(runs.imbalance >= 0).values)
    weakest = weakest.assign_coords(time=weakest.flow_time.values).swap_dims(run="imbalance")
    options = {"hue": "imbalance", "over": "draw", "spread": "std", "points": 40}
    plot.curves(weakest.strength, weakest.strength_theory, axes=axes, **options)
    learned = runs.attrs["learned"]
    for change in (learned, 5 * learned):
        axes.axvline(change, color="0.6", linewidth=0.8, linestyle="--")
    axes.set(xlabel="flow time", ylabel="strength of the weakest mode")


# The reversal of a target, by the exact solution.


def reversal(
    *,
    strengths=(3.0, 2.0, 1.0),
    inputs=5,
    outputs=4,
    imbalances=(0.5, 2.0),
    scale=0.3,
    draws=2,
    reversed_after=(3.0, 4.0),
    sweep=sweep,
):
    """The longer a balanced network has learned a target, the later does it reverse.

    Out of balance a network reverses at once, however long it has learned.

    Args:
        strengths: singular values of the target.
        inputs: number of inputs.
        outputs: number of outputs.
        imbalances: sizes of lambda, which is given both signs; zero is always there.
        scale: singular values of the initial weights, about.
        draws: number of networks of each imbalance.
        reversed_after: two flow times for which the target is learned before it is reversed.
    """
    check("reversed_after", len(reversed_after), lambda number: number == 2, "two times")
    check("reversed_after", np.diff(reversed_after), lambda step: step > 0, "times that increase")
    singular_values = np.array(strengths)
    with jax.enable_x64(True):
        networks = unequal_networks(strengths, inputs, outputs, imbalances, scale, draws)
        options = {"observe_modes": networks.observe, "strengths": singular_values}
        experiment = partial(reverse, **options, **networks.weights)
        runs = sweep(experiment, networks.axes | {"after": reversed_after})
    # Some starts have little of what delays it most, and come to that later; these are rare.
    later = runs.half_reversed.diff("after").isel(after=0)
    delay = later / np.diff(reversed_after)[0]
    runs["delay"] = delay.median("draw", skipna=False)
    # The strong modes take the larger seeds: e^-(s_max + s_min) after is left to the weakest,
    # growing as e^(s_min t).
    runs["delay_theory"] = 1 + singular_values.max() / singular_values.min()
    constants = min(reversed_after) * min(strengths)
    return named(runs, gap=gap_above_weakest(singular_values), time_constants=constants)


def gap_above_weakest(singular_values):
    """Relative gap between the two smallest singular values."""
    ascending = np.sort(singular_values)
    gaps = 1 - ascending[:-1] / ascending[1:]
    return float(gaps[0]) if gaps.size else 1.0


def reverse(imbalance, opposed, index, draw, after, *, observe_modes, strengths, **weights):
    """Return when the weakest mode has half reversed after the target was learned for the time
    `after`."""
    start, yx = problem(index, draw, opposed, **weights)
    weakest = strengths.min()
    # Half as long again as the reversal takes in theory, in 800 steps.
    records = 800
    dt = 1.5 * after * (1 + strengths.max() / weakest) / records

    def advance(key, state):
        duration = jnp.where(state.time, dt, after)
        target = jnp.where(state.time, -yx, yx)
        return state._replace(params=riccati.solution(duration, state.params, target))

    times = np.arange(1, records + 2)
    run = iterate(advance, start, times=times, observe=observe_modes)
    strength = run.observed["mode_strengths"][:, np.argmin(strengths)]
    below = strength < -weakest / 2
    time = dt * jnp.argmax(below)
    return {"half_reversed": jnp.where(below.any(), time, jnp.nan)}


def balanced(runs):
    return runs.isel(run=(runs.imbalance == 0).values)


def unbalanced(runs):
    return runs.isel(run=(runs.imbalance != 0).values)


def balanced_delay_deviation(runs):
    return worst(balanced(runs).delay, runs.delay_theory, relative=True)


def unbalanced_delay(runs):
    return unbalanced(runs).delay.max(skipna=False)


def plot_reversal(runs, figure):
    """Draw when the weakest mode has reversed, and by how much learning delays that."""
    times, delays = plot.panels(
        figure, "Balanced networks reverse late", "Only balance makes reversal late", height=3.2
    )
    median = runs.half_reversed.median("draw")
    kinds = {"zero balance": balanced(median.to_dataset(name="time"))}
    kinds["out of balance"] = unbalanced(median.to_dataset(name="time"))
    for colour, (name, kind) in zip(plot.COLOURS, kinds.items(), strict=False):
        for run in kind.time.transpose("run", "after"):
            times.plot(run.after, run, "o-", color=colour, label=name)
            name = "_"
    times.set(xlabel="flow time of learning", ylabel="flow time until half reversed")
    plot.legend(times, simulated="", predicted="", below=True)
    delays.plot(runs.imbalance, runs.delay, "o")
    delays.axhline(float(runs.delay_theory), color=plot.COLOURS[0])
    delays.set(xlabel="imbalance lambda", ylabel="delay per time of learning")
    plot.legend(delays, predicted="theory of zero balance", below=True)


OUT_OF_BALANCE = Domain(
    "some networks start out of balance", lambda runs: np.any(runs.imbalance != 0)
)
OUT_OF_BALANCE_AND_LEARNED = Domain(
    "some networks start out of balance and have learned the target, for three time constants of "
    "the weakest mode or more",
    lambda runs: np.any(runs.imbalance != 0) and runs.attrs["time_constants"] >= 3,
)
WEAKEST_APART_AND_LEARNED = Domain(
    "the weakest mode is weaker than the others, by a tenth or more, and was learned for three of "
    "its time constants or more",
    lambda runs: runs.attrs["gap"] >= 0.1 and runs.attrs["time_constants"] >= 3,
)

EXPERIMENTS = (
    Experiment(
        continual_learning,
        claims=(
            Claim(
                "out of balance the exact solution goes on from task to task, through a reversal, "
                "as the flow does",
                "largest deviation of an entry of Q Q^T",
                gram_deviation,
                below=1e-7,
                when=OUT_OF_BALANCE,
            ),
        ),
        plot=plot_continual_learning,
        paper=MANY,
        others=(UNEQUAL, FEW_OUTPUTS | {"learned": 1.0}),
    ),
    Experiment(
        reversal,
        claims=(
            Claim(
                "in zero balance each unit of time learned delays the median reversal of the "
                "weakest mode by 1 + s_max/s_min",
                "relative deviation of the median delay from 1 + s_max/s_min",
                balanced_delay_deviation,
                below=0.05,
                when=WEAKEST_APART_AND_LEARNED,
            ),
            Claim(
                "out of balance no time learned delays the reversal of the weakest mode",
                "largest median delay per unit of time learned",
                unbalanced_delay,
                below=0.05,
                when=OUT_OF_BALANCE_AND_LEARNED,
            ),
        ),
        plot=plot_reversal,
        paper=MANY,
        others=(UNEQUAL, FEW_OUTPUTS),
    ),
)
