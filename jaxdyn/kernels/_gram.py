"""The kernel matrix of an architecture: what it needs is inferred, blocks of pairs bound the memory."""

import functools
import math
import os
import string
from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from jaxdyn.kernels._geometry import equal_units
from jaxdyn.kernels._kernel import Kernel, Layer, Need, snap

NAMES = ("nngp", "ntk")
BLOCK_BYTES = 2**21  # of one array of a block: small enough for a CPU's cache, large enough to hide a loop's step


def gram(
    layer: Layer,
    x1: Float[Array, "n ..."],
    x2: Float[Array, "m ..."] | None = None,
    *,
    get: str | Sequence[str] = "ntk",
    batch: int | None = None,
    mesh: Mesh | None = None,
) -> Float[Array, "n m"] | dict[str, Float[Array, "n m"]]:
    """Return the NTK, the NNGP kernel or both ({name: matrix}) of an infinitely wide network.

    `x1` (n, *positions, channels) against `x2`, or against itself: then half of the blocks is computed.  Inputs enter
    as x.x' / channels.  Blocks of `batch` x `batch` pairs are in memory at a time (chosen from the sizes unless given;
    no size has to be a multiple of it); a `mesh` spreads the rows over its devices.  jit, vmap and grad (in x and in
    traced numbers of the layers) go through it; at equal inputs the cusp of rectifiers has derivative 0.  float64 holds
    1e-14, float32 1e-6 relative to the largest entry, also on the diagonal.

    Raises ValueError for inputs that do not fit each other or the layer, outputs with positions left, unknown names, or
    a matrix beyond the memory; TypeError for mixed dtypes.
    """
    names = (get,) if isinstance(get, str) else tuple(get)
    if not names or not set(names) <= set(NAMES):
        raise ValueError(f"get: {get!r} is not known; pass 'ntk', 'nngp' or ('nngp', 'ntk')")
    if batch is not None and (not isinstance(batch, int) or batch < 1):
        raise ValueError(f"batch: {batch!r}; pass an int >= 1, the edge of a block of pairs")
    x1 = _inputs("x1", x1)
    x2 = None if x2 is None else _inputs("x2", x2)
    if x2 is not None and x1.shape[1:] != x2.shape[1:]:
        raise ValueError(f"x2: examples of shape {x2.shape[1:]}, those of x1 have {x1.shape[1:]}; pass equal shapes")
    if x2 is not None and x1.dtype != x2.dtype:
        raise TypeError(f"x2: dtype {x2.dtype}, x1 has {x1.dtype}; convert one of them")
    _check_memory(len(x1), len(x1 if x2 is None else x2), x1.dtype, len(names))
    matrices = _gram(layer, x1, x2, names, batch, mesh)
    return matrices[names[0]] if isinstance(get, str) else matrices


@functools.partial(jax.jit, static_argnames=("layer", "names", "batch", "mesh"))
def _gram(layer, x1, x2, names, batch, mesh):
    level, block = _infer(layer, x1)
    n, rows = len(x1), jnp.arange(len(x1))
    if mesh is None:
        columns = rows if x2 is None else n + jnp.arange(len(x2))
        return _matrices(layer, level, x1, rows, x1 if x2 is None else x2, columns, names, batch or block, x2 is None)
    devices = math.prod(mesh.shape.values())
    missing = -n % devices
    columns = rows if x2 is None else n + jnp.arange(len(x2))
    others = x1 if x2 is None else x2
    part, whole = PartitionSpec(mesh.axis_names), PartitionSpec()
    share = jax.shard_map(
        lambda x, r, others, c: _matrices(layer, level, x, r, others, c, names, batch or block, False),
        mesh=mesh,
        in_specs=(part, part, whole, whole),
        out_specs=part,
        check_vma=False,
    )
    padded = jnp.pad(x1, [(0, missing)] + [(0, 0)] * (x1.ndim - 1), mode="edge")
    matrices = share(padded, jnp.arange(n + missing), others, columns)
    return {name: matrix[:n] for name, matrix in matrices.items()}


def _matrices(layer, level, x1, rows, x2, columns, names, batch, symmetric):
    """Fill the matrices block by block; the last blocks of a row or column overlap where sizes are no multiples."""
    n, m = len(x1), len(x2)
    edges = min(batch, n), min(batch, m)
    starts = [np.minimum(np.arange(0, size, edge), size - edge) for size, edge in zip((n, m), edges, strict=True)]
    corners = np.stack(np.meshgrid(*starts, indexing="ij"), -1).reshape(-1, 2)
    corners = corners[corners[:, 0] <= corners[:, 1]] if symmetric else corners

    def block(corner):
        cut = lambda v, axis: jax.lax.dynamic_slice_in_dim(v, corner[axis], edges[axis])
        k = layer.kernel(_pair(cut(x1, 0), cut(rows, 0), cut(x2, 1), cut(columns, 1), level))
        return {name: k.cov if name == "nngp" else k.ntk for name in names}

    if len(corners) == 1:
        return block(corners[0])

    def fill(matrices, corner):
        place = lambda matrix, values: jax.lax.dynamic_update_slice(matrix, values, tuple(corner))
        return jax.tree.map(place, matrices, block(corner)), None

    matrices = {name: jnp.zeros((n, m), x1.dtype) for name in names}
    matrices, _ = jax.lax.scan(fill, matrices, jnp.asarray(corners))
    if not symmetric:
        return matrices
    upper = rows[:, None] <= columns[None]
    return {name: jnp.where(upper, matrix, matrix.T) for name, matrix in matrices.items()}


def _pair(x1, rows, x2, columns, level):
    """Return the kernel of the inputs themselves, for all pairs of a block."""
    one, two = x1[:, None], x2[None]
    k = _input_kernel(one, two, level != "positions", rows[:, None] == columns[None])
    if level != "selves":
        return k
    own = lambda x: replace(_input_kernel(x, x, True, jnp.ones(x.shape[:2], bool)), own=True)
    return replace(k, selves=(own(one), own(two)))


def _input_kernel(x1, x2, full, same):
    """Return covariances of examples (pairs, pairs, *positions, channels); `same`: which pairs are one example."""
    spatial, channels = x1.shape[2:-1], x1.shape[-1]
    n = len(spatial)
    full = bool(full and n)
    order = (*range(2, 2 + n), 0, 1)
    if full:  # positions interleaved: (s_1, s_1', s_2, s_2', ...)
        wide = (*x1.shape[:2], *(side for size in spatial for side in (size, 1)), channels)
        tall = (*x2.shape[:2], *(side for size in spatial for side in (1, size)), channels)
        x1, x2 = x1.reshape(wide), x2.reshape(tall)
        order = (*range(2, 2 + 2 * n), 0, 1)
    q1, q2 = (jnp.sum(x * x, -1).transpose(order) / channels for x in (x1, x2))
    if channels <= 16:
        d, s = (jnp.sum((x1 + sign * x2) ** 2, -1).transpose(order) / channels for sign in (-1, 1))
    else:
        # One matrix product instead of differences of all pairs; its rounding must not part equal inputs.
        product = _products(x1, x2).transpose(order) * (2 / channels)
        d, s = (snap(q1 + q2 + sign * product, q1 + q2) for sign in (-1, 1))
    zero = jnp.zeros_like
    k = Kernel(q1, q2, zero(q1), zero(q2), d, s, zero(d), same, spatial=spatial, full=full, channels=channels)
    return replace(k, d=jnp.where(equal_units(k), 0, d))


def _products(x1, x2):
    """Sum x1 * x2 over the last axis, the others broadcast, as a matrix product."""
    letters = string.ascii_lowercase[: x1.ndim - 1]
    one, two = ("".join(a for a, size in zip(letters, x.shape, strict=False) if size > 1) for x in (x1, x2))
    out = "".join(a for a in letters if a in one or a in two)
    squeezed = (x.reshape(*(size for size in x.shape[:-1] if size > 1), x.shape[-1]) for x in (x1, x2))
    product = jnp.einsum(f"{one}Z,{two}Z->{out}", *squeezed, precision=jax.lax.Precision.HIGHEST)
    return product.reshape(jnp.broadcast_shapes(x1.shape[:-1], x2.shape[:-1]))


def _infer(layer, x):
    """Find the least that the layer needs to know of a pair, and the block whose arrays are `BLOCK_BYTES`."""
    one = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
    index = jax.ShapeDtypeStruct((1,), int)
    for level in ("positions", "full", "selves"):
        try:
            k = jax.eval_shape(lambda x, i, level=level: layer.kernel(_pair(x, i, x, i, level)), one, index)
        except Need:
            continue
        if k.spatial:
            raise ValueError(f"layer: its outputs have positions {k.spatial}; end with flatten() or global_avg_pool()")
        positions = math.prod(x.shape[1:-1]) ** (1 if level == "positions" else 2)
        return level, max(1, math.isqrt(BLOCK_BYTES // (positions * x.dtype.itemsize)))
    raise ValueError("layer: a nonlinearity or normalisation follows a pool of inputs without positions")


def _inputs(name, x):
    x = jnp.asarray(x)
    x = x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(float)
    if x.ndim < 2 or x.size == 0:
        raise ValueError(f"{name}: shape {x.shape}; pass examples (n, *positions, channels), at least one")
    if not jnp.issubdtype(x.dtype, jnp.floating) or x.dtype.itemsize < 4:
        raise TypeError(f"{name}: dtype {x.dtype}; pass float32 or float64")
    return x


def _check_memory(n, m, dtype, count):
    needed = n * m * dtype.itemsize * count
    available = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    if available is None:
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > available:
        raise ValueError(
            f"x1, x2: {count} kernel matrices of {n} x {m} {dtype} numbers take {needed / 1e9:.3g} GB, there are "
            f"{available / 1e9:.3g} GB; compute blocks of rows, gram(layer, x1[i:j], x2), and keep what you need"
        )
