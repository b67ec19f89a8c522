"""Courses: a gradient method beside its central and its stable flow, and averages at the edge."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from jaxdyn import Trajectory, iterate, train
from jaxdyn.analysis import box_average
from jaxdyn.claims import worst
from jaxdyn.losses import squared_error
from jaxdyn.models import mlp
from jaxdyn.optimizers import kicks, scalar_rmsprop
from jaxdyn.tasks import full_batch
from jaxdyn.theory.descent import central_flow

__all__ = [
    "MORE_EXAMPLES",
    "MORE_INPUTS",
    "PAPER",
    "at_edge",
    "average",
    "central_edge_deviation",
    "closeness",
    "courses",
    "edge_deviation",
    "loss_deviation",
    "networks_of",
    "stable_edge",
    "stays",
    "windows_at_edge",
]

# Of networks of any size: they have their sizes from their parameters.
LOSS = squared_error(mlp((1, 1)).apply)

METHODS = ("gradient descent", "scalar RMSProp", "RMSProp")
EVERY = 5  # steps from one record of the flows to the next
FINE = 32  # of Euler's method in each step, for the stable flow

PAPER = {"examples": 64, "width": 12, "steps": 2000, "top": 4, "networks": 4}
MORE_INPUTS = {"inputs": 4}
MORE_EXAMPLES = {"examples": 48, "width": 6, "window": 40}


class Networks(NamedTuple):
    """Networks and what each of them learns.

    Attributes:
        data: the inputs, the targets and the initial parameters of each network.
        edges: the learning rate at which descent is at its edge at the start, 2/sharpness.
    """

    data: tuple
    edges: jax.Array


def networks_of(examples, inputs, width, networks):
    net = mlp((inputs, width, 1))
    draws = [draw(seed, net, examples) for seed in range(networks)]
    data = jax.tree.map(lambda *arrays: jnp.array(arrays), *draws)

    def edge(x, y, start):
        return 2 / largest(start, 1.0, (x, y))

    return Networks(data, jax.jit(jax.vmap(edge))(*data))


def draw(seed, net, examples):
    """Gaussian inputs, a wave of them as labels of variance 1, and initial weights."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    inputs = shapes["weights"][0].shape[1]
    x = rng.standard_normal((examples, inputs))
    direction = rng.standard_normal((inputs, 1))
    y = np.sin(3 * x @ direction / inputs**0.5)
    sizes = [w.shape for w in shapes["weights"]]
    weights = [rng.standard_normal(size) / size[1] ** 0.5 for size in sizes]
    biases = [np.zeros(b.shape) for b in shapes["biases"]]
    return x, y / y.std(), {"weights": weights, "biases": biases}


def largest(params, rates, batch):
    """Return the largest eigenvalue of the Hessian multiplied by the rates."""
    x, unravel = ravel_pytree(params)

    def flat_loss(x):
        return LOSS(unravel(x), batch)

    root = jnp.sqrt(jnp.broadcast_to(rates, x.shape))
    hessian = jax.hessian(flat_loss)(x)
    scaled = root[:, None] * hessian * root[None]
    return jnp.linalg.eigvalsh(scaled)[-1]


class Rule(NamedTuple):
    """One of the methods, chosen by a number that may be traced, so that all share a program.

    Attributes:
        optimizer: its transformation.
        nu_of: its memory, the mean squared gradient of each parameter, as a vector.
        flow: the same method for its flows.
    """

    optimizer: optax.GradientTransformation
    nu_of: Callable
    flow: central_flow.Method


def rule(method, rate, decay, slope):
    """Return the method with this place in METHODS, for a gradient `slope` at the start."""
    g, _ = ravel_pytree(slope)
    # The mean squared gradient that rates are divided by begins as that of the start; for descent
    # it stays 1.
    square = g @ g
    initial = jnp.stack([1.0, square, square / g.size])[method]
    descent = optax.sgd(rate)
    shared_rate = scalar_rmsprop(rate, decay, initial)
    own_rates = optax.rmsprop(rate, decay, eps=0.0, initial_scale=initial)
    each = (descent, shared_rate, own_rates)

    def init(params):
        return [one.init(params) for one in each]

    def choose(*updates):
        return jnp.stack(updates)[method]

    def update(gradients, memories, params=None):
        pairs = zip(each, memories, strict=True)
        results = [one.update(gradients, memory, params) for one, memory in pairs]
        updates, memories = zip(*results, strict=True)
        return jax.tree.map(choose, *updates), list(memories)

    def nu_of(memories):
        _, scalar, (adaptive, *_) = memories
        ones = jnp.ones(g.size)
        shared = jnp.full(g.size, scalar.nu)
        return choose(ones, shared, ravel_pytree(adaptive.nu)[0])

    # RMSProp whose mean squared gradient does not decay is descent.
    kept = jnp.where(method == 0, 1.0, decay)
    flow = central_flow.rmsprop(rate, kept, initial, shared=method == 1)
    optimizer = optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]
    return Rule(optimizer, nu_of, flow)


def course(network, method, *, data, rates, decay, kick, steps, window, top):
    """A method and its averages over a window of steps, beside its central and its stable flow."""
    x, y, start = jax.tree.map(lambda arrays: arrays[network], data)
    batch = (x, y)
    field = jax.grad(LOSS)
    chosen = rule(method, rates[network], decay, field(start, batch))
    times = np.arange(0, steps + 1, EVERY)

    def described(params, nu):
        flat, _ = ravel_pytree(params)
        return {"x": flat, "nu": nu, "loss": LOSS(params, batch)}

    def observe_method(state):
        return described(state.params, chosen.nu_of(state.memory[0]))

    noise = kicks(jax.random.key(network), kick)
    optimizer = optax.chain(chosen.optimizer, noise)
    stream = full_batch(batch)
    every_step = np.arange(steps + 1)
    run = train(field, optimizer, stream, start, times=every_step, observe=observe_method)

    def averaged(values):
        return box_average(values, window)[::EVERY]

    now = {name: values[::EVERY] for name, values in run.observed.items()}
    mean = {name: averaged(values) for name, values in run.observed.items()}

    flow = central_flow.central_flow(LOSS, batch, chosen.flow, top=top, substeps=2)
    predicted = central_flow.averages(LOSS, batch)

    def observe_central(state):
        return described(state.params, state.memory.nu) | predicted(state)

    begin = flow.init(start)
    central = iterate(flow.step, begin, times=times, observe=observe_central).observed
    stable = stable_flow(chosen.flow, start, batch, times, described)

    def edge(pair):
        x, nu = pair
        _, unravel = ravel_pytree(start)
        return largest(unravel(x), chosen.flow.rates(nu), batch) / 2

    both = [jnp.concatenate([now[name], stable[name]]) for name in ("x", "nu")]
    edges, edges_stable = jnp.split(jax.lax.map(edge, both), 2)
    losses = {
        "loss": now["loss"],
        "loss_mean": mean["loss"],
        "loss_mean_theory": central["loss"],
        "loss_center": central["loss_center"],
        "loss_stable": stable["loss"],
    }
    eigenvalues = {
        "edge": edges,
        "edge_stable": edges_stable,
        "edges_theory": central["eigenvalues"] / 2,
        "enough": central["enough"],
    }
    memory_off = norm(mean["nu"] - central["nu"])
    distances = {
        "off_central": norm(mean["x"] - central["x"]),
        "off_stable": norm(mean["x"] - stable["x"]),
        "nu_off": memory_off / norm(central["nu"]),
    }
    return Trajectory(times, losses | eigenvalues | distances)


def stable_flow(method, start, batch, times, described):
    """The course of a method without oscillations."""
    # By Euler's method, as it compiles fast, in steps short enough beyond the edge.
    velocity = central_flow.stable_velocity(LOSS, batch, method)

    def euler(_, pair):
        return jax.tree.map(lambda a, b: a + b / FINE, pair, velocity(None, pair))

    def step(key, state):
        pair = jax.lax.fori_loop(0, FINE, euler, state.params)
        return state._replace(params=pair)

    def observe(state):
        return described(*state.params)

    flat, _ = ravel_pytree(start)
    pair = (start, method.init(flat))
    return iterate(step, pair, times=times, observe=observe).observed


def norm(vectors):
    return jnp.linalg.norm(vectors, axis=1)


def courses(method, rates, sweep, *, data, steps, window, decay=0.95, **options):
    """The courses of all networks under a method; the decay matters to RMSProp alone."""
    options = {"data": data, "rates": rates, "decay": decay, "steps": steps} | options
    experiment = partial(course, window=window, **options)
    axes = {"network": np.arange(len(rates)), "method": [METHODS.index(method)]}
    runs = sweep(experiment, axes, dims={"edges_theory": "rank"})
    return runs.isel(method=0, drop=True).assign_attrs(window=window)


# Averages at the edge, which claims are made of.


def at_edge(runs):
    """When runs have been at the edge for a window, as far as there are averages over windows."""
    reached = runs.edges_theory.isel(rank=0) > 1 - 1e-3
    since = reached.cumsum("time") * EVERY
    return (since > runs.attrs["window"]) & runs.loss_mean.notnull()


def average(runs, name):
    """The average of each network while it is at the edge."""
    return runs[name].where(at_edge(runs)).mean("time")


def edge_deviation(runs):
    return worst(average(runs, "edge"), 1.0)


def central_edge_deviation(runs):
    largest_eigenvalue = runs.edges_theory.isel(rank=0)
    return worst(largest_eigenvalue.where(at_edge(runs)).mean("time"), 1.0)


def stable_edge(runs):
    """The lowest sharpness at which a stable flow ends, in units of the edge."""
    return runs.edge_stable.isel(time=-1).min(skipna=False)


def closeness(runs):
    """The distance of the averaged run to the central flow over that to the stable flow, when the
    average ends."""
    edged = at_edge(runs)
    last = edged & ~edged.shift(time=-1, fill_value=False)
    central = runs.off_central.where(last).max("time")
    stable = runs.off_stable.where(last).max("time")
    return central.sum(skipna=False) / stable.sum(skipna=False)


def loss_deviation(runs, name="loss_mean_theory"):
    """By how much the average loss is off what is predicted, relatively."""
    predicted = average(runs, name).mean()
    return worst(average(runs, "loss_mean").mean(), predicted, relative=True)


def windows_at_edge(runs):
    """For how many windows each network is at the edge, the least of them."""
    steps = at_edge(runs).sum("time") * EVERY
    return int(steps.min()) / runs.attrs["window"]


def stays(runs):
    """Whether all networks are at the edge, with a central flow of enough dimensions."""
    return windows_at_edge(runs) > 0 and bool(runs.enough.all())
