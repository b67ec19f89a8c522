"""What exact theory costs, beside simulating the same: time and error together.

High-dimensional regression: learning curves of 1,000 configurations (alpha, noise, scale of the
slow features) at 100 times by `theory.spectrum` under vmap, against integrals over the
Marchenko-Pastur law (isotropic inputs only), these by scipy.integrate.quad, and simulations of n =
1000 samples over 10 seeds: by one singular value decomposition a run, and by gradient descent step
by step.  Two-layer networks: `theory.riccati` against diffrax at equal error, and against the
formula as printed.  All in turn in one process on one core, in float64; medians, printed as tables
in Markdown.

    python benchmarks/theory.py            # --repeats 5
"""

import argparse
import os
import platform
import statistics
import time
from functools import partial

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC"):
    os.environ[name] = "1"
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
import scipy.integrate  # noqa: E402

import jaxdyn as jd  # noqa: E402
from jaxdyn import losses, models, tasks  # noqa: E402
from jaxdyn.papers.linear.braun2022 import one_target as braun2022  # noqa: E402
from jaxdyn.theory.linear import riccati  # noqa: E402
from jaxdyn.theory.regression import (  # noqa: E402
    equivalents,
    given_data,
    isotropic,
    spectrum,
)

SAMPLES = 1000
SEEDS = 10
TIMES = np.geomspace(0.1, 1e4, 100)
ALPHA, NOISE, KAPPA = (
    a.ravel()
    for a in np.meshgrid(np.linspace(0.5, 2, 10), np.linspace(0, 1, 10), np.geomspace(1, 100, 10))
)

SOME = np.linspace(0, 999, 4).astype(int)


def population(alpha, kappa):
    """Two halves of the inputs, of variances 1 and 1/kappa^2, which the teacher weighs alike."""
    half = SAMPLES / alpha / 2
    return equivalents.Spectrum(
        *(
            jnp.stack(jnp.broadcast_arrays(*pair))
            for pair in ((1.0, kappa**-2.0), (half, half), (0.5, 0.5 * kappa**2), (0.0, 0.0))
        )
    )


def contour(alpha, noise, kappa, *, nodes):
    return spectrum.flow(TIMES, population(alpha, kappa), SAMPLES, noise, nodes=nodes).excess


def law(alpha, noise, *, nodes=400):
    return isotropic.flow(TIMES, alpha, noise=noise, nodes=nodes).excess


def by_quad(alpha, noise):
    """The same integral by adaptive quadrature, one configuration and one time after another."""

    def weighted(angle, t):
        x = 1 + 1 / alpha + 2 * np.cos(angle) / alpha**0.5
        return (
            (np.exp(-2 * x * t) + noise**2 * np.expm1(-x * t) ** 2 / x / alpha)
            * 2
            * np.sin(angle) ** 2
            / (np.pi * x)
        )

    def integral(t):
        return scipy.integrate.quad(
            weighted, 0, np.pi, (t,), limit=400, epsabs=1e-12, epsrel=1e-12
        )[0]

    return np.array([integral(t) + max(0.0, 1 - alpha) for t in TIMES])


def draw(seed, alpha, noise, kappa):
    half = round(SAMPLES / alpha / 2)
    groups = [1.0, kappa**-2], (half, half), [0.5, 0.5 * kappa**2]
    return tasks.regression(jax.random.key(seed), SAMPLES, *groups, noise=noise)


@jax.jit
def decomposed(data):
    return given_data.excess_error(
        given_data.flow(TIMES, data.x, data.y), data.teacher, data.eigenvalues
    )


@partial(jax.jit, static_argnames="steps")
def stepped(data, steps, rate=0.1):
    def field(w, _):
        return data.x.T @ (data.x @ w - data.y) / SAMPLES

    def observe(state):
        return {"excess": given_data.excess_error(state.params, data.teacher, data.eigenvalues)}

    times = jd.log_times(steps, 100)
    return jd.train(
        field, optax.sgd(rate), lambda key, step: (), 0 * data.teacher, times=times, observe=observe
    ).observed


def clocked(function, repeats):
    """Return the value and the median of the CPU seconds of calls after the first, which
    compiles."""
    value = jax.block_until_ready(function())
    seconds = []
    for _ in range(repeats):
        begin = time.process_time()
        jax.block_until_ready(function())
        seconds.append(time.process_time() - begin)
    return value, statistics.median(seconds)


def compiled(function, *arguments):
    """Return the compiled program, the CPU seconds that took, and XLA's count of its operations."""
    begin = time.process_time()
    program = jax.jit(function).lower(*arguments).compile()
    return (
        partial(program, *arguments),
        time.process_time() - begin,
        program.cost_analysis()["flops"],
    )


def table(head, rows):
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)
    print()


def relative(values, exact):
    return np.max(np.abs(np.asarray(values) - exact) / np.max(exact, -1, keepdims=True))


def contours(kappa, exact, repeats):
    """Return rows (name, seconds, error, compiling, GFLOP/s) of the contour at several numbers of
    nodes."""
    rows = []
    for nodes in (16, 24, 32):
        call, building, flops = compiled(
            jax.vmap(partial(contour, nodes=nodes)), ALPHA, NOISE, kappa
        )
        values, seconds = clocked(call, repeats)
        rows.append(
            (
                f"contour, {nodes} nodes",
                seconds,
                relative(values, exact),
                building,
                flops / seconds / 1e9,
            )
        )
    return rows


def show(name, rows):
    print(f"{name}: 1000 configurations x {len(TIMES)} times\n")
    head = (
        "",
        "CPU seconds",
        "times contour (32)",
        "largest relative error",
        "compiling (s)",
        "GFLOP/s",
    )

    def digits(x, form):
        return f"{x:{form}}" if x else ""

    table(
        head,
        [
            [
                name,
                f"{seconds:.3g}",
                f"{seconds / rows[2][1]:.3g}",
                digits(error, ".1e"),
                digits(building, ".1f"),
                digits(rate, ".2f"),
            ]
            for name, seconds, error, building, rate in rows
        ],
    )


def one_variance(repeats):
    """Print time and error of the learning curves for inputs of one variance."""
    exact = np.asarray(jax.jit(jax.vmap(partial(law, nodes=4000)))(ALPHA, NOISE))
    rows = contours(np.ones(1000), exact, repeats)
    for nodes in (400, 2000):
        call, building, flops = compiled(jax.vmap(partial(law, nodes=nodes)), ALPHA, NOISE)
        values, seconds = clocked(call, repeats)
        rate = flops / seconds / 1e9
        rows.append(
            (f"Marchenko-Pastur, {nodes} nodes", seconds, relative(values, exact), building, rate)
        )
    values, seconds = clocked(lambda: np.array([by_quad(ALPHA[i], NOISE[i]) for i in SOME]), 1)
    rows.append(
        (
            "scipy.integrate.quad (4 of 1000, scaled)",
            250 * seconds,
            relative(values, exact[SOME]),
            0,
            0,
        )
    )
    show("isotropic inputs", rows)


def two_scales(repeats):
    """Print time and error of the learning curves for two scales of features, beside
    simulations."""
    exact = np.asarray(jax.jit(jax.vmap(partial(contour, nodes=40)))(ALPHA, NOISE, KAPPA))
    rows = contours(KAPPA, exact, repeats)
    data = [
        [draw(seed, *(float(a[i]) for a in (ALPHA, NOISE, KAPPA))) for seed in range(SEEDS)]
        for i in SOME
    ]

    def mean(runs):
        return np.mean([decomposed(run) for run in runs], 0)

    values, seconds = clocked(lambda: np.array([mean(runs) for runs in data]), 1)
    error = relative(values, exact[SOME])
    rows.append(
        (f"simulation by SVD, {SEEDS} seeds (4 of 1000, scaled)", 250 * seconds, error, 0, 0)
    )
    _, seconds = clocked(lambda: stepped(data[1][0], 1000), 1)
    name = f"simulation by descent, {SEEDS} seeds (1 run, 1000 of its 100,000 steps, scaled)"
    rows.append((name, seconds * 100 * SEEDS * 1000, 0, 0, 0))
    show("two scales of features", rows)


def two_layers(repeats, size=20, horizon=10.0):
    """Print time and error of a network's Gram matrix at 100 times, and where the printed formula
    ends."""
    weights = models.lambda_balanced(jax.random.key(1), (size, size, size), 1.0, scale=0.1)
    yx = jax.random.normal(jax.random.key(2), (size, size)) / size**0.5
    times = np.linspace(0, horizon, 101)[1:]

    gram = riccati.gram
    moments = tasks.Covariances(jnp.eye(size), yx, jnp.eye(size))

    def observe(state):
        return {"gram": gram(state.params)}

    field = jax.grad(losses.covariance_loss(models.product))

    def integrated(weights, **options):
        return jd.flow(field, moments, weights, times=times, observe=observe, **options)

    def solved(weights):
        return jax.vmap(lambda t: gram(riccati.solution(t, weights, yx)))(times)

    contestants = {
        "riccati.solution": solved,
        "riccati.trajectory": lambda w: jax.vmap(lambda *w: gram(w))(
            *riccati.trajectory(times, w, yx)
        ),
        "diffrax Tsit5, rtol 1e-6": lambda w: integrated(w, rtol=1e-6, atol=1e-8).observed["gram"],
        "diffrax Tsit5, rtol 1e-12": lambda w: integrated(w, rtol=1e-12, atol=1e-14).observed[
            "gram"
        ],
        "Runge-Kutta 4, step 0.005": lambda w: integrated(w, solver=jd.RK4(0.005)).observed["gram"],
    }
    rows = []
    exact = None
    for name, function in contestants.items():
        call, building, _ = compiled(function, weights)
        values, seconds = clocked(call, repeats)
        exact = values if exact is None else exact
        rows.append((name, seconds, float(jnp.max(jnp.abs(values - exact))), building))
    print(
        f"two-layer network {size}-{size}-{size}: its Gram matrix at 100 times up to {horizon:g}\n"
    )
    table(
        ["", "CPU milliseconds", "times riccati", "difference from it", "compiling (s)"],
        [
            [n, f"{1e3 * s:.3g}", f"{s / rows[0][1]:.3g}", f"{e:.1e}", f"{b:.1f}"]
            for n, s, e, b in rows
        ],
    )

    printed = jax.jit(
        lambda t, weights, yx: braun2022.printed(t, weights, yx, riccati.imbalance(weights)[0])
    )
    places = (1.0, 3.0, 10.0, 30.0, 100.0)

    def low(*tree):
        return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree)

    truth = [gram(riccati.solution(t, weights, yx)) for t in places]

    def differ(f):
        return [
            f"{float(jnp.max(jnp.abs(f(t) - s))):.1e}" for t, s in zip(places, truth, strict=True)
        ]

    rows = [
        ["as printed, float64", *differ(lambda t: printed(t, weights, yx))],
        ["as printed, float32", *differ(lambda t: printed(*low(t, weights, yx)))],
        [
            "riccati.solution, float32",
            *differ(lambda t: gram(riccati.solution(*low(t, weights, yx)))),
        ],
    ]
    print("difference from `riccati.solution` in float64\n")
    table(["", *(f"t = {t:g}" for t in places)], rows)


def machine():
    """Print versions, the device and what it does at most."""
    a = jnp.ones((1024, 1024))
    product = jax.jit(lambda a: a @ a)
    _, seconds = clocked(lambda: product(a), 5)
    versions = (
        f"Python {platform.python_version()}, jax {jax.__version__}, jaxlib {jax.lib.__version__}"
    )
    rate = 2 * 1024**3 / seconds / 1e9
    print(
        f"{platform.machine()}, one core; {jax.devices()[0].device_kind}; {versions}, scipy {scipy.__version__}"
    )
    print(f"a float64 product of 1024 x 1024 matrices: {rate:.0f} GFLOP/s\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with jax.enable_x64(True):
        machine()
        isotropic(options.repeats)
        two_scales(options.repeats)
        two_layers(options.repeats)
