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
    """The growth of so many tangents a step, between two times."""
    step, start = analysis.with_tangents(step, start, number, key=jax.random.key(0))
    observe = analysis.tangent_growth()
    run = jd.iterate(step, start, times=[burn, steps], observe=observe)
    before, after = np.asarray(run.observed["growth"])
    return (after - before) / (steps - burn)


def test_the_henon_map_contracts_areas_at_its_constant_rate_and_is_chaotic():
    def henon(_, state):
        x, y = state.params
        next_x = 1 - 1.4 * x**2 + y
        next_y = 0.3 * x
        return state._replace(params=jnp.stack([next_x, next_y]))

    start = jd.State(0, jnp.array([0.1, 0.1]))
    found = exponents(henon, start, 2, 20_000, 100)
    assert found.sum() == pytest.approx(np.log(0.3), rel=1e-12)
    # 0.41922 (Sprott, 2003); fluctuations of local exponents, of order one, over the steps' number.
    assert found[0] == pytest.approx(0.41922, abs=3 / 20_000**0.5)


def no_batch(key, t):
    return None


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_descent_on_a_quadratic_contracts_as_its_multipliers(momentum):
    curvatures = jnp.array([1.0, 0.3])
    rate = 0.2

    def gradient(p, _):
        return curvatures * p

    def multipliers(curvature):
        """How one mode's displacement, of this step and of the last, is multiplied."""
        one_step = np.array([[1 + momentum - rate * curvature, -momentum], [1, 0]])
        return np.linalg.eigvals(one_step)

    optimizer = optax.sgd(rate, momentum=momentum)
    step = jd.descent(gradient, optimizer, no_batch)
    params = jnp.ones(2)
    start = jd.State(0, params, optimizer.init(params))
    every = [multipliers(h) for h in np.asarray(curvatures)]
    sizes = np.abs(np.concatenate(every))
    expected = np.sort(np.log(sizes[sizes > 0]))
    number = 4 if momentum else 2
    found = exponents(step, start, number, 3000, 1000)
    np.testing.assert_allclose(np.sort(found), expected, atol=2e-3)


def test_tangents_leave_the_run_alone_and_there_are_not_too_many():
    def cubic(p, _):
        return {"a": p["a"] ** 3}

    def observe(state):
        return state.params

    params = {"a": jnp.ones(2)}
    optimizer = optax.adam(0.01)
    step = jd.descent(cubic, optimizer, no_batch)
    start = jd.State(0, params, optimizer.init(params))
    carried, begin = analysis.with_tangents(step, start, 3, key=jax.random.key(0))
    growth = analysis.tangent_growth(observe)
    both = jd.iterate(carried, begin, times=[5], observe=growth)
    alone = jd.iterate(step, start, times=[5], observe=observe)
    np.testing.assert_allclose(both.observed["a"], alone.observed["a"], rtol=1e-14)
    with pytest.raises(ValueError, match="number: 7 tangents of a map of 6"):
        analysis.with_tangents(step, start, 7, key=jax.random.key(0))
