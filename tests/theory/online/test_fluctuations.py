"""The linear noise approximation against exactly solved chains, and against the chain of online
learning."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import jaxdyn as jd
from jaxdyn.theory import online
from jaxdyn.theory.online import fluctuations
from jaxdyn.theory.online.gaussian_integrals import trapezoid

SEEN = {
    "limit": lambda s: ravel_pytree(s.limit)[0],
    "covariance": lambda s: s.covariance,
    "shift": lambda s: s.shift,
}


def integrated(velocity, start, times, step):
    """What is seen of the limit and of the fluctuations around it, at the given times."""
    solver = jd.RK4(step)

    def observe(state):
        return {name: of(state.params) for name, of in SEEN.items()}

    @jax.jit
    def observed():
        return jd.integrate(velocity, start, times=times, observe=observe, solver=solver).observed

    return observed()


def test_a_linear_chain_has_its_exact_moments(x64):
    # y <- y - k y/d + s z/d has the mean (1 - k/d)^n y0 and the variance s^2 (1 - (1 - k/d)^2n) /
    # (2 k d - k^2).
    k = 0.7
    s = 0.4
    y0 = 2.0
    d = 1e6
    time = 3.0

    def moments(y):
        return (jnp.full((1, 1), s**2), jnp.zeros(1))

    velocity = fluctuations.linear_noise(lambda t, y: -k * y, moments)
    start = fluctuations.start(jnp.array([y0]), jnp.full((1, 1), 0.3))
    found = integrated(velocity, start, [time], 0.01)
    n = round(time * d)
    mean = (1 - k / d) ** n * y0
    forgotten = (1 - k / d) ** (2 * n)
    variance = s**2 * (1 - forgotten) / (2 * k * d - k**2)
    variance += 0.3 / d * forgotten
    computed = found["limit"][0, 0] + found["shift"][0, 0] / d
    np.testing.assert_allclose(computed, mean, rtol=1e-9)
    computed = found["covariance"][0, 0, 0]
    np.testing.assert_allclose(computed, variance * d, rtol=1e-5)


def test_curvature_shifts_the_mean(x64):
    # y <- y - y^2/d - y^3/d^2 + s z/d has F_1 = -y^3, and errors of order 1/d beside its shift.
    s = 0.5
    y0 = 1.0
    time = 2.0
    runs = 400_000

    def moments(y):
        return (jnp.full((1, 1), s**2), -(y**3))

    velocity = fluctuations.linear_noise(lambda t, y: -(y**2), moments)
    start = fluctuations.start(jnp.array([y0]))
    found = integrated(velocity, start, [time], 0.05)
    limit = found["limit"][0, 0]
    expected = found["shift"][0, 0]
    rng = np.random.default_rng(0)
    mean = {}
    error = {}
    for d in (20, 40):
        y = np.full(runs, y0)
        for _ in range(round(time * d)):
            noise = s * rng.standard_normal(runs)
            y += (-(y**2) - y**3 / d + noise) / d
        mean[d] = y.mean()
        error[d] = y.std() / runs**0.5
    shift = {d: d * (mean[d] - limit) for d in mean}
    extrapolated = 2 * shift[40] - shift[20]
    uncertain = np.hypot(2 * 40 * error[40], 20 * error[20])
    assert abs(extrapolated - expected) < 4.5 * uncertain
    assert uncertain < 0.2 * abs(expected)


def test_the_chain_of_online_learning_fluctuates_as_predicted(x64):
    teacher = online.Teacher(jnp.eye(1), jnp.ones(1), 0.2)
    overlap = jnp.full((1, 1), 0.1)
    student = online.Student(overlap, overlap, jnp.ones(1))
    rates = {"learning_rate": 2.5, "readout_rate": 0.5}
    velocity = fluctuations.online_velocity(teacher, rule=trapezoid(17), **rates)
    start = fluctuations.start(student)
    predicted = integrated(velocity, start, [3.0], 0.1)
    limit, covariance, shift = (np.asarray(predicted[name][0]) for name in SEEN)
    runs = 20_000
    mean = {}
    error = {}

    def run(key, d):
        step = online.chain(teacher, d, examples=40, **rates)

        def observe(state):
            return {"y": ravel_pytree(state.params)[0]}

        times = jnp.array([3 * d // 40])
        run = jd.iterate(step, student, times=times, observe=observe, key=key)
        return run.observed["y"][0]

    chain = jax.jit(jax.vmap(run, (0, None)))
    for d in (40, 80):
        keys = jax.random.split(jax.random.key(d), runs)
        y = np.asarray(chain(keys, d))
        deviation = y - y.mean(0)
        squares = np.einsum("ri,rj->rij", deviation, deviation)
        values = np.concatenate([d * (y - limit), d * squares.reshape(runs, -1)], 1)
        mean[d] = values.mean(0)
        error[d] = values.std(0) / runs**0.5
    # What is left is of order 1/d, which two sizes extrapolate.
    extrapolated = 2 * mean[80] - mean[40]
    uncertain = np.hypot(2 * error[80], error[40])
    expected = np.concatenate([shift, covariance.ravel()])
    z = (extrapolated - expected) / uncertain
    assert np.max(np.abs(z)) < 4.5
    # Without the shift the means are far off.
    z_without_shift = mean[40][:3] / error[40][:3]
    assert np.max(np.abs(z_without_shift)) > 10
