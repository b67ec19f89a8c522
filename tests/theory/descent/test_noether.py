"""Discrete conservation laws: exact for every symmetry and optimiser of the chain, and broken where
they should be."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdyn as jd
from jaxdyn import losses, tasks
from jaxdyn.theory.descent import momentum, noether

pytestmark = pytest.mark.usefixtures("x64")


def drawn(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def relu(params, x):
    return jax.nn.relu(x @ params["w"]) @ params["u"]


DATA = drawn(0, 20, 4), drawn(1, 20)
# A loss, where it starts, and the generator of its symmetry.
SYSTEMS = {
    "translation": (
        losses.cross_entropy(lambda p, x: x @ p["w"]),
        {"w": drawn(2, 4, 3)},
        lambda p: {"w": jnp.ones((4, 3))},
    ),
    "scale": (
        losses.squared_error(lambda p, x: jnp.tanh(x @ (p["w"] / jnp.linalg.norm(p["w"])))),
        {"w": drawn(3, 4)},
        lambda p: p,
    ),
    "rescaling": (
        losses.squared_error(relu),
        {"w": drawn(4, 4, 5), "u": drawn(5, 5)},
        lambda p: {"w": p["w"], "u": -p["u"]},
    ),
}
CHAINS = {"descent": (0.0, 0.0), "momentum": (0.9, 0.0), "decay": (0.0, 0.1), "both": (0.8, 0.05)}
RATE = 0.05


def history(name, optimizer, steps=40):
    """The parameters at all steps, in stochastic batches."""
    loss, start, generator = SYSTEMS[name]
    data = (DATA[0], np.arange(20) % 3) if name == "translation" else DATA
    stream = tasks.minibatch(data, 6)
    times = np.arange(steps + 1)

    def observe(state):
        return state.params

    run = jd.train(
        jax.grad(loss),
        optimizer,
        stream,
        start,
        times=times,
        observe=observe,
        key=jax.random.key(7),
    )
    return run.observed, generator


def residuals(seen, generator, *chain):
    def at(i, j):
        return jax.tree.map(lambda a: a[i : len(a) + j], seen)

    def check(p, c, f):
        return noether.symmetry_residual(generator, p, c, f, RATE, *chain)

    return jax.jit(jax.vmap(check))(at(0, -2), at(1, -1), at(2, 0))


def chain(b, k):
    return optax.chain(optax.add_decayed_weights(k), optax.sgd(RATE, momentum=b))


@pytest.mark.parametrize("kind", CHAINS)
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_chain_keeps_the_law_of_every_symmetry(name, kind):
    seen, generator = history(name, chain(*CHAINS[kind]))
    assert np.abs(residuals(seen, generator, *CHAINS[kind])).max() < 1e-13

    def wrong(p):
        return (
            jax.tree.map(jnp.abs, generator(p)) if name == "rescaling" else jax.tree.map(jnp.cos, p)
        )

    assert np.abs(residuals(seen, wrong, *CHAINS[kind])).max() > 1e-4
    if name == "translation":
        total = seen["w"].sum((1, 2))
        expected = momentum.mode(
            np.arange(len(total)), momentum.ThreeTerm(RATE, CHAINS[kind][0]), CHAINS[kind][1]
        )
        np.testing.assert_allclose(total, total[0] * expected, rtol=0, atol=1e-12)
    else:
        sign = {"w": 1, "u": -1}

        def square(tree):
            return sum(
                sign[n] * np.sum(np.asarray(a) ** 2, tuple(range(1, a.ndim)))
                for n, a in tree.items()
            )

        moved = jax.tree.map(lambda a: np.diff(a, axis=0), seen)
        law = noether.quadratic_charges(square(moved), square(seen)[0], RATE, *CHAINS[kind])
        np.testing.assert_allclose(law, square(seen), rtol=0, atol=1e-12)


def test_adam_breaks_translations_and_scales_but_a_scalar_metric_does_not():
    for name in ("translation", "scale"):
        assert np.abs(residuals(*history(name, optax.adam(RATE)))).max() > 1e-3


def test_charges_of_gradient_descent_drift_in_proportion_to_the_learning_rate():
    loss, start, _ = SYSTEMS["rescaling"]

    def drift(rate):
        times = [round(2 / rate)]
        run = jd.train(
            jax.grad(loss),
            optax.sgd(rate),
            tasks.full_batch(DATA),
            start,
            times=times,
            observe=lambda s: {"charge": jnp.sum(s.params["w"] ** 2) - jnp.sum(s.params["u"] ** 2)},
        )
        return run.observed["charge"][0] - jnp.sum(start["w"] ** 2) + jnp.sum(start["u"] ** 2)

    assert float(drift(0.002) / drift(0.001)) == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize("b", [0.0, 0.6])
def test_equilibrium_of_weights_under_random_gradients(b):
    rate = 0.1
    decay = 0.05
    dim = 40

    def field(q, key):
        # A tangent of unit length on the sphere, scaled as the gradient of a scale-invariant loss
        # is.
        u = q / jnp.linalg.norm(q)
        z = jax.random.normal(key, (dim,))
        z = z - u * (u @ z)
        return 2.0 * z / jnp.linalg.norm(z) / jnp.linalg.norm(q)

    times = np.arange(2000, 6001)
    run = jd.train(
        field,
        optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate, momentum=b)),
        lambda key, step: key,
        jnp.ones(dim),
        times=times,
        observe=lambda s: {"q": s.params},
        key=jax.random.key(0),
    )
    q = np.asarray(run.observed["q"])
    norm = np.linalg.norm(q, axis=1)
    cosine = np.mean(np.sum(q[1:] * q[:-1], 1)) / np.mean(norm**2)
    # Without momentum the squared norm settles exactly; with it noise correlates with the velocity
    # by 1/sqrt(dim) a step, and is averaged over 4000 steps whose memory is 1/(1 - b).
    slack = 1e-9 if b == 0 else 4 / np.sqrt(dim * 4000 * (1 - b))
    size = float(noether.equilibrium_norm(2.0, rate, decay, b))
    assert np.arccos(cosine) == pytest.approx(
        float(noether.equilibrium_angle(rate, decay, b)), rel=slack
    )
    assert np.mean(norm**2) == pytest.approx(size**2, rel=2 * slack)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: noether.equilibrium_angle(0.0, 0.1), "learning_rate: 0.0"),
        (lambda: noether.equilibrium_angle(0.1, -1.0), "weight_decay: -1.0"),
        (
            lambda: noether.equilibrium_norm(1.0, 0.1, 0.1, 1.0),
            r"momentum: 1.0; pass a number in \[0, 1\)",
        ),
    ],
)
def test_bad_numbers_are_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()
