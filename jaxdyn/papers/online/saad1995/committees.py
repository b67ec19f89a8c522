"""Committees in both descriptions: the chain of overlaps at finite size, and the ODE of its
limit."""

from functools import partial
from operator import itemgetter

import jax
import jax.numpy as jnp
import numpy as np

from jaxdyn import RK4, integrate, iterate, run_key
from jaxdyn.theory import online
from jaxdyn.theory.online import specialisation

__all__ = [
    "RECORDS",
    "check_learning_rate",
    "check_sizes",
    "observed",
    "plateau_of",
    "start_of",
    "sweep_chains",
    "sweep_limits",
]

BLOCK = 50  # examples that a chain draws at once
RECORDS = np.linspace(0, 1, 41)  # in units of a run's last time


def check_learning_rate(units, learning_rate):
    """Refuse committees without a plateau, and rates at which they learn nothing."""
    if units < 2:
        raise ValueError(f"units: {units}; pass 2 or more, which have to specialise")
    with jax.enable_x64(True):
        largest = float(specialisation.max_learning_rate(units))
    if not 0 < learning_rate < largest:
        raise ValueError(f"learning_rate: {learning_rate}; pass one between 0 and {largest:.4g}")


def check_sizes(name, sizes):
    if any(size % BLOCK or size < BLOCK for size in sizes):
        raise ValueError(f"{name}: {sizes}; pass multiples of {BLOCK} inputs")


def start_of(units, gap):
    """A student whose units are alike but for a gap between the overlaps of equal units and those
    of others."""
    own = gap * jnp.eye(units)
    return online.Student(0.2 + own, 0.1 + own, jnp.ones(units))


def observed(student, teacher):
    """Observe overlaps, the generalisation error, and how far the units have specialised."""
    overlaps = jnp.concatenate([jnp.ravel(matrix) for matrix in student[:2]])
    error = online.generalisation_error(student, teacher)
    asymmetry = specialisation.asymmetry(student.with_teacher)
    return {"overlaps": overlaps, "error": error, "asymmetry": asymmetry}


def chain(inputs, last, gap, noise, draw, *, units, learning_rate, scale):
    """Learn at finite d without weights, from random ones where there is no gap."""
    teacher = specialisation.teacher(units, noise)
    k_start, key = jax.random.split(run_key(draw.astype(int)))
    random = online.random_start(k_start, teacher, jnp.ones(units), inputs, scale)
    start = jax.tree.map(partial(jnp.where, gap == 0), random, start_of(units, gap))
    step = online.chain(teacher, inputs, learning_rate=learning_rate, examples=BLOCK)
    times = jnp.round(last * RECORDS * inputs / BLOCK)

    def observe(state):
        return observed(state.params, teacher)

    return iterate(step, start, times=times, observe=observe, key=key)


def sweep_chains(kinds, sweep, *, units, learning_rate, first_draw=0, scale=0.02):
    """Run chains of several kinds, each a dict of options and the number of its `runs`."""
    names = ("inputs", "last", "gap", "noise")
    rows = [itemgetter(*names)(kind) for kind in kinds]
    rows = np.repeat(np.array(rows, float), [kind["runs"] for kind in kinds], axis=0)
    draws = first_draw + np.arange(len(rows))
    axes = {(*names, "draw"): np.column_stack([rows, draws])}
    setting = {"units": units, "learning_rate": learning_rate, "scale": scale}
    runs = sweep(partial(chain, **setting), axes, dims={"overlaps": "entry"})
    runs = runs.rename(inputs_last_gap_noise_draw="run")
    runs = runs.assign_coords(time=runs.time * BLOCK / runs.inputs)
    return runs.drop_vars(["last", "gap", "noise", "draw"])


def limit(last, gap, noise, learning_rate, *, units):
    """Integrate the ODE of infinite d; from close to the solution where there is no gap."""
    teacher = specialisation.teacher(units, noise)
    eye = jnp.eye(units)
    solved = online.Student((1 + 1e-6) * eye, eye, jnp.ones(units))
    start = jax.tree.map(partial(jnp.where, gap == 0), solved, start_of(units, gap))
    velocity = online.velocity(teacher, learning_rate=learning_rate)
    # A quarter of the unit of time in which a committee learns: rates are of order one in it.
    solver = RK4(0.25 / learning_rate)

    def observe(state):
        return observed(state.params, teacher)

    return integrate(velocity, start, times=last * RECORDS, observe=observe, solver=solver)


def sweep_limits(rows, sweep, *, units):
    """Integrate the ODE for rows of (last time, gap, noise, learning rate)."""
    axes = {("last", "gap", "noise", "learning_rate"): np.array(rows, float)}
    cases = sweep(partial(limit, units=units), axes, dims={"overlaps": "entry"})
    cases = cases.rename(last_gap_noise_learning_rate="case")
    return cases.transpose("case", ...)


def plateau_of(units, learning_rate):
    """The error of the plateau, and the rate per time of the escape from it."""
    plateau = specialisation.moving_plateau(units, learning_rate)
    return float(plateau.error), float(plateau.rate) * learning_rate
