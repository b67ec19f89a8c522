"""The vocabulary of learning systems: plain pytrees and pure functions; the only classes are
tuples."""

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
"""`(params, batch) -> updates`, "gradients" in optax's sense: minus the parameters' velocity."""

Stream = Callable[[Key, Array], Batch]
"""`(key of this step, number of this step) -> batch`: where all randomness of a field enters."""


class Model(NamedTuple):
    """A pair of pure functions: `init(key) -> params` and `apply(params, x, **options) ->
    outputs`."""

    init: Callable[[Key], Params]
    apply: Callable[..., Any]


class State(NamedTuple):
    """The state of a system at one time.

    Attributes:
        time: steps of a map, flow time of a flow.
        params: the parameters, which the system moves.
        memory: the state of the optimiser; an empty one means a fresh optimiser.
    """

    time: Any
    params: Params
    memory: Any = ()


class Trajectory(NamedTuple):
    """The record of a run.

    Attributes:
        time: (T,), steps or flow times.
        observed: {name: (T, ...)}.
        final: the last state.
        ok: (T,), False from the first record at which the parameters were not finite, or the solver
            had failed; the floats observed from there on are NaN.
    """

    time: Any
    observed: dict[str, Any]
    # Every run has a final state; only a theory that is written as a trajectory has none.
    final: State = None  # pyright: ignore[reportAssignmentType]
    ok: Any = True


Observe = Callable[[State], dict[str, Array]]
"""`state -> {name: array}`, a pure function whose result never enters the dynamics."""


def nearest(name: object, known: Iterable[object]) -> str:
    """Return the hint of an error message: the known name that was probably meant, or all known
    names.

    >>> nearest("learning_rte", ["learning_rate", "width"])
    "did you mean 'learning_rate'?"
    """
    names = sorted(map(str, known))
    near = difflib.get_close_matches(str(name), names, 1)
    return f"did you mean {near[0]!r}?" if near else f"there is {names}"
