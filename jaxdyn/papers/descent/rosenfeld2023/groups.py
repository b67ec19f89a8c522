"""Groups: a network at its edge tells which examples are outliers, and of which label."""

from functools import partial

import jax
import numpy as np
import optax

from jaxdyn import Claim, at, plot, sweep, train
from jaxdyn.analysis import opposing_groups
from jaxdyn.claims import Domain, worst
from jaxdyn.losses import squared_error
from jaxdyn.models import mlp
from jaxdyn.observables import combine, sample_losses, sharpness
from jaxdyn.papers import Experiment
from jaxdyn.tasks import full_batch, opposing_outliers

__all__ = ["EXPERIMENT"]

# Steps from one record of the sharpness to the next, which is dear.
EVERY = 10


def groups(
    *,
    samples=60,
    inputs=10,
    planted=6,
    feature=6.0,
    width=16,
    learning_rate=0.5,
    steps=600,
    seeds=4,
    sweep=sweep,
):
    """At the edge of stability the losses of two groups with opposing signals rise in turn.

    A tanh network learns examples among which two groups of outliers are planted: a large feature
    in common, and opposite labels.

    Args:
        samples: number of examples without the feature.
        inputs: number of inputs.
        planted: number of outliers of either label.
        feature: size of the feature that outliers have in common.
        width: number of hidden units.
        learning_rate: learning rate of descent.
        steps: number of steps.
        seeds: number of networks.
    """
    sizes = {"samples": samples, "inputs": inputs, "planted": planted}
    network = partial(network_descent, **sizes, feature=feature, width=width)
    with jax.enable_x64(True):
        train_all = partial(network, rate=learning_rate, steps=steps)
        nets = sweep(train_all, seeds=seeds, dims={"sample_losses": "example"})
        # Losses before the edge was met are held, so that only changes after it count.
        losses = nets.sample_losses.values
        met = (nets.sharpness.values >= 2 / learning_rate).argmax(1)
        since = nets.time.values[None] - met[:, None]
        at_edge = losses[np.arange(seeds), met]
        held = np.where(since[..., None] < 0, at_edge[:, None], losses)
        members, signs = jax.vmap(partial(opposing_groups, size=2 * planted))(held)
    group = np.repeat([0, 1, -1], [samples, planted, planted])
    nets["since"] = ("seed", "time"), since
    nets["group"] = "example", group
    nets["members"] = ("seed", "rank"), np.asarray(members)
    nets["signs"] = ("seed", "rank"), np.asarray(signs)
    nets["edge"] = nets.sharpness * learning_rate / 2
    return nets


def network_descent(key, *, samples, inputs, planted, feature, width, rate, steps):
    """Descent of a tanh network on examples with planted outliers."""
    k_data, k_net = jax.random.split(key)
    data = opposing_outliers(k_data, samples, inputs, planted, size=feature)
    net = mlp((inputs, width, 1), bias_scale=None, scale=0.5)
    batch = (data.x, data.labels[:, None])
    error = squared_error(net.apply)
    times = np.arange(steps + 1)
    curvature = at(times[::EVERY], sharpness(error, batch, depth=24))
    observe = combine(sample_losses(error, batch), curvature)
    start = net.init(k_net)
    field = jax.grad(error)
    stream = full_batch(batch)
    return train(field, optax.sgd(rate), stream, start, times=times, observe=observe)


def group_loss(nets, label):
    """The mean loss of the outliers of a label, or of all other examples for a label of 0."""
    return nets.sample_losses.isel(example=nets.group.values == label).mean("example")


def edge_deviation(nets):
    half = nets.sizes["time"] // 2
    late = nets.edge.isel(time=slice(half, None))
    return worst(late.mean(), 1.0)


def correlation(nets):
    """The mean correlation, over seeds, of changes of the two groups' losses from the edge on."""
    after = nets.since > 0
    one = group_loss(nets, 1).diff("time").where(after).values
    other = group_loss(nets, -1).diff("time").where(after).values
    pairs = zip(one, other, strict=True)
    return np.mean([finite_correlation(*pair) for pair in pairs])


def finite_correlation(one, other):
    finite = np.isfinite(one)
    return np.corrcoef(one[finite], other[finite])[0, 1]


def peaks(nets):
    """The times at which the loss peaks after the edge is met."""
    loss = nets.sample_losses.mean("example")
    return loss.where(nets.since >= 0).argmax("time")


def lopsidedness(nets):
    """The higher over the lower of the two groups' losses where the loss peaks, the median of
    seeds."""
    peak = peaks(nets)
    one = group_loss(nets, 1).isel(time=peak)
    other = group_loss(nets, -1).isel(time=peak)
    ratios = np.maximum(one, other) / np.minimum(one, other)
    return ratios.median(skipna=False)


def share_recognised(nets):
    """The share of the examples that change most of which the group is told, relative to the first:
    those that were not planted have none."""
    label = nets.group.values[nets.members.values]
    relative = label * label[:, :1]
    return (np.sign(nets.signs) == relative).mean()


def meets_its_edge(nets):
    half = nets.sizes["time"] // 2
    early = nets.edge.isel(time=slice(half)).max("time")
    return early.min() >= 1 and nets.ok.all()


def plot_groups(nets, figure):
    """Draw the losses of the groups of one network as they peak, and the sharpness of all."""
    losses, edge = plot.panels(
        figure, "The losses of two groups peak in turn", "Networks stay at their edge", height=3.6
    )
    first = nets.isel(seed=0)
    peak = int(peaks(first))
    start = max(peak - 14, 0)
    around = first.isel(time=slice(start, peak + 15))
    labels = {1: "outliers, label +1", -1: "outliers, label -1", 0: "all others"}
    for (label, name), colour in zip(labels.items(), plot.COLOURS, strict=False):
        loss = group_loss(around, label)
        losses.plot(around.time, loss, "o-", color=colour, label=name)
    losses.set(xlabel="step", ylabel="mean loss of a group")
    plot.legend(losses, simulated="", predicted="", below=True)
    recorded = nets.edge.isel(time=slice(None, None, EVERY))
    edge.plot(recorded.time, recorded.transpose("time", "seed"), "o", color="0.3", markersize=2)
    edge.axhline(1, color=plot.COLOURS[1])
    edge.set(xlabel="step", ylabel="sharpness x learning rate / 2", ylim=(0, None))
    plot.legend(edge, simulated="networks", predicted="edge", loc="lower right")


AT_EDGE = Domain("every network meets its edge in the first half of the steps", meets_its_edge)

CLAIMS = (
    Claim(
        "a tanh network that learns examples with planted outliers ends at its edge, to 10 %",
        "relative deviation of the mean sharpness in the second half from 2/(learning rate)",
        edge_deviation,
        below=0.1,
        when=AT_EDGE,
    ),
    Claim(
        "at the edge the losses of two groups with opposing signals change in opposite directions",
        "mean correlation of the changes of the two groups' losses",
        correlation,
        below=-0.9,
        when=AT_EDGE,
    ),
    Claim(
        "when the loss of a network with planted outliers peaks, the loss of one group is over "
        "three times that of the other, in most networks",
        "median ratio of the higher to the lower loss of a group at the peak",
        lopsidedness,
        above=3,
        when=AT_EDGE,
    ),
    Claim(
        "nine in ten of the examples whose losses change most at the edge were planted, and the "
        "signs of their correlations tell the group",
        "share of these examples whose group is told",
        share_recognised,
        above=0.9,
        when=AT_EDGE,
    ),
)

FEWER_SAMPLES = {"samples": 50}
LARGER_FEATURE = {"feature": 8.0, "width": 24, "learning_rate": 0.4}

EXPERIMENT = Experiment(
    groups,
    claims=CLAIMS,
    plot=plot_groups,
    paper={"steps": 3000, "seeds": 16},
    others=(FEWER_SAMPLES, LARGER_FEATURE),
)
