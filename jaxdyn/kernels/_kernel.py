"""What the layers of a wide network are made of: the covariance of its units, and the triple that
transforms it."""

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
    """Covariances of the units u and v that two inputs evoke in one layer of an infinitely wide
    network.

    Differences are carried instead of E u v, because the angle of two nearly equal or nearly
    opposite inputs cannot be had from E u v without losing half the digits.

    The leading axes are positions: those of `spatial`, once where only equal positions of both
    inputs matter, and in pairs (S_1, S_1', S_2, S_2', ...) where `full`; q1 then has size 1 in the
    primed axes, and q2 in the others.  All axes behind them belong to pairs of inputs and
    broadcast.

    Attributes:
        q1: E u^2.
        q2: E v^2.
        m1: E u.
        m2: E v.
        d: E (u - v)^2.
        s: E (u + v)^2; None stands for 2 (q1 + q2) - d.
        ntk: the tangent kernel of the layers so far.
        same: which pairs are an example with itself.
        selves: the kernels of (x, x) and of (x', x'), where a layer has asked for them.
        spatial: the shape of the positions.
        full: whether all pairs of positions are there.
        gaussian: whether the units are Gaussian, given the input.
        known: whether q1 and q2 are known: behind a pool they are not without `selves`.
        own: whether this kernel is itself one of (x, x), for which q1 and q2 follow from it.
        channels: the number of channels.
        fresh: the number of layers of random weights passed.
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
        """E |u + v|^2."""
        return 2 * (self.q1 + self.q2) - self.d if self.s is None else self.s

    @property
    def cov(self) -> Array:
        """E u v."""
        return (self.q1 + self.q2 - self.d) / 2 if self.s is None else (self.s - self.d) / 4

    def axes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the axes of the positions of the first and of the second input."""
        n = len(self.spatial)
        if self.full:
            return tuple(range(0, 2 * n, 2)), tuple(range(1, 2 * n, 2))
        return tuple(range(n)), tuple(range(n))


class Layer(NamedTuple):
    """A layer that is a finite network, and knows its limit of infinitely many channels.

    Shapes are those of one example, positions first and channels last.

    Attributes:
        init: `init(key, in_shape)` returns the output's shape and parameters drawn.
        apply: `apply(params, x, key=None)` maps examples (n, *in_shape); a random layer needs the
            key.
        kernel: `kernel(k)` is the same map for kernels, in the limit.
    """

    init: Callable[[Key, Shape], tuple[Shape, Params]]
    apply: Callable[..., Array]
    kernel: Callable[[Kernel], Kernel]


class Need(Exception):
    """Raised by a layer's `kernel` that needs all pairs of positions ("full") or the pairs (x, x)
    too ("selves")."""


def lift(rule: Callable[[Kernel], Kernel]) -> Callable[[Kernel], Kernel]:
    """Return the `kernel` that applies `rule` to a pair after it was applied to its `selves`."""

    def kernel(k: Kernel) -> Kernel:
        return rule(k if k.selves is None else replace(k, selves=tuple(map(kernel, k.selves))))

    return kernel


def snap(distance: Array, scale: Array) -> Array:
    """Set distances that are rounding errors of `scale` to 0; the derivative stays that of the
    identity.

    An angle is the root of a distance: without this, equal inputs would be 1e-8 (float32: 3e-4)
    apart.
    """
    rounding = distance < 8 * jnp.finfo(distance.dtype).eps * scale
    return distance - jax.lax.stop_gradient(jnp.where(rounding, distance, 0))
