"""Networks learn a function on the circle; the kernel of infinite width says where they are on the
way, and how far."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdyn import kernels, models, sweep, train
from jaxdyn.animations import Animation, canvas
from jaxdyn.kernels import predict
from jaxdyn.losses import squared_error
from jaxdyn.plot import COLOURS
from jaxdyn.tasks import full_batch

__all__ = ["animation"]

FRAMES = 100
WIDTHS = (8, 512)
DRAWS = 10
RATE = 0.5
LAST = 2000
ANGLES = np.linspace(-np.pi, np.pi, 121)
EXAMPLES = np.array([-2.6, -2.0, -1.4, 0.7, 1.4, 2.4])


def circle(angle):
    """Return points on the unit circle."""
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def target(angle):
    """Return the labels."""
    return np.sin(2 * angle) + 0.5 * np.cos(angle)


def network(width):
    """Return a rectified network of one hidden layer."""
    hidden = kernels.dense(width, 2**0.5, 0.5)
    readout = kernels.dense(1, 1.0, 0.5)
    return kernels.serial(hidden, kernels.relu(), readout)


def simulate(key, *, width, times):
    """Descend on the examples; observe outputs all around."""
    net = network(width)
    x = circle(EXAMPLES)
    points = circle(ANGLES)
    start = models.from_layers(net, (2,)).init(key)
    batch = (x, target(EXAMPLES)[:, None])

    def observe(state):
        return {"outputs": net.apply(state.params, points)[:, 0]}

    field = jax.grad(squared_error(net.apply))
    return train(field, optax.sgd(RATE), full_batch(batch), start, times=times, observe=observe)


def limit(times):
    """Return the mean and the standard deviation of the outputs at infinite width."""
    x = np.concatenate([circle(EXAMPLES), circle(ANGLES)])
    nngp, ntk = kernels.gram(network(1), x, get=("nngp", "ntk")).values()
    train = slice(None, len(EXAMPLES))
    test = slice(len(EXAMPLES), None)
    mean, covariance = predict.ensemble(
        ntk[train, train],
        nngp[train, train],
        target(EXAMPLES),
        times,
        learning_rate=RATE,
        ntk_test=ntk[test, train],
        nngp_test=nngp[test, train],
        nngp_test_test=nngp[test, test],
    )
    assert covariance is not None
    variance = jnp.diagonal(covariance, axis1=1, axis2=2)
    return mean, jnp.sqrt(variance)


def animation() -> Animation:
    """Draw the limit's mean with two standard deviations, networks of two widths, the examples and
    the target."""
    times = np.unique(np.r_[0, np.geomspace(1, LAST, FRAMES)].round())
    experiment = partial(simulate, times=times)
    dims = {"outputs": "angle"}
    with jax.enable_x64(True):
        runs = sweep(experiment, static={"width": WIDTHS}, seeds=DRAWS, dims=dims)
        mean, spread = map(np.asarray, jax.jit(limit)(times))
    figure = canvas(6.4, 3.3)
    draws = []
    panels = figure.subplots(1, len(WIDTHS), sharey=True)
    for axes, width, colour in zip(panels, WIDTHS, COLOURS, strict=False):
        outputs = runs.outputs.sel(width=width).transpose("time", "seed", "angle").values
        edges = bounds(mean[0], spread[0])
        band = axes.fill_between(ANGLES, *edges, color="0.85", label="theory: two deviations")
        (middle,) = axes.plot(ANGLES, mean[0], color="black", label="theory: mean")
        thin = {"color": colour, "linewidth": 0.8, "alpha": 0.8}
        lines = [axes.plot(ANGLES, network_outputs, **thin)[0] for network_outputs in outputs[0]]
        above = {"color": COLOURS[4], "markersize": 6, "zorder": 5}
        axes.plot(EXAMPLES, target(EXAMPLES), "o", label="examples", **above)
        axes.set_title(f"{DRAWS} networks of width {width}")
        axes.set_xlabel("angle")
        axes.set_xlim(-np.pi, np.pi)
        axes.set_ylim(-3.6, 3.6)
        axes.set_xticks([-np.pi, 0, np.pi], ["$-\\pi$", "0", "$\\pi$"])
        draws.append((band, middle, lines, outputs))
    panels[0].set_ylabel("output")
    panels[0].legend(loc="upper left", fontsize="small", framealpha=0.8, edgecolor="none")
    corner = {"transform": panels[1].transAxes, "ha": "right", "va": "top"}
    count = panels[1].text(0.97, 0.96, "", **corner)

    def draw(i):
        count.set_text(f"step {times[i]:.0f}")
        for band, middle, lines, outputs in draws:
            band.set_data(ANGLES, *bounds(mean[i], spread[i]))
            middle.set_ydata(mean[i])
            for line, f in zip(lines, outputs[i], strict=True):
                line.set_ydata(f)

    return Animation(figure, draw, len(times))


def bounds(mean, spread):
    """Return the band of two standard deviations."""
    return mean - 2 * spread, mean + 2 * spread
