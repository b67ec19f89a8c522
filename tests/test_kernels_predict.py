"""Predictions in function space: against stored values, linearised nets in parameter space, and finite differences."""

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
import scipy.linalg

import jaxdyn as jd
from jaxdyn import rules
from jaxdyn.kernels import predict

GOLDEN = Path(__file__).parent / "golden"
INDEX = {k: v for k, v in json.loads((GOLDEN / "golden.json").read_text())["arrays"].items() if k.startswith("pred/")}
INDEX = {name: about for name, about in INDEX.items() if "fn" in about}


@functools.cache
def golden():
    with np.load(GOLDEN / "golden.npz") as arrays:
        return dict(arrays)


def erf_kernels(x1, x2):
    """NNGP and NTK of dense(w_std=1.5, b_std=0.1) three times with erf between (Williams, 1997)."""
    dense = lambda k: 1.5**2 * k + 0.1**2
    q1, q2 = (dense(np.sum(x**2, 1) / x.shape[1]) for x in (x1, x2))
    nngp = ntk = dense(x1 @ x2.T / x1.shape[1])
    for _ in range(2):
        scale = np.sqrt(np.outer(1 + 2 * q1, 1 + 2 * q2))
        slope = 4 / np.pi / np.sqrt(scale**2 - 4 * nngp**2)
        nngp, before = dense(2 / np.pi * np.arcsin(2 * nngp / scale)), nngp
        ntk = nngp + 1.5**2 * slope * (ntk if before is not ntk else before)
        q1, q2 = (dense(2 / np.pi * np.arcsin(2 * q / (1 + 2 * q))) for q in (q1, q2))
    return nngp, ntk


def golden_prediction(name):
    """The same number from our functions; the peer's units and its meaning of regularisation are passed explicitly."""
    g, about = golden(), INDEX[name]
    (nngp, ntk), (nngp_test, ntk_test) = erf_kernels(g["x"], g["x"]), erf_kernels(g["xt"], g["x"])
    tests = dict(nngp_test=nngp_test, nngp_test_test=erf_kernels(g["xt"], g["xt"])[0])
    kind, *rest = name.split("/")[1:]
    if kind == "max_lr":
        return predict.max_learning_rate(ntk)
    starts = dict(start=g["fx_train_0"], start_test=g["fx_test_0"])
    if kind.startswith("ode"):
        loss = lambda f, labels: -jnp.mean(jax.nn.log_softmax(f) * labels)
        damping = None if about["momentum"] is None else 1 - about["momentum"]
        options = dict(damping=damping, ntk_test=ntk_test, rtol=1e-12, atol=1e-13)
        return getattr(predict.flow_loss(loss, ntk, g["y_onehot"], g["ode_t"], **starts, **options), rest[-1])
    amount = lambda k: about["diag_reg"] * (1 if about["diag_reg_absolute_scale"] else np.trace(k) / 6)
    # The mean over 6 examples and 2 outputs.
    times = np.inf if "inf" in name else g["pred_t"] * about["learning_rate"] / 2
    if kind == "mse":
        if rest[1].startswith("train"):  # where the peer adds the regularisation to the kernel itself
            return predict.flow(ntk + amount(ntk) * np.eye(6), g["y"], times, **starts).train
        return predict.flow(ntk, g["y"], times, ntk_test=ntk_test, ridge=amount(ntk), **starts).test
    bayesian = "nngp" in rest
    moving, moving_test = (nngp, nngp_test) if bayesian else (ntk, ntk_test)
    ridge = amount(moving)
    prior = nngp + (ridge if bayesian else 0) * np.eye(6)
    if "gp_inference" in rest and bayesian:
        found = predict.posterior(nngp, g["y"], nngp_test, tests["nngp_test_test"], noise=ridge)
    elif "finite_train" in rest:
        found = predict.ensemble(moving + ridge * np.eye(6), prior, g["y"], times)
    else:
        found = predict.ensemble(moving, prior, g["y"], times, ntk_test=moving_test, ridge=ridge, **tests)
    return found.mean if rest[-1] == "mean" else found.covariance


@pytest.mark.parametrize("name", INDEX)
def test_golden(name, x64):
    found = golden_prediction(name)
    # The peer's integration of the cross-entropy flow has a tolerance of 1.4e-8 a step; ours is checked below.
    np.testing.assert_allclose(found, golden()[name], rtol=0, atol=1e-6 if "/ode" in name else 1e-10)


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
    moved = lambda params: jax.tree.map(jnp.subtract, params, start)
    apply = lambda params, x: jnp.add(*jax.jvp(lambda p: net(p, x), (start,), (moved(params),)))
    rows = lambda x: [j.reshape(*j.shape[:2], -1) for j in jax.jacobian(net)(start, x)]
    kernel = lambda x1, x2: sum(jnp.einsum("ikp,jlp->ijkl", a, b) for a, b in zip(rows(x1), rows(x2), strict=True))
    return apply, start, x, y, x_test, kernel(x, x), kernel(x_test, x)


def outputs(apply, x, x_test):
    return lambda state: {"train": apply(state.params, x), "test": apply(state.params, x_test)}


def same(predicted, observed, tolerance):
    np.testing.assert_allclose(predicted.train, observed["train"], rtol=0, atol=tolerance)
    np.testing.assert_allclose(predicted.test, observed["test"], rtol=0, atol=tolerance)


def penalised(apply, start, ridge):
    gradient = jax.grad(rules.squared_error(apply))
    pull = lambda p, s, n: ridge * (p - s) / n
    return lambda params, batch: jax.tree.map(
        lambda g, p, s: g + pull(p, s, len(batch[1])), gradient(params, batch), params, start
    )


@pytest.mark.parametrize("ridge", [0.0, 0.7])
def test_flow_is_that_of_the_linearised_net(ridge, x64):
    apply, start, x, y, x_test, ntk, ntk_test = linearised()
    starts = dict(start=net(start, x), start_test=net(start, x_test))
    times = np.array([0.0, 0.3, 2.0, 20.0])
    predicted = predict.flow(ntk, y, times, ntk_test=ntk_test, ridge=ridge, **starts)
    field = penalised(apply, start, ridge)
    run = jd.flow(field, (x, y), start, times=times, observe=outputs(apply, x, x_test), solver=jd.RK4(0.01))
    same(predicted, run.observed, 1e-8)
    squared = lambda f, y: jnp.sum((f - y) ** 2) / 2 / len(y)
    if not ridge:
        same(predict.flow_loss(squared, ntk, y, times, ntk_test=ntk_test, **starts), run.observed, 1e-6)


@pytest.mark.parametrize(("momentum", "ridge"), [(0.0, 0.0), (0.9, 0.0), (0.5, 0.7)])
def test_descent_is_that_of_optax(momentum, ridge, x64):
    apply, start, x, y, x_test, ntk, ntk_test = linearised()
    steps, rate = np.array([0, 1, 2, 7, 100]), 0.3
    starts = dict(start=net(start, x), start_test=net(start, x_test))
    options = dict(momentum=momentum, ntk_test=ntk_test, ridge=ridge, **starts)
    run = jd.train(
        penalised(apply, start, ridge),
        optax.sgd(rate, momentum),
        lambda *_: (x, y),
        start,
        times=steps,
        observe=outputs(apply, x, x_test),
    )
    same(predict.descent(ntk, y, steps, rate, **options), run.observed, 1e-12)


def problem(n=6, seed=0, values=(0.0, 0.0, 0.5, 2.0, 2.0, 2.0)):
    """A kernel with eigenvalues zero and coinciding, labels and a direction."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((n, n)))[0]
    kernel = basis * np.asarray(values) @ basis.T
    tests = rng.standard_normal((3, n)) @ kernel
    return (kernel + kernel.T) / 2, tests, rng.standard_normal((n, 2)), rng.standard_normal((n, n))


@pytest.mark.parametrize("time", [0.0, 0.5, 40.0, 1e4, np.inf])
def test_eigenvalues_zero_stay_at_the_start(time, precision):
    kernel, tests, y, _ = problem()
    start = np.ones_like(y)
    cast = lambda *arrays: [jnp.asarray(a, precision) for a in arrays]
    kernel_, tests_, y_, start_ = cast(kernel, tests, y, start)
    found = predict.flow(kernel_, y_, time, ntk_test=tests_, start=start_)
    left = scipy.linalg.expm(-kernel * min(time, 1e6) / 6)
    tolerance = 200 * np.finfo(precision).eps * (1 + min(time, 1e4) / 6)
    np.testing.assert_allclose(found.train, y + left @ (start - y), atol=tolerance)
    gained = np.linalg.pinv(kernel, 1e-8) @ (np.eye(6) - left) @ (y - start)
    np.testing.assert_allclose(found.test, tests @ gained, atol=10 * tolerance)
    assert found.train.dtype == found.test.dtype == precision


def predictions(kernel, tests, y, ridge):
    prior, fixed = jnp.eye(6) + 0.5, problem()[0]
    cov = dict(nngp_test=tests, nngp_test_test=jnp.eye(3))
    return {
        "flow": lambda: predict.flow(kernel, y, [0.7, 30.0, np.inf], ntk_test=tests)[1],
        "train": lambda: predict.flow(kernel, y, [0.7, 30.0, np.inf], start=0.5, ridge=ridge)[0],
        "descent": lambda: predict.descent(kernel, y, [1, 40], 0.4, ntk_test=tests)[1],
        "momentum": lambda: predict.descent(kernel, y, [3, 40], 0.9, momentum=0.6, ntk_test=tests)[1],
        "ensemble": lambda: predict.ensemble(kernel, prior, y, [2.0, np.inf], ntk_test=tests, **cov)[1],
        "on the training set": lambda: predict.ensemble(kernel, prior, y, [2.0, np.inf], ridge=ridge)[1],
        "by products": lambda: predict.flow(lambda v: fixed @ v, y, [0.7, 3.0], ntk_test=tests, ridge=ridge)[1],
        "posterior": lambda: predict.posterior(kernel, y, tests, jnp.eye(3), noise=ridge)[1],
        "posterior by products": lambda: predict.posterior(lambda v: kernel @ v, y, tests, noise=ridge)[0],
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

    s = 1e-4
    difference = (8 * (along(s) - along(-s)) - (along(2 * s) - along(-2 * s))) / 12 / s
    forward, reverse = jax.jvp(along, (0.0,), (1.0,))[1], jax.jit(jax.grad(along))(0.0)
    np.testing.assert_allclose([forward, reverse], difference, rtol=2e-7, atol=1e-8)


def test_derivatives_that_there_are_not(x64):
    kernel, _, y, _ = problem()
    predicted = lambda kernel, y: jnp.sum(predict.flow(kernel, y, 1.0).train ** 2)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        jax.hessian(predicted)(jnp.asarray(kernel), y)
    with pytest.raises(NotImplementedError, match="as a matrix"):
        jax.grad(lambda kernel: jnp.sum(predict.flow(lambda v: kernel @ v, y, 1.0).train))(jnp.asarray(kernel))
    mixed = jax.jacfwd(jax.grad(predicted), 1)(jnp.asarray(kernel), jnp.asarray(y))
    s, d = 1e-4, np.eye(6)[:, :1] * np.ones((1, 2))
    slope = jax.grad(predicted)
    difference = (slope(kernel, y + s * d) - slope(kernel, y - s * d)) / 2 / s
    np.testing.assert_allclose(jnp.einsum("ijkl,kl->ij", mixed, d), difference, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.36, 0.9])
def test_descent_with_momentum_at_every_curvature(momentum, x64):
    # Critical damping, twice, oscillation between, beyond stability, zero, and far below what a million steps see.
    edges = (1 - momentum**0.5) ** 2, (1 + momentum**0.5) ** 2
    values = np.array([0.0, 1e-12, 1e-7, edges[0], 0.5, edges[1], 2 * (1 + momentum) + 1e-3])
    y = np.ones(7)
    for steps in (1, 2, 3, 50, 1000):
        weights, before = np.zeros(7), np.zeros(7)
        for _ in range(steps):
            weights, before = weights + 1 - values * weights + momentum * (weights - before), weights
        found = predict.descent(np.diag(values), y, steps, 7.0, momentum=momentum, ntk_test=np.eye(7)).test
        np.testing.assert_allclose(found, weights, rtol=2e-9)
    late = predict.descent(np.diag(values[:3]), y[:3], 10**6, 3.0, momentum=momentum, ntk_test=np.eye(3)).test
    time = 1e6 / (1 - momentum) - momentum / (1 - momentum) ** 2
    # To first order in what a step changes; the third mode moves.
    np.testing.assert_allclose(late[:2], time, rtol=1e-5)
    slow = ((1 - momentum + 1e-7) - ((1 - momentum + 1e-7) ** 2 - 4e-7) ** 0.5) / 2
    np.testing.assert_allclose(late[2], -np.expm1(1e6 * np.log1p(-slow)) / 1e-7, rtol=1e-5)


def test_descent_follows_flow_and_blows_up_beyond_the_largest_rate(x64):
    kernel, tests, y, _ = problem()
    slow = predict.descent(kernel, y, 10**5, 1e-4, ntk_test=tests)
    flow = predict.flow(kernel, y, 10.0, ntk_test=tests)
    same(slow, flow._asdict(), 1e-4)
    for momentum in (0.0, 0.5):
        rate = predict.max_learning_rate(kernel, momentum=momentum)
        stable, unstable = (
            jnp.max(jnp.abs(predict.descent(kernel, y, 10**4, factor * rate, momentum=momentum).train))
            for factor in (0.99, 1.01)
        )
        assert stable < 10
        assert not unstable < 1e10
        np.testing.assert_allclose(predict.max_learning_rate(predict.modes(kernel), momentum=momentum), rate)


@pytest.mark.parametrize("learning_rate", [None, 0.4])
def test_ensemble_is_the_distribution_of_trained_nets(learning_rate, x64):
    # f = trained features . a + frozen features . b, so that the prior is not the tangent kernel.
    rng = np.random.default_rng(3)
    (trained, trained_test), (frozen, frozen_test) = (np.split(rng.standard_normal((9, p)), [6]) for p in (4, 8))
    y, n, ridge, times = rng.standard_normal((6, 2)), 6, 0.2, np.array([0, 1, 30])
    ntk, ntk_test = trained @ trained.T, trained_test @ trained.T
    nngp = lambda a, b, c, d: a @ c.T + b @ d.T
    generator = (trained.T @ trained + ridge * np.eye(4)) / n
    for test in (True, False):
        tests = dict(
            ntk_test=ntk_test,
            nngp_test=nngp(trained_test, frozen_test, trained, frozen),
            nngp_test_test=nngp(trained_test, frozen_test, trained_test, frozen_test),
        )
        found = predict.ensemble(
            ntk, nngp(trained, frozen, trained, frozen), y, times, ridge=ridge, learning_rate=learning_rate,
            **(tests if test else {}),
        )  # fmt: skip
        rows, rows_frozen = (trained_test, frozen_test) if test else (trained, frozen)
        for time, mean, covariance in zip(times, found.mean, found.covariance, strict=True):
            if learning_rate is None:
                left = scipy.linalg.expm(-generator * time)
            else:
                left = np.linalg.matrix_power(np.eye(4) - learning_rate * generator, time)
            # The move of a from a_0, which is penalised, is linear in the labels and in both initial weights.
            gain = np.linalg.solve(generator, np.eye(4) - left) @ trained.T / n
            of_a, of_b = rows - rows @ gain @ trained, rows_frozen - rows @ gain @ frozen
            np.testing.assert_allclose(mean, rows @ gain @ y, atol=1e-11)
            np.testing.assert_allclose(covariance, of_a @ of_a.T + of_b @ of_b.T, atol=1e-11)
    only = predict.ensemble(ntk, np.eye(6), y, times, ntk_test=ntk_test, covariance=False, ridge=ridge)
    assert only.covariance is None


def test_the_bayesian_limit_is_the_posterior(x64):
    kernel, tests, y, _ = problem(values=np.arange(1.0, 7))
    cov = dict(nngp_test=tests, nngp_test_test=tests @ tests.T)
    noisy = kernel + 0.3 * np.eye(6)
    limit = predict.ensemble(kernel, noisy, y, np.inf, ntk_test=tests, ridge=0.3, **cov)
    exact = predict.posterior(kernel, y, tests, tests @ tests.T, noise=0.3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-11), limit, exact)
    np.testing.assert_allclose(predict.flow(kernel, y, np.inf, ntk_test=tests, ridge=0.3).test, exact.mean)


def rounding_of(precision, factor=1.0):
    return factor * float(np.finfo(precision).eps)


def test_products_agree_with_the_decomposition(precision):
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.standard_normal((40, 5)), precision)
    kernel, tests = jnp.exp(x @ x.T / 5), jnp.exp(x[:7] @ x.T / 5)
    y = jnp.asarray(rng.standard_normal((40, 2)), precision)
    product, times, options = lambda v: kernel @ v, [0.0, 0.5, 5.0], dict(start=0.2, ridge=0.1)
    dense = predict.flow(kernel, y, times, ntk_test=tests, **options)
    for ntk_test in (tests, lambda v: tests @ v):
        same(
            predict.flow(product, y, times, ntk_test=ntk_test, **options), dense._asdict(), rounding_of(precision, 2e4)
        )
    steps = predict.descent(kernel, y[:, 0], 30, 0.1, momentum=0.5, ntk_test=tests)
    same(predict.descent(product, y[:, 0], 30, 0.1, momentum=0.5, ntk_test=tests), steps._asdict(),
         rounding_of(precision, 1e4))  # fmt: skip
    rate = predict.max_learning_rate(kernel, momentum=0.5)
    np.testing.assert_allclose(
        predict.max_learning_rate(product, momentum=0.5, like=y), rate, rtol=rounding_of(precision, 40)
    )
    found, exact = (predict.posterior(k, y, tests, noise=1.0).mean for k in (product, kernel))
    np.testing.assert_allclose(found, exact, atol=rounding_of(precision, 1e3) ** 0.75)


def test_too_few_products_are_nan(x64):
    values = np.geomspace(1e-6, 1, 30)
    y = np.ones(30)
    found = predict.flow(lambda v: values * v, y, [1.0, 3e5], products=12).train
    np.testing.assert_allclose(found[0], -np.expm1(-values / 30), atol=1e-9)
    assert np.all(np.isnan(found[1]))
    # Not where the labels excite few modes only: the vectors end.
    few = np.where(np.arange(30) % 15 == 0, 1.0, 0.0)
    found = predict.flow(lambda v: values * v, few, [1.0, 1e9], products=12).train
    np.testing.assert_allclose(found, few * -np.expm1(-np.array([[1.0], [1e9]]) * values[None] / 30), atol=1e-12)


def test_kernels_between_outputs(x64):
    kernel, tests, y, _ = problem()
    between = lambda k: np.multiply.outer(k, np.eye(2))
    shared = predict.flow(kernel, y, [1.0, np.inf], ntk_test=tests)
    same(predict.flow(between(kernel), y, [1.0, np.inf], ntk_test=between(tests)), shared._asdict(), 1e-12)
    np.testing.assert_allclose(predict.max_learning_rate(between(kernel)), predict.max_learning_rate(kernel))


def test_shapes_jit_and_vmap(x64):
    kernel, tests, y, _ = problem()
    kernels = jnp.stack([kernel, 2 * kernel])
    one = lambda k, y, t: predict.flow(k, y, t, ntk_test=tests, ridge=0.1)
    many = jax.jit(jax.vmap(one, (0, None, None)))(kernels, y, jnp.ones((3, 2)))
    assert many.train.shape == (2, 3, 2, 6, 2)
    assert many.test.shape == (2, 3, 2, 3, 2)
    np.testing.assert_allclose(many.test[1, 0, 0], one(2 * kernel, y, 1.0).test, atol=1e-12)
    assert one(kernel, y[:, 0], 1.0).test.shape == (3,)
    modes = predict.modes(kernel)
    jax.tree.map(np.testing.assert_array_equal, one(modes, y, 1.0), one(kernel, y, 1.0))
    pair = predict.ensemble(modes, kernel, y[:, 0], [1.0, 2.0])
    assert (pair.mean.shape, pair.covariance.shape) == ((2, 6), (2, 6, 6))
    # Whole numbers are labels too.
    assert predict.flow(kernel, [1, -1, 1, 1, -1, 1], 1.0).train.dtype == float


@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_time_to_loss(ridge, x64):
    kernel, _, y, _ = problem()
    error = lambda time: float(jnp.sum((predict.flow(kernel, y, time, start=1.0, ridge=ridge).train - y) ** 2) / 12)
    first, last = error(0.0), error(np.inf)
    losses = last + (first - last) * np.array([1.0, 0.9, 1e-1, 1e-6])
    times = predict.time_to_loss(kernel, y, losses, start=1.0, ridge=ridge)
    np.testing.assert_allclose([error(t) for t in times], losses, rtol=1e-12)
    assert np.all(np.diff(times) > 0)
    never = predict.time_to_loss(kernel, y, [2 * first, 0.99 * last, -1.0], start=1.0, ridge=ridge)
    assert never.tolist() == [0.0, np.inf, np.inf]
    assert predict.time_to_loss(np.eye(1), np.ones(1), 0.5 * np.exp(-100.0)) == pytest.approx(50, rel=1e-12)


def test_any_loss_against_another_integrator(x64):
    kernel, tests, _, _ = problem(values=np.arange(1.0, 7))
    start, labels = np.random.default_rng(5).standard_normal((6, 3)), np.arange(6) % 3
    loss = lambda f, labels: optax.softmax_cross_entropy_with_integer_labels(f, labels).mean()
    slope = jax.jit(lambda f: kernel @ jax.grad(loss)(f, labels))
    options = dict(start=start, ntk_test=tests, rtol=1e-11, atol=1e-12)
    from scipy.integrate import solve_ivp

    flat = lambda _, f: -np.ravel(slope(f.reshape(6, 3)))
    exact = solve_ivp(flat, (0, 4), start.ravel(), rtol=1e-11, atol=1e-12).y[:, -1].reshape(6, 3)
    found = predict.flow_loss(loss, kernel, labels, [4.0], **options)
    np.testing.assert_allclose(found.train[0], exact, atol=1e-8)
    gained = tests @ np.linalg.solve(kernel, exact - start)
    np.testing.assert_allclose(found.test[0], gained, atol=1e-8)
    # The heavy ball's ODE, which descent with momentum follows to first order in sqrt(learning rate).
    damped = predict.flow_loss(loss, kernel, labels, [4.0], damping=1.5, **options).train[0]
    errors = []
    for rate in (1e-4, 2.5e-5):
        f, m = start, np.zeros_like(start)
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
        mean = predict.posterior(product, y, kernel[:4], noise=1.0).mean
        return flow, mean, predict.max_learning_rate(product, like=y)
    sharded = jax.device_put(kernel, place(("rows", None)))
    compiled = jax.jit(run).lower(sharded, y).compile()
    assert "all-gather" in compiled.as_text() or "all-reduce" in compiled.as_text()
    for a, b in zip(compiled(sharded, y), run(kernel, y)):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    print(len(jax.devices()), sharded.sharding.shard_shape(sharded.shape))
    """
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "NPROC": "8"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=300, check=False,
        cwd=Path(__file__).parent.parent, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "2 (32, 64)"


K, Y = np.eye(3), np.ones(3)
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
    "times: .*increasing": lambda: predict.flow_loss(lambda f, y: jnp.sum(f), K, Y, [2.0, 1.0], start=Y),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input(message, x64):
    with pytest.raises(ValueError, match=message):
        BAD[message]()
