"""Structured knowledge accumulation: entropy that telescopes, growth as predicted, and one step by
hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdyn as jd
from jaxdyn import models, rules, tasks

pytestmark = pytest.mark.usefixtures("x64")


def begin(scale=0.1):
    """Inputs, and a network of sigmoids that remembers its outputs for them."""
    x = jax.random.uniform(jax.random.key(1), (30, 8), jnp.float32).astype(float)
    network = models.mlp((8, 5, 3), scale=scale)
    weights = network.init(jax.random.key(0))
    memory = rules.sigmoid_layers(weights, x)["outputs"]
    return x, {"params": weights, "state": memory}


def optimizer(rate):
    blocks = {"params": optax.sgd(rate), "state": optax.sgd(1.0)}
    return optax.partition(blocks, {"params": "params", "state": "state"})


def test_a_step_is_the_one_written_out():
    x, start = begin()
    weights = np.asarray(start["params"]["weights"][1])
    biases = np.asarray(start["params"]["biases"][1])
    hidden = np.asarray(start["state"][0])
    remembered = [0.9 * h for h in start["state"]]
    updates = rules.knowledge_accumulation({**start, "state": remembered}, x)
    z = hidden @ weights.T + biases
    h = 1 / (1 + np.exp(-z))
    slope = z * h * (1 - h)
    g = -(slope + 0.1 * h) / np.log(2)
    computed = updates["params"]["weights"][1]
    expected = g.T @ (0.9 * hidden) / 30
    np.testing.assert_allclose(computed, expected, atol=1e-15)
    computed = updates["params"]["biases"][1]
    np.testing.assert_allclose(computed, g.mean(0), atol=1e-15)
    computed = updates["state"][1]
    np.testing.assert_allclose(computed, -0.1 * h, atol=1e-15)


def test_entropies_of_the_layers_add_up_to_that_of_their_decisions_to_first_order():
    x, start = begin(1.0)
    stream = tasks.full_batch(x)
    rule = rules.knowledge_accumulation

    def change_of_entropy(z, h, last):
        return -jnp.sum(z * (h - last)) / jnp.log(2)

    def entropy_of_decisions(h):
        no = 1 - h
        return -jnp.sum(h * jnp.log2(h) + no * jnp.log2(no))

    def observe(state):
        layers = rules.sigmoid_layers(state.params["params"], x)
        outputs = layers["outputs"]
        changes = map(change_of_entropy, layers["inputs"], outputs, state.params["state"])
        entropies = map(entropy_of_decisions, outputs)
        return {"change": jnp.stack(list(changes)), "entropy": jnp.stack(list(entropies))}

    def gap(rate):
        steps = round(1 / rate)
        times = np.arange(steps + 1)
        run = jd.train(rule, optimizer(rate), stream, start, times=times, observe=observe)
        change = run.observed["change"][1:].sum(0)
        entropy = run.observed["entropy"]
        return change - (entropy[-1] - entropy[0])

    computed = gap(0.02) / gap(0.01)
    np.testing.assert_allclose(computed, 2, rtol=0.05)
