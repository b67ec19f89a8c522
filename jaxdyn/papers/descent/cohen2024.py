"""Understanding optimization in deep learning with central flows (Cohen, Damian, Talwalkar, Kolter,
Lee, 2024).

Descent with the learning rate eta makes a network sharper until the largest eigenvalue of its
Hessian is 2/eta; from there on it oscillates and no longer follows gradient flow (Cohen, Kaur, Li,
Kolter, Talwalkar, 2021).  Averaged over time it follows the central flow dx/dt = -eta grad [L + <H,
S>/2], S the covariance that holds eigenvalues at this edge. So do RMSProp with one rate for all
parameters and with one for each, at the edge of their own rates: a tanh network on a wave of
Gaussian inputs, by all of them, beside its central and its stable flow, in float64.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from jaxdyn import Claim, Trajectory, iterate, sweep, train
from jaxdyn.analysis import box_average
from jaxdyn.losses import squared_error
from jaxdyn.models import mlp
from jaxdyn.optimizers import kicks, scalar_rmsprop
from jaxdyn.papers import Reference
from jaxdyn.tasks import full_batch
from jaxdyn.theory.descent import central_flow

TITLE = "Understanding optimization in deep learning with central flows"
REFERENCE = Reference(
    title=TITLE,
    authors="Cohen, Damian, Talwalkar, Kolter, Lee",
    year=2024,
    arxiv="2410.24206",
    name="Central flows",
    reproduces="the edge of stability: descent and RMSProp on average, the loss that oscillations cost, and where averages fail",
)
QUICK = dict(
    examples=32,
    inputs=3,
    width=8,
    rate=0.6,
    high=0.9,
    unstable=2.0,
    scalar=0.04,
    adaptive=0.005,
    decay=0.95,
    kick=1e-4,
    steps=500,
    window=60,
    top=3,
    networks=2,
)
SIZES = {
    "quick": QUICK,
    "paper": QUICK | {"examples": 64, "width": 12, "steps": 2000, "top": 4, "networks": 4},
}
LOSS = squared_error(mlp((1, 1)).apply)  # of networks of any size
KINDS = "gradient descent", "at a high rate", "at an unstable rate", "scalar RMSProp", "RMSProp"
EVERY = 5  # steps from one record of the flows to the next
FINE = 32  # of Euler's method in each step, for the stable flow


def methods(kind, rate, decay, slope):
    """Return the optimiser of a kind, its memory nu as a vector, and the same method for its
    flows."""
    g, _ = ravel_pytree(slope)
    descent = kind < 3
    shared = kind == 3
    place = jnp.maximum(kind - 2, 0)
    # The mean squared gradient that rates are divided by begins as that of the start; for descent
    # it stays 1.
    initial = jnp.stack([1.0, g @ g, g @ g / g.size])[place]
    rmsprop = optax.rmsprop(rate, decay, eps=0.0, initial_scale=initial)
    each = optax.sgd(rate), scalar_rmsprop(rate, decay, initial), rmsprop

    def update(gradients, memories, params=None):
        found = [
            method.update(gradients, memory, params)
            for method, memory in zip(each, memories, strict=True)
        ]
        chosen = jax.tree.map(
            lambda *updates: jnp.stack(updates)[place], *(updates for updates, _ in found)
        )
        return chosen, [memory for _, memory in found]

    def nu_of(memories):
        _, scalar, (adaptive, *_) = memories
        return jnp.stack(
            [jnp.ones(g.size), jnp.full(g.size, scalar.nu), ravel_pytree(adaptive.nu)[0]]
        )[place]

    optimizer = optax.GradientTransformation(
        lambda params: [method.init(params) for method in each], update
    )
    return (
        optimizer,
        nu_of,
        central_flow.rmsprop(rate, jnp.where(descent, 1.0, decay), initial, shared=shared),
    )


def largest(params, rates, batch):
    """Return the largest eigenvalue of the Hessian multiplied by the rates."""
    x, unravel = ravel_pytree(params)
    root = jnp.sqrt(jnp.broadcast_to(rates, x.shape))
    return jnp.linalg.eigvalsh(
        root[:, None] * jax.hessian(lambda x: LOSS(unravel(x), batch))(x) * root[None]
    )[-1]


def courses(network, kind, *, data, rates, decay, kick, steps, window, top):
    """A method and its averages over a window of steps, beside its central and its stable flow."""
    x, y, start = jax.tree.map(lambda a: a[network], data)
    (begin, unravel) = ravel_pytree(start)
    field = jax.grad(LOSS)
    batch = (x, y)
    optimizer, nu_of, method = methods(kind, rates[network, kind], decay, field(start, batch))

    def seen(params, nu):
        return {"x": ravel_pytree(params)[0], "nu": nu, "loss": LOSS(params, batch)}

    optimizer = optax.chain(optimizer, kicks(jax.random.key(network), kick))

    def observe(state):
        return seen(state.params, nu_of(state.memory[0]))

    run = train(
        field, optimizer, full_batch(batch), start, times=np.arange(steps + 1), observe=observe
    ).observed
    mean = {name: box_average(values, window)[::EVERY] for name, values in run.items()}
    now = {name: values[::EVERY] for name, values in run.items()}

    times = np.arange(0, steps + 1, EVERY)
    flow = central_flow.central_flow(LOSS, batch, method, top=top, substeps=2)
    predicted = central_flow.predictions(LOSS, batch)

    def observe(state):
        return seen(state.params, state.memory.nu) | predicted(state)

    central = iterate(flow.step, flow.init(start), times=times, observe=observe).observed
    # By Euler's method, as it compiles fast, in steps short enough beyond the edge.
    velocity = central_flow.stable_velocity(LOSS, batch, method)

    def euler(_, pair):
        return jax.tree.map(lambda a, b: a + b / FINE, pair, velocity(None, pair))

    def step(key, state):
        return state._replace(params=jax.lax.fori_loop(0, FINE, euler, state.params))

    pair = (start, method.init(begin))

    def observe(state):
        return seen(*state.params)

    stable = iterate(step, pair, times=times, observe=observe).observed
    both = [jnp.concatenate([now[name], stable[name]]) for name in ("x", "nu")]

    def edge(pair):
        return largest(unravel(pair[0]), method.rates(pair[1]), batch) / 2

    edge, edge_stable = jnp.split(jax.lax.map(edge, both), 2)

    def norm(vectors):
        return jnp.linalg.norm(vectors, axis=1)

    return Trajectory(
        times,
        {
            "loss": now["loss"],
            "loss_mean": mean["loss"],
            "loss_mean_theory": central["loss"],
            "loss_center": central["loss_center"],
            "loss_stable": stable["loss"],
            "edge": edge,
            "edge_stable": edge_stable,
            "edges_theory": central["eigenvalues"] / 2,
            "off_central": norm(mean["x"] - central["x"]),
            "off_stable": norm(mean["x"] - stable["x"]),
            "nu_off": norm(mean["nu"] - central["nu"]) / norm(central["nu"]),
            "enough": central["enough"],
        },
    )


def draw(seed, net, examples):
    """Gaussian inputs, a wave of them as labels of variance 1, and initial weights."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    x = rng.standard_normal((examples, shapes["weights"][0].shape[1]))
    y = np.sin(3 * x @ rng.standard_normal((x.shape[1], 1)) / x.shape[1] ** 0.5)
    weights = [rng.standard_normal(w.shape) / w.shape[1] ** 0.5 for w in shapes["weights"]]
    return (
        x,
        y / y.std(),
        {"weights": weights, "biases": [np.zeros(b.shape) for b in shapes["biases"]]},
    )


def run(
    *,
    sweep=sweep,
    examples,
    inputs,
    width,
    rate,
    high,
    unstable,
    scalar,
    adaptive,
    decay,
    kick,
    steps,
    window,
    top,
    networks,
):
    """Train networks by all methods, beside their flows."""
    draws = [draw(seed, mlp((inputs, width, 1)), examples) for seed in range(networks)]
    with jax.enable_x64(True):
        data = jax.tree.map(lambda *a: jnp.array(a), *draws)
        # Of descent in units of 2/sharpness at the start.
        edges = jax.jit(jax.vmap(lambda *batch, start: 2 / largest(start, 1.0, batch)))(
            *data[:2], start=data[2]
        )
        rates = [
            rate * edges,
            high * edges,
            unstable * edges,
            *(jnp.full(networks, r) for r in (scalar, adaptive)),
        ]
        options = {
            "data": data,
            "rates": jnp.stack(rates, 1),
            "decay": decay,
            "kick": kick,
            "steps": steps,
        }
        experiment = partial(courses, **options, window=window, top=top)
        axes = {"network": np.arange(networks), "kind": np.arange(len(KINDS))}
        dims = {"edges_theory": "rank"}
        runs = sweep(experiment, axes, dims=dims)
    return {"runs": runs.assign_coords(kind=list(KINDS)).assign(window=window)}


def _edged(r, *kinds):
    """Runs, and when they have been at the edge for a window."""
    runs = r["runs"].sel(kind=list(kinds))
    since = (runs.edges_theory[..., 0] > 1 - 1e-3).cumsum("time") * EVERY
    return runs, (since > runs.window) & runs.loss_mean.notnull()


def _average(r, name, *kinds):
    runs, edged = _edged(r, *kinds)
    return runs[name].where(edged).mean("time")


def _closer(r, kind):
    """The distance of the averaged run to the central flow over that to the stable flow, when they
    end."""
    runs, edged = _edged(r, kind)
    last = edged & ~edged.shift(time=-1, fill_value=False)
    central, stable = (
        runs[f"off_{flow}"].where(last).max("time").sum(skipna=False)
        for flow in ("central", "stable")
    )
    return central / stable


def _loss_off(r, kind, name="loss_mean_theory"):
    """By how much the average loss is off what is predicted."""
    return abs(_average(r, "loss_mean", kind).mean() / _average(r, name, kind).mean() - 1)


def _burst(r):
    """By how much it is off in the worst window."""
    runs, edged = _edged(r, "gradient descent")
    return abs(runs.loss_mean / runs.loss_mean_theory - 1).where(edged).max()


def _survives(r):
    """1 if an unstable run did not blow up, or if no central flow goes on; else 0."""
    last = r["runs"].sel(kind="at an unstable rate").isel(time=-1)
    return (np.isfinite(last.loss).any() | ~np.isfinite(last.loss_center).any()).astype(float)


CENTRAL = "gradient descent", "scalar RMSProp", "RMSProp"
CLAIMS = (
    Claim(
        "gradient descent hovers at its edge of stability: its sharpness averages to 2/rate, to 5 %",
        "deviation",
        lambda r: abs(_average(r, "edge", "gradient descent") - 1).max(skipna=False),
        below=0.05,
    ),
    Claim(
        "without oscillations it would end beyond, and so would RMSProp",
        "deviation",
        lambda r: 1 / r["runs"].edge_stable.sel(kind=list(CENTRAL))[..., -1].min(skipna=False),
        below=1,
    ),
    Claim(
        "scalar RMSProp hovers at the edge of its own rate, 2/sharpness, to 5 %",
        "deviation",
        lambda r: abs(_average(r, "edge", "scalar RMSProp") - 1).max(skipna=False),
        below=0.05,
    ),
    Claim(
        "the central flow stays there to its steps' order",
        "deviation",
        lambda r: abs(_average(r, "edges_theory", *CENTRAL)[..., 0] - 1).max(skipna=False),
        below=1e-3,
    ),
    *(
        Claim(
            f"{kind}, averaged, ends three times closer to its central flow than to its stable flow",
            "deviation",
            lambda r, kind=kind: _closer(r, kind),
            below=1 / 3,
        )
        for kind in CENTRAL
    ),
    Claim(
        "the average loss of descent is as predicted, to 8 %",
        "deviation",
        lambda r: _loss_off(r, "gradient descent"),
        below=0.08,
    ),
    Claim(
        "that is three times closer than the loss of the central flow itself",
        "deviation",
        lambda r: (
            _loss_off(r, "gradient descent") / _loss_off(r, "gradient descent", "loss_center")
        ),
        below=1 / 3,
    ),
    Claim(
        "but in single windows, in bursts, it is off by more",
        "deviation",
        lambda r: -_burst(r),
        below=-0.08,
    ),
    Claim(
        "the mean squared gradient in scalar RMSProp is that of the flow, to 5 %",
        "deviation",
        lambda r: _average(r, "nu_off", "scalar RMSProp").max(skipna=False),
        below=0.05,
    ),
    Claim(
        "at a high rate, with several eigenvalues near the edge, the predicted loss is right to 25 %",
        "deviation",
        lambda r: _loss_off(r, "at a high rate"),
        below=0.25,
    ),
    Claim(
        "descent that starts far beyond the edge blows up, also where the central flow goes on",
        "deviation",
        lambda r: _survives(r),
        below=0.5,
    ),
)


def plot(results, axes):
    """Draw sharpness, loss and distances of gradient descent and of RMSProp, beside their flows."""
    from jaxdyn.plot import COLOURS

    runs = results["runs"].isel(network=0)
    descent = runs.sel(kind="gradient descent")
    axes.figure.set_layout_engine("none")
    axes.set_position([0.09, 0.6, 0.38, 0.36])
    losses, adaptive, distances = map(
        axes.inset_axes, ([1.3, 0, 1, 1], [0, -1.4, 1, 1], [1.3, -1.4, 1, 1])
    )
    axes.plot(
        runs.time, descent.edge, ".", color=COLOURS[0], markersize=3, label="gradient descent"
    )
    axes.plot(runs.time, descent.edges_theory[:, 0], color=COLOURS[1], label="central flow")
    axes.plot(
        runs.time,
        descent.edges_theory[:, 1],
        color=COLOURS[1],
        linewidth=0.8,
        label="second eigenvalue",
    )
    axes.plot(
        runs.time, descent.edge_stable, "--", color="black", linewidth=1, label="gradient flow"
    )
    axes.set(xlabel="step", ylabel="sharpness / (2/rate)", ylim=(0.3, 2.8))
    losses.plot(
        runs.time, descent.loss, ".", color=COLOURS[5], markersize=2, label="gradient descent"
    )
    losses.plot(runs.time, descent.loss_mean, color=COLOURS[0], label="its average")
    losses.plot(runs.time, descent.loss_mean_theory, color=COLOURS[1], label="predicted")
    losses.plot(runs.time, descent.loss_center, ":", color=COLOURS[1], label="at the central flow")
    losses.plot(
        runs.time, descent.loss_stable, "--", color="black", linewidth=1, label="gradient flow"
    )
    losses.set(xlabel="step", ylabel="loss", yscale="log", ylim=(None, 9))
    for kind, colour in zip(CENTRAL, COLOURS, strict=False):
        run = runs.sel(kind=kind)
        distances.plot(runs.time, run.off_stable, "--", color=colour)
        distances.plot(runs.time, run.off_central, color=colour, label=kind)
        if kind != "gradient descent":
            adaptive.plot(runs.time, run.edge, ".", color=colour, markersize=3, label=kind)
            adaptive.plot(runs.time, run.edges_theory[:, 0], color=colour)
    adaptive.set(xlabel="step", ylabel="sharpness / edge of its rates", ylim=(0, 1.9))
    distances.plot([], [], "--", color="0.4", label="from stable flows")
    distances.set(xlabel="step", ylabel="distance of the average", yscale="log", ylim=(None, 60))
    for panel, side in (
        (axes, "left"),
        (losses, "right"),
        (adaptive, "right"),
        (distances, "left"),
    ):
        panel.legend(fontsize="x-small", loc=f"upper {side}")
    return axes
