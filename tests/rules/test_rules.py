import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdyn as jd
from jaxdyn import losses, models, optimizers, rules, tasks

NO_DATA = tasks.full_batch(None)


@pytest.mark.usefixtures("x64")
def test_moments_give_the_loss_and_gradient_of_the_batch_they_came_from():
    net = models.deep_linear((3, 4, 2))
    params = net.init(jax.random.key(0))
    x_key, y_key = jax.random.split(jax.random.key(1))
    x = jax.random.normal(x_key, (50, 3))
    y = jax.random.normal(y_key, (50, 2))
    of_batch = losses.squared_error(net.apply)
    of_moments = losses.covariance_loss(models.product)
    moments = tasks.covariances(x, y)
    computed = of_moments(params, moments)
    expected = of_batch(params, (x, y))
    np.testing.assert_allclose(computed, expected, rtol=1e-13)

    def compare(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-14)

    computed = jax.grad(of_moments)(params, moments)
    expected = jax.grad(of_batch)(params, (x, y))
    jax.tree.map(compare, computed, expected)


@pytest.mark.usefixtures("x64")
def test_covariance_gradient_is_that_of_the_paper():
    # Saxe, McClelland, Ganguli 2013, eq. 3: -dW1/dt = W2^T (W2 W1 Sxx - Syx),  -dW2/dt = (W2 W1 Sxx
    # - Syx) W1^T.
    w1, w2 = models.deep_linear((3, 4, 2)).init(jax.random.key(0))
    xx = jnp.diag(jnp.array([1.0, 2.0, 3.0]))
    teacher = jax.random.normal(jax.random.key(1), (2, 3))
    moments = tasks.linear_teacher(teacher, xx, noise=0.3)
    gradient = jax.grad(losses.covariance_loss(models.product))([w1, w2], moments)
    error = w2 @ w1 @ xx - moments.yx
    np.testing.assert_allclose(gradient[0], w2.T @ error, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(gradient[1], error @ w1.T, rtol=1e-13, atol=1e-14)


def test_losses_are_normalised_as_documented():
    def apply(params, x):
        return x * params

    x = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    y = jnp.zeros((2, 2))
    squared_error = losses.squared_error(apply)
    assert squared_error(1.0, (x, y)) == pytest.approx(0.5 * (1 + 4 + 9 + 16) / 2)
    labels = jnp.array([0, 1])
    cross_entropy = losses.cross_entropy(apply)
    # Equal logits: ln(classes) nats.
    assert cross_entropy(0.0, (x, labels)) == pytest.approx(np.log(2))

    def softplus(z):
        return np.log1p(np.exp(z))

    # Logits (1, 2) and (3, 4): softplus of -+1.
    expected = (softplus(1.0) + softplus(-1.0)) / 2
    assert cross_entropy(1.0, (x, labels)) == pytest.approx(expected)


def test_state_moves_by_its_own_rule_while_the_rest_descends():
    # An average m <- 0.9 m + 0.1 p beside gradient descent on p^2/2: p_k = 0.8^k, m_k = 0.8^(k+1) -
    # 0.9^k * 0.8 ...
    def loss(params, batch):
        p = params["params"]
        m = params["state"]
        return 0.5 * p**2, 0.9 * m + 0.1 * p

    def observe(state):
        return state.params

    steps = {"params": optax.sgd(0.2), "state": optax.sgd(1.0)}
    optimizer = optax.partition(steps, {"params": "params", "state": "state"})
    field = rules.with_state(loss)
    start = {"params": jnp.asarray(1.0), "state": jnp.asarray(0.0)}
    run = jd.train(field, optimizer, NO_DATA, start, times=range(9), observe=observe)
    k = np.arange(9)
    np.testing.assert_allclose(run.observed["params"], 0.8**k, rtol=1e-6)
    # m_{k+1} - 0.9 m_k = 0.1 * 0.8^k with m_0 = 0 has the solution m_k = 0.9^k - 0.8^k.
    expected = 0.9**k - 0.8**k
    np.testing.assert_allclose(run.observed["state"], expected, atol=1e-6)


def test_scalar_rmsprop_by_hand(precision):
    # One rate for all parameters, from a mean square that includes the present gradient.
    def slope(p, _):
        return jax.tree.map(lambda a: a**3, p)

    def observe(state):
        return {"nu": state.memory.nu}

    params = {"a": jnp.array([1.0, -0.5]), "b": jnp.array(0.3)}
    optimizer = optimizers.scalar_rmsprop(0.1, 0.9, 0.2)
    run = jd.train(slope, optimizer, NO_DATA, params, times=[5], observe=observe)
    p = np.array([1.0, -0.5, 0.3])
    nu = 0.2
    for _ in range(5):
        g = p**3
        nu = 0.9 * nu + 0.1 * g @ g
        p = p - 0.1 * g / np.sqrt(nu)
    final = run.final.params
    computed = np.r_[final["a"], final["b"]]
    rtol = 10 * jnp.finfo(precision).eps
    np.testing.assert_allclose(computed, p, rtol=rtol)
    np.testing.assert_allclose(run.observed["nu"], nu, rtol=rtol)
    assert run.final.memory.nu.dtype == precision


def test_kicks_are_of_their_size_and_no_two_alike():
    def still(p, _):
        return jax.tree.map(jnp.zeros_like, p)

    def observe(state):
        flat = [state.params["a"].ravel(), state.params["b"]]
        return {"x": jnp.concatenate(flat)}

    params = {"a": jnp.zeros((30, 20)), "b": jnp.zeros(400)}

    def walk(key, size):
        optimizer = optax.chain(optax.sgd(0.5), optimizers.kicks(key, size))
        run = jd.train(still, optimizer, NO_DATA, params, times=range(5), observe=observe)
        return run.observed["x"]

    keys = jax.random.split(jax.random.key(0), 2)
    walks = jax.jit(jax.vmap(walk, (0, None)))(keys, 0.1)
    steps = jnp.diff(walks, axis=1).reshape(-1, 1000)
    overlaps = steps @ steps.T
    squared_lengths = np.diagonal(overlaps)
    # Squared lengths vary by sqrt(2/1000), products of different kicks by sqrt(1/1000): 4.5
    # standard errors.
    np.testing.assert_allclose(squared_lengths, 0.01, rtol=4.5 * 0.045)
    products = overlaps - np.diag(squared_lengths)
    assert np.abs(products).max() < 4.5 * 0.01 * 0.032
    with jax.enable_x64(True):
        exact = optimizers.kicks(jax.random.key(3), 0.1)
        wide, _ = exact.update(jnp.zeros(4), exact.init(None))
    # The same draw, scaled in its own precision.
    expected, _ = exact.update(jnp.zeros(4), exact.init(None))
    np.testing.assert_allclose(wide, expected, rtol=1e-6)
