"""Losses, functions `(params, batch) -> scalar` whose `jax.grad` is a field."""

from collections.abc import Callable

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from jaxdyn._checks import kind
from jaxdyn.types import Batch, Params

__all__ = ["covariance_loss", "cross_entropy", "squared_error"]

Loss = Callable[[Params, Batch], Float[Array, ""]]


def covariance_loss(end_to_end: Callable[[Params], Float[Array, "outputs inputs"]]) -> Loss:
    """Return `loss(params, (xx, yx, yy)) = 1/2 E|y - W x|^2` of the matrix `W =
    end_to_end(params)`.

    The loss is computed from second moments alone, as

        1/2 tr(yy - 2 W yx^T + W xx W^T),

    so that its cost does not depend on the number of examples.  The mean is over examples, the sum
    over outputs.  Losses below eps * tr(yy) are rounding errors, but gradients keep their accuracy
    there.
    """

    def loss(
        params: Params,
        moments: tuple[
            Float[Array, "inputs inputs"],
            Float[Array, "outputs inputs"],
            Float[Array, "outputs outputs"],
        ],
    ) -> Float[Array, ""]:
        xx, yx, yy = moments
        w = end_to_end(params)
        return 0.5 * (jnp.trace(yy) + jnp.sum(w * (w @ xx - 2 * yx)))

    return loss


def squared_error(apply: Callable[..., Float[Array, "n ..."]]) -> Loss:
    """Return `loss(params, (x, y)) = 1/2 mean_i |y_i - apply(params, x)_i|^2`, a mean over rows and
    a sum over outputs.

    The loss raises ValueError for labels with another number of axes than the outputs.
    """
    _check_apply(apply)

    def loss(
        params: Params, batch: tuple[PyTree[Array], Float[Array, "n ..."]]
    ) -> Float[Array, ""]:
        x, y = _pair(batch)
        outputs = apply(params, x)
        # Labels (n,) and outputs (n, 1) would broadcast to n^2 differences.
        if jnp.ndim(outputs) != jnp.ndim(y):
            raise ValueError(
                f"batch: labels of shape {jnp.shape(y)} for outputs of shape {jnp.shape(outputs)}; "
                "reshape one of them"
            )
        return 0.5 * jnp.sum((y - outputs) ** 2) / y.shape[0]

    return loss


def cross_entropy(apply: Callable[..., Float[Array, "n classes"]]) -> Loss:
    """Return `loss(params, (x, labels)) = -mean_i log softmax(apply(params, x)_i)[labels_i]`, in
    nats."""

    _check_apply(apply)

    def loss(params: Params, batch: tuple[PyTree[Array], Int[Array, "n"]]) -> Float[Array, ""]:
        x, labels = _pair(batch)
        return optax.softmax_cross_entropy_with_integer_labels(apply(params, x), labels).mean()

    return loss


def _check_apply(apply):
    if any(base.__module__.startswith("flax.") for base in type(apply).__mro__):
        raise TypeError(
            f"apply: is the flax module {type(apply).__name__}; pass models.from_linen(module, x).apply, or that of "
            "models.from_nnx(make_module)"
        )
    if not callable(apply):
        raise TypeError(
            f"apply: is {kind(apply)}; pass a function (params, x) -> outputs: model.apply"
        )


def _pair(batch):
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise TypeError(f"batch: is {kind(batch)}; pass the pair (inputs, labels)")
    return batch
