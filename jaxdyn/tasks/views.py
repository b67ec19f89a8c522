"""Pairs of views (x, y): second moments of some pairs, and samples of any moments."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdyn._numbers import normal
from jaxdyn.tasks.spectra import Covariances
from jaxdyn.types import Key

__all__ = ["gaussian_pairs", "noisy_copies", "successive_states"]


def noisy_copies(signal: Float[Array, "n n"], noise: Float[Array, "n n"]) -> Covariances:
    """Return the moments of x = z + e and y = z + e', two noisy copies of one signal z.

    `signal` is the covariance of z, and `noise` that of e and of e', which are independent: xx = yy
    = signal + noise and yx = signal.  Where both are diagonal, the regression of y on x has the
    coefficients signal / (signal + noise).
    """
    return Covariances(signal + noise, signal, signal + noise)


def successive_states(transition: Float[Array, "n n"], noise: Float[Array, "n n"]) -> Covariances:
    """Return the moments of x = z_t and y = z_(t+1) of the stationary process z_(t+1) = A z_t +
    e_t, with A = `transition`.

    `noise` is the covariance of e_t.  The stationary covariance P solves P = A P A^T + noise, so
    that xx = yy = P and yx = A P, and the regression of y on x has the coefficients A.

    Raises ValueError for a concrete transition with an eigenvalue on or outside of the unit circle.
    """
    if not isinstance(transition, jax.core.Tracer):
        eigenvalues = np.linalg.eigvals(np.asarray(transition))
        radius = np.abs(eigenvalues).max()
        if radius >= 1:
            raise ValueError(
                f"transition: spectral radius {radius:.4g}; pass one below 1, since the process is "
                "stationary only then"
            )
    n = transition.shape[0]
    identity = jnp.eye(n * n, dtype=transition.dtype)
    kronecker = identity - jnp.kron(transition, transition)
    covariance = jnp.linalg.solve(kronecker, noise.ravel()).reshape(n, n)
    return Covariances(covariance, transition @ covariance, covariance)


def gaussian_pairs(
    key: Key, moments: Covariances, n: int
) -> tuple[Float[Array, "{n} _"], Float[Array, "{n} _"]]:
    """Draw n independent Gaussian pairs (x, y), in rows, with the given second moments.

    Raises ValueError for concrete moments that no pair of variables has.
    """
    xx, yx, yy = moments
    joint = jnp.block([[xx, yx.T], [yx, yy]])
    values, vectors = jnp.linalg.eigh(joint)
    # Rounding makes a variance of 0 negative by less than this share of the largest.
    if not isinstance(values, jax.core.Tracer) and values[0] < -1e-5 * values[-1]:
        raise ValueError(
            f"moments: their joint matrix has the eigenvalue {values[0]:.4g}, but eigenvalues are "
            "variances; pass moments whose joint matrix has no negative eigenvalue"
        )
    deviations = jnp.sqrt(jnp.maximum(values, 0))
    root = (vectors * deviations[None]) @ vectors.T
    pairs = normal(key, (n, len(values)), root.dtype) @ root
    inputs = xx.shape[0]
    return pairs[:, :inputs], pairs[:, inputs:]
