"""The laws of sweeps: keys, bits, precision, blow-ups, shapes, errors."""

import concurrent.futures
import functools
import json
import multiprocessing
import os
import subprocess
import sys
import textwrap
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdyn as jd
from jaxdyn.sweep._grid import box_shape


def walk(key, *, rate=0.5, scale=1.0, steps=12):
    """Noisy descent on a quadratic: cheap, random in its start and in every step."""
    k_start, k_run = jax.random.split(key)
    start = scale * jax.random.normal(k_start, (3,))
    times = np.array([0, 5, steps])

    def field(params, noise):
        return params + 0.1 * noise

    def noise(key, step):
        return jax.random.normal(key, (3,))

    def observe(s):
        return {"loss": jnp.sum(s.params**2), "weights": s.params}

    optimizer = optax.sgd(rate)
    return jd.train(field, optimizer, noise, start, times=times, observe=observe, key=k_run)


def same(a, b):
    for name in ("loss", "weights", "ok"):
        np.testing.assert_array_equal(a[name].values, b[name].values)


AXES = {"rate": [0.1, 0.3, 0.5], "scale": [1.0, 2.0]}


def reference(**options):
    return jd.sweep(walk, AXES, seeds=4, chunk=6, dims={"weights": "unit"}, **options)


def test_every_entry_is_the_run_at_its_coordinates():
    swept = reference()
    assert swept.loss.dims == ("seed", "rate", "scale", "time")
    assert swept.weights.dims == ("seed", "rate", "scale", "time", "unit")
    expected = [0, 5, 12]
    np.testing.assert_array_equal(swept.time, expected)
    assert swept.time.attrs["units"] == "steps"
    for seed, rate, scale in [(0, 0.1, 1.0), (3, 0.5, 2.0), (2, 0.3, 1.0)]:
        alone = walk(jd.run_key(seed), rate=rate, scale=scale)
        entry = swept.sel(seed=seed, rate=rate, scale=scale)
        np.testing.assert_allclose(entry.weights, alone.observed["weights"], rtol=1e-5, atol=1e-6)


def test_what_leaves_a_sweep_is_numpy():
    swept = reference()
    assert all(type(v.data) is np.ndarray for v in swept.variables.values() if v.ndim != 1)


def test_a_run_depends_on_its_own_numbers_only():
    def draws(key, *, rate=0.0, scale=0.0, other=0.0):
        return {"x": jax.random.normal(key, (5,))}

    alone = jd.sweep(draws, seeds=2).x
    axes = {"rate": [0.1, 0.2], "other": [1.0]}
    more = jd.sweep(draws, axes, seeds=[7, 1, 0]).x
    for seed in (0, 1):
        for rate in (0.1, 0.2):
            computed = more.sel(seed=seed, rate=rate).squeeze()
            expected = alone.sel(seed=seed)
            np.testing.assert_array_equal(computed, expected)
    assert not np.array_equal(alone[0], alone[1])


def test_run_keys_are_none_of_the_usual_ones():
    def data(key):
        return tuple(jax.random.key_data(key).tolist())

    runs = {data(jd.run_key(seed)) for seed in range(32)}
    assert len(runs) == 32
    for seed in range(8):
        root = jax.random.key(seed)
        usual = {data(key) for key in (root, *jax.random.split(root, 32))}
        assert not runs & usual


def test_the_bits_do_not_depend_on_threads(monkeypatch):
    threaded = reference()
    monkeypatch.delenv("NPROC")
    same(threaded, reference())


def test_the_bits_do_not_depend_on_the_executor():
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        same(reference(), reference(on=pool))


def test_jobs_that_are_no_futures_of_the_standard_library_are_waited_for():
    class Job:  # of submitit, say
        def __init__(self, work):
            self.work = work
            self.asked = 0

        def done(self):
            self.asked += 1
            return self.asked > 2

        def result(self):
            assert self.done()
            return self.work()

    class Cluster:
        def submit(self, function, *arguments):
            return Job(lambda: function(*arguments))

    expected = reference(on=Cluster())
    same(reference(), expected)


def test_spawned_workers_compute_the_same_bits_at_the_same_precision(tmp_path):
    def local(key, *, rate, scale):  # pickled by value: workers cannot import this module
        return {"x": jnp.cumsum(scale * jax.random.normal(key, (4,)) ** 3) / rate}

    options = {"seeds": 4, "chunk": 6}
    context = multiprocessing.get_context("spawn")
    with jax.enable_x64(True):
        here = jd.sweep(local, AXES, **options)
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
            there = jd.sweep(local, AXES, **options, on=pool, store=tmp_path / "store")
    assert here.x.dtype == there.x.dtype == np.float64
    np.testing.assert_array_equal(here.x, there.x)


def test_a_mesh_computes_the_same_bits(tmp_path):
    program = """
    import os, sys
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2 " + os.environ["XLA_FLAGS"]
    import jaxdyn as jd, jax, numpy as np
    sys.path.insert(0, sys.argv[1])
    from test_sweep import reference
    mesh = jax.make_mesh((2,), ("run",), axis_types=(jax.sharding.AxisType.Auto,))
    assert jax.device_count() == 2
    meshed, threaded = reference(on=mesh, store=sys.argv[2]), reference()
    for name in ("loss", "weights", "ok"):
        np.testing.assert_array_equal(meshed[name].values, threaded[name].values)
    print("equal")
    """
    assert run_python(program, os.path.dirname(__file__), tmp_path / "store") == "equal\n"


def test_precision_is_that_of_the_caller_in_every_thread():
    def measure(key, *, rate):
        return {"third": rate / 3, "draw": jax.random.normal(key)}

    rates = {"rate": np.arange(1.0, 9.0)}
    for x64, dtype in ((True, np.float64), (False, np.float32)):
        with jax.enable_x64(x64):
            swept = jd.sweep(measure, rates, seeds=3, chunk=2)
        assert swept.third.dtype == swept.draw.dtype == dtype
        expected = np.arange(1, 9) / 3
        rtol = 2 * np.finfo(dtype).eps
        np.testing.assert_allclose(swept.third[0], expected, rtol=rtol)
    assert json.loads(swept.attrs["fingerprint"])["precision"]["x64"] is False


def test_runs_that_diverge_leave_the_others_bit_for_bit_unchanged():
    rates = np.linspace(0.1, 1.0, 10)
    wild = rates.copy()
    wild[[1, 4, 8]] = [1e28, 1e29, 1e30]
    tame = jd.sweep(walk, {"rate": rates}, seeds=6, chunk=20)
    mixed = jd.sweep(walk, {"rate": wild}, seeds=6, chunk=20)
    keep = [0, 2, 3, 5, 6, 7, 9]
    computed = tame.weights.isel(rate=keep)
    expected = mixed.weights.isel(rate=keep)
    np.testing.assert_array_equal(computed, expected)
    lost = mixed.isel(rate=[1, 4, 8], time=2)
    assert not lost.ok.any()
    assert lost.loss.isnull().all()
    assert mixed.ok.isel(rate=keep).all()
    words = "18 of 60 runs; rate: 1e+28 (6 of 6), 1e+29 (6 of 6), 1e+30 (6 of 6)"
    assert mixed.attrs["diverged"] == words


def test_one_program_a_sweep():
    traced = chex.assert_max_traces(walk, n=1)

    def experiment(key, *, rate):
        return traced(key, rate=rate)

    rates = np.linspace(0.1, 0.9, 30)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        swept = jd.sweep(experiment, {"rate": rates}, seeds=10)
    assert swept.loss.shape == (10, 30, 3)
    chex.clear_trace_counter()


def test_a_tuple_of_names_moves_together():
    pairs = [(0.1, 1.0), (0.3, 2.0), (0.5, 4.0)]
    swept = jd.sweep(walk, {("rate", "scale"): pairs}, seeds=2)
    assert swept.loss.dims == ("seed", "rate_scale", "time")
    expected = [1, 2, 4]
    np.testing.assert_array_equal(swept.scale, expected)
    alone = walk(jd.run_key(1), rate=0.3, scale=2.0)
    computed = swept.loss.isel(seed=1, rate_scale=1)
    np.testing.assert_allclose(computed, alone.observed["loss"], rtol=1e-5)


def test_static_axes_are_labelled_and_padded():
    def towards_zero(params, batch):
        return params

    def no_data(key, step):
        return None

    def observe(s):
        return {"weights": s.params}

    def experiment(key, *, width, optimizer):
        start = jax.random.normal(key, (width,))
        steps = np.arange(width)
        return jd.train(towards_zero, optimizer(0.1), no_data, start, times=steps, observe=observe)

    static = {"width": [2, 4], "optimizer": {"sgd": optax.sgd, "adam": optax.adam}}
    swept = jd.sweep(experiment, static=static, seeds=2, dims={"weights": ["unit"]})
    assert swept.weights.dims == ("width", "optimizer", "seed", "time", "unit")
    assert swept.optimizer.values.tolist() == ["sgd", "adam"]
    narrow = swept.sel(width=2, optimizer="sgd")
    expected = [0, 1, np.nan, np.nan]
    np.testing.assert_array_equal(narrow.time, expected)
    assert narrow.weights.isel(unit=slice(2, None)).isnull().all()
    computed = narrow.weights[:, 1, :2]
    expected = 0.9 * narrow.weights[:, 0, :2]
    np.testing.assert_allclose(computed, expected, rtol=1e-6)
    assert swept.attrs["diverged"] == "0 of 8 runs"


def test_times_that_depend_on_a_traced_axis_are_a_variable():
    def count(key, state):
        return state._replace(params=state.params + 1)

    def observe(s):
        return {"n": s.params}

    def experiment(*, rate):
        steps = jnp.array([1.0, 2.0]) / rate
        return jd.iterate(count, 0, times=steps, observe=observe)

    swept = jd.sweep(experiment, {"rate": [0.5, 0.1]})
    assert swept.time.dims == ("rate", "time")
    expected = [[2, 4], [10, 20]]
    np.testing.assert_array_equal(swept.time, expected)
    np.testing.assert_array_equal(swept.n, swept.time)


def test_a_dict_of_any_rank_is_labelled():
    def measure(*, a):
        vector = a * jnp.ones(3)
        matrix = a * jnp.eye(2)
        x = np.array([0.5, 0.7])
        return {"scalar": a, "vector": vector, "matrix": matrix, "x": x}

    dims = {"matrix": ("row", "column"), "x": "x"}
    swept = jd.sweep(measure, {"a": [1.0, -1.0]}, dims=dims)
    assert swept.scalar.dims == ("a",)
    assert swept.vector.dims == ("a", "vector_0")
    assert swept.matrix.dims == ("a", "row", "column")
    np.testing.assert_array_equal(swept.coords["x"], [0.5, 0.7])
    assert swept.ok.dims == ("a",)


def test_no_axes_and_no_seeds_is_one_run():
    swept = jd.sweep(lambda: {"x": jnp.arange(3.0)})
    assert swept.x.dims == ("x_0",)
    assert bool(swept.ok)


def test_jax_arrays_in_a_partial_are_arguments():
    data = jnp.ones((1 << 12, 1 << 12), jnp.float32) * 2  # 64 MB: as a constant it would be refused

    def experiment(*, data, a):
        return {"x": a * jnp.max(data)}

    one_row_more = jnp.concatenate([data, data[:1]])
    given = functools.partial(experiment, data=one_row_more)
    swept = jd.sweep(given, {"a": [1.0, 3.0]})
    np.testing.assert_array_equal(swept.x, [2.0, 6.0])


def test_provenance_tells_what_made_it():
    attempts = json.loads(reference().attrs["attempts"])
    attempt = attempts[0]
    assert attempt["argv"] == sys.argv
    assert attempt["versions"]["jax"] == jax.__version__
    assert attempt["wall_seconds"] > 0
    assert attempt["git"] is None or set(attempt["git"]) == {"commit", "dirty"}


@pytest.mark.parametrize(
    ("shape", "target", "box"),
    [
        ([10, 10, 10], 64, (1, 5, 10)),
        ([], 64, ()),
        ([100], 64, (50,)),
        ([3, 4], 64, (3, 4)),
        ([7, 2], 1, (1, 1)),
    ],
)
def test_blocks_are_boxes_within_their_size(shape, target, box):
    assert box_shape(shape, target) == box
    assert np.prod(box, dtype=int) <= target


def test_blocks_shrink_to_the_cache():
    def big(key, *, a):
        return {"x": a * jax.random.normal(key, (1 << 18,))}  # 1 MB of output a run

    swept = jd.sweep(big, {"a": [1.0]}, seeds=32)
    fingerprint = json.loads(swept.attrs["fingerprint"])
    assert fingerprint["block"] == [8, 1]


def plain(key, *, rate=1.0, width=2):
    return {"x": rate * jax.random.normal(key)}


def shaped(key, *, rate, width):
    shape = (int(width),)
    return {"x": rate * jax.random.normal(key, shape)}


def without_key(*, a):
    return {"x": a}


def no_dict(key):
    return 1.0


def vector(key):
    return {"x": jnp.ones(2)}


BIG = np.ones((65 << 18,), np.float32)


def over_big_data(key):
    return {"x": jnp.sum(BIG)}


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: jd.sweep(plain, {"rate": []}, seeds=1), ValueError, "axes: 'rate'.*non-empty"),
        (lambda: jd.sweep(plain, {"rate": [[1.0]]}, seeds=1), ValueError, "axes: 'rate'.*1-D"),
        (lambda: jd.sweep(plain, {"rate": 0.1}, seeds=1), ValueError, "axes: 'rate'.*1-D"),
        (lambda: jd.sweep(plain, {"rate": ["a"]}, seeds=1), ValueError, "axes: 'rate'.*static"),
        (lambda: jd.sweep(plain, {"rate": [1.0, 1.0]}, seeds=1), ValueError, "axes: 'rate'.*twice"),
        (lambda: jd.sweep(plain, {"rate": [np.nan]}, seeds=1), ValueError, "axes: 'rate'"),
        (
            lambda: jd.sweep(plain, {("rate", "width"): [(1, 2, 3)]}, seeds=1),
            ValueError,
            "axes: .*2 numbers",
        ),
        (
            lambda: jd.sweep(plain, {"rate": [1.0]}, seeds=1, static={"rate": [1]}),
            ValueError,
            "axes: 'rate' is in static",
        ),
        (
            lambda: jd.sweep(plain, {"rat": [1.0]}, seeds=1),
            ValueError,
            "axes: .*takes no 'rat'; did you mean 'rate'",
        ),
        (lambda: jd.sweep(plain, {"seed": [1.0]}, seeds=1), ValueError, "axes: the name 'seed'"),
        (lambda: jd.sweep(plain, {1: [1.0]}, seeds=1), TypeError, "axes: 1 "),
        (
            lambda: jd.sweep(plain, seeds=1, static={"widht": [1]}),
            ValueError,
            "static: .*takes no 'widht'; .*'width'",
        ),
        (lambda: jd.sweep(plain, seeds=1, static={"width": []}), ValueError, "static: 'width'"),
        (
            lambda: jd.sweep(plain, seeds=1, static={"width": [optax.sgd]}),
            TypeError,
            "static: 'width'.*label",
        ),
        (lambda: jd.sweep(plain, seeds=0), ValueError, "seeds: 0"),
        (lambda: jd.sweep(plain, seeds=-3), ValueError, "seeds: -3"),
        (lambda: jd.sweep(plain, seeds=2.5), ValueError, "seeds: 2.5"),
        (lambda: jd.sweep(plain, seeds=[0, 0]), ValueError, r"seeds: \[0, 0\].*different"),
        (lambda: jd.sweep(plain, {"rate": [1.0]}), TypeError, "needs 'key'; pass seeds=n"),
        (lambda: jd.sweep(without_key, {"a": [1.0]}, seeds=2), TypeError, "seeds: .*no key"),
        (lambda: jd.sweep(shaped, {"rate": [1.0]}, seeds=1), TypeError, "needs 'width'; give it"),
        (
            lambda: jd.sweep(shaped, {"rate": [1.0, 2.0], "width": [2, 3]}, seeds=1),
            TypeError,
            "axes: 'width'.*move it to static",
        ),
        (lambda: jd.sweep(no_dict, seeds=1), TypeError, "experiment: returned"),
        (lambda: jd.sweep(plain, seeds=1, dims={"y": "n"}), ValueError, "dims: 'y'"),
        (lambda: jd.sweep(plain, seeds=1, dims={"x": "n"}), ValueError, "dims: 'x' has 0"),
        (lambda: jd.sweep(vector, seeds=1, dims={"x": "seed"}), ValueError, "dims: 'x'.*'seed'"),
        (lambda: jd.sweep(plain, seeds=1, chunk=0), ValueError, "chunk: 0"),
        (lambda: jd.sweep(over_big_data, seeds=1), ValueError, r"closes over 65 MB.*partial"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(call, error, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=words):
        call()
    assert not list(tmp_path.iterdir())


def run_python(program, *arguments, check=True):
    """Run a program in a fresh process with this one's flags; return what it printed."""
    command = [sys.executable, "-c", textwrap.dedent(program)]
    command += [str(argument) for argument in arguments]
    cwd = os.path.dirname(os.path.dirname(__file__))
    options = {"capture_output": True, "text": True, "timeout": 300, "cwd": cwd}
    done = subprocess.run(command, check=False, **options)
    if check:
        assert done.returncode == 0, done.stderr
    return done.stdout


def test_arrays_beside_what_is_no_array_in_one_keyword_are_refused():
    def double(x):
        return 2 * x

    def experiment(*, problem):
        function, x = problem
        return {"y": function(x)}

    of_jax = functools.partial(experiment, problem=(double, jnp.ones(())))
    with pytest.raises(TypeError, match="'problem' holds jax arrays beside <function"):
        jd.sweep(of_jax)
    of_numpy = functools.partial(experiment, problem=(double, np.ones(())))
    assert jd.sweep(of_numpy).y == 2


def test_blocks_do_not_share_a_decomposition_among_threads():
    from threadpoolctl import threadpool_info, threadpool_limits

    def count():
        pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
        return np.int32(max(pool["num_threads"] for pool in pools))

    def experiment(x):
        integer = jax.ShapeDtypeStruct((), jnp.int32)
        threads = jax.pure_callback(count, integer, vmap_method="sequential")
        return {"threads": threads, "x": x}

    with threadpool_limits(2, user_api="blas"):
        assert jd.sweep(experiment, {"x": [0.0]}).threads == 1
        assert count() == 2


def test_a_bar_says_that_the_sweep_compiles_and_then_counts_its_runs(capsys):
    def experiment(key, *, a):
        return {"b": a * jax.random.normal(key)}

    jd.sweep(experiment, {"a": [1.0, 2.0]}, seeds=3, progress=True)
    shown = capsys.readouterr().err
    assert shown.index("compiling") < shown.index("6/6")
    assert "compiling" not in shown[shown.index("6/6") :]
