"""Understanding self-supervised learning dynamics without contrastive pairs (Tian, Chen, Ganguli,
2021).

A linear encoder W and predictor P learn to predict from one view x of an input what the encoder, or
an average W_a of it, makes of another view y: E|P W x - W_a y|^2 / 2, W_a y held constant, with
weight decay eta.  Views have the covariances E x x^T = (1 + a) I and E y x^T = I.  Predictor and
stop-gradient together prevent the collapse of W, for modes that start beyond p- and converge to p+
= (1 + sqrt(1 - 4 eta (1 + a))) / (2 (1 + a)), all in float64.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxdyn import RK4, Claim, flow, sweep
from jaxdyn._numbers import normal
from jaxdyn.losses import latent_covariance_loss
from jaxdyn.papers import Reference
from jaxdyn.rules import direct_predictor, self_distillation
from jaxdyn.tasks import frames, from_svd, noisy_copies
from jaxdyn.theory.linear import self_distillation as theory

TITLE = "Understanding self-supervised learning dynamics without contrastive pairs"
REFERENCE = Reference(
    title=TITLE,
    authors="Tian, Chen, Ganguli",
    year=2021,
    arxiv="2102.06810",
    name="Self-supervised learning without contrast",
    reproduces="why BYOL and SimSiam do not collapse, and when they do",
)
QUICK = dict(
    width=10,
    augmentation=0.2,
    decays=(0.05, 0.1, 0.15, 0.2),
    strong_decay=0.25,
    predictor_rates=(1.0, 2.0),
    target_rates=(0.02, 0.1, 0.5, 5.0),
    boosts=(0.0, 0.1, 0.3),
    scale=0.2,
    duration=200.0,
    step=0.1,
    seeds=1,
)
SIZES = {"quick": QUICK, "paper": QUICK | {"width": 20, "step": 0.05, "seeds": 8}}
LATENT = latent_covariance_loss(lambda w: w)


def aligned(basis, w, p):
    """Return an encoder and a symmetric predictor of the modes w and p in one frame."""
    return {
        "encoder": from_svd(basis[0], w, basis[1]),
        "predictor": from_svd(basis[0], p, basis[0]),
    }


def case_flow(case, *, cases, basis, moments, augmentation, times, step):
    """Flow of one network with or without its parts, beside its modes; what it conserves and how it
    aligns."""
    one = {name: values[case] for name, values in cases.items()}
    (left, right) = basis
    decay = one["decay"]
    alpha = one["predictor_rate"]
    beta = one["target_rate"]
    stopped = self_distillation(LATENT, target_rate=beta, weight_decay=decay, predictor_rate=alpha)
    whole = self_distillation(LATENT, stop_gradient=False, weight_decay=decay, predictor_rate=alpha)
    options = {"augmentation": augmentation, "decay": decay, "predictor_rate": alpha}

    def strength(u, matrix, v):
        return jnp.sum(u * (matrix @ v), 0)

    # One program for all: the target is an average where it moves at some rate, else the encoder
    # itself.
    def target_of(blocks):
        return jnp.where(beta > 0, blocks["target"], blocks["encoder"])

    def field(params, moments):
        modes = params["modes"]
        weights = params["network"] | {"target": target_of(params["network"])}
        updates = stopped(weights, moments)
        online = {name: weights[name] for name in ("encoder", "predictor")}
        for name, update in whole(online, moments).items():
            updates[name] = jnp.where(one["stopped"], updates[name], update)
        g = updates["predictor"]
        w = modes["encoder"]
        target = target_of(modes)
        updates["predictor"] = one["learned"] * jnp.where(one["symmetric"], (g + g.T) / 2, g)
        dp, dw = theory.predictor_velocity(modes["predictor"], w, target, **options)
        return {
            "network": updates,
            "modes": {"encoder": -dw, "predictor": -dp, "target": beta * (target - w)},
        }

    def observe(state):
        w, p, modes = (
            *(state.params["network"][name] for name in ("encoder", "predictor")),
            state.params["modes"],
        )
        correlation = w @ w.T
        kept = jnp.exp(-2 * decay * state.time) * imbalance
        size = jnp.abs(w).max()  # without it squares of what has collapsed would underflow
        return {
            "eigenvalues": jnp.linalg.eigvalsh(correlation),
            "log_norm": jnp.log(size * jnp.linalg.norm(w / size)),
            "commutator": jnp.linalg.norm(correlation @ p - p @ correlation),
            "alignment_rate": theory.alignment_rate(w, p, **options),
            "imbalance": jnp.abs(theory.imbalance(w, p, alpha) - kept).max(),
            "p": strength(left, p, left),
            "p_theory": modes["predictor"],
            "w": strength(left, w, right),
            "w_theory": modes["encoder"],
        }

    w = one["encoder"]
    p = one["predictor"]
    imbalance = theory.imbalance(w, p, alpha)
    u = strength(left, w, right)
    modes = {"encoder": u, "predictor": strength(left, p, left), "target": u / 2}
    start = {"network": {"encoder": w, "predictor": p, "target": w / 2}, "modes": modes}
    return flow(field, moments, start, times=times, observe=observe, solver=RK4(step))


def direct_flow(boost, draw, *, encoders, moments, decay, times, step):
    """Flow of an encoder under DirectPred."""

    def loss(online, target, moments):
        w = online["encoder"]
        return LATENT(
            {**online, "predictor": direct_predictor(w @ moments.yx @ w.T, boost)}, target, moments
        )

    def observe(state):
        return {
            "eigenvalues": jnp.linalg.eigvalsh(state.params["encoder"] @ state.params["encoder"].T)
        }

    start = {"encoder": encoders[draw]}
    field = self_distillation(loss, weight_decay=decay)
    return flow(field, moments, start, times=times, observe=observe, solver=RK4(step))


def make_cases(
    basis, n, a, decays, strong_decay, predictor_rates, target_rates, scale, duration, seeds
):
    """Return the starts and settings of all networks of `case_flow`, and what kind each is of."""
    cases = []
    kinds = []
    full = {"stopped": 1, "learned": 1, "symmetric": 0, "predictor_rate": 1.0, "target_rate": 0.0}

    def add(kind, weights, decay, **options):
        kinds.append(kind)
        cases.append(weights | full | {"decay": decay} | options)

    for seed in range(seeds):
        w, p = scale * normal(jax.random.key(seed), (2, n, n))
        for rate in predictor_rates:
            add("random", {"encoder": w, "predictor": p}, decays[0], predictor_rate=rate)
        # Shifted, as modes collapse where P is negative, whatever the decay.
        symmetric = {"encoder": w, "predictor": (p + p.T) / 2 + scale * jnp.eye(n)}
        add("kept", symmetric, 0.0, symmetric=1)
        for decay in (*decays, strong_decay):
            add("unaligned", symmetric, decay, symmetric=1)
        for stopped in (1, 0):
            add(
                "alone",
                {"encoder": w, "predictor": jnp.eye(n)},
                decays[0],
                learned=0,
                stopped=stopped,
            )
        add("open", {"encoder": w, "predictor": p}, decays[0], stopped=0)
    for rate in (0.0, *target_rates):
        add(
            "aligned",
            aligned(basis, *jnp.linspace(jnp.array([0.6, 0.02]), 0.9, n).T),
            decays[0],
            target_rate=rate,
        )
    for decay in decays:
        at_edge = theory.predictor_fixed_points(a, decay)[0] * (
            1 + 0.1 * (jnp.arange(n) - (n - 1) / 2 + 0.25) / n
        )
        add("edge", aligned(basis, at_edge, at_edge), decay)
    # Just beyond the critical decay a mode lingers at 1/(2 (1 + a)) for a time 1/sqrt(excess): half
    # of all.
    middle = 0.5 / (1 + a)
    critical = theory.critical_decay(a)
    excess = (2 * np.pi / (middle * duration)) ** 2 / (1 + a)
    for decay in (critical - excess, critical + excess):
        add("critical", aligned(basis, *2 * [jnp.full(n, middle)]), decay)
    return jax.tree.map(lambda *a: jnp.stack([jnp.asarray(x, float) for x in a]), *cases), np.array(
        kinds
    )


def run(
    *,
    sweep=sweep,
    width,
    augmentation,
    decays,
    strong_decay,
    predictor_rates,
    target_rates,
    boosts,
    scale,
    duration,
    step,
    seeds,
):
    """Simulate networks with all parts and without some; return theory beside them."""
    import xarray as xr

    with jax.enable_x64(True):
        a = augmentation
        n = width
        options = (scale, duration, seeds)
        basis = frames(jax.random.key(0), (n, n), n)
        moments = noisy_copies(jnp.eye(n), a * jnp.eye(n))
        task = {"moments": moments, "times": duration * np.linspace(0, 1, 201) ** 2, "step": step}
        cases, kinds = make_cases(
            basis, n, a, decays, strong_decay, predictor_rates, target_rates, *options
        )
        dims = dict.fromkeys(("p", "p_theory", "w", "w_theory", "eigenvalues"), "mode")
        every = partial(case_flow, cases=cases, basis=basis, augmentation=a, **task)
        every = sweep(every, {"case": np.arange(len(kinds))}, dims=dims)
        for name in ("decay", "stopped"):
            every[name] = "case", np.asarray(cases[name])
        results = {kind: every.isel(case=kinds == kind) for kind in dict.fromkeys(kinds)}
        encoders = results["random"].isel(case=slice(0, None, len(predictor_rates))).case.values
        direct = partial(direct_flow, encoders=cases["encoder"][encoders], decay=decays[0], **task)
        results["direct"] = sweep(
            direct, {"boost": boosts, "draw": np.arange(seeds)}, dims={"eigenvalues": "mode"}
        )

        def points(decay):
            return dict(
                zip(("edge", "stable"), theory.predictor_fixed_points(a, decay), strict=True)
            )

        def numbers(dim, values):
            return {name: (dim, np.asarray(value)) for name, value in values.items()}

        for kind in ("unaligned", "edge", "critical"):
            results[kind] = results[kind].assign(
                numbers("case", points(jnp.asarray(results[kind].decay.values)))
            )
        for kind, predictor in (("alone", False), ("open", True)):
            one = results[kind]
            collapse = partial(theory.collapse_rate, a, decays[0], predictor=predictor)
            rates = [collapse(stop_gradient=bool(stopped)) for stopped in one.stopped]
            declines = -one.log_norm.diff("time") / one.time.diff("time")
            results[kind] = xr.Dataset(
                {"declines": declines, "decline": ("case", np.asarray(rates)), "step": step}
            )
        limit = theory.direct_strength(a, decays[0], jnp.array(boosts))
        lifts = jnp.array(boosts) * limit**0.5 > points(decays[0])["edge"]
        results["direct"] = results["direct"].assign(
            numbers("boost", {"limit": limit, "alive": lifts})
        )
        grid = (1 - jnp.linspace(1, 0, 200) ** 2) * theory.critical_decay(a)
        results["branches"] = xr.Dataset(
            numbers("decay", points(grid)), {"decay": np.asarray(grid)}
        )
    return results


def _misses_modes(one):
    return np.maximum(abs(one.p - one.p_theory), abs(one.w - one.w_theory)).max(skipna=False)


def _misses_end(modes):
    """The distance from p+ of modes that start beyond p-, and of all others from 0."""
    end = modes.stable.where(modes.p.isel(time=0) > modes.edge, 0)
    return abs(modes.p.isel(time=-1) - end).max(skipna=False)


def _off_limit(eigenvalues, limit, alive=False):
    """The distance of eigenvalues that stay where they are from their limit, or from 0 unless they
    are alive."""
    last = eigenvalues.isel(time=-1)
    before = eigenvalues.sel(time=0.8 * eigenvalues.time[-1], method="nearest")
    distance = abs(last - limit.fillna(0))
    distance = distance.where(alive | (distance < abs(last)), abs(last))
    return distance.where(~(abs(last - before) > 1e-3), 0).max(skipna=False)


def _unequal(kept):
    last = kept.eigenvalues.isel(time=-1)
    return (last.where(last > 1e-3).min("mode") / last.max("mode")).max(skipna=False)


def _misaligned(unaligned):
    """How much the logarithm of the commutator exceeds its bound, until it has fallen to
    rounding."""
    share = unaligned.commutator / unaligned.commutator.isel(time=0)
    bound = unaligned.alignment_rate.cumulative_integrate("time")
    return (np.log(share.clip(min=1e-300)) + bound).where(~(share < 1e-10), 0).max(skipna=False)


CLAIMS = (
    Claim(
        "W W^T - P^T P / alpha is conserved, up to the decay e^(-2 eta t)",
        "deviation",
        lambda r: (r["random"].imbalance / np.exp(2 * r["random"].log_norm[:, 0])).max(
            skipna=False
        ),
        below=1e-4,
    ),
    Claim(
        "aligned networks follow the equations of their modes, also those of an average as the target",
        "deviation",
        lambda r: max(_misses_modes(r["aligned"]), _misses_modes(r["edge"])),
        below=1e-8,
    ),
    Claim(
        "balanced modes converge to p+ from beyond p-, and collapse from below it",
        "deviation",
        lambda r: _misses_end(r["edge"]),
        below=0.01,
    ),
    Claim(
        "up to the decay 1/(4 (1 + a)) a mode survives, and none beyond",
        "deviation",
        lambda r: _misses_end(r["critical"]),
        below=0.01,
    ),
    Claim(
        "an encoder alone collapses at the rate a + eta, with its gradient at 2 a + eta, to the method's order",
        "deviation",
        lambda r: abs(r["alone"].declines / r["alone"].decline - 1).max(skipna=False),
        below=lambda r: (r["alone"].decline.max() * r["alone"].step) ** 4 / 100,
    ),
    Claim(
        "without the stop-gradient a predictor lets it collapse at least at (1 + a) - 1/(1 + a) + eta",
        "deviation",
        lambda r: (r["open"].decline / r["open"].declines).max(skipna=False),
        below=1,
    ),
    Claim(
        "weight decay makes the surviving eigenvalues of W W^T equal, p+^2, from starts that are not aligned",
        "deviation",
        lambda r: _off_limit(r["unaligned"].eigenvalues, r["unaligned"].stable ** 2),
        below=1e-3,
    ),
    Claim(
        "without it they keep a spread of more than a factor of two",
        "deviation",
        lambda r: _unequal(r["kept"]),
        below=0.5,
    ),
    Claim(
        "the predictor comes to commute with W W^T at the rate of its bound, or faster",
        "deviation",
        lambda r: _misaligned(r["unaligned"]),
        below=0.01,
    ),
    Claim(
        "under DirectPred they converge to (p+ / (1 + boost))^2, all where the boost lifts small modes beyond p-",
        "deviation",
        lambda r: _off_limit(r["direct"].eigenvalues, r["direct"].limit, r["direct"].alive),
        below=1e-4,
    ),
)


def plot(results, axes):
    """Draw where modes converge to and from where they collapse, against weight decay."""
    from jaxdyn.plot import curves

    edge = results["edge"].swap_dims(case="decay")
    start = edge.p.isel(time=0)
    survives = edge.p.isel(time=-1) > edge.stable / 2
    border = (start.where(survives).min("mode") + start.where(~survives).max("mode")) / 2
    seen = edge[["edge", "stable"]].assign(
        edge=border, stable=edge.p.isel(time=-1).where(survives).mean("mode")
    )
    lines = results["branches"].to_dataarray("fixed point")
    curves(seen.to_dataarray("fixed point"), lines, x="decay", hue="fixed point", axes=axes)
    axes.set(
        xlabel="weight decay",
        ylabel="eigenvalue p of the predictor",
        xlim=(0, None),
        ylim=(0, None),
    )
    return axes
