"""Chaos: what learning does where no solution is stable."""

from functools import partial

import jax
import numpy as np

from jaxdyn import Claim, State, descent, iterate, plot, sweep
from jaxdyn.analysis import tangent_growth, with_tangents
from jaxdyn.claims import Domain, worst
from jaxdyn.papers import Experiment
from jaxdyn.papers.plasticity.ninou2025.students import (
    critical,
    flips,
    named,
    student,
    untouched,
    with_hidden,
    with_inputs,
)
from jaxdyn.tasks import full_batch

__all__ = ["EXPERIMENT"]


def chaos(
    *,
    inputs=20,
    expansion=2,
    turned=(0.3, 0.9),
    hidden=0.4,
    learning_rate=0.05,
    steps=6000,
    seeds=3,
    sweep=sweep,
):
    """Beyond the critical fraction of turned inputs learning is chaotic.

    The largest Lyapunov exponent of learning is measured in the last two thirds of the steps.

    Args:
        inputs: number of inputs.
        expansion: number of hidden units for each input.
        turned: fractions of the inputs that are turned.
        hidden: fraction of the hidden units that are turned, in other students.
        learning_rate: learning rate.
        steps: number of steps.
        seeds: number of students of each kind.
    """
    size = {"inputs": inputs, "hidden": expansion * inputs}
    experiment = partial(exponents, rate=learning_rate, steps=steps, **size)
    with jax.enable_x64(True):
        runs = sweep(experiment, flips(turned, hidden), seeds=seeds)
        limit = critical(1 / expansion)
    time = learning_rate * steps * 2 / 3
    return named(runs, critical=limit, inputs=inputs, hidden=hidden, time=time)


def exponents(key, turned_inputs, turned_hidden, *, inputs, hidden, steps, rate):
    """The largest Lyapunov exponent of learning, per unit of learning rate times step, in the last
    two thirds."""
    field, optimizer, moments, start = student(
        key, inputs, hidden, turned_inputs, turned_hidden, rate
    )
    step = descent(field, optimizer, full_batch(moments))
    begin = State(0, start, optimizer.init(start))
    step, begin = with_tangents(step, begin, key=jax.random.fold_in(key, 1))
    third = steps // 3
    times = np.array([third, steps])
    run = iterate(step, begin, times=times, observe=tangent_growth())
    earlier, later = run.observed["growth"][:, 0]
    return {"exponent": (later - earlier) / (rate * (steps - third))}


def resolution(runs):
    """The exponent that a finite time resolves."""
    return 1 / runs.attrs["time"]


def just_beyond(runs):
    """The students with the fewest inputs turned beyond the critical fraction."""
    beyond = with_inputs(runs, beyond=runs.attrs["critical"])
    fewest = beyond.turned_inputs == beyond.turned_inputs.min()
    return beyond.isel(flip=np.flatnonzero(fewest))


def smallest_exponent(runs):
    return just_beyond(runs).exponent.min(skipna=False)


def regular_exponent(runs):
    return max(worst(untouched(runs).exponent), worst(with_hidden(runs).exponent))


def for_long(runs):
    return runs.attrs["inputs"] >= 10 and runs.attrs["time"] >= 100


def beyond_for_long(runs):
    """Whether inputs are turned beyond what is stable; with nearly all turned learning is regular
    again."""
    fractions = with_inputs(runs, beyond=runs.attrs["critical"]).turned_inputs
    return for_long(runs) and fractions.size > 0 and fractions.min() <= 0.5


def minority_for_long(runs):
    return for_long(runs) and 0 < runs.attrs["hidden"] < 0.5


def plot_chaos(runs, figure):
    """Draw the exponents of all students by what is turned."""
    (axes,) = plot.panels(figure, "Turned inputs make learning chaotic, hidden units do not")
    places = np.arange(runs.sizes["flip"])
    exponents_of_flips = runs.exponent.transpose("flip", "seed")
    axes.plot(places, exponents_of_flips, "o", color=plot.COLOURS[0])
    limit = resolution(runs)
    axes.axhspan(-limit, limit, color="0.8", label="not resolved")
    pairs = zip(runs.turned_inputs.values, runs.turned_hidden.values, strict=True)
    axes.set_xticks(places, [f"{first:g}, {second:g}" for first, second in pairs])
    axes.set(xlabel="fractions of inputs, of hidden units turned", ylabel="Lyapunov exponent")
    plot.legend(axes, simulated="a student", predicted="")


BEYOND = Domain(
    "students have 10 inputs, up to half of them turned and more than is stable, and are followed "
    "for a time of 100",
    beyond_for_long,
)
MINORITY = Domain(
    "students have 10 inputs, fewer than half of their hidden units turned, and are followed for a "
    "time of 100",
    minority_for_long,
)

CLAIMS = (
    Claim(
        "beyond the critical fraction of turned inputs curl descent is chaotic: the largest "
        "Lyapunov exponent is beyond what a finite time resolves",
        "smallest exponent of the students with the fewest inputs turned beyond it",
        smallest_exponent,
        above=resolution,
        when=BEYOND,
    ),
    Claim(
        "curl descent with hidden units turned, or no units, is not chaotic: Lyapunov exponents "
        "are below what a finite time resolves",
        "largest size of an exponent of students with hidden units turned or none",
        regular_exponent,
        below=resolution,
        when=MINORITY,
    ),
)

OTHER_FRACTIONS = {"turned": (0.4, 0.6), "hidden": 0.3, "seeds": 2}
MORE_INPUTS = {"inputs": 24, "seeds": 2}

EXPERIMENT = Experiment(
    chaos,
    claims=CLAIMS,
    plot=plot_chaos,
    paper={"steps": 40000, "seeds": 8},
    others=(OTHER_FRACTIONS, MORE_INPUTS),
)
