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

from jaxdyn import Claim, kernels, log_times, sweep, train
from jaxdyn.kernels import early_stopping, empirical, finite_width, predict
from jaxdyn.papers import Reference
from jaxdyn.rules.losses import squared_error

TITLE = "Neural tangent kernel: convergence and generalization in neural networks"
REFERENCE = Reference(TITLE, "Jacot, Gabriel, Hongler", 2018, "1806.07572", "kernels")
QUICK = dict(initial_widths=(8, 32), initial_seeds=600, depths=(1, 2, 3, 4), deep_width=16, widths=(64, 128, 256),
             seeds=48, examples=12, noise=0.7, rate=0.5, last=100, deep_widths=(20, 40, 80), deep_seeds=20,
             deep_rate=1.0, deep_last=200)  # fmt: skip
PAPER = {"initial_widths": (32, 256), "initial_seeds": 4000, "depths": (1, 2, 3, 4, 8), "deep_width": 64,
         "widths": (128, 512, 2048), "seeds": 300, "examples": 40, "last": 300, "deep_widths": (50, 256, 1000),
         "deep_seeds": 100, "deep_rate": 1.0, "deep_last": 200}  # fmt: skip
SIZES = {"quick": QUICK, "paper": QUICK | PAPER}
ACTIVATIONS = {"relu": jax.nn.relu, "erf": jax.scipy.special.erf, "tanh": jnp.tanh}
ERF, RELU = dict(w_std=1.5**0.5, b_std=0.1**0.5), dict(w_std=1.0, b_std=0.1)
KINDS = (0.0, *RELU.values()), (1.0, *ERF.values())
FOUR = np.array([0.4, 1.3, 2.5, 4.1])  # angles of the four examples on the circle


def network(activation, depth, width, most, *, w_std, b_std):
    """`depth` hidden layers of `width` units: the others, up to `most`, are off, so one program has any width."""
    on = jnp.where(jnp.arange(most) < width, jnp.sqrt(most / width), 0.0)
    gated = kernels.elementwise(lambda z: activation(z) * jnp.broadcast_to(on, z.shape))
    return kernels.serial(*(kernels.dense(most, w_std, b_std), gated) * depth, kernels.dense(1, w_std, b_std))


def limit(activation, depth, *, w_std, b_std):
    """The same at infinite width."""
    return kernels.serial(*(kernels.dense(1, w_std, b_std), activation) * depth, kernels.dense(1, w_std, b_std))


def drawn(key, layer, inputs, more=0):
    """Parameters N(0, 1) and `more` such numbers, at once: separate draws take long to compile."""
    leaves, tree = jax.tree.flatten(jax.eval_shape(lambda k: layer.init(k, (inputs,))[1], key))
    ends = np.cumsum([leaf.size for leaf in leaves])
    numbers = jax.lax.optimization_barrier(jax.random.normal(key, (ends[-1] + more,), jnp.float32))
    *parts, rest = jnp.split(numbers, ends)
    return tree.unflatten(a.reshape(leaf.shape) for a, leaf in zip(parts, leaves, strict=True)), rest


def initial(key, width, *, most, x, depths, deep_width):
    """Kernels of networks with one hidden layer on `x`, and of deep rectifier networks at its first row."""
    pick = lambda kind: lambda z: jnp.select([kind == i for i in range(3)], [fn(z) for fn in ACTIVATIONS.values()])

    def shallow(kind):
        layer = network(pick(kind), 1, width, most, **RELU)
        return empirical.ntk(layer.apply, drawn(key, layer, x.shape[1])[0], x, x)

    # Layers behind `depth` pass on what they get, so that one program has any depth; without biases, variance doubles.
    pair = kernels.serial(kernels.dense(deep_width, 2**0.5), kernels.relu())
    deepest = kernels.serial(*[pair] * max(depths), kernels.dense(1, 2**0.5))

    def deep(depth):
        def apply(params, h):
            for place, layer in enumerate(params[:-1]):
                after = pair.apply(layer, h)
                h = after if place == 0 else jnp.where(place < depth, after, h)
            return kernels.dense(1, 2**0.5).apply(params[-1], h)

        return empirical.ntk(apply, drawn(key, deepest, x.shape[1])[0], x[:1], x[:1])[0, 0]

    return {"ntk": jax.vmap(shallow)(jnp.arange(3)), "deep": jax.vmap(deep)(jnp.array(depths))}


def trained(key, width, smooth, w_std, b_std, *, depth, most, x, y, points, steps, rate, noise):
    """Descend on labels with noise; outputs at all inputs and steps, kernels before and after."""
    activation = lambda z: jnp.where(smooth > 0, jax.scipy.special.erf(z), jax.nn.relu(z))
    layer, inputs = network(activation, depth, width, most, w_std=w_std, b_std=b_std), jnp.concatenate([x, points])
    start, draw = drawn(key, layer, x.shape[1], len(x))
    labels, field = y + noise * draw, jax.grad(squared_error(layer.apply))
    observe = lambda state: {"outputs": layer.apply(state.params, inputs)[:, 0]}
    stream = lambda key, step: (x, labels[:, None])
    run = train(field, optax.sgd(rate), stream, start, times=steps, observe=observe)
    both = jax.tree.map(lambda *a: jnp.stack(a), start, run.final.params)
    ntk = jax.vmap(lambda p: empirical.ntk(layer.apply, p, inputs, inputs))(both)
    moved = jnp.sqrt(jnp.sum((both[-1]["weights"][1] - both[-1]["weights"][0]) ** 2) / width)
    return {"outputs": run.observed["outputs"], "ntk": ntk, "moved": moved, "labels": labels}


def measured(runs, rate, steps):
    """How far kernels moved, and how far residuals are from linear descent, by components of the kernel at the start."""
    runs = runs.rename(smooth_w_std_b_std="kind").assign_coords(kind=["relu", "erf"], step=steps)
    runs = runs.transpose("seed", "width", "kind", "step", "when", "point", "other", "example")
    before, after = np.moveaxis(runs.ntk.values, 3, 0).astype(float)
    P, size = runs.sizes["example"], lambda K: np.sum(K**2, (-1, -2)) ** 0.5
    values, vectors = np.linalg.eigh(before[..., :P, :P])
    seen = (runs.outputs.values[..., :P] - runs.labels.values[..., None, :]) @ vectors
    linear = seen[..., :1, :] * (1 - rate / P * values[..., None, :]) ** steps[:, None]
    parts = {"component": seen, "linear": linear, "drift": size(after - before) / size(before)}
    parts["apart"] = np.mean((seen - linear) ** 2, -1).max(-1) ** 0.5
    dims = ("seed", "width", "kind", "step", "mode")
    runs = runs.assign({name: (dims[: part.ndim], part) for name, part in parts.items()})
    row = runs.ntk.isel(point=P, other=slice(P, None))
    return runs.drop_vars("ntk").isel(point=slice(P, None)).assign(row=row)


@partial(jax.jit, static_argnums=0)
def gaussian(layer, x, points, y, target, times, rate, noise):
    """At infinite width: the kernel, mean and covariance of outputs over weights and labels, parts of the risk."""
    P = len(x)
    nngp, ntk = kernels.gram(layer, jnp.concatenate([x, points]), get=("nngp", "ntk")).values()
    tests = dict(ntk_test=ntk[P:, :P], nngp_test=nngp[P:, :P], nngp_test_test=nngp[P:, P:])
    learned = early_stopping.response(ntk[:P, :P], nngp[:P, :P], y, times, **tests, learning_rate=rate)
    risk = jnp.stack(early_stopping.risk(learned, target, noise**2), -1)
    covariance = learned.covariance + noise**2 * learned.gain @ jnp.swapaxes(learned.gain, 1, 2)
    return {"row": ntk[P, P:], "expected": learned.mean, "covariance": covariance, "risk": risk}


@partial(jax.jit, static_argnums=(4, 5))
def facts(rows, points, pairs, cloud, depths, deep_width):
    """Moments at finite width; closed forms against quadrature; spectra on antipodes, and of a square's kernel."""
    moments = lambda name, *kinks: finite_width.one_hidden_layer(ACTIVATIONS[name], 1, rows, kinks=kinks, **RELU)
    shallow = moments("relu", 0.0), moments("erf"), moments("tanh")
    law = [finite_width.rectifier_relative_variance([deep_width] * depth) for depth in depths]
    on = lambda x, act, depth, **scale: kernels.gram(limit(act, depth, **scale), x)
    apart = lambda x, a, depth, b: jnp.max(jnp.abs(on(x, a, depth, **RELU) - b))
    quadrature = on(points, kernels.elementwise(ACTIVATIONS["erf"]), 3, **RELU)
    apart = [apart(rows, kernels.relu(), 1, shallow[0].mean), apart(rows, kernels.erf(), 1, shallow[1].mean),
             apart(points, kernels.erf(), 3, quadrature), apart(rows, kernels.relu(), 1, moments("relu").mean)]  # fmt: skip
    nets = (kernels.relu(), 1), (kernels.erf(), 1), (kernels.erf(), 3), (kernels.relu(), 2)
    pairs = [on(pairs, *net, w_std=2**0.5, b_std=b) for b in (0.0, 0.1) for net in nets]
    square = [on(cloud, kernels.monomial(2), depth, **ERF) for depth in (1, 2)]
    parts = {
        "mean": [m.mean for m in shallow],
        "variance": [m.variance for m in shallow],
        "law": law,
        "apart": apart,
        "pairs": pairs,
        "square": square,
    }
    return {name: jnp.stack(part) for name, part in parts.items()}


def sphere(seed, rows, dimension):
    """Random rows on the sphere of radius sqrt(dimension)."""
    x = np.random.default_rng(seed).standard_normal((rows, dimension))
    return x * dimension**0.5 / np.linalg.norm(x, axis=1, keepdims=True)


def run(*, sweep=sweep, initial_widths, initial_seeds, depths, deep_width, widths, seeds, examples, noise, rate, last,
        deep_widths, deep_seeds, deep_rate, deep_last):  # fmt: skip
    """Draw networks, train some on the sphere and some on the circle; return the limit beside them."""
    import xarray as xr

    rows, ring = sphere(0, 6, 8), 2 * np.pi * np.arange(24) / 24
    circle = lambda angle: np.stack([np.cos(angle), np.sin(angle)], 1)
    wave, saddle = lambda x: np.sin(2 * x[:, 0]) + x[:, 1], lambda x: x[:, 0] * x[:, 1]
    tasks = {
        "sphere": (sphere(1, examples, 3), sphere(2, 24, 3), wave, rate, noise, log_times(last, 6), 1, widths, seeds),
        "circle": (
            circle(FOUR),
            circle(ring),
            saddle,
            deep_rate,
            0.0,
            log_times(deep_last, 4),
            3,
            deep_widths,
            deep_seeds,
        ),
    }
    names = {"ntk": ("activation", "row", "column"), "deep": "depth"}
    start = partial(initial, most=max(initial_widths), x=np.float32(rows), depths=depths, deep_width=deep_width)
    start = sweep(start, {"width": np.array(initial_widths, float)}, seeds=initial_seeds, dims=names)
    names, results = {"outputs": ("step", "point"), "ntk": ("when", "point", "other"), "labels": "example"}, {}
    with jax.enable_x64(True):
        pairs = np.concatenate([sphere(3, 8, 3), -sphere(3, 8, 3)])
        known = jax.tree.map(np.asarray, facts(rows, circle(ring[:7]), pairs, sphere(4, 30, 3), depths, deep_width))
    for part in ("mean", "variance"):
        start[f"ntk_{part}"] = ("activation", "row", "column"), known[part]
    start["deep_theory"] = "depth", known["law"]
    results["initial"] = start.assign_coords(activation=list(ACTIVATIONS), depth=list(depths))
    for name, (x, points, target, step, sigma, steps, depth, n, count) in tasks.items():
        single = dict(x=np.float32(x), y=np.float32(target(x)), points=np.float32(points))
        experiment = partial(trained, **single, depth=depth, most=max(n), steps=steps, rate=step, noise=sigma)
        axes = {"width": np.array(n, float), ("smooth", "w_std", "b_std"): KINDS}
        results[name] = measured(sweep(experiment, axes, seeds=count, dims=names, chunk=32), step, steps)
        results[name] = results[name].assign(target=("point", target(points)), ring=("point", ring))
        with jax.enable_x64(True):
            layer = limit(*((kernels.erf(), 1) if depth == 1 else (kernels.relu(), 3)), **(ERF if depth == 1 else RELU))
            theory = gaussian(layer, x, points, target(x), target(points), np.r_[steps, 10**6], step, sigma)
        later = {
            "row": ["other"],
            "expected": ["later", "point"],
            "covariance": ["later", "point", "other"],
            "risk": ["later", "part"],
        }
        results[f"{name}_limit"] = xr.Dataset(
            {k: (later[k], np.asarray(v)) for k, v in theory.items()}, {"later": np.r_[steps, 10**6]}
        )
    found = {"pairs": (["net", "mode"], np.linalg.eigvalsh(known["pairs"])), "apart": ("case", known["apart"]),
             "square": (["layers", "value"], np.linalg.eigvalsh(known["square"]))}  # fmt: skip
    return results | {"facts": xr.Dataset(found)}


def _z(values, expected):
    """How many standard errors over seeds the mean is off."""
    return abs(values.mean("seed") - expected) / values.std("seed", ddof=1) * values.sizes["seed"] ** 0.5


def _exponent(runs, name, kind):
    """The power of the width in a quantity, and three standard errors over seeds with 0.1 for the next order."""
    y, u = np.log(runs[name].sel(kind=kind)), np.log(runs.width) - np.log(runs.width).mean()
    error = ((y.std("seed", ddof=1) * u) ** 2).sum() / y.sizes["seed"]
    return float((y.mean("seed") * u).sum() / (u**2).sum()), float(3 * error**0.5 / (u**2).sum() + 0.1)


def _off(runs, name, kind, power):
    found, allowed = _exponent(runs, name, kind)
    return abs(found - power) / allowed


def _least(runs, name):
    """An upper bound of the exponent with rectifiers, by three standard errors."""
    return sum(_exponent(runs, name, "relu")) - 0.1


def _process(r, name, kind, width):
    """Outputs on test inputs of networks of one width, against the limit's Gaussian process: z of means, of variance."""
    runs, limit = r[name].sel(kind=kind).isel(width=width), r[f"{name}_limit"].isel(later=slice(1, -1))
    f, C = runs.outputs.isel(step=slice(1, None)).transpose("seed", "step", "point").values, limit.covariance.values
    S, variances = len(f), np.diagonal(C, axis1=1, axis2=2)
    mean = abs(f.mean(0) - limit.expected.values) / (variances / S) ** 0.5
    spread = (f.var(0, ddof=1).sum(-1) - variances.sum(-1)) / np.sqrt(2 / S * (C**2).sum((1, 2)))
    return mean.max(), abs(spread).max()


def _risk(r):
    """Test errors of the widest networks, and that of the limit at those steps and in the end."""
    runs, limit = r["sphere"].sel(kind="erf").isel(width=-1), r["sphere_limit"].risk.sum("part").values
    return ((runs.outputs - runs.target) ** 2).mean("point"), limit


def _inflation(r):
    """By how much K(x, x) on the circle grew in training, for each width."""
    row = r["circle"].row.sel(kind="relu").isel(other=0)
    return (row.isel(when=1) - row.isel(when=0)).mean("seed")


def _rates(runs):
    """How far the mean factor by which a component decays is off, of what seeds and the kernel's drift allow."""
    start = runs.component.isel(step=0)
    off = (runs.component - runs.linear) * start / (start**2).mean("seed")
    allowed = 4.5 * off.std("seed", ddof=1) / off.sizes["seed"] ** 0.5 + runs.drift.mean("seed") / np.e
    return (abs(off.mean("seed")) / allowed).max(skipna=False)


CLAIMS = (
    Claim("quadrature meets closed forms: rectifiers, split at their kink, erf, and three hidden layers of erf",
          lambda r: r["facts"].apart[:3].max(skipna=False), 1e-12),
    Claim("96 Gauss-Hermite nodes do for rectifiers too, to 1e-3", lambda r: r["facts"].apart[3], 1e-3, holds=False),
    Claim("with one hidden layer of any width the mean kernel is that of infinite width, to 4.5 standard errors",
          lambda r: _z(r["initial"].ntk, r["initial"].ntk_mean).max(skipna=False), 4.5),
    Claim("its variance is the exact one",
          lambda r: _z((r["initial"].ntk - r["initial"].ntk_mean) ** 2, r["initial"].ntk_variance / r["initial"].width)
          .max(skipna=False), 4.5),
    Claim("that of deep rectifier networks follows the law of depth",
          lambda r: _z(r["initial"].deep**2, 1 + r["initial"].deep_theory).max(skipna=False), 4.5),
    Claim("in training the kernel moves by 1/sqrt(width), as in the proof: erf on the sphere",
          lambda r: _off(r["sphere"], "drift", "erf", -0.5), 1, holds=False),
    *(Claim(f"it moves by 1/width: erf on the {name}", lambda r, name=name: _off(r[name], "drift", "erf", -1), 1)
      for name in ("sphere", "circle")),
    *(Claim(f"faster than 1/sqrt(width) with rectifiers on the {name}",
            lambda r, name=name: _least(r[name], "drift") + 0.5, 0) for name in ("sphere", "circle")),
    Claim("weights of the last layer move by 1/sqrt(width)",
          lambda r: max(_off(r["sphere"], "moved", kind, -0.5) for kind in ("erf", "relu")), 1),
    Claim("outputs leave linear descent in the own first kernel by 1/width: erf on the sphere",
          lambda r: _off(r["sphere"], "apart", "erf", -1), 1),
    Claim("with rectifiers they do so less the wider the network",
          lambda r: _least(r["sphere"], "apart"), 0),
    Claim("training makes the kernel on the circle larger, less so in wider networks",
          lambda r: -_inflation(r).min(), 0),
    Claim("networks with one wide hidden layer are the Gaussian process at all steps, in mean to 4.5 standard errors",
          lambda r: _process(r, "sphere", "erf", -1)[0], 4.5),
    Claim("and in variance", lambda r: _process(r, "sphere", "erf", -1)[1], 4.5),
    Claim("so are narrow ones with three hidden layers", lambda r: _process(r, "circle", "relu", 0)[0], 4.5, holds=False),
    Claim("the wider these, the closer",
          lambda r: _process(r, "circle", "relu", -1)[0] / _process(r, "circle", "relu", 0)[0], 1),
    Claim("each principal component decays at its own rate -log(1 - lr lambda), to 4.5 standard errors and the drift",
          lambda r: _rates(r["sphere"].sel(kind="erf").isel(width=-1)), 1),
    Claim("the error on new inputs is the expected one, with label noise", lambda r: _z(_risk(r)[0], _risk(r)[1][:-1]).max(skipna=False), 4.5),
    Claim("it is lowest before the end", lambda r: _risk(r)[1].min() / _risk(r)[1][-1], 0.9),
    Claim("kernels without biases of one hidden layer, or of odd activations, are singular on antipodes",
          lambda r: abs(r["facts"].pairs[:3, 0]).max(skipna=False), 1e-13),
    Claim("with biases, or two hidden layers of rectifiers, kernels are positive definite there",
          lambda r: -r["facts"].pairs[3:, 0].min(skipna=False), -1e-3),
    Claim("in three dimensions a quadratic activation of L layers has the rank (2^L + 1)^2, on more points",
          lambda r: abs((r["facts"].square.values > 1e-10).sum(1) - [9, 25]).max(), 1),
)  # fmt: skip
