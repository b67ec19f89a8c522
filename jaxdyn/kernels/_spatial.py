"""Layers without weights that act on positions or on all units: pools, flatten, normalisation,
dropout."""

import math
from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp

from jaxdyn.kernels._geometry import (
    check_positions,
    check_windows,
    equal_positions,
    equal_units,
    out_sizes,
    own_variances,
    sum_windows,
)
from jaxdyn.kernels._kernel import Layer, Need, lift, snap

__all__ = ["avg_pool", "dropout", "flatten", "global_avg_pool", "layer_norm", "sum_pool"]


def avg_pool(
    window: Sequence[int], *, strides: Sequence[int] | None = None, padding: str = "VALID"
) -> Layer:
    """Return the layer of means over windows, padded zeros included; `strides` are the sizes of the
    window unless given."""
    return _pool("avg_pool", window, strides, padding, 1 / math.prod(window))


def sum_pool(
    window: Sequence[int], *, strides: Sequence[int] | None = None, padding: str = "VALID"
) -> Layer:
    """Return the layer of sums over windows; `strides` are the sizes of the window unless given."""
    return _pool("sum_pool", window, strides, padding, 1.0)


def _pool(name, window, strides, padding, scale):
    window, strides = check_windows(name, window, window if strides is None else strides, padding)

    def init(key, shape):
        check_positions(name, shape[:-1], window, padding)
        return (*out_sizes(shape[:-1], window, strides, padding), shape[-1]), ()

    def apply(params, x, key=None):
        axes = [(axis,) for axis in range(1, x.ndim - 1)]
        return scale * sum_windows(x, axes, window, strides, padding)

    def rule(k):
        check_positions(name, k.spatial, window, padding)
        sizes = out_sizes(k.spatial, window, strides, padding)

        def over(v, axes):
            return scale * sum_windows(v, [(axis,) for axis in axes], window, strides, padding)

        return _pooled(k, sizes, over, lambda v: over(over(v, k.axes()[0]), k.axes()[1]))

    return Layer(init, apply, lift(rule))


def global_avg_pool() -> Layer:
    """Return the layer of the mean over all positions."""

    def rule(k):
        if not k.spatial:
            raise ValueError(
                "global_avg_pool: its input has no positions; put the pool before flatten, or leave it out"
            )
        every = tuple(range(2 * len(k.spatial)))

        def mean(v):
            return jnp.mean(v, every)

        return replace(_pooled(k, (), lambda v, axes: mean(v), mean), full=False)

    def apply(params, x, key=None):
        return jnp.mean(x, tuple(range(1, x.ndim - 1)))

    return Layer(lambda key, shape: ((shape[-1],), ()), apply, lift(rule))


def _pooled(k, sizes, one, two):
    """Return the kernel of pooled units: `one(v, axes)` pools the positions of one input, and
    `two(v)` those of both.

    The variance of a pooled unit takes the covariances between positions of the same input, so it
    comes from the kernel of that input with itself.
    """
    if not k.full:
        raise Need("full")
    first, second = k.axes()
    cov = two(k.cov)
    ntk = two(k.ntk)
    m1 = one(k.m1, first)
    m2 = one(k.m2, second)
    k = replace(k, spatial=sizes, ntk=ntk, m1=m1, m2=m2)
    if k.own or k.selves is not None:
        q1, q2 = own_variances(k, cov) if k.own else (k.selves[0].q1, k.selves[1].q2)
        d = snap(q1 + q2 - 2 * cov, q1 + q2)
        s = snap(q1 + q2 + 2 * cov, q1 + q2)
        return replace(k, q1=q1, q2=q2, d=d, s=s)
    # Without variances d and s still carry the covariance (s - d) / 4.
    unknown = {"q1": jnp.zeros_like(m1), "q2": jnp.zeros_like(m2)}
    return replace(k, **unknown, d=-2 * cov, s=2 * cov, known=False)


def flatten() -> Layer:
    """Return the layer that joins all positions and channels into one axis of channels."""

    def rule(k):
        if not k.spatial:
            return k

        every = tuple(range(len(k.spatial) * (2 if k.full else 1)))

        def one(v):
            return jnp.mean(v, every)

        def two(v):
            if not k.full:
                return one(v)
            at_equal = jnp.where(equal_positions(k), v, 0)
            return jnp.sum(at_equal, every) / math.prod(k.spatial)

        values = {name: one(getattr(k, name)) for name in ("q1", "q2", "m1", "m2")}
        values |= {name: two(getattr(k, name)) for name in ("d", "ntk")}
        s = None if k.s is None else two(k.s)
        channels = k.channels * math.prod(k.spatial)
        return replace(k, **values, s=s, spatial=(), full=False, gaussian=False, channels=channels)

    def apply(params, x, key=None):
        return x.reshape(x.shape[0], -1)

    return Layer(lambda key, shape: ((math.prod(shape),), ()), apply, lift(rule))


def layer_norm(axes: str = "channels", *, eps: float = 1e-12) -> Layer:
    """Return the layer (x - mean) / sqrt(variance + eps), without gain (Ba, Kiros, Hinton 2016).

    Mean and variance are those over the channels, or for `axes="all"` those over all positions and
    channels.  In the limit of many channels they become the mean and variance of one unit over
    random weights, also behind a nonlinearity.  Raises ValueError for other `axes`.
    """
    if axes not in ("channels", "all"):
        raise ValueError(f"axes: {axes!r} is not known; pass 'channels' or 'all'")

    def mean(v, positions):
        return jnp.mean(v, positions, keepdims=True) if axes == "all" and positions else v

    def apply(params, x, key=None):
        over = -1 if axes == "channels" else tuple(range(1, x.ndim))
        centred = x - jnp.mean(x, over, keepdims=True)
        variance = jnp.var(x, over, keepdims=True)
        return centred * jax.lax.rsqrt(variance + eps)

    def rule(k):
        if not k.known:
            raise Need("selves")
        first, second = k.axes()
        mu1 = mean(k.m1, first)
        mu2 = mean(k.m2, second)
        q1 = k.q1 - 2 * k.m1 * mu1 + mu1**2
        q2 = k.q2 - 2 * k.m2 * mu2 + mu2**2
        a1 = jax.lax.rsqrt(mean(q1, first) + eps)
        a2 = jax.lax.rsqrt(mean(q2, second) + eps)
        # E |a1 u - a2 v|^2 = a1 a2 E |u - v|^2 + (a1 - a2) (a1 E u^2 - a2 E v^2), and the same for
        # sums.
        gap = (a1 - a2) * (a1 * q1 - a2 * q2)
        product = a1 * a2
        difference = mu1 - mu2
        total = mu1 + mu2
        d = k.d - 2 * (k.m1 - k.m2) * difference + difference**2
        s = k.plus - 2 * (k.m1 + k.m2) * total + total**2
        m1 = a1 * (k.m1 - mu1)
        m2 = a2 * (k.m2 - mu2)
        k = replace(k, q1=a1**2 * q1, q2=a2**2 * q2, m1=m1, m2=m2)
        return replace(k, d=product * d + gap, s=product * s + gap, ntk=product * k.ntk)

    return Layer(lambda key, shape: (shape, ()), apply, lift(rule))


def dropout(rate: float) -> Layer:
    """Return the layer that drops each unit with probability `rate` and divides the others by 1 -
    rate; without a key it is the identity.

    The kernel is that of training: two examples, even equal ones, have independent masks, and only
    an example paired with itself (the diagonal of `gram(layer, x)`) has one mask in common.

    Raises ValueError unless 0 <= rate < 1.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"rate: {rate} is no probability of dropping a unit; pass 0 <= rate < 1")
    keep = 1 - rate

    def apply(params, x, key=None):
        return (
            x if key is None else jnp.where(jax.random.bernoulli(key, keep, x.shape), x / keep, 0)
        )

    def rule(k):
        same = equal_units(k)
        noise = rate / keep * (k.q1 + k.q2)
        d = jnp.where(same, k.d / keep, k.d + noise)
        s = jnp.where(same, k.plus / keep, k.plus + noise)
        ntk = jnp.where(same, k.ntk / keep, k.ntk)
        return replace(k, q1=k.q1 / keep, q2=k.q2 / keep, d=d, s=s, ntk=ntk, gaussian=False)

    return Layer(lambda key, shape: (shape, ()), apply, lift(rule))
