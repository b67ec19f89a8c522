"""Where the blocks of a sweep run: in threads, on the devices of a mesh, or in the workers of an
executor."""

import concurrent.futures
import functools
import math
import os
import time

import jax
import numpy as np

from jaxdyn.sweep import _program, _store

__all__ = ["compiled", "on_executor", "on_mesh", "on_threads"]


def on_threads(work, todo, arguments, finish, bar):
    """Run blocks in threads over the compiled programs, `_threads()` at a time."""

    def compute(point, block):
        cell = _store.cell_name(point)
        with _program.precision(work.job.precision):
            return finish(
                point, block, work.compiled[cell](*arguments(block), work.programs[cell].data)
            )

    with concurrent.futures.ThreadPoolExecutor(_threads()) as pool:
        futures = [pool.submit(compute, *task) for task in todo]
        try:
            for future in concurrent.futures.as_completed(futures):
                bar.update(future.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def on_mesh(work, todo, mesh, arguments, finish, bar):
    """Run blocks on a mesh, one block per device at a time.

    A block has the same shape on a device as in a thread, so that its bits are the same.
    """
    across = jax.sharding.PartitionSpec(mesh.axis_names)
    whole = jax.sharding.PartitionSpec()
    for cell, program in work.programs.items():
        tasks = [task for task in todo if _store.cell_name(task[0]) == cell]
        options = {
            "mesh": mesh,
            "in_specs": (across, across, whole),
            "out_specs": across,
            "check_vma": False,
        }
        sharded = jax.jit(
            jax.shard_map(program.call, **options), compiler_options=_program.compiler_options()
        )
        for first in range(0, len(tasks), mesh.size):
            group = tasks[first : first + mesh.size]
            padded = [*group, *group[-1:] * (mesh.size - len(group))]
            joined = jax.tree.map(
                lambda *parts: np.concatenate(parts), *[arguments(block) for _, block in padded]
            )
            placed = jax.device_put(joined, jax.sharding.NamedSharding(mesh, across))
            values = jax.tree.map(np.asarray, sharded(*placed, program.data))
            for i, task in enumerate(group):
                runs = slice(i * math.prod(work.box), (i + 1) * math.prod(work.box))
                bar.update(finish(*task, {name: value[runs] for name, value in values.items()}))


def on_executor(work, todo, executor, arguments, finish, bar):
    """Run blocks in an executor's workers, each of which compiles once; this process writes the
    results."""
    import cloudpickle

    blobs = {
        cell: cloudpickle.dumps((work.job, program.fixed))
        for cell, program in work.programs.items()
    }
    futures = {
        executor.submit(_remote, blobs[_store.cell_name(p)], *arguments(block)): (p, block)
        for p, block in todo
    }
    try:
        while futures:
            # Poll the jobs one by one: those of submitit are not Futures of the standard library.
            if not (done := [future for future in futures if future.done()]):
                time.sleep(0.01)
            for future in done:
                bar.update(finish(*futures.pop(future), future.result()))
    except BaseException:
        for future in futures:
            future.cancel()
        raise


def _remote(blob, seeds, columns):
    """Return the values of one block, computed in a worker at the precision of the caller."""
    job, call, data = _unpacked(blob)
    with _program.single_threaded_blas(), _program.precision(job.precision):
        return jax.tree.map(np.asarray, call(seeds, columns, data))


@functools.lru_cache(maxsize=8)
def _unpacked(blob):
    import cloudpickle

    job, fixed = cloudpickle.loads(blob)
    call, data, _ = _program.build(job, fixed)
    return job, jax.jit(call, compiler_options=_program.compiler_options()), data


def compiled(programs, cells):
    """Return the compiled programs of some static cells, compiled side by side in threads."""
    setting = _program.precision_now()
    cells = list(cells)

    def one(cell):
        with _program.precision(setting):
            return programs[cell].lowered.compile()

    with concurrent.futures.ThreadPoolExecutor(_threads()) as pool:
        return dict(zip(cells, pool.map(one, cells), strict=True))


def _threads():
    """Return how many runs to compute side by side.

    The number is one unless the environment variable NPROC promises XLA a thread pool of at least
    8: a smaller pool may not suffice for two runs.
    """
    reserved = os.environ.get("NPROC", "")
    if jax.devices()[0].platform != "cpu" or not reserved.isdigit() or int(reserved) < 8:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
