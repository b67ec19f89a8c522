"""Curl descent: edges against spectra, stability against runs, and what is conserved."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdyn as jd
from jaxdyn import losses, models, optimizers, rules, tasks
from jaxdyn.theory.plasticity import curl

pytestmark = pytest.mark.usefixtures("x64")


def spectrum(layer, flipped, inputs, hidden, readout, variance, seed=0):
    """The eigenvalues of one random network with flipped signs in one layer."""
    drawn = np.random.default_rng(seed).standard_normal((hidden, inputs))
    w = drawn * (variance / inputs) ** 0.5

    def signs(n, here):
        count = round(flipped * n) * here
        return np.where(np.arange(n) < count, -1.0, 1.0)

    first = signs(inputs, layer == "inputs")
    second = signs(hidden, layer == "hidden")
    of_second = readout * np.diag(first)
    of_first = w.T @ (second[:, None] * w)
    return np.linalg.eigvalsh(of_second + of_first)


# The layer, its flipped fraction, inputs, hidden units, squared readout and variance of weights.
LARGE_NETWORKS = [
    ("inputs", 0.3, 200, 800, 1.0, 1.0),
    ("inputs", 0.5, 200, 400, 1.5, 0.7),
    ("hidden", 0.2, 200, 800, 1.0, 1.0),
    ("hidden", 0.4, 300, 100, 0.8, 1.3),
]


@pytest.mark.parametrize("case", LARGE_NETWORKS)
def test_edges_are_those_of_large_networks(case):
    layer, flipped, inputs, hidden, readout, variance = case
    edge = float(curl.lower_edge(layer, flipped, inputs / hidden, readout, variance))
    eigenvalues = spectrum(*case)
    lowest = eigenvalues[0]
    # Edges fluctuate, and are approached, as the order -2/3 of the number of units.
    fluctuation = np.ptp(eigenvalues) * min(inputs, hidden) ** (-2 / 3)
    assert lowest == pytest.approx(edge, abs=4 * fluctuation)
    assert lowest > edge - 0.1


def test_edges_without_flips_are_marchenko_and_pasturs_and_one_case_is_closed():
    for c in (0.2, 0.5):
        bottom = (c**-0.5 - 1) ** 2
        no_inputs = float(curl.lower_edge("inputs", 0.0, c))
        assert no_inputs == pytest.approx(1 + bottom, rel=1e-9)
        no_hidden = float(curl.lower_edge("hidden", 0.0, c))
        assert no_hidden == pytest.approx(1 + bottom, rel=1e-9)
        all_inputs = float(curl.lower_edge("inputs", 1.0, c))
        assert all_inputs == pytest.approx(bottom - 1, rel=1e-6, abs=1e-9)
    assert np.isnan(curl.critical_fraction("inputs", 0.2))
    critical = curl.critical_fraction("hidden", 0.2)
    edge = float(curl.lower_edge("hidden", critical, 0.2))
    assert edge == pytest.approx(0, abs=1e-9)


def test_edges_map_and_differentiate():
    fractions = jnp.array([0.1, 0.3, 0.6])

    def edge(fraction):
        return curl.lower_edge("inputs", fraction, 0.4)

    edges = jax.jit(jax.vmap(edge))(fractions)
    expected = [edge(fraction) for fraction in fractions]
    np.testing.assert_allclose(edges, expected, rtol=1e-12)
    slope = jax.grad(edge)(0.3)
    difference = float(edge(0.3 + 1e-4) - edge(0.3 - 1e-4))
    assert float(slope) == pytest.approx(difference / 2e-4, rel=1e-4)


def turned(signs, start, target, times):
    """Both layers in the flow whose gradients are multiplied with these signs."""
    gradient = jax.grad(losses.covariance_loss(models.product))
    field = rules.sign_diverse(gradient, signs)
    teacher = tasks.linear_teacher(target)

    def observe(state):
        first, second = state.params
        return {"first": first, "second": second}

    return jd.flow(field, teacher, start, times=times, observe=observe).observed


def test_signs_change_what_balances():
    key = jax.random.split(jax.random.key(0), 3)

    def draw(k, *shape):
        return jax.random.normal(k, shape, jnp.float32).astype(float)

    first = draw(key[0], 4, 5) / 2
    second = draw(key[1], 1, 4) / 2
    start = [first, second]
    target = draw(key[2], 1, 5)
    inputs = jnp.array([[-1.0, -1, 1, 1, 1]])
    seen = turned([inputs, jnp.ones((1, 4))], start, target, np.linspace(0, 2, 5))

    def charge(first, second):
        return (first * inputs) @ first.T - second.T @ second

    charges = jax.vmap(charge)(seen["first"], seen["second"])
    expected = np.broadcast_to(charge(*start), charges.shape)
    np.testing.assert_allclose(charges, expected, atol=1e-6)
    hidden = jnp.array([[-1.0, 1, -1, 1]])
    seen = turned([inputs, hidden], start, target, np.linspace(0, 0.3, 4))

    def own(first, second):
        return jnp.diagonal((first * inputs) @ first.T) - (hidden * second**2)[0]

    charges = jax.vmap(own)(seen["first"], seen["second"])
    expected = np.broadcast_to(own(*start), charges.shape)
    np.testing.assert_allclose(charges, expected, atol=1e-6)


@pytest.mark.parametrize("start", [(0.6, 1.4), (1.6, 0.4), (0.3, 1.0)])
def test_a_turned_unit_ends_on_its_circle_or_goes_round(start):
    weights = [jnp.full((1, 1), w) for w in start]
    seen = turned([1.0, -1.0], weights, jnp.ones((1, 1)), np.linspace(0, 60, 61))
    first = seen["first"].ravel()
    second = seen["second"].ravel()
    computed = first**2 + second**2
    expected = start[0] ** 2 + start[1] ** 2
    np.testing.assert_allclose(computed, expected, rtol=1e-6)
    limit = curl.turned_unit_limit(*start, 1.0)
    if np.isnan(limit[0]):
        assert first @ first + second @ second < 2 * 61
        losses_on_the_way = (1 - first * second) ** 2 / 2
        least_on_the_circle = (1 - expected / 2) ** 2 / 2
        assert np.min(losses_on_the_way) > least_on_the_circle - 1e-6
    else:
        computed = np.abs([first[-1], second[-1]])
        np.testing.assert_allclose(computed, limit, atol=1e-6)


def test_norms_are_kept_and_need_the_parameters():
    optimizer = optax.chain(optax.adam(0.1), optimizers.keep_norms())
    start = {"w": jnp.arange(1.0, 7).reshape(2, 3), "b": jnp.array([3.0, 4.0])}

    def field(params, _):
        return params

    def no_data(key, step):
        return None

    def observe(state):
        return state.params

    run = jd.train(field, optimizer, no_data, start, times=[7], observe=observe)
    for name, w in run.observed.items():
        norm = float(jnp.linalg.norm(w))
        expected = float(jnp.linalg.norm(start[name].ravel()))
        assert norm == pytest.approx(expected, rel=1e-12)
        assert not np.allclose(w[0], start[name])
    state = optimizer.init(start)
    with pytest.raises(ValueError, match="needs the parameters"):
        optimizer.update(start, state)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: curl.lower_edge("outputs", 0.1, 0.5), "layer: 'outputs' is unknown"),
        (lambda: curl.lower_edge("inputs", 1.1, 0.5), "flipped: 1.1"),
        (lambda: curl.lower_edge("inputs", 0.1, 0.0), "ratio: 0.0"),
    ],
)
def test_bad_arguments_are_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()
