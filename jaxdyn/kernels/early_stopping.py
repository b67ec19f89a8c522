"""The test error that wide networks are expected to have while they train, in parts: when to
stop."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from jaxdyn.kernels.predict import ensemble

__all__ = ["Response", "Risk", "response", "risk"]


class Response(NamedTuple):
    """Outputs f = f_0 + A (y - f_0) at m test inputs, as labels y and initial outputs f_0 make them.

    Attributes:
        mean: their mean over f_0.
        covariance: their covariance over f_0.
        gain: A, on n labels.
    """

    mean: Float[Array, "*times m"]
    covariance: Float[Array, "*times m m"]
    gain: Float[Array, "*times m n"]


class Risk(NamedTuple):
    """Parts of the expected squared error, means over the test inputs, each (*times).

    The error is their sum.

    Attributes:
        bias: what the mean of the outputs misses of the target.
        initial: the variance that is left of the initial outputs.
        noise: what was learned of the labels' noise.
    """

    bias: Float[Array, "*times"]
    initial: Float[Array, "*times"]
    noise: Float[Array, "*times"]


def response(
    ntk: Any, nngp: Any, y: Real[ArrayLike, "n"], times: Real[ArrayLike, "*times"], **options: Any
) -> Response:
    """Return what training for `times` makes of one label each, and of random initial outputs, at
    test inputs.

    Arguments, options and errors are those of `predict.ensemble` with test inputs; with a
    `learning_rate` times are steps of descent.
    """
    y = jnp.asarray(y)
    labels = jnp.concatenate([y[:, None], jnp.eye(y.shape[0], dtype=y.dtype)], 1)
    mean, covariance = ensemble(ntk, nngp, labels, times, **options)
    return Response(mean[..., 0], jnp.asarray(covariance), mean[..., 1:])


def risk(
    learned: Response, target: Real[ArrayLike, "m"], noise_variance: Real[ArrayLike, ""] = 0.0
) -> Risk:
    """Return the squared error on test inputs, expected over initial weights and noise, of a
    `response`.

    The response is that to labels without noise, and training labels have independent noise.  Over
    m test inputs

        bias = |mean - target|^2 / m,   initial = tr covariance / m,   noise = noise_variance
        |A|_F^2 / m:

    the bias falls in time and the noise grows; the initial outputs vanish only where the data
    determine the function.
    """
    missed = learned.mean - jnp.broadcast_to(
        jnp.asarray(target, learned.mean.dtype), learned.mean.shape
    )
    variances = jnp.diagonal(learned.covariance, axis1=-2, axis2=-1)
    gained = jnp.mean(jnp.sum(learned.gain**2, -1), -1)
    return Risk(
        jnp.mean(missed**2, -1), jnp.mean(variances, -1), jnp.asarray(noise_variance * gained)
    )
