"""Networks that start balanced, and their targets."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdyn._numbers import check, check_positive
from jaxdyn.models import lambda_balanced, product
from jaxdyn.observables import mode_strengths
from jaxdyn.tasks import frames, from_svd

__all__ = [
    "EQUAL",
    "FEW_OUTPUTS",
    "MANY",
    "STRONG",
    "UNEQUAL",
    "equal_networks",
    "named",
    "problem",
    "unequal_networks",
]

# Configurations that several experiments are judged in.

EQUAL = {"strengths": (2.0, 1.0), "imbalances": (1.0,), "draws": 1}
UNEQUAL = EQUAL | {"inputs": 2, "outputs": 4}
STRONG = {"strengths": (2.5, 1.5), "imbalances": (0.3, 3.0), "scale": 0.5}
FEW_OUTPUTS = STRONG | {"inputs": 5, "outputs": 2}
MANY = {"imbalances": (0.25, 0.5, 1.0, 2.0, 4.0), "draws": 12}


class Networks(NamedTuple):
    """Starts of several networks and the target that all of them learn.

    Attributes:
        weights: initial weights `first` and `second` by imbalance and draw, and the target `yx`.
        observe: an observable, the strengths of the target's modes.
        axes: the axes of a sweep over these networks.
    """

    weights: dict[str, Any]
    observe: Callable
    axes: dict[Any, Any]


def unequal_networks(strengths, inputs, outputs, imbalances, scale, draws):
    """Networks whose numbers of inputs and outputs may differ, of balance zero and both signs of
    the imbalances."""
    check_positive(strengths=np.array(strengths), scale=scale)
    most = len(strengths)
    enough = f"{most} or more, as many as there are strengths"
    check("inputs", inputs, lambda number: number >= most, enough)
    check("outputs", outputs, lambda number: number >= most, enough)
    lambdas = both_signs(imbalances)
    labels = [(imbalance, 0, index) for index, imbalance in enumerate(lambdas)]
    return networks_of(strengths, inputs, outputs, labels, scale, draws)


def equal_networks(strengths, imbalances, lazy_imbalance, scale, draws):
    """Networks of as many inputs as outputs; the determinant of the first of zero balance has the
    sign opposite to its target's."""
    check_positive(strengths=np.array(strengths), scale=scale)
    largest = max(map(abs, imbalances))
    larger = f"a number above all of the imbalances, {largest:g}"
    check("lazy_imbalance", lazy_imbalance, lambda number: number > largest, larger)
    lambdas = sorted([0.0, *both_signs((*imbalances, lazy_imbalance))])
    opposed = lambdas.index(0.0)
    modes = len(strengths)

    def label(index, imbalance):
        return imbalance, int(index == opposed), index

    labels = [label(*numbered) for numbered in enumerate(lambdas)]
    return networks_of(strengths, modes, modes, labels, scale, draws)


def both_signs(imbalances):
    """Zero and the imbalances of both signs, in order, each of them once."""
    positive = {abs(imbalance) for imbalance in imbalances}
    negative = {-imbalance for imbalance in positive}
    return sorted({0.0} | positive | negative)


def networks_of(strengths, inputs, outputs, labels, scale, draws):
    """Draw networks with as many hidden units as modes, `labels` of (imbalance, opposed, index)."""
    hidden = len(strengths)
    key = jax.random.key(0)
    right, left = frames(key, (inputs, outputs), hidden)

    def draw(imbalance):
        keys = [jax.random.key(i + 1) for i in range(draws)]
        sizes = (inputs, hidden, outputs)
        return stacked([lambda_balanced(key, sizes, imbalance, scale=scale) for key in keys])

    first, second = stacked([draw(imbalance) for imbalance, _, _ in labels])
    target = from_svd(left, np.array(strengths), right)
    weights = {"first": first, "second": second, "yx": target}
    observe = mode_strengths(product, left, right)
    starts = {("imbalance", "opposed", "index"): labels}
    return Networks(weights, observe, axes=starts | {"draw": np.arange(draws)})


def stacked(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def problem(index, draw, opposed, *, first, second, yx):
    """Return one of the starts and its target; a square one's determinant has the start's sign, or
    the opposite."""
    start = [first[index, draw], second[index, draw]]
    if yx.shape[0] == yx.shape[1]:
        same = jnp.linalg.det(product(start)) * jnp.linalg.det(yx) > 0
        sign = jnp.where(same == opposed, -1.0, 1.0)
        yx = yx.at[0].multiply(sign)
    return start, yx


def named(runs, **attributes):
    """Name the axis of starts, and record options that claims need."""
    return runs.rename(imbalance_opposed_index="run").assign_attrs(attributes)
