"""A deep linear network learns a tree of items, level by level, as its modes follow their sigmoids
one by one."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdyn import RK4, flow, losses, models, tasks
from jaxdyn.animations import Animation, canvas, growing
from jaxdyn.observables import combine, mode_strengths
from jaxdyn.plot import COLOURS
from jaxdyn.theory import linear

__all__ = ["animation"]

FRAMES = 90
EACH = 4
LEVELS = 3
HIDDEN = 32
SCALE = 1e-3


def course():
    """Return times, what the network computes, the strengths of its modes, and these in theory."""
    x, y = tasks.binary_tree(LEVELS)
    moments = tasks.covariances(x, y)
    variance = 1 / len(x)
    correlation = np.asarray(moments.yx) / variance
    left, s, right = map(jnp.asarray, np.linalg.svd(correlation, full_matrices=False))
    network = models.deep_linear((len(x), HIDDEN, y.shape[1]), scale=SCALE)
    first, last = network.init(jax.random.key(0))
    seeds = linear.seed_strengths(first, last, left, right.T)
    slowest = linear.time_of_strength(0.9 * s[-1], s[-1], seeds.min()) / variance
    times = np.linspace(0, float(1.25 * slowest), FRAMES * EACH)
    field = jax.grad(losses.covariance_loss(models.product))
    solver = RK4(0.1)

    def outputs(state):
        return {"y": models.product(state.params)}

    observe = combine(mode_strengths(models.product, left, right.T), outputs)

    @jax.jit
    def learn(start):
        return flow(field, moments, start, times=times, observe=observe, solver=solver).observed

    def strengths(time):
        return linear.mode_strength(variance * time, s, seeds)

    run = learn([first, last])
    theory = jax.vmap(strengths)(jnp.asarray(times))
    return times, run["y"], run["mode_strengths"], theory


def animation() -> Animation:
    """Draw the modes over their theory, and the features that the network ascribes to each item."""
    with jax.enable_x64(True):
        times, y, modes, theory = map(np.asarray, course())
    figure = canvas(6.4, 3.4)
    grid = figure.add_gridspec(1, 2, width_ratios=(1.5, 1))
    strengths = figure.add_subplot(grid[0])
    items = figure.add_subplot(grid[1])
    # The root and the levels of the tree, each of twice as many modes as the one above it.
    level = np.r_[0, np.repeat(np.arange(1, LEVELS + 1), 2 ** np.arange(LEVELS))]
    words = ["what all items share", *(f"splits of level {i}" for i in range(1, LEVELS + 1))]
    draws = []
    for mode, colour in enumerate(COLOURS[i] for i in level):
        label = words[level[mode]] if mode == 0 or level[mode] > level[mode - 1] else None
        strengths.plot(times, theory[:, mode], color=colour, alpha=0.35, linewidth=1, label=None)
        style = {"color": colour, "linewidth": 2, "label": label}
        draws.append(growing(strengths, times, modes[:, mode], each=EACH, **style))
    strengths.set_xlim(0, times[-1])
    strengths.set_ylim(-0.1, 1.3 * modes.max())
    strengths.set(xlabel="flow time", ylabel="mode strength")
    strengths.spines[["top", "right"]].set_visible(False)
    strengths.legend(loc="upper left", ncols=2, fontsize="small", frameon=False)
    shades = {"vmin": 0, "vmax": 1, "cmap": "Blues", "interpolation": "nearest"}
    image = items.imshow(y[0], aspect="auto", **shades)
    for edge in np.cumsum(2 ** np.arange(LEVELS)) - 0.5:
        items.axhline(edge, color="0.6", linewidth=0.8)
    items.set_title("the network's outputs")
    items.set(xticks=[], yticks=[], xlabel="items", ylabel="features, root to leaves")

    def draw(i):
        image.set_data(y[min(i * EACH, len(y) - 1)])
        for one in draws:
            one(i)

    return Animation(figure, draw, FRAMES)
