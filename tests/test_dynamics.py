"""The laws of the verbs: clocks, keys, bits, blow-ups, orders of convergence."""

import _thread
import signal
import threading

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdyn as jd
from jaxdyn import results

X = jax.random.normal(jax.random.key(3), (32, 4))
Y = jnp.sin(X[:, :1])
START = {
    "first": jax.random.normal(jax.random.key(4), (4, 8)) / 2,
    "second": jax.random.normal(jax.random.key(5), (8, 1)) / 3,
}


def mse(params, batch):
    x, y = batch
    hidden = jnp.tanh(x @ params["first"])
    error = hidden @ params["second"] - y
    return jnp.mean(error**2)


def minibatch(key, step):
    rows = jax.random.randint(key, (8,), 0, len(X))
    return X[rows], Y[rows]


def whole(key, step):
    return X, Y


def observe(state):
    return {"loss": mse(state.params, (X, Y))}


def observe_params(state):
    return {"x": state.params}


def observe_nothing(state):
    return {}


def keep(key, state):
    """A step that goes nowhere."""
    return state


def adam_train(start, times, observe=observe):
    optimizer = optax.adam(1e-2)
    key = jax.random.key(7)
    return jd.train(
        jax.grad(mse), optimizer, minibatch, start, times=times, observe=observe, key=key
    )


def adam_run(times, start=START, observe=observe):
    """The same in one compiled program."""

    def run(start):
        return adam_train(start, times, observe)

    return jax.jit(run)(start)


def assert_same_bits(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def logistic(time, s=3.0, u0=0.1):
    """The solution of u' = u (s - u)."""
    decay = np.exp(-s * time)
    return s / (1 + (s / u0 - 1) * decay)


LOGISTIC_TIMES = np.linspace(0, 4, 9)


def logistic_run(**options):
    def velocity(t, u):
        return u * (3.0 - u)

    start = jnp.asarray(0.1)
    return jd.integrate(velocity, start, times=LOGISTIC_TIMES, observe=observe_params, **options)


@pytest.mark.parametrize("times", [[300], [0, 300], [1, 2, 3, 300], [*range(0, 300, 7), 300]])
def test_final_has_the_same_bits_for_any_recording_times(times):
    run = adam_run(np.array(times))
    reference = adam_run(np.arange(0, 301, 100))
    assert_same_bits(run.final, reference.final)


def test_final_has_the_same_bits_for_any_observables():
    def spectrum(s):
        singular_values = jnp.linalg.svd(s.params["first"], compute_uv=False)
        return {"singular_values": singular_values, **observe(s)}

    def norm(s):
        return {"norm": jnp.linalg.norm(s.params["first"])}

    times = np.array([0, 50, 300])
    with_spectrum = adam_run(times, observe=spectrum)
    with_norm = adam_run(times, observe=norm)
    assert_same_bits(with_spectrum.final, with_norm.final)


def test_a_cut_and_continued_run_equals_the_uncut_one():
    cut = adam_run(np.array([130]))
    continued = adam_run(np.array([300]), start=cut.final)
    uncut = adam_run(np.array([300]))
    assert_same_bits(continued.final, uncut.final)


def test_an_empty_memory_starts_a_fresh_optimiser():
    cut = adam_run(np.array([100]))
    start = cut.final._replace(memory=())
    fresh = adam_run(np.array([101]), start=start).final
    first_step = jax.tree.map(jnp.subtract, fresh.params, cut.final.params)
    # Adam's first step is learning_rate * sign(gradient).
    computed = jnp.abs(first_step["first"])
    np.testing.assert_allclose(computed, 1e-2, rtol=1e-3)


def test_iterate_owns_the_clock():
    def step(key, state):
        return state._replace(time=state.time + 17, params=state.params + state.time)

    start = jd.State(3, jnp.asarray(0))
    run = jd.iterate(step, start, times=[5, 8], observe=observe_params)
    expected = [3 + 4, 3 + 4 + 5 + 6 + 7]
    np.testing.assert_array_equal(run.observed["x"], expected)
    assert run.final.time == 8


def test_no_batch_equals_an_initial_weight():
    key = jax.random.key(0)

    def numbers(keys):
        draws = [jax.random.normal(k, (4,)) for k in keys]
        return {float(x) for x in jnp.concatenate(draws)}

    initial = numbers(jax.random.split(key, 64))
    draws = numbers([jd.step_key(key, step) for step in range(64)])
    assert not initial & draws
    assert len(draws) == 256


def test_an_observable_can_regenerate_the_batch_of_its_step():
    key = jax.random.key(7)

    def step(step_key, state):
        return state._replace(params=jax.random.normal(step_key))

    def draw_again(state):
        last_key = jd.step_key(key, state.time - 1)
        return {"x": state.params, "again": jax.random.normal(last_key)}

    run = jd.iterate(step, jnp.asarray(0.0), times=[1, 5], observe=draw_again, key=key)
    np.testing.assert_array_equal(run.observed["x"], run.observed["again"])


def test_descent_approaches_the_flow_at_first_order(x64):
    start = jax.tree.map(lambda a: a.astype(float), START)
    field = jax.grad(mse)
    flow = jd.flow(field, (X, Y), start, times=[2.0], observe=observe)

    def gap(learning_rate):
        optimizer = optax.sgd(learning_rate)
        steps = [round(2 / learning_rate)]
        descent = jd.train(field, optimizer, whole, start, times=steps, observe=observe)
        difference = descent.observed["loss"] - flow.observed["loss"]
        return abs(difference[0])

    # error = c eta + O(eta^2): the ratio of halved steps is 2 to within a few times eta.
    assert gap(0.02) / gap(0.01) == pytest.approx(2, abs=0.05)


def test_the_flow_meets_the_closed_form(precision):
    run = logistic_run()
    # The tolerance asked for is 1e-8; in float32 it is raised to 32 eps, and errors add over some
    # 50 steps.
    bound = 1e-7 if precision == jnp.float64 else 50 * 32 * 1.2e-7
    simulated = run.observed["x"]
    assert simulated.dtype == precision
    assert np.max(np.abs(simulated - logistic(run.time))) < bound
    assert run.ok.all()


def test_rk4_is_of_fourth_order_and_meets_the_recording_times(x64):
    expected = logistic(LOGISTIC_TIMES)

    def error(step):
        run = logistic_run(solver=jd.RK4(step))
        return np.max(np.abs(run.observed["x"] - expected))

    assert error(0.05) / error(0.025) == pytest.approx(16, rel=0.1)
    assert error(0.0499) < error(0.06)


def test_the_stiff_solver_needs_few_steps(x64):
    # Decay onto a slow manifold, at the rates 1e6 and 1: explicit steps stay below 3e-6.
    def velocity(t, p):
        fast, slow = p
        return jnp.array([-1e6 * (fast - jnp.cos(slow)), -slow])

    start = jnp.array([0.0, 1.0])
    options = {"max_steps": 2000, "rtol": 1e-6, "atol": 1e-8}
    options |= {"times": [1.0], "observe": observe_params}
    stiff = jd.integrate(velocity, start, solver="kvaerno5", **options)
    assert stiff.ok.all()
    _, slow = stiff.observed["x"][0]
    assert abs(slow - np.exp(-1)) < 1e-5
    explicit = jd.integrate(velocity, start, **options)
    assert not explicit.ok.any()
    assert np.isnan(explicit.observed["x"]).all()


def test_after_a_steady_state_the_last_value_repeats(x64):
    event = diffrax.Event(diffrax.steady_state_event(rtol=0.0, atol=1e-2))
    run = logistic_run(event=event)
    assert run.ok.all()
    assert 0 < run.final.time < 4
    held = run.time > run.final.time
    assert held.any()
    computed = run.observed["x"][held]
    steady = run.final.params
    np.testing.assert_array_equal(computed, steady)
    assert abs(steady * (3 - steady)) < 1e-2


def test_a_blow_up_is_data_and_leaves_its_neighbours_alone(x64):
    # u' = u^2 from u0 blows up at 1/u0.
    times = np.array([0.5, 1.0, 2.0])

    def velocity(t, u):
        return u**2

    def run(u0):
        return jd.integrate(velocity, u0, times=times, observe=observe_params)

    starts = jnp.array([0.1, 1.25, 0.3])
    run_all = jax.jit(jax.vmap(run))
    together = run_all(starts)
    expected = [[1, 1, 1], [1, 0, 0], [1, 1, 1]]
    np.testing.assert_array_equal(together.ok, expected)
    assert np.isnan(together.observed["x"][1, 1:]).all()
    assert np.isnan(together.final.params[1])
    tame = run_all(starts.at[1].set(0.2))
    for row in (0, 2):
        computed = together.observed["x"][row]
        beside_a_tame_one = tame.observed["x"][row]
        np.testing.assert_array_equal(computed, beside_a_tame_one)
        expected = 1 / (1 / starts[row] - times)
        np.testing.assert_allclose(computed, expected, rtol=1e-7)


def test_a_map_that_blows_up_stays_not_ok():
    def step(key, s):
        blown_up = jnp.where(s.time == 2, jnp.inf, s.params)
        come_back = jnp.where(s.time == 3, 1.0, blown_up)
        return s._replace(params=come_back)

    def observe(s):
        return {"x": 2 * s.params, "n": s.time}

    run = jd.iterate(step, jnp.asarray(1.0), times=[1, 2, 3, 4, 5], observe=observe)
    expected = [True, True, False, False, False]
    np.testing.assert_array_equal(run.ok, expected)
    expected = [2, 2, np.nan, np.nan, np.nan]
    np.testing.assert_array_equal(run.observed["x"], expected)
    expected = [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(run.observed["n"], expected)


def test_derivatives_go_forward_through_maps_and_flows(x64):
    def loss(params, batch):
        return params**2 / 2

    def no_data(key, step):
        return None

    def descend(rate):
        field = jax.grad(loss)
        run = jd.train(field, optax.sgd(rate), no_data, 1.0, times=[9], observe=observe_params)
        return run.observed["x"][0]

    computed = jax.jacfwd(descend)(0.1)
    np.testing.assert_allclose(computed, -9 * 0.9**8, rtol=1e-12)

    def decay(t, u):
        return -u

    def flow(u0):
        run = jd.integrate(decay, u0, times=[1.5], observe=observe_params)
        return run.observed["x"][0]

    computed = jax.jacfwd(flow)(2.0)
    expected = np.exp(-1.5)
    np.testing.assert_allclose(computed, expected, rtol=1e-7)


def test_recording_times_may_be_traced():
    def count(key, state):
        return state._replace(params=state.params + 1)

    @jax.jit
    def counted(times):
        run = jd.iterate(count, 0, times=times, observe=observe_params)
        return run.observed["x"]

    computed = counted(jnp.array([2, 5]))
    np.testing.assert_array_equal(computed, [2, 5])
    computed = counted(jnp.array([2.9999, 5.0]))
    np.testing.assert_array_equal(computed, [3, 5])


def test_at_observes_only_when_due():
    seen = []

    def note(time):
        seen.append(int(time))

    def expensive(state):
        jax.debug.callback(note, state.time)
        return {"n": state.time}

    run = jd.iterate(keep, 0, times=np.arange(6), observe=jd.at([1, 4], expensive))
    expected = [np.nan, 1, np.nan, np.nan, 4, np.nan]
    np.testing.assert_array_equal(run.observed["n"], expected)
    jax.effects_barrier()
    assert sorted(seen) == [1, 4]


BEGIN = jd.State(0, START, optax.adam(1e-2).init(START))
TIMES = np.arange(0, 101, 9)


def test_segments_equal_the_uncut_run():
    cut = jd.segmented(adam_train, BEGIN, TIMES, segments=5)
    uncut = adam_run(TIMES)
    assert_same_bits(cut.final, uncut.final)
    np.testing.assert_array_equal(cut.time, TIMES)
    computed = cut.observed["loss"]
    expected = uncut.observed["loss"]
    np.testing.assert_allclose(computed, expected, rtol=1e-6)


def test_segments_stop_early_and_go_on():
    def after(t):
        return bool(t.time[-1] >= 40)

    stopped = jd.segmented(adam_train, BEGIN, TIMES, segments=6, after=after)
    assert 40 <= stopped.time[-1] < 99
    continued = jd.segmented(adam_train, stopped, TIMES)
    uncut = adam_run(TIMES)
    assert_same_bits(continued.final, uncut.final)


def test_ctrl_c_returns_what_there_is():
    def interrupt(trajectory):
        if len(trajectory.time) == 4:
            _thread.interrupt_main()
            threading.Event().wait(5)

    # A shell that starts the tests in the background has them ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    stopped = jd.segmented(adam_train, BEGIN, TIMES, segments=6, after=interrupt)
    signal.signal(signal.SIGINT, before)
    assert len(stopped.time) == 4
    continued = jd.segmented(adam_train, stopped, TIMES)
    uncut = adam_run(TIMES)
    assert_same_bits(continued.final, uncut.final)


def test_a_checkpoint_goes_on_where_it_was(tmp_path):
    path = tmp_path / "checkpoint"
    assert results.restore(path, BEGIN) is BEGIN
    save = results.checkpoint(path)

    def after(t):
        return save(t) or bool(t.time[-1] >= 40)

    jd.segmented(adam_train, BEGIN, TIMES, segments=6, after=after)
    restored = results.restore(path, BEGIN)
    assert 40 <= restored.time[-1] < 99
    continued = jd.segmented(adam_train, restored, TIMES)
    uncut = adam_run(TIMES)
    assert_same_bits(continued.final, uncut.final)
    np.testing.assert_array_equal(continued.time, TIMES)


def observe_an_array(state):
    return state.params["first"]


def observe_a_list(state):
    return {"a": [1, 2]}


def observe_the_time(state):
    return {"time": state.time}


def field_of_first_only(params, batch):
    return {"first": params["first"]}


def transposed_field(params, batch):
    return {name: weights.T for name, weights in params.items()}


def without_its_state(key, state):
    return state.params


def integer_to_float(key, state):
    return state._replace(params=0.5)


def train_first_only():
    optimizer = optax.sgd(0.1)
    jd.train(field_of_first_only, optimizer, whole, START, times=[1], observe=observe)


def flow_transposed():
    jd.flow(transposed_field, None, START, times=[1.0], observe=observe)


def iterate_backwards():
    jd.iterate(keep, jd.State(9, 0), times=[5, 10], observe=observe_nothing)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: adam_run(np.array([0, 5, 5])), ValueError, "times: .* not increasing"),
        (lambda: adam_run(np.array([-1, 5])), ValueError, "times: .*>= 0"),
        (lambda: adam_run(np.array([0.5, 5])), ValueError, "times: .*whole"),
        (lambda: adam_run(np.array([])), ValueError, "times: "),
        (lambda: adam_run(np.array([[1, 2]])), ValueError, "times: "),
        (lambda: adam_run(np.array([np.nan])), ValueError, "times: "),
        (lambda: logistic_run(solver="euler"), ValueError, "solver: 'euler'.*tsit5"),
        (lambda: logistic_run(solver=jd.RK4(0.1), event=1), ValueError, "event: "),
        (
            lambda: adam_run(np.array([1]), observe=observe_an_array),
            TypeError,
            "observe: .*dict",
        ),
        (
            lambda: adam_run(np.array([1]), observe=observe_a_list),
            TypeError,
            "observe: 'a' is list",
        ),
        (
            lambda: adam_run(np.array([1]), observe=observe_the_time),
            ValueError,
            "observe: .*'time'",
        ),
        (train_first_only, ValueError, "field: its updates"),
        (
            flow_transposed,
            ValueError,
            r"field: .*\['first'\] has shape \(8, 4\), not \(4, 8\)",
        ),
        (
            lambda: jd.iterate(without_its_state, 0, times=[1], observe=observe),
            TypeError,
            "step: returned",
        ),
        (
            lambda: jd.iterate(integer_to_float, 0, times=[1], observe=observe),
            TypeError,
            "step: changes state.*int32.*float32",
        ),
        (lambda: jd.log_times(0, 3), ValueError, "log_times: .*stop=0"),
        (iterate_backwards, ValueError, "times: 5 lies before the start's time 9"),
    ],
)
def test_bad_input_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_traced_float64_momentum_beside_float32_parameters_is_explained(x64):
    start = jax.tree.map(lambda a: a.astype(jnp.float32), START)

    def run(momentum):
        optimizer = optax.sgd(0.1, momentum)
        return jd.train(jax.grad(mse), optimizer, whole, start, times=[2], observe=observe)

    with pytest.raises(TypeError, match=r"step: changes state.*float32.*float64.*cast"):
        jax.jit(run)(jnp.asarray(0.9, jnp.float64))
    assert jax.jit(run)(jnp.asarray(0.9, jnp.float32)).ok
