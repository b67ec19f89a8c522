"""Layers with random weights in the limit of infinite width: dense, convolutional, locally
connected, attention."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdyn._numbers import normal
from jaxdyn.kernels._geometry import (
    as_interleaved,
    as_matrix,
    check_positions,
    check_windows,
    equal_positions,
    out_sizes,
    own_variances,
    pad_array,
    sum_outside,
    sum_windows,
)
from jaxdyn.kernels._kernel import Layer, Need, lift, snap

__all__ = ["attention", "conv", "dense", "local"]

Scalar = Float[Array, ""] | float


def dense(
    n_out: int = 1, w_std: Scalar = 1.0, b_std: Scalar | None = 0.0, *, parametrization: str = "ntk"
) -> Layer:
    """Return the dense layer `h = w_std / sqrt(n_in) x W + b_std b` over the last axis, with all
    parameters N(0, 1) (Jacot et al. 2018).

    In the "standard" parametrisation h = x W + b with W ~ N(0, w_std^2 / n_in) and b ~ N(0,
    b_std^2): the NNGP kernel is the same, but the NTK grows with the widths `n_out` of the layers.
    In the "standard" parametrisation `b_std=None` means no bias, and `b_std=0` a trained bias that
    starts at 0.

    Raises ValueError for `n_out` below 1 or an unknown parametrisation.
    """
    weights = _weights("dense", n_out, w_std, b_std, parametrization)

    def init(key, shape):
        channels = shape[-1]
        params = weights.draw(key, (channels, n_out), (n_out,), channels)
        return (*shape[:-1], n_out), params

    def apply(params, x, key=None):
        return weights.shift(x @ params["weights"], params, x.shape[-1])

    return Layer(init, apply, lift(lambda k: weights.kernel(k, k.channels)))


def conv(
    n_out: int,
    window: Sequence[int],
    w_std: Scalar = 1.0,
    b_std: Scalar | None = 0.0,
    *,
    strides: Sequence[int] | None = None,
    padding: str = "SAME",
    parametrization: str = "ntk",
) -> Layer:
    """Return the convolution over all positions (the axes between examples and channels), with
    weights as in `dense`.

    The fan-in n_in of `dense` is here the size of the window times the number of input channels,
    also where the window reaches beyond the edge.  Beyond the edge "SAME" pads zeros and "CIRCULAR"
    continues the input periodically; "VALID" leaves out the windows that reach beyond the edge.

    Raises ValueError for windows, strides or a padding that do not fit.
    """
    weights = _weights("conv", n_out, w_std, b_std, parametrization)
    window, strides = check_windows("conv", window, strides, padding)
    size = math.prod(window)

    def init(key, shape):
        check_positions("conv", shape[:-1], window, padding)
        params = weights.draw(key, (*window, shape[-1], n_out), (n_out,), size * shape[-1])
        return (*out_sizes(shape[:-1], window, strides, padding), n_out), params

    def apply(params, x, key=None):
        x = pad_array(x, window, strides, padding)
        h = jax.lax.conv_general_dilated(
            x, params["weights"], strides, "VALID", dimension_numbers=_layout(window)
        )
        return weights.shift(h, params, size * x.shape[-1])

    def rule(k):
        return weights.kernel(_convolved("conv", k, window, strides, padding), size * k.channels)

    return Layer(init, apply, lift(rule))


def local(
    n_out: int,
    window: Sequence[int],
    w_std: Scalar = 1.0,
    b_std: Scalar | None = 0.0,
    *,
    strides: Sequence[int] | None = None,
    padding: str = "SAME",
    parametrization: str = "ntk",
) -> Layer:
    """Return the locally connected layer: a convolution whose weights and biases differ from
    position to position.

    Its kernels are those of `conv` between equal positions, and 0 between different positions
    (Novak et al. 2019).  Raises ValueError as `conv` does.
    """
    weights = _weights("local", n_out, w_std, b_std, parametrization)
    window, strides = check_windows("local", window, strides, padding)
    size = math.prod(window)

    def init(key, shape):
        check_positions("local", shape[:-1], window, padding)
        out = out_sizes(shape[:-1], window, strides, padding)
        fan = size * shape[-1]
        return (*out, n_out), weights.draw(key, (*out, fan, n_out), (*out, n_out), fan)

    def apply(params, x, key=None):
        x = pad_array(x, window, strides, padding)
        patches = jax.lax.conv_general_dilated_patches(
            x, window, strides, "VALID", dimension_numbers=_layout(window)
        )
        h = jnp.einsum("n...i,...io->n...o", patches, params["weights"])
        return weights.shift(h, params, patches.shape[-1])

    def rule(k):
        k = weights.kernel(_convolved("local", k, window, strides, padding), size * k.channels)
        if not k.full:
            return k
        same = equal_positions(k)
        apart = k.q1 + k.q2
        d = jnp.where(same, k.d, apart)
        s = jnp.where(same, k.plus, apart)
        ntk = jnp.where(same, k.ntk, 0)
        return replace(k, d=d, s=s, ntk=ntk)

    return Layer(init, apply, lift(rule))


def attention(
    n_out: int,
    n_heads: int,
    *,
    kind: str = "identity",
    logit_std: Scalar = 1.0,
    value_std: Scalar = 1.0,
    out_std: Scalar = 1.0,
    b_std: Scalar | None = 0.0,
) -> Layer:
    """Return global self-attention over all positions, with tied queries and keys (Hron et al.
    2020).

    Each of the `n_heads` heads combines values of `n_out` features with the weights

        A = zeta(logits),   logits = logit_std^2 (x W)(x W)^T / (n_in n_out),

    where zeta is the identity or, for `kind="softmax"`, the softmax over positions.  As n_out
    grows, A tends to zeta(logit_std^2 cov(x, x)), and the NNGP kernel of inputs x and x' to

        value_std^2 out_std^2 A cov(x, x') A'^T + b_std^2.

    Logits divided by sqrt(n_out) instead of n_out would leave A random, and the softmax would have
    no closed form: sample such layers with `empirical.monte_carlo`.

    Raises ValueError for an unknown `kind` and for inputs without positions.
    """
    if kind not in ("identity", "softmax"):
        raise ValueError(f"kind: {kind!r} is not known; pass 'identity' or 'softmax'")
    zeta = (lambda a: a) if kind == "identity" else (lambda a: jax.nn.softmax(a, -1))
    weights = _weights("attention", n_out, 1.0, b_std, "ntk")

    def init(key, shape):
        keys = jax.random.split(key, 4)
        c = shape[-1]
        params = weights.draw(keys[2], (n_heads * n_out, n_out), (n_out,), n_heads * n_out)
        params["logits"], params["values"] = (normal(k, (n_heads, c, n_out)) for k in keys[:2])
        return (*shape[:-1], n_out), params

    def apply(params, x, key=None):
        h = x.reshape(x.shape[0], -1, x.shape[-1])
        c = h.shape[-1]
        heads = jnp.einsum("npc,hcf->nhpf", h, params["logits"])
        a = zeta(logit_std**2 / (c * n_out) * heads @ heads.swapaxes(-1, -2))
        values = value_std / math.sqrt(c) * a @ jnp.einsum("npc,hcf->nhpf", h, params["values"])
        h = values.transpose(0, 2, 1, 3).reshape(*x.shape[:-1], n_heads * n_out)
        return weights.shift(out_std * h @ params["weights"], params, h.shape[-1])

    def kernel(k):
        if not k.spatial:
            raise ValueError(
                "attention: its input has no positions; put attention before flatten or a global pool"
            )
        if not k.full:
            raise Need("full")
        if not k.own and k.selves is None:
            raise Need("selves")
        selves = None if k.selves is None else tuple(map(kernel, k.selves))
        first, second = k.selves or (k, k)
        a1 = zeta(logit_std**2 * as_matrix(first, first.cov))
        a2 = zeta(logit_std**2 * as_matrix(second, second.cov))
        variance = (value_std * out_std) ** 2

        def attend(v):
            mixed = a1 @ as_matrix(k, v) @ a2.swapaxes(-1, -2)
            return variance * as_interleaved(k, mixed)

        bias = 0.0 if b_std is None else b_std**2
        attended = attend(k.cov)
        cov = attended + bias
        ntk = attend(k.ntk) + 2 * attended + bias
        q1, q2 = own_variances(k, cov) if selves is None else (selves[0].q1, selves[1].q2)
        return _from_scratch(replace(k, selves=selves), q1, q2, cov, ntk, n_out)

    return Layer(init, apply, kernel)


def _from_scratch(k, q1, q2, cov, ntk, channels):
    d = snap(q1 + q2 - 2 * cov, q1 + q2)
    s = snap(q1 + q2 + 2 * cov, q1 + q2)
    m1 = jnp.zeros_like(q1)
    m2 = jnp.zeros_like(q2)
    k = replace(k, q1=q1, q2=q2, m1=m1, m2=m2, d=d, s=s, ntk=ntk)
    return replace(k, gaussian=True, channels=channels, fresh=k.fresh + 1)


def _convolved(name, k, window, strides, padding):
    """Return the kernel averaged over windows, with the same offset in the windows of both
    inputs."""
    check_positions(name, k.spatial, window, padding)
    first, second = ([(axis,) for axis in axes] for axes in k.axes())
    both = list(zip(*k.axes(), strict=True)) if k.full else first
    size = math.prod(window)

    def over(v, axes, lost: Array | float = 0.0):
        summed = sum_windows(v, axes, window, strides, padding)
        return (summed + lost) / size

    q1 = over(k.q1, first)
    m1 = over(k.m1, first)
    q2 = over(k.q2, second)
    m2 = over(k.m2, second)
    # Where an offset falls on padding for one input alone, E (u - v)^2 is the other unit's variance.
    lost = sum_outside(k, window, strides, padding) if k.full and padding == "SAME" else 0.0
    d = over(k.d, both, lost)
    s = None if k.s is None else over(k.s, both, lost)
    ntk = over(k.ntk, both)
    sizes = out_sizes(k.spatial, window, strides, padding)
    return replace(k, q1=q1, m1=m1, q2=q2, m2=m2, d=d, s=s, ntk=ntk, spatial=sizes)


def _layout(window):
    axes = "HWDXYZ"[: len(window)]
    return f"N{axes}C", f"{axes}IO", f"N{axes}C"


class _Weights(NamedTuple):
    """How the weights of a layer are drawn, how they act on inputs, and how they transform a kernel
    that was averaged over windows."""

    draw: Callable
    shift: Callable
    kernel: Callable


def _weights(name, n_out, w_std, b_std, parametrization):
    if not isinstance(n_out, int) or n_out < 1:
        raise ValueError(f"{name}: n_out {n_out!r} is no number of channels; pass an int >= 1")
    if parametrization not in ("ntk", "standard"):
        raise ValueError(
            f"{name}: parametrization {parametrization!r} is not known; pass 'ntk' or 'standard'"
        )
    standard = parametrization == "standard"
    zero = isinstance(b_std, int | float) and b_std == 0
    bias = b_std is not None and (standard or not zero)
    b_std = 0.0 if b_std is None else b_std

    def draw(key, shape, bias_shape, fan_in):
        weights_key, bias_key = jax.random.split(key)
        scale = w_std / math.sqrt(fan_in) if standard else 1
        params = {"weights": normal(weights_key, shape) * scale}
        if bias:
            bias_scale = b_std if standard else 1
            params["bias"] = normal(bias_key, bias_shape) * bias_scale
        return params

    def shift(h, params, fan_in):
        h = h if standard else w_std / math.sqrt(fan_in) * h
        if not bias:
            return h
        added = params["bias"] if standard else b_std * params["bias"]
        return h + jnp.broadcast_to(added, h.shape)

    def kernel(k, fan_in):
        w2 = w_std**2
        b2 = b_std**2 if bias else 0.0
        learned = fan_in * k.cov + bias if standard else w2 * k.cov + b2
        q1 = w2 * k.q1 + b2
        q2 = w2 * k.q2 + b2
        m1 = jnp.zeros_like(k.m1)
        m2 = jnp.zeros_like(k.m2)
        s = None if k.s is None else w2 * k.s + 4 * b2
        ntk = w2 * k.ntk + learned
        k = replace(k, q1=q1, q2=q2, m1=m1, m2=m2, d=w2 * k.d, s=s, ntk=ntk)
        return replace(k, gaussian=True, channels=n_out, fresh=k.fresh + 1)

    return _Weights(draw, shift, kernel)
