"""One experiment, many runs: product of axes -> vmap -> blocks -> threads, mesh or executor ->
labelled results."""

import contextlib
import hashlib
import inspect
import itertools
import math
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jaxlib
import numpy as np

from jaxdyn._checks import kind
from jaxdyn._progress import progress_bar
from jaxdyn.sweep import _execution, _grid, _program, _store
from jaxdyn.sweep._program import run_key as run_key
from jaxdyn.types import Trajectory

if TYPE_CHECKING:
    import xarray

__all__ = ["sweep"]

BLOCK_RUNS = 64
CACHE_BYTES = 16 << 20  # blocks whose temporaries and outputs exceed this are made smaller


def sweep(
    experiment: Callable[..., Trajectory | dict[str, Any]],
    axes: dict[Any, Any] = {},
    *,
    seeds: Any = None,
    static: dict[str, Any] = {},
    chunk: int | None = None,
    store: Any = None,
    on: Any = None,
    dims: dict[str, Any] = {},
    progress: bool | None = None,
) -> "xarray.Dataset":
    """Run `experiment(key, **numbers)` on a grid and return a labelled Dataset; each static cell is
    one vmapped program.

    - `axes`: {name: values}, traced and vmapped; a tuple of names moves axes together: {("a", "b"):
      [(1, 2), (3, 4)]}.
    - `seeds`: an int n (= range(n)) or whole numbers >= 0.  A run's key is `run_key(seed)`: a seed
      is the same network everywhere on the grid, and adding values changes no other run.  Without
      seeds the experiment takes no key.
    - `static`: {name: values} or {name: {label: value}}, compiled once each: widths, depths,
      optimisers, functions.
    - `chunk`: the largest number of runs in a block; by default 64, fewer if their memory would
      exceed the cache.
    - `store`: a folder, written block by block, or a function that returns such a folder for the
      fingerprint, a str.  A killed sweep continues from its store to the same numbers.  More seeds
      or values extend a store; another experiment is refused.  A store keeps the block shape that
      it began with.
    - `on`: None (threads), a jax Mesh, or any executor: of `concurrent.futures`, of Dask
      (`client.get_executor()`), of submitit.  The bits of the results do not depend on it.
    - `dims`: {output: names of the output's own dimensions}; for what a Trajectory observed they
      come after "time".  `<output>_theory` has the same dimensions as `<output>`.
    - `progress`: whether to show a progress bar, also during compilation; by default on terminals
      and in notebooks.

    The experiment returns a Trajectory or a dict of arrays.  The Dataset has the dimensions
    (static, seed, axes, own), numpy values, and `ok` per run (and record).  The attributes hold
    what diverged and, as JSON, the fingerprint and every attempt (argv, versions, device, git
    commit, wall time).  Fix settings by `functools.partial`: jax arrays in a partial are arguments
    of the program, while arrays that the experiment closes over are compiled into it.

    Raises ValueError or TypeError, before anything is written, for an experiment or arguments that
    cannot run.  A run that blows up raises nothing.
    """
    if chunk is not None and (not isinstance(chunk, int) or chunk < 1):
        raise ValueError(f"chunk: {chunk!r} is no number of runs; pass an int >= 1")
    if not (on is None or isinstance(on, jax.sharding.Mesh) or hasattr(on, "submit")):
        raise TypeError(
            f"on: is {kind(on)}; pass None for threads, a jax Mesh or a concurrent.futures.Executor"
        )
    grid = _grid.make_grid(axes, seeds)
    cells = _grid.static_cells(static)
    columns: dict[str, np.ndarray] = {}
    for axis in grid:
        if axis.dim != "seed":
            columns |= axis.coords
    seeded = seeds is not None
    _program.check_signature(experiment, tuple(columns), tuple(cells), seeded)
    labels_of_cells = itertools.product(*cells.values())
    points = [dict(zip(cells, labels, strict=True)) for labels in labels_of_cells]
    job = _program.Job(experiment, tuple(columns), seeded, dims, _program.precision_now())

    def plan(box):
        programs = {}
        for point in points:
            fixed = {name: cells[name][label] for name, label in point.items()}
            program = _program.trace(job, fixed, list(columns.values()), math.prod(box))
            programs[_store.cell_name(point)] = program
        return programs

    sizes = [axis.size for axis in grid]
    runs = math.prod(sizes) * len(points)
    bar = progress_bar(runs, "run", progress, _program.name_of(experiment))
    with contextlib.closing(bar):
        bar.set_postfix_str("compiling")
        box = _grid.box_shape(sizes, chunk or BLOCK_RUNS)
        programs = plan(box)
        if callable(store):
            fingerprint = _fingerprint(programs, grid, box)
            store = store(_program.digest([fingerprint, [axis.record for axis in grid]]))
        path = None if store is None else Path(store)
        stored = None
        compiled = {}
        if path is not None:
            _store.check_ours(path, "store", kinds=("sweep",))
            stored = _store.read_record(path)
        if stored is not None:
            own = tuple(stored["fingerprint"]["block"])
            if len(own) == len(box) and own != box:
                box = own
                programs = plan(own)
        elif chunk is None:
            compiled = _execution.compiled(programs, programs)
            fitting = _grid.box_shape(sizes, _fitting_runs(compiled, math.prod(box)))
            if fitting != box:
                box = fitting
                programs = plan(fitting)
                compiled = {}
        labels = {name: list(values) for name, values in cells.items()}
        work = _Work(job, points, labels, programs, compiled, grid, box)
        if path is None:
            dataset = _in_memory(work, _record(work), on, bar)
        else:
            with _store.locked(path):
                dataset = _in_store(work, _record(work), path, on, bar)
    dataset.attrs["diverged"] = _store.diverged(dataset)
    return dataset


class _Work(NamedTuple):
    job: _program.Job
    points: list[dict[str, Any]]
    labels: dict[str, list]
    programs: dict[str, _program.Program]
    compiled: dict[str, Any]
    grid: list[_grid.Axis]
    box: tuple[int, ...]


def _record(work):
    """Return the record that a store keeps of itself, all of it JSON."""
    constants = {}
    own = {}
    units = {}
    for cell, program in work.programs.items():
        constants[cell] = {name: values.tolist() for name, values in program.constants.items()}
        own |= {name: list(output.dims) for name, output in program.outputs.items()}
        units |= program.units
    return {
        "kind": "sweep",
        "experiment": _program.name_of(work.job.experiment),
        "fingerprint": _fingerprint(work.programs, work.grid, work.box),
        "static": work.labels,
        "axes": [axis.record for axis in work.grid],
        "constants": constants,
        "own": own,
        "units": units,
        "attempts": [_store.provenance(_source(work.job.experiment))],
    }


def _in_memory(work, record, on, bar):
    import xarray

    layout = _layout(work)
    arrays = {}
    variables = {}
    for name, (dims, shape, dtype) in layout.items():
        arrays[name] = np.full(shape, _store.fill_value(dtype), dtype)
        variables[name] = (dims, arrays[name])
    todo = list(itertools.product(work.points, _grid.blocks(work.grid, work.box)))
    with _timed(record):
        _run(work, todo, arrays, on, bar)
    return _store.with_labels(xarray.Dataset(variables), record)


def _in_store(work, record, path, on, bar):
    wanted = work.grid
    old = _store.read_record(path)
    if old is not None:
        _check_same_experiment(path, old, record)
        record = _store.extended(old, record)
        grid = [_grid.united(axis, part) for axis, part in zip(wanted, old["axes"], strict=True)]
        record["axes"] = [axis.record for axis in grid]
        work = work._replace(grid=grid, labels=record["static"])
    layout = _layout(work)
    chunks = {}
    for name, (_, shape, _) in layout.items():
        block = (1,) * len(work.labels) + work.box
        own = tuple(max(1, length) for length in shape[len(block) :])
        chunks[name] = block + own
    if old is None:
        # The record is written first, so that a sweep that is killed later finds its own store.
        _store.write_record(path, record)
    arrays = _store.store_arrays(path, layout, chunks)
    _store.write_record(path, record)

    needed = [_grid.positions(axis, within) for axis, within in zip(wanted, work.grid, strict=True)]
    done = _store.finished_blocks(path)

    def is_open(task):
        point, block = task
        inside = []
        for places, corner, width in zip(needed, block, work.box, strict=True):
            within = (places >= corner) & (places < corner + width)
            inside.append(places[within] - corner)
        reach = done.get(_block_name(_store.cell_name(point), block))
        covered = reach is not None and all(map(_is_covered, inside, reach))
        return all(map(len, inside)) and not covered

    def mark(point, block):
        reach = _grid.extent(work.grid, work.box, block)
        _store.mark_finished(path, _block_name(_store.cell_name(point), block), list(reach))

    todo = list(filter(is_open, itertools.product(work.points, _grid.blocks(work.grid, work.box))))
    try:
        with _timed(record):
            _run(work, todo, arrays, on, bar, mark)
    finally:
        _store.write_record(path, record)
    picks = {}
    for name, labels in work.labels.items():
        wanted_labels = dict.fromkeys(point[name] for point in work.points)
        picks[name] = [labels.index(label) for label in wanted_labels]
    for axis, places in zip(work.grid, needed, strict=True):
        picks[axis.dim] = places.tolist()
    dataset = _store.opened(path, record)
    for dim, places in picks.items():
        if places != list(range(dataset.sizes[dim])):
            dataset = dataset.isel({dim: places})
    return dataset


def _is_covered(places, reach):
    return np.all(places < reach)


def _run(work, todo, arrays, on, bar, mark=lambda point, block: None):
    """Compute the blocks of `todo`, write each into `arrays` and mark it as finished."""

    def arguments(block):
        rows = []
        for axis, corner, width in zip(work.grid, block, work.box, strict=True):
            # A block that crosses the edge of the grid repeats the last run, to keep its shape.
            rows.append(np.minimum(np.arange(corner, corner + width), axis.size - 1))
        index = np.ix_(*rows) if rows else ()
        seeds = np.zeros(math.prod(work.box))
        columns = []
        for axis, places in zip(work.grid, index, strict=True):
            for values in axis.coords.values():
                column = np.broadcast_to(values[places], work.box).ravel()
                if axis.dim == "seed":
                    seeds = column
                else:
                    columns.append(column.astype(_program.traced_dtype(values)))
        return seeds.astype(np.uint32), tuple(columns)

    def finish(point, block, values):
        corner = tuple(work.labels[name].index(label) for name, label in point.items())
        reach = _grid.extent(work.grid, work.box, block)
        region = tuple(slice(c, c + r) for c, r in zip(block, reach, strict=True))
        for name, output in work.programs[_store.cell_name(point)].outputs.items():
            value = np.asarray(values[name])
            if value.dtype != output.dtype:
                raise TypeError(
                    f"{name}: computed as {value.dtype} where {output.dtype} was planned; check the precision"
                )
            part = value.reshape(work.box + output.shape)[tuple(slice(r) for r in reach)]
            own = tuple(slice(n) for n in output.shape)
            arrays[name][(*corner, *region, *own)] = part
        mark(point, block)
        return math.prod(reach)

    bar.total = sum(math.prod(_grid.extent(work.grid, work.box, block)) for _, block in todo)
    if on is None:
        missing = {_store.cell_name(point) for point, _ in todo} - set(work.compiled)
        work = work._replace(compiled=work.compiled | _execution.compiled(work.programs, missing))
    bar.set_postfix_str("")
    with _program.single_threaded_blas():
        if isinstance(on, jax.sharding.Mesh):
            _execution.on_mesh(work, todo, on, arguments, finish, bar)
        elif on is not None:
            _execution.on_executor(work, todo, on, arguments, finish, bar)
        else:
            _execution.on_threads(work, todo, arguments, finish, bar)


def _fitting_runs(compiled, runs):
    """Return how many runs of a block fit into the cache, or on an accelerator into half of the
    free memory."""
    device = jax.devices()[0]
    limit = CACHE_BYTES
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        limit = (stats.get("bytes_limit", limit) - stats.get("bytes_in_use", 0)) // 2
    stats = [program.memory_analysis() for program in compiled.values()]
    used = max((s.temp_size_in_bytes + s.output_size_in_bytes for s in stats if s), default=0)
    return BLOCK_RUNS if used <= limit else int(np.clip(limit * runs // used, 8, BLOCK_RUNS))


def _layout(work):
    """Return {name: (dims, shape, dtype)} of all arrays, padded to the largest static cell."""
    own: dict[str, Any] = {}
    for cell, program in work.programs.items():
        lengths: dict[str, int] = {}
        for name, output in program.outputs.items():
            dims, shape, dtype = own.get(name, output)
            if (dims, dtype) != (output.dims, output.dtype):
                raise ValueError(
                    f"experiment: {name!r} is {output.dtype}{output.dims} at {cell}, elsewhere {dtype}{dims}"
                )
            own[name] = dims, tuple(map(max, shape, output.shape)), dtype
            for dim, n in zip(output.dims, output.shape, strict=True):
                if lengths.setdefault(dim, n) != n:
                    raise ValueError(
                        f"dims: {dim!r} is {lengths[dim]} long and, in {name!r}, {n}; name them apart"
                    )
    outer = {name: len(labels) for name, labels in work.labels.items()}
    outer |= {axis.dim: axis.size for axis in work.grid}
    for name, (dims, _, _) in own.items():
        if clash := sorted(set(dims) & set(outer)):
            raise ValueError(
                f"dims: {name!r} has the dimension {clash[0]!r}, an axis of the sweep; rename it"
            )
    layout = {}
    for name, (dims, shape, dtype) in own.items():
        layout[name] = (tuple(outer) + dims, tuple(outer.values()) + shape, dtype)
    return layout


def _fingerprint(programs, grid, box):
    x64, matmul = _program.precision_now()
    flags = os.environ.get("XLA_FLAGS", "")
    level = re.search(r"xla_backend_optimization_level=(\d)", flags)
    optimization = {"xla_backend_optimization_level": level and level[1]}
    versions = {
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "platform": jax.devices()[0].platform,
    }
    return {
        "program": {cell: program.digest for cell, program in programs.items()},
        "dimensions": [axis.dim for axis in grid],
        "block": list(box),
        "precision": {"x64": x64, "matmul": matmul},
        "compiler": _program.compiler_options() | optimization,
        "versions": versions,
    }


def _check_same_experiment(path, old, record):
    before = old["fingerprint"]
    now = record["fingerprint"]
    differ = f"store: {str(path)!r} holds another experiment, {old['experiment']}; it differs in "
    # A difference in one of these changes the program too, so they are compared first: the message
    # then names the cause.
    for part in ("dimensions", "precision", "versions", "compiler", "block"):
        if before[part] != now[part]:
            raise ValueError(
                f"{differ}{part}: {before[part]} there, {now[part]} here; choose another folder"
            )
    if list(old["static"]) != list(record["static"]):
        raise ValueError(
            f"{differ}static: {list(old['static'])} there, {list(record['static'])} here; choose "
            "another folder"
        )
    for cell, sha in now["program"].items():
        if before["program"].get(cell, sha) != sha:
            where = f" at {cell}" if cell else ""
            raise ValueError(
                f"{differ}its program or data{where} ({record['experiment']} here); choose another folder"
            )


def _block_name(cell, block):
    return "-".join([hashlib.sha256(cell.encode()).hexdigest()[:12], *map(str, block)])


@contextlib.contextmanager
def _timed(record):
    start = time.perf_counter()
    try:
        yield
    finally:
        record["attempts"][-1]["wall_seconds"] = round(time.perf_counter() - start, 3)


def _source(experiment):
    with contextlib.suppress(TypeError, OSError):
        return inspect.getsourcefile(_program.unwrapped(experiment))
    return None
