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
# # A first experiment
#
# A linear network with one hidden layer computes a matrix: the product of its two weight matrices.
# Even so it learns in steps, one *mode* after another, strongest first. We watch it do so, and then
# predict it.
#
# The whole library in one sentence: a learning system is a map or a flow; we observe it at chosen
# times, sweep it, and compare it with theory.

# %%
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr

import jaxdyn as jd
from jaxdyn import plot
from jaxdyn.models.linear import deep_linear, product
from jaxdyn.theory import linear

fast = os.environ.get("JAXDYN_FAST") == "1"  # small sizes, for tests

# %% [markdown]
# ## One run
#
# The network is to become the matrix `target`, whose three modes have strengths 3, 2 and 1. It
# starts from small random weights. `train` takes the gradient of the loss, any optimiser of optax,
# and a *stream* that gives the batch of each step (here always the target itself). It records what
# `observe` returns, at the steps you ask for.

# %%
strengths = jnp.array([3.0, 2.0, 1.0])
target = jnp.diag(strengths)
network = deep_linear((3, 8, 3), scale=1e-3)


def loss(weights, target):
    return 0.5 * jnp.sum((target - product(weights)) ** 2)


def observe(state):
    return {"strength": jnp.diagonal(product(state.params)), "loss": loss(state.params, target)}


weights = network.init(jax.random.key(0))


def always_target(key, step):
    return target


run = jd.train(
    jax.grad(loss),
    optax.sgd(0.05),
    always_target,
    weights,
    times=np.arange(0, 241, 60),
    observe=observe,
)
print("step     ", run.time)
print("strengths", run.observed["strength"], sep="\n")

# %% [markdown]
# ## A sweep
#
# An experiment is a function of a random key and numbers. `sweep` runs it for all combinations of
# the numbers and seeds in a few compiled programs, and puts names on the results. We record at the
# same *flow times*, that is learning rate times steps, so that different learning rates can be
# compared.

# %%
times = np.arange(0, 12.01, 0.2)
seeds = 4 if fast else 20


def descent(key, learning_rate):
    steps = jnp.round(times / learning_rate)
    options = {"times": steps, "observe": observe}
    run = jd.train(
        jax.grad(loss), optax.sgd(learning_rate), always_target, network.init(key), **options
    )
    return run._replace(time=times)


rates = [0.02, 0.05, 0.1]
descents = jd.sweep(descent, {"learning_rate": rates}, seeds=seeds, dims={"strength": "mode"})
print(descents)

# %%
axes = plot.curves(descents.loss, hue="learning_rate")

# %% [markdown]
# ## The flow
#
# As the learning rate goes to zero, descent follows the gradient flow, a differential equation.
# `flow` integrates it. How far descent is from the flow should be proportional to the learning
# rate: an exponent of 1.


# %%
def gradient_flow(key):
    return jd.flow(jax.grad(loss), target, network.init(key), times=times, observe=observe)


flows = jd.sweep(gradient_flow, seeds=seeds, dims={"strength": "mode"})
lag = jd.compare(descents, flows).strength_error
fit = jd.power_law(lag.learning_rate, lag.mean("mode"))
print(f"exponent {fit.exponent:.3f}, 95 % between {fit.low:.3f} and {fit.high:.3f}")

# %% [markdown]
# ## The theory
#
# Saxe, McClelland and Ganguli (2013) solved the flow. Each mode grows as a sigmoid, and all that a
# random start decides is the small strength from which it grows. The theory is a function of the
# same key, so it is swept in the same way.


# %%
def theory(key):
    start = linear.seed_strengths(*network.init(key), jnp.eye(3), jnp.eye(3))
    return {"strength": linear.mode_strength(times[:, None], strengths, start), "time": times}


predicted = jd.sweep(theory, seeds=seeds, dims={"strength": ("time", "mode"), "time": "time"})
axes = plot.modes(flows.strength, predicted.strength)

# %% [markdown]
# Points are the simulation (mean and standard error over seeds), lines are the theory. Now in numbers: the relative
# error of each learning curve, and the time at which each mode is half learned.

# %%
print("relative error:", jd.compare(flows, predicted).strength_error.values)
level = xr.DataArray(np.asarray(strengths) / 2, dims="mode")
for name, results in {"simulated": flows, "predicted": predicted}.items():
    print(f"half learned, {name}:", jd.crossing_time(results.strength, level).mean("seed").values)

# %% [markdown]
# The strongest mode comes first, and the theory knows when: to a part in a thousand, with nothing fitted.
#
# From here: put your own network and loss into `descent`; add axes to the sweep, or `store=` a long
# one on disk; read `jaxdyn.papers.linear.saxe2013`, where this experiment is one of many, each with a
# claim that is checked by machine.
