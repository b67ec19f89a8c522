"""Networks of finite width: exact means and variances of their neural tangent kernel, and one
program for networks of any width.

The networks consist of `kernels.dense` in the NTK parametrisation, with all parameters N(0, 1) and
one output; the L hidden layers have the widths n_1 ... n_L.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from jaxdyn._numbers import normal
from jaxdyn.kernels._compose import serial
from jaxdyn.kernels._kernel import Layer
from jaxdyn.kernels._linear import Scalar, dense
from jaxdyn.kernels._quadrature import expectation_at_angle, root, unit
from jaxdyn.types import Key, Params

__all__ = ["Moments", "draw", "network", "one_hidden_layer", "rectifier_relative_variance"]


class Moments(NamedTuple):
    """The mean and the variance of each entry of a kernel (n1, n2), over random initial
    parameters."""

    mean: Float[Array, "n1 n2"]
    variance: Float[Array, "n1 n2"]


def one_hidden_layer(
    fn: Callable[[Array], Array],
    width: Real[ArrayLike, ""],
    x1: Float[Array, "n1 d"],
    x2: Float[Array, "n2 _"] | None = None,
    *,
    w_std: Real[ArrayLike, ""] = 1.0,
    b_std: Real[ArrayLike, ""] = 0.0,
    kinks: tuple[float, ...] = (),
    nodes: int = 96,
) -> Moments:
    """Return the exact moments of the empirical NTK of the network dense(width), elementwise(fn),
    dense(1) on pairs of rows.

    At the two inputs of a pair a hidden unit has Gaussian preactivations (u, v) of covariance q =
    w_std^2 x.x'/d + b_std^2.  With f = fn(u) fn(v), g = fn'(u) fn'(v) and output weights a_j, the
    kernel is

        K = b_std^2 + w_std^2 mean_j (f_j + a_j^2 g_j q),

    a mean over independent units j.  The mean of K is therefore the kernel of infinite width, and
    its variance obeys

        width * variance = w_std^4 [Var f + 2 q Cov(f, g) + q^2 (3 E g^2 - (E g)^2)].

    For the rectifier the right-hand side is 3 w_std^4 q^2 on the diagonal.  Expectations over (u,
    v) are computed by quadrature with `nodes` points an axis, split at the `kinks` of `fn` (0 for
    the rectifier), where fn or its derivative jumps.  The bracket is a difference of moments, and
    exact to the rounding of these moments: 1e-14 of E f^2 in float64 and 1e-5 in float32.

    Raises ValueError for rows of different lengths and, where it is concrete, for a width below 1.
    """
    x2 = x1 if x2 is None else x2
    if x1.shape[1] != x2.shape[1]:
        raise ValueError(f"x1, x2: shapes {x1.shape} and {x2.shape}; pass rows of one length")
    _check_widths("width", width)

    def covariance(dot):
        return w_std**2 * dot / x1.shape[1] + b_std**2

    g1, g2 = (root(covariance(jnp.sum(x**2, 1))) for x in (x1, x2))
    g1 = g1[:, None]
    g2 = g2[None]
    q = covariance(x1 @ x2.T)
    # From differences of rows: the angle between equal rows would else be the root of a rounding
    # error.
    differences = x1[:, None] - x2[None]
    squares = w_std**2 * jnp.mean(differences**2, -1) - (g1 - g2) ** 2
    scale = jnp.where(g1 * g2 > 0, g1 * g2, 1)
    z = unit(squares / (4 * scale))

    def products(u, v):
        a, da = jax.jvp(fn, (u,), (jnp.ones_like(u),))
        b, db = jax.jvp(fn, (v,), (jnp.ones_like(v),))
        f = a * b
        g = da * db
        return f, g, f**2, f * g, g**2

    f, g, ff, fg, gg = expectation_at_angle(products, g1, g2, z, kinks=kinks, nodes=nodes)
    spread = ff - f**2 + 2 * q * (fg - f * g) + q**2 * (3 * gg - g**2)
    return Moments(b_std**2 + w_std**2 * (f + q * g), w_std**4 * spread / width)


def rectifier_relative_variance(
    widths: Real[ArrayLike, "layers"] | Sequence[int | float],
) -> Float[Array, ""]:
    """Return Var K / (E K)^2 of the NTK K = K(x, x) of a rectifier network without biases, for
    hidden layers `widths`.

    K is a sum of L + 1 terms, one for each layer: the squared norm of the layer's input times that
    of its backpropagated output.  All terms have the same mean.  The signs of a unit's weights are
    symmetric, so that the units open at x are independent coin flips (Hanin, Nica, 2020), and the
    mean of the product of the terms l and m, divided by the squared mean of a term, is a product
    over the hidden layers k = 1 ... L.  Outside of l < k <= m both terms have the same factor in
    layer k, which contributes 1 + 5/n_k.  For l < k <= m one term has the forward norm and the
    other the backward norm; these layers contribute the first entry of a product of the commuting
    matrices I + [[1, 4], [2, 3]]/n_k.  The matrices have the eigenvalues 1 + 5/n_k and 1 - 1/n_k,
    whose weights in the first entry are 1/3 and 2/3, so that with P = prod_k (1 + 5/n_k)

        Var K / (E K)^2
            = mean over l, m = 0 ... L of [P/3 + (2 P/3) prod_{l < k <= m} (n_k - 1)/(n_k + 5)] - 1.

    The result does not depend on w_std, x or the number of inputs, and is exact to rounding.  For L
    layers of one width n it is [5 L - 4 L (L + 2) / (3 (L + 1))] / n + O((L/n)^2), and for deep
    networks it grows exponentially in L/n.

    >>> [round(float(rectifier_relative_variance([100] * depth)), 3) for depth in (1, 10)]
    [0.03, 0.43]

    Raises ValueError, where the widths are concrete, for a width below 1.
    """
    _check_widths("widths", widths)
    n = jnp.asarray(widths)
    n = n.astype(jnp.result_type(float, n))
    term = np.arange(n.size + 1)
    layer = np.arange(1, n.size + 1)
    low = np.minimum(term[:, None], term[None])[..., None]
    high = np.maximum(term[:, None], term[None])[..., None]
    between = (low < layer[None, None]) & (layer[None, None] <= high)
    same = jnp.log1p(5 / n)
    crossed = jnp.log1p(-1 / n)
    products = jnp.expm1(jnp.sum(jnp.where(between, crossed[None, None], same[None, None]), -1))
    return (jnp.expm1(jnp.sum(same)) + 2 * jnp.mean(products)) / 3


def network(
    fn: Callable[[Array], Array],
    width: Real[ArrayLike, ""],
    depth: Real[ArrayLike, ""] = 1,
    *,
    most: tuple[int, int],
    w_std: Scalar = 1.0,
    b_std: Scalar = 0.0,
) -> Layer:
    """Return the network of `depth` hidden layers of `width` units and one output, where both
    numbers may be traced.

    The arrays have the sizes of the largest network, `most` = (depth, width).  Units beyond `width`
    are off and hidden layers beyond `depth` pass on their input, and neither has a gradient:
    outputs, empirical kernels and training are those of the smaller network, in one program for any
    width and depth.  The parameters are those of the largest network.  Its `kernel` raises
    ValueError, since a network of given width has no kernel in the limit of infinite width.
    """
    deepest, widest = most
    on = jnp.where(jnp.arange(widest) < width, jnp.sqrt(widest / width), 0.0)
    hidden = dense(widest, w_std, b_std)
    last = dense(1, w_std, b_std)
    whole = serial(*[hidden] * deepest, last)

    def apply(params, x, key=None):
        for place, own in enumerate(params[:-1]):
            h = hidden.apply(own, x)
            h = fn(h) * jnp.broadcast_to(on.astype(h.dtype), h.shape)
            x = h if place == 0 else jnp.where(jnp.less(place, depth), h, x)
        return last.apply(params[-1], x)

    return whole._replace(apply=apply, kernel=_no_kernel)


def draw(
    key: Key, layer: Layer, in_shape: tuple[int, ...], more: int = 0
) -> tuple[Params, Float[Array, "more"]]:
    """Return parameters N(0, 1) for a layer in the NTK parametrisation, and `more` further numbers
    N(0, 1).

    All numbers are drawn at once: `layer.init` has the same distribution but draws each array by
    itself, which takes long to compile.
    """
    leaves, tree = jax.tree.flatten(jax.eval_shape(lambda k: layer.init(k, in_shape)[1], key))
    ends = np.cumsum([leaf.size for leaf in leaves])
    numbers = normal(key, (int(ends[-1]) + more,))
    # Without the barrier the draw would be repeated wherever one of its pieces is used.
    *parts, rest = jnp.split(jax.lax.optimization_barrier(numbers), ends)
    return tree.unflatten(
        part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)
    ), rest


def _no_kernel(k):
    raise ValueError(
        "kernel: a network of given width has no kernel in the limit of infinite width; build the "
        "network from kernels.dense"
    )


def _check_widths(name, widths):
    if not isinstance(widths, jax.core.Tracer) and not np.all(np.asarray(widths) >= 1):
        raise ValueError(f"{name}: {widths}; pass numbers of units >= 1")
