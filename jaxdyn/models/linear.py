"""Deep linear networks: end-to-end matrices, random and aligned initial weights."""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Real

from jaxdyn._numbers import normal
from jaxdyn.types import Key, Model

__all__ = [
    "aligned",
    "deep_linear",
    "diagonal_linear",
    "lambda_balanced",
    "orthogonal",
    "product",
    "product_to_depth",
]


def deep_linear(
    sizes: Sequence[int], *, scale: Float[ArrayLike, ""] = 1.0, init: str = "gaussian"
) -> Model:
    """Return the deep linear network `y = W_D ... W_1 x` of layers `sizes = (N_0, ..., N_D)`.

    Parameters are the list of `W_l` (N_l, N_{l-1}), l = 1 ... D; `apply` maps rows `x` (..., N_0)
    to (..., N_D).  The `init` "gaussian" draws W_l from N(0, scale^2 / N_{l-1}), and "orthogonal"
    draws `scale` times a Haar orthogonal matrix (Saxe, McClelland, Ganguli 2013, section 3).

    Raises ValueError for fewer than two sizes, a size below 1 or an unknown `init`.
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(
            f"sizes: {tuple(sizes)} are no layers; pass at least (inputs, outputs), each at least 1"
        )
    if init not in ("gaussian", "orthogonal"):
        raise ValueError(f"init: {init!r} is unknown; pass 'gaussian' or 'orthogonal'")

    def draw(key, n_out, n_in):
        if init == "orthogonal":
            return orthogonal(key, n_out, n_in, scale)
        return normal(key, (n_out, n_in)) * (scale / n_in**0.5)

    def init_weights(key):
        keys = jax.random.split(key, len(sizes) - 1)
        layers = zip(keys, sizes[1:], sizes[:-1], strict=True)
        return [draw(*layer) for layer in layers]

    def apply(weights, x):
        for w in weights:
            x = x @ w.T
        return x

    return Model(init_weights, apply)


def diagonal_linear(inputs: int, *, depth: int = 2, scale: Float[ArrayLike, ""] = 1.0) -> Model:
    """Return the diagonal linear network `y = sum_j x_j prod_l w_lj`, whose coordinates are learned
    one by one.

    Parameters are one array (depth, inputs), initially from N(0, scale^2); `apply` maps rows (...,
    inputs) to (...).

    >>> weights, x = jnp.array([[1.0, 2.0], [3.0, -1.0]]), jnp.array([[1.0, 10.0]])
    >>> diagonal_linear(2).apply(weights, x).tolist()
    [-17.0]
    """

    def init(key):
        return normal(key, (depth, inputs)) * scale

    def apply(weights, x):
        return x @ jnp.prod(weights, 0)

    return Model(init, apply)


def product(weights: Sequence[Float[Array, "_ _"]]) -> Float[Array, "outputs inputs"]:
    """Return the end-to-end matrix `W_D ... W_1` of the list `[W_1, ..., W_D]`.

    >>> product([jnp.ones((3, 2)), jnp.ones((1, 3))]).tolist()
    [[3.0, 3.0]]
    """
    return functools.reduce(lambda total, w: w @ total, weights)


def product_to_depth(
    weights: Sequence[Float[Array, "n n"]], depth: Int[ArrayLike, ""]
) -> Float[Array, "n n"]:
    """Return `W_depth ... W_1` of square layers, where `depth` may be traced, so that one program
    serves all depths.

    >>> product_to_depth([2 * jnp.eye(1)] * 5, 3).tolist()
    [[8.0]]
    """
    layers = []
    for layer, w in enumerate(weights):
        used = jnp.less(layer, depth)
        layers.append(jnp.where(used, w, jnp.eye(len(w))))
    return product(layers)


def orthogonal(
    key: Key, n_out: int, n_in: int, gain: Float[ArrayLike, ""] = 1.0
) -> Float[Array, "{n_out} {n_in}"]:
    """Draw `gain` times a Haar matrix (n_out, n_in), with orthonormal columns if n_out >= n_in, and
    orthonormal rows otherwise.

    The Q of a Gaussian matrix is Haar distributed once its columns have the signs of R's diagonal
    (Mezzadri 2007).
    """
    tall = (max(n_out, n_in), min(n_out, n_in))
    q, r = jnp.linalg.qr(normal(key, tall))
    signs = jnp.where(jnp.diagonal(r) < 0, -1, 1).astype(q.dtype)
    q = q * signs[None]
    return jnp.asarray(gain * (q if n_out >= n_in else q.T))


def aligned(
    frames: Sequence[Float[Array, "_ rank"]], strengths: Float[ArrayLike, "rank"]
) -> list[Float[Array, "_ _"]]:
    """Return decoupled, balanced weights `W_l = R_l diag(u^(1/D)) R_{l-1}^T` whose product is `R_D
    diag(u) R_0^T`.

    `frames` are R_0 ... R_D with orthonormal columns (N_l, rank), and `strengths` are the mode
    strengths u >= 0.  If R_0 and R_D are the singular vectors of the target, each mode obeys an
    equation of its own (Saxe, McClelland, Ganguli 2013).  Raises ValueError for fewer than two
    frames.
    """
    if len(frames) < 2:
        raise ValueError(
            f"frames: got {len(frames)}; pass one frame for each layer of units, the inputs' first"
        )
    layers = len(frames) - 1
    root = jnp.asarray(strengths) ** (1 / layers)
    return [(left * root[None]) @ right.T for right, left in itertools.pairwise(frames)]


def lambda_balanced(
    key: Key,
    sizes: Sequence[int],
    imbalance: Real[ArrayLike, ""],
    *,
    scale: Float[ArrayLike, ""] = 1.0,
) -> list[Float[Array, "_ _"]]:
    """Draw two layers, `sizes = (inputs, hidden, outputs)`, with W_2^T W_2 - W_1 W_1^T = imbalance
    times I (Domine et al. 2024).

    All singular vectors are Haar distributed, and both layers share those of the hidden units.  The
    singular values x of the smaller layer are half-normal, scale |N(0, 1)|, and those of the larger
    layer are sqrt(x^2 + |imbalance|).  Hidden units beyond the number of inputs or outputs have x =
    0.  A positive imbalance needs hidden <= outputs, and a negative one hidden <= inputs.

    Raises ValueError for an impossible imbalance that is concrete; where it is traced, the weights
    are NaN.
    """
    if len(sizes) != 3 or min(sizes) < 1:
        raise ValueError(
            f"sizes: {tuple(sizes)} are no two layers; pass (inputs, hidden, outputs), each at "
            "least 1"
        )
    inputs, hidden, outputs = sizes
    imbalance = jnp.asarray(imbalance, float)
    too_positive = (hidden > outputs) & (imbalance > 0)
    too_negative = (hidden > inputs) & (imbalance < 0)
    impossible = too_positive | too_negative
    if not isinstance(impossible, jax.core.Tracer) and impossible:
        raise ValueError(
            f"imbalance: {imbalance} does not exist for sizes {tuple(sizes)}: a positive one needs "
            "hidden <= outputs, a negative one hidden <= inputs; pass another sign or hidden size"
        )
    values_key, inner_key, right_key, left_key = jax.random.split(key, 4)
    used = jnp.arange(hidden) < min(inputs, outputs)
    x = jnp.where(used, scale * normal(values_key, (hidden,)), 0)
    x = jnp.where(impossible, jnp.nan, x)
    first = jnp.sqrt(x**2 + jnp.maximum(-imbalance, 0))
    second = jnp.sqrt(x**2 + jnp.maximum(imbalance, 0))
    inner = orthogonal(inner_key, hidden, hidden)
    right = orthogonal(right_key, inputs, inputs)
    left = orthogonal(left_key, outputs, outputs)
    return [_of_modes(inner, first, right), _of_modes(left, second, inner)]


def _of_modes(left, values, right):
    """Return the matrix of these singular vectors and values, with as many modes as the smaller
    side has."""
    rank = min(len(left), len(right))
    return (left[:, :rank] * values[None, :rank]) @ right[:, :rank].T
