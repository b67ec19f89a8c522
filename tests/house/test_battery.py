"""What holds for every model, rule, observable and stream; one joins by existing."""

import importlib
import inspect
import pkgutil
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from examples import EXAMPLES, AsField, AsFunction, AsLoss, AsModel, AsObserve, AsStream
from jax.flatten_util import ravel_pytree

import jaxdyn as jd

with jax.enable_x64(False):
    KINDS = {name: type(make()) for name, make in EXAMPLES.items()}


def every(*kinds):
    """The names of all examples of these kinds, as the argument `name` of a test."""
    names = [name for name, kind in KINDS.items() if kind in kinds]
    return pytest.mark.parametrize("name", names)


ROOMS = ("models", "losses", "rules", "optimizers", "observables", "analysis", "tasks")


def public_functions():
    for room in ROOMS:
        package = importlib.import_module(f"jaxdyn.{room}")
        for info in pkgutil.walk_packages(getattr(package, "__path__", []), f"{package.__name__}."):
            module = importlib.import_module(info.name)
            for name in module.__all__:
                if inspect.isfunction(getattr(module, name)):
                    assert name in package.__all__
        for name in package.__all__:
            if inspect.isfunction(getattr(package, name)):
                yield room, name


def close(a, b, slack=100):
    """Equal to `slack` roundings of the values' size."""
    chex.assert_trees_all_equal_shapes_and_dtypes(a, b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(jnp.result_type(x), jnp.inexact):
            rounding = jnp.finfo(x.dtype).eps
            size = max(1.0, float(jnp.max(jnp.abs(x))))
            tolerance = slack * rounding * size
            np.testing.assert_allclose(x, y, rtol=0, atol=tolerance)
        else:
            np.testing.assert_array_equal(x, y)


def two(tree):
    """Two of everything along a new first axis, the second one different."""

    def another(a):
        if jnp.issubdtype(a.dtype, jnp.inexact):
            return a * 1.25
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            return jax.random.split(a)[0]
        return a * 3 // 2

    def pair(a):
        return jnp.stack([a, another(a)])

    return jax.tree.map(pair, tree)


def one(tree, index):
    return jax.tree.map(lambda a: a[index], tree)


def mapped_is_single(function, args):
    """Check jit against plain, and vmap against one by one."""
    compiled = jax.jit(function)
    close(compiled(*args), function(*args))
    if args:
        both = two(args)
        together = jax.jit(jax.vmap(function))(*both)
        for index in range(2):
            expected = compiled(*one(both, index))
            close(one(together, index), expected)


def test_every_public_function_has_an_example_and_is_exported():
    found = {f"{folder}.{name}" for folder, name in public_functions()}
    assert found == set(EXAMPLES), "add to (or remove from) tests/examples.py what differs"
    for folder, name in public_functions():
        assert name in importlib.import_module(f"jaxdyn.{folder}").__all__


def test_imports_are_cheap():
    code = "import sys, jaxdyn.models, jaxdyn.rules, jaxdyn.observables, jaxdyn.tasks; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert not {"flax", "matfree", "diffrax", "scipy.linalg", "xarray"} & set(loaded)


def computed_by(example):
    """What an example computes, of whatever kind it is."""
    if isinstance(example, AsModel):
        params = example.model.init(jax.random.key(0))
        return params, example.model.apply(params, example.x)
    if isinstance(example, AsFunction):
        return example.function(*example.args)
    if isinstance(example, AsLoss):
        return jax.value_and_grad(example.loss)(example.params, example.batch)
    if isinstance(example, AsField):
        return example.field(example.params, example.batch)
    if isinstance(example, AsObserve):
        return example.observe(jd.State(jnp.asarray(0), example.params))
    assert isinstance(example, AsStream)
    return example.stream(jax.random.key(0), jnp.asarray(5))


@every(AsModel, AsFunction, AsLoss, AsField, AsObserve, AsStream)
def test_the_precision_is_the_callers(name, precision):
    example = EXAMPLES[name]()
    shapes = jax.eval_shape(lambda: computed_by(example))
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(shapes)}
    assert {dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.inexact)} <= {precision}


@every(AsModel)
def test_models_are_pure_and_differentiable(name):
    model, x = EXAMPLES[name]()
    keys = jax.random.split(jax.random.key(0))
    seeds = jax.jit(jax.vmap(model.init))(keys)
    params = jax.jit(model.init)(keys[0])
    close(one(seeds, 0), params)
    computed = model.init(keys[0])
    close(computed, params)
    assert any(jnp.any(a[0] != a[1]) for a in jax.tree.leaves(seeds))
    mapped_is_single(lambda p: model.apply(p, x), (params,))

    def squared_norm(params):
        return jnp.sum(model.apply(params, x) ** 2)

    gradient = jax.jit(jax.grad(squared_norm))(params)
    chex.assert_tree_all_finite(gradient)
    largest = [float(jnp.max(jnp.abs(a))) for a in jax.tree.leaves(gradient)]
    assert max(largest) > 0


@every(AsFunction)
def test_functions_are_pure(name):
    mapped_is_single(*EXAMPLES[name]())


@every(AsLoss)
def test_losses_are_scalars_lower_at_better_parameters(name):
    loss, params, batch, best = EXAMPLES[name]()
    mapped_is_single(lambda p: loss(p, batch), (params,))
    assert loss(params, batch).shape == ()
    assert loss(best, batch) < loss(params, batch)


@pytest.mark.usefixtures("x64")
@every(AsLoss, AsField)
def test_fields_point_up_the_finite_difference_gradient(name):
    example = EXAMPLES[name]()
    if isinstance(example, AsLoss):
        field = jax.grad(example.loss)

        def loss(params):
            return example.loss(params, example.batch)
    else:
        field = example.field
        loss = example.loss
    updates = jax.jit(field)(example.params, example.batch)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, example.params)
    expected = field(example.params, example.batch)
    close(updates, expected)
    if loss is None:
        return
    flat, unravel = ravel_pytree(example.params)

    def shifted_loss(shift):
        return loss(unravel(flat + shift))

    shifts = 1e-5 * jnp.eye(flat.size)
    value = jax.jit(jax.vmap(shifted_loss))
    slope = (value(shifts) - value(-shifts)) / 2e-5
    flat_updates, _ = ravel_pytree(updates)
    along = jnp.where(slope == 0, 0, flat_updates)
    lengths = jnp.linalg.norm(slope) * jnp.linalg.norm(along)
    cosine = jnp.vdot(slope, along) / lengths
    # A gradient is parallel to it to the differences' own error h^2; another rule need only
    # descend.
    assert cosine > (1 - 1e-8 if isinstance(example, AsLoss) else 0)


@every(AsObserve)
def test_observables_return_arrays_that_jit_and_vmap_and_leave_the_run_alone(name):
    observe, params = EXAMPLES[name]()

    def see(p):
        state = jd.State(jnp.asarray(0), p)
        return observe(state)

    seen = see(params)
    assert all(isinstance(key, str) and isinstance(value, jax.Array) for key, value in seen.items())
    assert seen
    chex.assert_tree_all_finite(seen)
    # Eigenvalues and singular vectors amplify rounding by the inverse of their gaps, tens here.
    computed = jax.jit(see)(params)
    close(computed, seen, slack=1000)
    together = jax.jit(jax.vmap(see))(two(params))
    close(one(together, 0), seen, slack=1000)

    def towards_zero(params, _):
        return params

    def no_data(key, step):
        return None

    def decay(observe):
        times = np.array([0, 3])
        optimizer = optax.sgd(0.1)
        return jd.train(towards_zero, optimizer, no_data, params, times=times, observe=observe)

    run = decay(jd.at([0], observe))
    plain = decay(lambda state: {})
    chex.assert_trees_all_equal(run.final, plain.final)
    computed = one(run.observed, 0)
    close(computed, seen, slack=1000)


@every(AsStream)
def test_streams_are_pure_and_feed_a_sweep(name):
    stream = EXAMPLES[name]().stream
    key = jax.random.key(0)
    step = jnp.asarray(5)
    batch = stream(key, step)
    again = stream(key, step)
    close(batch, again, slack=0)
    computed = jax.jit(stream)(key, step)
    close(computed, batch)

    def mean(batch):
        return sum(jnp.mean(a) for a in jax.tree.leaves(batch))

    def field(p, batch):
        return p - mean(batch)

    def observe(state):
        return {"p": state.params}

    def simulate(key):
        start = jnp.asarray(0.0)
        times = np.array([0, 4])
        optimizer = optax.sgd(0.1)
        return jd.train(field, optimizer, stream, start, times=times, observe=observe, key=key)

    keys = jax.random.split(key, 3)
    runs = jax.jit(jax.vmap(simulate))(keys).observed["p"]
    by_hand = jnp.asarray(0.0)
    for t in range(4):
        batch = stream(jd.step_key(keys[1], t), jnp.asarray(t))
        by_hand -= 0.1 * field(by_hand, batch)
    close(runs[1, 1], by_hand)
