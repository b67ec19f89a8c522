"""Regression in high dimension: contours against closed forms, integrals over the spectrum, and finite samples."""

import numpy as np
import pytest
from scipy.stats import norm

from jaxdyn.theory import memorisation


def mixture(seed, sigma, flipped, inputs, samples):
    rng = np.random.default_rng(seed)
    true = np.sign(rng.standard_normal(samples))
    wrong = rng.permutation(samples) < flipped * samples
    x = sigma * rng.standard_normal((samples, inputs))
    x[:, 0] += true
    return x, np.where(wrong, -true, true), wrong


@pytest.mark.parametrize(("sigma", "flipped", "inputs", "samples"), [(0.25, 0.2, 450, 500), (0.6, 0.3, 600, 300)])
def test_memorisation_is_that_of_finite_samples(sigma, flipped, inputs, samples, x64):
    times, counted = np.geomspace(0.1, 1000, 7), []
    for seed in range(4):
        x, y, wrong = mixture(seed, sigma, flipped, inputs, samples)
        rate, frame = np.linalg.eigh(x.T @ x / samples)
        rate = np.maximum(rate, 1e-12)
        w = (-np.expm1(-rate * times[:, None]) / rate * (frame.T @ (x.T @ y / samples))) @ frame.T
        right = (w @ x.T) * y > 0
        test = norm.cdf(w[:, 0] / sigma / np.linalg.norm(w, axis=1))
        counted.append([right[:, wrong].mean(1), right[:, ~wrong].mean(1), test])
    predicted = np.array(memorisation.flow(times, sigma, flipped, inputs, samples))
    # Binomial counts of the fewest examples, in four draws, beside the 1/sqrt(samples) of the norm of the teacher.
    allowed = 4 * np.sqrt(0.25 / (4 * flipped * samples)) + 1 / np.sqrt(4 * samples)
    np.testing.assert_allclose(np.mean(counted, 0), predicted, rtol=0, atol=allowed)


def test_memorisation_starts_as_the_first_step_does_and_ends_with_every_label_fitted(x64):
    mixture = dict(sigma=0.5, flipped=0.2, inputs=90_000, samples=100_000)
    cosine, first = memorisation.first_step(**mixture)
    start = memorisation.flow(1e-3, **mixture)
    # Of relative order time, and 1/samples.
    np.testing.assert_allclose(start, first, rtol=0, atol=2e-3)
    np.testing.assert_allclose(cosine, 0.6 / np.hypot(0.6, 0.5 * 0.9**0.5), rtol=1e-12)
    overparametrised = memorisation.flow(1e4, 0.5, 0.2, 2000, 1000)
    assert overparametrised.memorised > 1 - 1e-6
    assert overparametrised.clean > 1 - 1e-6
    assert 0.5 < overparametrised.test < first.test


@pytest.mark.parametrize("flip", [0.0, 0.5])
def test_without_wrong_labels_all_is_clean_and_with_half_of_them_nothing_is_learned(flip, x64):
    predicted = memorisation.flow(3.0, 0.5, flip, 500, 1000)
    if flip:
        np.testing.assert_allclose(predicted.memorised, predicted.clean, rtol=1e-10)
        np.testing.assert_allclose(predicted.test, 0.5, rtol=1e-10)
    else:
        assert predicted.memorised < predicted.test < predicted.clean
