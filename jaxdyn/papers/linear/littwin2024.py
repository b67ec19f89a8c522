"""How JEPA avoids noisy features: the implicit bias of deep linear self-distillation networks
(Littwin et al., 2024).

A deep linear encoder W with one layer V on top descends E|V W x - y|^2 / 2 (MAE: V decodes) or E|V
W x - W y|^2 / 2 with W y held constant (JEPA: V predicts).  A feature is known by its covariance c
= E y x and by its influence rho = E y x / E x^2.  Both objectives learn features one by one, with
large c first; JEPA prefers influential ones among them, the more so the deeper its encoder, and MAE
does not.  Times are those of every layer moving at unit rate, all float64.

The preference is one of finite starts: JEPA's times at equal c differ by a share of order
start^(1/L), which vanishes with the start, though slowly where L is large.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdyn import RK4, Claim, crossing_time, flow, integrate, sweep, train
from jaxdyn.losses import covariance_loss, latent_covariance_loss
from jaxdyn.models import aligned, product_to_depth
from jaxdyn.observables import combine, leakage, mode_strengths
from jaxdyn.papers import Reference
from jaxdyn.rules import self_distillation
from jaxdyn.tasks import covariances, frames, full_batch, gaussian_pairs, noisy_copies
from jaxdyn.theory.linear import self_distillation as theory

TITLE = (
    "How JEPA Avoids Noisy Features: The Implicit Bias of Deep Linear Self Distillation Networks"
)
AUTHORS = "Littwin, Saremi, Advani, Thilak, Nakkiran, Huang, Susskind"
REFERENCE = Reference(
    title=TITLE,
    authors=AUTHORS,
    year=2024,
    arxiv="2407.03475",
    name="How JEPA avoids noisy features",
    reproduces="deep self-distillation: which features are learned first, and when",
)
QUICK = dict(
    feature_covariances=(1.0, 1.05, 1.1, 1.15),
    feature_influences=(0.9, 0.7, 0.55, 0.4),
    start=0.02,
    depths=(1, 2, 3),
    noise=(1.2, 0.5),
    signal=(1.0, 1.5),
    pair_start=0.01,
    pair_depths=(1, 2, 3, 4, 5),
    small_starts=(1e-2, 1e-3, 1e-6, 1e-12),
    examples=20_000,
    sampled_depth=2,
    steps=10_000,
    seeds=4,
)
PAPER = {"depths": (1, 2, 3, 4), "examples": 100_000, "steps": 50_000, "seeds": 16}
SIZES = {"quick": QUICK, "paper": QUICK | PAPER}
OBJECTIVES = ("jepa", "mae")


def network(objective, depth, *, R, start):
    """Return the field of moments, balanced and aligned weights of the first `depth` layers, and
    what is observed."""
    encode = partial(product_to_depth, depth=depth)
    frame = jnp.stack(R)[depth]
    encoder = aligned(R, jnp.full(R[0].shape[1], start) ** ((len(R) - 1) / depth))
    # The decoder leads from the encoder's frame back to the features, the predictor stays in it.
    into = frame if objective == "jepa" else R[0]
    strength = jnp.asarray(start) ** (1 / depth)
    params = {"encoder": encoder, "predictor": strength * into @ frame.T}
    if objective == "jepa":
        field = self_distillation(latent_covariance_loss(encode))
    else:
        field = jax.grad(
            covariance_loss(lambda params: params["predictor"] @ encode(params["encoder"]))
        )

    def of(params):
        return encode(params["encoder"])

    return field, params, combine(mode_strengths(of, frame, R[0]), leakage(of, frame, R[0]))


def longest_time(share, c, rho, start, depth, objective):
    """Return the time at which the last feature has learned this `share`, but for those that start
    above theirs."""
    target = share * theory.fixed_strength(rho, depth, objective)
    times = theory.time_of_strength(target, c, rho, start, depth, objective)
    return jnp.max(jnp.where(jnp.isfinite(times), times, 0.0))


def solver(step, c, rho, depth, objective):
    """Return the method of fixed steps, `step` in units of the fastest relaxation of a learned
    network's layers."""
    return RK4(
        step / jnp.max((depth + 1) * c / rho * theory.fixed_strength(rho, depth, objective) ** 2)
    )


def feature_flow(objective, depth, *, moments, R, c, rho, start):
    """Gradient flow beside the strength of each feature in theory, and that theory's time for the
    strength it has."""
    field, params, see = network(objective, depth, R=R, start=start)
    mode = (c, rho, start, depth, objective)
    fixed = theory.fixed_strength(rho, depth, objective)
    times = longest_time(0.999, *mode) * jnp.linspace(0.01, 1, 100)

    def observe(state):
        seen = see(state)
        w = seen["mode_strengths"]
        predicted = theory.mode_strength(state.time, *mode)
        reached = theory.time_of_strength(w, *mode)
        return {
            "share": w / fixed,
            "share_theory": predicted / fixed,
            "reached": reached,
            "leakage": seen["leakage"],
        }

    options = {"times": times, "observe": observe, "solver": solver(0.05, c, rho, depth, objective)}
    return flow(field, moments, params, **options)


def pair_flow(objective, depth, *, c, rho, start):
    """Flow of single features by their own equations."""
    fixed = theory.fixed_strength(rho, depth, objective)

    def velocity(time, w):
        return theory.mode_velocity(w, c, rho, depth, objective)

    times = 1.05 * longest_time(0.5, c, rho, start, depth, objective) * jnp.linspace(0.001, 1, 1000)
    options = {"times": times, "observe": lambda state: {"share": state.params / fixed}}
    return integrate(
        velocity, jnp.full(c.size, start), solver=solver(0.5, c, rho, depth, objective), **options
    )


def half_times(objective, depth, start, *, c, rho):
    """Times to half of what is learned, their leading orders, and the standard error that one
    example gives them."""
    # It gives it through c and v = E x^2, whose estimates have the covariance ((v^2 + c^2, 2 c v),
    # (2 c v, 2 v^2)) / n.
    half = theory.fixed_strength(rho, depth, objective) / 2
    v = c / rho

    def time(c, v, half):
        return theory.time_of_strength(half, c, c / v, start, depth, objective)

    of_c, of_v = jax.vmap(jax.grad(time, argnums=(0, 1)))(c, v, half)
    error = jnp.sqrt(of_c**2 * (v**2 + c**2) + 2 * of_v**2 * v**2 + 4 * of_c * of_v * c * v)
    return {
        "half": time(c, v, half),
        "leading": theory.escape_time(c, rho, start, depth, objective),
        "error": error,
    }


def sampled_descent(objective, draw, *, samples, depth, R, c, rho, start, steps):
    """Descent on the moments of finitely many pairs of views, beside the theory for the true
    ones."""
    field, params, see = network(objective, depth, R=R, start=start)
    mode = (c, rho, start, depth, objective)
    fixed = theory.fixed_strength(rho, depth, objective)
    rate = longest_time(0.95, *mode) / steps

    def observe(state):
        predicted = theory.mode_strength(rate * state.time, *mode)
        share = see(state)["mode_strengths"] / fixed
        return {"share": share, "share_theory": predicted / fixed, "flow_time": rate * state.time}

    stream = full_batch(jax.tree.map(lambda a: a[draw], samples))
    records = np.arange(0, steps + 1, steps // 200)
    return train(field, optax.sgd(rate), stream, params, times=records, observe=observe)


def run(
    *,
    sweep=sweep,
    feature_covariances,
    feature_influences,
    start,
    depths,
    noise,
    signal,
    pair_start,
    pair_depths,
    small_starts,
    examples,
    sampled_depth,
    steps,
    seeds,
):
    """Simulate both objectives; return theory beside them."""

    def each(*names):
        return dict.fromkeys(names, "feature")

    def half_of(share, time):
        return crossing_time(share.assign_coords(time=time), 0.5)

    with jax.enable_x64(True):
        c = jnp.array(feature_covariances)
        rho = jnp.array(feature_influences)
        static = {"objective": OBJECTIVES}
        R = [
            jnp.eye(c.size),
            *frames(jax.random.key(0), [c.size] * max(*depths, sampled_depth), c.size),
        ]
        moments = noisy_copies(jnp.diag(c), jnp.diag(c / rho - c))
        task = {"c": c, "rho": rho, "start": start}
        dims = each("share", "share_theory", "reached")
        features = partial(feature_flow, moments=moments, R=R, **task)
        features = sweep(features, {"depth": depths}, static=static, dims=dims)

        draws = [
            covariances(*gaussian_pairs(jax.random.key(i), moments, examples)) for i in range(seeds)
        ]
        task |= {
            "samples": jax.tree.map(lambda *a: jnp.stack(a), *draws),
            "depth": sampled_depth,
            "steps": steps,
        }
        descent = partial(sampled_descent, R=R[: sampled_depth + 1], **task)
        axes = {"draw": np.arange(seeds)}
        sampled = sweep(descent, axes, static=static, dims=each("share", "share_theory"))
        axes = {"depth": (sampled_depth,), "start": (start,)}
        dims = each("half", "leading", "error")
        half = sweep(partial(half_times, c=c, rho=rho), axes, static=static, dims=dims).squeeze(
            drop=True
        )
        c, rho = jnp.array([noise, signal]).T
        pair = partial(pair_flow, c=c, rho=rho, start=pair_start)
        pair = sweep(pair, {"depth": pair_depths}, static=static, dims=each("share"))
        axes = {"depth": pair_depths, "start": sorted({*small_starts, pair_start})}
        starts = sweep(partial(half_times, c=c, rho=rho), axes, static=static, dims=dims)
    sampled["flow_time"] = sampled.flow_time.isel(draw=0, drop=True)
    sampled["influence"] = "feature", np.array(feature_influences)
    sampled["half"] = half_of(sampled.share, sampled.flow_time)
    sampled["half_theory"] = half.half
    sampled["half_error"] = half.error / examples**0.5
    pair["half"], pair["half_theory"] = (
        half_of(pair.share, pair.time),
        starts.half.sel(start=pair_start, drop=True),
    )
    starts["covariance"] = ("feature", np.asarray(c))
    starts["influence"] = ("feature", np.asarray(rho))
    starts["scale"] = starts.start ** (1 / starts.depth)
    return {"features": features, "sampled": sampled, "pair": pair, "starts": starts}


def _worst(simulated, theory):
    return abs(simulated - theory).max(skipna=False)


def _misses_time(features):
    # Close to its end learning is too slow to tell the time.
    return (
        abs(features.reached / features.time - 1).where(features.share < 0.97, 0).max(skipna=False)
    )


def _misses_order(starts):
    """What JEPA's two leading orders leave, in units of the third, at the smallest start."""
    starts = starts.sel(objective="jepa").isel(start=0).where(starts.depth > 1, drop=True)
    power = 2 * starts.depth - 3
    left = (starts.half - starts.leading) * starts.covariance
    return (left * power * starts.influence**2 * starts.scale**power).max(skipna=False)


def _varies_with_start(starts):
    """How what MAE's leading order leaves varies with the start, in units of the next order and of
    rounding."""
    starts = starts.sel(objective="mae").isel(start=slice(2))
    unit = starts.scale[1] ** 2 / (starts.influence * starts.covariance) + 1e-13 * starts.half.isel(
        start=0
    )
    return (abs((starts.half - starts.leading).diff("start")) / unit).max(skipna=False)


def _disorder(starts):
    """Largest ratio of times, of signal to noise and of a depth's preference to the next one's,
    from a small start."""
    small = starts.start < starts.influence.min() ** starts.depth.max() / 8
    starts = starts.sel(objective="jepa").where(small, drop=True).isel(start=-1)
    noise, signal = (starts.half * starts.covariance).transpose("feature", ...)
    return max((signal / noise).max(), (noise / signal / (noise / signal).shift(depth=-1)).max())


def _flip(pair):
    """The largest of the ratios of half-times that lie below 1 if depth, and that of JEPA alone,
    turns the order."""
    ratio, predicted = (
        half.isel(feature=0) / half.isel(feature=1) for half in (pair.half, pair.half_theory)
    )
    mae = ratio.sel(objective="mae")
    jepa = ratio.sel(objective="jepa")
    deep = predicted.sel(objective="jepa") > 1
    # Whether any depth is enough is for the theory to say: the preference vanishes with the start.
    undecided = deep.all() or not deep.any()
    return (
        np.nan
        if undecided
        else max(mae.max(), jepa.where(~deep).max(), (1 / jepa).where(deep).max())
    )


CLAIMS = (
    Claim(
        "every feature of either objective follows its own equation, at any depth",
        "deviation",
        lambda r: _worst(r["features"].share / r["features"].share_theory, 1),
        below=1e-6,
    ),
    Claim(
        "nothing leaks from one feature to another",
        "deviation",
        lambda r: r["features"].leakage.max(skipna=False),
        below=1e-10,
    ),
    Claim(
        "JEPA converges to rho^L and MAE to rho^(L/(L + 1)), within 0.1 % by the time that theory gives",
        "deviation",
        lambda r: _worst(r["features"].share.isel(time=-1), 1),
        below=1.001e-3,
    ),
    Claim(
        "the exact times of learning are those of the flow",
        "deviation",
        lambda r: _misses_time(r["features"]),
        below=1e-6,
    ),
    Claim(
        "at equal covariance JEPA learns the more influential feature first, the more so the deeper it is",
        "deviation",
        lambda r: _disorder(r["starts"]),
        below=1,
    ),
    Claim(
        "from small starts its times are two powers of 1/start, the second over the influence, up to the third",
        "deviation",
        lambda r: _misses_order(r["starts"]),
        below=2,
    ),
    Claim(
        "those of MAE are one power and a constant: blind to the influence in the leading order",
        "deviation",
        lambda r: _varies_with_start(r["starts"]),
        below=1,
    ),
    Claim(
        "single features take these times, to the thousandth of the longest at which they are recorded",
        "deviation",
        lambda r: _worst((r["pair"].half - r["pair"].half_theory) / r["pair"].time.max("time"), 0),
        below=1e-3,
    ),
    Claim(
        "of more covariance but less influence, noise precedes the signal in MAE, and in JEPA unless it is deep",
        "deviation",
        lambda r: _flip(r["pair"]),
        below=1,
    ),
    Claim(
        "descent on n examples has the half-times of the true moments, within 4.5 standard errors of sampling",
        "deviation",
        lambda r: _worst(
            (r["sampled"].half - r["sampled"].half_theory) / r["sampled"].half_error, 0
        ),
        below=4.5,
    ),
)


def plot(results, axes):
    """Draw the features learned from samples: MAE, the earlier, by their covariance, JEPA by their
    influence."""
    from jaxdyn.plot import curves

    sampled = results["sampled"].isel(time=slice(1, None)).swap_dims(feature="influence")
    for objective in OBJECTIVES:
        one = sampled.sel(objective=objective).swap_dims(time="flow_time")
        curves(
            one.share,
            one.share_theory.isel(draw=0),
            x="flow_time",
            hue="influence",
            over="draw",
            axes=axes,
            log="x",
        )
        axes.text(one.half_theory.mean(), 1.05, objective.upper(), ha="center")
    axes.set(
        xlabel="flow time t",
        ylabel="strength of the encoder / final strength",
        xlim=(1, None),
        ylim=(0, 1.15),
    )
    return axes
