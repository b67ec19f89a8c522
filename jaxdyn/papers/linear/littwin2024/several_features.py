"""Several features, learned from their moments and from finitely many examples."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdyn import Claim, crossing_time, flow, plot, sweep, train
from jaxdyn._numbers import check, check_positive
from jaxdyn.claims import Domain, worst
from jaxdyn.losses import covariance_loss, latent_covariance_loss
from jaxdyn.models import aligned, product_to_depth
from jaxdyn.observables import combine, leakage, mode_strengths
from jaxdyn.papers import Experiment
from jaxdyn.papers.linear.littwin2024.times import OBJECTIVES, fixed_steps, half_times, longest_time
from jaxdyn.rules import self_distillation
from jaxdyn.tasks import covariances as covariances_of
from jaxdyn.tasks import frames, full_batch, gaussian_pairs, noisy_copies
from jaxdyn.theory.linear import self_distillation as theory

__all__ = ["EXPERIMENTS"]

# Several features, learned by gradient flow.


def features(
    *,
    covariances=(1.0, 1.05, 1.1, 1.15),
    influences=(0.9, 0.7, 0.55, 0.4),
    start=0.02,
    depths=(1, 2, 3),
    sweep=sweep,
):
    """Either objective learns each feature by itself, along an equation of its own.

    Args:
        covariances: covariance c of each feature with its noisy copy.
        influences: influence rho of each feature, its covariance divided by its variance.
        start: strength of every feature in the encoder at time zero.
        depths: numbers of layers of the encoder.
    """
    check_features(covariances, influences, start, depths)
    with jax.enable_x64(True):
        task = feature_task(covariances, influences, start, max(depths))
        moments = noisy_moments(task)
        experiment = partial(feature_flow, moments=moments, **task)
        dims = {"share": "feature", "time_of_share": "feature"}
        static = {"objective": OBJECTIVES}
        runs = sweep(experiment, {"depth": depths}, static=static, dims=dims)
    return runs.assign_coords(influence=("feature", np.array(influences)))


def check_features(covariances, influences, start, depths):
    check_positive(covariances=np.array(covariances), start=start)
    check_positive(influences=np.array(influences))
    check("depths", depths, lambda values: values >= 1, "one layer or more")
    number = len(covariances)
    as_many = f"as many as there are covariances, {number}"
    check("influences", len(influences), lambda length: length == number, as_many)
    smallest = min(min(influences) ** max(depths), 1.0)
    learned = f"a strength below all that are learned, {smallest:.3g}"
    check("start", start, lambda strength: strength < smallest, learned)


def feature_task(covariances, influences, start, layers):
    """Numbers and orthonormal bases of an encoder of at most so many layers; those of the inputs
    are the features."""
    modes = len(covariances)
    hidden = frames(jax.random.key(0), [modes] * layers, modes)
    bases = [jnp.eye(modes), *hidden]
    numbers = {"covariance": jnp.array(covariances), "influence": jnp.array(influences)}
    return numbers | {"bases": bases, "start": start}


def noisy_moments(task):
    """Second moments of pairs of views: copies of the features with noise in one of them."""
    covariance = task["covariance"]
    noise = covariance / task["influence"] - covariance
    return noisy_copies(jnp.diag(covariance), jnp.diag(noise))


class Network(NamedTuple):
    """A network that starts balanced and aligned with the features.

    Attributes:
        field: the field of the moments.
        weights: initial weights of encoder and predictor.
        observe: an observable, the encoder's strengths and what leaks between features.
    """

    field: Callable
    weights: dict[str, Any]
    observe: Callable


def network(objective, depth, bases, start):
    """Return the network whose encoder has the first `depth` layers."""
    encode = partial(product_to_depth, depth=depth)
    frame = jnp.stack(bases)[depth]
    inputs = bases[0]
    layers = len(bases) - 1
    strengths = jnp.full(inputs.shape[1], start)
    encoder = aligned(bases, strengths ** (layers / depth))
    # The decoder leads from the encoder's frame back to the features, the predictor stays in it.
    into = frame if objective == "jepa" else inputs
    strength = jnp.asarray(start) ** (1 / depth)

    def encoded(params):
        return encode(params["encoder"])

    def decoded(params):
        return params["predictor"] @ encode(params["encoder"])

    if objective == "jepa":
        field = self_distillation(latent_covariance_loss(encode))
    else:
        field = jax.grad(covariance_loss(decoded))
    observe = combine(mode_strengths(encoded, frame, inputs), leakage(encoded, frame, inputs))
    weights = {"encoder": encoder, "predictor": strength * into @ frame.T}
    return Network(field, weights, observe)


def feature_flow(objective, depth, *, moments, covariance, influence, bases, start):
    """Gradient flow beside the strength of each feature in theory, and that theory's time for the
    strength it has."""
    encoder = network(objective, depth, bases, start)
    mode = (covariance, influence, start, depth, objective)
    fixed = theory.fixed_strength(influence, depth, objective)
    times = longest_time(0.999, *mode) * jnp.linspace(0.01, 1, 100)

    def observe(state):
        observed = encoder.observe(state)
        strength = observed["mode_strengths"]
        predicted = theory.mode_strength(state.time, *mode)
        time = theory.time_of_strength(strength, *mode)
        shares = {"share": strength / fixed, "share_theory": predicted / fixed}
        return shares | {"time_of_share": time, "leakage": observed["leakage"]}

    # A twentieth of the fastest relaxation: the fourth-order error stays below 1e-8.
    solver = fixed_steps(0.05, covariance, influence, depth, objective)
    options = {"times": times, "observe": observe, "solver": solver}
    return flow(encoder.field, moments, encoder.weights, **options)


def share_deviation(runs):
    return worst(runs.share, runs.share_theory, relative=True)


def largest_leakage(runs):
    return worst(runs.leakage)


def unlearned_share(runs):
    return worst(runs.share.isel(time=-1), 1.0)


def time_deviation(runs):
    """Relative deviation of the theory's times; close to its end learning is too slow to tell."""
    deviation = abs(runs.time_of_share / runs.time - 1)
    return deviation.where(runs.share < 0.97, 0).max(skipna=False)


def plot_features(runs, figure):
    """Draw all features of the deepest encoder for both objectives."""
    depth = int(runs.depth[-1])
    panels = plot.panels(
        figure,
        f"JEPA of {depth} layers learns by influence",
        f"MAE of {depth} layers learns by covariance",
        height=3.2,
    )
    for axes, objective in zip(panels, OBJECTIVES, strict=True):
        encoder = runs.sel(objective=objective).isel(depth=-1)
        draw_features(axes, encoder, labelled=objective == "jepa")
        axes.set(xlabel="flow time", ylabel="share of final strength")
    plot.legend(panels[0], simulated="", predicted="", below=True)
    plot.legend(panels[1], below=True)


def draw_features(axes, encoder, labelled):
    """Draw the shares of all features, by their influence."""
    for colour, feature in zip(plot.COLOURS, range(encoder.sizes["feature"]), strict=False):
        run = encoder.isel(feature=feature)
        label = f"influence {run.influence:g}" if labelled else ""
        options = {"colour": colour, "label": label}
        plot.beside(axes, run, "share", over="draw", **options)


# The same features, learned from finitely many examples.


def sampled_features(
    *,
    covariances=(1.0, 1.05, 1.1, 1.15),
    influences=(0.9, 0.7, 0.55, 0.4),
    start=0.02,
    depth=2,
    examples=20_000,
    steps=10_000,
    seeds=4,
    sweep=sweep,
):
    """Descent on many examples learns features at the times of the true moments.

    Args:
        covariances: covariance c of each feature with its noisy copy.
        influences: influence rho of each feature, its covariance divided by its variance.
        start: strength of every feature in the encoder at time zero.
        depth: number of layers of the encoder.
        examples: number of pairs of views.
        steps: number of steps of descent, 200 or more.
        seeds: number of sets of examples.
    """
    check_features(covariances, influences, start, (depth,))
    check("steps", steps, lambda number: number >= 200, "200 or more, so many are recorded")
    with jax.enable_x64(True):
        task = feature_task(covariances, influences, start, depth)
        moments = noisy_moments(task)
        keys = [jax.random.key(seed) for seed in range(seeds)]
        draws = [covariances_of(*gaussian_pairs(key, moments, examples)) for key in keys]
        samples = jax.tree.map(lambda *leaves: jnp.stack(leaves), *draws)
        options = {"samples": samples, "depth": depth, "steps": steps}
        experiment = partial(sampled_descent, **options, **task)
        axes = {"draw": np.arange(seeds)}
        static = {"objective": OBJECTIVES}
        runs = sweep(experiment, axes, static=static, dims={"share": "feature"})
        theory_of_times = times_in_theory(task, depth, sweep)
    # One clock for all sets of examples.
    runs["flow_time"] = runs.flow_time.isel(draw=0, drop=True)
    in_flow_time = runs.share.assign_coords(time=runs.flow_time)
    runs["half_time"] = crossing_time(in_flow_time, 0.5)
    runs["half_time_theory"] = theory_of_times.half_time
    runs["standard_error"] = theory_of_times.error / examples**0.5
    runs = runs.assign_coords(influence=("feature", np.array(influences)))
    return runs.assign_attrs(steps=steps)


def times_in_theory(task, depth, sweep):
    """Half-times for the true moments, and the standard error that one example gives them."""
    numbers = {name: task[name] for name in ("covariance", "influence")}
    axes = {"depth": (depth,), "start": (task["start"],)}
    dims = dict.fromkeys(("half_time", "leading", "error"), "feature")
    static = {"objective": OBJECTIVES}
    experiment = partial(half_times, **numbers)
    runs = sweep(experiment, axes, static=static, dims=dims)
    return runs.squeeze(("depth", "start"), drop=True)


def sampled_descent(objective, draw, *, samples, depth, bases, covariance, influence, start, steps):
    """Descent on the moments of finitely many pairs of views, beside the theory for the true
    ones."""
    encoder = network(objective, depth, bases, start)
    mode = (covariance, influence, start, depth, objective)
    fixed = theory.fixed_strength(influence, depth, objective)
    rate = longest_time(0.95, *mode) / steps

    def observe(state):
        flow_time = rate * state.time
        predicted = theory.mode_strength(flow_time, *mode)
        share = encoder.observe(state)["mode_strengths"] / fixed
        return {"share": share, "share_theory": predicted / fixed, "flow_time": flow_time}

    moments = jax.tree.map(lambda leaf: leaf[draw], samples)
    stream = full_batch(moments)
    records = np.arange(0, steps + 1, steps // 200)
    optimizer = optax.sgd(rate)
    return train(encoder.field, optimizer, stream, encoder.weights, times=records, observe=observe)


def half_time_z_score(runs):
    deviation = runs.half_time - runs.half_time_theory
    return worst(deviation / runs.standard_error)


def largest_relative_error(runs):
    return (runs.standard_error / runs.half_time_theory).max()


def plot_sampled_features(runs, figure):
    """Draw the features that both objectives learn from samples."""
    jepa, mae = plot.panels(
        figure, "JEPA learns influential features first", "MAE goes by covariance", height=3.4
    )
    later = runs.isel(time=slice(1, None))
    for axes, objective in zip((jepa, mae), OBJECTIVES, strict=True):
        encoder = later.sel(objective=objective)
        time = encoder.flow_time.values
        encoder = encoder.drop_vars("flow_time").assign_coords(time=time)
        draw_features(axes, encoder, labelled=objective == "jepa")
        axes.set(xlabel="flow time", ylabel="share of final strength")
    plot.legend(jepa, simulated="", predicted="", below=True)
    plot.legend(mae, below=True)


TWO_FEATURES = {"covariances": (1.0, 1.3), "influences": (0.6, 0.95)}

PRECISE = Domain(
    "the examples tell all half-times to 5 % and steps are 2000 or more",
    lambda runs: largest_relative_error(runs) < 0.05 and runs.attrs["steps"] >= 2000,
)

EXPERIMENTS = (
    Experiment(
        features,
        claims=(
            Claim(
                "every feature of either objective follows its own equation, at any depth",
                "largest relative deviation of a feature's strength from its equation",
                share_deviation,
                below=1e-6,
            ),
            Claim(
                "nothing leaks from one feature to another",
                "largest strength between different features",
                largest_leakage,
                below=1e-10,
            ),
            Claim(
                "JEPA converges to rho^L and MAE to rho^(L/(L + 1)), within 0.1 % by the time that "
                "theory gives",
                "largest relative distance of a final strength from that limit",
                unlearned_share,
                below=1.001e-3,
            ),
            Claim(
                "the exact times of learning in theory are those of gradient flow",
                "largest relative deviation of theory's time for the strength of a feature",
                time_deviation,
                below=1e-6,
            ),
        ),
        plot=plot_features,
        paper={"depths": (1, 2, 3, 4)},
        others=(TWO_FEATURES | {"depths": (1, 2)}, {"start": 0.01}),
    ),
    Experiment(
        sampled_features,
        claims=(
            Claim(
                "descent on n examples has the half-times of the true moments, within 4.5 standard "
                "errors of sampling",
                "largest deviation of a half-time from theory, in standard errors",
                half_time_z_score,
                below=4.5,
                when=PRECISE,
            ),
        ),
        plot=plot_sampled_features,
        paper={"examples": 100_000, "steps": 50_000, "seeds": 16},
        others=(TWO_FEATURES, {"start": 0.01, "seeds": 2, "depth": 1}),
    ),
)
