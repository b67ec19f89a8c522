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
# # From saddle to saddle, and to the edge
#
# A network that starts from small weights learns in stages: the loss stays where it is for a long
# time, falls, stays again. Each pause is next to a saddle, at which the network computes what a
# narrower one could. Here you take a network of your own, made with flax, find the saddles on its
# way, and see how wide it acts at each. Then you train it at a large learning rate, to where
# gradient descent is no longer stable, and let its *central flow* tell how it goes on from there.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import linen

import jaxdyn as jd
from jaxdyn import analysis, losses, models, observables, optimizers, plot, tasks
from jaxdyn.theory import saddles
from jaxdyn.theory.descent import central_flow

fast = os.environ.get("JAXDYN_FAST") == "1"  # small sizes, for tests
jax.config.update(
    "jax_enable_x64", True
)  # losses near saddles differ by the fourth power of small weights


# %% [markdown]
# ## Your network, from small weights
#
# Any flax module will do. This one has tanh units; the task is a sum of three directions of falling
# strength. All that makes it start small is the scale of its initial weights.


# %%
class Net(linen.Module):
    width: int
    scale: float

    @linen.compact
    def __call__(self, x):
        small = linen.initializers.normal(self.scale)

        def dense(size):
            return linen.Dense(size, use_bias=False, kernel_init=small, param_dtype=float)

        hidden = jnp.tanh(dense(self.width)(x))
        return dense(3)(hidden)


x = jax.random.normal(jax.random.key(0), (200, 6), float)
x = jnp.linalg.qr(x)[0] * len(x) ** 0.5  # of unit covariance
strengths = np.array([0.3, 0.1, 0.03])
y = x[:, :3] * strengths

net = models.from_linen(Net(width=10, scale=1e-4), x[:1])
start = net.init(jax.random.key(1))
loss = losses.squared_error(net.apply)
print(
    f"loss at the start {loss(start, (x, y)):.5f}, of outputs of zero {np.sum(strengths**2) / 2:.5f}"
)

# %% [markdown]
# ## Its saddles
#
# `snapshot` records the loss, the norm of the gradient and the parameters. `saddle_table` turns the run into a table:
# where the gradient's norm dips, it looks for the critical point next to the run and counts its falling directions (the
# *index*). You say what the rows of units are, and it counts how many units and directions are at work.

# %%
times = np.linspace(0, 400, 401 if fast else 1001)
run = jax.jit(
    lambda start: jd.flow(
        jax.grad(loss), (x, y), start, times=times, observe=observables.snapshot(loss, (x, y))
    )
)(start)


def units(params):
    layers = params["params"]
    return jnp.concatenate([layers["Dense_0"]["kernel"].T, layers["Dense_1"]["kernel"]], axis=1)


table = analysis.saddle_table(run, loss, (x, y), like=start, units=units)
table.to_dataframe().round(4)

# %% [markdown]
# ## What theory says of it
#
# As long as their inputs are small tanh units are linear ones, and of those theory knows the losses
# at the plateaus, and when the loss falls from one to the next: from the weights it has started
# with, mode by mode.

# %%
layers = start["params"]
first = layers["Dense_0"]["kernel"].T
second = layers["Dense_1"]["kernel"].T
s = jnp.asarray(strengths)
seeds = jd.theory.linear.seed_strengths(first, second, jnp.eye(3), jnp.eye(6, 3))
levels = saddles.linear_plateaus(s)
drops = saddles.drop_times(s, seeds)

axes = plot.saddles(run, table, levels=levels, drops=drops)
_ = axes.set(xlabel="flow time", yscale="log", ylim=(1e-4, 0.1))

# %% [markdown]
# ## The edge of stability
#
# Now the same kind of network, of ordinary weights, at a learning rate of your choice. Gradient
# descent is stable where the *sharpness*, the largest eigenvalue of the Hessian, is below 2 /
# learning rate. Training makes it rise until there: then it stops rising, and the loss falls on
# while the weights oscillate.

# %%
rate = 0.4
steps = 300 if fast else 1000
x2 = jax.random.normal(jax.random.key(2), (48, 4), float)
y2 = jax.random.normal(jax.random.key(3), (48, 3), float)
wide = models.from_linen(Net(width=12, scale=0.7), x2[:1])
begin = wide.init(jax.random.key(4))
batch = (x2, y2)
error = losses.squared_error(wide.apply)

descent_observe = observables.combine(
    observables.loss(error, batch),
    jd.at(np.arange(0, steps + 1, 10), observables.sharpness(error, batch, depth=24)),
)
optimizer = optax.chain(optax.sgd(rate), optimizers.kicks(jax.random.key(5), 1e-4))


def train(begin):
    return jd.train(
        jax.grad(error),
        optimizer,
        tasks.full_batch(batch),
        begin,
        times=np.arange(steps + 1),
        observe=descent_observe,
    )


descent = jax.jit(train)(begin)

# %% [markdown]
# ## Its central flow
#
# The central flow is a smooth course of which descent is the oscillation: it holds the eigenvalues
# at the edge by a covariance of the weights, and predicts the time average of the loss. `enough`
# would be False had there been more eigenvalues at the edge than the flow has followed.

# %%
flow = central_flow.central_flow(error, batch, central_flow.gradient_descent(rate), top=4)
predict = central_flow.averages(error, batch)
central = jax.jit(
    lambda begin: jd.iterate(
        flow.step, flow.init(begin), times=np.arange(0, steps + 1, 10), observe=predict
    )
)(begin)
assert central.observed["enough"].all()

with plot.style():
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
left.plot(
    descent.time[::10],
    descent.observed["sharpness"][::10],
    ".",
    color=plot.COLOURS[0],
    label="descent",
)
left.plot(
    central.time,
    central.observed["eigenvalues"][:, 0] / rate,
    color=plot.COLOURS[1],
    label="central flow",
)
left.axhline(2 / rate, color="0.6", linewidth=0.8, zorder=0)
left.set(xlabel="step", ylabel="sharpness")
right.plot(
    descent.time, descent.observed["loss"], color=plot.COLOURS[0], linewidth=0.5, label="descent"
)
right.plot(
    central.time, central.observed["loss"], color=plot.COLOURS[1], label="predicted time average"
)
right.set(xlabel="step", ylabel="loss", yscale="log")
_ = left.legend(), right.legend()

# %% [markdown]
# Change the width, the activation, the strengths; start from larger weights and watch the staircase wash out. Raise
# the learning rate until the flow no longer holds: where descent leaps far from its course, an average cannot follow.
