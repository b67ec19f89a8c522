"""Two staircases: linear and rectified neurons, from saddle to saddle, and where their weights are
on the way."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdyn import RK4, flow, losses, models
from jaxdyn.animations import Animation, canvas, growing
from jaxdyn.papers.saddles.zhang2025.course import Network
from jaxdyn.papers.saddles.zhang2025.linear import neurons as linear_neurons
from jaxdyn.plot import COLOURS
from jaxdyn.theory import saddles

__all__ = ["animation"]

FRAMES = 90
EACH = 8  # records of the loss a frame
STRENGTHS = (4.0, 2.0, 1.0)
TEACHER = (3.0, -1.0)


def linear(key):
    """Return linear neurons as the paper's, and the weights by which each reads the modes."""
    net = linear_neurons(key, jnp.array(STRENGTHS), (4, 24, 4), 1e-4)
    return net._replace(time=0.92 * net.time), lambda params: params[0][:, :3]


def rectified(key):
    """Return rectifiers in the plane, and the input weights of each."""
    goal = {"u": jnp.eye(2), "v": jnp.array(TEACHER)}
    loss = losses.teacher_loss("relu")
    level, unit = saddles.best_rectifier(goal["u"], goal["v"])
    network = models.two_layer(2, 24, activation=jax.nn.relu, balanced=True, scale=1e-4)
    of_zero = loss(jax.tree.map(jnp.zeros_like, goal), goal)
    levels = jnp.stack([of_zero, level, 0 * level])
    time = 75 / jnp.linalg.norm(unit)
    net = Network(network.init(key), loss, goal, None, time, levels)
    return net, lambda params: jnp.pad(params["u"], ((0, 0), (0, 1)))


def course(net, vectors):
    """Follow a network's flow: times, losses, and the vectors of its neurons."""
    times = np.linspace(0, float(net.time), FRAMES * EACH)

    def observe(state):
        return {"loss": net.loss(state.params, net.batch), "vectors": vectors(state.params)}

    field = jax.grad(net.loss)
    solver = RK4(0.02)

    @jax.jit
    def learn(start):
        return flow(field, net.batch, start, times=times, observe=observe, solver=solver).observed

    seen = learn(net.params)
    return times, np.asarray(seen["loss"]), np.asarray(seen["vectors"])


def animation() -> Animation:
    """Draw the losses with theory's plateaus and times between them, and the neurons' weights, far
    out the larger."""
    with jax.enable_x64(True):
        k_linear, k_rectified = jax.random.split(jax.random.key(1))
        nets = linear(k_linear), rectified(k_rectified)
        courses = [course(*net) for net in nets]
        theory = [(np.asarray(net.levels), np.asarray(net.drops)) for net, _ in nets]
    figure = canvas(6.4, 4.6)
    draws = []
    grid = figure.add_gridspec(2, 2, width_ratios=(1.7, 1))
    titles = "linear neurons: one mode after another", "rectifiers: one direction after another"
    words = "modes 1, 2 (green: 3), log scale", "input weights, log scale"
    dashed = {"color": "0.65", "linewidth": 0.9, "linestyle": (0, (3, 3))}
    solid = {"color": "0.65", "linewidth": 0.9}
    curve = {"color": COLOURS[0], "linewidth": 1.8}
    for row, (levels, drops) in enumerate(theory):
        times, loss, vectors = courses[row]
        axes = figure.add_subplot(grid[row, 0])
        for level in levels[:-1]:
            axes.axhline(level, **solid)
        for drop in drops:
            axes.axvline(drop, **dashed)
        draws.append(growing(axes, times, loss, each=EACH, **curve))
        axes.set(title=titles[row], ylabel="loss", yscale="log")
        axes.set_xlim(0, times[-1])
        axes.set_ylim(levels[-2] / 12, 2 * loss[0])
        axes.spines[["top", "right"]].set_visible(False)
        polar = figure.add_subplot(grid[row, 1], projection="polar")
        draws.append(neurons(polar, vectors))
        polar.set_xlabel(words[row], fontsize="small", labelpad=3)
    first, _, second, _ = figure.axes
    second.set_xlabel("flow time")
    first.plot([], [], label="plateaus in theory", **solid)
    first.plot([], [], label="times of the drops in theory", **dashed)
    box = {"framealpha": 1, "edgecolor": "none", "handlelength": 1.6}
    first.legend(loc="lower left", fontsize="small", **box)

    def draw(i):
        return [one(i) for one in draws]

    return Animation(figure, draw, FRAMES)


def neurons(axes, vectors):
    """Draw a point for each neuron: angle and logarithm of the length of its vector, its colour the
    third component."""
    from matplotlib.colors import LinearSegmentedColormap

    size = np.linalg.norm(vectors, axis=2)
    angle = np.arctan2(vectors[..., 1], vectors[..., 0])
    places = np.stack([angle, np.log10(size)], -1)
    share = (vectors[..., 2] / size) ** 2
    colours = LinearSegmentedColormap.from_list("modes", [COLOURS[1], COLOURS[2]])
    shades = {"cmap": colours, "vmin": 0, "vmax": 0.5}
    points = axes.scatter(*places[0].T, c=share[0], s=20, alpha=0.9, zorder=3, **shades)
    axes.set_xticks(np.arange(4) * np.pi / 2, [])
    axes.set_yticks(range(-5, 1), [])
    axes.set_ylim(-5.5, 0.6)
    axes.grid(color="0.85", linewidth=0.8)
    axes.spines["polar"].set_color("0.7")

    def draw(i):
        points.set_offsets(places[i * EACH])
        points.set_array(share[i * EACH])

    return draw
