"""A deep linear network learns a tree of items, level by level, as its modes follow their sigmoids
one by one."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdyn import RK4, flow, losses, models, tasks
from jaxdyn.animations import Animation, canvas, growing
from jaxdyn.observables import combine, mode_strengths
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
    left, s, right = map(
        jnp.asarray, np.linalg.svd(np.asarray(moments.yx) / variance, full_matrices=False)
    )
    start = models.deep_linear((len(x), HIDDEN, y.shape[1]), scale=SCALE).init(jax.random.key(0))
    u0 = linear.seed_strengths(*start, left, right.T)
    times = np.linspace(
        0,
        float(1.25 * linear.time_of_strength(0.9 * s[-1], s[-1], u0.min()) / variance),
        FRAMES * EACH,
    )
    observe = combine(
        mode_strengths(models.product, left, right.T),
        lambda state: {"y": models.product(state.params)},
    )
    loss = losses.covariance_loss(models.product)
    rule = jax.grad(loss)
    options = {"times": times, "observe": observe, "solver": RK4(0.1)}
    run = jax.jit(lambda start: flow(rule, moments, start, **options))(start).observed
    theory = jax.vmap(lambda time: linear.mode_strength(variance * time, s, u0))(jnp.asarray(times))
    return times, run["y"], run["mode_strengths"], theory


def animation() -> Animation:
    """Draw the modes over their theory, and the features that the network ascribes to each item."""
    from jaxdyn.plot import COLOURS

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
        draws.append(
            growing(
                strengths, times, modes[:, mode], each=EACH, color=colour, linewidth=2, label=label
            )
        )
    xlim = (0, times[-1])
    ylim = (-0.1, 1.3 * modes.max())
    strengths.set(
        xlim=xlim,
        ylim=ylim,
        xlabel="flow time",
        ylabel="mode strength",
    )
    strengths.spines[["top", "right"]].set_visible(False)
    strengths.legend(loc="upper left", ncols=2, fontsize="small", frameon=False)
    image = items.imshow(y[0], vmin=0, vmax=1, cmap="Blues", aspect="auto", interpolation="nearest")
    for edge in np.cumsum(2 ** np.arange(LEVELS)) - 0.5:
        items.axhline(edge, color="0.6", linewidth=0.8)
    items.set(
        xticks=[],
        yticks=[],
        xlabel="items",
        ylabel="features, root to leaves",
        title="the network's outputs",
    )

    def draw(i):
        image.set_data(y[min(i * EACH, len(y) - 1)])
        for one in draws:
            one(i)

    return Animation(figure, draw, FRAMES)
