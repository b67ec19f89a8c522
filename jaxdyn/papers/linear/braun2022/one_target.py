"""Learning one target from a balanced start: the exact solution, what it says, and its forms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxdyn import RK4, Claim, flow, plot, sweep
from jaxdyn.claims import ratio, worst
from jaxdyn.losses import covariance_loss
from jaxdyn.models import product
from jaxdyn.papers import Experiment
from jaxdyn.papers.linear.braun2022.starts import (
    EQUAL,
    FEW_OUTPUTS,
    MANY,
    STRONG,
    UNEQUAL,
    equal_networks,
    named,
    problem,
    unequal_networks,
)
from jaxdyn.tasks import linear_teacher
from jaxdyn.theory.linear import riccati

__all__ = ["EXPERIMENTS"]

# The exact solution beside the flow.


def exact_solution(
    *,
    strengths=(3.0, 2.0, 1.0),
    inputs=5,
    outputs=4,
    imbalances=(0.5, 2.0),
    scale=0.3,
    draws=2,
    sweep=sweep,
):
    """From any balanced start the weights follow the exact solution of a matrix Riccati equation.

    Args:
        strengths: singular values of the target.
        inputs: number of inputs.
        outputs: number of outputs.
        imbalances: sizes of lambda, which is given both signs; zero is always there.
        scale: singular values of the initial weights, about.
        draws: number of networks of each imbalance.
    """
    with jax.enable_x64(True):
        networks = unequal_networks(strengths, inputs, outputs, imbalances, scale, draws)
        return learned_by(networks, sweep)


def learned_by(networks, sweep):
    """Flows of all networks: accurately at first, or until late."""
    axes = networks.axes | {"late": (0, 1)}
    experiment = partial(learn, **networks.weights)
    runs = sweep(experiment, axes, dims={"gram": ("row", "column")})
    return named(runs)


def learn(imbalance, opposed, index, draw, late, **weights):
    """Gradient flow from given weights beside the exact solution: accurately at first, or until
    late, in fast steps."""
    start, yx = problem(index, draw, opposed, **weights)
    fastest = jnp.hypot(imbalance, 2 * jnp.linalg.norm(yx, 2))
    rate = riccati.late_rate(yx, len(start[0]), imbalance)
    # All is learned after 25 of the slowest time constants; the accurate part lasts 24 of the
    # fastest.
    duration = jnp.where(late, 25 / rate, 24 / fastest)
    times = jnp.linspace(0.0, 1.0, 51) * duration
    x = jnp.eye(yx.shape[1])
    initial = riccati.ntk(start, x)

    def moved(weights):
        change = riccati.ntk(weights, x) - initial
        return jnp.linalg.norm(change) / jnp.linalg.norm(initial)

    def observe(state):
        exact = riccati.solution(state.time, start, yx)
        mean, deviation = riccati.imbalance(state.params)
        simulated = {"kernel": moved(state.params), "gram": riccati.gram(state.params)}
        predicted = {"kernel_theory": moved(exact), "gram_theory": riccati.gram(exact)}
        gap = jnp.linalg.norm(product(state.params) - yx)
        drift = jnp.maximum(mean - imbalance, deviation)
        return simulated | predicted | {"gap": gap, "drift": drift, "rate": rate}

    # At a hundredth of the fastest time constant the steps of fourth order are exact to 1e-10; a
    # fifth is stable until late.
    solver = RK4(jnp.where(late, 0.2, 0.01) / fastest)
    gradient = jax.grad(covariance_loss(product))
    moments = linear_teacher(yx)
    return flow(gradient, moments, start, times=times, observe=observe, solver=solver)


def gram_deviation(runs):
    early = runs.sel(late=0)
    largest = abs(early.gram_theory).max()
    return worst(early.gram, early.gram_theory) / float(largest)


def kernel_deviation(runs):
    early = runs.sel(late=0)
    largest = early.kernel_theory.max()
    return worst(early.kernel, early.kernel_theory) / float(largest)


def drift_of_balance(runs):
    return worst(runs.drift.sel(late=0))


def late_rate_error(runs):
    """Largest mean deviation of the rate at which the map nears its target, from time constant 20
    to 25."""
    last = runs.sel(late=1).isel(time=[40, 50])
    decays = -np.log(last.gap).diff("time")
    rate = decays / last.time.diff("time")
    # The two records have times of their own, and so would not align.
    measured = rate.isel(time=0, drop=True)
    predicted = last.rate.isel(time=0, drop=True)
    error = abs(measured / predicted - 1)
    return error.mean("draw").max(skipna=False)


def plot_exact_solution(runs, figure):
    """Draw how far the kernel moves, and the map's distance from its target until late."""
    early, late = plot.panels(
        figure, "Kernels move as in theory", "Maps near targets at a known rate", height=3.2
    )
    some = runs.isel(draw=0, run=runs.imbalance.values >= 0)
    for colour, position in zip(plot.COLOURS, range(some.sizes["run"]), strict=False):
        run = some.isel(run=position)
        options = {"colour": colour, "label": f"imbalance {run.imbalance:g}"}
        plot.beside(early, run.sel(late=0), "kernel", **options)
        end = run.sel(late=1)
        after_twenty = end.isel(time=40)
        elapsed = end.time - float(after_twenty.time)
        asymptote = after_twenty.gap * np.exp(-end.rate * elapsed)
        plot.points_and_line(late, end.time, end.gap, asymptote, colour=colour)
    early.set(xlabel="flow time", ylabel="relative change of the kernel")
    late.set(xlabel="flow time", ylabel="distance from the target", yscale="log")
    plot.legend(early, simulated="", predicted="", below=True)
    plot.legend(late, predicted="asymptote in theory", below=True)


# What the start decides: equal numbers of inputs and outputs.


def rich_and_lazy(
    *,
    strengths=(3.0, 2.0, 1.0),
    imbalances=(0.5, 2.0),
    lazy_imbalance=50.0,
    scale=0.3,
    draws=2,
    sweep=sweep,
):
    """The start decides whether a network learns richly, lazily, or never.

    A large imbalance leaves the tangent kernel as it is.  A square network of zero balance never
    learns its weakest mode where the determinant of its map has the wrong sign.

    Args:
        strengths: singular values of the target, as many as inputs and outputs.
        imbalances: sizes of lambda, which is given both signs; zero is always there.
        lazy_imbalance: the largest lambda, of both signs.
        scale: singular values of the initial weights, about.
        draws: number of networks of each imbalance.
    """
    with jax.enable_x64(True):
        networks = equal_networks(strengths, imbalances, lazy_imbalance, scale, draws)
        runs = learned_by(networks, sweep)
    weakest = min(strengths)
    strongest = max(strengths)
    return runs.assign_attrs(weakest=weakest, strongest=strongest, scale=scale)


def moderate(runs):
    """The networks whose determinant has the right sign, without the laziest."""
    lazy = abs(runs.imbalance) == runs.imbalance.max()
    right_sign = runs.opposed == 0
    return runs.isel(run=(right_sign & ~lazy).values)


def moderate_late_rate_error(runs):
    return late_rate_error(moderate(runs))


def kernel_movement(runs):
    """How far kernels have moved in the end, by ascending imbalance."""
    end = runs.kernel.sel(late=1).isel(time=-1, drop=True)
    right_sign = end.isel(run=(runs.opposed == 0).values)
    return right_sign.swap_dims(run="imbalance").transpose("imbalance", "draw")


def movement_beyond_balance(runs):
    """Largest ratio of the mean movement to that of the next smaller imbalance."""
    movement = kernel_movement(runs).mean("draw")
    from_balance = movement.sel(imbalance=movement.imbalance >= 0).values
    return ratio(from_balance[1:], from_balance[:-1])


def asymmetry_of_movement(runs):
    movement = kernel_movement(runs).values
    return worst(movement, movement[::-1], relative=True)


def laziest(runs):
    largest = int(runs.imbalance.argmax("run"))
    return runs.sel(late=0).isel(run=largest, drop=True)


def lazy_deviation(runs):
    """Deviation of the laziest map's distance from e^(-lambda t)."""
    distance, theory = laziest_distance(runs)
    return worst(distance, theory)


def laziest_distance(runs):
    """The relative distance of the laziest maps from the target, and e^(-lambda t)."""
    run = laziest(runs)
    imbalance = float(runs.imbalance.max())
    distance = run.gap / run.gap.isel(time=0, drop=True)
    return distance, np.exp(-imbalance * run.time)


def lazy_bound(runs):
    imbalance = float(runs.imbalance.max())
    strongest = runs.attrs["strongest"]
    scale = runs.attrs["scale"]
    return 2 * (strongest**2 / imbalance + 5 * scale**2) / imbalance


def unlearned_deviation(runs):
    """Deviation of the distance that is left by a determinant of the wrong sign from s_min."""
    wrong_sign = runs.gap.isel(run=(runs.opposed == 1).values)
    left = wrong_sign.sel(late=1).isel(time=-1)
    return worst(left / runs.attrs["weakest"], 1.0)


def plot_rich_and_lazy(runs, figure):
    """Draw how far kernels move, the laziest map, and the maps of zero balance."""
    movement, lazy, signs = plot.panels(
        figure,
        "Imbalance keeps the kernel",
        "A large imbalance learns like a linear model",
        "A wrong sign keeps the weakest mode from being learned",
    )
    moved = kernel_movement(runs).mean("draw")
    movement.plot(moved.imbalance, moved, "o-")
    movement.set(xscale="symlog", yscale="log", xticks=[-10, 0, 10])
    movement.set(xlabel="imbalance lambda", ylabel="final kernel change")
    distance, theory = laziest_distance(runs.isel(draw=0))
    plot.points_and_line(lazy, distance.time, distance, theory)
    lazy.set(xlabel="flow time", ylabel="relative distance")
    plot.legend(lazy, predicted="exp(-lambda t)")
    zero_balance = (runs.imbalance == 0).values
    balanced = runs.sel(late=1).isel(draw=0, run=zero_balance)
    for colour, (opposed, name) in zip(plot.COLOURS[2:], SIGNS.items(), strict=False):
        run = balanced.isel(run=(balanced.opposed == opposed).values).squeeze("run")
        signs.plot(run.time, run.gap, color=colour, label=name)
    weakest = runs.attrs["weakest"]
    signs.axhline(weakest, color="0.5", linestyle="--", label="weakest strength")
    signs.set(xlabel="flow time", ylabel="distance from the target")
    signs.legend()


SIGNS = {0: "right sign", 1: "wrong sign"}


# Two forms of the solution in double precision.


def numerical_forms(
    *,
    strengths=(3.0, 2.0, 1.0),
    inputs=5,
    outputs=4,
    imbalances=(0.5, 2.0),
    scale=0.3,
    draws=2,
    sweep=sweep,
):
    """The printed formula of the solution loses all digits in double precision, a graded one none.

    Args:
        strengths: singular values of the target.
        inputs: number of inputs.
        outputs: number of outputs.
        imbalances: sizes of lambda, which is given both signs; zero is always there.
        scale: singular values of the initial weights, about.
        draws: number of networks of each imbalance.
    """
    with jax.enable_x64(True):
        networks = unequal_networks(strengths, inputs, outputs, imbalances, scale, draws)
        experiment = partial(formulas, **networks.weights)
        runs = sweep(experiment, networks.axes, dims={"exact": "step", "printed": "step"})
    # In units of the fastest growing direction's time constant.
    time = 8 * np.arange(1, runs.sizes["step"] + 1)
    return named(runs).assign_coords(step=time)


def formulas(imbalance, opposed, index, draw, *, steps=50, **weights):
    """Return relative errors of the exact and the printed form at each time, against short steps of
    e^16."""
    start, yx = problem(index, draw, opposed, **weights)
    rates, directions = jnp.linalg.eigh(riccati.generator(yx, imbalance))
    times = 8 / rates[-1] * jnp.arange(1, steps + 1)
    trajectory = riccati.trajectory(times, start, yx)
    references = jax.vmap(lambda *weights: riccati.gram(weights))(*trajectory)

    def errors(time, reference):
        def relative(gram):
            return jnp.linalg.norm(gram - reference) / jnp.linalg.norm(reference)

        # No number, after an overflow, is as good as no digit.
        as_printed = printed(time, start, yx, imbalance)
        lost = jnp.fmin(relative(as_printed), 1.0)
        graded = riccati.gram(riccati.solution(time, start, yx))
        return {"exact": relative(graded), "printed": lost}

    # Rounding of a step is relative to the start, of which the least part that grows becomes as
    # large as the largest.
    hidden = len(start[0])
    stacked_weights = jnp.concatenate([start[0].T, start[1]])
    along_growing = directions[:, -hidden:].T @ stacked_weights
    sizes = jnp.linalg.svd(along_growing, compute_uv=False)
    amplified = sizes[0] / sizes[-1]
    return jax.vmap(errors)(times, references) | {"amplified": amplified}


def printed(time, weights, yx, imbalance):
    """Return e^(Ft) Q [I + Q^T (e^(Ft) F^-1 e^(Ft) - F^-1) Q / 2]^-1 Q^T e^(Ft), the formula as
    printed."""
    rates, directions = jnp.linalg.eigh(riccati.generator(yx, imbalance))
    first, second = weights
    q = directions.T @ jnp.concatenate([first.T, second])
    moving = jnp.exp(rates * time)[:, None] * q
    late = moving.T @ (moving / rates[:, None])
    early = q.T @ (q / rates[:, None])
    metric = jnp.eye(q.shape[1]) + (late - early) / 2
    return directions @ moving @ jnp.linalg.inv(metric) @ moving.T @ directions.T


def printed_error(runs):
    return worst(runs.printed)


def graded_error(runs):
    return worst(runs.exact / runs.amplified)


def plot_numerical_forms(runs, figure):
    """Draw the relative errors of both forms."""
    (axes,) = plot.panels(figure, "The printed formula loses all digits", height=3.0)
    forms = {"printed": "formula as printed", "exact": "graded form"}
    for colour, (name, label) in zip(plot.COLOURS, forms.items(), strict=False):
        error = runs[name].max(("run", "draw"))
        axes.semilogy(error.step, error, "o-", color=colour, label=label)
    axes.set(xlabel="time (1 / largest growth rate)", ylabel="largest relative error")
    axes.legend()


# Decays of like size at (1 + x) times the rate are still mixed in at 20 decay times, by x e^(-20 x)
# < 1/20e.
MIXED_DECAYS = 1 / 20 / np.e

EXPERIMENTS = (
    Experiment(
        exact_solution,
        claims=(
            Claim(
                "the exact solution is the flow from any balanced start, up to the error of the "
                "flow's steps",
                "largest deviation of an entry of Q Q^T, relative to the largest entry",
                gram_deviation,
                below=1e-9,
            ),
            Claim(
                "the tangent kernel changes as the exact solution says, up to the error of the "
                "flow's steps",
                "largest deviation of the kernel's change, relative to the largest change",
                kernel_deviation,
                below=1e-9,
            ),
            Claim(
                "gradient flow conserves W_2^T W_2 - W_1 W_1^T, up to the error of its steps",
                "largest drift of the imbalance from lambda times the identity",
                drift_of_balance,
                below=1e-9,
            ),
            Claim(
                "late in training the map nears its target at the rate sqrt(lambda^2 + 4 s_min^2), "
                "or slower if some directions have no target",
                "largest mean relative deviation of the late rate",
                late_rate_error,
                below=MIXED_DECAYS,
            ),
        ),
        plot=plot_exact_solution,
        paper=MANY,
        others=(UNEQUAL, FEW_OUTPUTS),
    ),
    Experiment(
        rich_and_lazy,
        claims=(
            Claim(
                "the further a square network starts from balance, the less its kernel moves: from "
                "rich to lazy learning",
                "largest ratio of the mean movement at an imbalance to that at the next smaller",
                movement_beyond_balance,
                below=1,
            ),
            Claim(
                "where inputs and outputs are alike the kernel moves alike for both signs of the "
                "imbalance",
                "largest relative difference of the movements for both signs",
                asymmetry_of_movement,
                below=0.02,
            ),
            Claim(
                "a large imbalance is lazy: the map goes as 1 - e^(-lambda t), up to 2 (s^2 / "
                "lambda + 5 scale^2) / lambda",
                "largest deviation of the relative distance from e^(-lambda t)",
                lazy_deviation,
                below=lazy_bound,
            ),
            Claim(
                "a square start of zero balance whose determinant has the wrong sign never learns "
                "its weakest mode",
                "largest relative deviation of the distance that is left from the weakest strength",
                unlearned_deviation,
                below=1e-3,
            ),
            Claim(
                "late in training square maps near their target at the rate sqrt(lambda^2 + 4 "
                "s_min^2)",
                "largest mean relative deviation of the late rate",
                moderate_late_rate_error,
                below=MIXED_DECAYS,
            ),
            Claim(
                "the exact solution is the flow of square networks, up to the error of the flow's "
                "steps",
                "largest deviation of an entry of Q Q^T, relative to the largest entry",
                gram_deviation,
                below=1e-9,
            ),
            Claim(
                "the tangent kernel of square networks changes as the exact solution says, up to "
                "the error of the flow's steps",
                "largest deviation of the kernel's change, relative to the largest change",
                kernel_deviation,
                below=1e-9,
            ),
            Claim(
                "gradient flow of square networks conserves W_2^T W_2 - W_1 W_1^T, up to the error "
                "of its steps",
                "largest drift of the imbalance from lambda times the identity",
                drift_of_balance,
                below=1e-9,
            ),
        ),
        plot=plot_rich_and_lazy,
        paper=MANY,
        others=(EQUAL | {"lazy_imbalance": 30.0}, STRONG),
    ),
    Experiment(
        numerical_forms,
        claims=(
            Claim(
                "the printed formula of the solution holds in double precision to a part in a "
                "million, while e^(2 w t) grows to e^800",
                "largest relative error of the printed formula",
                printed_error,
                below=1e-6,
                holds=False,
            ),
            Claim(
                "the graded form of the solution is exact in double precision, up to the rounding "
                "of short steps of the condition e^8, which the flow amplifies",
                "largest relative error of the graded form, divided by the amplification",
                graded_error,
                below=np.exp(8) * np.finfo(float).eps,
            ),
        ),
        plot=plot_numerical_forms,
        paper=MANY,
        others=(UNEQUAL, FEW_OUTPUTS),
    ),
)
