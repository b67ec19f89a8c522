"""The expected test error: against samples of the Gaussian process, trained step by step."""

import functools

import jax.numpy as jnp
import numpy as np

from jaxdyn import kernels
from jaxdyn.kernels import early_stopping

SAMPLES = 20_000


def test_risk_is_that_of_sampled_processes(x64):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((9, 3)))
    rng = np.random.default_rng(1)
    layer = kernels.serial(kernels.dense(1, 1.3, 0.4), kernels.erf(), kernels.dense(1, 1.3, 0.4))
    both = kernels.gram(layer, x, get=("nngp", "ntk"))
    nngp = both["nngp"]
    ntk = both["ntk"]
    target = np.sin(np.asarray(x[:, 0]))
    steps = np.array([0, 3, 40])
    noise = 0.3
    n = 5  # examples to learn from; the others are the test
    tests = dict(ntk_test=ntk[n:, :n], nngp_test=nngp[n:, :n], nngp_test_test=nngp[n:, n:])
    response = functools.partial(early_stopping.response, learning_rate=0.4, **tests)
    learned = response(ntk[:n, :n], nngp[:n, :n], target[:n], steps)
    terms = early_stopping.risk(learned, target[n:], noise**2)
    exact = np.sum(terms, 0)

    f = rng.multivariate_normal(np.zeros(9), nngp, SAMPLES, method="eigh")
    y = target[:n] + noise * rng.standard_normal((SAMPLES, n))
    rows = np.asarray(ntk)[:n]
    errors = []
    for step in range(steps[-1] + 1):
        if step in steps:
            squared = (f[:, n:] - target[n:]) ** 2
            errors.append(np.mean(squared, 1))
        f = f - 0.4 / n * (f[:, :n] - y) @ rows
    errors = np.stack(errors, 1)
    fluctuation = errors.std(0) / len(errors) ** 0.5
    z = (errors.mean(0) - exact) / fluctuation
    assert np.abs(z).max() < 4
