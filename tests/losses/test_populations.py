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
    assert abs(drawn.mean() - expected) < 4.5 * drawn.std() / len(drawn) ** 0.5


@pytest.mark.parametrize(
    ("activation", "patches"), [("linear", 1), ("square", 3), ("relu", 1), ("relu", 3)]
)
def test_teacher_loss_is_the_mean_over_gaussian_inputs(activation, patches):
    student, teacher = (
        models.two_layer(2 * patches, width, activation=ACTIVATIONS[activation], patches=patches)
        for width in (3, 2)
    )

    @jax.jit
    def both(key):
        params = student.init(key)
        goal = teacher.init(jax.random.key(1))
        x = normal(2, 20_000, 2 * patches)
        drawn = (student.apply(params, x) - teacher.apply(goal, x)) ** 2 / 2
        return drawn, losses.teacher_loss(activation, patches)(params, goal)

    within_sampling_error(*map(np.asarray, both(jax.random.key(0))))


def test_the_loss_of_rectifiers_is_smooth_at_zero_and_at_parallel_units():
    teacher = {"u": jnp.eye(2), "v": jnp.array([1.0, -1.0])}
    # Two parallel units, one opposed, one of zero, and one along the teacher.
    u = jnp.array([[1.0, 2.0], [0.5, 1.0], [-1.0, -2.0], [0.0, 0.0], [0.3, 0.0]])
    params = {"u": u, "v": jnp.array([0.7, 0.2, -0.4, 0.0, 0.5])}
    flat, unravel = jax.flatten_util.ravel_pytree(params)

    def loss(w):
        return losses.teacher_loss("relu")(unravel(w), teacher)

    gradient = jax.jit(jax.grad(loss))
    hessian = jax.jit(jax.hessian(loss))(flat)
    up = flat[None] + 1e-5 * jnp.eye(len(flat))
    down = flat[None] - 1e-5 * jnp.eye(len(flat))
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
        params = net.init(jax.random.key(2))
        by_moments = losses.covariance_loss(product)(
            params, tasks.covariances(features, y[:, None])
        )
        return by_moments, losses.squared_error(net.apply)(params, (x, y))

    @jax.jit
    def pairs(key):
        net = models.two_layer(6, 4, activation=ACTIVATIONS["linear"], patches=3, pooled=False)
        x = jax.random.normal(key, (30, 6))
        y = normal(1, 30)
        prompts = tasks.in_context_regression(key, 30, 5, jnp.diag(jnp.array([1.0, 0.3])))
        features = tasks.in_context_features(*prompts[:3])
        nets = [models.in_context_attention(2, 3, rank=r) for r in (None, 2)]
        attention = [
            both(n, models.attention_product, features, prompts[:3], prompts.target) for n in nets
        ]
        return [both(net, models.two_layer_product, x, x, y), *attention]

    for by_moments, by_samples in pairs(jax.random.key(0)):
        np.testing.assert_allclose(by_moments, by_samples, rtol=1e-12)


def test_moments_of_prompts_are_those_of_drawn_ones():
    q = models.orthogonal(jax.random.key(0), 3, 3)
    covariance = tasks.from_svd(q, jnp.array([1.0, 0.5, 0.2]), q)
    prompts = tasks.in_context_regression(jax.random.key(1), 20_000, 2, covariance)
    computed = prompts.x[:, 0].T @ prompts.query
    np.testing.assert_allclose(computed, 0, atol=4.5 * 20_000**0.5)
    features = tasks.in_context_features(*prompts[:3])
    exact = tasks.in_context_moments(covariance, 2)
    for i, j in ((0, 0), (0, 4), (3, 5), (7, 7), (2, 6)):
        within_sampling_error(np.asarray(features[:, i] * features[:, j]), exact.xx[i, j])
        within_sampling_error(np.asarray(prompts.target * features[:, i]), exact.yx[0, i])
    within_sampling_error(np.asarray(prompts.target**2), exact.yy[0, 0])
    within_sampling_error(np.sum(features**2, 1), np.trace(exact.xx))


def test_a_softmax_of_small_scores_averages_and_adds_linear_attention():
    # softmax(s)_n = 1/N + (s_n - mean s)/N + O(s^2).
    prompts = tasks.in_context_regression(jax.random.key(0), 6, 8, jnp.eye(2))[:3]
    soft, linear = (
        models.in_context_attention(2, 2, rank=1, softmax=softmax) for softmax in (True, False)
    )
    params = soft.init(jax.random.key(1)) | {"v": jnp.array([1.0, -0.5])}
    params |= {"key": 1e-4 * params["key"]}
    centred = prompts[0], prompts[1] - prompts[1].mean(1, keepdims=True), prompts[2]
    expected = params["v"].sum() * prompts[1].mean(1) + linear.apply(params, centred)
    computed = soft.apply(params, prompts)
    np.testing.assert_allclose(computed, expected, atol=1e-7)


@pytest.mark.parametrize(
    "make",
    [
        lambda scale: models.two_layer(4, 3, activation=jnp.square, scale=scale),
        lambda scale: models.in_context_attention(3, 2, scale=scale),
    ],
)
def test_a_scale_of_zero_is_refused_and_units_may_have_their_own(make):
    with pytest.raises(ValueError, match=r"scale: 0.0 starts at an exact saddle"):
        make(0.0)
    width = len(make(1.0).init(jax.random.key(0))["v"])
    sizes = jnp.arange(width) / 10
    one, other = (make(scale).init(jax.random.key(0)) for scale in (1.0, sizes))
    for name in one:
        scaled = one[name] * sizes.reshape((-1,) + (1,) * (one[name].ndim - 1))
        np.testing.assert_allclose(other[name], scaled, rtol=1e-15)


def test_misfits_are_refused():
    with pytest.raises(ValueError, match=r"patches: 4 do not divide 6 inputs"):
        models.two_layer(6, 2, activation=jnp.tanh, patches=4)
    with pytest.raises(
        ValueError, match=r"activation: 'tanh' has no closed form here; pass one of \['linear'"
    ):
        losses.teacher_loss("tanh")
