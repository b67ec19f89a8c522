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
QUICK = dict(initial_widths=(8, 32), initial_seeds=600, depths=(1, 2, 3, 4), deep_width=16, widths=(64, 128, 256),
             seeds=48, examples=12, noise=0.7, rate=0.5, last=100, circle_widths=(20, 40, 80), circle_seeds=20,
             circle_rate=1.0, circle_last=150)  # fmt: skip
PAPER = {"initial_widths": (32, 256), "initial_seeds": 4000, "depths": (1, 2, 3, 4, 8), "deep_width": 64,
         "widths": (128, 512, 2048), "seeds": 300, "examples": 40, "last": 300, "circle_widths": (50, 256, 1000),
         "circle_seeds": 100, "circle_last": 200}  # fmt: skip
SIZES = {"quick": QUICK, "paper": QUICK | PAPER}
FN = {"relu": jax.nn.relu, "erf": jax.scipy.special.erf, "tanh": jnp.tanh}
SCALE = {"relu": dict(w_std=1.0, b_std=0.1), "erf": dict(w_std=1.5**0.5, b_std=0.1**0.5)}
INITIAL = {"ntk": ("activation", "row", "column"), "deep": "depth"}
KNOWN = {"mean": INITIAL["ntk"], "variance": INITIAL["ntk"], "law": "depth", "quadrature": "rule",
         "pairs": ("net", "value"), "square": ("layers", "eigenvalue")}  # fmt: skip
TRAINED = {
    "outputs": ("step", "point"),
    "component": ("step", "mode"),
    "linear": ("step", "mode"),
    "row": ("when", "other"),
}
LIMIT = {
    "row": "other",
    "expected": ("step", "point"),
    "covariance": ("step", "point", "other"),
    "risk": ("step", "part"),
}
FOUR = np.array([0.4, 1.3, 2.5, 4.1])  # angles of the examples on the circle


def initial(key, width, *, most, x, depths, deep_width):
    """Kernels of networks with one hidden layer on `x`, and of deep rectifier networks at its first row."""

    def kernel(act, x, *sizes, **options):
        layer = finite_width.network(act, *sizes, **options)
        return empirical.ntk(layer.apply, finite_width.draw(key, layer, x.shape[1:])[0], x, x)

    def shallow(kind):
        act = lambda z: jnp.select([kind == place for place in range(3)], [fn(z) for fn in FN.values()])
        return kernel(act, x, width, most=(1, most), **SCALE["relu"])

    deepest = dict(most=(max(depths), deep_width), w_std=2**0.5)
    # Each layer of weights contributes the same mean.
    deep = lambda depth: kernel(FN["relu"], x[:1], deep_width, depth, **deepest)[0, 0] / (2 * depth + 2)
    return {"ntk": jax.vmap(shallow)(jnp.arange(3)), "deep": jax.vmap(deep)(jnp.array(depths))}


def trained(key, width, smooth, w_std, b_std, *, depth, most, x, y, points, steps, rate, noise):
    """Descend on labels with noise; outputs at all inputs and steps, kernels before and after."""
    act = lambda z: jnp.where(smooth, FN["erf"](z), FN["relu"](z))
    layer = finite_width.network(act, width, depth, most=(depth, most), w_std=w_std, b_std=b_std)
    start, draw = finite_width.draw(key, layer, x.shape[1:], len(x))
    inputs, labels = jnp.concatenate([x, points]), y + noise * draw
    field, stream = jax.grad(squared_error(layer.apply)), lambda key, step: (x, labels[:, None])
    observe = lambda state: {"outputs": layer.apply(state.params, inputs)[:, 0]}
    run = train(field, optax.sgd(rate), stream, start, times=steps, observe=observe)
    both = jax.tree.map(lambda *a: jnp.stack(a), start, run.final.params)
    moved = jnp.sqrt(jnp.sum((both[-1]["weights"][1] - both[-1]["weights"][0]) ** 2) / width)
    ntk = jax.vmap(lambda p: empirical.ntk(layer.apply, p, inputs, inputs))(both)
    P, outputs, drift = len(x), run.observed["outputs"], jnp.linalg.norm(ntk[1] - ntk[0]) / jnp.linalg.norm(ntk[0])
    own = predict.modes(ntk[0, :P, :P])
    linear = predict.descent(own, labels, steps, rate, start=outputs[0, :P]).train - labels[None]
    seen = outputs[:, :P] - labels[None]
    apart = jnp.sqrt(jnp.max(jnp.mean((seen - linear) ** 2, 1)))
    parts = {"component": seen @ own.vectors, "linear": linear @ own.vectors, "outputs": outputs[:, P:]}
    return parts | {"moved": moved, "drift": drift, "apart": apart, "row": ntk[:, P, P:]}


def limit(act, depth, w_std=1.0, b_std=0.1):
    """The network at infinite width."""
    return kernels.serial(*(kernels.dense(1, w_std, b_std), act) * depth, kernels.dense(1, w_std, b_std))


def gaussian(*, layer, x, points, target, times, rate, noise):
    """At infinite width: the kernel, mean and covariance of outputs over weights and labels, parts of the risk."""
    P, y = len(x), target(x)
    nngp, ntk = kernels.gram(layer, jnp.concatenate([x, points]), get=("nngp", "ntk")).values()
    tests = dict(ntk_test=ntk[P:, :P], nngp_test=nngp[P:, :P], nngp_test_test=nngp[P:, P:])
    learned = early_stopping.response(ntk[:P, :P], nngp[:P, :P], y, times, **tests, learning_rate=rate)
    covariance = learned.covariance + noise**2 * learned.gain @ jnp.swapaxes(learned.gain, 1, 2)
    risk = jnp.stack(early_stopping.risk(learned, target(points), noise**2), -1)
    return {"row": ntk[P, P:], "expected": learned.mean, "covariance": covariance, "risk": risk}


def known(*, rows, pairs, cloud, depths, deep_width):
    """Moments at finite width, closed forms against quadrature, kernels on antipodes, and those of a square."""
    on = lambda x, *net: kernels.gram(limit(*net), jnp.asarray(x))
    moments = lambda name, *kinks: finite_width.one_hidden_layer(FN[name], 1, jnp.asarray(rows), b_std=0.1, kinks=kinks)
    relu, erf, one = kernels.relu(), kernels.erf(), [moments("relu", 0.0), moments("erf"), moments("tanh")]
    rules, nets = ((relu, one[0]), (erf, one[1]), (relu, moments("relu"))), ((relu, 1), (erf, 1), (erf, 3), (relu, 2))
    spectra = lambda kernels: jnp.linalg.eigvalsh(jnp.stack(kernels))
    return {"mean": jnp.stack([m.mean for m in one]), "variance": jnp.stack([m.variance for m in one]),
            "law": jnp.stack([finite_width.rectifier_relative_variance([deep_width] * depth) for depth in depths]),
            "quadrature": jnp.stack([jnp.max(jnp.abs(on(rows, act, 1) - m.mean)) for act, m in rules]),
            "pairs": spectra([on(pairs, *net, 2**0.5, b_std) for b_std in (0.0, 0.1) for net in nets]),
            "square": spectra([on(cloud, kernels.monomial(2), depth) for depth in (1, 2)])}  # fmt: skip


def sphere(seed, rows, dimension):
    """Random rows on the sphere of radius sqrt(dimension)."""
    x = np.random.default_rng(seed).standard_normal((rows, dimension))
    return x * dimension**0.5 / np.linalg.norm(x, axis=1, keepdims=True)


def run(*, sweep=sweep, initial_widths, initial_seeds, depths, deep_width, widths, seeds, examples, noise, rate, last,
        circle_widths, circle_seeds, circle_rate, circle_last):  # fmt: skip
    """Draw networks, train some on the sphere and some on the circle; return the limit beside them."""
    rows, half, ring = sphere(0, 6, 8), sphere(3, 8, 3), 2 * np.pi * np.arange(24) / 24
    fields = partial(initial, most=max(initial_widths), x=np.float32(rows), depths=depths, deep_width=deep_width)
    start = sweep(fields, {"width": np.array(initial_widths, float)}, seeds=initial_seeds, dims=INITIAL)
    with jax.enable_x64(True):
        cases = dict(pairs=np.concatenate([half, -half]), cloud=sphere(4, 30, 3), depths=depths, deep_width=deep_width)
        exact = sweep(partial(known, rows=rows, **cases), dims=KNOWN)
    results = {"initial": start.assign(exact.data_vars).assign_coords(activation=list(FN), depth=list(depths))}
    circle = lambda angle: np.stack([np.cos(angle), np.sin(angle)], 1)
    wave, saddle = lambda x: jnp.sin(2 * x[:, 0]) + x[:, 1], lambda x: x[:, 0] * x[:, 1]
    tasks = {"sphere": (sphere(1, examples, 3), sphere(2, 24, 3), wave, rate, noise, log_times(last, 6),
                        kernels.erf(), SCALE["erf"], 1, widths, seeds),
             "circle": (circle(FOUR), circle(ring), saddle, circle_rate, 0.0, log_times(circle_last, 4),
                        kernels.relu(), SCALE["relu"], 3, circle_widths, circle_seeds)}  # fmt: skip
    kinds = np.array([(name == "erf", *SCALE[name].values()) for name in SCALE], float)
    for task, (x, points, target, lr, sigma, steps, act, scale, depth, n, count) in tasks.items():
        experiment = partial(trained, x=np.float32(x), y=np.float32(target(x)), points=np.float32(points), steps=steps,
                             depth=depth, most=max(n), rate=lr, noise=sigma)  # fmt: skip
        axes, times = (
            {"width": np.array(n, float), ("smooth", "w_std", "b_std"): kinds},
            np.r_[steps, steps[-1] * 10 ** np.arange(1, 5)],
        )
        runs = sweep(experiment, axes, seeds=count, dims=TRAINED, chunk=32).rename(smooth_w_std_b_std="kind")
        runs = runs.assign(target=("point", np.array(target(points))), angle=("other", ring))
        results[task] = runs.assign_coords(kind=list(SCALE), step=steps)
        with jax.enable_x64(True):
            theory = partial(gaussian, layer=limit(act, depth, **scale), x=x, points=points, target=target, times=times)
            theory = sweep(partial(theory, rate=lr, noise=sigma), dims=LIMIT)
        results[f"{task}_limit"] = theory.assign_coords(step=times)
    return results


def _z(values, expected):
    """By how many standard errors over seeds the mean is off, at most."""
    z = abs(values.mean("seed") - expected) / values.std("seed", ddof=1) * values.sizes["seed"] ** 0.5
    return z.max(skipna=False)


def _power(runs, name, kind):
    """The power of the width in a quantity, and its error: three standard errors, 0.1 for the next order."""
    y = runs[name].sel(kind=kind).transpose("seed", "width").values
    fit = power_law(np.broadcast_to(runs.width, y.shape).ravel(), y.ravel(), confidence=0.9973)
    return fit.exponent, (fit.high - fit.low) / 2 + 0.1


def _off(runs, name, kind, power):
    found, allowed = _power(runs, name, kind)
    return abs(found - power) / allowed


def _grown(r):
    """By how much K(x, x) on the circle grew in training, for each width."""
    return r["circle"].row.sel(kind="relu").isel(other=0).diff("when").mean(("seed", "when")).values


def _process(r, task, kind, width):
    """Outputs of networks of one width against the limit's Gaussian process: z of all means, and of variances."""
    runs, limit = (
        r[task].sel(kind=kind).isel(width=width),
        r[f"{task}_limit"].isel(step=slice(1, r[task].sizes["step"])),
    )
    f, C = runs.outputs.isel(step=slice(1, None)).transpose("seed", "step", "point").values, limit.covariance.values
    variances = np.diagonal(C, axis1=1, axis2=2)
    mean = abs(f.mean(0) - limit.expected.values) / (variances / len(f)) ** 0.5
    spread = (f.var(0, ddof=1) - variances).sum(-1) / np.sqrt(2 / len(f) * (C**2).sum((1, 2)))
    return mean.max(), abs(spread).max()


def _rates(runs):
    """How far the mean factor by which a component decays is off, of what seeds and the kernel's drift allow."""
    start = runs.component.isel(step=0)
    off = (runs.component - runs.linear) * start / (start**2).mean("seed")
    allowed = 4.5 * off.std("seed", ddof=1) / off.sizes["seed"] ** 0.5 + runs.drift.mean("seed") / np.e
    return (abs(off.mean("seed")) / allowed).max(skipna=False)


def _risk(r):
    """Test errors of the widest networks, and those of the limit, in the end too."""
    runs = r["sphere"].sel(kind="erf").isel(width=-1)
    return ((runs.outputs - runs.target) ** 2).mean("point"), r["sphere_limit"].risk.sum("part")


CLAIMS = (
    Claim("quadrature meets the closed forms of rectifiers, split at their kink, and of erf",
          lambda r: r["initial"].quadrature[:2].max(skipna=False), 1e-12),
    Claim("the smooth rule of 96 nodes does for rectifiers", lambda r: r["initial"].quadrature[2], 1e-3, holds=False),
    Claim("with one hidden layer of any width the mean kernel is that of infinite width, to 4.5 standard errors",
          lambda r: _z(r["initial"].ntk, r["initial"]["mean"]), 4.5),
    Claim("its variance is the exact one",
          lambda r: _z((r["initial"].ntk - r["initial"]["mean"])**2, r["initial"].variance / r["initial"].width), 4.5),
    Claim("deep rectifiers' follows the law of depth", lambda r: _z(r["initial"].deep**2, 1 + r["initial"].law), 4.5),
    Claim("training moves the kernel by 1/sqrt(width), as in the proof",
          lambda r: _off(r["sphere"], "drift", "erf", -0.5), 1, holds=False),
    Claim("smooth networks' kernels move by 1/width",
          lambda r: max(_off(r[task], "drift", "erf", -1) for task in ("sphere", "circle")), 1),
    Claim("rectifiers' move faster than 1/sqrt(width)", lambda r: sum(_power(r["sphere"], "drift", "relu")), -0.4),
    Claim("weights of the last layer move by 1/sqrt(width)",
          lambda r: max(_off(r["sphere"], "moved", kind, -0.5) for kind in SCALE), 1),
    Claim("smooth networks leave linear descent by 1/width", lambda r: _off(r["sphere"], "apart", "erf", -1), 1),
    Claim("rectifiers leave it less the wider they are", lambda r: sum(_power(r["sphere"], "apart", "relu")), 0.1),
    Claim("training makes the kernel on the circle larger, less so the widest networks'",
          lambda r: max(-_grown(r).min(), _grown(r)[-1] / _grown(r)[0] - 1), 0),
    Claim("wide networks are the Gaussian process at all steps, in mean and variance, to 4.5 standard errors",
          lambda r: max(_process(r, "sphere", "erf", -1)), 4.5),
    Claim("so are narrow ones of three hidden layers", lambda r: _process(r, "circle", "relu", 0)[0], 4.5, holds=False),
    Claim("the wider these, the closer",
          lambda r: _process(r, "circle", "relu", -1)[0] / _process(r, "circle", "relu", 0)[0], 1),
    Claim("components decay at their rates -log(1 - lr lambda), to 4.5 standard errors and the kernel's move",
          lambda r: _rates(r["sphere"].sel(kind="erf").isel(width=-1)), 1),
    Claim("test errors with noisy labels are the expected ones", lambda r: _z(*_risk(r)), 4.5),
    Claim("the expected error is lowest before the end", lambda r: _risk(r)[1].min() / _risk(r)[1][-1], 1),
    Claim("kernels of one hidden layer, or odd activations, are singular on antipodes without biases",
          lambda r: abs(r["initial"].pairs[:3, 0]).max(skipna=False), 1e-13),
    Claim("with biases, or more layers of rectifiers, kernels are positive definite there",
          lambda r: 1e-3 / r["initial"].pairs[3:, 0].min(skipna=False), 1),
    Claim("in three dimensions a quadratic activation's kernels of L layers have rank (2^L + 1)^2",
          lambda r: abs((r["initial"].square.values > 1e-10).sum(1) - [9, 25]).max(), 1),
)  # fmt: skip


def plot(results, axes):
    """Draw the kernel on the circle; inset, variance of deep kernels, what they do to functions, and the test error."""
    from jaxdyn.plot import COLOURS

    runs, start = results["circle"].sel(kind="relu"), results["initial"]
    theory = results["circle_limit"].isel(step=runs.sizes["step"] - 1)
    for colour, place in ((COLOURS[0], 0), (COLOURS[1], -1)):
        for when, style in enumerate(("--", "-")):
            row, label = runs.row.isel(width=place, when=when).mean("seed"), ("n = {:.0f}, before", "after")[when]
            axes.plot(runs.angle, row, style, color=colour, label=label.format(runs.width.values[place]))
    axes.plot(runs.angle, theory.row, color="black", label="limit")
    axes.set(xlabel="angle on the circle", ylabel="kernel K(0, angle)")
    axes.legend(fontsize="x-small")
    axes.figure.set_layout_engine("none")
    axes.set_position([0.1, 0.6, 0.37, 0.37])
    places = [1.35, 0, 1, 1], [0, -1.35, 1, 1], [1.35, -1.35, 1, 1]
    (function, deep, error), (risk, expected) = map(axes.inset_axes, places), _risk(results)
    mean, spread = theory.expected, 2 * np.sqrt(np.diagonal(theory.covariance))
    function.fill_between(runs.angle, mean - spread, mean + spread, color="0.8")
    function.plot(runs.angle, runs.outputs.isel(width=-1, step=-1, seed=slice(10)).T, color=COLOURS[1], linewidth=0.4)
    function.plot(FOUR, np.cos(FOUR) * np.sin(FOUR), "ko")
    function.set(xlabel="angle on the circle", ylabel="trained outputs")
    square = start.deep.isel(width=0) ** 2
    deep.errorbar(start.depth, square.mean("seed") - 1, square.std("seed") / square.sizes["seed"] ** 0.5, fmt="o")
    deep.plot(start.depth, start.law, color="black")
    deep.set(xlabel="hidden layers", ylabel="Var K / (E K)$^2$")
    error.errorbar(risk.step, risk.mean("seed"), risk.std("seed") / risk.sizes["seed"] ** 0.5, fmt="o")
    error.plot(expected.step, expected, color="black")
    error.set(xlabel="steps of descent", ylabel="test error", xscale="symlog")
    return axes
