"""What saddles, central flows and online learning cost, beside what one would do without jaxdyn.

- A linear network from small weights to the end of its last plateau: the adaptive flow, against
  gradient descent at the largest learning rate whose drops are as late by no more than the flow's
  error allows (or as listed).
- Central flows: the complementarity problem of each substep by `theory.complementarity`, against
  CVXPY with CVXOPT and Clarabel in an environment of their own (`make peers`), on the same
  problems, whose solutions are compared.
- Central flows of 64 learning rates in one program, against a loop over one compiled program.
- Online learning of a committee, d = 400, K = M = 3, alpha = 10, 100 seeds: the exact chain and the
  simulation with weights, against the same steps in a NumPy loop over all seeds at once.
- The index of a saddle by Lanczos' method against the dense Hessian.

All on one core in one process but for CVXPY, float64, in turn; CPU seconds are medians of calls
after the first.

    python benchmarks/saddles.py --cvxpy .venv-cvxpy/bin/python      # --repeats 5
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC"):
    os.environ[name] = "1"
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from scipy.special import erf  # noqa: E402

import jaxdyn as jd  # noqa: E402
from jaxdyn import losses, models, observables, tasks  # noqa: E402
from jaxdyn.sweep._program import compiler_options  # noqa: E402
from jaxdyn.theory import linear, online, saddles  # noqa: E402
from jaxdyn.theory.descent import central_flow, complementarity  # noqa: E402

PEER = Path(__file__).parent / "peers" / "central_flow_cvxpy.py"


def clocked(function, repeats):
    """Return a value, the CPU seconds of the first call, and the median of those of later ones."""
    seconds = []
    for _ in range(repeats + 1):
        begin = time.process_time()
        value = jax.block_until_ready(function())
        seconds.append(time.process_time() - begin)
    return value, seconds[0], statistics.median(seconds[1:])


def table(head, rows):
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |", flush=True)
    print()


def flows(repeats, scale=1e-4):
    """Compare the adaptive flow with descent, by when the losses of a linear network drop."""
    s = jnp.array([4.0, 2.0, 1.0, 0.5])
    sizes = (6, 20, 5)
    first, last = models.deep_linear(sizes).init(jax.random.key(0))
    start = [scale * 6**0.5 * first, scale * 20**0.5 * last]
    left = jnp.eye(5, 4)
    right = jnp.eye(6, 4)
    moments = tasks.linear_teacher(tasks.from_svd(left, s, right))
    loss = losses.covariance_loss(models.product)
    drops = saddles.drop_times(s, linear.seed_strengths(*start, left, right))
    levels = saddles.linear_plateaus(s)
    middle = (levels[:-1] + levels[1:]) / 2
    end = 1.2 * float(drops[-1])
    times = np.linspace(0, end, 2001)

    def late(time, values):
        found = jnp.interp(middle, values[::-1], time[::-1])
        return float(jnp.max(jnp.abs(found / drops - 1)))

    watch = observables.loss(loss, moments)
    field = jax.grad(loss)
    flow = jax.jit(
        lambda w: jd.flow(field, moments, w, times=times, observe=watch).observed["loss"]
    )
    values, building, seconds = clocked(lambda: flow(start), repeats)
    error = late(times, values)
    rows = [
        ["adaptive flow (tsit5)", "", f"{seconds:.3g}", "1.0", f"{error:.1e}", f"{building:.1f}"]
    ]
    for rate in (1e-2, 1e-3, 1e-4):
        steps = np.unique(np.round(times / rate).astype(int))
        descent = jax.jit(
            lambda w, rate=rate, steps=steps: jd.train(
                field, optax.sgd(rate), tasks.full_batch(moments), w, times=steps, observe=watch
            ).observed["loss"]
        )
        values, building, spent = clocked(
            lambda f=descent: f(start), min(repeats, 3) if rate > 1e-4 else 1
        )
        row = [f"descent at {rate:g}", f"{steps[-1]:,}", f"{spent:.3g}", f"{spent / seconds:.1f}"]
        rows.append([*row, f"{late(steps * rate, values):.1e}", f"{building:.1f}"])
    print(f"linear network {sizes}, weights of scale {scale:g}, until its fourth drop\n")
    table(
        [
            "",
            "steps",
            "CPU s",
            "times the flow",
            "largest error of drop times",
            "first call (CPU s)",
        ],
        rows,
    )


def problems(count=400, k=3, seed=0):
    """Draw complementarity problems as central flows have them: one or more eigenvalues at the
    edge, coupled."""
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((count, k * (k + 1) // 2, 40))
    pair = np.zeros((k, k), int)
    first, second = np.triu_indices(k)
    pair[first, second] = pair[second, first] = np.arange(len(first))
    gram = (root @ root.transpose(0, 2, 1)) / 40
    b = gram[:, pair[:, :, None, None], pair[None, None]]
    a = rng.standard_normal((count, k, k)) * 0.1
    a = (a + a.transpose(0, 2, 1)) / 2 + np.diag([-0.1, 0.1, 1.0])[None]
    return a, b


def complementarities(python, repeats):
    """Compare solutions of the complementarity problem, and their time."""
    a, b = problems()
    both = jax.jit(jax.vmap(complementarity.solve))
    one = jax.jit(complementarity.solve)
    found, building, seconds = clocked(lambda: both(a, b), repeats)
    _, building_one, single = clocked(
        lambda: [one(x, y) for x, y in zip(a[:100], b[:100], strict=True)], repeats
    )

    def each(t, n):
        return f"{1e6 * t / n:.1f}"

    rows = [
        [
            "`complementarity.solve`, vmap",
            each(seconds, len(a)),
            "1.0",
            f"{float(found.ok.mean()):.3f}",
            "",
            f"{building:.1f}",
        ],
        [
            "the same, one by one",
            each(single, 100),
            f"{single / 100 * len(a) / seconds:.1f}",
            "",
            "",
            f"{building_one:.1f}",
        ],
    ]
    if python:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "problems.npz"
            np.savez(path, a=a[:100], b=b[:100])
            for solver in ("CVXOPT", "CLARABEL"):
                lines = "\n" * (min(repeats, 3) + 1)
                done = subprocess.run(
                    [python, PEER, solver, path],
                    input=lines,
                    capture_output=True,
                    text=True,
                    check=True,
                )
                spent = statistics.median(
                    [json.loads(line)["seconds"] for line in done.stdout.splitlines()][1:]
                )
                difference = np.abs(np.load(Path(folder) / f"{solver}.npy") - found.x[:100]).max()
                ratio = spent / 100 * len(a) / seconds
                rows.append(
                    [
                        f"CVXPY, {solver}",
                        each(spent, 100),
                        f"{ratio:.0f}",
                        "",
                        f"{difference:.1e}",
                        "",
                    ]
                )
    print("semidefinite complementarity problems of 3 x 3\n")
    table(
        ["", "CPU microseconds each", "times", "solved", "difference", "first call (CPU s)"], rows
    )


def central(repeats, rates=64, steps=100):
    """Compare central flows of many learning rates at once with a loop over them."""
    net = models.mlp((4, 12, 1), bias_scale=0.1)
    x = jax.random.normal(jax.random.key(0), (64, 4), float)
    batch = (x, jax.random.normal(jax.random.key(1), (64, 1), float))
    error = losses.squared_error(net.apply)
    start = net.init(jax.random.key(2))

    def follow(rate):
        flow = central_flow.central_flow(
            error, batch, central_flow.gradient_descent(rate), top=3, substeps=2
        )

        def observe(state):
            return {"loss": error(state.params, batch)}

        return jd.iterate(flow.step, flow.init(start), times=[steps], observe=observe).observed[
            "loss"
        ]

    grid = jnp.linspace(0.05, 0.4, rates)
    together = jax.jit(jax.vmap(follow))
    single = jax.jit(follow)
    values, building, seconds = clocked(lambda: together(grid), repeats)
    each, building_one, spent = clocked(lambda: jnp.stack([single(rate) for rate in grid]), repeats)
    difference = float(jnp.nanmax(jnp.abs(values - each)))

    def descend(rate):
        def observe(state):
            return {"loss": error(state.params, batch)}

        stream = tasks.full_batch(batch)
        run = jd.train(
            jax.grad(error), optax.sgd(rate), stream, start, times=[1000], observe=observe
        )
        return run.observed["loss"]

    @jax.jit
    def step(w, rate):
        return jax.tree.map(lambda a, g: a - rate * g, w, jax.grad(error)(w, batch))

    def stepped():
        ends = []
        for rate in grid:
            w = start
            for _ in range(1000):
                w = step(w, rate)
            ends.append(error(w, batch))
        return jnp.stack(ends)

    scanned = jax.jit(jax.vmap(descend))
    alone = jax.jit(descend)
    _, building_scan, scan = clocked(lambda: scanned(grid), repeats)
    _, building_alone, loop = clocked(lambda: jnp.stack([alone(rate) for rate in grid]), repeats)
    size = sum(a.size for a in jax.tree.leaves(start))
    _, _, python = clocked(stepped, 1)
    print(
        f"{rates} learning rates: {steps} steps of central flow, 1000 of descent; {size} parameters, 64 examples\n"
    )
    rows = [
        ["central flow, vmap", f"{seconds:.3g}", "1.0", f"{building:.1f}", ""],
        [
            "central flow, a loop of calls",
            f"{spent:.3g}",
            f"{spent / seconds:.1f}",
            f"{building_one:.1f}",
            f"{difference:.0e}",
        ],
        ["descent, vmap", f"{scan:.3g}", "1.0", f"{building_scan:.1f}", ""],
        [
            "descent, a loop of calls",
            f"{loop:.3g}",
            f"{loop / scan:.1f}",
            f"{building_alone:.1f}",
            "",
        ],
        [
            "descent, Python loops over jitted steps",
            f"{python:.3g}",
            f"{python / scan:.1f}",
            "",
            "",
        ],
    ]
    table(["", "CPU s", "times vmap", "first call (CPU s)", "difference"], rows)


def by_numpy(seeds, d, k, alpha, rate, scale=0.5):
    """Learn online with weights, all seeds at once, one example a step: as one would write it in
    NumPy."""
    rng = np.random.default_rng(0)
    teacher = np.linalg.qr(rng.standard_normal((d, k)))[0].T * d**0.5
    w = scale * rng.standard_normal((seeds, k, d))
    for _ in range(int(alpha * d)):
        x = rng.standard_normal((seeds, d))
        fields = np.einsum("skd,sd->sk", w, x) / d**0.5
        labels = x @ teacher.T / d**0.5
        error = erf(labels / 2**0.5).sum(1) - erf(fields / 2**0.5).sum(1)
        slope = (2 / np.pi) ** 0.5 * np.exp(-(fields**2) / 2)
        w += rate / d**0.5 * (slope * error[:, None])[:, :, None] * x[:, None]
    return w


def committees(repeats, seeds=100, d=400, k=3, alpha=10, rate=1.0):
    """Compare the chain of order parameters and the simulation with weights with NumPy."""
    teacher = online.Teacher(jnp.eye(k), jnp.ones(k))
    block = 40

    def chain(key):
        k_start, k_run = jax.random.split(key)
        start = online.random_start(k_start, teacher, jnp.ones(k), d, 0.5)
        step = online.chain(teacher, d, learning_rate=rate, examples=block)

        def observe(state):
            return {"error": online.generalisation_error(state.params, teacher)}

        return jd.iterate(
            step, start, times=[alpha * d // block], observe=observe, key=k_run
        ).observed["error"]

    goal = jnp.eye(k, d)

    def weights(key):
        k_start, k_run = jax.random.split(key)
        start = 0.5 / d**0.5 * jax.random.normal(k_start, (k, d), jnp.float32).astype(float)

        def apply(w, x):
            return jnp.sum(jax.scipy.special.erf(x @ w.T / 2**0.5), 1)

        stream = tasks.online(lambda key: tasks.labelled(key, lambda x: apply(goal, x), 1, d))
        field = jax.grad(losses.squared_error(apply))
        optimizer = optax.sgd(rate / d)

        def observe(state):
            student = online.overlaps(state.params, jnp.ones(k), goal)
            return {"error": online.generalisation_error(student, teacher)}

        return jd.train(
            field, optimizer, stream, start, times=[alpha * d], observe=observe, key=k_run
        ).observed["error"]

    keys = jax.random.split(jax.random.key(0), seeds)
    _, _, spent = clocked(lambda: by_numpy(seeds, d, k, alpha, rate), max(1, repeats // 2))
    rows = [["NumPy, all seeds in each step", f"{spent:.3g}", "1.0", "", ""]]
    for name, run in (("chain of order parameters", chain), ("with weights, `train`", weights)):
        many = jax.jit(jax.vmap(run), compiler_options=compiler_options())  # as sweeps are compiled
        values, building, seconds = clocked(lambda f=many: f(keys), repeats)
        mean = float(values.mean())
        sem = float(values.std()) / seeds**0.5
        rows.append(
            [
                name,
                f"{seconds:.3g}",
                f"{spent / seconds:.1f}",
                f"{mean:.4f} +- {sem:.4f}",
                f"{building:.1f}",
            ]
        )
    print(f"online learning: d = {d}, K = M = {k}, alpha = {alpha}, {seeds} seeds\n")
    table(["", "CPU s", "times faster than NumPy", "error in the end", "first call (CPU s)"], rows)


def indices(repeats):
    """Compare the index of a saddle by Lanczos' method with the dense Hessian, for growing
    networks."""
    rows = []
    for width in (8, 32, 128):
        s = jnp.linspace(2, 1, 8)
        moments = tasks.linear_teacher(tasks.from_svd(jnp.eye(16, 8), s, jnp.eye(16, 8)))
        loss = losses.covariance_loss(models.product)
        # Two modes learned, all other weights zero: an index of (width - 2)(8 - 2).
        learned = jnp.diag(jnp.sqrt(s[:2]))
        saddle = [
            jnp.zeros((width, 16)).at[:2, :2].set(learned),
            jnp.zeros((16, width)).at[:2, :2].set(learned),
        ]
        state = jd.State(0, saddle)
        row = [f"{2 * 16 * width:,}", (width - 2) * 6]
        for options in ({"dense": 0, "depth": 24}, {"dense": 10**6}):
            if options["dense"] and width > 32:
                row += ["", ""]
                continue
            observe = jax.jit(observables.hessian_index(loss, moments, **options))
            value, _, seconds = clocked(lambda f=observe, at=state: f(at)["index"], repeats)
            row += [f"{float(value):.1f}", f"{1e3 * seconds:.3g}"]
        rows.append(row)
    print("index of a saddle\n")
    head = ["parameters", "index", "Lanczos", "CPU ms", "dense", "CPU ms"]
    table(head, rows)


def machine():
    """Print versions, the device and what it does at most."""
    a = jnp.ones((1024, 1024))
    product = jax.jit(lambda a: a @ a)
    _, _, seconds = clocked(lambda: product(a), 5)
    versions = (
        f"Python {platform.python_version()}, jax {jax.__version__}, jaxlib {jax.lib.__version__}"
    )
    print(
        f"{platform.machine()}, one core, load {os.getloadavg()[0]:.1f}; {versions}, numpy {np.__version__}"
    )
    print(f"a float64 product of 1024 x 1024 matrices: {2 * 1024**3 / seconds / 1e9:.0f} GFLOP/s\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--cvxpy", help="the Python of an environment with CVXPY; without it no peer is run"
    )
    options = parser.parse_args()
    with jax.enable_x64(True):
        machine()
        flows(options.repeats)
        complementarities(options.cvxpy, options.repeats)
        central(options.repeats)
        committees(options.repeats)
        indices(options.repeats)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
