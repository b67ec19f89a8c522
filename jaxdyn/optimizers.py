"""Optimisers that optax lacks, as optax transformations for `train`, for sweeps and for any optax
chain."""

from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PyTree

from jaxdyn._numbers import normal
from jaxdyn.dynamics import step_key
from jaxdyn.types import Key, Params, State

__all__ = [
    "Kicks",
    "ScalarRms",
    "Velocity",
    "ahead",
    "keep_norms",
    "kicks",
    "nesterov_schedule",
    "scalar_rmsprop",
    "three_term",
]

Scheduled = Float[ArrayLike, ""] | Callable[[Int[Array, ""]], Float[ArrayLike, ""]]


class Velocity(NamedTuple):
    """The memory of `three_term`.

    Attributes:
        count: the number of steps taken.
        velocity: the last change x_k - x_{k-1} of the iterates.
    """

    count: Int[Array, ""]  # pyright: ignore[reportIncompatibleMethodOverride]
    velocity: PyTree[Array]


def three_term(
    learning_rate: Scheduled, momentum: Scheduled = 0.0, lookahead: Scheduled = 0.0
) -> optax.GradientTransformation:
    """Return the three-term momentum method with learning rate a, momentum b and lookahead g
    (Lessard, Recht, Packard, 2016).

    The iterates x_k obey

        x_{k+1} = x_k + b (x_k - x_{k-1}) - a grad f(y_k),   y_k = x_k + g (x_k - x_{k-1}),

    and the parameters that `train` holds, and takes gradients at, are the y_k; `ahead` gives the
    x_k.  Gradient descent has b = g = 0, the heavy ball g = 0, and Nesterov's method g = b;
    `theory.momentum` tunes these three and the triple momentum method.  Each coefficient is a
    number or a function of the number of steps taken, such as `nesterov_schedule`.
    """

    def at(coefficient, count):
        return coefficient(count) if callable(coefficient) else coefficient

    def init(params: Params) -> Velocity:
        return Velocity(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params=None):
        del params
        a, b, g = (
            at(coefficient, state.count) for coefficient in (learning_rate, momentum, lookahead)
        )

        def cast(number, like):
            return jnp.asarray(number, like.dtype)

        velocity = jax.tree.map(
            lambda v, d: cast(b, v) * v - cast(a, v) * d, state.velocity, updates
        )
        g_next = at(lookahead, state.count + 1)

        def change(new, old):
            return new + cast(g_next, new) * new - cast(g, old) * old

        return jax.tree.map(change, velocity, state.velocity), Velocity(state.count + 1, velocity)

    return optax.GradientTransformation(init, update)


def ahead(state: State, by: Float[ArrayLike, ""]) -> Params:
    """Return the point that is `by` velocities ahead of the parameters of a `three_term` run.

    `by = -lookahead` gives the iterate x_k, and `by = output - lookahead` the output of the triple
    momentum method.
    """
    return jax.tree.map(
        lambda y, v: y + jnp.asarray(by, y.dtype) * v, state.params, state.memory.velocity
    )


def nesterov_schedule(count: Int[Array, ""]) -> Float[Array, ""]:
    """Return the momentum (k - 1)/(k + 2) of Nesterov's method for convex functions after k =
    `count` steps, and 0 in the first step.

    Nesterov's method takes this number as both the momentum and the lookahead of `three_term` (Su,
    Boyd, Candes, 2016).
    """
    count = jnp.asarray(count, float)
    return jnp.maximum(count - 1, 0) / (count + 2)


class ScalarRms(NamedTuple):
    """The memory of `scalar_rmsprop`.

    Attributes:
        nu: the running average of the squared norm of the gradient.
    """

    nu: Float[Array, ""]


def scalar_rmsprop(
    learning_rate: Float[ArrayLike, ""],
    decay: Float[ArrayLike, ""] = 0.99,
    initial: Float[ArrayLike, ""] = 0.0,
) -> optax.GradientTransformation:
    """Return RMSProp with one learning rate for all parameters, `learning_rate / sqrt(nu)` (Cohen
    et al., 2024).

    The average nu <- decay nu + (1 - decay) |g|^2, with |g| the norm over all parameters, is
    updated before it is used, and starts from `initial`.  With `initial` 0 the first step has the
    length learning_rate / sqrt(1 - decay); with `initial` |g|^2 at the start, the length
    learning_rate.  `theory.centralflow` has the average course of this method.
    """

    def init(params: Params) -> ScalarRms:
        return ScalarRms(jnp.asarray(initial, optax.tree.norm(params).dtype))

    def update(updates, state, params=None):
        del params
        squared = optax.tree.norm(updates, squared=True)
        nu = jnp.asarray(decay * state.nu + (1 - decay) * squared, state.nu.dtype)
        # Once all is learned to the last bit, the gradient and nu are 0.
        rate = learning_rate / jnp.sqrt(jnp.maximum(nu, jnp.finfo(nu.dtype).tiny))
        return jax.tree.map(lambda g: -jnp.asarray(rate, g.dtype) * g, updates), ScalarRms(nu)

    return optax.GradientTransformation(init, update)


class Kicks(NamedTuple):
    """The memory of `kicks`.

    Attributes:
        count: the number of steps taken.
    """

    count: Int[Array, ""]  # pyright: ignore[reportIncompatibleMethodOverride]


def kicks(key: Key, size: Float[ArrayLike, ""]) -> optax.GradientTransformation:
    """Return the transformation that adds isotropic Gaussian noise, of root mean squared length
    `size` over all parameters, to each update.

    Without noise, gradient descent leaves the edge of stability late and by a leap: its component
    along a direction that becomes unstable has decayed before, and takes long to grow again.  Kicks
    of 1e-4 prevent this.  Last in a chain, the kicks have the length `size` at any learning rate:
    `optax.chain(optax.sgd(rate), kicks(key, 1e-4))`.
    """

    def init(params: Params) -> Kicks:
        del params
        return Kicks(jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        del params
        flat, unravel = ravel_pytree(updates)
        own = cast(Key, step_key(key, state.count))
        noise = normal(own, flat.shape, flat.dtype)
        return unravel(flat + jnp.asarray(size / flat.size**0.5, flat.dtype) * noise), Kicks(
            state.count + 1
        )

    return optax.GradientTransformation(init, update)


def keep_norms() -> optax.GradientTransformation:
    """Return the transformation, last in a chain, after which each array of the parameters keeps
    its initial norm.

    With u the update, each array becomes

        theta <- |theta_0| (theta + u) / |theta + u|

    in the Frobenius norm, which bounds a field with a curl.  The transformation works with any
    optimiser and model, and needs the parameters: `optimizer.update(updates, memory, params)`.
    """

    def init(params: Params):
        return jax.tree.map(jnp.linalg.norm, jax.tree.map(jnp.ravel, params))

    def update(updates, state, params=None):
        if params is None:
            raise ValueError(
                "params: keep_norms needs the parameters; call update(updates, state, params)"
            )

        def kept_norm(w, norm):
            return w * (norm / jnp.linalg.norm(w.ravel()))

        moved = optax.apply_updates(params, updates)
        kept = jax.tree.map(kept_norm, moved, state)
        return jax.tree.map(jnp.subtract, kept, params), state

    return optax.GradientTransformation(init, update)
