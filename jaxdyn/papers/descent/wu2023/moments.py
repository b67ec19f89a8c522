"""Moments: deviations from a minimum around the threshold of stability."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdyn import Claim, iterate, log_times, plot, sweep, train
from jaxdyn._numbers import normal
from jaxdyn.claims import Domain, ratio, z_score
from jaxdyn.papers import Experiment
from jaxdyn.papers.descent.wu2023.thresholds import gradients_at_minima
from jaxdyn.tasks import minibatch
from jaxdyn.theory.descent import stability

__all__ = ["EXPERIMENT"]


def moments(
    *, examples=12, batches=(1, 4), fractions=(0.5, 0.8, 1.02), runs=1000, steps=200, sweep=sweep
):
    """Second moments of deviations follow a linear map, and beyond the threshold only few runs
    leave.

    SGD starts near a minimum with Gaussian gradients, at fractions of its largest stable rate.

    Args:
        examples: number of examples, and of weights.
        batches: batch sizes, drawn with replacement.
        fractions: learning rates, in units of the threshold of mean-square stability.
        runs: number of runs that moments are averaged over.
        steps: number of steps.
    """
    sizes = tuple(dict.fromkeys(batches))
    with jax.enable_x64(True):
        gradients = gradients_at_minima(examples)[0]
        limits = [stability.max_learning_rate(gradients, size) for size in sizes]
        pairs = np.stack([sizes, limits], axis=1)
        axes = {
            "fraction": tuple(dict.fromkeys(fractions)),
            ("batch", "threshold"): pairs.tolist(),
        }
        system = {"gradients": gradients, "last": steps}
        simulated = sweep(partial(deviation, most=max(sizes), **system), axes, seeds=runs)
        exact = sweep(partial(second_moment, **system), axes)
    return simulated.merge(exact, compat="override").assign_attrs(examples=examples)


def deviation(key, fraction, batch, threshold, *, gradients, most, last):
    """Squared size of a deviation under SGD at a fraction of the threshold."""

    # One program for all batches: of `most` examples drawn only the first are used.
    def field(d, g):
        used = jnp.arange(most) < batch
        return g.T @ ((g @ d) * used) / batch

    def observe(state):
        return {"square": jnp.sum(state.params**2)}

    k_start = jax.random.fold_in(key, 0)
    start = normal(k_start, gradients.shape[1:]) / len(gradients) ** 0.5
    times = log_times(last, 20)
    optimizer = optax.sgd(fraction * threshold)
    stream = minibatch(gradients, most)
    return train(field, optimizer, stream, start, times=times, observe=observe, key=key)


def second_moment(fraction, batch, threshold, *, gradients, last):
    """The exact mean of the squared size."""

    def step(_, state):
        rate = fraction * threshold
        moment = stability.moment_step(state.params, gradients, rate, batch)
        return state._replace(params=moment)

    def observe(state):
        return {"square_theory": jnp.trace(state.params)}

    start = jnp.eye(len(gradients)) / len(gradients)
    return iterate(step, start, times=log_times(last, 20), observe=observe)


def well_below(runs):
    return runs.where(runs.fraction <= 0.9, drop=True)


def just_beyond(runs):
    beyond = (runs.fraction > 1) & (runs.fraction <= 1.05)
    return runs.where(beyond, drop=True)


def typical(runs):
    """The geometric mean of the squared sizes."""
    logarithm = np.log(runs.square)
    return np.exp(logarithm.mean("seed"))


def moment_deviation(runs):
    stable = well_below(runs)
    return z_score(stable.square, stable.square_theory)


def late_growth(runs):
    """The last second moment over the one recorded before, the least beyond the threshold."""
    moment = just_beyond(runs).square_theory
    growth = moment.isel(time=-1) / moment.isel(time=-2)
    return growth.min(skipna=False)


def typical_end(runs):
    sizes = typical(just_beyond(runs))
    return ratio(sizes.isel(time=-1), sizes.isel(time=0))


def many_runs_below(runs):
    return runs.sizes["seed"] >= 100 and bool((runs.fraction <= 0.9).any())


def beyond_for_long(runs):
    long = int(runs.time[-1]) >= 100
    return long and just_beyond(runs).sizes["fraction"] > 0


def many_runs_beyond(runs):
    many = runs.attrs["examples"] > 5 and runs.sizes["seed"] >= 100
    return many and beyond_for_long(runs)


def plot_moments(runs, figure):
    """Draw second moments beside the exact ones, and what a typical run does."""
    mean, single = plot.panels(
        figure,
        "Below the threshold second moments follow theory",
        "Beyond it typical runs still converge",
        height=3.8,
    )
    batch = runs.isel(batch_threshold=0)
    for place, fraction in enumerate(batch.fraction.values):
        colour = plot.COLOURS[place % len(plot.COLOURS)]
        chosen = batch.isel(fraction=place)
        label = f"rate {fraction:g} x threshold"
        plot.beside(mean, chosen, "square", colour=colour, label=label)
        single.plot(chosen.time, typical(chosen), "o-", color=colour)
    for axes in (mean, single):
        axes.set(xlabel="step", yscale="log")
    mean.set_ylabel("mean squared deviation")
    single.set_ylabel("geometric mean of its square")
    plot.legend(mean, below=True)


BELOW = Domain("100 runs are at a learning rate below 0.9 of the threshold", many_runs_below)
BEYOND = Domain(
    "runs of 100 steps are beyond the threshold by at most 5 %: further beyond all of them leave",
    beyond_for_long,
)
MANY_BEYOND = Domain(
    "100 runs of 100 steps are beyond the threshold by at most 5 %, on more than five examples: on "
    "fewer, one example can make typical runs leave too",
    many_runs_beyond,
)

CLAIMS = (
    Claim(
        "second moments of SGD around a minimum, well below the threshold of stability, are those "
        "of the exact linear map",
        "largest deviation of a mean square, in standard errors",
        moment_deviation,
        below=4.5,
        when=BELOW,
    ),
    Claim(
        "just beyond the threshold of stability second moments of SGD around a minimum grow",
        "smallest ratio of the last exact second moment to the one recorded before",
        late_growth,
        above=1,
        when=BEYOND,
    ),
    Claim(
        "just beyond the threshold of mean-square stability typical runs of SGD still converge",
        "largest ratio of the final geometric mean of squared deviations to the initial one",
        typical_end,
        below=1,
        when=MANY_BEYOND,
    ),
)

FEWER_EXAMPLES = {"examples": 6, "batches": (1, 2), "runs": 500}

EXPERIMENT = Experiment(
    moments,
    claims=CLAIMS,
    plot=plot_moments,
    paper={"runs": 20000},
    others=(FEWER_EXAMPLES, {"runs": 500}),
)
