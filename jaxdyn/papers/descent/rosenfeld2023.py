"""Outliers with opposing signals have an outsized effect on neural network optimization (Rosenfeld,
Risteski, 2023).

Where a large feature comes with either label alike, a network learns to ignore it.  The better it
learns all else, the sharper this valley becomes: in the two-layer linear network c b^T x by alpha
c^2, alpha the outlier's variance.  At 2/(learning rate) descent leaves the valley; the losses of
the two groups then rise in turn, until they spike, and push c back.  With slow signals left to
learn it stays at this edge, on its central flow: c = sqrt(2/(learning rate alpha)) and E o^2, o the
outlier's weight, such that c no longer grows.  All in float64.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdyn import RK4, Claim, at, flow, sweep, train
from jaxdyn.analysis import opposing_groups
from jaxdyn.losses import covariance_loss, squared_error
from jaxdyn.models import mlp, product
from jaxdyn.observables import combine, loss, sample_losses, sharpness
from jaxdyn.optimizers import kicks
from jaxdyn.papers import Reference
from jaxdyn.tasks import Covariances, full_batch, opposing_outliers
from jaxdyn.theory.descent import opposing

TITLE = "Outliers with opposing signals have an outsized effect on neural network optimization"
REFERENCE = Reference(
    title=TITLE,
    authors="Rosenfeld, Risteski",
    year=2023,
    arxiv="2311.04163",
    name="Outliers with opposing signals",
    reproduces="a valley that sharpens, two groups whose losses spike in turn, and the central flow between them",
)
QUICK = dict(
    outlier=20.0,
    rates=(0.11, 0.13, 0.15),
    slow_variances=(1.0, 0.1, 0.03, 0.01),
    slow_rate=0.08,
    kick=1e-4,
    draws=4,
    steps=1500,
    samples=60,
    inputs=10,
    planted=6,
    feature=6.0,
    width=16,
    net_rate=0.5,
    net_steps=600,
    seeds=4,
)
SIZES = {
    "quick": QUICK,
    "paper": QUICK | {"draws": 32, "steps": 6000, "net_steps": 3000, "seeds": 16},
}
LOSS = covariance_loss(product)
EVERY = 10  # steps from one record of the sharpness to the next
WINDOW = 40.0, 80.0  # flow time from the edge on, of what is averaged there


def linear_start(variances, outlier):
    """Small weights of a two-layer network, and the moments of what it learns: signals of target 1,
    and an outlier."""
    yx = jnp.append(variances, 0.0)[None]
    signals = (variances > 0).astype(float)
    moments = Covariances(
        jnp.diag(jnp.append(variances, outlier)), yx, jnp.sum(variances)[None, None]
    )
    return [0.05 * jnp.append(signals, 1.0)[None], jnp.full((1, 1), 0.1)], moments


def linear_observe(moments, times):
    """Observe the weights, the loss and, at these times, the sharpness."""

    def weights(state):
        (first,), ((c,),) = state.params
        valley = moments.xx[-1, -1] * c**2
        balance = c**2 - first @ first
        return {"c": c, "b": first[:-1], "o": first[-1], "valley": valley, "balance": balance}

    curvature = at(times, sharpness(LOSS, moments, depth=moments.xx.shape[0] + 1))
    return combine(weights, loss(LOSS, moments), curvature)


def linear_descent(several, rate, kick, draw, *, variances, outlier, steps):
    """Descent of a two-layer linear network on one signal or several, and its central flow from the
    edge on."""
    variances = variances[several]
    start, moments = linear_start(variances, outlier)
    optimizer = optax.chain(optax.sgd(rate), kicks(jax.random.key(draw), kick))
    times = np.arange(steps + 1)
    observe = linear_observe(moments, [0, steps])
    run = train(jax.grad(LOSS), optimizer, full_batch(moments), start, times=times, observe=observe)
    seen = run.observed
    met = run.observed["c"] >= opposing.edge(outlier, rate)
    since = jnp.where(jnp.any(met), times - jnp.argmax(met), -1)
    found = opposing.course(
        since, seen["b"][jnp.argmax(met)], variances, jnp.ones(variances.size), outlier, rate
    )
    theory = {"c_theory": found.c, "b_theory": found.b.T, "variance_theory": found.variance}
    theory = {name: jnp.where(since >= 0, value, jnp.nan).T for name, value in theory.items()}
    return run._replace(observed=seen | theory | {"variance": seen["o"] ** 2, "since": since})


def linear_flow(several, *, variances, outlier, times):
    """Gradient flow of the same, and the curvature of the valley at which it ends."""
    start, moments = linear_start(variances[several], outlier)
    observe = linear_observe(moments, times)
    solver = RK4(0.1 / outlier)
    run = flow(jax.grad(LOSS), moments, start, times=times, observe=observe, solver=solver)
    limit = opposing.flow_limit(start[1][0, 0], start[0][0], (variances[several] > 0).astype(float))
    return run._replace(
        observed=run.observed | {"valley_theory": jnp.full(len(times), outlier * limit**2)}
    )


def network_descent(key, *, samples, inputs, planted, feature, width, rate, steps):
    """Descent of a tanh network on examples with planted outliers."""
    k_data, k_net = jax.random.split(key)
    data = opposing_outliers(k_data, samples, inputs, planted, size=feature)
    net = mlp((inputs, width, 1), bias_scale=None, scale=0.5)
    batch = (data.x, data.labels[:, None])
    error = squared_error(net.apply)
    times = np.arange(steps + 1)
    observe = combine(
        sample_losses(error, batch), at(times[::EVERY], sharpness(error, batch, depth=24))
    )
    start = net.init(k_net)
    field = jax.grad(error)
    return train(field, optax.sgd(rate), full_batch(batch), start, times=times, observe=observe)


def run(
    *,
    sweep=sweep,
    outlier,
    rates,
    slow_variances,
    slow_rate,
    kick,
    draws,
    steps,
    samples,
    inputs,
    planted,
    feature,
    width,
    net_rate,
    net_steps,
    seeds,
):
    """Descend on one signal and on several with slow ones, beside their flows; and in a network
    with planted groups."""
    slow = np.array(slow_variances)
    names = ("several", "rate", "kick", "draw")
    cases = [(0, rate, 0.0, 0) for rate in rates] + [
        (1, slow_rate, kick, draw) for draw in range(draws)
    ]
    dims = {name: "signal" for name in ("b", "b_theory")}
    with jax.enable_x64(True):
        options = {
            "variances": jnp.array([slow * (np.arange(slow.size) == 0), slow]),
            "outlier": outlier,
        }
        runs = sweep(partial(linear_descent, **options, steps=steps), {names: cases}, dims=dims)
        times = slow_rate * np.arange(0, steps + 1, EVERY)
        flows = sweep(
            partial(linear_flow, **options, times=times), {"several": [0, 1]}, dims={"b": "signal"}
        )
        sizes = {
            "samples": samples,
            "inputs": inputs,
            "planted": planted,
            "feature": feature,
            "width": width,
        }
        network = partial(network_descent, **sizes, rate=net_rate, steps=net_steps)
        nets = sweep(network, seeds=seeds, dims={"sample_losses": "example"})
        # Losses before the edge was met are held, so that only changes after it count.
        losses = nets.sample_losses.values
        met = (nets.sharpness.values >= 2 / net_rate).argmax(1)
        since = nets.time.values[None] - met[:, None]
        held = np.where(since[..., None] < 0, losses[np.arange(seeds), met][:, None], losses)
        found = jax.vmap(partial(opposing_groups, size=2 * planted))(held)
    group = np.repeat([0, 1, -1], [samples, planted, planted])
    members, signs = ((("seed", "rank"), np.asarray(values)) for values in found)
    nets = nets.assign(
        since=(("seed", "time"), since), group=("example", group), members=members, signs=signs
    )
    nets["edge"] = nets.sharpness * net_rate / 2
    runs = runs.rename({"_".join(names): "case"})
    one = runs.isel(case=slice(len(rates)))
    several = runs.isel(case=slice(len(rates), None))
    several["b_flow"] = (
        flows.b.sel(several=1, drop=True).interp(time=slow_rate * several.time).drop_vars("time")
    )
    return {"one": one, "several": several, "flow": flows, "network": nets}


def _mean(runs, name):
    """The average over the window at the edge and the draws."""
    time = runs.rate * runs.since
    return runs[name].where((time >= WINDOW[0]) & (time < WINDOW[1])).mean(("time", "case"))


def _off(runs, name, other):
    return abs(_mean(runs, name) - _mean(runs, other)).max()


def _groups(nets, labels=(1, -1)):
    """The losses of the two groups, and of other examples for a label of 0."""
    return [nets.sample_losses[..., nets.group.values == label].mean("example") for label in labels]


def _opposition(nets):
    """The mean correlation, over seeds, of changes of the two groups' losses from the edge on."""
    pairs = zip(
        *(losses.diff("time").where(nets.since > 0).values for losses in _groups(nets)), strict=True
    )
    return np.mean(
        [np.corrcoef([changes[np.isfinite(changes)] for changes in pair])[0, 1] for pair in pairs]
    )


def _planted(nets):
    """The group of the examples found, in signs relative to their leader's; 0 for others."""
    label = nets.group.values[nets.members.values]
    return label * label[:, :1]


def _lopsided(nets):
    """The lower over the higher of the two groups' losses where the loss peaks, the median of
    seeds."""
    peak = nets.sample_losses.mean("example").where(nets.since >= 0).argmax("time")
    one, other = (losses.isel(time=peak) for losses in _groups(nets))
    return (np.minimum(one, other) / np.maximum(one, other)).median(skipna=False)


def _spike(runs):
    """The loss where the edge is met, over the highest afterwards."""
    before = runs.loss.where(runs.since == 0)
    after = runs.loss.where(runs.since > 0)
    return (before.max("time") / after.max("time")).max(skipna=False)


CLAIMS = (
    Claim(
        "gradient flow ends as sharp as the conserved difference of its layers says",
        "deviation",
        lambda r: abs(r["flow"].sharpness / r["flow"].valley_theory - 1).sel(several=0)[-1],
        below=1e-3,
    ),
    Claim(
        "it conserves that difference",
        "deviation",
        lambda r: abs(r["flow"].balance - r["flow"].balance[:, 0]).max(skipna=False),
        below=1e-6,
    ),
    Claim(
        "learning all else makes the outlier's valley more than ten times sharper",
        "deviation",
        lambda r: (r["flow"].sharpness[:, 0] / r["flow"].sharpness[:, -1]).max(skipna=False),
        below=0.1,
    ),
    Claim(
        "for these learning rates that is too sharp to descend in",
        "deviation",
        lambda r: (2 / r["one"].rate / r["flow"].valley_theory[0, 0]).max(),
        below=1,
    ),
    Claim(
        "at the edge the loss of descent rises more than tenfold",
        "deviation",
        lambda r: _spike(r["one"]),
        below=0.1,
    ),
    Claim(
        "which takes it to where the valley is flat enough, below 2/(learning rate)",
        "deviation",
        lambda r: (r["one"].sharpness[:, -1] * r["one"].rate / 2).max(skipna=False),
        below=1,
    ),
    Claim(
        "and all is learned",
        "deviation",
        lambda r: r["one"].loss[:, -1].max(skipna=False),
        below=1e-12,
    ),
    Claim(
        "with slow signals left descent stays at the edge: c is that of the central flow to 0.5 %",
        "deviation",
        lambda r: _off(r["several"], "c", "c_theory") / _mean(r["several"], "c_theory"),
        below=0.005,
    ),
    Claim(
        "it learns them as the central flow does, twenty times closer to it than to gradient flow",
        "deviation",
        lambda r: _off(r["several"], "b", "b_theory") / _off(r["several"], "b_flow", "b_theory"),
        below=0.05,
    ),
    Claim(
        "the outlier's weight has the mean square predicted, to 25 %",
        "deviation",
        lambda r: abs(_mean(r["several"], "variance") / _mean(r["several"], "variance_theory") - 1),
        below=0.25,
    ),
    Claim(
        "a tanh network with planted outliers ends at its edge too, to 10 %",
        "deviation",
        lambda r: abs(r["network"].edge[:, r["network"].sizes["time"] // 2 :].mean() - 1),
        below=0.1,
    ),
    Claim(
        "there the losses of the two groups change in opposite directions, correlated by less than -0.9",
        "deviation",
        lambda r: _opposition(r["network"]),
        below=-0.9,
    ),
    Claim(
        "when the loss peaks one group's is over three times the other's, in most networks",
        "deviation",
        lambda r: _lopsided(r["network"]),
        below=1 / 3,
    ),
    Claim(
        "nine in ten of the examples that change most were planted, and signs of correlations tell their group",
        "deviation",
        lambda r: (np.sign(r["network"].signs) != _planted(r["network"])).mean(),
        below=0.1,
    ),
)


def plot(results, axes):
    """Draw the losses of the groups as they peak, the sharpness, and the linear network around its
    central flow."""
    from jaxdyn.plot import COLOURS

    nets = results["network"]
    several = results["several"].isel(case=0)
    flow = results["flow"].sel(several=1)
    rate = float(several.rate)
    first = nets.isel(seed=0)
    peak = int(first.sample_losses.mean("example").where(first.since >= 0).argmax("time"))
    first = first.isel(time=slice(max(peak - 14, 0), peak + 15))
    axes.figure.set_layout_engine("none")
    axes.set_position([0.09, 0.6, 0.38, 0.36])
    edge, valley, weights = map(
        axes.inset_axes, ([1.3, 0, 1, 1], [0, -1.4, 1, 1], [1.3, -1.4, 1, 1])
    )
    groups = {"outliers, label +": COLOURS[0], "outliers, label -": COLOURS[1], "all others": "0.5"}
    for losses, (label, colour) in zip(_groups(first, (1, -1, 0)), groups.items(), strict=True):
        axes.plot(first.time, losses, ".-", color=colour, linewidth=1, label=label)
    axes.set(xlabel="step", ylabel="loss")
    for values, colour in zip(nets.edge, COLOURS, strict=False):
        edge.plot(nets.time[::EVERY], values[::EVERY], color=colour, linewidth=1)
    edge.set(xlabel="step", ylabel="sharpness / (2/rate)", ylim=(0, None))
    valley.plot(flow.time / rate, flow.sharpness, "--", color="black", label="gradient flow")
    valley.plot(several.time, several.valley, color=COLOURS[0], linewidth=1, label="descent")
    valley.set(xlabel="step", ylabel="curvature of the valley")
    for place, colour in zip(range(several.sizes["signal"]), COLOURS, strict=False):
        descent, *_ = weights.plot(
            several.time[::60], several.b[::60, place], "o", color=colour, markersize=3
        )
        central, *_ = weights.plot(several.time, several.b_theory[:, place], color=colour)
        weights.plot(flow.time / rate, flow.b[:, place], "--", color=colour, linewidth=0.8)
    weights.set(xlabel="step", ylabel="weight of a signal", ylim=(0, 1.05))
    weights.legend(
        [descent, central], ["descent", "central flow"], fontsize="x-small", loc="lower right"
    )
    edge.axhline(1, color="0.6", linewidth=0.8, zorder=0)
    valley.axhline(2 / rate, color="0.6", linewidth=0.8, zorder=0)
    axes.legend(fontsize="x-small")
    valley.legend(fontsize="x-small")
    return axes
