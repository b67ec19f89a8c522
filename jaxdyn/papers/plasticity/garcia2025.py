"""A unified perspective on optimization in machine learning and neuroscience: from gradient descent
to neural adaptation (Garcia Fernandez, Ahmad, van Gerven, 2025).

A linear student learns a linear teacher online by rules that only evaluate the loss l = |W* x - W
x|^2 / 2: perturbed nodes or weights, one-sided (l(theta + sigma xi) - l) / sigma or antithetic,
random signs, a forward gradient.  All of them follow the gradient on average; their second moments
kappa |W* - W|^2 decide how fast each learns, 1 - 2 eta + eta^2 kappa a step, from what rate it is
unstable, and what error finite perturbations leave.  In float64.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdyn import Claim, Domain, plot, sweep, train
from jaxdyn._numbers import normal
from jaxdyn.claims import ratio, standard_error, z_score
from jaxdyn.losses import squared_error
from jaxdyn.papers import Experiment, Reference
from jaxdyn.rules import forward_gradient, node_perturbation, noisy, weight_perturbation
from jaxdyn.tasks import online
from jaxdyn.theory.plasticity import perturbation as theory

__all__ = ["EXPERIMENTS", "REFERENCE"]

REFERENCE = Reference(
    title="A unified perspective on optimization in machine learning and neuroscience: from "
    "gradient descent to neural adaptation",
    authors="Garcia Fernandez, Ahmad, van Gerven",
    year=2025,
    arxiv="2510.18812",
    name="Zeroth-order learning",
    reproduces="perturbed nodes and weights, random signs, forward gradients: exact second moments, rates and floors",
)


# The rules.


class Rule(NamedTuple):
    """A rule of learning: `make(sigma)` returns it at a size of the perturbations, `moment` is the
    name of its second moment."""

    make: Callable[[Any], Callable[..., Any]]
    moment: str


SQUARED = squared_error(lambda w, x: x @ w.T)


def error(outputs, y):
    return jnp.sum((y - outputs) ** 2, 1) / 2


def nodes(w, x, noise):
    """The outputs, noise added, and the one layer of them."""
    outputs = x @ w.T
    if noise is not None:
        outputs = outputs + noise[0]
    return outputs, [outputs]


def gradient(sigma):
    return lambda w, batch: jax.grad(SQUARED)(w, batch[0])


def forward(sigma):
    return forward_gradient(SQUARED)


by_nodes = partial(node_perturbation, nodes, error)
by_weights = partial(weight_perturbation, SQUARED)
by_signs = partial(by_weights, directions="rademacher", antithetic=True)

GRADIENT = Rule(gradient, "gradient")
NODE = Rule(by_nodes, "node")
BOTH_NODE = Rule(partial(by_nodes, antithetic=True), "node")
WEIGHT = Rule(by_weights, "weight")
BOTH_WEIGHT = Rule(partial(by_weights, antithetic=True), "weight")
RULES = {
    "gradient": GRADIENT,
    "node": NODE,
    "antithetic node": BOTH_NODE,
    "weight": WEIGHT,
    "antithetic weight": BOTH_WEIGHT,
    "random signs": Rule(by_signs, "rademacher"),
    "forward gradient": Rule(forward, "weight"),
}
COLOURS = dict(zip(RULES, plot.COLOURS, strict=True))
ONE_SIDED = ["node", "weight"]
ANTITHETIC = ["antithetic node", "antithetic weight"]


def check_options(**options):
    """Refuse options that are not positive."""
    for name, value in options.items():
        if value <= 0:
            raise ValueError(f"{name}: {value}; pass a number > 0")


def student(outputs, inputs):
    """The error W* - W that is left to learn, of unit norm: the teacher is 0."""
    return jnp.ones((outputs, inputs)) / (outputs * inputs) ** 0.5


def sample(key, inputs):
    """One example of that error."""
    return normal(key, (1, inputs)), jnp.zeros((1, 1))


# Single estimates: the gradient on average, and its second moment.


def single_estimates(*, outputs=4, inputs=3, draws=20000, sweep=sweep):
    """All rules follow the gradient on average, with second moments that grow with the number of
    perturbed nodes or weights.

    Args:
        outputs: number of outputs M.
        inputs: number of inputs N.
        draws: number of estimates by every rule, each from one example.
    """
    check_options(outputs=outputs, inputs=inputs, draws=draws)
    dims = dict.fromkeys(("second", "along"), "rule")
    with jax.enable_x64(True):
        # Perturbations so small that one side of them tells the slope.
        experiment = partial(estimates, sigma=1e-3, start=student(outputs, inputs))
        drawn = sweep(experiment, seeds=draws, dims=dims)
        kappa = second_moments(outputs, inputs)
    drawn["second_theory"] = ("rule", np.array(list(kappa.values())))
    drawn["along_theory"] = ("rule", np.ones(len(RULES)))
    drawn = drawn.assign_coords(rule=list(RULES))
    return drawn.assign_attrs(weights=outputs * inputs)


def second_moments(outputs, inputs):
    """The second moment kappa of each rule."""
    moments = {name: rule.moment for name, rule in RULES.items()}
    variance = partial(theory.estimate_variance, outputs=outputs, inputs=inputs)
    return {name: float(variance(moment)) for name, moment in moments.items()}


def estimates(key, *, sigma, start):
    """The estimate of every rule from one example: its second moment, and its part along the
    gradient."""
    batch = sample(jax.random.fold_in(key, 0), start.shape[1])
    noise = jax.random.fold_in(key, 1)
    rules = [rule.make(sigma) for rule in RULES.values()]
    slopes = [rule(start, (batch, noise)) for rule in rules]
    size = jnp.sum(start**2)
    # The mean over x of the gradient of l is W itself.
    second = [jnp.sum(slope**2) / size for slope in slopes]
    along = [jnp.sum(slope * start) / size for slope in slopes]
    return {"second": jnp.array(second), "along": jnp.array(along)}


def along_z_score(drawn):
    return z_score(drawn.along, drawn.along_theory)


def second_z_score(drawn):
    return z_score(drawn.second, drawn.second_theory)


def plot_single_estimates(drawn, figure):
    """Draw the part along the gradient and the second moment of every rule."""
    along, second = plot.panels(
        figure, "The gradient on average", "Second moments differ", height=3.2
    )
    places = np.arange(len(RULES))
    for axes, name in ((along, "along"), (second, "second")):
        values = drawn[name]
        errors = standard_error(values)
        mean = values.mean("seed")
        for place, colour in enumerate(COLOURS.values()):
            one = slice(place, place + 1)
            style = {"errors": errors[one], "colour": colour}
            plot.points_and_line(axes, places[one], mean[one], **style)
        predicted = drawn[f"{name}_theory"]
        axes.plot(places, predicted, "_", color="0.3", markersize=12, label="theory")
        axes.set_xticks(places, list(RULES), rotation=90)
        axes.set(xlabel="rule")
    along.set(ylabel="estimate along the gradient")
    second.set(ylabel="second moment $\\kappa$", yscale="log")
    second.legend()


# Learning: every rule at its own pace.


def learning(*, outputs=4, inputs=3, sigma=0.3, fraction=0.3, runs=400, last=1500, sweep=sweep):
    """The second moment of a rule's estimates decides how fast it learns, by 1 - 2 eta + eta^2 kappa
    a step.

    Each rule has a fraction of its best learning rate 1/kappa.

    Args:
        outputs: number of outputs M.
        inputs: number of inputs N.
        sigma: standard deviation of the perturbations.
        fraction: learning rate, in units of the best one; unstable from 2 on.
        runs: number of students of every rule.
        last: number of examples.
    """
    return descents(outputs, inputs, sigma, fraction, runs, last, sweep)


def descents(outputs, inputs, sigma, fraction, runs, last, sweep):
    """Train students by every rule; their squared distances from the teacher, and theory's."""
    check_options(outputs=outputs, inputs=inputs, sigma=sigma, fraction=fraction)
    if fraction >= 2:
        raise ValueError(f"fraction: {fraction}; pass less than 2, from where rules are unstable")
    if last < 100:
        raise ValueError(f"last: {last} examples; pass 100 or more")
    early = np.geomspace(1, last / 4, 12)
    late = np.linspace(last / 2, last, 40)
    times = np.unique(np.r_[0, early, late].round().astype(int))
    with jax.enable_x64(True):
        options = {"sigma": sigma, "fraction": fraction, "times": times}
        experiment = partial(learned, start=student(outputs, inputs), **options)
        moved = sweep(experiment, seeds=runs, dims={"square": "rule"})
        shape = {"outputs": outputs, "inputs": inputs}
        rates = {name: fraction / kappa for name, kappa in second_moments(**shape).items()}

        def contraction(name):
            return float(theory.contraction(RULES[name].moment, rates[name], **shape))

        def floor_of(name):
            return float(theory.noise_floor(name, sigma, rates[name], **shape))

        factor = np.array([contraction(name) for name in RULES])
        floor = np.array([floor_of(name) if name in ONE_SIDED else 0.0 for name in RULES])
    decay = factor ** moved.time.values[:, None]
    moved["floor"] = ("rule", floor)
    moved["square_theory"] = (("time", "rule"), decay + floor * (1 - decay))
    moved["decay_theory"] = (("time", "rule"), decay)
    moved = moved.assign_coords(rule=list(RULES))
    return moved.assign_attrs(weights=outputs * inputs, fraction=fraction)


def learned(key, *, sigma, fraction, start, times):
    """Train a student by every rule, side by side, each at a fraction of its best learning rate 1 /
    kappa."""

    def best(rule):
        return theory.estimate_variance(rule.moment, *start.shape)

    kappa = {name: best(rule) for name, rule in RULES.items()}
    rules = {name: rule.make(sigma) for name, rule in RULES.items()}

    def field(params, batch):
        data, key = batch
        keys = jax.random.split(key, len(rules))
        keys = dict(zip(rules, keys, strict=True))

        def step(name):
            slope = rules[name](params[name], (data, keys[name]))
            return fraction / kappa[name] * slope

        return {name: step(name) for name in rules}

    def observe(state):
        squares = [jnp.sum(state.params[name] ** 2) for name in RULES]
        return {"square": jnp.stack(squares)}

    stream = noisy(online(lambda key: sample(key, start.shape[1])))
    begin = dict.fromkeys(RULES, start)
    optimizer = optax.sgd(1.0)
    return train(field, optimizer, stream, begin, times=times, observe=observe, key=key)


def judged(moved):
    """Where the mean is not yet made up by few runs: down to a tenth, or above a floor."""
    return (moved.time > 0) & ((moved.square_theory > 0.1) | (moved.floor > 0))


def decay_z_score(moved):
    deviation = moved.square.mean("seed") - moved.square_theory
    scores = abs(deviation / standard_error(moved.square))
    return float(scores.where(judged(moved)).max())


def many_runs(moved):
    """Whether every mean that is judged is made up by at least twenty runs."""
    squares = moved.square
    effective = squares.sum("seed") ** 2 / (squares**2).sum("seed")
    return bool((effective >= 20).where(judged(moved), True).all())


def light_tails(moved):
    """Whether a standard error says how far a mean can be off."""
    moderate = moved.attrs["fraction"] <= 1 and moved.attrs["weights"] >= 4
    return moderate and many_runs(moved)


def plot_learning(moved, figure):
    """Draw how far students are from their teacher under every rule."""
    (axes,) = plot.panels(figure, "Every rule learns at its own pace", height=3.4)
    # Until means are made up by few runs.
    shown = moved.isel(time=slice(1, None))
    shown = shown.where(judged(shown) | (shown.square_theory > 0.02))
    for rule, colour in COLOURS.items():
        one = shown.sel(rule=rule).dropna("time", subset=["square_theory"])
        plot.beside(axes, one, "square", colour=colour, label=rule, points=12)
    axes.set(xlabel="examples seen", ylabel="$|W^* - W|^2$", xscale="log", yscale="log")
    plot.legend(axes, loc="upper left", bbox_to_anchor=(1, 1))


# The end: one-sided perturbations leave an error.


def floors(*, outputs=4, inputs=3, sigma=0.3, fraction=0.3, runs=400, last=1500, sweep=sweep):
    """One-sided perturbations leave an error of order sigma^2 in the end; antithetic ones leave
    none, whatever their size.

    Each rule has a fraction of its best learning rate 1/kappa.

    Args:
        outputs: number of outputs M.
        inputs: number of inputs N.
        sigma: standard deviation of the perturbations.
        fraction: learning rate, in units of the best one; unstable from 2 on.
        runs: number of students of every rule.
        last: number of examples, of which the second half is judged.
    """
    moved = descents(outputs, inputs, sigma, fraction, runs, last, sweep)
    moved = moved.sel(rule=ONE_SIDED + ANTITHETIC)
    return moved.isel(time=moved.time.values >= last / 2)


def at_the_end(moved):
    """The mean square of each run over the second half."""
    return moved.square.isel(time=slice(1, None)).mean("time")


def floor_z_score(moved):
    late = at_the_end(moved).sel(rule=ONE_SIDED)
    return z_score(late, moved.floor.sel(rule=ONE_SIDED))


def antithetic_rest(moved):
    """What antithetic rules leave, over the floor of the one-sided ones."""
    rest = at_the_end(moved).mean("seed").sel(rule=ANTITHETIC)
    return ratio(rest.values, moved.floor.sel(rule=ONE_SIDED).values)


def long_enough(moved):
    """Whether by theory no start is left in the second half, beside a hundredth of the floor."""
    decay = moved.decay_theory.sel(rule=ANTITHETIC)
    left = decay.isel(time=slice(1, None)).mean("time")
    return ratio(left.values, moved.floor.sel(rule=ONE_SIDED).values) < 0.005


def judged_floors(moved):
    return light_tails(moved) and long_enough(moved)


def plot_floors(moved, figure):
    """Draw the squares of the second half of a run, and the floors."""
    (axes,) = plot.panels(figure, "Antithetic perturbations leave no error", height=3)
    for rule in ONE_SIDED + ANTITHETIC:
        one = moved.sel(rule=rule)
        style = {"errors": standard_error(one.square), "colour": COLOURS[rule], "label": rule}
        mean = one.square.mean("seed")
        plot.points_and_line(axes, one.time, mean, points=14, **style)
    for rule in ONE_SIDED:
        floor = float(moved.floor.sel(rule=rule))
        axes.axhline(floor, color=COLOURS[rule], zorder=1)
    axes.set(xlabel="examples seen", ylabel="$|W^* - W|^2$", yscale="log")
    plot.legend(axes, predicted="floor", loc="upper left", bbox_to_anchor=(1, 1))


# Products of Gaussian numbers have heavy tails, the heavier the fewer they are.
DRAWS = Domain(
    "there are 4 weights and 1000 draws or more",
    lambda drawn: drawn.attrs["weights"] >= 4 and drawn.sizes["seed"] >= 1000,
)
TAILS = Domain(
    "there are 4 weights or more, at most the best learning rate, and no mean made up by fewer "
    "than 20 runs",
    light_tails,
)
FLOORS = Domain(
    "there are 4 weights or more, at most the best learning rate, no mean made up by fewer than 20 "
    "runs, and the start is forgotten",
    judged_floors,
)

ON_AVERAGE = Claim(
    "perturbed nodes and weights, random signs and forward gradients follow the gradient on average",
    "largest deviation of a mean estimate along the gradient, in standard errors",
    along_z_score,
    below=4.5,
    when=DRAWS,
)
MOMENTS = Claim(
    "second moments of estimates are (N + 2) times 1 for the gradient, M + 2 for nodes, M N + 2 "
    "for weights and M N for random signs",
    "largest deviation of a second moment, in standard errors",
    second_z_score,
    below=4.5,
    when=DRAWS,
)
DECAY = Claim(
    "errors of every rule fall by 1 - 2 eta + eta^2 kappa a step",
    "largest deviation of a mean squared error, in standard errors",
    decay_z_score,
    below=4.5,
    when=TAILS,
)
ONE_SIDED_FLOOR = Claim(
    "one-sided perturbations leave the floor of order sigma^2 that theory predicts",
    "largest deviation of a mean squared error in the end, in standard errors",
    floor_z_score,
    below=4.5,
    when=FLOORS,
)
NO_FLOOR = Claim(
    "antithetic perturbations leave no error, whatever their size",
    "largest squared error in the end, over the floor of the one-sided rule",
    antithetic_rest,
    below=0.01,
    when=FLOORS,
)

PAPER = {"inputs": 6, "runs": 2000, "last": 5000}
FOUR_INPUTS = {"outputs": 2, "inputs": 4, "sigma": 0.5, "runs": 200, "last": 1200}
FIVE_OUTPUTS = {"outputs": 5, "inputs": 2, "fraction": 0.5, "runs": 200}

FEWER_OUTPUTS = {"outputs": 2, "inputs": 4, "draws": 5000}
FEWER_INPUTS = {"outputs": 5, "inputs": 2, "draws": 5000}

SINGLE_ESTIMATES = Experiment(
    single_estimates,
    claims=(ON_AVERAGE, MOMENTS),
    plot=plot_single_estimates,
    paper={"inputs": 6, "draws": 100000},
    others=(FEWER_OUTPUTS, FEWER_INPUTS),
)
LEARNING = Experiment(
    learning,
    claims=(DECAY,),
    plot=plot_learning,
    paper=PAPER,
    others=(FOUR_INPUTS, FIVE_OUTPUTS),
)
FLOORS_LEFT = Experiment(
    floors,
    claims=(ONE_SIDED_FLOOR, NO_FLOOR),
    plot=plot_floors,
    paper=PAPER,
    others=(FOUR_INPUTS, FIVE_OUTPUTS),
)
EXPERIMENTS = (SINGLE_ESTIMATES, LEARNING, FLOORS_LEFT)
