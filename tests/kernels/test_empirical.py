"""Empirical kernels: every method against a plain Jacobian of the whole batch, golden arrays, and
bad input."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg
from flax import linen, nnx
from jax import lax
from jax.flatten_util import ravel_pytree

import jaxdyn as jd
from jaxdyn import losses, models, observables, tasks
from jaxdyn.kernels import _taps, empirical

METHODS = ("auto", "taps", "jacobian", "products")
GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "golden.npz")
INDEX = json.loads((Path(__file__).parents[1] / "golden" / "golden.json").read_text())["arrays"]


@pytest.fixture(autouse=True, scope="module")
def without_optimisations():
    """Compiling is what these tests would take their time for."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def normal(seed, *shape):
    # Of NumPy, as everything here that would be compiled for one use.
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), float)


def initial(model):
    """Parameters and other variables in the shapes of the model's own, none of them left at 0 or
    1."""
    leaves, treedef = jax.tree.flatten(jax.eval_shape(model.init, jax.random.key(0)))
    generator = np.random.default_rng(0)

    def draw(a):
        return jnp.asarray(
            generator.uniform(0.3, 1, a.shape) * generator.choice((-1, 1), a.shape), a.dtype
        )

    return treedef.unflatten([draw(a) for a in leaves])


def plain(apply, params, x1, x2=None):
    """The whole kernel (n1, n2, k, k) by the definition: Jacobians of whole batches."""
    flat, unravel = ravel_pytree(params)

    def jacobian(x):
        j = jax.jacrev(lambda w: apply(unravel(w), x))(flat)
        return j.reshape(len(j), -1, flat.size)

    first = jacobian(x1)
    return jnp.einsum("iap,jbp->ijab", first, first if x2 is None else jacobian(x2))


def agree(found, expected, slack=200):
    scale = np.max(np.abs(expected))
    assert found.dtype == expected.dtype
    atol = slack * jnp.finfo(expected.dtype).eps * scale
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


def of_linen(module, x):
    model = models.from_linen(module, x)
    params = initial(model)
    statistics = {
        name: jax.tree.map(jnp.abs, values) for name, values in params.items() if name != "params"
    }
    return lambda w, x: model.apply({**statistics, "params": w}, x), params["params"]


def of_nnx(make):
    model = models.from_nnx(make)
    params = initial(model)
    return lambda w, x: model.apply({**params, "params": w}, x), params["params"]


class Heads(linen.Module):
    @linen.compact
    def __call__(self, x):
        dense = functools.partial(linen.Dense, param_dtype=float)
        x = linen.LayerNorm(param_dtype=float)(jnp.tanh(dense(4)(x)))
        return dense(2)(x) + dense(2, use_bias=False)(jnp.sin(x))


class Attention(linen.Module):
    @linen.compact
    def __call__(self, tokens):
        x = linen.Embed(7, 4, param_dtype=float)(tokens)
        x = x + linen.MultiHeadDotProductAttention(1, param_dtype=float)(x)
        return linen.Dense(2, param_dtype=float)(jnp.mean(linen.gelu(x), 1))


class Tied(linen.Module):
    @linen.compact
    def __call__(self, tokens):
        embed = linen.Embed(7, 4, param_dtype=float)
        x = jnp.tanh(linen.Dense(4, param_dtype=float)(embed(tokens)))
        return embed.attend(jnp.mean(x, 1))


class Images(linen.Module):
    @linen.compact
    def __call__(self, x):
        conv = functools.partial(linen.Conv, param_dtype=float)
        x = jnp.tanh(conv(3, (3, 2), strides=(2, 1), padding=((1, 1), (0, 1)))(x))
        x = jnp.sin(conv(4, (2, 2), padding="CIRCULAR", kernel_dilation=2)(x))
        x = conv(2, (2, 1), feature_group_count=2, use_bias=False)(x)
        return linen.Dense(2, param_dtype=float)(x.reshape(len(x), -1))


class Normed(linen.Module):
    @linen.compact
    def __call__(self, x, train=False):
        x = linen.Dense(4, param_dtype=float)(x)
        # Else its statistics are of float32 in float64 too.
        norm = linen.BatchNorm(
            not train, param_dtype=float, dtype=float, force_float32_reductions=False
        )
        return linen.Dense(2, param_dtype=float)(jnp.tanh(norm(x)))


class OfNnx(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(3, 5, rngs=rngs, param_dtype=float)
        self.norm = nnx.LayerNorm(5, rngs=rngs, param_dtype=float)
        self.last = nnx.Linear(5, 2, rngs=rngs, param_dtype=float)

    def __call__(self, x):
        return self.last(nnx.relu(self.norm(self.first(x))))


def ntk_parametrised(params, x):
    """Scalars before and after the product, in front of and behind the broadcast bias, some of them
    parameters."""
    w = params["w"]
    b = params["b"]
    scale = params["scale"]
    x = jnp.tanh(1.5 / jnp.sqrt(3.0) * (x @ w[0]) + 0.1 * b[0][None])
    x = jax.jit(
        lambda w, b: jnp.sin(x @ (w.T * scale / 2) + 0.3 * jnp.broadcast_to(b, (len(x), 4)))
    )(w[1], b[1])
    return x @ (-w[2].reshape(4, 2))


def sequences(params, x):
    """Weights shared over the places of a sample; two uses of one; a product of two leaves; a scan;
    a sum."""
    h = jnp.einsum("nsc,fc->nsf", x, params["a"]) * 0.5 + params["b"][None, None]
    h = jnp.tanh(h @ params["c"] @ params["d"]) + jnp.cos(h @ params["c"] @ params["d"])
    h, _ = lax.scan(lambda h, _: (jnp.tanh(h @ params["e"]), None), h, None, length=2)
    return jnp.sum(h * params["g"][None], 1) + params["b"][None] ** 2


SHARED = {"a": (4, 3), "b": (4,), "c": (4, 5), "d": (5, 4), "e": (4, 4), "g": (6, 4)}


def WEIGHTS():
    return {
        "w": [normal(0, 3, 5), normal(1, 4, 5), normal(2, 8)],
        "b": [normal(3, 5), normal(4, 4)],
        "scale": jnp.asarray(1.3),
    }


def tokens(seed, n):
    return jnp.asarray(np.random.default_rng(seed).integers(0, 7, (n, 3)))


mlp = models.mlp((3, 4, 2), bias_scale=0.3)
LINEAR = models.deep_linear((3, 4, 2))


def FLAT():
    return (normal(1, 3, 3), normal(2, 2, 3))


CASES = {
    "mlp": lambda: (mlp.apply, initial(mlp), *FLAT()),
    "scaled": lambda: (ntk_parametrised, WEIGHTS(), *FLAT()),
    "sequences": lambda: (
        sequences,
        {name: normal(i, *shape) / 2 for i, (name, shape) in enumerate(SHARED.items())},
        normal(8, 3, 6, 3),
        normal(9, 2, 6, 3),
    ),
    "deep_linear": lambda: (LINEAR.apply, initial(LINEAR), *FLAT()),
    "heads": lambda: (*of_linen(Heads(), normal(1, 3, 3)), *FLAT()),
    "attention": lambda: (*of_linen(Attention(), tokens(1, 3)), tokens(1, 3), tokens(2, 2)),
    "tied": lambda: (*of_linen(Tied(), tokens(1, 3)), tokens(1, 3), tokens(2, 2)),
    "images": lambda: (
        *of_linen(Images(), normal(1, 3, 4, 4, 2)),
        normal(1, 3, 4, 4, 2),
        normal(2, 2, 4, 4, 2),
    ),
    "batchnorm": lambda: (*of_linen(Normed(), normal(1, 3, 3)), *FLAT()),
    "nnx": lambda: (*of_nnx(OfNnx), *FLAT()),
}
# By every method; the others by the taps, of which they have different ones.
EVERY = ("deep_linear", "tied")


def check(name):
    apply, params, x1, x2 = CASES[name]()

    def mean(theta):
        return jnp.mean(jnp.diagonal(theta, axis1=2, axis2=3), -1)

    def both(params, x1, x2):
        ntk = functools.partial(empirical.ntk, apply, params)
        whole = plain(apply, params, jnp.concatenate([x1, x2]))[: len(x1)]
        within = whole[:, : len(x1)]
        across = whole[:, len(x1) :]
        if name not in EVERY:
            return [ntk(x1, x2, trace=False, method="taps")], [across]
        found = [ntk(x1, x2, trace=False, method=method) for method in ("taps", "products")]
        found += [ntk(x1), ntk(x1, x2, method="jacobian"), ntk(x1, method="products", batch=2)]
        return found, [across, across, mean(within), mean(across), mean(within)]

    for found, expected in zip(*jax.jit(both)(params, x1, x2), strict=True):
        agree(found, expected)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", CASES)
def test_every_method_is_the_definition(name):
    check(name)


def test_float32_agrees_to_its_rounding():
    check("mlp")


def layers(name):
    apply, params, x, _ = CASES[name]()

    def f(p, x):
        return apply(p, x[None]).reshape(-1)

    found = _taps.plan(f, params, x[0], taps=True)
    return [layer.bias is not None for layer in found.layers], len(found.rest)


def test_what_is_recognised():
    # Dense layers with their biases; the scalar leaf that multiplies a weight is left.
    assert layers("mlp") == ([True] * 2, 0)
    assert layers("scaled") == ([True, True, False], 1)
    # The last layer with its bias, the embedding, the four projections of the attention with
    # theirs.
    assert layers("attention") == ([True, False, True, True, True, True], 0)
    # Tied, shared over the depth, in a scan, used twice, elementwise: by their Jacobians.
    assert layers("tied") == ([True], 1)
    assert layers("sequences") == ([False], 5)
    # The grouped convolution is left.
    assert layers("images") == ([True] * 3, 1)
    assert layers("heads")[1] == 2


def test_a_factor_is_taken_once_and_zeros_are_no_part(x64):
    # f = a b x: two scalar leaves of one product, each the other's factor.
    def apply(p, x):
        return p["a"] * p["b"] * x

    params = {"a": jnp.asarray(2.0), "b": jnp.asarray(3.0), "unused": jnp.ones(3), "count": 4}
    x = jnp.array([1.0, 5.0])
    count = params.pop("count")

    def ntk(p, method):
        return empirical.ntk(apply, p | {"count": count}, x, method=method)

    for found in jax.jit(lambda p: [ntk(p, method) for method in METHODS])(params):
        expected = 13.0 * np.outer(x, x)
        agree(found, expected)

    # Two leaves of one product share its bias.
    def biased(p, x):
        return (p[0] @ p[1] + p[2][None]) * x[:, None]

    shared = [2 * np.ones((1, 3)), np.ones((3, 1)), np.ones(1)]
    computed = jax.jit(functools.partial(empirical.ntk, biased))(shared, x)
    expected = 16.0 * np.outer(x, x)
    agree(computed, expected)


@pytest.mark.usefixtures("x64")
def test_blocks_of_any_size_give_the_same():
    x1 = normal(1, 5, 3)
    x2 = normal(2, 4, 3)

    def kernels(params):
        ntk = functools.partial(empirical.ntk, mlp.apply, params, x1)
        found = [ntk(x2, trace=trace, batch=n) for trace, n in ((True, 1), (True, 100), (False, 3))]
        found += [ntk(batch=3), ntk(trace=False, batch=2)]
        whole = ntk(x2, trace=False)
        own = ntk(trace=False)
        traces = [jnp.trace(theta, axis1=2, axis2=3) / 2 for theta in (whole, own)]
        return found, [*[traces[0]] * 2, whole, traces[1], own]

    for found, expected in zip(*jax.jit(kernels)(initial(mlp)), strict=True):
        agree(found, expected)


def test_with_itself_it_is_exactly_symmetric_and_positive():
    net = models.mlp((3, 20, 4), bias_scale=0.3)
    every = [{"batch": 16}, {"trace": False}, {"trace": False, "batch": 50}]
    ntk = functools.partial(empirical.ntk, net.apply)
    for theta in jax.jit(lambda *args: [ntk(*args, **options) for options in every])(
        initial(net), normal(1, 110, 3)
    ):
        theta = np.asarray(theta)
        if theta.ndim == 4:
            theta = theta.transpose(0, 2, 1, 3).reshape(440, 440)
        np.testing.assert_array_equal(theta, theta.T)
        assert np.linalg.eigvalsh(theta)[0] > -1e-5 * np.linalg.norm(theta)


@pytest.mark.usefixtures("x64")
def test_it_maps_over_parameters_and_differentiates():
    x = normal(1, 3, 3)
    one = initial(mlp)
    other = jax.tree.map(lambda a: a / 2, initial(mlp))

    def ntk(p, **options):
        return empirical.ntk(mlp.apply, p, x, **options)

    def definition(p):
        return jnp.trace(plain(mlp.apply, p, x), axis1=2, axis2=3) / 2

    def slope(kernel):
        return jax.grad(lambda p: jnp.sum(jnp.sin(kernel(p))))

    every = ({}, {"batch": 2})

    def derived(params, one):
        slopes = [slope(functools.partial(ntk, **options))(one) for options in every]
        return jax.vmap(ntk)(params), definition(one), slopes, slope(definition)(one)

    together, alone, slopes, expected = jax.jit(derived)(
        jax.tree.map(lambda *a: jnp.stack(a), other, one), one
    )
    agree(together[1], alone)
    for found in slopes:
        for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
            agree(a, b, slack=1000)


def test_auto_takes_products_where_a_jacobian_is_too_large(monkeypatch):
    apply, params, x, _ = CASES["tied"]()
    taken = []

    def choose(*args, **options):
        return jax.eval_shape(functools.partial(empirical.ntk, *args, **options))

    monkeypatch.setattr(
        empirical, "_by_products", lambda *args: taken.append(args) or jnp.zeros((len(x),) * 2)
    )
    choose(apply, params, x)
    assert not taken
    monkeypatch.setattr(empirical, "memory", lambda: 2000)
    choose(apply, params, x)
    assert taken
    # A recurrent weight of many outputs: n^2 k^2 P against n^2 k P.
    monkeypatch.undo()
    monkeypatch.setattr(
        empirical, "_by_products", lambda *args: taken.append(args) or jnp.zeros((120,) * 2)
    )
    taken.clear()

    def deep(w, x):
        return lax.scan(lambda h, _: (jnp.tanh(h @ w), None), x, None, length=2)[0]

    choose(deep, normal(0, 40, 40), normal(1, 3, 40), trace=False)
    assert taken


@pytest.mark.usefixtures("x64")
def test_batch_normalisation_in_training_couples_the_samples():
    (x1, x2) = FLAT()
    v = normal(3, 2, 2)
    model = models.from_linen(Normed(), x1, training={"train": True}, evaluating={"train": False})
    params = initial(model)

    def apply(w, x):
        return model.apply({**params, "params": w}, x, train=True)[0]

    def kernels(w):
        def ntk(*xs, **options):
            return empirical.ntk(apply, w, *xs, per_sample=False, **options)

        across = [ntk(x1, x2, trace=False, method=method) for method in METHODS[1:]]
        within = [ntk(x1, method=method) for method in METHODS[1:2]]
        # The product takes whole batches as they are.
        product = empirical.ntk_product(apply, w, x1, x2)(v)
        return across, within, product, plain(apply, w, x1, x2), plain(apply, w, x1)

    across, within, product, expected, own = jax.jit(kernels)(params["params"])
    for found in across:
        agree(found, expected)
    for found in within:
        agree(found, np.trace(own, axis1=2, axis2=3) / 2)
    agree(product, np.einsum("ijab,jb->ia", expected, v))


def test_inputs_may_be_trees():
    net = models.gated_linear((3, 4, 2), ((0, 0), (0, 1)))
    x = normal(1, 3, 3), normal(2, 3, 2)

    def both(p, x):
        return (empirical.ntk(net.apply, p, x, trace=False), plain(net.apply, p, x))

    agree(*jax.jit(both)(initial(net), x))


def golden_network(name):
    """The networks of the golden arrays, NTK parametrisation: (apply, leaves)."""
    leaves = [GOLDEN[key] for key in GOLDEN if key.startswith(f"{name}/params")]
    leaves = [jnp.asarray(a) for a in leaves]
    pairs = list(zip(leaves[::2], leaves[1::2], strict=True))
    w_std = 1.5 if name == "emp_fc" else 1.3

    def apply(params, x):
        for layer, (w, b) in enumerate(params):
            scale = w_std / np.sqrt(w.size / w.shape[-1])
            if name == "emp_fc":
                x = scale * (x @ w) + 0.1 * b
                x = x if layer == 2 else jax.scipy.special.erf(x)
            elif layer < 2:
                x = lax.conv_general_dilated(
                    x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
                x = jax.nn.gelu(scale * x + 0.1 * b, approximate=False)
            else:
                x = scale * (jnp.mean(x, (1, 2)) @ w) + 0.1 * b
        return x

    return apply, pairs


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("network", ["emp_fc", "emp_conv"])
def test_golden_arrays(network):
    names = [
        key
        for key, record in INDEX.items()
        if key.startswith(network) and record["kind"] == "output"
    ]
    apply, params = golden_network(network)
    x = jnp.asarray(GOLDEN["x" if network == "emp_fc" else "s2"])
    tests = jnp.asarray(GOLDEN["s2t"])
    ntk = functools.partial(empirical.ntk, apply, params)
    moved = jax.tree.map(lambda a: 1.1 * a + 0.05, params)
    found = {
        "f": lambda: apply(params, x),
        "ntk_full": lambda: ntk(x, trace=False),
        "ntk_trace": lambda: ntk(x),
        "ntk_diag": lambda: jnp.diagonal(ntk(x, trace=False), axis1=2, axis2=3),
        "ntk_full_td": lambda: ntk(tests, x, trace=False),
        "ntk_trace_td": lambda: ntk(tests, x),
        "nngp_trace": lambda: empirical.nngp(apply, params, x),
        "ntk_vp": lambda: empirical.ntk_product(apply, params, x)(GOLDEN[f"{network}/v"]),
        "linearize": lambda: empirical.linearize(apply, params)(moved, x),
        "taylor2": lambda: empirical.taylor(apply, params, 2)(moved, x),
        "taylor3": lambda: empirical.taylor(apply, params, 3)(moved, x),
    }
    every = jax.jit(lambda: {name: found[name.split("/")[1]]() for name in names})()
    assert len(names) > 3
    for name in names:
        np.testing.assert_allclose(every[name], GOLDEN[name], rtol=1e-10, atol=1e-10, err_msg=name)


@pytest.mark.usefixtures("x64")
def test_taylor_polynomials_have_their_order_and_are_exact_on_polynomials():
    net = models.deep_linear((3, 4, 4, 2))
    x = normal(1, 3, 3)
    a = initial(net)
    b = jax.tree.map(lambda a: a + normal(a.size, *a.shape), a)

    @jax.jit
    def polynomials(p):
        return net.apply(p, x), [
            empirical.taylor(net.apply, a, degree)(p, x) for degree in range(4)
        ]

    def rests(t):
        exact, found = polynomials(jax.tree.map(lambda a, b: a + t * (b - a), a, b))
        return [np.linalg.norm(f - exact) for f in found[:3]]

    exact, found = polynomials(b)
    agree(found[3], exact)
    orders = np.log2(np.divide(rests(2e-3), rests(1e-3)))
    expected = [1, 2, 3]
    np.testing.assert_allclose(orders, expected, atol=0.02)


@pytest.mark.usefixtures("x64")
def test_the_spectrum_is_that_of_the_kernel():
    x = normal(1, 9, 3)
    depths = (2, 6)

    @jax.jit
    def spectra(p):
        fewer = [empirical.top_eigenpairs(mlp.apply, p, x, depth=d)[0][0] for d in depths]
        return (
            empirical.ntk(mlp.apply, p, x, trace=False),
            empirical.top_eigenpairs(mlp.apply, p, x, 5),
            fewer,
        )

    theta, (values, vectors), fewer = spectra(initial(mlp))
    theta = theta.transpose(0, 2, 1, 3).reshape(18, 18)
    expected = np.linalg.eigvalsh(theta)[::-1][:5]
    np.testing.assert_allclose(values, expected, rtol=1e-10)
    vectors = vectors.reshape(5, 18)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(5), atol=1e-10)
    expected = values[None] * vectors.T
    np.testing.assert_allclose(theta @ vectors.T, expected, atol=1e-8)
    # Fewer products: from below, and closer with more.
    assert np.all(np.diff([*fewer, values[0] * (1 + 1e-12)]) > 0)

    # One sample twice, linear in one weight: Theta has rank 1.
    def rank_1(w):
        return empirical.top_eigenpairs(lambda w, x: x @ w, w, jnp.ones((4, 2)), 3)

    values, vectors = jax.jit(rank_1)(np.ones((2, 1)))
    expected = [8, 0, 0]
    np.testing.assert_allclose(values, expected, atol=1e-12)
    computed = jnp.abs(vectors[0])
    np.testing.assert_allclose(computed, 0.5, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_the_linearised_network_follows_its_kernel():
    # Gradient flow of the linearised network: f(t) - y = exp(-Theta t / n) (f(0) - y).
    net = models.mlp((3, 8, 1), bias_scale=0.3)
    params = initial(net)
    x = normal(1, 4, 3)
    y = jnp.sin(x[:, :1])
    linear = empirical.linearize(net.apply, params)
    field = jax.grad(losses.squared_error(linear))

    def observe(state):
        return {"f": linear(state.params, x)}

    times = np.array([0.0, 1.0, 3.0])
    run = jd.flow(field, (x, y), params, times=times, observe=observe, solver=jd.RK4(0.02))
    theta, start = jax.jit(lambda p: (empirical.ntk(net.apply, p, x), net.apply(p, x)))(params)

    def decay(t):
        return scipy.linalg.expm(-t / 4 * np.asarray(theta)) @ (start - y)

    for t, f in zip(run.time, run.observed["f"], strict=True):
        np.testing.assert_allclose(f - y, decay(t), atol=1e-6)


def test_the_mean_over_seeds_is_the_kernel_of_the_infinite_network():
    # One hidden layer of rectifiers: the NTK is unbiased at any width (Cho & Saul 2009 for the
    # expectations).
    x = normal(1, 4, 3)
    width = 16
    seeds = 2000

    def init(key):
        first, last = jax.random.split(key)
        return jax.random.normal(first, (3, width)), jax.random.normal(last, (width, 1))

    def apply(p, x):
        return jax.nn.relu(x @ p[0] / np.sqrt(3)) @ p[1] / np.sqrt(width)

    runs = jd.sweep(empirical.monte_carlo(init, apply, x), seeds=seeds)
    k = np.asarray(x @ x.T, np.float64) / 3
    norm = np.sqrt(np.outer(np.diag(k), np.diag(k)))
    angle = np.arccos(np.clip(k / norm, -1, 1))
    nngp = norm * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
    exact = {"nngp": nngp, "ntk": nngp + k * (np.pi - angle) / (2 * np.pi)}
    for name, expected in exact.items():
        samples = runs[name].transpose("seed", ...).values
        z = (samples.mean(0) - expected) / (samples.std(0) / np.sqrt(seeds))
        assert np.max(np.abs(z)) < 4
    with pytest.raises(ValueError, match="cov"):
        empirical.monte_carlo(init, apply, x, get=("cov",))


def test_the_kernel_of_a_flax_network_moves_while_it_learns():
    x = normal(1, 8, 3)
    y = jnp.sin(3 * x[:, :1])
    model = models.from_linen(linen.Sequential([linen.Dense(16), jnp.tanh, linen.Dense(1)]), x)
    start = jax.jit(model.init)(jax.random.key(0))

    def kernel(p):
        return empirical.ntk(model.apply, p, x)

    observe = observables.combine(
        observables.kernel_change(kernel, start), observables.kernel_target_alignment(kernel, y)
    )
    field = jax.grad(losses.squared_error(model.apply))
    run = jax.jit(
        lambda: jd.train(
            field,
            optax.sgd(0.2),
            tasks.full_batch((x, y)),
            start,
            times=[0, 100, 400],
            observe=observe,
        )
    )().observed
    assert run["kernel_distance"][0] < 1e-6
    assert np.all(np.diff(run["kernel_distance"]) > 0.01)
    assert np.all(np.diff(run["kernel_alignment"]) < 0)
    assert run["kernel_target_alignment"][-1] > run["kernel_target_alignment"][0]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"x1": jnp.asarray(1.0)}, ValueError, "batch axis"),
        ({"x1": jnp.ones(3)}, ValueError, "batch axis"),
        ({"x1": jnp.ones((0, 3))}, ValueError, "at least one sample"),
        ({"x2": jnp.ones((4, 2))}, (ValueError, TypeError), "x1, x2|dot_general"),
        ({"x2": jnp.ones((4, 3), jnp.float16)}, ValueError, "same kind"),
        ({"method": "fast"}, ValueError, "'taps', 'jacobian', 'products'"),
        ({"batch": 0}, ValueError, "batch: 0"),
        ({"batch": 2, "per_sample": False}, ValueError, "per_sample"),
        ({"apply": lambda p, x: mlp.apply(p, x)[1:]}, ValueError, "batch axis first"),
        ({"apply": lambda p, x: (mlp.apply(p, x), {})}, TypeError, "tuple"),
        ({"apply": lambda p, x: mlp.apply(p, x) > 0}, TypeError, "bool"),
        ({"params": {"weights": 3}}, TypeError, "no floating leaf"),
    ],
)
def test_bad_input_is_refused(options, error, message):
    arguments = {"apply": mlp.apply, "params": initial(mlp), "x1": jnp.ones((5, 3))} | options
    with pytest.raises(error, match=message):
        empirical.ntk(**arguments)


def test_what_does_not_fit_is_refused_with_its_size(monkeypatch):
    params = initial(mlp)
    x = jnp.ones((50, 3))
    monkeypatch.setattr("jaxdyn.kernels._matrices.memory", lambda: 15_000)
    with pytest.raises(ValueError, match=r"40,000 bytes of 15,000.*trace"):
        empirical.ntk(mlp.apply, params, x, trace=False)
    with pytest.raises(ValueError, match=r"bytes of 15,000; pass batch"):
        empirical.ntk(mlp.apply, params, x, method="taps")
    fits = functools.partial(empirical.ntk, mlp.apply, method="taps", batch=2)
    assert jax.eval_shape(fits, params, x).shape == (50, 50)


def test_other_functions_refuse_bad_input():
    params = initial(mlp)
    x = jnp.ones((5, 3))
    with pytest.raises(ValueError, match=r"\(5, 3\).*\(5, 2\)"):
        empirical.ntk_product(mlp.apply, params, x)(jnp.ones((5, 3)))
    with pytest.raises(ValueError, match="num: 11; pass 1 to 10"):
        empirical.top_eigenpairs(mlp.apply, params, x, 11)
    with pytest.raises(ValueError, match="depth: 1 is below"):
        empirical.top_eigenpairs(mlp.apply, params, x, 2, depth=1)
    with pytest.raises(ValueError, match="degree: -1"):
        empirical.taylor(mlp.apply, params, -1)
