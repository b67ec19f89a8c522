"""Mixtures with wrong labels, and early-learning regularisation against its gradient written
out."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdyn as jd
from jaxdyn import losses, rules, tasks


def test_clusters_have_their_moments(precision):
    n = 20_000
    mixture = tasks.two_clusters(jax.random.key(0), n, 3, sigma=0.5, flipped=0.3)
    assert mixture.x.dtype == precision
    expected = np.where(mixture.wrong, -mixture.truth, mixture.truth)
    np.testing.assert_array_equal(mixture.labels, expected)
    assert mixture.wrong.sum() == 6000
    # Five standard errors of means of n variables of deviation 1/2, or 1 for the truth.
    first_axis = np.eye(3)[:1]
    centred = mixture.x - mixture.truth[:, None] * first_axis
    np.testing.assert_allclose(centred.mean(0), 0, atol=5 * 0.5 / n**0.5)
    computed = centred.T @ centred / n
    expected = 0.25 * np.eye(3)
    atol = 5 * 0.25 * (2 / n) ** 0.5
    np.testing.assert_allclose(computed, expected, atol=atol)
    computed = mixture.truth.mean()
    np.testing.assert_allclose(computed, 0, atol=5 / n**0.5)
    computed = (mixture.wrong * mixture.truth).mean()
    np.testing.assert_allclose(computed, 0, atol=5 / n**0.5)


def test_both_precisions_draw_the_same():
    def draw(x64):
        with jax.enable_x64(x64):
            return tasks.two_clusters(jax.random.key(1), 50, 4, sigma=1.0, flipped=0.2)

    single = draw(x64=False)
    double = draw(x64=True)
    np.testing.assert_array_equal(single.labels, double.labels)
    np.testing.assert_allclose(single.x, double.x, rtol=1e-6)
    with pytest.raises(ValueError, match="at least 1"):
        tasks.two_clusters(jax.random.key(0), 0, 3, sigma=1.0)


def linear(weights, x):
    return x @ weights.T


@pytest.fixture
def problem(x64):
    """Inputs, labels of class 0 or 1, and the weights and memory to begin with."""
    mixture = tasks.two_clusters(jax.random.key(0), 30, 5, sigma=0.7, flipped=0.2)
    labels = ((1 + mixture.labels) / 2).astype(int)
    weights = jax.random.normal(jax.random.key(1), (2, 5))
    logits = jax.random.normal(jax.random.key(2), (30, 2))
    memory = jax.nn.softmax(logits)
    return mixture.x, labels, weights, memory


def test_the_gradient_is_that_of_the_lemma(problem):
    # X^T (p - Y + strength g)/n with g_c = p_c/(1 - <p, t>) sum_k (t_k - t_c) p_k (Liu et al.,
    # 2020, lemma 2).
    x, labels, weights, memory = problem
    field = rules.early_learning(linear, 3.0, 0.7)
    params = {"params": weights, "state": memory}
    updates = field(params, (x, labels, jnp.arange(30)))
    p = jax.nn.softmax(linear(weights, x))
    t = 0.7 * memory + 0.3 * p
    overlap = jnp.sum(p * t, 1, keepdims=True)
    g = p / (1 - overlap) * (overlap - t)
    residual = p - jax.nn.one_hot(labels, 2) + 3 * g
    expected = residual.T @ x / 30
    np.testing.assert_allclose(updates["params"], expected, atol=1e-15)
    np.testing.assert_allclose(memory - updates["state"], t, atol=1e-15)


def test_only_visited_examples_remember(problem):
    x, labels, weights, memory = problem
    index = jnp.array([3, 17])
    field = rules.early_learning(linear, 1.0, 0.5)
    params = {"params": weights, "state": memory}
    updates = field(params, (x[index], labels[index], index))
    changed = np.any(updates["state"] != 0, axis=1)
    computed = np.flatnonzero(changed)
    np.testing.assert_array_equal(computed, [3, 17])


def test_without_strength_it_is_cross_entropy(problem):
    x, labels, weights, memory = problem
    plain = jax.grad(losses.cross_entropy(linear))(weights, (x, labels))
    field = rules.early_learning(linear, 0.0, 0.9)
    params = {"params": weights, "state": memory}
    updates = field(params, (x, labels, jnp.arange(30)))
    chex.assert_trees_all_close(updates["params"], plain, atol=1e-15)


def test_it_trains_on_minibatches(problem):
    x, labels, weights, memory = problem
    steps = {"params": optax.sgd(0.5), "state": optax.sgd(1.0)}
    optimizer = optax.partition(steps, {"params": "params", "state": "state"})
    stream = tasks.epochs(jax.random.key(0), (x, labels, jnp.arange(30)), 10)
    field = rules.early_learning(linear, 3.0, 0.7)
    start = {"params": weights, "state": jnp.zeros_like(memory)}
    run = jd.train(field, optimizer, stream, start, times=[3], observe=lambda state: {})
    # After one epoch each example was met once: 0.3 of a distribution.
    computed = run.final.params["state"].sum(1)
    np.testing.assert_allclose(computed, 0.3, rtol=1e-12)
