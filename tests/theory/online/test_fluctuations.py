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
    def observe(state):
        return {name: of(state.params) for name, of in SEEN.items()}

    return jax.jit(
        lambda: (
            jd.integrate(
                velocity, start, times=times, observe=observe, solver=jd.RK4(step)
            ).observed
        )
    )()


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
    found = integrated(
        velocity, fluctuations.start(jnp.array([y0]), jnp.full((1, 1), 0.3)), [time], 0.01
    )
    n = round(time * d)
    mean = (1 - k / d) ** n * y0
    variance = s**2 * (1 - (1 - k / d) ** (2 * n)) / (2 * k * d - k**2)
    variance += 0.3 / d * (1 - k / d) ** (2 * n)
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

    found = integrated(
        fluctuations.linear_noise(lambda t, y: -(y**2), moments),
        fluctuations.start(jnp.array([y0])),
        [time],
        0.05,
    )
    rng = np.random.default_rng(0)
    mean = {}
    error = {}
    for d in (20, 40):
        y = np.full(runs, y0)
        for _ in range(round(time * d)):
            y += (-(y**2) - y**3 / d + s * rng.standard_normal(runs)) / d
        mean[d] = y.mean()
        error[d] = y.std() / runs**0.5
    shift = {d: d * (mean[d] - found["limit"][0, 0]) for d in mean}
    extrapolated = 2 * shift[40] - shift[20]
    uncertain = np.hypot(2 * 40 * error[40], 20 * error[20])
    assert abs(extrapolated - found["shift"][0, 0]) < 4.5 * uncertain
    assert uncertain < 0.2 * abs(found["shift"][0, 0])


def test_the_chain_of_online_learning_fluctuates_as_predicted(x64):
    teacher = online.Teacher(jnp.eye(1), jnp.ones(1), 0.2)
    student = online.Student(jnp.full((1, 1), 0.1), jnp.full((1, 1), 0.1), jnp.ones(1))
    rates = {"learning_rate": 2.5, "readout_rate": 0.5}
    velocity = fluctuations.online_velocity(teacher, rule=trapezoid(17), **rates)
    start = fluctuations.start(student)
    limit, C, m = (np.asarray(integrated(velocity, start, [3.0], 0.1)[name][0]) for name in SEEN)
    runs = 20_000
    found = {}

    def run(key, d):
        step = online.chain(teacher, d, examples=40, **rates)

        def observe(state):
            return {"y": ravel_pytree(state.params)[0]}

        times = jnp.array([3 * d // 40])
        return jd.iterate(step, student, times=times, observe=observe, key=key).observed["y"][0]

    chain = jax.jit(jax.vmap(run, (0, None)))
    for d in (40, 80):
        y = np.asarray(chain(jax.random.split(jax.random.key(d), runs), d))
        squares = np.einsum("ri,rj->rij", y - y.mean(0), y - y.mean(0))
        values = np.concatenate([d * (y - limit), d * squares.reshape(runs, -1)], 1)
        found[d] = values.mean(0), values.std(0) / runs**0.5
    # What is left is of order 1/d, which two sizes extrapolate.
    extrapolated = 2 * found[80][0] - found[40][0]
    uncertain = np.hypot(2 * found[80][1], found[40][1])
    assert np.max(np.abs(extrapolated - np.concatenate([m, C.ravel()])) / uncertain) < 4.5
    # Without the shift the means are far off.
    assert np.max(np.abs(found[40][0][:3]) / found[40][1][:3]) > 10
