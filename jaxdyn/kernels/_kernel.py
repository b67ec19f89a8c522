"""The parts of a wide network: `Kernel`, the second moments of the units of a layer, and `Layer`,
the three functions that make and transform them."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxdyn.types import Key, Params

__all__ = ["Kernel", "Layer", "Need", "lift", "snap"]

Shape = tuple[int, ...]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("q1", "q2", "m1", "m2", "d", "s", "ntk", "same", "selves"),
    meta_fields=("spatial", "full", "gaussian", "known", "own", "channels", "fresh"),
)
@dataclass(frozen=True)
class Kernel:
    """Hold the second moments of the units u and v that two inputs evoke in one layer of an
    infinitely wide network.

    The kernel carries E (u - v)^2 instead of E u v: computed from E u v, the angle between two
    nearly equal or nearly opposite inputs would lose half of its digits.

    The leading axes of all arrays are positions in the layer (in an image or a sequence): the axes
    of `spatial`, once where the layers need only equal positions of both inputs, and in pairs (S_1,
    S_1', S_2, S_2', ...) where `full`; q1 then has size 1 in the primed axes, and q2 in the
    unprimed ones.  The axes behind the positions belong to pairs of inputs and broadcast.

    Attributes:
        q1: E u^2.
        q2: E v^2.
        m1: E u.
        m2: E v.
        d: E (u - v)^2.
        s: E (u + v)^2; None stands for 2 (q1 + q2) - d.
        ntk: the tangent kernel of the layers so far.
        same: which pairs are an example with itself.
        selves: the kernels of the pairs (x, x) and (x', x'), where a layer has asked for them.
        spatial: the shape of the positions.
        full: whether all pairs of positions are there.
        gaussian: whether the units are Gaussian, given the input.
        known: whether q1 and q2 are known: behind a pool they are unknown without `selves`.
        own: whether this is a kernel of pairs (x, x), in which case q1 and q2 follow from E u v.
        channels: the number of channels.
        fresh: the number of layers with random weights between the network's input and here.
    """

    q1: Any
    q2: Any
    m1: Any
    m2: Any
    d: Any
    s: Any
    ntk: Any
    same: Any
    selves: Any = None
    spatial: Shape = ()
    full: bool = False
    gaussian: bool = False
    known: bool = True
    own: bool = False
    channels: int = 1
    fresh: int = 0

    @property
    def plus(self) -> Array:
        """Return E (u + v)^2."""
        return 2 * (self.q1 + self.q2) - self.d if self.s is None else self.s

    @property
    def cov(self) -> Array:
        """Return E u v."""
        return (self.q1 + self.q2 - self.d) / 2 if self.s is None else (self.s - self.d) / 4

    def axes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the axes of the positions of the first and of the second input."""
        n = len(self.spatial)
        if self.full:
            return tuple(range(0, 2 * n, 2)), tuple(range(1, 2 * n, 2))
        return tuple(range(n)), tuple(range(n))


class Layer(NamedTuple):
    """A layer: a finite network, and its kernel in the limit of infinitely many channels.

    Shapes are those of one example, positions first and channels last.

    Attributes:
        init: `init(key, in_shape)` returns the shape of the output and random parameters.
        apply: `apply(params, x, key=None)` maps examples (n, *in_shape) to outputs; a layer that is
            random in training needs the key for that.
        kernel: `kernel(k)` maps the `Kernel` of the layer's inputs to the `Kernel` of its outputs.
    """

    init: Callable[[Key, Shape], tuple[Shape, Params]]
    apply: Callable[..., Array]
    kernel: Callable[[Kernel], Kernel]


class Need(Exception):
    """Raised by the `kernel` of a layer that needs all pairs of positions ("full"), or also the
    pairs (x, x) and (x', x') ("selves")."""


def lift(rule: Callable[[Kernel], Kernel]) -> Callable[[Kernel], Kernel]:
    """Return the `kernel` of a layer: it transforms the kernels in `selves` first, and then applies
    `rule` to the pair itself."""

    def kernel(k: Kernel) -> Kernel:
        return rule(k if k.selves is None else replace(k, selves=tuple(map(kernel, k.selves))))

    return kernel


def snap(distance: Array, scale: Array) -> Array:
    """Return `distance`, with values below the rounding error of `scale` set to 0; the derivative
    stays that of the identity.

    An angle is the square root of such a distance: rounding errors alone would put equal inputs at
    an angle of 1e-8 in float64, and of 3e-4 in float32.
    """
    rounding = distance < 8 * jnp.finfo(distance.dtype).eps * scale
    return distance - jax.lax.stop_gradient(jnp.where(rounding, distance, 0))
