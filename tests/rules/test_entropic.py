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
    x = jax.random.uniform(jax.random.key(1), (30, 8), jnp.float32).astype(float)
    weights = models.mlp((8, 5, 3), scale=scale).init(jax.random.key(0))
    return x, {"params": weights, "state": rules.sigmoid_layers(weights, x)["outputs"]}


def optimizer(rate):
    blocks = {"params": optax.sgd(rate), "state": optax.sgd(1.0)}
    return optax.partition(blocks, {"params": "params", "state": "state"})


def test_a_step_is_the_one_written_out():
    x, start = begin()
    moved = {**start, "state": [0.9 * h for h in start["state"]]}
    updates = rules.knowledge_accumulation(moved, x)
    w, b = (np.asarray(start["params"][name][1]) for name in ("weights", "biases"))
    z = np.asarray(start["state"][0]) @ w.T + b
    h = 1 / (1 + np.exp(-z))
    g = -(z * h * (1 - h) + 0.1 * h) / np.log(2)
    computed = updates["params"]["weights"][1]
    expected = g.T @ (0.9 * start["state"][0]) / 30
    np.testing.assert_allclose(computed, expected, atol=1e-15)
    computed = updates["params"]["biases"][1]
    np.testing.assert_allclose(computed, g.mean(0), atol=1e-15)
    computed = updates["state"][1]
    np.testing.assert_allclose(computed, -0.1 * h, atol=1e-15)


def test_entropies_of_the_layers_add_up_to_that_of_their_decisions_to_first_order():
    x, start = begin(1.0)

    def gap(rate):
        def observe(state):
            seen = rules.sigmoid_layers(state.params["params"], x)
            triples = zip(seen["inputs"], seen["outputs"], state.params["state"], strict=True)
            changes = [-jnp.sum(z * (h - last)) / jnp.log(2) for z, h, last in triples]
            decided = [
                -jnp.sum(h * jnp.log2(h) + (1 - h) * jnp.log2(1 - h)) for h in seen["outputs"]
            ]
            return {"change": jnp.stack(changes), "entropy": jnp.stack(decided)}

        steps = round(1 / rate)
        stream = tasks.full_batch(x)
        times = np.arange(steps + 1)
        run = jd.train(
            rules.knowledge_accumulation,
            optimizer(rate),
            stream,
            start,
            times=times,
            observe=observe,
        )
        change = run.observed["change"][1:].sum(0)
        entropy = run.observed["entropy"]
        return change - (entropy[-1] - entropy[0])

    computed = gap(0.02) / gap(0.01)
    np.testing.assert_allclose(computed, 2, rtol=0.05)
