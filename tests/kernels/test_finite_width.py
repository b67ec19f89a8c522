"""Exact moments of the finite-width NTK: closed forms, and networks by the thousand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdyn import kernels
from jaxdyn.kernels import finite_width

ROWS = np.array([[1.0, 0.5, -0.3], [0.2, -1.0, 0.4], [2.0, 1.0, -0.6], [-1.0, -0.5, 0.3]])
W = 1.3
B = 0.4


def compiled(fn):
    """One program of small arrays, where compilation takes longest."""
    return jax.jit(fn, compiler_options={"xla_backend_optimization_level": 0})


def covariances(x):
    """Of the preactivations u and v of two rows: E u^2, E v^2 and E u v."""
    q = W**2 * x @ x.T / x.shape[1] + B**2
    own = np.diag(q)
    return own[:, None], own[None], q


# The mean of the NTK and the width times its variance, of the covariances.


def identity(q1, q2, q):
    mean = B**2 + 2 * W**2 * q
    variance = W**4 * (q1 * q2 + 3 * q**2)
    return mean, variance


def exponential(q1, q2, q):
    """exp is its own derivative, and its products are log-normal."""
    first = np.exp((q1 + q2) / 2 + q)
    second = np.exp(2 * (q1 + q2 + 2 * q))
    bracket = (1 + 2 * q) * (second - first**2) + q**2 * (3 * second - first**2)
    mean = B**2 + W**2 * first * (1 + q)
    return mean, W**4 * bracket


def square(q1, q2, q):
    """Moments of the pair to order eight by Isserlis' theorem."""
    product = q1 * q2 + 2 * q**2  # E u^2 v^2
    cubes = 9 * q1 * q2 * q + 6 * q**3  # E u^3 v^3
    fourth = 9 * q1**2 * q2**2 + 72 * q1 * q2 * q**2 + 24 * q**4  # E u^4 v^4
    values = fourth - product**2
    mixed = 8 * q * (cubes - product * q)
    slopes = 16 * q**2 * (3 * product - q**2)
    mean = B**2 + W**2 * (q1 * q2 + 6 * q**2)
    variance = W**4 * (values + mixed + slopes)
    return mean, variance


CLOSED = {
    "identity": (lambda z: z, identity),
    "exp": (lambda z: jnp.exp(z / 2) * jnp.exp(z / 2), exponential),
    "square": (lambda z: z**2, square),
}
PRECISIONS = [
    ("identity", True),
    ("exp", True),
    ("square", True),
    ("square", False),
]


@pytest.mark.parametrize(("name", "double"), PRECISIONS)
def test_smooth_closed_forms(name, double):
    fn, closed = CLOSED[name]
    precision = jnp.float64 if double else jnp.float32
    # Quadrature ends at finite points, beyond which exp must not matter.
    x = ROWS * (0.2 if name == "exp" else 1)

    @compiled
    def moments_of(x):
        return finite_width.one_hidden_layer(fn, 50, x, w_std=W, b_std=B)

    with jax.enable_x64(double):
        moments = moments_of(jnp.asarray(x, precision))
    mean, variance = closed(*covariances(x))
    assert moments.mean.dtype == moments.variance.dtype == precision
    rtol = 1e-12 if precision == jnp.float64 else 2e-4
    np.testing.assert_allclose(moments.mean, mean, rtol=rtol, atol=rtol)
    computed = 50 * np.asarray(moments.variance)
    np.testing.assert_allclose(computed, variance, rtol=rtol, atol=rtol * variance.max())


def test_rectifier_on_the_diagonal_and_two_lists_of_rows(x64):
    x = jnp.asarray(ROWS)
    relu = jax.nn.relu

    @compiled
    def moments_of(x1, x2, b):
        return finite_width.one_hidden_layer(relu, 7, x1, x2, w_std=W, b_std=b, kinks=(0.0,))

    moments = moments_of(x[:3], x[1:], B)
    _, _, covariance = covariances(ROWS)
    q = np.diagonal(covariance)[1:3]
    computed = np.diagonal(moments.mean, -1)
    expected = B**2 + W**2 * q
    np.testing.assert_allclose(computed, expected, rtol=1e-10)
    computed = np.diagonal(moments.variance, -1)
    expected = 3 * W**4 * q**2 / 7
    np.testing.assert_allclose(computed, expected, rtol=1e-10)
    # The same law as of depth one, without biases.
    moments_at_zero = moments_of(x[:3], x[1:], 0.0)
    relative = moments_at_zero.variance[1, 0] / moments_at_zero.mean[1, 0] ** 2
    expected = LAW(np.array([7.0]))
    np.testing.assert_allclose(relative, expected, rtol=1e-10)
    for values in moments:
        np.testing.assert_allclose(values[1, 1], values[2, 0], rtol=1e-12)
        assert abs(values[0, 1] / values[2, 0] - 1) > 0.1


def empirical(rng, width, x, samples):
    """Empirical NTKs (samples, n, n) of random tanh networks with one hidden layer, written out."""
    n_in = x.shape[1]
    inner = W**2 / n_in * x @ x.T + B**2
    weights = rng.standard_normal((samples, n_in, width))
    bias = rng.standard_normal((samples, 1, width))
    readout = rng.standard_normal((samples, 1, width))
    z = W / n_in**0.5 * x @ weights + B * bias
    h = np.tanh(z)
    passed = W / width**0.5 * readout / np.cosh(z) ** 2
    of_readout = W**2 / width * h @ h.transpose(0, 2, 1) + B**2
    of_hidden = inner * (passed @ passed.transpose(0, 2, 1))
    return of_readout + of_hidden


def sampled_z(values, exact):
    """By how many standard errors the mean of samples is off."""
    error = values.mean(0) - exact
    return error / values.std(0, ddof=1) * len(values) ** 0.5


TANH = compiled(lambda n, x: finite_width.one_hidden_layer(jnp.tanh, n, x, w_std=W, b_std=B))
LAW = compiled(finite_width.rectifier_relative_variance)


@pytest.mark.parametrize("width", [1, 5])
def test_moments_are_those_of_random_networks(width, x64):
    kernels = empirical(np.random.default_rng(0), width, ROWS, 10_000)
    moments = TANH(width, jnp.asarray(ROWS))
    mean, variance = map(np.asarray, moments)
    squares = (kernels - mean) ** 2
    assert np.abs(sampled_z(kernels, mean)).max() < 4
    assert np.abs(sampled_z(squares, variance)).max() < 4


def product_by_steps(widths, low, high):
    """E of the product of two terms over the squared mean: matrices of the open units, one layer
    after the other.

    For a product A of Gaussian matrices with A^T A = G, one more of m rows turns (tr G)^2 and tr
    G^2 into m^2 (tr G)^2 + 2 m tr G^2 and m (tr G)^2 + m (m + 1) tr G^2; m is binomial.
    """
    outside = widths[:low] + widths[high:]
    value = np.prod([1 + 5 / n for n in outside])
    state = np.array([1.0, 0.0])
    for n in widths[low:high]:
        m = n / 2
        square = n**2 / 4 + n / 4
        one_more = np.array([[square, 2 * m], [m, square + m]])
        state = one_more @ state / (n / 2) ** 2
    return value * state[0]


@pytest.mark.parametrize("widths", [(3,), (16, 8, 4, 2, 1), (1000,) * 12])
def test_depth_law_sums_the_products_of_terms(widths, precision):
    terms = range(len(widths) + 1)
    pairs = itertools.product(terms, terms)
    products = [product_by_steps(widths, min(pair), max(pair)) for pair in pairs]
    summed = np.mean(products) - 1
    law = LAW(np.asarray(widths, precision))
    assert law.dtype == precision
    rtol = 1e-12 if precision == jnp.float64 else 1e-5
    np.testing.assert_allclose(law, summed, rtol=rtol)


@pytest.mark.parametrize("depth", [1, 3, 8])
def test_depth_law_at_large_width(depth, x64):
    def law(n):
        return n * LAW(np.full(depth, n))

    leading = 5 * depth - 4 * depth * (depth + 2) / (3 * (depth + 1))
    error = abs(law(1e4) - leading)
    at_double_width = abs(law(2e4) - leading)
    assert error < 13 * depth**2 / 1e4
    np.testing.assert_allclose(law(1e9), leading, rtol=1e-6)
    if depth > 1:
        np.testing.assert_allclose(error / at_double_width, 2, rtol=0.01)


def test_transformations(x64):
    x = jnp.asarray(ROWS[:2])

    def variance(w, n):
        moments = finite_width.one_hidden_layer(jnp.tanh, n, x, w_std=w, b_std=B, nodes=32)
        return moments.variance

    def total(w, n):
        return jnp.sum(variance(w, n))

    scales = np.array([W - 1e-5, W, W + 1e-5, W])
    widths = np.array([5.0, 5.0, 5.0, 50.0])
    total_and_slope = compiled(jax.vmap(jax.value_and_grad(total)))
    value, slope = total_and_slope(scales, widths)
    expected = (value[2] - value[0]) / 2e-5
    np.testing.assert_allclose(slope[1], expected, rtol=1e-6)
    np.testing.assert_allclose(value[1], 10 * value[3], rtol=1e-12)
    law = compiled(jax.vmap(finite_width.rectifier_relative_variance))
    narrow_and_wide = np.array([[5.0] * 3, [50.0] * 3])
    computed = law(narrow_and_wide)[0]
    expected = LAW(np.array([5.0] * 3))
    np.testing.assert_allclose(computed, expected, rtol=1e-12)


def test_bad_input():
    x = jnp.ones((2, 3))
    with pytest.raises(ValueError, match="rows of one length"):
        finite_width.one_hidden_layer(jnp.tanh, 5, x, jnp.ones((2, 4)))
    with pytest.raises(ValueError, match="width: 0"):
        finite_width.one_hidden_layer(jnp.tanh, 0, x)
    with pytest.raises(ValueError, match="widths"):
        finite_width.rectifier_relative_variance([4.0, -1.0])


def test_one_program_has_networks_of_any_width_and_depth(x64):
    relu = jax.nn.relu
    x = jnp.asarray(ROWS)
    network = finite_width.network(relu, 3, most=(3, 5), b_std=B)
    params, more = finite_width.draw(jax.random.key(0), network, (3,), 2)
    assert more.shape == (2,)
    large = finite_width.network(relu, 3.0, 2, most=(3, 5), w_std=W, b_std=B)
    hidden = [kernels.dense(3, W, B), kernels.relu()] * 2
    small = kernels.serial(*hidden, kernels.dense(1, W, B))

    def cut(layer, n_in, n_out):
        return {"weights": layer["weights"][:n_in, :n_out], "bias": layer["bias"][:n_out]}

    own = [cut(params[0], 3, 3), (), cut(params[1], 3, 3), (), cut(params[3], 3, 1)]

    def outputs_and_ntk(net, params):
        def first_output(p):
            return net.apply(p, x)[:, 0]

        outputs = net.apply(params, x)
        jacobian = jax.jacrev(first_output)(params)
        rows = [leaf.reshape(4, -1) for leaf in jax.tree.leaves(jacobian)]
        return outputs, sum(row @ row.T for row in rows)

    @compiled
    def both(params, own):
        return outputs_and_ntk(large, params), outputs_and_ntk(small, own)

    (outputs, ntk), (expected, expected_ntk) = both(params, own)
    np.testing.assert_allclose(outputs, expected, rtol=1e-12)
    np.testing.assert_allclose(ntk, expected_ntk, rtol=1e-12)
    without_kernel = finite_width.network(relu, 3, most=(3, 5))
    with pytest.raises(ValueError, match="in the limit"):
        kernels.gram(without_kernel, x)
