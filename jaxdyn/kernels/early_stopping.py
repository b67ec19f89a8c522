"""The test error that is expected of wide networks while they train, in parts that say when to
stop."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from jaxdyn.kernels.predict import ensemble

__all__ = ["Response", "Risk", "response", "risk"]


class Response(NamedTuple):
    """Outputs f = f_0 + A (y - f_0) at m test inputs, as a function of n labels y and of random
    initial outputs f_0.

    Attributes:
        mean: the mean of the outputs over f_0.
        covariance: the covariance of the outputs over f_0.
        gain: the matrix A, which multiplies the labels.
    """

    mean: Float[Array, "*times m"]
    covariance: Float[Array, "*times m m"]
    gain: Float[Array, "*times m n"]


class Risk(NamedTuple):
    """The parts of the expected squared error, as means over the test inputs; the error is the sum
    of the parts.

    Attributes:
        bias: the squared difference between the mean of the outputs and the target.
        initial: the variance that is left of the random initial outputs.
        noise: the variance that was learned from the noise of the labels.
    """

    bias: Float[Array, "*times"]
    initial: Float[Array, "*times"]
    noise: Float[Array, "*times"]


def response(
    ntk: Any, nngp: Any, y: Real[ArrayLike, "n"], times: Real[ArrayLike, "*times"], **options: Any
) -> Response:
    """Return the mean, covariance and gain of the outputs at test inputs after training for
    `times`.

    Arguments, options and errors are those of `predict.ensemble` with test inputs.  With a
    `learning_rate` among the `options` the times are numbers of steps of gradient descent.
    """
    y = jnp.asarray(y)
    labels = jnp.concatenate([y[:, None], jnp.eye(y.shape[0], dtype=y.dtype)], 1)
    mean, covariance = ensemble(ntk, nngp, labels, times, **options)
    return Response(mean[..., 0], jnp.asarray(covariance), mean[..., 1:])


def risk(
    learned: Response, target: Real[ArrayLike, "m"], noise_variance: Real[ArrayLike, ""] = 0.0
) -> Risk:
    """Return the parts of the squared error at test inputs, expected over initial weights and label
    noise.

    `learned` is the response to labels without noise; training labels have independent noise of
    variance `noise_variance`.  Over m test inputs

        bias = |mean - target|^2 / m,
        initial = tr covariance / m,
        noise = noise_variance |A|_F^2 / m.

    The bias usually falls in time and the noise grows; the initial part vanishes only where the
    data determine the function.
    """
    missed = learned.mean - jnp.broadcast_to(
        jnp.asarray(target, learned.mean.dtype), learned.mean.shape
    )
    variances = jnp.diagonal(learned.covariance, axis1=-2, axis2=-1)
    gained = jnp.mean(jnp.sum(learned.gain**2, -1), -1)
    return Risk(
        jnp.mean(missed**2, -1), jnp.mean(variances, -1), jnp.asarray(noise_variance * gained)
    )
