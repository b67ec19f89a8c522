"""Curl descent: when sign-diverse plasticity keeps a solution stable, and what it conserves.

A linear network y = W_2 W_1 x of N hidden units and one output, on white inputs, learns by
gradients whose sign is turned for a fraction f of its M inputs (signs D_1) or of its hidden units
(signs D_2).  At a solution the Jacobian's nonzero eigenvalues are minus those of |W_2|^2 D_1 +
W_1^T D_2 W_1, so the solution is stable if the lower edge of the latter spectrum is positive.
Edges are those of free sums in the limit of many units, with W_1 of variance s^2 / M and c = M / N
(Ninou, Kadmon, Cayco-Gajic, 2025).  Finite networks of size n differ from this limit by terms of
order n^(-2/3).
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdyn._numbers import Numbers, around_largest, bisected, check, check_positive, floats
from jaxdyn.types import nearest

__all__ = ["critical_fraction", "lower_edge", "turned_unit_limit"]


def lower_edge(
    layer: str, flipped: Numbers, ratio: Numbers, readout: Numbers = 1.0, variance: Numbers = 1.0
) -> Float[Array, ""]:
    """Return the lower edge of the spectrum of |W_2|^2 D_1 + W_1^T D_2 W_1, in the limit of many
    units.

    `layer` is "inputs" or "hidden", whose fraction `flipped` (f) has the sign -1; `ratio` is c,
    `readout` is w = |W_2|^2 and `variance` is s^2.  By R-transforms the edge is the largest value
    over g < 0 of

        (1 + sqrt(1 + 4 w g (w g + 1 - 2 f))) / (2 g) + (s^2 / c) / (1 - s^2 g)

    for inputs, and over -1/s^2 < g < 0 of

        w + 1/g + (s^2 / c) [(1 - f) / (1 - s^2 g) - f / (1 + s^2 g)]

    for hidden units.  The solution is stable if the edge is positive.  Without any turned sign the
    edge is w + s^2 max(1/sqrt(c) - 1, 0)^2.  This edge lies above the limit of few turned signs,
    because a few turned signs have an edge of their own.

    Raises ValueError for another layer, a fraction outside of [0, 1], or numbers that are not
    positive.
    """
    check("flipped", flipped, lambda f: (f >= 0) & (f <= 1), "a fraction in [0, 1]")
    check_positive(ratio=ratio, readout=readout, variance=variance)
    f, c, w, s = floats(flipped, ratio, readout, variance)
    tiny = jnp.finfo(f.dtype).eps ** 0.5

    def inputs(log_g):
        g = -jnp.exp(log_g)
        discriminant = 1 + 4 * w * g * (w * g + 1 - 2 * f)
        root = jnp.sqrt(jnp.maximum(discriminant, 0))
        of_signs = (1 + root) / (2 * g)
        of_weights = s / c / (1 - s * g)
        return jnp.where(discriminant >= 0, of_signs + of_weights, -jnp.inf)

    def hidden(log_odds):
        x = jnp.exp(-jnp.logaddexp(0, -log_odds))  # -s g, in (0, 1)
        kept = (1 - f) / (1 + x)
        turned = f * (1 + jnp.exp(log_odds))
        return w - s / x + s / c * (kept - turned)

    if layer == "inputs":
        largest = _largest(inputs, jnp.log(tiny / w), -jnp.log(tiny * w))
    elif layer == "hidden":
        largest = _largest(hidden, jnp.log(tiny), -jnp.log(tiny))
    else:
        raise ValueError(f"layer: {layer!r} is unknown; {nearest(layer, ('inputs', 'hidden'))}")
    plain = w + s * jnp.maximum(c**-0.5 - 1, 0) ** 2
    return jnp.where(f == 0, plain, largest)


def critical_fraction(
    layer: str, ratio: Numbers, readout: Numbers = 1.0, variance: Numbers = 1.0
) -> Float[Array, ""]:
    """Return the fraction of turned signs beyond which solutions are unstable, NaN if all signs may
    be turned.

    The fraction is the zero of `lower_edge`, found by bisection; it has no derivatives.  With all
    inputs turned a solution is stable where s^2 (1/sqrt(c) - 1)^2 > w.

    Raises ValueError like `lower_edge`.
    """

    def is_stable(fraction):
        return lower_edge(layer, fraction, ratio, readout, variance) > 0

    none, all_of_them, _ = floats(0.0, 1.0, ratio)
    always = is_stable(all_of_them)
    low, high = bisected(is_stable, none, all_of_them, 40)
    return jnp.where(always, jnp.nan, (low + high) / 2)


def turned_unit_limit(
    first: Numbers, second: Numbers, target: Numbers
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Return the final weights of a unit w_2 w_1 with target s whose outgoing weight has its sign
    turned.

    The flow w_1' = (s - w_1 w_2) w_2, w_2' = -(s - w_1 w_2) w_1 turns on the circle w_1^2 + w_2^2 =
    r^2.  If r^2 > 2 |s|, the flow ends where w_1 w_2 = s and |w_2| > |w_1|.  Otherwise the flow
    goes round for ever, with a loss of at least (|s| - r^2/2)^2 / 2, and the result is NaN.  Of the
    two opposite limits the one with positive w_2 is returned.
    """
    first, second, target = jnp.broadcast_arrays(*floats(first, second, target))
    square = first**2 + second**2
    left = square**2 - 4 * target**2
    root = jnp.sqrt(jnp.where(left > 0, left, jnp.nan))
    smaller = jnp.sqrt((square - root) / 2)
    larger = jnp.sqrt((square + root) / 2)
    return jnp.sign(target) * smaller, larger


def _largest(function: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """Return the largest value of a function of one variable."""
    # Eight rounds shrink the bracket 10^12 times.
    low, high = around_largest(function, low, high, 8)
    return function((low + high) / 2)
