"""Votes on permutations: against direct solves with written-out kernels, brute force, and limits at
large k."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from jaxdyn.theory.width import permutations


def compiled(fn):
    """One program of small arrays, where compilation takes longest."""
    return jax.jit(fn, compiler_options={"xla_backend_optimization_level": 0})


VOTES = compiled(permutations.votes)


def kernels(cosine):
    """E relu relu and its tangent kernel for unit vectors, by their textbook formula (Cho, Saul,
    2009)."""
    angle = np.arccos(np.clip(cosine, -1, 1))
    slope = (np.pi - angle) * cosine
    prior = (np.sin(angle) + slope) / 2 / np.pi
    return prior, prior + slope / 2 / np.pi


@pytest.mark.parametrize(("bits", "steps"), [(5, 3), (5, np.inf), (12, 40), (12, np.inf)])
def test_votes_are_those_of_a_dense_solve(bits, steps, x64):
    rate = bits**2 / 3
    inputs = np.tri(bits) / np.sqrt(np.arange(1, bits + 1))[:, None]
    gram = np.eye(bits) + 0.0
    prior, ntk = kernels(gram)
    prior_test, ntk_test = kernels(inputs @ gram)
    prior_tests, _ = kernels(inputs @ inputs.T)
    step = np.eye(bits) - rate * ntk / bits**2
    left = np.linalg.matrix_power(step, int(min(steps, 1e4)))
    learned = np.eye(bits) - left
    weights = ntk_test @ np.linalg.solve(ntk, learned)
    predicted = weights @ prior @ weights.T
    shared = weights @ prior_test.T
    cov = (prior_tests + predicted - shared - shared.T) / bits
    found = VOTES(bits, np.arange(1.0, bits + 1), float(steps), rate)
    np.testing.assert_allclose(np.diagonal(weights), found.on, atol=1e-13)
    computed = weights[:-1, -1]
    expected = found.off[:-1]
    np.testing.assert_allclose(computed, expected, atol=1e-13)
    # The probability at weight one is that of an interpolated label: no variance.
    np.testing.assert_allclose(np.diagonal(cov), found.variance, atol=1e-13)


def test_published_numbers(x64):
    expected = [(0.283730, -0.040712, 0.012505), (0.571948, -0.003325, 0.001601)]
    found = VOTES(np.array([10, 40]), np.array([5, 2]))
    np.testing.assert_allclose(np.transpose(found), expected, atol=6e-7)
    bits = np.array([8, 16, 64, 256, 1024])

    def sizes(bits):
        every = permutations.ensemble_size_all(bits, largest=1024)
        one = permutations.ensemble_size(bits, 2.0)
        return every, one

    every, one = compiled(sizes)(bits)
    np.testing.assert_allclose(every, [751, 1302, 5148, 24313, 117803], rtol=1e-3)
    computed = one / bits / np.log(bits)
    np.testing.assert_allclose(computed, [21.81, 13.10, 7.86, 6.60, 6.18], atol=6e-3)


@compiled
def size_at_thirty():
    size = permutations.ensemble_size(30, 4.0, 0.01)
    return size, permutations.votes(30, 4.0)


@compiled
def sizes_at_nine(risk):
    # Weights beyond k count for nothing.
    size = permutations.ensemble_size_all(jnp.array([9.0]), risk, largest=20)[0]
    padded, _ = permutations.log_failures(9, size, 20)
    failures = permutations.log_failures(9, size, 9)
    weight_two = permutations.weight_two_size(9, 2 * risk / (9 * 8 * 7))
    crude = permutations.crude_size(9, risk)
    return size, padded, failures, weight_two, crude


def test_sizes_meet_their_risk(x64):
    size, (on, off, variance) = size_at_thirty()
    r = np.sqrt(size / variance)
    all_right = norm.cdf(on * r) ** 4 * norm.cdf(-off * r) ** 26
    assert 1 - all_right == pytest.approx(0.01, rel=1e-9)
    size, padded, (total, by_weight), of_weight_two, crude = sizes_at_nine(0.1)
    np.testing.assert_allclose([padded, total], np.log(0.1), atol=1e-9)
    assert by_weight.shape == (8,)
    np.testing.assert_allclose(of_weight_two, size, rtol=1e-4)
    assert crude > size


def test_failures_are_counted_by_brute_force(x64):
    bits = 6
    members = 300.0

    @compiled
    def failures_and_votes():
        total, _ = permutations.log_failures(bits, members, bits)
        weights = np.arange(2.0, bits + 1)
        return total, permutations.votes(bits, weights)

    found, votes = failures_and_votes()
    on, off, variance = map(np.asarray, votes)
    inverse_noise = (members / variance) ** 0.5
    right = norm.sf(on * inverse_noise)
    wrong = norm.sf(-off * inverse_noise)
    total = 0.0
    for mask in range(1, 2**bits):
        weight = mask.bit_count()
        if weight > 1:
            total += weight * right[weight - 2] + (bits - weight) * wrong[weight - 2]
    assert float(found) == pytest.approx(np.log(total), rel=1e-10)


def test_limits_at_many_bits(x64):
    weights = np.array([[2.0], [3.0], [4.0]])
    bits = np.array([[1e4, 1e5]])
    votes = VOTES(bits, weights)
    ratio = compiled(permutations.noise_ratio)(weights)
    noise = votes.variance / votes.off**2
    gaps = np.asarray(noise / bits / ratio - 1)
    assert np.all(np.abs(gaps[:, 0]) < 1e-2)
    computed = gaps[:, 0] / gaps[:, 1]
    np.testing.assert_allclose(computed, 10, rtol=0.02)
    # Inputs of weight k - y sqrt(k): half of the exponent's slope in y is the coefficient.
    bits = 1e10
    zeros = np.sqrt(bits) * np.array([1e-3, 1e-2])
    votes = VOTES(bits, bits - zeros)
    noise = np.asarray(votes.variance / votes.off**2)
    coefficient = permutations.near_full_coefficient()
    members = coefficient * bits**1.5 * np.log(bits)
    # ln C(k, zeros) ~ zeros ln(k)/2 must be met by members / (2 noise).
    assert np.all(members / 2 / noise >= zeros * np.log(bits) / 2 * 0.9)


def test_all_right_is_a_product_for_independent_inputs(x64):
    mean = jnp.array([[0.1, -0.2], [0.3, -0.1]])
    truth = jnp.array([[1, 0], [1, 0]])
    members = jnp.array([1.0, 30.0])

    def draw(key):
        return permutations.all_right(key, mean, jnp.eye(2), truth, members, 40_000)

    def exact(n):
        right = norm.cdf(np.abs(np.asarray(mean)) * n**0.5)
        return np.prod(right)

    computed = compiled(draw)(jax.random.key(1))
    expected = [exact(n) for n in members]
    np.testing.assert_allclose(computed, expected, atol=4 * 0.5 / 200)


def test_precision_and_gradients():
    def log_size(k):
        size = permutations.ensemble_size(k, 2.0)
        return jnp.log(size)

    low = VOTES(100, np.array([2.0, 50.0], np.float32))
    assert low.on.dtype == np.float32
    with jax.enable_x64(True):
        high = VOTES(100, np.array([2.0, 50.0]))
        assert high.on.dtype == np.float64
        with_slopes = compiled(jax.vmap(jax.value_and_grad(log_size)))
        values, slopes = with_slopes(np.array([99.0, 100.0, 101.0]))
    tolerance = 300 * float(np.finfo(np.float32).eps)
    for computed, expected in zip(low, high, strict=True):
        np.testing.assert_allclose(computed, expected, rtol=tolerance)
    difference = float(values[2] - values[0]) / 2
    assert float(slopes[1]) == pytest.approx(difference, rel=1e-3)
