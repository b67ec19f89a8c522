"""The compiled parts of `predict`: training in the eigenbasis of a kernel."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxdyn._numbers import bisected
from jaxdyn.kernels import _inputs as inputs
from jaxdyn.kernels import _krylov as krylov
from jaxdyn.kernels._eigenmodes import filtered, flow_gain, turned

__all__ = ["ensemble", "learned", "learned_by_products", "time_to_loss"]


@partial(jax.jit, static_argnums=0)
def learned(gain, times, numbers, modes, residual, ntk_test=None):
    """What training and test outputs, if any, have gained at each time."""
    seen = modes.vectors.T @ residual
    change = turned(modes)
    times = times.astype(residual.dtype) if gain is flow_gain else times

    def outputs(learned, rows):
        return jnp.einsum(
            "mj,tjk->tmk", rows, filtered(gain, learned, times, numbers, modes.values, change, seen)
        )

    train = outputs(True, modes.vectors)
    return train, None if ntk_test is None else outputs(False, ntk_test @ modes.vectors)


def learned_by_products(gain, times, numbers, ntk, y, ntk_test, start, start_test, products):
    """Return training and test outputs at each time, for a kernel that is a function."""
    (labels,) = inputs.arrays(y=y)
    start = inputs.broadcast(start, labels, "start")
    numbers = inputs.cast(numbers, labels.dtype)
    ravelled = times.ravel().astype(labels.dtype) if gain is flow_gain else times.ravel()
    train, weights = krylov.functions(gain, ntk, ravelled, numbers, labels - start, products)

    def shaped(a):
        return a.reshape(*times.shape, *a.shape[1:])

    train = inputs.moved(start, shaped(train))
    if ntk_test is None:
        return train, None
    return train, inputs.moved(
        start_test, shaped(lax.map(partial(inputs.applied, ntk_test), weights))
    )


@partial(jax.jit, static_argnums=(0, 1))
def ensemble(
    gain,
    covariance,
    times,
    numbers,
    modes,
    prior,
    y,
    ntk_test=None,
    nngp_test=None,
    nngp_test_test=None,
):
    """Return the mean and, where wanted, the covariance at each time, at the test inputs if there
    are any."""
    v = modes.vectors
    train = ntk_test is None
    change = turned(modes)
    times = times.astype(y.dtype) if gain is flow_gain else times

    def part(times, x):
        return filtered(gain, train, times, numbers, modes.values, change, x)

    at = jax.checkpoint(lambda time, x: part(time[None], x)[0])
    rows = v if train else ntk_test @ v
    mean = jnp.einsum("mj,tjk->tmk", rows, part(times, v.T @ y))
    if not covariance:
        return mean, None
    if train:
        inside = v.T @ prior @ v

        def spread(time):
            left = inside - at(time, inside)
            return v @ (left.T - at(time, left.T)) @ v.T

        return mean, lax.map(spread, times)
    cross = nngp_test @ v
    # Whichever is cheaper: n^3 once, or m n^2 at each time.
    inside = v.T @ prior @ v if times.size * len(rows) > 2 * len(v) else None

    def spread(time):
        weights = at(time, rows.T)
        around = weights.T @ inside if inside is not None else ((v @ weights).T @ prior) @ v
        mixed = cross @ weights
        return nngp_test_test + around @ weights - mixed - mixed.T

    return mean, lax.map(spread, times)


@partial(jax.jit, static_argnums=4)
def time_to_loss(modes, residual, targets, ridge, examples):
    """Return when the loss of the residual has fallen to each target, by bisection in the logarithm
    of time."""
    seen = modes.vectors.T @ residual
    change = turned(modes)
    power = lax.stop_gradient(jnp.sum(seen**2, 1)) / (2 * examples)
    rate = lax.stop_gradient(modes.values + ridge) / examples
    # What is never learned of each mode; where nothing is, all.
    kept = jnp.where(rate > 0, 1 - modes.values / examples / jnp.where(rate > 0, rate, 1), 1)

    def loss(time):
        return jnp.sum(power * (kept + (1 - kept) * jnp.exp(-rate * time)) ** 2)

    first = loss(0.0)
    last = jnp.sum(power * kept**2)
    slow = jnp.min(jnp.where(modes.values > 0, rate, jnp.inf))

    @jax.checkpoint
    def reach(target):
        reached = (target > last) & (target < first)
        aim = lax.stop_gradient(jnp.where(reached, target, (first + last) / 2))
        decades = jnp.log((first - last) / jnp.maximum(aim - last, jnp.finfo(aim.dtype).tiny))
        earliest = jnp.log(decades / (2 * rate[-1]))
        latest = jnp.log(decades / slow)
        low, high = bisected(lambda x: loss(jnp.exp(x)) > aim, earliest, latest, 64)
        time = jnp.exp((low + high) / 2)
        slope = jax.grad(loss)(time)
        times = time[None] / examples
        left = seen - filtered(flow_gain, True, times, (ridge,), modes.values, change, seen)[0]
        # A step of Newton's method from the root carries the derivatives of the implicit function.
        moved = jnp.sum(left**2) / (2 * examples) - target
        time = time - (moved - lax.stop_gradient(moved)) / slope
        return jnp.where(reached, time, jnp.where(target < first, jnp.inf, 0.0))

    return lax.map(reach, targets.ravel()).reshape(targets.shape)
