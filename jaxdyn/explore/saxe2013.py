"""Deep linear networks: when the modes of a task are learned, by depth, initial strength and
spectrum."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdyn import RK4, flow, losses, models, observables, tasks
from jaxdyn.theory import linear

__all__ = ["AXES", "DEFAULT", "SLIDERS", "WITHIN", "simulate", "theory"]

SLIDERS = {
    "depth": (1.0, 2.0, 3.0, 4.0, 5.0),
    "initial_strength": (1e-4, 1e-3, 1e-2, 3e-2, 0.1),
    "ratio_of_modes": (1.0, 1.2, 1.5, 2.0, 3.0),
}
DEFAULT = {"depth": 2.0, "initial_strength": 1e-3, "ratio_of_modes": 1.5}
AXES = {"xlabel": "flow time", "ylabel": "mode strength", "xscale": "log", "yscale": "linear"}
WITHIN = 1e-3  # what is left of RK4's error
TIMES = np.geomspace(0.1, 300, 70)
MODES = ("mode 1", "mode 2", "mode 3")


def spectrum(ratio_of_modes):
    """Return the singular values of three modes, the strongest of 3."""
    return 3 / jnp.asarray(ratio_of_modes) ** np.arange(3)


def theory(*, depth, initial_strength, ratio_of_modes):
    """Return the closed form of each mode."""

    def strength(s):
        return linear.deep_mode_strength(TIMES, s, initial_strength, depth)

    strengths = jax.vmap(strength)(spectrum(ratio_of_modes))
    return {"x": TIMES, **dict(zip(MODES, strengths, strict=True))}


def simulate(key, *, depth, initial_strength, ratio_of_modes):
    """Follow the gradient flow of a network of four units a layer, started balanced and aligned
    with its task."""
    s = spectrum(ratio_of_modes)
    layers = int(depth)
    frames = tasks.frames(key, [4] * (layers + 1), 3)
    right = frames[0]
    left = frames[-1]
    moments = tasks.linear_teacher(tasks.from_svd(left, s, right))
    start = models.aligned(frames, jnp.full(3, initial_strength))
    field = jax.grad(losses.covariance_loss(models.product))
    times = TIMES[::3]
    observe = observables.mode_strengths(models.product, left, right)
    solver = RK4(0.1 * float(linear.max_learning_rate(s.max(), depth)))

    @jax.jit
    def learn(start):
        return flow(field, moments, start, times=times, observe=observe, solver=solver).observed

    strengths = learn(start)["mode_strengths"].T
    return {"x": times, **dict(zip(MODES, strengths, strict=True))}
