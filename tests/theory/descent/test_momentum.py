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

# The worst rate on quadratics, of the root of their condition number.
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
    curvature = np.linspace(3.0, 3.0 * kappa, 2001)
    rates = momentum.mode_rate(method, curvature)
    root = np.sqrt(kappa)
    expected = TUNINGS[name](root)
    # Rounding at a double root: sqrt(eps) times the distance of the roots' scale.
    np.testing.assert_allclose(rates.max(), expected, rtol=1e-6)


def test_which_modes_are_the_slowest(x64):
    curvature = np.linspace(1.0, 100.0, 50)
    triple_momentum = momentum.triple_momentum(1.0, 100.0)
    triple = np.asarray(momentum.mode_rate(triple_momentum, curvature))
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
    spectrum = np.linspace(1.0, 100.0, 23)
    curvature = np.r_[spectrum, 1 / float(method.learning_rate)]
    expected = by_hand(method, curvature, 200)
    steps = np.arange(200)[:, None]
    computed = jax.jit(momentum.mode)(steps, method, curvature[None])
    assert computed.dtype == precision
    # At a double root an error of eps in the coefficients splits the roots by its root, for at most
    # 1/(1 - rate) steps.
    power = 1 if precision == "float64" else 0.75
    atol = 300 * jnp.finfo(precision).eps ** power
    np.testing.assert_allclose(computed, expected, atol=atol)


@pytest.mark.parametrize("name", TUNINGS)
def test_curvatures_must_be_positive(name):
    with pytest.raises(ValueError, match=r"m: 0\.0; pass positive"):
        getattr(momentum, name)(0.0, 1.0)


def test_unstable_methods_grow(x64):
    unstable = momentum.ThreeTerm(0.5, 0.9)
    assert momentum.mode_rate(unstable, 10.0) > 1
    steps = np.arange(30)
    computed = momentum.mode(steps, unstable, 10.0)
    expected = by_hand(unstable, np.array(10.0), 30)
    np.testing.assert_allclose(computed, expected, rtol=1e-10)


def no_data(key, step):
    return ()


@pytest.mark.parametrize("name", TUNINGS)
def test_the_optimiser_is_the_recursion(name, precision):
    method = getattr(momentum, name)(1.0, 100.0)
    curvature = jnp.linspace(1.0, 100.0, 7)
    beyond = method.output - method.lookahead

    def gradient(x, _):
        return curvature * x

    def output(state):
        return {"out": optimizers.ahead(state, beyond)}

    optimizer = optimizers.three_term(*method[:3])
    start = jnp.ones(7)
    times = np.arange(100)
    run = jd.train(gradient, optimizer, no_data, start, times=times, observe=output)
    expected = by_hand(method, np.linspace(1, 100, 7), 100)
    atol = 200 * jnp.finfo(precision).eps
    np.testing.assert_allclose(run.observed["out"], expected, atol=atol)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (optimizers.three_term(0.1), optax.sgd(0.1)),
        (optimizers.three_term(0.1, 0.9), optax.sgd(0.1, momentum=0.9)),
        (optimizers.three_term(0.1, 0.9, 0.9), optax.sgd(0.1, momentum=0.9, nesterov=True)),
    ],
)
def test_optax_has_three_of_them(ours, theirs):
    start = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}

    def loss(params):
        return jnp.sum(params["w"] ** 4) + jnp.sum(params["b"] ** 2)

    def gradient(params, _):
        return jax.grad(loss)(params)

    def observe(state):
        return {}

    def final(optimizer):
        run = jd.train(gradient, optimizer, no_data, start, times=[20], observe=observe)
        return run.final.params

    computed = final(ours)
    expected = final(theirs)
    chex.assert_trees_all_close(computed, expected, rtol=1e-5)


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

    def gradient(x, _):
        return curvature * x

    def observe(state):
        back = -schedule(state.time)
        return {"x": optimizers.ahead(state, back)}

    times = np.arange(1, 30)
    optimizer = optimizers.three_term(s, schedule, schedule)
    run = jd.train(gradient, optimizer, no_data, 1.0, times=times, observe=observe)
    np.testing.assert_allclose(run.observed["x"], expected, rtol=1e-12)


@pytest.mark.parametrize("damping", [0.0, 0.5, 4.0, 4.0 + 1e-9, 12.0])
def test_the_oscillator_solves_its_equation(damping, x64):
    times = np.linspace(0, 8, 17)

    def velocity(t, point):
        x, speed = point
        acceleration = -damping * speed - 4.0 * x
        return jnp.array([speed, acceleration])

    def observe(state):
        return {"x": state.params[0]}

    start = jnp.array([1.5, -0.4])
    solver = jd.RK4(2e-3)
    run = jd.integrate(velocity, start, times=times, observe=observe, solver=solver)
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
        strength = (1 - q) / (1 + q)
        lookahead = strength if "nesterov" in which.__name__ else 0.0
        method = momentum.ThreeTerm(s, strength, lookahead)
        previous = 1.0 if method.lookahead else 1.0 + s * curvature
        x = 1.0
        seen = []
        steps = round(5 / h)
        for _ in range(steps + 1):
            seen.append(x + method.lookahead * (x - previous))
            x, previous = x + method.momentum * (x - previous) - s * curvature * seen[-1], x
        damping, stiffness = which(s, mu, curvature)
        first_move = -2 * s * curvature / (1 + q)
        v0 = momentum.step_velocity(first_move, h, damping, stiffness, 1.0)
        times = h * np.arange(steps + 1)
        ode = momentum.oscillator(times, damping, stiffness, 1.0, v0)
        error = np.abs(ode - np.array(seen)).max()
        errors.append(error)
    slope = np.log(errors[0] / errors[1]) / np.log(100)
    assert abs(slope - 1) < 0.1
