"""The program of one static cell of a sweep, `(seeds, columns, data) -> {name: (runs, ...)}`:
traced and described."""

import contextlib
import functools
import hashlib
import inspect
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdyn._checks import RESERVED, kind
from jaxdyn.types import Key, Trajectory, nearest

__all__ = [
    "Job",
    "Output",
    "Program",
    "build",
    "check_signature",
    "compiler_options",
    "digest",
    "name_of",
    "precision",
    "precision_now",
    "run_key",
    "single_threaded_blas",
    "trace",
    "traced_dtype",
    "unwrapped",
]

SALT = 0x73776570
CLOSURE_BYTES = 64 << 20


def run_key(seed: Any) -> Key:
    """Return the key of a sweep's run, which depends on the run's seed alone: `fold_in(key(SALT),
    seed)`."""
    return jax.random.fold_in(jax.random.key(SALT), seed)


class Job(NamedTuple):
    """What a worker must know of a sweep: the experiment, the names of its traced arguments, and
    the precision."""

    experiment: Callable
    names: tuple[str, ...]
    seeded: bool
    dims: dict[str, Any]
    precision: tuple[bool, Any]


class Output(NamedTuple):
    """An output of a run: its own dimensions, their lengths, and the dtype."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype


class Program(NamedTuple):
    """A lowered program, the data among its arguments, and a description of what it returns."""

    fixed: dict[str, Any]
    data: dict[str, Any]
    call: Callable
    lowered: Any
    outputs: dict[str, Output]
    constants: dict[str, np.ndarray]
    units: dict[str, str]
    digest: str


def build(job: Job, fixed: dict[str, Any]) -> tuple[Callable, dict[str, Any], dict[str, Any]]:
    """Return the vmapped program, its data (the jax arrays of a partial), and a dict of notes that
    tracing will fill."""
    experiment = job.experiment
    data = {}
    if isinstance(experiment, functools.partial):
        constants = {}
        for name, value in experiment.keywords.items():
            if name in job.names or name in fixed:
                continue
            leaves = jax.tree.leaves(value)
            if not any(isinstance(leaf, jax.Array) for leaf in leaves):
                constants[name] = value
                continue
            data[name] = value
            odd = [leaf for leaf in leaves if not isinstance(leaf, ArrayLike)]
            if odd:
                raise TypeError(
                    f"experiment: its keyword {name!r} holds jax arrays beside {odd[0]!r}, which "
                    "cannot be an argument of a program; pass the arrays by a keyword of their "
                    "own, or as numpy arrays to compile them in"
                )
        experiment = functools.partial(experiment.func, *experiment.args, **constants)
    notes: dict[str, Any] = {}

    def call(seeds, columns, data):
        def one(seed, values):
            key = (run_key(seed),) if job.seeded else ()
            numbers = dict(zip(job.names, values, strict=True))
            return _outputs(experiment(*key, **numbers, **fixed, **data), job.dims, notes)

        return jax.vmap(one)(seeds, columns)

    return call, data, notes


def _numpy_generator():
    """Return the state of numpy's global generator, which changes with every draw."""
    _, numbers, position, *_ = np.random.get_state()
    return numbers, position


def trace(job: Job, fixed: dict[str, Any], columns: list[np.ndarray], runs: int) -> Program:
    """Return the traced and lowered program of one static cell for blocks of `runs` runs."""
    call, data, notes = build(job, fixed)

    def shape(dtype):
        return jax.ShapeDtypeStruct((runs,), dtype)

    drawn = _numpy_generator()
    program = jax.jit(call, compiler_options=compiler_options())
    shapes = tuple(shape(traced_dtype(values)) for values in columns)
    try:
        traced = program.trace(shape(np.uint32), shapes, data)
    except TypeError as error:
        _explain(error, _untraceable(error, job, fixed, columns))
        raise
    if not all(map(np.array_equal, drawn, _numpy_generator())):
        raise ValueError(
            f"experiment: {name_of(job.experiment)} draws from np.random while it is compiled, "
            "once for all runs; draw by jax.random from its key"
        )
    _check_closure(traced.jaxpr.consts, job.experiment)
    outputs = {}
    for name, dims in notes["dims"].items():
        if name not in notes["constants"]:
            info = traced.out_info[name]
            outputs[name] = Output(dims, info.shape[1:], np.dtype(info.dtype))
    lowered = traced.lower()
    text = [lowered.as_text(), *map(_digest, jax.tree.leaves(data))]
    constants = notes["constants"]
    return Program(fixed, data, call, lowered, outputs, constants, notes["units"], digest(text))


def _explain(error, culprit):
    """Raise an error of tracing again in the user's words, where its cause is known."""
    if culprit is not None:
        raise TypeError(
            f"axes: {culprit!r} must be known while the program is compiled (it sets a shape or "
            f"steers Python); move it to static={{{culprit!r}: [...]}}"
        ) from error
    ours = str(error).startswith(("experiment", "field", "observe", "step"))
    if "Tracer" in str(error) and not ours:
        raise TypeError(
            "experiment: numpy or Python was given what is known only when the program runs; "
            f"compute with jax.numpy and draw by jax.random ({error})"
        ) from error


def _check_closure(constants, experiment):
    """Raise ValueError where an experiment closes over large arrays, which would be compiled into
    the program."""
    sizes = [np.size(array) * jnp.result_type(array).itemsize for array in constants]
    if sum(sizes) > CLOSURE_BYTES:
        largest = constants[int(np.argmax(sizes))]
        raise ValueError(
            f"experiment: {name_of(experiment)} closes over {sum(sizes) >> 20} MB, most in an "
            f"array of shape {jnp.shape(largest)}; pass it as an argument: "
            "functools.partial(experiment, data=jnp.asarray(data))"
        )


def check_signature(
    experiment: Callable, names: tuple[str, ...], static: tuple[str, ...], seeded: bool
) -> None:
    """Raise ValueError or TypeError where an experiment does not take what a sweep passes, or needs
    more."""
    if clash := sorted(set(names) & set(static)):
        raise ValueError(f"axes: {clash[0]!r} is in static too; keep it in one of them")
    if not callable(experiment):
        raise TypeError(
            f"experiment: is {kind(experiment)}; pass the function itself: a sweep calls it"
        )
    parameters = dict(inspect.signature(experiment).parameters)
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if seeded:
        first = next(iter(parameters.values()), None)
        if first is None or first.kind in (first.KEYWORD_ONLY, first.VAR_KEYWORD):
            raise TypeError(
                f"seeds: {name_of(experiment)} takes no key; define it as def experiment(key, ...)"
            )
        if first.kind is not first.VAR_POSITIONAL:
            del parameters[first.name]
    for argument, given in (("axes", names), ("static", static)):
        for name in given:
            if name not in parameters and not anything:
                raise ValueError(
                    f"{argument}: {name_of(experiment)} takes no {name!r}; {nearest(name, parameters)}"
                )
    for name, p in parameters.items():
        required = p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        if required and name not in names and name not in static:
            remedy = (
                "pass seeds=n"
                if name == "key"
                else "give it in axes or static, or fix it by functools.partial"
            )
            raise TypeError(f"experiment: {name_of(experiment)} needs {name!r}; {remedy}")


@contextlib.contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Return a context in which decompositions use only the thread that calls them, as blocks share
    the cores already.

    Two blocks in two decompositions, each with a thread on every core, keep waiting for one
    another: a hundred times slower.  Decompositions outside of a sweep keep their threads.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        yield


def compiler_options() -> dict[str, str]:
    """Return the options with which blocks are compiled.

    On CPU two passes of XLA are disabled, because runs are computed side by side and do not need a
    parallel program.  The first hands small matrix products to a library that splits each call over
    the thread pool: this takes 45% more time at 50 runs of a small network, and saves 20% only at
    products 512 wide.  The second splits the loops that XLA writes itself, of a microsecond's work
    each: 2.8 times the time where steps draw random numbers.
    """
    passes = "dot-library-rewriter,cpu-parallel-task-assigner"
    return {"xla_disable_hlo_passes": passes} if jax.default_backend() == "cpu" else {}


def precision_now() -> tuple[bool, Any]:
    """Return the precision in force in this thread: whether x64 is enabled, and that of matrix
    products."""
    return bool(jax.config.jax_enable_x64), jax.config.jax_default_matmul_precision


@contextlib.contextmanager
def precision(setting: tuple[bool, Any]) -> Iterator[None]:
    """Return a context that computes at a caller's precision, which JAX keeps per thread."""
    x64, matmul = setting
    with jax.enable_x64(x64), jax.default_matmul_precision(matmul):
        yield


def traced_dtype(values: np.ndarray) -> np.dtype:
    """Return the dtype with which the values of an axis enter the program."""
    return np.dtype(jnp.asarray(values[:1]).dtype)


def digest(value: Any) -> str:
    """Return a hash of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def unwrapped(experiment: Callable) -> Callable:
    """Return the function inside partials."""
    while isinstance(experiment, functools.partial):
        experiment = experiment.func
    return experiment


def name_of(experiment: Callable) -> str:
    """Return an experiment's name for messages and records."""
    function = unwrapped(experiment)
    return getattr(function, "__qualname__", type(function).__name__)


def _outputs(out, dims, notes):
    """Return a run's outputs by name.

    `notes` receives the outputs' own dimensions, their units, and the constants: outputs that are
    the same for all runs.
    """
    if isinstance(out, Trajectory):
        values = _of_trajectory(out)
        leading = ("time",)
        counted = jnp.issubdtype(jnp.result_type(out.time), jnp.integer)
        notes["units"] = {"time": "steps" if counted else "flow time"}
    elif isinstance(out, dict) and out and all(isinstance(name, str) for name in out):
        for name, value in out.items():
            if not isinstance(
                value, jax.Array | np.ndarray | np.generic | bool | int | float | complex
            ):
                raise TypeError(
                    f"experiment: {name!r} is {kind(value)}, no array; give each array a name of "
                    "its own"
                )
        values = dict(out)
        leading = ()
        notes["units"] = {}
        finite = jnp.asarray(True)
        for value in out.values():
            if jnp.issubdtype(jnp.result_type(value), jnp.inexact):
                finite = finite & jnp.all(jnp.isfinite(value))
        values.setdefault("ok", finite)
    else:
        returned = "an array" if isinstance(out, jax.Array) else kind(out)
        raise TypeError(
            f"experiment: returned {returned}; return a Trajectory or a dict of arrays by name"
        )
    if extra := sorted(set(dims) - set(values)):
        raise ValueError(
            f"dims: {extra[0]!r} is not returned by the experiment; {nearest(extra[0], values)}"
        )
    notes["dims"] = {}
    for name, value in values.items():
        rank = jnp.ndim(value) - len(leading)
        notes["dims"][name] = leading + _own_dims(name, rank, dims)

    # A numpy array cannot depend on the run: recording times that are known during tracing become
    # a coordinate that all runs share.
    def fixed(name, v):
        return isinstance(v, np.ndarray) and notes["dims"][name] == (name,)

    notes["constants"] = {name: v for name, v in values.items() if fixed(name, v)}
    return {name: jnp.asarray(v) for name, v in values.items() if name not in notes["constants"]}


def _of_trajectory(out):
    records = jnp.shape(out.time)
    if clash := sorted(set(RESERVED) & set(out.observed)):
        raise ValueError(
            f"experiment: observed {clash[0]!r}, a name that is the record's own; choose another"
        )
    for name, value in out.observed.items():
        if jnp.shape(value)[:1] != records:
            raise ValueError(
                f"experiment: observed {name!r} has shape {jnp.shape(value)} at {records[0]} "
                "recording times; its first axis must be time (a dict may hold arrays of any shape)"
            )
    return {"time": out.time, **out.observed, "ok": jnp.broadcast_to(out.ok, records)}


def _own_dims(name, rank, dims):
    if name not in dims:
        # The prediction `<name>_theory` has the dimensions of the output `<name>`.
        simulated = dims.get(name.removesuffix("_theory"), ())
        shared = (simulated,) if isinstance(simulated, str) else tuple(simulated)
        return shared if len(shared) == rank else tuple(f"{name}_{i}" for i in range(rank))
    if not isinstance(dims[name], str | tuple | list):
        raise TypeError(f"dims: {name!r} has {dims[name]!r}; pass a name, or a tuple of names")
    given = (dims[name],) if isinstance(dims[name], str) else tuple(dims[name])
    if len(given) != rank:
        raise ValueError(
            f"dims: {name!r} has {rank} dimensions of its own; {given} names {len(given)}"
        )
    return given


def _untraceable(error, job, fixed, columns):
    """Return the axis that cannot be traced, or None if the error is not about tracing.

    The axis is found by fixing one axis at a time.
    """
    conversions = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)
    if not isinstance(error, conversions) and "concrete" not in str(error):
        return None
    for i, name in enumerate(job.names):
        fewer = job._replace(names=job.names[:i] + job.names[i + 1 :])
        call, data, _ = build(fewer, fixed | {name: columns[i][0].item()})
        others = columns[:i] + columns[i + 1 :]
        shapes = tuple(jax.ShapeDtypeStruct((1,), traced_dtype(values)) for values in others)
        seeds = jax.ShapeDtypeStruct((1,), np.uint32)
        with contextlib.suppress(Exception):
            jax.eval_shape(call, seeds, shapes, data)
            return name
    return None


def _digest(leaf):
    if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest()
