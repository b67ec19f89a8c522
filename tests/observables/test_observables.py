import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import jaxdyn as jd
from jaxdyn import analysis, kernels, losses, models, observables, tasks

NET = models.mlp((3, 5, 2), bias_scale=0.1)


def batch(n=20):
    x = jax.random.normal(jax.random.key(1), (n, 3), jnp.float32).astype(float)
    return x, jnp.sin(x[:, :2])


def state(seed=0):
    return jd.State(jnp.asarray(0), NET.init(jax.random.key(seed)))


def dense_hessian(loss, params, data):
    flat, unravel = ravel_pytree(params)
    return jax.jit(jax.hessian(lambda p: loss(unravel(p), data)))(flat)


@pytest.mark.usefixtures("x64")
def test_sharpness_is_exact_at_full_depth_and_bounded_below_it():
    loss = losses.squared_error(NET.apply)
    data = batch()
    exact = jnp.linalg.eigvalsh(dense_hessian(loss, state().params, data))[-1]
    found = [
        jax.jit(observables.sharpness(loss, data, depth=d))(state())["sharpness"]
        for d in (2, 8, 1000)
    ]
    assert abs(found[-1] / exact - 1) < 1e-10
    # Krylov spaces are nested, so Ritz values grow with the depth, and never above the eigenvalue.
    assert np.all(np.diff(found) > -1e-12)
    assert max(found) < exact * (1 + 1e-12)


@pytest.mark.parametrize(
    "values",
    [[3.0] * 6, [5.0, 5.0, 1.0, 1.0, 1.0, 1.0], [-1.0, -1.0, -2.0, 0.0, 0.0, 0.0], [0.0] * 6],
)
def test_sharpness_survives_invariant_subspaces(values, precision):
    # A quadratic with few distinct eigenvalues: Lanczos breaks down long before its depth.
    q = models.orthogonal(jax.random.key(0), 6, 6)
    hessian = (q * jnp.array(values)[None]) @ q.T
    observe = observables.sharpness(lambda p, b: 0.5 * p @ b @ p, hessian, depth=6)
    found = jax.jit(observe)(jd.State(0, jnp.ones(6)))["sharpness"]
    assert abs(found - max(values)) < 200 * jnp.finfo(precision).eps * max(1, max(np.abs(values)))


@pytest.mark.usefixtures("x64")
def test_sharpness_of_a_linear_mode_is_that_of_the_theory():
    # At the balanced minimum of depth D the top Hessian eigenvalue is D s^(2 - 2/D), s the top
    # singular value.
    for depth in (2, 5):
        frames = tasks.frames(jax.random.key(depth), (3,) * (depth + 1), 3)
        s = np.array([2.0, 1.0, 0.5])
        moments = tasks.linear_teacher(tasks.from_svd(frames[-1], s, frames[0]))
        observe = observables.sharpness(losses.covariance_loss(models.product), moments, depth=100)
        found = jax.jit(observe)(jd.State(0, models.aligned(frames, s)))["sharpness"]
        assert abs(found / (depth * 2 ** (2 - 2 / depth)) - 1) < 1e-10


def test_expensive_observables_run_on_schedule_under_vmap():
    loss = losses.squared_error(NET.apply)
    data = batch()

    def simulate(key):
        start = NET.init(key)
        expensive = observables.combine(
            observables.sharpness(loss, data, depth=8),
            observables.kernel_change(
                lambda p: kernels.empirical.ntk(NET.apply, p, data[0][:4]), start
            ),
        )
        observe = observables.combine(observables.loss(loss, data), jd.at([0, 4], expensive))
        times = np.array([0, 2, 4])
        return jd.train(
            jax.grad(loss),
            optax.sgd(0.1),
            tasks.full_batch(data),
            start,
            times=times,
            observe=observe,
        ).observed

    seen = jax.jit(jax.vmap(simulate))(jax.random.split(jax.random.key(0), 3))
    computed = np.isnan(seen["sharpness"])
    expected = np.array([[False, True, False]] * 3)
    np.testing.assert_array_equal(computed, expected)
    computed = seen["kernel_alignment"][:, 0]
    np.testing.assert_allclose(computed, 1, rtol=1e-5)
    assert np.all(seen["kernel_distance"][:, 2] > 1e-3)
    assert np.all(np.diff(seen["loss"]) < 0)


@pytest.mark.usefixtures("x64")
def test_ntk_of_a_linear_network_is_its_closed_form():
    # Two layers: K = W2 W2^T (x) X X^T + I (x) X W1^T W1 X^T.
    net = models.deep_linear((3, 4, 2))
    x = batch(5)[0]

    def kernel(w):
        return np.kron(x @ x.T, w[1] @ w[1].T) + np.kron(x @ w[0].T @ w[0] @ x.T, np.eye(2))

    a = net.init(jax.random.key(0))
    b = net.init(jax.random.key(1))

    def ntk(p):
        return kernels.empirical.ntk(net.apply, p, x, trace=False)

    seen = observables.kernel_change(ntk, a)(jd.State(0, b))
    k = kernel(b)
    k0 = kernel(a)
    expected = np.linalg.norm(k - k0) / np.linalg.norm(k0)
    np.testing.assert_allclose(seen["kernel_distance"], expected, rtol=1e-12)
    expected = np.sum(k * k0) / np.linalg.norm(k) / np.linalg.norm(k0)
    np.testing.assert_allclose(
        seen["kernel_alignment"],
        expected,
        rtol=1e-12,
    )


@pytest.mark.usefixtures("x64")
def test_alignment_with_targets_is_centred():
    y = batch(6)[1]

    def align(k, y):
        return observables.kernel_target_alignment(lambda p: k, y)(jd.State(0, ()))[
            "kernel_target_alignment"
        ]

    # Neither a shift of the targets nor one common to all entries of the kernel counts.
    computed = align(3 * y @ y.T + 7, y + 5)
    np.testing.assert_allclose(computed, 1, rtol=1e-12)
    h = np.eye(6) - 1 / 6
    k = np.diag(np.arange(6.0))
    expected = (
        np.sum(h @ k @ h * (h @ y @ y.T @ h))
        / np.linalg.norm(h @ k @ h)
        / np.linalg.norm(h @ y @ y.T @ h)
    )
    computed = align(jnp.asarray(k), y)
    np.testing.assert_allclose(computed, expected, rtol=1e-12)
    computed = align(jnp.asarray(k), y[:, 0])
    np.testing.assert_allclose(computed, align(jnp.asarray(k), y[:, :1]), rtol=1e-12)
    with pytest.raises(ValueError, match=r"\(6, 6, 2, 2\)"):
        align(jnp.ones((6, 6, 2, 2)), y)


@pytest.mark.usefixtures("x64")
def test_modes_of_a_known_matrix():
    left, right = tasks.frames(jax.random.key(0), (5, 4), 3)
    spare = jnp.linalg.qr(jnp.concatenate([left, jnp.eye(5)[:, :1]], 1))[0][:, 3]
    s = np.array([3.0, 2.0, 1.0])
    # 0.3 between two modes and 0.4 outside the left frame: leakage 0.5.
    w = (
        tasks.from_svd(left, s, right)
        + 0.3 * jnp.outer(left[:, 0], right[:, 1])
        + 0.4 * jnp.outer(spare, right[:, 2])
    )
    here = jd.State(0, {"w": w})

    def of(params):
        return params["w"]

    computed = observables.mode_strengths(of, left, right)(here)["mode_strengths"]
    np.testing.assert_allclose(computed, s, rtol=1e-13)
    computed = observables.leakage(of, left, right)(here)["leakage"]
    np.testing.assert_allclose(computed, 0.5, rtol=1e-13)
    computed = observables.singular_values(of)(here)["singular_values"]
    expected = np.linalg.svd(w, compute_uv=False)
    np.testing.assert_allclose(
        computed,
        expected,
        atol=1e-14,
    )
    clean = jd.State(0, {"w": -tasks.from_svd(left, s, right)})
    for name, value in observables.alignment(of, left[:, :2], right[:, :2])(clean).items():
        np.testing.assert_allclose(value, np.ones(2), rtol=1e-12, err_msg=name)
    swapped = observables.alignment(of, left[:, jnp.array([1, 0])], right[:, :2])(clean)
    np.testing.assert_allclose(swapped["left_alignment"], np.zeros(2), atol=1e-12)


def test_norms_are_over_all_parameters():
    data = batch()
    loss = losses.squared_error(NET.apply)
    seen = observables.combine(
        observables.gradient_norm(jax.grad(loss), data),
        observables.weight_distance(state(1).params),
    )(state(0))

    def flat(tree):
        return np.concatenate([np.ravel(a) for a in jax.tree.leaves(tree)])

    expected = np.linalg.norm(flat(jax.grad(loss)(state(0).params, data)))
    np.testing.assert_allclose(
        seen["gradient_norm"],
        expected,
        rtol=1e-5,
    )
    a = flat(state(0).params)
    b = flat(state(1).params)
    expected = np.linalg.norm(a - b) / np.linalg.norm(b)
    np.testing.assert_allclose(seen["weight_distance"], expected, rtol=1e-5)


def test_names_that_clash_are_refused_and_prefixed_apart():
    train = observables.loss(losses.squared_error(NET.apply), batch(4))
    with pytest.raises(ValueError, match=r"\['loss'\]"):
        observables.combine(train, train)(state())
    seen = observables.combine(train, observables.prefixed("test_", train))(state())
    assert seen["loss"] == seen["test_loss"]


@pytest.mark.usefixtures("x64")
def test_the_largest_eigenvalues_are_those_of_the_dense_hessian():
    loss = losses.squared_error(NET.apply)
    data = batch()
    exact = jnp.linalg.eigvalsh(dense_hessian(loss, state().params, data))[::-1]
    found = jax.jit(observables.hessian_eigenvalues(loss, data, top=4, depth=1000))(state())[
        "hessian_eigenvalues"
    ]
    np.testing.assert_allclose(found, exact[:4], rtol=1e-10)
    with pytest.raises(ValueError, match="top: 3; pass at least 1, at most depth=2"):
        observables.hessian_eigenvalues(loss, data, top=3, depth=2)(state())


def test_eigenvalues_that_the_hessian_does_not_have_are_nan(precision):
    # Five and one, three times each: Lanczos' method sees each once.
    q = models.orthogonal(jax.random.key(0), 6, 6)
    hessian = (q * jnp.array([5.0, 5.0, 5.0, 1.0, 1.0, 1.0])[None]) @ q.T
    observe = observables.hessian_eigenvalues(lambda p, b: 0.5 * p @ b @ p, hessian, top=3, depth=6)
    found = jax.jit(observe)(jd.State(0, jnp.ones(6)))["hessian_eigenvalues"]
    expected = [5, 1, np.nan]
    rtol = 1000 * jnp.finfo(precision).eps
    np.testing.assert_allclose(found, expected, rtol=rtol)


@pytest.mark.parametrize("window", [1, 2, 5, 12])
def test_box_averages_are_means_of_windows(window):
    records = 1e4 + np.random.default_rng(0).standard_normal((12, 3))
    found = np.asarray(analysis.box_average(jnp.asarray(records), window))
    places = np.flatnonzero(np.isfinite(found[:, 0]))
    expected = window // 2 + np.arange(12 - window + 1)
    np.testing.assert_array_equal(places, expected)
    for i, place in enumerate(places):
        # Rounding of single numbers of size 1e4, not of their sums.
        expected = records[i : i + window].mean(0)
        np.testing.assert_allclose(found[place], expected, atol=2e-3)
    with pytest.raises(ValueError, match="window: 13 of 12 records"):
        analysis.box_average(jnp.asarray(records), 13)
