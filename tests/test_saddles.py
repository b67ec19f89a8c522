"""Observables of saddles and of single examples: against closed forms, planted structure and networks of others."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdyn as jd
from jaxdyn import models, observables, rules, tasks


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape, jnp.float32).astype(float)


def test_losses_of_examples_average_to_the_loss():
    net, x = models.mlp((3, 4, 2)), normal(0, 7, 3)
    for loss, y in (
        (rules.squared_error(net.apply), normal(1, 7, 2)),
        (rules.cross_entropy(net.apply), jnp.arange(7) % 2),
    ):
        params = net.init(jax.random.key(2))
        seen = observables.sample_losses(loss, (x, y))(jd.State(0, params))["sample_losses"]
        np.testing.assert_allclose(seen.mean(), loss(params, (x, y)), rtol=1e-6)
        np.testing.assert_allclose(seen[3], loss(params, (x[3:4], y[3:4])), rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_planted_opposing_groups_are_found():
    # One large feature shared by two groups of opposite labels: descent beyond the edge of stability pits them.
    key, n, planted = jax.random.key(0), 30, 4
    x = 0.3 * jnp.concatenate([3.0 * normal(0, n, 6), normal(1, 2 * planted, 6)]).at[n:, 0].add(20.0)
    labels = jnp.where(jnp.arange(2 * planted) < planted, 1.0, -1.0)
    data = x, jnp.concatenate([jnp.sign(x[:n] @ normal(2, 6)), labels])[:, None]
    net = models.mlp((6, 16, 1), bias_scale=None, scale=0.5)
    loss = rules.squared_error(net.apply)
    run = jd.train(jax.grad(loss), optax.sgd(0.5), tasks.full_batch(data), net.init(key),
                   times=np.arange(100, 600), observe=observables.sample_losses(loss, data))  # fmt: skip
    members, correlations = observables.opposing_groups(run.observed["sample_losses"], 2 * planted)
    assert sorted(members.tolist()) == list(range(n, n + 2 * planted))
    np.testing.assert_array_equal(np.sign(correlations), labels[members - n] * labels[members[0] - n])


def test_groups_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"size, losses: 4 members .*\(5, 3\)"):
        observables.opposing_groups(jnp.ones((5, 3)), 4)
