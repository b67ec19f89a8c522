"""What beginners get wrong: each mistake is met with what is wrong, where, and what to do, before
anything runs.

Run as a script, without the type checks of the tests, as a user would: it prints the messages as
JSON.
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdyn as jd
from jaxdyn import kernels, losses, models, plot, results, tasks, theory
from jaxdyn.sweep import _store

ROOT = Path(__file__).parents[2]
MODEL = models.mlp((3, 4, 1))
DATA = np.ones((5, 3), np.float32), np.ones((5, 1), np.float32)
LOSS = losses.squared_error(MODEL.apply)
LAYERS = kernels.serial(kernels.dense(), kernels.relu(), kernels.dense())
MISTAKES = {}


def mistake(*phrases):
    """Note a mistake and phrases of its message."""

    def note(function):
        MISTAKES[function.__name__] = function, phrases
        return function

    return note


def train(**changes):
    """Train, but for what is done wrong."""
    right = {
        "field": jax.grad(LOSS),
        "optimizer": optax.sgd(0.1),
        "stream": tasks.full_batch(DATA),
        "start": MODEL.init(jax.random.key(0)),
        "times": [0, 1, 2],
        "observe": lambda state: {"loss": LOSS(state.params, DATA)},
    }
    return jd.train(**(right | changes))


def flow(**changes):
    right = {"field": lambda w, _: w, "batch": (), "start": jnp.ones(2), "times": [0.0, 1.0]}
    return jd.flow(**(right | {"observe": lambda state: {"w": state.params}} | changes))


def decay(key, *, rate):
    """A right experiment."""
    return {"a": rate * jax.random.normal(key)}


def sweep(experiment=decay, axes={"rate": [0.1, 0.2]}, **options):
    return jd.sweep(experiment, axes, **({"seeds": 2} | options))


@mistake("field", "loss has the shape (5, 1)", "the mean over examples")
def a_loss_that_returns_a_vector():
    field = jax.grad(lambda params, batch: (MODEL.apply(params, batch[0]) - batch[1]) ** 2)
    train(field=field)


@mistake("field", "takes (params)", "(params, batch)")
def a_loss_without_its_batch():
    field = jax.grad(lambda params: jnp.sum(params["weights"][0] ** 2))
    train(field=field)


@mistake("field", "jax.grad(loss) in the place of a loss")
def a_loss_in_the_place_of_its_gradient():
    train(field=LOSS)


@mistake("field", "only the gradient of jax.value_and_grad")
def a_value_and_a_gradient():
    train(field=jax.value_and_grad(LOSS))


@mistake("field", "do not match the parameters", "'weights'")
def a_field_of_another_structure():
    train(field=lambda params, batch: params["weights"])


@mistake("field", "is a dict", "jax.grad(loss)")
def a_gradient_in_the_place_of_a_field():
    train(field=MODEL.init(jax.random.key(0)))


@mistake("times", "[0, 5, 2]", "not increasing", "np.unique")
def times_that_are_not_sorted():
    train(times=[0, 5, 2])


@mistake("times", "100", "1-D array")
def a_number_of_steps_in_the_place_of_times():
    train(times=100)


@mistake("times", "whole numbers of steps", "round")
def times_between_steps():
    train(times=[0, 0.5, 1])


@mistake("times", "3000000000", "fewer than 2^31")
def more_steps_than_can_be_counted():
    train(times=[0, 3_000_000_000])


@mistake("times", "before the start's time 10", "absolute")
def times_before_the_start():
    start = jd.State(10, MODEL.init(jax.random.key(0)))
    train(start=start)


@mistake("stream", "is a tuple", "tasks.full_batch(batch)")
def data_in_the_place_of_a_stream():
    train(stream=DATA)


@mistake("stream", "takes (key)", "(key, step) -> batch")
def a_stream_without_its_step():
    train(stream=lambda key: DATA)


@mistake("key", "None", "draws at random", "jax.random.key(0)")
def a_random_stream_without_a_key():
    train(stream=tasks.minibatch(DATA, 2))


@mistake("key", "is 0, an int", "jax.random.key(0)")
def a_seed_in_the_place_of_a_key():
    train(key=0)


@mistake("optimizer", "the function sgd", "optax.sgd(0.1)")
def an_optimiser_that_is_not_called():
    train(optimizer=optax.sgd)


@mistake("optimizer", "is 0.1, a float", "optax.sgd(0.1)")
def a_learning_rate_in_the_place_of_an_optimiser():
    train(optimizer=0.1)


@mistake("start", "the function init at Model.init", "model.init(key)")
def a_model_in_the_place_of_its_parameters():
    train(start=MODEL)


@mistake("start", "int32", "floats")
def parameters_that_are_whole_numbers():
    start = jnp.array([1, 2])
    train(start=start, field=lambda w, _: w)


@mistake("start", "int32", "floats")
def a_flow_of_whole_numbers():
    flow(start=jnp.array([1, 2]))


@mistake("observe", "returned list", "dict of arrays")
def an_observable_that_returns_a_list():
    train(observe=lambda state: [LOSS(state.params, DATA)])


@mistake("observe", "given a State", "state.params")
def an_observable_of_the_parameters():
    train(observe=lambda params: {"loss": LOSS(params, DATA)})


@mistake("observe", "'w' is dict", "own name")
def an_observable_that_is_a_tree():
    train(observe=lambda state: {"w": state.params})


@mistake("observe", "'time'", "choose another")
def an_observable_of_a_reserved_name():
    train(observe=lambda state: {"time": state.time})


@mistake("solver", "'rk4'", "RK4(step)")
def an_unknown_solver():
    flow(solver="rk4")


@mistake("solver", "the class RK4", "RK4(step)")
def a_solver_that_is_not_called():
    flow(solver=jd.RK4)


@mistake("step", "returned an array", "_replace(params=...)")
def a_step_that_returns_the_parameters():
    def observe(state):
        return {"w": state.params}

    jd.iterate(lambda key, state: 2 * state.params, jnp.ones(2), times=[0, 1], observe=observe)


@mistake("batch", "is a", "the pair (inputs, labels)")
def inputs_without_labels():
    train(stream=tasks.full_batch(DATA[0]))


@mistake("dims", "'a' has 0", "a tuple of names")
def a_dimension_that_is_no_name():
    sweep(dims={"a": 0})


@mistake("batch", "the function", "one batch")
def a_stream_in_the_place_of_a_batch():
    flow(batch=tasks.full_batch(DATA))


@mistake("axes", "no 'rte'", "did you mean 'rate'")
def an_axis_that_the_experiment_lacks():
    sweep(axes={"rte": [0.1]})


@mistake("axes", "is a list", "{name: values}")
def axes_in_a_list():
    sweep(axes=[("rate", [0.1])])


@mistake("axes", "'rate' is 0.1", "1-D list")
def an_axis_of_a_single_number():
    sweep(axes={"rate": 0.1})


@mistake("axes", "'rate'", "static={'rate': [...]}")
def a_python_if_on_a_swept_value():
    sweep(lambda key, *, rate: {"a": rate if rate > 0.1 else 2 * rate})


@mistake("axes", "'width'", "static={'width': [...]}")
def a_shape_that_is_swept():
    sweep(lambda key, *, width: {"a": jax.random.normal(key, (width,)).sum()}, {"width": [2, 3]})


@mistake("seeds", "0", ">= 1")
def no_seeds():
    sweep(seeds=0)


@mistake("seeds", "is a key", "number of seeds")
def a_key_in_the_place_of_seeds():
    sweep(seeds=jax.random.key(0))


@mistake("experiment", "needs 'key'", "seeds=n")
def seeds_forgotten():
    sweep(seeds=None)


@mistake("experiment", "is a dict", "the function itself")
def an_experiment_that_was_called():
    sweep(decay(jax.random.key(0), rate=0.1))


@mistake("experiment", "returned None", "Trajectory or a dict")
def a_return_forgotten():
    sweep(lambda key, *, rate: None)


@mistake("experiment", "returned an array", "dict of arrays by name")
def an_array_without_a_name():
    sweep(lambda key, *, rate: rate * jnp.ones(3))


@mistake("experiment", "'label' is 'a', a str", "no array")
def a_result_that_is_no_array():
    sweep(lambda key, *, rate: {"label": "a"})


@mistake("experiment", "np.random", "jax.random")
def numpy_random_numbers():
    sweep(lambda key, *, rate: {"a": rate * np.random.normal()})


@mistake("experiment", "jax.random", "SeedSequence")
def a_numpy_generator_from_the_key():
    sweep(lambda key, *, rate: {"a": np.random.default_rng(key).normal()})


@mistake("static", "'layers'", "{label: value}")
def a_static_value_without_a_label():
    sweep(functools.partial(decay, rate=1.0), {}, static={"layers": [[3, 4], [3, 5]]})


@mistake("static", "'rate' is 0.1", "{name: values}")
def a_static_value_that_is_no_list():
    sweep(axes={}, static={"rate": 0.1})


@mistake("dims", "'b' is not returned", "there is ['a', 'ok']")
def dimensions_of_what_is_not_returned():
    sweep(dims={"b": "unit"})


@mistake("on", "'cpu', a str", "Executor")
def a_device_in_the_place_of_an_executor():
    sweep(on="cpu")


@mistake("store", "holds another experiment", "choose another folder")
def a_store_of_another_experiment():
    with tempfile.TemporaryDirectory() as folder:
        for factor in (1.0, 2.0):
            jd.sweep(
                lambda *, a, factor=factor: {"b": factor * a}, {"a": [1.0]}, store=f"{folder}/store"
            )


@mistake("store", "written by another process", "wait")
def a_store_in_use():
    with tempfile.TemporaryDirectory() as folder, _store.locked(Path(folder)):
        jd.sweep(lambda *, a: {"b": a}, {"a": [1.0]}, store=folder)


@mistake("path", "holds no results")
def results_that_are_not_there():
    results.open("nowhere")


@mistake("simulated", "is a Trajectory", "Dataset")
def runs_compared_before_they_are_swept():
    jd.compare(jd.Trajectory([0], {}), jd.Trajectory([0], {}))


@mistake("simulated", "is a Dataset", "one variable")
def a_dataset_in_the_place_of_a_curve():
    import xarray

    plot.curves(xarray.Dataset({"loss": ("time", [1.0])}))


@mistake("apply", "flax module Dense", "models.from_linen")
def a_flax_module_in_the_place_of_its_adapter():
    from flax import linen

    losses.squared_error(linen.Dense(1))


@mistake("apply", "is a Model", "model.apply")
def a_model_in_the_place_of_its_function():
    losses.squared_error(MODEL)


@mistake("batch", "labels of shape (5,)", "(5, 1)")
def labels_that_would_broadcast():
    LOSS(MODEL.init(jax.random.key(0)), (DATA[0], np.ones(5, np.float32)))


@mistake("sizes", "3 is an int", "(inputs, 16, outputs)")
def a_number_of_units_in_the_place_of_layers():
    models.mlp(3)


@mistake("activation", "'relu'", "jax.nn.relu")
def the_name_of_an_activation():
    models.mlp((3, 4, 1), activation="relu")


@mistake("x2", "(4,)", "(3,)", "equal shapes")
def inputs_of_two_sizes():
    kernels.gram(LAYERS, np.ones((5, 3)), np.ones((5, 4)))


@mistake("get", "'nkt'", "'ntk'")
def a_kernel_misspelt():
    kernels.gram(LAYERS, np.ones((5, 3)), get="nkt")


@mistake("layer", "is a Model", "kernels.serial")
def a_network_without_a_kernel():
    kernels.gram(MODEL, np.ones((5, 3)))


@mistake("'1.0' is a str", "pass a number")
def a_string_in_the_place_of_a_number():
    theory.linear.mode_strength("1.0", 1.0, 1e-3)


@mistake("[1.0, 2.0] is a list", "np.array")
def a_list_in_the_place_of_an_array():
    theory.linear.mode_strength([1.0, 2.0], 1.0, 1e-3)


@mistake("no attribute 'trian'", "did you mean 'train'")
def a_verb_misspelt():
    _ = jd.trian


def messages():
    """Make every mistake; return what is raised."""
    shown = {}
    for name, (function, _) in MISTAKES.items():
        try:
            function()
        except Exception as error:
            shown[name] = f"{type(error).__name__}: {error}"
    return shown


@pytest.fixture(scope="module")
def shown():
    environment = {k: v for k, v in os.environ.items() if k != "JAX_NUMPY_RANK_PROMOTION"} | {
        "PYTHONPATH": str(ROOT)
    }
    command = [sys.executable, __file__]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment, timeout=120
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_explained(name, shown):
    message = shown[name]
    assert message.split(":")[0] in ("ValueError", "TypeError", "AttributeError")
    assert [phrase for phrase in MISTAKES[name][1] if phrase not in message] == [], message


if __name__ == "__main__":
    print(json.dumps(messages()))
