"""The page on which a number is changed: sliders over a table of a theory, computed beforehand."""

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdyn.report import _charts, _pages

if TYPE_CHECKING:
    import xarray

__all__ = ["exploration"]

WEIGHT = 250_000  # characters of the numbers in a page


def exploration(table: "xarray.Dataset", *, nav: str = "<strong>jaxdyn</strong>") -> str:
    """Return a page with a slider for each dimension of `table` but "point", and a chart of its
    variables over `x`.

    The attributes are `title`, `xlabel`, `ylabel`, `xscale` and `yscale` ("linear" or "log"), and
    `default`, JSON of a slider's name to its value at first.  Numbers keep four digits; of a table
    that would still be too heavy every second point stays, or every fourth, until it is not.

    Raises ValueError for a table without `x`, points or attributes, or whose sliders have no
    values.
    """
    sliders = _checked(table)
    default = json.loads(table.attrs["default"])
    while _weight(table) > WEIGHT and table.sizes["point"] > 20:
        # The last point stays: curves end where they did.
        table = table.isel(point=slice((table.sizes["point"] - 1) % 2, None, 2))
    axes = {key: table.attrs[key] for key in ("title", "xlabel", "ylabel")}
    axes |= {f"{side}log": table.attrs[f"{side}scale"] == "log" for side in "xy"}
    data = {
        "axes": axes,
        "points": table.sizes["point"],
        "sliders": [_slider(table[name], default.get(name)) for name in sliders],
        "x": _packed(table["x"], sliders),
        "curves": [_packed(table[name], sliders) for name in table.data_vars if name != "x"],
    }
    body = f"""<h1>{_pages.escape(table.attrs["title"])}</h1>
<div id="sliders"></div>
<p><button type="button" id="reset">Start values</button></p>
<div id="chart"></div>
<p class="quiet">Every curve was computed beforehand, at the values of the sliders.</p>"""
    scripts = ["chart.js", "explore.js"]
    return _pages.page(
        f"{table.attrs['title']} · jaxdyn", nav, body, scripts, {"table": data}, "narrow"
    )


def _checked(table):
    missing = [
        key
        for key in ("title", "xlabel", "ylabel", "xscale", "yscale", "default")
        if key not in table.attrs
    ]
    if missing:
        raise ValueError(
            f"table: has no attributes {missing}; pass them beside {sorted(map(str, table.attrs))}"
        )
    if "x" not in table or "point" not in table.dims:
        raise ValueError(
            f"table: has {list(table.variables)} over {dict(table.sizes)}; pass `x` over `point`"
        )
    sliders = [str(dim) for dim in table.dims if dim != "point"]
    bare = [name for name in sliders if name not in table.coords]
    if bare:
        raise ValueError(f"table: the sliders {bare} have no values; give each a coordinate")
    return sliders


def _slider(values, wanted) -> dict[str, Any]:
    """Return a slider's name, the texts of its values, and at which it starts: the one wanted, or
    the middle."""
    texts = [f"{v:.4g}" if isinstance(v, (float, np.floating)) else str(v) for v in values.values]
    start = len(texts) // 2
    if wanted is not None:
        numeric = values.dtype.kind in "iuf"
        start = int(np.argmin(abs(values.values - wanted))) if numeric else texts.index(str(wanted))
    return {
        "name": str(values.name),
        "label": _charts.words(values.name, values.attrs),
        "start": start,
        "texts": texts,
    }


def _packed(values, sliders) -> dict[str, Any]:
    """Return an array as a flat list, the sliders it varies over, in their order, and the range it
    covers."""
    over = [name for name in sliders if name in values.dims]
    array = values.transpose(*over, "point").values.astype(float)
    finite = array[np.isfinite(array)]
    positive = array[np.isfinite(array) & (array > 0)]
    # The least positive number is what a logarithmic axis starts at.
    extent = [v.min() for v in (finite, positive) if v.size] + [finite.max()] if finite.size else []
    return {
        "name": _charts.words(values.name, values.attrs),
        "over": over,
        "values": _charts.numbers(array),
        "extent": _charts.numbers(extent),
    }


def _weight(table):
    return 7 * sum(variable.size for variable in table.data_vars.values()) + 7 * table["x"].size * (
        "x" in table.coords
    )
