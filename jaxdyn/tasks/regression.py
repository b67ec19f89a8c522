"""Linear regression from a teacher, on Gaussian inputs of a chosen spectrum.

Teacher, initial weights and noise have exact norms, because random norms would be most of what
differs from seed to seed.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from jaxdyn._numbers import normal
from jaxdyn.types import Key

__all__ = ["Regression", "regression", "teacher_student"]

Groups = Real[ArrayLike, "..."] | Sequence[int | float]


class Regression(NamedTuple):
    """Data y = x teacher + noise.

    Attributes:
        x: the examples, in rows.
        y: the labels of the examples.
        teacher: the weights of the teacher.
        start: the initial weights of a student.
        eigenvalues: the eigenvalues of the inputs' covariance, one for each input.
    """

    x: Float[Array, "n inputs"]
    y: Float[Array, " n"]
    teacher: Float[Array, " inputs"]
    start: Float[Array, " inputs"]
    eigenvalues: Float[Array, " inputs"]


def regression(
    key: Key,
    samples: int,
    eigenvalues: Groups,
    multiplicities: Sequence[int],
    power: Groups,
    *,
    noise: Real[ArrayLike, ""] = 0.0,
    start: Groups = 0.0,
) -> Regression:
    """Draw a teacher, data and initial weights, for inputs in groups that each have one variance.

    Group g has multiplicities[g] inputs of variance eigenvalues[g].  In each group the coefficients
    of the teacher have exactly the squared norm `power`, and the initial weights exactly the
    squared norm `start`; the noise of the labels has exactly the mean square `noise^2`.  One number
    stands for all groups.

    >>> data = regression(jax.random.key(0), 5, [1.0, 0.01], (3, 4), power=[1.0, 100.0], noise=0.1)
    >>> data.x.shape, (data.teacher[:3] @ data.teacher[:3]).round(4).tolist()
    ((5, 7), 1.0)

    Raises ValueError for arrays of another length than the number of groups, and for groups without
    inputs.
    """
    groups = len(multiplicities)
    if not groups or min(multiplicities) < 1:
        raise ValueError(
            f"multiplicities: {tuple(multiplicities)}; pass at least one group of at least one "
            "input each"
        )
    values = {"eigenvalues": eigenvalues, "power": power, "start": start}
    values = {name: jnp.asarray(value, float) for name, value in values.items()}
    for name, value in values.items():
        if value.shape not in ((), (groups,)):
            raise ValueError(
                f"{name}: shape {value.shape}; pass a number, or one for each of {groups} groups"
            )
    eigenvalues, power, start = (jnp.broadcast_to(value, (groups,)) for value in values.values())
    inputs = sum(multiplicities)
    group = jnp.repeat(jnp.arange(groups), jnp.asarray(multiplicities), total_repeat_length=inputs)
    # One draw for all arrays compiles faster than one for each.
    numbers = normal(key, (samples * (inputs + 1) + 2 * inputs,))
    ends = np.cumsum([samples * inputs, inputs, inputs])
    x, teacher, first, errors = jnp.split(numbers, ends)

    def in_groups(vector, squares):
        drawn = jax.ops.segment_sum(vector**2, group, groups)
        return vector * jnp.sqrt(squares / drawn)[group]

    deviations = jnp.sqrt(eigenvalues)[group]
    x = x.reshape(samples, inputs) * deviations[None]
    teacher = in_groups(teacher, power)
    y = x @ teacher + noise * errors / jnp.sqrt(jnp.mean(errors**2))
    return Regression(x, y, teacher, in_groups(first, start), eigenvalues[group])


def teacher_student(
    key: Key,
    inputs: int,
    samples: int,
    *,
    snr: Real[ArrayLike, ""] = 1.0,
    inr: Real[ArrayLike, ""] = 0.0,
) -> Regression:
    """Draw isotropic inputs of variance 1/inputs, labels with noise of variance 1, a teacher and
    initial weights.

    The squared norms are `snr` * inputs for the teacher and `inr` * inputs for the initial weights:
    `snr` and `inr` are the ratios of signal and of initial weights to noise of Advani and Saxe
    (2017), whose alpha is samples / inputs.
    """
    power = snr * inputs
    start = inr * inputs
    return regression(key, samples, 1 / inputs, (inputs,), power, noise=1.0, start=start)
