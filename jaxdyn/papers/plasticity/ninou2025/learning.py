"""Learning: which students learn although signs are turned."""

from functools import partial

import jax
import numpy as np

from jaxdyn import Claim, plot, sweep, train
from jaxdyn.claims import Domain, worst
from jaxdyn.papers import Experiment
from jaxdyn.papers.plasticity.ninou2025.students import (
    LOSS,
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


def learning(
    *,
    inputs=20,
    wide=10,
    narrow=2,
    turned=(0.3, 0.9),
    hidden=0.4,
    learning_rate=0.05,
    steps=4000,
    seeds=3,
    sweep=sweep,
):
    """Students that expand enough learn whatever inputs are turned; narrow ones do not.

    With hidden units turned some of the solutions stay stable, and students find them.

    Args:
        inputs: number of inputs.
        wide: number of hidden units for each input of the expanding students.
        narrow: number of hidden units for each input of the narrow students.
        turned: fractions of the inputs that are turned.
        hidden: fraction of the hidden units that are turned, in other students.
        learning_rate: learning rate.
        steps: number of steps.
        seeds: number of students of each kind.
    """
    results = {}
    axis = flips(turned, hidden)
    attributes = {"inputs": inputs, "hidden": hidden, "time": learning_rate * steps}
    with jax.enable_x64(True):
        for name, expansion in (("wide", wide), ("narrow", narrow)):
            size = {"inputs": inputs, "hidden": expansion * inputs}
            experiment = partial(losses, rate=learning_rate, steps=steps, **size)
            runs = sweep(experiment, axis, seeds=seeds)
            stable = {"critical": critical(1 / expansion), "expansion": expansion}
            results[name] = named(runs, **stable, **attributes)
    return results


def losses(key, turned_inputs, turned_hidden, *, inputs, hidden, rate, steps):
    """Train a student; observe its loss over that at the start."""
    field, optimizer, moments, start = student(
        key, inputs, hidden, turned_inputs, turned_hidden, rate
    )
    first = LOSS(start, moments)

    def observe(state):
        return {"loss": LOSS(state.params, moments) / first}

    times = np.linspace(0, steps, 41).astype(int)
    return train(field, optimizer, full_batch(moments), start, times=times, observe=observe)


def final(runs):
    return runs.loss.isel(time=-1)


def wide_loss(results):
    return worst(final(with_inputs(results["wide"])))


def narrow_loss(results):
    return worst(final(untouched(results["narrow"])))


def beyond(results):
    """The narrow students with more inputs turned than any stable solution allows."""
    runs = results["narrow"]
    return with_inputs(runs, beyond=runs.attrs["critical"])


def loss_beyond(results):
    return final(beyond(results)).min(skipna=False)


def hidden_loss(results):
    return max(worst(final(with_hidden(runs))) for runs in results.values())


def for_long(runs):
    """Whether a student is large, and has the time to learn."""
    return runs.attrs["inputs"] >= 10 and runs.attrs["time"] >= 100


def narrow_for_long(results):
    return for_long(results["narrow"])


def wide_for_long(results):
    runs = results["wide"]
    # In theory more than 4 suffice; small networks are off the limit of large ones.
    expanding = runs.attrs["expansion"] >= 6
    return for_long(runs) and expanding and with_inputs(runs).sizes["flip"] > 0


def beyond_for_long(results):
    return narrow_for_long(results) and beyond(results).sizes["flip"] > 0


def minority_for_long(results):
    hidden = results["narrow"].attrs["hidden"]
    return narrow_for_long(results) and 0 < hidden < 0.5


def plot_learning(results, figure):
    """Draw the losses of one student of each kind."""
    titles = ("Expanding students learn", "Narrow ones only by hidden units")
    panels = plot.panels(figure, *titles, height=3.8)
    for axes, name in zip(panels, ("wide", "narrow"), strict=True):
        runs = results[name].isel(seed=0)
        for place in range(runs.sizes["flip"]):
            run = runs.isel(flip=place)
            colour = plot.COLOURS[place % len(plot.COLOURS)]
            label = f"inputs {float(run.turned_inputs):g}, hidden {float(run.turned_hidden):g}"
            # Losses that have vanished are drawn at the bottom.
            loss = np.maximum(run.loss, 1e-18)
            axes.plot(run.time, loss, "o-", color=colour, label=label)
        axes.set(xlabel="step", ylabel="loss / initial loss", yscale="log")
    plot.legend(panels[0], simulated="", predicted="", title="fractions turned", below=True)


LONG = Domain("students have 10 inputs, and learning rate x steps is at least 100", narrow_for_long)
WIDE = Domain(
    "expanding students have 10 inputs, 6 hidden units or more for each and some turned, and "
    "learning rate x steps is at least 100",
    wide_for_long,
)
BEYOND = Domain(
    "narrow students have 10 inputs and more of them turned than is stable, and learning rate x "
    "steps is at least 100",
    beyond_for_long,
)
MINORITY = Domain(
    "students have 10 inputs, fewer than half of their hidden units turned, and learning rate x "
    "steps is at least 100",
    minority_for_long,
)

CLAIMS = (
    Claim(
        "students with many more hidden units than inputs learn by curl descent with any inputs "
        "turned",
        "largest final loss of an expanding student with inputs turned, over that at the start",
        wide_loss,
        below=1e-6,
        when=WIDE,
    ),
    Claim(
        "narrow students learn with no signs turned",
        "largest final loss of a narrow student with none turned, over that at the start",
        narrow_loss,
        below=1e-6,
        when=LONG,
    ),
    Claim(
        "narrow students do not learn with fractions of their inputs turned beyond the critical "
        "one",
        "smallest final loss of a narrow student with inputs turned, over that at the start",
        loss_beyond,
        above=0.1,
        when=BEYOND,
    ),
    Claim(
        "students with hidden units turned beyond their critical fraction still learn: part of the "
        "solutions stay stable",
        "largest final loss of a student with hidden units turned, over that at the start",
        hidden_loss,
        below=1e-4,
        when=MINORITY,
    ),
)

OTHER_FRACTIONS = {"turned": (0.4, 0.6), "hidden": 0.3, "seeds": 2}
MORE_INPUTS = {"inputs": 24, "wide": 8, "seeds": 2}

EXPERIMENT = Experiment(
    learning,
    claims=CLAIMS,
    plot=plot_learning,
    paper={"steps": 20000, "seeds": 8},
    others=(OTHER_FRACTIONS, MORE_INPUTS),
)
