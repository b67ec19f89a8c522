"""Regression in context: prompts of pairs (x, y), each prompt with a linear task of its own, and
their second moments."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdyn._numbers import normal
from jaxdyn.tasks.spectra import Covariances
from jaxdyn.types import Key

__all__ = ["Prompts", "in_context_features", "in_context_moments", "in_context_regression"]


class Prompts(NamedTuple):
    """Prompts of pairs (x, y) with y = w . x, where each prompt has a task w of its own.

    Attributes:
        x: the inputs of the pairs.
        y: the labels of the pairs.
        query: the input whose label is asked for.
        target: the label of the query, which no model sees.
    """

    x: Float[Array, "prompts length inputs"]
    y: Float[Array, "prompts length"]
    query: Float[Array, "prompts inputs"]
    target: Float[Array, " prompts"]


def in_context_regression(
    key: Key, prompts: int, length: int, covariance: Float[Array, "inputs inputs"]
) -> Prompts:
    """Draw prompts of `length` pairs and a query, with inputs from N(0, covariance) and tasks w
    from N(0, I).

    >>> import jax
    >>> drawn = in_context_regression(jax.random.key(0), 5, 3, jnp.eye(2))
    >>> [a.shape for a in drawn]
    [(5, 3, 2), (5, 3), (5, 2), (5,)]
    """
    inputs = len(covariance)
    drawn = normal(key, (prompts, length + 2, inputs), covariance.dtype)
    values, vectors = jnp.linalg.eigh(covariance)
    deviations = jnp.sqrt(jnp.maximum(values, 0))
    root = (vectors * deviations[None]) @ vectors.T
    x = drawn[:, 1:] @ root
    tasks = drawn[:, 0]
    y = jnp.einsum("bna,ba->bn", x, tasks)
    return Prompts(x[:, :-1], y[:, :-1], x[:, -1], y[:, -1])


def in_context_features(
    x: Float[Array, "prompts length inputs"],
    y: Float[Array, "prompts length"],
    query: Float[Array, "prompts inputs"],
) -> Float[Array, "prompts inputs_squared"]:
    """Return all that linear attention sees of a prompt: the products of beta = (1/N) sum_n y_n x_n
    and the query, (prompts, inputs^2)."""
    beta = jnp.einsum("bna,bn->ba", x, y) / x.shape[1]
    return (beta[:, :, None] * query[:, None]).reshape(len(x), -1)


def in_context_moments(covariance: Float[Array, "inputs inputs"], length: int) -> Covariances:
    """Return the population moments of `in_context_features` and targets, for prompts of
    `in_context_regression`.

    With L the covariance of inputs, N the length of prompts and x the query,

        E beta beta^T = L^2 (1 + 1/N) + L tr(L)/N   and   E y beta x^T = L^2,

    so that xx is the Kronecker product of E beta beta^T and L, yx is L^2 in one row, and yy is tr
    L.
    """
    squared = covariance @ covariance
    second = squared * (1 + 1 / length) + covariance * jnp.trace(covariance) / length
    xx = jnp.kron(second, covariance)
    yy = jnp.trace(covariance)
    return Covariances(xx, squared.reshape(1, -1), yy[None, None])
