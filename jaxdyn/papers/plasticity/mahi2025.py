"""Structured knowledge accumulation: entropic least action in forward-only neural learning (Mahi,
2025).

Layers of sigmoids, h = sigmoid(z), learn without labels and without a backward pass: each descends
its own entropy H = -(1/ln 2) sum z dh along the last change of its outputs.  Step by step H adds up
to the change of the binary entropy of the decisions h: the rule is a local ascent of |z|, dz/dt = G
(z h (1 - h)) / ln 2 in the first layer, G = x x^T / n + 1 1^T / n, and z = 0 is unstable at the
rate of its largest eigenvalue over 4 ln 2.  In float64.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdyn import Claim, State, descent, iterate, sweep
from jaxdyn.compare import crossing_time
from jaxdyn.models import mlp
from jaxdyn.papers import Reference
from jaxdyn.rules import knowledge_accumulation, sigmoid_layers
from jaxdyn.tasks import full_batch

__all__ = ["REFERENCE"]

TITLE = "Structured knowledge accumulation: the principle of entropic least action in forward-only neural learning"
REFERENCE = Reference(
    title=TITLE,
    authors="Mahi",
    year=2025,
    arxiv="2504.03214",
    name="Structured knowledge accumulation",
    reproduces="learning forward only: entropies that telescope; the intrinsic time and least action that are not",
)
QUICK = dict(
    examples=60,
    inputs=32,
    classes=5,
    widths=(16, 8, 5),
    duration=9.0,
    rates=(0.04, 0.02, 0.01),
    scale=0.05,
    scales=(0.5, 0.05, 5e-3),
    tiny=1e-7,
)
SIZES = {
    "quick": QUICK,
    "paper": QUICK | {"examples": 200, "inputs": 64, "classes": 10, "widths": (32, 16, 10)},
}


def prototypes(key, examples, inputs, classes):
    """Draw noisy copies of sparse binary patterns, values in [0, 1]."""
    keys = jax.random.split(key)
    patterns = jax.random.bernoulli(keys[0], 0.2, (classes, inputs))[jnp.arange(examples) % classes]
    noise = jnp.abs(jax.random.normal(keys[1], (examples, inputs), jnp.float32)).astype(float)
    return jnp.clip(0.8 * patterns + 0.1 * noise, 0, 1)


def entropy(h):
    """Return the binary entropy of all decisions, in bits."""
    return -jnp.sum(jax.scipy.special.xlogy(h, h) + jax.scipy.special.xlog1py(1 - h, -h)) / jnp.log(
        2
    )


def accumulated(rate, scale, *, x, widths, times):
    """Train layers: their activity, what the last step and all steps did to their entropy, and the
    tensor net."""
    weights = mlp((x.shape[1], *widths), scale=scale).init(jax.random.key(1))
    first = sigmoid_layers(weights, x)
    layers = len(widths)
    blocks = {"params": optax.sgd(rate), "state": optax.sgd(1.0)}
    optimizer = optax.partition(blocks, {"params": "params", "state": "state"})
    inner = descent(knowledge_accumulation, optimizer, full_batch(x))

    def step(key, state):
        net = state.params["net"]
        before = state.params["inputs"]
        seen = sigmoid_layers(net["params"], x)
        parts = list(zip(seen["inputs"], seen["outputs"], before, net["state"], strict=True))
        change = jnp.stack([-jnp.sum(z * (h - last)) / jnp.log(2) for z, h, _, last in parts])
        flow = [jnp.sum((z - last) * (h - z * h * (1 - h) / jnp.log(2))) for z, h, last, _ in parts]
        after = inner(key, state._replace(params=net))
        found = {
            "spent": state.params["spent"] + change,
            "entropy_rate": change / rate,
            "tensor_net": jnp.stack(flow) / rate,
        }
        return after._replace(params={"net": after.params, "inputs": seen["inputs"], **found})

    def observe(state):
        outputs = state.params["net"]["state"]
        gained = [entropy(h) - entropy(h0) for h, h0 in zip(outputs, first["outputs"], strict=True)]
        activity = jnp.stack([jnp.linalg.norm(z) for z in state.params["inputs"]])
        found = {name: state.params[name] for name in ("spent", "entropy_rate", "tensor_net")}
        return found | {
            "activity": activity,
            "gained": jnp.stack(gained),
            "spread": jnp.std(outputs[-1], 0).max(),
        }

    net = {"params": weights, "state": first["outputs"]}
    zero = jnp.zeros(layers)
    found = dict.fromkeys(("spent", "entropy_rate", "tensor_net"), zero)
    start = State(0, {"net": net, "inputs": first["inputs"], **found}, optimizer.init(net))
    return iterate(step, start, times=jnp.round(times / rate).astype(int), observe=observe)


def off_least_action(place):
    """What the Euler-Lagrange equation of L = -z' z h (1 - h) leaves on a path that no layer
    takes."""

    def path(t):
        return 1.3 * jnp.sin(2 * t) + 0.4 * t**2 - 1

    def lagrangian(z, speed):
        return -z * jax.nn.sigmoid(z) * jax.nn.sigmoid(-z) * speed

    def momentum(t):
        return jax.grad(lagrangian, 1)(path(t), jax.grad(path)(t))

    return {
        "left": jax.grad(momentum)(place)
        - jax.grad(lagrangian, 0)(path(place), jax.grad(path)(place))
    }


def run(*, sweep=sweep, examples, inputs, classes, widths, duration, rates, scale, scales, tiny):
    """Train at several learning rates and from starts of several scales; return growth rates and
    times beside."""
    with jax.enable_x64(True):
        x = prototypes(jax.random.key(0), examples, inputs, classes)
        gram = np.asarray(
            jnp.linalg.eigvalsh(x @ x.T / examples + 1 / examples)[::-1] / (4 * jnp.log(2))
        )
        # Records at whole steps of every rate, of which the larger are multiples of the smaller.
        times = max(rates) * np.arange(1, round(duration / max(rates)) + 1)
        finest = min(rates)
        points = [(rate, scale) for rate in rates] + [
            (finest, s) for s in (*scales, tiny) if s != scale
        ]
        dims = dict.fromkeys(("activity", "spent", "gained", "entropy_rate", "tensor_net"), "layer")
        system = partial(accumulated, x=x, widths=widths, times=times)
        runs = sweep(system, {("rate", "scale"): points}, dims=dims)
        action = sweep(off_least_action, {"place": np.linspace(0.1, 2, 20)})
    # The runs of one flow time are records of one number.
    runs = runs.rename(rate_scale="point").drop_vars("time").assign_coords(time=times)
    by_rate = runs.isel(point=np.argsort(rates)).swap_dims(point="rate").drop_vars("scale")
    starts = [points.index((finest, s)) for s in sorted({*scales})]
    by_scale = runs.isel(point=starts).swap_dims(point="scale").drop_vars("rate")
    small = runs.isel(point=points.index((finest, tiny)), layer=0)
    step = finest * gram[0] * (1 + finest * gram[0])
    growth = {
        "rate": float(gram[0]),
        "discrete": float(np.log1p(step) / finest),
        "next": float(gram[1]),
    }
    small = small.drop_vars(("rate", "scale")).assign(growth)
    return {
        "rates": by_rate,
        "scales": by_scale.assign(rate=growth["rate"]),
        "small": small,
        "action": action,
    }


def _order(error):
    """The order in the learning rate at which something vanishes, from the two smallest."""
    last = error.sortby("rate")[:2]
    return float(np.log(last[1] / last[0]) / np.log(last.rate[1] / last.rate[0]))


def _off_finest(rates):
    """How far activities are from those at the finest learning rate, of the largest."""
    finest = rates.activity.isel(rate=0)
    return (abs(rates.activity - finest) / finest.max("time")).max(("time", "layer"))


def _order_of_activity(rates):
    """Their order, when each differs from the finest by as much as first order parts them both from
    the limit."""
    off = _off_finest(rates)
    rate = rates.rate - rates.rate[0]
    return float(np.log(off[2] / off[1]) / np.log(rate[2] / rate[1]))


def _sharpest(runs, layer=0):
    """When entropy falls fastest, where that is not at the end of the record."""
    when = runs.entropy_rate.isel(layer=layer).idxmin("time")
    return when.where(when < runs.time[-1])


def _growth(small):
    """The growth rate of the first layer, late but while it is small, and how much its second mode
    still adds to it."""
    late = small.isel(time=np.flatnonzero(small.activity < 0.1)[-20:])
    grown = float(np.log(late.activity[-1] / late.activity[0]) / (late.time[-1] - late.time[0]))
    return grown, float(np.exp(2 * (small.next - small.rate) * late.time[0]))


def _decades(scales):
    """The delay of the sharpest fall by each smaller scale of the start, over ln(ratio) / r."""
    when = _sharpest(scales).values
    return -np.diff(when) * float(scales.rate) / np.diff(np.log(scales.scale.values))


def _moved(when):
    """How far a refinement of the learning rate moves times, in steps of the coarser one."""
    return float((abs(when[1] - when[0]) / when.rate[1]).max())


CLAIMS = (
    Claim(
        "activities at one learning rate times step are the same, to first order in the learning rate",
        "deviation",
        lambda r: abs(_order_of_activity(r["rates"]) - 1),
        below=lambda r: 2 * float(r["rates"].rate.max() * r["scales"].rate),
    ),  # the next order of Euler's method
    Claim(
        "the entropies of all steps add up to the change of the decisions' binary entropy, to first order",
        "deviation",
        lambda r: max(
            abs(_order(abs(r["rates"].spent - r["rates"].gained).isel(time=-1, layer=i)) - 1)
            for i in range(r["rates"].sizes["layer"])
        ),
        below=0.1,
    ),
    Claim(
        "small activities of the first layer grow by 1 + a r (1 + a r) a step, r = lambda_max / (4 ln 2)",
        "deviation",
        lambda r: abs(_growth(r["small"])[0] / float(r["small"].discrete) - 1),
        below=lambda r: _growth(r["small"])[1] + 1e-4,
    ),
    Claim(
        "the time at which entropy falls fastest is intrinsic: it does not depend on the start",
        "deviation",
        lambda r: np.ptp(_sharpest(r["scales"]).values) / _sharpest(r["scales"]).mean(),
        below=0.05,
        holds=False,
    ),
    Claim(
        "it waits ln(10) / r longer for every decade by which the start is smaller, within two records",
        "deviation",
        lambda r: abs(_decades(r["scales"])[0] - 1),
        below=lambda r: float(2 * r["scales"].time.diff("time")[0] * r["scales"].rate / np.log(10)),
    ),
    Claim(
        "where the tensor net of a layer crosses zero, the learning rate moves the time of it by steps only",
        "deviation",
        lambda r: _moved(crossing_time(r["rates"].tensor_net[:, 2:], 0.0)),
        below=1,
    ),
    Claim(
        "the Euler-Lagrange equation holds on any path, so that least action selects none",
        "deviation",
        lambda r: abs(r["action"].left).max(skipna=False),
        below=1e-12,
    ),
    Claim(
        "the last layer comes to give all inputs the same outputs",
        "deviation",
        lambda r: r["rates"].spread.isel(time=-1).max(),
        below=1e-3,
    ),
)


def plot(results, axes):
    """Draw entropy as it falls from starts of several scales; inset, when it does so fastest, and
    all activities."""
    from jaxdyn.plot import COLOURS

    scales = results["scales"]
    rates = results["rates"]
    when = _sharpest(results["scales"])
    axes.figure.set_layout_engine("none")
    axes.set_position([0.13, 0.14, 0.48, 0.82])
    upper = axes.inset_axes([1.28, 0.58, 0.48, 0.42])
    lower = axes.inset_axes([1.28, 0, 0.48, 0.42])
    for colour, place in zip(COLOURS, range(scales.sizes["scale"]), strict=False):
        one = scales.isel(scale=place, layer=0)
        axes.plot(one.time, one.entropy_rate, color=colour, label=f"{float(one.scale):g}")
        axes.plot(when[place], one.entropy_rate.min(), "o", color=colour)
        upper.semilogx(one.scale, when[place], "o", color=colour)
    law = when[-1] - np.log(scales.scale / scales.scale[-1]) / scales.rate
    upper.semilogx(scales.scale, law, color="black", linewidth=1, label="$\\ln(1/$scale$)/r$")
    upper.set(xlabel="scale of the start", ylabel="time of steepest fall")
    for layer in range(rates.sizes["layer"]):
        for place, style in ((0, "-"), (-1, "--")):
            one = rates.activity.isel(layer=layer, rate=place)
            label = f"layer {layer + 1}" if style == "-" else None
            lower.semilogy(
                one.time, one, style, color=COLOURS[layer % len(COLOURS)], linewidth=1, label=label
            )
    lower.set(xlabel="learning rate x step", ylabel="$|z|$")
    lower.legend(fontsize="xx-small")
    upper.legend(fontsize="xx-small")
    axes.legend(fontsize="x-small", title="scale of the start", title_fontsize="x-small")
    axes.set(
        xlabel="time t = learning rate x step", ylabel="entropy rate of layer 1 (bits per time)"
    )
    return axes
