"""Matched soft committees: closed forms against the Jacobian of the ODE, and against where it
rests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdyn.theory import online
from jaxdyn.theory.online import specialisation

# A learning rate at which the ODE divided by it is that of gradient flow, but for as much.
TINY = 1e-6


def largest_entry(student):
    """The largest order parameter (or the largest of their velocities), without its sign."""
    return max(float(jnp.max(jnp.abs(a))) for a in student)


def growth_rates(student, teacher, learning_rate):
    """The rates of all modes in units of the learning rate."""
    rates = specialisation.growth_rates(student, teacher, learning_rate)
    return np.asarray(rates) / learning_rate


@pytest.mark.parametrize("blocks", [(2,), (3,), (2, 1)])
def test_plateaus_rest_and_escape_as_predicted(blocks, x64):
    saddle = specialisation.plateau(blocks)
    teacher = specialisation.teacher(sum(blocks))
    velocity = jax.jit(online.velocity(teacher, learning_rate=TINY))
    moved = velocity(0.0, saddle.student)
    assert largest_entry(moved) < 0.1 * TINY**2
    error = float(online.generalisation_error(saddle.student, teacher))
    assert error == pytest.approx(float(saddle.error), abs=1e-15)
    rates = growth_rates(saddle.student, teacher, TINY)
    assert np.max(np.abs(rates.imag)) < 1e-4
    assert rates.real[-1] == pytest.approx(float(saddle.rate), rel=1e-4)
    # Eigenvalues of neutral modes move by the learning rate, those of pairs that it couples by its
    # root.
    assert np.sum(rates.real > 3 * TINY**0.5) == saddle.index
    # In (2, 1) moving alike students along the other block, in opposite directions, is neutral too.
    splits = sum(B * (B + 1) // 2 - 1 for B in blocks) + (blocks == (2, 1))
    assert np.sum(np.abs(rates) < 3 * TINY**0.5) == splits


def test_two_blocks_of_several_units_escape_in_more_ways_than_they_specialise(x64):
    saddle = specialisation.plateau((2, 2))
    rates = growth_rates(saddle.student, specialisation.teacher(4), TINY)
    assert saddle.index == 2
    computed = rates.real[-2:]
    np.testing.assert_allclose(computed, float(saddle.rate), rtol=1e-4)
    assert np.sum(rates.real > 1e-3) == 4


@pytest.mark.parametrize(("units", "learning_rate"), [(2, 1e-4), (2, 1.0), (3, 0.5)])
def test_the_moving_plateau_is_a_fixed_point_with_its_rate(units, learning_rate, x64):
    student, error, rate, index = specialisation.moving_plateau(units, learning_rate, 0.1)
    teacher = specialisation.teacher(units, 0.1)
    velocity = jax.jit(online.velocity(teacher, learning_rate=learning_rate))
    moved = velocity(0.0, student)
    assert largest_entry(moved) < 1e-15
    computed = float(online.generalisation_error(student, teacher))
    assert computed == pytest.approx(float(error), abs=1e-16)
    rates = growth_rates(student, teacher, learning_rate)
    assert np.sum(np.abs(rates - rate) < 1e-12) == index == (units - 1) ** 2
    resting = specialisation.plateau((units,))
    if learning_rate == 1e-4:
        assert float(rate) == pytest.approx(float(resting.rate), rel=1e-3)
        assert float(error) == pytest.approx(float(resting.error), rel=1e-2)


def test_one_unit_has_no_plateau_to_escape_from():
    assert float(specialisation.moving_plateau(1, 0.5).rate) == 0
    assert specialisation.plateau((1, 1)).index == 0
    with pytest.raises(ValueError, match=r"blocks: \(2, 0\); pass the sizes"):
        specialisation.plateau((2, 0))


@pytest.mark.parametrize("units", [1, 2, 3])
def test_the_largest_learning_rate_is_where_the_perfect_solution_loses_stability(units, x64):
    perfect = specialisation.plateau((1,) * units).student
    teacher = specialisation.teacher(units)
    largest = float(specialisation.max_learning_rate(units))

    def fastest(eta):
        rates = specialisation.growth_rates(perfect, teacher, eta)
        return float(rates[-1].real)

    assert abs(fastest(largest)) < 1e-13
    assert fastest(0.9 * largest) < -1e-3
    assert fastest(1.1 * largest) > 1e-3
    if units == 1:
        assert largest == pytest.approx(np.pi * np.sqrt(5 / 3), rel=1e-15)


@pytest.mark.parametrize("units", [1, 2])
def test_errors_decay_as_the_slowest_mode_that_they_see_and_end_at_the_floor(units, x64):
    perfect = specialisation.plateau((1,) * units).student
    noise = 1e-4
    upper = np.triu_indices(units)
    pairs = len(upper[0])

    def student_of(modes):
        half = jnp.zeros((units, units)).at[upper].set(modes[:pairs])
        overlaps = half + jnp.triu(half, 1).T
        with_teacher = modes[pairs:].reshape(units, units)
        return online.Student(overlaps, with_teacher, perfect.readout)

    def modes_of(student):
        return jnp.concatenate([student.overlaps[upper], student.with_teacher.ravel()])

    def speed(modes, eta, noise):
        teacher = specialisation.teacher(units, noise)
        velocity = online.velocity(teacher, learning_rate=eta)
        return modes_of(velocity(0.0, student_of(modes)))

    @jax.jit
    @jax.value_and_grad
    def error(modes):
        teacher = specialisation.teacher(units)
        return online.generalisation_error(student_of(modes), teacher)

    @jax.jit
    def linear(modes, eta):
        return jax.jacfwd(speed)(modes, eta, 0.0), speed(modes, eta, noise)

    modes = modes_of(perfect)
    for share in (0.2, 0.5, 0.9):
        eta = share * float(specialisation.max_learning_rate(units))
        jacobian, force = map(np.asarray, linear(modes, eta))
        values, vectors = np.linalg.eig(jacobian)
        # The error is linear in some modes, and at lowest order a square of the others.
        _, gradient = error(modes)
        seen = np.abs(np.asarray(gradient) @ vectors) > 1e-7
        slowest = np.min(-values.real * np.where(seen, 1, 2))
        decay = float(specialisation.decay_rate(units, eta))
        assert decay == pytest.approx(slowest, rel=1e-9)
        at_rest = modes - np.linalg.solve(jacobian, force)
        rest, _ = error(at_rest)
        floor = float(specialisation.noise_floor_at_rate(units, eta))
        assert float(rest) == pytest.approx(floor * noise**2, rel=1e-6)


def test_the_optimal_learning_rate_decays_fastest(x64):
    for units in (1, 2, 4):
        best = float(specialisation.optimal_learning_rate(units))

        def decay(eta, units=units):
            return specialisation.decay_rate(units, eta)

        around = best * jnp.array([1, 0.999, 1.001])
        rates = jax.jit(jax.vmap(decay))(around)
        assert np.all(rates[0] > rates[1:])
        if units == 1:
            largest_rate = float(specialisation.max_learning_rate(1))
            assert best / largest_rate == pytest.approx(2 / 3, abs=1e-7)


def test_the_floor_at_small_rates_is_that_of_any_unit(x64):
    perfect = specialisation.plateau((1, 1)).student
    noisy = specialisation.teacher(2, 1.0)
    general = float(online.noise_floor(perfect, noisy, 1e-6))
    assert float(specialisation.noise_floor_at_rate(2, 1e-6)) == pytest.approx(general, rel=1e-5)


def test_asymmetry_is_what_rows_and_columns_do_not_explain(x64):
    rows = jnp.arange(3.0)[:, None]
    columns = jnp.array([[1.0, -2.0, 5.0]])
    assert float(specialisation.asymmetry(rows + columns)) < 1e-15
    unexplained = specialisation.asymmetry(rows + columns + jnp.eye(3))
    assert float(unexplained) == pytest.approx(2**0.5, rel=1e-14)


def test_escape_times_scatter_as_logarithms_of_normal_numbers(x64):
    z = np.random.default_rng(0).standard_normal((200_000, 4))
    for index in (1, 4):
        distance = np.linalg.norm(z[:, :index], axis=1)
        times = -np.log(distance) / 0.07
        slope, spread = specialisation.escape_time_law(0.07, index)
        # The fourth cumulant of log|xi| is at most 4 squares of its variance.
        assert times.std() == pytest.approx(float(spread), rel=4.5 * np.sqrt(1.5 / len(z)))
        assert float(slope) == pytest.approx(1 / 0.14, rel=1e-14)
    assert float(specialisation.escape_time_law(1.0)[1]) == pytest.approx(np.pi / 8**0.5, rel=1e-12)
