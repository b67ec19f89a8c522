"""Gated linear networks: the same function, loss and gradient by pathways, by masks and by
covariances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdyn import losses, models, tasks

SHARED = ((0, 0, 0), (0, 1, 1), (1, 1, 0))
SIZES = (3, 4, 5, 2)


@pytest.fixture
def problem(x64):
    x = jax.random.normal(jax.random.key(0), (20, 3))
    y = jax.random.normal(jax.random.key(1), (20, 2))
    gates = jax.random.bernoulli(jax.random.key(2), 0.5, (20, 3)).astype(float)
    model = models.gated_linear(SIZES, SHARED, scale=0.7)
    return model, model.init(jax.random.key(3)), x, gates, y


def test_outputs_are_the_sum_over_open_pathways(problem):
    model, weights, x, gates, _ = problem
    out = model.apply(weights, (x, gates))
    for n in range(20):
        by_hand = sum(
            gates[n, p] * (weights[2][c] @ (weights[1][b] @ (weights[0][a] @ x[n])))
            for p, (a, b, c) in enumerate(SHARED)
        )
        np.testing.assert_allclose(out[n], by_hand, atol=1e-14)


def test_covariances_give_the_gradient_of_the_batch(problem):
    model, weights, x, gates, y = problem
    of_batch = losses.squared_error(model.apply)
    of_moments = losses.covariance_loss(lambda w: models.gated_product(w, SHARED))
    moments = tasks.covariances(models.gated_inputs(x, gates), y)
    expected = of_batch(weights, ((x, gates), y))
    np.testing.assert_allclose(of_moments(weights, moments), expected, rtol=1e-13)
    gradients = jax.grad(of_moments)(weights, moments), jax.grad(of_batch)(weights, ((x, gates), y))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-13), *gradients)


def test_one_open_pathway_is_a_deep_linear_network(problem):
    _, weights, x, _, _ = problem
    one = models.gated_linear(SIZES, ((0, 0, 0),))
    alone = [w[0] for w in weights]
    out = one.apply([w[:1] for w in weights], (x, jnp.ones((20, 1))))
    expected = models.deep_linear(SIZES).apply(alone, x)
    np.testing.assert_allclose(out, expected, atol=1e-14)


def test_initial_variances_are_as_documented():
    (first, second) = models.gated_linear((200, 150, 100), ((0, 0), (1, 0)), scale=1.5).init(
        jax.random.key(0)
    )
    assert first.shape == (2, 150, 200)
    for w in (first, second):
        # The variance of n Gaussian draws is known to sqrt(2/n).
        assert abs(jnp.var(w) * w.shape[2] / 1.5**2 - 1) < 4.5 * (2 / w.size) ** 0.5


@pytest.mark.parametrize("routes", [(), ((0,),), ((0, -1),)])
def test_routes_that_do_not_fit_are_refused(routes):
    with pytest.raises(ValueError, match="routes"):
        models.gated_linear((3, 4, 2), routes)
