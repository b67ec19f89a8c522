"""Students: linear networks that learn from a teacher with the sign of some weights turned."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdyn._numbers import uniform
from jaxdyn.losses import covariance_loss
from jaxdyn.models import product
from jaxdyn.optimizers import keep_norms
from jaxdyn.rules import sign_diverse
from jaxdyn.tasks import Covariances, linear_teacher
from jaxdyn.theory.plasticity import curl
from jaxdyn.types import Field

__all__ = [
    "LOSS",
    "critical",
    "flips",
    "named",
    "student",
    "turned",
    "untouched",
    "with_hidden",
    "with_inputs",
]

LOSS = covariance_loss(product)


class Student(NamedTuple):
    """A student and how it learns.

    Attributes:
        field: its curl descent.
        optimizer: steps that keep the norm of each layer.
        moments: what it learns.
        start: its initial weights.
    """

    field: Field
    optimizer: optax.GradientTransformation
    moments: Covariances
    start: list


def student(key, inputs, hidden, turned_inputs, turned_hidden, rate):
    """Return a student of whose inputs and hidden units these fractions are turned."""
    keys = jax.random.split(key, 4)
    teacher = weights(keys[1], 1, hidden) @ weights(keys[0], hidden, inputs)
    first = weights(keys[2], hidden, inputs)
    second = weights(keys[3], 1, hidden)
    of_inputs = turned(inputs, turned_inputs)[None]
    of_hidden = turned(hidden, turned_hidden)[None]
    field = sign_diverse(jax.grad(LOSS), [of_inputs, of_hidden])
    optimizer = optax.chain(optax.sgd(rate), keep_norms())
    return Student(field, optimizer, linear_teacher(teacher), [first, second])


def weights(key, *shape):
    """Draw weights uniformly, of variance 1 / inputs."""
    draw = uniform(key, shape, -1, 1)
    return draw * (3 / shape[1]) ** 0.5


def turned(units, fraction):
    """The signs of units, of which a fraction is turned."""
    number = jnp.round(fraction * units)
    return jnp.where(jnp.arange(units) < number, -1.0, 1.0)


def flips(fractions, hidden):
    """The axis of fractions of inputs and of hidden units that are turned: none, some of either."""
    of_inputs = [(fraction, 0.0) for fraction in fractions]
    pairs = [(0.0, 0.0), *of_inputs, (0.0, hidden)]
    return {("turned_inputs", "turned_hidden"): list(dict.fromkeys(pairs))}


def named(runs, **attributes):
    """The runs with a short name for the dimension of their flips, and what domains depend on."""
    runs = runs.rename(turned_inputs_turned_hidden="flip")
    return runs.assign_attrs(attributes)


def untouched(runs):
    fractions = runs.turned_inputs + runs.turned_hidden
    return runs.isel(flip=np.flatnonzero(fractions == 0))


def with_inputs(runs, beyond=0.0):
    """The runs of which more than this fraction of inputs is turned."""
    return runs.isel(flip=np.flatnonzero(runs.turned_inputs > beyond))


def with_hidden(runs):
    return runs.isel(flip=np.flatnonzero(runs.turned_hidden > 0))


def critical(inputs_per_hidden):
    """The fraction of turned inputs beyond which no solution is stable; infinite where all may
    be."""
    fraction = float(curl.critical_fraction("inputs", inputs_per_hidden))
    return fraction if np.isfinite(fraction) else np.inf
