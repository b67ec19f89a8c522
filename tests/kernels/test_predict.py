"""Predictions in function space: against stored values, linearised nets in parameter space, and
finite differences."""

import functools
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.integrate
import scipy.linalg
import scipy.special

import jaxdyn as jd
from jaxdyn import losses
from jaxdyn.kernels import predict

GOLDEN = Path(__file__).parents[1] / "golden"
ARRAYS = json.loads((GOLDEN / "golden.json").read_text())["arrays"]
# Of the stored predictions, those of a named function.
INDEX = {
    name: about for name, about in ARRAYS.items() if name.startswith("pred/") and "fn" in about
}


@functools.cache
def golden():
    with np.load(GOLDEN / "golden.npz") as arrays:
        return dict(arrays)


def compiled(fn, **options):
    """One program of small matrices, where compilation takes longest."""
    return jax.jit(fn, compiler_options={"xla_backend_optimization_level": 0}, **options)


def erf_kernels(x1, x2):
    """NNGP and NTK of dense(w_std=1.5, b_std=0.1) three times with erf between (Williams, 1997)."""

    def dense(k):
        return 1.5**2 * k + 0.1**2

    def erf(product, scale):
        return 2 / np.pi * np.arcsin(2 * product / scale)

    q1 = dense(np.sum(x1**2, 1) / x1.shape[1])
    q2 = dense(np.sum(x2**2, 1) / x2.shape[1])
    nngp = dense(x1 @ x2.T / x1.shape[1])
    ntk = nngp
    for _ in range(2):
        scale = np.sqrt(np.outer(1 + 2 * q1, 1 + 2 * q2))
        slope = 4 / np.pi / np.sqrt(scale**2 - 4 * nngp**2)
        nngp = dense(erf(nngp, scale))
        ntk = nngp + 1.5**2 * slope * ntk
        q1 = dense(erf(q1, 1 + 2 * q1))
        q2 = dense(erf(q2, 1 + 2 * q2))
    return nngp, ntk


@compiled
def golden_flow(ntk, ntk_test, y, times, ridge, start, start_test):
    return predict.flow(
        ntk, y, times, ntk_test=ntk_test, ridge=ridge, start=start, start_test=start_test
    )


@compiled
def golden_ensembles(ntk, prior, y, times, ridge, tests):
    """On the training inputs, where the peer adds the regularisation to the kernel itself, and on
    the test inputs."""
    regularised = ntk + ridge * jnp.eye(6)
    on_training = predict.ensemble(regularised, prior, y, times)
    on_test = predict.ensemble(ntk, prior, y, times, ridge=ridge, **tests)
    return on_training, on_test


@compiled
def golden_posterior(nngp, y, nngp_test, nngp_test_test, noise):
    return predict.posterior(nngp, y, nngp_test, nngp_test_test, noise=noise)


@functools.partial(compiled, static_argnums=4)
def golden_loss(ntk, ntk_test, y, starts, damping):
    def loss(f, labels):
        surprise = jax.nn.log_softmax(f) * labels
        return -jnp.mean(surprise)

    times = golden()["ode_t"]
    options = dict(damping=damping, ntk_test=ntk_test, solver=jd.RK4(0.01))
    return predict.flow_loss(loss, ntk, y, times, **options, **starts)


def golden_prediction(name):
    """The same number from our functions; the peer's units and its meaning of regularisation are
    passed explicitly."""
    g = golden()
    about = INDEX[name]
    y = g["y"]
    nngp, ntk = erf_kernels(g["x"], g["x"])
    nngp_test, ntk_test = erf_kernels(g["xt"], g["x"])
    nngp_test_test, _ = erf_kernels(g["xt"], g["xt"])
    kind, *rest = name.split("/")[1:]
    if kind == "max_lr":
        return predict.max_learning_rate(ntk)
    starts = dict(start=g["fx_train_0"], start_test=g["fx_test_0"])
    if kind.startswith("ode"):
        momentum = about["momentum"]
        damping = None if momentum is None else 1 - momentum
        found = golden_loss(ntk, ntk_test, g["y_onehot"], starts, damping)
        return getattr(found, rest[-1])

    def amount(k):
        """The ridge, which the peer may give in units of the mean of the diagonal."""
        unit = 1 if about["diag_reg_absolute_scale"] else np.trace(k) / 6
        return about["diag_reg"] * unit

    # The mean over 6 examples and 2 outputs.
    finite = g["pred_t"] * about["learning_rate"] / 2
    times = np.append(finite, np.inf)
    at = -1 if "inf" in name else slice(-1)
    if kind == "mse":
        ridge = amount(ntk)
        if rest[1].startswith("train"):
            # Where the peer adds the regularisation to the kernel itself.
            regularised = ntk + ridge * np.eye(6)
            found = golden_flow(regularised, ntk_test, y, times, 0.0, **starts)
            return found.train[at]
        found = golden_flow(ntk, ntk_test, y, times, ridge, **starts)
        return found.test[at]
    bayesian = "nngp" in rest
    moving = nngp if bayesian else ntk
    moving_test = nngp_test if bayesian else ntk_test
    ridge = amount(moving)
    noise = ridge if bayesian else 0
    prior = nngp + noise * np.eye(6)
    wanted = "mean" if rest[-1] == "mean" else "covariance"
    if "gp_inference" in rest and bayesian:
        found = golden_posterior(nngp, y, nngp_test, nngp_test_test, ridge)
        return getattr(found, wanted)
    tests = dict(ntk_test=moving_test, nngp_test=nngp_test, nngp_test_test=nngp_test_test)
    on_training, on_test = golden_ensembles(moving, prior, y, times, ridge, tests)
    found = on_training if "finite_train" in rest else on_test
    at = -1 if "gp_inference" in rest else at
    return getattr(found, wanted)[at]


@pytest.mark.parametrize("name", INDEX)
def test_golden(name, x64):
    # The peer's integration of the cross-entropy flow has a tolerance of 1.4e-8 a step; ours is
    # checked below.
    tolerance = 1e-6 if "/ode" in name else 1e-10
    computed = golden_prediction(name)
    expected = golden()[name]
    np.testing.assert_allclose(computed, expected, rtol=0, atol=tolerance)


def test_golden_kernels(x64):
    g = golden()
    pairs = {"dd": ("x", "x"), "td": ("xt", "x"), "tt": ("xt", "xt")}
    for name, (a, b) in pairs.items():
        nngp, ntk = erf_kernels(g[a], g[b])
        for kind, kernel in {"nngp": nngp, "ntk": ntk}.items():
            key = f"pred/k_{name}/{kind}"
            if key in g:
                np.testing.assert_allclose(kernel, g[key], atol=1e-12)


def net(params, x):
    for w in params[:-1]:
        x = jnp.tanh(x @ w)
    return x @ params[-1]


@functools.cache
def linearised():
    """A net of two outputs, linearised: the function, its start, data and kernels."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape))

    shapes = ((3, 5), (5, 4), (4, 2))
    start = [jnp.asarray(rng.standard_normal(shape) / shape[0] ** 0.5) for shape in shapes]
    x = normal(7, 3)
    y = normal(7, 2)
    x_test = normal(4, 3)

    def moved(params):
        return jax.tree.map(jnp.subtract, params, start)

    def apply(params, x):
        def at(p):
            return net(p, x)

        value, change = jax.jvp(at, (start,), (moved(params),))
        return value + change

    @compiled
    def at_start(x, x_test):
        n = len(x)
        both = jnp.concatenate([x, x_test])
        kernel = 0
        for j in jax.jacobian(net)(start, both):
            rows = j.reshape(*j.shape[:2], -1)
            kernel = kernel + jnp.einsum("ikp,jlp->ijkl", rows, rows[:n])
        return net(start, x), net(start, x_test), kernel[:n], kernel[n:]

    on_x, on_test, ntk, ntk_test = at_start(x, x_test)
    options = dict(start=on_x, start_test=on_test, ntk_test=ntk_test)
    return apply, start, x, y, x_test, ntk, options


def outputs(apply, x, x_test):
    def observe(state):
        params = state.params
        return {"train": apply(params, x), "test": apply(params, x_test)}

    return observe


def same(predicted, observed, tolerance):
    np.testing.assert_allclose(predicted.train, observed["train"], rtol=0, atol=tolerance)
    np.testing.assert_allclose(predicted.test, observed["test"], rtol=0, atol=tolerance)


def penalised(apply, start, ridge):
    """The gradient of the squared error and of a penalty on the distance from the start."""
    gradient = jax.grad(losses.squared_error(apply))

    def field(params, batch):
        n = len(batch[1])

        def add(g, p, s):
            return g + ridge * (p - s) / n

        return jax.tree.map(add, gradient(params, batch), params, start)

    return field


def test_flow_is_that_of_the_linearised_net(x64):
    apply, start, x, y, x_test, ntk, options = linearised()
    times = np.array([0.0, 0.3, 2.0, 20.0])

    def both(ridge):
        field = penalised(apply, start, ridge)
        observe = outputs(apply, x, x_test)
        run = jd.flow(field, (x, y), start, times=times, observe=observe, solver=jd.RK4(0.01))
        predicted = predict.flow(ntk, y, times, ridge=ridge, **options)
        return predicted, run.observed

    ridges = jnp.array([0.0, 0.7])
    predicted, observed = compiled(jax.vmap(both))(ridges)
    same(predicted, observed, 1e-8)

    def squared(f, y):
        return jnp.sum((f - y) ** 2) / 2 / len(y)

    @compiled
    def flows():
        solver = jd.RK4(0.02)
        any_loss = predict.flow_loss(squared, ntk, y, times, solver=solver, **options)
        this_loss = predict.flow(ntk, y, times, **options)
        return any_loss, this_loss

    any_loss, this_loss = flows()
    same(any_loss, this_loss._asdict(), 1e-6)


def test_descent_is_that_of_optax(x64):
    apply, start, x, y, x_test, ntk, options = linearised()
    steps = np.array([0, 1, 2, 7, 100])
    rate = 0.3

    def stream(*_):
        return x, y

    def both(momentum, ridge):
        field = penalised(apply, start, ridge)
        observe = outputs(apply, x, x_test)
        optimizer = optax.sgd(rate, momentum)
        run = jd.train(field, optimizer, stream, start, times=steps, observe=observe)
        predicted = predict.descent(ntk, y, steps, rate, momentum=momentum, ridge=ridge, **options)
        return predicted, run.observed

    momenta = jnp.array([0.0, 0.9, 0.5])
    ridges = jnp.array([0.0, 0.0, 0.7])
    predicted, observed = compiled(jax.vmap(both))(momenta, ridges)
    same(predicted, observed, 1e-12)


def problem(n=6, seed=0, values=(0.0, 0.0, 0.5, 2.0, 2.0, 2.0)):
    """A kernel with eigenvalues zero and coinciding, labels and a direction."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.standard_normal((n, n)))
    kernel = basis * np.asarray(values) @ basis.T
    tests = rng.standard_normal((3, n)) @ kernel
    y = rng.standard_normal((n, 2))
    direction = rng.standard_normal((n, n))
    symmetric = (kernel + kernel.T) / 2
    return symmetric, tests, y, direction


def test_eigenvalues_zero_stay_at_the_start(precision):
    kernel, tests, y, _ = problem()
    start = np.ones_like(y)
    times = np.array([0.0, 0.5, 40.0, 1e4, np.inf])

    @compiled
    def flow(k, y, tests, start):
        return predict.flow(k, y, times, ntk_test=tests, start=start)

    arguments = [jnp.asarray(a, precision) for a in (kernel, y, tests, start)]
    found = flow(*arguments)
    inverse = np.linalg.pinv(kernel, 1e-8)
    for time, train, test in zip(times, *found, strict=True):
        left = scipy.linalg.expm(-kernel * min(time, 1e6) / 6)
        rounding = 200 * np.finfo(precision).eps
        tolerance = rounding * (1 + min(time, 1e4) / 6)
        expected = y + left @ (start - y)
        np.testing.assert_allclose(train, expected, atol=tolerance)
        gained = inverse @ (np.eye(6) - left) @ (y - start)
        np.testing.assert_allclose(test, tests @ gained, atol=10 * tolerance)
    assert found.train.dtype == found.test.dtype == precision


def by_flow(kernel, tests, y, ridge):
    found = predict.flow(kernel, y, [0.7, 30.0, np.inf], ntk_test=tests)
    return found.test


def by_momentum(kernel, tests, y, ridge):
    found = predict.descent(kernel, y, [3, 40], 0.9, momentum=0.6, ntk_test=tests)
    return found.test


def prior_covariance():
    return jnp.eye(6) + 0.5


def by_ensemble(kernel, tests, y, ridge):
    options = dict(ntk_test=tests, nngp_test=tests, nngp_test_test=jnp.eye(3))
    found = predict.ensemble(kernel, prior_covariance(), y, [2.0, np.inf], **options)
    return found.covariance


def on_the_training_set(kernel, tests, y, ridge):
    found = predict.ensemble(kernel, prior_covariance(), y, [2.0, np.inf], ridge=ridge)
    return found.covariance


def by_products(kernel, tests, y, ridge):
    fixed, *_ = problem()

    def product(v):
        return fixed @ v

    found = predict.flow(product, y, [0.7, 3.0], ntk_test=tests, ridge=ridge)
    return found.test


def by_posterior(kernel, tests, y, ridge):
    found = predict.posterior(kernel, y, tests, jnp.eye(3), noise=ridge)
    return found.covariance


def posterior_by_products(kernel, tests, y, ridge):
    def product(v):
        return kernel @ v

    found = predict.posterior(product, y, tests, noise=ridge)
    return found.mean


def largest_rate(kernel, tests, y, ridge):
    return predict.max_learning_rate(kernel[4:, 4:])


def by_lanczos(kernel, tests, y, ridge):
    def product(v):
        return kernel @ v

    return predict.max_learning_rate(product, like=y)


def time_to_losses(kernel, tests, y, ridge):
    return predict.time_to_loss(kernel, y, [0.9, 0.8], start=0.1)


PREDICTIONS = {
    "flow": by_flow,
    "momentum": by_momentum,
    "ensemble": by_ensemble,
    "on the training set": on_the_training_set,
    "by products": by_products,
    "posterior": by_posterior,
    "posterior by products": posterior_by_products,
    "largest rate": largest_rate,
    "by Lanczos": by_lanczos,
    "time": time_to_losses,
}


@pytest.mark.parametrize("name", PREDICTIONS)
def test_gradients_where_eigenvalues_are_zero_or_coincide(name, x64):
    kernel, tests, y, direction = problem()
    predicted = PREDICTIONS[name]
    if name == "by Lanczos":
        kernel = kernel + np.diag(np.arange(6.0))

    def along(s):
        # Congruence keeps the kernel positive and of its rank.
        turn = jnp.eye(6) + s * direction
        turned = turn @ kernel @ turn.T
        value = predicted(turned, tests @ turn.T, y + s, 0.3 + s)
        return jnp.sum(jnp.sin(value))

    def derivatives(s):
        value, forward = jax.jvp(along, (s,), (jnp.ones_like(s),))
        reverse = jax.grad(along)(s)
        return value, forward, reverse

    @compiled
    def at(places):
        return jax.lax.map(derivatives, places)

    s = 1e-4
    places = s * jnp.arange(-2.0, 3.0)
    values, forward, reverse = at(places)
    difference = np.dot(values, [1, -8, 0, 8, -1]) / 12 / s
    computed = [forward[2], reverse[2]]
    np.testing.assert_allclose(computed, difference, rtol=2e-7, atol=1e-8)


def test_derivatives_that_there_are_not(x64):
    kernel, _, y, _ = problem()

    def predicted(kernel, y):
        found = predict.flow(kernel, y, 1.0)
        return jnp.sum(found.train**2)

    def by_product(kernel):
        return predicted(lambda v: kernel @ v, y)

    kernel = jnp.asarray(kernel)
    y = jnp.asarray(y)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        jax.eval_shape(jax.hessian(predicted), kernel, y)
    with pytest.raises(NotImplementedError, match="as a matrix"):
        jax.grad(by_product)(kernel)
    s = 1e-4
    direction = np.eye(6)[:, :1] * np.ones((1, 2))

    def slope(s):
        return jax.grad(predicted)(kernel, y + s * direction)

    def slope_and_its_change(s):
        return jax.jvp(slope, (s,), (1.0,))

    places = jnp.array([-s, 0.0, s])
    slopes, mixed = compiled(jax.vmap(slope_and_its_change))(places)
    expected = (slopes[2] - slopes[0]) / 2 / s
    np.testing.assert_allclose(mixed[1], expected, atol=1e-6)


@compiled
def descended(values, steps, momentum):
    """Seven modes, each with its own eigenvalue and a label of 1."""
    kernel = jnp.diag(values)
    options = dict(momentum=momentum, ntk_test=jnp.eye(7))
    found = predict.descent(kernel, jnp.ones(7), steps, 7.0, **options)
    return found.test


@pytest.mark.parametrize("momentum", [0.0, 0.36, 0.9])
def test_descent_with_momentum_at_every_curvature(momentum, x64):
    # Critical damping, twice, oscillation between, beyond stability, zero, and far below what a
    # million steps see.
    lower = (1 - momentum**0.5) ** 2
    upper = (1 + momentum**0.5) ** 2
    unstable = 2 * (1 + momentum) + 1e-3
    values = np.array([0.0, 1e-12, 1e-7, lower, 0.5, upper, unstable])
    steps = np.array([1, 2, 3, 50, 1000])
    weights = np.zeros(7)
    before = np.zeros(7)
    expected = []
    for step in range(1, 1001):
        velocity = weights - before
        before = weights
        weights = weights + 1 - values * weights + momentum * velocity
        if step in steps:
            expected.append(weights)
    computed = descended(values, steps, momentum)
    np.testing.assert_allclose(computed, expected, rtol=1e-8)
    small = np.r_[values[:3], 4 * [0.5]]
    late = descended(small, 10**6 + 0 * steps, momentum)[0]
    time = 1e6 / (1 - momentum) - momentum / (1 - momentum) ** 2
    # To first order in what a step changes; the third mode moves.
    np.testing.assert_allclose(late[:2], time, rtol=1e-5)
    damping = 1 - momentum + 1e-7
    slow = (damping - (damping**2 - 4e-7) ** 0.5) / 2
    expected = -np.expm1(1e6 * np.log1p(-slow)) / 1e-7
    np.testing.assert_allclose(late[2], expected, rtol=1e-5)


def test_descent_follows_flow_and_blows_up_beyond_the_largest_rate(x64):
    kernel, tests, y, _ = problem()
    decomposed = predict.modes(kernel)

    @compiled
    def run(momentum):
        rate = predict.max_learning_rate(kernel, momentum=momentum)
        of_modes = predict.max_learning_rate(decomposed, momentum=momentum)

        def reach(factor):
            found = predict.descent(decomposed, y, 10**4, factor * rate, momentum=momentum)
            return found.train

        factors = jnp.array([0.99, 1.01])
        reached = jax.vmap(reach)(factors)
        return rate, of_modes, jnp.max(jnp.abs(reached), (1, 2))

    @compiled
    def both():
        slow = predict.descent(decomposed, y, 10**5, 1e-4, ntk_test=tests)
        flow = predict.flow(decomposed, y, 10.0, ntk_test=tests)
        return slow, flow

    slow, flow = both()
    same(slow, flow._asdict(), 1e-4)
    for momentum in (0.0, 0.5):
        rate, of_modes, (stable, unstable) = run(momentum)
        expected = 2 * (1 + momentum) * 6 / 2.0
        np.testing.assert_allclose([rate, of_modes], expected)
        assert stable < 10
        assert not unstable < 1e10


@pytest.mark.parametrize("learning_rate", [None, 0.4])
def test_ensemble_is_the_distribution_of_trained_nets(learning_rate, x64):
    # f = trained features . a + frozen features . b, so that the prior is not the tangent kernel.
    rng = np.random.default_rng(3)
    trained, trained_test = np.split(rng.standard_normal((9, 4)), [6])
    frozen, frozen_test = np.split(rng.standard_normal((9, 8)), [6])
    y = rng.standard_normal((6, 2))
    n = 6
    ridge = 0.2
    times = np.array([0, 1, 30])
    ntk = trained @ trained.T
    ntk_test = trained_test @ trained.T
    nngp = trained @ trained.T + frozen @ frozen.T
    nngp_test = trained_test @ trained.T + frozen_test @ frozen.T
    nngp_test_test = trained_test @ trained_test.T + frozen_test @ frozen_test.T
    tests = dict(ntk_test=ntk_test, nngp_test=nngp_test, nngp_test_test=nngp_test_test)
    generator = (trained.T @ trained + ridge * np.eye(4)) / n

    def left_over(time):
        """What is left of the distance of a from its limit."""
        if learning_rate is None:
            return scipy.linalg.expm(-generator * time)
        one_step = np.eye(4) - learning_rate * generator
        return np.linalg.matrix_power(one_step, time)

    for test in (True, False):
        options = dict(tests if test else {}, ridge=ridge, learning_rate=learning_rate)
        ensemble = compiled(functools.partial(predict.ensemble, **options))
        found = ensemble(ntk, nngp, y, times)
        rows = trained_test if test else trained
        rows_frozen = frozen_test if test else frozen
        for time, mean, covariance in zip(times, found.mean, found.covariance, strict=True):
            # The move of a from a_0, which is penalised, is linear in the labels and in both
            # initial weights.
            learned = np.eye(4) - left_over(time)
            gain = np.linalg.solve(generator, learned) @ trained.T / n
            of_a = rows - rows @ gain @ trained
            of_b = rows_frozen - rows @ gain @ frozen
            expected = rows @ gain @ y
            np.testing.assert_allclose(mean, expected, atol=1e-11)
            expected = of_a @ of_a.T + of_b @ of_b.T
            np.testing.assert_allclose(covariance, expected, atol=1e-11)
    only = functools.partial(predict.ensemble, ntk_test=ntk_test, covariance=False, ridge=ridge)
    shapes = jax.eval_shape(only, ntk, nngp, y, times)
    assert shapes.covariance is None


def test_the_bayesian_limit_is_the_posterior(x64):
    kernel, tests, y, _ = problem(values=np.arange(1.0, 7))
    cov = dict(nngp_test=tests, nngp_test_test=tests @ tests.T)
    noisy = kernel + 0.3 * np.eye(6)

    @compiled
    def predictions():
        limit = predict.ensemble(kernel, noisy, y, np.inf, ntk_test=tests, ridge=0.3, **cov)
        trained = predict.flow(kernel, y, np.inf, ntk_test=tests, ridge=0.3)
        exact = predict.posterior(kernel, y, tests, tests @ tests.T, noise=0.3)
        return limit, trained.test, exact

    limit, trained, exact = predictions()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-11), limit, exact)
    np.testing.assert_allclose(trained, exact.mean)


def test_products_agree_with_the_decomposition(x64):
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.standard_normal((40, 5)))
    y = jnp.asarray(rng.standard_normal((40, 2)))
    times = [0.0, 0.5, 5.0]
    steps = dict(learning_rate=0.1, momentum=0.5)

    def predicted(x, y, form):
        """All predictions, from the kernels in the given form: matrices or their products."""
        tests = jnp.exp(x[:7] @ x.T / 5)
        kernel = form(jnp.exp(x @ x.T / 5))
        options = dict(ntk_test=form(tests), start=0.2, ridge=0.1)
        posterior = predict.posterior(kernel, y, tests, noise=1.0)
        return {
            "flow": predict.flow(kernel, y, times, **options),
            "descent": predict.descent(kernel, y[:, 0], 30, ntk_test=tests, **steps),
            "rate": predict.max_learning_rate(kernel, momentum=0.5, like=y),
            "posterior": posterior.mean,
        }

    def product(matrix):
        return lambda v: matrix @ v

    def itself(matrix):
        return matrix

    @compiled
    def both(x, y):
        found = predicted(x, y, product)
        exact = predicted(x, y, itself)
        return found, exact

    found, exact = both(x, y)
    expected = exact["flow"]._asdict()
    same(found["flow"], expected, 5e-12)
    expected = exact["descent"]._asdict()
    same(found["descent"], expected, 2e-12)
    np.testing.assert_allclose(found["rate"], exact["rate"], rtol=1e-14)
    np.testing.assert_allclose(found["posterior"], exact["posterior"], atol=4e-10)


def test_too_few_products_are_nan(x64):
    values = np.geomspace(1e-6, 1, 30)

    def product(v):
        return values * v

    @compiled
    def flow(y, times):
        found = predict.flow(product, y, times, products=12)
        return found.train

    found = flow(np.ones(30), np.array([1.0, 3e5]))
    expected = -np.expm1(-values / 30)
    np.testing.assert_allclose(found[0], expected, atol=1e-9)
    assert np.all(np.isnan(found[1]))
    # Not where the labels excite few modes only: the vectors end.
    few = np.where(np.arange(30) % 15 == 0, 1.0, 0.0)
    times = np.array([1.0, 1e9])
    found = flow(few, times)
    learned = -np.expm1(-np.outer(times, values) / 30)
    expected = few * learned
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_kernels_between_outputs(x64):
    kernel, tests, y, _ = problem()

    def between(k):
        return np.multiply.outer(k, np.eye(2))

    def predicted(kernel, tests):
        flow = predict.flow(kernel, y, [1.0, np.inf], ntk_test=tests)
        rate = predict.max_learning_rate(kernel)
        return flow, rate

    @compiled
    def both():
        shared = predicted(kernel, tests)
        full = predicted(between(kernel), between(tests))
        return shared, full

    (shared, rate), (full, full_rate) = both()
    same(full, shared._asdict(), 1e-12)
    np.testing.assert_allclose(full_rate, rate)


def test_shapes_jit_and_vmap(x64):
    kernel, tests, y, _ = problem()
    kernels = jnp.stack([kernel, 2 * kernel])

    def one(k, y, t):
        return predict.flow(k, y, t, ntk_test=tests, ridge=0.1)

    over_kernels = compiled(jax.vmap(one, (0, None, None)))
    many = over_kernels(kernels, y, jnp.ones((3, 2)))
    assert many.train.shape == (2, 3, 2, 6, 2)
    assert many.test.shape == (2, 3, 2, 3, 2)
    # Not compiled as a whole.
    modes = predict.modes(2 * kernel)
    alone = one(modes, y, 1.0)
    computed = many.test[1, 0, 0]
    np.testing.assert_allclose(computed, alone.test, atol=1e-12)
    of_matrix = one(2 * kernel, y, 1.0)
    jax.tree.map(np.testing.assert_array_equal, of_matrix, alone)
    shapes = jax.eval_shape(one, kernel, y[:, 0], 1.0)
    assert shapes.test.shape == (3,)
    times = jnp.array([1.0, 2.0])
    pair = jax.eval_shape(predict.ensemble, modes, kernel, y[:, 0], times)
    assert (pair.mean.shape, pair.covariance.shape) == ((2, 6), (2, 6, 6))
    # Whole numbers are labels too.
    signs = np.array([1, -1, 1, 1, -1, 1])
    found = jax.eval_shape(predict.flow, kernel, signs, 1.0)
    assert found.train.dtype == float


@compiled
def loss_at(times, kernel, y, start, ridge):
    found = predict.flow(kernel, y, times, start=start, ridge=ridge)
    error = found.train - y[None]
    return jnp.sum(error**2, (1, 2)) / 12


@compiled
def time_to(losses, kernel, y, start, ridge):
    return predict.time_to_loss(kernel, y, losses, start=start, ridge=ridge)


@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_time_to_loss(ridge, x64):
    kernel, _, y, _ = problem()
    setting = kernel, y, 1.0, ridge
    ends = np.array([0.0, np.inf, 1.0, 1.0])
    first, last = loss_at(ends, *setting)[:2]
    losses = last + (first - last) * np.array([1.0, 0.9, 1e-1, 1e-6])
    times = time_to(losses, *setting)
    computed = loss_at(times, *setting)
    np.testing.assert_allclose(computed, losses, rtol=1e-12)
    assert np.all(np.diff(times) > 0)
    outside = np.array([2 * first, 0.99 * last, -1.0, np.nextafter(first, 9)])
    never = time_to(outside, *setting)
    assert never.tolist() == [0.0, np.inf, np.inf, 0.0]
    losses = np.exp(-np.array([0.5, 1.0, 10.0, 100.0]))
    alone = time_to(losses, np.eye(6), np.ones((6, 2)), 0.0, 0.0)
    expected = [1.5, 3.0, 30.0, 300.0]
    np.testing.assert_allclose(alone, expected, rtol=1e-12)


def test_any_loss_against_another_integrator(x64):
    kernel, tests, _, _ = problem(values=np.arange(1.0, 7))
    start = np.random.default_rng(5).standard_normal((6, 3))
    labels = np.arange(6) % 3

    def loss(f, labels):
        entropies = optax.softmax_cross_entropy_with_integer_labels(f, labels)
        return entropies.mean()

    def slope(f):
        error = scipy.special.softmax(f, 1) - np.eye(3)[labels]
        return kernel @ error / 6

    def flat(_, f):
        field = -slope(f.reshape(6, 3))
        return np.ravel(field)

    accurate = dict(rtol=1e-11, atol=1e-12)
    solution = scipy.integrate.solve_ivp(flat, (0, 4), start.ravel(), **accurate)
    exact = solution.y[:, -1].reshape(6, 3)

    def of_loss(**options):
        return predict.flow_loss(
            loss, kernel, labels, [4.0], start=start, ntk_test=tests, **options
        )

    found = compiled(lambda: of_loss(**accurate))()
    np.testing.assert_allclose(found.train[0], exact, atol=1e-8)
    gained = tests @ np.linalg.solve(kernel, exact - start)
    np.testing.assert_allclose(found.test[0], gained, atol=1e-8)
    # The heavy ball's ODE, which descent with momentum follows to first order in sqrt(learning
    # rate).
    found = compiled(lambda: of_loss(damping=1.5, solver=jd.RK4(0.01)))()
    damped = found.train[0]

    def error_of_descent(rate):
        f = start
        velocity = np.zeros_like(start)
        for _ in range(round(4 / rate**0.5)):
            velocity = (1 - 1.5 * rate**0.5) * velocity + slope(f)
            f = f - rate * velocity
        return np.max(np.abs(f - damped))

    error = error_of_descent(1e-4)
    finer = error_of_descent(2.5e-5)
    assert error < 0.1
    assert error / finer == pytest.approx(2, rel=0.1)


def test_rows_may_be_sharded():
    program = """
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec
    from jaxdyn.kernels import predict
    x = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
    kernel, y = jnp.exp(x @ x.T / 4), jnp.asarray(x[:, 0])
    mesh = jax.make_mesh((2,), ("rows",), axis_types=(AxisType.Auto,))
    place = lambda spec: NamedSharding(mesh, PartitionSpec(*spec))
    def run(kernel, y):
        product = lambda v: kernel @ v
        flow = predict.flow(product, y, jnp.array([1.0, 10.0]), ridge=0.1).train
        mean = predict.posterior(product, y, kernel[:4], noise=10.0).mean
        return flow, mean, predict.max_learning_rate(product, like=y)
    sharded = jax.device_put(kernel, place(("rows", None)))
    fast = {"xla_backend_optimization_level": 0}
    compiled = jax.jit(run).lower(sharded, y).compile(fast)
    assert "all-gather" in compiled.as_text() or "all-reduce" in compiled.as_text()
    exact, labels = np.exp(x @ x.T / 4, dtype=float), x[:, 0].astype(float)
    values, vectors = np.linalg.eigh(exact)
    gains = -np.expm1(-np.outer([1.0, 10.0], values + 0.1) / 64) * values / (values + 0.1)
    mean = exact[:4] @ np.linalg.solve(exact + 10 * np.eye(64), labels)
    expected = (gains * (vectors.T @ labels)) @ vectors.T, mean, 2 * 64 / values[-1]
    for a, b in zip(compiled(sharded, y), expected):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    print(len(jax.devices()), sharded.sharding.shard_shape(sharded.shape))
    """
    two_devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "NPROC": "8"}
    command = [sys.executable, "-c", textwrap.dedent(program)]
    surroundings = dict(cwd=Path(__file__).parents[2], env=os.environ | two_devices)
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, **surroundings
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "2 (32, 64)"


K = np.eye(3)
Y = np.ones(3)
BAD = {
    "square": lambda: predict.flow(K[:2], Y, 1.0),
    "not symmetric": lambda: predict.flow(K + np.triu(np.ones((3, 3)), 1), Y, 1.0),
    "smallest eigenvalue is -0.24": lambda: predict.modes(np.diag([1.0, 2.0, -0.24])),
    "smallest eigenvalue is 0": lambda: predict.posterior(np.diag([1.0, 0.0, 1.0]), Y, K),
    r"y: shape \(4,\) for 3": lambda: predict.flow(K, np.ones(4), 1.0),
    r"y: shape \(3, 1, 1\)": lambda: predict.flow(K, np.ones((3, 1, 1)), 1.0),
    "y: 1.0 is one number": lambda: predict.flow(K, 1.0, 1.0),
    "start: shape": lambda: predict.flow(K, Y, 1.0, start=np.ones((3, 1))),
    "ntk_test: .*transpose": lambda: predict.flow(K, Y, 1.0, ntk_test=np.ones((3, 5))),
    "ntk_test: .*pass": lambda: predict.flow(K, Y, 1.0, ntk_test=np.ones((2, 5))),
    "times: -1.0": lambda: predict.flow(K, Y, -1.0),
    "times: nan": lambda: predict.ensemble(K, K, Y, np.nan),
    "steps: 1.5": lambda: predict.descent(K, Y, 1.5, 0.1),
    "ntk float64.*precision|kernel float64": lambda: predict.flow(K, np.float32(Y), 1.0),
    "nngp_test: missing": lambda: predict.ensemble(K, K, Y, 1.0, ntk_test=K),
    "nngp: shape": lambda: predict.ensemble(K, K[:2], Y, 1.0),
    "kernel_test_test": lambda: predict.posterior(lambda v: v, Y, K, K),
    "maps shape": lambda: predict.flow(lambda v: v[:2], Y, 1.0),
    "like:": lambda: predict.max_learning_rate(lambda v: v),
    "times: .*increasing": lambda: predict.flow_loss(
        lambda f, y: jnp.sum(f), K, Y, [2.0, 1.0], start=Y
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input(message, x64):
    with pytest.raises(ValueError, match=message):
        BAD[message]()
