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


def has_a_kernel_here(key):
    # fc_tanh_numerical is left out: its 50-point Gauss-Hermite rule is off by 1.7e-4 (see
    # test_quadrature).
    is_kernel = INDEX[key].get("what") in ("ntk", "nngp")
    return is_kernel and not key.startswith(("pred", "fc_tanh", "emp"))


KEYS = [key for key in INDEX if has_a_kernel_here(key)]
NAMES = sorted({key.split("/")[0] for key in KEYS})


def exp_of_cosine(q1, q2, cov):
    """exp(gamma (cos - 1)) of the angle, for inputs on the sphere of radius sqrt(dimension)."""
    cosine = cov / jnp.sqrt(q1 * q2)
    return jnp.exp(0.5 * (cosine - 1.0))


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
    "expnorm": lambda: K.elementwise(lambda x: x, rule=exp_of_cosine),
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
    dense = K.dense(1, w, b)
    return K.serial(*[dense, phi] * depth, dense)


def architecture(name, meta):
    w = meta["W_std"]
    b = meta["b_std"]
    dense = K.dense(1, w, b)
    relu = K.relu()
    erf = K.erf()
    if name.startswith(("conv", "attn")):
        return spatial(name, w, b)
    if name.startswith("fc_resnet"):
        rectified = "relu" in name
        last = name.split("_")[-1]
        depth = int(last) if last.isdigit() else 2
        block = K.residual(relu, dense, relu, dense) if rectified else K.residual(erf, dense)
        phi = erf if "erf" in name else relu
        return K.serial(dense, K.repeat(block, depth), phi, dense)
    if name.startswith("linear"):
        depth = int(meta["arch"].split()[2])
        return K.repeat(dense, depth)
    if name.startswith("fc_relu_standard"):
        standard = K.dense(1, w, b, parametrization="standard")
        return K.serial(standard, relu, standard, relu, standard)
    if name.startswith("fc_layernorm"):
        norm = K.layer_norm()
        return K.serial(dense, norm, relu, dense, norm, relu, dense)
    if name.startswith("fc_dropout"):
        return K.serial(dense, relu, K.dropout(0.2), dense)
    if name.startswith("fc_gated"):
        values = K.serial(dense, erf)
        gates = K.serial(dense, K.erf(*LIKE_SIGMOID))
        gated = K.parallel(values, gates, combine="product")
        return K.serial(dense, relu, gated, dense)
    # fc_PHI_dDEPTH, or fc_PHI_edge_dDEPTH
    before, behind, *_ = name.removeprefix("fc_").split("_d")
    phi = PHI[before.removesuffix("_edge")]
    depth = int(behind.split("_")[0])
    return fully_connected(phi(), depth, w, b)


def spatial(name, w, b):
    dimensions = 2 if "2d" in name else 1
    pooled = "gap" in name or "layernorm" in name
    conv = functools.partial(K.conv, 1, (3,) * dimensions, w, b)
    relu = K.relu()
    erf = K.erf()
    pool = K.global_avg_pool() if pooled else K.flatten()
    end = (pool, K.dense(1, w, b))
    if "layernorm" in name:
        return K.serial(conv(), K.layer_norm("all"), relu, *end)
    if "strided" in name:
        strided = conv(strides=(2,) * dimensions)
        return K.serial(strided, erf, conv(), erf, *end)
    if "attn" in name:
        heads = attention("softmax" in name)
        return K.serial(conv(), relu, heads, *end)
    padding = name.split("_")[1].upper()
    hidden = [conv(padding=padding), relu] * 2
    return K.serial(*hidden, *end)


def attention(softmax):
    kind = "softmax" if softmax else "identity"
    logit = 1.2 if softmax else math.sqrt(1.2 * 0.9)
    scales = dict(logit_std=logit, value_std=1.3, out_std=1.1, b_std=0.1)
    return K.attention(1, 1, kind=kind, **scales)


RECTIFIED = ("relu", "abs", "layernorm", "gated", "dropout", "attn", "conv")


@pytest.mark.parametrize("name", NAMES)
def test_reference_arrays(x64, name):
    stored = {*KEYS, *DIGITS.files}
    whats = tuple(what for what in ("nngp", "ntk") if f"{name}/{what}" in stored)
    keys = [f"{name}/{what}" for what in whats]
    meta = next(INDEX[key] for key in keys if key in INDEX)
    x1 = jnp.asarray(ARRAYS[meta["x1"]])
    x2 = jnp.asarray(ARRAYS[meta["x2"]])
    x2 = None if meta["x1"] == meta["x2"] else x2

    @QUICK
    def gram(x1, x2):
        layer = architecture(name, meta)
        return K.gram(layer, x1, x2, get=whats)

    ours = gram(x1, x2)
    rectified = any(word in name for word in RECTIFIED)
    for what, key in zip(whats, keys, strict=True):
        found = ours[what]
        if key in KEYS:
            loose = "sign" in name or (rectified and what == "ntk")
            expected = ARRAYS[key]
            bound = (3e-8 if loose else 1e-10) * np.abs(expected).max()
            np.testing.assert_allclose(found, expected, rtol=0, atol=bound)
        if key in DIGITS.files:
            # Rounding of the inputs' own squared distance parts inputs 1e-6 apart by 1e-16 / 1e-6
            # in angle.
            expected = DIGITS[key]
            bound = (2e-11 if "edge" in name else 1e-12) * np.abs(expected).max()
            np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


THREE_DEEP = [
    name for name in NAMES if f"{name}/ntk" in DIGITS and "td" not in name and "d3" in name
]


@pytest.mark.parametrize("name", THREE_DEEP)
def test_float32_keeps_the_diagonal(name):
    meta = next(INDEX[key] for key in KEYS if key.startswith(name + "/"))
    x = jnp.asarray(ARRAYS[meta["x1"]], jnp.float32)

    @QUICK
    def ntk(x):
        layer = architecture(name, meta)
        return K.gram(layer, x)

    computed = np.diagonal(ntk(x))
    expected = np.diagonal(DIGITS[f"{name}/ntk"])
    np.testing.assert_allclose(computed, expected, rtol=1e-6)
