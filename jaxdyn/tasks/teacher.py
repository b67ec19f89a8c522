"""Examples labelled by a teacher."""

from collections.abc import Callable

import jax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxdyn._numbers import normal
from jaxdyn.types import Key

__all__ = ["labelled"]


def labelled(
    key: Key,
    teacher: Callable[[Float[Array, "n inputs"]], Float[Array, "n *outputs"]],
    n: int,
    inputs: int,
    *,
    noise: Float[ArrayLike, ""] = 0.0,
) -> tuple[Float[Array, "{n} {inputs}"], Float[Array, "{n} *outputs"]]:
    """Draw n standard normal inputs x in rows, and their labels y = teacher(x) + noise * z, with z
    standard normal.

    `tasks.online(lambda key: labelled(key, teacher, 1, inputs))` is the stream of online learning,
    one new example at each step.

    >>> import jax.numpy as jnp
    >>> x, y = labelled(jax.random.key(0), lambda x: x.sum(1), 5, 3)
    >>> x.shape, bool(jnp.all(y == x.sum(1)))
    ((5, 3), True)
    """
    k_inputs, k_noise = jax.random.split(key)
    x = normal(k_inputs, (n, inputs))
    y = teacher(x)
    return x, y + noise * normal(k_noise, y.shape, y.dtype)
