"""What kernels of wide and of finite networks and their predictions cost, beside neural-tangents
where it still runs.

Kernels of fully connected and convolutional networks of infinite width, empirical NTKs, and
predictions of training. Each contestant has its own process on one thread, they take turns, so that
other work on the machine hits both alike, and their values are compared; medians of CPU seconds,
printed as tables in Markdown.  `make peers` makes the virtual environment of neural-tangents.

    python benchmarks/kernels.py --peer .venv-nt/bin/python      # without --peer: ours only
    python benchmarks/kernels.py --platform gpu                  # wall time there
"""

import argparse
import contextlib
import functools
import itertools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

PEER = Path(__file__).parent / "peers" / "neural_tangents_kernels.py"
ONE_THREAD = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NPROC": "1",
    "JAX_ENABLE_COMPILATION_CACHE": "false",
}
GAIN = {"w_std": 2**0.5, "b_std": 0.1}
WIDTH = 512
OUTPUTS = 10
CHANNELS = 32
SIDE = 8
SAMPLES = 2000
INPUTS = 784
TESTS = 200
TIMES = np.geomspace(1, 1e6, 100)
RIDGE = 0.01
IMAGES = 64
MLP_SAMPLES = 100
CNN_SAMPLES = 50


# -------------------------------------------------------------------------------------------------------------- ours


def connected(depth):
    from jaxdyn import kernels

    hidden = [
        layer for _ in range(depth) for layer in (kernels.dense(WIDTH, **GAIN), kernels.relu())
    ]
    return kernels.serial(*hidden, kernels.dense(OUTPUTS, **GAIN))


def convolutional(readout, depth=3):
    from jaxdyn import kernels

    def conv():
        return kernels.conv(CHANNELS, (3, 3), **GAIN)

    hidden = [layer for _ in range(depth) for layer in (conv(), kernels.relu())]
    return kernels.serial(*hidden, getattr(kernels, readout)(), kernels.dense(OUTPUTS, **GAIN))


def analytic(network, inputs):
    """The call as a user writes it."""
    from jaxdyn import kernels

    layer = network()
    return lambda: kernels.gram(layer, inputs["x"])


def empirical(network, inputs, trace):
    import jax

    from jaxdyn import kernels

    layer = network()
    arrays = [inputs[f"p{i}"] for i in range(len(inputs) - 1)]
    parts = layer.init(jax.random.key(0), inputs["x"].shape[1:])[1]
    arrays = iter(arrays)
    params = tuple(
        {name: next(arrays) for name in ("weights", "bias")} if part else part for part in parts
    )
    kernel = jax.jit(functools.partial(kernels.empirical.ntk, layer.apply, trace=trace))
    return lambda: kernel(params, inputs["x"])


def ensemble(inputs, covariance, given):
    """Clock the prediction after the kernel's decomposition, with kernels of the test inputs that
    are given or not."""
    from jaxdyn import kernels
    from jaxdyn.kernels import predict

    layer = connected(3)
    modes = predict.modes(inputs["ntk_dd"])

    def tests():
        if given:
            between, within = (
                {g: inputs[f"{g}_{pair}"] for g in ("nngp", "ntk")} for pair in ("td", "tt")
            )
        else:
            get = ("nngp", "ntk") if covariance else ("ntk",)
            between = kernels.gram(layer, inputs["x_test"], inputs["x"], get=get)
            within = kernels.gram(layer, inputs["x_test"], get=("nngp",)) if covariance else {}
        if not covariance:
            return {"ntk_test": between["ntk"]}
        return {
            "ntk_test": between["ntk"],
            "nngp_test": between["nngp"],
            "nngp_test_test": within["nngp"],
        }

    def last(result):
        return result.covariance if covariance else result.mean

    call = functools.partial(
        predict.ensemble, modes, inputs["nngp_dd"], inputs["y"], inputs["times"]
    )
    return lambda: last(call(ridge=inputs["ridge"], covariance=covariance, **tests()))


# ----------------------------------------------------------------------------- operations and bytes that have to be

# For a pair of units and a rectifier: the angle's polynomial, two roots, a quotient, and the dense
# layer behind.
RECTIFIER = {4: 50, 8: 80}
# For a pair of positions and a 3 x 3 window: four additions to each of the distance, the sum and
# the NTK.
WINDOW = 12


def connected_work(depth, size=4):
    pairs = SAMPLES * (SAMPLES + 1) / 2
    return pairs * (2 * INPUTS + depth * RECTIFIER[size]), SAMPLES * (INPUTS + SAMPLES) * size


def convolutional_work(positions):
    pairs = IMAGES * (IMAGES + 1) / 2
    return pairs * 3 * positions * (RECTIFIER[4] + WINDOW), IMAGES * (SIDE**2 + IMAGES) * 4


def mlp_work(trace):
    """Forwards, backwards from each output to the hidden layers, and products of both between pairs
    of samples."""
    n = MLP_SAMPLES
    k = OUTPUTS
    hidden = 2 * WIDTH**2 + WIDTH * OUTPUTS
    derivatives = 2 * n * (INPUTS * WIDTH + hidden + k * hidden)
    pairs = n * (n + 1) / 2 if trace else n * k * (n * k + 1) / 2
    leaving = 2 * pairs * (k if trace else 1) * (3 * WIDTH + OUTPUTS)
    total = derivatives + n * (n + 1) * (INPUTS + 3 * WIDTH) + leaving
    return total, 4 * (INPUTS * WIDTH + hidden + n * INPUTS + n**2 * (1 if trace else k**2))


def cnn_work():
    """Forwards, backwards from each output to the hidden layers and to the weights, and their
    products of pairs."""
    n = CNN_SAMPLES
    k = OUTPUTS
    inner = 2 * 9 * CHANNELS**2
    first = 9 * CHANNELS
    last = CHANNELS * OUTPUTS
    derivatives = 2 * n * SIDE**2 * (first + inner + k * inner + k * (first + inner))
    return derivatives + n * (n + 1) * k * (first + inner + last), 4 * (
        first + inner + last + n * SIDE**2 + n**2
    )


def ensemble_work(covariance, given):
    n = SAMPLES
    m = TESTS
    k = OUTPUTS
    times = len(TIMES)
    operations = 2 * (m * n**2 + n**2 * k + times * m * n * k)
    numbers = n**2 + m * n + n * k + times * m * k
    if covariance:
        operations += 2 * (m * n**2 + 2 * n**3 + times * (m * n**2 + 2 * m**2 * n))
        numbers += n**2 + m * n + m**2 + times * m**2
    if not given:
        pairs = m * n + (m * (m + 1) / 2 if covariance else 0)
        operations += pairs * (2 * INPUTS + 3 * RECTIFIER[4])
    return operations, 4 * numbers


# -------------------------------------------------------------------------------------------------------------- cases


class Case(NamedTuple):
    """What is computed, from which inputs, by how many operations and bytes, and the goals: the
    peer's times ours."""

    label: str
    inputs: str
    ours: Callable
    work: tuple[float, float]
    goals: dict[str, float | None]
    dtype: type = np.float32


flat, pooled = (
    functools.partial(convolutional, readout) for readout in ("flatten", "global_avg_pool")
)
fc3, fc10 = (functools.partial(connected, depth) for depth in (3, 10))
CASES = {
    "fc3": Case(
        "NTK, 3 hidden layers, n = 2000",
        "vectors",
        functools.partial(analytic, fc3),
        connected_work(3),
        {"jit": 4},
    ),
    "fc10": Case(
        "the same, 10", "vectors", functools.partial(analytic, fc10), connected_work(10), {"jit": 6}
    ),
    "fc3-f64": Case(
        "3 in float64",
        "doubles",
        functools.partial(analytic, fc3),
        connected_work(3, 8),
        {"jit": None},
        np.float64,
    ),
    "cntk-flatten": Case(
        "CNTK, 3 layers, flatten, n = 64",
        "images",
        functools.partial(analytic, flat),
        convolutional_work(64),
        {"jit": 2},
    ),
    "cntk-pool": Case(
        "the same, global pool",
        "images",
        functools.partial(analytic, pooled),
        convolutional_work(4096),
        {"jit": 50},
    ),
    "mlp-trace": Case(
        "empirical NTK, MLP, trace",
        "mlp",
        functools.partial(empirical, fc3, trace=True),
        mlp_work(True),
        {"structured+vmap": 2, "default": 300},
    ),
    "mlp-full": Case(
        "the same, all outputs",
        "mlp",
        functools.partial(empirical, fc3, trace=False),
        mlp_work(False),
        {"structured+vmap": 2},
    ),
    "cnn-trace": Case(
        "empirical NTK, CNN, trace",
        "cnn",
        functools.partial(empirical, pooled, trace=True),
        cnn_work(),
        {"structured+vmap": 1.5, "jacobian+vmap": 1.5},
    ),
    "mean": Case(
        "prediction, mean, 100 times",
        "kernels",
        functools.partial(ensemble, covariance=False, given=True),
        ensemble_work(False, True),
        {"cached": 2},
    ),
    "mean-inputs": Case(
        "the same, with the test inputs' kernel",
        "kernels",
        functools.partial(ensemble, covariance=False, given=False),
        ensemble_work(False, False),
        {"cached": 2},
    ),
    "covariance": Case(
        "prediction, covariance",
        "kernels",
        functools.partial(ensemble, covariance=True, given=True),
        ensemble_work(True, True),
        {"cached": 2},
    ),
}
# One call after the first; its values differ by some per cent from the peer's other settings, which
# agree with ours.
SLOW = {"default"}


def parameters(draw, shapes):
    """Return weights and biases, layer by layer."""
    return {f"p{i}": draw(*shape) for i, shape in enumerate(s for w in shapes for s in (w, w[-1:]))}


def write_inputs(folder):
    """Write what both sides start from; `measure` adds the kernels of the predictions."""
    random = np.random.default_rng(0)

    def draw(*shape):
        return random.standard_normal(shape, np.float32)

    x = draw(SAMPLES, INPUTS)
    np.savez(folder / "vectors.npz", x=x)
    np.savez(folder / "doubles.npz", x=x.astype(float))
    np.savez(folder / "images.npz", x=draw(IMAGES, SIDE, SIDE, 1))
    widths = [INPUTS, WIDTH, WIDTH, WIDTH, OUTPUTS]
    layers = itertools.pairwise(widths)
    np.savez(folder / "mlp.npz", x=draw(MLP_SAMPLES, INPUTS), **parameters(draw, layers))
    layers = [(3, 3, 1, CHANNELS), *[(3, 3, CHANNELS, CHANNELS)] * 2, (CHANNELS, OUTPUTS)]
    np.savez(folder / "cnn.npz", x=draw(CNN_SAMPLES, SIDE, SIDE, 1), **parameters(draw, layers))
    labels = {"x_test": draw(TESTS, INPUTS), "y": draw(SAMPLES, OUTPUTS)}
    np.savez(
        folder / "labels.npz",
        x=x,
        times=TIMES.astype(np.float32),
        ridge=np.float32(RIDGE),
        **labels,
    )


# ----------------------------------------------------------------------------------------------------- the processes


def clocked(function, on_cpu):
    """Return a call's value and its CPU seconds, or its wall seconds where another device does the
    work."""
    import jax

    clock = time.process_time if on_cpu else time.perf_counter
    begin = clock()
    value = jax.block_until_ready(function())
    return value, clock() - begin


def measure(path):
    """Measure what the machine does at most, and write the kernels that predictions start from."""
    import jax
    import jax.numpy as jnp

    from jaxdyn import kernels

    on_cpu = jax.default_backend() == "cpu"
    rates = {"device": jax.devices()[0].device_kind}
    inputs = dict(np.load(path / "labels.npz"))

    def of(*x):
        return kernels.gram(connected(3), *x, get=("nngp", "ntk"))

    train = inputs["x"]
    test = inputs["x_test"]
    for pair, matrices in (("dd", of(train)), ("td", of(test, train)), ("tt", of(test))):
        inputs |= {f"{name}_{pair}": np.asarray(matrix) for name, matrix in matrices.items()}
    np.savez(path / "kernels.npz", **inputs)
    for size, dtype in ((4, jnp.float32), (8, jnp.float64)):
        with jax.enable_x64(True):
            a = jnp.ones((2048, 2048), dtype)
            product = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))
            seconds = min(clocked(lambda f=product, a=a: f(a), on_cpu)[1] for _ in range(8))
        rates[f"flops{size}"] = 2 * 2048**3 / seconds
    a = jnp.ones(2**26, jnp.float32)
    seconds = []
    passed = jax.jit(
        lambda a: a + 1, donate_argnums=0
    )  # in place: the system's handing out of pages is no copying
    for _ in range(8):
        a, passing = clocked(lambda a=a: passed(a), on_cpu)
        seconds.append(passing)
    rates["bytes"] = 2 * a.nbytes / min(seconds)
    return rates


def serve(name, path):
    """Be our side of a case: run once for each line on stdin and answer in JSON."""
    import jax
    import jax.numpy as jnp

    if name == "measure":
        sys.stdin.readline()
        return print(json.dumps(measure(path.parent)), flush=True)
    call = CASES[name].ours({key: jnp.asarray(a) for key, a in np.load(path).items()})
    first = True
    on_cpu = jax.default_backend() == "cpu"
    for _ in sys.stdin:
        value, seconds = clocked(call, on_cpu)
        # Linux counts in KiB, macOS in bytes.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
            1 << (20 if sys.platform == "darwin" else 10)
        )
        peak = peak if on_cpu else jax.devices()[0].memory_stats()["peak_bytes_in_use"] / 2**20
        print(json.dumps({"seconds": seconds, "peak": peak}), flush=True)
        if first:
            np.save(path.parent / f"{name}-ours.npy", np.asarray(value))
        value = None
        first = False
    return None


@contextlib.contextmanager
def contestant(command, environment):
    """Start a process; yield a function that lets it run once and returns what it measured."""
    environment = os.environ | ONE_THREAD | environment
    with subprocess.Popen(
        list(map(str, command)), stdin=-1, stdout=-1, text=True, env=environment
    ) as process:

        def run():
            process.stdin.write("run\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            if not answer:
                raise SystemExit(f"{' '.join(map(str, command))}: failed, see above")
            return json.loads(answer)

        yield run
        process.stdin.close()


def ours(name, path, options):
    double = path.name == "doubles.npz"
    environment = {
        "JAX_PLATFORMS": {"gpu": "cuda"}.get(options.platform, "cpu"),
        "JAX_ENABLE_X64": str(int(double)),
    }
    return contestant([sys.executable, __file__, "--serve", name, "--path", path], environment)


def contest(name, folder, options):
    """Return (setting, our measurements, the peer's or None) of a case; the first of each is the
    first call."""
    case = CASES[name]
    path = folder / f"{case.inputs}.npz"
    rounds = options.repeats + 1
    if not options.peer:
        with ours(name, path, options) as run:
            return [(None, [run() for _ in range(rounds)], None)]
    environment = {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": str(int(case.dtype is np.float64))}
    rows = []
    for setting in case.goals:
        command = [options.peer, PEER, name, setting, path]
        with ours(name, path, options) as run, contestant(command, environment) as other:
            pairs = [
                (run(), other() if i < 2 or setting not in SLOW else None) for i in range(rounds)
            ]
        mine, theirs = zip(*pairs, strict=True)
        rows.append((setting, mine, [m for m in theirs if m]))
    return rows


# ------------------------------------------------------------------------------------------------------------- report


def summary(measurements):
    """Return the first call's seconds, the median of the others' and the peak memory."""
    first, *others = measurements
    return first["seconds"], statistics.median(m["seconds"] for m in others), others[-1]["peak"]


def difference(name, setting, folder):
    """Return the largest difference of the values, relative to the largest value."""
    mine, theirs = (np.load(folder / f"{name}-{side}.npy") for side in ("ours", setting))
    worst = np.max(np.abs(mine - theirs)) / np.max(np.abs(theirs))
    if not worst < 1e-2 and setting not in SLOW:
        raise SystemExit(
            f"{name}, {setting}: computes something else, a relative difference of {worst:.1e}"
        )
    return worst


def compare(name, folder, rates, options):
    """Print the rows of a case; return its goals as (text, value, sign, goal)."""
    case = CASES[name]
    goals = []
    operations, moved = case.work
    for setting, mine, theirs in contest(name, folder, options):
        first, seconds, peak = summary(mine)
        limit = max(operations / rates[f"flops{case.dtype().itemsize}"], moved / rates["bytes"])
        cells = [
            case.label,
            setting or "",
            f"{seconds:.3g}",
            "",
            "",
            "",
            f"{first:.2f}",
            "",
            f"{peak:.0f}",
            "",
        ]
        cells += [
            f"{operations / seconds / 1e9:.3g}",
            f"{moved / 1e6:.3g}",
            f"{seconds / limit:.2g}",
            "",
        ]
        if theirs:
            their_first, their_seconds, their_peak = summary(theirs)
            ratio = their_seconds / seconds
            goal = case.goals[setting]
            cells[3:6] = [f"{their_seconds:.3g}", f"{ratio:.3g}", f"{goal:g}" if goal else ""]
            cells[7] = f"{their_first:.2f}"
            cells[9] = f"{their_peak:.0f}"
            cells[13] = f"{difference(name, setting, folder):.1e}"
            if goal:
                goals.append((f"{case.label}: times faster than `{setting}`", ratio, ">=", goal))
            if name == "cntk-flatten":
                goals.append(
                    (f"{case.label}: first call over the peer's", first / their_first, "<=", 2)
                )
        print("| " + " | ".join(cells) + " |", flush=True)
    return goals


def version(python, package):
    code = f"import importlib.metadata as m; print(m.version('{package}'))"
    return subprocess.run(
        [python, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def processor():
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def header(rates, options):
    versions = [
        f"{package} {version(sys.executable, package)}" for package in ("jax", "jaxlib", "numpy")
    ]
    device = f"one thread of {processor()}" if options.platform == "cpu" else rates["device"]
    print(f"Medians of {options.repeats} calls, {device} ", end="")
    print(
        f"({os.cpu_count()} cores, load {options.load:.1f} before); Python {platform.python_version()}, ",
        end="",
    )
    print(f"{', '.join(versions)}.")
    if options.peer:
        theirs = (
            f"{p} {version(options.peer, p)}" for p in ("neural-tangents", "jax", "jaxlib", "numpy")
        )
        print(f"The peer: {', '.join(theirs)}.")
    single, double, copied = (rates[key] / 1e9 for key in ("flops4", "flops8", "bytes"))
    print(
        f"Products of 2048 x 2048 matrices: {single:.0f} GFLOP/s in float32, {double:.0f} in float64; ",
        end="",
    )
    print(
        f"copying: {copied:.1f} GB/s.  The limit is the longer of operations and bytes at these rates.\n"
    )
    clock = "CPU s" if options.platform == "cpu" else "s"
    columns = [
        "",
        "peer's setting",
        clock,
        "peer",
        "ratio",
        "goal",
        f"first call ({clock})",
        "peer",
    ]
    columns += ["peak (MB)", "peer", "GFLOP/s", "MB", "times the limit", "difference"]
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns), flush=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", help="the Python of an environment with neural-tangents")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--platform", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--serve", choices=(*CASES, "measure"), help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve, options.path)
    options.load = os.getloadavg()[0]
    goals = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder)
        with ours("measure", folder / "labels.npz", options) as run:
            rates = run()
        header(rates, options)
        for case in options.cases:
            goals += compare(case, folder, rates, options)
    if goals:
        print("\n| | measured | goal | |\n|---|---|---|---|")
    for text, value, sign, goal in goals:
        met = value <= goal if sign == "<=" else value >= goal
        print(f"| {text} | {value:.2f} | {sign} {goal} | {'met' if met else 'missed'} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
