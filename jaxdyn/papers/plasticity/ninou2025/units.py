"""Units: a single unit w_2 w_1 that learns the target 1, plainly or with its sign turned."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdyn import RK4, Claim, crossing_time, flow, plot, sweep
from jaxdyn.claims import Domain, worst
from jaxdyn.papers import Experiment
from jaxdyn.papers.plasticity.ninou2025.students import LOSS
from jaxdyn.rules import sign_diverse
from jaxdyn.tasks import linear_teacher
from jaxdyn.theory.plasticity import curl

__all__ = ["CIRCLES", "ESCAPE"]


def unit(first, second, turned):
    """Flow of one unit w_2 w_1 of target 1, plainly or with its outgoing weight turned."""
    field = sign_diverse(jax.grad(LOSS), [1.0, 1 - 2 * turned])
    target = linear_teacher(jnp.ones((1, 1)))

    def observe(state):
        both = jnp.stack(state.params).ravel()
        return {"w": both, "loss": LOSS(state.params, target)}

    # Denser at the start, where turned units move.
    times = 40 * np.linspace(0, 1, 801) ** 2
    start = [jnp.reshape(w, (1, 1)) for w in (first, second)]
    return flow(field, target, start, times=times, observe=observe, solver=RK4(0.02))


# Escape: how long a unit stays near the saddle.


def escape(*, gaps=(1e-1, 1e-3, 1e-5, 1e-7), sweep=sweep):
    """A unit with its sign turned leaves the saddle at once, however close to its stable manifold.

    Gradient flow from w = (1.2, -1.2 + gap) passes the saddle at the origin, the later the smaller
    the gap.

    Args:
        gaps: distances of the start from the line on which gradient flow ends at the saddle.
    """
    gaps = tuple(sorted(set(gaps), reverse=True))
    starts = [(1.2, gap - 1.2) for gap in gaps]
    with jax.enable_x64(True):
        axes = {("first", "second"): starts, "turned": (0.0, 1.0)}
        runs = sweep(unit, axes, dims={"w": "weight"})
    runs["learned"] = crossing_time(runs.loss, 1e-3)
    runs = runs.rename(first_second="gap").drop_vars(["first", "second"])
    return runs.assign_coords(gap=list(gaps), turned=["gradient flow", "turned"])


def delays(runs, kind):
    """How much later a unit has learned for each e-fold by which it starts closer to the saddle."""
    learned = runs.learned.sel(turned=kind).values
    closer = -np.diff(np.log(runs.gap.values))
    # From the first to the second gap the unit is not near the saddle yet.
    return (np.diff(learned) / closer)[1:]


def gradient_delay(runs):
    return worst(delays(runs, "gradient flow"), 1.0)


def turned_delay(runs):
    return worst(delays(runs, "turned"))


def climb(runs):
    """The highest loss on its way over that at the start, of the turned unit of the largest gap:
    that of the others is at its highest at the start already."""
    loss = runs.loss.sel(turned="turned").isel(gap=0)
    highest = loss.max("time", skipna=False)
    return highest / loss.isel(time=0)


def close_gaps(runs):
    gaps = runs.gap.values
    return gaps.size >= 3 and gaps[0] <= 0.1 and gaps[-1] >= 1e-12


def visible_gap(runs):
    return 1e-4 <= runs.gap.values[0] <= 0.5


def plot_escape(runs, figure):
    """Draw the losses of all units, and when they have learned."""
    loss, learned = plot.panels(
        figure, "Turned units climb, and learn at once", "Gradient flow is late", height=3.8
    )
    for kind, colour in zip(runs.turned.values, plot.COLOURS, strict=False):
        chosen = runs.sel(turned=kind)
        values = np.maximum(chosen.loss.transpose("time", "gap"), 1e-6)
        loss.plot(runs.time, values, color=colour)
        slope = 1.0 if kind == "gradient flow" else 0.0
        later = slope * np.log(runs.gap[-1] / runs.gap)
        theory = chosen.learned[-1] + later
        plot.points_and_line(learned, runs.gap, chosen.learned, theory, colour=colour, label=kind)
    loss.set(xlabel="flow time", ylabel="loss of a unit", yscale="log", xlim=(0, 20))
    learned.set(xlabel="distance of the start", ylabel="flow time to learn", xscale="log")
    plot.legend(learned, predicted="ln(1 / distance), or none", below=True)


# Circles: where turned units end.


def circles(*, first=(0.6, 1.6, 0.3, 1.2), second=(1.4, 0.4, 1.0, -1.1), sweep=sweep):
    """A unit with its sign turned stays on its circle, and ends on the solution there or goes
    round.

    Its flow keeps w_1^2 + w_2^2; where that is below 2 the circle has no solution w_1 w_2 = 1.

    Args:
        first: weights into the units at the start.
        second: weights out of the units at the start, one for each.
    """
    if len(first) != len(second):
        raise ValueError(f"second: {second} is not as long as first: {first}; pass one for each")
    starts = list(dict.fromkeys(zip(first, second, strict=True)))
    with jax.enable_x64(True):
        axes = {("first", "second"): starts, "turned": (1.0,)}
        runs = sweep(unit, axes, dims={"w": "weight"})
        runs = runs.isel(turned=0, drop=True).rename(first_second="start")
        limit = curl.turned_unit_limit(runs["first"].values, runs["second"].values, 1.0)
    runs["limit"] = ("weight", "start"), np.array(limit)
    return runs


def squared_radius(runs):
    return (runs.w**2).sum("weight", skipna=False)


def radius_deviation(runs):
    radius = squared_radius(runs)
    return worst(radius, radius.isel(time=0))


def ending(runs):
    return runs.isel(start=np.flatnonzero(runs.limit.notnull().all("weight")))


def rotating(runs):
    return runs.isel(start=np.flatnonzero(runs.limit.isnull().any("weight")))


def limit_deviation(runs):
    ended = ending(runs)
    last = abs(ended.w.isel(time=-1)) - abs(ended.limit)
    return worst(last)


def lowest_loss(runs):
    """The lowest loss on a circle without a solution, in theory."""
    radius = squared_radius(runs).isel(time=0)
    return (1 - radius / 2) ** 2 / 2


def rotating_deviation(runs):
    turning = rotating(runs)
    late = turning.loss.isel(time=slice(400, None))
    return worst(late.min("time"), lowest_loss(turning), relative=True)


def apart_from_tangent(runs):
    """Whether some unit ends, and none so near to where no solution is left that it slows down."""
    radius = squared_radius(ending(runs)).isel(time=0).values
    return radius.size > 0 and radius.min() > 2.2


def some_go_round(runs):
    radius = squared_radius(rotating(runs)).isel(time=0).values
    return radius.size > 0 and radius.max() < 1.5 and radius.min() > 0.5


def plot_circles(runs, figure):
    """Draw the paths of all units in the plane of their weights."""
    (axes,) = plot.panels(figure, "Turned units stay on circles", height=4.6)
    angle = np.linspace(0, 2 * np.pi, 200)
    # The first quarter of the time, in which all units come to their ends or go round.
    path = runs.w.isel(time=slice(None, 400, 8))
    for place in range(runs.sizes["start"]):
        colour = plot.COLOURS[place % len(plot.COLOURS)]
        first, second = path.isel(start=place).transpose("weight", "time").values
        label = f"from ({first[0]:.2g}, {second[0]:.2g})"
        axes.plot(first, second, "o", color=colour, markersize=3, label=label)
        radius = np.hypot(first[0], second[0])
        x = radius * np.cos(angle)
        y = radius * np.sin(angle)
        axes.plot(x, y, color=colour)
    solutions = np.linspace(0.5, 2, 50)
    axes.plot(solutions, 1 / solutions, "--", color="black", label="solutions")
    axes.plot(-solutions, -1 / solutions, "--", color="black")
    axes.set(xlabel="weight into the unit", ylabel="weight out of the unit", aspect="equal")
    plot.legend(axes, predicted="circle", below=True, bbox_to_anchor=(0.5, -0.15), ncols=2)


CLOSE_GAPS = Domain("there are three gaps between 1e-12 and 0.1", close_gaps)
VISIBLE = Domain("the largest gap is between 1e-4 and 0.5", visible_gap)
ENDING = Domain(
    "units have a solution on their circle, none of them with w_1^2 + w_2^2 below 2.2",
    apart_from_tangent,
)
ROUND = Domain(
    "units have no solution on their circle, all of them with w_1^2 + w_2^2 between 0.5 and 1.5",
    some_go_round,
)

ESCAPE_CLAIMS = (
    Claim(
        "gradient flow leaves the saddle later by ln(1 / distance)",
        "largest deviation from 1 of the delay for each e-fold of the distance",
        gradient_delay,
        below=0.01,
        when=CLOSE_GAPS,
    ),
    Claim(
        "a unit with its sign turned leaves the saddle at once, however close it starts",
        "largest delay for each e-fold of the distance",
        turned_delay,
        below=0.01,
        when=CLOSE_GAPS,
    ),
    Claim(
        "a unit with its sign turned climbs the loss on its way to the solution",
        "ratio of the highest loss to that at the start",
        climb,
        above=1,
        when=VISIBLE,
    ),
)
CIRCLES_CLAIMS = (
    Claim(
        "a unit with its sign turned keeps w_1^2 + w_2^2",
        "largest change of w_1^2 + w_2^2",
        radius_deviation,
        below=1e-6,
    ),
    Claim(
        "a unit with its sign turned ends on the solution of its circle, where that has one",
        "largest deviation of a final weight from the limit in theory",
        limit_deviation,
        below=1e-6,
        when=ENDING,
    ),
    Claim(
        "a unit with its sign turned goes round where its circle has no solution, with a lowest "
        "loss of (1 - (w_1^2 + w_2^2)/2)^2 / 2",
        "largest relative deviation of the lowest late loss, at times 0.05 to 0.1 apart",
        rotating_deviation,
        below=0.05,
        when=ROUND,
    ),
)
THREE_GAPS = {"gaps": (1e-2, 1e-4, 1e-6)}
CLOSER_GAPS = {"gaps": (1e-2, 1e-3, 1e-8)}
TWO_STARTS = {"first": (0.5, 1.0), "second": (0.7, 1.5)}
OTHER_STARTS = {"first": (0.4, 0.9), "second": (1.7, 0.1)}

ESCAPE = Experiment(
    escape,
    claims=ESCAPE_CLAIMS,
    plot=plot_escape,
    others=(THREE_GAPS, CLOSER_GAPS),
)
CIRCLES = Experiment(
    circles,
    claims=CIRCLES_CLAIMS,
    plot=plot_circles,
    others=(TWO_STARTS, OTHER_STARTS),
)
