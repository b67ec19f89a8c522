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


FIELDS = {
    "node": (rules.node_perturbation(linear, ERROR, SIGMA), "node"),
    "two-sided node": (rules.node_perturbation(linear, ERROR, 0.5, antithetic=True), "node"),
    "weight": (rules.weight_perturbation(SQUARED, SIGMA), "weight"),
    "two-sided weight": (rules.weight_perturbation(SQUARED, 0.5, antithetic=True), "weight"),
    "spsa": (
        rules.weight_perturbation(SQUARED, 0.5, antithetic=True, directions="rademacher"),
        "rademacher",
    ),
    "forward": (rules.forward_gradient(SQUARED), "weight"),
    "gradient": (lambda w, batch: jax.grad(SQUARED)(w, batch[0]), "gradient"),
}


@functools.partial(jax.jit, static_argnums=0)
def estimates(field, keys):
    def one(key):
        x = jax.random.normal(jax.random.fold_in(key, 0), (1, INPUTS))
        return field(
            jnp.ones((OUTPUTS, INPUTS)), ((x, jnp.zeros((1, OUTPUTS))), jax.random.fold_in(key, 1))
        )

    return jax.vmap(one)(keys)


@pytest.mark.parametrize("name", FIELDS)
def test_estimates_have_the_mean_and_the_second_moment_of_their_rule(name):
    field, rule = FIELDS[name]
    samples = estimates(field, jax.random.split(jax.random.key(0), 40_000))
    size = OUTPUTS * INPUTS
    error = np.std(samples, 0) / 200
    # On average the gradient W - W* = 1; one-sided differences are off by sigma times the
    # curvature.
    assert np.all(abs(np.mean(samples, 0) - 1) < 4.5 * error + 2 * SIGMA)
    squares = np.sum(samples**2, (1, 2)) / size
    kappa = float(theory.estimate_variance(rule, OUTPUTS, INPUTS))
    assert abs(np.mean(squares) - kappa) < 4.5 * np.std(squares) / 200 + 20 * SIGMA


@pytest.mark.parametrize(("rule", "sigma"), [("node", 0.3), ("weight", 0.3)])
def test_learning_contracts_to_the_floor(rule, sigma):
    kappa = float(theory.estimate_variance(rule, OUTPUTS, INPUTS))
    rate = 0.3 / kappa
    runs = 300
    field = {
        "node": rules.node_perturbation(linear, ERROR, sigma),
        "weight": rules.weight_perturbation(SQUARED, sigma),
    }[rule]

    def sample(key):
        return (jax.random.normal(key, (1, INPUTS)), jnp.zeros((1, OUTPUTS)))

    settle = int(6 * kappa)

    def run(key):
        stream = rules.noisy(tasks.online(sample))

        def observe(state):
            return {"square": jnp.sum(state.params**2)}

        times = settle + kappa // 1 * np.arange(60)
        start = jnp.zeros((OUTPUTS, INPUTS))
        return jd.train(
            field, optax.sgd(rate), stream, start, times=times, observe=observe, key=key
        ).observed["square"]

    squares = np.asarray(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(1), runs))).mean(1)
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
        second = add(1, jax.lax.stop_gradient(jnp.tanh(first)) @ params["v"].T)
        return second, [first, second]

    rng = np.random.default_rng(0)
    params = {
        "w": jnp.asarray(rng.standard_normal((3, 2))),
        "v": jnp.asarray(rng.standard_normal((1, 3))),
    }
    x = jnp.asarray(rng.standard_normal((4, 2)))
    y = jnp.zeros((4, 1))
    exact = jax.grad(losses.squared_error(lambda p, x: jnp.tanh(x @ p["w"].T) @ p["v"].T))(
        params, (x, y)
    )
    field = rules.node_perturbation(nodes, ERROR, 1e-2, antithetic=True)
    keys = jax.random.split(jax.random.key(0), 20_000)
    samples = jax.jit(jax.vmap(lambda key: field(params, ((x, y), key))))(keys)
    for name, gradient in exact.items():
        error = np.std(samples[name], 0) / len(keys) ** 0.5
        # Differences of both sides are off by the order sigma^2.
        assert np.all(abs(np.mean(samples[name], 0) - gradient) < 4.5 * error + 1e-3)


def test_contraction_is_best_at_the_inverse_of_the_second_moment():
    for rule in theory.RULES:
        kappa = float(theory.estimate_variance(rule, 4, 6))
        assert float(theory.contraction(rule, 1 / kappa, 4, 6)) == pytest.approx(1 - 1 / kappa)
        assert float(theory.contraction(rule, 2 / kappa, 4, 6)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (
            lambda: theory.estimate_variance("weights", 2, 2),
            "rule: 'weights' is unknown; did you mean 'weight'",
        ),
        (
            lambda: theory.noise_floor("rademacher", 0.1, 0.1, 2, 2),
            "rule: the floor of 'rademacher'",
        ),
        (
            lambda: rules.weight_perturbation(SQUARED, 0.1, directions="uniform"),
            "directions: 'uniform'",
        ),
    ],
)
def test_bad_arguments_are_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()
