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
    @jax.jit
    def computed(G):
        overlap = unit.overlap(G)
        drift = unit.drift(G, s, k)
        diffusion = unit.diffusion(G, s, k)
        slopes = unit.slopes(G, k)
        return overlap, drift, diffusion, slopes

    return computed(G)


def sampled_z(unit, G, s, k, samples=200_000):
    """By how many standard errors the averages miss those over random fields."""
    independent = np.random.default_rng(1).standard_normal((samples, len(G)))
    h = independent @ np.linalg.cholesky(G).T
    fields = jnp.asarray(h)
    g = np.asarray(unit.apply(fields))
    slope = np.asarray(unit.slope(fields[:, :k]))
    output = (g @ s)[:, None, None]

    def times(a, b):
        return a[:, :, None] * b[:, None]

    pairs = times(slope, slope)
    drawn = times(g, g), times(slope, h) * output, pairs * output**2, pairs
    for found, values in zip(averages(unit, G, s, k), drawn, strict=True):
        deviation = np.abs(values.mean(0) - found)
        error = values.std(0) / samples**0.5 + 1e-9
        yield np.max(deviation / error)


def test_error_functions_have_the_averages_of_quadrature(x64):
    G = covariance(3)
    s = jnp.array([-1.0, 0.7, 1.3])
    unit = integrals.erf()
    exact = averages(unit, G, s, 2)
    rule = integrals.trapezoid(40)
    smooth = integrals.smooth(unit.apply, rule)
    quadrature = averages(smooth, G, s, 2)
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
        product = 0.0
        if n > 1:
            expected = 2**0.5 / (2 * np.pi) * 0.5 ** (n - 2)
            product = _orthants.second_moment(independent, 1) - expected
        return jnp.array([chance, square, product])

    @jax.jit
    def all_errors():
        return jnp.stack([errors(n) for n in range(1, 5)])

    assert jnp.max(jnp.abs(all_errors())) < 1e-15


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

    def diffused(G):
        return integrals.erf().diffusion(G, s, 2)

    slopes = jax.jit(jax.jacfwd(diffused))(G)
    assert bool(jnp.all(jnp.isfinite(slopes)))


def test_rules_agree_on_a_smooth_unit(x64):
    G = covariance(4)
    s = jnp.array([-1.0, -0.7, 1.3, 0.9])
    grid = integrals.smooth(jnp.tanh, integrals.trapezoid(25))
    sequence = integrals.smooth(jnp.tanh, integrals.sobol(15))
    on_grid = averages(grid, G, s, 2)
    on_sequence = averages(sequence, G, s, 2)
    # Some 1e-3 at 2^13 points, which falls as one over their number.
    for a, b in zip(on_grid, on_sequence, strict=True):
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
    last = jnp.array([0.0, 0.0, 1.0], precision)
    singular = jnp.ones((3, 3), precision) + jnp.diag(last)

    @jax.jit
    def root_and_slope(G):
        return integrals.root(G), jax.jacrev(integrals.root)(G)

    root, slope = root_and_slope(singular)
    np.testing.assert_allclose(root @ root.T, singular, atol=20 * eps)
    assert bool(jnp.all(jnp.isfinite(slope)))
