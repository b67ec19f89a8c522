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
CONV = K.conv(1, (3,))
POOL = K.avg_pool((2,))
POOLED = K.serial(CONV, POOL, K.relu(), K.layer_norm(), K.flatten(), K.dense())


def normal(seed, *shape):
    """Inputs that are the same in both precisions."""
    drawn = jax.random.normal(jax.random.key(seed), shape, jnp.float32)
    return drawn.astype(float)


def vectors(n, size=5):
    return normal(n, n, size)


def signals(n):
    return normal(n, n, 6, 2)


NETS = [
    (NET, vectors, 13, 7),
    (POOLED, signals, 5, 3),
]


@pytest.mark.parametrize(("net", "inputs", "n", "m"), NETS)
def test_blocks_rows_and_order_do_not_matter(x64, net, inputs, n, m):
    x = inputs(n)
    y = inputs(m)
    whole = K.gram(net, x)
    across = K.gram(net, x, y, batch=4)
    np.testing.assert_array_equal(whole, whole.T)
    computed = K.gram(net, x, batch=2)
    np.testing.assert_allclose(computed, whole, rtol=1e-12)
    joined = jnp.concatenate([y, x[::-1]])
    both = K.gram(net, joined)
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
    computed = np.diagonal(ours)
    expected = np.diagonal(exact)
    np.testing.assert_allclose(computed, expected, rtol=2e-6)
    np.testing.assert_allclose(ours[6, 0], exact[6, 0], rtol=2e-6)


def test_derivatives_in_scales_and_inputs_agree_with_differences(x64):
    x = jnp.concatenate([vectors(4), vectors(4)[:1]])  # the last input equals the first

    def slope_and_difference(phi):
        """Along one random direction in all three arguments."""

        @jax.jit
        def f(w, b, x):
            dense = K.dense(1, w, b)
            net = K.serial(dense, phi, dense, phi, K.dense(1, 1.0, b))
            nngp = K.gram(net, x[:2], x, get="nngp")
            return jnp.sum(jnp.cos(nngp) ** 2)

        start = (jnp.asarray(1.3), jnp.asarray(0.2), x)
        rng = np.random.default_rng(1)
        way = [jnp.asarray(rng.normal(size=np.shape(v))) for v in start]

        def moved(step):
            places = [v + step * w for v, w in zip(start, way, strict=True)]
            return f(*places)

        gradient = jax.jit(jax.grad(f, (0, 1, 2)))
        slopes = gradient(*start)
        along = sum(jnp.sum(s * w) for s, w in zip(slopes, way, strict=True))
        step = 1e-5
        difference = (moved(step) - moved(-step)) / (2 * step)
        return along, difference

    for phi in (K.relu(), K.elementwise(jnp.tanh)):
        along, expected = slope_and_difference(phi)
        np.testing.assert_allclose(along, expected, rtol=1e-6)


def test_vmap_over_a_scale_is_a_loop(x64):
    x = vectors(3)

    def ntk(w):
        first = K.dense(1, w)
        net = K.serial(first, K.relu(), K.dense())
        return K.gram(net, x)

    scales = jnp.asarray([0.5, 1.0, 2.0])
    computed = jax.vmap(ntk)(scales)
    expected = jnp.stack([ntk(w) for w in scales])
    np.testing.assert_allclose(computed, expected, rtol=1e-12)


def test_many_positions_take_slices_instead_of_matrices(x64, monkeypatch):
    x = normal(0, 2, 20, 1)

    def whole(end, padding):
        conv = K.conv(1, (3,), 1.2, 0.1, strides=(2,), padding=padding)
        return K.serial(conv, K.relu(), end, K.dense())

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
    # float32 holds 1e-6 of the largest entry in each of the two.
    whole = np.asarray(K.gram(net, x, y))
    np.testing.assert_allclose(K.gram(net, x, y, mesh=mesh), whole, rtol=0, atol=2e-6 * whole.max())
print(len(jax.devices()))
"""
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    environment = os.environ | {"XLA_FLAGS": flags}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2"


X = np.ones((3, 4))
S = np.ones((3, 4, 2))


def gram(*layers, of=X):
    """A call that asks for the kernel of these layers."""
    return lambda: K.gram(K.serial(*layers), of)


def of_two_sizes():
    layer = K.parallel(K.dense(2), K.dense(3))
    return layer.init(jax.random.key(0), (4,))


INPUTS = [
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
]
NETWORKS = [
    (gram(K.relu(), K.dense()), ValueError, "relu: its input is not Gaussian"),
    (gram(K.dense(), K.relu(), K.relu()), ValueError, "not Gaussian"),
    (gram(K.conv(1, (3, 3)), K.flatten(), of=S), ValueError, "conv: its input has positions"),
    (gram(K.conv(1, (9,), padding="VALID"), K.flatten(), of=S), ValueError, "larger than"),
    (gram(K.global_avg_pool(), K.dense()), ValueError, "global_avg_pool"),
    (gram(K.attention(4, 1), K.dense()), ValueError, "attention"),
    (lambda: K.serial(K.dense(), K.relu), TypeError, "forget to call it"),
    (lambda: K.parallel(K.dense(), combine="max"), ValueError, "combine: 'max'"),
    (lambda: K.gram(K.parallel(K.identity(), K.identity()), X), ValueError, "not independent"),
    (of_two_sizes, ValueError, "cannot be combined"),
]
LAYERS = [
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
]


@pytest.mark.parametrize(("call", "error", "says"), INPUTS + NETWORKS + LAYERS)
def test_wrong_inputs_are_named(call, error, says):
    with pytest.raises(error, match=says):
        call()
