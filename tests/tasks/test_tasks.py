import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdyn import tasks


def indices(key, n, size, steps, start=0):
    """The batches of a stream of epochs, as the indices of their examples."""
    stream = tasks.epochs(key, jnp.arange(n), size)
    draw = jax.jit(jax.vmap(lambda step: stream(None, step)))
    batches = draw(jnp.arange(start, start + steps))
    return np.asarray(batches)


# One example, a prime, a power of two, sizes that do not divide n, that exceed it, that are coprime
# to it.
@pytest.mark.parametrize(
    ("n", "size"),
    [(1, 1), (2, 1), (5, 2), (7, 3), (64, 16), (101, 8), (60, 25), (6, 20), (1000, 1)],
)
def test_every_epoch_visits_each_example_once_in_another_order(n, size):
    def whole_epochs(key):
        drawn = indices(key, n, size, 4 * n).reshape(-1)
        epochs = len(drawn) // n
        return drawn[: epochs * n].reshape(epochs, n)

    orders = whole_epochs(jax.random.key(0))
    computed = np.sort(orders, 1)
    expected = np.broadcast_to(np.arange(n), orders.shape)
    np.testing.assert_array_equal(computed, expected)
    if n >= 60:
        assert len(np.unique(orders, axis=0)) == len(orders)
        others = whole_epochs(jax.random.key(1))
        assert not np.array_equal(orders, others)


def deviations(count, freedom):
    """Return how many standard deviations the chi-square of equally likely cells is above its mean,
    `freedom`."""
    squares = (count - count.mean()) ** 2
    chi_square = np.sum(squares) / count.mean()
    return (chi_square - freedom) / (2 * freedom) ** 0.5


@pytest.mark.parametrize("n", [7, 12])
def test_each_place_and_each_pair_of_places_is_uniform(n):
    orders = indices(jax.random.key(2), n, n, 4000)
    counts = [np.bincount(place, minlength=n) for place in orders.T]
    places = np.array(counts)
    # A table of permutations has fixed rows and columns: (n - 1)^2 degrees of freedom, in cells of
    # variance 1 - 1/n.
    excess = places - places.mean()
    shrunk = places.mean() + excess * (1 - 1 / n) ** 0.5
    assert abs(deviations(shrunk, (n - 1) ** 2)) < 4
    first_two = orders[:, 0] * n + orders[:, 1]
    table = np.bincount(first_two, minlength=n * n).reshape(n, n)
    different = ~np.eye(n, dtype=bool)
    pairs = table[different]
    assert abs(deviations(pairs, n * (n - 1) - 1)) < 4


@pytest.mark.parametrize("n", [4, 5])
def test_all_orders_are_equally_likely(n):
    orders = indices(jax.random.key(2), n, n, 12_000)
    _, count = np.unique(orders, axis=0, return_counts=True)
    assert len(count) == math.factorial(n)
    assert abs(deviations(count, math.factorial(n) - 1)) < 4


def test_orders_of_successive_epochs_are_unrelated():
    # The number of fixed points between two random orders has mean 1 and variance 1.
    orders = indices(jax.random.key(3), 50, 50, 1000)
    fixed = np.sum(orders[1:] == orders[:-1], 1)
    assert abs(fixed.mean() - 1) < 4 / 999**0.5


def test_each_seed_of_a_vmap_has_its_own_order():
    keys = jax.random.split(jax.random.key(0), 3)
    step = jnp.asarray(2)

    def draw(key):
        stream = tasks.epochs(key, jnp.arange(11), 4)
        return stream(None, step)

    together = jax.jit(jax.vmap(draw))(keys)
    expected = jnp.stack([draw(key) for key in keys])
    np.testing.assert_array_equal(together, expected)
    assert len(np.unique(together, axis=0)) == 3


def test_steps_far_away_do_not_overflow():
    # 59,999 is prime: step * size would pass 32 bits here, so take two epochs' worth of steps far
    # out.
    n = 59_999
    size = 512
    far = 2**31 - 1 - 59_999
    near = indices(jax.random.key(0), n, size, 3, start=far)
    assert near.min() >= 0
    assert near.max() < n
    epochs_before = -(-(far * size) // n)
    first = epochs_before * n  # the first example of the next epoch, as an exact integer
    step, offset = divmod(first, size)
    drawn = indices(jax.random.key(0), n, size, 2 * n // size + 3, start=step)
    epoch = drawn.reshape(-1)[offset:][:n]
    np.testing.assert_array_equal(np.sort(epoch), np.arange(n))


def test_minibatches_are_uniform_with_replacement_and_the_same_in_float64():
    def draw():
        data = {"x": jnp.arange(10.0), "y": jnp.arange(10)}
        stream = tasks.minibatch(data, 1000)
        return stream(jax.random.key(0), 0)

    batch = draw()
    np.testing.assert_array_equal(batch["x"], batch["y"])
    count = np.bincount(np.asarray(batch["y"]), minlength=10)
    assert np.max(np.abs(count - 100)) < 4 * (1000 * 0.09) ** 0.5
    with jax.enable_x64(True):
        again = draw()
    np.testing.assert_array_equal(again["y"], batch["y"])


def test_bad_batches_are_named():
    with pytest.raises(ValueError, match="data"):
        tasks.minibatch((jnp.ones((3, 2)), jnp.ones(4)), 2)
    with pytest.raises(ValueError, match="size"):
        tasks.epochs(jax.random.key(0), jnp.ones(3), 0)
    with pytest.raises(ValueError, match="rank"):
        tasks.frames(jax.random.key(0), (3, 2), 3)
    with pytest.raises(ValueError, match="levels"):
        tasks.binary_tree(0)


# Spectra.


def test_binary_tree_has_the_singular_values_of_its_blocks():
    # Saxe, McClelland, Ganguli 2019: (n s)^2 = 15, 7, 3, 3, 1, 1, 1, 1 for eight items.
    x, y = tasks.binary_tree(3)
    moments = tasks.covariances(x, y)
    assert y.shape == (8, 15)
    assert jnp.array_equal(moments.xx, jnp.eye(8) / 8)
    s = jnp.linalg.svd(moments.yx, compute_uv=False)
    computed = (8 * s) ** 2
    expected = [15, 7, 3, 3, 1, 1, 1, 1]
    np.testing.assert_allclose(computed, expected, rtol=1e-5)
    assert jnp.array_equal(y[:, 0], jnp.ones(8))
    assert jnp.array_equal(y[:, -8:], jnp.eye(8))


@pytest.mark.usefixtures("x64")
def test_frames_are_orthonormal_and_carry_the_chosen_spectrum():
    left, right = tasks.frames(jax.random.key(0), (6, 4), 3)
    np.testing.assert_allclose(left.T @ left, np.eye(3), atol=1e-14)
    s = np.array([3.0, 2.0, 0.5])
    target = tasks.from_svd(left, s, right)
    computed = np.linalg.svd(target, compute_uv=False)
    expected = [3, 2, 0.5, 0]
    np.testing.assert_allclose(computed, expected, atol=1e-14)


@pytest.mark.usefixtures("x64")
def test_population_moments_are_the_limit_of_sampled_ones():
    # n samples of a Gaussian know each moment to sqrt((m_ii m_jj + m_ij^2) / n).
    (basis,) = tasks.frames(jax.random.key(0), (3,), 3)
    deviations = np.sqrt([4.0, 1.0, 0.25])
    root = tasks.from_svd(basis, deviations, basis)
    target = jnp.array([[1.0, -2.0, 0.5], [0.0, 1.0, 1.0]])
    n = 40_000
    noise = 0.7
    x_key, noise_key = jax.random.split(jax.random.key(1))
    x = jax.random.normal(x_key, (n, 3)) @ root
    y = x @ target.T + noise * jax.random.normal(noise_key, (n, 2))
    exact = tasks.linear_teacher(target, root @ root, noise=noise)
    sampled = tasks.covariances(x, y)
    x_variances = jnp.diagonal(exact.xx)
    y_variances = jnp.diagonal(exact.yy)
    for moment, drawn, rows, columns in [
        (exact.xx, sampled.xx, x_variances, x_variances),
        (exact.yx, sampled.yx, y_variances, x_variances),
        (exact.yy, sampled.yy, y_variances, y_variances),
    ]:
        variance = rows[:, None] * columns[None] + moment**2
        assert jnp.all(jnp.abs(moment - drawn) < 4 * jnp.sqrt(variance / n))
    white = tasks.linear_teacher(target)
    np.testing.assert_allclose(white.yy, target @ target.T, atol=1e-14)


@pytest.mark.usefixtures("x64")
def test_outliers_share_a_feature_that_tells_nothing_of_the_label():
    data = tasks.opposing_outliers(jax.random.key(0), 4000, 3, 500, size=6.0, sigma=0.3)

    def members(group):
        return np.asarray(data.x)[np.asarray(data.group) == group]

    usual = members(0)
    one = members(1)
    other = members(-1)
    assert (len(usual), len(one), len(other)) == (4000, 500, 500)
    # 4.5 standard errors of means and variances.
    for group in (one, other):
        expected = [6, 0, 0]
        np.testing.assert_allclose(group.mean(0), expected, atol=4.5 * 0.3 / 500**0.5)
        rtol = 4.5 * (2 / 500) ** 0.5
        np.testing.assert_allclose(group.var(0), 0.09, rtol=rtol)
    np.testing.assert_allclose(usual.mean(0), 0, atol=4.5 / 4000**0.5)
    computed = data.labels[4000:]
    expected = data.group[4000:]
    np.testing.assert_array_equal(computed, expected)
    computed = data.group[4000:]
    expected = np.repeat([1, -1], 500)
    np.testing.assert_array_equal(computed, expected)
    # A linear teacher: least squares gets its direction, and that labels all usual examples.
    labels = data.labels[:4000]
    direction, *_ = np.linalg.lstsq(usual, labels, rcond=None)
    assert np.mean(np.sign(usual @ direction) == labels) > 0.97
    with pytest.raises(ValueError, match="samples, inputs, planted: 3, 2, 0"):
        tasks.opposing_outliers(jax.random.key(0), 3, 2, 0)
