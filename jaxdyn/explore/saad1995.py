"""Two committees of two units learning online: plateau, escape and floor, by learning rate, noise
and start."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdyn import RK4, integrate, tasks, train
from jaxdyn.losses import squared_error
from jaxdyn.papers.online.saad1995 import committees as paper
from jaxdyn.theory import online
from jaxdyn.theory.online import specialisation
from jaxdyn.theory.online.gaussian_integrals import erf, root

__all__ = ["AXES", "DEFAULT", "SLIDERS", "WITHIN", "simulate", "theory"]

SLIDERS = {
    "learning_rate": (0.3, 0.6, 1.0, 1.5),
    "noise": (0.01, 0.03, 0.1, 0.3),
    "initial_gap": (1e-5, 1e-4, 1e-3, 1e-2, 0.1),
}
DEFAULT = {"learning_rate": 1.0, "noise": 0.1, "initial_gap": 1e-2}
AXES = {
    "xlabel": "examples per input",
    "ylabel": "generalisation error",
    "xscale": "linear",
    "yscale": "log",
}
INPUTS = 250
UNITS = 2
WITHIN = 4 * INPUTS**-0.5  # four standard deviations of overlaps of order one
TIMES = np.linspace(0, 300, 61)


def theory(*, learning_rate, noise, initial_gap):
    """Integrate the ODE of infinitely many inputs; return the plateau and the noise's floor beside
    it."""
    teacher = specialisation.teacher(UNITS, noise)
    start = paper.start_of(UNITS, initial_gap)

    def observe(state):
        return {"error": online.generalisation_error(state.params, teacher)}

    velocity = online.velocity(teacher, learning_rate=learning_rate)
    run = integrate(velocity, start, times=TIMES, observe=observe, solver=RK4(0.5))
    plateau = specialisation.moving_plateau(UNITS, learning_rate, noise).error
    floor = specialisation.noise_floor_at_rate(UNITS, learning_rate) * noise**2
    return {
        "x": TIMES,
        "committees": run.observed["error"],
        "plateau": jnp.full(TIMES.shape, plateau),
        "floor of noise": jnp.full(TIMES.shape, floor),
    }


def simulate(key, *, learning_rate, noise, initial_gap):
    """Learn a teacher of 250 inputs, one new example at a step."""
    Q, R, v = paper.start_of(UNITS, initial_gap)
    teacher = specialisation.teacher(UNITS, noise)
    of = jnp.eye(UNITS, INPUTS)
    overlaps = jnp.block([[teacher.overlaps, R.T], [R, Q]])
    start = root(overlaps)[UNITS:] @ jnp.eye(2 * UNITS, INPUTS)

    def machine(w, x):
        return erf().apply(x @ w.T) @ v

    def label(key):
        return tasks.labelled(key, lambda x: machine(of, x), 1, INPUTS, noise=noise)

    def observe(state):
        student = online.overlaps(state.params, v, of)
        return {"error": online.generalisation_error(student, teacher)}

    times = TIMES[::3]
    steps = (times * INPUTS).round()
    field = jax.grad(squared_error(machine))
    optimizer = optax.sgd(learning_rate / INPUTS)
    stream = tasks.online(label)

    @jax.jit
    def learn(w):
        return train(field, optimizer, stream, w, times=steps, observe=observe, key=key).observed

    return {"x": times, "committees": learn(start)["error"]}
