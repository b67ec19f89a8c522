"""Random starts: what is conserved, how eigenvalues become equal, and DirectPred."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxdyn import RK4, Claim, flow, plot, sweep
from jaxdyn._numbers import check_positive
from jaxdyn.claims import Domain, worst
from jaxdyn.papers import Experiment
from jaxdyn.papers.linear.tian2021.networks import (
    LATENT,
    flow_of,
    network,
    random_weights,
    task_of,
)
from jaxdyn.rules import direct_predictor, self_distillation
from jaxdyn.theory.linear import self_distillation as theory

__all__ = ["EXPERIMENTS"]

# What gradient flow conserves.


def conservation(
    *,
    width=10,
    augmentation=0.2,
    decay=0.05,
    predictor_rates=(1.0, 2.0),
    scale=0.2,
    duration=200.0,
    step=0.1,
    seeds=1,
    sweep=sweep,
):
    """Encoder and predictor stay in the balance that they start with, up to weight decay.

    Args:
        width: number of units of encoder and predictor.
        augmentation: variance a of what is added to a view.
        decay: weight decay eta.
        predictor_rates: rates alpha of the predictor, relative to the encoder's.
        scale: standard deviation of the initial weights.
        duration: flow time at the end.
        step: flow time of a step of the solver.
        seeds: number of networks for each rate.
    """
    check_positive(scale=scale, predictor_rates=np.array(predictor_rates))
    networks = []
    with jax.enable_x64(True):
        task = task_of(width, augmentation, duration, step)
        for seed in range(seeds):
            encoder, predictor = random_weights(seed, width, scale)
            networks += [
                network(encoder, predictor, decay, predictor_rate=rate) for rate in predictor_rates
            ]
        return flow_of(sweep, networks, task, predictor_rate=[*predictor_rates] * seeds)


def relative_drift(runs):
    """Drift of the balance in units of the squared norm of the initial encoder."""
    size = np.exp(2 * runs.log_norm.isel(time=0, drop=True))
    return runs.imbalance / size


def largest_drift(runs):
    return worst(relative_drift(runs))


def plot_conservation(runs, figure):
    """Draw the norm of the encoder, and the drift of the balance, for each rate."""
    norms, drifts = plot.panels(
        figure, "Encoders change a lot", "The balance stays to rounding or step", height=3.2
    )
    drift = relative_drift(runs)
    for colour, case in zip(plot.COLOURS, range(runs.sizes["case"]), strict=False):
        rate = float(runs.predictor_rate[case])
        norm = np.exp(runs.log_norm.isel(case=case))
        norms.plot(runs.time, norm, color=colour)
        later = drift.isel(case=case, time=slice(1, None))
        drifts.loglog(later.time, later, color=colour, label=f"predictor rate {rate:g}")
    norms.set(xlabel="flow time", ylabel="norm of the encoder")
    drifts.set(xlabel="flow time", ylabel="relative drift")
    plot.legend(drifts, simulated="", predicted="", below=True)


# Eigenvalues, with and without weight decay.


def equal_eigenvalues(
    *,
    width=10,
    augmentation=0.2,
    decays=(0.05, 0.1, 0.15, 0.2, 0.25),
    scale=0.2,
    duration=200.0,
    step=0.1,
    seeds=1,
    sweep=sweep,
):
    """Weight decay makes the eigenvalues that survive equal, also from starts that are not aligned.

    Args:
        width: number of units of encoder and predictor.
        augmentation: variance a of what is added to a view.
        decays: weight decays eta; no decay is always there.
        scale: standard deviation of the initial weights.
        duration: flow time at the end.
        step: flow time of a step of the solver.
        seeds: number of networks for each decay.
    """
    check_positive(scale=scale, decays=np.array(decays))
    networks = []
    with jax.enable_x64(True):
        task = task_of(width, augmentation, duration, step)
        for seed in range(seeds):
            encoder, predictor = random_weights(seed, width, scale)
            # Shifted, as modes collapse where P is negative, whatever the decay.
            shifted = (predictor + predictor.T) / 2 + scale * jnp.eye(width)
            for decay in (0.0, *decays):
                networks.append(network(encoder, shifted, decay, symmetric=1))
        all_decays = jnp.array([0.0, *decays] * seeds)
        runs = flow_of(sweep, networks, task, decay=all_decays)
        _, stable = theory.predictor_fixed_points(augmentation, all_decays)
    # Beyond the critical decay there is no p+, and nothing survives.
    limit = np.nan_to_num(np.asarray(stable) ** 2)
    return runs.assign(limit=("case", limit))


def decaying(runs):
    return runs.isel(case=(runs.decay > 0).values)


def distance_from_limit(runs, must_survive=False):
    """The distance of eigenvalues that stay where they are from their limit, or from 0 unless they
    must survive."""
    last = runs.eigenvalues.isel(time=-1, drop=True)
    earlier = 0.8 * float(runs.time[-1])
    before = runs.eigenvalues.sel(time=earlier, method="nearest", drop=True)
    distance = abs(last - runs.limit)
    to_either = np.minimum(distance, abs(last))
    distance = distance.where(must_survive, to_either)
    stays = ~(abs(last - before) > 1e-3)
    return worst(distance.where(stays, 0))


def limit_deviation(runs):
    return distance_from_limit(decaying(runs))


def smallest_share(runs):
    """The smallest eigenvalue that has not collapsed without decay, in units of the largest."""
    without_decay = runs.isel(case=(runs.decay == 0).values)
    last = without_decay.eigenvalues.isel(time=-1)
    smallest = last.where(last > 1e-3).min("mode")
    return (smallest / last.max("mode")).max(skipna=False)


def excess_commutator(runs):
    """How much the logarithm of the commutator exceeds its bound, until it has fallen to
    rounding."""
    unaligned = decaying(runs)
    share = unaligned.commutator / unaligned.commutator.isel(time=0)
    bound = unaligned.alignment_rate.cumulative_integrate("time")
    excess = np.log(share.clip(min=1e-300)) + bound
    return excess.where(~(share < 1e-10), 0).max(skipna=False)


def plot_equal_eigenvalues(runs, figure):
    """Draw all eigenvalues of one network without and with decay, and their limit."""
    titles = ("Without decay eigenvalues differ", "Decay makes them equal")
    panels = plot.panels(figure, *titles, height=3.0)
    for case, axes in enumerate(panels):
        run = runs.isel(case=case)
        for eigenvalue in run.eigenvalues.transpose("mode", "time"):
            axes.plot(run.time, eigenvalue, color=plot.COLOURS[0], linewidth=1)
        axes.set(xlabel="flow time", ylabel="eigenvalue of W W^T")
    limit = float(runs.limit.isel(case=1))
    panels[1].axhline(limit, color="0.3", linestyle="--", label="limit in theory")
    panels[1].legend()


# A predictor that is set instead of learned.


def direct_prediction(
    *,
    width=10,
    augmentation=0.2,
    decay=0.05,
    boosts=(0.0, 0.1, 0.3),
    scale=0.2,
    duration=200.0,
    step=0.1,
    seeds=1,
    sweep=sweep,
):
    """A predictor that is set from the encoder's correlations lifts all modes beyond collapse.

    DirectPred sets the predictor to the square root of the correlations, plus a boost in units of
    the largest.

    Args:
        width: number of units of encoder and predictor.
        augmentation: variance a of what is added to a view.
        decay: weight decay eta.
        boosts: what is added to each mode of the predictor, relative to its largest.
        scale: standard deviation of the initial weights.
        duration: flow time at the end.
        step: flow time of a step of the solver.
        seeds: number of networks for each boost.
    """
    check_positive(scale=scale)
    axes = {"boost": boosts, "draw": np.arange(seeds)}
    with jax.enable_x64(True):
        task = task_of(width, augmentation, duration, step)
        drawn = [random_weights(seed, width, scale) for seed in range(seeds)]
        encoders = jnp.stack([encoder for encoder, _ in drawn])
        shared = {name: task[name] for name in ("moments", "times", "step")}
        experiment = partial(direct_flow, encoders=encoders, decay=decay, **shared)
        runs = sweep(experiment, axes, dims={"eigenvalues": "mode"})
        limit = theory.direct_strength(augmentation, decay, jnp.array(boosts))
        edge, _ = theory.predictor_fixed_points(augmentation, decay)
        lifts = jnp.array(boosts) * limit**0.5 > edge
    runs["limit"] = ("boost", np.asarray(limit))
    runs["lifts"] = ("boost", np.asarray(lifts))
    return runs


def direct_flow(boost, draw, *, encoders, moments, decay, times, step):
    """Flow of an encoder under DirectPred."""

    def loss(online, target, moments):
        encoder = online["encoder"]
        predictor = direct_predictor(encoder @ moments.yx @ encoder.T, boost)
        return LATENT({**online, "predictor": predictor}, target, moments)

    def observe(state):
        encoder = state.params["encoder"]
        return {"eigenvalues": jnp.linalg.eigvalsh(encoder @ encoder.T)}

    start = {"encoder": encoders[draw]}
    field = self_distillation(loss, weight_decay=decay)
    return flow(field, moments, start, times=times, observe=observe, solver=RK4(step))


def direct_limit_deviation(runs):
    zero_or_limit = runs.assign(limit=runs.limit.fillna(0))
    return distance_from_limit(zero_or_limit, must_survive=runs.lifts)


def plot_direct_prediction(runs, figure):
    """Draw all eigenvalues of one network for the smallest and the largest boost."""
    panels = plot.panels(
        figure, "Without a boost some modes collapse", "A boost lifts all of them", height=3.0
    )
    for axes, boost in zip(panels, (runs.boost.min(), runs.boost.max()), strict=True):
        run = runs.sel(boost=boost).isel(draw=0)
        for eigenvalue in run.eigenvalues.transpose("mode", "time"):
            axes.plot(run.time, eigenvalue, color=plot.COLOURS[0], linewidth=1)
        axes.plot([], [], color=plot.COLOURS[0], label=f"boost {float(boost):g}")
        axes.axhline(float(run.limit), color="0.3", linestyle="--", label="limit in theory")
        axes.set(xlabel="flow time", ylabel="eigenvalue of W W^T")
        axes.legend()


MORE_NOISE = {"width": 6, "augmentation": 0.5, "duration": 300.0}
LESS_NOISE = {"width": 8, "augmentation": 0.1, "scale": 0.25, "seeds": 2}
FINE = {"width": 20, "step": 0.05, "seeds": 8}

SPREAD = Domain(
    "networks have six units or more, so that random starts spread",
    lambda runs: runs.sizes["mode"] >= 6,
)
SEVERAL_UNITS = Domain("networks have two units or more", lambda runs: runs.sizes["mode"] > 1)

EXPERIMENTS = (
    Experiment(
        conservation,
        claims=(
            Claim(
                "gradient flow conserves W W^T - P^T P / alpha, up to the decay e^(-2 eta t)",
                "largest drift, in units of the squared norm of the initial encoder",
                largest_drift,
                below=1e-4,
            ),
        ),
        plot=plot_conservation,
        paper=FINE,
        others=(MORE_NOISE | {"decay": 0.04}, LESS_NOISE | {"decay": 0.08}),
    ),
    Experiment(
        equal_eigenvalues,
        claims=(
            Claim(
                "weight decay makes the surviving eigenvalues of W W^T equal, p+^2, from starts "
                "that are not aligned",
                "largest distance of an eigenvalue at rest from p+^2 and from 0",
                limit_deviation,
                below=1e-3,
            ),
            Claim(
                "without weight decay the eigenvalues of W W^T keep a spread of more than a factor "
                "of two",
                "smallest surviving eigenvalue, in units of the largest",
                smallest_share,
                below=0.5,
                when=SPREAD,
            ),
            Claim(
                "the predictor comes to commute with W W^T at the rate of its bound, or faster",
                "largest excess of the logarithm of the commutator over its bound",
                excess_commutator,
                below=0.01,
                when=SEVERAL_UNITS,
            ),
        ),
        plot=plot_equal_eigenvalues,
        paper=FINE,
        others=(
            MORE_NOISE | {"decays": (0.04, 0.12, 0.25)},
            LESS_NOISE | {"decays": (0.08, 0.18, 0.25)},
        ),
    ),
    Experiment(
        direct_prediction,
        claims=(
            Claim(
                "under DirectPred eigenvalues of W W^T converge to (p+ / (1 + boost))^2, all where "
                "the boost lifts small modes beyond p-",
                "largest distance of an eigenvalue at rest from that limit, or from 0 where it may "
                "collapse",
                direct_limit_deviation,
                below=1e-4,
            ),
        ),
        plot=plot_direct_prediction,
        paper=FINE,
        others=(MORE_NOISE | {"decay": 0.04}, LESS_NOISE | {"decay": 0.08, "boosts": (0.0, 0.5)}),
    ),
)
