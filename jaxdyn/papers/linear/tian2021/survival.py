"""What survives and what collapses: aligned starts, the edge, and networks without some parts."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from jaxdyn import Claim, plot, sweep
from jaxdyn._numbers import check, check_positive
from jaxdyn.claims import Domain, worst
from jaxdyn.papers import Experiment
from jaxdyn.papers.linear.tian2021.networks import flow_of, network, random_weights, task_of
from jaxdyn.tasks import from_svd
from jaxdyn.theory.linear import self_distillation as theory

__all__ = ["EXPERIMENTS"]

# Aligned starts, whose modes have equations of their own.


def aligned_modes(
    *,
    width=10,
    augmentation=0.2,
    decay=0.05,
    target_rates=(0.02, 0.1, 0.5, 5.0),
    duration=200.0,
    step=0.1,
    sweep=sweep,
):
    """Aligned networks follow the equations of their modes, with any average as the target.

    Args:
        width: number of units of encoder and predictor.
        augmentation: variance a of what is added to a view.
        decay: weight decay eta.
        target_rates: rates at which an average follows the encoder as the target; the encoder
            itself is always there, as rate 0.
        duration: flow time at the end.
        step: flow time of a step of the solver.
    """
    check("target_rates", target_rates, lambda rates: np.asarray(rates) > 0, "positive rates")
    rates = (0.0, *target_rates)
    with jax.enable_x64(True):
        task = task_of(width, augmentation, duration, step)
        strongest = jnp.linspace(jnp.array([0.6, 0.02]), 0.9, width)
        weights = aligned(task["basis"], *strongest.T)
        networks = [network(*weights, decay, target_rate=rate) for rate in rates]
        return flow_of(sweep, networks, task, target_rate=rates)


def aligned(basis, encoder, predictor):
    """Return an encoder and a symmetric predictor of these strengths in one frame."""
    left, right = basis
    return from_svd(left, encoder, right), from_svd(left, predictor, left)


def mode_deviation(runs):
    of_predictor = worst(runs.predictor, runs.predictor_theory)
    return max(of_predictor, worst(runs.encoder, runs.encoder_theory))


def plot_aligned_modes(runs, figure):
    """Draw some modes of the predictor, and its weakest mode for each target."""
    modes, targets = plot.panels(
        figure, "Modes of one network survive", "Slow targets delay the weakest mode", height=3.6
    )
    runs = runs.isel(time=slice(1, None))
    own = runs.isel(case=0)
    last = own.sizes["mode"] - 1
    some = np.unique(np.linspace(0, last, 4).astype(int))
    for colour, mode in zip(plot.COLOURS, some, strict=False):
        run = own.isel(mode=mode)
        plot.beside(modes, run, "predictor", colour=colour, label=f"mode {mode + 1}")
    for colour, case in zip(plot.COLOURS, range(runs.sizes["case"]), strict=False):
        run = runs.isel(case=case, mode=0)
        label = f"target rate {run.target_rate:g}" if case else "encoder itself"
        plot.beside(targets, run, "predictor", colour=colour, label=label)
    for axes in (modes, targets):
        axes.set(xscale="log", xlabel="flow time", ylabel="mode of the predictor")
    plot.legend(modes, below=True)
    plot.legend(targets, simulated="", predicted="", below=True)


# Starts around the edge, and decays around the critical one.


def survival(
    *,
    width=10,
    augmentation=0.2,
    decays=(0.05, 0.1, 0.15, 0.2),
    duration=200.0,
    step=0.1,
    sweep=sweep,
):
    """Modes that start beyond p- survive and converge to p+; beyond a critical decay none does.

    Args:
        width: number of units of encoder and predictor.
        augmentation: variance a of what is added to a view.
        decays: weight decays eta, below the critical one, 1/(4 (1 + a)).
        duration: flow time at the end.
        step: flow time of a step of the solver.
    """
    check_positive(decays=np.array(decays))
    with jax.enable_x64(True):
        task = task_of(width, augmentation, duration, step)
        critical = theory.critical_decay(augmentation)
        below = f"weight decays below the critical one, {float(critical):.3g}"
        check("decays", decays, lambda values: np.asarray(values) < critical, below)
        networks = [network_at_edge(decay, width, task) for decay in decays]
        # Just beyond the critical decay a mode lingers at 1/(2 (1 + a)) for a time 1/sqrt(excess):
        # half of all.
        middle = 0.5 / (1 + augmentation)
        excess = (2 * np.pi / (middle * duration)) ** 2 / (1 + augmentation)
        around = (critical - excess, critical + excess)
        lingering = jnp.full(width, middle)
        weights = aligned(task["basis"], lingering, lingering)
        networks += [network(*weights, decay) for decay in around]
        all_decays = jnp.array([*decays, *around])
        runs = flow_of(sweep, networks, task, decay=all_decays)
        edge, stable = theory.predictor_fixed_points(augmentation, all_decays)
        # Curves for the figure, denser towards the critical decay, where they meet.
        grid = (1 - jnp.linspace(1, 0, 200) ** 2) * critical
        branches = theory.predictor_fixed_points(augmentation, grid)
        relative_excess = float(excess / critical)
    runs = runs.assign(edge=("case", np.asarray(edge)), stable=("case", np.asarray(stable)))
    runs.attrs |= {"augmentation": augmentation, "excess": relative_excess}
    curves = {name: ("decay", np.asarray(p)) for name, p in zip(BRANCHES, branches, strict=True)}
    at_edge = runs.isel(case=slice(None, -2))
    at_critical = runs.isel(case=slice(-2, None))
    branches = xr.Dataset(curves, {"decay": np.asarray(grid)})
    return {"edge": at_edge, "critical": at_critical, "branches": branches}


BRANCHES = ("edge", "stable")


def network_at_edge(decay, width, task):
    """Return a network whose modes start around p-, within 5 % of it, none of them on it."""
    edge, _ = theory.predictor_fixed_points(task["augmentation"], decay)
    positions = jnp.arange(width) - (width - 1) / 2 + 0.25
    strengths = edge * (1 + 0.1 * positions / width)
    return network(*aligned(task["basis"], strengths, strengths), decay)


def edge_mode_deviation(results):
    return mode_deviation(results["edge"])


def end_deviation(runs):
    """The distance from p+ of modes that start beyond p-, and of all others from 0."""
    start = runs.predictor.isel(time=0, drop=True)
    end = runs.predictor.isel(time=-1, drop=True)
    return worst(end, runs.stable.where(start > runs.edge, 0))


def edge_deviation(results):
    return end_deviation(results["edge"])


def critical_deviation(results):
    return end_deviation(results["critical"])


def growth_times(runs):
    """How many times its growth time a mode at the edge is given, beyond what it needs to leave
    the edge."""
    curvature = 2 * (1 + runs.attrs["augmentation"])
    rate = runs.edge * (1 - curvature * runs.edge)
    nearest = 0.1 * 0.25 / runs.sizes["mode"]
    return float(rate.min() * runs.time.max() + np.log(nearest))


def plot_survival(results, figure):
    """Draw where modes end and from where they collapse, and modes at the critical decay."""
    fates, courses = plot.panels(
        figure, "Modes beyond p- converge to p+", "None survives the critical decay", height=3.4
    )
    edge = results["edge"]
    start = edge.predictor.isel(time=0, drop=True)
    end = edge.predictor.isel(time=-1, drop=True)
    survives = end > edge.stable / 2
    weakest = start.where(survives).min("mode")
    border = (weakest + start.where(~survives).max("mode")) / 2
    seen = {"edge": border, "stable": end.where(survives).mean("mode")}
    words = {"edge": "border of collapse", "stable": "end of survivors"}
    branches = results["branches"]
    for colour, name in zip(plot.COLOURS, BRANCHES, strict=False):
        fates.plot(branches.decay, branches[name], color=colour)
        plot.points_and_line(fates, edge.decay, seen[name], colour=colour, label=words[name])
    fates.set(xlabel="weight decay", ylabel="mode of the predictor")
    fates.set(xlim=(0, None), ylim=(0, None))
    plot.legend(fates, predicted="p- and p+ in theory", below=True)
    critical = results["critical"].isel(mode=0)
    for colour, case, side in zip(plot.COLOURS[2:], (0, 1), ("below", "beyond"), strict=False):
        run = critical.isel(case=case)
        plot.beside(courses, run, "predictor", colour=colour, label=f"just {side} it")
    courses.set(xlabel="flow time", ylabel="mode of the predictor")
    plot.legend(courses, below=True)


# Networks without predictor or stop-gradient.


def collapse(
    *,
    width=10,
    augmentation=0.2,
    decay=0.05,
    scale=0.2,
    duration=200.0,
    step=0.1,
    seeds=1,
    sweep=sweep,
):
    """Without predictor or without stop-gradient the encoder collapses at a known rate.

    Args:
        width: number of units of encoder and predictor.
        augmentation: variance a of what is added to a view.
        decay: weight decay eta.
        scale: standard deviation of the initial weights.
        duration: flow time at the end.
        step: flow time of a step of the solver.
        seeds: number of networks of each kind.
    """
    check_positive(scale=scale)
    with jax.enable_x64(True):
        task = task_of(width, augmentation, duration, step)
        alone = []
        whole = []
        for seed in range(seeds):
            encoder, predictor = random_weights(seed, width, scale)
            fixed = network(encoder, jnp.eye(width), decay, learned=0)
            alone += [fixed, fixed | {"stopped": 0}]
            whole += [network(encoder, predictor, decay, stopped=0)]
        rate = partial(theory.collapse_rate, augmentation, decay)
        rates = [rate(predictor=False, stop_gradient=stop) for stop in (True, False)]
        bound = rate(predictor=True, stop_gradient=False)
        rates = rates * seeds + [bound] * seeds
        kinds = {"has_predictor": [0] * len(alone) + [1] * len(whole)}
        kinds["stopped"] = [1, 0] * seeds + [0] * seeds
        runs = flow_of(sweep, alone + whole, task, rate_theory=rates, **kinds)
    runs["rate"] = -runs.log_norm.diff("time") / runs.time.diff("time")
    return runs.assign_attrs(step=step)


def without_predictor(runs):
    return runs.isel(case=(runs.has_predictor == 0).values)


def collapse_deviation(runs):
    alone = without_predictor(runs)
    return worst(alone.rate.dropna("time"), alone.rate_theory, relative=True)


def method_error(runs):
    """Relative error of the solver's rate, of fourth order: (rate step)^4 / 120 and higher."""
    fastest = without_predictor(runs).rate_theory.max()
    return (fastest * runs.attrs["step"]) ** 4 / 100


def slowest_collapse(runs):
    """Smallest rate of collapse with a predictor, in units of the bound."""
    whole = runs.isel(case=(runs.has_predictor == 1).values)
    return (whole.rate.dropna("time") / whole.rate_theory).min(skipna=False)


def plot_collapse(runs, figure):
    """Draw the norm of the first encoder of each kind."""
    (axes,) = plot.panels(figure, "Encoders without some parts collapse", height=3.2)
    kinds = {
        (0, 1): "no predictor, stop-gradient",
        (0, 0): "neither",
        (1, 0): "predictor, no stop-gradient",
    }
    for colour, ((predictor, stopped), label) in zip(plot.COLOURS, kinds.items(), strict=False):
        of_kind = (runs.has_predictor == predictor) & (runs.stopped == stopped)
        run = runs.isel(case=int(np.argmax(of_kind.values)))
        start = float(run.log_norm.isel(time=0))
        decline = run.log_norm - start
        theory_of_decline = -float(run.rate_theory) * run.time
        curves = (run.time, decline, theory_of_decline)
        plot.points_and_line(axes, *curves, colour=colour, label=label)
    axes.set(xlabel="flow time", ylabel="log of the encoder's relative norm")
    plot.legend(axes, predicted="rate of theory, with predictor a bound")


MORE_NOISE = {"width": 6, "augmentation": 0.5, "duration": 300.0}
LESS_NOISE = {"width": 8, "augmentation": 0.1}
FINE = {"width": 20, "step": 0.05}

LONG = Domain(
    "training is long enough for the modes nearest to the edge to leave it",
    lambda results: growth_times(results["edge"]) > 2,
)
NOT_YET_ZERO = Domain(
    "no encoder has collapsed so far that its numbers underflow",
    lambda runs: runs.log_norm.min(skipna=False) > -600,
)
CLOSE = Domain(
    "training is so long that decays within 5 % of the critical one decide",
    lambda results: results["critical"].attrs["excess"] < 0.05,
)

EXPERIMENTS = (
    Experiment(
        aligned_modes,
        claims=(
            Claim(
                "aligned networks follow the equations of their modes, also those of an average as "
                "the target",
                "largest deviation of a mode of encoder or predictor",
                mode_deviation,
                below=1e-8,
            ),
        ),
        plot=plot_aligned_modes,
        paper=FINE,
        others=(
            MORE_NOISE | {"decay": 0.04, "target_rates": (1.0,)},
            LESS_NOISE | {"decay": 0.08},
        ),
    ),
    Experiment(
        survival,
        claims=(
            Claim(
                "balanced modes converge to p+ from beyond p-, and collapse from below it",
                "largest distance of a mode from p+ or from 0 in the end",
                edge_deviation,
                below=0.01,
                when=LONG,
            ),
            Claim(
                "up to the decay 1/(4 (1 + a)) a mode survives, and none beyond",
                "largest distance of a mode close to the critical decay from p+ or from 0",
                critical_deviation,
                below=0.01,
                when=CLOSE,
            ),
            Claim(
                "networks that start around p- follow the equations of their modes",
                "largest deviation of a mode of encoder or predictor",
                edge_mode_deviation,
                below=1e-8,
            ),
        ),
        plot=plot_survival,
        paper=FINE,
        others=(MORE_NOISE | {"decays": (0.04, 0.12)}, LESS_NOISE | {"decays": (0.08, 0.18)}),
    ),
    Experiment(
        collapse,
        claims=(
            Claim(
                "an encoder alone collapses at the rate a + eta, and at 2 a + eta with the "
                "gradient of its target, up to the order of the method",
                "largest relative deviation of the rate of collapse",
                collapse_deviation,
                below=method_error,
                when=NOT_YET_ZERO,
            ),
            Claim(
                "without the stop-gradient a network with a predictor collapses at least at the "
                "rate (1 + a) - 1/(1 + a) + eta",
                "smallest rate of collapse, in units of that bound",
                slowest_collapse,
                above=1,
                when=NOT_YET_ZERO,
            ),
        ),
        plot=plot_collapse,
        paper=FINE | {"seeds": 8},
        others=(MORE_NOISE | {"decay": 0.04}, LESS_NOISE | {"decay": 0.08, "seeds": 2}),
    ),
)
