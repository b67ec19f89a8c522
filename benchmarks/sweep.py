"""What a sweep costs: 1000 runs of a small network, by `jaxdyn.sweep` and by what one would write
without it.

10 learning rates x 10 initial scales x 10 seeds; an 8-16-1 tanh network on 64 samples, momentum SGD
for 2,000 steps, the loss and the singular values recorded at 29 times.  Each contestant has its own
process, pinned to one core, and the processes take turns, so that other work on the machine hits
all alike; medians are printed as tables in Markdown.

    python benchmarks/sweep.py --torch OTHER_VENV/bin/python      # without --torch the two of
    PyTorch are left out
"""

import argparse
import contextlib
import functools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

RATES = np.linspace(0.01, 0.1, 10)
SCALES = np.linspace(0.5, 2.0, 10)
SEEDS = 10
SAMPLES = 64
INPUTS = 8
WIDTH = 16
MOMENTUM = 0.9
# The matrix products of a step: forwards, and backwards to the weights of each layer and to the
# hidden units.
FLOPS_PER_STEP = 2 * SAMPLES * WIDTH * (2 * INPUTS + 3)
ONE_THREAD = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_COMPILATION_CACHE": "false",
}


def runs():
    """Return the seeds, rates and scales of the 1000 runs, in the order of the sweep's
    dimensions."""
    columns = np.meshgrid(np.arange(SEEDS), RATES, SCALES, indexing="ij")
    return [
        a.ravel().astype(t)
        for a, t in zip(columns, (np.uint32, np.float32, np.float32), strict=True)
    ]


def recording_times(steps, points=30):
    """Return 0 and whole steps even in the logarithm: 29 of them for 2,000 and for 8,000 steps."""
    return np.unique(np.r_[0, np.round(np.geomspace(1, steps, points)).astype(int)])


def clocked(function):
    """Return a call's value, CPU seconds and wall seconds."""
    cpu = time.process_time()
    wall = time.perf_counter()
    value = function()
    return value, time.process_time() - cpu, time.perf_counter() - wall


# ------------------------------------------------------------------------------------------------------------- in JAX


def run_key(seed):
    """Return `jaxdyn.run_key(seed)`, written out: importing jaxdyn would size XLA's threads for the
    others too."""
    import jax

    return jax.random.fold_in(jax.random.key(0x73776570), seed)


def start(key, init_scale):
    import jax
    import jax.numpy as jnp

    k_first, k_second, k_data, k_noise = jax.random.split(key, 4)
    x = jax.random.normal(k_data, (SAMPLES, INPUTS))
    y = jnp.sin(x[:, :1]) + 0.1 * jax.random.normal(k_noise, (SAMPLES, 1))
    first = init_scale / INPUTS**0.5 * jax.random.normal(k_first, (INPUTS, WIDTH))
    second = init_scale / WIDTH**0.5 * jax.random.normal(k_second, (WIDTH, 1))
    return {"w1": first, "b1": jnp.zeros(WIDTH), "w2": second, "b2": jnp.zeros(1)}, x, y


def loss(params, batch):
    import jax.numpy as jnp

    x, y = batch
    return jnp.mean(
        (jnp.tanh(x @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"] - y) ** 2
    )


def observed(params, batch):
    import jax.numpy as jnp

    return {
        "loss": loss(params, batch),
        "singular_values": jnp.linalg.svd(params["w1"], compute_uv=False),
    }


def simulate(key, *, learning_rate, init_scale, steps):
    """The experiment as a user of jaxdyn writes it."""
    import jax
    import optax

    import jaxdyn as jd

    params, x, y = start(key, init_scale)
    return jd.train(
        jax.grad(loss),
        optax.sgd(learning_rate, MOMENTUM),
        lambda key, step: (x, y),
        params,
        times=recording_times(steps),
        observe=lambda state: observed(state.params, (x, y)),
        key=key,
    )


def update(carry, batch, rate):
    import jax

    params, memory = carry
    memory = jax.tree.map(lambda m, g: MOMENTUM * m + g, memory, jax.grad(loss)(params, batch))
    return jax.tree.map(lambda p, m: p - rate * m, params, memory), memory


def hand(seed, rate, scale, steps):
    """The same run as one would write it for this case alone: a loop nested in a scan over the
    recordings."""
    import jax
    import jax.numpy as jnp

    params, x, y = start(run_key(seed), scale)

    def segment(carry, gap):
        carry = jax.lax.fori_loop(0, gap, lambda _, c: update(c, (x, y), rate), carry)
        return carry, observed(carry[0], (x, y))

    memory = jax.tree.map(jnp.zeros_like, params)
    return jax.lax.scan(segment, (params, memory), jnp.diff(recording_times(steps), prepend=0))[1]


def by_jaxdyn(steps, _):
    """Clock the call of `sweep`; what it does before and after its blocks, such as compiling, is
    the set-up."""
    import jaxdyn as jd

    module = sys.modules["jaxdyn.sweep"]
    spent = {}
    blocks = module._run

    def clocked_blocks(*args):
        spent["run"] = clocked(lambda: blocks(*args))[1:]

    module._run = clocked_blocks
    experiment = functools.partial(simulate, steps=steps)
    axes = {"learning_rate": RATES, "init_scale": SCALES}

    def once():
        results, cpu, _ = clocked(lambda: jd.sweep(experiment, axes, seeds=SEEDS, progress=False))
        run_cpu, run_wall = spent["run"]
        return results["loss"].values.reshape(len(runs()[0]), -1), run_cpu, run_wall, cpu - run_cpu

    return once


def by_hand(steps, _, block):
    """The limit: one compiled block after another."""
    import jax

    columns = runs()
    one = (
        jax.vmap(functools.partial(hand, steps=steps))
        if block
        else functools.partial(hand, steps=steps)
    )
    width = block or 1
    pieces = [slice(i, i + width) if block else i for i in range(0, len(columns[0]), width)]
    pieces = pieces if block else pieces[:: SHARE["sequential"]]

    def once():
        jax.clear_caches()
        arguments = [[c[piece] for c in columns] for piece in pieces]
        program, setup, _ = clocked(lambda: jax.jit(one).lower(*arguments[0]).compile())
        results, cpu, wall = clocked(
            lambda: [jax.tree.map(np.asarray, program(*a)) for a in arguments]
        )
        losses = np.array([r["loss"] for r in results]).reshape(len(pieces) * width, -1)
        return losses, cpu, wall, setup

    return once


def by_steps(steps, _):
    """A Python loop over one jitted step."""
    import jax
    import jax.numpy as jnp

    columns = [c[:: SHARE["steps"]] for c in runs()]
    step = jax.jit(update)
    watch = jax.jit(observed)

    @jax.jit
    def begin(seed, rate, scale):
        params, x, y = start(run_key(seed), scale)
        return (params, jax.tree.map(jnp.zeros_like, params)), (x, y), rate

    def one_run(*numbers):
        (carry, batch, rate) = begin(*numbers)
        time = 0
        losses = []
        for stop in recording_times(steps):
            for _ in range(time, stop):
                carry = step(carry, batch, rate)
            time = stop
            losses.append(float(watch(carry[0], batch)["loss"]))
        return losses

    def compiled():
        carry, batch, rate = begin(*(c[0] for c in columns))
        jax.block_until_ready(watch(step(carry, batch, rate)[0], batch))

    def once():
        jax.clear_caches()
        setup = clocked(compiled)[1]
        losses, cpu, wall = clocked(
            lambda: np.array([one_run(*numbers) for numbers in zip(*columns, strict=True)])
        )
        return losses, cpu, wall, setup

    return once


def prepare(_, folder):
    """Write the data and initial networks of all runs for PyTorch, and measure the machine's matrix
    product."""
    import jax
    import jax.numpy as jnp

    seeds, _, scales = runs()
    params, x, y = jax.jit(jax.vmap(lambda seed, scale: start(run_key(seed), scale)))(seeds, scales)
    np.savez(folder / "inputs.npz", x=x, y=y, **params)
    matrix = jnp.ones((1024, 1024))
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(matrix, matrix))

    def once():
        seconds = min(
            clocked(lambda: jax.block_until_ready(product(matrix, matrix)))[1] for _ in range(10)
        )
        return None, seconds, seconds, 0.0

    return once


# ---------------------------------------------------------------------------------------------------------- in PyTorch


def torch_inputs(folder, share):
    import torch

    torch.set_num_threads(1)
    arrays = {
        name: torch.from_numpy(a[::share].copy())
        for name, a in np.load(folder / "inputs.npz").items()
    }
    return arrays, torch.from_numpy(runs()[1][::share].copy())


def by_torch_func(steps, folder):
    """All 1000 runs in one `torch.func.vmap`, for a share of the steps."""
    import torch

    arrays, rates = torch_inputs(folder, 1)
    x = arrays.pop("x")
    y = arrays.pop("y")

    def loss(params, x, y):
        return (
            (torch.tanh(x @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"] - y) ** 2
        ).mean()

    gradients = torch.func.vmap(torch.func.grad(loss))
    losses = torch.func.vmap(loss)

    def all_runs():
        params = arrays
        memory = {name: torch.zeros_like(a) for name, a in arrays.items()}
        time = 0
        records = []
        for stop in recording_times(steps // SHARE["torch.func"], 2):
            for _ in range(time, stop):
                updates = gradients(params, x, y)
                memory = {name: MOMENTUM * m + updates[name] for name, m in memory.items()}
                params = {
                    n: p - rates.view(-1, *[1] * (p.ndim - 1)) * memory[n]
                    for n, p in params.items()
                }
            time = stop
            records.append((losses(params, x, y), torch.linalg.svdvals(params["w1"]))[0])
        return torch.stack(records, 1).numpy()

    def once():
        losses, cpu, wall = clocked(all_runs)
        return losses, cpu, wall, 0.0

    return once


def by_torch_eager(steps, folder):
    """One ordinary training loop after another, for a share of the runs."""
    import torch

    arrays, rates = torch_inputs(folder, SHARE["eager"])

    def one_run(i):
        net = torch.nn.Sequential(
            torch.nn.Linear(INPUTS, WIDTH), torch.nn.Tanh(), torch.nn.Linear(WIDTH, 1)
        )
        first = net[0]
        second = net[2]
        with torch.no_grad():
            for parameter, name in (
                (first.weight, "w1"),
                (first.bias, "b1"),
                (second.weight, "w2"),
                (second.bias, "b2"),
            ):
                parameter.copy_(arrays[name][i].T if parameter.ndim == 2 else arrays[name][i])
        x = arrays["x"][i]
        y = arrays["y"][i]
        optimizer = torch.optim.SGD(net.parameters(), lr=float(rates[i]), momentum=MOMENTUM)
        time = 0
        records = []
        for stop in recording_times(steps):
            for _ in range(time, stop):
                optimizer.zero_grad()
                ((net(x) - y) ** 2).mean().backward()
                optimizer.step()
            time = stop
            with torch.no_grad():
                records.append(
                    (float(((net(x) - y) ** 2).mean()), torch.linalg.svdvals(first.weight))[0]
                )
        return records

    def once():
        losses, cpu, wall = clocked(lambda: np.array([one_run(i) for i in range(len(rates))]))
        return losses, cpu, wall, 0.0

    return once


# ------------------------------------------------------------------------------------------------------- the contest

BLOCKS = (25, 50, 100, 1000)
SHARE = {"sequential": 10, "steps": 100, "torch.func": 20, "eager": 250}
HANDS = {f"hand {block}": functools.partial(by_hand, block=block) for block in BLOCKS}
CONTESTANTS = {
    "prepare": prepare,
    "jaxdyn": by_jaxdyn,
    "jaxdyn, all cores": by_jaxdyn,
    **HANDS,
    "sequential": functools.partial(by_hand, block=None),
    "steps": by_steps,
    "torch.func": by_torch_func,
    "eager": by_torch_eager,
}
LABELS = {
    "jaxdyn": "`jaxdyn.sweep`",
    "jaxdyn, all cores": "`jaxdyn.sweep`, all cores",
    **{name: f"hand-written `vmap` and `scan`, blocks of {name.split()[1]}" for name in HANDS},
    "sequential": "one jitted run after another",
    "steps": "Python loop of jitted steps",
    "torch.func": "`torch.func.vmap` over 1000 runs",
    "eager": "PyTorch, eager loop",
}


def serve(name, steps, folder):
    """Be a contestant: run once for each line on stdin and answer in JSON."""
    if name != "jaxdyn, all cores" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    once = CONTESTANTS[name](steps, folder)
    for _ in sys.stdin:
        losses, cpu, wall, setup = once()
        if losses is not None:
            np.save(folder / f"{name}.npy", losses)
        # Linux counts in KiB, macOS in bytes.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
            1 << (20 if sys.platform == "darwin" else 10)
        )
        print(json.dumps({"cpu": cpu, "wall": wall, "setup": setup, "peak": peak}), flush=True)


@contextlib.contextmanager
def contestant(name, steps, folder, python):
    """Start a contestant's process; yield a function that lets it run once and returns what it
    measured."""
    command = [python, __file__, "--serve", name, "--steps", str(steps), "--folder", str(folder)]
    with subprocess.Popen(
        command, stdin=-1, stdout=-1, text=True, env=os.environ | ONE_THREAD
    ) as process:

        def measure():
            process.stdin.write("run\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            if not answer:
                raise SystemExit(f"{name}: failed, see above")
            return json.loads(answer)

        yield measure
        process.stdin.close()


def contest(names, steps, folder, torch, repeats):
    """Return the medians of each contestant's measurements, one round after another."""
    with contextlib.ExitStack() as stack:
        pythons = {
            name: torch if name in ("torch.func", "eager") else sys.executable for name in names
        }
        measures = {
            n: stack.enter_context(contestant(n, steps, folder, python))
            for n, python in pythons.items()
        }
        rounds = [{name: measure() for name, measure in measures.items()} for _ in range(repeats)]
    medians = {
        n: {key: statistics.median(r[n][key] for r in rounds) for key in rounds[0][n]}
        for n in names
    }
    return {n: m | {"first_peak": rounds[0][n]["peak"]} for n, m in medians.items()}


def factor(name, steps):
    """Return by what a measurement of a share is multiplied."""
    share = SHARE.get(name, 1)
    return steps / (steps // share) if name == "torch.func" else share


def differences(names, steps, folder):
    """Return each contestant's relative difference from the hand-written losses: the largest early,
    the median late."""
    reference = np.load(folder / "hand 50.npy")
    at = recording_times(steps)
    for name in names:
        losses = np.load(folder / f"{name}.npy")
        own = recording_times(steps // SHARE[name], 2) if name == "torch.func" else at
        rows = slice(None, None, 1 if name == "torch.func" else SHARE.get(name, 1))
        common = np.intersect1d(own, at)
        theirs = losses[:, np.isin(own, common)]
        ours = reference[rows][:, np.isin(at, common)]
        relative = abs(theirs - ours) / ours
        yield name, relative[:, common <= 10].max(), np.median(relative[:, -1])


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


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch", help="the Python of an environment with PyTorch")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--serve", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve, options.steps, options.folder)
    options.load = os.getloadavg()[0]
    names = [
        n
        for n in CONTESTANTS
        if n != "prepare" and (options.torch or n not in ("torch.func", "eager"))
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        product = contest(["prepare"], options.steps, folder, None, 1)["prepare"]["cpu"]
        medians = contest(names, options.steps, folder, options.torch, options.repeats)
        print(
            "Losses relative to the hand-written ones: the largest difference to step 10, the median at the end\n"
        )
        for name, early, late in differences(names, options.steps, folder):
            print(f"- {LABELS.get(name, name)}: {early:.1e}, {late:.1e}")
            if early > 1e-4:
                raise SystemExit(f"{name}: computes something else")
        if not np.array_equal(
            *(np.load(folder / f"{name}.npy") for name in ("jaxdyn", "jaxdyn, all cores"))
        ):
            raise SystemExit("jaxdyn: the number of cores changes its bits")
        print("\nOn one core and on all, `jaxdyn.sweep` computes the same bits.\n")
        peak = contest(["jaxdyn"], 4 * options.steps, folder, None, 1)["jaxdyn"]["peak"]
    report(options, medians, 2 * 1024**3 / product / 1e9, peak)
    return 0


def report(options, medians, product, long_peak):
    """Print the tables."""
    count = len(runs()[0])
    ours = medians["jaxdyn"]
    best = min(HANDS, key=lambda name: medians[name]["cpu"])
    cost = {name: m["cpu"] * factor(name, options.steps) for name, m in medians.items()}
    packages = [(sys.executable, p) for p in ("jax", "jaxlib", "numpy", "optax")]
    packages += [(options.torch, "torch")] if options.torch else []
    versions = ", ".join(f"{package} {version(python, package)}" for python, package in packages)
    print(
        f"{count} runs of {options.steps} steps, medians of {options.repeats}, one core of {processor()} ",
        end="",
    )
    print(
        f"({os.cpu_count()} cores, load {options.load:.1f} before); Python {platform.python_version()}, {versions}."
    )
    print(f"A float32 product of 1024 x 1024 matrices runs at {product:.0f} GFLOP/s there.\n")
    print(
        "| | CPU seconds per 1000 runs | times jaxdyn | compiling and set-up (s) | GFLOP/s | peak memory (MB) |"
    )
    print("|---|---|---|---|---|---|")
    for name, label in LABELS.items():
        if name in medians:
            rate = FLOPS_PER_STEP * options.steps * count / cost[name] / 1e9
            share = SHARE.get(name)
            marked = (
                f"{label} (1/{share} of the {'steps' if name == 'torch.func' else 'runs'}, scaled)"
                if share
                else label
            )
            print(f"| {marked} | {cost[name]:.3g} | {cost[name] / cost['jaxdyn']:.2f} ", end="")
            print(f"| {medians[name]['setup']:.1f} | {rate:.2g} | {medians[name]['peak']:.0f} |")
    goals = [
        (f"overhead over the best hand-written ({best})", cost["jaxdyn"] / cost[best], "<=", 1.05),
        (
            "wall time on all cores over one core's",
            medians["jaxdyn, all cores"]["wall"] / ours["wall"],
            "<=",
            0.6,
        ),
        ("peak memory at four times the steps", long_peak / ours["first_peak"], "<=", 1.05),
    ]
    if options.torch:
        goals.append(("faster than `torch.func`", cost["torch.func"] / cost["jaxdyn"], ">=", 7))
        goals.append(("faster than the eager loop", cost["eager"] / cost["jaxdyn"], ">=", 200))
    print("\n| | measured | goal | |\n|---|---|---|---|")
    for text, value, sign, goal in goals:
        met = value <= goal if sign == "<=" else value >= goal
        print(f"| {text} | {value:.2f} | {sign} {goal} | {'met' if met else 'missed'} |")


if __name__ == "__main__":
    sys.exit(main())
