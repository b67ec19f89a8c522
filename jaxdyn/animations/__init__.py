"""Animations: a paper's dynamics move through the landscape of its theory; one file per paper,
found by being here.

A module's `animation()` runs a small simulation of its own and returns the `Animation`.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxdyn import _folder
from jaxdyn._progress import progress_bar

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

FRAME = 80
HOLD = 3000  # milliseconds, of a frame and of the last one
PALETTE = 128
GREYS = 24  # colours, and how many of them are greys


class Animation(NamedTuple):
    """A matplotlib figure, and `draw(i)`, which sets its artists to those of frame i of
    `frames`."""

    figure: "matplotlib.figure.Figure"
    draw: Callable[[int], Any]
    frames: int


def names() -> list[str]:
    """Return the names of all papers that are animated, in order."""
    return _folder.names(__path__)


def load(name: str) -> ModuleType:
    """Import an animation's module; a ValueError suggests the nearest name where there is none."""
    return _folder.load(__name__, name, names(), "animation")


def canvas(width: float = 6.4, height: float = 3.2) -> "matplotlib.figure.Figure":
    """Return a figure of this size in inches, of 100 pixels each, that no window shows."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise ImportError("animations need matplotlib: pip install jaxdyn[plot]") from error
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    figure = Figure(figsize=(width, height), dpi=100, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def growing(
    axes: "matplotlib.axes.Axes", x: Any, y: Any, *, each: int = 1, **style: Any
) -> Callable[[int], None]:
    """Draw a course that grows by `each` records a frame, with a point at its end; return its
    `draw(i)`."""
    x = np.asarray(x)
    y = np.asarray(y)
    (line,) = axes.plot(x[:1], y[:1], **style)
    (head,) = axes.plot(x[:1], y[:1], "o", color=line.get_color(), markersize=5, zorder=5)

    def draw(i):
        last = min(i * each, len(x) - 1)
        line.set_data(x[: last + 1], y[: last + 1])
        head.set_data(x[last : last + 1], y[last : last + 1])

    return draw


def save(animation: Animation, path: Path) -> None:
    """Write an animation as a GIF that repeats for ever and rests on its last frame, of few colours
    to be small."""
    from PIL import Image

    def picture(i):
        animation.draw(i)
        animation.figure.canvas.draw()
        return Image.fromarray(np.asarray(animation.figure.canvas.buffer_rgba())[..., :3])

    last = animation.frames - 1
    # The same colours for all frames, so that only what moves is written.
    some = [picture(last * share // 6) for share in range(1, 7)]
    wide = Image.fromarray(np.concatenate([np.asarray(one) for one in some], 1))
    palette = wide.quantize(PALETTE - GREYS, Image.Quantize.MAXCOVERAGE)
    colours = np.reshape(palette.getpalette() or [], (-1, 3))[: PALETTE - GREYS]
    colours = np.concatenate(
        [colours, np.linspace(0, 255, GREYS).round()[:, None].repeat(3, 1)]
    ).astype(int)
    # What is nearly white must not be taken for it.
    colours[colours.min(1) > 240] = 255
    palette.putpalette(colours.ravel().tolist())
    # The finished picture comes first: it is all that is seen where a GIF stands still.
    order = [last, *range(last)]
    part = path.with_suffix(".part")
    durations = [HOLD] + [FRAME] * last
    frames = []
    with contextlib.closing(progress_bar(animation.frames, "frame", name=path.name)) as bar:
        for i in order:
            frames.append(picture(i).quantize(palette=palette, dither=Image.Dither.NONE))
            bar.update()
    path.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(part, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    part.replace(path)
