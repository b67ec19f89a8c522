"""Particle: the slow manifold of a light particle, on which inertia is a correction to descent."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxdyn import RK4, Claim, integrate, plot, sweep
from jaxdyn.claims import Domain
from jaxdyn.papers import Experiment
from jaxdyn.papers.descent.parimi2025.methods import (
    different,
    draw_order,
    largest_errors,
    order_in,
)

__all__ = ["EXPERIMENT"]


def slow_manifold(*, masses=(0.03, 0.01, 0.003), curvature=2.0, duration=3.0, sweep=sweep):
    """A light particle keeps to its slow manifold, on which it descends a little faster.

    Its motion is mass x'' + x' + curvature x = 0, and the flow on the slow manifold is
    x' = -(1 + mass curvature) curvature x.

    Args:
        masses: masses of the particle.
        curvature: curvature of the quadratic in which it moves.
        duration: time of the motion.
    """
    with jax.enable_x64(True):
        experiment = partial(particle, curvature=curvature, duration=duration)
        runs = sweep(experiment, {"mass": different(masses)})
    return runs.assign_attrs(curvature=curvature)


def particle(mass, *, curvature, duration):
    """A particle beside the flow on its slow manifold."""

    def velocity(_, state):
        position, speed = state
        return speed, -(speed + curvature * position) / mass

    def observe(state):
        slow = jnp.exp(-curvature * (1 + mass * curvature) * state.time)
        return {"x": state.params[0], "x_theory": slow}

    start = (1.0, -curvature)
    times = np.linspace(0, duration, 61)
    # A tenth of the time in which the fast motion decays.
    return integrate(velocity, start, times=times, observe=observe, solver=RK4(0.1 * mass))


def order_of_manifold(runs):
    errors = largest_errors(runs.x, runs.x_theory)
    return order_in(errors, "mass")


def light(runs):
    return runs.mass.size > 1 and float(runs.mass.max()) * runs.attrs["curvature"] <= 0.06


def plot_slow_manifold(runs, figure):
    """Draw the lightest particle and errors by its mass."""
    course, errors = plot.panels(
        figure, "The particle keeps to its slow manifold", "To second order in its mass", height=2.8
    )
    run = runs.isel(mass=0)
    plot.beside(course, run, "x")
    course.set(xlabel="time", ylabel="position")
    plot.legend(course, simulated="particle", predicted="slow manifold")
    distances = largest_errors(runs.x, runs.x_theory)
    draw_order(errors, distances, "mass", 2)
    errors.set(xlabel="mass")
    plot.legend(errors, simulated="particle", predicted="second order", loc="lower right")


LIGHT = Domain("there are two masses, and mass x curvature is at most 0.06", light)

CLAIMS = (
    Claim(
        "a light particle keeps to its slow manifold to second order in its mass",
        "order in the mass of the largest distance from the manifold",
        order_of_manifold,
        within=(1.9, 2.1),
        when=LIGHT,
    ),
)

EXPERIMENT = Experiment(
    slow_manifold,
    claims=CLAIMS,
    plot=plot_slow_manifold,
    others=({"masses": (0.02, 0.005, 0.001)}, {"curvature": 1.5}),
)
