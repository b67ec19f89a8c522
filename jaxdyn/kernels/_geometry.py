"""Windows over positions: of arrays of examples, and of the two positions of a kernel."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxdyn.kernels._kernel import Kernel, Shape

Padding = Literal["SAME", "VALID", "CIRCULAR"]


def check_windows(name: str, window: Sequence[int], strides: Sequence[int] | None, padding: str) -> tuple[Shape, Shape]:
    """Return window and strides as tuples; raise ValueError for sizes below 1, other lengths or an unknown padding."""
    window = tuple(window)
    strides = (1,) * len(window) if strides is None else tuple(strides)
    if not window or min(window) < 1:
        raise ValueError(f"{name}: window {window} has no size; pass one int >= 1 for each axis of positions")
    if len(strides) != len(window) or min(strides) < 1:
        raise ValueError(f"{name}: strides {strides} do not fit the window {window}; pass one int >= 1 for each axis")
    if padding not in ("SAME", "VALID", "CIRCULAR"):
        raise ValueError(f"{name}: padding {padding!r} is not known; pass 'SAME', 'VALID' or 'CIRCULAR'")
    return window, strides


def check_positions(name: str, sizes: Shape, window: Shape, padding: str) -> None:
    """Raise ValueError where inputs of these positions cannot be covered by the window."""
    if len(sizes) != len(window):
        raise ValueError(f"{name}: its input has positions {sizes}, its window {window}; pass one size for each axis")
    if padding == "VALID" and any(w > n for n, w in zip(sizes, window, strict=True)):
        raise ValueError(
            f"{name}: the window {window} is larger than the positions {sizes}; pad, or take a smaller one"
        )


def out_sizes(sizes: Shape, window: Shape, strides: Shape, padding: str) -> Shape:
    """Return the number of windows along each axis."""
    valid = padding == "VALID"
    return tuple((n - w) // s + 1 if valid else -(-n // s) for n, w, s in zip(sizes, window, strides, strict=True))


def _margins(sizes, window, strides, padding):
    """How much is padded before and after each axis."""
    if padding == "VALID":
        return [(0, 0)] * len(sizes)
    needed = [
        max((m - 1) * s + w - n, 0)
        for n, w, s, m in zip(sizes, window, strides, out_sizes(sizes, window, strides, padding), strict=True)
    ]
    return [(total // 2, total - total // 2) for total in needed]


def pad_array(x: Array, window: Shape, strides: Shape, padding: str) -> Array:
    """Pad examples (n, *positions, channels) so that windows without padding give the layer's output."""
    margins = [(0, 0), *_margins(x.shape[1:-1], window, strides, padding), (0, 0)]
    return jnp.pad(x, margins, mode="wrap" if padding == "CIRCULAR" else "constant")


def pad_kernel(k: Kernel, window: Shape, strides: Shape, padding: str) -> Kernel:
    """Pad positions; a padded position holds the unit 0, so that its distance to any other is that one's variance."""
    margins = _margins(k.spatial, window, strides, padding)
    if not any(map(sum, margins)):
        return k
    first, second = k.axes()

    def pad(v, axes, mode="wrap" if padding == "CIRCULAR" else "constant"):
        widths = [(0, 0)] * v.ndim
        for axis, margin in zip(axes, margins * (len(axes) // len(margins)), strict=True):
            widths[axis] = margin
        return jnp.pad(v, widths, mode=mode)

    both = first + second if k.full else first
    new = {name: pad(getattr(k, name), axes) for name, axes in dict(q1=first, m1=first, q2=second, m2=second).items()}
    new |= {name: pad(getattr(k, name), both) for name in ("d", "ntk")}
    s = None if k.s is None else pad(k.s, both)
    if padding == "SAME" and k.full:
        inside1, inside2 = (pad(jnp.ones_like(q), axes) for q, axes in ((k.q1, first), (k.q2, second)))
        outside = new["q1"] * (1 - inside2) + new["q2"] * (1 - inside1)
        new["d"], s = new["d"] + outside, None if s is None else s + outside
    sizes = tuple(n + sum(margin) for n, margin in zip(k.spatial, margins, strict=True))
    return replace(k, **new, s=s, spatial=sizes)


def sum_windows(v: Array, axes: Sequence[Sequence[int]], window: Shape, strides: Shape) -> Array:
    """Sum over windows, the same offset on all the axes of `axes[i]` for the window's axis i."""
    for group, width, stride in zip(axes, window, strides, strict=True):
        pieces = []
        for offset in range(width):
            piece = v
            for axis in group:
                stop = offset + (v.shape[axis] - width) // stride * stride + 1
                piece = jax.lax.slice_in_dim(piece, offset, stop, stride, axis)
            pieces.append(piece)
        v = sum(pieces[1:], pieces[0])
    return v


def own_variances(k: Kernel, cov: Array) -> tuple[Array, Array]:
    """Return the variances that the covariances of an input with itself hold on their diagonal, as q1 and as q2."""
    variances = []
    for dropped in (1, 0):
        v = cov
        for axis in range(len(k.spatial)):
            v = jnp.moveaxis(jnp.diagonal(v, axis1=2 * axis, axis2=2 * axis + 1), -1, 2 * axis)
            v = jnp.expand_dims(v, 2 * axis + dropped)
        variances.append(v)
    return variances[0], variances[1]


def equal_positions(k: Kernel) -> Array:
    """Return where both positions are the same; it broadcasts to `k.d`."""
    same = jnp.ones((1,) * k.d.ndim, bool)
    for axis, n in enumerate(k.spatial if k.full else ()):
        shape = [1] * k.d.ndim
        shape[2 * axis] = shape[2 * axis + 1] = n
        same = same & jnp.eye(n, dtype=bool).reshape(shape)
    return same


def equal_units(k: Kernel) -> Array:
    """Return where both units are one: the same position of the same example."""
    return equal_positions(k) & k.same.reshape((1,) * (k.d.ndim - k.same.ndim) + k.same.shape)


def as_matrix(k: Kernel, v: Array) -> Array:
    """Return (pairs, positions, positions') of interleaved positions (s_1, s_1', s_2, ..., pairs)."""
    n = len(k.spatial)
    size = math.prod(k.spatial)
    pairs = v.shape[2 * n :]
    order = (*range(2 * n, v.ndim), *range(0, 2 * n, 2), *range(1, 2 * n, 2))
    return v.transpose(order).reshape(*pairs, size, size)


def as_interleaved(k: Kernel, v: Array) -> Array:
    """Undo `as_matrix`."""
    n, pairs = len(k.spatial), v.shape[:-2]
    v = v.reshape(*pairs, *k.spatial, *k.spatial)
    p = len(pairs)
    positions = [axis for i in range(n) for axis in (p + i, p + n + i)]
    return v.transpose(*positions, *range(p))
