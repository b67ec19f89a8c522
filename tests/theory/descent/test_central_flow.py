"""Complementarity against its conditions and brute force; central flows against averages, closed
forms, differences."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen
from jax.flatten_util import ravel_pytree

import jaxdyn as jd
from jaxdyn import losses, models, optimizers, tasks
from jaxdyn.theory.descent import central_flow, complementarity, opposing

SOLVE = jax.jit(jax.vmap(complementarity.solve))


def operator(rng, k, rank):
    """A random positive semidefinite operator on symmetric matrices, of scales that differ by e."""
    factors = rng.standard_normal((rank, k, k))
    scales = np.exp(rng.uniform(-0.5, 0.5, (1, k, 1)))
    factors = factors * scales
    factors = factors + np.swapaxes(factors, 1, 2)
    return np.einsum("pij,pkl->ijkl", factors, factors)


def apply(b, x):
    return np.einsum("nijkl,nkl->nij", b, x)


def smallest_eigenvalue(matrices):
    return np.linalg.eigvalsh(matrices)[:, 0]


@pytest.mark.parametrize(("k", "rank"), [(1, 1), (2, 6), (3, 6), (3, 20), (5, 30)])
def test_complementarity_of_random_problems(k, rank, precision):
    rng = np.random.default_rng(k)
    b = np.stack([operator(rng, k, rank) for _ in range(40)])
    a = rng.standard_normal((40, k, k))
    scales = np.geomspace(1e-6, 1e6, 40)
    a = a * scales[:, None, None]
    a = (a + np.swapaxes(a, 1, 2)).astype(precision)
    found = SOLVE(a, b.astype(precision))
    assert np.all(found.ok)
    x = np.asarray(found.x, float)
    size = np.abs(a).max((1, 2))
    size_of_x = np.abs(x).max((1, 2))
    slack = a + apply(b, x)
    # eps^0.8, and that times the condition of these problems for the product, whose factors are as
    # large as size^2.
    error = 1e4 * float(jnp.finfo(precision).eps) ** 0.8
    product = np.sum(x * slack, (1, 2))
    assert np.all(smallest_eigenvalue(x) >= -error * size_of_x)
    assert np.all(smallest_eigenvalue(slack) >= -error * size)
    assert np.all(np.abs(product) <= error * size * size_of_x)
    trivial = smallest_eigenvalue(a) > 0
    assert np.all(x[trivial] == 0)


@pytest.mark.usefixtures("x64")
def test_complementarity_of_one_number_is_a_ratio():
    a = np.linspace(-2, 2, 9)
    b = np.geomspace(1e-4, 1e4, 9)
    found = SOLVE(a[:, None, None], b[:, None, None, None, None])
    computed = found.x[:, 0, 0]
    expected = np.maximum(0, -a / b)
    np.testing.assert_allclose(computed, expected, rtol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("active", "slack"), [(0, 2), (1, 2), (1, 1), (2, 1), (3, 0)])
def test_complementarity_of_planted_solutions(active, slack):
    # X of one rank, its complement of another: degenerate where these do not add up to k; not
    # unique for B of low rank.
    rng = np.random.default_rng(0)
    problems = []
    for rank in [3, 6, 30] * 10:
        basis = np.linalg.qr(rng.standard_normal((3, 3)))[0]
        eigenvalues_of_x = np.r_[rng.uniform(0.1, 2, active), np.zeros(3 - active)]
        x = (basis * eigenvalues_of_x) @ basis.T
        eigenvalues_of_s = np.r_[np.zeros(3 - slack), rng.uniform(0.1, 2, slack)]
        s = (basis * eigenvalues_of_s) @ basis.T
        b = operator(rng, 3, rank)
        a = s - np.einsum("ijkl,kl->ij", b, x)
        problems.append((a, b, x))
    a, b, planted = map(np.stack, zip(*problems, strict=True))
    found = SOLVE(a, b)
    assert np.all(found.ok)
    complement = a + apply(b, np.asarray(found.x))
    product = np.sum(found.x * complement, (1, 2))
    # The product of degenerate factors vanishes to eps^0.8, each of them to its root.
    assert np.abs(product).max() < 1e-8
    computed = found.x[2::3]
    expected = planted[2::3]
    np.testing.assert_allclose(computed, expected, atol=1e-4)


@pytest.mark.usefixtures("x64")
def test_complementarity_is_the_minimum_that_brute_force_finds():
    rng = np.random.default_rng(1)
    a = rng.standard_normal((3, 3))
    b = operator(rng, 3, 9)
    a = a + a.T - 2 * np.eye(3)
    x = np.zeros((3, 3))
    rate = 1 / np.linalg.eigvalsh(b.reshape(9, 9))[-1]
    for _ in range(20_000):
        slope = a + np.einsum("ijkl,kl->ij", b, x)
        values, vectors = np.linalg.eigh(x - rate * slope)
        x = (vectors * np.maximum(values, 0)) @ vectors.T
    # What is left to the search after so many steps.
    computed = SOLVE(a[None], b[None]).x[0]
    np.testing.assert_allclose(computed, x, atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_problems_without_a_solution_are_data():
    a = np.array([-1.0, -1.0, np.nan])
    b = np.array([0.0, 2.0, 1.0])
    found = SOLVE(a.reshape(3, 1, 1), b.reshape(3, 1, 1, 1, 1))
    expected = [False, True, False]
    np.testing.assert_array_equal(found.ok, expected)
    computed = found.x[:, 0, 0]
    expected = [np.nan, 0.5, np.nan]
    np.testing.assert_allclose(computed, expected)


def quartic(params, batch):
    # A signal that ends at x = 2 in a valley along y of curvature (1 + x)^2, and a stiff direction
    # of its own, z.
    x = params["x"]
    y = params["y"]
    z = params["z"]
    signal = 0.5 * (x - 2) ** 2 * 0.2
    valley = 0.5 * ((1 + x) * y) ** 2
    stiff = 0.5 * batch * z**2
    return signal + valley + stiff


def origin():
    zero = jnp.array(0.0)
    return {"x": zero, "y": zero, "z": zero}


DESCENT = central_flow.gradient_descent(0.5)


@pytest.mark.usefixtures("x64")
def test_a_valley_in_closed_form():
    # (1 + x)^2 meets 2/rate = 4 at x = 1; there 0.2 (2 - x) = E y^2 (1 + x), and L + tr(P S) = 0.1
    # + 2 * 0.1 / 2.
    flow = central_flow.central_flow(quartic, 1.0, DESCENT, top=2)
    averages = central_flow.averages(quartic, 1.0)

    def observe(state):
        return averages(state) | state.params

    @jax.jit
    def run(params):
        start = flow.init(params)
        return jd.iterate(flow.step, start, times=[0, 100], observe=observe)

    seen = run(origin()).observed
    computed = seen["x"][1]
    np.testing.assert_allclose(computed, 1, rtol=1e-10)
    np.testing.assert_allclose(seen["variance"], [0, 0.1], atol=1e-10)
    np.testing.assert_allclose(seen["loss"], [0.4, 0.3], rtol=1e-9)
    np.testing.assert_allclose(seen["loss_center"], [0.4, 0.1], rtol=1e-9)
    computed = seen["eigenvalues"][1]
    expected = [2, 0.5, 0.1]
    np.testing.assert_allclose(computed, expected, rtol=1e-10)
    assert np.all(seen["enough"])


@pytest.mark.usefixtures("x64")
def test_eigenvalues_that_nothing_can_lower_end_the_run():
    # The curvature of z is 5 > 2/rate everywhere.
    flow = central_flow.central_flow(quartic, 5.0, DESCENT, top=2)
    start = flow.init(origin())

    def observe(state):
        return state.params

    run = jd.iterate(flow.step, start, times=[0, 1], observe=observe)
    np.testing.assert_array_equal(run.ok, [True, False])


NET = models.mlp((2, 5, 1))
RATE = 1.0
STEPS = 150  # past the entry of `network(0)`, before a second eigenvalue is at the edge
LOSS = losses.squared_error(NET.apply)


def flat(params):
    return ravel_pytree(params)[0]


def no_observation(state):
    return {}


def network(seed=0):
    """A network and data on which it sharpens."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((20, 2))
    y = np.sin(3 * x @ rng.standard_normal((2, 1)))

    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape) / shape[1] ** 0.5)

    weights = [normal(5, 2), normal(1, 5)]
    biases = [jnp.zeros(5), jnp.zeros(1)]
    batch = (jnp.asarray(x), jnp.asarray(y))
    return {"weights": weights, "biases": biases}, batch


def dense(params, batch):
    x, unravel = ravel_pytree(params)

    def loss(x):
        return LOSS(unravel(x), batch)

    return jax.hessian(loss)(x)


@pytest.mark.usefixtures("x64")
def test_eigenvectors_are_followed_through_crossings():
    # The curvature (1 + s)^2 of b grows from 1 past those of a, 3, 2.9 and less, with which nothing
    # couples it.
    largest = jnp.array([3.0, 2.9, 2.8])
    others = jnp.linspace(2.0, 0.1, 20)
    curvatures = jnp.append(largest, others)

    def loss(params, _):
        constant = 0.5 * curvatures @ params["a"] ** 2
        growing = 0.5 * ((1 + params["s"]) * params["b"]) ** 2
        return constant + growing - 0.1 * params["s"]

    method = central_flow.gradient_descent(0.2)
    flow = central_flow.central_flow(loss, None, method, top=2)
    times = np.arange(0, 80, 4)

    def observe(state):
        return {"eigenvalues": state.memory.eigenvalues, "s": state.params["s"]}

    @jax.jit
    def run(params):
        start = flow.init(params)
        return jd.iterate(flow.step, start, times=times, observe=observe)

    zero = jnp.array(0.0)
    seen = run({"a": jnp.ones(23), "b": zero, "s": zero}).observed
    curvature = (1 + np.asarray(seen["s"])) ** 2
    at_all_times = np.broadcast_to(curvatures, (20, 23))
    spectrum = np.sort(np.c_[at_all_times, curvature])
    expected = 0.2 * spectrum[:, :-4:-1]
    assert curvature[0] < 2.8 < 3 < curvature[-1]
    # It is found when it has grown for a step.
    computed = seen["eigenvalues"][1:, :2]
    atol = 0.05 * np.diff(curvature).max()
    np.testing.assert_allclose(computed, expected[1:, :2], atol=atol)
    computed = seen["eigenvalues"][-5:]
    np.testing.assert_allclose(computed, expected[-5:], rtol=1e-5)


def test_nu_moves_by_what_it_has_moved_in_the_method(precision):
    # nu' = decay nu + (1 - decay) g^2 is used, so nu' - nu = (1 - decay)/decay (g^2 - nu').
    nu = jnp.array([0.2, 3.0, 1.0])
    g = jnp.array([0.5, -1.0, 2.0])
    for shared, squares in ((False, g**2), (True, jnp.full(3, g @ g))):
        method = central_flow.rmsprop(0.1, 0.8, nu, shared=shared)
        moved = 0.8 * nu + 0.2 * squares
        computed = method.drift(moved, g**2)
        rtol = 20 * jnp.finfo(precision).eps
        np.testing.assert_allclose(computed, moved - nu, rtol=rtol)


@pytest.mark.usefixtures("x64")
def test_below_the_edge_the_flow_is_the_stable_one():
    params, batch = network()
    method = central_flow.rmsprop(0.003, 0.9, 0.01)
    flow = central_flow.central_flow(LOSS, batch, method, top=1, substeps=2)

    @jax.jit
    def run(params):
        start = flow.init(params)
        return jd.iterate(flow.step, start, times=[20], observe=no_observation).final

    final = run(params)
    assert final.memory.eigenvalues[0] < 2
    assert jnp.all(final.memory.roots == 0)
    # Euler's method for the stable flow, in the same steps.
    velocity = jax.jit(central_flow.stable_velocity(LOSS, batch, method))
    pair = (params, method.init(flat(params)))
    for _ in range(40):
        slope = velocity(0.0, pair)
        pair = jax.tree.map(lambda a, b: a + b / 2, pair, slope)
    expected, nu = pair

    def compare(computed, expected):
        np.testing.assert_allclose(computed, expected, rtol=1e-10)

    jax.tree.map(compare, final.params, expected)
    np.testing.assert_allclose(final.memory.nu, nu, rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_at_the_edge_sharpness_is_locked_by_the_covariance_of_the_closed_form():
    params, batch = network()
    _, unravel = ravel_pytree(params)

    @jax.jit
    def gradient(x):
        slopes = jax.grad(LOSS)(unravel(x), batch)
        return flat(slopes)

    @jax.jit
    @jax.vmap
    def sharpness(x):
        eigenvalues = jnp.linalg.eigvalsh(dense(unravel(x), batch))
        return eigenvalues[-1]

    def edge(substeps):
        method = central_flow.gradient_descent(RATE)
        flow = central_flow.central_flow(LOSS, batch, method, top=1, substeps=substeps)

        @jax.jit
        def run(params):
            start = flow.init(params)
            return jd.iterate(flow.step, start, times=[STEPS], observe=no_observation).final

        return run(params)

    off = []
    for substeps in (4, 8):
        final = edge(substeps)
        x = flat(final.params)
        variance = jnp.sum(final.memory.roots**2)
        followed = final.memory.eigenvalues[0]
        off.append(abs(followed - 2))
        computed = RATE * sharpness(x[None])[0]
        np.testing.assert_allclose(computed, followed, rtol=1e-9)
        # sigma^2 = 2 <-grad L, grad S> / |grad S|^2 while S = 2/rate, grad S by differences.
        shifts = 1e-5 * jnp.eye(x.size)
        above = sharpness(x[None] + shifts)
        below = sharpness(x[None] - shifts)
        slope = (above - below) / 2e-5
        expected = -2 * gradient(x) @ slope / (slope @ slope)
        assert abs(variance / expected - 1) < 0.1 / substeps
    # What the implicit step leaves is of second order in its length.
    assert 3 < off[0] / off[1] < 5


@pytest.mark.usefixtures("x64")
def test_time_averages_are_exact_for_quadratic_functions():
    roots = jax.random.normal(jax.random.key(0), (2, 5))
    matrix = jax.random.normal(jax.random.key(1), (3, 5, 5))
    params = {"a": jnp.arange(2.0), "b": jnp.ones(3)}
    nothing = jnp.zeros(())
    memory = central_flow.Memory(nothing, roots, jnp.zeros(2), roots, jnp.asarray(True))
    state = jd.State(0, params, memory)

    def quadratic(params):
        x = flat(params)
        return x @ matrix @ x

    computed = central_flow.time_average(quadratic, state)
    center = flat(params)
    second = roots.T @ roots + jnp.outer(center, center)
    expected = jnp.sum(matrix * second[None], (1, 2))
    np.testing.assert_allclose(computed, expected, rtol=1e-12)


VARIANCES = jnp.array([1.0, 0.1, 0.03, 0.01])
OUTLIER = 20.0
WINDOW = slice(600, 1000)


@pytest.fixture(scope="module")
def opposed():
    """Central flows of descent and of scalar RMSProp on opposing signals, and the runs, every
    step."""
    with jax.enable_x64(True):
        yx = jnp.append(VARIANCES, 0.0)[None]
        signals = jnp.append(jnp.ones(4), 0.0)
        xx = jnp.diag(jnp.append(VARIANCES, OUTLIER))
        yy = jnp.sum(VARIANCES)[None, None]
        moments = tasks.Covariances(xx, yx, yy)
        loss = losses.covariance_loss(models.product)
        gradient = jax.grad(loss)
        start = [0.05 * jnp.ones((1, 5)), jnp.full((1, 1), 0.1)]
        squared = optax.tree.norm(gradient(start, moments), squared=True)

        def weights(state):
            first, second = state.params
            return {"c": second[0, 0], "b": first[0, :4]}

        times = np.arange(1001)
        kick = optimizers.kicks(jax.random.key(0), 1e-4)

        def central(rate, decay, initial):
            method = central_flow.rmsprop(rate, decay, initial, shared=True)
            flow = central_flow.central_flow(loss, moments, method, top=2)
            averages = central_flow.averages(loss, moments)

            def observe(state):
                return weights(state) | averages(state) | {"nu": state.memory.nu}

            # Nothing moves along the outlier in the flow: its oscillation is the variance.
            first = start[0] * signals[None]
            begin = flow.init([first, start[1]])
            return jd.iterate(flow.step, begin, times=times, observe=observe).observed

        # With a decay of 1 it is gradient descent.
        cases = jnp.array([[0.08, 1.0, 1.0], [0.02, 0.99, squared]])
        flows = jax.jit(jax.vmap(central))(*cases.T)
        methods = optax.sgd(0.08), optimizers.scalar_rmsprop(0.02, 0.99, squared)

        stream = tasks.full_batch(moments)

        def observe(state):
            outlier = state.params[0][0, 4]
            nu = getattr(state.memory[0], "nu", jnp.ones(()))
            value = loss(state.params, moments)
            return weights(state) | {"o": outlier, "loss": value, "nu": nu}

        def run(method):
            optimizer = optax.chain(method, kick)

            @jax.jit
            def observed():
                run = jd.train(gradient, optimizer, stream, start, times=times, observe=observe)
                return run.observed

            return observed()

        runs = [run(method) for method in methods]
    return jax.tree.map(np.asarray, (flows, runs))


def test_the_flow_of_descent_is_the_closed_form_on_opposing_signals(opposed):
    flow = jax.tree.map(lambda a: a[0], opposed[0])
    entry = int(np.argmax(flow["eigenvalues"][:, 0] > 2 - 1e-9))
    assert 100 < entry < 200
    with jax.enable_x64(True):
        steps = jnp.arange(1001 - entry)
        at_entry = flow["b"][entry]
        closed = opposing.course(steps, at_entry, VARIANCES, jnp.ones(4), OUTLIER, 0.08)
    computed = flow["c"][entry:]
    np.testing.assert_allclose(computed, closed.c, rtol=1e-8)
    # Euler's method is late by at most h/(2e) of what decays: of the fastest signal 0.03, in h =
    # 0.08 * 1.25 / 4.
    computed = flow["b"][entry:]
    atol = 0.03 * 0.025 / 2 / np.e * 1.1
    np.testing.assert_allclose(computed, closed.b, atol=atol)
    computed = flow["variance"][entry + 20 :]
    expected = closed.variance[20:]
    np.testing.assert_allclose(computed, expected, rtol=0.025)


def mean(values):
    """The average over the late steps."""
    return values[WINDOW].mean(0)


def test_descent_averages_to_its_central_flow(opposed):
    flow = jax.tree.map(lambda a: mean(a[0]), opposed[0])
    run = opposed[1][0]
    assert abs(mean(run["c"]) / flow["c"] - 1) < 0.005
    computed = mean(run["b"])
    np.testing.assert_allclose(computed, flow["b"], atol=2e-3)
    assert abs(mean(run["o"] ** 2) / flow["variance"] - 1) < 0.25
    assert abs(mean(run["loss"]) / flow["loss"] - 1) < 0.08


def test_scalar_rmsprop_averages_to_its_central_flow(opposed):
    flow = jax.tree.map(lambda a: mean(a[1]), opposed[0])
    run = opposed[1][1]
    computed = flow["eigenvalues"][0]
    np.testing.assert_allclose(computed, 2, rtol=1e-5)
    assert abs(mean(run["c"]) / flow["c"] - 1) < 0.003
    assert abs(mean(np.sqrt(run["nu"])) / np.sqrt(flow["nu"][0]) - 1) < 0.003
    assert abs(mean(run["o"] ** 2) / flow["variance"] - 1) < 0.05
    # At the edge its rate is 2/sharpness.
    sharpness = OUTLIER * mean(run["c"] ** 2 / np.sqrt(run["nu"]))
    assert abs(0.02 * sharpness / 2 - 1) < 0.003


def test_one_program_for_many_rates_and_modules_of_others():
    layers = linen.Sequential([linen.Dense(4), jnp.tanh, linen.Dense(1)])
    module = models.from_linen(layers, jnp.zeros((1, 2)))
    loss = losses.squared_error(module.apply)
    batch = jax.tree.map(jnp.float32, network()[1])
    params = module.init(jax.random.key(1))
    averages = central_flow.averages(loss, batch)

    def final(rate):
        method = central_flow.gradient_descent(rate)
        flow = central_flow.central_flow(loss, batch, method, top=1, substeps=2)
        start = flow.init(params)
        run = jd.iterate(flow.step, start, times=[30], observe=averages)
        return run.observed | {"ok": run.ok}

    rates = jnp.array([0.1, 0.2, 2.0])
    seen = jax.jit(jax.vmap(final))(rates)
    assert jnp.all(seen["ok"])
    # One eigenvector is too few where two eigenvalues are at the edge, and says so.
    computed = seen["enough"][:, 0]
    expected = [True, True, False]
    np.testing.assert_array_equal(computed, expected)
    assert seen["loss_center"][1] < seen["loss_center"][0]


def test_what_cannot_be_is_refused():
    method = central_flow.gradient_descent(0.1)
    with pytest.raises(ValueError, match="top, substeps: 0 and 4"):
        central_flow.central_flow(LOSS, (), method, top=0)
    with pytest.raises(ValueError, match="top, substeps: 3 and 1"):
        central_flow.central_flow(LOSS, (), method, substeps=1)


@pytest.mark.usefixtures("x64")
def test_gradient_flow_ends_where_the_conserved_balance_says():
    # c^2 - |first|^2 as at the start, c b = beta and o = 0 at the end.
    c = jnp.array(0.7)
    first = jnp.array([0.3, -0.2, 0.5])
    targets = jnp.array([1.0, -2.0])
    end = opposing.flow_limit(c, first, targets)
    computed = end**2 - jnp.sum((targets / end) ** 2)
    expected = c**2 - first @ first
    np.testing.assert_allclose(computed, expected, rtol=1e-12)
    edge = opposing.edge(OUTLIER, 0.1)
    computed = 0.1 * OUTLIER * edge**2
    np.testing.assert_allclose(computed, 2, rtol=1e-12)
