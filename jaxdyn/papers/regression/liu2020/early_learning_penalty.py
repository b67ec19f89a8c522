"""The cross-entropy, with and without early-learning regularisation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdyn import Claim, crossing_time, log_times, plot, sweep, train
from jaxdyn._numbers import check_positive
from jaxdyn.claims import Domain
from jaxdyn.models import deep_linear
from jaxdyn.papers import Experiment
from jaxdyn.papers.regression.liu2020.clusters import (
    GROUPS,
    check_clusters,
    fractions,
    stack,
)
from jaxdyn.rules import early_learning
from jaxdyn.tasks import two_clusters
from jaxdyn.theory.regression import memorisation

__all__ = ["EXPERIMENTS"]

# The cross-entropy, with and without regularisation.


def regularisation(
    *,
    examples=200,
    inputs_per_example=0.9,
    flipped=0.2,
    sigma=0.25,
    strengths=(0.0, 1.0, 3.0, 7.0),
    decays=(0.7, 0.9),
    learning_rate=1.0,
    steps=2000,
    seeds=2,
    sweep=sweep,
):
    """Strong early-learning regularisation prevents memorisation, a weak one only delays it.

    Args:
        examples: number of examples.
        inputs_per_example: number of inputs, divided by the number of examples.
        flipped: share of the labels that are wrong, below a half.
        sigma: standard deviation of the clusters; they are 2 apart.
        strengths: strengths of the regularisation, 0 for the cross-entropy alone.
        decays: share of each running average that a step keeps.
        learning_rate: learning rate of descent.
        steps: number of steps of descent.
        seeds: number of data sets.
    """
    check_clusters(examples, inputs_per_example, flipped)
    check_positive(sigma=sigma, learning_rate=learning_rate, steps=steps)
    inputs = round(inputs_per_example * examples)

    def draw(seed):
        key = jax.random.key(seed)
        return two_clusters(key, examples, inputs, sigma=sigma, flipped=flipped)

    options = {"sigma": sigma, "learning_rate": learning_rate, "steps": steps}
    axes = {"draw": np.arange(seeds), "strength": strengths, "decay": decays}
    with jax.enable_x64(True):
        mixtures = stack([draw(seed) for seed in range(seeds)])
        experiment = partial(noisy_descent, mixtures=mixtures, **options)
        runs = sweep(experiment, axes)
        _, predicted = memorisation.first_step(sigma, flipped, inputs, examples)
        first_memorised = float(predicted.memorised)
    runs = runs.rename(draw="seed")
    return runs.assign_attrs(
        inputs_per_example=inputs_per_example,
        duration=learning_rate * steps,
        memorised_by_first_step=first_memorised,
    )


def noisy_descent(draw, strength, decay, *, mixtures, sigma, learning_rate, steps):
    """Descent of the cross-entropy with early-learning regularisation; strength 0 is without."""
    mixture = jax.tree.map(lambda leaf: leaf[draw], mixtures)
    samples, inputs = mixture.x.shape
    classes = ((mixture.labels + 1) / 2).astype(int)
    batch = mixture.x, classes, jnp.arange(samples)
    rates: dict = {"params": optax.sgd(learning_rate), "state": optax.sgd(1.0)}
    optimizer = optax.partition(rates, {"params": "params", "state": "state"})
    field = early_learning(deep_linear((inputs, 2)).apply, strength, decay)

    def observe(state):
        (weights,) = state.params["params"]
        first, second = weights
        w = jnp.subtract(second, first)
        norm = jnp.linalg.norm(w)
        return fractions(mixture.x @ w, w[0], norm, mixture, sigma)

    def stream(key, step):
        return batch

    averages = jnp.zeros((samples, 2))
    start = {"params": [jnp.zeros((2, inputs))], "state": averages}
    times = log_times(steps, 30)[1:]
    return train(field, optimizer, stream, start, times=times, observe=observe)


def without(runs):
    return of_strengths(runs, runs.strength == 0)


def weak(runs):
    return of_strengths(runs, (runs.strength > 0) & (runs.strength <= 1))


def strong(runs):
    return of_strengths(runs, runs.strength >= 3)


def of_strengths(runs, chosen):
    """The mean over seeds for some of the strengths."""
    some = runs.isel(strength=chosen.values)
    return some[[*GROUPS]].mean("seed", skipna=False)


def end_of(runs):
    return runs.isel(time=-1)


def unmemorised(runs):
    return 1 - end_of(without(runs)).memorised.mean(skipna=False)


def growth_of_error(runs):
    """The smallest ratio of the final error on new inputs to the least one before."""
    test = without(runs).test
    # An error below rounding is not known any better.
    least = (1 - test.max("time")).clip(min=np.finfo(float).eps)
    growth = (1 - end_of(test)) / least
    return growth.min(skipna=False)


def memorised_if_strong(runs):
    return end_of(strong(runs)).memorised.max(skipna=False)


def lost_accuracy(runs):
    """How much of the best accuracy of all on new inputs is lost in the end."""
    best = runs.test.mean("seed").max()
    return best - end_of(strong(runs)).test.min(skipna=False)


def memorised_if_weak(runs):
    return end_of(weak(runs)).memorised.max(skipna=False)


def delay_if_weak(runs):
    delayed = crossing_time(weak(runs).memorised, 0.5)
    undelayed = crossing_time(without(runs).memorised, 0.5)
    return delayed.min(skipna=False) / undelayed.max(skipna=False)


def plot_regularisation(runs, figure):
    """Draw what is memorised and how new inputs are predicted, for each strength."""
    memorised, test = plot.panels(
        figure,
        "Strong regularisation stops memorisation",
        "It keeps errors on new inputs low",
        height=3.4,
    )
    mean = runs.isel(decay=0).mean("seed")
    for colour, strength in zip(plot.COLOURS, runs.strength.values, strict=False):
        run = mean.sel(strength=strength)
        label = f"strength {strength:g}"
        memorised.plot(run.time, run.memorised, "o-", color=colour, label=label)
        test.plot(run.time, 1 - run.test, "o-", color=colour)
    memorised.set(xscale="log", xlabel="step", ylabel="wrong labels memorised")
    test.set(xscale="log", yscale="log")
    test.set(xlabel="step", ylabel="error on new inputs")
    plot.legend(memorised, simulated="", predicted="", below=True)


def learns_early(runs):
    """Whether the first step is right about mislabelled examples, but for 1 in 800 or fewer."""
    return runs.attrs["memorised_by_first_step"] < 1 / 800


def memorises_late(runs):
    """Whether there are enough inputs to separate the labels, and enough time."""
    return runs.attrs["inputs_per_example"] > 0.6 and runs.attrs["duration"] >= 1000


def has(runs):
    return runs.sizes["strength"] > 0


LATE = "inputs exceed 0.6 examples and steps times learning rate 1000"
EARLY = "theory has the first step right about all mislabelled examples but 1 in 800"

WITHOUT = Domain(
    f"0 is among the strengths, and {LATE}",
    lambda runs: has(without(runs)) and memorises_late(runs),
)
WITHOUT_EARLY = Domain(
    f"0 is among the strengths, {LATE}, and {EARLY}",
    lambda runs: has(without(runs)) and memorises_late(runs) and learns_early(runs),
)
WITH_STRONG = Domain(
    f"a strength is 3 or more, and {EARLY}",
    lambda runs: has(strong(runs)) and learns_early(runs),
)
WITH_WEAK = Domain(
    f"a strength is at most 1 but not 0, and {LATE}",
    lambda runs: has(weak(runs)) and memorises_late(runs),
)
WITH_BOTH = Domain(
    f"a strength is at most 1 but not 0, another is 0, {LATE}, and {EARLY}",
    lambda runs: (
        has(weak(runs)) and has(without(runs)) and memorises_late(runs) and learns_early(runs)
    ),
)

EXPERIMENTS = (
    Experiment(
        regularisation,
        claims=(
            Claim(
                "the cross-entropy ends by memorising all wrong labels",
                "fraction of wrong labels that are not memorised in the end",
                unmemorised,
                below=0.02,
                when=WITHOUT,
            ),
            Claim(
                "under the cross-entropy errors on new inputs grow tenfold from their best time to "
                "the end",
                "smallest ratio of the final error on new inputs to the least one",
                growth_of_error,
                above=10,
                when=WITHOUT_EARLY,
            ),
            Claim(
                "early-learning regularisation of strength 3 or more prevents memorisation",
                "largest fraction of wrong labels that are memorised in the end",
                memorised_if_strong,
                below=0.02,
                when=WITH_STRONG,
            ),
            Claim(
                "early-learning regularisation of strength 3 or more ends within 0.02 of the best "
                "accuracy on new inputs",
                "largest loss of accuracy, from the best of all",
                lost_accuracy,
                below=0.02,
                when=WITH_STRONG,
            ),
            Claim(
                "early-learning regularisation of strength 1 or less prevents memorisation",
                "largest fraction of wrong labels that are memorised in the end",
                memorised_if_weak,
                below=0.02,
                when=WITH_WEAK,
                holds=False,
            ),
            Claim(
                "early-learning regularisation of strength 1 or less delays memorisation at least "
                "twofold",
                "smallest half-time with weak regularisation, in units of the one without",
                delay_if_weak,
                above=2,
                when=WITH_BOTH,
            ),
        ),
        plot=plot_regularisation,
        paper={"examples": 500, "learning_rate": 0.5, "steps": 4000, "seeds": 4},
        others=(
            {"inputs_per_example": 1.2, "flipped": 0.1, "sigma": 0.2, "decays": (0.8,)},
            {"inputs_per_example": 0.8, "flipped": 0.3, "strengths": (0.0, 0.5, 5.0)},
        ),
    ),
)
