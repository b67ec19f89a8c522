"""The course from small weights: how they grow, when entropy falls, and where it ends."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdyn import Claim, Domain, plot, sweep
from jaxdyn.claims import worst
from jaxdyn.papers import Experiment
from jaxdyn.papers.plasticity.mahi2025.layers import (
    FOUR_LAYERS,
    PAPER,
    SMALLER,
    check_task,
    train_layers,
)

__all__ = ["EXPERIMENTS"]

# Collapse: the last layer no longer tells inputs apart.


def collapse(
    *,
    examples=60,
    inputs=32,
    classes=5,
    widths=(16, 8, 5),
    duration=9.0,
    rate=0.01,
    scale=0.05,
    sweep=sweep,
):
    """The last layer comes to give all inputs the same outputs.

    Args:
        examples: number of inputs that are learned from.
        inputs: number of entries of an input.
        classes: number of patterns whose noisy copies the inputs are.
        widths: numbers of units of the layers.
        duration: flow time, learning rate times steps.
        rate: learning rate.
        scale: scale of the initial weights.
    """
    task = check_task(examples, inputs, classes, widths, duration, rate)
    runs = train_layers([(rate, scale)], 4 * rate, task, duration, sweep)
    run = runs.isel(point=0)[["spread", "ok"]]
    return run.assign_attrs(layers=len(widths))


def last_spread(run):
    return run.spread.isel(time=-1)


def saturated(run):
    """Whether the flow is three times as long as the first layer needs to grow to order one, and
    the last layer sees another one."""
    growing = np.log(1 / float(run.scale)) / run.attrs["growth"]
    return run.attrs["layers"] > 1 and float(run.time[-1]) >= 3 * growing


def plot_collapse(run, figure):
    """Draw how much the outputs of the last layer differ between inputs."""
    (axes,) = plot.panels(figure, "The last layer does not tell inputs apart", height=3)
    plot.points_and_line(axes, run.time, run.spread, label="last layer")
    axes.set(xlabel="learning rate x step", ylabel="deviation of outputs over inputs", yscale="log")
    plot.legend(axes, predicted="")


# Scales of the start: the time at which entropy falls fastest.


def start_scales(
    *,
    examples=60,
    inputs=32,
    classes=5,
    widths=(16, 8, 5),
    duration=9.0,
    rate=0.01,
    scales=(0.5, 0.05, 5e-3),
    sweep=sweep,
):
    """The time at which entropy falls fastest is no property of the system: it waits ln(10)/r longer
    for every decade by which the start is smaller.

    Args:
        examples: number of inputs that are learned from.
        inputs: number of entries of an input.
        classes: number of patterns whose noisy copies the inputs are.
        widths: numbers of units of the layers.
        duration: flow time, learning rate times steps.
        rate: learning rate.
        scales: scales of the initial weights, two at least.
    """
    task = check_task(examples, inputs, classes, widths, duration, rate)
    scales = sorted(set(scales))
    if len(scales) < 2 or scales[0] <= 0:
        raise ValueError(f"scales: {scales}; pass two different ones > 0 or more")
    points = [(rate, scale) for scale in scales]
    runs = train_layers(points, 4 * rate, task, duration, sweep)
    runs = runs.swap_dims(point="scale").drop_vars("rate")
    return runs[["entropy_rate", "ok"]].isel(layer=0)


def sharpest(runs):
    """When entropy falls fastest, where that is not at the end of the record."""
    when = runs.entropy_rate.idxmin("time")
    return when.where(when < runs.time[-1])


def delay_theory(runs):
    """How much later than the largest scale each scale is by theory, ln(ratio) / r."""
    return -np.log(runs.scale / runs.scale[-1]) / runs.attrs["growth"]


def variation(runs):
    """By how much the times differ, relative to their mean."""
    when = sharpest(runs)
    return (when.max() - when.min()) / when.mean()


def delay_deviation(runs):
    """How far the delay of the smallest scale behind the next is from theory, in records."""
    record = float(runs.time[1] - runs.time[0])
    beyond = sharpest(runs) - delay_theory(runs)
    return abs(float(beyond[0] - beyond[1])) / record


def falls_before_the_end(runs):
    return bool(sharpest(runs).notnull().all())


def different(runs):
    """Whether theory's delays are a tenth of the times or more."""
    longest = float(delay_theory(runs).max())
    return falls_before_the_end(runs) and longest > 0.1 * float(sharpest(runs).mean())


def small_scales(runs):
    return falls_before_the_end(runs) and float(runs.scale[1]) <= 0.2


def plot_start_scales(runs, figure):
    """Draw the rates at which entropy falls, and when it does so fastest."""
    course, times = plot.panels(figure, "Smaller starts come later", "By ln(1/scale)/r", height=3.4)
    when = sharpest(runs)
    for colour, place in zip(plot.COLOURS, range(runs.sizes["scale"]), strict=False):
        one = runs.isel(scale=place)
        course.plot(one.time, one.entropy_rate, color=colour, label=f"scale {float(one.scale):g}")
        course.plot(when[place], one.entropy_rate.min(), "o", color=colour)
    course.set(xlabel="learning rate x step", ylabel="entropy rate (bits per time)")
    plot.legend(course, simulated="steepest", predicted="", below=True)
    delays = delay_theory(runs)
    law = when[0] + delays - delays[0]
    plot.points_and_line(times, runs.scale, when, law)
    times.set(xlabel="scale of the start", ylabel="time of the steepest fall", xscale="log")
    plot.legend(times, below=True)


# Small activities: the instability of z = 0.


def small_activity(
    *,
    examples=60,
    inputs=32,
    classes=5,
    widths=(16, 8, 5),
    duration=9.0,
    rate=0.01,
    scale=1e-7,
    sweep=sweep,
):
    """Small activities of the first layer grow at the rate of the largest eigenvalue of the inputs'
    covariance over 4 ln 2.

    Args:
        examples: number of inputs that are learned from.
        inputs: number of entries of an input.
        classes: number of patterns whose noisy copies the inputs are.
        widths: numbers of units of the layers.
        duration: flow time, learning rate times steps.
        rate: learning rate.
        scale: scale of the initial weights.
    """
    task = check_task(examples, inputs, classes, widths, duration, rate)
    runs = train_layers([(rate, scale)], 4 * rate, task, duration, sweep)
    run = runs.isel(point=0, layer=0)
    step = rate * runs.attrs["growth"]
    # A step sees the change of the step before, too.
    discrete = float(np.log1p(step * (1 + step)) / rate)
    return run[["activity", "ok"]].assign_attrs(growth_theory=discrete)


def late(run):
    """The last twenty records while the activity is small."""
    return run.isel(time=np.flatnonzero(run.activity < 0.1)[-20:])


def growth_deviation(run):
    ends = late(run).isel(time=[0, -1])
    rise = np.log(ends.activity).diff("time")
    measured = rise.values / ends.time.diff("time").values
    return worst(measured, run.attrs["growth_theory"], relative=True)


def second_mode(run):
    """How much the second mode still adds to the growth, and rounding."""
    start = float(late(run).time[0])
    behind = run.attrs["growth"] - run.attrs["next_growth"]
    return float(np.exp(-2 * behind * start)) + 1e-4


def small_for_long(run):
    return late(run).sizes["time"] == 20 and second_mode(run) < 0.01


def plot_small_activity(run, figure):
    """Draw the activity of the first layer, and its growth in theory."""
    (axes,) = plot.panels(figure, "z = 0 is unstable at the rate of theory", height=3)
    anchor = late(run).isel(time=0)
    exponent = run.attrs["growth_theory"] * (run.time - anchor.time)
    law = anchor.activity * np.exp(exponent)
    law = law.where(run.time <= late(run).time[-1])
    plot.points_and_line(axes, run.time, run.activity, law)
    axes.set(xlabel="learning rate x step", ylabel="activity |z| of layer 1", yscale="log")
    plot.legend(axes)


# Least action: an equation that every path solves.


def least_action(*, places=20, sweep=sweep):
    """The Euler-Lagrange equation of the paper's Lagrangian holds on any path, so that least action
    selects none.

    Args:
        places: number of times at which it is tried, on a path that no layer takes.
    """
    if places < 2:
        raise ValueError(f"places: {places}; pass two or more")
    with jax.enable_x64(True):
        return sweep(off_least_action, {"place": np.linspace(0.1, 2, places)})


def off_least_action(place):
    """What the Euler-Lagrange equation of L = -z' z h (1 - h) leaves on a path that no layer
    takes."""

    def path(t):
        return 1.3 * jnp.sin(2 * t) + 0.4 * t**2 - 1

    def lagrangian(z, speed):
        return -z * jax.nn.sigmoid(z) * jax.nn.sigmoid(-z) * speed

    def momentum(t):
        return jax.grad(lagrangian, 1)(path(t), jax.grad(path)(t))

    change = jax.grad(momentum)(place)
    speed = jax.grad(path)(place)
    force = jax.grad(lagrangian, 0)(path(place), speed)
    return {"change": change, "change_theory": force, "left": change - force}


def action_left(runs):
    return worst(runs.left)


def plot_least_action(runs, figure):
    """Draw both sides of the equation on the path."""
    (axes,) = plot.panels(figure, "Any path solves the Euler-Lagrange equation", height=3)
    plot.beside(axes, runs, "change", x="place")
    axes.set(xlabel="time on the path", ylabel="both sides of the equation")
    plot.legend(axes, simulated="change of momentum", predicted="force")


COLLAPSE_CLAIM = Claim(
    "the last layer comes to give all inputs the same outputs",
    "largest standard deviation of an output over the inputs, in the end",
    last_spread,
    below=1e-3,
    when=Domain(
        "there are two layers or more, and the flow takes three times ln(1/scale)/r or more",
        saturated,
    ),
)
INTRINSIC = Claim(
    "the time at which entropy falls fastest is intrinsic: it does not depend on the start",
    "range of these times over their mean",
    variation,
    below=0.05,
    when=Domain(
        "entropy falls fastest before the end, and scales differ enough to tell", different
    ),
    holds=False,
)
DELAY = Claim(
    "entropy falls fastest ln(10) / r later for every decade by which the start is smaller, within "
    "two records",
    "deviation of the delay of the smallest start from theory, in records",
    delay_deviation,
    below=2,
    when=Domain(
        "entropy falls fastest before the end, and two scales are 0.2 or less", small_scales
    ),
)
GROWTH = Claim(
    "small activities of the first layer grow by 1 + a r (1 + a r) a step of learning rate a, r = "
    "lambda_max / (4 ln 2)",
    "relative deviation of the growth rate from theory, below what the second mode adds",
    growth_deviation,
    below=second_mode,
    when=Domain("activities are small until the second mode is 1 % or less", small_for_long),
)
ANY_PATH = Claim(
    "the Euler-Lagrange equation holds on any path, so that least action selects none",
    "largest difference of both sides on a path that no layer takes",
    action_left,
    below=1e-12,
)
LARGER_START = FOUR_LAYERS | {"scale": 0.1}
FEW_PLACES = {"places": 5}
MANY_PLACES = {"places": 50}
TWO_SCALES = FOUR_LAYERS | {"scales": (0.2, 0.02)}

COLLAPSE = Experiment(
    collapse,
    claims=(COLLAPSE_CLAIM,),
    plot=plot_collapse,
    paper=PAPER,
    others=(SMALLER, LARGER_START),
)
START_SCALES = Experiment(
    start_scales,
    claims=(INTRINSIC, DELAY),
    plot=plot_start_scales,
    paper=PAPER,
    others=(SMALLER, TWO_SCALES),
)
SMALL_ACTIVITY = Experiment(
    small_activity,
    claims=(GROWTH,),
    plot=plot_small_activity,
    paper=PAPER,
    others=(SMALLER, FOUR_LAYERS),
)
LEAST_ACTION = Experiment(
    least_action,
    claims=(ANY_PATH,),
    plot=plot_least_action,
    others=(FEW_PLACES, MANY_PLACES),
)
EXPERIMENTS = (SMALL_ACTIVITY, START_SCALES, COLLAPSE, LEAST_ACTION)
