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


def signals(n=4, length=5, channels=2, seed=0):
    return jax.random.normal(jax.random.key(seed), (n, length, channels), jnp.float32).astype(float)


def vectors(n=5, size=6, seed=0):
    return jax.random.normal(jax.random.key(seed), (n, size), jnp.float32).astype(float)


def images(n=3, size=4, channels=2):
    return jax.random.normal(jax.random.key(1), (n, size, size, channels), jnp.float32).astype(
        float
    )


# Each takes a width, so that the finite network is the layer itself; a readout follows.
FLAT = {
    "deep": lambda n: K.serial(K.dense(n, 1.4, 0.3), K.relu(), K.dense(n, 1.2, 0.1), K.erf()),
    "residual": lambda n: K.serial(K.dense(n), K.residual(K.relu(), K.dense(n, 1.3)), K.gelu()),
    "sum of features": lambda n: K.serial(
        K.parallel(K.serial(K.dense(n), K.relu()), K.serial(K.dense(n, 1.5), K.sin(1.0, 0.7, 0.3)))
    ),
    "product": lambda n: K.serial(
        K.parallel(K.serial(K.dense(n), K.relu()), K.serial(K.dense(n), K.cos()), combine="product")
    ),
    "concat": lambda n: K.serial(
        K.parallel(
            K.serial(K.dense(n), K.abs_()), K.serial(K.dense(2 * n), K.sign()), combine="concat"
        )
    ),
    "norm after relu": lambda n: K.serial(
        K.dense(n), K.relu(), K.layer_norm(), K.dense(n), K.rbf(0.5)
    ),
    "norm of quadrature": lambda n: K.serial(
        K.dense(n), K.elementwise(jax.nn.silu), K.layer_norm()
    ),
    "rectified cube": lambda n: K.serial(K.dense(n, 0.8, 0.1), K.rectified_monomial(3)),
    "step": lambda n: K.serial(K.dense(n), K.rectified_monomial(0)),
    "leaky": lambda n: K.serial(K.dense(n), K.leaky_relu(0.2), K.layer_norm()),
    "hermite": lambda n: K.serial(K.dense(n, 0.7), K.hermite(2)),
    "exp": lambda n: K.serial(K.dense(n, 0.5), K.exp(1.0, 0.5)),
    "gaussian": lambda n: K.serial(K.dense(n), K.gaussian(1.0, -0.5)),
    "polynomial": lambda n: K.serial(K.dense(n, 0.7), K.polynomial([0.1, 0.5, 0.2])),
    "monomial": lambda n: K.serial(K.dense(n, 0.7), K.monomial(2)),
    "standard": lambda n: K.serial(
        K.dense(n, 1.2, 0.3, parametrization="standard"),
        K.relu(),
        K.dense(n, 1.1, parametrization="standard"),
        K.erf(),
    ),
    "identity": lambda n: K.serial(K.identity(), K.repeat(K.dense(n), 2)),
}
SPATIAL = {
    "flatten": lambda n: K.serial(K.conv(n, (3,), 1.3, 0.1), K.relu(), K.flatten()),
    "global pool": lambda n: K.serial(
        K.conv(n, (2,), 1.3, 0.1, strides=(2,)), K.erf(), K.global_avg_pool()
    ),
    "pool inside": lambda n: K.serial(
        K.conv(n, (3,), padding="VALID"),
        K.relu(),
        K.avg_pool((2,), strides=(1,)),
        K.layer_norm(),
        K.flatten(),
        K.dense(),
    ),
    "nonlinear after global pool": lambda n: K.serial(
        K.conv(n, (2,), 1.3, 0.1),
        K.avg_pool((2,)),
        K.relu(),
        K.global_avg_pool(),
        K.dense(n),
        K.erf(),
    ),
    "nonlinear after pool": lambda n: K.serial(
        K.conv(n, (3,), padding="CIRCULAR"),
        K.sum_pool((2,), strides=(1,), padding="SAME"),
        K.relu(),
        K.flatten(),
        K.dense(),
    ),
    "standard windows": lambda n: K.serial(
        K.conv(n, (3,), 1.3, 0.1, parametrization="standard"),
        K.relu(),
        K.local(n, (2,), parametrization="standard"),
        K.flatten(),
    ),
    "local": lambda n: K.serial(K.local(n, (3,), 1.2, 0.1), K.relu(), K.global_avg_pool()),
    "dense on positions": lambda n: K.serial(
        K.dense(n), K.relu(), K.layer_norm("all"), K.global_avg_pool()
    ),
    "attention": lambda n: K.serial(K.attention(n, 8, logit_std=0.7), K.flatten()),
    "softmax": lambda n: K.serial(
        K.attention(n, 8, kind="softmax", logit_std=1.2, b_std=0.1), K.flatten()
    ),
}
NETS = {name: (net, vectors) for name, net in FLAT.items()} | {
    name: (net, signals) for name, net in SPATIAL.items()
}


QUICK = {"xla_backend_optimization_level": 0}


@pytest.mark.parametrize("name", NETS)
def test_kernels_are_those_of_wide_networks(name):
    """Means over networks of finite kernels, at a width where their bias, of order 1/width, is the
    smaller error."""
    net, inputs = NETS[name]
    width, seeds = (128, 16) if name in FLAT else (64, 16)
    x = inputs()

    @functools.partial(jax.jit, compiler_options=QUICK)
    def drawn(key):
        kernels = {}
        for kernel, outputs in (("nngp", 32), ("ntk", 1)):
            layer = K.serial(net(width), K.dense(outputs, 1.1, 0.2))

            def init(key, layer=layer):
                return layer.init(key, x.shape[1:])[1]

            kernels |= K.empirical.monte_carlo(
                init, layer.apply, x, get=(kernel,), method="jacobian"
            )(key)
        return kernels

    samples = [drawn(jd.run_key(seed)) for seed in range(seeds)]
    layer = K.serial(net(width), K.dense(1, 1.1, 0.2))
    exact = jax.jit(lambda x: K.gram(layer, x, get=("nngp", "ntk")), compiler_options=QUICK)(x)
    for kernel in ("nngp", "ntk"):
        values = np.stack([s[kernel] for s in samples])
        scale = np.abs(exact[kernel]).max()
        bound = 5 * values.std(0, ddof=1) / math.sqrt(seeds) + 6 / width * scale
        assert (np.abs(values.mean(0) - exact[kernel]) < bound).all()
        np.testing.assert_array_equal(exact[kernel], exact[kernel].T)
        assert np.linalg.eigvalsh(np.asarray(exact[kernel], np.float64)).min() > -1e-5 * scale


def test_dropout_masks_with_a_key_and_is_the_identity_without():
    layer = K.serial(K.dropout(0.2), K.identity(), K.dropout(0.5))
    x = jnp.ones((1000, 8))
    computed = layer.apply(layer.init(jax.random.key(0), (8,))[1], x)
    np.testing.assert_array_equal(computed, x)
    masked = np.asarray(layer.apply(((), (), ()), x, key=jax.random.key(1)))
    kept = 0.8 * 0.5
    assert set(np.unique(masked).round(5)) == {0.0, round(1 / kept, 5)}
    # 8000 draws of a unit that is there with probability `kept`.
    assert abs((masked > 0).mean() - kept) < 4.5 * (kept * (1 - kept) / masked.size) ** 0.5


def drawn_architecture(seed):
    """A random network on signals: blocks of weights, nonlinearity, pool or normalisation, and an
    end."""
    rng = np.random.default_rng(seed)

    def pick(*choices):
        return choices[rng.integers(len(choices))]

    def weights():
        return pick(
            K.conv(1, (3,), 1.3, 0.1, padding=pick("SAME", "CIRCULAR")),
            K.local(1, (2,), 1.1),
            K.dense(1, 0.9, 0.3),
        )

    def phi():
        return pick(
            K.relu(),
            K.erf(),
            K.gelu(),
            K.leaky_relu(0.3),
            K.sin(1.0, 0.8, 0.2),
            K.rectified_monomial(2),
        )

    def after():
        return pick(
            K.identity(), K.layer_norm(), K.layer_norm("all"), K.avg_pool((2,), strides=(1,))
        )

    def block():
        return K.serial(
            weights(), pick(K.identity(), K.avg_pool((2,), strides=(1,))), phi(), after()
        )

    combine = pick("sum", "product", "concat")
    branch = K.parallel(K.identity(), K.serial(K.dense(1), phi()), combine=combine)
    middle = [branch] if rng.random() < 0.5 else []
    return K.serial(
        block(), *middle, block(), pick(K.flatten(), K.global_avg_pool()), K.dense(1, 1.0, 0.2)
    )


@pytest.mark.parametrize("seed", range(4))
def test_random_architectures_have_symmetric_positive_kernels_that_rows_do_not_change(x64, seed):
    layer = drawn_architecture(seed)
    x = signals(n=5, length=6)

    def both(*xs):
        return K.gram(layer, *xs, get=("nngp", "ntk"))

    whole, rows = jax.jit(lambda x: (both(x), both(x[3:], x)), compiler_options=QUICK)(x)
    for name, matrix in whole.items():
        np.testing.assert_array_equal(matrix, matrix.T)
        atol = 1e-9 * np.abs(matrix).max()
        np.testing.assert_allclose(rows[name], matrix[3:], rtol=1e-9, atol=atol)
        assert np.linalg.eigvalsh(matrix).min() > -1e-12 * np.abs(matrix).max()
    # Training only the readout is part of training all.
    assert (
        np.linalg.eigvalsh(whole["ntk"] - whole["nngp"]).min() > -1e-12 * np.abs(whole["ntk"]).max()
    )


def test_positions_of_a_local_layer_share_nothing(x64):
    x = signals()
    options = {"w_std": 1.2, "b_std": 0.1}
    apart = K.gram(
        K.serial(K.local(1, (3,), **options), K.global_avg_pool()), x, get=("nngp", "ntk")
    )
    equal = K.gram(K.serial(K.conv(1, (3,), **options), K.flatten()), x, get=("nngp", "ntk"))
    for name in ("nngp", "ntk"):
        expected = equal[name] / x.shape[1]
        np.testing.assert_allclose(apart[name], expected, rtol=1e-12)
