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
    moments = tasks.covariances(models.gated_inputs(x, gates), y)
    start = [jnp.array([[0.2, 0.3], [0.1, 0.4]]), jnp.array([[0.25, 0.15]])]
    weights = [
        jnp.stack([(inner * b[None]) @ outer.T for b in layer])
        for layer, inner, outer in zip(start, frames[1:], frames[:-1], strict=True)
    ]
    times = np.linspace(0, 5, 11)
    solver = jd.RK4(0.02)
    loss = losses.covariance_loss(lambda w: models.gated_product(w, routes))

    def observe(state):
        return {"w": models.gated_product(state.params, routes)}

    whole = jd.flow(
        jax.grad(loss), moments, weights, times=times, observe=observe, solver=solver
    ).observed["w"]
    share = jnp.array([[1.0, 0.5], [0.5, 0.5]])
    velocity = gated.race_velocity(
        routes, share[0][:, None] * s[None], share[:, :, None] * jnp.ones((1, 1, 2))
    )

    def observe(state):
        return {"b": state.params[0] * state.params[1]}

    reduced = jd.integrate(velocity, start, times=times, observe=observe, solver=solver).observed[
        "b"
    ]
    built = jnp.einsum("oa,tpa,ia->topi", left, reduced, basis).reshape(whole.shape)
    # Both are the same method on the same flow, so that its error is the same too.
    np.testing.assert_allclose(whole, built, atol=1e-13)


@pytest.mark.parametrize(
    ("first", "second", "a0", "b0"), [(1.0, 0.25, 0.1, 0.05), (0.25, 0.25, 0.3, -0.2), (1, 1, 1, 0)]
)
def test_shared_modes_solve_their_equations(first, second, a0, b0, precision):
    s = 1.5
    times = jnp.linspace(0, 6, 13)

    def modes(t):
        return jnp.stack(gated.shared_modes(t, s, a0, b0, first=first, second=second))

    (a, b), (da, db) = jax.jit(
        jax.vmap(lambda t: jax.jvp(modes, (t,), (jnp.ones_like(t),)), out_axes=1)
    )(times)
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
        assert a * b == pytest.approx(
            float(linear.mode_strength(2.0 / contexts**0.5, 1.0, 1e-3)), rel=1e-12
        )


def test_race_outcome_is_the_end_of_the_integrated_race_and_differentiates(x64):
    u0 = jnp.array([1e-3, 2e-2, 1e-3])
    rates = jnp.array([2.0, 0.5, 1.0])
    s = 1.5

    def velocity(t, u):
        return rates * u * (s - jnp.sum(u))

    def observe(state):
        return {"u": state.params}

    def raced(s):
        return jd.integrate(
            lambda t, u: rates * u * (s - jnp.sum(u)),
            u0,
            times=[60.0],
            observe=observe,
            solver=jd.RK4(0.02),
        ).observed["u"][0]

    end = gated.race_outcome(u0, rates, s)
    np.testing.assert_allclose(end, raced(s), atol=1e-8)
    assert jnp.sum(end) == pytest.approx(s, rel=1e-14)
    assert jnp.max(jnp.abs(velocity(0, end))) < 1e-14
    slope = jax.jacfwd(lambda s: gated.race_outcome(u0, rates, s))(s)
    difference = (
        gated.race_outcome(u0, rates, s + 1e-5) - gated.race_outcome(u0, rates, s - 1e-5)
    ) / 2e-5
    np.testing.assert_allclose(slope, difference, rtol=1e-8)


def test_race_outcome_of_extreme_starts(precision):
    end = gated.race_outcome(jnp.array([1e-30, 1e-8]), jnp.array([2.0, 0.5]), 1.0)
    assert end.dtype == precision
    assert jnp.sum(end) == pytest.approx(1.0, rel=20 * float(jnp.finfo(precision).eps) * 70)
    # u_1 = u0_1 (u_2 / u0_2)^4: 1e-30 * 1e32 at u_2 = 1.
    assert end[0] == pytest.approx(1e2 * float(end[1]) ** 4, rel=1e-4)
