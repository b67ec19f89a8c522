"""The expected test error: against samples of the Gaussian process, trained step by step."""

import jax.numpy as jnp
import numpy as np

from jaxdyn import kernels
from jaxdyn.kernels import early_stopping


def test_risk_is_that_of_sampled_processes(x64):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((9, 3)))
    rng = np.random.default_rng(1)
    layer = kernels.serial(kernels.dense(1, 1.3, 0.4), kernels.erf(), kernels.dense(1, 1.3, 0.4))
    nngp, ntk = kernels.gram(layer, x, get=("nngp", "ntk")).values()
    target = np.sin(np.asarray(x[:, 0]))
    steps = np.array([0, 3, 40])
    noise = 0.3
    n = 5
    tests = dict(
        ntk_test=ntk[n:, :n], nngp_test=nngp[n:, :n], nngp_test_test=nngp[n:, n:], learning_rate=0.4
    )
    learned = early_stopping.response(ntk[:n, :n], nngp[:n, :n], target[:n], steps, **tests)
    exact = np.sum(early_stopping.risk(learned, target[n:], noise**2), 0)
    f = rng.multivariate_normal(np.zeros(9), nngp, 20_000, method="eigh")
    y = target[:n] + noise * rng.standard_normal((20_000, n))
    errors = []
    for step in range(steps[-1] + 1):
        if step in steps:
            errors.append(np.mean((f[:, n:] - target[n:]) ** 2, 1))
        f = f - 0.4 / n * (f[:, :n] - y) @ np.asarray(ntk)[:n]
    errors = np.stack(errors, 1)
    assert np.abs((errors.mean(0) - exact) / errors.std(0) * len(errors) ** 0.5).max() < 4
