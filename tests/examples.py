"""One minimal example of every public function of models, rules, observables and tasks, for the
battery.

Each entry is built when called, in the precision of the moment.  A public function without one
fails the battery.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen, nnx

import jaxdyn as jd
from jaxdyn import Model, analysis, kernels, losses, models, observables, optimizers, rules, tasks


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


class AsAnalysis(NamedTuple):
    """A function on the host, of recorded runs; its own tests say what of."""

    function: Callable


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape, jnp.float32).astype(float)


LINEAR = models.deep_linear((3, 4, 2))
ROUTES = ((0, 0), (0, 1))
GATED = models.gated_linear((3, 4, 2), ROUTES)


def TARGET_FRAMES():
    return tasks.frames(jax.random.key(3), (3, 4, 2), 2)


def moments():
    return tasks.linear_teacher(models.product(LINEAR.init(jax.random.key(2))))


def start():
    return LINEAR.init(jax.random.key(0))


def best():
    return LINEAR.init(jax.random.key(2))


def inputs():
    return normal(1, 6, 3)


def data():
    return (inputs(), LINEAR.apply(best(), inputs()))


squared = losses.squared_error(LINEAR.apply)
UNITS = models.two_layer(4, 3, activation=jax.nn.relu, patches=2)
HEADS = models.in_context_attention(3, 2, rank=2)


def PROMPTS():
    return tasks.in_context_regression(
        jax.random.key(1), 5, 4, jnp.diag(jnp.array([1.0, 0.5, 0.2]))
    )


def LINEAR_NTK(params):
    return kernels.empirical.ntk(LINEAR.apply, params, inputs())


def modes(observe):
    return AsObserve(observe(models.product, TARGET_FRAMES()[-1], TARGET_FRAMES()[0]), start())


def with_state():
    # Linear regression beside a running average of its weights.
    def loss(params, batch):
        return squared(params["params"], batch), jax.tree.map(
            lambda m, p: 0.9 * m + 0.1 * p, params["state"], best()
        )

    params = {"params": start(), "state": best()}
    return AsField(rules.with_state(loss), params, data(), lambda p: squared(p["params"], data()))


def distilled():
    return {"encoder": start(), "predictor": normal(5, 2, 2), "target": best()}


def views():
    return tasks.noisy_copies(jnp.diag(jnp.array([1.0, 2.0, 0.5])), jnp.eye(3))


def self_distillation():
    # Multiplier and decay at which the field is still a gradient: of the loss for a constant
    # target.
    loss = losses.latent_covariance_loss(models.product)
    params = distilled()

    def decay(w):
        return 0.05 * sum(jnp.sum(a**2) for a in jax.tree.leaves([w["encoder"], w["predictor"]]))

    field = rules.self_distillation(loss, target_rate=0.1, weight_decay=0.1)
    return AsField(field, params, views(), lambda w: loss(w, params["target"], views()) + decay(w))


def dense(n_out):
    return linen.Dense(n_out, dtype=jnp.result_type(float), param_dtype=jnp.result_type(float))


def dense_nnx(rngs):
    return nnx.Linear(
        3, 2, rngs=rngs, dtype=jnp.result_type(float), param_dtype=jnp.result_type(float)
    )


def square_layer(key):
    return models.deep_linear((4, 4)).init(key)[0]


def three_steps(optimizer):
    """The state after three steps down a quartic."""

    def slope(p, _):
        return jax.tree.map(lambda a: a**3, p)

    return lambda p: (
        jd.train(
            slope, optimizer, lambda key, step: (), p, times=[3], observe=lambda state: {}
        ).final
    )


def early_learning():
    x = inputs()
    labels = jnp.array([0, 1, 1, 0, 1, 0])
    memory = jax.nn.softmax(normal(5, 6, 2))
    params = {"params": start(), "state": memory}
    batch = (x, labels, jnp.arange(6))
    targets = 0.7 * memory + 0.3 * jax.nn.softmax(LINEAR.apply(start(), x))

    def loss(p):
        held = jnp.log(1 - jnp.sum(targets * jax.nn.softmax(LINEAR.apply(p["params"], x)), 1))
        return losses.cross_entropy(LINEAR.apply)(p["params"], (x, labels)) + 2 * jnp.mean(held)

    return AsField(rules.early_learning(LINEAR.apply, 2.0, 0.7), params, batch, loss)


def SIGMOIDS():
    return models.mlp((3, 4, 2)).init(jax.random.key(0))


def linear_nodes(weights, x, noise):
    def add(layer, a):
        return a if noise is None else a + noise[layer]

    hidden = add(0, x @ weights[0].T)
    outputs = add(1, jax.lax.stop_gradient(hidden) @ weights[1].T)
    return outputs, [hidden, outputs]


def example_errors(outputs, y):
    return jnp.sum((y - outputs) ** 2, 1) / 2


def zeroth_order(field):
    # The mean of many estimates descends; a single one need not.
    def mean(p, batch):
        return jax.tree.map(
            lambda a: jnp.mean(a, 0), jax.vmap(lambda k: field(p, (batch, k)))(KEYS())
        )

    return AsField(mean, start(), data(), lambda p: squared(p, data()))


def KEYS():
    return jax.random.split(jax.random.key(0), 400)


def carried(params, key):
    """A map of gradient descent that carries two tangents, and its start."""
    step = jd.descent(jax.grad(squared), optax.sgd(0.1, momentum=0.9), tasks.full_batch(data()))
    begin = jd.State(jnp.asarray(0), params, optax.sgd(0.1, momentum=0.9).init(params))
    return analysis.with_tangents(step, begin, 2, key=key)


EXAMPLES = {
    "models.deep_linear": lambda: AsModel(LINEAR, inputs()),
    "models.mlp": lambda: AsModel(models.mlp((3, 4, 2), bias_scale=0.1), inputs()),
    "models.from_linen": lambda: AsModel(models.from_linen(dense(2), inputs()), inputs()),
    "models.from_nnx": lambda: AsModel(models.from_nnx(dense_nnx), inputs()),
    "models.from_layers": lambda: AsModel(models.from_layers(kernels.dense(2), (3,)), inputs()),
    "models.diagonal_linear": lambda: AsModel(models.diagonal_linear(3), inputs()),
    "models.two_layer": lambda: AsModel(UNITS, normal(1, 6, 4)),
    "models.two_layer_product": lambda: AsFunction(
        models.two_layer_product, ({"u": normal(0, 3, 2), "v": normal(1, 3, 2)},)
    ),
    "models.in_context_attention": lambda: AsModel(
        models.in_context_attention(3, 2, softmax=True), tuple(PROMPTS()[:3])
    ),
    "models.attention_heads": lambda: AsFunction(
        models.attention_heads, (HEADS.init(jax.random.key(0)),)
    ),
    "models.attention_product": lambda: AsFunction(
        models.attention_product, (HEADS.init(jax.random.key(0)),)
    ),
    "models.product": lambda: AsFunction(models.product, (start(),)),
    "models.orthogonal": lambda: AsFunction(
        lambda key: models.orthogonal(key, 4, 3), (jax.random.key(0),)
    ),
    "models.aligned": lambda: AsFunction(models.aligned, (TARGET_FRAMES(), jnp.array([2.0, 1.0]))),
    "models.gated_linear": lambda: AsModel(GATED, (inputs(), normal(4, 6, 2))),
    "models.gated_product": lambda: AsFunction(
        lambda w: models.gated_product(w, ROUTES), (GATED.init(jax.random.key(0)),)
    ),
    "models.gated_inputs": lambda: AsFunction(models.gated_inputs, (inputs(), normal(4, 6, 2))),
    "models.lambda_balanced": lambda: AsFunction(
        lambda key, a: models.lambda_balanced(key, (3, 2, 4), a),
        (jax.random.key(0), jnp.array(0.5)),
    ),
    "models.product_to_depth": lambda: AsFunction(
        lambda w: models.product_to_depth([w] * 3, 2), (normal(0, 3, 3),)
    ),
    "models.propagate": lambda: AsFunction(
        lambda key, h: models.propagate(key, square_layer, h, depth=3),
        (jax.random.key(0), normal(0, 4)),
    ),
    "models.product_exponents": lambda: AsFunction(
        lambda key: models.product_exponents(key, square_layer, width=4, depth=3),
        (jax.random.key(0),),
    ),
    "losses.covariance_loss": lambda: AsLoss(
        losses.covariance_loss(models.product), start(), moments(), best()
    ),
    "losses.squared_error": lambda: AsLoss(squared, start(), data(), best()),
    "losses.cross_entropy": lambda: AsLoss(
        losses.cross_entropy(LINEAR.apply), start(), (inputs(), jnp.argmax(data()[1], 1)), best()
    ),
    "losses.teacher_loss": lambda: AsLoss(
        losses.teacher_loss("relu", patches=2),
        *(UNITS.init(jax.random.key(seed)) for seed in (0, 1, 1)),
    ),
    "rules.with_state": with_state,
    "rules.early_learning": early_learning,
    "rules.sign_diverse": lambda: AsField(
        rules.sign_diverse(jax.grad(squared), [jnp.ones((1, 3)), jnp.array([[1.0, 1, 1, -1]])]),
        start(),
        data(),
        None,
    ),
    "optimizers.keep_norms": lambda: AsFunction(
        three_steps(optax.chain(optax.sgd(0.01), optimizers.keep_norms())), (start(),)
    ),
    "rules.weight_perturbation": lambda: zeroth_order(
        rules.weight_perturbation(squared, 0.1, antithetic=True)
    ),
    "rules.forward_gradient": lambda: zeroth_order(rules.forward_gradient(squared)),
    "rules.node_perturbation": lambda: zeroth_order(
        rules.node_perturbation(linear_nodes, example_errors, 0.1, antithetic=True)
    ),
    "rules.noisy": lambda: AsStream(
        lambda key, step: jax.random.key_data(rules.noisy(lambda k, t: ())(key, step)[1])
    ),
    "rules.sigmoid_layers": lambda: AsFunction(rules.sigmoid_layers, (SIGMOIDS(), inputs())),
    "rules.knowledge_accumulation": lambda: AsFunction(
        lambda p, x: rules.knowledge_accumulation(
            {"params": p, "state": rules.sigmoid_layers(p, 2 * x)["outputs"]}, x
        ),
        (SIGMOIDS(), inputs()),
    ),
    "optimizers.three_term": lambda: AsFunction(
        three_steps(optimizers.three_term(0.01, 0.5, 0.3)), (start(),)
    ),
    "optimizers.ahead": lambda: AsFunction(
        lambda p: optimizers.ahead(three_steps(optimizers.three_term(0.01, 0.5))(p), 0.7),
        (start(),),
    ),
    "optimizers.nesterov_schedule": lambda: AsFunction(
        optimizers.nesterov_schedule, (jnp.asarray(4),)
    ),
    "optimizers.scalar_rmsprop": lambda: AsFunction(
        three_steps(optimizers.scalar_rmsprop(0.01, 0.9)), (start(),)
    ),
    "optimizers.kicks": lambda: AsFunction(
        lambda key, p: (
            three_steps(optax.chain(optax.sgd(0.01), optimizers.kicks(key, 0.1)))(p).params
        ),
        (jax.random.key(0), start()),
    ),
    "rules.self_distillation": self_distillation,
    "losses.latent_covariance_loss": lambda: AsFunction(
        lambda online, target: losses.latent_covariance_loss(models.product)(
            online, target, views()
        ),
        (distilled(), start()),
    ),
    "losses.latent_error": lambda: AsFunction(
        losses.latent_error(LINEAR.apply, lambda w, h: h @ w.T),
        (distilled(), best(), (inputs(), normal(4, 6, 3))),
    ),
    "rules.direct_predictor": lambda: AsFunction(
        lambda w: rules.direct_predictor(w @ w.T, 0.1), (normal(0, 3, 4),)
    ),
    "observables.mode_strengths": lambda: modes(observables.mode_strengths),
    "observables.leakage": lambda: modes(observables.leakage),
    "observables.alignment": lambda: modes(observables.alignment),
    "observables.singular_values": lambda: AsObserve(
        observables.singular_values(models.product), start()
    ),
    "observables.weight_distance": lambda: AsObserve(observables.weight_distance(best()), start()),
    "observables.loss": lambda: AsObserve(observables.loss(squared, data()), start()),
    "observables.gradient_norm": lambda: AsObserve(
        observables.gradient_norm(jax.grad(squared), data()), start()
    ),
    "observables.sharpness": lambda: AsObserve(
        observables.sharpness(squared, data(), depth=8), start()
    ),
    "analysis.with_tangents": lambda: AsFunction(
        lambda p, key: carried(p, key)[0](None, carried(p, key)[1]).params.growth,
        (start(), jax.random.key(0)),
    ),
    "analysis.tangent_growth": lambda: AsObserve(
        analysis.tangent_growth(), carried(start(), jax.random.key(0))[1].params
    ),
    "observables.hessian_eigenvalues": lambda: AsObserve(
        observables.hessian_eigenvalues(squared, data(), top=2, depth=8), start()
    ),
    "analysis.box_average": lambda: AsFunction(
        lambda x: analysis.box_average(x, 3)[1:4], (normal(0, 5, 2),)
    ),
    "observables.kernel_change": lambda: AsObserve(
        observables.kernel_change(LINEAR_NTK, best()), start()
    ),
    "observables.kernel_target_alignment": lambda: AsObserve(
        observables.kernel_target_alignment(LINEAR_NTK, data()[1]), start()
    ),
    "observables.hessian_index": lambda: AsObserve(
        observables.hessian_index(squared, data()), start()
    ),
    "observables.snapshot": lambda: AsObserve(observables.snapshot(squared, data()), start()),
    "analysis.saddle_records": lambda: AsFunction(
        analysis.saddle_records, (-jnp.arange(9.0), jnp.exp(3 * jnp.sin(jnp.arange(9.0))))
    ),
    "analysis.plateaus": lambda: AsFunction(
        analysis.plateaus, (jnp.arange(4.0), jnp.array([3.0, 3.0, 1.0, 0.0]))
    ),
    "analysis.project_to_saddle": lambda: AsFunction(
        lambda p: analysis.project_to_saddle(squared, p, data(), steps=1, products=3), (best(),)
    ),
    "observables.effective_width": lambda: AsObserve(
        observables.effective_width(lambda p: p[0]), start()
    ),
    "observables.clusters": lambda: AsObserve(
        observables.clusters(lambda p: (p[0], p[1][0]), radius=0.5), start()
    ),
    "observables.rank_distance": lambda: AsObserve(
        observables.rank_distance(models.product, 1), start()
    ),
    "observables.charges": lambda: AsObserve(
        observables.charges(lambda p: p[0] @ p[0].T - p[1].T @ p[1], squared, data(), start()),
        start(),
    ),
    "analysis.saddle_table": lambda: AsAnalysis(analysis.saddle_table),
    "observables.combine": lambda: AsObserve(
        observables.combine(observables.loss(squared, data()), observables.weight_distance(best())),
        start(),
    ),
    "observables.prefixed": lambda: AsObserve(
        observables.prefixed("test_", observables.loss(squared, data())), start()
    ),
    "observables.sample_losses": lambda: AsObserve(
        observables.sample_losses(squared, data()), start()
    ),
    "analysis.opposing_groups": lambda: AsFunction(
        lambda losses: analysis.opposing_groups(losses, 3), (normal(0, 6, 5),)
    ),
    "tasks.covariances": lambda: AsFunction(tasks.covariances, data()),
    "tasks.linear_teacher": lambda: AsFunction(tasks.linear_teacher, (normal(0, 2, 3),)),
    "tasks.frames": lambda: AsFunction(
        lambda key: tasks.frames(key, (3, 4, 2), 2), (jax.random.key(0),)
    ),
    "tasks.from_svd": lambda: AsFunction(
        tasks.from_svd, (normal(0, 4, 2), normal(1, 2), normal(2, 3, 2))
    ),
    "tasks.binary_tree": lambda: AsFunction(lambda: tasks.binary_tree(2), ()),
    "tasks.regression": lambda: AsFunction(
        lambda key, v: tasks.regression(key, 5, v, (3, 2), 1.0, noise=0.1, start=0.5),
        (jax.random.key(0), jnp.array([1.0, 0.1])),
    ),
    "tasks.teacher_student": lambda: AsFunction(
        lambda key, snr: tasks.teacher_student(key, 4, 5, snr=snr, inr=0.5),
        (jax.random.key(0), jnp.array(2.0)),
    ),
    "tasks.noisy_copies": lambda: AsFunction(tasks.noisy_copies, (jnp.eye(2), 2 * jnp.eye(2))),
    "tasks.successive_states": lambda: AsFunction(
        tasks.successive_states, (jnp.array([[0.5, 0.2], [0.0, 0.3]]), jnp.eye(2))
    ),
    "tasks.gaussian_pairs": lambda: AsFunction(
        lambda key: tasks.gaussian_pairs(key, views(), 4), (jax.random.key(0),)
    ),
    "tasks.in_context_regression": lambda: AsFunction(
        lambda key, xx: tasks.in_context_regression(key, 4, 3, xx),
        (jax.random.key(0), 2 * jnp.eye(2)),
    ),
    "tasks.in_context_features": lambda: AsFunction(
        tasks.in_context_features, tuple(PROMPTS()[:3])
    ),
    "tasks.in_context_moments": lambda: AsFunction(
        lambda xx: tasks.in_context_moments(xx, 5), (2 * jnp.eye(2),)
    ),
    "tasks.labelled": lambda: AsFunction(
        lambda key: tasks.labelled(key, lambda x: LINEAR.apply(best(), x), 4, 3, noise=0.1),
        (jax.random.key(0),),
    ),
    "tasks.full_batch": lambda: AsStream(tasks.full_batch(data())),
    "tasks.two_clusters": lambda: AsFunction(
        lambda key: tasks.two_clusters(key, 6, 3, sigma=0.5, flipped=0.3), (jax.random.key(0),)
    ),
    "tasks.opposing_outliers": lambda: AsFunction(
        lambda key, size: tasks.opposing_outliers(key, 3, 2, 2, size=size),
        (jax.random.key(0), jnp.array(6.0)),
    ),
    "tasks.online": lambda: AsStream(tasks.online(lambda key: jax.random.normal(key, (3,)))),
    "tasks.minibatch": lambda: AsStream(tasks.minibatch(data(), 2)),
    "tasks.epochs": lambda: AsStream(tasks.epochs(jax.random.key(0), data(), 4)),
}
