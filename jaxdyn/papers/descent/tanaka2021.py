"""Noether's learning dynamics: role of symmetry breaking in neural networks (Tanaka, Kunin, 2021).

A symmetry of the loss (xi . g = 0 for every gradient g) conserves a charge under gradient flow.
Finite steps v <- b v
- a (g + k theta), theta <- theta + v, that is learning rate a, momentum b and weight decay k, move
it by laws that are exact step by step: for softmax layers (translation), weights before a
normalisation (scale) and ReLU units (rescaling), on random samples and in float64.  Normalisation
with weight decay is an adaptive method, RMSProp on the sphere, and its weights come to turn by a
fixed angle a step.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from jaxdyn import Claim, iterate, sweep, train
from jaxdyn._numbers import normal
from jaxdyn.losses import cross_entropy, squared_error
from jaxdyn.papers import Reference
from jaxdyn.tasks import full_batch
from jaxdyn.theory.descent import momentum as heavy_ball
from jaxdyn.theory.descent import noether

TITLE = "Noether's learning dynamics: role of symmetry breaking in neural networks"
REFERENCE = Reference(
    title=TITLE,
    authors="Tanaka, Kunin",
    year=2021,
    arxiv="2105.02716",
    name="Noether's learning dynamics",
    reproduces="what symmetries conserve, and exact laws of how steps, momentum and decay move it",
)
QUICK = dict(
    inputs=8,
    classes=4,
    hidden=6,
    examples=40,
    learning_rates=(0.1, 0.05, 0.025),
    momentum=0.9,
    decay=0.1,
    duration=10.0,
    sphere_rates=(0.05, 0.025, 0.0125, 0.00625),
    sphere_decay=0.05,
    sphere_duration=8.0,
    turning_rates=(0.2, 0.05),
    turning_decays=(0.1, 0.2),
    dimension=50,
    averaged=2000,
)
SIZES = {
    "quick": QUICK,
    "paper": QUICK | {"inputs": 64, "hidden": 32, "examples": 400, "averaged": 20000},
}


def normalised(params, x):
    return jnp.tanh(x @ (params["w"] / jnp.linalg.norm(params["w"])))


def chain(a, b, k):
    return optax.chain(optax.add_decayed_weights(k), optax.sgd(a, momentum=b))


# Losses and their charges; the generator of a symmetry is along the gradient of its charge.
SYMMETRIES = {
    "translation": (cross_entropy(lambda p, x: x @ p["w"]), lambda p: jnp.sum(p["w"], 1)),
    "scale": (squared_error(normalised), lambda p: jnp.sum(p["w"] ** 2, keepdims=True).ravel()),
    "rescaling": (
        squared_error(lambda p, x: jax.nn.relu(x @ p["w"]) @ p["v"]),
        lambda p: jnp.sum(p["w"] ** 2, 0) - p["v"] ** 2,
    ),
}


def charged(key, learning_rate, momentum, decay, resampled, *, data, start, steps):
    """Train a network of each symmetry, on all data or on samples of it: charges at all steps
    beside their laws."""
    n = len(data["scale"][1])
    times = np.arange(steps + 1)
    method = (learning_rate, momentum, decay)

    def field(params, rows):
        batches = jax.tree.map(lambda a: a[rows], data)
        return {
            name: jax.grad(loss)(params[name], batches[name])
            for name, (loss, _) in SYMMETRIES.items()
        }

    def stream(key, step):
        return jnp.where(resampled, jax.random.randint(key, (n,), 0, n, jnp.int32), jnp.arange(n))

    def observe(state):
        return {"flat": ravel_pytree(state.params)[0]}

    unravel = ravel_pytree(start)[1]
    run = train(field, chain(*method), stream, start, times=times, observe=observe, key=key)
    path = jax.vmap(unravel)(run.observed["flat"])

    def cut(i):
        return jax.tree.map(lambda a: a[i : steps - 1 + i], path)

    def charges(path):
        return {name: jax.vmap(charge)(path[name]) for name, (_, charge) in SYMMETRIES.items()}

    generator = jax.grad(
        lambda p: sum(jnp.sum(charge(p[name])) for name, (_, charge) in SYMMETRIES.items())
    )
    left = jax.vmap(lambda *three: noether.residual(generator, *three, *method))(
        cut(0), cut(1), cut(2)
    )
    seen = charges(path)
    moved = charges(jax.tree.map(lambda a: jnp.diff(a, axis=0), path))

    def quadratic(parts):
        return jnp.concatenate([parts["scale"], parts["rescaling"]], 1)

    law = noether.charges(quadratic(moved), quadratic(seen)[0], *method)
    heavy = heavy_ball.mode(times, heavy_ball.ThreeTerm(learning_rate, momentum), decay)
    laws = {
        "translation": heavy[:, None] * seen["translation"][:1],
        "scale": law[:, :1],
        "rescaling": law[:, 1:],
    }
    return (
        seen | {f"{name}_theory": a for name, a in laws.items()} | {"residual": jnp.abs(left).max()}
    )


def by_adam(learning_rate, *, data, start, steps):
    """Train the softmax layer by Adam on all data: the charges of translation at the first and the
    last step."""
    (loss, charge) = SYMMETRIES["translation"]
    stream = full_batch(data["translation"])
    options = {
        "times": np.array([0, steps]),
        "observe": lambda state: {"charge": charge(state.params)},
    }
    return train(jax.grad(loss), optax.adam(learning_rate), stream, start["translation"], **options)


def on_the_sphere(learning_rate, *, batch, start, decay, duration):
    """Descend with weight decay, and by its image on the sphere: directions and v = |q|^4, whole or
    as RMSProp."""
    field = jax.grad(squared_error(normalised))
    shrink = 1 - learning_rate * decay

    def turned(unit, v, whole):
        g = field({"w": unit}, batch)["w"]
        moved = (shrink if whole else 1.0) * unit - learning_rate * g / jnp.sqrt(v)
        square = (learning_rate * jnp.linalg.norm(g)) ** 2
        grown = shrink**4 * v + 2 * shrink**2 * square + (square**2 / v if whole else 0.0)
        return moved / jnp.linalg.norm(moved), grown

    def step(_, state):
        q = state.params["q"]
        q = q - learning_rate * (field({"w": q}, batch)["w"] + decay * q)
        images = {
            name: turned(*state.params[name], name == "exact") for name in ("exact", "rmsprop")
        }
        return state._replace(params={"q": q} | images)

    def observe(state):
        unit = state.params["q"] / jnp.linalg.norm(state.params["q"])
        return {
            name: jnp.linalg.norm(state.params[name][0] - unit) for name in ("exact", "rmsprop")
        }

    image = start / jnp.linalg.norm(start), jnp.linalg.norm(start) ** 4
    times = jnp.round(jnp.linspace(0, 1, 41) * duration / learning_rate)
    return iterate(
        step, {"q": start, "exact": image, "rmsprop": image}, times=times, observe=observe
    )


def turning(key, learning_rate, momentum, decay, *, dimension, burn, averaged):
    """Train scale-invariant weights under random gradients, unit tangents of the sphere, until
    their norm settles."""

    def field(q, key):
        unit = q / jnp.linalg.norm(q)
        z = normal(key, q.shape)
        z = z - unit * (unit @ z)
        return z / jnp.linalg.norm(z) / jnp.linalg.norm(q)

    optimizer = chain(learning_rate, momentum, decay)
    start = noether.equilibrium_norm(1.0, learning_rate, decay, momentum) * (
        jnp.ones(dimension) / dimension**0.5
    )
    times = burn + np.arange(averaged + 1)

    def observe(state):
        return {"q": state.params}

    q = train(
        field, optimizer, lambda key, step: key, 1.5 * start, times=times, observe=observe, key=key
    ).observed["q"]
    square = jnp.mean(jnp.sum(q**2, 1))
    return {
        "angle": jnp.arccos(jnp.mean(jnp.sum(q[1:] * q[:-1], 1)) / square),
        "size": square**0.5,
        "angle_theory": noether.equilibrium_angle(learning_rate, decay, momentum),
        "size_theory": noether.equilibrium_norm(1.0, learning_rate, decay, momentum),
    }


def run(
    *,
    sweep=sweep,
    inputs,
    classes,
    hidden,
    examples,
    learning_rates,
    momentum,
    decay,
    duration,
    sphere_rates,
    sphere_decay,
    sphere_duration,
    turning_rates,
    turning_decays,
    dimension,
    averaged,
):
    """Train networks of each symmetry and weights on the sphere; return the exact laws beside
    them."""
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 6)
        # Inputs of one norm, so that one learning rate is stable at any size.
        x = 2 * normal(keys[0], (examples, inputs)) / inputs**0.5
        y = normal(keys[1], (examples,))
        data = dict.fromkeys(("scale", "rescaling"), (x, y)) | {
            "translation": (x, jnp.arange(examples) % classes)
        }
        start = {
            "translation": {"w": 0.3 * normal(keys[2], (inputs, classes))},
            "scale": {"w": normal(keys[3], (inputs,))},
            "rescaling": {
                "w": 0.4 * normal(keys[4], (inputs, hidden)),
                "v": 0.4 * normal(keys[5], (hidden,)),
            },
        }
        system = {"data": data, "start": start, "steps": round(duration / min(learning_rates))}
        chains = [(b, k) for k in (0.0, decay) for b in (0.0, momentum)]
        axes = {
            "learning_rate": learning_rates,
            ("momentum", "decay"): chains,
            "resampled": (False, True),
        }
        dims = {
            f"{name}{kind}": ("step", name + "_part")
            for name in SYMMETRIES
            for kind in ("", "_theory")
        }
        results = {
            "charges": sweep(partial(charged, **system), axes, seeds=1, dims=dims).assign(
                duration=duration
            )
        }
        results["adam"] = sweep(partial(by_adam, **system), {"learning_rate": learning_rates})
        sphere = partial(
            on_the_sphere, batch=(x, y), start=start["scale"]["w"] / 2, decay=sphere_decay
        )
        results["sphere"] = sweep(
            partial(sphere, duration=sphere_duration), {"learning_rate": sphere_rates}
        )
        pairs = list(zip(turning_rates, turning_decays, strict=True))
        # The norm settles as e^(-4 a k steps).
        turn = partial(
            turning,
            dimension=dimension,
            burn=int(6 / min(a * k for a, k in pairs)),
            averaged=averaged,
        )
        pairs = {("learning_rate", "decay"): pairs, "momentum": (0.0, momentum)}
        results["turning"] = sweep(turn, pairs, seeds=1).assign(freedom=dimension * averaged)
    return results


def _misses(r, name):
    return abs(r["charges"][name] - r["charges"][f"{name}_theory"]).max(skipna=False)


def _order(values):
    """The order at which values vanish with the learning rate, from the two smallest."""
    last = values.sortby("learning_rate")[:2]
    return float(np.log(last[1] / last[0]) / np.log(last.learning_rate[1] / last.learning_rate[0]))


def _order_of_drift(r):
    """The order of the drift of imbalances within one flow time."""
    runs = r["charges"].rescaling.isel(momentum_decay=0, resampled=0, seed=0)
    moved = abs(runs - runs.isel(step=0)).max("rescaling_part")
    return _order(
        moved.isel(step=np.round(float(r["charges"].duration) / runs.learning_rate).astype(int))
    )


def _off(one, name, momentum):
    return abs(one[name] / one[f"{name}_theory"] - 1).isel(momentum=momentum).max(skipna=False)


def _noise(r):
    """Noise and velocity correlate by 1/sqrt(dimension) a step, which is averaged over what
    momentum forgets."""
    return float(4 / np.sqrt(r["turning"].freedom * (1 - r["turning"].momentum.max())))


CLAIMS = (
    Claim(
        "the charges of translation move as a heavy ball of curvature k, whatever the batches",
        "deviation",
        lambda r: _misses(r, "translation"),
        below=1e-11,
    ),
    Claim(
        "the size of scale-invariant weights and the imbalance of every ReLU unit follow their laws at every step",
        "deviation",
        lambda r: max(_misses(r, "scale"), _misses(r, "rescaling")),
        below=1e-11,
    ),
    Claim(
        "the equation of motion along each generator holds without the gradient",
        "deviation",
        lambda r: r["charges"].residual.max(skipna=False),
        below=1e-12,
    ),
    Claim(
        "Adam, whose metric is of each weight, moves what descent conserves",
        "deviation",
        lambda r: _misses(r, "translation") / abs(r["adam"].charge.diff("time")).max(),
        below=1e-6,
    ),
    Claim(
        "finite steps move conserved charges in proportion to the learning rate, to the next order",
        "deviation",
        lambda r: abs(_order_of_drift(r) - 1),
        below=0.1,
    ),
    Claim(
        "descent with weight decay before a normalisation is an adaptive method on the sphere, exactly",
        "deviation",
        lambda r: r["sphere"].exact.max(skipna=False),
        below=1e-10,
    ),
    Claim(
        "RMSProp of decay (1 - a k)^4 follows it to first order in the learning rate",
        "deviation",
        lambda r: abs(_order(r["sphere"].rmsprop.max("time")) - 1),
        below=0.1,
    ),
    Claim(
        "without momentum weights come to turn by arccos(1 - a k) a step",
        "deviation",
        lambda r: _off(r["turning"], "angle", 0),
        below=1e-8,
    ),
    Claim(
        "and with it by arccos(1 - a k / (1 + b))",
        "deviation",
        lambda r: _off(r["turning"], "angle", 1),
        below=_noise,
    ),
    Claim(
        "their norm is where decay balances growth",
        "deviation",
        lambda r: _off(r["turning"], "size", 0),
        below=1e-8,
    ),
    Claim(
        "and momentum raises it as predicted",
        "deviation",
        lambda r: _off(r["turning"], "size", 1),
        below=_noise,
    ),
)


def plot(results, axes):
    """Draw the charges of three symmetries over their laws, and what parts RMSProp from descent on
    the sphere."""
    from jaxdyn.plot import COLOURS

    axes.figure.set_layout_engine("none")
    axes.set_position([0.1, 0.62, 0.37, 0.35])
    scale, rescaling, sphere = map(
        axes.inset_axes, ([1.35, 0, 1, 1], [0, -1.38, 1, 1], [1.35, -1.38, 1, 1])
    )
    for panel, name in ((axes, "translation"), (scale, "scale"), (rescaling, "rescaling")):
        one = results["charges"].isel(
            {"learning_rate": 0, "seed": 0, "resampled": 1, f"{name}_part": 0}
        )
        for colour, place in zip(COLOURS, range(one.sizes["momentum_decay"]), strict=False):
            seen = one.isel(momentum_decay=place)
            panel.plot(seen.step[::16], seen[name][::16], "o", color=colour, markersize=3)
            label = f"b = {float(seen.momentum):g}, k = {float(seen.decay):g}"
            panel.plot(seen.step, seen[f"{name}_theory"], color=colour, linewidth=1, label=label)
        panel.set(
            xlabel="step", ylabel=f"charge of {name}", yscale="log" if name == "scale" else "linear"
        )
    axes.legend(
        fontsize="xx-small", title="simulation (points), law (lines)", title_fontsize="xx-small"
    )
    runs = results["sphere"].max("time")
    for name, label in (("rmsprop", "RMSProp"), ("exact", "the whole law")):
        sphere.loglog(runs.learning_rate, runs[name], "o", markersize=4, label=label)
    order = runs.learning_rate / runs.learning_rate[0] * runs.rmsprop[0]
    sphere.loglog(runs.learning_rate, order, color="black", linewidth=1, label="first order")
    sphere.legend(fontsize="xx-small", loc="center right")
    sphere.set(xlabel="learning rate a", ylabel="distance on the sphere", xlim=(1e-3, 1e-1))
    return axes
