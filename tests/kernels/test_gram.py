"""gram: the same matrix in blocks, on a mesh, under jit, vmap and grad; and what it says to wrong
inputs."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdyn import kernels as K

NET = K.serial(K.dense(1, 1.4, 0.1), K.relu(), K.dense(1, 1.2, 0.2), K.erf(), K.dense(1, 1.1))
POOLED = K.serial(
    K.conv(1, (3,)), K.avg_pool((2,)), K.relu(), K.layer_norm(), K.flatten(), K.dense()
)


def vectors(n, size=5):
    return jax.random.normal(jax.random.key(n), (n, size), jnp.float32).astype(float)


def signals(n):
    return jax.random.normal(jax.random.key(n), (n, 6, 2), jnp.float32).astype(float)


@pytest.mark.parametrize(
    ("net", "inputs", "n", "m"), [(NET, vectors, 13, 7), (POOLED, signals, 5, 3)]
)
def test_blocks_rows_and_order_do_not_matter(x64, net, inputs, n, m):
    x = inputs(n)
    y = inputs(m)
    whole = K.gram(net, x)
    across = K.gram(net, x, y, batch=4)
    np.testing.assert_array_equal(whole, whole.T)
    computed = K.gram(net, x, batch=2)
    np.testing.assert_allclose(computed, whole, rtol=1e-12)
    both = K.gram(net, jnp.concatenate([y, x[::-1]]))
    computed = both[m:, m:]
    expected = whole[::-1, ::-1]
    np.testing.assert_allclose(computed, expected, rtol=1e-12)
    computed = both[m:, :m]
    expected = across[::-1]
    np.testing.assert_allclose(computed, expected, rtol=1e-12)


def test_many_channels_take_a_matrix_product_that_keeps_equal_inputs_equal():
    """Equal rows are equal in float32 too, where the rounding of a product would part them by
    3e-4."""
    x = np.asarray(vectors(6, 300), np.float32)
    x = np.concatenate([x, x[:2]])
    ours = K.gram(NET, x, x)
    with jax.enable_x64(True):
        exact = K.gram(NET, x.astype(np.float64))
    atol = 2e-6 * np.abs(exact).max()
    np.testing.assert_allclose(ours, exact, atol=atol)
    np.testing.assert_allclose(np.diagonal(ours), np.diagonal(exact), rtol=2e-6)
    np.testing.assert_allclose(ours[6, 0], exact[6, 0], rtol=2e-6)


def test_derivatives_in_scales_and_inputs_agree_with_differences(x64):
    x = jnp.concatenate([vectors(4), vectors(4)[:1]])  # the last input equals the first

    def total(w, b, x, phi):
        net = K.serial(K.dense(1, w, b), phi, K.dense(1, w, b), phi, K.dense(1, 1.0, b))
        return jnp.sum(jnp.cos(K.gram(net, x[:2], x, get="nngp")) ** 2)

    for phi in (K.relu(), K.elementwise(jnp.tanh)):
        f = jax.jit(lambda w, b, x, phi=phi: total(w, b, x, phi))
        at = (jnp.asarray(1.3), jnp.asarray(0.2), x)
        slopes = jax.jit(jax.grad(f, (0, 1, 2)))(*at)
        step = 1e-5
        rng = np.random.default_rng(1)
        way = [jnp.asarray(rng.normal(size=np.shape(v))) for v in at]
        moved = [
            f(*(v + sign * step * w for v, w in zip(at, way, strict=True))) for sign in (1, -1)
        ]
        along = sum(jnp.sum(s * w) for s, w in zip(slopes, way, strict=True))
        expected = (moved[0] - moved[1]) / (2 * step)
        np.testing.assert_allclose(along, expected, rtol=1e-6)


def test_vmap_over_a_scale_is_a_loop(x64):
    x = vectors(3)

    def ntk(w):
        return K.gram(K.serial(K.dense(1, w), K.relu(), K.dense()), x)

    scales = jnp.asarray([0.5, 1.0, 2.0])
    computed = jax.vmap(ntk)(scales)
    expected = jnp.stack([ntk(w) for w in scales])
    np.testing.assert_allclose(computed, expected, rtol=1e-12)


def test_many_positions_take_slices_instead_of_matrices(x64, monkeypatch):
    x = jax.random.normal(jax.random.key(0), (2, 20, 1), jnp.float32).astype(float)

    def whole(end, padding):
        return K.serial(
            K.conv(1, (3,), 1.2, 0.1, strides=(2,), padding=padding), K.relu(), end, K.dense()
        )

    for padding, end in (
        ("SAME", K.global_avg_pool()),
        ("CIRCULAR", K.global_avg_pool()),
        ("VALID", K.flatten()),
    ):
        sliced = K.gram(whole(end, padding), x)
        with monkeypatch.context() as patch:
            patch.setattr("jaxdyn.kernels._geometry.LARGE", 100)
            expected = K.gram(whole(end, padding), x)
            np.testing.assert_allclose(sliced, expected, rtol=1e-12)


def test_a_mesh_spreads_rows_without_changing_them():
    code = """
import jax, numpy as np, jax.numpy as jnp
from jax.sharding import AxisType
from jaxdyn import kernels as K
x = jax.random.normal(jax.random.key(0), (7, 20))
net = K.serial(K.dense(1, 1.4, 0.1), K.relu(), K.dropout(0.2), K.dense())
mesh = jax.make_mesh((2,), ("rows",), axis_types=(AxisType.Auto,))
for y in (None, x[:3]):
    np.testing.assert_allclose(K.gram(net, x, y, mesh=mesh), K.gram(net, x, y), rtol=2e-6)
print(len(jax.devices()))
"""
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "2"


X = np.ones((3, 4))
S = np.ones((3, 4, 2))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: K.gram(NET, X, get="ntks"), ValueError, "get: 'ntks'"),
        (lambda: K.gram(NET, X, get=()), ValueError, "get"),
        (lambda: K.gram(NET, X, batch=0), ValueError, "batch: 0"),
        (lambda: K.gram(NET, X[0]), ValueError, r"x1: shape \(4,\)"),
        (lambda: K.gram(NET, X, X[:, :2]), ValueError, "x2: examples of shape"),
        (lambda: K.gram(NET, jnp.ones((2, 3), jnp.float16)), TypeError, "x1: dtype float16"),
        (
            lambda: K.gram(NET, jnp.zeros((10**6, 1), jnp.float32)),
            ValueError,
            "4,000,000,000,000 bytes",
        ),
        (lambda: K.gram(NET, S), ValueError, "outputs have positions"),
        (
            lambda: K.gram(K.serial(K.relu(), K.dense()), X),
            ValueError,
            "relu: its input is not Gaussian",
        ),
        (lambda: K.gram(K.serial(K.dense(), K.relu(), K.relu()), X), ValueError, "not Gaussian"),
        (
            lambda: K.gram(K.serial(K.conv(1, (3, 3)), K.flatten()), S),
            ValueError,
            "conv: its input has positions",
        ),
        (
            lambda: K.gram(K.serial(K.conv(1, (9,), padding="VALID"), K.flatten()), S),
            ValueError,
            "larger than",
        ),
        (
            lambda: K.gram(K.serial(K.global_avg_pool(), K.dense()), X),
            ValueError,
            "global_avg_pool",
        ),
        (lambda: K.gram(K.serial(K.attention(4, 1), K.dense()), X), ValueError, "attention"),
        (lambda: K.serial(K.dense(), K.relu), TypeError, "forget to call it"),
        (lambda: K.parallel(K.dense(), combine="max"), ValueError, "combine: 'max'"),
        (lambda: K.gram(K.parallel(K.identity(), K.identity()), X), ValueError, "not independent"),
        (
            lambda: K.parallel(K.dense(2), K.dense(3)).init(jax.random.key(0), (4,)),
            ValueError,
            "cannot be combined",
        ),
        (lambda: K.dense(0), ValueError, "n_out 0"),
        (lambda: K.dense(2, parametrization="mup"), ValueError, "'mup'"),
        (lambda: K.conv(2, (0,)), ValueError, "window"),
        (lambda: K.conv(2, (3,), strides=(1, 1)), ValueError, "strides"),
        (lambda: K.conv(2, (3,), padding="ZERO"), ValueError, "padding 'ZERO'"),
        (lambda: K.attention(4, 1, kind="relu"), ValueError, "kind: 'relu'"),
        (lambda: K.layer_norm("rows"), ValueError, "axes: 'rows'"),
        (lambda: K.dropout(1.0), ValueError, "rate: 1.0"),
        (lambda: K.elementwise(jnp.tanh, nodes=0), ValueError, "nodes: 0"),
        (lambda: K.hermite(-1), ValueError, "degree: -1"),
    ],
)
def test_wrong_inputs_are_named(call, error, says):
    with pytest.raises(error, match=says):
        call()
