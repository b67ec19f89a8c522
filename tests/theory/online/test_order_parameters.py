"""Online learning by order parameters: the ODE against the mean step of the chain, the chain
against networks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from jax.flatten_util import ravel_pytree

import jaxdyn as jd
from jaxdyn import losses, models, tasks
from jaxdyn.theory import online
from jaxdyn.theory.online import gaussian_integrals as integrals

UNITS = {"erf": integrals.erf(), "relu": integrals.relu()}
units = pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)


def example(K=2, M=2):
    """A student and a teacher whose units overlap, with noise."""
    Q = 0.4 * jnp.eye(K) + 0.1
    R = 0.1 * jnp.arange(1.0, K * M + 1).reshape(K, M) / K
    T = 0.3 * jnp.ones((M, M)) + jnp.diag(jnp.linspace(0.7, 0.5, M))
    student = online.Student(Q, R, jnp.linspace(0.5, 0.2, K))
    return student, online.Teacher(T, jnp.linspace(1.0, -0.6, M), 0.3)


def two_sample_z(a, b):
    """By how many standard errors the first and second moments of two samples (runs, numbers)
    differ."""
    a, b = (
        np.concatenate([x, np.einsum("ri,rj->rij", x, x).reshape(len(x), -1)], 1) for x in (a, b)
    )
    return np.abs(a.mean(0) - b.mean(0)) / np.sqrt(a.var(0) / len(a) + b.var(0) / len(b) + 1e-30)


@units
def test_the_mean_step_of_the_chain_is_the_velocity(unit, x64):
    student, teacher = example(2, 2)
    rates = {"learning_rate": 0.8, "readout_rate": 0.5, "unit": unit}
    d = 1e6
    runs = 100_000
    step = online.chain(teacher, d, **rates)

    @jax.jit
    @jax.vmap
    def change(key):
        return d * (
            ravel_pytree(step(key, jd.State(0, student)).params)[0] - ravel_pytree(student)[0]
        )

    changes = np.asarray(change(jax.random.split(jax.random.key(1), runs)))
    velocity = ravel_pytree(jax.jit(online.velocity(teacher, **rates))(0.0, student))[0]
    # Beyond sampling the mean of Q is off by 1/d, and rounding is d eps.
    assert np.max(np.abs(changes.mean(0) - velocity) / (changes.std(0) / runs**0.5)) < 4.5


@units
def test_the_chain_is_the_law_of_networks_of_few_inputs(unit, x64):
    d = 8
    runs = 20_000
    steps = 24
    (student, teacher) = example()
    G = jnp.block(
        [[student.overlaps, student.with_teacher], [student.with_teacher.T, teacher.overlaps]]
    )
    weights = jnp.zeros((4, d)).at[:, :4].set(integrals.root(G))
    net = models.mlp((d, 2, 1), activation=unit.apply, bias_scale=None)

    def labels(x):
        return net.apply({"weights": [weights[2:], teacher.readout[None]]}, x)

    stream = tasks.online(lambda key: tasks.labelled(key, labels, 1, d, noise=teacher.noise))
    optimizer = optax.partition(
        {"w": optax.sgd(0.6 / d), "v": optax.sgd(0.4 / d)}, {"weights": ["w", "v"]}
    )

    def network(key):
        start = {"weights": [weights[:2], student.readout[None]]}

        def seen(w):
            return online.overlaps(w[0], w[1][0], weights[2:])

        def observe(state):
            return {"y": ravel_pytree(seen(state.params["weights"]))[0]}

        field = jax.grad(losses.squared_error(net.apply))
        return jd.train(
            field, optimizer, stream, start, times=[steps], observe=observe, key=key
        ).observed["y"][0]

    def chain(key):
        step = online.chain(
            teacher, d, learning_rate=0.6, readout_rate=0.4, unit=unit, examples=steps
        )

        def observe(state):
            return {"y": ravel_pytree(state.params)[0]}

        return jd.iterate(step, student, times=[1], observe=observe, key=key).observed["y"][0]

    def run(simulate, seed):
        return np.asarray(jax.jit(jax.vmap(simulate))(jax.random.split(jax.random.key(seed), runs)))

    # 110 moments: beyond 4.5 by chance once in 1,300 times.
    assert two_sample_z(run(network, 1), run(chain, 2)).max() < 4.5


def test_one_unit_obeys_the_published_equations(x64):
    eta = 1.5
    r = 0.3
    q = 0.6
    teacher = online.Teacher(jnp.eye(1), jnp.ones(1))
    student = online.Student(jnp.full((1, 1), q), jnp.full((1, 1), r), jnp.ones(1))
    moved = jax.jit(online.velocity(teacher, learning_rate=eta))(0.0, student)
    # Biehl and Schwarze (1995); Saad and Solla (1995) for K = M = 1.
    root = np.sqrt(2 * (1 + q) - r**2)
    dr = 2 / np.pi * eta / (1 + q) * ((1 + q - r**2) / root - r / np.sqrt(1 + 2 * q))
    dq = 4 / np.pi * eta / (1 + q) * (r / root - q / np.sqrt(1 + 2 * q))
    a = np.arcsin((1 + 2 * (q - r**2)) / (2 * (1 + 2 * q - r**2))) + np.arcsin(q / (1 + 3 * q))
    a -= 2 * np.arcsin(r / np.sqrt(2 * (1 + 2 * q - r**2)) / np.sqrt(1 + 3 * q))
    dq += 4 / np.pi**2 * eta**2 / np.sqrt(1 + 2 * q) * a
    assert float(moved.with_teacher[0, 0]) == pytest.approx(dr, rel=1e-14)
    assert float(moved.overlaps[0, 0]) == pytest.approx(dq, rel=1e-14)
    error = np.arcsin(q / (1 + q)) / np.pi + 1 / 6 - 2 / np.pi * np.arcsin(r / np.sqrt(2 * (1 + q)))
    assert float(online.generalisation_error(student, teacher)) == pytest.approx(error, rel=1e-14)


def test_linear_students_rest_at_their_exact_floor(x64):
    K = 3
    eta = 0.2
    noise = 0.1
    unit = integrals.linear()
    teacher = online.Teacher(jnp.eye(2), jnp.ones(2), noise)
    velocity = online.velocity(teacher, learning_rate=eta, unit=unit)
    start = online.Student(0.3 * jnp.eye(K) + 0.1, 0.1 * jnp.ones((K, 2)), jnp.ones(K))

    def observe(state):
        return {"error": online.generalisation_error(state.params, teacher, unit)}

    run = jax.jit(
        lambda: jd.integrate(velocity, start, times=[200.0], observe=observe, solver=jd.RK4(0.5))
    )()
    # The error e of one linear unit of K weights: 0 = -2 eta K e + eta^2 K^2 (e + noise^2 / 2).
    assert float(run.observed["error"][0]) == pytest.approx(
        eta * noise**2 * K / (4 - 2 * eta * K), rel=1e-12
    )


def test_noise_floor_of_units_beyond_the_teachers(x64):
    solution = online.Student(jnp.diag(jnp.array([1.0, 1.0, 0.0])), jnp.eye(3, 2), jnp.ones(3))
    teacher = online.Teacher(jnp.eye(2), jnp.ones(2), 0.1)
    expected = 0.02 * 0.01 / (2 * np.pi) * (1 + 2 / 3**0.5)
    floor = jax.jit(lambda s, unit: online.noise_floor(s, teacher, 0.02, unit), static_argnums=1)
    assert float(floor(solution, None)) == pytest.approx(expected, rel=1e-14)
    student = online.Student(jnp.eye(2), jnp.eye(2), jnp.ones(2))
    assert float(floor(student, UNITS["relu"])) == pytest.approx(0.02 * 0.01 * 2 / 8, rel=1e-14)


def test_students_with_a_unit_too_many_rest_at_that_floor_for_small_rates(x64):
    upper = np.triu_indices(3)

    def of(modes):
        half = jnp.zeros((3, 3)).at[upper].set(modes[:6])
        return online.Student(half + jnp.triu(half, 1).T, modes[6:].reshape(3, 2), jnp.ones(3))

    def excess(eta):
        teacher = online.Teacher(jnp.eye(2), jnp.ones(2), 0.1)

        def speed(modes):
            moved = online.velocity(teacher, learning_rate=eta)(0.0, of(modes))
            return jnp.concatenate([moved.overlaps[upper], moved.with_teacher.ravel()])

        def newton(_, modes):
            return modes - jnp.linalg.solve(jax.jacfwd(speed)(modes), speed(modes))

        start = jnp.concatenate(
            [jnp.diag(jnp.array([1.0, 1.0, eta * 0.005]))[upper], jnp.eye(3, 2).ravel()]
        )
        rest = of(jax.lax.fori_loop(0, 10, newton, start))
        return (
            online.generalisation_error(rest, teacher) / online.noise_floor(of(start), teacher, eta)
            - 1
        )

    first, second = jax.jit(jax.vmap(excess))(jnp.array([0.02, 0.01]))
    # The next order is that of the learning rate.
    assert abs(first) < 0.02
    assert float(first / second) == pytest.approx(2, rel=0.02)


def test_the_equations_know_no_order_of_units(x64):
    student, teacher = example(3, 2)
    swapped = online.Student(
        student.overlaps[::-1, ::-1], student.with_teacher[::-1], student.readout[::-1]
    )
    velocity = jax.jit(online.velocity(teacher, learning_rate=0.7, readout_rate=0.3))
    error = jax.jit(lambda student: online.generalisation_error(student, teacher))
    one = velocity(0.0, student)
    other = velocity(0.0, swapped)
    back = online.Student(other.overlaps[::-1, ::-1], other.with_teacher[::-1], other.readout[::-1])
    for a, b in zip(one, back, strict=True):
        atol = 20 * float(jnp.finfo(x64).eps)
        np.testing.assert_allclose(a, b, atol=atol)
    errors = [float(error(s)) for s in (student, swapped)]
    assert errors[0] == pytest.approx(errors[1], rel=20 * float(jnp.finfo(x64).eps))


def test_random_starts_have_the_law_of_random_weights(x64):
    d = 7
    runs = 20_000
    teacher = example()[1]
    weights = jnp.zeros((2, d)).at[:, :2].set(integrals.root(teacher.overlaps))

    def drawn(key):
        w = 0.5 * jax.random.normal(key, (3, d)) / d**0.5
        return online.overlaps(w, jnp.ones(3), weights)

    def start(key):
        return online.random_start(key, teacher, jnp.ones(3), d, 0.5)

    def sample(draw, seed):
        return np.asarray(
            jax.jit(jax.vmap(lambda key: ravel_pytree(draw(key)[:2])[0]))(
                jax.random.split(jax.random.key(seed), runs)
            )
        )

    assert two_sample_z(sample(drawn, 1), sample(start, 2)).max() < 4.5


def test_chi_squared_numbers_have_their_distribution():
    freedoms = jnp.repeat(jnp.array([2.0, 3.5, 394.0]), 50_000)
    drawn = np.asarray(
        jax.jit(lambda key: online.order_parameters._chi_squared(key, freedoms, freedoms.shape))(
            jax.random.key(0)
        )
    )
    assert drawn.dtype == np.float32
    for freedom, numbers in zip((2, 3.5, 394), drawn.reshape(3, -1).astype(float), strict=True):
        assert scipy.stats.kstest(numbers, scipy.stats.chi2(freedom).cdf).pvalue > 1e-3


def test_the_precision_is_that_of_the_student(precision):
    student, teacher = example(1, 1)
    key = jax.random.key(0)
    d = jnp.asarray(20.0)

    def step(d):
        return online.chain(teacher, d, learning_rate=0.5, examples=10)(
            key, jd.State(0, student)
        ).params

    def start(d):
        return online.random_start(key, teacher, student.readout, d, 0.1)

    def velocity(d):
        return online.velocity(teacher, learning_rate=0.7, readout_rate=0.3)(0.0, student)

    for function in (step, start, velocity):
        assert {a.dtype for a in jax.tree.leaves(jax.eval_shape(function, d))} == {precision}


def test_numbers_that_cannot_be_are_refused():
    student, teacher = example()
    with pytest.raises(ValueError, match="inputs: 5; pass at least 6"):
        online.chain(teacher, 5, learning_rate=1.0)(jax.random.key(0), jd.State(0, student))
    with pytest.raises(ValueError, match="examples: 0; pass at least 1"):
        online.chain(teacher, 10, learning_rate=1.0, examples=0)
