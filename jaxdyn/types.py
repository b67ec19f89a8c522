"""The vocabulary: what a learning system is made of.  Plain pytrees and pure functions; the only
classes are tuples."""

import difflib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from jaxtyping import Array, PRNGKeyArray, PyTree

__all__ = [
    "Batch",
    "Field",
    "Key",
    "Model",
    "Observe",
    "Params",
    "State",
    "Stream",
    "Trajectory",
    "Updates",
    "nearest",
]

Params = PyTree[Any]
Batch = PyTree[Any]
Key = PRNGKeyArray
Updates = PyTree[Any]

Field = Callable[[Params, Batch], Updates]
"""`(params, batch) -> updates`, "gradients" in optax's sense: minus the velocity of the
parameters."""

Stream = Callable[[Key, Array], Batch]
"""`(key of this step, number of this step) -> batch`: where all randomness of a field enters."""


class Model(NamedTuple):
    """A pair of pure functions: `init(key) -> params` and `apply(params, x, **options) ->
    outputs`."""

    init: Callable[[Key], Params]
    apply: Callable[..., Any]


class State(NamedTuple):
    """Where a system stands.

    Attributes:
        time: steps of a map, flow time of a flow.
        params: what moves.
        memory: the state of the optimiser; an empty one means a fresh optimiser.
    """

    time: Any
    params: Params
    memory: Any = ()


class Trajectory(NamedTuple):
    """What was recorded of a run.

    Attributes:
        time: (T,), steps or flow times.
        observed: {name: (T, ...)}.
        final: the last state.
        ok: (T,), False from the first record at which the parameters were not finite, or the solver
            had failed; the floats observed from there on are NaN.
    """

    time: Any
    observed: dict[str, Any]
    # What `run.final` is for all runs; only a theory that is written down as a trajectory has none.
    final: State = None  # pyright: ignore[reportAssignmentType]
    ok: Any = True


Observe = Callable[[State], dict[str, Array]]
"""`state -> {name: array}`: pure, and never fed back into the dynamics."""


def nearest(name: object, known: Iterable[object]) -> str:
    """Return the hint of an error message: the name that was probably meant, or all there are.

    >>> nearest("learning_rte", ["learning_rate", "width"])
    "did you mean 'learning_rate'?"
    """
    names = sorted(map(str, known))
    near = difflib.get_close_matches(str(name), names, 1)
    return f"did you mean {near[0]!r}?" if near else f"there is {names}"
