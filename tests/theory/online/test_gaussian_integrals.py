"""Averages over Gaussian fields: the closed forms against quadrature, sampling and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdyn.theory.online import _orthants
from jaxdyn.theory.online import gaussian_integrals as integrals


def covariance(n, seed=0):
    a = np.random.default_rng(seed).standard_normal((n, n + 2))
    return jnp.asarray(a @ a.T / n)


def averages(unit, G, s, k):
    return jax.jit(
        lambda G: (unit.overlap(G), unit.drift(G, s, k), unit.diffusion(G, s, k), unit.slopes(G, k))
    )(G)


def sampled_z(unit, G, s, k, samples=200_000):
    """By how many standard errors the averages miss those over random fields."""
    h = np.random.default_rng(1).standard_normal((samples, len(G))) @ np.linalg.cholesky(G).T
    g = np.asarray(unit.apply(jnp.asarray(h)))
    slope = np.asarray(unit.slope(jnp.asarray(h[:, :k])))
    output = (g @ s)[:, None, None]

    def times(a, b):
        return a[:, :, None] * b[:, None]

    pairs = times(slope, slope)
    drawn = times(g, g), times(slope, h) * output, pairs * output**2, pairs
    for found, values in zip(averages(unit, G, s, k), drawn, strict=True):
        deviation = np.abs(values.mean(0) - found)
        yield np.max(deviation / (values.std(0) / samples**0.5 + 1e-9))


def test_error_functions_have_the_averages_of_quadrature(x64):
    G = covariance(3)
    s = jnp.array([-1.0, 0.7, 1.3])
    exact = averages(integrals.erf(), G, s, 2)
    rule = integrals.trapezoid(40)
    quadrature = averages(integrals.smooth(integrals.erf().apply, rule), G, s, 2)
    for a, b in zip(exact, quadrature, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-11)


@pytest.mark.parametrize(
    "unit", [integrals.erf(), integrals.relu(), integrals.linear()], ids=["erf", "relu", "linear"]
)
def test_averages_over_four_fields_are_those_of_samples(unit, x64):
    s = jnp.array([-1.0, -0.7, 1.3, 0.9])
    # 10 + 8 + 3 + 3 numbers: |z| exceeds 4.5 by chance once in 6,000 times.
    assert max(sampled_z(unit, covariance(4), s, 2)) < 4.5


def test_orthants_of_independent_fields_and_of_correlations_one_half(x64):
    def errors(n):
        chance = _orthants.probability(0.5 + 0.5 * jnp.eye(n)) - 1 / (n + 1)
        independent = jnp.diag(jnp.arange(1.0, n + 1))
        square = _orthants.second_moment(independent, 0) - 0.5**n
        product = (
            _orthants.second_moment(independent, 1) - 2**0.5 / (2 * np.pi) * 0.5 ** (n - 2)
            if n > 1
            else 0.0
        )
        return jnp.array([chance, square, product])

    assert jnp.max(jnp.abs(jax.jit(lambda: jnp.stack([errors(n) for n in range(1, 5)]))())) < 1e-15


def test_error_functions_stay_finite_where_fields_coincide(x64):
    # A student that has learned its teacher: the covariance is singular, the error zero in all
    # inputs.
    G = jnp.tile(jnp.eye(2), (2, 2))
    s = jnp.array([-1.0, -1.0, 1.0, 1.0])
    overlap, drift, diffusion, _ = averages(integrals.erf(), G, s, 2)
    bound = 20 * jnp.finfo(float).eps
    assert abs(s @ overlap @ s) < bound
    assert jnp.max(jnp.abs(drift)) < bound
    assert jnp.max(jnp.abs(diffusion)) < bound
    slopes = jax.jit(jax.jacfwd(lambda G: integrals.erf().diffusion(G, s, 2)))(G)
    assert bool(jnp.all(jnp.isfinite(slopes)))


def test_rules_agree_on_a_smooth_unit(x64):
    G = covariance(4)
    s = jnp.array([-1.0, -0.7, 1.3, 0.9])
    grid, sequence = (
        integrals.smooth(jnp.tanh, rule) for rule in (integrals.trapezoid(25), integrals.sobol(15))
    )
    # Some 1e-3 at 2^13 points, which falls as one over their number.
    for a, b in zip(averages(grid, G, s, 2), averages(sequence, G, s, 2), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_rules_average_moments():
    for rule, accuracy in ((integrals.trapezoid(24), 1e-9), (integrals.sobol(10), 1e-12)):
        points, weights = rule(3)
        assert weights.sum() == pytest.approx(1, abs=1e-12)
        np.testing.assert_allclose(weights @ points, 0, atol=1e-12)
        computed = (points * weights[:, None]).T @ points
        np.testing.assert_allclose(computed, np.eye(3), atol=accuracy)


def test_root_of_regular_and_singular_matrices(precision):
    eps = float(jnp.finfo(precision).eps)
    G = covariance(4).astype(precision)
    root = jax.jit(integrals.root)(G)
    np.testing.assert_allclose(root @ root.T, G, atol=20 * eps)
    assert jnp.all(jnp.triu(root, 1) == 0)
    singular = jnp.ones((3, 3), precision) + jnp.diag(jnp.array([0.0, 0.0, 1.0], precision))
    root, slope = jax.jit(lambda G: (integrals.root(G), jax.jacrev(integrals.root)(G)))(singular)
    np.testing.assert_allclose(root @ root.T, singular, atol=20 * eps)
    assert bool(jnp.all(jnp.isfinite(slope)))
