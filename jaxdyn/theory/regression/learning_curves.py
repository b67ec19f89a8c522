"""Kernel regression: the test error from the kernel's spectrum, and the error for given inputs on
average over teachers.

The predictor is f(x) = K(x, X) (K + ridge)^-1 y for n labels y.  In its eigenfunctions a kernel is
a linear model in high dimension.  If the eigenfunctions behave as Gaussian features, the test error
is that of the deterministic equivalent (Bordelon, Canatar, Pehlevan, 2020; Simon et al., 2021), the
one of `theory.regression.spectrum.ridge` with penalty = ridge / n.  Eigenfunctions of few inputs
with a steep spectrum do not behave so.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from jaxdyn._numbers import Number, check
from jaxdyn.theory.regression import equivalents
from jaxdyn.theory.regression.equivalents import Numbers

__all__ = ["LearningCurve", "averaged_error", "learning_curve"]


class LearningCurve(NamedTuple):
    """The learning curve of kernel regression, for each number of samples.

    Attributes:
        error: the test error.
        kappa: the effective ridge of the kernel.
        freedom: gamma, the fraction of the samples, in [0, 1), that degrees of freedom use up.
    """

    error: Float[Array, "*sizes"]
    kappa: Float[Array, "*sizes"]
    freedom: Float[Array, "*sizes"]


def learning_curve(
    samples: Real[ArrayLike, "*sizes"],
    eigenvalues: Numbers,
    multiplicities: Numbers,
    target: Numbers,
    ridge: Number = 0.0,
    *,
    tail: Number = 0.0,
    unlearned: Number = 0.0,
) -> LearningCurve:
    """Return the expected test error after n = `samples` random examples, for any spectrum.

        n = sum m lambda / (lambda + kappa) + (ridge + tail) / kappa,

        freedom = sum m lambda^2 / (lambda + kappa)^2 / n,

        error = [sum c^2 kappa^2 / (lambda + kappa)^2 + unlearned] / (1 - freedom),

    where the `target` c^2 of a group is the target's power in the whole group.  The part of a
    kernel beyond a truncated spectrum acts as a ridge and as noise.  `tail` is K(x, x) - sum m
    lambda, and `unlearned` is the variance of the target beyond the groups plus the variance of the
    labels' noise, which the error includes.  Eigenvalues may be 0.  If n exceeds the rank and ridge
    and tail are 0, kappa is 0.

    >>> learning_curve(100, [1.0], [200.0], [1.0]).error.round(6).item()
    0.5

    Raises ValueError for samples <= 0, and for negative numbers or spectra that do not fit.
    """
    check("samples", samples, lambda n: n > 0, "positive numbers of samples")
    for name, value in (("ridge", ridge), ("tail", tail), ("unlearned", unlearned)):
        check(name, value, lambda a: a >= 0, "a number that is not negative")
    population = equivalents.population(eigenvalues, multiplicities, target)
    samples = jnp.asarray(samples, population.eigenvalues.dtype)
    ridge = jnp.asarray(ridge + tail, samples.dtype)
    unlearned = jnp.asarray(unlearned, samples.dtype)
    curve = _learning_curve(samples.ravel(), population, ridge, unlearned)
    return jax.tree.map(lambda a: a.reshape(samples.shape), curve)


def averaged_error(
    student: Float[Array, "train train"],
    student_test: Float[Array, "train test"],
    teacher: Float[Array, "train train"],
    teacher_test: Float[Array, "train test"],
    teacher_variance: Float[Array, "test"],
    sizes: Sequence[int],
    ridge: Number = 0.0,
) -> Float[Array, "sizes"]:
    """Return the mean squared error on test points of regression on the first n inputs, for each n
    of `sizes`.

    The error is averaged exactly over teachers, which are Gaussian processes with covariance K_T:

        K_T(x, x) - 2 a' K_T(X, x) + a' K_T a,  a = (K_S + ridge)^-1 K_S(X, x).

    One Cholesky factorisation serves all sizes.  In float64 kernels of wide networks need a ridge
    of 1e-11 at most; a matrix that is not positive to rounding gives NaN.

    Raises ValueError for sizes that are not between 1 and the number of training points.
    """
    if not all(1 <= n <= len(student) for n in sizes):
        raise ValueError(
            f"sizes: {tuple(sizes)}; pass numbers between 1 and the {len(student)} training points"
        )
    return _averaged_error(
        student, student_test, teacher, teacher_test, teacher_variance, tuple(sizes), ridge
    )


@functools.partial(jax.jit, static_argnames="sizes")
def _averaged_error(student, student_test, teacher, teacher_test, teacher_variance, sizes, ridge):
    factor = jnp.linalg.cholesky(student + ridge * jnp.eye(len(student), dtype=student.dtype))
    white = solve_triangular(factor, student_test, lower=True)

    def error(n):
        a = solve_triangular(factor[:n, :n], white[:n], lower=True, trans="T")
        of_weights = teacher[:n, :n] @ a - 2 * teacher_test[:n]
        return jnp.mean(teacher_variance + jnp.sum(a * of_weights, 0))

    return jnp.stack([error(n) for n in sizes])


@jax.jit
def _learning_curve(samples, population, ridge, unlearned):
    eigenvalues = population.eigenvalues
    tiny = jnp.finfo(samples.dtype).tiny

    def one(n):
        kappa = jnp.maximum(equivalents.effective_regularisation(ridge / n, population, n), tiny)
        learned = eigenvalues / (eigenvalues + kappa)
        missed = kappa / (eigenvalues + kappa)
        freedom = jnp.sum(population.multiplicities * learned**2) / n
        error = (jnp.sum(population.power * missed**2) + unlearned) / (1 - freedom)
        return LearningCurve(error, kappa, freedom)

    return jax.lax.map(one, samples)
