"""Basic numerics for all modules: types, checks of concrete values, draws, roots and maxima."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Num, Real

__all__ = [
    "Number",
    "Numbers",
    "Values",
    "around_largest",
    "bisected",
    "check",
    "check_positive",
    "decayed",
    "floats",
    "normal",
    "positive",
    "uniform",
]

Number = Real[ArrayLike, ""]
"""One real number."""

Numbers = Real[ArrayLike, "*#shape"]
"""Real numbers whose shapes broadcast with those of the other arguments of the same call."""

Values = Real[ArrayLike, "..."]
"""Real numbers of a shape of their own."""


def check(
    name: str,
    values: Num[ArrayLike, "..."] | Sequence,
    good: Callable[[np.ndarray], Any],
    remedy: str,
) -> None:
    """Raise a ValueError that shows the argument `name` where its concrete `values` are not `good`;
    tracers pass."""
    if not isinstance(values, jax.core.Tracer) and not np.all(good(np.asarray(values))):
        raise ValueError(f"{name}: {values}; pass {remedy}")


def check_positive(**numbers: ArrayLike) -> None:
    """Raise ValueError for a concrete number that is not positive and finite; tracers pass."""
    for name, number in numbers.items():
        check(name, number, lambda a: (a > 0) & np.isfinite(a), "positive and finite numbers")


def floats(*numbers: ArrayLike) -> list[Array]:
    """Return the numbers as arrays of one inexact dtype.

    Whole numbers then divide like others, and Python's floats take the precision of the arrays.

    Raises TypeError for a string, a list, a tuple, a dict or None.
    """
    for number in numbers:
        if isinstance(number, str | list | tuple | dict) or number is None:
            raise TypeError(
                f"{number!r} is a {type(number).__name__}; pass a number or an array: np.array(...)"
            )
    dtype = jnp.result_type(float, *numbers)
    return [jnp.asarray(number, dtype) for number in numbers]


def positive(x: Array) -> Array:
    """Return x, but at least the smallest normal number of its dtype.

    Quantities that underflow, as where a start lies on a saddle and never leaves it, thereby stay
    off zero.
    """
    return jnp.maximum(x, jnp.finfo(x.dtype).tiny)


def decayed(x: Array) -> Array:
    """Return (1 - e^-x)/x, also at x = 0 and with its derivative there."""
    small = jnp.abs(x) < 1e-3
    series = 1 - x / 2 * (1 - x / 3 * (1 - x / 4 * (1 - x / 5)))
    return jnp.where(small, series, -jnp.expm1(-x) / jnp.where(small, 1.0, x))


def normal(key: Array, shape: tuple[int, ...], dtype: Any = float) -> Array:
    """Return standard normal numbers that are the same in float32 and in float64.

    The numbers are drawn in float32 and cast.  jax draws different numbers in each precision, so
    that a check in float64 would not repeat the float32 run that it checks.
    """
    return jax.random.normal(key, shape, jnp.float32).astype(dtype)


def uniform(
    key: Array, shape: tuple[int, ...], low: float | int = 0.0, high: float | int = 1.0
) -> Array:
    """Return uniform numbers that are the same in float32 and in float64 (see `normal`)."""
    return jax.random.uniform(key, shape, jnp.float32, low, high).astype(float)


def bisected(
    is_below: Callable[[Array], Array], low: Array, high: Array, halvings: int
) -> tuple[Array, Array]:
    """Return a bracket of a root after the given number of `halvings`; `is_below(x)` holds on its
    lower side.

    Arrays of brackets are bisected elementwise.  Derivatives do not pass through the bisection; a
    further step of Newton's method from the root supplies those of the implicit function.
    """

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        below = is_below(middle)
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    return lax.fori_loop(0, halvings, halve, (low, high))


def around_largest(
    function: Callable[[Array], Array], low: Array, high: Array, rounds: int, points: int = 64
) -> tuple[Array, Array]:
    """Return a bracket of the largest value of a function, refined on successive grids.

    Each of the `rounds` replaces the bracket by the two neighbours of the best of `points` places,
    and so makes it (points - 1)/2 times smaller.  `function` takes all places at once.
    """

    def refine(_, bracket):
        low, high = bracket
        grid = low + (high - low) * jnp.linspace(0, 1, points, dtype=low.dtype)
        best = jnp.argmax(function(grid))
        return grid[jnp.maximum(best - 1, 0)], grid[jnp.minimum(best + 1, points - 1)]

    return lax.fori_loop(0, rounds, refine, (low, high))
