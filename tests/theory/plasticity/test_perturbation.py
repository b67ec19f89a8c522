"""Zeroth-order rules: unbiased, and as noisy, as fast and as inexact as their second moments
say."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdyn as jd
from jaxdyn import losses, rules, tasks
from jaxdyn.theory.plasticity import perturbation as theory

pytestmark = pytest.mark.usefixtures("x64")
OUTPUTS = 3
INPUTS = 2
SIGMA = 1e-3
SQUARED = losses.squared_error(lambda w, x: x @ w.T)


def linear(w, x, noise):
    a = x @ w.T if noise is None else x @ w.T + noise[0]
    return a, [a]


def ERROR(out, y):
    return jnp.sum((y - out) ** 2, 1) / 2


def exact_gradient(w, batch):
    data, _ = batch
    return jax.grad(SQUARED)(w, data)


NODE = rules.node_perturbation(linear, ERROR, SIGMA)
TWO_SIDED_NODE = rules.node_perturbation(linear, ERROR, 0.5, antithetic=True)
WEIGHT = rules.weight_perturbation(SQUARED, SIGMA)
TWO_SIDED_WEIGHT = rules.weight_perturbation(SQUARED, 0.5, antithetic=True)
SPSA = rules.weight_perturbation(SQUARED, 0.5, antithetic=True, directions="rademacher")
FORWARD = rules.forward_gradient(SQUARED)
# The estimate of the gradient, and the rule that has its second moment.
FIELDS = {
    "node": (NODE, "node"),
    "two-sided node": (TWO_SIDED_NODE, "node"),
    "weight": (WEIGHT, "weight"),
    "two-sided weight": (TWO_SIDED_WEIGHT, "weight"),
    "spsa": (SPSA, "rademacher"),
    "forward": (FORWARD, "weight"),
    "gradient": (exact_gradient, "gradient"),
}


@functools.partial(jax.jit, static_argnums=0)
def estimates(field, keys):
    def one(key):
        x = jax.random.normal(jax.random.fold_in(key, 0), (1, INPUTS))
        y = jnp.zeros((1, OUTPUTS))
        noise = jax.random.fold_in(key, 1)
        w = jnp.ones((OUTPUTS, INPUTS))
        return field(w, ((x, y), noise))

    return jax.vmap(one)(keys)


@pytest.mark.parametrize("name", FIELDS)
def test_estimates_have_the_mean_and_the_second_moment_of_their_rule(name):
    field, rule = FIELDS[name]
    keys = jax.random.split(jax.random.key(0), 40_000)
    samples = estimates(field, keys)
    size = OUTPUTS * INPUTS
    error = np.std(samples, 0) / 200
    # On average the gradient W - W* = 1; one-sided differences are off by sigma times the
    # curvature.
    assert np.all(abs(np.mean(samples, 0) - 1) < 4.5 * error + 2 * SIGMA)
    squares = np.sum(samples**2, (1, 2)) / size
    kappa = float(theory.estimate_variance(rule, OUTPUTS, INPUTS))
    error = np.std(squares) / 200
    assert abs(np.mean(squares) - kappa) < 4.5 * error + 20 * SIGMA


@pytest.mark.parametrize(("rule", "sigma"), [("node", 0.3), ("weight", 0.3)])
def test_learning_contracts_to_the_floor(rule, sigma):
    kappa = float(theory.estimate_variance(rule, OUTPUTS, INPUTS))
    rate = 0.3 / kappa
    runs = 300
    node = rules.node_perturbation(linear, ERROR, sigma)
    weight = rules.weight_perturbation(SQUARED, sigma)
    field = node if rule == "node" else weight

    def sample(key):
        x = jax.random.normal(key, (1, INPUTS))
        return x, jnp.zeros((1, OUTPUTS))

    settle = int(6 * kappa)
    times = settle + kappa // 1 * np.arange(60)
    stream = rules.noisy(tasks.online(sample))
    optimizer = optax.sgd(rate)
    start = jnp.zeros((OUTPUTS, INPUTS))

    def observe(state):
        return {"square": jnp.sum(state.params**2)}

    def squares_of_run(key):
        run = jd.train(field, optimizer, stream, start, times=times, observe=observe, key=key)
        return run.observed["square"]

    keys = jax.random.split(jax.random.key(1), runs)
    seen = jax.jit(jax.vmap(squares_of_run))(keys)
    squares = np.asarray(seen).mean(1)
    floor = float(theory.noise_floor(rule, sigma, rate, OUTPUTS, INPUTS))
    # Means of independent runs, beside the order sigma^2 that the quadratic loss does not have.
    assert abs(squares.mean() - floor) < 4.5 * squares.std() / runs**0.5
    assert np.isinf(theory.noise_floor(rule, sigma, 2.1 / kappa, OUTPUTS, INPUTS))


def test_nodes_of_a_deep_network_follow_its_gradient_locally():
    """Two layers: the mean estimate is the gradient, though nothing is sent back through the second
    one."""

    def nodes(params, x, noise):
        def add(layer, a):
            return a if noise is None else a + noise[layer]

        first = add(0, x @ params["w"].T)
        hidden = jax.lax.stop_gradient(jnp.tanh(first))
        second = add(1, hidden @ params["v"].T)
        return second, [first, second]

    def network(params, x):
        hidden = jnp.tanh(x @ params["w"].T)
        return hidden @ params["v"].T

    rng = np.random.default_rng(0)
    w = jnp.asarray(rng.standard_normal((3, 2)))
    v = jnp.asarray(rng.standard_normal((1, 3)))
    params = {"w": w, "v": v}
    x = jnp.asarray(rng.standard_normal((4, 2)))
    y = jnp.zeros((4, 1))
    loss = losses.squared_error(network)
    exact = jax.grad(loss)(params, (x, y))
    field = rules.node_perturbation(nodes, ERROR, 1e-2, antithetic=True)
    keys = jax.random.split(jax.random.key(0), 20_000)

    def estimate(key):
        return field(params, ((x, y), key))

    samples = jax.jit(jax.vmap(estimate))(keys)
    for name, gradient in exact.items():
        mean = np.mean(samples[name], 0)
        error = np.std(samples[name], 0) / len(keys) ** 0.5
        # Differences of both sides are off by the order sigma^2.
        assert np.all(abs(mean - gradient) < 4.5 * error + 1e-3)


def test_contraction_is_best_at_the_inverse_of_the_second_moment():
    for rule in theory.RULES:
        kappa = float(theory.estimate_variance(rule, 4, 6))
        best = float(theory.contraction(rule, 1 / kappa, 4, 6))
        assert best == pytest.approx(1 - 1 / kappa)
        at_twice_the_rate = float(theory.contraction(rule, 2 / kappa, 4, 6))
        assert at_twice_the_rate == pytest.approx(1)


def unknown_rule():
    theory.estimate_variance("weights", 2, 2)


def rule_without_floor():
    theory.noise_floor("rademacher", 0.1, 0.1, 2, 2)


def unknown_directions():
    rules.weight_perturbation(SQUARED, 0.1, directions="uniform")


BAD_ARGUMENTS = [
    (unknown_rule, "rule: 'weights' is unknown; did you mean 'weight'"),
    (rule_without_floor, "rule: the floor of 'rademacher'"),
    (unknown_directions, "directions: 'uniform'"),
]


@pytest.mark.parametrize(("call", "named"), BAD_ARGUMENTS)
def test_bad_arguments_are_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()
