"""Votes on permutations: against direct solves with written-out kernels, brute force, and limits at large k."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from jaxdyn.theory import permutations


def kernels(cosine):
    """E relu relu and its tangent kernel for unit vectors, by their textbook formula (Cho, Saul, 2009)."""
    angle = np.arccos(np.clip(cosine, -1, 1))
    prior = (np.sin(angle) + (np.pi - angle) * cosine) / 2 / np.pi
    return prior, prior + cosine * (np.pi - angle) / 2 / np.pi


@pytest.mark.parametrize(("bits", "steps"), [(5, 3), (5, np.inf), (12, 40), (12, np.inf)])
def test_votes_are_those_of_a_dense_solve(bits, steps, x64):
    rate = bits**2 / 3
    inputs = np.tri(bits) / np.sqrt(np.arange(1, bits + 1))[:, None]
    gram = np.eye(bits) + 0.0
    (prior, ntk), (prior_test, ntk_test), (prior_tests, _) = map(kernels, (gram, inputs @ gram, inputs @ inputs.T))
    left = np.linalg.matrix_power(np.eye(bits) - rate * ntk / bits**2, int(min(steps, 1e4)))
    weights = ntk_test @ np.linalg.solve(ntk, np.eye(bits) - left)
    cov = (prior_tests + weights @ prior @ weights.T - weights @ prior_test.T - prior_test @ weights.T) / bits
    found = permutations.votes(bits, np.arange(1.0, bits + 1), steps, rate)
    np.testing.assert_allclose(np.diagonal(weights), found.on, atol=1e-13)
    np.testing.assert_allclose(weights[:-1, -1], found.off[:-1], atol=1e-13)
    # The probability at weight one is that of an interpolated label: no variance.
    np.testing.assert_allclose(np.diagonal(cov), found.variance, atol=1e-13)


def test_published_numbers(x64):
    for bits, weight, expected in ((10, 5, (0.283730, -0.040712, 0.012505)), (40, 2, (0.571948, -0.003325, 0.001601))):
        np.testing.assert_allclose(permutations.votes(bits, weight), expected, atol=6e-7)
    bits = np.array([8, 16, 64, 256, 1024])
    every = jax.jit(functools.partial(permutations.ensemble_size_all, largest=1024))(bits)
    np.testing.assert_allclose(every, [751, 1302, 5148, 24313, 117803], rtol=1e-3)
    one = permutations.ensemble_size(bits, 2.0)
    np.testing.assert_allclose(one / bits / np.log(bits), [21.81, 13.10, 7.86, 6.60, 6.18], atol=6e-3)


def test_sizes_meet_their_risk(x64):
    size = permutations.ensemble_size(30, 4.0, 0.01)
    on, off, variance = permutations.votes(30, 4.0)
    r = np.sqrt(size / variance)
    assert 1 - norm.cdf(on * r) ** 4 * norm.cdf(-off * r) ** 26 == pytest.approx(0.01, rel=1e-9)
    # Weights beyond k count for nothing.
    for largest in (9, 20):
        size = permutations.ensemble_size_all(jnp.array([9.0]), 0.1, largest=largest)[0]
        total, by_weight = permutations.log_failures(9, size, 9)
        assert float(total) == pytest.approx(np.log(0.1), abs=1e-9)
        assert by_weight.shape == (8,)
        np.testing.assert_allclose(permutations.weight_two_size(9, 2 * 0.1 / (9 * 8 * 7)), size, rtol=1e-4)
        assert permutations.crude_size(9, 0.1) > size


def test_failures_are_counted_by_brute_force(x64):
    bits, members = 6, 300.0
    total = 0.0
    for mask in range(1, 2**bits):
        weight = mask.bit_count()
        if weight > 1:
            on, off, variance = (float(a) for a in permutations.votes(bits, weight))
            r = (members / variance) ** 0.5
            total += weight * norm.sf(on * r) + (bits - weight) * norm.sf(-off * r)
    assert float(permutations.log_failures(bits, members, bits)[0]) == pytest.approx(np.log(total), rel=1e-10)


def test_limits_at_many_bits(x64):
    for weight in (2, 3, 4):
        gaps = []
        for bits in (1e4, 1e5):
            votes = permutations.votes(bits, weight)
            gaps.append(float(votes.variance / votes.off**2 / bits / permutations.noise_ratio(weight) - 1))
        assert abs(gaps[0]) < 1e-2
        assert gaps[0] / gaps[1] == pytest.approx(10, rel=0.02)
    # Inputs of weight k - y sqrt(k): half of the exponent's slope in y is the coefficient.
    bits = 1e10
    zeros = np.sqrt(bits) * np.array([1e-3, 1e-2])
    votes = permutations.votes(bits, bits - zeros)
    noise = votes.variance / votes.off**2
    members = permutations.near_full_coefficient() * bits**1.5 * np.log(bits)
    # ln C(k, zeros) ~ zeros ln(k)/2 must be met by members / (2 noise).
    assert np.all(members / 2 / noise >= zeros * np.log(bits) / 2 * 0.9)


def test_all_right_is_a_product_for_independent_inputs(x64):
    mean, truth = jnp.array([[0.1, -0.2], [0.3, -0.1]]), jnp.array([[1, 0], [1, 0]])
    members = jnp.array([1.0, 30.0])
    found = permutations.all_right(jax.random.key(1), mean, jnp.eye(2), truth, members, 40_000)
    exact = [np.prod(norm.cdf(np.abs(np.asarray(mean)) * n**0.5)) for n in members]
    np.testing.assert_allclose(found, exact, atol=4 * 0.5 / 200)


def test_precision_and_gradients(precision):
    votes = permutations.votes(100, jnp.array([2.0, 50.0]))
    assert votes.on.dtype == precision
    with jax.enable_x64(True):
        exact = permutations.votes(100, jnp.array([2.0, 50.0]))
    tolerance = 300 * float(np.finfo(precision).eps)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance), votes, exact)
    slope = jax.grad(lambda k: jnp.log(permutations.ensemble_size(k, 2.0)))(100.0)
    step = 1.0
    around = [float(permutations.ensemble_size(100.0 + s, 2.0)) for s in (-step, step)]
    assert float(slope) == pytest.approx(np.log(around[1] / around[0]) / 2 / step, rel=1e-2)
