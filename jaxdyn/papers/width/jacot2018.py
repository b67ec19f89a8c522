"""Neural tangent kernel: convergence and generalization in neural networks (Jacot, Gabriel,
Hongler, 2018).

A network z_l = w_std/sqrt(n) W_l h_(l-1) + b_std b_l, h_l = act(z_l), all parameters N(0, 1),
descends the mean of (f - y)^2/2 over P examples.  For wide layers that is linear descent in
function space, f <- f - (lr/P) K (f - y), with the neural tangent kernel K of the limit: networks
are a Gaussian process at all times, principal components of K are learned each at a rate of its
own, and stopping early leaves the slow ones, which are mostly noise.  At finite width K has exactly
known moments; it moves by 1/width, faster than the 1/sqrt(width) of the proof.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdyn import Claim, kernels, log_times, power_law, sweep, train
from jaxdyn.kernels import early_stopping, empirical, finite_width, predict
from jaxdyn.losses.regression import squared_error
from jaxdyn.papers import Reference

TITLE = "Neural tangent kernel: convergence and generalization in neural networks"
REFERENCE = Reference(
    title=TITLE,
    authors="Jacot, Gabriel, Hongler",
    year=2018,
    arxiv="1806.07572",
    name="The neural tangent kernel",
    reproduces="its exact variance at finite width, drift 1/n, Gaussian processes in training, early stopping",
)
QUICK = dict(
    initial_widths=(8, 32),
    initial_seeds=600,
    depths=(1, 2, 3, 4),
    deep_width=32,
    widths=(32, 64, 128),
    seeds=32,
    examples=12,
    noise=0.5,
    rate=1.0,
    last=100,
)
PAPER = dict(
    initial_widths=(16, 64),
    initial_seeds=4000,
    depths=(1, 2, 3, 4, 8),
    deep_width=64,
    examples=20,
    widths=(64, 160, 400),
    seeds=100,
    last=200,
)
SIZES = {"quick": QUICK, "paper": QUICK | PAPER}
# Of the trained networks: activation, hidden layers and scales.
KINDS = {"erf": (kernels.erf(), 1, 1.5**0.5, 0.1**0.5), "relu": (kernels.relu(), 3, 1.0, 0.1)}
BIAS = 0.5  # b_std of the networks of one hidden layer that are not trained
ANGLES = 2 * np.pi * np.arange(24) / 24
LATER = 10 ** np.arange(1, 5)  # times the last step of simulations


def TARGET(x):
    return 2 * x[:, 0] * x[:, 1]  # on the circle


NTK = ("kind", "row", "column")
KNOWN = {
    "ntk_theory": NTK,
    "variance": NTK,
    "deep_law": "depth",
    "error": (),
    "antipodes": ("kind", "b", "value"),
}
TRAINED = {"outputs": ("step", "point"), "residual": ("step", "example"), "row": ("when", "point")}
LIMIT = {
    "row_theory": "point",
    "outputs_theory": ("step", "point"),
    "covariance": ("step", "point", "other"),
    "decay": ("step", "mode"),
    "modes": ("example", "mode"),
    "error_theory": "step",
    "later": "time",
}


# At infinite width.
def _limit(act, depth, *of):
    return kernels.serial(*(kernels.dense(1, *of), act) * depth, kernels.dense(1, *of))


def network(smooth, width, depth, *scales, most):
    """A network of rectifiers or, if smooth, error functions."""

    def act(z):
        return jnp.where(smooth, jax.scipy.special.erf(z), jax.nn.relu(z))

    return finite_width.network(act, width, depth, most=most, w_std=scales[0], b_std=scales[1])


def initial(key, width, *, most, x, depths, deep_width):
    """Kernels of networks of one hidden layer, and those of deep networks at the first row, over
    the squared scale."""

    def kernel(smooth, *sizes):
        layer = network(smooth, *sizes, most=(max(depths), most))
        return empirical.ntk(layer.apply, finite_width.draw(key, layer, x.shape[1:])[0], x)

    one = jnp.ones(len(depths))
    cases = (
        jnp.r_[1, 0, 0 * one],
        jnp.r_[width, width, deep_width * one],
        jnp.r_[1, 1, jnp.array(depths)],
    )
    found = jax.vmap(kernel)(*cases, jnp.r_[1, 1, 2**0.5 * one], jnp.r_[BIAS, BIAS, 0 * one])
    # Each layer of weights contributes the same mean.
    return {"ntk": found[:2], "deep": found[2:, 0, 0] / (2 * jnp.array(depths) + 2)}


def known(x, *, depths, deep_width):
    """Exact moments at finite width, the error of quadrature, eigenvalues of kernels on `x` without
    and with biases."""

    def moments(fn, *kinks):
        return finite_width.one_hidden_layer(fn, 1, x, b_std=BIAS, kinks=kinks)

    mean, variance = map(
        jnp.stack, zip(moments(jax.scipy.special.erf), moments(jax.nn.relu, 0.0), strict=True)
    )

    def gram(act):
        return jax.vmap(lambda b_std: kernels.gram(_limit(act, 1, 1.0, b_std), x))(
            jnp.array([0.0, BIAS])
        )

    grams = jnp.stack([gram(act) for act, *_ in KINDS.values()])
    law = jnp.array(
        [finite_width.rectifier_relative_variance([deep_width] * depth) for depth in depths]
    )
    error = jnp.max(jnp.abs(grams[:, 1] - mean))
    values = jnp.linalg.eigvalsh(grams)
    return {
        "ntk_theory": mean,
        "variance": variance,
        "deep_law": law,
        "error": error,
        "antipodes": values,
    }


def trained(key, width, smooth, depth, w_std, b_std, noise, *, most, x, y, points, steps, rate):
    """Descend on labels with noise; outputs at `points`, residuals on the examples, and what
    moves."""
    layer = network(smooth, width, depth, w_std, b_std, most=most)
    start, draw = finite_width.draw(key, layer, x.shape[1:], len(x))
    P = len(x)
    inputs = jnp.concatenate([x, points])
    labels = y + noise * draw
    field = jax.grad(squared_error(layer.apply))

    def stream(key, step):
        return (inputs[:P], labels[:, None])

    def observe(state):
        return {"outputs": layer.apply(state.params, inputs)[:, 0]}

    run = train(field, optax.sgd(rate), stream, start, times=steps, observe=observe)
    both = jax.tree.map(lambda *a: jnp.stack(a), start, run.final.params)
    outputs = run.observed["outputs"]
    ntk = jax.vmap(lambda p: empirical.ntk(layer.apply, p, inputs))(both)
    last = both[-1]["weights"]
    drift = jnp.linalg.norm(ntk[1] - ntk[0]) / jnp.linalg.norm(ntk[0])
    return {
        "outputs": outputs[:, P:],
        "residual": outputs[:, :P] - labels[None],
        "row": ntk[:, P, P:],
        "drift": drift,
        "moved": jnp.linalg.norm(last[1] - last[0]) / width**0.5,
    }


def gaussian(x, points, steps, noises, *, rate):
    """At infinite width: the kernel, its modes, mean and covariance over weights and labels,
    expected error."""
    P = len(x)
    n = len(steps)
    found = []
    times = jnp.concatenate([steps, steps[-1] * LATER])
    for net, noise in zip(KINDS.values(), noises, strict=True):
        nngp, ntk = kernels.gram(
            _limit(*net), jnp.concatenate([x, points]), get=("nngp", "ntk")
        ).values()
        tests = dict(ntk_test=ntk[P:, :P], nngp_test=nngp[P:, :P], nngp_test_test=nngp[P:, P:])
        own = ntk[:P, :P]
        modes = predict.modes(own)
        learned = early_stopping.response(
            modes, nngp[:P, :P], TARGET(x), times, **tests, learning_rate=rate
        )
        covariance = learned.covariance + noise**2 * learned.gain @ jnp.swapaxes(learned.gain, 1, 2)
        error = sum(early_stopping.risk(learned, TARGET(points), noise**2))
        decay = 1 - rate * modes.values / P
        found.append(
            (
                ntk[P, P:],
                learned.mean[:n],
                covariance[:n],
                decay[None] ** steps[:, None],
                modes.vectors,
                error[:n],
                error[n:],
            )
        )
    return dict(zip(LIMIT, map(jnp.stack, zip(*found, strict=True)), strict=True))


def run(
    *,
    sweep=sweep,
    initial_widths,
    initial_seeds,
    depths,
    deep_width,
    widths,
    seeds,
    examples,
    noise,
    rate,
    last,
):
    """Draw networks on antipodal pairs on a sphere, train others on a part of the circle; theory is
    beside them."""
    half = np.random.default_rng(0).standard_normal((4, 3))
    sizes = dict(depths=depths, deep_width=deep_width)
    half = half * 3**0.5 / np.linalg.norm(half, axis=1, keepdims=True)
    fields = partial(
        initial, most=max(*initial_widths, deep_width), x=np.float32(np.r_[half, -half]), **sizes
    )
    start = sweep(
        fields,
        {"width": np.array(initial_widths, float)},
        seeds=initial_seeds,
        dims={"ntk": NTK, "deep": "depth"},
    )

    def circle(angle):
        return np.stack([np.cos(angle), np.sin(angle)], 1)

    steps = log_times(last, 6)
    x = circle(np.linspace(0.4, 5.4, examples))
    points = circle(ANGLES)
    noises = (noise, 0.0)
    arrays = dict(zip(("x", "y", "points"), map(np.float32, (x, TARGET(x), points)), strict=True))
    experiment = partial(trained, **arrays, most=(3, max(widths)), steps=steps, rate=rate)
    kinds = np.array(
        [
            (act is KINDS["erf"][0], *net, s)
            for (act, *net), s in zip(KINDS.values(), noises, strict=True)
        ]
    )
    axes = {"width": np.array(widths, float), ("smooth", "depth", "w_std", "b_std", "noise"): kinds}
    runs = sweep(experiment, axes, seeds=seeds, dims=TRAINED, chunk=32).rename(
        smooth_depth_w_std_b_std_noise="kind"
    )
    runs = runs.assign(error=((runs.outputs - TARGET(points)) ** 2).mean("point"))
    with jax.enable_x64(True):
        exact = jax.jit(partial(known, **sizes))(np.r_[half, -half])
        theory = jax.jit(partial(gaussian, rate=rate))(x, points, steps, np.array(noises))
    start = start.assign({name: (dims, np.asarray(exact[name])) for name, dims in KNOWN.items()})

    def behind(dims):
        return ("kind", *((dims,) if isinstance(dims, str) else dims))

    runs = runs.assign(
        {name: (behind(dims), np.asarray(theory[name])) for name, dims in LIMIT.items()}
    )
    runs = runs.assign_coords(kind=list(KINDS), step=steps, time=steps[-1] * LATER)
    return {"initial": start.assign_coords(kind=list(KINDS), depth=list(depths)), "trained": runs}


def _z(values, expected=0.0):
    """By how many standard errors over seeds the means are off."""
    return (
        (values.mean("seed") - expected) / values.std("seed", ddof=1) * values.sizes["seed"] ** 0.5
    )


def _power(runs, name, power):
    """How far a quantity's power of the width is off, of three standard errors and 0.1 for the next
    order."""
    y = runs[name].transpose("seed", "width").values
    fit = power_law(np.broadcast_to(runs.width, y.shape).ravel(), y.ravel(), confidence=0.9973)
    return (fit.exponent - power) / ((fit.high - fit.low) / 2 + 0.1)


def _process(runs):
    """How far trained outputs are off the limit's Gaussian process: the largest z of their means
    and variances."""
    runs = runs.isel(step=slice(1, None))
    f = runs.outputs.transpose("seed", ...).values
    C = runs.covariance.values
    expected = runs.outputs_theory.values
    variances = np.diagonal(C, axis1=1, axis2=2)
    mean = (f.mean(0) - expected) / (variances / len(f)) ** 0.5
    spread = (f.var(0, ddof=1) - variances).sum(-1) / np.sqrt(2 / len(f) * (C**2).sum((1, 2)))
    return max(abs(mean).max(), abs(spread).max())


def _rates(runs):
    """How far the mean factor by which a component decays is off, of what seeds and the kernel's
    drift allow."""
    start = (component := runs.residual.dot(runs.modes, "example"))[{"step": 0}]
    off = (component - runs.decay * start) * start / (start**2).mean("seed")
    # To first order the moving kernel feeds all components into this one, by at most max(t e^-t) of
    # it.
    fed = (start**2).sum("mode").mean("seed") / (start**2).mean("seed")
    allowed = (
        4.5 * off.std("seed", ddof=1) / off.sizes["seed"] ** 0.5
        + runs.drift.mean("seed") * fed**0.5 / np.e
    )
    return (abs(off.mean("seed")) / allowed).max(skipna=False)


def _erf(r, width=slice(None)):
    return r["trained"].sel(kind="erf").isel(width=width)


def _relu(r, width=slice(None)):
    return r["trained"].sel(kind="relu").isel(width=width)


def _grown(r, width=slice(None)):
    return _relu(r, width).row[{"point": 0}].diff("when")


CLAIMS = (
    Claim(
        "quadrature meets the closed forms of rectifiers and erf",
        "deviation",
        lambda r: r["initial"].error,
        below=1e-12,
    ),
    Claim(
        "with one hidden layer of any width the mean kernel is that of infinite width, to 4.5 standard errors",
        "deviation",
        lambda r: abs(_z(r["initial"].ntk, r["initial"].ntk_theory)).max(skipna=False),
        below=4.5,
    ),
    Claim(
        "its variance is the exact one",
        "deviation",
        lambda r: abs(
            _z(
                (r["initial"].ntk - r["initial"].ntk_theory) ** 2,
                r["initial"].variance / r["initial"].width,
            )
        ).max(skipna=False),
        below=4.5,
    ),
    Claim(
        "that of deep rectifiers follows the law of depth",
        "deviation",
        lambda r: abs(_z(r["initial"].deep ** 2, 1 + r["initial"].deep_law)).max(skipna=False),
        below=4.5,
    ),
    Claim(
        "training moves the kernel by 1/sqrt(width), as in the proof",
        "deviation",
        lambda r: abs(_power(_erf(r), "drift", -0.5)),
        below=1,
        holds=False,
    ),
    Claim(
        "smooth networks' kernels move by 1/width",
        "deviation",
        lambda r: abs(_power(_erf(r), "drift", -1)),
        below=1,
    ),
    Claim(
        "deep rectifiers' move faster than 1/sqrt(width)",
        "deviation",
        lambda r: _power(_relu(r), "drift", -0.5),
        below=-1,
    ),
    Claim(
        "weights of the last layer move by 1/sqrt(width)",
        "deviation",
        lambda r: abs(_power(_erf(r), "moved", -0.5)),
        below=1,
    ),
    Claim(
        "training makes kernels on the circle larger, less so the widest networks', by 3 standard errors",
        "deviation",
        lambda r: -min(_z(_grown(r)).min(), _z(_grown(r, 0) - _grown(r, -1))[0]),
        below=-3,
    ),
    Claim(
        "wide networks are the Gaussian process at all steps, in mean and variance, to 4.5 standard errors",
        "deviation",
        lambda r: _process(_erf(r, -1)),
        below=4.5,
    ),
    Claim(
        "so are narrow ones of three hidden layers",
        "deviation",
        lambda r: _process(_relu(r, 0)),
        below=4.5,
        holds=False,
    ),
    Claim(
        "the wider these, the closer",
        "deviation",
        lambda r: _process(_relu(r, -1)),
        below=lambda r: _process(_relu(r, 0)),
    ),
    Claim(
        "components decay at their rates -log(1 - lr lambda/P), to 4.5 standard errors and the kernel's move",
        "deviation",
        lambda r: _rates(_erf(r, -1)),
        below=1,
    ),
    Claim(
        "test errors with noisy labels are the expected ones, to 4.5 standard errors",
        "deviation",
        lambda r: abs(_z(_erf(r, -1).error, _erf(r).error_theory)).max(skipna=False),
        below=4.5,
    ),
    Claim(
        "their expectation is lowest before the end",
        "deviation",
        lambda r: _erf(r).error_theory.min(),
        below=lambda r: _erf(r).later[-1],
    ),
    Claim(
        "on antipodes kernels of one hidden layer are singular without biases",
        "deviation",
        lambda r: abs(r["initial"].antipodes[:, 0, 0]).max(skipna=False),
        below=1e-13,
    ),
    Claim(
        "and positive definite with them",
        "deviation",
        lambda r: -r["initial"].antipodes[:, 1, 0].min(skipna=False),
        below=-1e-10,
    ),
)


def plot(results, axes):
    """Draw the kernel on the circle; inset, what it does to functions, variances of deep kernels,
    and test errors."""
    from jaxdyn.plot import COLOURS

    runs = _relu(results)
    start = results["initial"]
    wide = _erf(results, -1).isel(step=slice(1, None))
    limit = runs.isel(step=-1)
    for colour, place in ((COLOURS[0], 0), (COLOURS[1], -1)):
        for when, style in enumerate(("--", "-")):
            row = runs.row.isel(width=place, when=when).mean("seed")
            label = ("n = {:.0f}, before", "after")[when]
            axes.plot(
                ANGLES, row, style, color=colour, label=label.format(runs.width.values[place])
            )
    axes.plot(ANGLES, limit.row_theory, color="black", label="limit")
    axes.set(xlabel="angle on the circle", ylabel="kernel K(0, angle)")
    axes.legend(fontsize="x-small")
    axes.figure.set_layout_engine("none")
    axes.set_position([0.1, 0.6, 0.37, 0.37])
    function, deep, stop = map(
        axes.inset_axes, ([1.35, 0, 1, 1], [0, -1.35, 1, 1], [1.35, -1.35, 1, 1])
    )
    mean = limit.outputs_theory
    spread = 2 * np.sqrt(np.diagonal(limit.covariance))
    function.fill_between(ANGLES, mean - spread, mean + spread, color="0.8")
    function.plot(
        ANGLES, limit.outputs.isel(width=-1, seed=slice(10)).T, color=COLOURS[1], linewidth=0.4
    )
    function.set(xlabel="angle on the circle", ylabel="trained outputs")
    for panel, at, points in (
        (deep, start.depth, start.deep[{"width": 0}] ** 2 - 1),
        (stop, wide.step, wide.error),
    ):
        panel.errorbar(
            at, points.mean("seed"), points.std("seed") / points.sizes["seed"] ** 0.5, fmt="o"
        )
    deep.plot(start.depth, start.deep_law, color="black")
    stop.plot(np.r_[wide.step, wide.time], np.r_[wide.error_theory, wide.later], color="black")
    deep.set(xlabel="hidden layers", ylabel="Var K / (E K)$^2$")
    stop.set(xlabel="steps of descent", ylabel="test error", xscale="log")
    return axes
