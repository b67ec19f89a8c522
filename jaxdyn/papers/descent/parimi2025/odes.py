"""ODEs: the damped oscillators that methods follow in small steps."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxdyn import Claim, State, plot, sweep, train
from jaxdyn.claims import Domain, worst
from jaxdyn.optimizers import ahead, nesterov_schedule, three_term
from jaxdyn.papers import Experiment
from jaxdyn.papers.descent.parimi2025.methods import (
    different,
    draw_order,
    largest_errors,
    nothing,
    order_in,
)
from jaxdyn.theory.descent import momentum

__all__ = ["CONVEX", "STRONGLY_CONVEX"]

# Convex functions.


def convex(*, learning_rates=(1e-2, 1e-3, 1e-4, 1e-5), duration=20.0, sweep=sweep):
    """Nesterov's method for convex functions follows a Bessel function in small steps.

    Its ODE is x'' + 3 x' / t + x = 0 in the time t = sqrt(learning rate) x step, for a mode of unit
    curvature: x = 2 J_1(t) / t.

    Args:
        learning_rates: learning rates.
        duration: time t of every run.
    """
    with jax.enable_x64(True):
        rates = different(learning_rates)
        return sweep(partial(convex_mode, duration=duration), {"learning_rate": rates})


def convex_mode(learning_rate, *, duration):
    """One mode of unit curvature under Nesterov's method for convex functions, beside its ODE."""
    rule = three_term(learning_rate, nesterov_schedule, nesterov_schedule)
    step = jnp.sqrt(learning_rate)

    def field(x, _):
        return x

    def observe(state):
        t = step * state.time
        x = ahead(state, -nesterov_schedule(state.time))
        bessel = momentum.nesterov_flow(t, 1.0)
        return {"t": t, "x": x, "x_theory": bessel}

    times = jnp.linspace(0, duration, 201) / step
    return train(field, rule, nothing, 1.0, times=times, observe=observe)


def order_of_bessel(runs):
    errors = largest_errors(runs.x, runs.x_theory)
    return order_in(errors, "learning_rate")


def loss_to_bound(runs):
    return worst(runs.t**2 * runs.x**2 / 4)


def small_rates(runs):
    """Whether an order can be told."""
    rates = runs.learning_rate
    return rates.size > 1 and float(rates.max()) <= 0.01


def plot_convex(runs, figure):
    """Draw a run beside the Bessel function, and errors by the learning rate."""
    course, errors = plot.panels(
        figure, "Nesterov's method follows its ODE", "To order sqrt(learning rate)", height=2.8
    )
    run = runs.isel(learning_rate=0)
    plot.points_and_line(course, run.t, run.x, run.x_theory)
    course.set(xlabel="sqrt(learning rate) x step", ylabel="position")
    plot.legend(course, simulated="method", predicted="ODE")
    distances = largest_errors(runs.x, runs.x_theory)
    draw_order(errors, distances, "learning_rate", 0.5)
    errors.set(xlabel="learning rate")
    plot.legend(errors, simulated="method - ODE", predicted="order 1/2")


# Strongly convex functions.


METHODS = ["heavy ball", "Nesterov"]


def strongly_convex(
    *, learning_rates=(1e-2, 1e-3, 1e-4, 1e-5), curvature=4.0, duration=10.0, sweep=sweep
):
    """In small steps Nesterov's method and the heavy ball are one oscillator, told apart by terms
    of high resolution.

    The ODEs of high resolution have terms of order sqrt(learning rate); what is published as their
    velocity at the start is not that of the methods' steps, which costs this order again.

    Args:
        learning_rates: learning rates.
        curvature: curvature of the mode; the methods are tuned to a convexity of 1.
        duration: time sqrt(learning rate) x step of every run.
    """
    with jax.enable_x64(True):
        experiment = partial(oscillating_mode, curvature=curvature, span=duration)
        axes = {"learning_rate": different(learning_rates), "nesterov": (0, 1)}
        runs = sweep(experiment, axes)
    runs = runs.assign_coords(nesterov=METHODS)
    return runs.assign_attrs(curvature=curvature)


def oscillating_mode(learning_rate, nesterov, *, curvature, span):
    """One mode under Nesterov's method or the heavy ball, beside ODEs of low and high resolution;
    convexity 1."""
    s = learning_rate
    step = jnp.sqrt(learning_rate)
    b = (1 - step) / (1 + step)
    change = -2 * s * curvature / (1 + step)
    by_nesterov = momentum.nesterov_oscillator(s, 1.0, curvature)
    by_ball = momentum.heavy_ball_oscillator(s, 1.0, curvature)
    damping = jnp.where(nesterov == 1, by_nesterov[0], by_ball[0])
    stiffness = jnp.where(nesterov == 1, by_nesterov[1], by_ball[1])

    def field(x, _):
        return curvature * x

    def observe(state):
        def solution(damping, stiffness, v0):
            return momentum.oscillator(step * state.time, damping, stiffness, 1.0, v0)

        of_step = momentum.step_velocity(change, step, damping, stiffness, 1.0)
        return {
            "x": state.params,
            "low": solution(2.0, curvature, 0.0),
            "published": solution(damping, stiffness, change / step),
            "meeting": solution(damping, stiffness, of_step),
        }

    rule = three_term(s, b, nesterov * b)
    start = jnp.array(1.0)
    times = jnp.linspace(0, span, 201) / step
    # The first step of both is `change`: for the heavy ball after one of plain descent.
    velocity = jnp.where(nesterov == 1, 0.0, -s * curvature)
    memory = rule.init(start)._replace(velocity=velocity)
    begin = State(0, start, memory)
    return train(field, rule, nothing, begin, times=times, observe=observe)


def farthest_order(runs, ode, expected):
    """The order at which an ODE meets the methods; that of the method which is farther from what is
    expected."""
    errors = largest_errors(runs.x, runs[ode])
    each = [errors.sel(nesterov=name) for name in METHODS]
    orders = [order_in(errors, "learning_rate") for errors in each]
    return max(orders, key=lambda value: abs(value - expected))


def order_of_meeting(runs):
    return farthest_order(runs, "meeting", 1)


def order_of_published(runs):
    return farthest_order(runs, "published", 1)


def order_of_low(runs):
    return farthest_order(runs, "low", 0.5)


def small_steps(runs):
    largest = float(runs.learning_rate.max())
    return small_rates(runs) and largest * runs.attrs["curvature"] <= 0.1


def plot_strongly_convex(runs, figure):
    """Draw the errors of all ODEs by the learning rate, for both methods."""
    titles = ("ODEs of the heavy ball", "ODEs of Nesterov's method")
    panels = plot.panels(figure, *titles, height=3.8)
    labels = {
        "low": ("low resolution", 0.5),
        "published": ("high, published start", 0.5),
        "meeting": ("high, start of the steps", 1.0),
    }
    for axes, name in zip(panels, METHODS, strict=True):
        chosen = runs.sel(nesterov=name)
        for colour, (ode, (label, power)) in zip(plot.COLOURS, labels.items(), strict=False):
            errors = largest_errors(chosen.x, chosen[ode])
            draw_order(axes, errors, "learning_rate", power, colour=colour, label=label)
        axes.set(xlabel="learning rate")
    plot.legend(panels[0], simulated="method - ODE", predicted="order 1/2 or 1", below=True)


SMALL_RATES = Domain("there are two learning rates, none above 0.01", small_rates)
SMALL_STEPS = Domain(
    "there are two learning rates, none above 0.01 or above 0.1 / curvature", small_steps
)

CONVEX_CLAIMS = (
    Claim(
        "Nesterov's method for convex functions follows a Bessel function to order sqrt(learning "
        "rate)",
        "order in the learning rate of the largest distance",
        order_of_bessel,
        within=(0.45, 0.55),
        when=SMALL_RATES,
    ),
    Claim(
        "the loss of Nesterov's method for convex functions stays below 2 |x_0|^2 / t^2",
        "largest ratio of the loss to this bound",
        loss_to_bound,
        below=1,
    ),
)
STRONGLY_CONVEX_CLAIMS = (
    Claim(
        "ODEs of high resolution that start with the velocity of the first step meet strongly "
        "convex methods to the order of the learning rate",
        "order in the learning rate of the largest distance, of the method farther from 1",
        order_of_meeting,
        within=(0.9, 1.1),
        when=SMALL_STEPS,
    ),
    Claim(
        "ODEs of high resolution meet strongly convex methods to the order of the learning rate "
        "from their published starting velocity",
        "order in the learning rate of the largest distance, of the method farther from 1",
        order_of_published,
        within=(0.9, 1.1),
        when=SMALL_STEPS,
        holds=False,
    ),
    Claim(
        "the ODE of low resolution, the same for the heavy ball and Nesterov's method, meets them "
        "to order sqrt(learning rate)",
        "order in the learning rate of the largest distance, of the method farther from 1/2",
        order_of_low,
        within=(0.4, 0.6),
        when=SMALL_STEPS,
    ),
)

THREE_RATES = {"learning_rates": (3e-3, 3e-4, 3e-5)}
STEEPER = {"curvature": 7.0, "duration": 6.0}

CONVEX = Experiment(
    convex, claims=CONVEX_CLAIMS, plot=plot_convex, others=({"duration": 12.0}, THREE_RATES)
)
STRONGLY_CONVEX = Experiment(
    strongly_convex,
    claims=STRONGLY_CONVEX_CLAIMS,
    plot=plot_strongly_convex,
    others=(STEEPER, THREE_RATES),
)
