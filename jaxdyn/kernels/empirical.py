"""Kernels of finite networks: the empirical NTK and NNGP kernel of any pure `apply`, the spectrum
of the NTK, and linearised networks.

`apply(params, x)` maps a batch `x` (n, ...), an array or a pytree of arrays, to outputs (n, k);
outputs (n,) count as k = 1, and further axes are flattened.  The kernels are those of all floating
leaves of `params`.  Leaves that are not trained, such as the running statistics of BatchNorm, have
to be closed over: `lambda w, x: model.apply({**params, "params": w}, x)`.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from jaxdyn._numbers import normal
from jaxdyn.kernels import _contraction, _taps
from jaxdyn.kernels._krylov import lanczos
from jaxdyn.kernels._matrices import check_memory, memory, mirrored
from jaxdyn.types import Key, Params

__all__ = ["linearize", "monte_carlo", "nngp", "ntk", "ntk_product", "taylor", "top_eigenpairs"]

METHODS = ("auto", "taps", "jacobian", "products")


def ntk(
    apply: Callable[[Params, Any], Array],
    params: Params,
    x1: PyTree[Any],
    x2: PyTree[Any] | None = None,
    *,
    trace: bool = True,
    method: str = "auto",
    batch: int | None = None,
    per_sample: bool = True,
) -> Float[Array, "n1 n2"] | Float[Array, "n1 n2 k k"]:
    """Return the empirical neural tangent kernel `Theta = (df(x1)/dw) (df(x2)/dw)^T` (Jacot,
    Gabriel, Hongler 2018).

    With `trace` the kernel is the mean over outputs of the diagonal blocks, (n1, n2); without
    `trace` it is the whole, (n1, n2, k, k).  Without `x2` the kernel is that of `x1` with itself:
    it is exactly symmetric, and only half of it is computed.

    - "taps": a parameter that enters once, through a matrix product, a convolution or a row
      look-up, has the Jacobian sum_s delta_s a_s^T over the places s of its layer in a sample, with
      a what enters the layer and delta the derivative of the output by what leaves the layer.  The
      layer's part of the kernel is sum_{s, t} (a_s . a'_t) (delta_s . delta'_t), or the product of
      the summed Jacobians, whichever takes fewer operations; a bias is one more coordinate of a.
      Every other parameter (LayerNorm, recurrent, tied) is treated as in "jacobian".
    - "jacobian": the Jacobians of single samples are contracted leaf by leaf; they are (n1 + n2) k
      P numbers for P parameters.
    - "products": each row of the kernel, of one sample and one output, takes one vector-Jacobian
      product of this sample and one Jacobian-vector product of all samples of `x2`; no Jacobian is
      held.
    - "auto": "taps", except that "products" is taken where it needs fewer operations (6 n1 n2 k
      times those of one evaluation), or where the derivatives of "taps" do not fit in half of the
      memory.

    With `batch` the kernel is computed in blocks of so many rows and columns of samples, so that
    the memory besides the result is that of one pair of blocks; the derivatives of a block of
    columns are then computed anew for every block of rows.  Each sample is evaluated by itself.
    Where an output depends on the other samples of its batch (BatchNorm in training), pass
    `per_sample=False`: `x1` and `x2` are then one batch each, evaluated at once.

    All methods agree to rounding, in float32 and float64, and can be jitted, vmapped over
    parameters and differentiated.  Raises ValueError for inputs without a common batch axis, for an
    `x2` with other trailing shapes than `x1`, for an `apply` that returns another number of rows,
    for an unknown method, for a batch below 1, and for what does not fit in memory; TypeError for
    outputs or parameters that are not floats.

    >>> ntk(lambda w, x: x @ w, jnp.ones((2, 1)), jnp.array([[1.0, 0.0], [3.0, 4.0]]))
    Array([[ 1.,  3.],
           [ 3., 25.]], dtype=float32)
    """
    if method not in METHODS:
        raise ValueError(f"method: {method!r} is unknown; pass one of {METHODS}")
    if batch is not None and (batch < 1 or not per_sample):
        raise ValueError(
            f"batch: {batch} is no size of a block; pass at least 1 (and per_sample=True), or None"
        )
    symmetric = x2 is None
    x2 = x1 if x2 is None else x2
    (n1, k, dtype), (n2, k2, _) = (_checked(apply, params, x) for x in (x1, x2))
    _check_alike(x1, x2, k, k2)

    def f(p, x):
        return apply(p, jax.tree.map(lambda a: a[None], x) if per_sample else x).reshape(-1)

    sizes = (min(n1, batch or n1), min(n2, batch or n2), k) if per_sample else (1, 1, n1 * k)

    def first(x):
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[per_sample:], a.dtype), x)

    inner = trace and per_sample
    rows = 1 if inner else k
    check_memory(
        "the kernel", n1 * n2 * rows**2 * dtype.itemsize, "trace=True or fewer samples at a time"
    )
    derive = _derivatives(method, f, params, (first(x1), first(x2)), sizes, inner, dtype)
    if derive is None:
        derive = (lambda x: x,) * 2
        block = functools.partial(_by_products, f, params, trace=inner)
    else:
        block = functools.partial(_contraction.contracted, trace=inner)

    if not per_sample:
        x1, x2 = (jax.tree.map(lambda a: a[None], x) for x in (x1, x2))
        rows = n1 * k
    if batch is None:
        theta = (
            _symmetric(block, derive[0](x1), rows)
            if symmetric
            else block(derive[0](x1), derive[1](x2))
        )
    else:
        theta = _streamed(block, derive[0], x1, None if symmetric else x2, (n1, n2), batch, rows)
    if inner:
        return jnp.asarray(theta / k)
    theta = theta.reshape(n1, k, n2, k).transpose(0, 2, 1, 3)
    return jnp.trace(theta, axis1=2, axis2=3) / k if trace else theta


def nngp(
    apply: Callable[[Params, Any], Array],
    params: Params,
    x1: PyTree[Any],
    x2: PyTree[Any] | None = None,
) -> Float[Array, "n1 n2"]:
    """Return `f(x1) f(x2)^T / k` (n1, n2), whose mean over random parameters is the NNGP kernel
    (Lee et al. 2018).

    Raises ValueError for `x1` and `x2` with outputs of different shapes.
    """
    first = _outputs(apply, params, x1)
    second = first if x2 is None else _outputs(apply, params, x2)
    if first.shape[1:] != second.shape[1:]:
        raise ValueError(
            f"x1, x2: apply returns {first.shape} and {second.shape}; pass inputs of the same kind"
        )
    return first @ second.T / first.shape[1]


def ntk_product(
    apply: Callable[[Params, Any], Array],
    params: Params,
    x1: PyTree[Any],
    x2: PyTree[Any] | None = None,
) -> Callable[[Float[Array, "n2 *outputs"]], Float[Array, "n1 *outputs"]]:
    """Return the function `v -> Theta(x1, x2) v` of the NTK Theta, which is never formed.

    The array v has the shape of `apply(params, x2)`, and the product has that of `apply(params,
    x1)`:

        (Theta v)_ia = sum_jb Theta(x_i, x'_j)_ab v_jb.

    Each of `x1` and `x2` is evaluated as one batch, and one product takes one vector-Jacobian and
    one Jacobian-vector product.
    """
    leaves, f = _trained(apply, params)
    _checked(apply, params, x1)
    _, push = jax.linearize(lambda w: f(w, x1), leaves)
    out, pull = jax.vjp(lambda w: f(w, x1 if x2 is None else x2), leaves)

    def product(v):
        if jnp.shape(v) != out.shape:
            raise ValueError(
                f"v: shape {jnp.shape(v)}; pass the shape {out.shape} of apply(params, x2)"
            )
        return push(*pull(jnp.asarray(v, out.dtype)))

    return product


def top_eigenpairs(
    apply: Callable[[Params, Any], Array],
    params: Params,
    x: PyTree[Any],
    num: int = 1,
    *,
    depth: int | None = None,
    key: Key | None = None,
) -> tuple[Float[Array, " num"], Float[Array, "num *outputs"]]:
    """Return the `num` largest eigenvalues of the NTK of all outputs on `x`, and their
    eigenvectors, by Lanczos' method.

    The eigenvalues (num,) are those of the (n k, n k) matrix Theta itself, in descending order and
    not divided by n or k: gradient flow of `losses.squared_error` learns an eigenvector at the rate
    eigenvalue / n.  Each eigenvector has the shape of the outputs and norm 1.  Lanczos' method
    multiplies Theta with `depth` vectors (by default 2 num + 30, at most n k, where it is exact to
    rounding), from a random start drawn with `key`; Theta is never formed, and a repeated
    eigenvalue is found once.  Where Theta has fewer than `num` distinct eigenvalues, the missing
    ones are 0, with vectors of 0.

    Raises ValueError for `num` beyond the number of outputs and for `depth` below `num`.
    """
    out = jax.eval_shape(apply, params, x)
    if not 1 <= num <= out.size:
        raise ValueError(f"num: {num}; pass 1 to {out.size}, the number of outputs on x")
    depth = min(2 * num + 30 if depth is None else depth, out.size)
    if depth < num:
        raise ValueError(f"depth: {depth} is below num = {num}; pass at least num")
    start = normal(jax.random.key(0) if key is None else key, out.shape, out.dtype)
    basis, small = lanczos(ntk_product(apply, params, x), start, depth)
    return small.values[::-1][:num], jnp.tensordot(small.vectors.T[::-1][:num], basis, 1)


def linearize(
    apply: Callable[[Params, Any], Array], params0: Params
) -> Callable[[Params, Any], Array]:
    """Return the linearised network `apply_lin(params, x) = f(x) + df/dw (params - params0)`, with
    f and df/dw at `params0` (Lee et al. 2019)."""
    return taylor(apply, params0, 1)


def taylor(
    apply: Callable[[Params, Any], Array], params0: Params, degree: int
) -> Callable[[Params, Any], Array]:
    """Return the Taylor polynomial of `apply` in the parameters about `params0`, a function
    `(params, x) -> outputs`.

    The polynomial is

        sum_{j <= degree} (1/j!) d^j/dt^j f(params0 + t (params - params0))   at t = 0,

    by nested forward derivatives, whose cost grows as 2^degree.  Integer leaves stay as in
    `params0`.  Raises ValueError for a negative degree.
    """
    if degree < 0:
        raise ValueError(f"degree: {degree}; pass 0 or more")
    leaves0, f = _trained(apply, params0)

    def expanded(params, x):
        step = [jnp.subtract(a, b) for a, b in zip(_floats(params), leaves0, strict=True)]

        def derivatives(order, t):
            if order == 0:
                return [
                    f([a + t.astype(d.dtype) * d for a, d in zip(leaves0, step, strict=True)], x)
                ]
            values, slopes = jax.jvp(lambda t: derivatives(order - 1, t), (t,), (jnp.ones_like(t),))
            return [*values, slopes[-1]]

        terms = derivatives(degree, jnp.zeros(()))
        return functools.reduce(jnp.add, [term / math.factorial(j) for j, term in enumerate(terms)])

    return expanded


def monte_carlo(
    init: Callable[[Key], Params],
    apply: Callable[[Params, Any], Array],
    x1: PyTree[Any],
    x2: PyTree[Any] | None = None,
    *,
    get: tuple[str, ...] = ("nngp", "ntk"),
    **options: Any,
) -> Callable[[Key], dict[str, Array]]:
    """Return the experiment `key -> {"nngp": (n1, n2), "ntk": (n1, n2)}` of the network with
    parameters `init(key)`.

    The mean over seeds of `jaxdyn.sweep(monte_carlo(...), seeds=1000)` estimates the kernels of the
    architecture.  `get` names the kernels that are computed, and `options` are those of `ntk`.
    Raises ValueError for unknown names in `get`.
    """
    kernels = {"nngp": nngp, "ntk": lambda *args: ntk(*args, **options)}
    if unknown := set(get) - set(kernels):
        raise ValueError(f"get: {sorted(unknown)} is unknown; pass some of {tuple(kernels)}")

    def experiment(key):
        params = init(key)
        return {name: kernels[name](apply, params, x1, x2) for name in get}

    return experiment


def _derivatives(method, f, params, xs, sizes, trace, dtype):
    """Return the functions that compute the derivatives on the two inputs, or None where products
    are taken instead."""
    if method == "products":
        return None
    plans = [_taps.plan(f, params, x, taps=method != "jacobian") for x in xs]
    summed, work, held = _contraction.cost(plans[0], plans[1], sizes, trace)
    n1, n2, k = sizes
    if method == "auto" and (
        6 * n1 * n2 * k * plans[0].flops < work or held * dtype.itemsize > memory() / 2
    ):
        return None
    check_memory(
        "the derivatives",
        held * dtype.itemsize,
        "batch=... (a number of samples), or method='products'",
    )

    def derive(plan, x):
        factors, jacobians = plan.derive(params, x)
        layers = list(zip(plan.layers, factors, summed, strict=True))
        jacobians += [
            _contraction.summed(layer, *factor) for layer, factor, whole in layers if whole
        ]
        return [factor for _, factor, whole in layers if not whole], jacobians

    return [functools.partial(derive, plan) for plan in plans]


def _by_products(f, params, x1, x2, trace):
    leaves, f = _trained(f, params)
    out, push = jax.linearize(lambda w: jax.vmap(lambda x: f(w, x))(x2), leaves)

    def row(x):
        value, pull = jax.vjp(lambda w: f(w, x), leaves)
        columns = jax.vmap(lambda v: push(*pull(v)))(jnp.eye(value.size, dtype=value.dtype))
        return jnp.trace(columns, axis1=0, axis2=2) if trace else columns.reshape(value.size, -1)

    return lax.map(row, x1).reshape(-1, out.shape[0] * (1 if trace else out.shape[1]))


def _symmetric(block, derivatives, rows):
    """Return the symmetric kernel from its lower triangle.

    The triangle is computed in four bands of rows where that saves more than it costs.
    """
    n = len(jax.tree.leaves(derivatives)[0])
    edges = [n * i // 4 for i in range(5)] if n >= 4 and n * rows >= 400 else [0, n]

    def cut(low, high):
        return jax.tree.map(lambda a: a[low:high], derivatives)

    lower = None
    for low, high in itertools.pairwise(edges):
        band = block(cut(low, high), cut(0, high))
        lower = jnp.zeros((n * rows,) * 2, band.dtype) if lower is None else lower
        lower = lower.at[low * rows : high * rows, : high * rows].set(band)
    return mirrored(jnp.asarray(lower))


def _streamed(block, derive, x1, x2, sizes, batch, rows):
    """Return the kernel block by block: from all pairs of blocks, or from those of the lower
    triangle where `x2` is None."""
    blocks = [
        _blocks(x, min(batch, n)) for x, n in zip((x1, x2), sizes, strict=True) if x is not None
    ]
    counts = [len(jax.tree.leaves(b)[0]) for b in blocks]
    if x2 is None:

        def pick(i):
            return derive(jax.tree.map(lambda a: a[i], blocks[0]))

        count = counts[0]
        i, j = jnp.tril_indices(count)
        parts = lax.map(lambda at: block(pick(at[0]), pick(at[1])), (i, j))
        grid = jnp.zeros((count, count, *parts.shape[1:]), parts.dtype)
        grid = grid.at[i, j].set(parts)
    else:

        def columns(left):
            return lax.map(lambda x: block(left, derive(x)), blocks[1])

        grid = lax.map(lambda x: columns(derive(x)), blocks[0])
    side_by_side = grid.swapaxes(1, 2)
    theta = side_by_side.reshape(math.prod(side_by_side.shape[:2]), -1)
    theta = theta[: sizes[0] * rows, : sizes[1] * rows]
    return mirrored(theta) if x2 is None else theta


def _blocks(x, size):
    """Cut arrays into blocks of `size` samples along a new first axis.

    The last block is filled up with copies of the last sample.
    """

    def cut(a):
        a = jnp.asarray(a)
        missing = jnp.broadcast_to(a[-1:], (-len(a) % size, *a.shape[1:]))
        filled = jnp.concatenate([a, missing])
        return filled.reshape(-1, size, *a.shape[1:])

    return jax.tree.map(cut, x)


def _floats(params):
    leaves = jax.tree.leaves(params)
    return [leaf for leaf in leaves if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)]


def _trained(apply, params):
    """Return the floating leaves, and `apply` as a function of these leaves."""
    leaves, treedef = jax.tree.flatten(params)
    trained = [jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in leaves]

    def f(floats, x):
        left = iter(floats)
        return apply(
            treedef.unflatten(
                [next(left) if t else a for a, t in zip(leaves, trained, strict=True)]
            ),
            x,
        )

    return [jnp.asarray(a) for a in _floats(params)], f


def _outputs(apply, params, x):
    rows = _checked(apply, params, x)[0]
    return apply(params, x).reshape(rows, -1)


def _checked(apply, params, x) -> tuple[Any, int, Any]:
    """Return the numbers of samples and outputs, and the dtype."""
    shapes = [jnp.shape(a) for a in jax.tree.leaves(x)]
    rows = {shape[0] if shape else None for shape in shapes}
    if len(rows) != 1 or None in rows or 0 in rows:
        raise ValueError(
            f"x: shapes {shapes}; pass arrays with one common batch axis in front, of at least one sample"
        )
    if not _floats(params):
        raise TypeError(
            "params: no floating leaf to differentiate by; pass the parameters of `apply`"
        )
    (n,) = rows
    out = jax.eval_shape(apply, params, x)
    if not hasattr(out, "shape"):
        raise TypeError(
            f"apply: returned {type(out).__name__}; pass a function of (params, x) to one array of outputs"
        )
    if not out.shape or out.shape[0] != n:
        raise ValueError(
            f"apply: outputs of shape {out.shape} for {n} samples; x and outputs need the batch "
            "axis first"
        )
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise TypeError(
            f"apply: outputs are {out.dtype}; the kernels are those of real floating outputs"
        )
    return n, math.prod(out.shape[1:]), out.dtype


def _check_alike(x1, x2, k1, k2):
    def kinds(x):
        return [(jnp.shape(a)[1:], jnp.result_type(a)) for a in jax.tree.leaves(x)]

    if kinds(x1) != kinds(x2) or k1 != k2:
        raise ValueError(
            f"x1, x2: samples of shapes and dtypes {kinds(x1)} and {kinds(x2)}; pass inputs of the "
            "same kind"
        )
