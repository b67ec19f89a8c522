"""One minimal example of every public function of models, rules, observables and tasks, for the battery.

Each entry is built when called, in the precision of the moment.  A public function without one fails the battery.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen, nnx

import jaxdyn as jd
from jaxdyn import Model, kernels, models, observables, rules, tasks


class AsModel(NamedTuple):
    model: Model
    x: Any


class AsLoss(NamedTuple):
    """`best` are parameters of a lower loss than `params`."""

    loss: Callable
    params: Any
    batch: Any
    best: Any


class AsField(NamedTuple):
    """`loss(params)` is what the field descends, None where there is none."""

    field: Callable
    params: Any
    batch: Any
    loss: Callable | None = None


class AsObserve(NamedTuple):
    observe: Callable
    params: Any


class AsStream(NamedTuple):
    stream: Callable


class AsFunction(NamedTuple):
    """A function of arrays, keys included, to arrays."""

    function: Callable
    args: tuple


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape, jnp.float32).astype(float)


LINEAR = models.deep_linear((3, 4, 2))
ROUTES = ((0, 0), (0, 1))
GATED = models.gated_linear((3, 4, 2), ROUTES)
TARGET_FRAMES = lambda: tasks.frames(jax.random.key(3), (3, 4, 2), 2)
moments = lambda: tasks.linear_teacher(models.product(LINEAR.init(jax.random.key(2))))
start = lambda: LINEAR.init(jax.random.key(0))
best = lambda: LINEAR.init(jax.random.key(2))
inputs = lambda: normal(1, 6, 3)
data = lambda: (inputs(), LINEAR.apply(best(), inputs()))
squared = rules.squared_error(LINEAR.apply)
LINEAR_NTK = lambda params: kernels.empirical.ntk(LINEAR.apply, params, inputs())
modes = lambda observe: AsObserve(observe(models.product, TARGET_FRAMES()[-1], TARGET_FRAMES()[0]), start())


def with_state():
    # Linear regression beside a running average of its weights.
    def loss(params, batch):
        return squared(params["params"], batch), jax.tree.map(lambda m, p: 0.9 * m + 0.1 * p, params["state"], best())

    params = {"params": start(), "state": best()}
    return AsField(rules.with_state(loss), params, data(), lambda p: squared(p["params"], data()))


def distilled():
    return {"encoder": start(), "predictor": normal(5, 2, 2), "target": best()}


def views():
    return tasks.noisy_copies(jnp.diag(jnp.array([1.0, 2.0, 0.5])), jnp.eye(3))


def self_distillation():
    # Multiplier and decay at which the field is still a gradient: of the loss for a constant target.
    loss, params = rules.latent_covariance_loss(models.product), distilled()
    decay = lambda w: 0.05 * sum(jnp.sum(a**2) for a in jax.tree.leaves([w["encoder"], w["predictor"]]))
    field = rules.self_distillation(loss, target_rate=0.1, weight_decay=0.1)
    return AsField(field, params, views(), lambda w: loss(w, params["target"], views()) + decay(w))


def dense(n_out):
    return linen.Dense(n_out, dtype=jnp.result_type(float), param_dtype=jnp.result_type(float))


def dense_nnx(rngs):
    return nnx.Linear(3, 2, rngs=rngs, dtype=jnp.result_type(float), param_dtype=jnp.result_type(float))


def square_layer(key):
    return models.deep_linear((4, 4)).init(key)[0]


def three_steps(optimizer):
    """The state after three steps down a quartic."""
    slope = lambda p, _: jax.tree.map(lambda a: a**3, p)
    return lambda p: jd.train(slope, optimizer, lambda key, step: (), p, times=[3], observe=lambda state: {}).final


def early_learning():
    x, labels = inputs(), jnp.array([0, 1, 1, 0, 1, 0])
    memory = jax.nn.softmax(normal(5, 6, 2))
    params, batch = {"params": start(), "state": memory}, (x, labels, jnp.arange(6))
    targets = 0.7 * memory + 0.3 * jax.nn.softmax(LINEAR.apply(start(), x))

    def loss(p):
        held = jnp.log(1 - jnp.sum(targets * jax.nn.softmax(LINEAR.apply(p["params"], x)), 1))
        return rules.cross_entropy(LINEAR.apply)(p["params"], (x, labels)) + 2 * jnp.mean(held)

    return AsField(rules.early_learning(LINEAR.apply, 2.0, 0.7), params, batch, loss)


EXAMPLES = {
    "models.deep_linear": lambda: AsModel(LINEAR, inputs()),
    "models.mlp": lambda: AsModel(models.mlp((3, 4, 2), bias_scale=0.1), inputs()),
    "models.from_linen": lambda: AsModel(models.from_linen(dense(2), inputs()), inputs()),
    "models.from_nnx": lambda: AsModel(models.from_nnx(dense_nnx), inputs()),
    "models.product": lambda: AsFunction(models.product, (start(),)),
    "models.orthogonal": lambda: AsFunction(lambda key: models.orthogonal(key, 4, 3), (jax.random.key(0),)),
    "models.aligned": lambda: AsFunction(models.aligned, (TARGET_FRAMES(), jnp.array([2.0, 1.0]))),
    "models.gated_linear": lambda: AsModel(GATED, (inputs(), normal(4, 6, 2))),
    "models.gated_product": lambda: AsFunction(
        lambda w: models.gated_product(w, ROUTES), (GATED.init(jax.random.key(0)),)
    ),
    "models.gated_inputs": lambda: AsFunction(models.gated_inputs, (inputs(), normal(4, 6, 2))),
    "models.lambda_balanced": lambda: AsFunction(
        lambda key, a: models.lambda_balanced(key, (3, 2, 4), a), (jax.random.key(0), jnp.array(0.5))
    ),
    "models.product_to_depth": lambda: AsFunction(lambda w: models.product_to_depth([w] * 3, 2), (normal(0, 3, 3),)),
    "models.propagate": lambda: AsFunction(
        lambda key, h: models.propagate(key, square_layer, h, depth=3), (jax.random.key(0), normal(0, 4))
    ),
    "models.product_exponents": lambda: AsFunction(
        lambda key: models.product_exponents(key, square_layer, width=4, depth=3), (jax.random.key(0),)
    ),
    "rules.covariance_loss": lambda: AsLoss(rules.covariance_loss(models.product), start(), moments(), best()),
    "rules.squared_error": lambda: AsLoss(squared, start(), data(), best()),
    "rules.cross_entropy": lambda: AsLoss(
        rules.cross_entropy(LINEAR.apply), start(), (inputs(), jnp.argmax(data()[1], 1)), best()
    ),
    "rules.with_state": with_state,
    "rules.early_learning": early_learning,
    "rules.three_term": lambda: AsFunction(three_steps(rules.three_term(0.01, 0.5, 0.3)), (start(),)),
    "rules.ahead": lambda: AsFunction(
        lambda p: rules.ahead(three_steps(rules.three_term(0.01, 0.5))(p), 0.7), (start(),)
    ),
    "rules.nesterov_schedule": lambda: AsFunction(rules.nesterov_schedule, (jnp.asarray(4),)),
    "rules.self_distillation": self_distillation,
    "rules.latent_covariance_loss": lambda: AsFunction(
        lambda online, target: rules.latent_covariance_loss(models.product)(online, target, views()),
        (distilled(), start()),
    ),
    "rules.latent_error": lambda: AsFunction(
        rules.latent_error(LINEAR.apply, lambda w, h: h @ w.T), (distilled(), best(), (inputs(), normal(4, 6, 3)))
    ),
    "rules.direct_predictor": lambda: AsFunction(lambda w: rules.direct_predictor(w @ w.T, 0.1), (normal(0, 3, 4),)),
    "observables.mode_strengths": lambda: modes(observables.mode_strengths),
    "observables.leakage": lambda: modes(observables.leakage),
    "observables.alignment": lambda: modes(observables.alignment),
    "observables.singular_values": lambda: AsObserve(observables.singular_values(models.product), start()),
    "observables.weight_distance": lambda: AsObserve(observables.weight_distance(best()), start()),
    "observables.loss": lambda: AsObserve(observables.loss(squared, data()), start()),
    "observables.gradient_norm": lambda: AsObserve(observables.gradient_norm(jax.grad(squared), data()), start()),
    "observables.sharpness": lambda: AsObserve(observables.sharpness(squared, data(), depth=8), start()),
    "observables.kernel_change": lambda: AsObserve(observables.kernel_change(LINEAR_NTK, best()), start()),
    "observables.kernel_target_alignment": lambda: AsObserve(
        observables.kernel_target_alignment(LINEAR_NTK, data()[1]), start()
    ),
    "observables.combine": lambda: AsObserve(
        observables.combine(observables.loss(squared, data()), observables.weight_distance(best())), start()
    ),
    "observables.prefixed": lambda: AsObserve(
        observables.prefixed("test_", observables.loss(squared, data())), start()
    ),
    "tasks.covariances": lambda: AsFunction(tasks.covariances, data()),
    "tasks.linear_teacher": lambda: AsFunction(tasks.linear_teacher, (normal(0, 2, 3),)),
    "tasks.frames": lambda: AsFunction(lambda key: tasks.frames(key, (3, 4, 2), 2), (jax.random.key(0),)),
    "tasks.from_svd": lambda: AsFunction(tasks.from_svd, (normal(0, 4, 2), normal(1, 2), normal(2, 3, 2))),
    "tasks.binary_tree": lambda: AsFunction(lambda: tasks.binary_tree(2), ()),
    "tasks.regression": lambda: AsFunction(
        lambda key, v: tasks.regression(key, 5, v, (3, 2), 1.0, noise=0.1, start=0.5),
        (jax.random.key(0), jnp.array([1.0, 0.1])),
    ),
    "tasks.teacher_student": lambda: AsFunction(
        lambda key, snr: tasks.teacher_student(key, 4, 5, snr=snr, inr=0.5), (jax.random.key(0), jnp.array(2.0))
    ),
    "tasks.noisy_copies": lambda: AsFunction(tasks.noisy_copies, (jnp.eye(2), 2 * jnp.eye(2))),
    "tasks.successive_states": lambda: AsFunction(
        tasks.successive_states, (jnp.array([[0.5, 0.2], [0.0, 0.3]]), jnp.eye(2))
    ),
    "tasks.gaussian_pairs": lambda: AsFunction(lambda key: tasks.gaussian_pairs(key, views(), 4), (jax.random.key(0),)),
    "tasks.labelled": lambda: AsFunction(
        lambda key: tasks.labelled(key, lambda x: LINEAR.apply(best(), x), 4, 3, noise=0.1), (jax.random.key(0),)
    ),
    "tasks.full_batch": lambda: AsStream(tasks.full_batch(data())),
    "tasks.two_clusters": lambda: AsFunction(
        lambda key: tasks.two_clusters(key, 6, 3, sigma=0.5, flipped=0.3), (jax.random.key(0),)
    ),
    "tasks.online": lambda: AsStream(tasks.online(lambda key: jax.random.normal(key, (3,)))),
    "tasks.minibatch": lambda: AsStream(tasks.minibatch(data(), 2)),
    "tasks.epochs": lambda: AsStream(tasks.epochs(jax.random.key(0), data(), 4)),
}
