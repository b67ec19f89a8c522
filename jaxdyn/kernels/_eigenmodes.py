"""Functions of a symmetric kernel in its eigenbasis, which are differentiable in the kernel also
where eigenvalues coincide."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Real

__all__ = ["Modes", "decompose", "descent_gain", "filtered", "flow_gain", "turned"]


class Modes(NamedTuple):
    """A kernel in its eigenbasis, as `decompose` returns it.

    Attributes:
        kernel: the matrix itself.
        values: the eigenvalues, ascending.
        vectors: the eigenvectors, as columns.
    """

    kernel: Float[Array, "size size"]
    values: Float[Array, "size"]
    vectors: Float[Array, "size size"]


def decompose(kernel: Float[Array, "size size"]) -> Modes:
    """Return the modes of a kernel, with eigenvalues below 10 eps of the largest, which are
    rounding errors, set to zero.

    Raises ValueError for a concrete kernel with an eigenvalue that is negative beyond rounding.
    """
    kernel = (kernel + kernel.T) / 2
    # Derivatives go through the kernel itself (`filtered`), since eigenvectors have none where
    # eigenvalues coincide.
    values, vectors = jnp.linalg.eigh(lax.stop_gradient(kernel))
    eps = float(jnp.finfo(values.dtype).eps)
    if not isinstance(values, jax.core.Tracer):
        low = np.asarray(values[0])
        high = np.asarray(values[-1])
        if not low >= -(eps**0.5) * abs(high):
            raise ValueError(
                f"kernel: not positive, its smallest eigenvalue is {low:.3g} and its largest {high:.3g}; "
                "that is more than rounding: compute it in float64, or check its formula"
            )
    return Modes(kernel, jnp.where(values > 10 * eps * values[-1], values, 0), vectors)


def turned(modes: Modes) -> Float[Array, "size size"]:
    """Return zeros whose tangent is the change of the kernel, in the eigenbasis of the kernel."""
    return modes.vectors.T @ (modes.kernel - lax.stop_gradient(modes.kernel)) @ modes.vectors


def filtered(
    gain: Callable[..., Float[Array, "size"]],
    learned: bool,
    times: Real[Array, "times"],
    numbers: tuple,
    values: Float[Array, "size"],
    change: Float[Array, "size size"],
    x: Float[Array, "size columns"],
) -> Float[Array, "times size columns"]:
    """Return gain(kernel) x at each time in the eigenbasis, or kernel gain(kernel) x where
    `learned`.

    `change` is the result of `turned`, and carries the derivative in the kernel (Daleckii and
    Krein, 1965): the change of the kernel, element by element times divided differences of the
    gain.  Where eigenvalues coincide, the divided difference is the slope of the gain.
    """
    gains = jax.vmap(lambda time: _gain(gain, learned, values, time, numbers))(times)
    return gains[:, :, None] * x[None] + _turn(gain, learned, times, numbers, values, change, x)


def flow_gain(values: Array, time: Array, ridge: Array) -> Array:
    """Return (1 - e^(-(values + ridge) time)) / (values + ridge), which is `time` where values +
    ridge = 0.

    At infinite time the gain is 1 / (values + ridge), and 0 where values + ridge = 0.
    """
    rate = values + ridge
    lasting = jnp.isinf(time)
    moving = jnp.where(lasting, 1.0, time)
    limit = jnp.where(rate > 0, 1 / jnp.where(rate > 0, rate, 1), 0)
    return jnp.where(lasting, limit, moving * _decayed(rate * moving))


def descent_gain(
    values: Array, steps: Int[Array, ""], rate: Array, momentum: Array, ridge: Array
) -> Array:
    """Return (1 - R(z)) / (values + ridge), with z = rate (values + ridge) and R the polynomial of
    `steps` steps of heavy-ball descent.

    One step multiplies (error, momentum) by I + [[-z, -z momentum], [1, momentum - 1]].  The powers
    of this matrix have the form I + [[-z a, -z momentum c], [c, d]] with a = (1 - R)/z, and
    repeated squaring of a, c and d themselves loses no digits where z is small.
    """
    z = rate * (values + ridge)

    def join(p, q):
        (a, c, d) = p
        (e, f, g) = q
        both = momentum * c * f
        return a + e - z * a * e + both, c + f - z * c * e + d * f, d + g + d * g - z * both

    def bit(_, state):
        rest, done, power = state
        done = [
            jnp.where(rest % 2 == 1, new, old)
            for new, old in zip(join(done, power), done, strict=True)
        ]
        # The square behind the highest bit of `steps` is not used, but could overflow, and would
        # then make derivatives NaN.
        needed = [jnp.where(rest > 1, p, 0) for p in power]
        return rest // 2, tuple(done), tuple(join(needed, needed))

    one = jnp.ones_like(z)
    # The triples (a, c, d) of no step and of one.
    start = steps, (0 * one, 0 * one, 0 * one), (one, one, (momentum - 1) * one)
    return rate * lax.fori_loop(0, 31, bit, start)[1][0]


def _decayed(x):
    """Return (1 - e^-x)/x, also at x = 0 and with its derivative there."""
    small = jnp.abs(x) < 1e-3
    series = 1 - x / 2 * (1 - x / 3 * (1 - x / 4 * (1 - x / 5)))
    return jnp.where(small, series, -jnp.expm1(-x) / jnp.where(small, 1.0, x))


def _gain(gain, learned, values, time, numbers):
    return gain(values, time, *numbers) * (values if learned else 1)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _turn(gain, learned, times, numbers, values, change, x):
    return jnp.zeros((times.size, *x.shape), x.dtype)


def _turn_jvp(gain, learned, primals, tangents):
    times, numbers, values, change, x = primals
    nothing = _turn(gain, learned, *primals)
    if isinstance(tangents[3], jax.custom_derivatives.SymbolicZero):
        return nothing, jnp.zeros_like(nothing)
    values = _once(values, change)
    # One time after another, and computed anew in reverse mode, because these matrices are large.
    differences = jax.checkpoint(lambda time: _divided(gain, learned, values, time, numbers))
    return nothing, lax.map(lambda time: (differences(time) * tangents[3]) @ x, times)


_turn.defjvp(_turn_jvp, symbolic_zeros=True)


def _divided(gain, learned, values, time, numbers):
    """Return the divided differences of the gain between all pairs of eigenvalues."""

    def of_values(values):
        return _gain(gain, learned, values, time, numbers)

    gains, slopes = jax.jvp(of_values, (values,), (jnp.ones_like(values),))
    at_zero = gain(jnp.zeros_like(values[:1]), time, *numbers)
    slowest = jnp.where(at_zero > 0, 1 / jnp.where(at_zero > 0, at_zero, 1), 0)
    gap = values[:, None] - values[None]
    scale = jnp.maximum(jnp.maximum(values[:, None], values[None]), slowest[None])
    # Closer eigenvalues take the mean slope: at this gap the rounding error of the difference and
    # the error of the slope, which is due to curvature, are equally large.
    near = jnp.abs(gap) <= jnp.finfo(gap.dtype).eps ** (1 / 3) * scale
    difference = (gains[:, None] - gains[None]) / jnp.where(near, 1, gap)
    return jnp.where(near, (slopes[:, None] + slopes[None]) / 2, difference)


@jax.custom_jvp
def _once(values, change):
    return values


@_once.defjvp
def _once_jvp(primals, tangents):
    raise NotImplementedError(
        "kernel: second derivatives in the kernel are not available; take finite differences of "
        "the first derivatives"
    )
