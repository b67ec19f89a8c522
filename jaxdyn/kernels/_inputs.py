"""Preparation of the inputs of predictions: shapes, precision and symmetry of kernels and labels,
checked where they are concrete."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = [
    "applied",
    "arrays",
    "broadcast",
    "cast",
    "check",
    "check_factor",
    "check_labels",
    "check_product",
    "check_test",
    "columns",
    "flattened",
    "moved",
    "square",
]


def flattened(kernel):
    """Return a kernel (n1, n2, k1, k2) between outputs as a matrix (n1 k1, n2 k2), and any other
    kernel as it is."""
    if kernel.ndim != 4:
        return kernel
    return jnp.moveaxis(kernel, 2, 1).reshape(kernel.shape[0] * kernel.shape[2], -1)


def applied(kernel, v) -> Any:
    """Return the product of any kind of kernel with an array shaped like the labels."""
    if callable(kernel):
        return kernel(v)
    kernel = jnp.asarray(kernel, v.dtype)
    return jnp.einsum("mnkl,nl->mk", kernel, v) if kernel.ndim == 4 else jnp.tensordot(kernel, v, 1)


def columns(modes, labels):
    """Return the labels as columns that the kernel multiplies: one for each output, or one for all
    outputs together.

    A kernel between outputs multiplies all labels as one column.
    """
    size = modes.values.size
    if labels.ndim == 2 and labels.size == size != labels.shape[0]:
        return labels.reshape(-1, 1)
    check_labels(labels, size)
    return labels.reshape(size, -1)


def cast(numbers, dtype):
    """Return numbers of any kind in the precision of the kernel."""
    return tuple(jnp.asarray(number, dtype) for number in numbers)


def broadcast(start, labels, name):
    """Return the initial outputs for all labels, where one number may stand for all of them."""
    start = jnp.asarray(start, labels.dtype)
    if start.ndim and start.shape != labels.shape:
        raise ValueError(
            f"{name}: shape {start.shape} beside labels {labels.shape}; pass a number or the same shape"
        )
    return jnp.broadcast_to(start, labels.shape)


def moved(start, gained):
    """Return the sum of the initial outputs and of what was gained at each time."""
    return jnp.broadcast_to(jnp.asarray(start, gained.dtype), gained.shape) + gained


def arrays(like=None, /, **named):
    """Return the named values as arrays of one precision, that of `like` if given; integers take
    this precision.

    Raises ValueError for arrays of different precision.
    """
    arrays = {name: jnp.asarray(value) for name, value in named.items()}
    kinds = {} if like is None else {"the kernel": like.dtype}
    kinds |= {name: a.dtype for name, a in arrays.items() if jnp.issubdtype(a.dtype, jnp.inexact)}
    if len(set(kinds.values())) > 1:
        found = ", ".join(f"{name} {dtype}" for name, dtype in kinds.items())
        raise ValueError(f"{found}: of different precision; cast them to one precision")
    dtype = next(iter(kinds.values()), jnp.result_type(float))
    return [a.astype(dtype) for a in arrays.values()]


def square(kernel, name):
    """Return the kernel; raise ValueError unless it is square and, where it is concrete,
    symmetric."""
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1]:
        raise ValueError(
            f"{name}: shape {kernel.shape}; pass a square matrix between the training inputs"
        )
    if not isinstance(kernel, jax.core.Tracer):
        values = np.asarray(kernel)
        error = np.max(np.abs(values - values.T))
        size = np.max(np.abs(values))
        if not error <= np.finfo(values.dtype).eps ** 0.5 * size:
            raise ValueError(
                f"{name}: not symmetric, it differs from its transpose by {error:.3g} of {size:.3g}; "
                "pass a symmetric kernel"
            )
    return kernel


def check_labels(labels, examples, name="y"):
    """Raise ValueError for labels of a wrong shape or of another number of examples."""
    if labels.ndim not in (1, 2) or labels.shape[0] != examples:
        raise ValueError(
            f"{name}: shape {labels.shape} for {examples} training inputs; pass ({examples},) or "
            f"({examples}, outputs)"
        )


def check_test(kernel, examples, name):
    """Raise ValueError for a kernel whose second axis does not belong to the training inputs."""
    if kernel.ndim not in (2, 4) or kernel.shape[1] != examples:
        swapped = kernel.ndim == 2 and kernel.shape[0] == examples
        remedy = "transpose it" if swapped else f"pass (test inputs, {examples})"
        raise ValueError(f"{name}: shape {kernel.shape} for {examples} training inputs; {remedy}")


def check_factor(factor, kernel):
    """Raise ValueError, which shows the smallest eigenvalue, where the Cholesky decomposition does
    not exist."""
    if isinstance(factor, jax.core.Tracer) or np.all(np.isfinite(np.asarray(factor[-1, -1]))):
        return
    low = np.linalg.eigvalsh(np.asarray(kernel))[0]
    raise ValueError(
        f"kernel: its smallest eigenvalue is {low:.3g}, and with the noise it is not positive; pass more noise, "
        "or take the limit of infinite time, flow(kernel, y, jnp.inf)"
    )


def check(name, values, good, remedy):
    """Raise ValueError where some of the values are concrete and not good."""
    if not isinstance(values, jax.core.Tracer) and not np.all(good(np.asarray(values))):
        raise ValueError(f"{name}: {values}; pass {remedy}")


def check_product(product, like):
    """Raise ValueError for a function that does not map arrays of the shape of `like` to the same
    shape."""
    shape = jax.eval_shape(product, like).shape
    if shape != like.shape:
        raise ValueError(
            f"kernel: the function maps shape {like.shape} to {shape}; pass v -> Theta v that keeps shapes"
        )
