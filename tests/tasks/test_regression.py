"""Teacher-student regression: exact norms, the chosen spectrum, and the ratios that theory
names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdyn import tasks


def mean_square_noise(data):
    noise = data.y - data.x @ data.teacher
    return jnp.mean(noise**2)


def test_norms_are_exact_in_every_group(precision):
    start = jnp.array([0.5, 0.0])
    eigenvalues = [1.0, 0.01]
    multiplicities = (30, 40)
    power = [2.0, 300.0]
    key = jax.random.key(0)
    data = tasks.regression(key, 50, eigenvalues, multiplicities, power, noise=0.3, start=start)
    eps = jnp.finfo(precision).eps

    def squares(w):
        first, second = np.split(np.asarray(w), [30])
        return [np.sum(first**2), np.sum(second**2)]

    np.testing.assert_allclose(squares(data.teacher), [2, 300], rtol=100 * eps)
    np.testing.assert_allclose(squares(data.start), [0.5, 0], rtol=100 * eps)
    # The noise is a difference of labels of the size of |teacher| = 17 times 0.1.
    computed = mean_square_noise(data)
    np.testing.assert_allclose(computed, 0.09, rtol=1e4 * eps)
    expected = np.repeat(np.array(eigenvalues, precision), multiplicities)
    np.testing.assert_array_equal(data.eigenvalues, expected)


def test_inputs_have_the_chosen_spectrum_and_float64_repeats_the_run():
    n = 20_000

    def draw():
        return tasks.regression(jax.random.key(1), n, [4.0, 0.25], (2, 3), 1.0)

    data = draw()
    covariance = data.x.T @ data.x / n
    deviations = jnp.sqrt(data.eigenvalues)
    scale = deviations[:, None] * deviations[None]
    # The relative standard error of a covariance of two Gaussians is at most sqrt(2/n), here at 5
    # of them.
    atol = 5 * np.sqrt(2 / n)
    np.testing.assert_allclose(covariance / scale, np.eye(5), rtol=0, atol=atol)
    with jax.enable_x64(True):
        repeated = draw()
    np.testing.assert_allclose(repeated.x, data.x, rtol=1e-6)
    np.testing.assert_allclose(repeated.y, data.y, rtol=0, atol=1e-5)


def test_teacher_student_has_its_ratios_to_noise():
    data = tasks.teacher_student(jax.random.key(2), 400, 200, snr=5.0, inr=0.5)
    assert data.x.shape == (200, 400)
    computed = jnp.mean(data.teacher**2)
    np.testing.assert_allclose(computed, 5, rtol=1e-5)
    computed = jnp.mean(data.start**2)
    np.testing.assert_allclose(computed, 0.5, rtol=1e-5)
    computed = mean_square_noise(data)
    np.testing.assert_allclose(computed, 1, rtol=1e-4)
    squared_lengths = jnp.sum(data.x**2, 1)
    computed = jnp.mean(squared_lengths)
    atol = 5 * np.sqrt(2 / 80_000)
    np.testing.assert_allclose(computed, 1, atol=atol)


def test_directions_of_a_group_are_uniform():
    draws = 4000

    def draw(key):
        data = tasks.regression(key, 1, 1.0, (3, 2), [1.0, 5.0])
        return data.teacher[:3]

    keys = jax.random.split(jax.random.key(3), draws)
    directions = np.asarray(jax.vmap(draw)(keys))
    # Each coordinate of a direction in three dimensions is uniform between -1 and 1 (Archimedes).
    uniform = (np.arange(draws) + 0.5) / draws
    for coordinate in directions.T:
        ranked = (np.sort(coordinate) + 1) / 2
        distance = np.abs(ranked - uniform).max()
        assert distance < 1.95 / np.sqrt(draws)  # Kolmogorov's 99.9 %


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"multiplicities": ()}, "multiplicities: \\(\\)"),
        ({"multiplicities": (3, 0)}, "at least one input"),
        ({"power": [1.0, 2.0, 3.0]}, "power: shape \\(3,\\)"),
        ({"start": np.ones((2, 1))}, "start: shape \\(2, 1\\)"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    fitting = {"eigenvalues": [1.0, 0.1], "multiplicities": (3, 2), "power": 1.0}
    options = fitting | change
    with pytest.raises(ValueError, match=message):
        tasks.regression(jax.random.key(0), 4, **options)
