"""The verbs of the library, which contain all of its loops over time.

A map is iterated (`iterate`, `train`), and a velocity is integrated (`integrate`, `flow`).  Every
verb starts from parameters, or continues from a `State`, and records what `observe` returns at the
given times, never the parameters on the way.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxdyn import _checks
from jaxdyn._progress import progress_bar
from jaxdyn.types import Batch, Field, Key, Observe, Params, State, Stream, Trajectory

__all__ = [
    "RK4",
    "at",
    "descent",
    "flow",
    "integrate",
    "iterate",
    "log_times",
    "segmented",
    "step_key",
    "train",
]

SALT = 0x6A617864


class RK4(NamedTuple):
    """The classical fourth-order Runge-Kutta method with steps of flow time of at most `step`.

    Between recording times the steps are equal, and the last one ends at the recording time.
    """

    step: Any


def step_key(key: Key | None, time: Any) -> Key | None:
    """Return the key of the step from `time` to `time + 1`: `fold_in(fold_in(key, SALT), time)`.

    The salt makes the keys of batches differ from those of the initial weights: `fold_in(key, i)`
    alone is `split(key, n)[i]`.
    """
    return None if key is None else jax.random.fold_in(jax.random.fold_in(key, SALT), time)


def log_times(stop: int, num: int, start: int = 1) -> np.ndarray:
    """Return 0 and at most `num` distinct whole steps, evenly spaced in the logarithm from `start`
    to `stop`.

    >>> log_times(1000, 4)
    array([   0,    1,   10,  100, 1000])

    Raises ValueError unless num >= 1 and 1 <= start <= stop.
    """
    if not (num >= 1 and 1 <= start <= stop):
        raise ValueError(
            f"log_times: needs num >= 1 and 1 <= start <= stop, got {num=}, {start=}, {stop=}"
        )
    return np.unique(np.r_[0, np.round(np.geomspace(start, stop, num)).astype(int)])


def at(times: Any, observe: Observe) -> Observe:
    """Observe only at the given times, among those recorded; floats are NaN at other records.

    Integers become floats.  The observable is computed only when it is due, also inside `vmap` as
    long as the recording times are not batched.
    """
    times = jnp.asarray(times)

    def scheduled(state):
        shapes = jax.eval_shape(observe, state)
        dtypes = jax.tree.map(lambda a: jnp.result_type(a.dtype, jnp.float32), shapes)
        due = jnp.any(times.astype(state.time.dtype) == state.time)
        return lax.cond(
            due,
            lambda s: jax.tree.map(lambda a, d: jnp.asarray(a, d), observe(s), dtypes),
            lambda s: jax.tree.map(lambda a, d: jnp.full(a.shape, jnp.nan, d), shapes, dtypes),
            state,
        )

    return scheduled


def iterate(
    step: Callable[[Any, State], State],
    start: Params | State,
    *,
    times: Any,
    observe: Observe,
    key: Key | None = None,
) -> Trajectory:
    """Return the trajectory of the map `step(key, state) -> state`, recorded at the absolute step
    numbers `times`.

    `iterate` sets the time itself: `state.time` counts the calls of `step`, and what `step` writes
    there is ignored.  The call at time t receives `step_key(key, t)`.  `final` is bit for bit the
    same for any recording times, observables and cuts into continued runs.  Forward-mode
    derivatives (`jax.jvp`, `jax.jacfwd`) pass through; for reverse mode scan over the step.

    Raises ValueError for times that are not increasing, whole and non-negative (where they are
    concrete); TypeError for a step that changes the structure, shapes or dtypes of the state, or an
    `observe` that does not return a dict of arrays.
    """
    _checks.check_key(key)
    start = _as_state(start, jnp.int32)
    times = _recording_times(times, start.time, whole=True)

    def advance(state):
        new = _checks.call("step", step, step_key(key, state.time), state)
        if not isinstance(new, State):
            raise TypeError(
                f"step: returned {_checks.kind(new)}; return the state it was given with `_replace(params=...)`"
            )
        _checks.check_unchanged(state._replace(time=()), new._replace(time=()))
        return new._replace(time=state.time + 1)

    def segment(carry, time):
        state, ok = carry
        state = lax.fori_loop(state.time, time, lambda _, s: advance(s), state)
        # The barriers keep the compiler from fusing observables with the run, so that the bits of
        # the run do not depend on what is observed.
        seen = lax.optimization_barrier(state)
        ok = ok & _finite(seen.params)
        return (state, ok), lax.optimization_barrier(
            (_masked(_checks.observed(observe, seen), ok), ok)
        )

    (final, _), (observed, ok) = lax.scan(segment, (start, jnp.asarray(True)), jnp.asarray(times))
    return Trajectory(times, observed, final, ok)


def descent(
    field: Field, optimizer: optax.GradientTransformation, stream: Stream
) -> Callable[[Key | None, State], State]:
    """Return the map of an optimiser: `params + optimizer(field(params, stream(key, time)))`.

    Wrap the map to act after the update (constraints, kicks, averages).  A step raises ValueError
    where the field's updates do not have the structure and shapes of the parameters.
    """

    def step(key, state):
        updates = _checks.call(
            "field", field, state.params, _checks.call("stream", stream, key, state.time)
        )
        _checks.check_updates(state.params, updates)
        updates, memory = optimizer.update(updates, state.memory, state.params)
        return state._replace(params=optax.apply_updates(state.params, updates), memory=memory)

    return step


def train(
    field: Field,
    optimizer: optax.GradientTransformation,
    stream: Stream,
    start: Params | State,
    *,
    times: Any,
    observe: Observe,
    key: Key | None = None,
) -> Trajectory:
    """Return the trajectory of training by an optax optimiser on the batches of a stream, recorded
    at the steps `times`.

    The result is that of `iterate(descent(field, optimizer, stream), ...)`, with a fresh optimiser
    where `start` has no memory.  A second phase with a fresh optimiser starts from
    `run.final._replace(memory=())`.
    """
    _checks.check_optimizer(optimizer)
    start = _as_state(start, jnp.int32)
    _checks.check_floats(start.params)
    if isinstance(start.memory, tuple) and not start.memory:
        start = start._replace(memory=optimizer.init(start.params))
    return iterate(descent(field, optimizer, stream), start, times=times, observe=observe, key=key)


def integrate(
    velocity: Callable[[Any, Params], Params],
    start: Params | State,
    *,
    times: Any,
    observe: Observe,
    solver: Any = "tsit5",
    rtol: Any = 1e-8,
    atol: Any = 1e-10,
    max_steps: int = 100_000,
    event: Any = None,
) -> Trajectory:
    """Return the trajectory of `d params / dt = velocity(t, params)`, recorded at the absolute flow
    times `times`.

    `solver` is "tsit5" (explicit), "kvaerno5" (stiff), any diffrax solver, or `RK4(step)` for fixed
    steps.  Tolerances below what the precision of the parameters can hold are raised to that (32
    eps for `rtol`, eps/4 for `atol`).  `event` is a `diffrax.Event`, such as
    `diffrax.Event(diffrax.steady_state_event())`: the records after an event repeat the state in
    which it fired.  A solver that fails, by blow-up or after `max_steps`, raises nothing: from
    there on `ok` is False and the records are NaN.  Forward-mode derivatives pass through.

    Raises ValueError for times that are not increasing and non-negative (where they are concrete)
    or an unknown solver's name.
    """
    params = start.params if isinstance(start, State) else start
    _checks.check_start(params)
    _checks.check_floats(params)
    floats = _floats(params)
    dtype = jnp.finfo(jnp.result_type(*floats) if floats else jnp.result_type(float)).dtype
    start = _as_state(start, dtype)
    times = _recording_times(times, start.time, whole=False)
    stops = jnp.asarray(times, dtype)
    if isinstance(solver, type):
        raise TypeError(
            f"solver: is the class {solver.__name__}; call it: RK4(step) with a step of time, Tsit5()"
        )
    if isinstance(solver, RK4):
        if event is not None:
            raise ValueError(
                "event: RK4 takes fixed steps without events; use an adaptive solver such as 'tsit5'"
            )
        return _integrate_rk4(velocity, start, stops, observe, solver.step)._replace(time=times)

    import diffrax

    eps = float(jnp.finfo(dtype).eps)
    # Without dtmin a run that blows up shrinks its steps for ever and delays all runs of its vmap.
    controller = diffrax.PIDController(
        rtol=jnp.maximum(rtol, 32 * eps),
        atol=jnp.maximum(atol, eps / 4),
        dtmin=1e-13 * (stops[-1] - start.time),
    )

    def record(t, y, _):
        return (_checks.observed(observe, State(t, y)), _finite(y))

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, _: _checks.call("velocity", velocity, t, y)),
        _solver(solver),
        start.time,
        stops[-1],
        None,
        start.params,
        saveat=diffrax.SaveAt(
            subs=[diffrax.SubSaveAt(ts=stops, fn=record), diffrax.SubSaveAt(t1=True)]
        ),
        stepsize_controller=controller,
        adjoint=diffrax.ForwardMode(),
        max_steps=max_steps,
        throw=False,
        event=event,
    )
    (observed, ok), last = solution.ys  # pyright: ignore[reportGeneralTypeIssues]
    final = State(solution.ts[1][0], jax.tree.map(lambda a: a[0], last))
    reached = jnp.isfinite(solution.ts[0])
    success = solution.result == diffrax.RESULTS.successful
    if event is not None:
        fired = solution.result == diffrax.RESULTS.event_occurred
        success = success | fired
        repeat = _checks.observed(observe, final)

        def keep(a, b):
            return jnp.where(jnp.reshape(fired & ~reached, (-1,) + (1,) * (a.ndim - 1)), b, a)

        observed = jax.tree.map(keep, observed, repeat)
        ok = keep(ok, _finite(final.params))
        reached = reached | fired
    ok = jnp.cumprod(ok & reached).astype(bool)
    final = final._replace(params=_masked(final.params, success))
    return Trajectory(times, _masked(observed, ok), final, ok)


def _solver(solver):
    """Return the diffrax solver of a name; a solver is returned as it is."""
    import diffrax

    if not isinstance(solver, str):
        return solver
    solvers = {"tsit5": diffrax.Tsit5, "kvaerno5": diffrax.Kvaerno5}
    if solver not in solvers:
        raise ValueError(
            f"solver: {solver!r} is unknown; pass one of {sorted(solvers)}, a diffrax solver or RK4(step)"
        )
    return solvers[solver]()


def flow(
    field: Field,
    batch: Batch,
    start: Params | State,
    *,
    times: Any,
    observe: Observe,
    **options: Any,
) -> Trajectory:
    """Return the trajectory of `d params / dt = -field(params, batch)`, the gradient flow where the
    field is a gradient.

    Times are flow times: plain gradient descent follows the flow at `t = learning_rate * step` to
    first order in the learning rate.  The options are those of `integrate`.
    """

    if callable(batch):
        raise TypeError(
            f"batch: is {_checks.kind(batch)}; a flow has one batch: pass the stream's arrays themselves"
        )

    def velocity(_, params):
        updates = _checks.call("field", field, params, batch)
        _checks.check_updates(params, updates)
        return jax.tree.map(jnp.negative, updates)

    return integrate(velocity, start, times=times, observe=observe, **options)


def segmented(
    run: Callable[[State, Any], Trajectory],
    start: Params | State | Trajectory,
    times: Any,
    *,
    segments: int = 20,
    after: Callable[[Trajectory], Any] | None = None,
) -> Trajectory:
    """Return the trajectory of a long simulation that is run piece by piece from the host.

    The host shows a progress bar, and can save checkpoints and stop early.  `run(state, times) ->
    Trajectory` is jitted here.  After each of the `segments` pieces `after(trajectory so far)` is
    called; it may save a checkpoint, and ends the run by returning True.  Ctrl-C ends the run too,
    and what was recorded is returned.  To continue behind the last record, pass that Trajectory (or
    a checkpoint's) as `start`.  The result equals the uncut run.  A start with an empty memory
    compiles twice, `State(0, params, optimizer.init(params))` once.

    Raises ValueError where no times are left to run.
    """
    run = _jitted(run)
    done = start if isinstance(start, Trajectory) else None
    state = (
        done.final if done is not None else start if isinstance(start, State) else State(0, start)
    )
    times = _recording_times(times, 0, whole=np.asarray(times).dtype.kind != "f")
    times = times[times > done.time[-1]] if done is not None else times
    size = max(1, -(-len(times) // segments))
    bar = progress_bar(len(times), "record")
    try:
        for first in range(0, len(times), size):
            piece = times[first : first + size]
            # Padding keeps one shape, and so one compiled program; its records are dropped.
            part = _cut(run(state, np.pad(piece, (0, size - len(piece)), mode="edge")), len(piece))
            done = part if done is None else _joined(done, part)
            state = done.final
            bar.update(len(piece))
            if after is not None and after(done) is True:
                break
    except KeyboardInterrupt:
        if done is None:
            raise
    finally:
        bar.close()
    if done is None:
        raise ValueError(f"times: nothing to run at {times}; pass times after the last record")
    return done


@functools.cache
def _jitted(run):
    return jax.jit(run)


def _cut(trajectory, records):
    """Return the first records as numpy arrays."""
    kept = jax.tree.map(lambda a: np.asarray(a)[:records], trajectory._replace(final=None))
    return kept._replace(final=trajectory.final)


def _joined(first, second):
    def glue(a, b):
        return np.concatenate([np.asarray(a), np.asarray(b)])

    observed = {name: glue(first.observed[name], second.observed[name]) for name in second.observed}
    return Trajectory(
        glue(first.time, second.time), observed, second.final, glue(first.ok, second.ok)
    )


def _integrate_rk4(velocity, start, times, observe, step):
    def advance(state, h):
        # A loop over the stages traces and compiles the velocity once instead of four times.
        def stage(carry, weights):
            total, slope = carry
            ahead, share = (h * w.astype(h.dtype) for w in weights)
            k = _checks.call(
                "velocity",
                velocity,
                state.time + ahead,
                jax.tree.map(lambda p, v: p + ahead * v, state.params, slope),
            )
            return (jax.tree.map(lambda s, v: s + share * v, total, k), k), None

        still = jax.tree.map(jnp.zeros_like, state.params)
        weights = jnp.array([0, 1 / 2, 1 / 2, 1]), jnp.array([1, 2, 2, 1]) / 6
        (moved, _), _ = lax.scan(stage, (still, still), weights)
        return state._replace(
            time=state.time + h, params=jax.tree.map(jnp.add, state.params, moved)
        )

    def segment(carry, time):
        state, ok = carry
        # The margin keeps a rounding error of the times from adding a step.
        steps = jnp.ceil((time - state.time) / step - 1e-6).astype(jnp.int32)
        h = (time - state.time) / jnp.maximum(steps, 1)
        state = lax.fori_loop(0, steps, lambda _, s: advance(s, h), state)._replace(time=time)
        ok = ok & _finite(state.params)
        return (state, ok), (_masked(_checks.observed(observe, state), ok), ok)

    (final, _), (observed, ok) = lax.scan(segment, (start, jnp.asarray(True)), jnp.asarray(times))
    return Trajectory(times, observed, final, ok)


def _as_state(start, time_dtype):
    """Return a State of arrays without weak types, which would change the dtypes of a loop's
    carry."""
    state = start if isinstance(start, State) else State(0, start)
    _checks.check_start(state.params)

    def strong(a):
        return a if _is_key(a) else jnp.asarray(a, jnp.result_type(a))

    params, memory = jax.tree.map(strong, (state.params, state.memory))
    return State(jnp.asarray(state.time).astype(time_dtype), params, memory)


def _recording_times(times, begin, *, whole):
    """Return the times as a numpy array, after checks, if they are concrete; as a jax array if they
    are traced."""
    if any(isinstance(t, jax.core.Tracer) for t in jax.tree.leaves(times)):
        times = jnp.asarray(times)
        return jnp.round(times).astype(jnp.int32) if whole else times.astype(float)
    values = np.asarray(times)
    if values.ndim != 1 or not len(values) or values.dtype.kind not in "iuf":
        raise ValueError(
            f"times: {times!r} is no list of numbers; pass a non-empty 1-D array of increasing times"
        )
    if not np.all(np.isfinite(values)) or values[0] < 0 or np.any(np.diff(values) <= 0):
        raise ValueError(
            f"times: {_short(values)} are not increasing from a time >= 0; sort them: np.unique(times)"
        )
    if whole and np.any(values != np.round(values)):
        raise ValueError(
            f"times: {_short(values)} are not whole numbers of steps; round them, e.g. np.round(time/learning_rate)"
        )
    if whole and values[-1] >= 2**31:
        raise ValueError(
            f"times: {values[-1]} steps are more than can be counted; pass fewer than 2^31"
        )
    if not isinstance(begin, jax.core.Tracer) and values[0] < begin:
        raise ValueError(
            f"times: {values[0]} lies before the start's time {begin}; pass absolute times"
        )
    return values.astype(np.int32 if whole else np.float64)


def _is_key(leaf):
    return jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)


def _floats(tree):
    return [a for a in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(a), jnp.inexact)]


def _finite(tree):
    return functools.reduce(
        jnp.logical_and, [jnp.all(jnp.isfinite(a)) for a in _floats(tree)], jnp.asarray(True)
    )


def _masked(tree, ok):
    """Return the tree with NaN for floats where `ok`, a scalar or one flag per leading index, is
    False."""

    def mask(a):
        if not jnp.issubdtype(jnp.result_type(a), jnp.inexact):
            return a
        flags = jnp.reshape(ok, jnp.shape(ok) + (1,) * (jnp.ndim(a) - jnp.ndim(ok)))
        return jnp.where(flags, a, jnp.nan)

    return jax.tree.map(mask, tree)


def _short(values):
    return np.array2string(values, threshold=6, edgeitems=3, separator=", ")
