"""Mean-square stability of SGD: the threshold against the spectrum of the moments' map, the map
against samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdyn.theory.descent import stability


def gradients(kind, n=6, p=5, seed=0):
    g = np.random.default_rng(seed).standard_normal((n, p))
    if kind == "unequal":
        g = g * np.linspace(0.3, 2, n)[:, None] + 1.5
    if kind == "fewer":
        g = g[:3]
    if kind == "repeated":
        g = np.concatenate([g[:2], g[:2]])
    if kind == "orthogonal":
        g = 2 * np.linalg.qr(g.T)[0].T
    return jnp.asarray(g)


def matrix_of_moments(g, rate, batch):
    p = g.shape[1]

    def step(e):
        return stability.moment_step(e.reshape(p, p), g, rate, batch).ravel()

    return jax.vmap(step)(jnp.eye(p * p))


@pytest.mark.parametrize("kind", ["gaussian", "unequal", "fewer", "repeated", "orthogonal"])
def test_the_threshold_is_where_the_largest_eigenvalue_of_the_moments_passes_one(kind, x64):
    g = gradients(kind)
    thresholds = []
    for batch in (1.0, 2.0, 7.0):
        rate = float(stability.max_learning_rate(g, batch))

        def eigenvalues(learning_rate, batch=batch):
            matrix = matrix_of_moments(g, learning_rate, batch)
            return np.linalg.eigvals(matrix)

        below = eigenvalues((1 - 1e-6) * rate)
        above = eigenvalues((1 + 1e-6) * rate)
        # Directions that no gradient has stay where they are.
        unseen = np.isclose(below, 1, atol=1e-12)
        assert np.abs(below[~unseen]).max(initial=0) < 1
        assert np.abs(above).max() > 1 + 1e-9
        bound = float(stability.necessary_learning_rate(g, batch))
        squared_norms = jnp.sum(g**2, 1)
        trace = float(jnp.mean(squared_norms))
        assert rate <= bound * (1 + 1e-9) <= 2 * batch / trace * (1 + 2e-9)
        if kind == "orthogonal":
            assert rate == pytest.approx(bound, rel=1e-9)
        thresholds.append(rate)
    curvatures = jnp.linalg.eigvalsh(g.T @ g / len(g))
    steepest = 2 / float(curvatures[-1])
    assert thresholds == sorted(thresholds)
    assert thresholds[-1] < steepest
    assert float(stability.max_learning_rate(g, np.inf)) == pytest.approx(steepest, rel=1e-12)


def test_the_threshold_keeps_half_of_the_digits_of_float32():
    g = gradients("gaussian").astype(jnp.float32)
    low = stability.max_learning_rate(g, 2.0)
    assert low.dtype == jnp.float32
    with jax.enable_x64(True):
        high = stability.max_learning_rate(jnp.asarray(g, jnp.float64), 2.0)
    assert float(low) == pytest.approx(float(high), rel=1e-4)


def test_thresholds_map_over_batches_and_networks(x64):
    both = jnp.stack([gradients("gaussian", seed=s) for s in (0, 1)])
    over_batches = jax.vmap(stability.max_learning_rate, (None, 0))
    over_networks = jax.vmap(over_batches, (0, None))
    many = jax.jit(over_networks)(both, jnp.array([1.0, 4]))
    alone = [[float(stability.max_learning_rate(g, b)) for b in (1.0, 4.0)] for g in both]
    np.testing.assert_allclose(many, alone, rtol=1e-12)


@pytest.mark.parametrize("batch", [1, 3])
def test_moments_are_those_of_sampled_runs(batch, x64):
    g = gradients("gaussian")
    runs = 40_000
    steps = 4
    rate = 0.5 * float(stability.max_learning_rate(g, batch))
    moment = jnp.eye(5)
    rng = np.random.default_rng(1)
    d = rng.standard_normal((runs, 5))
    rows = np.asarray(g)
    for _ in range(steps):
        chosen = rng.integers(len(g), size=(runs, batch))
        drawn = rows[chosen]
        outputs = np.einsum("rbp,rp->rb", drawn, d)
        d = d - rate / batch * np.einsum("rbp,rb->rp", drawn, outputs)
        moment = stability.moment_step(moment, g, rate, batch)
    sampled = d[:, :, None] * d[:, None]
    error = sampled.std(0) / runs**0.5
    assert np.all(np.abs(sampled.mean(0) - moment) < 4.5 * error)


def test_a_batch_of_nothing_is_refused():
    for rate in (stability.max_learning_rate, stability.necessary_learning_rate):
        with pytest.raises(ValueError, match="batch_size: 0; pass at least 1"):
            rate(jnp.ones((2, 3)), 0)
