"""Clusters of examples, some of them with wrong labels."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from jaxdyn.types import Key


class Mixture(NamedTuple):
    """Examples `x` in rows with the given `labels` and the true ones, +-1 both; `wrong` tells where they differ."""

    x: Float[Array, "n inputs"]
    labels: Float[Array, "n"]
    truth: Float[Array, "n"]
    wrong: Bool[Array, "n"]


def two_clusters(
    key: Key, samples: int, inputs: int, *, sigma: Float[ArrayLike, ""], flipped: Float[ArrayLike, ""] = 0.0
) -> Mixture:
    """Draw x = truth * v + sigma * z, z standard normal, around centres +-v, with the fraction `flipped` mislabelled.

    v is the first axis, |v| = 1, and exactly round(flipped * samples) labels are wrong (Liu et al., 2020).  Raises
    ValueError for less than one sample or input.

    >>> mixture = two_clusters(jax.random.key(0), 10, 3, sigma=0.5, flipped=0.2)
    >>> int(mixture.wrong.sum()), mixture.x.shape
    (2, (10, 3))
    """
    if samples < 1 or inputs < 1:
        raise ValueError(f"samples, inputs: {samples}, {inputs}; pass at least 1 of each")
    k_truth, k_noise, k_flip = jax.random.split(key, 3)
    # Random bits and float32 are the same draws in both precisions.
    truth = jnp.where(jax.random.bits(k_truth, (samples,), jnp.uint32) % 2 == 0, -1.0, 1.0)
    noise = jax.random.normal(k_noise, (samples, inputs), jnp.float32).astype(float)
    order = jnp.argsort(jnp.argsort(jax.random.bits(k_flip, (samples,), jnp.uint32)))
    wrong = order < jnp.round(flipped * samples)
    x = (sigma * noise).at[:, 0].add(truth)
    return Mixture(x, jnp.where(wrong, -truth, truth), truth, wrong)
