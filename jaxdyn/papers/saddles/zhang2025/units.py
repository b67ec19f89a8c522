"""Neurons and kernels that are not linear: units blow up one by one, and the initial weights
decide."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxdyn import Claim, Domain, State, models, plot, sweep
from jaxdyn.losses import squared_error, teacher_loss
from jaxdyn.observables import clusters
from jaxdyn.papers import Experiment
from jaxdyn.papers.saddles.zhang2025.course import (
    LEVEL_DISTANCE,
    SADDLES_PASSED,
    Network,
    active_units,
    after_start,
    course_legend,
    courses,
    draw_course,
    draw_widths,
    drop_deviation,
    level_distance,
    number_of_saddle,
    passes_saddles,
    width_deviation,
)
from jaxdyn.theory import saddles

__all__ = ["EXPERIMENTS"]

# Quadratic neurons: the initial weights decide which unit blows up next.


def quadratic_neurons(*, curvature=2.0, units=8, seeds=2, records=1200, sweep=sweep):
    """Quadratic neurons are learned one after another even where the data treat all directions
    alike, the first when it would have blown up by itself.

    The target is c |x|^2 in three dimensions.

    Args:
        curvature: the curvature c of the target.
        units: number of neurons, three at least.
        seeds: number of networks.
        records: number of steps of the integration, each of which is recorded.
    """
    if units < 3:
        raise ValueError(f"units: {units} neurons; pass 3 or more, one for each dimension")
    if curvature <= 0:
        raise ValueError(f"curvature: {curvature}; pass a number > 0")
    with jax.enable_x64(True):
        return courses(squares, {}, sweep, seeds, records, curvature=curvature, units=units)


def squares(key, *, curvature, units):
    """Quadratic neurons of small random weights."""
    c = curvature
    k_weights = jax.random.split(key, 7)[1]
    goal = {"u": jnp.eye(3), "v": jnp.full(3, c)}
    model = models.two_layer(3, units, activation=jnp.square, scale=0.02)
    weights = model.init(k_weights)

    # Of c |x|^2 the moments E y x x^T are 5 c: what each unit feels while all are small.
    def energy(unit):
        return 5 * c * unit["v"] * unit["u"] @ unit["u"]

    escape = partial(saddles.blow_up_time, energy)
    escapes = jnp.sort(jax.vmap(escape)(weights))
    levels, excess = saddles.quadratic_plateaus(goal["v"])
    drops = escapes[:1] - saddles.quadratic_lead(c + excess[1])
    # Three times as long as the third unit needs by itself; slow ones are cut off.
    time = jnp.minimum(3 * escapes[2], 60 / c)

    def matrices(weights):
        scaled = weights["v"][:, None] * weights["u"]
        return scaled[:, :, None] * weights["u"][:, None]

    width = active_units(matrices)
    return Network(weights, teacher_loss("square"), goal, width, time, levels, drops)


def units_take_turns(runs):
    first = runs.drops.isel(plateau=0)
    second = runs.drops.isel(plateau=1)
    return bool((second > 1.1 * first).all())


def plot_quadratic_neurons(runs, figure):
    """Draw the course of one network, and how many units it uses on the way."""
    one, width = plot.panels(figure, "The loss falls unit by unit", "Active units at the saddles")
    run = runs.isel(seed=0)
    draw_course(one, run)
    course_legend(figure, one)
    draw_widths(width, runs, ylabel="active units")


# Rectifiers: one direction after another.


def rectifiers(
    *,
    teacher=(3.0, -1.0),
    kernel_teacher=(1.0, -0.5),
    patches=4.0,
    seeds=2,
    records=1200,
    sweep=sweep,
):
    """Rectifiers, as neurons or as kernels of a convolution, first act like the best single one,
    with all weights in one direction.

    Ten rectifiers in the plane learn a teacher of two, along the axes; as kernels they sum over
    patches.

    Args:
        teacher: output weights of the two neurons of the teacher.
        kernel_teacher: output weights of the two kernels of the teacher.
        patches: number of patches of the convolution.
        seeds: number of networks.
        records: number of steps of the integration, each of which is recorded.
    """
    for name, outputs in (("teacher", teacher), ("kernel_teacher", kernel_teacher)):
        if len(outputs) != 2 or not any(outputs):
            raise ValueError(f"{name}: {outputs}; pass two output weights, not both 0")
    options = {"teacher": teacher, "kernel_teacher": kernel_teacher, "patches": patches}
    axes = {"kernels": (0, 1)}
    with jax.enable_x64(True):
        runs = courses(rectified, axes, sweep, seeds, records, **options)
    opposite = any(sum(outputs) == 0 for outputs in (teacher, kernel_teacher))
    runs = runs.assign_coords(kernels=["neurons", "kernels"])
    return runs.assign_attrs(opposite=int(opposite))


def rectified(key, *, kernels, teacher, kernel_teacher, patches):
    """Rectifiers with a teacher of two: neurons, or kernels of a convolution."""
    student = models.two_layer(2, 10, activation=jax.nn.relu, balanced=True, scale=1e-4)
    weights = student.init(jax.random.split(key, 7)[2])
    outputs = jnp.where(kernels, jnp.array(kernel_teacher), jnp.array(teacher))
    goal = {"u": jnp.eye(2), "v": outputs}
    n = jnp.where(kernels, patches, 1)
    loss = teacher_loss("relu", n)
    level, unit = saddles.best_rectifier(goal["u"], goal["v"], n)
    nothing = jax.tree.map(jnp.zeros_like, goal)
    levels = jnp.stack([loss(nothing, goal), level, 0 * level])

    def size(weights):
        return jnp.linalg.norm(weights["u"], axis=1)

    def units(weights):
        norms = size(weights)
        return weights["u"] / norms[:, None], weights["v"] * norms

    time = 180 / n / jnp.linalg.norm(unit)
    return Network(weights, loss, goal, formed(0.2, units), time, levels)


def formed(radius, units):
    """How many clusters of a `radius` the units form."""
    return lambda weights: clusters(units, radius=radius)(State(0, weights))["clusters"]


def plot_rectifiers(runs, figure):
    """Draw a course of neurons and one of kernels."""
    panels = plot.panels(figure, "Neurons: one direction first", "Kernels: one direction first")
    for axes, kind in zip(panels, ("neurons", "kernels"), strict=True):
        draw_course(axes, runs.sel(kernels=kind).isel(seed=0))
    course_legend(figure, panels[0])


# Kinks: functions of one variable bend more and more often.


def kinks(*, seeds=2, records=1200, sweep=sweep):
    """Rectifiers that learn a function of one variable have no more kinks than they have passed
    saddles.

    Twenty rectifiers learn a function with three kinks from 41 places in [-1, 1].

    Args:
        seeds: number of networks.
        records: number of steps of the integration, each of one unit of time.
    """
    with jax.enable_x64(True):
        return courses(bends, {}, sweep, seeds, records, time=1.0 * records)


def bends(key, *, time):
    """Rectifiers of one input and a bias, and a function with three kinks."""
    x = jnp.linspace(-1, 1, 41)
    knots = jnp.array([-0.6, 0.0, 0.5])
    slopes = jnp.array([2.0, -3.0, 3.0])
    inputs = jnp.stack([x, jnp.ones_like(x)], 1)
    targets = jax.nn.relu(x[:, None] - knots[None]) @ slopes
    model = models.two_layer(2, 20, activation=jax.nn.relu, balanced=True, scale=1e-4)

    def units(weights):
        slope, bias = jnp.split(weights["u"], 2, axis=1)
        place = -bias / slope
        bend = weights["v"] * slope[:, 0]
        inside = jnp.abs(place[:, 0]) < 1
        return place, jnp.where(inside, bend, 0)

    weights = model.init(jax.random.split(key, 7)[6])
    loss = squared_error(model.apply)
    return Network(weights, loss, (inputs, targets), formed(0.1, units), time)


def surplus_kinks(runs):
    """By how many a function's kinks exceed the number of its saddle."""
    surplus = runs.width - number_of_saddle(runs)
    return float(surplus.where(after_start(runs)).max())


def plot_kinks(runs, figure):
    """Draw the course of one network, and the numbers of kinks of all of them at their saddles."""
    one, number = plot.panels(figure, "The loss falls kink by kink", "Kinks at the saddles")
    draw_course(one, runs.isel(seed=0))
    course_legend(figure, one)
    draw_widths(number, runs, ylabel="kinks")


UNITS_ONE_BY_ONE = Claim(
    "quadratic neurons learn equal directions one after another, from equal scales",
    "largest deviation of the number of active units at a saddle from that of the narrow network "
    "of its loss",
    width_deviation,
    below=0.05,
    when=SADDLES_PASSED,
)
FIRST_DROP = Claim(
    "losses of quadratic neurons first drop when a single one of them would have blown up, up to a "
    "constant that theory gives",
    "largest relative deviation of the first drop's time from theory",
    drop_deviation,
    below=1e-3,
    # The units that blow up next are large by then, and move the first.
    when=Domain("the second drop is later than the first by a tenth or more", units_take_turns),
)
UNITS_PAUSE = Claim(
    "at their saddles quadratic neurons have the losses of the best narrower networks",
    LEVEL_DISTANCE,
    level_distance,
    below=1,
    when=SADDLES_PASSED,
)
RECTIFIERS_PAUSE = Claim(
    "at their saddles rectifiers, as neurons or as kernels, have the loss of the best single one",
    LEVEL_DISTANCE,
    level_distance,
    below=1,
    when=SADDLES_PASSED,
)
ONE_DIRECTION = Claim(
    "at the saddle of the best single rectifier all rectifiers point in one direction",
    "largest deviation of the number of directions at a saddle from that of the narrow network of "
    "its loss",
    width_deviation,
    below=0.01,
    # Between two outputs that are opposite two single rectifiers are equally good.
    when=Domain(
        "a saddle is passed and no teacher has opposite outputs",
        lambda runs: passes_saddles(runs) and not runs.attrs["opposite"],
    ),
)
FEW_KINKS = Claim(
    "at their n-th saddle rectifiers of one variable compute a function of n kinks or fewer",
    "largest number of kinks above that of the saddle",
    surplus_kinks,
    below=0.5,
    when=SADDLES_PASSED,
)
FEW_PATCHES = {"teacher": (2.0, 1.0), "patches": 2.0}
MANY_PATCHES = {"teacher": (-2.0, 0.5), "kernel_teacher": (1.0, -0.3), "patches": 6.0}
MORE_SEEDS = {"seeds": 8, "records": 4000}

QUADRATIC = Experiment(
    quadratic_neurons,
    claims=(UNITS_ONE_BY_ONE, FIRST_DROP, UNITS_PAUSE),
    plot=plot_quadratic_neurons,
    paper=MORE_SEEDS,
    others=({"curvature": 1.0, "units": 5}, {"curvature": 3.0, "units": 12}),
)
RECTIFIERS = Experiment(
    rectifiers,
    claims=(RECTIFIERS_PAUSE, ONE_DIRECTION),
    plot=plot_rectifiers,
    paper=MORE_SEEDS,
    others=(FEW_PATCHES, MANY_PATCHES),
)
KINKS = Experiment(
    kinks,
    claims=(FEW_KINKS,),
    plot=plot_kinks,
    paper=MORE_SEEDS,
    others=({"seeds": 3}, {"records": 1600}),
)
EXPERIMENTS = (QUADRATIC, RECTIFIERS, KINKS)
