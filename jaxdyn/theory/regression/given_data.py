"""Least squares on given data: the weights of gradient flow, descent and ridge regression at all
times at once.

For data X (n, inputs) and y (n,) the loss is |y - X w|^2 / (2 n).  One singular value decomposition
gives the weights at any time, with more samples than inputs or fewer.  In directions that the data
do not span the weights keep their initial values.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from jaxdyn._numbers import check

__all__ = ["descended", "descent", "excess_error", "flow", "mean_squared_error", "ridge"]

Inputs = Float[Array, "n inputs"]
Labels = Float[Array, "n"]
Weights = Float[Array, "*times inputs"]


def flow(
    time: Real[ArrayLike, "*times"],
    x: Inputs,
    y: Labels,
    start: Float[Array, "inputs"] | None = None,
) -> Weights:
    """Return the weights at each time of gradient flow dw/dt = X^T (y - X w) / n from `start`, by
    default zero.

    >>> x, y = jnp.eye(2), jnp.array([1.0, 2.0])
    >>> flow(np.array([0.0, np.log(4.0), 100.0]), x, y).round(3).tolist()
    [[0.0, 0.0], [0.5, 1.0], [1.0, 2.0]]

    Raises ValueError for times that are negative or not finite.
    """
    check("time", time, _finite, "finite times >= 0")
    return _solved(lambda rate, t: -jnp.expm1(-rate * t) / rate, time, x, y, start)


def descent(
    steps: Real[ArrayLike, "*times"],
    learning_rate: Real[ArrayLike, ""],
    x: Inputs,
    y: Labels,
    start: Float[Array, "inputs"] | None = None,
) -> Weights:
    """Return the weights after each number of `steps` w <- w + learning_rate X^T (y - X w) / n.

    Beyond the stable learning rates the weights grow, and are not finite once they leave the
    floating-point range.  Raises ValueError for steps that are negative or not whole.
    """
    check("steps", steps, lambda k: _finite(k) & (k == np.round(k)), "whole numbers of steps >= 0")

    return _solved(lambda rate, k: descended(learning_rate * rate, k)[1] / rate, steps, x, y, start)


def ridge(
    penalty: Real[ArrayLike, "*times"],
    x: Inputs,
    y: Labels,
    start: Float[Array, "inputs"] | None = None,
) -> Weights:
    """Return the minimum of |y - X w|^2 / n + penalty |w - start|^2 for each penalty.

    At penalty 0 the minimum closest to `start` is returned.  Raises ValueError for a negative
    penalty.
    """
    check("penalty", penalty, _finite, "finite penalties >= 0")
    return _solved(lambda rate, s: 1 / (rate + s), penalty, x, y, start)


def mean_squared_error(weights: Weights, x: Inputs, y: Labels) -> Float[Array, "*times"]:
    """Return |y - X w|^2 / n on the training data or on other data."""
    labels = y.reshape((1,) * (weights.ndim - 1) + (-1,))
    residual = labels - weights @ x.T
    return jnp.mean(residual**2, -1)


def excess_error(
    weights: Weights,
    teacher: Float[Array, "inputs"],
    eigenvalues: Float[Array, "inputs"] | None = None,
) -> Float[Array, "*times"]:
    """Return (w - teacher)^T Sigma (w - teacher), the expected error on new inputs with noiseless
    labels.

    Sigma is the diagonal matrix of `eigenvalues`, by default the identity.
    """
    alone = (1,) * (weights.ndim - 1) + (-1,)
    squares = (weights - teacher.reshape(alone)) ** 2
    if eigenvalues is not None:
        squares = squares * eigenvalues.reshape(alone)
    return jnp.sum(squares, -1)


def descended(
    z: Float[Array, "..."], k: Float[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Return the fractions of a mode that k steps leave, (1 - z)^k, and learn, 1 - (1 - z)^k, for
    any z > 0."""
    slow = z < 0.5
    learned = -jnp.expm1(k * jnp.log1p(-jnp.where(slow, z, 0.0)))
    left = jnp.where(slow, 1 - learned, (1 - z) ** k)
    return left, jnp.where(slow, learned, 1 - left)


def _solved(gain: Callable, time, x, y, start):
    """Return the weights in which each singular direction has moved by gain(rate, time) times its
    initial force."""
    n, inputs = x.shape
    start = jnp.zeros(inputs, x.dtype) if start is None else start
    left, singular, right = jnp.linalg.svd(x, full_matrices=False)
    time = jnp.asarray(time, x.dtype)[..., None]

    def along(vector):
        return vector.reshape((1,) * (time.ndim - 1) + (-1,))

    # Directions whose singular values are below rounding count as not spanned by the data.
    seen = singular > jnp.finfo(x.dtype).eps * max(x.shape) * singular[0]
    rate = jnp.where(seen, singular**2 / n, 1.0)
    force = jnp.where(seen, singular * (left.T @ (y - x @ start)) / n, 0.0)
    return along(start) + (gain(along(rate), time) * along(force)) @ right


def _finite(values):
    return np.isfinite(values) & (values >= 0)
