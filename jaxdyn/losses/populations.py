"""Population losses on Gaussian inputs by their closed forms, without sampling noise that would
hide a plateau."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from jaxdyn.losses.regression import Loss
from jaxdyn.types import Params

__all__ = ["teacher_loss"]


def teacher_loss(activation: str, patches: Real[ArrayLike, ""] = 1) -> Loss:
    """Return `loss(params, teacher) = 1/2 E (y - y_teacher)^2` of two-layer networks for standard
    normal inputs.

    Student and teacher are {"u": (units, inputs), "v": (units,)} of `models.two_layer`, y = sum_i
    v_i sum_p phi(u_i . x_p) with independent `patches` x_p.  The loss is a sum over pairs of units
    of v_i v_j E phi phi, with the `activation` phi "linear", "square" or "relu".  For "square" any
    target x^T A x is a teacher, made of the eigenvectors and eigenvalues of A.  For "relu" two
    units a and b at the angle t have

        E phi phi = |a| |b| (sin t + (pi - t) cos t) / (2 pi)      (Cho & Saul, 2009).

    Gradients and Hessians are finite and right also at zero units and at parallel units.  Losses
    below eps times the teacher's power are rounding errors, but gradients keep their accuracy
    there.

    >>> student, teacher = {"u": jnp.eye(2), "v": jnp.ones(2)}, {"u": jnp.eye(2), "v": jnp.array([1.0, 3.0])}
    >>> f"{teacher_loss('square')(student, teacher):.2f}", f"{teacher_loss('relu')(student, teacher):.2f}"
    ('6.00', '1.00')

    Raises ValueError for an unknown activation.
    """
    if activation not in _MOMENTS:
        raise ValueError(
            f"activation: {activation!r} has no closed form here; pass one of {sorted(_MOMENTS)}"
        )
    single, product = _MOMENTS[activation]

    def loss(params: Params, teacher: Params) -> Float[Array, ""]:
        u = jnp.concatenate([params["u"], teacher["u"]])
        v = jnp.concatenate([params["v"], -teacher["v"]])
        return (patches * v @ product(u) @ v + patches * (patches - 1) * (v @ single(u)) ** 2) / 2

    return loss


def _squares(u):
    norms = jnp.sum(u**2, 1)
    return norms[:, None] * norms[None] + 2 * (u @ u.T) ** 2


def _rectified(u):
    norms = _norms(u)
    sizes = norms[:, None] * norms[None]
    zero = sizes == 0
    return sizes * _arc_cosine((u @ u.T) / jnp.where(zero, 1, sizes))


def _norms(u):
    """Return the norms of rows, with zero slopes at rows of zero."""
    squares = jnp.sum(u**2, 1)
    zero = squares == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, squares)))


# The slope of the arc cosine is infinite at parallel units, but the slope of this function of the
# arc cosine is finite.
@jax.custom_jvp
def _arc_cosine(c):
    angle = _angle(c)
    return (jnp.sin(angle) + (jnp.pi - angle) * jnp.cos(angle)) / (2 * jnp.pi)


@_arc_cosine.defjvp
def _arc_cosine_jvp(primals, tangents):
    (c,) = primals
    (dc,) = tangents
    return _arc_cosine(c), (jnp.pi - _angle(c)) / (2 * jnp.pi) * dc


@jax.custom_jvp
def _angle(c):
    return jnp.arccos(jnp.clip(c, -1, 1))


@_angle.defjvp
def _angle_jvp(primals, tangents):
    (c,) = primals
    (dc,) = tangents
    return _angle(c), -dc / jnp.sqrt(jnp.maximum(1 - c**2, jnp.finfo(c.dtype).eps))


_MOMENTS: dict[str, tuple[Callable, Callable]] = {  # E phi(u . x) and E phi(u . x) phi(u . x)^T
    "linear": (lambda u: jnp.zeros_like(u[:, 0]), lambda u: u @ u.T),
    "square": (lambda u: jnp.sum(u**2, 1), _squares),
    "relu": (lambda u: _norms(u) / (2 * jnp.pi) ** 0.5, _rectified),
}
