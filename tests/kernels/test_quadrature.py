"""Gaussian expectations against closed forms and adaptive quadrature, smooth or with kinks, and
their derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import dblquad

from jaxdyn import kernels as K
from jaxdyn.kernels._quadrature import expectation, pair_expectation

# equal, ordinary, different variances, opposite signs, nearly equal, opposite
Q1 = np.array([1.0, 1.0, 1.0, 2.0, 1.0, 0.5])
Q2 = np.array([1.0, 1.0, 1.5, 0.3, 1.0, 2.0])
COV = np.array([1.0, 0.3, 0.7, -0.2, 0.9999, -1.0])


def pairs():
    return tuple(map(jnp.asarray, (Q1, Q2, COV)))


def erf_kernel(q1, q2, cov):
    return 2 / np.pi * jnp.arcsin(2 * cov / jnp.sqrt((1 + 2 * q1) * (1 + 2 * q2)))


def test_smooth_functions_and_their_derivatives(x64):
    erf = jax.scipy.special.erf

    def ours(*moments):
        return pair_expectation(lambda u, v: erf(u) * erf(v), *moments)

    computed = ours(*pairs())
    expected = erf_kernel(*pairs())
    np.testing.assert_allclose(computed, expected, atol=1e-14)
    for argument in range(3):
        slope, exact = (jax.vmap(jax.grad(f, argument))(*pairs()) for f in (ours, erf_kernel))
        # The root at equal inputs is taken one rounding away, where differences keep half their
        # digits.
        np.testing.assert_allclose(slope, exact, atol=1e-8)


def test_polynomials_of_high_degree(x64):
    q = jnp.asarray([1.0, 2.0])
    computed = expectation(lambda u: u**10, jnp.sqrt(q))
    np.testing.assert_allclose(computed, 945 * q**5, rtol=1e-13)


@pytest.mark.parametrize("kink", [0.0, 0.4, -30.0])
def test_kinks_anywhere(x64, kink):
    ours = pair_expectation(
        lambda u, v: jnp.maximum(u, kink) * jnp.maximum(v, kink), *pairs(), kinks=(kink,)
    )
    for i in (1, 2, 3):
        inverse = np.linalg.inv([[Q1[i], COV[i]], [COV[i], Q2[i]]])
        norm = 2 * np.pi * np.sqrt(Q1[i] * Q2[i] - COV[i] ** 2)

        def density(v, u, inverse=inverse, norm=norm):
            value = max(u, kink) * max(v, kink)
            return (
                value
                * np.exp(
                    -(inverse[0, 0] * u * u + 2 * inverse[0, 1] * u * v + inverse[1, 1] * v * v) / 2
                )
                / norm
            )

        cuts = [-12, np.clip(kink, -12, 12), 12]
        boxes = [(a, b, c, d) for a, b in zip(cuts, cuts[1:]) for c, d in zip(cuts, cuts[1:])]  # noqa: B905, RUF007
        exact = sum(dblquad(density, *box, epsabs=1e-11, epsrel=1e-11)[0] for box in boxes)
        np.testing.assert_allclose(ours[i], exact, atol=1e-9)


def test_rectifier_is_exact_at_every_angle(x64):
    ours = pair_expectation(lambda u, v: jax.nn.relu(u) * jax.nn.relu(v), *pairs(), kinks=(0.0,))
    theta = np.arccos(np.clip(COV / np.sqrt(Q1 * Q2), -1, 1))
    exact = np.sqrt(Q1 * Q2) * (np.sin(theta) + (np.pi - theta) * np.cos(theta)) / (2 * np.pi)
    np.testing.assert_allclose(ours, exact, atol=1e-12)


def test_tanh_kernel_by_two_rules_agrees_where_gauss_hermite_does_not(x64):
    x = jax.random.normal(jax.random.key(0), (5, 10))

    def kernel(**options):
        return K.gram(
            K.serial(K.dense(1, 1.4, 0.3), K.elementwise(jnp.tanh, **options), K.dense()), x
        )

    expected = kernel(kinks=(0.0,))
    np.testing.assert_allclose(kernel(), expected, atol=1e-9)
    expected = kernel(kinks=(0.0,))
    np.testing.assert_allclose(kernel(nodes=200), expected, atol=1e-13)


@pytest.mark.parametrize(
    ("by_quadrature", "closed"),
    [
        (K.elementwise(jax.scipy.special.erf), K.erf()),
        (K.elementwise(lambda x: jax.nn.gelu(x, approximate=False)), K.gelu()),
        (K.elementwise(jax.nn.relu, kinks=(0.0,)), K.relu()),
        (K.elementwise(lambda x: jnp.maximum(x, 0) ** 3, kinks=(0.0,)), K.rectified_monomial(3)),
        (K.elementwise(lambda x: jnp.exp(-(x**2))), K.gaussian()),
    ],
    ids=["erf", "gelu", "relu", "cube", "gaussian"],
)
def test_quadrature_agrees_with_closed_forms_through_depth(precision, by_quadrature, closed):
    x = jax.random.normal(jax.random.key(1), (5, 3), precision)

    def deep(phi):
        return K.serial(
            K.dense(1, 1.2, 0.3), phi, K.dense(1, 1.1, 0.2), K.layer_norm(), phi, K.dense()
        )

    for name, bound in (("nngp", 1e-10), ("ntk", 1e-10)):
        a, b = (np.asarray(K.gram(deep(phi), x, get=name)) for phi in (by_quadrature, closed))
        atol = (bound if precision == jnp.float64 else 2e-5) * np.abs(b).max()
        np.testing.assert_allclose(a, b, atol=atol)
