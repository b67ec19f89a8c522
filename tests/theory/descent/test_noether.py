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


def logits(params, x):
    return x @ params["w"]


def normalised(params, x):
    direction = params["w"] / jnp.linalg.norm(params["w"])
    return jnp.tanh(x @ direction)


def relu(params, x):
    hidden = jax.nn.relu(x @ params["w"])
    return hidden @ params["u"]


def ones(params):
    return {"w": jnp.ones((4, 3))}


def itself(params):
    return params


def opposite_signs(params):
    return {"w": params["w"], "u": -params["u"]}


DATA = drawn(0, 20, 4), drawn(1, 20)
CROSS_ENTROPY = losses.cross_entropy(logits)
NORMALISED_ERROR = losses.squared_error(normalised)
RELU_ERROR = losses.squared_error(relu)
RELU_START = {"w": drawn(4, 4, 5), "u": drawn(5, 5)}
# A loss, where it starts, and the generator of its symmetry.
SYSTEMS = {
    "translation": (CROSS_ENTROPY, {"w": drawn(2, 4, 3)}, ones),
    "scale": (NORMALISED_ERROR, {"w": drawn(3, 4)}, itself),
    "rescaling": (RELU_ERROR, RELU_START, opposite_signs),
}
# The momentum and the weight decay.
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

    gradient = jax.grad(loss)
    key = jax.random.key(7)
    run = jd.train(gradient, optimizer, stream, start, times=times, observe=observe, key=key)
    return run.observed, generator


def largest_residual(seen, generator, *chain):
    """By how much the law of a symmetry fails at any three steps in a row."""

    def between(first, last):
        return jax.tree.map(lambda a: a[first : len(a) + last], seen)

    def check(past, present, future):
        return noether.symmetry_residual(generator, past, present, future, RATE, *chain)

    past = between(0, -2)
    present = between(1, -1)
    future = between(2, 0)
    residuals = jax.jit(jax.vmap(check))(past, present, future)
    return np.abs(residuals).max()


def chain(b, k):
    decay = optax.add_decayed_weights(k)
    descent = optax.sgd(RATE, momentum=b)
    return optax.chain(decay, descent)


def square(values):
    """The sum of the squares of each step."""
    axes = tuple(range(1, values.ndim))
    return np.sum(np.asarray(values) ** 2, axes)


def charge(params):
    """What the rescaling (or, without a second layer, the scale) conserves, at each step."""
    first = square(params["w"])
    return first - square(params["u"]) if "u" in params else first


@pytest.mark.parametrize("kind", CHAINS)
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_chain_keeps_the_law_of_every_symmetry(name, kind):
    strength, decay = CHAINS[kind]
    optimizer = chain(strength, decay)
    seen, generator = history(name, optimizer)
    assert largest_residual(seen, generator, strength, decay) < 1e-13

    def wrong(params):
        if name == "rescaling":
            return jax.tree.map(jnp.abs, generator(params))
        return jax.tree.map(jnp.cos, params)

    assert largest_residual(seen, wrong, strength, decay) > 1e-4
    if name == "translation":
        total = seen["w"].sum((1, 2))
        steps = np.arange(len(total))
        method = momentum.ThreeTerm(RATE, strength)
        expected = total[0] * momentum.mode(steps, method, decay)
        np.testing.assert_allclose(total, expected, rtol=0, atol=1e-12)
    else:
        moved = jax.tree.map(lambda a: np.diff(a, axis=0), seen)
        expected = charge(seen)
        law = noether.quadratic_charges(charge(moved), expected[0], RATE, strength, decay)
        np.testing.assert_allclose(law, expected, rtol=0, atol=1e-12)


def test_adam_breaks_translations_and_scales_but_a_scalar_metric_does_not():
    for name in ("translation", "scale"):
        adam = optax.adam(RATE)
        seen, generator = history(name, adam)
        assert largest_residual(seen, generator) > 1e-3


def test_charges_of_gradient_descent_drift_in_proportion_to_the_learning_rate():
    loss, start, _ = SYSTEMS["rescaling"]
    gradient = jax.grad(loss)
    stream = tasks.full_batch(DATA)

    def imbalance(params):
        return jnp.sum(params["w"] ** 2) - jnp.sum(params["u"] ** 2)

    def observe(state):
        return {"charge": imbalance(state.params)}

    def drift(rate):
        times = [round(2 / rate)]
        optimizer = optax.sgd(rate)
        run = jd.train(gradient, optimizer, stream, start, times=times, observe=observe)
        return run.observed["charge"][0] - imbalance(start)

    ratio = drift(0.002) / drift(0.001)
    assert float(ratio) == pytest.approx(2, rel=0.02)


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

    def stream(key, step):
        return key

    def observe(state):
        return {"q": state.params}

    times = np.arange(2000, 6001)
    shrink = optax.add_decayed_weights(decay)
    descent = optax.sgd(rate, momentum=b)
    optimizer = optax.chain(shrink, descent)
    start = jnp.ones(dim)
    key = jax.random.key(0)
    run = jd.train(field, optimizer, stream, start, times=times, observe=observe, key=key)
    q = np.asarray(run.observed["q"])
    norm = np.linalg.norm(q, axis=1)
    overlap = np.sum(q[1:] * q[:-1], 1)
    cosine = np.mean(overlap) / np.mean(norm**2)
    # Without momentum the squared norm settles exactly; with it noise correlates with the velocity
    # by 1/sqrt(dim) a step, and is averaged over 4000 steps whose memory is 1/(1 - b).
    slack = 1e-9 if b == 0 else 4 / np.sqrt(dim * 4000 * (1 - b))
    size = float(noether.equilibrium_norm(2.0, rate, decay, b))
    angle = float(noether.equilibrium_angle(rate, decay, b))
    assert np.arccos(cosine) == pytest.approx(angle, rel=slack)
    assert np.mean(norm**2) == pytest.approx(size**2, rel=2 * slack)


BAD_MOMENTUM = r"momentum: 1.0; pass a number in \[0, 1\)"


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: noether.equilibrium_angle(0.0, 0.1), "learning_rate: 0.0"),
        (lambda: noether.equilibrium_angle(0.1, -1.0), "weight_decay: -1.0"),
        (lambda: noether.equilibrium_norm(1.0, 0.1, 0.1, 1.0), BAD_MOMENTUM),
    ],
)
def test_bad_numbers_are_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()
