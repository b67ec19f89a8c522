"""Curl descent: non-gradient learning dynamics with sign-diverse plasticity (Ninou, Kadmon,
Cayco-Gajic, 2025).

A two-layer student of a teacher with one output descends with the sign turned for all weights from
some inputs (D_1) or hidden units (D_2): a field with a curl.  Solutions stay stable while the lower
edge of |W_2|^2 D_1 + W_1^T D_2 W_1 is positive, in networks that expand enough whatever inputs are
turned; beyond it learning is chaotic.  A turned hidden unit makes a centre of the saddle at the
origin, which is then left at once.  Norms are kept, array by array; float64.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdyn import RK4, Claim, State, descent, flow, iterate, sweep, train
from jaxdyn._numbers import normal
from jaxdyn.analysis import tangent_growth, with_tangents
from jaxdyn.compare import crossing_time
from jaxdyn.losses import covariance_loss
from jaxdyn.models import product
from jaxdyn.optimizers import keep_norms
from jaxdyn.papers import Reference
from jaxdyn.rules import sign_diverse
from jaxdyn.tasks import full_batch, linear_teacher
from jaxdyn.theory.plasticity import curl

__all__ = ["REFERENCE"]

TITLE = "Curl descent: non-gradient learning dynamics with sign-diverse plasticity"
REFERENCE = Reference(
    title=TITLE,
    authors="Ninou, Kadmon, Cayco-Gajic",
    year=2025,
    arxiv="2510.02765",
    name="Curl descent",
    reproduces="plasticity of mixed sign: edges of free sums, chaos beyond them, saddles that are left at once",
)
QUICK = dict(
    units=300,
    fractions=(0.1, 0.3, 0.5, 0.7),
    ratios=(0.25, 0.5),
    inputs=20,
    expansions=(10, 2),
    turned=(0.3, 0.9),
    hidden=0.4,
    rate=0.05,
    steps=4000,
    seeds=3,
    chaos_steps=6000,
    gaps=(1e-1, 1e-3, 1e-5, 1e-7),
)
SIZES = {
    "quick": QUICK,
    "paper": QUICK | {"units": 1200, "seeds": 8, "steps": 20000, "chaos_steps": 40000},
}
LOSS = covariance_loss(product)


def uniform(key, *shape):
    """Draw weights uniformly, of variance 1 / inputs; in float32, so that float64 repeats the same
    run."""
    draw = jax.random.uniform(key, shape, jnp.float32, -1, 1).astype(float)
    return draw * (3 / shape[1]) ** 0.5


def system(key, inputs, hidden, turned_inputs, turned_hidden, rate):
    """Return the field, optimiser, moments and start of a student of whose units fractions are
    turned."""
    keys = jax.random.split(key, 4)
    teacher = uniform(keys[1], 1, hidden) @ uniform(keys[0], hidden, inputs)
    start = [uniform(keys[2], hidden, inputs), uniform(keys[3], 1, hidden)]

    def signs(n, fraction):
        return jnp.where(jnp.arange(n) < jnp.round(fraction * n), -1.0, 1.0)[None]

    field = sign_diverse(
        jax.grad(LOSS), [signs(inputs, turned_inputs), signs(hidden, turned_hidden)]
    )
    return field, optax.chain(optax.sgd(rate), keep_norms()), linear_teacher(teacher), start


def edges(layer, fraction, ratio, *, units):
    """The lower edge in theory, and of one large network with so many inputs."""
    hidden = round(units / ratio)
    w = normal(jax.random.key(0), (hidden, units)) / units**0.5

    def signs(n, here):
        return jnp.where(jnp.arange(n) < jnp.round(fraction * n) * here, -1.0, 1.0)

    matrix = jnp.diag(signs(units, layer == "inputs")) + w.T @ (
        signs(hidden, layer == "hidden")[:, None] * w
    )
    eigenvalues = jnp.linalg.eigvalsh(matrix)
    theory = curl.lower_edge(layer, fraction, ratio)
    return {
        "edge": eigenvalues[0],
        "width": eigenvalues[-1] - eigenvalues[0],
        "edge_theory": theory,
    }


def learn(key, turned_inputs, turned_hidden, *, inputs, hidden, rate, steps):
    """Train a student; observe its loss over that at the start."""
    field, optimizer, moments, start = system(
        key, inputs, hidden, turned_inputs, turned_hidden, rate
    )
    first = LOSS(start, moments)

    def observe(state):
        return {"loss": LOSS(state.params, moments) / first}

    times = np.linspace(0, steps, 41).astype(int)
    return train(field, optimizer, full_batch(moments), start, times=times, observe=observe)


def exponents(key, turned_inputs, turned_hidden, *, inputs, hidden, steps, rate):
    """The largest Lyapunov exponent of learning, per unit of learning rate times step, in the last
    two thirds."""
    field, optimizer, moments, start = system(
        key, inputs, hidden, turned_inputs, turned_hidden, rate
    )
    step = descent(field, optimizer, full_batch(moments))
    step, start = with_tangents(
        step, State(0, start, optimizer.init(start)), key=jax.random.fold_in(key, 1)
    )
    grown = iterate(
        step, start, times=np.array([steps // 3, steps]), observe=tangent_growth()
    ).observed["growth"][:, 0]
    return {"exponent": (grown[1] - grown[0]) / (rate * (steps - steps // 3))}


def unit(first, second, turned):
    """Flow of one unit w_2 w_1 of target 1, plainly or with its outgoing weight turned."""
    field = sign_diverse(jax.grad(LOSS), [1.0, 1 - 2 * turned])
    target = linear_teacher(jnp.ones((1, 1)))

    def observe(state):
        return {"w": jnp.stack(state.params).ravel(), "loss": LOSS(state.params, target)}

    times = 40 * np.linspace(0, 1, 801) ** 2
    start = [jnp.reshape(w, (1, 1)) for w in (first, second)]
    return flow(field, target, start, times=times, observe=observe, solver=RK4(0.02))


def run(
    *,
    sweep=sweep,
    units,
    fractions,
    ratios,
    inputs,
    expansions,
    turned,
    hidden,
    rate,
    steps,
    seeds,
    chaos_steps,
    gaps,
):
    """Find edges, train students and follow their tangents, and let single units turn."""
    with jax.enable_x64(True):
        cells = {"layer": ("inputs", "hidden"), "ratio": ratios}
        results = {
            "edges": sweep(
                partial(edges, units=units), {"fraction": fractions}, static=cells
            ).assign(units=units)
        }
        flips = {
            ("turned_inputs", "turned_hidden"): [
                (0.0, 0.0),
                *((f, 0.0) for f in turned),
                (0.0, hidden),
            ]
        }
        for name, expansion in zip(("wide", "narrow"), expansions, strict=True):
            size = dict(inputs=inputs, hidden=expansion * inputs)
            results[name] = sweep(
                partial(learn, rate=rate, steps=steps, **size), flips, seeds=seeds
            )
        tangents = sweep(
            partial(exponents, rate=rate, steps=chaos_steps, **size), flips, seeds=seeds
        )
        results["narrow"] = results["narrow"].assign(
            exponent=tangents.exponent, time_of_tangents=rate * chaos_steps * 2 / 3
        )
        points = [(1.2, gap - 1.2, float(turn)) for gap in gaps for turn in (False, True)]
        points += [(0.6, 1.4, 1.0), (1.6, 0.4, 1.0), (0.3, 1.0, 1.0)]
        axis = {("first", "second", "turned"): points}
        results["unit"] = one = sweep(unit, axis, dims={"w": "weight"}).rename(
            first_second_turned="start"
        )
        one["limit"] = (
            ("weight", "start"),
            np.array(curl.turned_unit_limit(one["first"].values, one["second"].values, 1.0)),
        )
    one["learned"] = crossing_time(one.loss, 1e-3)
    return results


def _turned(runs, inputs=False, hidden=False):
    """The last record of runs with some inputs turned, some hidden units, or none."""
    kind = runs.turned_inputs > 0 if inputs else runs.turned_hidden > 0
    if not (inputs or hidden):
        kind = runs.turned_inputs + runs.turned_hidden == 0
    return runs.isel(time=-1, turned_inputs_turned_hidden=np.flatnonzero(kind))


def _delays(r, turned):
    """How much later a unit has learned for each e-fold by which it starts closer to the saddle."""
    one = r["unit"].isel(start=slice(int(turned), -3, 2))
    return (np.diff(one.learned) / -np.diff(np.log(one.second + 1.2)))[1:]


def _circle(r):
    """What is left of w_1^2 + w_2^2 and of the limit, for turned units that end and that do not."""
    turning = r["unit"].isel(start=r["unit"].turned.values > 0)
    radius = (turning.w**2).sum("weight")
    ended = abs(abs(turning.w.isel(time=-1)) - abs(turning.limit)).max()
    return max(abs(radius - radius.isel(time=0)).max(), ended)


CLAIMS = (
    Claim(
        "spectra of large networks end at the edges of free sums, to the order -2/3 of the units",
        "deviation",
        lambda r: (abs(r["edges"].edge - r["edges"].edge_theory) / r["edges"].width).max(
            skipna=False
        ),
        below=lambda r: 4 * float(r["edges"].units) ** (-2 / 3),
    ),
    Claim(
        "expanding networks learn with any inputs turned",
        "deviation",
        lambda r: _turned(r["wide"], inputs=True).loss.max(skipna=False),
        below=1e-6,
    ),
    Claim(
        "narrow ones learn with none",
        "deviation",
        lambda r: _turned(r["narrow"]).loss.max(skipna=False),
        below=1e-6,
    ),
    Claim(
        "and not with fractions of them beyond the critical one",
        "deviation",
        lambda r: 0.1 / _turned(r["narrow"], inputs=True).loss.min(),
        below=1,
    ),
    Claim(
        "there learning is chaotic: the largest Lyapunov exponent is beyond what a finite time resolves",
        "deviation",
        lambda r: (
            1
            / r["narrow"].time_of_tangents
            / _turned(r["narrow"], inputs=True).exponent[:, 0].min()
        ),
        below=1,
    ),
    Claim(
        "hidden units turned beyond their critical fraction still learn: part of the solutions stay stable",
        "deviation",
        lambda r: max(
            _turned(r[name], hidden=True).loss.max(skipna=False) for name in ("wide", "narrow")
        ),
        below=1e-4,
    ),
    Claim(
        "without chaos: exponents are below that",
        "deviation",
        lambda r: max(abs(_turned(r["narrow"], hidden=h).exponent).max() for h in (False, True)),
        below=lambda r: 1 / r["narrow"].time_of_tangents,
    ),
    Claim(
        "gradient flow leaves the saddle later by ln(1 / distance)",
        "deviation",
        lambda r: abs(_delays(r, False) - 1).max(),
        below=0.01,
    ),
    Claim(
        "a turned unit leaves it at once, however close it starts",
        "deviation",
        lambda r: abs(_delays(r, True)).max(),
        below=0.01,
    ),
    Claim(
        "and climbs on its way",
        "deviation",
        lambda r: r["unit"].loss[1, 0] / r["unit"].loss[1].max("time"),
        below=1,
    ),
    Claim(
        "it stays on its circle, and ends on the solution there or goes round",
        "deviation",
        _circle,
        below=1e-6,
    ),
)


def plot(results, axes):
    """Draw losses of narrow students; inset, edges over the fraction turned, and units next to the
    saddle."""
    from jaxdyn.plot import COLOURS

    axes.figure.set_layout_engine("none")
    axes.set_position([0.12, 0.62, 0.85, 0.35])
    left = axes.inset_axes([0, -1.38, 0.43, 1])
    right = axes.inset_axes([0.57, -1.38, 0.43, 1])
    narrow = results["narrow"].isel(seed=0)
    for colour, place in zip(
        COLOURS, range(narrow.sizes["turned_inputs_turned_hidden"]), strict=False
    ):
        one = narrow.isel(turned_inputs_turned_hidden=place)
        label = f"inputs {float(one.turned_inputs):g}, hidden {float(one.turned_hidden):g}"
        axes.plot(one.time, np.maximum(one.loss, 1e-18), color=colour, label=label)
    axes.set(xlabel="step", ylabel="loss / initial loss", yscale="log")
    axes.legend(fontsize="x-small", title="turned fraction of", title_fontsize="x-small")
    for colour, layer in zip(COLOURS, ("inputs", "hidden"), strict=False):
        for ratio, style in zip(results["edges"].ratio.values, ("-", "--", ":"), strict=False):
            one = results["edges"].sel(layer=layer, ratio=ratio)
            left.plot(one.fraction, one.edge, "o", color=colour, markersize=3)
            left.plot(
                one.fraction, one.edge_theory, style, color=colour, label=f"{layer}, c = {ratio:g}"
            )
    left.axhline(0, color="black", linewidth=0.5)
    left.set(xlabel="fraction turned", ylabel="lower edge")
    left.legend(fontsize="xx-small")
    units = results["unit"]
    for colour, turned in zip(COLOURS, (0, 1), strict=False):
        for place in range(turned, units.sizes["start"] - 3, 2):
            one = units.isel(start=place)
            label = ("gradient", "turned")[turned] if place == turned else None
            right.plot(one.time, np.maximum(one.loss, 1e-6), color=colour, linewidth=1, label=label)
    right.set(xlabel="flow time", ylabel="loss of a unit", yscale="log", xlim=(0, 20))
    right.legend(fontsize="xx-small")
    return axes
