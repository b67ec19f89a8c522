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
INDEX = {
    k: v
    for k, v in json.loads((GOLDEN / "golden.json").read_text())["arrays"].items()
    if k.startswith("pred/")
}
INDEX = {name: about for name, about in INDEX.items() if "fn" in about}


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

    q1, q2 = (dense(np.sum(x**2, 1) / x.shape[1]) for x in (x1, x2))
    nngp = ntk = dense(x1 @ x2.T / x1.shape[1])
    for _ in range(2):
        scale = np.sqrt(np.outer(1 + 2 * q1, 1 + 2 * q2))
        slope = 4 / np.pi / np.sqrt(scale**2 - 4 * nngp**2)
        before = nngp
        nngp = dense(2 / np.pi * np.arcsin(2 * nngp / scale))
        ntk = nngp + 1.5**2 * slope * (ntk if before is not ntk else before)
        q1, q2 = (dense(2 / np.pi * np.arcsin(2 * q / (1 + 2 * q))) for q in (q1, q2))
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
    return predict.ensemble(regularised, prior, y, times), predict.ensemble(
        ntk, prior, y, times, ridge=ridge, **tests
    )


@compiled
def golden_posterior(nngp, y, nngp_test, nngp_test_test, noise):
    return predict.posterior(nngp, y, nngp_test, nngp_test_test, noise=noise)


@functools.partial(compiled, static_argnums=4)
def golden_loss(ntk, ntk_test, y, starts, damping):
    def loss(f, labels):
        return -jnp.mean(jax.nn.log_softmax(f) * labels)

    times = golden()["ode_t"]
    return predict.flow_loss(
        loss, ntk, y, times, damping=damping, ntk_test=ntk_test, solver=jd.RK4(0.01), **starts
    )


def golden_prediction(name):
    """The same number from our functions; the peer's units and its meaning of regularisation are
    passed explicitly."""
    g = golden()
    about = INDEX[name]
    (nngp, ntk) = erf_kernels(g["x"], g["x"])
    (nngp_test, ntk_test) = erf_kernels(g["xt"], g["x"])
    tests = dict(nngp_test=nngp_test, nngp_test_test=erf_kernels(g["xt"], g["xt"])[0])
    kind, *rest = name.split("/")[1:]
    if kind == "max_lr":
        return predict.max_learning_rate(ntk)
    starts = dict(start=g["fx_train_0"], start_test=g["fx_test_0"])
    if kind.startswith("ode"):
        damping = None if about["momentum"] is None else 1 - about["momentum"]
        return getattr(golden_loss(ntk, ntk_test, g["y_onehot"], starts, damping), rest[-1])

    def amount(k):
        return about["diag_reg"] * (1 if about["diag_reg_absolute_scale"] else np.trace(k) / 6)

    # The mean over 6 examples and 2 outputs.
    times = np.append(g["pred_t"] * about["learning_rate"] / 2, np.inf)
    at = -1 if "inf" in name else slice(-1)
    if kind == "mse":
        if rest[1].startswith(
            "train"
        ):  # where the peer adds the regularisation to the kernel itself
            return golden_flow(
                ntk + amount(ntk) * np.eye(6), ntk_test, g["y"], times, 0.0, **starts
            ).train[at]
        return golden_flow(ntk, ntk_test, g["y"], times, amount(ntk), **starts).test[at]
    bayesian = "nngp" in rest
    moving, moving_test = (nngp, nngp_test) if bayesian else (ntk, ntk_test)
    ridge = amount(moving)
    prior = nngp + (ridge if bayesian else 0) * np.eye(6)
    if "gp_inference" in rest and bayesian:
        found = golden_posterior(nngp, g["y"], nngp_test, tests["nngp_test_test"], ridge)
        return found.mean if rest[-1] == "mean" else found.covariance
    both = golden_ensembles(moving, prior, g["y"], times, ridge, tests | {"ntk_test": moving_test})
    found = both[0 if "finite_train" in rest else 1]
    at = -1 if "gp_inference" in rest else at
    return (found.mean if rest[-1] == "mean" else found.covariance)[at]


@pytest.mark.parametrize("name", INDEX)
def test_golden(name, x64):
    # The peer's integration of the cross-entropy flow has a tolerance of 1.4e-8 a step; ours is
    # checked below.
    tolerance = 1e-6 if "/ode" in name else 1e-10
    np.testing.assert_allclose(golden_prediction(name), golden()[name], rtol=0, atol=tolerance)


def test_golden_kernels(x64):
    g = golden()
    for (a, b), name in ((("x", "x"), "dd"), (("xt", "x"), "td"), (("xt", "xt"), "tt")):
        for kernel, kind in zip(erf_kernels(g[a], g[b]), ("nngp", "ntk"), strict=True):
            if f"pred/k_{name}/{kind}" in g:
                np.testing.assert_allclose(kernel, g[f"pred/k_{name}/{kind}"], atol=1e-12)


def net(params, x):
    for w in params[:-1]:
        x = jnp.tanh(x @ w)
    return x @ params[-1]


@functools.cache
def linearised():
    """A net of two outputs, linearised: the function, its start, data and kernels."""
    rng = np.random.default_rng(0)
    start = [jnp.asarray(rng.standard_normal(s) / s[0] ** 0.5) for s in ((3, 5), (5, 4), (4, 2))]
    x, y, x_test = (jnp.asarray(rng.standard_normal(s)) for s in ((7, 3), (7, 2), (4, 3)))

    def moved(params):
        return jax.tree.map(jnp.subtract, params, start)

    def apply(params, x):
        return jnp.add(*jax.jvp(lambda p: net(p, x), (start,), (moved(params),)))

    @compiled
    def at_start(x, x_test):
        def rows(x):
            return [j.reshape(*j.shape[:2], -1) for j in jax.jacobian(net)(start, x)]

        both = rows(jnp.concatenate([x, x_test]))
        n = len(x)
        kernel = sum(jnp.einsum("ikp,jlp->ijkl", a, a[:n]) for a in both)
        return net(start, x), net(start, x_test), kernel[:n], kernel[n:]

    *starts, ntk, ntk_test = at_start(x, x_test)
    return (
        apply,
        start,
        x,
        y,
        x_test,
        ntk,
        dict(start=starts[0], start_test=starts[1], ntk_test=ntk_test),
    )


def outputs(apply, x, x_test):
    return lambda state: {"train": apply(state.params, x), "test": apply(state.params, x_test)}


def same(predicted, observed, tolerance):
    np.testing.assert_allclose(predicted.train, observed["train"], rtol=0, atol=tolerance)
    np.testing.assert_allclose(predicted.test, observed["test"], rtol=0, atol=tolerance)


def penalised(apply, start, ridge):
    gradient = jax.grad(losses.squared_error(apply))

    def pull(p, s, n):
        return ridge * (p - s) / n

    return lambda params, batch: jax.tree.map(
        lambda g, p, s: g + pull(p, s, len(batch[1])), gradient(params, batch), params, start
    )


def test_flow_is_that_of_the_linearised_net(x64):
    apply, start, x, y, x_test, ntk, options = linearised()
    times = np.array([0.0, 0.3, 2.0, 20.0])

    def both(ridge):
        field = penalised(apply, start, ridge)
        observe = outputs(apply, x, x_test)
        run = jd.flow(field, (x, y), start, times=times, observe=observe, solver=jd.RK4(0.01))
        return predict.flow(ntk, y, times, ridge=ridge, **options), run.observed

    same(*compiled(jax.vmap(both))(jnp.array([0.0, 0.7])), 1e-8)

    def squared(f, y):
        return jnp.sum((f - y) ** 2) / 2 / len(y)

    def of_loss():
        return predict.flow_loss(squared, ntk, y, times, solver=jd.RK4(0.02), **options)

    any_loss, this_loss = compiled(lambda: (of_loss(), predict.flow(ntk, y, times, **options)))()
    same(any_loss, this_loss._asdict(), 1e-6)


def test_descent_is_that_of_optax(x64):
    apply, start, x, y, x_test, ntk, options = linearised()
    steps = np.array([0, 1, 2, 7, 100])
    rate = 0.3

    def both(momentum, ridge):
        field = penalised(apply, start, ridge)
        observe = outputs(apply, x, x_test)
        run = jd.train(
            field, optax.sgd(rate, momentum), lambda *_: (x, y), start, times=steps, observe=observe
        )
        return predict.descent(
            ntk, y, steps, rate, momentum=momentum, ridge=ridge, **options
        ), run.observed

    same(*compiled(jax.vmap(both))(jnp.array([0.0, 0.9, 0.5]), jnp.array([0.0, 0.0, 0.7])), 1e-12)


def problem(n=6, seed=0, values=(0.0, 0.0, 0.5, 2.0, 2.0, 2.0)):
    """A kernel with eigenvalues zero and coinciding, labels and a direction."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((n, n)))[0]
    kernel = basis * np.asarray(values) @ basis.T
    tests = rng.standard_normal((3, n)) @ kernel
    return (kernel + kernel.T) / 2, tests, rng.standard_normal((n, 2)), rng.standard_normal((n, n))


def test_eigenvalues_zero_stay_at_the_start(precision):
    kernel, tests, y, _ = problem()
    start = np.ones_like(y)
    times = np.array([0.0, 0.5, 40.0, 1e4, np.inf])
    flow = compiled(
        lambda k, y, tests, start: predict.flow(k, y, times, ntk_test=tests, start=start)
    )
    found = flow(*(jnp.asarray(a, precision) for a in (kernel, y, tests, start)))
    for time, train, test in zip(times, *found, strict=True):
        left = scipy.linalg.expm(-kernel * min(time, 1e6) / 6)
        tolerance = 200 * np.finfo(precision).eps * (1 + min(time, 1e4) / 6)
        expected = y + left @ (start - y)
        np.testing.assert_allclose(train, expected, atol=tolerance)
        gained = np.linalg.pinv(kernel, 1e-8) @ (np.eye(6) - left) @ (y - start)
        np.testing.assert_allclose(test, tests @ gained, atol=10 * tolerance)
    assert found.train.dtype == found.test.dtype == precision


def predictions(kernel, tests, y, ridge):
    prior = jnp.eye(6) + 0.5
    fixed = problem()[0]
    cov = dict(nngp_test=tests, nngp_test_test=jnp.eye(3))
    return {
        "flow": lambda: predict.flow(kernel, y, [0.7, 30.0, np.inf], ntk_test=tests)[1],
        "momentum": lambda: predict.descent(kernel, y, [3, 40], 0.9, momentum=0.6, ntk_test=tests)[
            1
        ],
        "ensemble": lambda: predict.ensemble(
            kernel, prior, y, [2.0, np.inf], ntk_test=tests, **cov
        )[1],
        "on the training set": lambda: predict.ensemble(
            kernel, prior, y, [2.0, np.inf], ridge=ridge
        )[1],
        "by products": lambda: predict.flow(
            lambda v: fixed @ v, y, [0.7, 3.0], ntk_test=tests, ridge=ridge
        )[1],
        "posterior": lambda: predict.posterior(kernel, y, tests, jnp.eye(3), noise=ridge)[1],
        "posterior by products": lambda: predict.posterior(
            lambda v: kernel @ v, y, tests, noise=ridge
        )[0],
        "largest rate": lambda: predict.max_learning_rate(kernel[4:, 4:]),
        "by Lanczos": lambda: predict.max_learning_rate(lambda v: kernel @ v, like=y),
        "time": lambda: predict.time_to_loss(kernel, y, [0.9, 0.8], start=0.1),
    }


@pytest.mark.parametrize("name", predictions(*4 * [None]))
def test_gradients_where_eigenvalues_are_zero_or_coincide(name, x64):
    kernel, tests, y, direction = problem()
    if name == "by Lanczos":
        kernel = kernel + np.diag(np.arange(6.0))

    def along(s):
        # Congruence keeps the kernel positive and of its rank.
        turn = jnp.eye(6) + s * direction
        value = predictions(turn @ kernel @ turn.T, tests @ turn.T, y + s, 0.3 + s)[name]()
        return jnp.sum(jnp.sin(value))

    def derivatives(s):
        value, forward = jax.jvp(along, (s,), (jnp.ones_like(s),))
        return value, forward, jax.grad(along)(s)

    s = 1e-4
    values, forward, reverse = compiled(lambda s: jax.lax.map(derivatives, s))(
        s * jnp.arange(-2.0, 3.0)
    )
    difference = np.dot(values, [1, -8, 0, 8, -1]) / 12 / s
    computed = [forward[2], reverse[2]]
    np.testing.assert_allclose(computed, difference, rtol=2e-7, atol=1e-8)


def test_derivatives_that_there_are_not(x64):
    kernel, _, y, _ = problem()

    def predicted(kernel, y):
        return jnp.sum(predict.flow(kernel, y, 1.0).train ** 2)

    kernel = jnp.asarray(kernel)
    y = jnp.asarray(y)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        jax.eval_shape(jax.hessian(predicted), kernel, y)
    with pytest.raises(NotImplementedError, match="as a matrix"):
        jax.grad(lambda kernel: predicted(lambda v: kernel @ v, y))(kernel)
    s = 1e-4
    d = np.eye(6)[:, :1] * np.ones((1, 2))

    def slope(s):
        return jax.grad(predicted)(kernel, y + s * d)

    slopes, mixed = compiled(jax.vmap(lambda s: jax.jvp(slope, (s,), (1.0,))))(
        jnp.array([-s, 0.0, s])
    )
    expected = (slopes[2] - slopes[0]) / 2 / s
    np.testing.assert_allclose(mixed[1], expected, atol=1e-6)


@compiled
def descended(values, steps, momentum):
    return predict.descent(
        jnp.diag(values), jnp.ones(7), steps, 7.0, momentum=momentum, ntk_test=jnp.eye(7)
    ).test


@pytest.mark.parametrize("momentum", [0.0, 0.36, 0.9])
def test_descent_with_momentum_at_every_curvature(momentum, x64):
    # Critical damping, twice, oscillation between, beyond stability, zero, and far below what a
    # million steps see.
    edges = (1 - momentum**0.5) ** 2, (1 + momentum**0.5) ** 2
    values = np.array([0.0, 1e-12, 1e-7, edges[0], 0.5, edges[1], 2 * (1 + momentum) + 1e-3])
    steps = np.array([1, 2, 3, 50, 1000])
    weights = np.zeros(7)
    before = np.zeros(7)
    expected = []
    for step in range(1, 1001):
        weights, before = weights + 1 - values * weights + momentum * (weights - before), weights
        expected += [weights] * (step in steps)
    computed = descended(values, steps, momentum)
    np.testing.assert_allclose(computed, expected, rtol=1e-8)
    late = descended(np.r_[values[:3], 4 * [0.5]], 10**6 + 0 * steps, momentum)[0]
    time = 1e6 / (1 - momentum) - momentum / (1 - momentum) ** 2
    # To first order in what a step changes; the third mode moves.
    np.testing.assert_allclose(late[:2], time, rtol=1e-5)
    slow = ((1 - momentum + 1e-7) - ((1 - momentum + 1e-7) ** 2 - 4e-7) ** 0.5) / 2
    np.testing.assert_allclose(late[2], -np.expm1(1e6 * np.log1p(-slow)) / 1e-7, rtol=1e-5)


def test_descent_follows_flow_and_blows_up_beyond_the_largest_rate(x64):
    kernel, tests, y, _ = problem()
    decomposed = predict.modes(kernel)

    @compiled
    def run(momentum):
        rate = predict.max_learning_rate(kernel, momentum=momentum)
        of_modes = predict.max_learning_rate(decomposed, momentum=momentum)

        def reach(factor):
            return predict.descent(decomposed, y, 10**4, factor * rate, momentum=momentum).train

        return rate, of_modes, jnp.max(jnp.abs(jax.vmap(reach)(jnp.array([0.99, 1.01]))), (1, 2))

    slow, flow = compiled(
        lambda: (
            predict.descent(decomposed, y, 10**5, 1e-4, ntk_test=tests),
            predict.flow(decomposed, y, 10.0, ntk_test=tests),
        )
    )()
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
    (trained, trained_test), (frozen, frozen_test) = (
        np.split(rng.standard_normal((9, p)), [6]) for p in (4, 8)
    )
    y = rng.standard_normal((6, 2))
    n = 6
    ridge = 0.2
    times = np.array([0, 1, 30])
    ntk = trained @ trained.T
    ntk_test = trained_test @ trained.T

    def nngp(a, b, c, d):
        return a @ c.T + b @ d.T

    generator = (trained.T @ trained + ridge * np.eye(4)) / n
    for test in (True, False):
        tests = dict(
            ntk_test=ntk_test,
            nngp_test=nngp(trained_test, frozen_test, trained, frozen),
            nngp_test_test=nngp(trained_test, frozen_test, trained_test, frozen_test),
        )
        prior = nngp(trained, frozen, trained, frozen)
        options = (tests if test else {}) | dict(ridge=ridge, learning_rate=learning_rate)
        found = compiled(functools.partial(predict.ensemble, **options))(ntk, prior, y, times)
        rows, rows_frozen = (trained_test, frozen_test) if test else (trained, frozen)
        for time, mean, covariance in zip(times, found.mean, found.covariance, strict=True):
            if learning_rate is None:
                left = scipy.linalg.expm(-generator * time)
            else:
                left = np.linalg.matrix_power(np.eye(4) - learning_rate * generator, time)
            # The move of a from a_0, which is penalised, is linear in the labels and in both
            # initial weights.
            gain = np.linalg.solve(generator, np.eye(4) - left) @ trained.T / n
            of_a = rows - rows @ gain @ trained
            of_b = rows_frozen - rows @ gain @ frozen
            np.testing.assert_allclose(mean, rows @ gain @ y, atol=1e-11)
            expected = of_a @ of_a.T + of_b @ of_b.T
            np.testing.assert_allclose(covariance, expected, atol=1e-11)
    only = functools.partial(predict.ensemble, ntk_test=ntk_test, covariance=False, ridge=ridge)
    assert jax.eval_shape(only, ntk, prior, y, times).covariance is None


def test_the_bayesian_limit_is_the_posterior(x64):
    kernel, tests, y, _ = problem(values=np.arange(1.0, 7))
    cov = dict(nngp_test=tests, nngp_test_test=tests @ tests.T)
    noisy = kernel + 0.3 * np.eye(6)
    limit, trained, exact = compiled(
        lambda: (
            predict.ensemble(kernel, noisy, y, np.inf, ntk_test=tests, ridge=0.3, **cov),
            predict.flow(kernel, y, np.inf, ntk_test=tests, ridge=0.3).test,
            predict.posterior(kernel, y, tests, tests @ tests.T, noise=0.3),
        )
    )()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-11), limit, exact)
    np.testing.assert_allclose(trained, exact.mean)


def test_products_agree_with_the_decomposition(x64):
    rng = np.random.default_rng(1)
    x, y = (jnp.asarray(rng.standard_normal((40, k))) for k in (5, 2))
    times = [0.0, 0.5, 5.0]
    steps = dict(learning_rate=0.1, momentum=0.5)

    def predicted(by_products, x, y):
        matrix = jnp.exp(x @ x.T / 5)
        tests = jnp.exp(x[:7] @ x.T / 5)
        kernel, kernel_test = (
            ((lambda v: matrix @ v), (lambda v: tests @ v)) if by_products else (matrix, tests)
        )
        return {
            "flow": predict.flow(kernel, y, times, ntk_test=kernel_test, start=0.2, ridge=0.1),
            "descent": predict.descent(kernel, y[:, 0], 30, ntk_test=tests, **steps),
            "rate": predict.max_learning_rate(kernel, momentum=0.5, like=y),
            "posterior": predict.posterior(kernel, y, tests, noise=1.0).mean,
        }

    found, exact = compiled(lambda x, y: (predicted(True, x, y), predicted(False, x, y)))(x, y)
    expected = exact["flow"]._asdict()
    same(found["flow"], expected, 5e-12)
    expected = exact["descent"]._asdict()
    same(found["descent"], expected, 2e-12)
    np.testing.assert_allclose(found["rate"], exact["rate"], rtol=1e-14)
    np.testing.assert_allclose(found["posterior"], exact["posterior"], atol=4e-10)


def test_too_few_products_are_nan(x64):
    values = np.geomspace(1e-6, 1, 30)
    flow = compiled(
        lambda y, times: predict.flow(lambda v: values * v, y, times, products=12).train
    )
    found = flow(np.ones(30), np.array([1.0, 3e5]))
    expected = -np.expm1(-values / 30)
    np.testing.assert_allclose(found[0], expected, atol=1e-9)
    assert np.all(np.isnan(found[1]))
    # Not where the labels excite few modes only: the vectors end.
    few = np.where(np.arange(30) % 15 == 0, 1.0, 0.0)
    found = flow(few, np.array([1.0, 1e9]))
    expected = few * -np.expm1(-np.array([[1.0], [1e9]]) * values[None] / 30)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_kernels_between_outputs(x64):
    kernel, tests, y, _ = problem()

    def between(k):
        return np.multiply.outer(k, np.eye(2))

    def predicted(kernel, tests):
        return predict.flow(kernel, y, [1.0, np.inf], ntk_test=tests), predict.max_learning_rate(
            kernel
        )

    (shared, rate), (full, full_rate) = compiled(
        lambda: (predicted(kernel, tests), predicted(between(kernel), between(tests)))
    )()
    same(full, shared._asdict(), 1e-12)
    np.testing.assert_allclose(full_rate, rate)


def test_shapes_jit_and_vmap(x64):
    kernel, tests, y, _ = problem()
    kernels = jnp.stack([kernel, 2 * kernel])

    def one(k, y, t):
        return predict.flow(k, y, t, ntk_test=tests, ridge=0.1)

    many = compiled(jax.vmap(one, (0, None, None)))(kernels, y, jnp.ones((3, 2)))
    assert many.train.shape == (2, 3, 2, 6, 2)
    assert many.test.shape == (2, 3, 2, 3, 2)
    # Not compiled as a whole.
    modes = predict.modes(2 * kernel)
    alone = one(modes, y, 1.0)
    computed = many.test[1, 0, 0]
    np.testing.assert_allclose(computed, alone.test, atol=1e-12)
    jax.tree.map(np.testing.assert_array_equal, one(2 * kernel, y, 1.0), alone)
    assert jax.eval_shape(one, kernel, y[:, 0], 1.0).test.shape == (3,)
    pair = jax.eval_shape(predict.ensemble, modes, kernel, y[:, 0], jnp.array([1.0, 2.0]))
    assert (pair.mean.shape, pair.covariance.shape) == ((2, 6), (2, 6, 6))
    # Whole numbers are labels too.
    assert (
        jax.eval_shape(predict.flow, kernel, np.array([1, -1, 1, 1, -1, 1]), 1.0).train.dtype
        == float
    )


@compiled
def loss_at(times, kernel, y, start, ridge):
    error = predict.flow(kernel, y, times, start=start, ridge=ridge).train - y[None]
    return jnp.sum(error**2, (1, 2)) / 12


@compiled
def time_to(losses, kernel, y, start, ridge):
    return predict.time_to_loss(kernel, y, losses, start=start, ridge=ridge)


@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_time_to_loss(ridge, x64):
    kernel, _, y, _ = problem()
    setting = kernel, y, 1.0, ridge
    first, last = loss_at(np.array([0.0, np.inf, 1.0, 1.0]), *setting)[:2]
    losses = last + (first - last) * np.array([1.0, 0.9, 1e-1, 1e-6])
    times = time_to(losses, *setting)
    computed = loss_at(times, *setting)
    np.testing.assert_allclose(computed, losses, rtol=1e-12)
    assert np.all(np.diff(times) > 0)
    never = time_to(np.array([2 * first, 0.99 * last, -1.0, np.nextafter(first, 9)]), *setting)
    assert never.tolist() == [0.0, np.inf, np.inf, 0.0]
    alone = time_to(
        np.exp(-np.array([0.5, 1.0, 10.0, 100.0])), np.eye(6), np.ones((6, 2)), 0.0, 0.0
    )
    expected = [1.5, 3.0, 30.0, 300.0]
    np.testing.assert_allclose(alone, expected, rtol=1e-12)


def test_any_loss_against_another_integrator(x64):
    kernel, tests, _, _ = problem(values=np.arange(1.0, 7))
    start = np.random.default_rng(5).standard_normal((6, 3))
    labels = np.arange(6) % 3

    def loss(f, labels):
        return optax.softmax_cross_entropy_with_integer_labels(f, labels).mean()

    def slope(f):
        return kernel @ (scipy.special.softmax(f, 1) - np.eye(3)[labels]) / 6

    def flat(_, f):
        return -np.ravel(slope(f.reshape(6, 3)))

    exact = (
        scipy.integrate.solve_ivp(flat, (0, 4), start.ravel(), rtol=1e-11, atol=1e-12)
        .y[:, -1]
        .reshape(6, 3)
    )
    of_loss = functools.partial(
        predict.flow_loss, loss, kernel, labels, [4.0], start=start, ntk_test=tests
    )
    found = compiled(lambda: of_loss(rtol=1e-11, atol=1e-12))()
    np.testing.assert_allclose(found.train[0], exact, atol=1e-8)
    gained = tests @ np.linalg.solve(kernel, exact - start)
    np.testing.assert_allclose(found.test[0], gained, atol=1e-8)
    # The heavy ball's ODE, which descent with momentum follows to first order in sqrt(learning
    # rate).
    damped = compiled(lambda: of_loss(damping=1.5, solver=jd.RK4(0.01)))().train[0]
    errors = []
    for rate in (1e-4, 2.5e-5):
        f = start
        m = np.zeros_like(start)
        for _ in range(round(4 / rate**0.5)):
            m = (1 - 1.5 * rate**0.5) * m + slope(f)
            f = f - rate * m
        errors.append(np.max(np.abs(f - damped)))
    assert errors[0] < 0.1
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)


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
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "NPROC": "8",
    }
    cwd = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=cwd,
        env=environment,
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
