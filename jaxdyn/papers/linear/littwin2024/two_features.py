"""Two features: what the times of learning depend on, and which is learned first."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxdyn import Claim, crossing_time, integrate, plot, sweep
from jaxdyn._numbers import check, check_positive
from jaxdyn.claims import Domain, ratio, worst
from jaxdyn.papers import Experiment
from jaxdyn.papers.linear.littwin2024.times import OBJECTIVES, fixed_steps, half_times, longest_time
from jaxdyn.theory.linear import self_distillation as theory

__all__ = ["EXPERIMENTS"]

# Times to half of what is learned, in theory alone.


def learning_times(
    *,
    noise=(1.2, 0.5),
    signal=(1.0, 1.5),
    depths=(1, 2, 3, 4, 5),
    starts=(1e-2, 1e-3, 1e-6, 1e-12),
    sweep=sweep,
):
    """JEPA learns influential features sooner, the more so the deeper it is; MAE hardly cares.

    Args:
        noise: covariance and influence of the less influential feature.
        signal: covariance and influence of the more influential feature.
        depths: numbers of layers of the encoder.
        starts: strengths of both features in the encoder at time zero.
    """
    check_pair(noise, signal, depths)
    check_positive(starts=np.array(starts))
    with jax.enable_x64(True):
        return half_times_of(noise, signal, depths, sorted(set(starts)), sweep)


def check_pair(noise, signal, depths):
    check_positive(noise=np.array(noise), signal=np.array(signal))
    check("noise", len(noise), lambda length: length == 2, "a covariance and an influence")
    check("signal", len(signal), lambda length: length == 2, "a covariance and an influence")
    above = f"an influence above that of the noise, {noise[1]:g}"
    check("signal", signal[1], lambda influence: influence > noise[1], above)
    check("depths", depths, lambda values: values >= 1, "one layer or more")


def half_times_of(noise, signal, depths, starts, sweep):
    covariance, influence = jnp.array([noise, signal]).T
    experiment = partial(half_times, covariance=covariance, influence=influence)
    axes = {"depth": depths, "start": starts}
    dims = dict.fromkeys(("half_time", "leading", "error"), "feature")
    runs = sweep(experiment, axes, static={"objective": OBJECTIVES}, dims=dims)
    numbers = {"covariance": covariance, "influence": influence}
    coordinates = {name: ("feature", np.asarray(values)) for name, values in numbers.items()}
    return runs.assign_coords(feature=["noise", "signal"], **coordinates)


def is_small(runs):
    """Which starts lie well below all strengths that are learned."""
    smallest_strength = runs.influence.min() ** runs.depth.max()
    return runs.start < smallest_strength / 8


def preference(runs):
    """JEPA's time for the noise over that for the signal, if their covariances were equal, from the
    largest start that is small."""
    small = runs.where(is_small(runs), drop=True).isel(start=-1)
    return preference_at_any_start(small)


def preference_at_any_start(runs):
    jepa = runs.sel(objective="jepa")
    at_equal_covariance = jepa.half_time * jepa.covariance
    noise = at_equal_covariance.sel(feature="noise")
    return noise / at_equal_covariance.sel(feature="signal")


def smallest_preference(runs):
    return preference(runs).min(skipna=False)


def growth_of_preference(runs):
    by_depth = preference(runs).sortby("depth").values
    return np.min(by_depth[1:] / by_depth[:-1])


def beyond_two_orders(runs):
    """What JEPA's two leading orders leave, in units of the third, at the smallest start."""
    smallest = runs.sel(objective="jepa").isel(start=0)
    smallest = smallest.where(smallest.depth > 1, drop=True)
    scale = smallest.start ** (1 / smallest.depth)
    power = 2 * smallest.depth - 3
    left = (smallest.half_time - smallest.leading) * smallest.covariance
    third = 1 / (power * smallest.influence**2 * scale**power)
    return (left / third).max(skipna=False)


def variation_beyond_one_order(runs):
    """How what MAE's leading order leaves varies with the start, in units of the next order and of
    rounding."""
    smallest = runs.sel(objective="mae").isel(start=slice(2))
    scale = smallest.start[1] ** (1 / smallest.depth)
    next_order = scale**2 / (smallest.influence * smallest.covariance)
    rounding = 1e-13 * smallest.half_time.isel(start=0)
    left = smallest.half_time - smallest.leading
    return ratio(abs(left.diff("start")), next_order + rounding)


def plot_learning_times(runs, figure):
    """Draw JEPA's preference by depth, and times of both objectives by the start."""
    preferences, times = plot.panels(
        figure, "JEPA prefers influence at depth", "Times are powers of the start", height=4.0
    )
    preferred = preference_at_any_start(runs)
    for colour, start in zip(plot.COLOURS, runs.start.values, strict=False):
        line = preferred.sel(start=start)
        preferences.plot(line.depth, line, "o-", color=colour, label=f"start {start:g}")
    preferences.set(xlabel="number of layers", ylabel="time, noise / signal")
    plot.legend(preferences, simulated="", predicted="", below=True)
    second = min(1, runs.sizes["depth"] - 1)
    deep = runs.sel(feature="signal").isel(depth=second)
    for colour, objective in zip(plot.COLOURS[4:], OBJECTIVES, strict=False):
        run = deep.sel(objective=objective)
        label = f"{objective.upper()}, {int(deep.depth)} layers"
        curves = (run.start, run.half_time, run.leading)
        plot.points_and_line(times, *curves, colour=colour, label=label)
    times.set(xscale="log", yscale="log", xlabel="start", ylabel="half-time of the signal")
    plot.legend(times, simulated="exact", predicted="leading orders", below=True)


# Two features, of which the less influential has more covariance.


def noise_and_signal(
    *, noise=(1.2, 0.5), signal=(1.0, 1.5), start=0.01, depths=(1, 2, 3, 4, 5), sweep=sweep
):
    """A deep JEPA learns the signal before noise of more covariance, which MAE learns first.

    Args:
        noise: covariance and influence of the less influential feature.
        signal: covariance and influence of the more influential feature.
        start: strength of both features in the encoder at time zero.
        depths: numbers of layers of the encoder.
    """
    check_pair(noise, signal, depths)
    check_positive(start=start)
    half = noise[1] ** max(depths) / 2
    learned = f"a strength below half of the smallest that is learned, {half:.3g}"
    check("start", start, lambda strength: strength < half, learned)
    with jax.enable_x64(True):
        covariance, influence = jnp.array([noise, signal]).T
        options = {"covariance": covariance, "influence": influence, "start": start}
        static = {"objective": OBJECTIVES}
        dims = {"share": "feature"}
        experiment = partial(pair_flow, **options)
        runs = sweep(experiment, {"depth": depths}, static=static, dims=dims)
        half_time = half_times_of(noise, signal, depths, [start], sweep)
    runs["half_time"] = crossing_time(runs.share, 0.5)
    runs["half_time_theory"] = half_time.half_time.isel(start=0, drop=True)
    return runs


def pair_flow(objective, depth, *, covariance, influence, start):
    """Flow of single features by their own equations."""
    fixed = theory.fixed_strength(influence, depth, objective)

    def velocity(time, strength):
        return theory.mode_velocity(strength, covariance, influence, depth, objective)

    def observe(state):
        return {"share": state.params / fixed}

    longest = longest_time(0.5, covariance, influence, start, depth, objective)
    times = 1.05 * longest * jnp.linspace(0.001, 1, 1000)
    # Half of the fastest relaxation, which is far from reached at half of the strength.
    solver = fixed_steps(0.5, covariance, influence, depth, objective)
    strengths = jnp.full(covariance.size, start)
    return integrate(velocity, strengths, times=times, observe=observe, solver=solver)


def half_time_deviation(runs):
    """Deviation of the half-times, relative to the longest time at which they are recorded."""
    deviation = runs.half_time - runs.half_time_theory
    return worst(deviation / runs.time.max("time"))


def noise_over_signal(half_time, objective):
    one = half_time.sel(objective=objective)
    return one.sel(feature="noise") / one.sel(feature="signal")


def mae_order(runs):
    return noise_over_signal(runs.half_time, "mae").max(skipna=False)


def is_deep(runs):
    """The depths at which JEPA learns the signal first, in theory."""
    return noise_over_signal(runs.half_time_theory, "jepa") > 1


def shallow_order(runs):
    order = noise_over_signal(runs.half_time, "jepa")
    return order.where(~is_deep(runs), drop=True).max(skipna=False)


def deep_order(runs):
    order = noise_over_signal(runs.half_time, "jepa")
    return order.where(is_deep(runs), drop=True).min(skipna=False)


def plot_noise_and_signal(runs, figure):
    """Draw the ratio of half-times by depth, and both features of the deepest JEPA."""
    orders, courses = plot.panels(
        figure, "Depth turns the order of JEPA", "Deep JEPA learns the signal first", height=3.2
    )
    for colour, objective in zip(plot.COLOURS[4:], OBJECTIVES, strict=False):
        simulated = noise_over_signal(runs.half_time, objective)
        predicted = noise_over_signal(runs.half_time_theory, objective)
        curves = (runs.depth, simulated, predicted)
        plot.points_and_line(orders, *curves, colour=colour, label=objective.upper())
    orders.axhline(1, color="0.6", linewidth=0.8, linestyle="--")
    orders.set(xlabel="number of layers", ylabel="half-time, noise / signal")
    plot.legend(orders, below=True)
    deepest = runs.sel(objective="jepa").isel(depth=-1)
    for name in deepest.feature.values:
        share = deepest.share.sel(feature=name)
        courses.plot(deepest.time, share, label=name)
    courses.axhline(0.5, color="0.6", linewidth=0.8, linestyle="--")
    courses.set(xlabel="flow time", ylabel="share of final strength")
    plot.legend(courses, simulated="", predicted="", below=True)


def has_noise_of_more_covariance(runs):
    covariance = runs.covariance
    return covariance.sel(feature="noise") > covariance.sel(feature="signal")


CLOSE_PAIR = {"noise": (1.1, 0.6), "signal": (0.9, 2.0), "depths": (1, 3, 4)}
SHALLOW = {"depths": (1, 2, 3)}

SMALL = Domain(
    "a start lies far below all strengths that are learned",
    lambda runs: is_small(runs).any(),
)
SMALL_AND_DEEP = Domain(
    "a start lies far below all strengths that are learned, and an encoder has two layers or more",
    lambda runs: is_small(runs).any() and runs.depth.max() > 1,
)
SMALL_AND_TWO_DEPTHS = Domain(
    "a start lies far below all strengths that are learned, and there are two depths or more",
    lambda runs: is_small(runs).any() and runs.sizes["depth"] > 1,
)
TWO_SMALL = Domain(
    "two starts lie far below all strengths that are learned", lambda runs: is_small(runs).sum() > 1
)
MORE_COVARIANCE = Domain(
    "the noise has more covariance than the signal",
    has_noise_of_more_covariance,
)
SOME_SHALLOW = Domain(
    "a JEPA is so shallow that theory has it learn the noise first",
    lambda runs: not is_deep(runs).all(),
)
SOME_DEEP = Domain(
    "a JEPA is so deep that theory has it learn the signal first",
    lambda runs: is_deep(runs).any(),
)

EXPERIMENTS = (
    Experiment(
        learning_times,
        claims=(
            Claim(
                "at equal covariance JEPA learns the more influential feature first",
                "smallest ratio of JEPA's times at equal covariance, noise / signal",
                smallest_preference,
                above=1,
                when=SMALL,
            ),
            Claim(
                "JEPA prefers the more influential feature the more, the deeper its encoder is",
                "smallest ratio of the preference of an encoder to that of the next shallower",
                growth_of_preference,
                above=1,
                when=SMALL_AND_TWO_DEPTHS,
            ),
            Claim(
                "from small starts JEPA's times are two powers of 1/start, the second over the "
                "influence, up to the third",
                "largest part of a time beyond the two powers, in units of the third",
                beyond_two_orders,
                below=2,
                when=SMALL_AND_DEEP,
            ),
            Claim(
                "from small starts MAE's times are one power of 1/start and a constant: blind to "
                "the influence in the leading order",
                "change with the start of a time beyond the power, in units of the next order",
                variation_beyond_one_order,
                below=1,
                when=TWO_SMALL,
            ),
        ),
        plot=plot_learning_times,
        others=(SHALLOW, CLOSE_PAIR),
    ),
    Experiment(
        noise_and_signal,
        claims=(
            Claim(
                "single features take the half-times of theory, to the thousandth of the longest "
                "time at which they are recorded",
                "largest deviation of a half-time, relative to the longest time",
                half_time_deviation,
                below=1e-3,
            ),
            Claim(
                "noise of more covariance but less influence precedes the signal in MAE, at any "
                "depth",
                "largest ratio of MAE's half-times, noise / signal",
                mae_order,
                below=1,
                when=MORE_COVARIANCE,
            ),
            Claim(
                "noise of more covariance but less influence precedes the signal in a shallow JEPA",
                "largest ratio of half-times, noise / signal, where theory has it below 1",
                shallow_order,
                below=1,
                when=SOME_SHALLOW,
            ),
            Claim(
                "the signal precedes noise of more covariance in a deep JEPA",
                "smallest ratio of half-times, noise / signal, where theory has it above 1",
                deep_order,
                above=1,
                when=SOME_DEEP,
            ),
        ),
        plot=plot_noise_and_signal,
        others=(SHALLOW, CLOSE_PAIR),
    ),
)
