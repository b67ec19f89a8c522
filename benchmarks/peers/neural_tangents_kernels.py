"""neural-tangents in the contest of `benchmarks/kernels.py`, in a virtual environment of its own
(`make peers`).

    python neural_tangents_kernels.py CASE SETTING INPUTS.npz

Computes the case once for each line on stdin, answers with the time and the memory in
JSON, and leaves the first value beside the inputs, in CASE-SETTING.npy.
"""

import collections
import json
import resource
import sys
import time
import types
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

# Only its experimental module needs TensorFlow.
sys.modules["neural_tangents.experimental"] = types.ModuleType("neural_tangents.experimental")
warnings.filterwarnings("ignore")

import neural_tangents as nt  # noqa: E402
from neural_tangents import stax  # noqa: E402

GAIN = {"W_std": 2**0.5, "b_std": 0.1}
JACOBIAN = 1
STRUCTURED = 3


def connected(depth, outputs=10):
    hidden = [layer for _ in range(depth) for layer in (stax.Dense(512, **GAIN), stax.Relu())]
    return stax.serial(*hidden, stax.Dense(outputs, **GAIN))


def convolutional(readout, depth=3, outputs=10):
    def conv():
        return stax.Conv(32, (3, 3), padding="SAME", **GAIN)

    hidden = [layer for _ in range(depth) for layer in (conv(), stax.Relu())]
    return stax.serial(*hidden, readout(), stax.Dense(outputs, **GAIN))


def analytic(network, inputs, setting):
    """The NTK of the inputs; without jit every operation is a program of its own."""

    def kernel(x):
        return network[2](x, None, "ntk")

    kernel = jax.jit(kernel) if setting == "jit" else kernel
    return lambda: kernel(inputs["x"])


def empirical(network, inputs, setting, trace):
    """The NTK of a finite network, with one of its implementations."""
    init, apply, _ = network
    shapes, tree = jax.tree_util.tree_flatten(init(jax.random.PRNGKey(0), inputs["x"].shape)[1])
    given = [inputs[f"p{i}"].reshape(leaf.shape) for i, leaf in enumerate(shapes)]
    implementation = STRUCTURED if "structured" in setting else JACOBIAN
    axes = {"trace_axes": (-1,) if trace else (), "vmap_axes": 0 if "vmap" in setting else None}
    kernel = jax.jit(
        nt.empirical_ntk_fn(apply, implementation=implementation, **axes), static_argnums=1
    )
    params = jax.tree_util.tree_unflatten(tree, given)
    return lambda: kernel(inputs["x"], None, params)


def ensemble(inputs, setting, covariance, given):
    """Mean and covariance; its time is the number of outputs times the flow time."""
    Kernels = collections.namedtuple("Kernels", "nngp ntk")
    kernels = {
        pair: Kernels(inputs[f"nngp_{pair}"], inputs[f"ntk_{pair}"]) for pair in ("dd", "td", "tt")
    }
    kernel_fn = jax.jit(connected(3)[2], static_argnames="get")

    def kernel(x1, x2, get):
        pair = "td" if x2 is not None else "dd" if x1 is inputs["x"] else "tt"
        if pair != "dd" and not given:
            return kernel_fn(x1, x2, get)
        return getattr(kernels[pair], get) if isinstance(get, str) else kernels[pair]

    predict = nt.predict.gradient_descent_mse_ensemble(
        kernel,
        inputs["x"],
        inputs["y"],
        diag_reg=float(inputs["ridge"]),
        diag_reg_absolute_scale=True,
    )
    times = inputs["times"] * inputs["y"].shape[1]

    def call(times):
        return predict(times, inputs["x_test"], "ntk", covariance)

    # What is timed comes after the decomposition.  Under jit everything but the times would be a
    # constant.
    jax.block_until_ready(call(times[:1]))
    return lambda: tuple(call(times)) if covariance else call(times)


CASES = {
    "fc3": lambda *a: analytic(connected(3), *a),
    "fc3-f64": lambda *a: analytic(connected(3), *a),
    "fc10": lambda *a: analytic(connected(10), *a),
    "cntk-flatten": lambda *a: analytic(convolutional(stax.Flatten), *a),
    "cntk-pool": lambda *a: analytic(convolutional(stax.GlobalAvgPool), *a),
    "mlp-trace": lambda *a: empirical(connected(3), *a, True),
    "mlp-full": lambda *a: empirical(connected(3), *a, False),
    "cnn-trace": lambda *a: empirical(convolutional(stax.GlobalAvgPool), *a, True),
    "mean": lambda *a: ensemble(*a, False, True),
    "mean-inputs": lambda *a: ensemble(*a, False, False),
    "covariance": lambda *a: ensemble(*a, True, True),
}


def main():
    case = sys.argv[1]
    setting = sys.argv[2]
    path = Path(sys.argv[3])
    inputs = {name: jnp.asarray(a) for name, a in np.load(path).items()}

    # Linux counts in KiB, macOS in bytes.
    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
            1 << (20 if sys.platform == "darwin" else 10)
        )

    call = CASES[case](inputs, setting)
    first = True
    for _ in sys.stdin:
        begin = time.process_time()
        value = jax.block_until_ready(call())
        print(json.dumps({"seconds": time.process_time() - begin, "peak": peak()}), flush=True)
        if first:
            value = value[-1] if isinstance(value, tuple) else value
            np.save(path.parent / f"{case}-{setting}.npy", np.asarray(value))
        value = None
        first = False


if __name__ == "__main__":
    main()
