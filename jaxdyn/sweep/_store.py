"""The store of a sweep: arrays, record, finished blocks, lock, and provenance.

A store is a folder: `jaxdyn.json` (the record of what the store holds), `data` (a zarr v3 group;
one block of a sweep is one chunk of every array), `blocks` (one marker per finished block, written
after its data) and `.lock`.
"""

import contextlib
import datetime
import fcntl
import importlib.metadata
import itertools
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

if TYPE_CHECKING:
    import xarray

__all__ = [
    "cell_name",
    "check_ours",
    "diverged",
    "extended",
    "fill_value",
    "finished_blocks",
    "locked",
    "mark_finished",
    "open_zarr",
    "opened",
    "provenance",
    "read_record",
    "store_arrays",
    "with_labels",
    "write_record",
]

RECORD = "jaxdyn.json"


def provenance(source: str | None = None) -> dict[str, Any]:
    """Return what produced a result: argv, time, versions, device, and the git commit of the folder
    of `source`."""
    names = ("jaxdyn", "jax", "jaxlib", "numpy", "optax", "diffrax", "flax")
    versions = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "argv": sys.argv,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "wall_seconds": None,
        "versions": {"python": platform.python_version(), **versions},
        "device": jax.devices()[0].device_kind,
        "git": _git(source),
    }


def _git(source):
    folder = Path(source).parent if source else Path.cwd()

    def git(*words):
        return subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )

    try:
        return {
            "commit": git("rev-parse", "HEAD").stdout.strip(),
            "dirty": bool(git("status", "--porcelain", "--untracked-files=no").stdout),
        }
    except (OSError, subprocess.SubprocessError):
        return None


def with_labels(dataset: "xarray.Dataset", record: dict[str, Any]) -> "xarray.Dataset":
    """Return the dataset with a sweep's coordinates, units and provenance.

    Recording times that all runs share become a coordinate; others remain a variable with times for
    each run.
    """
    # A sweep that was killed while it extended its store leaves arrays longer than the record.
    sizes = {name: len(labels) for name, labels in record["static"].items()}
    sizes |= {axis["dim"]: len(next(iter(axis["coords"].values()))) for axis in record["axes"]}
    for dim, size in sizes.items():
        if dataset.sizes.get(dim, 0) > size:
            dataset = dataset.isel({dim: slice(size)})
    coords: dict[str, Any] = {
        name: (name, list(labels)) for name, labels in record["static"].items()
    }
    for axis in record["axes"]:
        coords |= {name: (axis["dim"], values) for name, values in axis["coords"].items()}
    dataset = dataset.assign_coords(coords)
    for name, by_cell in _transposed(record["constants"]).items():
        dataset = dataset.assign_coords({name: _constant(name, by_cell, record["static"])})
    for name in set(record["own"]) & set(dataset.variables):
        values = dataset[name]
        if values.ndim > 1 and values.dims[-1] == name and record["own"][name] == [name]:
            rows = values.values.reshape(-1, values.shape[-1])
            shared = len(rows) > 0 and bool((rows == rows[0]).all())
            dataset = dataset.assign_coords({name: (name, rows[0]) if shared else values})
    for name, unit in record["units"].items():
        if name in dataset.variables:
            dataset[name].attrs["units"] = unit
    dataset.attrs = {"experiment": record["experiment"]}
    dataset.attrs |= {key: json.dumps(record[key]) for key in ("fingerprint", "attempts")}
    return dataset


def _transposed(constants):
    names = sorted({name for values in constants.values() for name in values})
    return {
        name: {cell: values[name] for cell, values in constants.items() if name in values}
        for name in names
    }


def _constant(name, by_cell, static):
    """Return (dims, values) of a constant: one array if all static cells agree, else one row per
    cell, padded with NaN."""
    arrays = [np.asarray(values) for values in by_cell.values()]
    if all(np.array_equal(arrays[0], array) for array in arrays):
        return name, arrays[0]
    rows = np.full([*map(len, static.values()), max(map(len, arrays))], np.nan)
    for index, labels in enumerate(itertools.product(*static.values())):
        values = by_cell.get(cell_name(dict(zip(static, labels, strict=True))), [])
        rows[(*np.unravel_index(index, rows.shape[:-1]), slice(len(values)))] = values
    return (*static, name), rows


def cell_name(labels: dict[str, Any]) -> str:
    """Return the name of a static cell, such as "depth=2,optimizer=sgd"."""
    return ",".join(f"{name}={label}" for name, label in labels.items())


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a store's lock as a context; the system frees the lock with the process, however that
    ends."""
    path.mkdir(parents=True, exist_ok=True)
    with (path / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(
                f"store: {str(path)!r} is being written by another process; wait for it"
            ) from None
        yield


def check_ours(path: Path, argument: str, kinds: tuple[str, ...]) -> None:
    """Raise ValueError where `path` holds something that is not one of these kinds of results."""
    record = read_record(path) if path.is_dir() else None
    foreign = path.exists() and (
        not path.is_dir() or any(entry.name != ".lock" for entry in path.iterdir())
    )
    if record["kind"] not in kinds if record else foreign:
        raise ValueError(
            f"{argument}: {str(path)!r} exists and is no {kinds[0]} of jaxdyn; pass a new folder"
        )


def read_record(path: Path) -> dict[str, Any] | None:
    """Return the record of a folder of results, or None where the folder has no record."""
    try:
        return json.loads((path / RECORD).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record atomically."""
    part = path / f"{RECORD}.part"
    part.write_text(json.dumps(record, indent=1))
    part.replace(path / RECORD)


def store_arrays(
    path: Path, layout: dict[str, Any], chunks: dict[str, tuple[int, ...]]
) -> dict[str, Any]:
    """Return a store's zarr arrays, created or grown to new shapes; `layout` is {name: (dims,
    shape, dtype)}."""
    import zarr

    group = zarr.open_group(str(path / "data"), mode="a", zarr_format=3)
    arrays = {}
    for name, (dims, shape, dtype) in layout.items():
        if name in group:
            array = group[name]
            array.resize(tuple(np.maximum(array.shape, shape)))
        else:
            array = group.create_array(
                name,
                shape=shape,
                chunks=chunks[name],
                dtype=dtype,
                fill_value=fill_value(dtype),
                dimension_names=dims,
            )
        arrays[name] = array
    return arrays


def fill_value(dtype: np.dtype) -> Any:
    """Return the value of entries that were not computed: NaN, False or 0."""
    return np.asarray(np.nan if np.dtype(dtype).kind in "fc" else 0).astype(dtype)[()]


def finished_blocks(path: Path) -> dict[str, list[int]]:
    """Return the finished blocks of a store, with the number of runs that each holds along every
    axis."""
    markers = (path / "blocks").glob("*.json")
    return {marker.stem: json.loads(marker.read_text()) for marker in markers}


def mark_finished(path: Path, block: str, extent: list[int]) -> None:
    """Mark a block as finished; call it after the block's data are written."""
    folder = path / "blocks"
    folder.mkdir(exist_ok=True)
    part = folder / f"{block}.part"
    part.write_text(json.dumps(extent))
    part.replace(folder / f"{block}.json")


def diverged(dataset: "xarray.Dataset") -> str:
    """Return in words how many runs of a sweep were not `ok` to the end, and at which values of the
    axes."""
    bad = ~dataset["ok"]
    if "time" in bad.dims:
        # Where static cells differ in their recording times, the shorter ones are padded with NaN
        # as time.
        bad = (bad & dataset["time"].notnull()).any("time")
    if not bool(bad.any()):
        return f"0 of {bad.size} runs"
    words = []
    for dim in bad.dims:
        count = bad.sum([d for d in bad.dims if d != dim]).values
        if bad.sizes[dim] > 1 and dim != "seed":
            each = bad.size // bad.sizes[dim]
            values = bad[dim].values if dim in bad.coords else range(bad.sizes[dim])
            pairs = zip(values, count, strict=True)
            said = ", ".join(f"{value} ({n} of {each})" for value, n in pairs if n)
            words.append(f"{dim}: {said}")
    return "; ".join([f"{int(bad.sum())} of {bad.size} runs", *words])


def extended(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return a store's record with the additions of a new attempt: static labels, programs,
    constants, the attempt."""
    static = {}
    for name, labels in old["static"].items():
        static[name] = labels + [label for label in new["static"][name] if label not in labels]
    program = old["fingerprint"]["program"] | new["fingerprint"]["program"]
    record = new | {"static": static}
    record["constants"] = old["constants"] | new["constants"]
    record["own"] = old["own"] | new["own"]
    record["fingerprint"] = old["fingerprint"] | {"program": program}
    record["attempts"] = old["attempts"] + new["attempts"]
    return record


def opened(path: Path, record: dict[str, Any]) -> "xarray.Dataset":
    """Return the Dataset of a store, opened lazily, with the labels of the store's record."""
    return with_labels(open_zarr(path / "data"), record)


def open_zarr(path: Path) -> "xarray.Dataset":
    """Return the Dataset of a zarr group, opened lazily."""
    import xarray

    return xarray.open_zarr(path, chunks=None, consolidated=False)
