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
# # Exact solutions
#
# One task, seen four ways: gradient descent step by step, the gradient flow by an ODE solver, the
# exact solution on the data at hand, and the theory for infinitely many inputs, which never sees
# any data. Then the theory alone draws what no simulation would have time for: how well one
# generalises, for any number of samples and any time of training.

# %%
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr

import jaxdyn as jd
from jaxdyn import plot, tasks
from jaxdyn.theory.regression import equivalents, given_data, spectrum

fast = os.environ.get("JAXDYN_FAST") == "1"  # small sizes, for tests
jax.config.update("jax_enable_x64", True)

# %% [markdown]
# ## The task
#
# A teacher labels inputs of two scales: half of the features have variance 1, half 1/400, and the
# teacher cares for both alike. Labels are noisy. A linear student $w$ descends $|y - X w|^2 / 2n$.
# What we watch is its *excess error*, the squared error on new inputs without noise.

# %%
inputs = 60 if fast else 200
alpha = 1.5
noise = 0.2
samples = round(alpha * inputs)
half = inputs // 2
variances = [1.0, 1 / 400]
power = [0.5, 0.5 * 400]
times = np.round(np.geomspace(1, 1e4, 41), 1)


def draw(key):
    return tasks.regression(key, samples, variances, (half, half), power, noise=noise)


def watch(data):
    return lambda state: {
        "excess": given_data.excess_error(state.params, data.teacher, data.eigenvalues)
    }


def field(w, data):
    return data.x.T @ (data.x @ w - data.y) / samples


# %% [markdown]
# ## Three ways to follow it
#
# `descent` takes steps of size 0.1, recorded at the same flow times. `flow` integrates. `exact`
# knows that the flow of a linear model moves each singular direction of the data by itself: one
# decomposition gives all times at once.


# %%
def descent(key, rate=0.1, until=1e2):
    data = draw(key)
    early = times[times <= until]
    run = jd.train(
        field,
        optax.sgd(rate),
        tasks.full_batch(data),
        0 * data.teacher,
        times=np.round(early / rate),
        observe=watch(data),
    )
    return run._replace(time=early)


def flow(key, until=1e2):
    data = draw(key)
    return jd.flow(field, data, 0 * data.teacher, times=times[times <= until], observe=watch(data))


def exact(key):
    data = draw(key)
    weights = given_data.flow(times, data.x, data.y)
    return jd.Trajectory(
        times, {"excess": given_data.excess_error(weights, data.teacher, data.eigenvalues)}
    )


seeds = 4 if fast else 10
descents = jd.sweep(descent, seeds=seeds)
flows = jd.sweep(flow, seeds=seeds)
solved = jd.sweep(exact, seeds=seeds)
for name, runs in {"flow": flows, "descent": descents}.items():
    error = jd.compare(runs, solved.sel(time=runs.time)[["excess"]]).excess_error
    print(f"{name}: differs from the exact solution by {float(error):.1e}, relatively")

# %% [markdown]
# The solver agrees to its tolerance, descent to the order of its learning rate: the rest of this page does without
# both.
#
# ## A theory without data
#
# With many inputs the learning curve no longer depends on which samples were drawn. `spectrum.flow`
# computes it from the *population*: the variances, how many features have each, and how much of the
# teacher lies there.

# %%
population = equivalents.population(variances, [half, half], power)
theory = xr.DataArray(spectrum.flow(times, population, samples, noise).excess, {"time": times})
axes = plot.curves(solved.excess.rename("excess error"), theory, log="x", spread="std")
_ = axes.set_xlabel("flow time")

# %% [markdown]
# Points are means over data sets, bars their deviation, the line is the theory. The error falls, *rises* again while
# the fast features fit what the slow ones have not explained yet, and falls a second time: epoch-wise double descent.

# %%
deviation = (solved.excess.mean("seed") - theory) / solved.excess.std("seed", ddof=1) * seeds**0.5
print(
    f"largest deviation: {float(abs(deviation).max()):.1f} standard errors of the mean over {seeds} data sets"
)

# %% [markdown]
# ## All sample sizes and times at once
#
# Theory is a pure function, so `sweep` runs it like an experiment: here over the ratio of samples
# to inputs, all times in one call. White is the time at which to stop, where that is finite.

# %%
grid = np.geomspace(0.1, 1e4, 40 if fast else 120)
ratios = np.round(np.linspace(0.2, 3, 29 if fast else 85), 3)


def predicted(alpha):
    n = alpha * inputs
    stop, _ = spectrum.optimal_stopping(population, n, noise)
    errors = spectrum.flow(grid, population, n, noise)
    return {"excess": jnp.log10(errors.excess), "stop": stop, "time": grid}


diagram = jd.sweep(predicted, {"alpha": ratios}, dims={"excess": "time", "time": "time"})
diagram = diagram.assign_coords(time=("time", grid))
diagram.excess.attrs["long_name"] = "log10 of the excess error"
stop = diagram.stop.where(np.isfinite(diagram.stop) & (diagram.stop < grid[-1]))

# %%
axes = plot.phase_diagram(diagram.excess, x="alpha", y="time", boundary=stop, log="y")
_ = axes.set(xlabel="samples per input", ylabel="flow time")

# %% [markdown]
# With few samples one should stop as soon as the fast features are learned. From a critical ratio on it pays to wait
# for the slow ones: the best time jumps by more than three orders of magnitude. The bright ridge is where there are as
# many samples as fast features.
#
# From here: `jaxdyn.papers.regression.pezeshki2021` and `advani2017` are about these curves, `theory.spectrum`
# has descent, ridge regression and the best penalty too, and `theory.memorisation` what happens
# where labels are wrong.
