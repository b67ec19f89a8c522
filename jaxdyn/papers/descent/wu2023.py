"""The implicit regularization of dynamical stability in stochastic gradient descent (Wu, Su, 2023).

At a minimum that fits all examples SGD maps deviations, d <- d - (eta / B) sum_batch g_i (g_i . d),
and their second moments linearly.  They stay bounded up to a learning rate that is found exactly
and that bounds the trace of the Hessian for small batches, its largest eigenvalue for large ones:
tr H <= 2 B / eta, and lambda_max <= 2 / eta for gradient descent.  For two-layer ReLU and diagonal
linear networks the trace bounds norms of the weights.  In float64.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdyn import Claim, iterate, log_times, sweep, train
from jaxdyn._numbers import normal
from jaxdyn.losses import squared_error
from jaxdyn.papers import Reference
from jaxdyn.tasks import full_batch, minibatch
from jaxdyn.theory.descent import stability

TITLE = "The implicit regularization of dynamical stability in stochastic gradient descent"
REFERENCE = Reference(
    title=TITLE,
    authors="Wu, Su",
    year=2023,
    arxiv="2305.17490",
    name="Stability of SGD",
    reproduces="the exact learning rate at which a minimum is stable in mean square, and the flatness it demands",
)
QUICK = dict(
    examples=12,
    batches=(1, 4),
    fractions=(0.5, 0.8, 1.02),
    runs=1000,
    last=200,
    inputs=20,
    width=8,
    drawn=2000,
    coordinates=20,
    seen=10,
    sparse=2,
    rates=(0.02, 0.06, 0.08, 0.1),
    full_rates=(0.1, 0.3, 0.4, 0.5),
    steps=12000,
    seeds=3,
)
SIZES = {
    "quick": QUICK,
    "paper": QUICK | {"runs": 20000, "drawn": 20000, "steps": 200000, "seeds": 8},
}


def diagonal(weights, x):
    return x @ jnp.prod(weights, 0)


def relu(params, x):
    return jax.nn.relu(x @ params["w"].T) @ params["a"]


def kinds(examples):
    """Return gradients at a minimum, row by row, of three kinds: Gaussian, of very different norms,
    orthogonal."""
    plain = normal(jax.random.key(0), (examples, examples))
    unequal = plain * jnp.linspace(0.3, 2, examples)[:, None] + 1.5
    return jnp.stack([plain, unequal, 2 * jnp.linalg.qr(plain)[0]])


def thresholds(kind, batch, *, gradients):
    """The exact threshold of mean-square stability, and what bounds it."""
    g = gradients[kind]
    found = {
        "exact": stability.largest_learning_rate(g, batch),
        "bound": stability.necessary_learning_rate(g, batch),
    }
    trace_bound = 2 * batch / jnp.mean(jnp.sum(g**2, 1))
    return found | {
        "trace_bound": trace_bound,
        "descent": stability.largest_learning_rate(g, jnp.inf),
    }


def deviation(key, fraction, batch, threshold, *, gradients, most, last):
    """Squared size of a deviation under SGD at a fraction of the threshold."""

    # One program for all batches: of `most` examples drawn only the first are used.
    def field(d, g):
        return g.T @ ((g @ d) * (jnp.arange(most) < batch)) / batch

    start = normal(jax.random.fold_in(key, 0), gradients.shape[1:]) / len(gradients) ** 0.5
    times = log_times(last, 20)

    def observe(state):
        return {"square": jnp.sum(state.params**2)}

    optimizer = optax.sgd(fraction * threshold)
    stream = minibatch(gradients, most)
    return train(field, optimizer, stream, start, times=times, observe=observe, key=key)


def second_moment(fraction, batch, threshold, *, gradients, last):
    """Its exact mean."""

    def step(_, s):
        return s._replace(
            params=stability.moment_step(s.params, gradients, fraction * threshold, batch)
        )

    times = log_times(last, 20)

    def observe(state):
        return {"square_theory": jnp.trace(state.params)}

    return iterate(step, jnp.eye(len(gradients)) / len(gradients), times=times, observe=observe)


def relu_trace(key, *, inputs, width, drawn):
    """The trace of the Hessian of a ReLU network on Gaussian inputs, over `drawn` of them and in
    closed form."""
    keys = jax.random.split(key, 3)
    params = {"w": normal(keys[0], (width, inputs)), "a": normal(keys[1], (width,))}

    def size(x):
        return sum(jnp.sum(g**2) for g in jax.tree.leaves(jax.grad(relu)(params, x)))

    squares = jax.vmap(size)(normal(keys[2], (drawn, inputs)))
    norm = jnp.linalg.norm(params["w"], axis=1)
    a = jnp.abs(params["a"])

    def trace(norm, a):
        return jnp.sum(norm**2 + inputs * a**2) / 2

    # The same function, with equal shares of all units' two layers.
    balance = (inputs**0.5 * a / norm) ** 0.5
    off = {"z": (jnp.mean(squares) - trace(norm, a)) / (jnp.std(squares) / drawn**0.5)}
    path = inputs**0.5 * jnp.sum(a * norm)
    return off | {
        "balanced": trace(norm * balance, a / balance) / path - 1,
        "path_share": path / trace(norm, a),
    }


def minimum(key, rate, *, stochastic, data, steps):
    """Train a diagonal linear network that fits all examples; describe the minimum that it
    finds."""
    loss = squared_error(diagonal)
    stream = minibatch(data, 1) if stochastic else full_batch(data)
    start = jnp.stack([jnp.ones(data[0].shape[1]), jnp.full(data[0].shape[1], 0.1)])
    options = {"times": np.array([steps]), "observe": lambda state: {}, "key": key}
    w = train(jax.grad(loss), optax.sgd(rate), stream, start, **options).final.params
    g = jax.vmap(lambda x: jax.grad(diagonal)(w, x).ravel())(data[0])
    hessian = g @ g.T / len(g)
    norm = jnp.sum(jnp.mean(data[0] ** 2, 0) * jnp.abs(jnp.prod(w, 0)))
    eigenvalue = jnp.linalg.eigvalsh(hessian)[-1]
    return {
        "trace": jnp.trace(hessian),
        "eigenvalue": eigenvalue,
        "norm": norm,
        "loss": loss(w, data),
    }


def run(
    *,
    sweep=sweep,
    examples,
    batches,
    fractions,
    runs,
    last,
    inputs,
    width,
    drawn,
    coordinates,
    seen,
    sparse,
    rates,
    full_rates,
    steps,
    seeds,
):
    """Find thresholds, follow moments, and train networks to the minima that SGD and descent
    find."""
    with jax.enable_x64(True):
        gradients = kinds(examples)
        axes = {"kind": np.arange(3), "batch": np.array([1.0, 2.0, 4.0, examples])}
        results = {"thresholds": sweep(partial(thresholds, gradients=gradients), axes)}
        limits = [
            (float(batch), float(stability.largest_learning_rate(gradients[0], batch)))
            for batch in batches
        ]
        axes = {"fraction": fractions, ("batch", "threshold"): limits}
        system = {"gradients": gradients[0], "last": last}
        moments = sweep(partial(deviation, most=max(batches), **system), axes, seeds=runs)
        results["moments"] = moments.merge(
            sweep(partial(second_moment, **system), axes), compat="override"
        )
        results["relu"] = sweep(
            partial(relu_trace, inputs=inputs, width=width, drawn=drawn), seeds=seeds
        )
        x = normal(jax.random.key(1), (seen, coordinates))
        data = x, jnp.sum(x[:, :sparse], 1)
        for name, stochastic, axis in (("sgd", True, rates), ("descent", False, full_rates)):
            one = partial(minimum, stochastic=stochastic, data=data, steps=steps)
            results[name] = sweep(one, {"rate": axis}, seeds=seeds if stochastic else 1)
    return results


def _z(moments):
    """Standard errors of simulated second moments below the threshold; beyond it few runs make up
    the mean."""
    stable = moments.where(moments.fraction < 1, drop=True)
    sem = stable.square.std("seed", ddof=1) / stable.sizes["seed"] ** 0.5
    return (abs(stable.square.mean("seed") - stable.square_theory) / sem).max()


def _beyond(moments):
    """Beyond the threshold: the ratio by which typical deviations shrink, or that of late moments
    if it is larger."""
    unstable = moments.where(moments.fraction > 1, drop=True)
    typical = np.exp(np.log(unstable.square).mean("seed"))
    shrinks = typical[{"time": -1}] / typical[{"time": 0}]
    grows = unstable.square_theory[{"time": [-2, -1]}]
    return max(shrinks.max(), _ratio(grows[{"time": 0}], grows[{"time": 1}]))


def _ratio(later, earlier):
    return float((later / earlier).max())


CLAIMS = (
    Claim(
        "no minimum is stable beyond the rate that two moments of its gradients give, nor that beyond 2 B / tr H",
        "deviation",
        lambda r: max(
            _ratio(r["thresholds"].exact, r["thresholds"].bound),
            _ratio(r["thresholds"].bound, r["thresholds"].trace_bound),
        ),
        below=1 + 1e-9,
    ),
    Claim(
        "for orthogonal gradients of one norm that rate is the threshold itself",
        "deviation",
        lambda r: abs(r["thresholds"].exact / r["thresholds"].bound - 1).isel(kind=2).max(),
        below=1e-9,
    ),
    Claim(
        "larger batches are stable at larger learning rates, all below that of gradient descent",
        "deviation",
        lambda r: max(
            _ratio(r["thresholds"].exact.shift(batch=1), r["thresholds"].exact),
            _ratio(r["thresholds"].exact, r["thresholds"].descent),
        ),
        below=1,
    ),
    Claim(
        "second moments of simulated runs are the exact ones, in standard errors",
        "deviation",
        lambda r: _z(r["moments"]),
        below=4.5,
    ),
    Claim(
        "beyond the threshold second moments grow, yet typical runs converge",
        "deviation",
        lambda r: _beyond(r["moments"]),
        below=1,
    ),
    Claim(
        "the trace of ReLU networks on Gaussian inputs is sum (|w|^2 + d a^2)/2, in standard errors",
        "deviation",
        lambda r: abs(r["relu"].z).max(skipna=False),
        below=4.5,
    ),
    Claim(
        "it is never below sqrt(d) times their path norm, which balanced layers reach",
        "deviation",
        lambda r: max(abs(r["relu"].balanced).max(), r["relu"].path_share.max() - 1),
        below=1e-12,
    ),
    Claim(
        "SGD and gradient descent fit all examples of diagonal networks",
        "deviation",
        lambda r: max(r[name].loss.max(skipna=False) for name in ("sgd", "descent")),
        below=1e-20,
    ),
    Claim(
        "SGD, one example at a time, ends in minima of tr H <= 2 / eta",
        "deviation",
        lambda r: _ratio(r["sgd"].trace * r["sgd"].rate, 2),
        below=1,
    ),
    Claim(
        "so that its rate bounds the norm of what it learns",
        "deviation",
        lambda r: _ratio(r["sgd"].norm * r["sgd"].rate, 1),
        below=1,
    ),
    Claim(
        "the faster, the flatter",
        "deviation",
        lambda r: _ratio(*[r["sgd"].trace.mean("seed").shift(rate=a) for a in (0, 1)]),
        below=1,
    ),
    Claim(
        "gradient descent ends in minima of lambda_max <= 2 / eta",
        "deviation",
        lambda r: _ratio(r["descent"].eigenvalue * r["descent"].rate, 2),
        below=1,
    ),
    Claim(
        "some of a trace beyond 2 / eta, so that its rate bounds no norm of this kind",
        "deviation",
        lambda r: (2 / r["descent"].rate / r["descent"].trace).min(skipna=False),
        below=1,
    ),
)


def plot(results, axes):
    """Draw traces of minima and the bound, thresholds against batch size, and moments around their
    threshold."""
    from jaxdyn.plot import COLOURS

    axes.figure.set_layout_engine("none")
    axes.set_position([0.1, 0.62, 0.87, 0.35])
    left = axes.inset_axes([0, -1.38, 0.43, 1])
    right = axes.inset_axes([0.57, -1.38, 0.43, 1])
    sgd = results["sgd"].mean("seed")
    descent = results["descent"].mean("seed")
    one = results["thresholds"].isel(kind=0)
    rates = np.linspace(float(sgd.rate.min()), float(descent.rate.max()), 200)
    axes.plot(rates, 2 / rates, color="black", linewidth=1, label="2 / learning rate")
    for runs, name, style, label in (
        (sgd, "trace", "o", "SGD: trace"),
        (descent, "trace", "s", "descent: trace"),
        (descent, "eigenvalue", "D", "descent: largest eigenvalue"),
    ):
        axes.plot(
            runs.rate,
            runs[name],
            style,
            color=COLOURS["osD".index(style)],
            markersize=5,
            label=label,
        )
    axes.set(xlabel="learning rate", ylabel="curvature in the end", yscale="log")
    axes.legend(fontsize="x-small")
    for name, style, label in (
        ("exact", "o-", "exact"),
        ("bound", "--", "necessary"),
        ("trace_bound", ":", "2 B / tr H"),
    ):
        left.plot(one.batch, one[name], style, color=COLOURS[0], markersize=4, label=label)
    left.axhline(float(one.descent[0]), color="black", linewidth=1, label="descent")
    left.set(xlabel="batch size B", ylabel="stable learning rate")
    left.legend(fontsize="xx-small")
    moments = results["moments"].isel(batch_threshold=0)
    typical = np.exp(np.log(moments.square).mean("seed"))
    for colour, place in zip(COLOURS, range(moments.sizes["fraction"]), strict=False):
        exact = moments.square_theory.isel(fraction=place)
        right.plot(moments.time, typical.isel(fraction=place), "o", color=colour, markersize=3)
        right.plot(
            moments.time, exact, color=colour, linewidth=1, label=f"{float(exact.fraction):g}"
        )
    right.set(xlabel="step", ylabel="$|d|^2$: mean (lines), typical", yscale="log")
    right.legend(fontsize="xx-small", title="rate / threshold", title_fontsize="xx-small")
    return axes
