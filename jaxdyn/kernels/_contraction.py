"""Contraction of the derivatives at two sets of inputs to blocks of an empirical kernel, and the
cost of the contraction."""

import jax
import jax.numpy as jnp

__all__ = ["contracted", "cost", "summed"]


def summed(layer, entering, leaving):
    """Return the Jacobian (n, k, F C) by the weight of a layer, summed over the places of the layer
    in a sample."""
    (n, k, s, f) = leaving.shape
    if layer.indices:
        entering = jax.nn.one_hot(entering, layer.fan_in, dtype=leaving.dtype)
    return (leaving.swapaxes(2, 3).reshape(n, k * f, s) @ entering).reshape(n, k, -1)


def cost(plan, other, sizes, trace):
    """Return for which layers to sum the Jacobians, the operations of the contraction, and the
    numbers held at once."""
    n, m, k = sizes
    blocks = k if trace else k**2
    work = sum(2 * n * m * blocks * p for p in plan.rest)
    held = (n + m) * k * sum(plan.rest)
    summed = []
    for u, v in zip(plan.layers, other.layers, strict=True):
        whole, pairs = _layer_cost(u, v, sizes, trace)
        summed.append(whole < pairs)
        work += min(whole, pairs)
        held += n * u.sites * (u.fan_in + k * u.fan_out) + m * v.sites * (v.fan_in + k * v.fan_out)
        held += (
            (n + m) * k * u.fan_in * u.fan_out if summed[-1] else n * m * u.sites * v.sites * blocks
        )
    return summed, work, held


def _layer_cost(u, v, sizes, trace):
    """Return the operations of a layer's part by its summed Jacobians, and by the products of all
    pairs of its places."""
    n, m, k = sizes
    blocks = k if trace else k**2
    size = u.fan_in * u.fan_out
    formed = 2 * k * size * (n * u.sites + m * v.sites)
    entering = 0 if u.indices else u.fan_in
    # Reading and writing a number takes about as long as 40 operations of a matrix product.
    pair = 2 * (entering + blocks * u.fan_out) + 40 * (1 if trace else blocks)
    return formed + 2 * n * m * blocks * size, n * m * u.sites * v.sites * pair


def contracted(first, second, trace):
    """Return the contraction of two sets of derivatives: (n1, n2) summed over outputs with `trace`,
    or (n1 k, n2 k)."""
    (factors1, jacobians1) = first
    (factors2, jacobians2) = second
    total = sum(
        _rows(a, trace) @ _rows(b, trace).T for a, b in zip(jacobians1, jacobians2, strict=True)
    )
    return total + sum(_pairs(u, v, trace) for u, v in zip(factors1, factors2, strict=True))


def _rows(jacobian, trace):
    """Flatten a Jacobian (n, k, ...) to one row for each sample with `trace`, or for each sample
    and output."""
    n, k = jacobian.shape[:2]
    return jacobian.reshape((n if trace else n * k), -1)


def _pairs(u, v, trace):
    """Return the part of one layer in the kernel, as a sum over all pairs of the layer's places."""
    (n, k, s, _) = u.leaving.shape
    (m, k2, t, _) = v.leaving.shape
    if u.entering.ndim == 2:
        entering = (u.entering[:, :, None, None] == v.entering[None, None]).astype(u.leaving.dtype)
    else:
        entering = jnp.einsum("nsc,mtc->nsmt", u.entering, v.entering)
    if s == t == 1:
        entering = entering.reshape(n, m)
        leaving = _rows(u.leaving, trace) @ _rows(v.leaving, trace).T
        if trace:
            return entering * leaving
        return (entering[:, None, :, None] * leaving.reshape(n, k, m, k2)).reshape(n * k, m * k2)
    if trace:
        return jnp.sum(entering * jnp.einsum("nksf,mktf->nsmt", u.leaving, v.leaving), axis=(1, 3))
    leaving = jnp.einsum("nksf,mltf->nksmlt", u.leaving, v.leaving)
    return jnp.sum(entering[:, None, :, :, None] * leaving, axis=(2, 5)).reshape(n * k, m * k2)
