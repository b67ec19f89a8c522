"""Results on disk and in labels: sweep stores, saved results, checkpoints, provenance.

A store is a folder: `jaxdyn.json` (what it holds), `data` (a zarr v3 group; one block of a sweep is
one chunk of every array), `blocks` (one marker per finished block, written after its data) and
`.lock`.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from jaxdyn.sweep import _store
from jaxdyn.types import State, Trajectory

if TYPE_CHECKING:
    import xarray

__all__ = ["checkpoint", "open", "restore", "save"]


def open(path: str | os.PathLike) -> "xarray.Dataset | dict[str, xarray.Dataset]":
    """Return the Dataset of a sweep's store, or what `save` wrote, opened lazily: values are read
    when they are used.

    Runs of a store that are not computed yet are NaN with `ok` False.

    Raises ValueError where `path` holds neither.
    """
    path = Path(path)
    record = _store.read_record(path)
    if record is None:
        raise ValueError(
            f"path: {str(path)!r} holds no results; pass a store of `sweep` or what `results.save` wrote"
        )
    if record["kind"] == "sweep":
        return _store.opened(path, record)
    datasets = {}
    for name, strings in record["strings"].items():
        dataset = _store.open_zarr(path / "data" / name)
        datasets[name] = dataset.assign_coords(
            {coord: (dims, values) for coord, (dims, values) in strings.items()}
        )
    return datasets["data"] if record["kind"] == "dataset" else datasets


def save(results: "xarray.Dataset | dict[str, xarray.Dataset]", path: str | os.PathLike) -> None:
    """Write a Dataset, or a dict of Datasets, as zarr v3; an earlier result at `path` is replaced.

    The results are written whole or not at all.

    Raises ValueError where `path` holds anything else, which is left untouched.
    """
    path = Path(path)
    _store.check_ours(path, "path", kinds=("dataset", "results"))
    kind, named = (
        ("results", results) if isinstance(results, dict) else ("dataset", {"data": results})
    )
    fresh, stale = (path.with_name(f".{path.name}.{tag}") for tag in ("fresh", "stale"))
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(stale, ignore_errors=True)
    (fresh / "data").mkdir(parents=True)
    strings = {}
    for name, dataset in named.items():
        # zarr v3 specifies no string type, so labels are stored in the record.
        text = {
            str(c): (list(v.dims), v.values.tolist())
            for c, v in dataset.coords.items()
            if v.dtype.kind in "OUT"
        }
        strings[name] = text
        bare = dataset.drop_vars(list(text)).drop_encoding()
        bare.to_zarr(fresh / "data" / name, mode="w", zarr_format=3, consolidated=False)
    _store.write_record(fresh, {"kind": kind, "strings": strings})
    if path.exists():
        path.rename(stale)
    fresh.rename(path)
    shutil.rmtree(stale, ignore_errors=True)


def checkpoint(path: str | os.PathLike) -> Callable[[Trajectory], None]:
    """Return a function for `segmented(..., after=...)` that saves the trajectory so far, whole or
    not at all."""
    folder = Path(path).absolute()

    def after(trajectory):
        import orbax.checkpoint as ocp

        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder / str(len(trajectory.time)), trajectory._asdict(), force=True)
        for older in _checkpoints(folder)[:-1]:
            shutil.rmtree(older)

    return after


def restore(path: str | os.PathLike, like: State) -> Trajectory | State:
    """Return the trajectory of the last `checkpoint` at `path`, to continue from, or `like` where
    there is none.

    `like` is the state that the run started from, including its optimiser's memory; it must have
    the structure of the final state.
    """
    import orbax.checkpoint as ocp

    saved = _checkpoints(Path(path).absolute())
    if not saved:
        return like
    with ocp.StandardCheckpointer() as checkpointer:
        records = {
            n: v
            for n, v in checkpointer.metadata(saved[-1]).item_metadata.tree.items()
            if n != "final"
        }
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), records)
        final = jax.tree.map(ocp.utils.to_shape_dtype_struct, jax.tree.map(jax.numpy.asarray, like))
        tree = checkpointer.restore(saved[-1], shapes | {"final": final})
    return Trajectory(**jax.tree.map(np.asarray, tree | {"final": None}) | {"final": tree["final"]})


def _checkpoints(folder):
    """Return the finished checkpoints, the last one last; unfinished checkpoints have names that
    are not numbers."""
    return sorted((p for p in folder.glob("*") if p.name.isdigit()), key=lambda p: int(p.name))
