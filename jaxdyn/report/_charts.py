"""Pairs of simulation and theory as charts: few enough numbers to stand in a page, chosen by what
the arrays are."""

import itertools
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray

__all__ = ["charts", "numbers", "words"]

LINE = 150
POINTS = 30
HUES = 7
VIEWS = 6
WEIGHT = 150_000  # characters of all the charts of a page


def charts(datasets: "Mapping[str, xarray.Dataset]") -> tuple[list[dict[str, Any]], int]:
    """Return charts of all `<name>` that have a `<name>_theory`, and how many more there would be.

    The mean over the dimension "seed" is points, theory lines.  Their abscissa is time, or else the
    dimension with the most numbers; curves of one chart differ in one more dimension, and charts of
    one pair in the others.
    """
    pairs = [
        _views(key, dataset, str(name))
        for key, dataset in datasets.items()
        for name in dataset.data_vars
    ]
    found = [
        (rank, view, place)
        for place, views in enumerate(pairs)
        for view, (rank, _) in enumerate(views)
    ]
    # Every pair is shown once before one is shown twice; first come those that agree, and curves
    # over time.
    kept = []
    weight = 0
    for _, view, place in sorted(found, key=lambda one: (one[1], one[0], one[2])):
        chart = pairs[place][view][1]
        weight += len(json.dumps(chart))
        if weight > WEIGHT:
            break
        kept.append((place, view, chart))
    first = kept[0] if kept else None
    kept.sort(key=lambda one: (one is not first, one[0] != first[0], one[:2]))
    return [chart for _, _, chart in kept], len(found) - len(kept)


def numbers(values: Any, digits: int = 4) -> list[float | int | None]:
    """Round to significant digits, None for what is not finite.

    >>> numbers([1 / 3, 2000.0, float("nan")])
    [0.3333, 2000, None]
    """
    rounded = [
        float(f"{v:.{digits}g}") if np.isfinite(v) else None for v in np.ravel(values).astype(float)
    ]
    return [int(v) if v is not None and v.is_integer() and abs(v) < 1e9 else v for v in rounded]


def words(name: object, attributes: Mapping[Any, Any] = {}) -> str:
    """Return a name to read, with its units."""
    text = attributes.get("long_name") or str(name).replace("_", " ")
    units = attributes.get("units", "")
    return f"{text} ({units})" if units not in ("", "1") else text


def _views(key, dataset, name):
    """Return (rank, chart) for each view of a pair; none where it is no pair of real numbers over
    some dimension."""
    import xarray as xr

    theory = f"{name}_theory"
    if (
        theory not in dataset
        or dataset[name].dtype.kind not in "iuf"
        or dataset[theory].dtype.kind not in "iuf"
    ):
        return []
    s = dataset[name].astype(float)
    p = dataset[theory].astype(float)
    seeds = s.sizes.get("seed", 1)
    with np.errstate(invalid="ignore"):
        error = s.std("seed", ddof=1, skipna=False) / seeds**0.5 if seeds > 1 else s * np.nan
    s, p, error = (a.mean("seed", skipna=False) if "seed" in a.dims else a for a in (s, p, error))
    own = set(p.dims)
    s, p, error = xr.broadcast(s, p, error)
    wide = [str(dim) for dim in s.dims if s.sizes[dim] > 1]
    s, p, error = (a.isel({dim: 0 for dim in a.dims if dim not in wide}) for a in (s, p, error))
    if not wide or not (np.isfinite(s) & np.isfinite(p)).any():
        return []
    x = _abscissa(s, wide)

    def fits(dim):
        return (dim in own, s.sizes[dim] <= HUES, s.sizes[dim])

    hue = max((dim for dim in wide if dim != x), key=fits, default=None)
    rest = [dim for dim in wide if dim not in (x, hue)]
    places = list(itertools.product(*(range(s.sizes[dim]) for dim in rest)))
    title = f"{words(key)}: {words(name)}"
    ylabel = words(name, dataset[name].attrs)
    brief = x not in ("time", "step"), s.sizes[x] < 5
    views = []
    for place in (places[i] for i in _few(len(places), VIEWS)):
        where = dict(zip(rest, place, strict=True))
        chosen = ", ".join(_named(s, dim)[i] for dim, i in where.items())
        one = [a.isel(where) for a in (s, p, error)]
        view = _chart(*one, x=x, hue=hue, shared=hue is not None and hue not in own)
        if view:
            full = {
                "group": words(key),
                "title": title,
                "view": ", ".join(filter(None, [words(name), chosen])),
            }
            views.append(((_apart(*one[:2]), *brief), full | view | {"ylabel": ylabel}))
    return views


def _chart(s, p, error, *, x, hue, shared):
    """Return one chart: `xs`, and curves with points [index in x, mean, standard error] and theory
    along x."""
    xs = []
    curves = []
    seen = {}
    index = 0
    ticks = []
    theory = []
    entries = [{}] if hue is None else [{hue: i} for i in _few(s.sizes[hue], HUES)]
    names = (
        ["theory and simulation"]
        if hue is None
        else [_labels(s, hue)[where[hue]] for where in entries]
    )
    for colour, (where, name) in enumerate(zip(entries, names, strict=True)):
        one, line, bar = (a.isel(where) for a in (s, p, error))
        place, ticks = _place(one, x)
        order = np.argsort(place, kind="stable")
        order = order[np.isfinite(place[order])]
        order = order[_thinned(len(order), LINE)]
        few = _thinned(len(order), POINTS)
        along = numbers(place[order], 6)
        index = seen.setdefault(tuple(along), len(xs))
        if index == len(xs):
            xs.append(along)
        mean = numbers(one.values[order[few]])
        sem = numbers(bar.values[order[few]], 2)
        points = [
            [int(i), *([m] if e is None else [m, e])]
            for i, m, e in zip(few, mean, sem, strict=True)
        ]
        points = [point for point in points if point[1] is not None]
        curve = {"name": name, "colour": colour, "x": index, "points": points}
        theory = numbers(line.values[order])
        if not shared:
            curve["theory"] = theory
        curves.append(curve)
    if shared:
        # The theory is the same for all: one line, in the colour of text.
        curves.append({"name": "theory", "colour": -1, "x": index, "theory": theory})
    values = [
        v
        for c in curves
        for v in [*c.get("theory", []), *(q[1] for q in c.get("points", []))]
        if v is not None
    ]
    if not any(c.get("points") for c in curves):
        return None
    log = min(values) > 0 and max(values) > 100 * min(values)
    scales = {"xlog": not ticks and _spread(xs), "ylog": log}
    return {
        "xlabel": words(x, s[x].attrs if x in s.coords else {}),
        "hue": words(hue or ""),
        **scales,
    } | {
        "ticks": ticks,
        "xs": xs,
        "curves": curves,
    }


def _apart(s, p):
    """Whether a simulation is far from its theory: a run may go where the theory does not claim to
    hold."""
    both = np.isfinite(s) & np.isfinite(p)
    return bool(((s - p).where(both) ** 2).sum() > 0.04 * (p.where(both) ** 2).sum())


def _abscissa(values, dims):
    def rank(dim):
        numeric = dim in values.coords and values[dim].dtype.kind in "iuf" and values[dim].ndim == 1
        return numeric and values.sizes[dim] > 2, values.sizes[dim]

    return next((dim for dim in ("time", "step") if dim in dims), None) or max(dims, key=rank)


def _place(values, dim):
    """Return the numbers along `dim` and no ticks, or counts and their labels where it has none."""
    if dim in values.coords and values[dim].dtype.kind in "iuf":
        return values[dim].values.astype(float), []
    counted = np.arange(1.0, values.sizes[dim] + 1)
    labels = _labels(values, dim)
    return counted, [] if labels == [f"{n:.0f}" for n in counted] else labels


def _labels(values, dim):
    """Return a label for each entry along `dim`: its coordinate, or all that vary with it, or its
    number from 1."""
    coords = {str(name): c.values for name, c in values.coords.items() if c.dims == (dim,)}

    def text(v):
        return f"{v:.4g}" if isinstance(v, (float, np.floating)) else str(v)

    if dim in coords:
        return [text(v) for v in coords[dim]]
    varying = {name: v for name, v in coords.items() if len(set(v.tolist())) > 1}
    entries = range(values.sizes[dim])
    if not varying:
        return [str(i + 1) for i in entries]
    return [
        ", ".join(f"{words(name)} {text(v[i])}" for name, v in varying.items()) for i in entries
    ]


def _named(values, dim):
    """Return the labels along `dim`, with its name where they are bare."""
    labels = _labels(values, dim)
    bare = dim in values.coords or labels == [str(i + 1) for i in range(len(labels))]
    return [f"{words(dim)} {label}" for label in labels] if bare else labels


def _few(number, most):
    """Choose at most `most` of `number`, evenly."""
    return np.unique(np.linspace(0, number - 1, min(most, number)).round().astype(int)).tolist()


def _thinned(number, most):
    """Choose at most `most` of `number` records, half of them evenly, half crowded at the start for
    a log axis."""
    if number <= most:
        return np.arange(number)
    even = np.linspace(0, number - 1, most // 2)
    crowded = np.geomspace(1, number, most - most // 2) - 1
    return np.unique(np.concatenate([even, crowded]).round().astype(int))


def _spread(xs):
    positive = np.array([v for x in xs for v in x if v is not None and v > 0])
    if len(positive) < 5 or positive.max() < 100 * positive.min():
        return False
    return bool(np.median(positive) < positive.max() / 5)
