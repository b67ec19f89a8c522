"""Layers and gram: the kernels are those of wide finite networks, and no way of computing them
changes them."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdyn as jd
from jaxdyn import kernels as K


def normal(seed, *shape):
    """Inputs that are the same in both precisions."""
    drawn = jax.random.normal(jax.random.key(seed), shape, jnp.float32)
    return drawn.astype(float)


def signals(n=4, length=5, channels=2, seed=0):
    return normal(seed, n, length, channels)


def vectors(n=5, size=6, seed=0):
    return normal(seed, n, size)


# Each takes a width, so that the finite network is the layer itself; a readout follows.


def deep(width):
    first = K.dense(width, 1.4, 0.3)
    second = K.dense(width, 1.2, 0.1)
    return K.serial(first, K.relu(), second, K.erf())


def residual(width):
    block = K.residual(K.relu(), K.dense(width, 1.3))
    return K.serial(K.dense(width), block, K.gelu())


def sum_of_features(width):
    rectified = K.serial(K.dense(width), K.relu())
    waves = K.serial(K.dense(width, 1.5), K.sin(1.0, 0.7, 0.3))
    both = K.parallel(rectified, waves)
    return K.serial(both)


def product(width):
    rectified = K.serial(K.dense(width), K.relu())
    waves = K.serial(K.dense(width), K.cos())
    both = K.parallel(rectified, waves, combine="product")
    return K.serial(both)


def concat(width):
    sizes = K.serial(K.dense(width), K.abs_())
    signs = K.serial(K.dense(2 * width), K.sign())
    both = K.parallel(sizes, signs, combine="concat")
    return K.serial(both)


def norm_after_relu(width):
    first = K.dense(width)
    second = K.dense(width)
    return K.serial(first, K.relu(), K.layer_norm(), second, K.rbf(0.5))


def norm_of_quadrature(width):
    silu = K.elementwise(jax.nn.silu)
    return K.serial(K.dense(width), silu, K.layer_norm())


def rectified_cube(width):
    weights = K.dense(width, 0.8, 0.1)
    return K.serial(weights, K.rectified_monomial(3))


def step(width):
    return K.serial(K.dense(width), K.rectified_monomial(0))


def leaky(width):
    return K.serial(K.dense(width), K.leaky_relu(0.2), K.layer_norm())


def hermite(width):
    return K.serial(K.dense(width, 0.7), K.hermite(2))


def exponential(width):
    return K.serial(K.dense(width, 0.5), K.exp(1.0, 0.5))


def gaussian(width):
    return K.serial(K.dense(width), K.gaussian(1.0, -0.5))


def polynomial(width):
    phi = K.polynomial([0.1, 0.5, 0.2])
    return K.serial(K.dense(width, 0.7), phi)


def monomial(width):
    return K.serial(K.dense(width, 0.7), K.monomial(2))


def standard(width):
    first = K.dense(width, 1.2, 0.3, parametrization="standard")
    second = K.dense(width, 1.1, parametrization="standard")
    return K.serial(first, K.relu(), second, K.erf())


def identity(width):
    twice = K.repeat(K.dense(width), 2)
    return K.serial(K.identity(), twice)


def flatten(width):
    conv = K.conv(width, (3,), 1.3, 0.1)
    return K.serial(conv, K.relu(), K.flatten())


def global_pool(width):
    conv = K.conv(width, (2,), 1.3, 0.1, strides=(2,))
    return K.serial(conv, K.erf(), K.global_avg_pool())


def pool_inside(width):
    conv = K.conv(width, (3,), padding="VALID")
    pool = K.avg_pool((2,), strides=(1,))
    norm = K.layer_norm()
    return K.serial(conv, K.relu(), pool, norm, K.flatten(), K.dense())


def nonlinear_after_global_pool(width):
    conv = K.conv(width, (2,), 1.3, 0.1)
    pool = K.avg_pool((2,))
    end = K.global_avg_pool()
    return K.serial(conv, pool, K.relu(), end, K.dense(width), K.erf())


def nonlinear_after_pool(width):
    conv = K.conv(width, (3,), padding="CIRCULAR")
    pool = K.sum_pool((2,), strides=(1,), padding="SAME")
    return K.serial(conv, pool, K.relu(), K.flatten(), K.dense())


def standard_windows(width):
    conv = K.conv(width, (3,), 1.3, 0.1, parametrization="standard")
    local = K.local(width, (2,), parametrization="standard")
    return K.serial(conv, K.relu(), local, K.flatten())


def local_windows(width):
    local = K.local(width, (3,), 1.2, 0.1)
    return K.serial(local, K.relu(), K.global_avg_pool())


def dense_on_positions(width):
    norm = K.layer_norm("all")
    return K.serial(K.dense(width), K.relu(), norm, K.global_avg_pool())


def attention(width):
    heads = K.attention(width, 8, logit_std=0.7)
    return K.serial(heads, K.flatten())


def softmax(width):
    heads = K.attention(width, 8, kind="softmax", logit_std=1.2, b_std=0.1)
    return K.serial(heads, K.flatten())


FLAT = {
    "deep": deep,
    "residual": residual,
    "sum of features": sum_of_features,
    "product": product,
    "concat": concat,
    "norm after relu": norm_after_relu,
    "norm of quadrature": norm_of_quadrature,
    "rectified cube": rectified_cube,
    "step": step,
    "leaky": leaky,
    "hermite": hermite,
    "exp": exponential,
    "gaussian": gaussian,
    "polynomial": polynomial,
    "monomial": monomial,
    "standard": standard,
    "identity": identity,
}
SPATIAL = {
    "flatten": flatten,
    "global pool": global_pool,
    "pool inside": pool_inside,
    "nonlinear after global pool": nonlinear_after_global_pool,
    "nonlinear after pool": nonlinear_after_pool,
    "standard windows": standard_windows,
    "local": local_windows,
    "dense on positions": dense_on_positions,
    "attention": attention,
    "softmax": softmax,
}
NETS = FLAT | SPATIAL
BOTH = ("nngp", "ntk")
QUICK = {"xla_backend_optimization_level": 0}


@pytest.mark.parametrize("name", NETS)
def test_kernels_are_those_of_wide_networks(name):
    """Means over networks of finite kernels, at a width where their bias, of order 1/width, is the
    smaller error."""
    net = NETS[name]
    inputs = vectors if name in FLAT else signals
    width, seeds = (128, 16) if name in FLAT else (64, 16)
    x = inputs()

    def finite_kernel(kernel, outputs):
        """A function of a key: the kernel of one random network of that many outputs."""
        readout = K.dense(outputs, 1.1, 0.2)
        layer = K.serial(net(width), readout)

        def init(key):
            _, params = layer.init(key, x.shape[1:])
            return params

        return K.empirical.monte_carlo(init, layer.apply, x, get=(kernel,), method="jacobian")

    @functools.partial(jax.jit, compiler_options=QUICK)
    def drawn(key):
        nngp = finite_kernel("nngp", 32)
        ntk = finite_kernel("ntk", 1)
        return nngp(key) | ntk(key)

    samples = [drawn(jd.run_key(seed)) for seed in range(seeds)]
    layer = K.serial(net(width), K.dense(1, 1.1, 0.2))

    @functools.partial(jax.jit, compiler_options=QUICK)
    def infinite(x):
        return K.gram(layer, x, get=BOTH)

    exact = infinite(x)
    for kernel in BOTH:
        expected = exact[kernel]
        values = np.stack([sample[kernel] for sample in samples])
        scale = np.abs(expected).max()
        fluctuation = values.std(0, ddof=1) / math.sqrt(seeds)
        bound = 5 * fluctuation + 6 / width * scale
        error = np.abs(values.mean(0) - expected)
        assert (error < bound).all()
        np.testing.assert_array_equal(expected, expected.T)
        eigenvalues = np.linalg.eigvalsh(np.asarray(expected, np.float64))
        assert eigenvalues.min() > -1e-5 * scale


def test_dropout_masks_with_a_key_and_is_the_identity_without():
    layer = K.serial(K.dropout(0.2), K.identity(), K.dropout(0.5))
    x = jnp.ones((1000, 8))
    _, params = layer.init(jax.random.key(0), (8,))
    computed = layer.apply(params, x)
    np.testing.assert_array_equal(computed, x)
    masked = layer.apply(((), (), ()), x, key=jax.random.key(1))
    masked = np.asarray(masked)
    kept = 0.8 * 0.5
    values = np.unique(masked).round(5)
    assert set(values) == {0.0, round(1 / kept, 5)}
    # 8000 draws of a unit that is there with probability `kept`.
    found = (masked > 0).mean()
    fluctuation = (kept * (1 - kept) / masked.size) ** 0.5
    assert abs(found - kept) < 4.5 * fluctuation


def drawn_architecture(seed):
    """A random network on signals: blocks of weights, nonlinearity, pool or normalisation, and an
    end."""
    rng = np.random.default_rng(seed)

    def pick(*choices):
        place = rng.integers(len(choices))
        return choices[place]

    def small_pool():
        return K.avg_pool((2,), strides=(1,))

    def weights():
        padding = pick("SAME", "CIRCULAR")
        conv = K.conv(1, (3,), 1.3, 0.1, padding=padding)
        local = K.local(1, (2,), 1.1)
        dense = K.dense(1, 0.9, 0.3)
        return pick(conv, local, dense)

    def phi():
        leaky = K.leaky_relu(0.3)
        sin = K.sin(1.0, 0.8, 0.2)
        square = K.rectified_monomial(2)
        return pick(K.relu(), K.erf(), K.gelu(), leaky, sin, square)

    def after():
        over_all = K.layer_norm("all")
        return pick(K.identity(), K.layer_norm(), over_all, small_pool())

    def block():
        first = weights()
        second = pick(K.identity(), small_pool())
        third = phi()
        return K.serial(first, second, third, after())

    combine = pick("sum", "product", "concat")
    other = K.serial(K.dense(1), phi())
    branch = K.parallel(K.identity(), other, combine=combine)
    middle = [branch] if rng.random() < 0.5 else []
    before = block()
    behind = block()
    end = pick(K.flatten(), K.global_avg_pool())
    readout = K.dense(1, 1.0, 0.2)
    return K.serial(before, *middle, behind, end, readout)


@pytest.mark.parametrize("seed", range(4))
def test_random_architectures_have_symmetric_positive_kernels_that_rows_do_not_change(x64, seed):
    layer = drawn_architecture(seed)
    x = signals(n=5, length=6)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def kernels(x):
        whole = K.gram(layer, x, get=BOTH)
        rows = K.gram(layer, x[3:], x, get=BOTH)
        return whole, rows

    whole, rows = kernels(x)
    for name, matrix in whole.items():
        scale = np.abs(matrix).max()
        np.testing.assert_array_equal(matrix, matrix.T)
        np.testing.assert_allclose(rows[name], matrix[3:], rtol=1e-9, atol=1e-9 * scale)
        eigenvalues = np.linalg.eigvalsh(matrix)
        assert eigenvalues.min() > -1e-12 * scale
    # Training only the readout is part of training all.
    rest = whole["ntk"] - whole["nngp"]
    eigenvalues = np.linalg.eigvalsh(rest)
    scale = np.abs(whole["ntk"]).max()
    assert eigenvalues.min() > -1e-12 * scale


def test_positions_of_a_local_layer_share_nothing(x64):
    x = signals()
    scales = {"w_std": 1.2, "b_std": 0.1}
    local = K.local(1, (3,), **scales)
    conv = K.conv(1, (3,), **scales)
    pooled = K.serial(local, K.global_avg_pool())
    flattened = K.serial(conv, K.flatten())
    apart = K.gram(pooled, x, get=BOTH)
    equal = K.gram(flattened, x, get=BOTH)
    for name in BOTH:
        expected = equal[name] / x.shape[1]
        np.testing.assert_allclose(apart[name], expected, rtol=1e-12)
