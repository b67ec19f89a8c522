"""Regression in high dimension: contours against closed forms, integrals over the spectrum, and
finite samples."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from jaxdyn import tasks
from jaxdyn.theory.regression import equivalents, given_data, isotropic, memorisation, spectrum

TIMES = np.array([0.0, 1e-6, 0.1, 1.0, 10.0, 100.0, 1000.0])
STEPS = np.array([0, 1, 2, 3, 7, 10, 11, 12, 40, 200, 1000])
GROUPS = dict(eigenvalues=[1.0, 0.1], multiplicities=(100, 300), power=[1.0, 2.0])
START = [0.3, 0.1]
SYSTEM = dict(power=2.0, noise=0.7, start=0.5)


def one_variance(inputs=100.0):
    return equivalents.population(1.0, inputs, SYSTEM["power"], SYSTEM["start"])


def agree(errors, expected, rtol, scale=3.2):
    """Equal within a fraction of the error at time zero."""
    for name, a, b in zip(errors._fields, errors, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * scale, err_msg=name)


def at_time(errors, index):
    return spectrum.Errors(*(values[index] for values in errors))


@pytest.mark.parametrize("shape", [(1, 3.0, 1), (2, 0.3, 2), (3, 1.0, 3), (5, 0.9, 4)])
def test_the_effective_regularisation_is_the_one_root_on_its_side_of_the_axis(shape, x64):
    groups, ratio, seed = shape
    rng = np.random.default_rng(seed)
    eigenvalues = 10 ** rng.uniform(-4, 0, groups)
    multiplicities = rng.uniform(1, 100, groups)
    samples = ratio * multiplicities.sum()
    population = equivalents.population(eigenvalues, multiplicities, 1.0)
    sizes = 10 ** rng.uniform(-6, 2, 40)
    above = rng.uniform(0, np.pi, 30)
    below = -rng.uniform(0, 3, 10)
    s = sizes * np.exp(1j * np.concatenate([above, below]))
    regularisation = jax.jit(equivalents.effective_regularisation)
    found = np.asarray(regularisation(s, population, samples))
    for place, k in zip(s, found, strict=True):
        # (k - s) prod(lambda + k) = sum m lambda k prod'(lambda + k) / n, as a polynomial.
        product = np.polynomial.polynomial.polyfromroots(-eigenvalues)
        equation = np.polynomial.polynomial.polymul(product, [-place, 1])
        for a in range(groups):
            others = np.polynomial.polynomial.polyfromroots(-np.delete(eigenvalues, a))
            weight = multiplicities[a] * eigenvalues[a] / samples
            term = weight * np.append(0, others)
            equation[: len(term)] -= term
        roots = np.polynomial.polynomial.polyroots(equation)
        right = roots[np.argmax(roots.imag * np.sign(place.imag))]
        np.testing.assert_allclose(k, right, rtol=1e-6)
        share = np.sum(multiplicities * eigenvalues / (eigenvalues + k)) / samples
        computed = k * (1 - share) / place
        rtol = 1e-11 * max(1, abs(k / place))
        np.testing.assert_allclose(computed, 1, rtol=rtol)


def test_the_effective_regularisation_of_one_group_is_the_root_of_a_quadratic(precision):
    s = np.geomspace(1e-6, 1e3, 19).astype(precision)
    alpha = 0.5
    k = equivalents.effective_regularisation(s, one_variance(), 100 * alpha)
    half = (s + 1 / alpha - 1) / 2
    expected = half + np.sqrt(half**2 + s)
    rtol = 20 * np.finfo(precision).eps
    np.testing.assert_allclose(k, expected, rtol=rtol)
    # With more samples than inputs it vanishes with the penalty, with fewer it does not.
    population = one_variance()
    more = float(equivalents.effective_regularisation(0.0, population, 100 * 2.0))
    fewer = float(equivalents.effective_regularisation(0.0, population, 100 * 0.5))
    atol = 100 * np.finfo(precision).eps
    np.testing.assert_allclose([more, fewer], [0, 1], atol=atol)


def test_the_largest_eigenvalue_is_that_of_large_samples(x64):
    for alpha in (0.3, 1.0, 4.0):
        computed = equivalents.largest_eigenvalue(one_variance(), 100 * alpha)
        expected = (1 + alpha**-0.5) ** 2
        np.testing.assert_allclose(computed, expected, rtol=1e-14)
    key = jax.random.key(0)
    data = tasks.regression(key, 900, [1.0, 0.5, 0.1], (300, 200, 400), 1.0)
    singular_values = np.linalg.svd(data.x, compute_uv=False)
    sampled = singular_values[0] ** 2 / 900
    eigenvalues = [1.0, 0.5, 0.1, 7.0]
    multiplicities = [300, 200, 400, 0]
    population = equivalents.population(eigenvalues, multiplicities, [1.0, 1.0, 1.0, 0.0])
    # Edges fluctuate as n^(-2/3).
    computed = equivalents.largest_eigenvalue(population, 900)
    rtol = 3 * 900 ** (-2 / 3)
    np.testing.assert_allclose(computed, sampled, rtol=rtol)


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0, 2.0, 10.0])
def test_isotropic_inputs_follow_the_marchenko_pastur_integrals(alpha, precision):
    times = TIMES.astype(precision)
    rtol = 1e-10 if precision == np.float64 else 5e-5
    flow = spectrum.flow(times, one_variance(), 100 * alpha, SYSTEM["noise"])
    with jax.enable_x64(True):
        expected = isotropic.flow(TIMES, alpha, **SYSTEM, nodes=1200)
        agree(flow, expected, rtol)
        penalties = np.array([0.01, 0.3, 5.0])
        expected = isotropic.ridge(penalties, alpha, **SYSTEM, nodes=1200)
    rounded = penalties.astype(precision)
    ridge = spectrum.ridge(rounded, one_variance(), 100 * alpha, SYSTEM["noise"])
    rtol = 1e-12 if precision == np.float64 else 1e-5
    agree(ridge, expected, rtol)


@pytest.mark.parametrize("fraction", [0.1, 0.4, 0.8, 1.0])
@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_descent_follows_them_up_to_the_stable_learning_rate(alpha, fraction, precision):
    rate = fraction * 2 / (1 + alpha**-0.5) ** 2
    found = spectrum.descent(STEPS, rate, one_variance(), 100 * alpha, SYSTEM["noise"])
    with jax.enable_x64(True):
        expected = isotropic.descent(STEPS, rate, alpha, **SYSTEM, nodes=2000)
    # Few steps are on a circle, whose error grows with them; 1 - (slow modes) is rounded as often
    # as there are steps.
    rtol = 1e-10 if precision == np.float64 else 5e-4
    agree(found, expected, rtol)


def test_descent_is_exact_and_never_raises_beyond_the_stable_learning_rate(x64):
    rate = 1.2 * 2 / (1 + 2**-0.5) ** 2
    steps = np.array([1, 5, 20, 100, 300])
    found = spectrum.descent(steps, rate, one_variance(), 200, SYSTEM["noise"])
    expected = isotropic.descent(steps, rate, 2.0, **SYSTEM, nodes=4000)
    for name in ("excess", "train"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-8)
    assert found.excess[-1] > 1e30

    def late_excess(step):
        errors = spectrum.descent(np.array([step]), rate, one_variance(), 200, 0.7)
        return errors.excess

    assert np.all(np.isinf(late_excess(10**6)))
    with jax.enable_x64(False):
        assert np.all(np.isinf(late_excess(2000)))


def test_small_learning_rates_are_the_flow_to_first_order(x64):
    population = equivalents.population(**GROUPS, start=START)
    flow = spectrum.flow(np.array([3.0]), population, 300, 0.5)

    def lag_of(steps):
        descent = spectrum.descent(np.array([steps]), 3.0 / steps, population, 300, 0.5)
        return float(descent.excess[0] - flow.excess[0])

    lag = [lag_of(steps) for steps in (1000, 2000, 4000)]
    computed = np.divide(lag[:-1], lag[1:])
    np.testing.assert_allclose(computed, 2, rtol=2e-3)


def test_the_contour_converges_exponentially(x64):
    population = equivalents.population([0.01, 4e-6], [60, 40], [60, 1e5])
    times = np.geomspace(15, 1.5e8, 29)
    flow = partial(spectrum.flow, times, population, 150, 0.2)
    reference = flow(nodes=40).excess
    total = float(flow().excess[0])

    def relative_error(nodes):
        error = abs(flow(nodes=nodes).excess - reference)
        return float(error.max()) / total

    errors = [relative_error(nodes) for nodes in (8, 16, 24, 32)]
    assert np.all(np.array(errors) < [2e-3, 1e-6, 1e-9, 1e-11])


def finite_samples(run, samples, seeds=24):
    """Mean errors over seeds of `run(data)`, which returns weights, and their standard errors."""

    def one(key):
        data = tasks.regression(key, samples, **GROUPS, noise=0.5, start=START)
        w = run(data)

        def total(values):
            return jnp.sum(values * data.eigenvalues[None], -1)

        excess = given_data.excess_error(w, data.teacher, data.eigenvalues)
        train = given_data.mean_squared_error(w, data.x, data.y)
        overlap = total(w * data.teacher[None])
        self_overlap = total(w**2)
        return {"excess": excess, "train": train, "overlap": overlap, "self_overlap": self_overlap}

    keys = jax.random.split(jax.random.key(0), seeds)
    runs = jax.jit(jax.vmap(one))(keys)

    def mean_and_error(values):
        error = np.std(values, 0, ddof=1) / seeds**0.5
        return np.mean(values, 0), error

    return {name: mean_and_error(values) for name, values in runs.items()}


@pytest.mark.parametrize("samples", [200, 400, 800])
def test_two_groups_follow_from_finite_samples(samples, x64):
    population = equivalents.population(**GROUPS, start=START)
    times = np.array([0.1, 1, 10, 100.0])
    steps = np.array([1, 5, 30, 300])
    penalties = np.array([0.01, 0.1, 1])

    def flow(data):
        return given_data.flow(times, data.x, data.y, data.start)

    def descent(data):
        return given_data.descent(steps, 0.5, data.x, data.y, data.start)

    def ridge(data):
        return given_data.ridge(penalties, data.x, data.y, data.start)

    flow_theory = spectrum.flow(times, population, samples, 0.5)
    descent_theory = spectrum.descent(steps, 0.5, population, samples, 0.5)
    ridge_theory = spectrum.ridge(penalties, population, samples, 0.5)
    cases = [(flow, flow_theory), (descent, descent_theory), (ridge, ridge_theory)]
    for run, theory in cases:
        for name, (mean, error) in finite_samples(run, samples).items():
            expected = np.asarray(getattr(theory, name))
            # Four standard errors, and corrections of order 1/samples.
            assert np.all(abs(mean - expected) < 4 * error + 3 * expected / samples), name


def test_the_flow_starts_from_the_start_and_ends_in_the_limit_of_ridge(precision):
    population = equivalents.population(**GROUPS, start=START)
    eps = np.finfo(precision).eps
    times = np.array([0.0, 1e6])
    for samples in (200, 1000):
        flow = spectrum.flow(times, population, samples, 0.5)
        at_zero = [1.51, 1.76, 1.51, 0.0, 0.0, 0.31, np.ones(2)]
        computed = at_time(flow, 0)
        agree(computed, at_zero, 300 * eps)
        computed = at_time(flow, 1)
        expected = spectrum.ridge(0.0, population, samples, 0.5)
        rtol = 1e4 * eps**0.8
        agree(computed, expected, rtol)


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_a_penalty_on_the_way_leads_to_ridge(alpha, x64):
    penalty = 0.3
    rate = 0.1
    power = SYSTEM["power"] + SYSTEM["start"]
    times = TIMES[2:-1]
    steps = np.array([1, 5, 20, 400])
    eigenvalues, weights = map(np.asarray, isotropic.quadrature(alpha))
    moved = eigenvalues + penalty
    population = one_variance()
    samples = 100 * alpha

    def check(errors, left):
        """Errors against integrals over the spectrum, of which this is left of each mode."""
        missed = (penalty + eigenvalues * left) / moved
        unseen = max(1 - alpha, 0)
        learned = (1 - left) / moved
        bias = power * (missed**2 @ weights + unseen)
        noise = 0.49 / alpha * (learned**2 * eigenvalues) @ weights
        fitted = missed**2 @ (weights * (power * eigenvalues + 0.49 / alpha))
        train = fitted + 0.49 * max(1 - 1 / alpha, 0)
        np.testing.assert_allclose(errors.bias, bias, rtol=1e-10)
        np.testing.assert_allclose(errors.noise, noise, rtol=1e-10)
        np.testing.assert_allclose(errors.train, train, rtol=1e-10)

    left = np.exp(-moved * times[:, None])
    flow = spectrum.flow(times, population, samples, 0.7, penalty=penalty)
    check(flow, left)
    left = (1 - rate * moved) ** steps[:, None]
    descent = spectrum.descent(steps, rate, population, samples, 0.7, penalty=penalty)
    check(descent, left)
    late = np.array([1e3])
    end = spectrum.flow(late, population, samples, 0.7, penalty=penalty)
    expected = spectrum.ridge(penalty, population, samples, 0.7)
    agree(at_time(end, 0), expected, 1e-12)


def test_one_clock_for_all(x64):
    def at_scale(c):
        eigenvalues = c * np.array([1.0, 0.1])
        return equivalents.population(eigenvalues, (10, 30), [1 / c, 2 / c])

    population = at_scale(1.0)
    scaled = at_scale(7.0)
    computed = spectrum.flow(TIMES, population, 25, 0.5)
    expected = spectrum.flow(TIMES / 7, scaled, 25, 0.5)
    agree(computed, expected, 1e-10)
    ridge = spectrum.ridge(np.array([0.1, 1.0]), population, 25, 0.5)
    expected = spectrum.ridge(np.array([0.7, 7.0]), scaled, 25, 0.5)
    agree(ridge, expected, 1e-13)


@pytest.mark.parametrize("kind", ["flow", "descent", "ridge"])
def test_derivatives_are_those_of_differences(kind, x64):
    def errors(place, eigenvalues, power, samples, noise):
        population = equivalents.population(eigenvalues, [10.0, 30.0], power)
        if kind == "descent":
            return spectrum.descent(20, place / 20, population, samples, noise)
        return getattr(spectrum, kind)(place, population, samples, noise)

    def total(*system):
        return sum(jnp.sum(a) for a in errors(*system))

    place = jnp.asarray(3.0)
    eigenvalues = jnp.array([1.0, 0.1])
    power = jnp.array([1.0, 2.0])
    samples = jnp.asarray(25.0)
    noise = jnp.asarray(0.5)
    system = (place, eigenvalues, power, samples, noise)
    gradients = jax.jit(jax.grad(total, argnums=range(5)))(*system)
    value = jax.jit(total)
    for index, (gradient, at) in enumerate(zip(gradients, system, strict=True)):

        def moved_by(step, index=index, at=at):
            return float(value(*system[:index], at + step, *system[index + 1 :]))

        for entry in np.eye(at.size):
            direction = entry.reshape(at.shape)
            step = 1e-5 * direction
            computed = np.sum(gradient * direction)
            expected = (moved_by(step) - moved_by(-step)) / 2e-5
            np.testing.assert_allclose(computed, expected, rtol=1e-6, atol=1e-7)


def test_many_spectra_of_different_length_are_one_program(precision):
    lone = equivalents.population(1.0, 50, 1.0)
    padded = equivalents.population([1.0, 0.3], [50, 0], [1.0, 0.0])
    pair = equivalents.population([1.0, 0.1], [10, 30], [1.0, 2.0])
    many = jax.tree.map(lambda *a: jnp.stack(a), padded, pair)
    samples = jnp.array([70.0, 25.0])
    noise = jnp.array([0.1, 0.5])
    flow = partial(spectrum.flow, TIMES)
    together = jax.jit(jax.vmap(flow))(many, samples, noise)
    eps = np.finfo(precision).eps
    for index, alone in enumerate([lone, pair]):
        expected = spectrum.flow(TIMES, alone, samples[index], noise[index])
        for name in ("excess", "train", "overlap", "self_overlap"):
            computed = getattr(together, name)[index]
            np.testing.assert_allclose(computed, getattr(expected, name), rtol=0, atol=1e4 * eps)
    descent = partial(spectrum.descent, STEPS, 0.3)
    together = jax.jit(jax.vmap(descent))(many, samples, noise)
    expected = spectrum.descent(STEPS, 0.3, pair, 25, 0.5)
    computed = together.excess[1]
    np.testing.assert_allclose(computed, expected.excess, rtol=0, atol=1e5 * eps)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5])
def test_the_best_penalty_of_isotropic_inputs_has_a_closed_form_that_stopping_hardly_misses(
    alpha, x64
):
    population = equivalents.population(1.0, 200, 5.0)
    penalty, least = spectrum.optimal_ridge(population, 200 * alpha, 1.0)
    expected, excess = isotropic.optimal_ridge(alpha, power=5.0, noise=1.0)
    # A minimum is found to the root of the rounding of its value.
    np.testing.assert_allclose(penalty, expected, rtol=1e-5)
    np.testing.assert_allclose(least, excess, rtol=1e-11)

    def least_excess(noise):
        return spectrum.optimal_ridge(population, 200 * alpha, noise)[1]

    def least_excess_in_closed_form(noise):
        return isotropic.optimal_ridge(alpha, power=5.0, noise=noise)[1]

    slope = jax.grad(least_excess)(1.0)
    exact = jax.grad(least_excess_in_closed_form)(1.0)
    np.testing.assert_allclose(slope, exact, rtol=1e-5)
    time, stopped = spectrum.optimal_stopping(population, 200 * alpha, 1.0)
    assert least < stopped < 1.05 * least
    around = time * np.array([0.99, 1.01])
    near = spectrum.flow(around, population, 200 * alpha, 1.0)
    assert np.all(near.excess > stopped)


def test_without_noise_no_stopping_and_no_penalty_is_best(precision):
    population = equivalents.population(1.0, 200, 5.0)
    assert spectrum.optimal_stopping(population, 400, 0.0)[0] == np.inf
    penalty, least = spectrum.optimal_ridge(population, 400, 0.0)
    assert penalty == 0
    np.testing.assert_allclose(least, 0, atol=1e-6)


def test_trained_weights_and_the_threshold_have_closed_forms(x64):
    system = dict(power=5.0, noise=1.0, start=0.5)
    for alpha in (0.5, 0.9, 1.1, 2.0):
        end = isotropic.flow(1e6, alpha, **system, nodes=4000)
        expected = isotropic.trained(alpha, **system)
        np.testing.assert_allclose(end.excess, expected, rtol=1e-10)
    assert isotropic.trained(1.0, noise=1.0) == np.inf
    times = np.array([1e2, 1e4])
    grown = isotropic.flow(times, 1.0, noise=1.0, nodes=4000).noise
    missing = grown - isotropic.noise_at_threshold(times)
    computed = missing[0] / missing[1]
    np.testing.assert_allclose(computed, 10, rtol=0.02)
    computed = spectrum.flow(times, one_variance(), 100, 0.7)
    expected = isotropic.flow(times, 1.0, **SYSTEM, nodes=4000)
    agree(computed, expected, 1e-10)


@pytest.mark.parametrize("samples", [8, 5, 3])
def test_least_squares_solves_its_equations(samples, x64):
    key = jax.random.key(4)
    data = tasks.regression(key, samples, 1.0, (5,), 1.0, noise=0.3, start=0.2)
    system = (data.x, data.y, data.start)
    x, y, start = map(np.asarray, system)
    rate = 1.9 / np.linalg.norm(x.T @ x / samples, 2)
    w = start
    visited = []
    for _ in range(40):
        visited.append(w)
        w = w + rate * x.T @ (y - x @ w) / samples
    computed = given_data.descent(np.arange(40), rate, *system)
    np.testing.assert_allclose(computed, visited, rtol=1e-12)

    def flow(times):
        return given_data.flow(times, *system)

    times = jnp.array([0.0, 0.3, 2.0])
    path, velocity = jax.jvp(flow, (times,), (jnp.ones(3),))
    np.testing.assert_allclose(path[0], start, rtol=1e-14)
    residual = y - np.asarray(path) @ x.T
    expected = residual @ x / samples
    np.testing.assert_allclose(velocity, expected, rtol=0, atol=1e-13)

    matrix = x.T @ x / samples + 0.1 * np.eye(5)
    right = x.T @ y / samples + 0.1 * start
    solved = np.linalg.solve(matrix, right)
    computed = given_data.ridge(0.1, *system)
    np.testing.assert_allclose(computed, solved, rtol=1e-11)
    end = given_data.ridge(0.0, *system)
    expected = start + np.linalg.pinv(x) @ (y - x @ start)
    np.testing.assert_allclose(end, expected, rtol=1e-11)
    computed = flow(1e6)
    np.testing.assert_allclose(computed, end, rtol=1e-10)
    # What the data do not span stays.
    unseen = np.linalg.svd(x)[2][samples:]
    expected = np.tile(unseen @ start, (3, 1))
    np.testing.assert_allclose(path @ unseen.T, expected, rtol=0, atol=1e-14)


def test_least_squares_ignores_directions_below_rounding(precision):
    x = jnp.ones((4, 2)) * jnp.array([[1.0, 1.0]])
    w = given_data.ridge(0.0, x, jnp.ones(4))
    rtol = 10 * np.finfo(precision).eps
    np.testing.assert_allclose(w, 0.5, rtol=rtol)


POPULATION = equivalents.Spectrum(*(np.ones(1, np.float32) for _ in range(4)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: equivalents.population([], [], []), "population: shapes"),
        (lambda: equivalents.population([1.0, 2.0], [1, 2, 3], 1.0), "population: shapes"),
        (lambda: equivalents.population([1.0, -0.1], 1, 1.0), "eigenvalues: .*not negative"),
        (lambda: equivalents.population([1.0, np.nan], 1, 1.0), "eigenvalues: "),
        (lambda: equivalents.population(1.0, 0, 1.0), "multiplicities: .*at least one input"),
        (lambda: spectrum.flow(np.array([0.1, -1.0]), POPULATION, 5), "time: .*finite times >= 0"),
        (lambda: spectrum.flow(np.inf, POPULATION, 5), "time: inf; .*ridge"),
        (lambda: spectrum.flow(1.0, POPULATION, 0), "samples: 0; pass a positive number"),
        (lambda: spectrum.flow(1.0, POPULATION, 5, nodes=7), "nodes: 7; pass an even number"),
        (lambda: spectrum.descent(1.5, 0.1, POPULATION, 5), "steps: 1.5; pass whole numbers"),
        (lambda: spectrum.descent(1, 0.0, POPULATION, 5), "learning_rate: 0.0; pass a positive"),
        (lambda: spectrum.ridge(-1.0, POPULATION, 5), "penalty: -1.0; pass finite penalties"),
        (lambda: isotropic.flow(1.0, 0.0), "alpha: 0.0; pass a positive ratio"),
        (lambda: given_data.flow(-1.0, jnp.eye(2), jnp.ones(2)), "time: -1.0"),
        (lambda: memorisation.flow(0.0, 0.5, 0.2, 10, 10), "time: 0.0; .*first_step"),
        (lambda: memorisation.flow(1.0, 0.5, 1.2, 10, 10), "flipped: 1.2; pass a fraction"),
        (lambda: memorisation.first_step(0.0, 0.2, 10, 10), "sigma: 0.0; pass a positive"),
    ],
)
def test_bad_numbers_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("sigma", "flipped", "inputs", "samples"), [(0.25, 0.2, 450, 500), (0.6, 0.3, 600, 300)]
)
def test_memorisation_is_that_of_finite_samples(sigma, flipped, inputs, samples, x64):
    times = np.geomspace(0.1, 1000, 7)
    counted = []
    for seed in range(4):
        key = jax.random.key(seed)
        drawn = tasks.two_clusters(key, samples, inputs, sigma=sigma, flipped=flipped)
        x = np.asarray(drawn.x)
        y = np.asarray(drawn.labels)
        wrong = np.asarray(drawn.wrong)
        rate, frame = np.linalg.eigh(x.T @ x / samples)
        rate = np.maximum(rate, 1e-12)
        covariance = frame.T @ (x.T @ y / samples)
        learned = -np.expm1(-rate * times[:, None]) / rate
        w = (learned * covariance) @ frame.T
        right = (w @ x.T) * y > 0
        memorised = right[:, wrong].mean(1)
        clean = right[:, ~wrong].mean(1)
        test = norm.cdf(w[:, 0] / sigma / np.linalg.norm(w, axis=1))
        counted.append([memorised, clean, test])
    predicted = np.array(memorisation.flow(times, sigma, flipped, inputs, samples))
    # Binomial counts of the fewest examples, in four draws, beside the 1/sqrt(samples) of the norm
    # of the teacher.
    allowed = 4 * np.sqrt(0.25 / (4 * flipped * samples)) + 1 / np.sqrt(4 * samples)
    computed = np.mean(counted, 0)
    np.testing.assert_allclose(computed, predicted, rtol=0, atol=allowed)


def test_memorisation_starts_as_the_first_step_does_and_ends_with_every_label_fitted(x64):
    mixture = dict(sigma=0.5, flipped=0.2, inputs=90_000, samples=100_000)
    cosine, first = memorisation.first_step(**mixture)
    start = memorisation.flow(1e-3, **mixture)
    # Of relative order time, and 1/samples.
    np.testing.assert_allclose(start, first, rtol=0, atol=2e-3)
    expected = 0.6 / np.hypot(0.6, 0.5 * 0.9**0.5)
    np.testing.assert_allclose(cosine, expected, rtol=1e-12)
    overparametrised = memorisation.flow(1e4, 0.5, 0.2, 2000, 1000)
    assert overparametrised.memorised > 1 - 1e-6
    assert overparametrised.clean > 1 - 1e-6
    assert 0.5 < overparametrised.test < first.test


@pytest.mark.parametrize("flip", [0.0, 0.5])
def test_without_wrong_labels_all_is_clean_and_with_half_of_them_nothing_is_learned(flip, x64):
    predicted = memorisation.flow(3.0, 0.5, flip, 500, 1000)
    if flip:
        np.testing.assert_allclose(predicted.memorised, predicted.clean, rtol=1e-10)
        np.testing.assert_allclose(predicted.test, 0.5, rtol=1e-10)
    else:
        assert predicted.memorised < predicted.test < predicted.clean
