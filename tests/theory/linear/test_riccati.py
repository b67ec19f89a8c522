"""The Riccati solution: against integration, multi-precision, its own equation, and where cruder
forms fail."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdyn as jd
from jaxdyn import losses, models, observables, tasks
from jaxdyn.theory import linear
from jaxdyn.theory.linear import riccati

# Inputs, hidden units, outputs, imbalance, scale of the start.
STARTS = [
    (5, 5, 5, 0.0, 1.0),
    (5, 5, 5, 0.0, 0.01),
    (5, 5, 5, 1.5, 0.7),
    (6, 4, 5, 0.0, 0.5),
    (6, 4, 5, 1.5, 0.7),
    (6, 4, 5, -2.0, 0.7),
    (6, 4, 5, 8.0, 0.3),
    (6, 9, 5, 0.0, 0.5),
]


@functools.partial(jax.jit, static_argnums=0)
def balanced(sizes, imbalance, scale):
    key = jax.random.key(1)
    return models.lambda_balanced(key, sizes, imbalance, scale=scale)


def problem(inputs, hidden, outputs, imbalance, scale):
    """A balanced start and the input-output covariance to be learned."""
    drawn = jax.random.normal(jax.random.key(2), (outputs, inputs), jnp.float32)
    yx = drawn.astype(float)
    weights = balanced((inputs, hidden, outputs), imbalance, scale)
    return weights, yx


@jax.jit
def gram(weights):
    q = jnp.concatenate([weights[0].T, weights[1]])
    return q @ q.T


@jax.jit
def at_times(times, weights, yx, variance):
    def at(time):
        end = riccati.solution(time, weights, yx, variance)
        return gram(end)

    return jax.vmap(at)(times)


@jax.jit
def along_path(times, weights, yx, variance):
    path = riccati.trajectory(times, weights, yx, variance)
    return jax.vmap(lambda *w: gram(w))(*path)


@jax.jit
def integrated(times, weights, yx, variance, step):
    outputs, inputs = yx.shape
    xx = variance * jnp.eye(inputs)
    moments = tasks.Covariances(xx, yx, jnp.eye(outputs))
    field = jax.grad(losses.covariance_loss(models.product))
    solver = jd.RK4(step)

    def observe(state):
        return {"gram": gram(state.params)}

    run = jd.flow(field, moments, weights, times=times, observe=observe, solver=solver)
    return run.observed["gram"]


def generator(weights, yx, variance=1.0):
    outputs, inputs = yx.shape
    half = variance * float(riccati.imbalance(weights)[0]) / 2
    upper = [-half * np.eye(inputs), yx.T]
    lower = [yx, half * np.eye(outputs)]
    return np.block([upper, lower])


def textbook(time, weights, yx):
    """S = e^(Ft) Q [I + Q^T (e^(Ft) F^-1 e^(Ft) - F^-1) Q / 2]^-1 Q^T e^(Ft), as printed (Fukumizu,
    1998)."""
    f = generator(weights, np.asarray(yx))
    q = np.concatenate([weights[0].T, weights[1]])
    with np.errstate(all="ignore"):
        w, v = np.linalg.eigh(f)
        moving = (v * np.exp(w * time)) @ v.T
        inverse = (v / w) @ v.T
        spent = moving @ inverse @ moving - inverse
        metric = np.eye(q.shape[1]) + q.T @ spent @ q / 2
        end = moving @ q
        return end @ np.linalg.inv(metric) @ end.T


@pytest.mark.parametrize("start", STARTS)
def test_solution_is_the_integrated_flow(start, x64):
    weights, yx = problem(*start)
    times = np.linspace(0, 6, 13)
    variance = 0.8
    f = generator(weights, yx, variance)
    # Of fourth order in the step times the rate, 0.01 at most.
    step = 0.005 / np.linalg.norm(f, 2)
    expected = integrated(times, weights, yx, variance, step)
    computed = at_times(times, weights, yx, variance)
    np.testing.assert_allclose(computed, expected, rtol=0, atol=1e-9)


@functools.cache
def exact(start, time, digits):
    """S(t) in multi-precision, from the numbers that float64 holds."""
    import mpmath

    with jax.enable_x64(True), mpmath.workdps(digits):
        weights, yx = problem(*start)
        # Eigenvectors of the very matrix; only the imbalance of the rounded weights differs, by
        # 1e-16.
        f = generator(weights, np.asarray(yx))
        w, v = mpmath.eigsy(mpmath.matrix(f.tolist()))
        stacked = np.concatenate([weights[0].T, weights[1]])
        q = v.T * mpmath.matrix(stacked.tolist())

        def spent_time(x):
            return mpmath.expm1(2 * x * time) / (2 * x) if x else mpmath.mpf(time)

        spent = mpmath.diag([spent_time(x) for x in w])
        growth = mpmath.diag([mpmath.exp(x * time) for x in w])
        end = growth * q
        metric = mpmath.eye(q.cols) + q.T * spent * q
        s = v * (end * metric**-1 * end.T) * v.T
        return np.array(s.tolist(), float)


@pytest.mark.parametrize(
    ("start", "time", "digits"),
    [
        ((3, 2, 3, 0.0, 0.01), 1.0, 60),
        ((3, 2, 3, 0.0, 0.01), 30.0, 400),
        ((3, 2, 3, 0.0, 0.5), 300.0, 1600),
        ((3, 2, 3, 1.5, 0.7), 300.0, 1600),
    ],
)
def test_solution_is_exact_to_rounding_at_any_time(start, time, digits, x64):
    expected = exact(start, time, digits)

    def error(s):
        return np.max(np.abs(s - expected))

    weights, yx = problem(*start)
    high = at_times(jnp.array([time]), weights, yx, 1.0)[0]
    assert error(high) < 1e-13
    with jax.enable_x64(False):
        low_weights = [np.asarray(w, np.float32) for w in weights]
        low_yx = np.asarray(yx, np.float32)
        low_time = np.array([time], np.float32)
        low = at_times(low_time, low_weights, low_yx, np.float32(1))[0]
        assert low.dtype == jnp.float32
        assert error(np.asarray(low, float)) < 5e-6
    # The printed formula has lost all digits by then.
    if time == 300:
        assert not error(textbook(time, weights, yx)) < 1e-3


def test_where_the_printed_formula_fails(x64):
    # An eigenvalue of F is zero where inputs and outputs differ in number and lambda = 0.
    weights, yx = problem(3, 2, 2, 0.0, 0.5)
    s = at_times(jnp.array([1.0]), weights, yx, 1.0)[0]
    wrong = textbook(1.0, weights, yx)
    assert not np.max(np.abs(wrong - s)) < 1e-6
    # Else it is right for a short while.
    weights, yx = problem(3, 2, 3, 1.5, 0.5)
    s = at_times(jnp.array([1.0]), weights, yx, 1.0)[0]
    computed = textbook(1.0, weights, yx)
    np.testing.assert_allclose(computed, s, atol=1e-12)


@pytest.mark.parametrize("start", [(4, 3, 2, 0.0, 0.5), (2, 2, 2, -50.0, 0.1)])
def test_solution_solves_its_equation_from_its_start(start, precision):
    weights, yx = problem(*start)
    variance = 0.7
    yx = jnp.asarray(yx, precision)
    times = jnp.linspace(0, 3, 7)
    f = jnp.asarray(generator(weights, yx, variance), precision)

    def trajectory(t):
        return gram(riccati.solution(t, weights, yx, variance))

    @jax.jit
    @jax.vmap
    def moving(t):
        return jax.jvp(trajectory, (t,), (jnp.ones_like(t),))

    s, speed = moving(times)
    size = float(jnp.max(jnp.abs(s)) + jnp.max(jnp.abs(f)))
    bound = 200 * jnp.finfo(precision).eps * size**2
    np.testing.assert_allclose(s[0], gram(weights), rtol=0, atol=bound)
    expected = f @ s + s @ f - variance * s @ s
    np.testing.assert_allclose(speed, expected, rtol=0, atol=bound)
    end = riccati.solution(3.0, weights, yx, variance)
    before = riccati.imbalance(weights)[0]
    after = riccati.imbalance(end)
    np.testing.assert_allclose(after, [before, 0], atol=bound)


def test_solution_composes_and_goes_on_to_a_second_task(x64):
    weights, yx = problem(3, 3, 4, 0.5, 0.3)
    whole = riccati.solution(3.0, weights, yx)
    half = riccati.solution(1.2, weights, yx)
    computed = gram(riccati.solution(1.8, half, yx))
    np.testing.assert_allclose(computed, gram(whole), atol=1e-13)
    # Reversed: the target changes sign in the middle.
    back = riccati.solution(200.0, whole, -yx)
    computed = back[1] @ back[0]
    np.testing.assert_allclose(computed, -yx, atol=1e-13)


def test_a_balanced_square_start_keeps_the_sign_of_its_determinant(x64):
    # Rank never changes in finite time, so neither does the sign: the weakest mode is not learned.
    s = jnp.array([2.0, 1.0])
    frames = tasks.frames(jax.random.key(5), (2, 2), 2)
    yx = tasks.from_svd(frames[1], s, frames[0])
    weights = balanced((2, 2, 2), 0.0, 0.5)
    start = weights[1] @ weights[0]
    sign_at_start = jnp.sign(jnp.linalg.det(start))
    same = sign_at_start == jnp.sign(jnp.linalg.det(yx))
    mirrored = yx * jnp.array([[-1.0], [1.0]])
    for target, learned in [(yx, same), (mirrored, not same)]:
        end = riccati.solution(12.0, weights, target)
        distance = jnp.linalg.norm(end[1] @ end[0] - target)
        expected = 0.0 if learned else 1.0
        assert distance == pytest.approx(expected, abs=1e-4)


def test_a_saddle_is_left_only_by_rounding(x64):
    # From W_2 W_1 = -yx, learned exactly: tr S decays as 1/t until eps e^(2 w t) has grown to order
    # one.
    s = np.array([2.0, 1.0])
    weights = models.aligned([jnp.eye(2)] * 3, s)
    yx = jnp.diag(-s)
    end = riccati.solution(5.0, weights, yx)
    trace = float(jnp.trace(gram(end)))
    decay = np.exp(-2 * s * 5)
    expected = np.sum(2 * s * decay / (2 - decay))
    assert trace == pytest.approx(expected, rel=1e-8)


def test_a_single_hidden_unit_is_the_unbalanced_mode(precision):
    times = jnp.linspace(0, 4, 9)
    for a0, b0, s in [(1.3, 0.02, 2.0), (1.3, -0.9, 2.0), (0.1, 0.1, -1.0), (0.5, 0.5, 0.0)]:
        weights = [jnp.full((1, 1), a0), jnp.full((1, 1), b0)]
        a, b = linear.unbalanced_modes(times, s, a0, b0)
        yx = jnp.full((1, 1), s)
        computed = at_times(times, weights, yx, 1.0)
        entries = jnp.stack([a * a, a * b, a * b, b * b], -1)
        expected = entries.reshape(-1, 2, 2)
        atol = 200 * jnp.finfo(precision).eps
        np.testing.assert_allclose(computed, expected, rtol=0, atol=atol)


def test_an_aligned_start_is_the_sigmoid(x64):
    frames = tasks.frames(jax.random.key(3), (4, 3, 5), 2)
    s = jnp.array([2.0, 1.0])
    u0 = 0.01
    yx = tasks.from_svd(frames[-1], s, frames[0])
    weights = models.aligned(frames, jnp.full(2, u0))
    end = riccati.solution(2.5, weights, yx)
    observe = observables.mode_strengths(models.product, frames[-1], frames[0])
    state = jd.State(2.5, end)
    computed = observe(state)["mode_strengths"]
    expected = linear.mode_strength(2.5, s, u0)
    np.testing.assert_allclose(computed, expected, atol=1e-14)


# Singular and degenerate F: equal singular values, several inputs without a target, a target of
# rank one.
TARGETS = {
    "generic": (4, 3, 3, 1.0, lambda y: y),
    "equal": (5, 3, 2, 0.0, lambda y: jnp.linalg.qr(y.T)[0].T),
    "rank one": (2, 2, 5, 0.5, lambda y: jnp.outer(y[:, 0], y[0])),
}


def probed(matrix):
    """One number that depends on every entry of a square matrix."""
    probe = jnp.cos(jnp.arange(1.0 * matrix.size))
    return jnp.sum(probe.reshape(matrix.shape) * matrix)


@pytest.mark.parametrize("name", TARGETS)
def test_derivatives_are_the_finite_differences(name, x64):
    inputs, hidden, outputs, imbalance, shape = TARGETS[name]
    weights, yx = problem(inputs, hidden, outputs, imbalance, 0.5)
    yx = shape(yx)

    def value(time, variance, yx):
        end = riccati.solution(time, weights, yx, variance)
        return probed(gram(end))

    check_derivatives(value, jnp.asarray(1.3), jnp.asarray(0.8), yx)


def test_the_derivative_in_the_imbalance_is_the_finite_difference(x64):
    _, yx = problem(4, 3, 3, 1.0, 0.5)

    def value(imbalance):
        weights = balanced((4, 3, 3), imbalance, 0.5)
        end = riccati.solution(1.3, weights, yx)
        return probed(gram(end))

    check_derivatives(value, jnp.asarray(1.0))


def check_derivatives(value, *point):
    """The gradient in each argument along one direction, against differences."""
    gradient = jax.jit(jax.grad(value, range(len(point))))(*point)
    value = jax.jit(value)
    for i, slope in enumerate(gradient):
        direction = jnp.sin(1 + jnp.arange(1.0 * slope.size))
        step = 1e-5 * direction.reshape(slope.shape)

        def moved_by(step, i=i):
            return value(*point[:i], point[i] + step, *point[i + 1 :])

        difference = float(moved_by(step) - moved_by(-step)) / 2
        # Central differences: the step squared times third derivatives, and rounding over the step.
        assert float(jnp.sum(slope * step)) == pytest.approx(difference, rel=1e-6)


def test_solution_maps_over_starts_imbalances_and_targets():
    keys = jax.random.split(jax.random.key(0), 3)
    lambdas = jnp.array([-1.0, 0.0, 2.0])

    def start(key, difference):
        return models.lambda_balanced(key, (4, 2, 3), difference)

    weights = jax.jit(jax.vmap(start))(keys, lambdas)
    yx = jax.random.normal(jax.random.key(1), (3, 3, 4))

    def solved(w, y):
        end = riccati.solution(2.0, w, y)
        return gram(end)

    together = jax.jit(jax.vmap(solved))(weights, yx)
    for i in range(3):
        alone = solved([w[i] for w in weights], yx[i])
        np.testing.assert_allclose(together[i], alone, rtol=0, atol=1e-5)


def test_ntk_is_the_jacobians(x64):
    weights, _ = problem(3, 2, 4, 1.0, 0.5)
    x = jax.random.normal(jax.random.key(4), (5, 3))

    def outputs(w):
        return (x @ w[0].T @ w[1].T).reshape(-1)

    rows = [j.reshape(20, -1) for j in jax.jacrev(outputs)(weights)]
    computed = riccati.ntk(weights, x)
    expected = sum(j @ j.T for j in rows)
    np.testing.assert_allclose(computed, expected, atol=1e-13)


# Sizes, imbalance, and the rate for given singular values.
LATE_RATES = [
    ((3, 3, 3), 2.0, lambda s: np.hypot(2.0, 2 * s[2])),
    ((3, 3, 3), -2.0, lambda s: np.hypot(2.0, 2 * s[2])),
    ((5, 3, 3), 0.0, lambda s: s[2]),
    ((3, 3, 5), 1.0, lambda s: np.hypot(0.5, s[2]) - 0.5),
    ((3, 2, 3), 0.0, lambda s: s[1] - s[2]),
    ((3, 5, 5), 1.0, lambda s: np.hypot(0.5, s[2]) + 0.5),
]


@pytest.mark.parametrize(("sizes", "imbalance", "rate"), LATE_RATES)
def test_late_rate_is_that_of_the_solution(sizes, imbalance, rate, x64):
    s = np.array([2.0, 1.5, 1.0])
    variance = 0.8
    frames = tasks.frames(jax.random.key(5), (sizes[0], sizes[2]), 3)
    yx = tasks.from_svd(frames[1], s, frames[0])
    hidden = sizes[1]
    expected = float(riccati.late_rate(yx, hidden, imbalance, variance))
    assert expected == pytest.approx(rate(s) if imbalance == 0 else expected)
    of_unit_variance = float(riccati.late_rate(yx, hidden, imbalance))
    assert of_unit_variance == pytest.approx(rate(s))
    weights = balanced(sizes, imbalance, 0.5)
    left = frames[1][:, :hidden]
    right = frames[0][:, :hidden]
    limit = tasks.from_svd(left, s[:hidden] / variance, right)

    def gap(t):
        first, second = riccati.solution(t, weights, yx, variance)
        return jnp.linalg.norm(second @ first - limit)

    times = 1 + np.array([9.0, 11.0]) / expected
    gaps = jax.jit(jax.vmap(gap))(times)
    measured = -np.diff(np.log(gaps))[0] / np.diff(times)[0]
    # The next slower decay is e^(-9 ...) of this one, times the ratio of rates.
    assert measured == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda w, y: riccati.solution(-1.0, w, y), "time: -1"),
        (lambda w, y: riccati.solution(np.inf, w, y), "time: inf"),
        (lambda w, y: riccati.solution(1.0, w, y.T), "do not fit"),
        (
            lambda w, y: riccati.solution(1.0, [w[0], 2 * w[1]], y),
            r"by 1.4e-01.*lambda_balanced.*flow",
        ),
    ],
)
def test_bad_arguments_are_named(call, named):
    frames = [jnp.eye(4)[:, :3], jnp.eye(3), jnp.eye(3)]
    strengths = jnp.array([1.0, 2.0, 3.0])
    weights = models.aligned(frames, strengths)
    with pytest.raises(ValueError, match=named):
        call(weights, jnp.ones((3, 4)))


@pytest.mark.parametrize("start", STARTS)
def test_the_trajectory_is_the_solution_at_each_time(start, precision):
    weights, yx = problem(*start)
    times = np.array([0.0, 0.1, 0.5, 3.0, 40.0])
    computed = along_path(times, weights, yx, 0.8)
    assert computed.dtype == precision
    fastest = np.linalg.norm(generator(weights, yx), 2)
    # The flow itself amplifies rounding, by e^(2 w t) until what is small has grown to its target.
    growth = max(1.0, (fastest / start[-1]) ** 2)
    bound = 500 * growth * float(jnp.finfo(precision).eps)
    expected = at_times(times, weights, yx, 0.8)
    np.testing.assert_allclose(computed, expected, rtol=0, atol=bound)


def test_trajectories_differentiate_forwards_and_refuse_times_out_of_order(x64):
    weights, yx = problem(*STARTS[4])
    times = np.array([1.0, 2.0])

    @jax.jit
    def final(a):
        path = riccati.trajectory(times, weights, a * yx)
        return gram([w[-1] for w in path])

    slope = jax.jit(jax.jacfwd(final))(1.0)
    step = 1e-5
    expected = (final(1 + step) - final(1 - step)) / (2 * step)
    np.testing.assert_allclose(slope, expected, atol=1e-8)
    repeated = np.array([1.0, 1.0])
    with pytest.raises(ValueError, match="do not increase"):
        riccati.trajectory(repeated, weights, yx)
