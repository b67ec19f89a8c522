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


EXAMPLES = {}


def example(name):
    """Enter a function that makes an example into the table, under the public function's name."""

    def enter(make):
        assert name not in EXAMPLES, f"{name} has an example already"
        EXAMPLES[name] = make
        return make

    return enter


# What many examples share: one small linear network, its data and its teacher.

LINEAR = models.deep_linear((3, 4, 2))
squared = losses.squared_error(LINEAR.apply)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape, jnp.float32).astype(float)


def start():
    return LINEAR.init(jax.random.key(0))


def best():
    return LINEAR.init(jax.random.key(2))


def inputs():
    return normal(1, 6, 3)


def contexts():
    """What gates the network at each input."""
    return normal(4, 6, 2)


def data():
    return (inputs(), LINEAR.apply(best(), inputs()))


# Models.

ROUTES = ((0, 0), (0, 1))
GATED = models.gated_linear((3, 4, 2), ROUTES)
UNITS = models.two_layer(4, 3, activation=jax.nn.relu, patches=2)
HEADS = models.in_context_attention(3, 2, rank=2)


def target_frames():
    return tasks.frames(jax.random.key(3), (3, 4, 2), 2)


def prompts():
    covariance = jnp.diag(jnp.array([1.0, 0.5, 0.2]))
    return tasks.in_context_regression(jax.random.key(1), 5, 4, covariance)


def prompt_inputs():
    return tuple(prompts()[:3])


def square_layer(key):
    return models.deep_linear((4, 4)).init(key)[0]


@example("models.deep_linear")
def deep_linear():
    return AsModel(LINEAR, inputs())


@example("models.mlp")
def mlp():
    model = models.mlp((3, 4, 2), bias_scale=0.1)
    return AsModel(model, inputs())


@example("models.from_linen")
def from_linen():
    dtype = jnp.result_type(float)
    module = linen.Dense(2, dtype=dtype, param_dtype=dtype)
    return AsModel(models.from_linen(module, inputs()), inputs())


@example("models.from_nnx")
def from_nnx():
    def dense(rngs):
        dtype = jnp.result_type(float)
        return nnx.Linear(3, 2, rngs=rngs, dtype=dtype, param_dtype=dtype)

    return AsModel(models.from_nnx(dense), inputs())


@example("models.from_layers")
def from_layers():
    model = models.from_layers(kernels.dense(2), (3,))
    return AsModel(model, inputs())


@example("models.diagonal_linear")
def diagonal_linear():
    return AsModel(models.diagonal_linear(3), inputs())


@example("models.two_layer")
def two_layer():
    return AsModel(UNITS, normal(1, 6, 4))


@example("models.two_layer_product")
def two_layer_product():
    params = {"u": normal(0, 3, 2), "v": normal(1, 3, 2)}
    return AsFunction(models.two_layer_product, (params,))


@example("models.in_context_attention")
def in_context_attention():
    model = models.in_context_attention(3, 2, softmax=True)
    return AsModel(model, prompt_inputs())


@example("models.attention_heads")
def attention_heads():
    params = HEADS.init(jax.random.key(0))
    return AsFunction(models.attention_heads, (params,))


@example("models.attention_product")
def attention_product():
    params = HEADS.init(jax.random.key(0))
    return AsFunction(models.attention_product, (params,))


@example("models.product")
def product():
    return AsFunction(models.product, (start(),))


@example("models.orthogonal")
def orthogonal():
    def draw(key):
        return models.orthogonal(key, 4, 3)

    return AsFunction(draw, (jax.random.key(0),))


@example("models.aligned")
def aligned():
    strengths = jnp.array([2.0, 1.0])
    return AsFunction(models.aligned, (target_frames(), strengths))


@example("models.gated_linear")
def gated_linear():
    return AsModel(GATED, (inputs(), contexts()))


@example("models.gated_product")
def gated_product():
    def along_routes(weights):
        return models.gated_product(weights, ROUTES)

    return AsFunction(along_routes, (GATED.init(jax.random.key(0)),))


@example("models.gated_inputs")
def gated_inputs():
    return AsFunction(models.gated_inputs, (inputs(), contexts()))


@example("models.lambda_balanced")
def lambda_balanced():
    def draw(key, imbalance):
        return models.lambda_balanced(key, (3, 2, 4), imbalance)

    return AsFunction(draw, (jax.random.key(0), jnp.array(0.5)))


@example("models.product_to_depth")
def product_to_depth():
    def of_repeated(layer):
        return models.product_to_depth([layer] * 3, 2)

    return AsFunction(of_repeated, (normal(0, 3, 3),))


@example("models.propagate")
def propagate():
    def through_three(key, hidden):
        return models.propagate(key, square_layer, hidden, depth=3)

    return AsFunction(through_three, (jax.random.key(0), normal(0, 4)))


@example("models.product_exponents")
def product_exponents():
    def of_three(key):
        return models.product_exponents(key, square_layer, width=4, depth=3)

    return AsFunction(of_three, (jax.random.key(0),))


# Losses.


def moments():
    teacher = models.product(LINEAR.init(jax.random.key(2)))
    return tasks.linear_teacher(teacher)


def distilled():
    return {"encoder": start(), "predictor": normal(5, 2, 2), "target": best()}


def views():
    variances = jnp.array([1.0, 2.0, 0.5])
    return tasks.noisy_copies(jnp.diag(variances), jnp.eye(3))


@example("losses.covariance_loss")
def covariance_loss():
    loss = losses.covariance_loss(models.product)
    return AsLoss(loss, start(), moments(), best())


@example("losses.squared_error")
def squared_error():
    return AsLoss(squared, start(), data(), best())


@example("losses.cross_entropy")
def cross_entropy():
    loss = losses.cross_entropy(LINEAR.apply)
    x, outputs = data()
    labels = jnp.argmax(outputs, 1)
    return AsLoss(loss, start(), (x, labels), best())


@example("losses.teacher_loss")
def teacher_loss():
    loss = losses.teacher_loss("relu", patches=2)
    student = UNITS.init(jax.random.key(0))
    teacher = UNITS.init(jax.random.key(1))
    return AsLoss(loss, student, batch=teacher, best=teacher)


@example("losses.latent_covariance_loss")
def latent_covariance_loss():
    loss = losses.latent_covariance_loss(models.product)

    def of_views(online, target):
        return loss(online, target, views())

    return AsFunction(of_views, (distilled(), start()))


@example("losses.latent_error")
def latent_error():
    def predict(weights, latent):
        return latent @ weights.T

    loss = losses.latent_error(LINEAR.apply, predict)
    pair = (inputs(), normal(4, 6, 3))
    return AsFunction(loss, (distilled(), best(), pair))


# Rules.


def zeroth_order(field):
    """The mean of many estimates, which descends; a single one need not."""
    keys = jax.random.split(jax.random.key(0), 400)

    def mean(params, batch):
        estimates = jax.vmap(lambda key: field(params, (batch, key)))(keys)
        return jax.tree.map(lambda a: jnp.mean(a, 0), estimates)

    return AsField(mean, start(), data(), lambda params: squared(params, data()))


def sigmoid_network():
    return models.mlp((3, 4, 2)).init(jax.random.key(0))


@example("rules.with_state")
def with_state():
    """Linear regression beside a running average of its weights."""

    def average(memory, current):
        return 0.9 * memory + 0.1 * current

    def loss(params, batch):
        averaged = jax.tree.map(average, params["state"], best())
        return squared(params["params"], batch), averaged

    def descended(params):
        return squared(params["params"], data())

    params = {"params": start(), "state": best()}
    return AsField(rules.with_state(loss), params, data(), descended)


@example("rules.early_learning")
def early_learning():
    x = inputs()
    labels = jnp.array([0, 1, 1, 0, 1, 0])
    memory = jax.nn.softmax(normal(5, 6, 2))
    params = {"params": start(), "state": memory}
    batch = (x, labels, jnp.arange(6))
    beliefs = jax.nn.softmax(LINEAR.apply(start(), x))
    targets = 0.7 * memory + 0.3 * beliefs

    def loss(params):
        probabilities = jax.nn.softmax(LINEAR.apply(params["params"], x))
        agreement = jnp.sum(targets * probabilities, 1)
        fitted = losses.cross_entropy(LINEAR.apply)(params["params"], (x, labels))
        return fitted + 2 * jnp.mean(jnp.log(1 - agreement))

    field = rules.early_learning(LINEAR.apply, 2.0, 0.7)
    return AsField(field, params, batch, loss)


@example("rules.sign_diverse")
def sign_diverse():
    signs = [jnp.ones((1, 3)), jnp.array([[1.0, 1, 1, -1]])]
    field = rules.sign_diverse(jax.grad(squared), signs)
    return AsField(field, start(), data(), None)


@example("rules.weight_perturbation")
def weight_perturbation():
    field = rules.weight_perturbation(squared, 0.1, antithetic=True)
    return zeroth_order(field)


@example("rules.forward_gradient")
def forward_gradient():
    return zeroth_order(rules.forward_gradient(squared))


@example("rules.node_perturbation")
def node_perturbation():
    def nodes(weights, x, noise):
        def add(layer, a):
            return a if noise is None else a + noise[layer]

        hidden = add(0, x @ weights[0].T)
        outputs = add(1, jax.lax.stop_gradient(hidden) @ weights[1].T)
        return outputs, [hidden, outputs]

    def errors(outputs, y):
        return jnp.sum((y - outputs) ** 2, 1) / 2

    field = rules.node_perturbation(nodes, errors, 0.1, antithetic=True)
    return zeroth_order(field)


@example("rules.noisy")
def noisy():
    def no_data(key, step):
        return ()

    def draw(key, step):
        _, noise = rules.noisy(no_data)(key, step)
        return jax.random.key_data(noise)

    return AsStream(draw)


@example("rules.sigmoid_layers")
def sigmoid_layers():
    return AsFunction(rules.sigmoid_layers, (sigmoid_network(), inputs()))


@example("rules.knowledge_accumulation")
def knowledge_accumulation():
    def after_twice_the_input(params, x):
        memory = rules.sigmoid_layers(params, 2 * x)["outputs"]
        return rules.knowledge_accumulation({"params": params, "state": memory}, x)

    return AsFunction(after_twice_the_input, (sigmoid_network(), inputs()))


@example("rules.self_distillation")
def self_distillation():
    """Multiplier and decay at which the field is still a gradient: of the loss for a constant
    target."""
    latent_loss = losses.latent_covariance_loss(models.product)
    params = distilled()

    def decay(w):
        decayed = jax.tree.leaves([w["encoder"], w["predictor"]])
        return 0.05 * sum(jnp.sum(a**2) for a in decayed)

    def loss(w):
        return latent_loss(w, params["target"], views()) + decay(w)

    field = rules.self_distillation(latent_loss, target_rate=0.1, weight_decay=0.1)
    return AsField(field, params, views(), loss)


@example("rules.direct_predictor")
def direct_predictor():
    def of_correlation(w):
        return rules.direct_predictor(w @ w.T, 0.1)

    return AsFunction(of_correlation, (normal(0, 3, 4),))


# Optimizers.


def three_steps(optimizer):
    """The state after three steps down a quartic."""

    def slope(params, _):
        return jax.tree.map(lambda a: a**3, params)

    def no_data(key, step):
        return ()

    def nothing(state):
        return {}

    def descend(params):
        run = jd.train(slope, optimizer, no_data, params, times=[3], observe=nothing)
        return run.final

    return descend


@example("optimizers.keep_norms")
def keep_norms():
    optimizer = optax.chain(optax.sgd(0.01), optimizers.keep_norms())
    return AsFunction(three_steps(optimizer), (start(),))


@example("optimizers.three_term")
def three_term():
    optimizer = optimizers.three_term(0.01, 0.5, 0.3)
    return AsFunction(three_steps(optimizer), (start(),))


@example("optimizers.ahead")
def ahead():
    optimizer = optimizers.three_term(0.01, 0.5)

    def look_ahead(params):
        state = three_steps(optimizer)(params)
        return optimizers.ahead(state, 0.7)

    return AsFunction(look_ahead, (start(),))


@example("optimizers.nesterov_schedule")
def nesterov_schedule():
    return AsFunction(optimizers.nesterov_schedule, (jnp.asarray(4),))


@example("optimizers.scalar_rmsprop")
def scalar_rmsprop():
    optimizer = optimizers.scalar_rmsprop(0.01, 0.9)
    return AsFunction(three_steps(optimizer), (start(),))


@example("optimizers.kicks")
def kicks():
    def kicked(key, params):
        optimizer = optax.chain(optax.sgd(0.01), optimizers.kicks(key, 0.1))
        return three_steps(optimizer)(params).params

    return AsFunction(kicked, (jax.random.key(0), start()))


# Observables.


def tangent_kernel(params):
    return kernels.empirical.ntk(LINEAR.apply, params, inputs())


def modes(observable):
    """An observable of the modes of the network's product in the target's frames."""
    frames = target_frames()
    observe = observable(models.product, frames[-1], frames[0])
    return AsObserve(observe, start())


@example("observables.mode_strengths")
def mode_strengths():
    return modes(observables.mode_strengths)


@example("observables.leakage")
def leakage():
    return modes(observables.leakage)


@example("observables.alignment")
def alignment():
    return modes(observables.alignment)


@example("observables.singular_values")
def singular_values():
    observe = observables.singular_values(models.product)
    return AsObserve(observe, start())


@example("observables.weight_distance")
def weight_distance():
    observe = observables.weight_distance(best())
    return AsObserve(observe, start())


@example("observables.loss")
def loss():
    observe = observables.loss(squared, data())
    return AsObserve(observe, start())


@example("observables.gradient_norm")
def gradient_norm():
    observe = observables.gradient_norm(jax.grad(squared), data())
    return AsObserve(observe, start())


@example("observables.sharpness")
def sharpness():
    observe = observables.sharpness(squared, data(), depth=8)
    return AsObserve(observe, start())


@example("observables.hessian_eigenvalues")
def hessian_eigenvalues():
    observe = observables.hessian_eigenvalues(squared, data(), top=2, depth=8)
    return AsObserve(observe, start())


@example("observables.hessian_index")
def hessian_index():
    observe = observables.hessian_index(squared, data())
    return AsObserve(observe, start())


@example("observables.snapshot")
def snapshot():
    observe = observables.snapshot(squared, data())
    return AsObserve(observe, start())


@example("observables.kernel_change")
def kernel_change():
    observe = observables.kernel_change(tangent_kernel, best())
    return AsObserve(observe, start())


@example("observables.kernel_target_alignment")
def kernel_target_alignment():
    _, targets = data()
    observe = observables.kernel_target_alignment(tangent_kernel, targets)
    return AsObserve(observe, start())


@example("observables.effective_width")
def effective_width():
    observe = observables.effective_width(lambda weights: weights[0])
    return AsObserve(observe, start())


@example("observables.clusters")
def clusters():
    def units(weights):
        return weights[0], weights[1][0]

    observe = observables.clusters(units, radius=0.5)
    return AsObserve(observe, start())


@example("observables.rank_distance")
def rank_distance():
    observe = observables.rank_distance(models.product, 1)
    return AsObserve(observe, start())


@example("observables.charges")
def charges():
    def imbalance(weights):
        first, second = weights
        return first @ first.T - second.T @ second

    observe = observables.charges(imbalance, squared, data(), start())
    return AsObserve(observe, start())


@example("observables.combine")
def combine():
    of_loss = observables.loss(squared, data())
    of_distance = observables.weight_distance(best())
    return AsObserve(observables.combine(of_loss, of_distance), start())


@example("observables.prefixed")
def prefixed():
    of_loss = observables.loss(squared, data())
    return AsObserve(observables.prefixed("test_", of_loss), start())


@example("observables.sample_losses")
def sample_losses():
    observe = observables.sample_losses(squared, data())
    return AsObserve(observe, start())


# Analysis.


def carried(params, key):
    """A map of gradient descent that carries two tangents, and its start."""
    optimizer = optax.sgd(0.1, momentum=0.9)
    step = jd.descent(jax.grad(squared), optimizer, tasks.full_batch(data()))
    begin = jd.State(jnp.asarray(0), params, optimizer.init(params))
    return analysis.with_tangents(step, begin, 2, key=key)


@example("analysis.with_tangents")
def with_tangents():
    def growth(params, key):
        step, begin = carried(params, key)
        return step(None, begin).params.growth

    return AsFunction(growth, (start(), jax.random.key(0)))


@example("analysis.tangent_growth")
def tangent_growth():
    _, begin = carried(start(), jax.random.key(0))
    return AsObserve(analysis.tangent_growth(), begin.params)


@example("analysis.box_average")
def box_average():
    def whole_boxes(x):
        return analysis.box_average(x, 3)[1:4]

    return AsFunction(whole_boxes, (normal(0, 5, 2),))


@example("analysis.saddle_records")
def saddle_records():
    time = jnp.arange(9.0)
    gradient_norm = jnp.exp(3 * jnp.sin(time))
    return AsFunction(analysis.saddle_records, (-time, gradient_norm))


@example("analysis.plateaus")
def plateaus():
    recorded = jnp.array([3.0, 3.0, 1.0, 0.0])
    return AsFunction(analysis.plateaus, (jnp.arange(4.0), recorded))


@example("analysis.project_to_saddle")
def project_to_saddle():
    def project(params):
        return analysis.project_to_saddle(squared, params, data(), steps=1, products=3)

    return AsFunction(project, (best(),))


@example("analysis.saddle_table")
def saddle_table():
    return AsAnalysis(analysis.saddle_table)


@example("analysis.opposing_groups")
def opposing_groups():
    def of_three(recorded):
        return analysis.opposing_groups(recorded, 3)

    return AsFunction(of_three, (normal(0, 6, 5),))


# Tasks.


@example("tasks.covariances")
def covariances():
    return AsFunction(tasks.covariances, data())


@example("tasks.linear_teacher")
def linear_teacher():
    return AsFunction(tasks.linear_teacher, (normal(0, 2, 3),))


@example("tasks.frames")
def frames():
    def draw(key):
        return tasks.frames(key, (3, 4, 2), 2)

    return AsFunction(draw, (jax.random.key(0),))


@example("tasks.from_svd")
def from_svd():
    outputs = normal(0, 4, 2)
    strengths = normal(1, 2)
    return AsFunction(tasks.from_svd, (outputs, strengths, normal(2, 3, 2)))


@example("tasks.binary_tree")
def binary_tree():
    return AsFunction(lambda: tasks.binary_tree(2), ())


@example("tasks.regression")
def regression():
    def draw(key, variances):
        return tasks.regression(key, 5, variances, (3, 2), 1.0, noise=0.1, start=0.5)

    return AsFunction(draw, (jax.random.key(0), jnp.array([1.0, 0.1])))


@example("tasks.teacher_student")
def teacher_student():
    def draw(key, snr):
        return tasks.teacher_student(key, 4, 5, snr=snr, inr=0.5)

    return AsFunction(draw, (jax.random.key(0), jnp.array(2.0)))


@example("tasks.noisy_copies")
def noisy_copies():
    return AsFunction(tasks.noisy_copies, (jnp.eye(2), 2 * jnp.eye(2)))


@example("tasks.successive_states")
def successive_states():
    transition = jnp.array([[0.5, 0.2], [0.0, 0.3]])
    return AsFunction(tasks.successive_states, (transition, jnp.eye(2)))


@example("tasks.gaussian_pairs")
def gaussian_pairs():
    def draw(key):
        return tasks.gaussian_pairs(key, views(), 4)

    return AsFunction(draw, (jax.random.key(0),))


@example("tasks.in_context_regression")
def in_context_regression():
    def draw(key, covariance):
        return tasks.in_context_regression(key, 4, 3, covariance)

    return AsFunction(draw, (jax.random.key(0), 2 * jnp.eye(2)))


@example("tasks.in_context_features")
def in_context_features():
    return AsFunction(tasks.in_context_features, prompt_inputs())


@example("tasks.in_context_moments")
def in_context_moments():
    def of_five(covariance):
        return tasks.in_context_moments(covariance, 5)

    return AsFunction(of_five, (2 * jnp.eye(2),))


@example("tasks.labelled")
def labelled():
    def teacher(x):
        return LINEAR.apply(best(), x)

    def draw(key):
        return tasks.labelled(key, teacher, 4, 3, noise=0.1)

    return AsFunction(draw, (jax.random.key(0),))


@example("tasks.full_batch")
def full_batch():
    return AsStream(tasks.full_batch(data()))


@example("tasks.two_clusters")
def two_clusters():
    def draw(key):
        return tasks.two_clusters(key, 6, 3, sigma=0.5, flipped=0.3)

    return AsFunction(draw, (jax.random.key(0),))


@example("tasks.opposing_outliers")
def opposing_outliers():
    def draw(key, size):
        return tasks.opposing_outliers(key, 3, 2, 2, size=size)

    return AsFunction(draw, (jax.random.key(0), jnp.array(6.0)))


@example("tasks.online")
def online():
    def draw(key):
        return jax.random.normal(key, (3,))

    return AsStream(tasks.online(draw))


@example("tasks.minibatch")
def minibatch():
    return AsStream(tasks.minibatch(data(), 2))


@example("tasks.epochs")
def epochs():
    return AsStream(tasks.epochs(jax.random.key(0), data(), 4))
