"""Momentum: closed forms against the recursion iterated by hand, ODEs against integration, Bessel
against scipy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

import jaxdyn as jd
from jaxdyn import optimizers
from jaxdyn.theory.descent import momentum

TUNINGS = {
    "gradient_descent": lambda root: (root**2 - 1) / (root**2 + 1),
    "nesterov": lambda root: 1 - 1 / root,
    "nesterov_quadratic": lambda root: 1 - 2 / np.sqrt(3 * root**2 + 1),
    "heavy_ball": lambda root: (root - 1) / (root + 1),
    "triple_momentum": lambda root: 1 - 1 / root,
}


def by_hand(method, curvature, steps):
    """The recursion in x itself, not in y as the optimiser holds it."""
    a, b, g, d = (np.float64(c) for c in method)
    x = previous = np.ones_like(curvature)
    outputs = []
    for _ in range(steps):
        outputs.append(x + d * (x - previous))
        y = x + g * (x - previous)
        x, previous = x + b * (x - previous) - a * curvature * y, x
    return np.array(outputs)


@pytest.mark.parametrize("kappa", [25.0, 1e4])
@pytest.mark.parametrize("name", TUNINGS)
def test_worst_rate_on_quadratics(name, kappa, x64):
    method = getattr(momentum, name)(3.0, 3.0 * kappa)
    rates = momentum.mode_rate(method, np.linspace(3.0, 3.0 * kappa, 2001))
    # Rounding at a double root: sqrt(eps) times the distance of the roots' scale.
    expected = TUNINGS[name](np.sqrt(kappa))
    np.testing.assert_allclose(rates.max(), expected, rtol=1e-6)


def test_which_modes_are_the_slowest(x64):
    curvature = np.linspace(1.0, 100.0, 50)
    triple = np.asarray(momentum.mode_rate(momentum.triple_momentum(1.0, 100.0), curvature))
    computed = triple[[0, -1]]
    np.testing.assert_allclose(computed, 0.9, rtol=1e-12)
    assert np.all(triple[1:-1] < 0.9)
    # All modes of the heavy ball lose alike; at both ends rounding splits a double root by
    # sqrt(eps).
    computed = momentum.mode_rate(momentum.heavy_ball(1.0, 100.0), curvature)
    np.testing.assert_allclose(computed, 9 / 11, rtol=1e-7)


@pytest.mark.parametrize("name", TUNINGS)
def test_modes_are_the_iterated_recursion(name, precision):
    # The ends of the spectrum, among them double roots, and the curvature 1/a that is learned in
    # one step.
    method = getattr(momentum, name)(1.0, 100.0)
    curvature = np.r_[np.linspace(1.0, 100.0, 23), 1 / float(method.learning_rate)]
    expected = by_hand(method, curvature, 200)
    found = jax.jit(momentum.mode)(np.arange(200)[:, None], method, curvature[None])
    assert found.dtype == precision
    # At a double root an error of eps in the coefficients splits the roots by its root, for at most
    # 1/(1 - rate) steps.
    atol = 300 * jnp.finfo(precision).eps ** (1 if precision == "float64" else 0.75)
    np.testing.assert_allclose(
        found,
        expected,
        atol=atol,
    )


@pytest.mark.parametrize("name", TUNINGS)
def test_curvatures_must_be_positive(name):
    with pytest.raises(ValueError, match=r"m: 0\.0; pass positive"):
        getattr(momentum, name)(0.0, 1.0)


def test_unstable_methods_grow(x64):
    unstable = momentum.ThreeTerm(0.5, 0.9)
    assert momentum.mode_rate(unstable, 10.0) > 1
    computed = momentum.mode(np.arange(30), unstable, 10.0)
    expected = by_hand(unstable, np.array(10.0), 30)
    np.testing.assert_allclose(
        computed,
        expected,
        rtol=1e-10,
    )


@pytest.mark.parametrize("name", TUNINGS)
def test_the_optimiser_is_the_recursion(name, precision):
    method = getattr(momentum, name)(1.0, 100.0)
    curvature = jnp.linspace(1.0, 100.0, 7)

    def output(state):
        return {"out": optimizers.ahead(state, method.output - method.lookahead)}

    run = jd.train(
        lambda x, _: curvature * x,
        optimizers.three_term(*method[:3]),
        lambda key, step: (),
        jnp.ones(7),
        times=np.arange(100),
        observe=output,
    )
    expected = by_hand(method, np.linspace(1, 100, 7), 100)
    atol = 200 * jnp.finfo(precision).eps
    np.testing.assert_allclose(
        run.observed["out"],
        expected,
        atol=atol,
    )


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (optimizers.three_term(0.1), optax.sgd(0.1)),
        (optimizers.three_term(0.1, 0.9), optax.sgd(0.1, momentum=0.9)),
        (optimizers.three_term(0.1, 0.9, 0.9), optax.sgd(0.1, momentum=0.9, nesterov=True)),
    ],
)
def test_optax_has_three_of_them(ours, theirs):
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    slope = jax.grad(lambda p: jnp.sum(p["w"] ** 4) + jnp.sum(p["b"] ** 2))
    runs = [
        jd.train(
            lambda p, _: slope(p),
            optimizer,
            lambda key, step: (),
            params,
            times=[20],
            observe=lambda s: {},
        ).final.params
        for optimizer in (ours, theirs)
    ]
    chex.assert_trees_all_close(*runs, rtol=1e-5)


def test_schedules_count_the_steps(x64):
    # x_k = y_{k-1} - s f'(y_{k-1}), y_k = x_k + (k - 1)/(k + 2) (x_k - x_{k-1}), written out.
    s = 0.1
    curvature = 2.0
    x = 1.0
    y = 1.0
    expected = []
    for k in range(1, 30):
        x, previous = y - s * curvature * y, x
        y = x + (k - 1) / (k + 2) * (x - previous)
        expected.append(x)
    schedule = optimizers.nesterov_schedule

    def observe(state):
        return {"x": optimizers.ahead(state, -schedule(state.time))}

    times = np.arange(1, 30)
    run = jd.train(
        lambda x, _: curvature * x,
        optimizers.three_term(s, schedule, schedule),
        lambda key, step: (),
        1.0,
        times=times,
        observe=observe,
    )
    np.testing.assert_allclose(run.observed["x"], expected, rtol=1e-12)


@pytest.mark.parametrize("damping", [0.0, 0.5, 4.0, 4.0 + 1e-9, 12.0])
def test_the_oscillator_solves_its_equation(damping, x64):
    times = np.linspace(0, 8, 17)
    run = jd.integrate(
        lambda t, x: jnp.array([x[1], -damping * x[1] - 4.0 * x[0]]),
        jnp.array([1.5, -0.4]),
        times=times,
        observe=lambda state: {"x": state.params[0]},
        solver=jd.RK4(2e-3),
    )
    computed = momentum.oscillator(times, damping, 4.0, 1.5, -0.4)
    np.testing.assert_allclose(computed, run.observed["x"], atol=1e-9)


def test_oscillators_do_not_overflow(precision):
    assert np.isfinite(momentum.oscillator(1e4, 1e3, 1e-3, 1.0, 0.0))
    derivative = jax.grad(momentum.oscillator, argnums=1)(1.0, 4.0, 4.0, 1.0, 0.0)
    assert np.isfinite(derivative)


def test_nesterov_flow_is_a_bessel_function(precision):
    z = np.r_[1e-6, np.linspace(0.01, 29.9, 300), np.linspace(30, 500, 300)]
    expected = 2 * scipy.special.j1(z) / z
    # In float32 the phase z is known to z eps, but the function falls faster than z.
    computed = momentum.nesterov_flow(z, 1.0)
    atol = 8 * float(jnp.finfo(precision).eps)
    np.testing.assert_allclose(computed, expected, atol=atol)
    computed = momentum.nesterov_flow(0.0, 2.0, 3.0)
    np.testing.assert_allclose(computed, 3.0, rtol=1e-6)


@pytest.mark.parametrize("which", [momentum.nesterov_oscillator, momentum.heavy_ball_oscillator])
def test_high_resolution_is_first_order_in_the_learning_rate(which, x64):
    # With the usual starting velocity the error is O(sqrt(s)), with the step's own one O(s).
    mu = 1.0
    curvature = 4.0
    errors = []
    for s in (1e-3, 1e-5):
        q = np.sqrt(mu * s)
        h = np.sqrt(s)
        method = momentum.ThreeTerm(
            s, (1 - q) / (1 + q), (1 - q) / (1 + q) if "nesterov" in which.__name__ else 0.0
        )
        previous = 1.0 if method.lookahead else 1.0 + s * curvature
        x = 1.0
        seen = []
        steps = round(5 / h)
        for _ in range(steps + 1):
            seen.append(x + method.lookahead * (x - previous))
            x, previous = x + method.momentum * (x - previous) - s * curvature * seen[-1], x
        damping, stiffness = which(s, mu, curvature)
        v0 = momentum.step_velocity(-2 * s * curvature / (1 + q), h, damping, stiffness, 1.0)
        ode = momentum.oscillator(h * np.arange(steps + 1), damping, stiffness, 1.0, v0)
        errors.append(np.abs(ode - np.array(seen)).max())
    slope = np.log(errors[0] / errors[1]) / np.log(100)
    assert abs(slope - 1) < 0.1
