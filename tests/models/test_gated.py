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
    is_open = jax.random.bernoulli(jax.random.key(2), 0.5, (20, 3))
    gates = is_open.astype(float)
    model = models.gated_linear(SIZES, SHARED, scale=0.7)
    return model, model.init(jax.random.key(3)), x, gates, y


def test_outputs_are_the_sum_over_open_pathways(problem):
    model, weights, x, gates, _ = problem
    first, second, third = weights
    out = model.apply(weights, (x, gates))

    def along(route, signal):
        a, b, c = route
        hidden = second[b] @ (first[a] @ signal)
        return third[c] @ hidden

    for n in range(20):
        pathways = [gates[n, p] * along(route, x[n]) for p, route in enumerate(SHARED)]
        np.testing.assert_allclose(out[n], sum(pathways), atol=1e-14)


def test_covariances_give_the_gradient_of_the_batch(problem):
    model, weights, x, gates, y = problem
    of_batch = losses.squared_error(model.apply)
    of_moments = losses.covariance_loss(lambda w: models.gated_product(w, SHARED))
    batch = ((x, gates), y)
    moments = tasks.covariances(models.gated_inputs(x, gates), y)
    computed = of_moments(weights, moments)
    expected = of_batch(weights, batch)
    np.testing.assert_allclose(computed, expected, rtol=1e-13)

    def compare(a, b):
        np.testing.assert_allclose(a, b, atol=1e-13)

    computed = jax.grad(of_moments)(weights, moments)
    expected = jax.grad(of_batch)(weights, batch)
    jax.tree.map(compare, computed, expected)


def test_one_open_pathway_is_a_deep_linear_network(problem):
    _, weights, x, _, _ = problem
    one = models.gated_linear(SIZES, ((0, 0, 0),))
    first_of_each = [w[:1] for w in weights]
    always_open = jnp.ones((20, 1))
    out = one.apply(first_of_each, (x, always_open))
    alone = [w[0] for w in weights]
    expected = models.deep_linear(SIZES).apply(alone, x)
    np.testing.assert_allclose(out, expected, atol=1e-14)


def test_initial_variances_are_as_documented():
    routes = ((0, 0), (1, 0))
    model = models.gated_linear((200, 150, 100), routes, scale=1.5)
    first, second = model.init(jax.random.key(0))
    assert first.shape == (2, 150, 200)
    for w in (first, second):
        # The variance of n Gaussian draws is known to sqrt(2/n).
        assert abs(jnp.var(w) * w.shape[2] / 1.5**2 - 1) < 4.5 * (2 / w.size) ** 0.5


@pytest.mark.parametrize("routes", [(), ((0,),), ((0, -1),)])
def test_routes_that_do_not_fit_are_refused(routes):
    with pytest.raises(ValueError, match="routes"):
        models.gated_linear((3, 4, 2), routes)
