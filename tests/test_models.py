import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdyn as jd
from jaxdyn import models, observables, rules, tasks


@pytest.mark.usefixtures("x64")
def test_saxe_modes_follow_the_sigmoid():
    # Saxe, McClelland, Ganguli 2013: two layers, aligned and balanced: u(t) = s / (1 + (s/u0 - 1) e^{-2 s t}).
    s, u0 = np.array([4.0, 2.0, 1.0]), 0.05
    frames = tasks.frames(jax.random.key(0), (5, 4, 6), 3)
    moments = tasks.linear_teacher(tasks.from_svd(frames[-1], s, frames[0]))
    observe = observables.combine(
        observables.mode_strengths(models.product, frames[-1], frames[0]),
        observables.leakage(models.product, frames[-1], frames[0]),
    )
    times = np.linspace(0.0, 3.0, 7)
    field = jax.grad(rules.covariance_loss(models.product))
    run = jd.flow(field, moments, models.aligned(frames, jnp.full(3, u0)), times=times, observe=observe)
    theory = s / (1 + (s / u0 - 1) * np.exp(-2 * s * times[:, None]))
    assert jnp.max(jnp.abs(run.observed["mode_strengths"] - theory)) < 1e-7  # rtol 1e-8 of the solver
    assert jnp.max(run.observed["leakage"]) < 1e-13


def test_saxe_in_steps_approaches_flow_at_first_order():
    frames = tasks.frames(jax.random.key(0), (4, 4, 4), 2)
    s = np.array([2.0, 1.0])
    moments = tasks.linear_teacher(tasks.from_svd(frames[-1], s, frames[0]))
    field = jax.grad(rules.covariance_loss(models.product))

    def gap(rate):
        run = jd.train(
            field,
            optax.sgd(rate),
            lambda key, step: moments,
            models.aligned(frames, jnp.full(2, 0.1)),
            times=np.round(np.linspace(0, 2, 11) / rate),
            observe=observables.mode_strengths(models.product, frames[-1], frames[0]),
        )
        t = np.linspace(0, 2, 11)[:, None]
        return jnp.max(jnp.abs(run.observed["mode_strengths"] - s / (1 + (s / 0.1 - 1) * np.exp(-2 * s * t))))

    assert 1.9 < gap(0.02) / gap(0.01) < 2.1
