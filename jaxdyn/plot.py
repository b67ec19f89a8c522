"""Labelled results as figures: simulation as points, theory as lines, units on the axes.

Functions that return axes draw on the matplotlib Axes that are passed, or else on new ones.
"""

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jaxdyn.types import Trajectory, nearest

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure
    import xarray

__all__ = [
    "COLOURS",
    "WIDTH",
    "beside",
    "curves",
    "legend",
    "modes",
    "new_axes",
    "panels",
    "phase_diagram",
    "points_and_line",
    "saddles",
    "style",
]

# The palette of Okabe and Ito, which the colour-blind can distinguish, without its yellow, which is
# too faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

WIDTH = 5.5
"""The width of a figure in inches: text of 10 pt becomes 7 pt in a print 100 mm wide."""

Log = Literal["", "x", "y", "xy"]


def curves(
    simulated: "xarray.DataArray",
    predicted: "xarray.DataArray | None" = None,
    *,
    axes: "matplotlib.axes.Axes | None" = None,
    x: str = "time",
    hue: str | None = None,
    over: str = "seed",
    spread: Literal["sem", "std"] = "sem",
    points: int = 24,
    log: Log = "",
) -> "matplotlib.axes.Axes":
    """Draw a simulation as points and its theory as lines, one colour for each value of `hue`, and
    return the axes.

    A point is the mean over the dimension `over`, and its bar the standard error ("sem") or the
    standard deviation ("std").  At most `points` points are drawn, so that the theory stays
    visible; without a theory a thin line joins the means of all records.  The theory may have times
    of its own; a theory without the dimension `hue` is drawn once, in black.  Axis labels are the
    `long_name` of an array or else its name, with its `units`, from the array's attributes.

    Raises ValueError for a dimension that is missing or left over.
    """
    _check_dims("simulated", simulated, {"x": x, "hue": hue}, over)
    shared = predicted is not None and hue is not None and hue not in predicted.dims
    if predicted is not None:
        _check_dims("predicted", predicted, {"x": x, "hue": None if shared else hue}, over)
    axes = _axes(axes)
    entries = [({}, None)] if hue is None else _entries(simulated, hue)
    colours = _colours(len(entries))
    for (where, _), colour in zip(entries, colours, strict=True):
        place, mean, bar = _statistics(simulated.isel(where), x, over, spread)
        few = np.unique(np.linspace(0, len(place) - 1, min(points, len(place))).round().astype(int))
        bars = bar[few] if np.isfinite(bar).any() else None
        axes.errorbar(
            place[few], mean[few], bars, fmt="o", color=colour, markersize=4, elinewidth=1, zorder=3
        )
        if predicted is None:
            axes.plot(place, mean, color=colour, linewidth=0.8, alpha=0.5)
        elif not shared:
            axes.plot(*_statistics(predicted.isel(where), x, over, spread)[:2], color=colour)
    if shared:
        axes.plot(*_statistics(predicted, x, over, spread)[:2], color="black")
    axes.set(
        xlabel=_label(simulated[x]),
        ylabel=_label(simulated),
        **{f"{side}scale": "log" for side in log},
    )
    title = None if hue is None else _label(simulated[hue])
    _legend(axes, title, [text for _, text in entries], colours, theory=predicted is not None)
    return axes


def modes(
    simulated: "xarray.DataArray",
    predicted: "xarray.DataArray | None" = None,
    *,
    mode: str = "mode",
    **options: Any,
) -> "matplotlib.axes.Axes":
    """Draw the strength of each mode, one colour per mode, and return the axes.

    Modes without a coordinate are numbered from 1.  The options are those of `curves`.
    """
    return curves(simulated, predicted, hue=mode, **options)


def phase_diagram(
    values: "xarray.DataArray",
    *,
    x: str,
    y: str,
    axes: "matplotlib.axes.Axes | None" = None,
    boundary: "xarray.DataArray | None" = None,
    over: str = "seed",
    log: Log = "",
) -> "matplotlib.axes.Axes":
    """Draw the mean over `over` as a colour for each cell of the (`x`, `y`) plane, and return the
    axes.

    A theory's `boundary` is drawn as a line.  The boundary is the position on one axis as a
    function of the other, the boundary's only dimension and coordinate.  The edges of the cells lie
    midway between the coordinates, on a logarithmic axis at their geometric mean.  Cells without a
    number are grey.

    Raises ValueError for a dimension that is missing or left over, or coordinates that are not
    (positive) numbers.
    """
    _check_dims("values", values, {"x": x, "y": y}, over)
    if boundary is not None and (boundary.ndim != 1 or boundary.dims[0] not in (x, y)):
        raise ValueError(
            f"boundary: has the dimensions {boundary.dims}; pass a line over {x!r} or over {y!r}"
        )
    axes = _axes(axes)
    values = values.sortby([x, y])
    values = _mean(values.astype(float), over).transpose(y, x)
    edges = [_edges(values[dim], dim, side in log) for dim, side in ((x, "x"), (y, "y"))]
    axes.set_facecolor("0.8")
    mesh = axes.pcolormesh(*edges, np.ma.masked_invalid(values), cmap="viridis", rasterized=True)
    axes.figure.colorbar(mesh, ax=axes, label=_label(values))
    if boundary is not None:
        import matplotlib.patheffects as effects

        dim = str(boundary.dims[0])
        line = (boundary[dim], boundary) if dim == x else (boundary, boundary[dim])
        outline = [effects.Stroke(linewidth=4, foreground="black"), effects.Normal()]
        axes.plot(*(np.asarray(a) for a in line), color="white", linewidth=2, path_effects=outline)
    axes.set(
        xlabel=_label(values[x]),
        ylabel=_label(values[y]),
        **{f"{side}scale": "log" for side in log},
    )
    axes.set(xlim=edges[0][[0, -1]], ylim=edges[1][[0, -1]])
    return axes


def saddles(
    run: Trajectory,
    table: "xarray.Dataset",
    *,
    levels: Any = (),
    drops: Any = (),
    labels: Mapping[str, str] | None = None,
    axes: "matplotlib.axes.Axes | None" = None,
    colour: str = COLOURS[0],
) -> "matplotlib.axes.Axes":
    """Draw the loss of a run over time with the saddles of `analysis.saddle_table`, and return the
    axes.

    Saddles that the run has left are circles, the end of the run is a square.  `labels` are the
    variables of the table to write beside the saddles, and their formats; by default those of
    {"index": "index {:.0f}", "direction_width": "width {:.1f}"} that the table has.  A theory's
    `levels` of the plateaus are horizontal lines, its times of the `drops` between plateaus
    vertical lines.

    Raises ValueError for a run without `loss`, or for several runs.
    """
    if "loss" not in run.observed or np.ndim(run.observed["loss"]) != 1:
        raise ValueError(
            "run: has no `loss` of one run over time; record a snapshot, and choose one run of a sweep"
        )
    axes = _axes(axes)
    axes.plot(run.time, run.observed["loss"], color=colour, zorder=2, label="loss")
    lines = {"color": "0.6", "linewidth": 0.8, "zorder": 1}
    for i, level in enumerate(np.ravel(levels)):
        axes.axhline(level, **lines, label="_" * i + "plateau in theory")
    for i, drop in enumerate(np.ravel(drops)):
        axes.axvline(drop, **lines, linestyle=(0, (2, 2)), label="_" * i + "drop in theory")
    texts = labels or {"index": "index {:.0f}", "direction_width": "width {:.1f}"}
    for i, row in enumerate(table.isel(saddle=i) for i in range(table.sizes["saddle"])):
        left = bool(row.left) if "left" in row else True
        place = float(row.time), float(row.loss)
        style = {
            "color": COLOURS[1],
            "markerfacecolor": "white",
            "markersize": 5,
            "linestyle": "",
            "zorder": 3,
        }
        axes.plot(*place, marker="o" if left else "s", **style, label="_" * i + "saddle")
        words = [text.format(float(row[name])) for name, text in texts.items() if name in row]
        axes.annotate(
            "\n".join(words),
            place,
            (5, 4),
            textcoords="offset points",
            color="0.2",
        )
    axes.set(xlabel=axes.get_xlabel() or "time", ylabel=axes.get_ylabel() or "loss")
    return axes


def style() -> "contextlib.AbstractContextManager":
    """Return the context in which figures have the library's colours, open axes, and text legible
    at half size.

    >>> import matplotlib
    >>> with style():
    ...     print(matplotlib.rcParams["axes.prop_cycle"].by_key()["color"][0])
    #0072B2

    Raises ImportError without matplotlib.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install jaxdyn[plot]") from error
    from cycler import cycler

    return matplotlib.rc_context(
        {
            "axes.prop_cycle": cycler(color=COLOURS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": "0.3",
            "xtick.color": "0.3",
            "ytick.color": "0.3",
            "xtick.labelcolor": "black",
            "ytick.labelcolor": "black",
            "figure.dpi": 110,
            "legend.fontsize": "medium",
            "legend.handlelength": 1.4,
            "legend.labelspacing": 0.3,
            "legend.edgecolor": "none",
            "legend.framealpha": 0.8,
            "lines.markersize": 4,
            "lines.solid_capstyle": "round",
        }
    )


def panels(
    figure: "matplotlib.figure.Figure", *titles: str, columns: int = 2, height: float | int = 2.5
) -> "list[matplotlib.axes.Axes]":
    """Return the axes of panels on a figure, one panel for each title, laid out row by row.

    The figure gets the width of a paper's figure and `height` inches per row.  A title says what is
    seen in its panel, and is broken into lines where it is longer than the panel is wide.

    >>> from matplotlib.figure import Figure
    >>> left, right = panels(Figure(), "Every mode is a sigmoid", "Depth delays learning")
    >>> right.get_title()
    'Depth delays learning'
    """
    import textwrap

    columns = min(columns, len(titles))
    rows = -(-len(titles) // columns)
    figure.set_size_inches(WIDTH, height * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, title in zip(grid, titles, strict=False):
        # About eleven letters of a title fit into an inch.
        axes.set_title(
            "\n".join(textwrap.wrap(title, int(11 * WIDTH / columns))), fontsize="medium"
        )
    for unused in grid[len(titles) :]:
        unused.remove()
    return list(grid[: len(titles)])


def points_and_line(
    axes: "matplotlib.axes.Axes",
    x: Any,
    simulated: Any,
    predicted: Any = None,
    *,
    errors: Any = None,
    colour: str = COLOURS[0],
    label: str = "",
    points: int = 24,
) -> None:
    """Draw a simulation as points and its theory, if given, as a line of the same colour.

    `errors` are the error bars of the points.  At most `points` points are drawn, so that the
    theory stays visible.  `label` names the colour; `legend` adds what points and lines mean.
    """
    x = np.asarray(x)
    simulated = np.asarray(simulated)
    few = np.unique(np.linspace(0, len(x) - 1, min(points, len(x))).round().astype(int))
    bars = None if errors is None else np.asarray(errors)[few]
    style = {"color": colour, "markersize": 4, "elinewidth": 1, "zorder": 3}
    axes.errorbar(x[few], simulated[few], bars, fmt="o", label=label or None, **style)
    if predicted is not None:
        axes.plot(x, np.asarray(predicted), color=colour)


def beside(
    axes: "matplotlib.axes.Axes",
    runs: "xarray.Dataset",
    name: str,
    *,
    x: str = "time",
    over: str = "seed",
    **options: Any,
) -> None:
    """Draw the variable `name` of a Dataset as points and `<name>_theory` as a line beside it.

    Simulation and theory are averaged over the dimension `over` where they have it; the bars are
    standard errors of the simulation's mean.  The options are those of `points_and_line`.
    """
    place, mean, bars = _statistics(runs[name], x, over, "sem")
    theory = _statistics(runs[f"{name}_theory"], x, over, "sem")[1]
    errors = bars if np.isfinite(bars).any() else None
    points_and_line(axes, place, mean, theory, errors=errors, **options)


def legend(
    axes: "matplotlib.axes.Axes",
    *,
    simulated: str = "simulation",
    predicted: str = "theory",
    below: bool = False,
    **options: Any,
) -> None:
    """Add a legend that distinguishes simulation (points) from theory (lines), after the labels
    drawn.

    `simulated` and `predicted` are the words for the two; an empty word leaves its entry out.  Pass
    `below` to place a legend that would hide data below the axes.  The options are those of
    matplotlib's `Axes.legend`.
    """
    from matplotlib.lines import Line2D

    handles, labels = axes.get_legend_handles_labels()
    grey = {"color": "0.3", "markersize": 4}
    if simulated:
        handles.append(Line2D([], [], marker="o", linestyle="", **grey))
        labels.append(simulated)
    if predicted:
        handles.append(Line2D([], [], **grey))
        labels.append(predicted)
    if below:
        options = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.24)} | options
    axes.legend(handles, labels, **options)


def new_axes() -> "matplotlib.axes.Axes":
    """Return axes in the library's style on a new figure of the width of a paper's figure."""
    with style():
        import matplotlib.pyplot as plt

        return plt.subplots(figsize=(WIDTH, 3.6), layout="constrained")[1]


def _axes(axes):
    return new_axes() if axes is None else axes


def _check_dims(name, values, roles, over):
    if not hasattr(values, "dims") or hasattr(values, "data_vars"):
        raise TypeError(
            f"{name}: is a {type(values).__name__}; pass one variable of what `sweep` returns, such as runs.loss"
        )
    for role, dim in roles.items():
        if dim is not None and dim not in values.dims:
            raise ValueError(
                f"{role}: {name} has no dimension {dim!r}; {nearest(dim, values.dims)}"
            )
    left = [dim for dim in values.dims if dim not in (*roles.values(), over)]
    if left:
        raise ValueError(
            f"{name}: the dimensions {left} are left over; choose by isel or sel, or average, until there are "
            f"{[dim for dim in roles.values() if dim is not None]} and {over!r}"
        )


def _entries(values, hue):
    counted = np.arange(1, values.sizes[hue] + 1)
    names = values[hue].values if hue in values.coords else counted
    return [
        ({hue: i}, f"{name:.4g}" if isinstance(name, (float, np.floating)) else str(name))
        for i, name in enumerate(names)
    ]


def _colours(number):
    import matplotlib

    if number <= len(COLOURS):
        return COLOURS[:number]
    return [
        matplotlib.colors.to_hex(colour)
        for colour in matplotlib.colormaps["viridis"](np.linspace(0, 0.95, number))
    ]


def _statistics(values, x, over, spread):
    """Return places, means and bars of the records whose mean is finite.

    A mean is not finite where a record was not observed or a run has blown up.
    """
    runs = values.sizes.get(over, 1)
    mean = _mean(values, over)
    with np.errstate(invalid="ignore", over="ignore"):
        bar = values.std(over, ddof=1, skipna=False) if runs > 1 else mean * np.nan
    place = values[x]
    if place.ndim != 1:
        raise ValueError(
            f"x: {x!r} has the dimensions {place.dims}; select one run or put the others into `hue`"
        )
    kept = np.isfinite(mean.values)
    scale = np.sqrt(runs) if spread == "sem" else 1
    return place.values[kept], mean.values[kept], bar.values[kept] / scale


def _mean(values, over):
    return values.mean(over, skipna=False) if over in values.dims else values


def _edges(coordinate, name, log):
    centres = coordinate.values
    if centres.dtype.kind not in "iuf" or (log and np.any(centres <= 0)):
        raise ValueError(
            f"{name}: {centres} are no {'positive ' if log else ''}numbers to place cells at"
        )
    centres = np.log(centres) if log else centres.astype(float)
    half = np.diff(centres) / 2 if len(centres) > 1 else np.array([0.5])
    edges = np.concatenate(
        [centres[:1] - half[:1], centres[:-1] + half[: len(centres) - 1], centres[-1:] + half[-1:]]
    )
    return np.exp(edges) if log else edges


def _label(values):
    text = values.attrs.get("long_name") or str(values.name or "").replace("_", " ")
    units = values.attrs.get("units", "")
    return f"{text} ({units})" if units not in ("", "1") else text


def _legend(axes, title, texts, colours, theory):
    from matplotlib.lines import Line2D

    line = "-" if theory else ""
    handles = []
    if title is not None:
        handles = [
            Line2D([], [], color=colour, marker="o", markersize=4, linestyle=line, label=text)
            for colour, text in zip(colours, texts, strict=True)
        ]
    if theory:
        colour = "0.3" if handles else colours[0]
        handles.append(
            Line2D([], [], color=colour, marker="o", markersize=4, linestyle="", label="simulation")
        )
        handles.append(Line2D([], [], color=colour, label="theory"))
    if not handles:
        return
    style = {"framealpha": 0.8, "edgecolor": "none", "title_fontsize": "medium"}
    # A legend beside the axes hides nothing, but only a layout engine keeps that place free.
    if title is not None and axes.figure.get_layout_engine() is not None:
        style |= {"loc": "upper left", "bbox_to_anchor": (1, 1)}
    axes.legend(handles=handles, title=title, **style)
