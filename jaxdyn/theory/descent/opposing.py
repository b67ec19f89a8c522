"""Opposing signals in a two-layer linear network: a valley that sharpens, and descent at its edge
of stability.

The output of the network is c b^T x.  The inputs are signals of variance lam_j, by which the labels
are determined with the coefficients beta_j, and an outlier of variance alpha that the labels do not
depend on.  Of the examples with the outlier half have either sign of the label (Rosenfeld,
Risteski, 2023, in its simplest form).  With the outlier's weight o the loss is

    L = sum_j lam_j (c b_j - beta_j)^2 / 2 + alpha c^2 o^2 / 2.

The network learns to ignore the outlier, o = 0, but the curvature alpha c^2 in this direction grows
with all that the network learns.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from jaxdyn._numbers import floats

__all__ = ["Course", "course", "edge", "flow_limit"]


class Course(NamedTuple):
    """The course of gradient descent at its edge of stability.

    Attributes:
        c: the output weight.
        b: the weights of the signals.
        variance: the mean square of the outlier's weight o.
    """

    c: Float[Array, ""]
    b: Float[Array, "times signals"]
    variance: Float[Array, "times"]


def flow_limit(
    c: Real[ArrayLike, "..."],
    first: Real[ArrayLike, "... inputs"],
    targets: Real[ArrayLike, "signals"],
) -> Float[Array, "..."]:
    """Return the output weight c at which gradient flow ends.

    Gradient flow conserves D = c^2 - |first|^2, where `first` are the weights of all inputs at the
    start, and ends at c b = beta, o = 0.  Hence

        c^2 = (D + sqrt(D^2 + 4 |beta|^2)) / 2.

    If the outlier's curvature is the largest there, the sharpness at the end is alpha c^2.
    """
    c, first, targets = floats(c, first, targets)
    balance = c**2 - jnp.sum(first**2, -1)
    signal = jnp.sum(targets**2)
    root = jnp.sqrt(balance**2 + 4 * signal)
    return jnp.sqrt((balance + root) / 2)


def edge(
    outlier: Real[ArrayLike, "..."], learning_rate: Real[ArrayLike, "..."]
) -> Float[Array, "..."]:
    """Return the output weight c* = sqrt(2 / (learning_rate alpha)) beyond which descent is
    unstable along the outlier.

    >>> f"{edge(20.0, 0.08):.4f}"
    '1.1180'
    """
    outlier, learning_rate = floats(outlier, learning_rate)
    return jnp.sqrt(2 / (learning_rate * outlier))


def course(
    steps: Real[ArrayLike, "times"],
    b: Real[ArrayLike, "signals"],
    variances: Real[ArrayLike, "signals"],
    targets: Real[ArrayLike, "signals"],
    outlier: Real[ArrayLike, ""],
    learning_rate: Real[ArrayLike, ""],
) -> Course:
    """Return the central flow of gradient descent, `steps` after it has met the edge with the
    signals' weights `b`.

    The output weight stays at c* (`edge`).  The signals' weights relax to beta_j/c*, and the
    outlier's weight oscillates with the variance that keeps c from growing, as long as this
    variance is positive:

        b_j = beta_j/c* + (b_j(0) - beta_j/c*) e^(-learning_rate lam_j c*^2 steps),

        E o^2 = sum_j lam_j (beta_j - c* b_j) b_j/(alpha c*).

    The course is the closed form of what `theory.descent.central_flow` integrates.
    """
    numbers = floats(steps, b, variances, targets, outlier, learning_rate)
    steps, b, variances, targets, outlier, learning_rate = numbers
    c = edge(outlier, learning_rate)
    decay = jnp.exp(-learning_rate * c**2 * variances[None] * steps[:, None])
    b = targets[None] / c + (b - targets / c)[None] * decay
    return Course(c, b, jnp.sum(variances[None] * (targets[None] - c * b) * b, 1) / (outlier * c))
