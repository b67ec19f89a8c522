"""Theory of self-distillation: the closed forms solve their equations and agree with independent
methods."""

import functools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from jaxdyn.theory.linear import self_distillation as theory

POWERS = {"jepa": lambda depth: (2 * depth, 1), "mae": lambda depth: (depth, depth + 1)}
objectives = pytest.mark.parametrize("objective", ["jepa", "mae"])


@objectives
@pytest.mark.parametrize("depth", [1, 2, 2.5, 5])
@pytest.mark.parametrize(("influence", "start"), [(0.5, 1e-3), (1.5, 1e-8)])
def test_time_of_strength_is_the_integral_in_many_digits(objective, depth, influence, start, x64):
    q, r = POWERS[objective](depth)
    strength = 0.9 * influence ** (depth / r)
    with mpmath.workdps(40):
        ends = mpmath.log(start) / depth, mpmath.log(strength) / depth

        def integrand(x):
            grown = mpmath.exp(r * x) / influence
            return mpmath.exp((1 - q) * x) / (1 - grown)

        intervals = mpmath.linspace(*ends, 20)
        expected = float(mpmath.quad(integrand, intervals) / 1.3)
    # Its power of 1/start and the logarithm close to the fixed strength amplify rounding by (2L)^2
    # and 10.
    computed = theory.time_of_strength(strength, 1.3, influence, start, depth, objective)
    assert computed == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("depth", [1, 3])
def test_time_of_strength_of_jepa_is_the_finite_sum(depth, x64):
    a0 = 0.1
    a = 0.5
    rho = 0.7
    last = 2 * depth - 1

    def term(m):
        return (a0**-m - a**-m) / (m * rho ** (last - m))

    powers = sum(term(m) for m in range(1, 2 * depth))
    logarithm = np.log(a / a0 * (1 - a0 / rho) / (1 - a / rho))
    expected = powers + logarithm / rho**last
    computed = theory.time_of_strength(a**depth, 2.0, rho, a0**depth, depth, "jepa")
    assert computed == pytest.approx(expected / 2.0, rel=1e-14)


@functools.partial(jax.jit, static_argnums=5)
@functools.partial(jax.vmap, in_axes=(0, None, None, None, None, None))
def moving_strength(*arguments):
    return jax.value_and_grad(theory.mode_strength)(*arguments)


@objectives
@pytest.mark.parametrize("depth", [1, 2, 3.5])
def test_mode_strength_solves_its_equation_from_its_start(objective, depth, precision):
    mode = 1.2, 0.8, 0.05, depth, objective
    fixed = theory.fixed_strength(0.8, depth, objective)
    eps = jnp.finfo(precision).eps
    late = theory.time_of_strength(0.9 * fixed, *mode)
    times = jnp.linspace(0, 2, 20) * late
    w, speed = moving_strength(times, *mode)
    assert w.dtype == precision
    np.testing.assert_allclose(w[0], 0.05, rtol=100 * eps)
    # A time known to eps leaves w unknown by eps t dw/dt, and its speed by its own logarithmic
    # slope, some 3 L c.
    velocity = theory.mode_velocity(w, 1.2, 0.8, depth, objective)
    atol = 100 * depth * eps * float(velocity.max())
    np.testing.assert_allclose(speed, velocity, rtol=0, atol=atol)
    again = theory.time_of_strength(w, *mode)[1:]
    rounding = 100 * depth * eps * (times + w / velocity)[1:]
    same = jnp.abs(again - times[1:]) <= rounding
    arrived = w[1:] > (1 - 1e3 * eps) * fixed
    assert jnp.all(same | arrived)


# The strength and the start: behind the start, at the fixed strength and beyond it.
NEVER = [(0.1, 0.2), (1.0, 0.2), (2.0, 0.2), (0.5, 3.0), (4.0, 3.0), (0.5, 1.0)]


@objectives
def test_times_are_infinite_for_what_is_never_reached_and_those_of_a_decay_from_above(
    objective, precision
):
    def time(strength, start):
        return float(theory.time_of_strength(strength, 1.0, 1.0, start, 2, objective))

    assert [time(*never) for never in NEVER] == [np.inf] * 6
    assert time(0.2, 0.2) == 0
    q, r = POWERS[objective](2)

    def integrand(a):
        return 1 / (a**q * (a**r - 1))

    falling = mpmath.quad(integrand, [2.0**0.5, 3.0**0.5])
    assert time(2.0, 3.0) == pytest.approx(float(falling), rel=1e-5)
    slopes = jax.grad(theory.time_of_strength, argnums=(1, 2, 3))
    gradient = slopes(0.1, 1.0, 1.0, 0.2, 2, objective)
    assert not np.isnan(gradient).any()


@objectives
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_fixed_strength_is_a_stable_zero_of_the_velocity(objective, depth, x64):
    fixed = theory.fixed_strength(0.6, depth, objective)
    with_slope = jax.value_and_grad(theory.mode_velocity)
    velocity, slope = with_slope(fixed, 1.0, 0.6, depth, objective)
    assert abs(velocity) < 1e-15
    assert slope < 0


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_escape_time_misses_the_time_by_its_order(depth, x64):
    starts = np.array([1e-2, 1e-3]) ** depth

    def late(objective):
        strength = 0.5 * theory.fixed_strength(0.8, depth, objective)
        time = theory.time_of_strength(strength, 1.1, 0.8, starts, depth, objective)
        return time - theory.escape_time(1.1, 0.8, starts, depth, objective)

    # The next power, 1/((2L - 3) rho^2 a0^(2L - 3)), has a relative correction of 2 a0/rho ... for
    # the larger a0.
    power = 2 * depth - 3
    computed = late("jepa") * starts ** (power / depth) * 0.64 * power * 1.1
    np.testing.assert_allclose(computed, 1, atol=0.05)
    # What is left of the time converges as a0^2, but is the difference of two numbers of the size
    # of escape_time.
    escape = float(theory.escape_time(1.1, 0.8, starts[1], depth, "mae"))
    rounding = 200 * np.finfo(float).eps * escape
    first, second = late("mae")
    np.testing.assert_allclose(first, second, atol=1e-4 + rounding)


def test_escape_time_of_one_layer_is_logarithmic(x64):
    starts = np.array([1e-4, 1e-6])
    expected = np.log(1 / starts) / 2
    computed = theory.escape_time(2.0, 0.5, starts, 1, "mae")
    assert np.allclose(computed, expected, rtol=1e-14)
    expected = (1 / starts - 1 + np.log(1 / starts) / 0.5) / 2
    computed = theory.escape_time(2.0, 0.5, starts, 1, "jepa")
    np.testing.assert_allclose(computed, expected, rtol=1e-14)


def test_numbers_that_are_no_modes_are_refused():
    with pytest.raises(ValueError, match=r"start: 0.0; pass positive"):
        theory.time_of_strength(0.5, 1.0, 1.0, 0.0, 2, "jepa")
    with pytest.raises(ValueError, match=r"influence: \[ 1. -1.\]"):
        theory.mode_strength(1.0, 1.0, np.array([1.0, -1.0]), 0.1, 2, "mae")
    with pytest.raises(ValueError, match="objective: 'vae' is unknown"):
        theory.fixed_strength(1.0, 2, "vae")
    with pytest.raises(ValueError, match="leave out one"):
        theory.collapse_rate(0.2, predictor=True, stop_gradient=True)


@pytest.mark.parametrize(("ratio", "alpha"), [(1.0, 1.0), (0.9, 2.0)])
def test_predictor_fixed_points_are_where_a_balanced_mode_rests(ratio, alpha, precision):
    a = 0.3
    decay = 0.1
    eps = jnp.finfo(precision).eps

    def velocity(p):
        w = p / alpha**0.5
        rates = {"augmentation": a, "decay": decay, "predictor_rate": alpha}
        return theory.predictor_velocity(p, w, ratio * w, **rates)

    edge, stable = theory.predictor_fixed_points(a, decay, ratio)
    for p, sign in ((edge, 1), (stable, -1)):
        # Balanced layers stay balanced: dp = sqrt(alpha) dw.
        dp, dw = velocity(p)
        assert abs(dp) < 4 * eps
        assert float(dp - alpha**0.5 * dw) == pytest.approx(0, abs=float(4 * eps))
        assert sign * jax.grad(lambda p: velocity(p)[0])(p) > 0


def test_predictor_fixed_points_merge_at_the_critical_decay(x64):
    critical = theory.critical_decay(0.2, 0.8)
    edge, stable = theory.predictor_fixed_points(0.2, critical * (1 - 1e-8), 0.8)
    # They part as the square root of the distance.
    assert edge == pytest.approx(float(stable), rel=3e-4)
    beyond = theory.predictor_fixed_points(0.2, critical * (1 + 1e-8), 0.8)
    assert np.isnan(beyond).all()
    # For small decays the edge is eta/r, which the difference of the roots would lose.
    edge, _ = theory.predictor_fixed_points(0.2, 1e-17, 0.8)
    assert edge == pytest.approx(1e-17 / 0.8, rel=1e-12)


def test_direct_strength_rests_under_the_boosted_predictor(x64):
    s = theory.direct_strength(0.2, 0.05, 0.3)
    w = jnp.sqrt(s)
    _, dw = theory.predictor_velocity(1.3 * w, w, w, augmentation=0.2, decay=0.05)
    assert abs(dw) < 1e-16


def test_collapse_rate_with_a_predictor_is_the_smallest_over_all_predictors(x64):
    a = 0.2
    decay = 0.05
    rate = theory.collapse_rate(a, decay, predictor=True, stop_gradient=False)

    def smallest(p):
        matrix = (1 + a) * (p.T @ p + np.eye(3)) - p - p.T
        return np.linalg.eigvalsh(matrix)[0] + decay

    draws = np.random.default_rng(0).standard_normal((200, 3, 3))
    assert min(map(smallest, draws)) > rate
    assert smallest(np.eye(3) / (1 + a)) == pytest.approx(float(rate), rel=1e-12)
