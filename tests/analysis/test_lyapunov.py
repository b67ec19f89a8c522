"""Lyapunov exponents: a map with known ones, and training near a minimum."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdyn as jd
from jaxdyn import analysis

pytestmark = pytest.mark.usefixtures("x64")


def exponents(step, start, number, steps, burn=0):
    step, start = analysis.with_tangents(step, start, number, key=jax.random.key(0))
    run = jd.iterate(step, start, times=[burn, steps], observe=analysis.tangent_growth())
    return np.diff(run.observed["growth"], axis=0)[0] / (steps - burn)


def test_the_henon_map_contracts_areas_at_its_constant_rate_and_is_chaotic():
    def henon(_, state):
        x, y = state.params
        params = jnp.stack([1 - 1.4 * x**2 + y, 0.3 * x])
        return state._replace(params=params)

    found = exponents(henon, jd.State(0, jnp.array([0.1, 0.1])), 2, 20_000, 100)
    assert found.sum() == pytest.approx(np.log(0.3), rel=1e-12)
    # 0.41922 (Sprott, 2003); fluctuations of local exponents, of order one, over the steps' number.
    assert found[0] == pytest.approx(0.41922, abs=3 / 20_000**0.5)


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_descent_on_a_quadratic_contracts_as_its_multipliers(momentum):
    curvatures = jnp.array([1.0, 0.3])
    rate = 0.2
    optimizer = optax.sgd(rate, momentum=momentum)
    step = jd.descent(lambda p, _: curvatures * p, optimizer, lambda key, t: None)
    start = jd.State(0, jnp.ones(2), optimizer.init(jnp.ones(2)))
    maps = [
        np.array([[1 + momentum - rate * h, -momentum], [1, 0]]) for h in np.asarray(curvatures)
    ]
    sizes = np.abs(np.concatenate([np.linalg.eigvals(m) for m in maps]))
    expected = np.sort(np.log(sizes[sizes > 0]))
    found = exponents(step, start, 4 if momentum else 2, 3000, 1000)
    np.testing.assert_allclose(np.sort(found), expected, atol=2e-3)


def test_tangents_leave_the_run_alone_and_there_are_not_too_many():
    step = jd.descent(lambda p, _: {"a": p["a"] ** 3}, optax.adam(0.01), lambda key, t: None)
    start = jd.State(0, {"a": jnp.ones(2)}, optax.adam(0.01).init({"a": jnp.ones(2)}))
    carried, begin = analysis.with_tangents(step, start, 3, key=jax.random.key(0))

    def observe(state):
        return state.params

    both = jd.iterate(carried, begin, times=[5], observe=analysis.tangent_growth(observe))
    expected = jd.iterate(step, start, times=[5], observe=observe).observed["a"]
    np.testing.assert_allclose(
        both.observed["a"],
        expected,
        rtol=1e-14,
    )
    with pytest.raises(ValueError, match="number: 7 tangents of a map of 6"):
        analysis.with_tangents(step, start, 7, key=jax.random.key(0))
