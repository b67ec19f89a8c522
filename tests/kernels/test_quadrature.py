"""Gaussian expectations against closed forms and adaptive quadrature, smooth or with kinks, and
their derivatives."""

import itertools

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
    """The second moments of all pairs: E u^2, E v^2 and E u v."""
    return tuple(map(jnp.asarray, (Q1, Q2, COV)))


def erf_kernel(q1, q2, cov):
    scale = jnp.sqrt((1 + 2 * q1) * (1 + 2 * q2))
    return 2 / np.pi * jnp.arcsin(2 * cov / scale)


def test_smooth_functions_and_their_derivatives(x64):
    erf = jax.scipy.special.erf

    def ours(*moments):
        return pair_expectation(lambda u, v: erf(u) * erf(v), *moments)

    def slopes(f, argument):
        return jax.vmap(jax.grad(f, argument))(*pairs())

    computed = ours(*pairs())
    expected = erf_kernel(*pairs())
    np.testing.assert_allclose(computed, expected, atol=1e-14)
    for argument in range(3):
        slope = slopes(ours, argument)
        exact = slopes(erf_kernel, argument)
        # The root at equal inputs is taken one rounding away, where differences keep half their
        # digits.
        np.testing.assert_allclose(slope, exact, atol=1e-8)


def test_polynomials_of_high_degree(x64):
    q = jnp.asarray([1.0, 2.0])
    computed = expectation(lambda u: u**10, jnp.sqrt(q))
    np.testing.assert_allclose(computed, 945 * q**5, rtol=1e-13)


def by_adaptive_quadrature(q1, q2, cov, kink):
    """E max(u, kink) max(v, kink), in the four boxes that the kink parts."""
    inverse = np.linalg.inv([[q1, cov], [cov, q2]])
    norm = 2 * np.pi * np.sqrt(q1 * q2 - cov**2)

    def density(v, u):
        value = max(u, kink) * max(v, kink)
        own = inverse[0, 0] * u * u + inverse[1, 1] * v * v
        quadratic = own + 2 * inverse[0, 1] * u * v
        return value * np.exp(-quadratic / 2) / norm

    middle = np.clip(kink, -12, 12)
    halves = ((-12, middle), (middle, 12))
    total = 0
    for in_u, in_v in itertools.product(halves, halves):
        part, _ = dblquad(density, *in_u, *in_v, epsabs=1e-11, epsrel=1e-11)
        total += part
    return total


@pytest.mark.parametrize("kink", [0.0, 0.4, -30.0])
def test_kinks_anywhere(x64, kink):
    def product(u, v):
        return jnp.maximum(u, kink) * jnp.maximum(v, kink)

    ours = pair_expectation(product, *pairs(), kinks=(kink,))
    for i in (1, 2, 3):
        exact = by_adaptive_quadrature(Q1[i], Q2[i], COV[i], kink)
        np.testing.assert_allclose(ours[i], exact, atol=1e-9)


def test_rectifier_is_exact_at_every_angle(x64):
    def product(u, v):
        return jax.nn.relu(u) * jax.nn.relu(v)

    ours = pair_expectation(product, *pairs(), kinks=(0.0,))
    norm = np.sqrt(Q1 * Q2)
    theta = np.arccos(np.clip(COV / norm, -1, 1))
    rest = np.pi - theta
    exact = norm * (np.sin(theta) + rest * np.cos(theta)) / (2 * np.pi)
    np.testing.assert_allclose(ours, exact, atol=1e-12)


def test_tanh_kernel_by_two_rules_agrees_where_gauss_hermite_does_not(x64):
    x = jax.random.normal(jax.random.key(0), (5, 10))

    def kernel(**options):
        tanh = K.elementwise(jnp.tanh, **options)
        first = K.dense(1, 1.4, 0.3)
        net = K.serial(first, tanh, K.dense())
        return K.gram(net, x)

    expected = kernel(kinks=(0.0,))
    np.testing.assert_allclose(kernel(), expected, atol=1e-9)
    np.testing.assert_allclose(kernel(nodes=200), expected, atol=1e-13)


def exact_gelu(x):
    return jax.nn.gelu(x, approximate=False)


def rectified_cube(x):
    return jnp.maximum(x, 0) ** 3


def bell(x):
    return jnp.exp(-(x**2))


CLOSED = {
    "erf": (K.elementwise(jax.scipy.special.erf), K.erf()),
    "gelu": (K.elementwise(exact_gelu), K.gelu()),
    "relu": (K.elementwise(jax.nn.relu, kinks=(0.0,)), K.relu()),
    "cube": (K.elementwise(rectified_cube, kinks=(0.0,)), K.rectified_monomial(3)),
    "gaussian": (K.elementwise(bell), K.gaussian()),
}


@pytest.mark.parametrize(("by_quadrature", "closed"), CLOSED.values(), ids=CLOSED)
def test_quadrature_agrees_with_closed_forms_through_depth(precision, by_quadrature, closed):
    x = jax.random.normal(jax.random.key(1), (5, 3), precision)

    def deep(phi):
        first = K.dense(1, 1.2, 0.3)
        second = K.dense(1, 1.1, 0.2)
        return K.serial(first, phi, second, K.layer_norm(), phi, K.dense())

    def kernel(phi, name):
        theta = K.gram(deep(phi), x, get=name)
        return np.asarray(theta)

    for name, bound in (("nngp", 1e-10), ("ntk", 1e-10)):
        computed = kernel(by_quadrature, name)
        expected = kernel(closed, name)
        tolerance = bound if precision == jnp.float64 else 2e-5
        scale = np.abs(expected).max()
        np.testing.assert_allclose(computed, expected, atol=tolerance * scale)
