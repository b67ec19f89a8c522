"""The kernel matrix of an architecture: the covariances that its layers need are inferred, and
blocks of pairs bound the memory."""

import functools
import itertools
import math
import string
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, overload

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from jaxdyn.kernels._geometry import equal_units
from jaxdyn.kernels._kernel import Kernel, Layer, Need, snap
from jaxdyn.kernels._matrices import check_memory, mirrored

__all__ = ["gram"]

NAMES = ("nngp", "ntk")
# Numbers that one instruction works on: the edges of blocks are multiples of it.
LANES = 8
# Size of one array of a block: small enough for a CPU's cache, large enough that the overhead of a
# step of the loop does not matter.
BLOCK_BYTES = 2**21


@overload
def gram(
    layer: Layer,
    x1: Real[ArrayLike, "n ..."],
    x2: Real[ArrayLike, "m ..."] | None = None,
    *,
    get: str = "ntk",
    batch: int | None = None,
    mesh: Mesh | None = None,
) -> Float[Array, "n m"]: ...


@overload
def gram(
    layer: Layer,
    x1: Real[ArrayLike, "n ..."],
    x2: Real[ArrayLike, "m ..."] | None = None,
    *,
    get: tuple[str, ...] | list[str],
    batch: int | None = None,
    mesh: Mesh | None = None,
) -> dict[str, Float[Array, "n m"]]: ...


def gram(
    layer: Layer,
    x1: Real[ArrayLike, "n ..."],
    x2: Real[ArrayLike, "m ..."] | None = None,
    *,
    get: str | Sequence[str] = "ntk",
    batch: int | None = None,
    mesh: Mesh | None = None,
) -> Float[Array, "n m"] | dict[str, Float[Array, "n m"]]:
    """Return the NTK, the NNGP kernel or both ({name: matrix}) of an infinitely wide network.

    The matrix is that of all pairs of examples of `x1` (n, *positions, channels) and `x2` (m, ...),
    or of `x1` with itself, of which only half of the blocks is computed.  Inputs enter the kernels
    through x.x' / channels.  Blocks of `batch` x `batch` pairs are in memory at a time (`batch` is
    chosen from the sizes unless given, and no size has to be a multiple of it); a `mesh` spreads
    the rows over its devices.  The matrix can be jitted, vmapped and differentiated, in x and in
    traced numbers of the layers; at equal inputs the cusp of the kernels of rectifiers has
    derivative 0.  Relative to the largest entry the error is about 1e-14 in float64 and 1e-6 in
    float32, also on the diagonal.

    >>> import numpy as np
    >>> from jaxdyn import kernels
    >>> network = kernels.serial(kernels.dense(512), kernels.relu(), kernels.dense())
    >>> print(np.asarray(gram(network, np.eye(2))).round(3))
    [[0.5  0.08]
     [0.08 0.5 ]]

    Raises ValueError for inputs that do not fit each other or the layer, for outputs that still
    have positions, for unknown names in `get`, and for a matrix that exceeds the memory; TypeError
    for mixed dtypes and for a layer without a kernel.
    """
    names = (get,) if isinstance(get, str) else tuple(get)
    if not names or not set(names) <= set(NAMES):
        raise ValueError(f"get: {get!r} is not known; pass 'ntk', 'nngp' or ('nngp', 'ntk')")
    if not hasattr(layer, "kernel"):
        raise TypeError(
            f"layer: is a {type(layer).__name__}; pass layers that know their kernels, such as kernels.serial("
            "kernels.dense(), kernels.relu(), kernels.dense())"
        )
    if batch is not None and (not isinstance(batch, int) or batch < 1):
        raise ValueError(f"batch: {batch!r}; pass an int >= 1, the edge of a block of pairs")
    x1 = _inputs("x1", x1)
    x2 = None if x2 is None else _inputs("x2", x2)
    if x2 is not None and x1.shape[1:] != x2.shape[1:]:
        raise ValueError(
            f"x2: examples of shape {x2.shape[1:]}, those of x1 have {x1.shape[1:]}; pass equal shapes"
        )
    if x2 is not None and x1.dtype != x2.dtype:
        raise TypeError(f"x2: dtype {x2.dtype}, x1 has {x1.dtype}; convert one of them")
    size = len(x1) * len(x1 if x2 is None else x2) * x1.dtype.itemsize * len(names)
    check_memory(
        "the kernel matrices",
        size,
        "blocks of rows, gram(layer, x1[i:j], x2), and keep what you need of each",
    )
    matrices = _gram(layer, x1, x2, names, batch, mesh)
    return matrices[names[0]] if isinstance(get, str) else matrices


@functools.partial(jax.jit, static_argnames=("layer", "names", "batch", "mesh"))
def _gram(layer, x1, x2, names, batch, mesh):
    level, block = _infer(layer, x1)
    fill = functools.partial(_matrices, layer, level, names, batch or block)
    if mesh is None:
        # With negative numbers no example of x1 is one of x2.
        return fill(x1, 0 if x2 is None else -len(x1), x2)
    others = x1 if x2 is None else x2
    devices = math.prod(mesh.shape.values())
    part = PartitionSpec(mesh.axis_names)
    whole = PartitionSpec()
    padded = _pad_rows(x1, -len(x1) % devices)
    rows = len(padded) // devices

    def share(x, others):
        first = jax.lax.axis_index(mesh.axis_names) * rows
        return fill(x, first if x2 is None else -rows, others)

    spread = jax.shard_map(
        share, mesh=mesh, in_specs=(part, whole), out_specs=part, check_vma=False
    )
    return {name: matrix[: len(x1)] for name, matrix in spread(padded, others).items()}


def _matrices(layer, level, names, batch, x1, first, x2):
    """Return the matrices, filled block by block; without `x2` they are those of `x1` with itself.

    Example i of `x1` is the same example as number first + i of `x2`.
    """
    symmetric = x2 is None
    x2 = x1 if x2 is None else x2
    sizes = (len(x1), len(x2))
    rows = _cut(sizes[0], batch, min(sizes), symmetric)
    columns = _cut(sizes[1], batch, min(sizes), symmetric)
    x1 = _pad_rows(x1, rows.edge * rows.blocks - sizes[0])
    x2 = _pad_rows(x2, columns.edge * columns.blocks - sizes[1])
    # Of a symmetric matrix the blocks on and above the diagonal are enough.
    corners = [
        (i * rows.edge, j * columns.edge)
        for i, j in itertools.product(range(rows.blocks), range(columns.blocks))
        if j >= i or not symmetric
    ]

    def block(corner):
        row, column = corner
        one = jax.lax.dynamic_slice_in_dim(x1, row, rows.edge)
        two = jax.lax.dynamic_slice_in_dim(x2, column, columns.edge)
        own = first + row + jnp.arange(rows.edge)
        others = column + jnp.arange(columns.edge)
        same = own[:, None] == others[None]
        k = layer.kernel(_pair(one, two, same, level))
        return {name: k.cov if name == "nngp" else k.ntk for name in names}

    def fill(matrices, corner):
        place = tuple(corner)
        for name, values in block(corner).items():
            matrices[name] = jax.lax.dynamic_update_slice(matrices[name], values, place)
        return matrices, None

    empty = {name: jnp.zeros((len(x1), len(x2)), x1.dtype) for name in names}
    matrices, _ = jax.lax.scan(fill, empty, jnp.asarray(corners))
    matrices = {name: matrix[: sizes[0], : sizes[1]] for name, matrix in matrices.items()}
    if symmetric:
        return {name: mirrored(matrix.T) for name, matrix in matrices.items()}
    return matrices


class _Cut(NamedTuple):
    """How one axis of a matrix is cut: into `blocks` blocks of `edge` examples each."""

    blocks: int
    edge: int


def _cut(size, batch, least, symmetric):
    # A symmetric matrix has at least two blocks: XLA would dissolve a loop of one step, and fuse
    # all layers into the mirroring.
    fewest = min(size, 2) if symmetric else 1
    count = max(-(-size // batch), fewest)
    # Edges are multiples of LANES where the examples fill at least two vectors.
    lanes = LANES if min(batch, least) >= 2 * LANES else 1
    return _Cut(count, -(-size // (count * lanes)) * lanes)


def _pad_rows(x, count):
    return jnp.pad(x, [(0, count)] + [(0, 0)] * (x.ndim - 1), mode="edge")


def _pair(x1, x2, same, level):
    """Return the kernel of the inputs of the network, for all pairs of a block."""
    one = x1[:, None]
    two = x2[None]
    k = _input_kernel(one, two, level != "positions", same)
    if level != "selves":
        return k

    def own(x):
        return replace(_input_kernel(x, x, True, jnp.ones(x.shape[:2], bool)), own=True)

    return replace(k, selves=(own(one), own(two)))


def _input_kernel(x1, x2, full, same):
    """Return the kernel of examples (pairs, pairs, *positions, channels); `same` says which pairs
    are an example with itself."""
    spatial = x1.shape[2:-1]
    channels = x1.shape[-1]
    n = len(spatial)
    full = bool(full and n)
    order = (*range(2, 2 + n), 0, 1)
    if full:  # positions interleaved: (s_1, s_1', s_2, s_2', ...)
        wide = (*x1.shape[:2], *(side for size in spatial for side in (size, 1)), channels)
        tall = (*x2.shape[:2], *(side for size in spatial for side in (1, size)), channels)
        x1 = x1.reshape(wide)
        x2 = x2.reshape(tall)
        order = (*range(2, 2 + 2 * n), 0, 1)

    def mean_square(x):
        return jnp.sum(x * x, -1).transpose(order) / channels

    q1 = mean_square(x1)
    q2 = mean_square(x2)
    if channels <= 16:
        d, s = (jnp.sum((x1 + sign * x2) ** 2, -1).transpose(order) / channels for sign in (-1, 1))
    else:
        # One matrix product replaces the differences of all pairs; `snap` keeps its rounding errors
        # from separating equal inputs.
        product = _products(x1, x2).transpose(order) * (2 / channels)
        d, s = (snap(q1 + q2 + sign * product, q1 + q2) for sign in (-1, 1))
    m1 = jnp.zeros_like(q1)
    m2 = jnp.zeros_like(q2)
    ntk = jnp.zeros_like(d)
    k = Kernel(q1, q2, m1, m2, d, s, ntk, same, spatial=spatial, full=full, channels=channels)
    return replace(k, d=jnp.where(equal_units(k), 0, d))


def _products(x1, x2):
    """Return the sum of x1 * x2 over the last axis, with broadcasting of the others, as a matrix
    product."""
    letters = string.ascii_lowercase[: x1.ndim - 1]

    def squeezed(x):
        """Return the names of the axes whose size is not 1, and the array without the axes of size
        1."""
        sizes = x.shape[:-1]
        kept = [(letter, size) for letter, size in zip(letters, sizes, strict=True) if size > 1]
        names = "".join(letter for letter, _ in kept)
        return names, x.reshape(*(size for _, size in kept), x.shape[-1])

    one, left = squeezed(x1)
    two, right = squeezed(x2)
    out = "".join(letter for letter in letters if letter in one or letter in two)
    highest = jax.lax.Precision.HIGHEST
    product = jnp.einsum(f"{one}Z,{two}Z->{out}", left, right, precision=highest)
    return product.reshape(jnp.broadcast_shapes(x1.shape[:-1], x2.shape[:-1]))


def _infer(layer, x):
    """Return the least that the layer needs to know of a pair, and the edge of a block whose arrays
    have `BLOCK_BYTES`.

    A layer needs the covariances between equal positions ("positions"), between all positions
    ("full"), or those of the pairs (x, x) and (x', x') as well ("selves").
    """
    one = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
    same = jax.ShapeDtypeStruct((1, 1), bool)
    for level in ("positions", "full", "selves"):
        try:
            pair = functools.partial(_pair, level=level)
            k = jax.eval_shape(lambda x, same, pair=pair: layer.kernel(pair(x, x, same)), one, same)
        except Need:
            continue
        if k.spatial:
            raise ValueError(
                f"layer: its outputs have positions {k.spatial}; end with flatten() or "
                "global_avg_pool()"
            )
        positions = math.prod(x.shape[1:-1]) ** (1 if level == "positions" else 2)
        edge = math.isqrt(BLOCK_BYTES // (positions * x.dtype.itemsize))
        return level, max(LANES, edge // LANES * LANES)
    raise ValueError(
        "layer: a nonlinearity or normalisation follows a pool of inputs without positions; leave "
        "the pool out"
    )


def _inputs(name, x):
    x = jnp.asarray(x)
    x = x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(float)
    if x.ndim < 2 or x.size == 0:
        raise ValueError(
            f"{name}: shape {x.shape}; pass examples (n, *positions, channels), at least one"
        )
    if not jnp.issubdtype(x.dtype, jnp.floating) or x.dtype.itemsize < 4:
        raise TypeError(f"{name}: dtype {x.dtype}; pass float32 or float64")
    return x
