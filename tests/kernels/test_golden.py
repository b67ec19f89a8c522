"""Every kernel of the reference arrays: neural-tangents in float64, and 50 digits where there are
such."""

import functools
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdyn import kernels as K

GOLDEN = Path(__file__).parents[1] / "golden"
ARRAYS = np.load(GOLDEN / "golden.npz")
INDEX = json.loads((GOLDEN / "golden.json").read_text())["arrays"]
DIGITS = np.load(GOLDEN / "hp.npz")
# fc_tanh_numerical is left out: its 50-point Gauss-Hermite rule is off by 1.7e-4 (see
# test_kernels_quadrature).
KEYS = [
    k
    for k, v in INDEX.items()
    if v.get("what") in ("ntk", "nngp") and not k.startswith(("pred", "fc_tanh", "emp"))
]
NAMES = sorted({key.split("/")[0] for key in KEYS})

normalised = K.elementwise(  # exp(gamma (cos - 1)) of the angle, for inputs on the sphere of radius sqrt(dimension)
    lambda x: x, rule=lambda q1, q2, cov: jnp.exp(0.5 * (cov / jnp.sqrt(q1 * q2) - 1.0))
)
LIKE_SIGMOID = (0.5, 1 / 2.4020563531719796, 0.5)
PHI = {
    "erf": K.erf,
    "relu": K.relu,
    "leaky_relu_0p1": lambda: K.leaky_relu(0.1),
    "abrelu_m0p3_1p2": lambda: K.abrelu(-0.3, 1.2),
    "abs": K.abs_,
    "gelu": K.gelu,
    "sin": lambda: K.sin(1.1, 0.7, 0.3),
    "rbf": lambda: K.rbf(0.6),
    "gaussian": K.gaussian,
    "expnorm": lambda: normalised,
    "erf_affine": lambda: K.erf(0.5, 1.2, 0.3),
    "sigmoid_like": lambda: K.erf(*LIKE_SIGMOID),
    "gabor": lambda: K.elementwise(lambda x: jnp.exp(-(x**2)) * jnp.sin(x)),
    "hermite3": lambda: K.hermite(3),
    "monomial3": lambda: K.monomial(3),
    "poly": lambda: K.polynomial([0.2, 1.0, -0.3, 0.1]),
    "sign": K.sign,
}


QUICK = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def fully_connected(phi, depth, w, b):
    return K.serial(*[K.dense(1, w, b), phi] * depth, K.dense(1, w, b))


def architecture(name, meta):
    w = meta["W_std"]
    b = meta["b_std"]
    dense = K.dense(1, w, b)
    relu = K.relu()
    erf = K.erf()
    if name.startswith(("conv", "attn")):
        return spatial(name, w, b)
    if name.startswith("fc_resnet"):
        phi = erf if "erf" in name else relu
        depth = int(name.split("_")[-1].removesuffix("_td")) if name[-1].isdigit() else 2
        block = K.residual(*([relu, dense, relu, dense] if "relu" in name else [erf, dense]))
        return K.serial(dense, K.repeat(block, depth), phi, dense)
    if name.startswith("linear"):
        return K.repeat(dense, int(meta["arch"].split()[2]))
    if name.startswith("fc_relu_standard"):
        standard = K.dense(1, w, b, parametrization="standard")
        return K.serial(standard, relu, standard, relu, standard)
    if name.startswith("fc_layernorm"):
        return K.serial(dense, K.layer_norm(), relu, dense, K.layer_norm(), relu, dense)
    if name.startswith("fc_dropout"):
        return K.serial(dense, relu, K.dropout(0.2), dense)
    if name.startswith("fc_gated"):
        branches = K.serial(dense, erf), K.serial(dense, K.erf(*LIKE_SIGMOID))
        return K.serial(dense, relu, K.parallel(*branches, combine="product"), dense)
    phi = name.removeprefix("fc_").split("_d")[0].removesuffix("_edge")
    depth = int(name.split("_d")[1].split("_")[0])
    return fully_connected(PHI[phi](), depth, w, b)


def spatial(name, w, b):
    window = (3,) * (2 if "2d" in name else 1)
    conv = functools.partial(K.conv, 1, window, w, b)
    end = (
        K.global_avg_pool() if "gap" in name or "layernorm" in name else K.flatten(),
        K.dense(1, w, b),
    )
    if "layernorm" in name:
        return K.serial(conv(), K.layer_norm("all"), K.relu(), *end)
    if "strided" in name:
        return K.serial(conv(strides=(2,) * len(window)), K.erf(), conv(), K.erf(), *end)
    if "attn" in name:
        return K.serial(conv(), K.relu(), attention("softmax" in name), *end)
    padding = name.split("_")[1].upper()
    return K.serial(*[conv(padding=padding), K.relu()] * 2, *end)


def attention(softmax):
    logit = 1.2 if softmax else math.sqrt(1.2 * 0.9)
    return K.attention(
        1,
        1,
        kind="softmax" if softmax else "identity",
        logit_std=logit,
        value_std=1.3,
        out_std=1.1,
        b_std=0.1,
    )


@pytest.mark.parametrize("name", NAMES)
def test_reference_arrays(x64, name):
    keys = [
        f"{name}/{what}" for what in ("nngp", "ntk") if f"{name}/{what}" in {*KEYS, *DIGITS.files}
    ]
    meta = next(INDEX[key] for key in keys if key in INDEX)
    x1, x2 = (jnp.asarray(ARRAYS[meta[side]]) for side in ("x1", "x2"))
    x2 = None if meta["x1"] == meta["x2"] else x2
    whats = tuple(key.split("/")[1] for key in keys)
    ours = QUICK(lambda x1, x2: K.gram(architecture(name, meta), x1, x2, get=whats))(x1, x2)
    rectified = any(
        word in name for word in ("relu", "abs", "layernorm", "gated", "dropout", "attn", "conv")
    )
    for key in keys:
        what = key.split("/")[1]
        if key in KEYS:
            loose = "sign" in name or (rectified and what == "ntk")
            bound = (3e-8 if loose else 1e-10) * np.abs(ARRAYS[key]).max()
            np.testing.assert_allclose(ours[what], ARRAYS[key], rtol=0, atol=bound)
        if key in DIGITS.files:
            # Rounding of the inputs' own squared distance parts inputs 1e-6 apart by 1e-16 / 1e-6
            # in angle.
            bound = (2e-11 if "edge" in name else 1e-12) * np.abs(DIGITS[key]).max()
            np.testing.assert_allclose(ours[what], DIGITS[key], rtol=0, atol=bound)


@pytest.mark.parametrize(
    "name", [n for n in NAMES if f"{n}/ntk" in DIGITS and "td" not in n and "d3" in n]
)
def test_float32_keeps_the_diagonal(name):
    meta = next(INDEX[key] for key in KEYS if key.startswith(name + "/"))
    ours = QUICK(lambda x: K.gram(architecture(name, meta), x))(
        jnp.asarray(ARRAYS[meta["x1"]], jnp.float32)
    )
    expected = np.diagonal(DIGITS[f"{name}/ntk"])
    np.testing.assert_allclose(np.diagonal(ours), expected, rtol=1e-6)
