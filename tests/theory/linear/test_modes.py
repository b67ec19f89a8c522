"""Theory of deep linear networks: the closed forms solve their equations and agree with independent
methods."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import digamma, hyp2f1

import jaxdyn as jd
from jaxdyn.theory import linear

mode_strength = jax.jit(linear.mode_strength)
time_of_strength = jax.jit(linear.time_of_strength)


def with_velocity(function, time):
    """What a function of time is at a time, and how fast it changes."""
    return jax.jvp(function, (time,), (jnp.ones_like(time),))


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, None, None))
def moving_strength(time, *mode):
    return with_velocity(lambda t: linear.mode_strength(t, *mode), time)


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, None, None, None))
def moving_modes(time, *mode):
    return with_velocity(lambda t: linear.unbalanced_modes(t, *mode), time)


MODES = [(4.0, 1e-3), (1.0, 1e-8), (0.5, 0.4), (0.0, 0.3), (1e-4, 0.3), (-1.0, 0.2), (1.0, 3.0)]


@pytest.mark.parametrize(("s", "u0"), MODES)
def test_mode_strength_solves_its_equation_from_its_start(s, u0, precision):
    times = jnp.linspace(0, 6, 25)
    u, speed = map(np.asarray, moving_strength(times, s, u0))
    eps = jnp.finfo(precision).eps
    assert u.dtype == precision
    np.testing.assert_allclose(u[0], u0, rtol=4 * eps)
    # The exponent 2 s t carries a rounding error of eps * 2 s t.
    expected = 2 * u * (s - u)
    atol = 100 * eps * (1 + max(s, u0)) ** 2
    np.testing.assert_allclose(speed, expected, rtol=0, atol=atol)


def test_mode_strength_at_the_far_ends():
    assert mode_strength(1e6, 2.0, 1e-3) == 2.0
    assert mode_strength(1e6, -2.0, 1e-3) == 0.0
    assert mode_strength(1e6, 2.0, 0.0) == 0.0
    gradient = jax.grad(linear.mode_strength, argnums=(0, 1, 2))(1.0, 0.0, 0.5)
    assert jnp.isfinite(gradient[1])


@pytest.mark.parametrize("depth", [1.5, 3, 5.0, 50, 1000])
def test_time_of_strength_is_the_hypergeometric_integral(depth, x64):
    u = np.array([0.9, 0.999, 0.5, 2.7])
    s = np.array([1.0, 1.0, 1.0, 3.0])
    u0 = np.array([0.05, 1e-6, 1e-8, 3e-3])
    p = 2 - 2 / depth

    def integral(x):
        power = x ** (1 - p) / ((1 - p) * s)
        return power * hyp2f1(1, 1 - p, 2 - p, x / s)

    expected = (integral(u) - integral(u0)) / depth
    computed = time_of_strength(u, s, u0, depth)
    np.testing.assert_allclose(computed, expected, rtol=1e-13)


def test_time_of_strength_at_two_layers_is_the_inverse_of_the_sigmoid(precision):
    times = jnp.linspace(0.1, 3, 10)
    u = mode_strength(times, 2.0, 1e-3)
    # An error of eps in u moves the time by eps * u / (2 u (s - u)).
    computed = time_of_strength(u, 2.0, 1e-3) - times
    atol = 30 * jnp.finfo(precision).eps / 0.05
    np.testing.assert_allclose(computed, 0, atol=atol)


def test_time_of_strength_decays_and_never_crosses_the_target():
    expected = 0.5 * np.log(3.0 * 0.5 / (1.5 * 2.0)) * -1
    assert time_of_strength(1.5, 1.0, 3.0) == pytest.approx(expected, rel=1e-5)
    assert time_of_strength(1.0, 1.0, 0.1) == jnp.inf
    # Beyond the target, behind the start of a growing and of a falling mode; at the start no time
    # has passed.
    never = jnp.array([2.0, 0.05, 4.0]), 1.0, jnp.array([0.1, 0.1, 3.0])
    np.testing.assert_array_equal(time_of_strength(*never), jnp.inf)
    computed = linear.time_of_strength_limit(*never)
    np.testing.assert_array_equal(computed, jnp.inf)
    assert time_of_strength(0.1, 1.0, 0.1) == 0
    assert jnp.isfinite(jax.grad(linear.time_of_strength)(0.05, 1.0, 0.1))


def test_scaled_times_approach_the_limit_of_infinite_depth_as_one_over_depth(x64):
    u = 0.9
    s = 1.5
    u0 = 0.05

    def integrand(x):
        return 1 / (x**2 * (s - x))

    limit = quad(integrand, u0, u, epsabs=0, epsrel=1e-12)[0]
    assert linear.time_of_strength_limit(u, s, u0) == pytest.approx(limit, rel=1e-11)
    depths = np.array([1e3, 1e4])
    gap = limit - depths * time_of_strength(u, s, u0, depths)
    # The next order is (2 log u)^2 / (2 D) of the first, 2 log u / D.
    assert gap[0] / gap[1] == pytest.approx(10, rel=2 * abs(np.log(u0)) / 1e3)


@pytest.mark.parametrize("depth", [2.0, 2.5, 50.0])
def test_deep_mode_strength_solves_its_equation_from_its_start(depth, precision):
    s = 1.7
    u0 = 0.05
    eps = jnp.finfo(precision).eps
    times = jnp.linspace(0, 2, 20) * time_of_strength(0.9 * s, s, u0, depth)

    def strength(t):
        return linear.deep_mode_strength(t, s, u0, depth)

    moving = jax.jit(jax.vmap(jax.value_and_grad(strength)))
    u, speed = map(np.asarray, moving(times))
    times = np.asarray(times)
    np.testing.assert_allclose(u[0], u0, rtol=30 * eps)
    expected = depth * u ** (2 - 2 / depth) * (s - u)
    atol = 30 * depth * s**3 * eps
    np.testing.assert_allclose(speed, expected, rtol=0, atol=atol)
    if depth == 2:
        # A time known to eps leaves u unknown by eps * t * du/dt.
        error = np.abs(mode_strength(times, s, u0) - u)
        assert np.all(error <= 30 * eps * (1 + times * speed))


def test_deep_mode_strength_is_the_integrated_equation_and_differentiates(x64):
    times = np.linspace(0.5, 3, 6)

    def velocity(t, u):
        return 3 * u ** (4 / 3) * (1.0 - u)

    def observe(state):
        return {"u": state.params}

    # A fourth-order step of 0.01 at rates of order one leaves 1e-8 at most.
    solver = jd.RK4(0.01)

    def integrated(u0):
        run = jd.integrate(velocity, u0, times=times, observe=observe, solver=solver)
        return run.observed["u"]

    def closed(u0):
        return linear.deep_mode_strength(times, 1.0, u0, 3)

    @jax.jit
    def both(u0):
        return [(f(u0), jax.jacfwd(f)(u0)) for f in (closed, integrated)]

    (u, slope), (u_integrated, slope_integrated) = both(0.05)
    np.testing.assert_allclose(u, u_integrated, atol=1e-8)
    np.testing.assert_allclose(slope, slope_integrated, atol=1e-6)


@pytest.mark.parametrize("depth", [2.0, 3.5])
def test_descent_lag_is_the_first_order_of_eulers_method(depth, x64):
    s = 1.5
    u0 = 0.05
    rates = jnp.array([2e-3, 1e-3])
    times = np.linspace(0, 4, 9)

    def error(rate):
        def step(_, a):
            return a + rate * a ** (depth - 1) * (s - a**depth)

        def steps(time):
            count = jnp.round(time / rate).astype(int)
            start = u0 ** (1 / depth)
            return jax.lax.fori_loop(0, count, step, start)

        descended = jax.vmap(steps)(times) ** depth
        lag = descended - linear.deep_mode_strength(times, s, u0, depth)
        return lag / rate - linear.descent_lag(times, s, u0, depth, 1.0)

    coarse, fine = jnp.abs(jax.jit(jax.vmap(error))(rates)).max(1)
    assert float(coarse / fine) == pytest.approx(2, rel=0.02)
    assert linear.descent_lag(1e4, s, u0, depth, 1.0) == 0


@pytest.mark.parametrize(
    ("s", "a0", "b0"),
    [
        (2.0, 1.3, 0.02),
        (2.0, 1.3, -0.9),
        (2.0, 0.1, 0.1),
        (-1.0, 0.3, 0.2),
        (0.0, 0.5, 0.5),
        (0.0, -0.7, 0.2),
        (3.0, 0, 1),
    ],
)
def test_unbalanced_modes_solve_their_equations_and_conserve(s, a0, b0, precision):
    times = jnp.linspace(0, 5, 21)
    modes, velocities = moving_modes(times, s, a0, b0)
    a, b = map(np.asarray, modes)
    da, db = velocities
    bound = 100 * jnp.finfo(precision).eps * (1 + abs(s)) ** 2
    computed = [a[0], b[0]]
    np.testing.assert_allclose(computed, [a0, b0], atol=bound)
    expected = b * (s - a * b)
    np.testing.assert_allclose(da, expected, rtol=0, atol=bound)
    expected = a * (s - a * b)
    np.testing.assert_allclose(db, expected, rtol=0, atol=bound)
    computed = a**2 - b**2
    expected = a0**2 - b0**2
    np.testing.assert_allclose(computed, expected, rtol=0, atol=bound)


def test_balanced_start_of_unbalanced_modes_is_the_sigmoid_and_its_saddle_stays(x64):
    times = np.linspace(0, 10, 11)
    a, b = linear.unbalanced_modes(times, 1.5, 1e-3**0.5, 1e-3**0.5)
    expected = mode_strength(times, 1.5, 1e-3)
    np.testing.assert_allclose(a * b, expected, rtol=1e-13)
    assert linear.unbalanced_modes(1e4, 2.0, 1.0, -1.0) == (0.0, 0.0)


@pytest.mark.parametrize(("depth", "s"), [(1, 3.0), (5, 0.7)])
def test_max_learning_rate_is_two_over_the_sharpness_of_the_balanced_solution(depth, s, x64):
    def loss(chain):
        return (s - jnp.prod(chain)) ** 2 / 2

    balanced = jnp.full(depth, s ** (1 / depth))
    hessian = jax.jit(jax.hessian(loss))(balanced)
    sharpness = float(np.linalg.eigvalsh(hessian)[-1])
    assert linear.max_learning_rate(s, depth) == pytest.approx(2 / sharpness, rel=1e-12)


def test_seed_strengths_have_their_mean_over_gaussian_starts(x64):
    hidden = 5
    inputs = 4
    outputs = 3
    modes = 3
    draws = 2000
    scale = 0.1
    left = jnp.eye(outputs)[:, :modes]
    right = jnp.eye(inputs)[:, :modes]

    def draw(key):
        first, second = jax.random.split(key)
        sigma = scale / hidden**0.5
        w1 = sigma * jax.random.normal(first, (hidden, inputs))
        w2 = sigma * jax.random.normal(second, (outputs, hidden))
        return linear.seed_strengths(w1, w2, left, right)

    keys = jax.random.split(jax.random.key(0), draws)
    seeds = jax.jit(jax.vmap(draw))(keys)
    # R_aa^2 is chi-squared with hidden - a + 1 degrees of freedom: its spread is sqrt(2/(hidden - a
    # + 1)) of its mean.
    freedom = hidden - np.arange(modes)
    expected = scale**2 / 2 * freedom / hidden
    error = np.sqrt(2 / freedom / draws)
    z = (seeds.mean(0) / expected - 1) / error
    assert np.all(np.abs(z) < 4)


def test_seed_strengths_of_an_aligned_start_are_its_strengths(precision):
    left = jnp.eye(3)[:, :2]
    right = jnp.eye(4)[:, :2]
    a = jnp.asarray([0.3, 0.1])
    drawn = jax.random.normal(jax.random.key(1), (5, 2))
    hidden = jnp.linalg.qr(drawn)[0]
    first = hidden @ jnp.diag(a) @ right.T
    second = left @ jnp.diag(a) @ hidden.T
    seeds = linear.seed_strengths(first, second, left, right)
    rtol = 30 * jnp.finfo(precision).eps
    np.testing.assert_allclose(seeds, a**2, rtol=rtol)
    with pytest.raises(ValueError, match="left: 3 modes"):
        linear.seed_strengths(jnp.ones((2, 4)), jnp.ones((3, 2)), jnp.eye(3), jnp.eye(4)[:, :3])


def test_lyapunov_exponents_add_up_to_the_mean_log_determinant(x64):
    n = 7
    exponents = linear.lyapunov_exponents(n)
    assert np.all(np.diff(exponents) < 0)
    # log |det W| = sum of log chi_k / 2 over k = 1 ... n degrees of freedom, with E log chi^2_k =
    # psi(k/2) + log 2.
    expected = sum((digamma(k / 2) + np.log(2 / n)) / 2 for k in range(1, n + 1))
    assert exponents.sum() == pytest.approx(expected, rel=1e-12)
    matrices = jax.random.normal(jax.random.key(0), (4000, n, n)) / n**0.5
    volume = jnp.linalg.slogdet(matrices)[1]
    assert abs(volume.mean() - exponents.sum()) < 4 * volume.std() / 4000**0.5
    # One layer stretches a fixed vector, and the volume of all but one direction, by the outer
    # exponents.
    lengths = jnp.linalg.norm(matrices[:, :, 0], axis=1)
    stretch = jnp.log(lengths)
    assert abs(stretch.mean() - exponents[0]) < 4 * stretch.std() / 4000**0.5


@pytest.mark.parametrize("v", [0.1, 1.0, 16.0])
def test_tanh_mean_field_averages_are_the_adaptive_integrals(v, x64):
    def density(z):
        return np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)

    def average(f):
        def integrand(z):
            return 2 * density(z) * f(np.sqrt(v) * z)

        integral, _ = quad(integrand, 0, 12, epsabs=0, epsrel=1e-12, limit=200)
        return integral

    variance, susceptibility = linear.tanh_mean_field(2.0, 1, v / 4)
    expected = average(lambda x: np.tanh(x) ** 2)
    assert variance[0] == pytest.approx(expected, rel=1e-11)
    expected = 4 * average(lambda x: np.cosh(x) ** -4.0)
    assert susceptibility[0] == pytest.approx(expected, rel=1e-11)


def test_tanh_mean_field_at_the_critical_gain_decays_as_half_the_inverse_depth(precision):
    mean_field = jax.jit(lambda gain: linear.tanh_mean_field(gain, 1000))
    variance, susceptibility = mean_field(1.0)
    assert variance.dtype == precision
    # E tanh^2 = v - 2 v^2 + 17 v^3/3 - ..., so 1/q grows by 2 - 5 q/3 + O(q^2) a layer; tanh,
    # square and sum round.
    growth = 1 / variance[999] - 1 / variance[499]
    rounding = 3 * jnp.finfo(precision).eps * (1 / variance).sum()
    expected = 2 * 500 - 5 / 6 * np.log(2)
    assert float(growth) == pytest.approx(expected, abs=0.01 + float(rounding))
    # chi = 1 - 2 q + ..., with q near 1/(2 l): a factor 1/2 where the depth doubles.
    decay = jnp.prod(susceptibility[500:])
    assert float(decay) == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize("levels", [0, 1, 3])
def test_tree_singular_values_are_those_of_its_covariance(levels, precision):
    n = 2**levels

    def branches(level):
        """To which of the branches at a level each leaf belongs."""
        leaves = np.ones((1, n // 2**level))
        return np.kron(np.eye(2**level), leaves)

    ancestors = np.concatenate([branches(level) for level in range(levels + 1)])
    expected = np.linalg.svd(ancestors / n, compute_uv=False)
    computed = linear.tree_singular_values(levels)
    rtol = 10 * jnp.finfo(precision).eps
    np.testing.assert_allclose(computed, expected, rtol=rtol)
