"""Checks of what users pass to the verbs; messages say what is wrong, where, and what to pass."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxdyn.types import Observe, State

__all__ = [
    "REMEDIES",
    "RESERVED",
    "call",
    "check_floats",
    "check_key",
    "check_optimizer",
    "check_start",
    "check_unchanged",
    "check_updates",
    "kind",
    "observed",
]

RESERVED = ("time", "ok")  # names that the record of every run uses itself
REMEDIES = {
    "field": "pass a function (params, batch) -> updates, such as jax.grad(loss) of a loss(params, batch)",
    "stream": "pass a function (key, step) -> batch, such as tasks.full_batch(batch)",
    "step": "pass a function (key, state) -> state",
    "velocity": "pass a function (time, params) -> velocity of the parameters",
    "observe": "pass a function of the state, such as lambda state: {'loss': loss(state.params, batch)}",
}


def call(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of a function that a user passed as `name`.

    Raises TypeError where it is not a function of so many arguments.
    """
    if not callable(function):
        raise TypeError(f"{name}: is {kind(function)}; {REMEDIES[name]}")
    try:
        return function(*arguments)
    except (AttributeError, TypeError) as error:
        if _unfit(function, arguments):
            raise TypeError(
                f"{name}: takes {inspect.signature(function)}; {REMEDIES[name]}"
            ) from error
        if "Gradient only defined for scalar-output" in str(error):
            shape = str(error).rpartition(": ")[2].rstrip(".")
            raise TypeError(
                f"{name}: its loss has the shape {shape}; return one number, such as the mean over examples"
            ) from error
        if name == "observe" and "State" in str(error):
            raise TypeError(
                f"observe: is given a State, not the parameters: use state.params ({error})"
            ) from error
        raise


def kind(value: Any) -> str:
    """Return the words for a value in a message, such as "the function f", "a list" or "a
    Model"."""
    if isinstance(value, jax.Array | np.ndarray):
        return f"an array of shape {np.shape(value)}"
    if inspect.isroutine(value):
        return f"the function {getattr(value, '__name__', '')}"
    if value is None:
        return "None"
    name = type(value).__name__
    article = "an" if name[0].lower() in "aeiou" else "a"
    return (
        f"{article} {name}"
        if not isinstance(value, bool | int | float | str)
        else f"{value!r}, {article} {name}"
    )


def check_start(params: Any) -> None:
    """Raise TypeError where leaves of the parameters are not arrays."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | bool | int | float | complex):
            raise TypeError(
                f"start: holds {kind(leaf)} at {type(params).__name__}{jax.tree_util.keystr(path)}, no array; pass "
                "parameters, such as model.init(key), or a State"
            )


def check_floats(params: Any) -> None:
    """Raise TypeError where there are parameters but no floats among them, as only floats can
    move."""
    dtypes = [jnp.result_type(leaf) for leaf in jax.tree.leaves(params)]
    if dtypes and not any(jnp.issubdtype(dtype, jnp.inexact) for dtype in dtypes):
        raise TypeError(
            f"start: its arrays are {dtypes[0]}, which cannot move; pass floats, such as jnp.array([1.0])"
        )


def check_key(key: Any) -> None:
    """Raise TypeError for a seed in place of a key."""
    if key is not None and not isinstance(key, jax.Array | np.ndarray):
        raise TypeError(f"key: is {kind(key)}; pass jax.random.key(0)")


def check_optimizer(optimizer: Any) -> None:
    """Raise TypeError for anything but an optax optimiser."""
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(
            f"optimizer: is {kind(optimizer)}; pass an optax optimiser, such as optax.sgd(0.1)"
        )


def check_unchanged(before: Any, after: Any) -> None:
    """Raise TypeError where a step changes the structure, shapes or dtypes of a state."""
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise TypeError(
            f"step: changes the structure of the state from {jax.tree.structure(before)} to {jax.tree.structure(after)}"
        )
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True
    ):
        if jnp.shape(a) != jnp.shape(b) or jnp.result_type(a) != jnp.result_type(b):
            raise TypeError(
                f"step: changes state{jax.tree_util.keystr(path)} from {jnp.result_type(a)}{list(jnp.shape(a))} to "
                f"{jnp.result_type(b)}{list(jnp.shape(b))}; a traced float64 number (a momentum, say) beside float32 "
                "parameters does that: cast it to their dtype"
            )


def check_updates(params: Any, updates: Any) -> None:
    """Raise ValueError where a field's updates do not have the structure and shapes of the
    parameters."""
    if jax.tree.structure(params) != jax.tree.structure(updates):
        hint = "one update for each parameter"
        if len(leaves := jax.tree.leaves(updates)) == 1 and jnp.ndim(leaves[0]) == 0:
            hint = "jax.grad(loss) in the place of a loss"
        elif isinstance(updates, tuple) and len(updates) == 2:
            hint = "jax.grad, or only the gradient of jax.value_and_grad"
        raise ValueError(
            f"field: its updates {jax.tree.structure(updates)} do not match the parameters "
            f"{jax.tree.structure(params)}; pass {hint}"
        )
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(updates), strict=True
    ):
        if jnp.shape(a) != jnp.shape(b):
            raise ValueError(
                f"field: the update of params{jax.tree_util.keystr(path)} has shape {jnp.shape(b)}, not {jnp.shape(a)}"
            )


def _unfit(function, arguments):
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return True
    except ValueError:  # a builtin without a signature
        return False
    return False


def observed(observe: Observe, state: State) -> dict[str, Array]:
    """Return what `observe` sees, as arrays.

    Raises TypeError or ValueError where `observe` returns anything but a dict of arrays, or uses a
    reserved name.
    """
    seen = call("observe", observe, state)
    if not isinstance(seen, dict) or not all(isinstance(name, str) for name in seen):
        raise TypeError(
            f"observe: returned {type(seen).__name__}; return a dict of arrays, such as {{'loss': loss(state.params)}}"
        )
    for name, value in seen.items():
        if name in RESERVED:
            raise ValueError(f"observe: the name {name!r} is the record's own; choose another")
        if not isinstance(value, jax.Array | np.ndarray | np.generic | complex | float | int):
            raise TypeError(
                f"observe: {name!r} is {type(value).__name__}, no array; give each array its own name"
            )
    return {name: jnp.asarray(value) for name, value in seen.items()}
