"""Double descent over time: features of two scales, by how many there are, how far apart, and the
labels' noise."""

import jax.numpy as jnp
import numpy as np

from jaxdyn.papers.regression import pezeshki2021 as paper
from jaxdyn.tasks import regression
from jaxdyn.theory.regression import given_data, spectrum

__all__ = ["AXES", "DEFAULT", "SLIDERS", "WITHIN", "simulate", "theory"]

SLIDERS = {
    "examples_per_feature": (0.7, 0.9, 1.2, 1.5, 3.0),
    "share_of_large_features": (0.3, 0.6, 0.8),
    "ratio_of_scales": (1.0, 10.0, 50.0, 300.0),
    "noise": (0.0, 0.2, 0.5),
}
DEFAULT = {
    "examples_per_feature": 1.2,
    "share_of_large_features": 0.6,
    "ratio_of_scales": 50.0,
    "noise": 0.2,
}
AXES = {"xlabel": "flow time", "ylabel": "error", "xscale": "log", "yscale": "log"}
INPUTS = 200
WITHIN = 4 * INPUTS**-0.5  # four standard deviations of what is averaged over so many features
LEAST = 1e-3  # of the errors shown
TIMES = np.geomspace(0.1, 1e6, 57)


def theory(*, examples_per_feature, share_of_large_features, ratio_of_scales, noise):
    """Return the exact errors of gradient flow."""
    samples = examples_per_feature * INPUTS
    large = share_of_large_features * INPUTS
    numbers = map(jnp.asarray, (samples, large, ratio_of_scales))
    features = paper.population(*numbers, inputs=INPUTS)
    errors = spectrum.flow(samples * TIMES, features, samples, noise)
    return {"x": TIMES} | shown(errors.excess, errors.train)


def simulate(key, *, examples_per_feature, share_of_large_features, ratio_of_scales, noise):
    """Learn one drawn set of examples by gradient flow, in closed form."""
    samples = round(examples_per_feature * INPUTS)
    times = TIMES[::3]
    data = regression(key, samples, 1 / INPUTS, (INPUTS,), INPUTS, noise=noise)
    large = jnp.arange(INPUTS) < round(share_of_large_features * INPUTS)
    scale = jnp.where(large, 1.0, 1 / ratio_of_scales)[None]
    w = given_data.flow(samples * times, data.x * scale, data.y) * scale
    test = given_data.excess_error(w, data.teacher, data.eigenvalues)
    training = given_data.mean_squared_error(w, data.x, data.y)
    return {"x": times} | shown(test, training)


def shown(test, training):
    """Halve mean squared errors; errors below the least that is shown are drawn there."""
    return {
        "test error": jnp.maximum(test / 2, LEAST),
        "training error": jnp.maximum(training / 2, LEAST),
    }
