"""Systems of features of two scales, and their exact and published theory."""

import jax.numpy as jnp
import numpy as np

from jaxdyn import Trajectory
from jaxdyn._numbers import check, check_positive
from jaxdyn.theory.regression import equivalents, spectrum

__all__ = [
    "FEWER",
    "MANY",
    "NAMES",
    "NOISY",
    "PARTS",
    "named",
    "order_parameters",
    "over",
    "population",
    "systems_of",
    "theory",
    "words_of",
]

PARTS = ("flow", "ridge")
NAMES = ("R", "Q", "E")

# Configurations that several experiments are judged in.

NOISY = {"examples": (160,), "large": (50,), "ratios": (30.0,), "noises": (0.1,)}
FEWER = {
    "examples": (90, 75),
    "large": (40, 45),
    "ratios": (60.0, 200.0),
    "noises": (0.0, 0.0),
    "inputs": 60,
}
MANY = {"examples": (600, 520, 480), "large": (240, 280, 320), "inputs": 400, "times": 57}


def systems_of(examples, large, ratios, noises, inputs):
    """Check the options that describe systems, and return a row of four numbers for each."""
    number = len(examples)
    as_many = f"{number} values, as many as there are examples"
    others = {"large": large, "ratios": ratios, "noises": noises}
    for name, values in others.items():
        check(name, len(values), lambda length: length == number, as_many)
    check_positive(examples=np.array(examples))
    check_positive(ratios=np.array(ratios))
    check_positive(large=np.array(large))
    fewer = f"numbers below that of all inputs, {inputs}"
    check("large", large, lambda numbers: np.asarray(numbers) < inputs, fewer)
    return np.array([examples, large, ratios, noises], float).T


def over(sweep, experiment, systems, **options):
    """Sweep over systems."""
    numbers = ("examples", "large", "ratio", "noise")
    runs = sweep(experiment, {numbers: systems}, **options)
    return runs.rename({"_".join(numbers): "system"})


def population(samples, large, kappa, *, inputs):
    """Two groups of features; the teacher is random in z, so the stronger in x the smaller they
    are."""
    small = inputs - large
    scales = jnp.stack([jnp.ones_like(kappa), kappa**-2.0])
    counts = jnp.stack([large, small])
    return equivalents.Spectrum(scales / inputs, counts, counts / scales, jnp.zeros(2))


def order_parameters(R, Q):
    """R, Q and E_G."""
    return {"R": R, "Q": Q, "E": (1 - 2 * R + Q) / 2}


def named(parts):
    """Return {part_name: values} of {part: {name: values}}."""
    flat = {}
    for part, values in parts.items():
        flat |= {f"{part}_{name}": value for name, value in values.items()}
    return flat


def theory(examples, large, ratio, noise, *, inputs, times):
    """The flow at each time and ridge regression with the penalty 1/time, exactly and as
    published."""
    system = population(examples, large, ratio, inputs=inputs), examples, noise
    flow = spectrum.flow(examples * times, *system)
    ridge = spectrum.ridge(1 / (examples * times), *system)
    flow_parameters = order_parameters(flow.overlap, flow.self_overlap)
    ridge_parameters = order_parameters(ridge.overlap, ridge.self_overlap)
    published = decoupled(1 / times, examples, large, ratio, noise, inputs)
    parts = {"flow": flow_parameters, "ridge": ridge_parameters, "published": published}
    coarse = spectrum.flow(examples * times, *system, nodes=24)
    contour = abs(coarse.excess / 2 - flow_parameters["E"])
    return Trajectory(times, named(parts) | {"contour": contour})


def decoupled(penalty, n, p, kappa, noise, d):
    """R, Q and E_G of ridge regression as published (eqs. 14 and 15), for one definition of the
    penalty."""
    sizes = jnp.stack([p, d - p])
    alpha = n / sizes
    scales = jnp.stack([jnp.ones_like(kappa), kappa**2])
    share = penalty[:, None] * d / sizes[None] * scales[None]
    gap = 1 - alpha[None] - share
    root = jnp.sqrt(gap**2 + 4 * share)
    a = 1 + 2 * share / (gap + root)
    R = n / d / a
    b = alpha[None] / (a**2 - alpha[None])
    own = (2 - a) / a * n / d
    c = 1 + noise**2 - 2 * R[:, ::-1] - own
    both = b[:, :1] * b[:, 1:]
    Q = (both * c[:, ::-1] + b * c) / (1 - both)
    return order_parameters(R.sum(1), Q.sum(1))


def words_of(run):
    """Say in short which system this is."""
    noise = f", noise {run.noise:g}" if run.noise else ""
    return f"{run.examples:g} examples, {run.large:g} large{noise}"
