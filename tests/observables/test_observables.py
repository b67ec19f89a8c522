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
    x = jax.random.normal(jax.random.key(1), (n, 3), jnp.float32)
    x = x.astype(float)
    return x, jnp.sin(x[:, :2])


def state(seed=0):
    params = NET.init(jax.random.key(seed))
    return jd.State(jnp.asarray(0), params)


def quadratic(p, hessian):
    return 0.5 * p @ hessian @ p


def dense_hessian(loss, params, data):
    flat, unravel = ravel_pytree(params)

    def of_flat(p):
        return loss(unravel(p), data)

    return jax.jit(jax.hessian(of_flat))(flat)


@pytest.mark.usefixtures("x64")
def test_sharpness_is_exact_at_full_depth_and_bounded_below_it():
    loss = losses.squared_error(NET.apply)
    data = batch()
    hessian = dense_hessian(loss, state().params, data)
    exact = jnp.linalg.eigvalsh(hessian)[-1]

    def at_depth(depth):
        observe = jax.jit(observables.sharpness(loss, data, depth=depth))
        return observe(state())["sharpness"]

    found = [at_depth(depth) for depth in (2, 8, 1000)]
    assert abs(found[-1] / exact - 1) < 1e-10
    # Krylov spaces are nested, so Ritz values grow with the depth, and never above the eigenvalue.
    assert np.all(np.diff(found) > -1e-12)
    assert max(found) < exact * (1 + 1e-12)


FEW_DISTINCT = [
    [3.0] * 6,
    [5.0, 5.0, 1.0, 1.0, 1.0, 1.0],
    [-1.0, -1.0, -2.0, 0.0, 0.0, 0.0],
    [0.0] * 6,
]


@pytest.mark.parametrize("values", FEW_DISTINCT)
def test_sharpness_survives_invariant_subspaces(values, precision):
    # A quadratic with few distinct eigenvalues: Lanczos breaks down long before its depth.
    q = models.orthogonal(jax.random.key(0), 6, 6)
    hessian = (q * jnp.array(values)[None]) @ q.T
    observe = jax.jit(observables.sharpness(quadratic, hessian, depth=6))
    seen = observe(jd.State(0, jnp.ones(6)))
    error = abs(seen["sharpness"] - max(values))
    scale = max(1, max(np.abs(values)))
    assert error < 200 * jnp.finfo(precision).eps * scale


@pytest.mark.usefixtures("x64")
def test_sharpness_of_a_linear_mode_is_that_of_the_theory():
    # At the balanced minimum of depth D the top Hessian eigenvalue is D s^(2 - 2/D), s the top
    # singular value.
    for depth in (2, 5):
        frames = tasks.frames(jax.random.key(depth), (3,) * (depth + 1), 3)
        s = np.array([2.0, 1.0, 0.5])
        teacher = tasks.from_svd(frames[-1], s, frames[0])
        moments = tasks.linear_teacher(teacher)
        loss = losses.covariance_loss(models.product)
        observe = jax.jit(observables.sharpness(loss, moments, depth=100))
        minimum = models.aligned(frames, s)
        seen = observe(jd.State(0, minimum))
        expected = depth * 2 ** (2 - 2 / depth)
        assert abs(seen["sharpness"] / expected - 1) < 1e-10


def test_expensive_observables_run_on_schedule_under_vmap():
    loss = losses.squared_error(NET.apply)
    data = batch()
    stream = tasks.full_batch(data)
    times = np.array([0, 2, 4])
    field = jax.grad(loss)

    def ntk(p):
        return kernels.empirical.ntk(NET.apply, p, data[0][:4])

    def simulate(key):
        start = NET.init(key)
        sharpness = observables.sharpness(loss, data, depth=8)
        change = observables.kernel_change(ntk, start)
        expensive = observables.combine(sharpness, change)
        observe = observables.combine(observables.loss(loss, data), jd.at([0, 4], expensive))
        run = jd.train(field, optax.sgd(0.1), stream, start, times=times, observe=observe)
        return run.observed

    keys = jax.random.split(jax.random.key(0), 3)
    seen = jax.jit(jax.vmap(simulate))(keys)
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
        first, second = w
        of_second = np.kron(x @ first.T @ first @ x.T, np.eye(2))
        of_first = np.kron(x @ x.T, second @ second.T)
        return of_first + of_second

    a = net.init(jax.random.key(0))
    b = net.init(jax.random.key(1))

    def ntk(p):
        return kernels.empirical.ntk(net.apply, p, x, trace=False)

    observe = observables.kernel_change(ntk, a)
    seen = observe(jd.State(0, b))
    k = kernel(b)
    k0 = kernel(a)
    norm = np.linalg.norm(k)
    norm0 = np.linalg.norm(k0)
    distance = np.linalg.norm(k - k0) / norm0
    np.testing.assert_allclose(seen["kernel_distance"], distance, rtol=1e-12)
    alignment = np.sum(k * k0) / norm / norm0
    np.testing.assert_allclose(seen["kernel_alignment"], alignment, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_alignment_with_targets_is_centred():
    y = batch(6)[1]

    def align(k, y):
        observe = observables.kernel_target_alignment(lambda p: k, y)
        seen = observe(jd.State(0, ()))
        return seen["kernel_target_alignment"]

    # Neither a shift of the targets nor one common to all entries of the kernel counts.
    computed = align(3 * y @ y.T + 7, y + 5)
    np.testing.assert_allclose(computed, 1, rtol=1e-12)
    centre = np.eye(6) - 1 / 6
    k = np.diag(np.arange(6.0))
    centred = centre @ k @ centre
    targets = centre @ y @ y.T @ centre
    expected = np.sum(centred * targets) / np.linalg.norm(centred) / np.linalg.norm(targets)
    kernel = jnp.asarray(k)
    computed = align(kernel, y)
    np.testing.assert_allclose(computed, expected, rtol=1e-12)
    of_vector = align(kernel, y[:, 0])
    of_column = align(kernel, y[:, :1])
    np.testing.assert_allclose(of_vector, of_column, rtol=1e-12)
    with pytest.raises(ValueError, match=r"\(6, 6, 2, 2\)"):
        align(jnp.ones((6, 6, 2, 2)), y)


@pytest.mark.usefixtures("x64")
def test_modes_of_a_known_matrix():
    left, right = tasks.frames(jax.random.key(0), (5, 4), 3)
    extended = jnp.concatenate([left, jnp.eye(5)[:, :1]], 1)
    basis, _ = jnp.linalg.qr(extended)
    spare = basis[:, 3]
    s = np.array([3.0, 2.0, 1.0])
    # 0.3 between two modes and 0.4 outside the left frame: leakage 0.5.
    modes = tasks.from_svd(left, s, right)
    between = 0.3 * jnp.outer(left[:, 0], right[:, 1])
    outside = 0.4 * jnp.outer(spare, right[:, 2])
    w = modes + between + outside
    here = jd.State(0, {"w": w})

    def of(params):
        return params["w"]

    strengths = observables.mode_strengths(of, left, right)
    computed = strengths(here)["mode_strengths"]
    np.testing.assert_allclose(computed, s, rtol=1e-13)
    leakage = observables.leakage(of, left, right)
    computed = leakage(here)["leakage"]
    np.testing.assert_allclose(computed, 0.5, rtol=1e-13)
    singular_values = observables.singular_values(of)
    computed = singular_values(here)["singular_values"]
    expected = np.linalg.svd(w, compute_uv=False)
    np.testing.assert_allclose(computed, expected, atol=1e-14)
    clean = jd.State(0, {"w": -modes})
    alignment = observables.alignment(of, left[:, :2], right[:, :2])
    for name, value in alignment(clean).items():
        np.testing.assert_allclose(value, np.ones(2), rtol=1e-12, err_msg=name)
    swapped = left[:, jnp.array([1, 0])]
    alignment = observables.alignment(of, swapped, right[:, :2])
    computed = alignment(clean)["left_alignment"]
    np.testing.assert_allclose(computed, np.zeros(2), atol=1e-12)


def test_norms_are_over_all_parameters():
    data = batch()
    loss = losses.squared_error(NET.apply)
    gradient = jax.grad(loss)
    here = state(0)
    other = state(1)
    norm = observables.gradient_norm(gradient, data)
    distance = observables.weight_distance(other.params)
    observe = observables.combine(norm, distance)
    seen = observe(here)

    def flat(tree):
        leaves = [np.ravel(a) for a in jax.tree.leaves(tree)]
        return np.concatenate(leaves)

    expected = np.linalg.norm(flat(gradient(here.params, data)))
    np.testing.assert_allclose(seen["gradient_norm"], expected, rtol=1e-5)
    a = flat(here.params)
    b = flat(other.params)
    expected = np.linalg.norm(a - b) / np.linalg.norm(b)
    np.testing.assert_allclose(seen["weight_distance"], expected, rtol=1e-5)


def test_names_that_clash_are_refused_and_prefixed_apart():
    loss = losses.squared_error(NET.apply)
    train = observables.loss(loss, batch(4))
    with pytest.raises(ValueError, match=r"\['loss'\]"):
        observables.combine(train, train)(state())
    test = observables.prefixed("test_", train)
    observe = observables.combine(train, test)
    seen = observe(state())
    assert seen["loss"] == seen["test_loss"]


@pytest.mark.usefixtures("x64")
def test_the_largest_eigenvalues_are_those_of_the_dense_hessian():
    loss = losses.squared_error(NET.apply)
    data = batch()
    hessian = dense_hessian(loss, state().params, data)
    exact = jnp.linalg.eigvalsh(hessian)[::-1]
    observe = jax.jit(observables.hessian_eigenvalues(loss, data, top=4, depth=1000))
    found = observe(state())["hessian_eigenvalues"]
    np.testing.assert_allclose(found, exact[:4], rtol=1e-10)
    with pytest.raises(ValueError, match="top: 3; pass at least 1, at most depth=2"):
        observables.hessian_eigenvalues(loss, data, top=3, depth=2)(state())


def test_eigenvalues_that_the_hessian_does_not_have_are_nan(precision):
    # Five and one, three times each: Lanczos' method sees each once.
    q = models.orthogonal(jax.random.key(0), 6, 6)
    values = jnp.array([5.0, 5.0, 5.0, 1.0, 1.0, 1.0])
    hessian = (q * values[None]) @ q.T
    observe = jax.jit(observables.hessian_eigenvalues(quadratic, hessian, top=3, depth=6))
    found = observe(jd.State(0, jnp.ones(6)))["hessian_eigenvalues"]
    expected = [5, 1, np.nan]
    rtol = 1000 * jnp.finfo(precision).eps
    np.testing.assert_allclose(found, expected, rtol=rtol)


@pytest.mark.parametrize("window", [1, 2, 5, 12])
def test_box_averages_are_means_of_windows(window):
    records = 1e4 + np.random.default_rng(0).standard_normal((12, 3))
    averages = analysis.box_average(jnp.asarray(records), window)
    found = np.asarray(averages)
    places = np.flatnonzero(np.isfinite(found[:, 0]))
    expected = window // 2 + np.arange(12 - window + 1)
    np.testing.assert_array_equal(places, expected)
    for i, place in enumerate(places):
        # Rounding of single numbers of size 1e4, not of their sums.
        expected = records[i : i + window].mean(0)
        np.testing.assert_allclose(found[place], expected, atol=2e-3)
    with pytest.raises(ValueError, match="window: 13 of 12 records"):
        analysis.box_average(jnp.asarray(records), 13)
