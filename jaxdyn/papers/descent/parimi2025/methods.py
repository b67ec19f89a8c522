"""The methods: one recursion of three terms, tuned to curvatures between m and L."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdyn import plot, train
from jaxdyn.claims import order
from jaxdyn.optimizers import ahead, three_term
from jaxdyn.theory.descent import momentum

__all__ = [
    "NAMES",
    "TUNINGS",
    "check_conditions",
    "contractions",
    "descend",
    "different",
    "draw_order",
    "largest_errors",
    "nothing",
    "order_in",
]

TUNINGS = {
    "gradient descent": momentum.gradient_descent,
    "Nesterov": momentum.nesterov,
    "Nesterov, quadratic": momentum.nesterov_quadratic,
    "heavy ball": momentum.heavy_ball,
    "triple momentum": momentum.triple_momentum,
}
NAMES = list(TUNINGS)


def contractions(kappa):
    """The factor by which each method contracts a quadratic of condition number kappa a step."""
    root = np.sqrt(kappa)
    return {
        "gradient descent": (kappa - 1) / (kappa + 1),
        "Nesterov": 1 - 1 / root,
        "Nesterov, quadratic": 1 - 2 / np.sqrt(3 * kappa + 1),
        "heavy ball": (root - 1) / (root + 1),
        "triple momentum": 1 - 1 / root,
    }


def check_conditions(name, kappas):
    if min(kappas) <= 1:
        raise ValueError(f"{name}: {kappas}; pass condition numbers above 1")


def nothing(key, step):
    """The stream of a deterministic problem."""
    return ()


def descend(rule, m, L, slope, start, *, times, observe):
    """Train by one of TUNINGS, for curvatures from m to L; `observe` is given its output."""
    methods = [tune(m, L) for tune in TUNINGS.values()]

    def choose(*coefficients):
        return jnp.stack(coefficients)[rule]

    def field(x, _):
        return slope(x)

    def output(state):
        return observe(state.time, ahead(state, method.output - method.lookahead), method)

    method = jax.tree.map(choose, *methods)
    optimizer = three_term(*method[:3])
    return train(field, optimizer, nothing, start, times=times, observe=output)


def different(values):
    return tuple(dict.fromkeys(values))


def largest_errors(simulated, theory):
    return abs(simulated - theory).max("time", skipna=False)


def order_in(errors, dim):
    return order(errors, errors[dim])


def draw_order(axes, errors, dim, expected, **style):
    """Draw errors as points and the power of `dim` that is expected as a line through the first."""
    errors = errors.sortby(dim)
    places = errors[dim]
    line = errors[0] * (places / places[0]) ** expected
    plot.points_and_line(axes, places, errors, line, **style)
    axes.set(ylabel="largest distance", xscale="log", yscale="log")
    # Labels between powers of ten would overlap.
    axes.xaxis.set_minor_formatter("")
