"""Gradient descent at its edge of stability, around its central flow, in a valley of two parameters
that sharpens."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdyn import iterate, train
from jaxdyn.analysis import box_average
from jaxdyn.animations import Animation, canvas, growing
from jaxdyn.optimizers import kicks
from jaxdyn.plot import COLOURS
from jaxdyn.tasks import full_batch
from jaxdyn.theory.descent import central_flow

__all__ = ["animation"]

FRAMES = 90
EACH = 5  # steps a frame
RATE = 0.5
END = 2.6
PULL = 0.012
KICK = 0.01
START = (0.0, 0.5)
TAIL = 10
WINDOW = 60


def loss(params, _=()):
    """A curved valley that is the sharper, the further one follows it to its end."""
    x, y = params
    return (2 + 1.2 * x) * (y - 0.25 * jnp.sin(1.8 * x)) ** 2 / 2 + PULL * (x - END) ** 2 / 2


def edge(params):
    """The largest eigenvalue of the Hessian, in units of 2/rate."""
    return jnp.linalg.eigvalsh(jax.hessian(loss)(params))[-1] * RATE / 2


def courses():
    """Return what descent, its central flow and its gradient flow pass, step by step."""
    start = jnp.array(START)
    steps = np.arange(FRAMES * EACH)
    method = central_flow.gradient_descent(RATE)

    def see(params):
        return {"place": params, "edge": edge(params), "loss": loss(params)}

    def observe(state):
        return see(state.params)

    field = jax.grad(loss)
    optimizer = optax.chain(optax.sgd(RATE), kicks(jax.random.key(0), KICK))
    stream = full_batch(())
    descent = train(field, optimizer, stream, start, times=steps, observe=observe).observed
    central = central_flow.central_flow(loss, (), method, top=1)
    average = central_flow.averages(loss, ())

    def observe_central(state):
        extra = {"mean": average(state)["loss"], "root": state.memory.roots[0]}
        return see(state.params) | extra

    begin = central.init(start)
    flow = iterate(central.step, begin, times=steps, observe=observe_central).observed

    # Descent at a sixteenth of the rate is close to the flow.
    def small(_, params):
        return params - RATE / 16 * jax.grad(loss)(params)

    def step(key, state):
        return state._replace(params=jax.lax.fori_loop(0, 16, small, state.params))

    stable = iterate(step, start, times=steps, observe=observe).observed
    return descent | {"mean": box_average(descent["loss"], WINDOW)}, flow, stable


def animation() -> Animation:
    """Draw the three courses in the landscape, and their sharpness and losses."""
    with jax.enable_x64(True):
        descent, central, stable = jax.tree.map(np.asarray, jax.jit(courses)())
    figure = canvas(6.4, 3.5)
    grid = figure.add_gridspec(2, 2, width_ratios=(1.5, 1))
    valley = figure.add_subplot(grid[:, 0])
    sharpness = figure.add_subplot(grid[0, 1])
    losses = figure.add_subplot(grid[1, 1])
    draw_landscape(valley)
    draws = draw_places(valley, descent, central, stable)
    steps = np.arange(len(descent["edge"]))
    descent_style = {"color": COLOURS[0], "linewidth": 0.5, "alpha": 0.6}
    stable_style = {"color": "black", "linestyle": "--", "linewidth": 1}
    central_style = {"color": COLOURS[1], "linewidth": 2}
    for axes, name, averaged in ((sharpness, "edge", "edge"), (losses, "loss", "mean")):
        draws += [
            growing(axes, steps, descent[name], each=EACH, **descent_style),
            growing(axes, steps, stable[name], each=EACH, **stable_style),
            growing(axes, steps, central[averaged], each=EACH, **central_style),
        ]
        axes.set_xlim(0, len(steps))
        axes.spines[["top", "right"]].set_visible(False)
    average_style = {"color": COLOURS[0], "linewidth": 1.6, "label": "averaged"}
    draws.append(growing(losses, steps, descent["mean"], each=EACH, **average_style))
    sharpness.axhline(1, color="0.7", linewidth=0.8, zorder=0)
    sharpness.set(ylabel="sharpness / (2/rate)", ylim=(0.4, 1.5), xticklabels=[])
    losses.set(xlabel="step", ylabel="loss", yscale="log", ylim=(5e-3, 0.5))
    losses.legend(loc="upper left", fontsize="small", frameon=False)

    def draw(i):
        for one in draws:
            one(i)

    return Animation(figure, draw, FRAMES)


def draw_landscape(axes):
    """Draw the contours of the loss, and where it is too sharp for the rate of descent."""
    x = np.linspace(-0.25, 2.8, 121)
    y = np.linspace(-0.62, 0.75, 61)
    with jax.enable_x64(True):
        points = jnp.stack(jnp.meshgrid(x, y), -1).reshape(-1, 2)
        heights = np.asarray(jax.vmap(loss)(points)).reshape(61, 121)
        sharpness = np.asarray(jax.vmap(edge)(points)).reshape(61, 121)
    levels = np.geomspace(2e-3, 2, 12)
    axes.contour(x, y, heights, levels, colors="0.75", linewidths=0.7)
    axes.contourf(x, y, sharpness, [1, 99], colors=[COLOURS[1]], alpha=0.1)
    corner = {"transform": axes.transAxes, "ha": "right", "va": "top"}
    axes.text(0.97, 0.96, "too sharp for this rate", color="0.35", **corner)
    axes.set(xticks=[], yticks=[], xlim=x[[0, -1]], ylim=y[[0, -1]])


def draw_places(axes, descent, central, stable):
    """Draw where the three are: descent with its last steps, the central flow with its spread."""
    descent_style = {"color": COLOURS[0], "linewidth": 0.8, "label": "gradient descent"}
    (tail,) = axes.plot([], [], ".-", markersize=5, **descent_style)
    spread_style = {"linewidth": 3, "alpha": 0.6, "solid_capstyle": "round"}
    (spread,) = axes.plot([], [], "-", color=COLOURS[1], **spread_style)
    stable_style = {"color": "black", "linestyle": "--", "linewidth": 1}
    central_style = {"color": COLOURS[1], "linewidth": 2}
    flow = growing(axes, *stable["place"].T, each=EACH, label="gradient flow", **stable_style)
    centre = growing(axes, *central["place"].T, each=EACH, label="central flow", **central_style)
    axes.legend(loc="lower left", fontsize="small", framealpha=0.8, edgecolor="none")

    def draw(i):
        last = min(i * EACH, len(descent["place"]) - 1)
        first = max(0, last - TAIL)
        tail.set_data(*descent["place"][first : last + 1].T)
        middle = central["place"][last][:, None]
        to_both_sides = np.outer(central["root"][last], [-1, 1])
        spread.set_data(*(middle + to_both_sides))

    return [draw, flow, centre]
