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
    factors = rng.standard_normal((rank, k, k)) * np.exp(rng.uniform(-0.5, 0.5, (1, k, 1)))
    factors = factors + np.swapaxes(factors, 1, 2)
    return np.einsum("pij,pkl->ijkl", factors, factors)


def apply(b, x):
    return np.einsum("nijkl,nkl->nij", b, x)


@pytest.mark.parametrize(("k", "rank"), [(1, 1), (2, 6), (3, 6), (3, 20), (5, 30)])
def test_complementarity_of_random_problems(k, rank, precision):
    rng = np.random.default_rng(k)
    b = np.stack([operator(rng, k, rank) for _ in range(40)])
    a = rng.standard_normal((40, k, k)) * np.geomspace(1e-6, 1e6, 40)[:, None, None]
    a = (a + np.swapaxes(a, 1, 2)).astype(precision)
    found = SOLVE(a, b.astype(precision))
    assert np.all(found.ok)
    size = np.abs(a).max((1, 2))
    x = np.asarray(found.x, float)
    slack = a + apply(b, x)
    # eps^0.8, and that times the condition of these problems for the product, whose factors are as
    # large as size^2.
    error = 1e4 * float(jnp.finfo(precision).eps) ** 0.8
    assert np.all(np.linalg.eigvalsh(x)[:, 0] >= -error * np.abs(x).max((1, 2)))
    assert np.all(np.linalg.eigvalsh(slack)[:, 0] >= -error * size)
    assert np.all(np.abs(np.sum(x * slack, (1, 2))) <= error * size * np.abs(x).max((1, 2)))
    trivial = np.linalg.eigvalsh(a)[:, 0] > 0
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
        x = (basis * np.r_[rng.uniform(0.1, 2, active), np.zeros(3 - active)]) @ basis.T
        s = (basis * np.r_[np.zeros(3 - slack), rng.uniform(0.1, 2, slack)]) @ basis.T
        b = operator(rng, 3, rank)
        problems.append((s - np.einsum("ijkl,kl->ij", b, x), b, x))
    a, b, planted = map(np.stack, zip(*problems, strict=True))
    found = SOLVE(a, b)
    assert np.all(found.ok)
    # The product of degenerate factors vanishes to eps^0.8, each of them to its root.
    assert np.abs(np.sum(found.x * (a + apply(b, np.asarray(found.x))), (1, 2))).max() < 1e-8
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
        values, vectors = np.linalg.eigh(x - rate * (a + np.einsum("ijkl,kl->ij", b, x)))
        x = (vectors * np.maximum(values, 0)) @ vectors.T
    # What is left to the search after so many steps.
    computed = SOLVE(a[None], b[None]).x[0]
    np.testing.assert_allclose(computed, x, atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_problems_without_a_solution_are_data():
    found = SOLVE(
        np.array([[[-1.0]], [[-1.0]], [[np.nan]]]), np.array([0.0, 2.0, 1.0]).reshape(3, 1, 1, 1, 1)
    )
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
    return 0.5 * (x - 2) ** 2 * 0.2 + 0.5 * ((1 + x) * y) ** 2 + 0.5 * batch * z**2


@pytest.mark.usefixtures("x64")
def test_a_valley_in_closed_form():
    # (1 + x)^2 meets 2/rate = 4 at x = 1; there 0.2 (2 - x) = E y^2 (1 + x), and L + tr(P S) = 0.1
    # + 2 * 0.1 / 2.
    start = {"x": jnp.array(0.0), "y": jnp.array(0.0), "z": jnp.array(0.0)}
    flow = central_flow.central_flow(quartic, 1.0, central_flow.gradient_descent(0.5), top=2)

    def observe(s):
        return central_flow.averages(quartic, 1.0)(s) | s.params

    seen = jax.jit(lambda p: jd.iterate(flow.step, flow.init(p), times=[0, 100], observe=observe))(
        start
    ).observed
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
    start = {"x": jnp.array(0.0), "y": jnp.array(0.0), "z": jnp.array(0.0)}
    flow = central_flow.central_flow(quartic, 5.0, central_flow.gradient_descent(0.5), top=2)
    run = jd.iterate(flow.step, flow.init(start), times=[0, 1], observe=lambda s: s.params)
    np.testing.assert_array_equal(run.ok, [True, False])


NET = models.mlp((2, 5, 1))
RATE = 1.0
STEPS = 150  # past the entry of `network(0)`, before a second eigenvalue is at the edge
LOSS = losses.squared_error(NET.apply)


def flat(params):
    return ravel_pytree(params)[0]


def network(seed=0):
    """A network and data on which it sharpens."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((20, 2))
    y = np.sin(3 * x @ rng.standard_normal((2, 1)))

    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape) / shape[1] ** 0.5)

    return {"weights": [normal(5, 2), normal(1, 5)], "biases": [jnp.zeros(5), jnp.zeros(1)]}, (
        jnp.asarray(x),
        jnp.asarray(y),
    )


def dense(params, batch):
    x, unravel = ravel_pytree(params)
    return jax.hessian(lambda x: LOSS(unravel(x), batch))(x)


@pytest.mark.usefixtures("x64")
def test_eigenvectors_are_followed_through_crossings():
    # The curvature (1 + s)^2 of b grows from 1 past those of a, 3, 2.9 and less, with which nothing
    # couples it.
    curvatures = jnp.append(jnp.array([3.0, 2.9, 2.8]), jnp.linspace(2.0, 0.1, 20))

    def loss(p, _):
        return 0.5 * curvatures @ p["a"] ** 2 + 0.5 * ((1 + p["s"]) * p["b"]) ** 2 - 0.1 * p["s"]

    start = {"a": jnp.ones(23), "b": jnp.array(0.0), "s": jnp.array(0.0)}
    flow = central_flow.central_flow(loss, None, central_flow.gradient_descent(0.2), top=2)

    def observe(state):
        return {"eigenvalues": state.memory.eigenvalues, "s": state.params["s"]}

    seen = jax.jit(
        lambda p: jd.iterate(flow.step, flow.init(p), times=np.arange(0, 80, 4), observe=observe)
    )(start)
    curvature = (1 + np.asarray(seen.observed["s"])) ** 2
    expected = 0.2 * np.sort(np.c_[np.broadcast_to(curvatures, (20, 23)), curvature])[:, :-4:-1]
    assert curvature[0] < 2.8 < 3 < curvature[-1]
    # It is found when it has grown for a step.
    computed = seen.observed["eigenvalues"][1:, :2]
    atol = 0.05 * np.diff(curvature).max()
    np.testing.assert_allclose(computed, expected[1:, :2], atol=atol)
    computed = seen.observed["eigenvalues"][-5:]
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
    final = jax.jit(
        lambda p: jd.iterate(flow.step, flow.init(p), times=[20], observe=lambda s: {}).final
    )(params)
    assert final.memory.eigenvalues[0] < 2
    assert jnp.all(final.memory.roots == 0)
    # Euler's method for the stable flow, in the same steps.
    velocity = jax.jit(central_flow.stable_velocity(LOSS, batch, method))
    pair = (params, method.init(flat(params)))
    for _ in range(40):
        pair = jax.tree.map(lambda a, b: a + b / 2, pair, velocity(0.0, pair))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), final.params, pair[0])
    np.testing.assert_allclose(final.memory.nu, pair[1], rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_at_the_edge_sharpness_is_locked_by_the_covariance_of_the_closed_form():
    params, batch = network()
    gradient = jax.jit(lambda x: flat(jax.grad(LOSS)(unravel(x), batch)))
    sharpness = jax.jit(jax.vmap(lambda x: jnp.linalg.eigvalsh(dense(unravel(x), batch))[-1]))
    _, unravel = ravel_pytree(params)

    def edge(substeps):
        flow = central_flow.central_flow(
            LOSS, batch, central_flow.gradient_descent(RATE), top=1, substeps=substeps
        )
        return jax.jit(
            lambda p: jd.iterate(flow.step, flow.init(p), times=[STEPS], observe=lambda s: {}).final
        )(params)

    off = []
    for substeps in (4, 8):
        final = edge(substeps)
        x = flat(final.params)
        variance = jnp.sum(final.memory.roots**2)
        off.append(abs(final.memory.eigenvalues[0] - 2))
        computed = RATE * sharpness(x[None])[0]
        np.testing.assert_allclose(computed, final.memory.eigenvalues[0], rtol=1e-9)
        # sigma^2 = 2 <-grad L, grad S> / |grad S|^2 while S = 2/rate, grad S by differences.
        shifts = 1e-5 * jnp.eye(x.size)
        slope = (sharpness(x[None] + shifts) - sharpness(x[None] - shifts)) / 2e-5
        expected = -2 * gradient(x) @ slope / (slope @ slope)
        assert abs(variance / expected - 1) < 0.1 / substeps
    # What the implicit step leaves is of second order in its length.
    assert 3 < off[0] / off[1] < 5


@pytest.mark.usefixtures("x64")
def test_time_averages_are_exact_for_quadratic_functions():
    roots = jax.random.normal(jax.random.key(0), (2, 5))
    matrix = jax.random.normal(jax.random.key(1), (3, 5, 5))
    params = {"a": jnp.arange(2.0), "b": jnp.ones(3)}
    memory = central_flow.Memory(jnp.zeros(()), roots, jnp.zeros(2), roots, jnp.asarray(True))
    found = central_flow.time_average(
        lambda p: flat(p) @ matrix @ flat(p), jd.State(0, params, memory)
    )
    second = roots.T @ roots + jnp.outer(flat(params), flat(params))
    expected = jnp.sum(matrix * second[None], (1, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


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
        moments = tasks.Covariances(
            jnp.diag(jnp.append(VARIANCES, OUTLIER)), yx, jnp.sum(VARIANCES)[None, None]
        )
        loss = losses.covariance_loss(models.product)
        start = [0.05 * jnp.ones((1, 5)), jnp.full((1, 1), 0.1)]
        squared = optax.tree.norm(jax.grad(loss)(start, moments), squared=True)

        def weights(state):
            return {"c": state.params[1][0, 0], "b": state.params[0][0, :4]}

        times = np.arange(1001)
        kick = optimizers.kicks(jax.random.key(0), 1e-4)

        def central(rate, decay, initial):
            method = central_flow.rmsprop(rate, decay, initial, shared=True)
            flow = central_flow.central_flow(loss, moments, method, top=2)

            def observe(state):
                return (
                    weights(state)
                    | central_flow.averages(loss, moments)(state)
                    | {"nu": state.memory.nu}
                )

            begin = flow.init([start[0] * signals[None], start[1]])
            return jd.iterate(flow.step, begin, times=times, observe=observe).observed

        # With a decay of 1 it is gradient descent.
        cases = jnp.array([[0.08, 1.0, 1.0], [0.02, 0.99, squared]])
        flows = jax.jit(jax.vmap(central))(*cases.T)
        methods = optax.sgd(0.08), optimizers.scalar_rmsprop(0.02, 0.99, squared)

        def observe(state):
            return weights(state) | {
                "o": state.params[0][0, 4],
                "loss": loss(state.params, moments),
            }

        def nu(state):
            return {"nu": getattr(state.memory[0], "nu", jnp.ones(()))}

        def run(optimizer):
            return jd.train(
                jax.grad(loss),
                optax.chain(optimizer, kick),
                tasks.full_batch(moments),
                start,
                times=times,
                observe=lambda state: observe(state) | nu(state),
            )

        runs = [jax.jit(lambda o=optimizer: run(o).observed)() for optimizer in methods]
    return jax.tree.map(np.asarray, (flows, runs))


def test_the_flow_of_descent_is_the_closed_form_on_opposing_signals(opposed):
    flow = jax.tree.map(lambda a: a[0], opposed[0])
    entry = int(np.argmax(flow["eigenvalues"][:, 0] > 2 - 1e-9))
    assert 100 < entry < 200
    with jax.enable_x64(True):
        steps = jnp.arange(1001 - entry)
        found = opposing.course(steps, flow["b"][entry], VARIANCES, jnp.ones(4), OUTLIER, 0.08)
    computed = flow["c"][entry:]
    np.testing.assert_allclose(computed, found.c, rtol=1e-8)
    # Euler's method is late by at most h/(2e) of what decays: of the fastest signal 0.03, in h =
    # 0.08 * 1.25 / 4.
    computed = flow["b"][entry:]
    atol = 0.03 * 0.025 / 2 / np.e * 1.1
    np.testing.assert_allclose(computed, found.b, atol=atol)
    computed = flow["variance"][entry + 20 :]
    expected = found.variance[20:]
    np.testing.assert_allclose(computed, expected, rtol=0.025)


def test_descent_averages_to_its_central_flow(opposed):
    flow = jax.tree.map(lambda a: a[0, WINDOW].mean(0), opposed[0])
    run = opposed[1][0]

    def mean(values):
        return values[WINDOW].mean(0)

    assert abs(mean(run["c"]) / flow["c"] - 1) < 0.005
    computed = mean(run["b"])
    np.testing.assert_allclose(computed, flow["b"], atol=2e-3)
    assert abs(mean(run["o"] ** 2) / flow["variance"] - 1) < 0.25
    assert abs(mean(run["loss"]) / flow["loss"] - 1) < 0.08


def test_scalar_rmsprop_averages_to_its_central_flow(opposed):
    flow = jax.tree.map(lambda a: a[1, WINDOW].mean(0), opposed[0])
    run = opposed[1][1]

    def mean(values):
        return values[WINDOW].mean(0)

    computed = flow["eigenvalues"][0]
    np.testing.assert_allclose(computed, 2, rtol=1e-5)
    assert abs(mean(run["c"]) / flow["c"] - 1) < 0.003
    assert abs(mean(np.sqrt(run["nu"])) / np.sqrt(flow["nu"][0]) - 1) < 0.003
    assert abs(mean(run["o"] ** 2) / flow["variance"] - 1) < 0.05
    # At the edge its rate is 2/sharpness.
    assert abs(0.02 * OUTLIER * mean(run["c"] ** 2 / np.sqrt(run["nu"])) / 2 - 1) < 0.003


def test_one_program_for_many_rates_and_modules_of_others():
    module = models.from_linen(
        linen.Sequential([linen.Dense(4), jnp.tanh, linen.Dense(1)]), jnp.zeros((1, 2))
    )
    loss = losses.squared_error(module.apply)
    batch = jax.tree.map(jnp.float32, network()[1])
    params = module.init(jax.random.key(1))

    def final(rate):
        flow = central_flow.central_flow(
            loss, batch, central_flow.gradient_descent(rate), top=1, substeps=2
        )
        run = jd.iterate(
            flow.step, flow.init(params), times=[30], observe=central_flow.averages(loss, batch)
        )
        return run.observed | {"ok": run.ok}

    seen = jax.jit(jax.vmap(final))(jnp.array([0.1, 0.2, 2.0]))
    assert jnp.all(seen["ok"])
    # One eigenvector is too few where two eigenvalues are at the edge, and says so.
    computed = seen["enough"][:, 0]
    expected = [True, True, False]
    np.testing.assert_array_equal(computed, expected)
    assert seen["loss_center"][1] < seen["loss_center"][0]


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="top, substeps: 0 and 4"):
        central_flow.central_flow(LOSS, (), central_flow.gradient_descent(0.1), top=0)
    with pytest.raises(ValueError, match="top, substeps: 3 and 1"):
        central_flow.central_flow(LOSS, (), central_flow.gradient_descent(0.1), substeps=1)


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
    computed = 0.1 * OUTLIER * opposing.edge(OUTLIER, 0.1) ** 2
    np.testing.assert_allclose(computed, 2, rtol=1e-12)
