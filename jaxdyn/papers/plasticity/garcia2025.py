"""A unified perspective on optimization: from gradient descent to neural adaptation (Garcia
Fernandez et al., 2025).

A linear student learns a linear teacher online by rules that only evaluate the loss l = |W* x - W
x|^2 / 2: perturbed nodes or weights, one-sided (l(theta + sigma xi) - l) / sigma or antithetic,
random signs, a forward gradient.  All of them follow the gradient on average; their second moments
kappa |W* - W|^2 decide how fast each learns, 1 - 2 eta + eta^2 kappa a step, from what rate it is
unstable, and what error finite perturbations leave.  In float64.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdyn import Claim, sweep, train
from jaxdyn._numbers import normal
from jaxdyn.losses import squared_error
from jaxdyn.papers import Reference
from jaxdyn.rules import forward_gradient, node_perturbation, noisy, weight_perturbation
from jaxdyn.tasks import online
from jaxdyn.theory.plasticity import perturbation as theory

__all__ = ["REFERENCE"]

TITLE = (
    "A unified perspective on optimization in machine learning and neuroscience: "
    "from gradient descent to neural adaptation"
)
REFERENCE = Reference(
    title=TITLE,
    authors="Garcia Fernandez, Ahmad, van Gerven",
    year=2025,
    arxiv="2510.18812",
    name="Zeroth-order learning",
    reproduces="perturbed nodes and weights, random signs, forward gradients: exact second moments, rates and floors",
)
QUICK = dict(outputs=4, inputs=3, sigma=0.3, fraction=0.3, draws=20000, runs=400, last=1500)
SIZES = {
    "quick": QUICK,
    "paper": QUICK | {"inputs": 6, "draws": 100000, "runs": 2000, "last": 5000},
}
SQUARED = squared_error(lambda w, x: x @ w.T)


def ERROR(outputs, y):
    return jnp.sum((y - outputs) ** 2, 1) / 2


def nodes(w, x, noise):
    """The outputs, noise added, and the one layer of them."""
    outputs = x @ w.T if noise is None else x @ w.T + noise[0]
    return outputs, [outputs]


# Each rule at a perturbation sigma, and the name of its second moment.
RULES = {
    "gradient": (lambda sigma: lambda w, batch: jax.grad(SQUARED)(w, batch[0]), "gradient"),
    "node": (lambda sigma: node_perturbation(nodes, ERROR, sigma), "node"),
    "antithetic node": (
        lambda sigma: node_perturbation(nodes, ERROR, sigma, antithetic=True),
        "node",
    ),
    "weight": (lambda sigma: weight_perturbation(SQUARED, sigma), "weight"),
    "antithetic weight": (
        lambda sigma: weight_perturbation(SQUARED, sigma, antithetic=True),
        "weight",
    ),
    "random signs": (
        lambda sigma: weight_perturbation(SQUARED, sigma, antithetic=True, directions="rademacher"),
        "rademacher",
    ),
    "forward gradient": (lambda sigma: forward_gradient(SQUARED), "weight"),
}


def sample(key, inputs):
    """One example of the error W* - W that is left: the teacher is 0."""
    return normal(key, (1, inputs)), jnp.zeros((1, 1))


def estimates(key, *, sigma, start):
    """The estimate of every rule from one example: its second moment, and its part along the
    gradient."""
    batch = sample(jax.random.fold_in(key, 0), start.shape[1])
    noise = jax.random.fold_in(key, 1)
    found = {name: make(sigma)(start, (batch, noise)) for name, (make, _) in RULES.items()}
    # The mean over x of the gradient of l is W itself.
    moments = [
        (jnp.sum(g**2) / jnp.sum(start**2), jnp.sum(g * start) / jnp.sum(start**2))
        for g in found.values()
    ]
    return dict(zip(("second", "along"), jnp.array(moments).T, strict=True))


def learned(key, *, sigma, fraction, start, times):
    """Train a student by every rule, side by side, each at a fraction of its best learning rate 1 /
    kappa."""
    kappa = {
        name: theory.estimate_variance(kind, *start.shape) for name, (_, kind) in RULES.items()
    }
    fields = {name: make(sigma) for name, (make, _) in RULES.items()}

    def field(params, batch):
        data, key = batch
        keys = dict(zip(fields, jax.random.split(key, len(fields)), strict=True))
        return {
            name: fraction / kappa[name] * of(params[name], (data, keys[name]))
            for name, of in fields.items()
        }

    def observe(state):
        return {"square": jnp.stack([jnp.sum(state.params[name] ** 2) for name in RULES])}

    stream = noisy(online(lambda key: sample(key, start.shape[1])))
    begin = dict.fromkeys(RULES, start)
    return train(field, optax.sgd(1.0), stream, begin, times=times, observe=observe, key=key)


def run(*, sweep=sweep, outputs, inputs, sigma, fraction, draws, runs, last):
    """Draw estimates of all rules and train by them; return their exact moments beside."""
    with jax.enable_x64(True):
        shape = (outputs, inputs)
        kinds = [kind for _, kind in RULES.values()]
        start = jnp.ones(shape) / (outputs * inputs) ** 0.5
        # Perturbations so small that one side of them tells the slope.
        drawn = sweep(
            partial(estimates, sigma=1e-3, start=start),
            seeds=draws,
            dims=dict.fromkeys(("second", "along"), "rule"),
        )
        early = np.geomspace(1, last / 4, 12)
        late = np.linspace(last / 2, last, 40)
        times = np.unique(np.r_[0, early, late].round().astype(int))
        system = dict(sigma=sigma, fraction=fraction, start=start, times=times)
        moved = sweep(partial(learned, **system), seeds=runs, dims={"square": "rule"})
        kappa = [float(theory.estimate_variance(kind, *shape)) for kind in kinds]
        factor = [
            float(theory.contraction(kind, fraction / k, *shape))
            for kind, k in zip(kinds, kappa, strict=True)
        ]
        floor = [
            float(theory.noise_floor(name, sigma, fraction / k, *shape))
            if name in ("node", "weight")
            else 0.0
            for name, k in zip(RULES, kappa, strict=True)
        ]
    decay = np.array(factor) ** moved.time.values[:, None]
    floor = np.array(floor)
    drawn["second_theory"] = ("rule", np.array(kappa))
    moved["floor"] = ("rule", floor)
    moved["square_theory"] = ("time", "rule"), decay + floor * (1 - decay)
    return {
        name: one.assign_coords(rule=list(RULES))
        for name, one in (("estimates", drawn), ("runs", moved))
    }


def _z(values, theory, over="seed"):
    """Standard errors between a mean over runs and theory."""
    sem = values.std(over, ddof=1) / values.sizes[over] ** 0.5
    return abs(values.mean(over) - theory) / sem


def _decays(runs):
    """The same for all of a run in which its mean is not yet made up by few: down to a tenth, or
    above a floor."""
    seen = runs.isel(time=slice(1, None))
    return (
        _z(seen.square, seen.square_theory)
        .where((seen.square_theory > 0.1) | (seen.floor > 0))
        .max()
    )


def _late(runs):
    return runs.where(runs.time > runs.time.max() / 2, drop=True).square.mean("time")


CLAIMS = (
    Claim(
        "all rules follow the gradient on average, in standard errors",
        "deviation",
        lambda r: _z(r["estimates"].along, 1).max(skipna=False),
        below=4.5,
    ),
    Claim(
        "their second moments are (N + 2) times 1, M + 2, M N + 2 and M N, in standard errors",
        "deviation",
        lambda r: _z(r["estimates"].second, r["estimates"].second_theory).max(skipna=False),
        below=4.5,
    ),
    Claim(
        "errors fall by 1 - 2 eta + eta^2 kappa a step, in standard errors",
        "deviation",
        lambda r: _decays(r["runs"]),
        below=4.5,
    ),
    Claim(
        "one-sided perturbations leave a floor of order sigma^2, as predicted, in standard errors",
        "deviation",
        lambda r: (
            _z(_late(r["runs"]), r["runs"].floor).sel(rule=["node", "weight"]).max(skipna=False)
        ),
        below=4.5,
    ),
    Claim(
        "antithetic ones leave none, whatever their size",
        "deviation",
        lambda r: (
            _late(r["runs"]).mean("seed").sel(rule=["antithetic node", "antithetic weight"])
            / r["runs"].floor.sel(rule=["node", "weight"]).values
        ).max(),
        below=0.01,
    ),
)


def plot(results, axes):
    """Draw how far students are from their teacher under every rule."""
    from jaxdyn.plot import COLOURS

    runs = results["runs"]
    for colour, rule in zip(COLOURS, RULES, strict=True):
        one = runs.sel(rule=rule)
        style = "s" if rule in ("node", "weight") else "o"
        few = one.isel(time=np.r_[: one.sizes["time"] - 40, -40:0:8])
        axes.plot(few.time, few.square.mean("seed"), style, color=colour, markersize=4, label=rule)
        axes.plot(one.time, one.square_theory, color=colour, linewidth=1)
    axes.set(
        xlabel="examples seen",
        ylabel="$|W^* - W|^2$",
        yscale="log",
        xscale="symlog",
        ylim=(1e-6, 3),
        xlim=(0, None),
    )
    axes.legend(
        fontsize="x-small", title="simulation (points), theory (lines)", title_fontsize="x-small"
    )
    return axes
