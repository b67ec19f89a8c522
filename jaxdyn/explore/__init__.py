"""Explorations: change a number of a paper and see its theory move; one file per paper, found by
being here.

A module holds `SLIDERS` ({name: its values}), `DEFAULT` ({name: one of them}), `AXES` (xlabel,
ylabel, xscale, yscale), `theory(**values) -> {"x": ..., curve: ...}`, `simulate(key, **values)`,
which returns points of some of the curves at x of their own, and `WITHIN`: how far, in units of a
curve's range, these may be from theory at the default.  Floats are traced, whole numbers and words
are static; what is returned is named for the legend.
"""

import functools
import json
from types import ModuleType
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxdyn import _folder, papers
from jaxdyn.sweep import sweep
from jaxdyn.types import nearest

if TYPE_CHECKING:
    import ipywidgets
    import matplotlib.axes
    import xarray


def names() -> list[str]:
    """Return the names of all papers that can be explored, in order."""
    return _folder.names(__path__)


def load(name: str) -> ModuleType:
    """Import an exploration's module; a ValueError suggests the nearest name where there is
    none."""
    return _folder.load(__name__, name, names(), "exploration")


def table(name: str) -> "xarray.Dataset":
    """Compute the theory of an exploration on the grid of its sliders, in float64, kept in float32.

    The dimensions are the sliders and "point"; the variables are the curves and their abscissa `x`,
    which depends on those sliders that move it; the attributes are `title`, `xlabel`, `ylabel`,
    `xscale`, `yscale` and `default` (JSON).
    """
    module = load(name)
    traced = {
        slider: values for slider, values in module.SLIDERS.items() if isinstance(values[0], float)
    }
    static = {slider: values for slider, values in module.SLIDERS.items() if slider not in traced}
    curves = []  # in the module's order, which a program does not keep
    with jax.enable_x64(True):
        jax.eval_shape(lambda: curves.extend(module.theory(**module.DEFAULT)))
        dims = dict.fromkeys(curves, "point")
        found = sweep(_numbers(module.theory), traced, static=static, dims=dims, progress=False)
    found = found[curves].transpose(*module.SLIDERS, "point").astype(np.float32)
    for slider in module.SLIDERS:
        x = found["x"]
        if slider in x.dims and bool((x == x.isel({slider: 0})).all()):
            found["x"] = x.isel({slider: 0}, drop=True)
    found.attrs = {"title": title(name), **module.AXES, "default": json.dumps(module.DEFAULT)}
    return found


def title(name: str) -> str:
    """Return the paper's title, authors and year."""
    ref = papers.load(name).REFERENCE
    return f"{ref.title} ({ref.authors}, {ref.year})"


def simulate(name: str, seed: int = 0, **values: Any) -> dict[str, np.ndarray]:
    """Run an exploration's experiment with these values of its sliders, by default its own, in
    float64.

    Raises ValueError for values that are not among the slider's.
    """
    module = load(name)
    for slider, value in values.items():
        if slider not in module.SLIDERS:
            raise ValueError(
                f"values: {name} has no slider {slider!r}; {nearest(slider, module.SLIDERS)}"
            )
        if value not in module.SLIDERS[slider]:
            raise ValueError(f"{slider}: {value!r} is none of {module.SLIDERS[slider]}")
    with jax.enable_x64(True):
        found = module.simulate(jax.random.key(seed), **module.DEFAULT | values)
    return {curve: np.asarray(points) for curve, points in found.items()}


def draw(
    curves: "xarray.Dataset",
    *runs: dict[str, np.ndarray],
    axes: "matplotlib.axes.Axes | None" = None,
    **values: Any,
) -> "matplotlib.axes.Axes":
    """Draw the curves of a table at these values of its sliders, by default its own; and the points
    of runs.

    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> axes = draw(table("parimi2025"), simulate("parimi2025", condition=10.0), condition=10.0)
    >>> axes.get_xlabel()
    'step'
    """
    from jaxdyn.plot import COLOURS, new_axes

    axes = new_axes() if axes is None else axes
    shown = curves.sel(json.loads(curves.attrs["default"]) | values)
    names = [str(curve) for curve in shown.data_vars if curve != "x"]
    for curve, colour in zip(names, COLOURS, strict=False):
        axes.plot(shown["x"], shown[curve], color=colour, label=curve)
        for run in runs:
            if curve in run:
                axes.plot(run["x"], run[curve], "o", color=colour, markersize=4)
    low, high = _limits(curves, names, curves.attrs["yscale"] == "log")
    sides = {name: curves.attrs[name] for name in ("xlabel", "ylabel", "xscale", "yscale")}
    xlim = (float(curves.x.min()), float(curves.x.max()))
    axes.set(**sides, xlim=xlim, ylim=(low, high))
    axes.legend(fontsize="small", framealpha=0.8, edgecolor="none")
    return axes


def widget(name: str) -> "ipywidgets.VBox":
    """Return sliders, the theory, redrawn as they move, and a button that adds the points of a
    simulation.

    For the last line of a notebook's cell; each click draws another seed.  Raises ImportError
    without ipywidgets.
    """
    try:
        import ipywidgets
    except ImportError as error:
        raise ImportError("widgets need ipywidgets: pip install jaxdyn[notebook]") from error
    module = load(name)
    curves = table(name)
    runs = []
    style = {"description_width": "12em"}
    sliders = {
        slider: ipywidgets.SelectionSlider(
            options=[(f"{v:g}" if isinstance(v, float) else str(v), v) for v in values],
            value=module.DEFAULT[slider],
            description=slider.replace("_", " "),
            style=style,
            layout={"width": "32em"},
        )
        for slider, values in module.SLIDERS.items()
    }
    button = ipywidgets.Button(
        description="simulate", tooltip="add the points of a simulation, another seed each time"
    )
    image = ipywidgets.Image(format="png", layout={"max_width": "40em"})
    heading = ipywidgets.Label(title(name))

    def redraw():
        image.value = _png(curves, runs, {slider: one.value for slider, one in sliders.items()})

    def moved(_):
        runs.clear()
        redraw()

    def clicked(_):
        button.description = "simulating ..."
        button.disabled = True
        try:
            runs.append(
                simulate(name, len(runs), **{slider: one.value for slider, one in sliders.items()})
            )
            redraw()
        finally:
            button.description = "simulate"
            button.disabled = False

    for one in sliders.values():
        one.observe(moved, "value")
    button.on_click(clicked)
    redraw()
    return ipywidgets.VBox([heading, *sliders.values(), button, image])


def _numbers(theory):
    """A sweep fills in the recording times of a Trajectory; here a curve's numpy values are its
    own."""
    return functools.wraps(theory)(
        lambda **values: jax.tree.map(jax.numpy.asarray, theory(**values))
    )


def _limits(curves, names, log):
    """Return the same limits for all values of the sliders, so that curves are seen to move."""
    values = np.concatenate([curves[name].values.ravel() for name in names])
    values = values[np.isfinite(values) & (values > 0 if log else True)]
    low = values.min()
    high = values.max()
    return (
        (low / 1.2, high * 1.2) if log else (low - 0.04 * (high - low), high + 0.04 * (high - low))
    )


def _png(curves, runs, values):
    import io

    from matplotlib.figure import Figure

    from jaxdyn.plot import style

    with style():
        file = io.BytesIO()
        figure = Figure(figsize=(5.5, 3.6), layout="constrained")
        draw(curves, *runs, axes=figure.subplots(), **values)
        figure.savefig(file, format="png")
    return file.getvalue()
