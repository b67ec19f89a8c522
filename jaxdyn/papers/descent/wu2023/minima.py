"""Minima: where SGD and gradient descent end in diagonal linear networks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdyn import Claim, plot, sweep, train
from jaxdyn._numbers import normal
from jaxdyn.claims import Domain, ratio, worst
from jaxdyn.losses import squared_error
from jaxdyn.papers import Experiment
from jaxdyn.tasks import full_batch, minibatch

__all__ = ["OF_DESCENT", "OF_SGD"]

# Minima of SGD.


def sgd_minima(
    *,
    coordinates=20,
    seen=10,
    sparse=2,
    learning_rates=(0.02, 0.06, 0.08, 0.1),
    steps=12000,
    seeds=3,
    sweep=sweep,
):
    """SGD, one example at a time, ends in minima whose trace of the Hessian is below 2 / rate.

    The trace bounds the l1 norm of the function that a diagonal linear network learns.

    Args:
        coordinates: number of inputs, each with two weights in a row.
        seen: number of examples.
        sparse: number of inputs that targets depend on.
        learning_rates: learning rates.
        steps: number of steps.
        seeds: number of runs at each learning rate.
    """
    rates = tuple(sorted(set(learning_rates)))
    with jax.enable_x64(True):
        data = sparse_examples(coordinates, seen, sparse)
        one_by_one = partial(minimum, stochastic=True, data=data, steps=steps)
        runs = sweep(one_by_one, {"rate": rates}, seeds=seeds)
    return described(runs, coordinates, seen, steps)


def sparse_examples(coordinates, seen, sparse):
    x = normal(jax.random.key(1), (seen, coordinates))
    return x, jnp.sum(x[:, :sparse], 1)


def described(runs, coordinates, seen, steps):
    """The results with what their claims' domains depend on."""
    return runs.assign_attrs(coordinates=coordinates, seen=seen, steps=steps)


def diagonal(weights, x):
    return x @ jnp.prod(weights, 0)


def minimum(key, rate, *, stochastic, data, steps):
    """Train a diagonal linear network that fits all examples; describe the minimum that it
    finds."""

    def observe(state):
        return {}

    loss = squared_error(diagonal)
    field = jax.grad(loss)
    stream = minibatch(data, 1) if stochastic else full_batch(data)
    x, _ = data
    coordinates = x.shape[1]
    outer = jnp.ones(coordinates)
    inner = jnp.full(coordinates, 0.1)
    start = jnp.stack([outer, inner])
    end = np.array([steps])
    run = train(field, optax.sgd(rate), stream, start, times=end, observe=observe, key=key)
    weights = run.final.params

    def gradient(x):
        return jax.grad(diagonal)(weights, x).ravel()

    g = jax.vmap(gradient)(x)
    hessian = g @ g.T / len(g)
    function = jnp.abs(jnp.prod(weights, 0))
    return {
        "trace": jnp.trace(hessian),
        "eigenvalue": jnp.linalg.eigvalsh(hessian)[-1],
        "norm": jnp.sum(jnp.mean(x**2, 0) * function),
        "loss": loss(weights, data),
    }


def largest_loss(runs):
    return worst(runs.loss)


def trace_to_bound(runs):
    return ratio(runs.trace, 2 / runs.rate)


def norm_to_bound(runs):
    return ratio(runs.norm, 1 / runs.rate)


def faster_to_slower(runs):
    """The mean trace at a learning rate over that at the next smaller one, the largest of all."""
    trace = runs.trace.mean("seed", skipna=False)
    faster = trace.isel(rate=slice(1, None))
    slower = trace.isel(rate=slice(None, -1))
    return ratio(faster.values, slower.values)


def long_enough(runs):
    """Whether the steps suffice to fit the examples: half as many as weights are learned fast."""
    time = float(runs.rate.min()) * runs.attrs["steps"]
    few = 2 * runs.attrs["seen"] <= runs.attrs["coordinates"]
    return time >= 150 and few


def fitted(runs):
    return largest_loss(runs) < 1e-20


def fitted_at_different_rates(runs):
    rates = runs.rate.values
    apart = rates[1:] / rates[:-1]
    return fitted(runs) and rates.size > 1 and apart.min() > 1.2


def plot_sgd_minima(runs, figure):
    """Draw the trace and the norm in the end, below their bounds."""
    trace, norm = plot.panels(
        figure, "Traces stay below 2 / rate", "Norms stay below 1 / rate", height=2.8
    )
    for axes, name, bound in ((trace, "trace", 2), (norm, "norm", 1)):
        values = runs[name].mean("seed")
        errors = runs[name].std("seed")
        plot.points_and_line(axes, runs.rate, values, bound / runs.rate, errors=errors)
        axes.set(xlabel="learning rate", yscale="log")
        plot.legend(axes, simulated="SGD", predicted="bound")
    trace.set_ylabel("trace of the Hessian")
    norm.set_ylabel("norm of the function")


# Minima of gradient descent.


def descent_minima(
    *,
    coordinates=20,
    seen=10,
    sparse=2,
    learning_rates=(0.1, 0.3, 0.4, 0.5),
    steps=12000,
    sweep=sweep,
):
    """Gradient descent ends in minima whose largest eigenvalue, not their trace, is below 2 / rate.

    The learning rate of gradient descent so bounds no l1 norm of the function that is learned.

    Args:
        coordinates: number of inputs, each with two weights in a row.
        seen: number of examples.
        sparse: number of inputs that targets depend on.
        learning_rates: learning rates.
        steps: number of steps.
    """
    rates = tuple(sorted(set(learning_rates)))
    with jax.enable_x64(True):
        data = sparse_examples(coordinates, seen, sparse)
        together = partial(minimum, stochastic=False, data=data, steps=steps)
        runs = sweep(together, {"rate": rates}, seeds=1)
    return described(runs, coordinates, seen, steps)


def eigenvalue_to_bound(runs):
    return ratio(runs.eigenvalue, 2 / runs.rate)


def fitted_fast(runs):
    """Whether 2 / rate is below half of the trace at the start, which is about `coordinates`."""
    fastest = float(runs.rate.max())
    return fitted(runs) and fastest * runs.attrs["coordinates"] > 4


def plot_descent_minima(runs, figure):
    """Draw the largest eigenvalue and the trace in the end beside 2 / rate."""
    (axes,) = plot.panels(figure, "Eigenvalues stay below 2 / rate, traces do not", height=3)
    runs = runs.isel(seed=0)
    bound = 2 / runs.rate
    plot.points_and_line(axes, runs.rate, runs.eigenvalue, label="largest eigenvalue")
    plot.points_and_line(axes, runs.rate, runs.trace, colour=plot.COLOURS[1], label="trace")
    axes.plot(runs.rate, bound, color="black")
    axes.set(xlabel="learning rate", ylabel="curvature in the end", yscale="log")
    plot.legend(axes, simulated="", predicted="2 / learning rate")


LONG = Domain(
    "learning rate x steps is above 150, and examples are at most half as many as inputs",
    long_enough,
)
FITTED = Domain("the runs have fitted all examples: a loss below 1e-20", fitted)
DIFFERENT_RATES = Domain(
    "the runs have fitted all examples, at learning rates that differ by a fifth or more",
    fitted_at_different_rates,
)
FAST = Domain(
    "the runs have fitted all examples, at a learning rate above 4 / coordinates", fitted_fast
)

SGD_CLAIMS = (
    Claim(
        "SGD, one example at a time, fits all examples of a diagonal linear network",
        "largest final loss",
        largest_loss,
        below=1e-20,
        when=LONG,
    ),
    Claim(
        "SGD, one example at a time, ends in minima whose trace of the Hessian is at most "
        "2 / (learning rate)",
        "largest ratio of the trace to 2 / (learning rate)",
        trace_to_bound,
        below=1,
        when=FITTED,
    ),
    Claim(
        "the learning rate of SGD bounds the norm of the function that a diagonal network learns",
        "largest ratio of the norm to 1 / (learning rate)",
        norm_to_bound,
        below=1,
        when=FITTED,
    ),
    Claim(
        "the larger the learning rate of SGD, the flatter the minimum in which SGD ends",
        "largest ratio of the mean trace at a learning rate to that at the next smaller one",
        faster_to_slower,
        below=1,
        when=DIFFERENT_RATES,
    ),
)
DESCENT_CLAIMS = (
    Claim(
        "gradient descent fits all examples of a diagonal linear network",
        "largest final loss",
        largest_loss,
        below=1e-20,
        when=LONG,
    ),
    Claim(
        "gradient descent ends in minima whose largest eigenvalue of the Hessian is at most "
        "2 / (learning rate)",
        "largest ratio of the eigenvalue to 2 / (learning rate)",
        eigenvalue_to_bound,
        below=1,
        when=FITTED,
    ),
    Claim(
        "gradient descent ends in some minima whose trace of the Hessian is beyond "
        "2 / (learning rate), so that the learning rate bounds no norm of the function",
        "largest ratio of the trace to 2 / (learning rate)",
        trace_to_bound,
        above=1,
        when=FAST,
    ),
)

FEWER_COORDINATES = {"coordinates": 16, "seen": 6, "steps": 8000}
FEWER_STEPS = {"steps": 8000, "seeds": 2}

OF_SGD = Experiment(
    sgd_minima,
    claims=SGD_CLAIMS,
    plot=plot_sgd_minima,
    paper={"steps": 200000, "seeds": 8},
    others=(FEWER_STEPS, FEWER_COORDINATES | {"learning_rates": (0.03, 0.09)}),
)
OF_DESCENT = Experiment(
    descent_minima,
    claims=DESCENT_CLAIMS,
    plot=plot_descent_minima,
    paper={"steps": 200000},
    others=({"steps": 8000}, FEWER_COORDINATES | {"learning_rates": (0.2, 0.4)}),
)
