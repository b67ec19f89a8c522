"""The grid of a sweep: axes, seeds and static cells, with their checks; and the blocks of the
grid."""

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdyn._checks import RESERVED, kind

__all__ = [
    "Axis",
    "blocks",
    "box_shape",
    "extent",
    "make_grid",
    "positions",
    "static_cells",
    "united",
]


class Axis(NamedTuple):
    """One dimension of the grid, with the values of every name that varies along it."""

    dim: str
    coords: dict[str, np.ndarray]

    @property
    def size(self) -> int:
        return len(next(iter(self.coords.values())))

    @property
    def rows(self) -> list[tuple]:
        return list(zip(*(values.tolist() for values in self.coords.values()), strict=True))

    @property
    def record(self) -> dict[str, Any]:
        return {
            "dim": self.dim,
            "coords": {name: values.tolist() for name, values in self.coords.items()},
        }


def make_grid(axes: dict[Any, Any], seeds: Any) -> list[Axis]:
    """Return the axes of a sweep, "seed" first.

    Raises ValueError or TypeError where `axes` and `seeds` do not make a grid.
    """
    if not isinstance(axes, dict):
        raise TypeError(
            f"axes: is {kind(axes)}; pass {{name: values}}, such as {{'learning_rate': [0.1, 0.2]}}"
        )
    grid = [] if seeds is None else [Axis("seed", {"seed": _seeds(seeds)})]
    for names, values in axes.items():
        together = names if isinstance(names, tuple) else (names,)
        if not all(isinstance(name, str) for name in together):
            raise TypeError(
                f"axes: {names!r} is no name; use the name of an argument, or a tuple of names"
            )
        columns = [values]
        if isinstance(names, tuple) and len(values):
            if any(np.shape(point) != np.shape(names) for point in values):
                raise ValueError(
                    f"axes: {names!r} needs {len(names)} numbers at each point, got {values!r}"
                )
            columns = list(zip(*values, strict=True))
        coords = {
            name: _axis_values(name, column)
            for name, column in zip(together, columns, strict=False)
        }
        if clash := [name for name in coords if name in ("seed", *RESERVED)]:
            raise ValueError(f"axes: the name {clash[0]!r} is the sweep's own; choose another")
        axis = Axis("_".join(together), coords)
        if len(set(axis.rows)) < axis.size:
            raise ValueError(f"axes: {names!r} holds a value twice: {values!r}; pass each once")
        grid.append(axis)
    named = [name for axis in grid for name in axis.coords]
    if len(set(named)) < len(named):
        raise ValueError(f"axes: a name is on two axes: {named}; keep it on one")
    return grid


def static_cells(static: dict[str, Any]) -> dict[str, dict[Any, Any]]:
    """Return {name: {label: value}}, in which numbers and strings are their own labels."""
    if not isinstance(static, dict):
        raise TypeError(f"static: is {kind(static)}; pass {{name: values}}")
    cells = {}
    for name, values in static.items():
        if not isinstance(name, str) or not (hasattr(values, "__len__") and len(values)):
            raise ValueError(
                f"static: {name!r} is {values!r}; pass {{name: values}} or "
                "{name: {label: value}}"
            )
        if not isinstance(values, dict):
            values = [value.item() if isinstance(value, np.generic) else value for value in values]
            if not all(isinstance(value, bool | int | float | str) for value in values):
                raise TypeError(
                    f"static: {name!r} holds {values!r}; label what is no number: "
                    f"{{{name!r}: {{label: value}}}}"
                )
            values = dict(zip(values, values, strict=True))
        cells[name] = values
    return cells


def box_shape(shape: list[int], target: int) -> tuple[int, ...]:
    """Return the shape of a block of at most `target` runs.

    The block takes whole trailing axes first, and then cuts the next axis evenly.

    >>> box_shape([10, 10, 10], 64)
    (1, 5, 10)
    """
    box = [1] * len(shape)
    left = target
    for i in reversed(range(len(shape))):
        cuts = math.ceil(shape[i] / left)
        box[i] = math.ceil(shape[i] / cuts)
        left //= box[i]
        if box[i] < shape[i] or left <= 1:
            break
    return tuple(box)


def blocks(grid: list[Axis], box: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Return the first corner of every block."""
    return itertools.product(
        *[range(0, axis.size, width) for axis, width in zip(grid, box, strict=True)]
    )


def extent(grid: list[Axis], box: tuple[int, ...], block: tuple[int, ...]) -> tuple[int, ...]:
    """Return how far a block reaches along each axis within the grid, whose edge the last blocks
    may cross."""
    return tuple(
        min(width, axis.size - corner) for axis, width, corner in zip(grid, box, block, strict=True)
    )


def united(axis: Axis, stored: dict[str, Any]) -> Axis:
    """Return a stored axis followed by the values of `axis` that it lacks, so that stored runs keep
    their places."""
    if list(axis.coords) != list(stored["coords"]):
        raise ValueError(
            f"store: its axis {stored['dim']!r} has the names {list(stored['coords'])}, not "
            f"{list(axis.coords)}; use the same names, or choose another folder"
        )
    old = Axis(axis.dim, {name: np.asarray(values) for name, values in stored["coords"].items()})
    have = set(old.rows)
    new = [i for i, row in enumerate(axis.rows) if row not in have]
    coords = {}
    for name, values in axis.coords.items():
        coords[name] = np.concatenate([old.coords[name], values[new]])
    return Axis(axis.dim, coords)


def positions(axis: Axis, within: Axis) -> np.ndarray:
    """Return the positions of an axis's values along a larger axis."""
    places = {row: i for i, row in enumerate(within.rows)}
    return np.asarray([places[row] for row in axis.rows])


def _axis_values(name, values):
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"axes: {name!r} holds {values!r}, no numbers; move it to static={{{name!r}: ...}}"
        )
    if array.ndim != 1 or not array.size or np.isnan(array).any():
        raise ValueError(f"axes: {name!r} is {values!r}; pass a non-empty 1-D list of numbers")
    return array


def _seeds(seeds):
    if isinstance(seeds, jax.Array) and jnp.issubdtype(seeds.dtype, jax.dtypes.prng_key):
        raise TypeError(
            "seeds: is a key; pass a number of seeds, from which the sweep makes a key for each run"
        )
    values = np.asarray(seeds)
    whole = values.dtype.kind in "iu" and values.ndim <= 1 and values.size
    if not whole or (values.ndim == 0 and values < 1):
        raise ValueError(
            f"seeds: {seeds!r} is neither a number of seeds >= 1 nor a list of whole numbers"
        )
    values = np.arange(int(values)) if values.ndim == 0 else values
    if values.min() < 0 or values.max() >= 1 << 32 or len(set(values.tolist())) < len(values):
        raise ValueError(f"seeds: {seeds!r} must be different whole numbers from 0 to 2^32 - 1")
    return values.astype(np.int64)
