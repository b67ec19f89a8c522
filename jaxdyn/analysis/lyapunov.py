"""Lyapunov exponents of any map, from tangents that move along under the map's derivative."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from jaxdyn._numbers import normal
from jaxdyn.types import Key, Observe, Params, State

__all__ = ["Tangents", "tangent_growth", "with_tangents"]

Step = Callable[[Key | None, State], State]


class Tangents(NamedTuple):
    """Parameters with tangents that move along.

    Attributes:
        params: the parameters.
        frame: an orthonormal frame of tangents, (number, size).
        growth: the logarithm of the growth of each tangent so far.
    """

    params: Params
    frame: Float[Array, "number size"]
    growth: Float[Array, " number"]


def with_tangents(step: Step, start: State, number: int = 1, *, key: Key) -> tuple[Step, State]:
    """Return a map and its start that carry `number` tangents beside the parameters, for `iterate`.

    A step multiplies the tangents by its derivative and orthonormalises them (Benettin et al.,
    1980).  `growth` sums the logarithms of the lengths that the orthonormalisation removes; divided
    by the number of steps `growth` tends to the Lyapunov exponents, largest first.  To leave out a
    transient, take the difference of two recordings of `growth`.

    The optimiser's memory (`start.memory`, as `optimizer.init` makes it) is part of the map and of
    its tangents, except for whole numbers in it.  The run itself is the same as without tangents.

    Raises ValueError for more tangents than there are dimensions.
    """
    flat = _moving(start)[0]
    if not 1 <= number <= flat.size:
        raise ValueError(
            f"number: {number} tangents of a map of {flat.size} dimensions; pass 1 ... {flat.size}"
        )
    drawn = normal(key, (flat.size, number), flat.dtype)

    def carried(key, state):
        inner = state._replace(params=state.params.params)
        flat, whole, unravel = _moving(inner)

        def moved(flat):
            after = step(key, unravel(flat, whole))
            return _moving(after)[0], after

        _, push, after = jax.linearize(moved, flat, has_aux=True)
        q, r = jnp.linalg.qr(jax.vmap(push)(state.params.frame).T)
        growth = state.params.growth + jnp.log(jnp.abs(jnp.diagonal(r)))
        return after._replace(params=Tangents(after.params, q.T, growth))

    frame, _ = jnp.linalg.qr(drawn)
    first = Tangents(start.params, frame.T, jnp.zeros(number, flat.dtype))
    return carried, start._replace(params=first)


def tangent_growth(observe: Observe = lambda state: {}) -> Observe:
    """Observe `growth` (number,) of a map `with_tangents`, and what `observe` returns for the
    parameters alone."""

    def seen(state):
        inner = state._replace(params=state.params.params)
        return {"growth": state.params.growth, **observe(inner)}

    return seen


def _moving(state) -> tuple[Float[Array, " size"], Any, Callable]:
    """Return the floats of parameters and memory as one vector, the other leaves, and the inverse
    of this split."""
    leaves, treedef = jax.tree.flatten((state.params, state.memory))
    floats = [jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in leaves]
    flat, unravel = ravel_pytree(list(itertools.compress(leaves, floats)))
    whole = [leaf for leaf, moves in zip(leaves, floats, strict=True) if not moves]

    def back(flat, whole):
        moving = iter(unravel(flat))
        still = iter(whole)
        both = [next(moving) if moves else next(still) for moves in floats]
        params, memory = treedef.unflatten(both)
        return state._replace(params=params, memory=memory)

    return flat, whole, back
