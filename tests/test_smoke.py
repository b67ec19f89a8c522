import jax
import jax.numpy as jnp
import optax

import jaxdyn as jd


def test_train_descends_a_quadratic_at_the_closed_form():
    field = jax.grad(lambda params, batch: 0.5 * params**2)
    run = jd.train(field, optax.sgd(0.1), lambda key, step: None, jnp.asarray(1.0), times=[0, 10], observe=lambda s: {"x": s.params})
    assert jnp.allclose(run.observed["x"], jnp.array([1.0, 0.9**10]), rtol=1e-6)
