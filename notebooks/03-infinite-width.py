# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Infinite width
#
# A very wide network, trained by gradient descent, is linear in its parameters: a kernel, the
# *neural tangent kernel* (NTK), says what it will have learned after any number of steps. Here is
# the kernel of an architecture, what it predicts for training, networks of growing width beside it,
# and what the kernel's spectrum says about learning.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import jaxdyn as jd
from jaxdyn import kernels, losses, models, plot, tasks

fast = os.environ.get("JAXDYN_FAST") == "1"  # small sizes, for tests


# %% [markdown]
# ## The kernel of an architecture in three lines
#
# A layer is three functions: `init`, `apply`, and `kernel`, its limit of infinite width. `gram`
# gives the matrix, here for points on a circle: the NTK of two inputs depends on the angle between
# them alone, and the more so the deeper.


# %%
def network(width, depth=2, outputs=1):
    hidden = [kernels.dense(width, 2**0.5, 0.1), kernels.relu()]
    return kernels.serial(*hidden * depth, kernels.dense(outputs))


angles = np.linspace(-np.pi, np.pi, 97)
circle = jnp.stack([jnp.cos(angles), jnp.sin(angles)], 1)

with plot.style():
    fig, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
for depth in (1, 2, 4, 8):
    ntk = kernels.gram(network(1, depth), circle[48:49], circle)[0]
    axes.plot(angles, ntk / ntk.max(), label=depth)
    print(
        f"{depth} hidden layers: the NTK of opposite inputs is {ntk[0] / ntk.max():.2f} of that of equal ones"
    )
axes.set(
    xlabel="angle between the inputs (rad)",
    ylabel="NTK, relative to its maximum",
    xlim=(-np.pi, np.pi),
)
_ = axes.legend(frameon=False)
# %% [markdown]
# ## Training, predicted
#
# Sixteen noisy examples of a function on the circle. `predict.ensemble` gives mean and covariance,
# over random initialisations, of what networks have learned after so many steps; its inputs are two
# kernels: the NTK, which drives the learning, and the NNGP kernel, the covariance of networks
# before it.

# %%
key = jax.random.key(0)
at = jnp.sort(jax.random.uniform(key, (16,), minval=-np.pi, maxval=np.pi))
x = jnp.stack([jnp.cos(at), jnp.sin(at)], 1)
y = jnp.sin(2 * at) + 0.5 * jnp.cos(3 * at) + 0.1 * jax.random.normal(key, at.shape)

wide = network(1)
train, test, prior = (
    kernels.gram(wide, *pair, get=("ntk", "nngp")) for pair in ((x,), (circle, x), (circle,))
)
learning_rate = 0.5 * float(kernels.predict.max_learning_rate(train["ntk"]))
steps = np.array([0, 5, 30, 200])


def theory(*, covariance=True):
    return kernels.predict.ensemble(
        train["ntk"],
        train["nngp"],
        y,
        steps,
        learning_rate=learning_rate,
        covariance=covariance,
        ntk_test=test["ntk"],
        nngp_test=test["nngp"],
        nngp_test_test=prior["nngp"],
    )


# %% [markdown]
# ## Training, simulated
#
# The same layers with a finite width are networks. `sweep` trains many from random starts, one
# program for each width, and keeps what they answer on the whole circle.


# %%
def simulate(key, *, width):
    model = models.from_layers(network(width), (2,))
    params = model.init(key)
    field = jax.grad(losses.squared_error(lambda p, x: model.apply(p, x)[:, 0]))

    def observe(state):
        return {"output": model.apply(state.params, circle)[:, 0]}

    stream = tasks.full_batch((x, y))
    return jd.train(field, optax.sgd(learning_rate), stream, params, times=steps, observe=observe)


widths = (32, 64, 128) if fast else (32, 128, 512, 2048, 4096)
nets = jd.sweep(simulate, static={"width": widths}, seeds=6, dims={"output": "angle"})

mean, covariance = theory()
spread = np.sqrt(np.maximum(np.diagonal(covariance, axis1=1, axis2=2), 0))
with plot.style():
    fig, panels = plt.subplots(1, len(steps), figsize=(11, 2.8), sharey=True, layout="constrained")
for i, (axes, step) in enumerate(zip(panels, steps, strict=True)):
    axes.fill_between(angles, mean[i] - 2 * spread[i], mean[i] + 2 * spread[i], alpha=0.3, lw=0)
    axes.plot(angles, mean[i], color="C0", label="theory, mean and two standard deviations")
    axes.plot(angles, nets.output.sel(width=widths[-1]).isel(time=i).T, color="0.3", lw=0.6)
    axes.plot(at, y, "k.", ms=5)
    axes.set(title=f"{step} steps", xlabel="angle (rad)", xlim=(-np.pi, np.pi))
panels[0].set_ylabel(f"output, width {widths[-1]}")
_ = panels[0].legend(frameon=False, fontsize=7, loc="upper left")

# %% [markdown]
# ## How wide is wide?
#
# Each finite network starts somewhere and has a kernel of its own, so compare it with the
# prediction from *its* start and *the* kernel. What is left falls as $1/\sqrt{n}$: the random
# kernel at initialisation; its movement during training is smaller, of order $1/n$.


# %%
def deviation(key, *, width):
    """How far a network's kernel and its outputs are from those of infinite width, relative to
    their size."""
    model = models.from_layers(network(width), (2,))
    params = model.init(key)
    own = kernels.empirical.ntk(model.apply, params, x)
    start, start_test = (model.apply(params, points)[:, 0] for points in (x, circle))
    predicted = kernels.predict.descent(
        train["ntk"],
        y,
        steps,
        learning_rate,
        ntk_test=test["ntk"],
        start=start,
        start_test=start_test,
    )
    trained = simulate(key, width=width).observed["output"]

    def size(v):
        return jnp.sqrt(jnp.mean(v**2))

    return {
        "kernel": size(own - train["ntk"]) / size(train["ntk"]),
        "output": size(trained[-1] - predicted.test[-1]) / size(predicted.test[-1]),
    }


off = jd.sweep(deviation, static={"width": widths}, seeds=6).mean("seed")
with plot.style():
    fig, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
for name, label in {"kernel": "NTK at initialisation", "output": "outputs after training"}.items():
    axes.loglog(widths, off[name], "o", label=label)
axes.loglog(widths, 3 / np.sqrt(widths), "k-", lw=1, label=r"$\propto n^{-1/2}$")
axes.set(xlabel="width n", ylabel="deviation from infinite width (relative)")
axes.legend(frameon=False)
print(
    "slopes:",
    {
        name: round(jd.power_law(np.array(widths), off[name].values)[0], 2)
        for name in ("kernel", "output")
    },
)

# %% [markdown]
# ## Spectrum and learning curve
#
# An eigenfunction of the kernel with eigenvalue $\lambda$ is learned at the rate $\lambda / n$:
# smooth functions first, noise last. So the expected error has a minimum in time, and the kernel
# knows where.

# %%
modes = kernels.predict.modes(train["ntk"])
late = np.unique(np.round(np.geomspace(1, 1e5, 60)))
mean, _ = kernels.predict.ensemble(
    modes,
    train["nngp"],
    y,
    late,
    learning_rate=learning_rate,
    covariance=False,
    ntk_test=test["ntk"],
    nngp_test=test["nngp"],
    nngp_test_test=prior["nngp"],
)
truth = np.sin(2 * angles) + 0.5 * np.cos(3 * angles)
with plot.style():
    fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
left.semilogy(np.arange(1, 17), modes.values[::-1], "o")
left.set(xlabel="mode", ylabel="eigenvalue of the NTK on the data")
right.loglog(
    late, np.mean((np.asarray(mean) - truth) ** 2, -1), label="on the circle, without noise"
)
fit = kernels.predict.descent(modes, y, late, learning_rate).train
right.loglog(
    late, np.mean((np.asarray(fit) - np.asarray(y)) ** 2, -1), "--", label="on the examples"
)
right.set(xlabel="time (steps)", ylabel="mean squared error", ylim=(1e-4, None))
_ = right.legend(frameon=False)
# %% [markdown]
# ## Your own model
#
# `empirical.ntk` takes any pure `apply(params, x)`, flax models too; `spectrum` gives the leading
# eigenvalues without forming the matrix. Its limit is the kernel of layers in the same ("standard")
# parametrisation; tanh has no closed form, so `elementwise` integrates.

# %%
mine = models.mlp((2, 256, 256, 1))
start = mine.init(jax.random.key(3))
values, _ = kernels.empirical.top_eigenpairs(mine.apply, start, x, 5)
print("leading eigenvalues:", np.round(values, 1))
layer = kernels.dense(256, parametrization="standard")
tanh = kernels.elementwise(jnp.tanh)
limit = kernels.gram(kernels.serial(layer, tanh, layer, tanh, layer), x)
print("infinite width     :", np.round(np.linalg.eigvalsh(limit)[::-1][:5], 1))
