"""The sphere: descent before a normalisation is an adaptive method for a direction."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdyn import Claim, iterate, plot, sweep
from jaxdyn.claims import Domain, worst
from jaxdyn.papers import Experiment
from jaxdyn.papers.descent.tanaka2021.networks import LOSSES, distinct, order_in_rate, problem

__all__ = ["EXPERIMENT"]


def sphere(
    *,
    inputs=8,
    examples=40,
    learning_rates=(0.05, 0.025, 0.0125, 0.00625),
    decay=0.05,
    duration=8.0,
    sweep=sweep,
):
    """Descent with weight decay before a normalisation is RMSProp on the sphere to first order.

    With the length of the weights as its adaptive scale, a method for their direction alone follows
    descent exactly; RMSProp leaves terms of the order of the learning rate out.

    Args:
        inputs: number of inputs of the normalised weights.
        examples: number of examples.
        learning_rates: learning rates of the descents.
        decay: their weight decay.
        duration: flow time, learning rate times step, of every descent.
    """
    with jax.enable_x64(True):
        setting = problem(inputs=inputs, examples=examples)
        start = setting.start["scale"]["w"] / 2
        batch = setting.data["scale"]
        descend = partial(on_the_sphere, batch=batch, start=start, decay=decay, duration=duration)
        return sweep(descend, {"learning_rate": distinct(learning_rates)})


class Image(NamedTuple):
    """A state on the sphere: the direction of the weights and v, the fourth power of their norm."""

    direction: jax.Array
    fourth_power: jax.Array


def on_the_sphere(learning_rate, *, batch, start, decay, duration):
    """Descend, and by two images of descent on the sphere: how far each is from its direction."""
    gradient = jax.grad(LOSSES["scale"])
    shrink = 1 - learning_rate * decay

    def moved(image, kept, correct):
        """Move an image; its direction is `kept` by decay, its scale `correct` to second order."""
        unit, v = image
        g = gradient({"w": unit}, batch)["w"]
        direction = kept * unit - learning_rate * g / jnp.sqrt(v)
        square = (learning_rate * jnp.linalg.norm(g)) ** 2
        second_order = square**2 / v if correct else 0.0
        grown = shrink**4 * v + 2 * shrink**2 * square + second_order
        return Image(direction / jnp.linalg.norm(direction), grown)

    def step(_, state):
        point = state.params["point"]
        slope = gradient({"w": point}, batch)["w"] + decay * point
        params = {
            "point": point - learning_rate * slope,
            "exact": moved(state.params["exact"], shrink, True),
            "rmsprop": moved(state.params["rmsprop"], 1.0, False),
        }
        return state._replace(params=params)

    def observe(state):
        point = state.params["point"]
        direction = point / jnp.linalg.norm(point)

        def distance(image):
            return jnp.linalg.norm(state.params[image].direction - direction)

        return {"exact": distance("exact"), "rmsprop": distance("rmsprop")}

    image = Image(start / jnp.linalg.norm(start), jnp.linalg.norm(start) ** 4)
    times = jnp.round(jnp.linspace(0, 1, 41) * duration / learning_rate)
    begin = {"point": start, "exact": image, "rmsprop": image}
    return iterate(step, begin, times=times, observe=observe)


def distance_of_exact_image(runs):
    return worst(runs.exact)


def distances_of_rmsprop(runs):
    return runs.rmsprop.max("time", skipna=False)


def order_of_rmsprop(runs):
    return order_in_rate(distances_of_rmsprop(runs))


def order_can_be_told(runs):
    """Whether an order can be told: from two learning rates, near the limit of small ones."""
    near = distances_of_rmsprop(runs).sortby("learning_rate").isel(learning_rate=slice(2))
    return near.size == 2 and worst(near) < 0.1


def plot_sphere(runs, figure):
    """Draw how far both images part from descent by the learning rate."""
    title = "RMSProp parts from descent in proportion to the step, its exact image does not"
    (axes,) = plot.panels(figure, title)
    runs = runs.sortby("learning_rate")
    rates = runs.learning_rate
    rmsprop = distances_of_rmsprop(runs)
    slope = rmsprop[0] / rates[0]
    plot.points_and_line(axes, rates, rmsprop, slope * rates, label="RMSProp")
    exact = runs.exact.max("time")
    orange = plot.COLOURS[1]
    plot.points_and_line(axes, rates, exact, 0 * rates, colour=orange, label="exact image")
    axes.set(xlabel="learning rate", ylabel="largest distance from descent")
    plot.legend(axes, predicted="first order")


SMALL_RATES = Domain(
    "there are two learning rates at which RMSProp stays within 0.1 of descent", order_can_be_told
)

CLAIMS = (
    Claim(
        "descent with weight decay before a normalisation is, exactly, an adaptive method "
        "on the sphere",
        "largest distance between the direction of the weights and the exact image",
        distance_of_exact_image,
        below=1e-10,
    ),
    Claim(
        "RMSProp on the sphere, its second moments decaying by (1 - learning rate x weight "
        "decay)^4, follows descent before a normalisation to first order in the learning rate",
        "order in the learning rate of the largest distance between RMSProp and descent",
        order_of_rmsprop,
        within=(0.9, 1.1),
        when=SMALL_RATES,
    ),
)

FEWER_EXAMPLES = {"inputs": 5, "examples": 20}
SMALLER_STEPS = {"decay": 0.1, "learning_rates": (0.02, 0.01), "duration": 4.0}

EXPERIMENT = Experiment(
    sphere,
    claims=CLAIMS,
    plot=plot_sphere,
    paper={"inputs": 64, "examples": 400},
    others=(FEWER_EXAMPLES, SMALLER_STEPS),
)
