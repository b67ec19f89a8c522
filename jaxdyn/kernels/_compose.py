"""Networks made of layers: in series, in parallel, around a skip connection, repeated."""

import functools
import operator
from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp

from jaxdyn.kernels._kernel import Kernel, Layer

__all__ = ["identity", "parallel", "repeat", "residual", "serial"]


def identity() -> Layer:
    """Return the layer whose output is its input."""
    return Layer(lambda key, shape: (shape, ()), lambda params, x, key=None: x, lambda k: k)


def serial(*layers) -> Layer:
    """Return the network that applies `layers` one after the other; its parameters are the tuple of
    their parameters.

    Raises TypeError for an argument that is not a layer.
    """
    _check("serial", layers)

    def init(key, shape):
        params = []
        for layer_key, layer in zip(
            jax.random.split(key, max(len(layers), 1)), layers, strict=False
        ):
            shape, p = layer.init(layer_key, shape)
            params.append(p)
        return shape, tuple(params)

    def apply(params, x, key=None):
        for layer, p, k in zip(layers, params, _split(key, len(layers)), strict=True):
            x = layer.apply(p, x, key=k)
        return x

    return Layer(
        init, apply, lambda k: functools.reduce(lambda k, layer: layer.kernel(k), layers, k)
    )


def repeat(layer: Layer, times: int) -> Layer:
    """Return `layer` repeated `times` times in series, each time with parameters of its own."""
    return serial(*[layer] * times)


def residual(*layers: Layer) -> Layer:
    """Return the network `x + f(x)`, with f the `layers` in series."""
    return parallel(identity(), serial(*layers))


def parallel(*layers, combine: str = "sum") -> Layer:
    """Return the layers side by side on the same input, their outputs added, multiplied or joined
    along the channels.

    `combine` is "sum", "product" or "concat".  All branches but one must have random weights of
    their own: branches without weights are functions of the same units, and the kernels of two such
    branches do not determine the joint distribution of their outputs.

    Raises ValueError for two branches without weights, for branches of different shapes, and for an
    unknown `combine`; TypeError for an argument that is not a layer.
    """
    _check("parallel", layers)
    if combine not in _COMBINE:
        raise ValueError(f"combine: {combine!r} is not known; pass one of {sorted(_COMBINE)}")

    def init(key, shape):
        keys = jax.random.split(key, len(layers))
        made = [layer.init(k, shape) for k, layer in zip(keys, layers, strict=True)]
        shapes, params = zip(*made, strict=True)
        alike = {(s[:-1] if combine == "concat" else s) for s in shapes}
        if len(alike) > 1:
            raise ValueError(
                f"parallel: branches of shapes {shapes} cannot be combined by {combine!r}; pass "
                "branches with outputs of one shape ('concat': up to the channels)"
            )
        if combine != "concat":
            return shapes[0], params
        channels = sum(s[-1] for s in shapes)
        return (*shapes[0][:-1], channels), params

    def apply(params, x, key=None):
        keys = _split(key, len(layers))
        parts = zip(layers, params, keys, strict=True)
        outputs = [layer.apply(p, x, key=k) for layer, p, k in parts]
        if combine == "concat":
            return jnp.concatenate(outputs, -1)
        return functools.reduce(jnp.add if combine == "sum" else jnp.multiply, outputs)

    def kernel(k):
        branches = [f.kernel(k) for f in layers]
        if sum(b.fresh == k.fresh for b in branches) > 1:
            raise ValueError(
                "parallel: more than one branch has no random weights of its own, so that the "
                "branches are not independent; put a dense or conv layer into all but one"
            )
        positions = [b.spatial for b in branches]
        if len(set(positions)) > 1:
            raise ValueError(
                f"parallel: branches have different positions {positions}; pad or pool them alike"
            )
        return _join(branches, _COMBINE[combine])

    return Layer(init, apply, kernel)


def _join(branches, combine):
    selves = None
    if branches[0].selves is not None:
        pairs = zip(*(b.selves for b in branches), strict=True)
        selves = tuple(_join(pair, combine) for pair in pairs)
    known = all(b.known for b in branches)
    fresh = max(b.fresh for b in branches)
    return replace(combine(branches), selves=selves, known=known, fresh=fresh)


def _sum(branches):
    """Return the kernel of a sum of independent units: the mean product of two of them is the
    product of their means."""
    total = branches[0]
    for b in branches[1:]:
        m1 = total.m1 + b.m1
        m2 = total.m2 + b.m2
        q1 = total.q1 + b.q1 + 2 * total.m1 * b.m1
        q2 = total.q2 + b.q2 + 2 * total.m2 * b.m2
        d = total.d + b.d + 2 * (total.m1 - total.m2) * (b.m1 - b.m2)
        s = total.plus + b.plus + 2 * (total.m1 + total.m2) * (b.m1 + b.m2)
        ntk = total.ntk + b.ntk
        gaussian = total.gaussian and b.gaussian
        total = replace(total, q1=q1, q2=q2, m1=m1, m2=m2, d=d, s=s, ntk=ntk, gaussian=gaussian)
    return total


def _product(branches):
    total = branches[0]
    for b in branches[1:]:
        # With A and B = (q1 + q2) / 2 of the two branches, E (u u' - v v')^2 is written in
        # differences only: equal inputs stay at a distance of exactly 0.
        gaps = (total.q1 - total.q2) * (b.q1 - b.q2) / 2
        mean = (total.q1 + total.q2) / 2
        mean_b = (b.q1 + b.q2) / 2
        d = gaps + mean * b.d + mean_b * total.d - total.d * b.d / 2
        ntk = total.ntk * b.cov + total.cov * b.ntk
        q1 = total.q1 * b.q1
        q2 = total.q2 * b.q2
        m1 = total.m1 * b.m1
        m2 = total.m2 * b.m2
        total = replace(total, q1=q1, q2=q2, m1=m1, m2=m2, d=d, s=None, ntk=ntk, gaussian=False)
    return total


def _concat(branches: Sequence[Kernel]) -> Kernel:
    channels = sum(b.channels for b in branches)

    def mean(value):
        return sum(value(b) * (b.channels / channels) for b in branches)

    means = {name: mean(operator.attrgetter(name)) for name in ("q1", "q2", "m1", "m2", "d", "ntk")}
    s = mean(lambda b: b.plus)
    return replace(branches[0], **means, s=s, gaussian=False, channels=channels)


_COMBINE = {"sum": _sum, "product": _product, "concat": _concat}


def _split(key, n):
    return [None] * n if key is None else jax.random.split(key, n)


def _check(name, layers):
    for position, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            hint = "; did you forget to call it?" if callable(layer) else "; pass layers only"
            raise TypeError(f"{name}: argument {position} is {layer!r}, not a Layer{hint}")
