"""Memorisation of wrong labels by a linear classifier in high dimension, under gradient flow of the
square loss.

There are n examples x = y* v + sigma z of two clusters at +-v, |v| = 1, and about as many
dimensions as examples.  The labels y are the true ones y* except for a fraction that is flipped
(Liu et al., 2020).  Early in training the weights align with v and predict the true labels even of
examples with wrong ones; late in training they fit the wrong labels too.  For the square loss |y -
X w|^2 / (2 n) from w = 0 the margins y_i w . x_i of clean and of wrong examples become Gaussian of
equal variance.  Means and variance follow for all times from the regression on inputs of the same
covariance (`jaxdyn.theory.regression.spectrum`).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from jaxdyn._numbers import Number, check, positive
from jaxdyn.theory.regression import equivalents, spectrum
from jaxdyn.theory.regression.equivalents import contract

__all__ = ["Memorisation", "first_step", "flow"]


class Memorisation(NamedTuple):
    """Fractions of the examples that are predicted as labelled.

    Attributes:
        memorised: the fraction of the training examples with wrong labels.
        clean: the fraction of the training examples with true labels.
        test: the fraction of new examples, with true labels.
    """

    memorised: Float[Array, "*times"]
    clean: Float[Array, "*times"]
    test: Float[Array, "*times"]


def flow(
    time: Real[ArrayLike, "*times"],
    sigma: Number,
    flipped: Number,
    inputs: Number,
    samples: Number,
    *,
    nodes: int | None = None,
) -> Memorisation:
    """Return what is memorised at each time of gradient flow on the square loss, dw/dt = X^T (y - X
    w) / n.

    The margins are Gaussian of mean 1 - h1 + h2 (clean) and 1 - h1 - h2 (wrong).  h1 and h2 are the
    inverse Laplace transforms of 1/k and b lambda/(k (lambda + k)), with lambda = 1 + sigma^2 the
    variance along v and b = (1 - 2 flipped) / lambda the teacher's coefficient.  The variance of
    the margins is what these means leave of the training error.  As a difference of order time^2
    the variance is accurate from time 1e-4 on in float64 and 0.1 in float32; at earlier times the
    predictions are those of `first_step`.

    >>> with jax.enable_x64(True):
    ...     early, late = flow(np.array([0.1, 1e3]), 0.25, 0.2, 900, 1000).memorised
    >>> f"{early:.3f} {late:.3f}"
    '0.001 0.999'

    Raises ValueError for times that are not positive and finite, sigma <= 0, a fraction `flipped`
    outside of [0, 1], and less than one input or sample.
    """
    check(
        "time",
        time,
        lambda t: np.isfinite(t) & (t > 0),
        "positive and finite times; at zero see `first_step`",
    )
    _check_mixture(sigma, flipped, inputs, samples)
    dtype = jnp.result_type(float, *jax.tree.leaves((time, sigma, flipped, inputs, samples)))
    numbers = [jnp.asarray(a, dtype) for a in (time, sigma, flipped, inputs, samples)]
    return _flow(*numbers, nodes)


def first_step(
    sigma: Number, flipped: Number, inputs: Number, samples: Number
) -> tuple[Float[Array, ""], Memorisation]:
    """Return the cosine between the first step of descent from w = 0 and v, and the predictions
    after this step.

    With c = 1 - 2 flipped and q = sigma^2 inputs / samples the step is c v plus noise of norm
    sqrt(q).  The margins have means q + c (clean), q - c (wrong) and c (new examples), and the
    deviation sigma sqrt(c^2 + q).  The result is the same for the square and the logistic loss.
    """
    _check_mixture(sigma, flipped, inputs, samples)
    dtype = jnp.result_type(float, sigma, flipped, inputs, samples)
    numbers = (jnp.asarray(a, dtype) for a in (sigma, flipped, inputs, samples))
    sigma, flipped, inputs, samples = numbers
    c = 1 - 2 * flipped
    q = sigma**2 * inputs / samples
    norm = jnp.sqrt(c**2 + q)

    def accuracy(margin):
        return ndtr(margin / (sigma * norm))

    return c / norm, Memorisation(accuracy(q - c), accuracy(q + c), accuracy(c))


@partial(jax.jit, static_argnames="nodes")
def _flow(time, sigma, flipped, inputs, samples, nodes):
    c = 1 - 2 * flipped
    variance = 1 + sigma**2
    teacher = c / variance
    noise = jnp.sqrt(1 - c**2 / variance)
    nodes = spectrum.default_nodes(time) if nodes is None else nodes

    def each(signal, others):
        return jnp.stack([signal, others])

    eigenvalues = each(variance, sigma**2)
    power = each(teacher**2, jnp.zeros_like(teacher))
    multiplicities = each(jnp.ones_like(inputs), inputs - 1)
    population = equivalents.Spectrum(eigenvalues, multiplicities, power, 0 * power)

    def one(time):
        no_penalty = jnp.zeros_like(time)
        resolvent = equivalents.flow_resolvent(time, no_penalty, population, samples, nodes)
        errors = spectrum.errors_on(resolvent, no_penalty, population, samples, noise)
        once = resolvent.rate * resolvent.weights / resolvent.kappa
        h1 = contract(once)
        h2 = contract(once * c / (variance + resolvent.kappa))
        spread = jnp.sqrt(positive(errors.train - h1**2 - h2**2 + 2 * c * h1 * h2))
        along = teacher * (1 - errors.response[0])
        across = jnp.sqrt(positive(errors.self_overlap - along**2))
        wrong = ndtr((1 - h1 - h2) / spread)
        right = ndtr((1 - h1 + h2) / spread)
        return Memorisation(wrong, right, ndtr(along / across))

    predicted = jax.vmap(one)(time.ravel())
    return jax.tree.map(lambda a: a.reshape(time.shape), predicted)


def _check_mixture(sigma, flipped, inputs, samples):
    check("sigma", sigma, lambda a: a > 0, "a positive deviation of the inputs")
    check("flipped", flipped, lambda a: (a >= 0) & (a <= 1), "a fraction between 0 and 1")
    for name, number in (("inputs", inputs), ("samples", samples)):
        check(name, number, lambda n: n >= 1, "at least 1")
