"""Generalisation in high dimension: over-training and early stopping, by examples, noise and
initial weights."""

import jax.numpy as jnp
import numpy as np

from jaxdyn.tasks import teacher_student
from jaxdyn.theory.regression import equivalents, given_data, isotropic, spectrum

__all__ = ["AXES", "DEFAULT", "SLIDERS", "WITHIN", "simulate", "theory"]

SLIDERS = {
    "examples_per_weight": (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 4.0),
    "signal_to_noise": (0.5, 1.0, 2.0, 5.0, 20.0),
    "initial_weights": (0.0, 1.0, 5.0),
}
DEFAULT = {"examples_per_weight": 1.0, "signal_to_noise": 5.0, "initial_weights": 1.0}
AXES = {
    "xlabel": "flow time",
    "ylabel": "error (variances of the noise)",
    "xscale": "log",
    "yscale": "log",
}
INPUTS = 300
WITHIN = 4 * INPUTS**-0.5  # four standard deviations of what is averaged over so many directions
LEAST = 1e-3  # of the errors shown
TIMES = np.geomspace(0.1, 1000, 60)


def theory(*, examples_per_weight, signal_to_noise, initial_weights):
    """Return the errors of gradient flow, and that of the best ridge regression from zero."""
    system = equivalents.population(1.0, 1.0, signal_to_noise, initial_weights)
    errors = spectrum.flow(examples_per_weight * TIMES, system, examples_per_weight, 1.0)
    ridge = 1 + isotropic.optimal_ridge(examples_per_weight, power=signal_to_noise, noise=1.0)[1]
    train = jnp.maximum(errors.train, LEAST)
    best = jnp.full(TIMES.shape, ridge)
    return {
        "x": TIMES,
        "test error": 1 + errors.excess,
        "training error": train,
        "best ridge regression": best,
    }


def simulate(key, *, examples_per_weight, signal_to_noise, initial_weights):
    """Learn one drawn set of examples by gradient flow, in closed form."""
    samples = round(examples_per_weight * INPUTS)
    times = TIMES[::3]
    data = teacher_student(key, INPUTS, samples, snr=signal_to_noise, inr=initial_weights)
    w = given_data.flow(samples * times, data.x, data.y, data.start)
    excess = given_data.excess_error(w, data.teacher, data.eigenvalues)
    train = jnp.maximum(given_data.mean_squared_error(w, data.x, data.y), LEAST)
    return {"x": times, "test error": 1 + excess, "training error": train}
