"""Clusters of examples, some of them with wrong labels or with outliers."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from jaxdyn._numbers import normal
from jaxdyn.types import Key

__all__ = ["Mixture", "Outliers", "opposing_outliers", "two_clusters"]


class Mixture(NamedTuple):
    """Examples in two clusters, some of them with wrong labels.

    Attributes:
        x: the examples, in rows.
        labels: the labels that are given, +1 or -1.
        truth: the true labels.
        wrong: where given and true labels differ.
    """

    x: Float[Array, "n inputs"]
    labels: Float[Array, "n"]
    truth: Float[Array, "n"]
    wrong: Bool[Array, "n"]


def two_clusters(
    key: Key,
    samples: int,
    inputs: int,
    *,
    sigma: Float[ArrayLike, ""],
    flipped: Float[ArrayLike, ""] = 0.0,
) -> Mixture:
    """Draw x = truth * v + sigma * z around the centres +v and -v, z standard normal, with the
    fraction `flipped` mislabelled.

    The centre v is the first unit vector, and exactly round(flipped * samples) labels are wrong
    (Liu et al., 2020).  Raises ValueError for less than one sample or input.

    >>> mixture = two_clusters(jax.random.key(0), 10, 3, sigma=0.5, flipped=0.2)
    >>> int(mixture.wrong.sum()), mixture.x.shape
    (2, (10, 3))
    """
    if samples < 1 or inputs < 1:
        raise ValueError(f"samples, inputs: {samples}, {inputs}; pass at least 1 of each")
    k_truth, k_noise, k_flip = jax.random.split(key, 3)
    # Random bits and draws in float32 are the same in both precisions.
    truth = jnp.where(jax.random.bits(k_truth, (samples,), jnp.uint32) % 2 == 0, -1.0, 1.0)
    noise = normal(k_noise, (samples, inputs))
    order = jnp.argsort(jnp.argsort(jax.random.bits(k_flip, (samples,), jnp.uint32)))
    wrong = order < jnp.round(flipped * samples)
    x = (sigma * noise).at[:, 0].add(truth)
    return Mixture(x, jnp.where(wrong, -truth, truth), truth, wrong)


class Outliers(NamedTuple):
    """Examples with two groups of outliers.

    Attributes:
        x: the examples, in rows.
        labels: the labels of the examples, +1 or -1.
        group: 0 for usual examples, and for an outlier its label.
    """

    x: Float[Array, "n inputs"]
    labels: Float[Array, "n"]
    group: Float[Array, "n"]


def opposing_outliers(
    key: Key,
    samples: int,
    inputs: int,
    planted: int,
    *,
    size: Float[ArrayLike, ""] = 6.0,
    sigma: Float[ArrayLike, ""] = 0.3,
) -> Outliers:
    """Draw standard normal examples, labelled by a linear teacher, and two groups of outliers with
    opposite labels.

    All outliers are `size` along the first axis plus sigma times a standard normal vector: both
    groups share this feature, which tells nothing of the label (Rosenfeld & Risteski, 2023).  Of
    samples + 2 * planted examples the last 2 * `planted` are the outliers, first those of label 1.

    Raises ValueError for less than one sample, input or outlier.

    >>> opposing_outliers(jax.random.key(0), 3, 5, 2).group.tolist()
    [0.0, 0.0, 0.0, 1.0, 1.0, -1.0, -1.0]
    """
    if min(samples, inputs, planted) < 1:
        raise ValueError(
            f"samples, inputs, planted: {samples}, {inputs}, {planted}; pass at least 1 of each"
        )
    # One draw compiles faster than several; it is in float32, so that float64 repeats the same run.
    numbers = normal(key, (samples + 2 * planted + 1, inputs))
    usual = numbers[:samples]
    outliers = sigma * numbers[samples:-1]
    teacher = numbers[-1]
    signs = jnp.repeat(jnp.array([1.0, -1.0]), planted)
    labels = jnp.where(usual @ teacher < 0, -1.0, 1.0)
    x = jnp.concatenate([usual, outliers.at[:, 0].add(size)])
    return Outliers(
        x, jnp.concatenate([labels, signs]), jnp.concatenate([jnp.zeros(samples), signs])
    )
