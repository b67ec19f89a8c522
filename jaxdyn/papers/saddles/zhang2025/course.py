"""What all architectures share: a network, its course, its saddles, and how they are drawn."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from jaxdyn import RK4, Domain, State, Trajectory, crossing_time, flow, plot
from jaxdyn.analysis import saddle_records
from jaxdyn.claims import worst
from jaxdyn.observables import effective_width, snapshot

__all__ = [
    "DROP_DEVIATION",
    "LEVEL_DISTANCE",
    "SADDLES_PASSED",
    "Network",
    "active_units",
    "after_start",
    "course_legend",
    "courses",
    "draw_course",
    "draw_drops",
    "draw_widths",
    "drop_deviation",
    "level_distance",
    "number_of_saddle",
    "passes_saddles",
    "reach",
    "width_deviation",
]


class Network(NamedTuple):
    """A network in training, and what theory says of its course.

    Attributes:
        params: its initial weights.
        loss: its loss, a function of the weights and of the batch.
        batch: the task or the moments that its loss needs.
        width: how wide it acts, a function of the weights.
        time: the flow time at which its course ends.
        levels: the losses of theory's plateaus, the highest first.
        drops: theory's times at which the loss passes midway from one level to the next.
    """

    params: Any
    loss: Callable[..., Any]
    batch: Any
    width: Callable[[Any], Any] | None
    time: Any
    levels: Any = ()
    drops: Any = ()


def courses(architecture, axes, sweep, seeds, records, **options):
    """Sweep the courses of networks of an architecture, and mark the saddles on their way."""
    dims = dict.fromkeys(("loss", "gradient_norm", "norm", "width", "share"), "share")
    dims |= {"levels": "plateau", "drops_theory": "plateau"}
    experiment = partial(staircase, architecture=architecture, records=records, **options)
    return with_saddles(sweep(experiment, axes, seeds=seeds, dims=dims))


def staircase(key, *, architecture, records, **options):
    """Flow of a network in units of the time of its whole course."""
    network = architecture(key, **options)
    share = np.linspace(0, 1, records + 1)
    gradient = jax.grad(network.loss)

    # Compiled by itself, as each stage of the method would trace it again.
    @jax.jit
    def field(params, _):
        slopes = gradient(params, network.batch)
        return jax.tree.map(lambda slope: network.time * slope, slopes)

    def observe(state):
        seen = snapshot(network.loss, network.batch)(State(0, state.params))
        norm = jnp.linalg.norm(seen.pop("params"))
        return seen | {"width": network.width(state.params), "norm": norm}

    run = flow(field, None, network.params, times=share, observe=observe, solver=RK4(1 / records))
    plateaus = max(len(network.levels), len(network.drops) + 1)

    def padded(values):
        missing = plateaus - len(values)
        return jnp.pad(jnp.asarray(values, float), (0, missing), constant_values=jnp.nan)

    theory = {"levels": padded(network.levels), "drops_theory": padded(network.drops)}
    times = {"duration": jnp.asarray(network.time, float), "share": share}
    return run.observed | theory | times | {"ok": jnp.all(run.ok)}


def with_saddles(runs):
    """Add when the losses drop, midway between theory's plateaus, and the saddles on their way."""
    midway = (runs.levels + runs.levels.shift(plateau=-1)) / 2
    runs["drops"] = crossing_time(runs.loss, midway, dim="share") * runs.duration
    loss = runs.loss.transpose(..., "share")
    gradient_norm = runs.gradient_norm.transpose(..., "share")
    rows = (-1, loss.sizes["share"])
    # A dip of the gradient by 0.2 decades: from initial weights of 1e-4 the saddles between
    # singular values of ratio 2 are not deeper.
    find = jax.jit(jax.vmap(partial(saddle_records, prominence=0.2)))
    marked = find(loss.values.reshape(rows), gradient_norm.values.reshape(rows))
    saddle = np.asarray(marked).reshape(loss.shape)
    return runs.assign(saddle=(loss.dims, saddle))


def number_of_saddle(runs):
    """The number of the last saddle passed, of which the start is number 0."""
    return runs.saddle.cumsum("share") - 1


def after_start(runs):
    """Where a run is at a saddle other than the start."""
    return runs.saddle & (number_of_saddle(runs) > 0)


def reach(runs):
    """How far the loss of a saddle can be from here, |gradient| |weights| / 2: a saddle is as far
    away as all weights are large."""
    return runs.gradient_norm * runs.norm / 2


def level_distance(runs):
    """The largest distance of losses at saddles from the nearest level."""
    distance = abs(runs.loss - runs.levels).min("plateau")
    return float((distance / reach(runs)).where(after_start(runs)).max())


def width_deviation(runs):
    """How far the width at saddles is from that of the narrow network which has their loss."""
    distance = abs(runs.loss - runs.levels).fillna(np.inf)
    deviation = abs(runs.width - distance.argmin("plateau"))
    return float(deviation.where(after_start(runs)).max())


def drop_deviation(runs):
    """How late or early drops are, relative to the time predicted; a drop that never came is late
    by all of it."""
    known = np.isfinite(runs.drops_theory)
    deviation = abs(runs.drops / runs.drops_theory - 1).fillna(1)
    return worst(deviation.where(known, 0))


def passes_saddles(runs):
    """Whether there is a saddle other than the start."""
    return bool(after_start(runs).any())


SADDLES_PASSED = Domain("a saddle other than the start is passed", passes_saddles)
LEVEL_DISTANCE = (
    "largest distance of the loss at a saddle from the nearest one of theory, in units of what the "
    "gradient leaves open"
)
DROP_DEVIATION = "largest relative deviation of a drop's time from theory"


def active_units(parts):
    """How many units have a share in what the network computes, the `parts` of each."""
    return lambda weights: effective_width(parts)(State(0, weights))["unit_width"]


def draw_course(axes, run):
    """Draw the loss of one network, theory's plateaus and drops, and how wide it acts at saddles."""
    time = (run.share * run.duration).values
    loss = run.loss.values
    marked = run.saddle.values
    # Small random weights do nothing yet, in however many directions.
    width = np.append(0, run.width.values[marked][1:])
    columns = {"time": time[marked], "loss": loss[marked], "width": width}
    table = xr.Dataset({name: ("saddle", values) for name, values in columns.items()})
    levels = run.levels.dropna("plateau")
    drops = run.drops_theory.dropna("plateau")
    trajectory = Trajectory(time, {"loss": loss})
    width_label = {"width": "{:.2g}"}
    plot.saddles(trajectory, table, levels=levels, drops=drops, labels=width_label, axes=axes)
    positive = run.levels.where(run.levels > 1e-9).min()
    low = float(positive.fillna(loss[-1]))
    # Where all is learned nothing is to be seen any more.
    learned = loss < loss[-1] + 0.002 * (loss[0] - loss[-1])
    end = time[np.argmax(learned)]
    axes.set(xlabel="flow time", ylabel="loss", yscale="log")
    axes.set_xlim(0, 1.15 * end)
    axes.set_ylim(low / 2, 2 * loss[0])
    axes.tick_params(which="minor", labelleft=False)


def course_legend(figure, axes):
    """Say below the figure what is drawn on the axes of a course."""
    handles, labels = axes.get_legend_handles_labels()
    labels[labels.index("saddle")] = "saddle, width"
    figure.legend(handles, labels, loc="outside lower center", ncols=4, columnspacing=1)


def draw_drops(axes, runs):
    """Draw times of drops against those of theory."""
    known = np.isfinite(runs.drops_theory)
    measured = runs.drops.values[known.values]
    predicted = runs.drops_theory.values[known.values]
    ordered = np.argsort(predicted)
    plot.points_and_line(axes, predicted[ordered], measured[ordered], predicted[ordered], points=99)
    axes.set(xlabel="time of a drop in theory", ylabel="time of a drop")
    plot.legend(axes)


def draw_widths(axes, runs, ylabel):
    """Draw the width of all networks at their saddles against the number of the saddle."""
    where = after_start(runs).values
    numbers = number_of_saddle(runs).values[where]
    widths = runs.width.transpose(*runs.saddle.dims).values[where]
    counted = np.arange(max(numbers, default=0) + 1)
    axes.plot(numbers, widths, "o", zorder=3)
    axes.plot(counted, counted, color=plot.COLOURS[0])
    axes.set(xlabel="number of the saddle", ylabel=ylabel, xticks=counted, yticks=counted)
    plot.legend(axes)
