"""Gated networks: the reductions are the full networks, and the closed forms are the integrated
reductions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdyn as jd
from jaxdyn import losses, models, tasks
from jaxdyn.theory import linear
from jaxdyn.theory.linear import gated


def test_the_race_is_the_flow_of_the_whole_network(x64):
    # One pathway open in both contexts, one in the first only, sharing their second layer.
    routes = ((0, 0), (1, 0))
    s = jnp.array([2.0, 1.0])
    frames = tasks.frames(jax.random.key(0), (3, 4, 5), 2)
    basis = frames[0] @ jnp.eye(2)
    left = frames[2]
    x = jnp.concatenate([basis.T, -basis.T]) * 2**0.5
    y = (x @ basis * s[None]) @ left.T
    gates = jnp.array([[1.0, 1.0], [1.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    gated_inputs = models.gated_inputs(x, gates)
    moments = tasks.covariances(gated_inputs, y)
    first = jnp.array([[0.2, 0.3], [0.1, 0.4]])
    second = jnp.array([[0.25, 0.15]])
    start = [first, second]

    def layer(strengths, inner, outer):
        """The weights of all pathways, whose modes have these strengths in these frames."""
        return jnp.stack([(inner * b[None]) @ outer.T for b in strengths])

    weights = [layer(first, frames[1], frames[0]), layer(second, frames[2], frames[1])]
    times = np.linspace(0, 5, 11)
    solver = jd.RK4(0.02)

    def product(weights):
        return models.gated_product(weights, routes)

    def observe_whole(state):
        return {"w": product(state.params)}

    field = jax.grad(losses.covariance_loss(product))
    run = jd.flow(field, moments, weights, times=times, observe=observe_whole, solver=solver)
    whole = run.observed["w"]
    share = jnp.array([[1.0, 0.5], [0.5, 0.5]])
    targets = share[0][:, None] * s[None]
    overlaps = share[:, :, None] * jnp.ones((1, 1, 2))
    velocity = gated.race_velocity(routes, targets, overlaps)

    def observe_reduced(state):
        return {"b": state.params[0] * state.params[1]}

    run = jd.integrate(velocity, start, times=times, observe=observe_reduced, solver=solver)
    reduced = run.observed["b"]
    built = jnp.einsum("oa,tpa,ia->topi", left, reduced, basis).reshape(whole.shape)
    # Both are the same method on the same flow, so that its error is the same too.
    np.testing.assert_allclose(whole, built, atol=1e-13)


SHARED_MODES = [(1.0, 0.25, 0.1, 0.05), (0.25, 0.25, 0.3, -0.2), (1, 1, 1, 0)]


@pytest.mark.parametrize(("first", "second", "a0", "b0"), SHARED_MODES)
def test_shared_modes_solve_their_equations(first, second, a0, b0, precision):
    s = 1.5
    times = jnp.linspace(0, 6, 13)

    def modes(t):
        return jnp.stack(gated.shared_modes(t, s, a0, b0, first=first, second=second))

    def moving(t):
        return jax.jvp(modes, (t,), (jnp.ones_like(t),))

    (a, b), (da, db) = jax.jit(jax.vmap(moving, out_axes=1))(times)
    bound = 200 * jnp.finfo(precision).eps
    computed = [a[0], b[0]]
    np.testing.assert_allclose(computed, [a0, b0], atol=bound)
    expected = first * b * (s - a * b)
    np.testing.assert_allclose(da, expected, atol=bound)
    expected = second * a * (s - a * b)
    np.testing.assert_allclose(db, expected, atol=bound)


def test_sharing_one_layer_between_m_contexts_saves_the_root_of_m(x64):
    for contexts in (4, 9):
        a0 = (1e-3 * contexts**0.5) ** 0.5
        b0 = (1e-3 / contexts**0.5) ** 0.5
        a, b = gated.shared_modes(2.0, 1.0, a0, b0, second=1 / contexts)
        expected = float(linear.mode_strength(2.0 / contexts**0.5, 1.0, 1e-3))
        assert a * b == pytest.approx(expected, rel=1e-12)


def test_race_outcome_is_the_end_of_the_integrated_race_and_differentiates(x64):
    u0 = jnp.array([1e-3, 2e-2, 1e-3])
    rates = jnp.array([2.0, 0.5, 1.0])
    s = 1.5

    def velocity(t, u):
        return rates * u * (s - jnp.sum(u))

    def observe(state):
        return {"u": state.params}

    solver = jd.RK4(0.02)
    race = jd.integrate(velocity, u0, times=[60.0], observe=observe, solver=solver)
    end = gated.race_outcome(u0, rates, s)
    np.testing.assert_allclose(end, race.observed["u"][0], atol=1e-8)
    assert jnp.sum(end) == pytest.approx(s, rel=1e-14)
    assert jnp.max(jnp.abs(velocity(0, end))) < 1e-14

    def outcome(s):
        return gated.race_outcome(u0, rates, s)

    slope = jax.jacfwd(outcome)(s)
    difference = (outcome(s + 1e-5) - outcome(s - 1e-5)) / 2e-5
    np.testing.assert_allclose(slope, difference, rtol=1e-8)


def test_race_outcome_of_extreme_starts(precision):
    starts = jnp.array([1e-30, 1e-8])
    rates = jnp.array([2.0, 0.5])
    end = gated.race_outcome(starts, rates, 1.0)
    assert end.dtype == precision
    assert jnp.sum(end) == pytest.approx(1.0, rel=20 * float(jnp.finfo(precision).eps) * 70)
    # u_1 = u0_1 (u_2 / u0_2)^4: 1e-30 * 1e32 at u_2 = 1.
    assert end[0] == pytest.approx(1e2 * float(end[1]) ** 4, rel=1e-4)
