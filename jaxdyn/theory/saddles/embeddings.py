"""Narrow networks within wider ones: maps of the units' weights under which fixed points stay fixed
points.

A layer sum_i v_i phi(u_i; x) has the units' incoming weights in the rows of `u` and the outgoing
ones in the rows of `v`.  Each map makes the layer wider without changing what it computes, and
where the gradient of a loss vanishes in the narrow network, it vanishes in the wide one.  Solutions
of narrow networks thereby become critical points, mostly saddles, of wide ones (Fukumizu & Amari,
2000; Zhang, Saxe, Latham, 2025).  Descent preserves some of the sets that the maps span, on which a
wide network moves like a narrow one: equal units, units of zero weights, units in proportion to
each other, and a common row space.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxdyn._numbers import check

__all__ = ["append_unit", "mix_units", "split_unit"]

Units = tuple[Float[Array, "wide *incoming"], Float[Array, "wide *outgoing"]]


def split_unit(
    u: Float[Array, "units *incoming"],
    v: Float[Array, "units *outgoing"],
    unit: int,
    shares: Sequence[float] | Float[ArrayLike, " copies"],
    scales: Sequence[float] | Float[ArrayLike, " copies"] | float = 1.0,
    degree: int = 1,
) -> Units:
    """Return the layer in which a unit is replaced by copies with incoming weights b_k u and
    outgoing w_k v / b_k^degree.

    The `shares` w_k add up to 1.  Any activation allows the `scales` b = 1.  Other scales need an
    activation that is homogeneous of the `degree` in u (1 for rectifiers, 2 for squares), and b > 0
    for rectifiers.  Under descent equal copies stay equal; for degree 1, copies with shares
    proportional to b^2 stay in proportion.  The copies come last.

    >>> u, v = split_unit(jnp.array([[1.0, 2.0]]), jnp.array([3.0]), 0, (0.75, 0.25), (0.5, 2.0))
    >>> u.tolist(), v.tolist()
    ([[0.5, 1.0], [2.0, 4.0]], [4.5, 0.375])

    Raises ValueError for concrete shares that do not add up to 1.
    """
    shares = jnp.asarray(shares, u.dtype)
    scales = jnp.asarray(scales, u.dtype)
    shares, scales = jnp.broadcast_arrays(shares, scales)
    check("shares", shares, lambda w: abs(w.sum() - 1) < 1e-5, "shares that add up to 1")

    def replaced(a, factors):
        others = jnp.delete(a, unit, axis=0)
        copies = jnp.tensordot(factors, a[unit], 0)
        return jnp.concatenate([others, copies])

    return replaced(u, scales), replaced(v, shares / scales**degree)


def append_unit(
    u: Float[Array, "units *incoming"],
    v: Float[Array, "units *outgoing"],
    outgoing: Float[ArrayLike, "*outgoing"] | float = 0.0,
) -> Units:
    """Return the layer with one more unit without incoming weights, for activations with phi(0; x)
    = 0.

    The `outgoing` weights of the unit must be 0, except for activations whose slope vanishes at 0
    as well (squares, attention heads of zero keys and queries).
    """
    incoming = jnp.zeros_like(u[:1])
    outgoing = jnp.broadcast_to(jnp.asarray(outgoing, v.dtype), v.shape[1:])
    return jnp.concatenate([u, incoming]), jnp.concatenate([v, outgoing[None]])


def mix_units(
    u: Float[Array, "units incoming"],
    v: Float[Array, "units outgoing"],
    mixing: Float[Array, "wide units"],
) -> Units:
    """Return the linear units C u and (C^+)^T v: the narrow network in the column space of the
    `mixing` C.

    C must have full column rank.  The distance of a wide network from the set of all such networks
    is the distance of its hidden units' weights from the nearest ones of the narrow network's rank.
    """
    return mixing @ u, jnp.linalg.pinv(mixing).T @ v
