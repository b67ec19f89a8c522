"""Population losses and moments are the averages of what the models' own `apply` loses on data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdyn import losses, models, tasks

pytestmark = pytest.mark.usefixtures("x64")
ACTIVATIONS = {"linear": lambda h: h, "square": jnp.square, "relu": jax.nn.relu}


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape, jnp.float32).astype(float)


def within_sampling_error(drawn, expected):
    """Check that the mean of what was drawn is as expected."""
    standard_error = drawn.std() / len(drawn) ** 0.5
    assert abs(drawn.mean() - expected) < 4.5 * standard_error


@pytest.mark.parametrize(
    ("activation", "patches"), [("linear", 1), ("square", 3), ("relu", 1), ("relu", 3)]
)
def test_teacher_loss_is_the_mean_over_gaussian_inputs(activation, patches):
    function = ACTIVATIONS[activation]
    inputs = 2 * patches
    student = models.two_layer(inputs, 3, activation=function, patches=patches)
    teacher = models.two_layer(inputs, 2, activation=function, patches=patches)
    teacher_loss = losses.teacher_loss(activation, patches)

    @jax.jit
    def both(key):
        params = student.init(key)
        goal = teacher.init(jax.random.key(1))
        x = normal(2, 20_000, inputs)
        error = student.apply(params, x) - teacher.apply(goal, x)
        return error**2 / 2, teacher_loss(params, goal)

    drawn, expected = both(jax.random.key(0))
    within_sampling_error(np.asarray(drawn), np.asarray(expected))


def test_the_loss_of_rectifiers_is_smooth_at_zero_and_at_parallel_units():
    teacher = {"u": jnp.eye(2), "v": jnp.array([1.0, -1.0])}
    parallel = [[1.0, 2.0], [0.5, 1.0]]
    opposed = [-1.0, -2.0]
    zero = [0.0, 0.0]
    along_the_teacher = [0.3, 0.0]
    u = jnp.array([*parallel, opposed, zero, along_the_teacher])
    v = jnp.array([0.7, 0.2, -0.4, 0.0, 0.5])
    flat, unravel = jax.flatten_util.ravel_pytree({"u": u, "v": v})

    def loss(w):
        return losses.teacher_loss("relu")(unravel(w), teacher)

    gradient = jax.jit(jax.grad(loss))
    hessian = jax.jit(jax.hessian(loss))(flat)
    shifts = 1e-5 * jnp.eye(len(flat))
    up = flat[None] + shifts
    down = flat[None] - shifts
    value = jax.jit(jax.vmap(loss))
    slope = jax.vmap(gradient)
    moving = np.setdiff1d(np.arange(len(flat)), [6, 7])  # a zero unit has a slope of |u| of its own
    differences = (value(up) - value(down)) / 2e-5
    np.testing.assert_allclose(gradient(flat), differences, atol=1e-9)
    curvature = (slope(up) - slope(down)) / 2e-5
    assert np.all(np.isfinite(hessian))
    # Third derivatives jump at parallel units, so that differences are of first order.
    computed = hessian[moving][:, moving]
    expected = curvature[moving][:, moving]
    np.testing.assert_allclose(computed, expected, atol=1e-4)


def test_linear_convolutions_and_attention_are_linear_networks_of_second_moments():
    def both(net, product, features, x, y):
        """The loss by moments of the features, and by the samples."""
        params = net.init(jax.random.key(2))
        moments = tasks.covariances(features, y[:, None])
        by_moments = losses.covariance_loss(product)(params, moments)
        by_samples = losses.squared_error(net.apply)(params, (x, y))
        return by_moments, by_samples

    def convolution(key):
        linear = ACTIVATIONS["linear"]
        net = models.two_layer(6, 4, activation=linear, patches=3, pooled=False)
        x = jax.random.normal(key, (30, 6))
        return both(net, models.two_layer_product, x, x, normal(1, 30))

    def attention(key, rank):
        covariance = jnp.diag(jnp.array([1.0, 0.3]))
        prompts = tasks.in_context_regression(key, 30, 5, covariance)
        x = prompts[:3]
        features = tasks.in_context_features(*x)
        net = models.in_context_attention(2, 3, rank=rank)
        return both(net, models.attention_product, features, x, prompts.target)

    @jax.jit
    def pairs(key):
        return [convolution(key), attention(key, rank=None), attention(key, rank=2)]

    for by_moments, by_samples in pairs(jax.random.key(0)):
        np.testing.assert_allclose(by_moments, by_samples, rtol=1e-12)


def test_moments_of_prompts_are_those_of_drawn_ones():
    q = models.orthogonal(jax.random.key(0), 3, 3)
    covariance = tasks.from_svd(q, jnp.array([1.0, 0.5, 0.2]), q)
    prompts = tasks.in_context_regression(jax.random.key(1), 20_000, 2, covariance)
    computed = prompts.x[:, 0].T @ prompts.query
    np.testing.assert_allclose(computed, 0, atol=4.5 * 20_000**0.5)
    features = np.asarray(tasks.in_context_features(*prompts[:3]))
    target = np.asarray(prompts.target)
    exact = tasks.in_context_moments(covariance, 2)
    for i, j in ((0, 0), (0, 4), (3, 5), (7, 7), (2, 6)):
        within_sampling_error(features[:, i] * features[:, j], exact.xx[i, j])
        within_sampling_error(target * features[:, i], exact.yx[0, i])
    within_sampling_error(target**2, exact.yy[0, 0])
    squared_lengths = np.sum(features**2, 1)
    within_sampling_error(squared_lengths, np.trace(exact.xx))


def test_a_softmax_of_small_scores_averages_and_adds_linear_attention():
    # softmax(s)_n = 1/N + (s_n - mean s)/N + O(s^2).
    x, y, query = tasks.in_context_regression(jax.random.key(0), 6, 8, jnp.eye(2))[:3]
    soft = models.in_context_attention(2, 2, rank=1, softmax=True)
    linear = models.in_context_attention(2, 2, rank=1, softmax=False)
    params = soft.init(jax.random.key(1))
    params["v"] = jnp.array([1.0, -0.5])
    params["key"] = 1e-4 * params["key"]
    centred = y - y.mean(1, keepdims=True)
    average = params["v"].sum() * y.mean(1)
    expected = average + linear.apply(params, (x, centred, query))
    computed = soft.apply(params, (x, y, query))
    np.testing.assert_allclose(computed, expected, atol=1e-7)


def two_layer(scale):
    return models.two_layer(4, 3, activation=jnp.square, scale=scale)


def attention(scale):
    return models.in_context_attention(3, 2, scale=scale)


@pytest.mark.parametrize("make", [two_layer, attention])
def test_a_scale_of_zero_is_refused_and_units_may_have_their_own(make):
    with pytest.raises(ValueError, match=r"scale: 0.0 starts at an exact saddle"):
        make(0.0)
    plain = make(1.0).init(jax.random.key(0))
    width = len(plain["v"])
    sizes = jnp.arange(width) / 10
    scaled = make(sizes).init(jax.random.key(0))
    for name, weights in plain.items():
        trailing = range(1, weights.ndim)
        expected = weights * jnp.expand_dims(sizes, tuple(trailing))
        np.testing.assert_allclose(scaled[name], expected, rtol=1e-15)


def test_misfits_are_refused():
    with pytest.raises(ValueError, match=r"patches: 4 do not divide 6 inputs"):
        models.two_layer(6, 2, activation=jnp.tanh, patches=4)
    words = r"activation: 'tanh' has no closed form here; pass one of \['linear'"
    with pytest.raises(ValueError, match=words):
        losses.teacher_loss("tanh")
