"""Saddle-to-saddle dynamics explains a simplicity bias across neural network architectures (Zhang,
Saxe, Latham, 2025).

Networks f(x) = sum_i v_i phi(x; u_i) of neurons, kernels or attention heads learn from small
weights in stages: near each saddle on the way they compute what a narrower network can at best, and
each stage adds an effective unit.  Where layers are linear in u_i directions grow as e^(s t), and
the data decide which is next; where they are of higher order units blow up one by one, and the
initial weights decide.  Losses are exact averages, but for softmax and kinks.
"""

from collections import namedtuple
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxdyn import RK4, Claim, State, Trajectory, crossing_time, flow, models, sweep, tasks
from jaxdyn import observables as see
from jaxdyn.losses import covariance_loss, squared_error, teacher_loss
from jaxdyn.papers import Reference
from jaxdyn.theory import linear, saddles

TITLE = "Saddle-to-saddle dynamics explains a simplicity bias across neural network architectures"
REFERENCE = Reference(
    title=TITLE,
    authors="Zhang, Saxe, Latham",
    year=2025,
    arxiv="2512.20607",
    name="Saddle-to-saddle dynamics",
    reproduces="plateaus and drop times of eight architectures, and why some learn by directions, others by units",
)
QUICK = dict(
    strengths=(4.0, 2.0, 1.0, 0.5),
    width=20,
    random=16,
    kernels=(3.0, 1.5, 0.75),
    curvature=2.0,
    units=8,
    heads=6,
    variances=(1.0, 0.6, 0.35),
    teacher=(3.0, -1.0),
    kernel_teacher=(1.0, -0.5),
    patches=4.0,
    seeds=2,
    records=1200,
)
SIZES = {"quick": QUICK, "paper": QUICK | {"random": 100, "width": 40, "seeds": 8, "records": 4000}}
NETWORKS = [
    "linear kernels",
    "linear attention",
    "softmax attention",
    "quadratic neurons",
    "rectifiers",
    "kinks",
]
DIMS = dict.fromkeys(("loss", "gradient_norm", "norm", "width"), ("share", "network")) | {
    "share": "share"
}
DIMS |= dict.fromkeys(("levels", "drops_theory"), ("network", "n")) | {"time": "network"}
# `width` is how wide a network acts, `time` a flow time, `levels` and `drops` theory's plateaus and
# times between them.
Network = namedtuple("Network", "params loss batch width time levels drops", defaults=((), ()))


def acting(kind, rows):
    return lambda w: see.effective_width(rows)(State(0, w))[f"{kind}_width"]


def formed(radius, units):
    return lambda w: see.clusters(units, radius=radius)(State(0, w))["clusters"]


def neurons(key, s, sizes, scale):
    """Linear neurons, of one initial scale or one for each."""
    # The weights are rotation invariant, so the task may be diagonal.
    left = jnp.eye(sizes[2], s.size)
    right = jnp.eye(sizes[0], s.size)
    first, last = models.deep_linear(sizes).init(key)
    weights = [first * jnp.reshape(scale, (-1, 1)), last * jnp.reshape(scale, (1, -1))]
    drops = saddles.drop_times(s, linear.seed_strengths(*weights, left, right))
    moments = tasks.linear_teacher(tasks.from_svd(left, s, right))
    time = 1.3 * jnp.max(jnp.where(s > 0, drops, 0))
    acts = acting("direction", lambda w: jnp.concatenate([w[0], w[1].T], 1))
    levels = saddles.linear_plateaus(s)
    return Network(weights, covariance_loss(models.product), moments, acts, time, levels, drops)


def layers(key, *, kind, strengths, width, **_):
    """Linear neurons: of strengths given, equal ones, those from units of very different scales,
    and all at random."""
    k_numbers, k_weights = jax.random.split(key)
    a = jax.random.uniform(k_numbers, (5,), jnp.float32).astype(float)
    full = jnp.ones(width)
    s = (2 + 2 * a[0]) / jnp.cumprod(jnp.array([1, 1.6 + 0.9 * a[1], 1.6 + 0.9 * a[2]]))
    s = jnp.stack(
        [
            jnp.array([*strengths, 0, 0, 0][:4]),
            2 * jnp.ones(4),
            jnp.array([2.0, 2, 2, 0]),
            jnp.append(s, 0),
        ]
    )
    different = jnp.zeros(width).at[:3].set([1e-1, 1e-5, 1e-9])
    units = jnp.arange(width) < 4 + a[3] * (width - 3)
    scales = jnp.stack([1e-5 * full, 1e-5 * full, different, 10 ** (-6 + 2 * a[4]) * units])
    return {"linear neurons": neurons(k_weights, s[kind], (5, width, 4), scales[kind])}


def architectures(
    key,
    *,
    twin,
    width,
    kernels,
    curvature,
    units,
    heads,
    variances,
    teacher,
    kernel_teacher,
    patches,
    records,
):
    """All others; the twin of rectifiers is a convolution of them, that of softmax attention has a
    single head."""
    k = jax.random.split(key, 7)
    s = jnp.array(variances)
    c = curvature
    nets = []
    # A convolution of 6 patches of 4 inputs: the target is a matrix, of patches and kernels.
    net = neurons(k[0], jnp.array(kernels), (4, width, 6), 1e-4)
    weights = {"u": net.params[0], "v": net.params[1].T}

    def rows(w):
        return jnp.concatenate([w["u"], w["v"]], 1)

    loss = covariance_loss(models.two_layer_product)
    moments = tasks.linear_teacher(net.batch.yx.reshape(1, -1))
    nets.append(
        net._replace(params=weights, loss=loss, batch=moments, width=acting("direction", rows))
    )

    attention = partial(models.in_context_attention, rank=1)
    acts = acting("unit", models.attention_heads)
    weights = attention(s.size, heads, scale=0.05).init(k[3])
    levels = saddles.attention_plateaus(s, 32)[0]
    loss = covariance_loss(models.attention_product)
    moments = tasks.in_context_moments(jnp.diag(s), 32)
    nets.append(Network(weights, loss, moments, acts, 80 / s[-1] ** 2, levels))
    model = attention(2, 3, softmax=True, scale=jnp.array([0.05, 0.005, 0.0005]))
    # Heads of zero keys and queries just average the prompt, and stay so.
    single = jnp.where(twin, jnp.array([1, 0, 0]), 1)[:, None, None]
    weights = {name: w if name == "v" else single * w for name, w in model.init(k[4]).items()}
    data = tasks.in_context_regression(k[5], 100, 12, jnp.diag(s[:2]))
    nets.append(
        Network(weights, squared_error(model.apply), (data[:3], data[3]), acts, 100 / s[1] ** 2)
    )

    goal = {"u": jnp.eye(3), "v": jnp.full(3, c)}
    weights = models.two_layer(3, units, activation=jnp.square, scale=0.02).init(k[1])
    escape = partial(saddles.blow_up_time, lambda w: 5 * c * w["v"] * w["u"] @ w["u"])
    escapes = jnp.sort(jax.vmap(escape)(weights))
    (levels, excess) = saddles.quadratic_plateaus(goal["v"])
    acts = acting("unit", lambda w: w["v"][:, None, None] * w["u"][:, :, None] * w["u"][:, None])
    drops = escapes[:1] - saddles.quadratic_lead(c + excess[1])
    time = jnp.minimum(3 * escapes[2], 60 / c)
    nets.append(Network(weights, teacher_loss("square"), goal, acts, time, levels, drops))
    rectifiers = partial(models.two_layer, 2, activation=jax.nn.relu, balanced=True, scale=1e-4)
    goal = {"u": jnp.eye(2), "v": jnp.where(twin, jnp.array(kernel_teacher), jnp.array(teacher))}
    n = jnp.where(twin, patches, 1)

    def size(w):
        return jnp.linalg.norm(w["u"], axis=1)

    loss = teacher_loss("relu", n)
    (level, unit) = saddles.best_rectifier(goal["u"], goal["v"], n)
    levels = jnp.stack([loss(jax.tree.map(jnp.zeros_like, goal), goal), level, 0 * level])

    def directions(w):
        return (w["u"] / size(w)[:, None], w["v"] * size(w))

    time = 180 / n / jnp.linalg.norm(unit)
    nets.append(
        Network(rectifiers(10).init(k[2]), loss, goal, formed(0.2, directions), time, levels)
    )
    x = jnp.linspace(-1, 1, 41)
    knots = jnp.array([-0.6, 0.0, 0.5])
    bends = jnp.array([2.0, -3.0, 3.0])
    data = jnp.stack([x, jnp.ones_like(x)], 1), jax.nn.relu(x[:, None] - knots[None]) @ bends

    def kink(w):
        return -w["u"][:, 1:] / w["u"][:, :1]

    def bent(w):
        return (kink(w), jnp.where(jnp.abs(kink(w)[:, 0]) < 1, w["v"] * w["u"][:, 0], 0))

    weights = rectifiers(20).init(k[6])
    loss = squared_error(rectifiers(20).apply)
    nets.append(Network(weights, loss, data, formed(0.1, bent), 1.0 * records))
    return dict(zip(NETWORKS, nets, strict=True))


def staircase(key, *, networks, records, **options):
    """Flow of networks side by side, each in units of a time of its own."""
    nets = networks(key, records=records, **options)
    share = np.linspace(0, 1, records + 1)

    def slope(net, w):
        return jax.tree.map(lambda g: net.time * g, jax.grad(net.loss)(w, net.batch))

    # Compiled by itself, as each stage of the method would trace it again.
    field = jax.jit(
        lambda params, _: {name: slope(net, params[name]) for name, net in nets.items()}
    )

    def observe(state):
        def look(net, w):
            return see.snapshot(net.loss, net.batch)(State(0, w)) | {"width": net.width(w)}

        seen = [look(net, state.params[name]) for name, net in nets.items()]
        norms = jnp.stack([jnp.linalg.norm(one.pop("params")) for one in seen])
        return jax.tree.map(lambda *a: jnp.stack(a), *seen) | {"norm": norms}

    start = {name: net.params for name, net in nets.items()}
    run = flow(field, None, start, times=share, observe=observe, solver=RK4(1 / records))

    def pad(a):
        return jnp.pad(jnp.asarray(a, float), (0, 6 - len(a)), constant_values=jnp.nan)

    levels, drops = (jnp.stack([pad(net[i]) for net in nets.values()]) for i in (5, 6))
    times = {
        "time": jnp.stack([jnp.asarray(net.time, float) for net in nets.values()]),
        "share": share,
    }
    return run.observed | {"levels": levels, "drops_theory": drops, "ok": jnp.all(run.ok)} | times


def judged(runs):
    """Find when the losses drop, midway between theory's plateaus, and the saddles on their way."""
    runs["drops"] = (
        crossing_time(runs.loss, (runs.levels + runs.levels.shift(n=-1)) / 2, dim="share")
        * runs.time
    )
    seen = [runs[name].transpose(..., "share") for name in ("loss", "gradient_norm")]
    find = jax.jit(jax.vmap(partial(see.saddle_records, prominence=0.2)))
    found = find(*(a.values.reshape(-1, a.sizes["share"]) for a in seen))
    return runs.assign(saddle=(seen[0].dims, np.asarray(found).reshape(seen[0].shape)))


def run(
    *,
    sweep=sweep,
    strengths,
    width,
    random,
    kernels,
    curvature,
    units,
    heads,
    variances,
    teacher,
    kernel_teacher,
    patches,
    seeds,
    records,
):
    """Train all networks; return what they pass beside what theory says of it."""
    kinds = ["given", "equal", "scales", "random"]
    given = {"records": records, "width": width}
    layered = partial(staircase, networks=partial(layers, strengths=strengths), **given)
    given |= dict(
        kernels=kernels,
        curvature=curvature,
        units=units,
        heads=heads,
        variances=variances,
        teacher=teacher,
    )
    others = partial(
        staircase, networks=architectures, kernel_teacher=kernel_teacher, patches=patches, **given
    )
    with jax.enable_x64(True):
        layered = sweep(layered, {"kind": np.arange(4)}, seeds=random, dims=DIMS).isel(network=0)
        others = sweep(others, {"twin": (0, 1)}, seeds=seeds, dims=DIMS)
        layered = judged(layered.assign_coords(kind=kinds))
        others = judged(others.assign_coords(network=NETWORKS))
    return {"linear": layered, "others": others}


def _number(one):
    return one.saddle.cumsum("share") - 1  # of saddles, the start being number 0


def _reach(one):
    return (
        one.gradient_norm * one.norm / 2
    )  # of the loss, from a saddle as far away as all weights are large


def _after(one, last=99):
    return one.saddle & (_number(one) > 0) & (_number(one) <= last)


def _off_level(one):
    """How far losses at saddles are from the next level."""
    return (abs(one.loss - one.levels).min("n") / _reach(one)).where(_after(one)).max()


def _off_width(one):
    """How far the width at saddles is from that of the narrow network which has their loss."""
    return (
        abs(one.width - abs(one.loss - one.levels).fillna(np.inf).argmin("n"))
        .where(_after(one))
        .max()
    )


def _off_time(one):
    """How late or early drops are, relative to the time predicted."""
    known = np.isfinite(one.drops_theory)
    return abs(one.drops / one.drops_theory - 1).fillna(1).where(known).max()


def _net(r, name, twin=0):
    return r["others"].sel(network=name, twin=twin)


def _soft(r, twin=0):
    return _net(r, "softmax attention", twin)


def _kind(r, kind):
    return r["linear"].sel(kind=kind)


CLAIMS = (
    Claim(
        "losses of linear neurons of random number, spectrum and scale drop at the times of their seeds, to 0.1 %",
        "deviation",
        lambda r: max(_off_time(_kind(r, kind)) for kind in ("given", "random")),
        below=1e-3,
    ),
    Claim(
        "so do those of linear kernels, by the singular values of their target as a matrix",
        "deviation",
        lambda r: _off_time(_net(r, "linear kernels")),
        below=1e-3,
    ),
    Claim(
        "neurons of equal singular values pass no saddle but the start",
        "deviation",
        lambda r: abs(_kind(r, "equal").saddle.sum("share") - 1).max(),
        below=0.5,
    ),
    Claim(
        "unless their scales differ: then one after another",
        "deviation",
        lambda r: _off_width(_kind(r, "scales")),
        below=0.05,
    ),
    Claim(
        "quadratic neurons do so from equal scales",
        "deviation",
        lambda r: _off_width(_net(r, "quadratic neurons")),
        below=0.05,
    ),
    Claim(
        "and first drop when a single one of them would have blown up, up to a constant, to 0.1 %",
        "deviation",
        lambda r: _off_time(_net(r, "quadratic neurons")),
        below=1e-3,
    ),
    Claim(
        "all linear and quadratic ones, and heads of linear attention, pass saddles of fewer of them",
        "deviation",
        lambda r: max(
            *(_off_level(_kind(r, kind)) for kind in ("given", "random")),
            *(_off_level(_net(r, name)) for name in NETWORKS[::3] + NETWORKS[1:2]),
        ),
        below=1,
    ),
    Claim(
        "rectifiers, and kernels of them, pass that of the best single one",
        "deviation",
        lambda r: max(_off_level(_net(r, "rectifiers", twin)) for twin in (0, 1)),
        below=1,
    ),
    Claim(
        "all pointing in one direction",
        "deviation",
        lambda r: max(_off_width(_net(r, "rectifiers", i)) for i in (0, 1)),
        below=0.01,
    ),
    Claim(
        "softmax attention first passes the saddle of its largest head, ten times the next, alone",
        "deviation",
        lambda r: (
            (abs(_soft(r, 1).loss - _soft(r).loss) / _reach(_soft(r)))
            .where(_after(_soft(r), 1))
            .max()
        ),
        below=1,
    ),
    Claim(
        "at their n-th saddle functions of one variable have n kinks or fewer",
        "deviation",
        lambda r: (
            (_net(r, "kinks").width - _number(_net(r, "kinks")))
            .where(_after(_net(r, "kinks")))
            .max()
        ),
        below=0.5,
    ),
)


def plot(results, axes):
    """Draw the losses of all architectures, theory's plateaus and drops, and at saddles how wide
    the network acts."""
    import matplotlib
    import xarray as xr

    from jaxdyn.plot import saddles

    results = {name: found.isel(seed=0) for name, found in results.items()}
    panels = [
        ("linear neurons", _kind(results, "given")),
        *((name, _net(results, name)) for name in NETWORKS),
    ]
    panels.insert(6, ("rectifier kernels", _net(results, "rectifiers", 1)))
    labels = {"xlabel": "flow time", "ylabel": "loss", "yscale": "log"}
    with matplotlib.rc_context({"font.size": 8, "axes.titlesize": 8, "axes.labelpad": 1}):
        for i, (name, one) in enumerate(panels):
            panel = axes.inset_axes(
                [0.275 * (i % 4), 0.57 * (1 - i // 4), 0.185, 0.4], title=name, **labels
            )
            theory = {
                "levels": one.levels,
                "drops": one.drops_theory,
                "labels": {"width": "{:.2g}"},
            }
            time = (one.share * one.time).values
            loss = one.loss.values
            marked = one.saddle.values
            seen = {
                "time": time[marked],
                "loss": loss[marked],
                "width": np.r_[0, one.width.values[marked][1:]],
            }
            table = xr.Dataset({name: ("saddle", values) for name, values in seen.items()})
            saddles(Trajectory(time, {"loss": loss}), table, **theory, axes=panel)
            low = float(one.levels.where(one.levels > 1e-9).min().fillna(loss[-1]))
            end = time[np.argmax(loss < loss[-1] + 0.002 * (loss[0] - loss[-1]))]
            panel.set(ylim=(low / 2, 2 * loss[0]), xlim=(0, 1.15 * end))
            panel.tick_params(which="minor", labelleft=False)
        handles, words = axes.child_axes[0].get_legend_handles_labels()
        words[-1] = "saddle, and how wide the network acts"
        axes.legend(
            handles, words, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=4, frameon=False
        )
    axes.set(xlabel="flow time", ylabel="loss")
    axes.set_axis_off()
    return axes
