"""Windows over positions: for arrays of examples, and for the pairs of positions of a kernel."""

import functools
import math
from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxdyn.kernels._kernel import Kernel, Shape

__all__ = [
    "as_interleaved",
    "as_matrix",
    "check_positions",
    "check_windows",
    "equal_positions",
    "equal_units",
    "out_sizes",
    "own_variances",
    "pad_array",
    "sum_outside",
    "sum_windows",
]


def check_windows(
    name: str, window: Sequence[int], strides: Sequence[int] | None, padding: str
) -> tuple[Shape, Shape]:
    """Return window and strides as tuples.

    Raises ValueError for sizes below 1, strides of another length than the window, or an unknown
    padding.
    """
    window = tuple(window)
    strides = (1,) * len(window) if strides is None else tuple(strides)
    if not window or min(window) < 1:
        raise ValueError(
            f"{name}: window {window} is empty; pass one int >= 1 for each axis of positions"
        )
    if len(strides) != len(window) or min(strides) < 1:
        raise ValueError(
            f"{name}: strides {strides} do not fit the window {window}; pass one int >= 1 for each "
            "axis"
        )
    if padding not in ("SAME", "VALID", "CIRCULAR"):
        raise ValueError(
            f"{name}: padding {padding!r} is not known; pass 'SAME', 'VALID' or 'CIRCULAR'"
        )
    return window, strides


def check_positions(name: str, sizes: Shape, window: Shape, padding: str) -> None:
    """Raise ValueError where the window does not fit inputs with these sizes of positions."""
    if len(sizes) != len(window):
        raise ValueError(
            f"{name}: its input has positions {sizes}, its window is {window}; pass a window with "
            "one size for each axis of positions"
        )
    if padding == "VALID" and any(w > n for n, w in zip(sizes, window, strict=True)):
        raise ValueError(
            f"{name}: the window {window} is larger than the positions {sizes}; pass "
            "padding='SAME' or a smaller window"
        )


def out_sizes(sizes: Shape, window: Shape, strides: Shape, padding: str) -> Shape:
    """Return the number of windows along each axis."""

    def windows(size, width, stride):
        return (size - width) // stride + 1 if padding == "VALID" else -(-size // stride)

    return tuple(map(windows, sizes, window, strides))


def _margins(size: int, width: int, stride: int, padding: str) -> tuple[int, int]:
    """Return by how much an axis is padded before and after."""
    if padding == "VALID":
        return 0, 0
    total = max((-(-size // stride) - 1) * stride + width - size, 0)
    return total // 2, total - total // 2


def pad_array(x: Array, window: Shape, strides: Shape, padding: str) -> Array:
    """Return examples (n, *positions, channels), padded so that windows without padding give the
    output of the layer."""
    sizes = zip(x.shape[1:-1], window, strides, strict=True)
    margins = [(0, 0), *(_margins(*axis, padding) for axis in sizes), (0, 0)]
    return jnp.pad(x, margins, mode="wrap" if padding == "CIRCULAR" else "constant")


def sum_windows(
    v: Array, axes: Sequence[Sequence[int]], window: Shape, strides: Shape, padding: str
) -> Array:
    """Return the sums over windows, where axis i of the window is moved along all of `axes[i]` at
    once.

    The axes of one group, such as the two positions of a kernel, are adjacent and share the offset
    in the window.
    """
    for group, width, stride in zip(axes, window, strides, strict=True):
        size = v.shape[group[0]]
        if len(group) > 1 or size > LARGE:
            v = _sum_slices(v, group, width, stride, padding)
            continue
        matrix = jnp.asarray(_taps(size, width, stride, padding).sum(-1), v.dtype)
        before = v.shape[: group[0]]
        after = v.shape[group[-1] + 1 :]
        v = v.reshape(math.prod(before), matrix.shape[1], math.prod(after))
        v = jnp.matmul(matrix, v, precision=jax.lax.Precision.HIGHEST)
        v = v.reshape(*before, len(matrix), *after)
    return v


# Number of positions on an axis above which slices are cheaper than a product with a matrix of
# zeros and ones.
LARGE = 16


def _taps(size, width, stride, padding):
    """Return the array (windows, positions, offsets) that is 1 where an offset of a window falls on
    a position, and else 0."""
    low, high = _margins(size, width, stride, padding)
    positions = np.pad(
        np.eye(size), [(low, high), (0, 0)], mode="wrap" if padding == "CIRCULAR" else "constant"
    )
    starts = np.arange(0, size + low + high - width + 1, stride)
    return positions[starts[:, None] + np.arange(width)].transpose(0, 2, 1)


def _sum_slices(v, axes, width, stride, padding):
    margins = [(0, 0)] * v.ndim
    for axis in axes:
        margins[axis] = _margins(v.shape[axis], width, stride, padding)
    # Without the barriers XLA fuses the preceding layers with every slice, and computes them once
    # for each slice.
    barrier = jax.lax.optimization_barrier
    v = barrier(jnp.pad(v, margins, mode="wrap" if padding == "CIRCULAR" else "constant"))

    def stop(axis, offset):
        return offset + (v.shape[axis] - width) // stride * stride + 1

    def cut(piece, axis, offset):
        return jax.lax.slice_in_dim(piece, offset, stop(axis, offset), stride, axis)

    pieces = []
    for offset in range(width):
        piece = v
        for axis in axes:
            piece = cut(piece, axis, offset)
        pieces.append(piece)
    return barrier(functools.reduce(jnp.add, pieces))


def sum_outside(k: Kernel, window: Shape, strides: Shape, padding: str) -> Array:
    """Return the mean squares of units whose partner at the same offset is a padded zero, summed
    over windows.

    The sum is over such offsets alone, so that it is exactly 0 where both positions are the same.
    """
    n = len(k.spatial)
    taps = [_taps(*axis, padding) for axis in zip(k.spatial, window, strides, strict=True)]
    # `inside` has the axes (s_1, w_1, s_2, w_2, ...).
    inside = np.asarray(functools.reduce(np.multiply.outer, [t.any(1) for t in taps]))
    windows_first = (*range(0, 2 * n, 2), *range(1, 2 * n, 2))
    outside = 1 - inside.transpose(windows_first).astype(float)
    out = outside.shape[:n]
    offsets = outside.shape[n:]
    outside = jnp.asarray(outside.reshape(math.prod(out), math.prod(offsets)), k.d.dtype)
    total = 0.0
    for q, order in ((k.q1, "sto"), (k.q2, "tso")):
        v = q.reshape(*k.spatial, *q.shape[2 * n :])
        pairs = q.shape[2 * n :]
        # Every axis of positions becomes one of windows, and offsets gather at the end.
        for axis, t in enumerate(taps):
            along = jnp.tensordot(jnp.asarray(t, v.dtype), v, ((1,), (axis,)))
            v = jnp.moveaxis(along, (0, 1), (axis, -1))
        v = v.reshape(math.prod(out), *pairs, math.prod(offsets))
        formula = f"{order[0]}...o,{order[1]}o->...st"
        summed = jnp.einsum(formula, v, outside, precision=jax.lax.Precision.HIGHEST)
        total = total + as_interleaved(replace(k, spatial=out), summed)
    return total


def own_variances(k: Kernel, cov: Array) -> tuple[Array, Array]:
    """Return the variances of an input, as q1 and as q2, from the diagonal of its covariances with
    itself."""
    variances = []
    for dropped in (1, 0):
        v = cov
        for axis in range(len(k.spatial)):
            v = jnp.moveaxis(jnp.diagonal(v, axis1=2 * axis, axis2=2 * axis + 1), -1, 2 * axis)
            v = jnp.expand_dims(v, 2 * axis + dropped)
        variances.append(v)
    return variances[0], variances[1]


def equal_positions(k: Kernel) -> Array:
    """Return where both positions are the same, in a shape that broadcasts to `k.d`."""
    same = jnp.ones((1,) * k.d.ndim, bool)
    for axis, n in enumerate(k.spatial if k.full else ()):
        shape = [1] * k.d.ndim
        shape[2 * axis] = shape[2 * axis + 1] = n
        same = same & jnp.eye(n, dtype=bool).reshape(shape)
    return same


def equal_units(k: Kernel) -> Array:
    """Return where both units are the same: the same position of the same example."""
    return equal_positions(k) & k.same.reshape((1,) * (k.d.ndim - k.same.ndim) + k.same.shape)


def as_matrix(k: Kernel, v: Array) -> Array:
    """Return (pairs, positions, positions') from interleaved positions (s_1, s_1', s_2, ...,
    pairs)."""
    n = len(k.spatial)
    size = math.prod(k.spatial)
    pairs = v.shape[2 * n :]
    order = (*range(2 * n, v.ndim), *range(0, 2 * n, 2), *range(1, 2 * n, 2))
    return v.transpose(order).reshape(*pairs, size, size)


def as_interleaved(k: Kernel, v: Array) -> Array:
    """Return interleaved positions from a matrix (pairs, positions, positions'): the inverse of
    `as_matrix`."""
    n = len(k.spatial)
    pairs = v.shape[:-2]
    v = v.reshape(*pairs, *k.spatial, *k.spatial)
    p = len(pairs)
    positions = [axis for i in range(n) for axis in (p + i, p + n + i)]
    return v.transpose(*positions, *range(p))
