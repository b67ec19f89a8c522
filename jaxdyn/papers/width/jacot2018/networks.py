"""The networks, their descent on the circle at finite width, and its limit of infinite width."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdyn import kernels, log_times, train
from jaxdyn.kernels import early_stopping, empirical, finite_width, predict
from jaxdyn.losses import squared_error

__all__ = [
    "ANGLES",
    "KINDS",
    "LATER",
    "circle_task",
    "descents",
    "limit_network",
    "network",
    "target",
    "with_limit",
]


class Kind(NamedTuple):
    """Networks of one kind: their activation, number of hidden layers, and scales."""

    activation: kernels.Layer
    smooth: bool
    depth: int
    w_std: float
    b_std: float


ERF = Kind(kernels.erf(), True, 1, 1.5**0.5, 0.1**0.5)
RELU = Kind(kernels.relu(), False, 3, 1.0, 0.1)
KINDS = {"erf": ERF, "relu": RELU}


def network(smooth, width, depth, w_std, b_std, *, most):
    """A network of rectifiers or, if smooth, error functions, within one of `most` layers and
    units."""

    def activation(z):
        return jnp.where(smooth, jax.scipy.special.erf(z), jax.nn.relu(z))

    return finite_width.network(activation, width, depth, most=most, w_std=w_std, b_std=b_std)


def limit_network(kind):
    """The network of infinitely many units in each hidden layer."""
    hidden = (kernels.dense(1, kind.w_std, kind.b_std), kind.activation)
    return kernels.serial(*hidden * kind.depth, kernels.dense(1, kind.w_std, kind.b_std))


# Descent on a part of the circle, at finite width and in the limit.


def target(x):
    return 2 * x[:, 0] * x[:, 1]  # on the circle


class Task(NamedTuple):
    """Descent on examples on the circle.

    Attributes:
        x: the examples (P, 2).
        points: where outputs are compared (24, 2), evenly on the circle.
        steps: the recorded steps.
        rate: the learning rate.
        noise: the noise of the labels of each kind.
    """

    x: np.ndarray
    points: np.ndarray
    steps: np.ndarray
    rate: float
    noise: dict


ANGLES = 2 * np.pi * np.arange(24) / 24
LATER = 10 ** np.arange(1, 5)  # times the last step of simulations


def circle_task(*, examples, noise, rate, last):
    """Return the task, with noise on the labels of error functions; refuse rates that diverge."""

    def circle(angle):
        return np.stack([np.cos(angle), np.sin(angle)], 1)

    x = circle(np.linspace(0.4, 5.4, examples))
    noises = {"erf": noise, "relu": 0.0}
    with jax.enable_x64(True):
        grams = [kernels.gram(limit_network(kind), x) for kind in KINDS.values()]
        largest = max(float(jnp.linalg.eigvalsh(gram)[-1]) for gram in grams)
    if not 0 < rate < 2 * examples / largest:
        raise ValueError(f"rate: {rate} diverges; pass one below {2 * examples / largest:.3g}")
    return Task(x, circle(ANGLES), log_times(last, 6), rate, noises)


def descents(task, kinds, widths, seeds, sweep):
    """Sweep the descents of networks of these kinds and widths."""
    settings = [(*KINDS[name][1:], task.noise[name]) for name in kinds]
    options = ("smooth", "depth", "w_std", "b_std", "noise")
    axes = {"width": np.array(widths, float), options: np.array(settings, float)}
    # All networks lie within the same largest one, so that a seed has the same weights.
    sizes = {"most": (3, max(widths)), "steps": task.steps, "rate": task.rate}
    inputs = {"x": task.x, "y": target(task.x), "points": task.points}
    inputs = {name: np.float32(value) for name, value in inputs.items()}
    experiment = partial(trained, **inputs, **sizes)
    dims = {"outputs": ("step", "point"), "residual": ("step", "example"), "row": ("when", "point")}
    runs = sweep(experiment, axes, seeds=seeds, dims=dims, chunk=32)
    runs = runs.rename(smooth_depth_w_std_b_std_noise="kind")
    return runs.assign_coords(kind=list(kinds), step=task.steps, angle=("point", ANGLES))


def trained(key, width, smooth, depth, w_std, b_std, noise, *, most, x, y, points, steps, rate):
    """Descend on labels with noise; outputs at `points`, residuals on the examples, and what
    moves."""
    layer = network(smooth, width, depth, w_std, b_std, most=most)
    start, draw = finite_width.draw(key, layer, x.shape[1:], len(x))
    examples = len(x)
    inputs = jnp.concatenate([x, points])
    labels = y + noise * draw
    field = jax.grad(squared_error(layer.apply))

    def stream(key, step):
        return (inputs[:examples], labels[:, None])

    def observe(state):
        return {"outputs": layer.apply(state.params, inputs)[:, 0]}

    run = train(field, optax.sgd(rate), stream, start, times=steps, observe=observe)
    both = jax.tree.map(lambda *pair: jnp.stack(pair), start, run.final.params)
    outputs = run.observed["outputs"]
    ntk = jax.vmap(lambda params: empirical.ntk(layer.apply, params, inputs))(both)
    last = both[-1]["weights"]
    before, after = ntk
    drift = jnp.linalg.norm(after - before) / jnp.linalg.norm(before)
    moved = jnp.linalg.norm(last[1] - last[0]) / width**0.5
    residual = outputs[:, :examples] - labels[None]
    functions = {"outputs": outputs[:, examples:], "residual": residual}
    kernel = {"row": ntk[:, examples, examples:], "drift": drift}
    return functions | kernel | {"moved": moved}


LIMIT = {
    "row_theory": "point",
    "outputs_theory": "step point",
    "covariance": "step point other",
    "decay": "step mode",
    "modes": "example mode",
    "error_theory": "step",
    "later": "time",
}
"""The dimensions of what the limit says."""


def limit(x, points, *, steps, rate, kind, noise):
    """At infinite width: the kernel, its modes, mean and covariance over weights and labels,
    expected error."""
    examples = len(x)
    times = jnp.concatenate([steps, steps[-1] * LATER])
    inputs = jnp.concatenate([x, points])
    nngp, ntk = kernels.gram(limit_network(kind), inputs, get=("nngp", "ntk")).values()
    own = nngp[:examples, :examples]
    tests = {
        "ntk_test": ntk[examples:, :examples],
        "nngp_test": nngp[examples:, :examples],
        "nngp_test_test": nngp[examples:, examples:],
    }
    modes = predict.modes(ntk[:examples, :examples])
    learned = early_stopping.response(modes, own, target(x), times, **tests, learning_rate=rate)
    from_labels = noise**2 * learned.gain @ jnp.swapaxes(learned.gain, 1, 2)
    covariance = learned.covariance + from_labels
    risk = early_stopping.risk(learned, target(points), noise**2)
    error = risk.bias + risk.initial + risk.noise
    decay = 1 - rate * modes.values / examples
    recorded = len(steps)
    outputs = {"outputs_theory": learned.mean[:recorded], "covariance": covariance[:recorded]}
    rates = {"decay": decay[None] ** steps[:, None], "modes": modes.vectors}
    errors = {"error_theory": error[:recorded], "later": error[recorded:]}
    return {"row_theory": ntk[examples, examples:]} | outputs | rates | errors


def with_limit(runs, task, *names):
    """Add these of what the limit of infinite width says."""
    limits = []
    with jax.enable_x64(True):
        for kind in runs.kind.values:
            options = {"kind": KINDS[kind], "noise": task.noise[kind], "rate": task.rate}
            program = jax.jit(partial(limit, steps=task.steps, **options))
            limits.append(program(task.x, task.points))
    for name in names:
        values = np.stack([each[name] for each in limits])
        runs = runs.assign({name: (["kind", *LIMIT[name].split()], values)})
    return runs
