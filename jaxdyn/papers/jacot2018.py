"""Neural tangent kernel: convergence and generalization in neural networks (Jacot, Gabriel, Hongler, 2018).

A network z_l = w_std/sqrt(n) W_l h_(l-1) + b_std b_l, h_l = act(z_l), all parameters N(0, 1), descends the mean of
(f - y)^2/2 over P examples.  For wide layers that is linear descent in function space, f <- f - (lr/P) K (f - y), with
the neural tangent kernel K of the limit: networks are a Gaussian process at all times, principal components of K are
learned each at a rate of its own, and stopping early leaves the slow ones, which are mostly noise.  At finite width K
has exactly known moments; it moves by 1/width, faster than the 1/sqrt(width) of the proof.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdyn import Claim, kernels, log_times, power_law, sweep, train
from jaxdyn.kernels import early_stopping, empirical, finite_width, predict
from jaxdyn.papers import Reference
from jaxdyn.rules.losses import squared_error

TITLE = "Neural tangent kernel: convergence and generalization in neural networks"
REFERENCE = Reference(TITLE, "Jacot, Gabriel, Hongler", 2018, "1806.07572", "kernels")
QUICK = dict(initial_widths=(8, 32), initial_seeds=600, depths=(1, 2, 3, 4), deep_width=32, widths=(64, 128, 256),
             seeds=48, examples=12, noise=0.7, rate=0.5, last=100, circle_widths=(20, 40, 80), circle_seeds=24,
             circle_rate=1.0, circle_last=150)  # fmt: skip
PAPER = dict(initial_widths=(32, 256), initial_seeds=4000, depths=(1, 2, 3, 4, 8), deep_width=64, examples=40,
             widths=(128, 512, 2048), seeds=100, last=200, circle_widths=(50, 150, 450), circle_seeds=60,
             circle_last=200)  # fmt: skip
SIZES = {"quick": QUICK, "paper": QUICK | PAPER}
KINDS = {"relu": dict(w_std=1.0, b_std=0.1), "erf": dict(w_std=1.5**0.5, b_std=0.1**0.5)}
LAYER = {"relu": kernels.relu(), "erf": kernels.erf()}
BIAS = 0.5  # b_std of the networks of one hidden layer that are not trained
FOUR, RING = np.array([0.4, 1.3, 2.5, 4.1]), 2 * np.pi * np.arange(24) / 24  # angles of examples and others
NTK = ("kind", "row", "column")
DIMS = {"ntk": NTK, "deep": "depth"}
TRAINED = {"outputs": ("step", "point"), "residual": ("step", "example"), "row": ("when", "point")}
KNOWN = {
    "ntk_theory": NTK,
    "variance": NTK,
    "deep_theory": "depth",
    "error": (),
    "antipodes": ("kind", "bias", "value"),
}
LIMIT = {"row_theory": "point", "outputs_theory": ("step", "point"), "covariance": ("step", "point", "other"),
         "error_theory": "step", "error_later": "later", "decay": ("step", "mode"), "vectors": ("example", "mode")}  # fmt: skip
LATER = 10 ** np.arange(1, 5)  # times the last step of simulations


def initial(key, width, *, most, x, depths, deep_width):
    """Kernels of networks with one hidden layer on `x`, and of deep rectifier networks at its first row."""

    def kernel(smooth, x, *sizes, **options):
        layer = finite_width.network(either(smooth), *sizes, **options)
        return empirical.ntk(layer.apply, finite_width.draw(key, layer, x.shape[1:])[0], x)

    deepest = dict(most=(max(depths), deep_width), w_std=2**0.5)
    # Each layer of weights contributes the same mean.
    deep = lambda depth: kernel(False, x[:1], deep_width, depth, **deepest)[0, 0] / (2 * depth + 2)
    shallow = lambda smooth: kernel(smooth, x, width, most=(1, most), b_std=BIAS)
    return {"ntk": jax.vmap(shallow)(jnp.arange(2)), "deep": jax.vmap(deep)(jnp.array(depths))}


def either(smooth):
    """The error function, or else the rectifier."""
    return lambda z: jnp.where(smooth, jax.scipy.special.erf(z), jax.nn.relu(z))


def limit(kind, depth, w_std=1.0, b_std=0.0):
    """The network at infinite width."""
    return kernels.serial(*(kernels.dense(1, w_std, b_std), LAYER[kind]) * depth, kernels.dense(1, w_std, b_std))


def known(x, *, depths, deep_width):
    """Exact moments at finite width, the error of quadrature, eigenvalues of kernels on `x` without and with biases."""
    moments = lambda fn, *kinks: finite_width.one_hidden_layer(fn, 1, x, b_std=BIAS, kinks=kinks)
    mean, variance = map(jnp.stack, zip(moments(jax.nn.relu, 0.0), moments(jax.scipy.special.erf), strict=True))
    grams = jnp.array([[kernels.gram(limit(kind, 1, b_std=b_std), x) for b_std in (0.0, BIAS)] for kind in KINDS])
    law = jnp.array([finite_width.rectifier_relative_variance([deep_width] * depth) for depth in depths])
    error, values = jnp.max(jnp.abs(grams[:, 1] - mean)), jnp.linalg.eigvalsh(grams)
    return {"ntk_theory": mean, "variance": variance, "deep_theory": law, "error": error, "antipodes": values}


def trained(key, width, smooth, w_std, b_std, *, depth, most, x, y, points, steps, rate, noise):
    """Descend on labels with noise; outputs at `points`, residuals on the examples, and what moves."""
    layer = finite_width.network(either(smooth), width, depth, most=(depth, most), w_std=w_std, b_std=b_std)
    start, draw = finite_width.draw(key, layer, x.shape[1:], len(x))
    P, inputs, labels = len(x), jnp.concatenate([x, points]), y + noise * draw
    field, stream = jax.grad(squared_error(layer.apply)), lambda key, step: (x, labels[:, None])
    observe = lambda state: {"outputs": layer.apply(state.params, inputs)[:, 0]}
    run = train(field, optax.sgd(rate), stream, start, times=steps, observe=observe)
    both, outputs = jax.tree.map(lambda *a: jnp.stack(a), start, run.final.params), run.observed["outputs"]
    ntk, last = jax.vmap(lambda p: empirical.ntk(layer.apply, p, inputs))(both), both[-1]["weights"]
    drift = jnp.linalg.norm(ntk[1] - ntk[0]) / jnp.linalg.norm(ntk[0])
    return {"outputs": outputs[:, P:], "residual": outputs[:, :P] - labels[None], "row": ntk[:, P, P:], "drift": drift,
            "moved": jnp.linalg.norm(last[1] - last[0]) / width**0.5}  # fmt: skip


def gaussian(x, points, y, target, steps, *, layer, rate, noise):
    """At infinite width: the kernel, its modes, mean and covariance over weights and labels, expected error."""
    P, n = len(x), len(steps)
    nngp, ntk = kernels.gram(layer, jnp.concatenate([x, points]), get=("nngp", "ntk")).values()
    tests, own = dict(ntk_test=ntk[P:, :P], nngp_test=nngp[P:, :P], nngp_test_test=nngp[P:, P:]), ntk[:P, :P]
    times, modes = jnp.concatenate([steps, steps[-1] * LATER]), predict.modes(own)
    learned = early_stopping.response(modes, nngp[:P, :P], y, times, **tests, learning_rate=rate)
    covariance = learned.covariance + noise**2 * learned.gain @ jnp.swapaxes(learned.gain, 1, 2)
    error, decay = sum(early_stopping.risk(learned, target, noise**2)), (1 - rate * modes.values / P) ** steps[:, None]
    return {"row_theory": ntk[P, P:], "outputs_theory": learned.mean[:n], "covariance": covariance[:n], "decay": decay,
            "vectors": modes.vectors, "error_theory": error[:n], "error_later": error[n:]}  # fmt: skip


def theory(dims, fn, *arrays, **options):
    """Variables of a Dataset from a function of arrays, in float64."""
    with jax.enable_x64(True):
        found = jax.jit(partial(fn, **options))(*arrays)
        return {name: (dims[name], np.asarray(value)) for name, value in found.items()}


def sphere(seed, rows):
    """Random rows on the sphere of radius sqrt(3)."""
    x = np.random.default_rng(seed).standard_normal((rows, 3))
    return x * 3**0.5 / np.linalg.norm(x, axis=1, keepdims=True)


def run(*, sweep=sweep, initial_widths, initial_seeds, depths, deep_width, widths, seeds, examples, noise, rate, last,
        circle_widths, circle_seeds, circle_rate, circle_last):  # fmt: skip
    """Draw networks on antipodal pairs, train some on the sphere and some on the circle; theory is beside them."""
    half, sizes = sphere(0, 4), dict(depths=depths, deep_width=deep_width)
    fields = partial(initial, most=max(initial_widths), x=np.float32(np.r_[half, -half]), **sizes)
    start = sweep(fields, {"width": np.array(initial_widths, float)}, seeds=initial_seeds, dims=DIMS)
    start = start.assign(theory(KNOWN, known, np.r_[half, -half], **sizes))
    results = {"initial": start.assign_coords(kind=list(KINDS), depth=list(depths))}
    circle = lambda angle: np.stack([np.cos(angle), np.sin(angle)], 1)
    wave, saddle = lambda x: np.sin(2 * x[:, 0]) + x[:, 1], lambda x: x[:, 0] * x[:, 1]
    tasks = {"sphere": (sphere(1, examples), sphere(2, 24), wave, rate, noise, log_times(last, 6), "erf", 1, widths),
             "circle": (circle(FOUR), circle(RING), saddle, circle_rate, 0.0, log_times(circle_last, 4), "relu", 3,
                        circle_widths)}  # fmt: skip
    kinds = {("smooth", "w_std", "b_std"): np.array([(n == "erf", *s.values()) for n, s in KINDS.items()], float)}
    for task, (x, points, target, lr, sigma, steps, kind, depth, n) in tasks.items():
        arrays = x, points, target(x)
        fixed = dict(zip(("x", "points", "y"), map(np.float32, arrays), strict=True))
        experiment = partial(trained, **fixed, depth=depth, most=max(n), steps=steps, rate=lr, noise=sigma)
        count = seeds if task == "sphere" else circle_seeds
        runs = sweep(experiment, {"width": np.array(n, float)} | kinds, seeds=count, dims=TRAINED, chunk=32)
        options = dict(layer=limit(kind, depth, **KINDS[kind]), rate=lr, noise=sigma)
        runs = runs.assign(theory(LIMIT, gaussian, *arrays, target(points), steps, **options))
        runs = runs.assign(error=((runs.outputs - target(points)) ** 2).mean("point")).rename(smooth_w_std_b_std="kind")
        results[task] = runs.assign_coords(kind=list(KINDS), step=steps)
    return results


def _z(values, expected=0.0):
    """By how many standard errors over seeds the means are off."""
    return (values.mean("seed") - expected) / values.std("seed", ddof=1) * values.sizes["seed"] ** 0.5


def _power(runs, name, power):
    """How far a quantity's power of the width is off, of three standard errors and 0.1 for the next order."""
    y = runs[name].transpose("seed", "width").values
    fit = power_law(np.broadcast_to(runs.width, y.shape).ravel(), y.ravel(), confidence=0.9973)
    return (fit.exponent - power) / ((fit.high - fit.low) / 2 + 0.1)


def _process(runs):
    """How far trained outputs are off the limit's Gaussian process: the largest z of their means and variances."""
    runs = runs.isel(step=slice(1, None))
    f, C, expected = runs.outputs.transpose("seed", ...).values, runs.covariance.values, runs.outputs_theory.values
    variances = np.diagonal(C, axis1=1, axis2=2)
    mean = (f.mean(0) - expected) / (variances / len(f)) ** 0.5
    spread = (f.var(0, ddof=1) - variances).sum(-1) / np.sqrt(2 / len(f) * (C**2).sum((1, 2)))
    return max(abs(mean).max(), abs(spread).max())


def _rates(runs):
    """How far the mean factor by which a component decays is off, of what seeds and the kernel's drift allow."""
    component = runs.residual.dot(runs.vectors, "example")
    start = component[{"step": 0}]
    off = (component - runs.decay * start) * start / (start**2).mean("seed")
    allowed = 4.5 * off.std("seed", ddof=1) / off.sizes["seed"] ** 0.5 + runs.drift.mean("seed") / np.e
    return (abs(off.mean("seed")) / allowed).max(skipna=False)


_erf = lambda r, task="sphere", width=slice(None): r[task].sel(kind="erf").isel(width=width)
_relu = lambda r, task="sphere", width=slice(None): r[task].sel(kind="relu").isel(width=width)
_grown = lambda r, width=slice(None): _relu(r, "circle", width).row[{"point": 0}].diff("when")

CLAIMS = (
    Claim("quadrature meets the closed forms of rectifiers and erf", lambda r: r["initial"].error, 1e-12),
    Claim("with one hidden layer of any width the mean kernel is that of infinite width, to 4.5 standard errors",
          lambda r: abs(_z(r["initial"].ntk, r["initial"].ntk_theory)).max(skipna=False), 4.5),
    Claim("its variance is the exact one",
          lambda r: abs(_z((r["initial"].ntk - r["initial"].ntk_theory) ** 2,
                           r["initial"].variance / r["initial"].width)).max(skipna=False), 4.5),
    Claim("that of deep rectifiers follows the law of depth",
          lambda r: abs(_z(r["initial"].deep ** 2, 1 + r["initial"].deep_theory)).max(skipna=False), 4.5),
    Claim("training moves the kernel by 1/sqrt(width), as in the proof",
          lambda r: abs(_power(_erf(r), "drift", -0.5)), 1, holds=False),
    Claim("smooth networks' kernels move by 1/width, with one hidden layer and with three",
          lambda r: max(abs(_power(_erf(r, task), "drift", -1)) for task in ("sphere", "circle")), 1),
    Claim("rectifiers' move faster than 1/sqrt(width)", lambda r: _power(_relu(r), "drift", -0.5), -1),
    Claim("weights of the last layer move by 1/sqrt(width)",
          lambda r: max(abs(_power(of(r), "moved", -0.5)) for of in (_erf, _relu)), 1),
    Claim("training makes the kernel on the circle larger, less so the widest networks', by 3 standard errors",
          lambda r: -min(_z(_grown(r)).min(), _z(_grown(r, 0) - _grown(r, -1))[0]), -3),
    Claim("wide networks are the Gaussian process at all steps, in mean and variance, to 4.5 standard errors",
          lambda r: _process(_erf(r, width=-1)), 4.5),
    Claim("so are narrow ones of three hidden layers", lambda r: _process(_relu(r, "circle", 0)), 4.5, holds=False),
    Claim("the wider these, the closer",
          lambda r: _process(_relu(r, "circle", -1)), lambda r: _process(_relu(r, "circle", 0))),
    Claim("components decay at their rates -log(1 - lr lambda/P), to 4.5 standard errors and the kernel's move",
          lambda r: _rates(_erf(r, width=-1)), 1),
    Claim("test errors with noisy labels are the expected ones, to 4.5 standard errors",
          lambda r: abs(_z(_erf(r, width=-1).error, r["sphere"].error_theory)).max(skipna=False), 4.5),
    Claim("the expected error is lowest before the end", lambda r: r["sphere"].error_theory.min(), lambda r: r["sphere"].error_later[-1]),
    Claim("on antipodes kernels of one hidden layer are singular without biases",
          lambda r: abs(r["initial"].antipodes[:, 0, 0]).max(skipna=False), 1e-13),
    Claim("and positive definite with them", lambda r: -r["initial"].antipodes[:, 1, 0].min(skipna=False), -1e-10),
)  # fmt: skip


def plot(results, axes):
    """Draw the kernel on the circle; inset, what it does to functions, variances of deep kernels, and test errors."""
    from jaxdyn.plot import COLOURS

    runs, start, sphere = (
        _relu(results, "circle"),
        results["initial"],
        _erf(results, width=-1).isel(step=slice(1, None)),
    )
    limit = runs.isel(step=-1)
    for colour, place in ((COLOURS[0], 0), (COLOURS[1], -1)):
        for when, style in enumerate(("--", "-")):
            row, label = runs.row.isel(width=place, when=when).mean("seed"), ("n = {:.0f}, before", "after")[when]
            axes.plot(RING, row, style, color=colour, label=label.format(runs.width.values[place]))
    axes.plot(RING, limit.row_theory, color="black", label="limit")
    axes.set(xlabel="angle on the circle", ylabel="kernel K(0, angle)")
    axes.legend(fontsize="x-small")
    axes.figure.set_layout_engine("none")
    axes.set_position([0.1, 0.6, 0.37, 0.37])
    function, deep, stop = map(axes.inset_axes, ([1.35, 0, 1, 1], [0, -1.35, 1, 1], [1.35, -1.35, 1, 1]))
    spread = 2 * np.sqrt(np.diagonal(limit.covariance))
    function.fill_between(RING, limit.outputs_theory - spread, limit.outputs_theory + spread, color="0.8")
    function.plot(RING, runs.outputs.isel(width=-1, step=-1, seed=slice(10)).T, color=COLOURS[1], linewidth=0.4)
    function.plot(FOUR, np.cos(FOUR) * np.sin(FOUR), "ko")
    function.set(xlabel="angle on the circle", ylabel="trained outputs")
    for panel, at, points in (deep, start.depth, start.deep[{"width": 0}] ** 2 - 1), (stop, sphere.step, sphere.error):
        panel.errorbar(at, points.mean("seed"), points.std("seed") / points.sizes["seed"] ** 0.5, fmt="o")
    deep.plot(start.depth, start.deep_theory, color="black")
    times = np.r_[sphere.step, sphere.step.values[-1] * LATER]
    stop.plot(times, np.r_[sphere.error_theory, sphere.error_later], color="black")
    deep.set(xlabel="hidden layers", ylabel="Var K / (E K)$^2$")
    stop.set(xlabel="steps of descent", ylabel="test error", xscale="log")
    return axes
