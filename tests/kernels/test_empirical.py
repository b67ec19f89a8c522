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
FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN = np.load(FOLDER / "golden.npz")
INDEX = json.loads((FOLDER / "golden.json").read_text())["arrays"]


@pytest.fixture(autouse=True, scope="module")
def without_optimisations():
    """Compiling is what these tests would take their time for."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def normal(seed, *shape):
    # Of NumPy, as everything here that would be compiled for one use.
    drawn = np.random.default_rng(seed).normal(size=shape)
    return jnp.asarray(drawn, float)


def initial(model):
    """Parameters and other variables in the shapes of the model's own, none of them left at 0 or
    1."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    leaves, treedef = jax.tree.flatten(shapes)
    generator = np.random.default_rng(0)

    def draw(a):
        size = generator.uniform(0.3, 1, a.shape)
        sign = generator.choice((-1, 1), a.shape)
        return jnp.asarray(size * sign, a.dtype)

    return treedef.unflatten([draw(a) for a in leaves])


def plain(apply, params, x1, x2=None):
    """The whole kernel (n1, n2, k, k) by the definition: Jacobians of whole batches."""
    flat, unravel = ravel_pytree(params)

    def jacobian(x):
        def of_weights(w):
            return apply(unravel(w), x)

        j = jax.jacrev(of_weights)(flat)
        return j.reshape(len(j), -1, flat.size)

    first = jacobian(x1)
    second = first if x2 is None else jacobian(x2)
    return jnp.einsum("iap,jbp->ijab", first, second)


def mean_trace(theta):
    """The kernel (n1, n2) that is the mean of those of the single outputs."""
    own = jnp.diagonal(theta, axis1=2, axis2=3)
    return jnp.mean(own, -1)


def agree(found, expected, slack=200):
    scale = np.max(np.abs(expected))
    rounding = jnp.finfo(expected.dtype).eps
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=0, atol=slack * rounding * scale)


def of_linen(module, x):
    """The function of the weights, its other variables positive and fixed, and the weights."""
    model = models.from_linen(module, x)
    variables = initial(model)
    params = variables.pop("params")
    statistics = jax.tree.map(jnp.abs, variables)

    def apply(w, x):
        return model.apply({**statistics, "params": w}, x)

    return apply, params


def of_nnx(make):
    model = models.from_nnx(make)
    variables = initial(model)

    def apply(w, x):
        return model.apply({**variables, "params": w}, x)

    return apply, variables["params"]


class Heads(linen.Module):
    @linen.compact
    def __call__(self, x):
        dense = functools.partial(linen.Dense, param_dtype=float)
        norm = linen.LayerNorm(param_dtype=float)
        hidden = jnp.tanh(dense(4)(x))
        x = norm(hidden)
        first = dense(2)(x)
        second = dense(2, use_bias=False)(jnp.sin(x))
        return first + second


class Attention(linen.Module):
    @linen.compact
    def __call__(self, tokens):
        embed = linen.Embed(7, 4, param_dtype=float)
        attend = linen.MultiHeadDotProductAttention(1, param_dtype=float)
        readout = linen.Dense(2, param_dtype=float)
        x = embed(tokens)
        x = x + attend(x)
        pooled = jnp.mean(linen.gelu(x), 1)
        return readout(pooled)


class Tied(linen.Module):
    @linen.compact
    def __call__(self, tokens):
        embed = linen.Embed(7, 4, param_dtype=float)
        dense = linen.Dense(4, param_dtype=float)
        x = jnp.tanh(dense(embed(tokens)))
        return embed.attend(jnp.mean(x, 1))


class Images(linen.Module):
    @linen.compact
    def __call__(self, x):
        conv = functools.partial(linen.Conv, param_dtype=float)
        strided = conv(3, (3, 2), strides=(2, 1), padding=((1, 1), (0, 1)))
        dilated = conv(4, (2, 2), padding="CIRCULAR", kernel_dilation=2)
        grouped = conv(2, (2, 1), feature_group_count=2, use_bias=False)
        readout = linen.Dense(2, param_dtype=float)
        x = jnp.tanh(strided(x))
        x = jnp.sin(dilated(x))
        x = grouped(x)
        return readout(x.reshape(len(x), -1))


class Normed(linen.Module):
    @linen.compact
    def __call__(self, x, train=False):
        dense = linen.Dense(4, param_dtype=float)
        # Else its statistics are of float32 in float64 too.
        precision = dict(param_dtype=float, dtype=float, force_float32_reductions=False)
        norm = linen.BatchNorm(not train, **precision)
        readout = linen.Dense(2, param_dtype=float)
        hidden = norm(dense(x))
        return readout(jnp.tanh(hidden))


class OfNnx(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(3, 5, rngs=rngs, param_dtype=float)
        self.norm = nnx.LayerNorm(5, rngs=rngs, param_dtype=float)
        self.last = nnx.Linear(5, 2, rngs=rngs, param_dtype=float)

    def __call__(self, x):
        hidden = self.norm(self.first(x))
        return self.last(nnx.relu(hidden))


def ntk_parametrised(params, x):
    """Scalars before and after the product, in front of and behind the broadcast bias, some of them
    parameters."""
    w = params["w"]
    b = params["b"]
    scale = params["scale"]
    factor = 1.5 / jnp.sqrt(3.0)
    x = jnp.tanh(factor * (x @ w[0]) + 0.1 * b[0][None])

    @jax.jit
    def second(w, b):
        product = x @ (w.T * scale / 2)
        bias = jnp.broadcast_to(b, (len(x), 4))
        return jnp.sin(product + 0.3 * bias)

    x = second(w[1], b[1])
    return x @ (-w[2].reshape(4, 2))


def sequences(params, x):
    """Weights shared over the places of a sample; two uses of one; a product of two leaves; a scan;
    a sum."""
    a = params["a"]
    b = params["b"]
    c = params["c"]
    d = params["d"]

    def recur(h, _):
        return jnp.tanh(h @ params["e"]), None

    h = jnp.einsum("nsc,fc->nsf", x, a) * 0.5 + b[None, None]
    h = jnp.tanh(h @ c @ d) + jnp.cos(h @ c @ d)
    h, _ = lax.scan(recur, h, None, length=2)
    return jnp.sum(h * params["g"][None], 1) + b[None] ** 2


SHARED = {
    "a": (4, 3),
    "b": (4,),
    "c": (4, 5),
    "d": (5, 4),
    "e": (4, 4),
    "g": (6, 4),
}


def ntk_weights():
    return {
        "w": [normal(0, 3, 5), normal(1, 4, 5), normal(2, 8)],
        "b": [normal(3, 5), normal(4, 4)],
        "scale": jnp.asarray(1.3),
    }


def shared_weights():
    weights = {}
    for seed, (name, shape) in enumerate(SHARED.items()):
        weights[name] = normal(seed, *shape) / 2
    return weights


def tokens(seed, n):
    drawn = np.random.default_rng(seed).integers(0, 7, (n, 3))
    return jnp.asarray(drawn)


MLP = models.mlp((3, 4, 2), bias_scale=0.3)
LINEAR = models.deep_linear((3, 4, 2))


def flat_inputs():
    return normal(1, 3, 3), normal(2, 2, 3)


def sequence_inputs():
    return normal(8, 3, 6, 3), normal(9, 2, 6, 3)


def token_inputs():
    return tokens(1, 3), tokens(2, 2)


def image_inputs():
    return normal(1, 3, 4, 4, 2), normal(2, 2, 4, 4, 2)


def from_linen(module, inputs):
    x1, x2 = inputs()
    apply, params = of_linen(module, x1)
    return apply, params, x1, x2


# Each makes (apply, params, x1, x2).
CASES = {
    "mlp": lambda: (MLP.apply, initial(MLP), *flat_inputs()),
    "scaled": lambda: (ntk_parametrised, ntk_weights(), *flat_inputs()),
    "sequences": lambda: (sequences, shared_weights(), *sequence_inputs()),
    "deep_linear": lambda: (LINEAR.apply, initial(LINEAR), *flat_inputs()),
    "heads": lambda: from_linen(Heads(), flat_inputs),
    "attention": lambda: from_linen(Attention(), token_inputs),
    "tied": lambda: from_linen(Tied(), token_inputs),
    "images": lambda: from_linen(Images(), image_inputs),
    "batchnorm": lambda: from_linen(Normed(), flat_inputs),
    "nnx": lambda: (*of_nnx(OfNnx), *flat_inputs()),
}
# By every method; the others by the taps, of which they have different ones.
EVERY = ("deep_linear", "tied")


def check(name):
    apply, params, x1, x2 = CASES[name]()

    @jax.jit
    def both(params, x1, x2):
        """Pairs of what a method finds and of what the definition says."""
        ntk = functools.partial(empirical.ntk, apply, params)
        whole = plain(apply, params, jnp.concatenate([x1, x2]))[: len(x1)]
        within = whole[:, : len(x1)]
        across = whole[:, len(x1) :]
        by_taps = ntk(x1, x2, trace=False, method="taps")
        if name not in EVERY:
            return [(by_taps, across)]
        by_products = ntk(x1, x2, trace=False, method="products")
        in_blocks = ntk(x1, method="products", batch=2)
        by_jacobian = ntk(x1, x2, method="jacobian")
        return [
            (by_taps, across),
            (by_products, across),
            (ntk(x1), mean_trace(within)),
            (by_jacobian, mean_trace(across)),
            (in_blocks, mean_trace(within)),
        ]

    for found, expected in both(params, x1, x2):
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
    biased = [layer.bias is not None for layer in found.layers]
    return biased, len(found.rest)


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

    params = {"a": jnp.asarray(2.0), "b": jnp.asarray(3.0), "unused": jnp.ones(3)}
    count = {"count": 4}
    x = jnp.array([1.0, 5.0])

    @jax.jit
    def kernels(p):
        return [empirical.ntk(apply, p | count, x, method=method) for method in METHODS]

    expected = 13.0 * np.outer(x, x)
    for found in kernels(params):
        agree(found, expected)

    # Two leaves of one product share its bias.
    def biased(p, x):
        first, second, bias = p
        return (first @ second + bias[None]) * x[:, None]

    shared = [2 * np.ones((1, 3)), np.ones((3, 1)), np.ones(1)]
    ntk = jax.jit(functools.partial(empirical.ntk, biased))
    computed = ntk(shared, x)
    expected = 16.0 * np.outer(x, x)
    agree(computed, expected)


@pytest.mark.usefixtures("x64")
def test_blocks_of_any_size_give_the_same():
    x1 = normal(1, 5, 3)
    x2 = normal(2, 4, 3)

    @jax.jit
    def kernels(params):
        """Pairs of a kernel in blocks and of the same as a whole."""
        ntk = functools.partial(empirical.ntk, MLP.apply, params, x1)
        across = ntk(x2, trace=False)
        within = ntk(trace=False)
        return [
            (ntk(x2, trace=True, batch=1), mean_trace(across)),
            (ntk(x2, trace=True, batch=100), mean_trace(across)),
            (ntk(x2, trace=False, batch=3), across),
            (ntk(batch=3), mean_trace(within)),
            (ntk(trace=False, batch=2), within),
        ]

    for found, expected in kernels(initial(MLP)):
        agree(found, expected)


def test_with_itself_it_is_exactly_symmetric_and_positive():
    net = models.mlp((3, 20, 4), bias_scale=0.3)

    @jax.jit
    def kernels(params, x):
        ntk = functools.partial(empirical.ntk, net.apply, params, x)
        return [ntk(batch=16), ntk(trace=False), ntk(trace=False, batch=50)]

    for theta in kernels(initial(net), normal(1, 110, 3)):
        theta = np.asarray(theta)
        if theta.ndim == 4:
            theta = theta.transpose(0, 2, 1, 3).reshape(440, 440)
        np.testing.assert_array_equal(theta, theta.T)
        smallest = np.linalg.eigvalsh(theta)[0]
        assert smallest > -1e-5 * np.linalg.norm(theta)


@pytest.mark.usefixtures("x64")
def test_it_maps_over_parameters_and_differentiates():
    x = normal(1, 3, 3)
    one = initial(MLP)
    other = jax.tree.map(lambda a: a / 2, initial(MLP))

    def ntk(p):
        return empirical.ntk(MLP.apply, p, x)

    def in_blocks(p):
        return empirical.ntk(MLP.apply, p, x, batch=2)

    def definition(p):
        return mean_trace(plain(MLP.apply, p, x))

    def slope(kernel, p):
        def total(p):
            return jnp.sum(jnp.sin(kernel(p)))

        return jax.grad(total)(p)

    @jax.jit
    def derived(params, one):
        slopes = [slope(kernel, one) for kernel in (ntk, in_blocks)]
        expected = slope(definition, one)
        return jax.vmap(ntk)(params), definition(one), slopes, expected

    both = jax.tree.map(lambda *a: jnp.stack(a), other, one)
    together, alone, slopes, expected = derived(both, one)
    agree(together[1], alone)
    leaves = jax.tree.leaves(expected)
    for found in slopes:
        for a, b in zip(jax.tree.leaves(found), leaves, strict=True):
            agree(a, b, slack=1000)


def test_auto_takes_products_where_a_jacobian_is_too_large(monkeypatch):
    apply, params, x, _ = CASES["tied"]()
    taken = []

    def choose(*args, **options):
        return jax.eval_shape(functools.partial(empirical.ntk, *args, **options))

    def record_products(n):
        """Note the calls of the method by products; the answer is a kernel of n rows."""

        def by_products(*args, trace):
            taken.append(args)
            return jnp.zeros((n,) * 2)

        monkeypatch.setattr(empirical, "_by_products", by_products)

    record_products(len(x))
    choose(apply, params, x)
    assert not taken
    monkeypatch.setattr(empirical, "memory", lambda: 2000)
    choose(apply, params, x)
    assert taken
    # A recurrent weight of many outputs: n^2 k^2 P against n^2 k P.
    monkeypatch.undo()
    record_products(120)
    taken.clear()

    def deep(w, x):
        def layer(h, _):
            return jnp.tanh(h @ w), None

        last, _ = lax.scan(layer, x, None, length=2)
        return last

    choose(deep, normal(0, 40, 40), normal(1, 3, 40), trace=False)
    assert taken


@pytest.mark.usefixtures("x64")
def test_batch_normalisation_in_training_couples_the_samples():
    x1, x2 = flat_inputs()
    v = normal(3, 2, 2)
    model = models.from_linen(Normed(), x1, training={"train": True}, evaluating={"train": False})
    variables = initial(model)

    def apply(w, x):
        outputs, _ = model.apply({**variables, "params": w}, x, train=True)
        return outputs

    @jax.jit
    def kernels(w):
        ntk = functools.partial(empirical.ntk, apply, w, per_sample=False)
        across = [ntk(x1, x2, trace=False, method=method) for method in METHODS[1:]]
        within = ntk(x1, method="taps")
        # The product takes whole batches as they are.
        product = empirical.ntk_product(apply, w, x1, x2)(v)
        return across, within, product, plain(apply, w, x1, x2), plain(apply, w, x1)

    across, within, product, expected, own = kernels(variables["params"])
    for found in across:
        agree(found, expected)
    agree(within, np.trace(own, axis1=2, axis2=3) / 2)
    agree(product, np.einsum("ijab,jb->ia", expected, v))


def test_inputs_may_be_trees():
    net = models.gated_linear((3, 4, 2), ((0, 0), (0, 1)))
    x = normal(1, 3, 3), normal(2, 3, 2)

    @jax.jit
    def both(p, x):
        theta = empirical.ntk(net.apply, p, x, trace=False)
        return theta, plain(net.apply, p, x)

    found, expected = both(initial(net), x)
    agree(found, expected)


def golden_network(name):
    """The networks of the golden arrays, NTK parametrisation: (apply, leaves)."""
    keys = [key for key in GOLDEN if key.startswith(f"{name}/params")]
    leaves = [jnp.asarray(GOLDEN[key]) for key in keys]
    pairs = list(zip(leaves[::2], leaves[1::2], strict=True))

    def scaled(w, w_std):
        return w_std / np.sqrt(w.size / w.shape[-1])

    def fully_connected(params, x):
        for layer, (w, b) in enumerate(params):
            x = scaled(w, 1.5) * (x @ w) + 0.1 * b
            x = x if layer == 2 else jax.scipy.special.erf(x)
        return x

    def convolutional(params, x):
        *convolutions, (w_out, b_out) = params
        layout = ("NHWC", "HWIO", "NHWC")
        for w, b in convolutions:
            x = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layout)
            x = scaled(w, 1.3) * x + 0.1 * b
            x = jax.nn.gelu(x, approximate=False)
        pooled = jnp.mean(x, (1, 2))
        return scaled(w_out, 1.3) * (pooled @ w_out) + 0.1 * b_out

    apply = fully_connected if name == "emp_fc" else convolutional
    return apply, pairs


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("network", ["emp_fc", "emp_conv"])
def test_golden_arrays(network):
    def is_output(key):
        return key.startswith(network) and INDEX[key]["kind"] == "output"

    names = [key for key in INDEX if is_output(key)]
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

    @jax.jit
    def outputs():
        return {name: found[name.split("/")[1]]() for name in names}

    every = outputs()
    assert len(names) > 3
    for name in names:
        expected = GOLDEN[name]
        np.testing.assert_allclose(every[name], expected, rtol=1e-10, atol=1e-10, err_msg=name)


@pytest.mark.usefixtures("x64")
def test_taylor_polynomials_have_their_order_and_are_exact_on_polynomials():
    net = models.deep_linear((3, 4, 4, 2))
    x = normal(1, 3, 3)
    a = initial(net)
    b = jax.tree.map(lambda a: a + normal(a.size, *a.shape), a)

    @jax.jit
    def polynomials(p):
        by_degree = [empirical.taylor(net.apply, a, degree) for degree in range(4)]
        return net.apply(p, x), [polynomial(p, x) for polynomial in by_degree]

    def rests(t):
        """The errors of degrees 0, 1 and 2 at a part t of the way from a to b."""
        between = jax.tree.map(lambda a, b: a + t * (b - a), a, b)
        exact, found = polynomials(between)
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
        top = functools.partial(empirical.top_eigenpairs, MLP.apply, p, x)
        fewer = [top(depth=depth)[0][0] for depth in depths]
        theta = empirical.ntk(MLP.apply, p, x, trace=False)
        return theta, top(5), fewer

    theta, (values, vectors), fewer = spectra(initial(MLP))
    theta = theta.transpose(0, 2, 1, 3).reshape(18, 18)
    expected = np.linalg.eigvalsh(theta)[::-1][:5]
    np.testing.assert_allclose(values, expected, rtol=1e-10)
    vectors = vectors.reshape(5, 18)
    overlaps = vectors @ vectors.T
    np.testing.assert_allclose(overlaps, np.eye(5), atol=1e-10)
    computed = theta @ vectors.T
    expected = values[None] * vectors.T
    np.testing.assert_allclose(computed, expected, atol=1e-8)
    # Fewer products: from below, and closer with more.
    largest = values[0] * (1 + 1e-12)
    assert np.all(np.diff([*fewer, largest]) > 0)

    # One sample twice, linear in one weight: Theta has rank 1.
    def linear(w, x):
        return x @ w

    @jax.jit
    def rank_1(w):
        return empirical.top_eigenpairs(linear, w, jnp.ones((4, 2)), 3)

    values, vectors = rank_1(np.ones((2, 1)))
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

    @jax.jit
    def kernel_and_outputs(p):
        return empirical.ntk(net.apply, p, x), net.apply(p, x)

    theta, start = kernel_and_outputs(params)
    for t, f in zip(run.time, run.observed["f"], strict=True):
        decay = scipy.linalg.expm(-t / 4 * np.asarray(theta))
        expected = decay @ (start - y)
        np.testing.assert_allclose(f - y, expected, atol=1e-6)


def test_the_mean_over_seeds_is_the_kernel_of_the_infinite_network():
    # One hidden layer of rectifiers: the NTK is unbiased at any width (Cho & Saul 2009 for the
    # expectations).
    x = normal(1, 4, 3)
    width = 16
    seeds = 2000

    def init(key):
        first, last = jax.random.split(key)
        w = jax.random.normal(first, (3, width))
        readout = jax.random.normal(last, (width, 1))
        return w, readout

    def apply(p, x):
        w, readout = p
        hidden = jax.nn.relu(x @ w / np.sqrt(3))
        return hidden @ readout / np.sqrt(width)

    runs = jd.sweep(empirical.monte_carlo(init, apply, x), seeds=seeds)
    k = np.asarray(x @ x.T, np.float64) / 3
    norm = np.sqrt(np.outer(np.diag(k), np.diag(k)))
    angle = np.arccos(np.clip(k / norm, -1, 1))
    rest = np.pi - angle
    nngp = norm * (np.sin(angle) + rest * np.cos(angle)) / (2 * np.pi)
    ntk = nngp + k * rest / (2 * np.pi)
    for name, expected in {"nngp": nngp, "ntk": ntk}.items():
        samples = runs[name].transpose("seed", ...).values
        fluctuation = samples.std(0) / np.sqrt(seeds)
        z = (samples.mean(0) - expected) / fluctuation
        assert np.max(np.abs(z)) < 4
    with pytest.raises(ValueError, match="cov"):
        empirical.monte_carlo(init, apply, x, get=("cov",))


def test_the_kernel_of_a_flax_network_moves_while_it_learns():
    x = normal(1, 8, 3)
    y = jnp.sin(3 * x[:, :1])
    module = linen.Sequential([linen.Dense(16), jnp.tanh, linen.Dense(1)])
    model = models.from_linen(module, x)
    start = jax.jit(model.init)(jax.random.key(0))

    def kernel(p):
        return empirical.ntk(model.apply, p, x)

    change = observables.kernel_change(kernel, start)
    alignment = observables.kernel_target_alignment(kernel, y)
    observe = observables.combine(change, alignment)
    field = jax.grad(losses.squared_error(model.apply))
    stream = tasks.full_batch((x, y))
    times = [0, 100, 400]

    @jax.jit
    def train():
        return jd.train(field, optax.sgd(0.2), stream, start, times=times, observe=observe)

    run = train().observed
    assert run["kernel_distance"][0] < 1e-6
    assert np.all(np.diff(run["kernel_distance"]) > 0.01)
    assert np.all(np.diff(run["kernel_alignment"]) < 0)
    with_target = run["kernel_target_alignment"]
    assert with_target[-1] > with_target[0]


BAD = [
    ({"x1": jnp.asarray(1.0)}, ValueError, "batch axis"),
    ({"x1": jnp.ones(3)}, ValueError, "batch axis"),
    ({"x1": jnp.ones((0, 3))}, ValueError, "at least one sample"),
    ({"x2": jnp.ones((4, 2))}, (ValueError, TypeError), "x1, x2|dot_general"),
    ({"x2": jnp.ones((4, 3), jnp.float16)}, ValueError, "same kind"),
    ({"method": "fast"}, ValueError, "'taps', 'jacobian', 'products'"),
    ({"batch": 0}, ValueError, "batch: 0"),
    ({"batch": 2, "per_sample": False}, ValueError, "per_sample"),
    ({"apply": lambda p, x: MLP.apply(p, x)[1:]}, ValueError, "batch axis first"),
    ({"apply": lambda p, x: (MLP.apply(p, x), {})}, TypeError, "tuple"),
    ({"apply": lambda p, x: MLP.apply(p, x) > 0}, TypeError, "bool"),
    ({"params": {"weights": 3}}, TypeError, "no floating leaf"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD)
def test_bad_input_is_refused(options, error, message):
    good = {"apply": MLP.apply, "params": initial(MLP), "x1": jnp.ones((5, 3))}
    with pytest.raises(error, match=message):
        empirical.ntk(**(good | options))


def test_what_does_not_fit_is_refused_with_its_size(monkeypatch):
    params = initial(MLP)
    x = jnp.ones((50, 3))
    monkeypatch.setattr("jaxdyn.kernels._matrices.memory", lambda: 15_000)
    with pytest.raises(ValueError, match=r"40,000 bytes of 15,000.*trace"):
        empirical.ntk(MLP.apply, params, x, trace=False)
    with pytest.raises(ValueError, match=r"bytes of 15,000; pass batch"):
        empirical.ntk(MLP.apply, params, x, method="taps")
    fits = functools.partial(empirical.ntk, MLP.apply, method="taps", batch=2)
    theta = jax.eval_shape(fits, params, x)
    assert theta.shape == (50, 50)


def test_other_functions_refuse_bad_input():
    params = initial(MLP)
    x = jnp.ones((5, 3))
    product = empirical.ntk_product(MLP.apply, params, x)
    with pytest.raises(ValueError, match=r"\(5, 3\).*\(5, 2\)"):
        product(jnp.ones((5, 3)))
    with pytest.raises(ValueError, match="num: 11; pass 1 to 10"):
        empirical.top_eigenpairs(MLP.apply, params, x, 11)
    with pytest.raises(ValueError, match="depth: 1 is below"):
        empirical.top_eigenpairs(MLP.apply, params, x, 2, depth=1)
    with pytest.raises(ValueError, match="degree: -1"):
        empirical.taylor(MLP.apply, params, -1)
