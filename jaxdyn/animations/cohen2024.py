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

    times = {"times": steps}
    rule = optax.chain(optax.sgd(RATE), kicks(jax.random.key(0), KICK))
    descent = train(jax.grad(loss), rule, full_batch(()), start, observe=observe, **times).observed
    central = central_flow.central_flow(loss, (), method, top=1)
    predicted = central_flow.averages(loss, ())

    def observe_central(state):
        return see(state.params) | {"mean": predicted(state)["loss"], "root": state.memory.roots[0]}

    flow = iterate(central.step, central.init(start), observe=observe_central, **times).observed

    # Descent at a sixteenth of the rate is close to the flow.
    def small(_, params):
        return params - RATE / 16 * jax.grad(loss)(params)

    def step(key, state):
        return state._replace(params=jax.lax.fori_loop(0, 16, small, state.params))

    stable = iterate(step, start, observe=observe, **times).observed
    return descent | {"mean": box_average(descent["loss"], WINDOW)}, flow, stable


def animation() -> Animation:
    """Draw the three courses in the landscape, and their sharpness and losses."""
    from jaxdyn.plot import COLOURS

    with jax.enable_x64(True):
        descent, central, stable = jax.tree.map(np.asarray, jax.jit(courses)())
        x = np.linspace(-0.25, 2.8, 121)
        y = np.linspace(-0.62, 0.75, 61)
        grid = jnp.stack(jnp.meshgrid(x, y), -1).reshape(-1, 2)
        heights, sharp = (np.asarray(jax.vmap(of)(grid)).reshape(61, 121) for of in (loss, edge))
    figure = canvas(6.4, 3.5)
    spec = figure.add_gridspec(2, 2, width_ratios=(1.5, 1))
    valley, sharpness, losses = (
        figure.add_subplot(place) for place in (spec[:, 0], spec[0, 1], spec[1, 1])
    )
    valley.contour(x, y, heights, np.geomspace(2e-3, 2, 12), colors="0.75", linewidths=0.7)
    valley.contourf(x, y, sharp, [1, 99], colors=[COLOURS[1]], alpha=0.1)
    valley.text(
        0.97,
        0.96,
        "too sharp for this rate",
        transform=valley.transAxes,
        ha="right",
        va="top",
        color="0.35",
    )
    xlim = x[[0, -1]]
    ylim = y[[0, -1]]
    valley.set(xticks=[], yticks=[], xlim=xlim, ylim=ylim)
    blue = {"color": COLOURS[0]}
    orange = {"color": COLOURS[1]}
    black = {"color": "black", "linestyle": "--"}
    (tail,) = valley.plot(
        [], [], ".-", linewidth=0.8, markersize=5, label="gradient descent", **blue
    )
    (spread,) = valley.plot([], [], "-", linewidth=3, alpha=0.6, solid_capstyle="round", **orange)
    draws = [
        growing(valley, *stable["place"].T, each=EACH, linewidth=1, label="gradient flow", **black),
        growing(
            valley, *central["place"].T, each=EACH, linewidth=2, label="central flow", **orange
        ),
    ]
    steps = np.arange(len(descent["edge"]))
    for axes, name, ylabel in (
        (sharpness, "edge", "sharpness / (2/rate)"),
        (losses, "loss", "loss"),
    ):
        draws.append(
            growing(axes, steps, descent[name], each=EACH, linewidth=0.5, alpha=0.6, **blue)
        )
        draws.append(growing(axes, steps, stable[name], each=EACH, linewidth=1, **black))
        draws.append(
            growing(
                axes,
                steps,
                central["mean" if name == "loss" else name],
                each=EACH,
                linewidth=2,
                **orange,
            )
        )
        axes.set(ylabel=ylabel, xlim=(0, len(steps)))
        axes.spines[["top", "right"]].set_visible(False)
    draws.append(
        growing(losses, steps, descent["mean"], each=EACH, linewidth=1.6, label="averaged", **blue)
    )
    sharpness.axhline(1, color="0.7", linewidth=0.8, zorder=0)
    sharpness.set(ylim=(0.4, 1.5), xticklabels=[])
    losses.legend(loc="upper left", fontsize="small", frameon=False)
    losses.set(yscale="log", ylim=(5e-3, 0.5), xlabel="step")
    valley.legend(loc="lower left", fontsize="small", framealpha=0.8, edgecolor="none")

    def draw(i):
        last = min(i * EACH, len(steps) - 1)
        tail.set_data(*descent["place"][max(0, last - TAIL) : last + 1].T)
        spread.set_data(
            *(central["place"][last][:, None] + np.outer(central["root"][last], [-1, 1]))
        )
        for one in draws:
            one(i)

    return Animation(figure, draw, FRAMES)
