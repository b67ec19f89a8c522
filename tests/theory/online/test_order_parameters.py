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
    own = jnp.diag(jnp.linspace(0.7, 0.5, M))
    T = 0.3 * jnp.ones((M, M)) + own
    student = online.Student(Q, R, jnp.linspace(0.5, 0.2, K))
    teacher = online.Teacher(T, jnp.linspace(1.0, -0.6, M), 0.3)
    return student, teacher


def flat(parameters):
    return ravel_pytree(parameters)[0]


def samples(draw, seed, runs):
    """What is drawn from the keys of a seed, in one program."""
    keys = jax.random.split(jax.random.key(seed), runs)
    drawn = jax.jit(jax.vmap(draw))(keys)
    return np.asarray(drawn)


def with_products(x):
    """Numbers (runs, numbers) and the products of every two of them."""
    products = np.einsum("ri,rj->rij", x, x)
    return np.concatenate([x, products.reshape(len(x), -1)], 1)


def two_sample_z(a, b):
    """By how many standard errors the first and second moments of two samples (runs, numbers)
    differ."""
    a = with_products(a)
    b = with_products(b)
    variance = a.var(0) / len(a) + b.var(0) / len(b)
    return np.abs(a.mean(0) - b.mean(0)) / np.sqrt(variance + 1e-30)


@units
def test_the_mean_step_of_the_chain_is_the_velocity(unit, x64):
    student, teacher = example(2, 2)
    rates = {"learning_rate": 0.8, "readout_rate": 0.5, "unit": unit}
    d = 1e6
    runs = 100_000
    step = online.chain(teacher, d, **rates)

    def change(key):
        start = jd.State(0, student)
        moved = step(key, start).params
        return d * (flat(moved) - flat(student))

    changes = samples(change, 1, runs)
    velocity = jax.jit(online.velocity(teacher, **rates))
    expected = flat(velocity(0.0, student))
    # Beyond sampling the mean of Q is off by 1/d, and rounding is d eps.
    error = changes.std(0) / runs**0.5
    assert np.max(np.abs(changes.mean(0) - expected) / error) < 4.5


@units
def test_the_chain_is_the_law_of_networks_of_few_inputs(unit, x64):
    d = 8
    runs = 20_000
    steps = 24
    student, teacher = example()
    upper = [student.overlaps, student.with_teacher]
    lower = [student.with_teacher.T, teacher.overlaps]
    G = jnp.block([upper, lower])
    weights = jnp.zeros((4, d)).at[:, :4].set(integrals.root(G))
    of_student = weights[:2]
    of_teacher = weights[2:]
    net = models.mlp((d, 2, 1), activation=unit.apply, bias_scale=None)

    def labels(x):
        params = {"weights": [of_teacher, teacher.readout[None]]}
        return net.apply(params, x)

    def fresh(key):
        return tasks.labelled(key, labels, 1, d, noise=teacher.noise)

    stream = tasks.online(fresh)
    rates = {"w": optax.sgd(0.6 / d), "v": optax.sgd(0.4 / d)}
    optimizer = optax.partition(rates, {"weights": ["w", "v"]})
    field = jax.grad(losses.squared_error(net.apply))

    def network(key):
        start = {"weights": [of_student, student.readout[None]]}

        def observe(state):
            first, second = state.params["weights"]
            seen = online.overlaps(first, second[0], of_teacher)
            return {"y": flat(seen)}

        run = jd.train(field, optimizer, stream, start, times=[steps], observe=observe, key=key)
        return run.observed["y"][0]

    def chain(key):
        rates = {"learning_rate": 0.6, "readout_rate": 0.4}
        step = online.chain(teacher, d, unit=unit, examples=steps, **rates)

        def observe(state):
            return {"y": flat(state.params)}

        run = jd.iterate(step, student, times=[1], observe=observe, key=key)
        return run.observed["y"][0]

    networks = samples(network, 1, runs)
    chains = samples(chain, 2, runs)
    # 110 moments: beyond 4.5 by chance once in 1,300 times.
    assert two_sample_z(networks, chains).max() < 4.5


def test_one_unit_obeys_the_published_equations(x64):
    eta = 1.5
    r = 0.3
    q = 0.6
    teacher = online.Teacher(jnp.eye(1), jnp.ones(1))
    student = online.Student(jnp.full((1, 1), q), jnp.full((1, 1), r), jnp.ones(1))
    velocity = jax.jit(online.velocity(teacher, learning_rate=eta))
    moved = velocity(0.0, student)
    # Biehl and Schwarze (1995); Saad and Solla (1995) for K = M = 1.
    root = np.sqrt(2 * (1 + q) - r**2)
    own_root = np.sqrt(1 + 2 * q)
    dr = 2 / np.pi * eta / (1 + q) * ((1 + q - r**2) / root - r / own_root)
    dq = 4 / np.pi * eta / (1 + q) * (r / root - q / own_root)
    rest = 1 + 2 * q - r**2
    a = np.arcsin((1 + 2 * (q - r**2)) / (2 * rest))
    a += np.arcsin(q / (1 + 3 * q))
    a -= 2 * np.arcsin(r / np.sqrt(2 * rest) / np.sqrt(1 + 3 * q))
    dq += 4 / np.pi**2 * eta**2 / own_root * a
    assert float(moved.with_teacher[0, 0]) == pytest.approx(dr, rel=1e-14)
    assert float(moved.overlaps[0, 0]) == pytest.approx(dq, rel=1e-14)
    computed = float(online.generalisation_error(student, teacher))
    shared = 2 / np.pi * np.arcsin(r / np.sqrt(2 * (1 + q)))
    error = np.arcsin(q / (1 + q)) / np.pi + 1 / 6 - shared
    assert computed == pytest.approx(error, rel=1e-14)


def test_linear_students_rest_at_their_exact_floor(x64):
    K = 3
    eta = 0.2
    noise = 0.1
    unit = integrals.linear()
    teacher = online.Teacher(jnp.eye(2), jnp.ones(2), noise)
    velocity = online.velocity(teacher, learning_rate=eta, unit=unit)
    overlaps = 0.3 * jnp.eye(K) + 0.1
    start = online.Student(overlaps, 0.1 * jnp.ones((K, 2)), jnp.ones(K))
    solver = jd.RK4(0.5)

    def observe(state):
        return {"error": online.generalisation_error(state.params, teacher, unit)}

    @jax.jit
    def observed():
        run = jd.integrate(velocity, start, times=[200.0], observe=observe, solver=solver)
        return run.observed

    error = float(observed()["error"][0])
    # The error e of one linear unit of K weights: 0 = -2 eta K e + eta^2 K^2 (e + noise^2 / 2).
    expected = eta * noise**2 * K / (4 - 2 * eta * K)
    assert error == pytest.approx(expected, rel=1e-12)


def test_noise_floor_of_units_beyond_the_teachers(x64):
    overlaps = jnp.diag(jnp.array([1.0, 1.0, 0.0]))
    solution = online.Student(overlaps, jnp.eye(3, 2), jnp.ones(3))
    teacher = online.Teacher(jnp.eye(2), jnp.ones(2), 0.1)
    expected = 0.02 * 0.01 / (2 * np.pi) * (1 + 2 / 3**0.5)
    floor = jax.jit(lambda s, unit: online.noise_floor(s, teacher, 0.02, unit), static_argnums=1)
    assert float(floor(solution, None)) == pytest.approx(expected, rel=1e-14)
    student = online.Student(jnp.eye(2), jnp.eye(2), jnp.ones(2))
    assert float(floor(student, UNITS["relu"])) == pytest.approx(0.02 * 0.01 * 2 / 8, rel=1e-14)


def test_students_with_a_unit_too_many_rest_at_that_floor_for_small_rates(x64):
    upper = np.triu_indices(3)

    def student_of(modes):
        half = jnp.zeros((3, 3)).at[upper].set(modes[:6])
        overlaps = half + jnp.triu(half, 1).T
        with_teacher = modes[6:].reshape(3, 2)
        return online.Student(overlaps, with_teacher, jnp.ones(3))

    def excess(eta):
        """By how much the error at rest is above the floor, relative to it."""
        teacher = online.Teacher(jnp.eye(2), jnp.ones(2), 0.1)
        velocity = online.velocity(teacher, learning_rate=eta)

        def speed(modes):
            moved = velocity(0.0, student_of(modes))
            return jnp.concatenate([moved.overlaps[upper], moved.with_teacher.ravel()])

        def newton(_, modes):
            jacobian = jax.jacfwd(speed)(modes)
            return modes - jnp.linalg.solve(jacobian, speed(modes))

        overlaps = jnp.diag(jnp.array([1.0, 1.0, eta * 0.005]))
        start = jnp.concatenate([overlaps[upper], jnp.eye(3, 2).ravel()])
        rest = jax.lax.fori_loop(0, 10, newton, start)
        error = online.generalisation_error(student_of(rest), teacher)
        floor = online.noise_floor(student_of(start), teacher, eta)
        return error / floor - 1

    first, second = jax.jit(jax.vmap(excess))(jnp.array([0.02, 0.01]))
    # The next order is that of the learning rate.
    assert abs(first) < 0.02
    assert float(first / second) == pytest.approx(2, rel=0.02)


def reversed_units(student):
    overlaps = student.overlaps[::-1, ::-1]
    return online.Student(overlaps, student.with_teacher[::-1], student.readout[::-1])


def test_the_equations_know_no_order_of_units(x64):
    student, teacher = example(3, 2)
    swapped = reversed_units(student)
    velocity = jax.jit(online.velocity(teacher, learning_rate=0.7, readout_rate=0.3))
    error = jax.jit(lambda student: online.generalisation_error(student, teacher))
    one = velocity(0.0, student)
    other = velocity(0.0, swapped)
    back = reversed_units(other)
    rounding = 20 * float(jnp.finfo(x64).eps)
    for a, b in zip(one, back, strict=True):
        np.testing.assert_allclose(a, b, atol=rounding)
    computed = float(error(student))
    expected = float(error(swapped))
    assert computed == pytest.approx(expected, rel=rounding)


def test_random_starts_have_the_law_of_random_weights(x64):
    d = 7
    runs = 20_000
    teacher = example()[1]
    weights = jnp.zeros((2, d)).at[:, :2].set(integrals.root(teacher.overlaps))

    def of_weights(key):
        w = 0.5 * jax.random.normal(key, (3, d)) / d**0.5
        student = online.overlaps(w, jnp.ones(3), weights)
        return flat(student[:2])

    def of_overlaps(key):
        student = online.random_start(key, teacher, jnp.ones(3), d, 0.5)
        return flat(student[:2])

    expected = samples(of_weights, 1, runs)
    drawn = samples(of_overlaps, 2, runs)
    assert two_sample_z(expected, drawn).max() < 4.5


def test_chi_squared_numbers_have_their_distribution():
    freedoms = jnp.repeat(jnp.array([2.0, 3.5, 394.0]), 50_000)

    @jax.jit
    def draw(key):
        return online.order_parameters._chi_squared(key, freedoms, freedoms.shape)

    drawn = np.asarray(draw(jax.random.key(0)))
    assert drawn.dtype == np.float32
    rows = drawn.reshape(3, -1).astype(float)
    for freedom, numbers in zip((2, 3.5, 394), rows, strict=True):
        law = scipy.stats.chi2(freedom)
        assert scipy.stats.kstest(numbers, law.cdf).pvalue > 1e-3


def test_the_precision_is_that_of_the_student(precision):
    student, teacher = example(1, 1)
    key = jax.random.key(0)
    d = jnp.asarray(20.0)

    def step(d):
        chain = online.chain(teacher, d, learning_rate=0.5, examples=10)
        return chain(key, jd.State(0, student)).params

    def start(d):
        return online.random_start(key, teacher, student.readout, d, 0.1)

    def velocity(d):
        move = online.velocity(teacher, learning_rate=0.7, readout_rate=0.3)
        return move(0.0, student)

    for function in (step, start, velocity):
        shapes = jax.eval_shape(function, d)
        assert {a.dtype for a in jax.tree.leaves(shapes)} == {precision}


def test_numbers_that_cannot_be_are_refused():
    student, teacher = example()
    key = jax.random.key(0)
    start = jd.State(0, student)
    with pytest.raises(ValueError, match="inputs: 5; pass at least 6"):
        online.chain(teacher, 5, learning_rate=1.0)(key, start)
    with pytest.raises(ValueError, match="examples: 0; pass at least 1"):
        online.chain(teacher, 10, learning_rate=1.0, examples=0)
