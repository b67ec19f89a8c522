"""The ODE of infinitely many inputs: the plateau, the largest learning rate, and the floor."""

import jax
import numpy as np

from jaxdyn import Claim, Domain, plot, sweep
from jaxdyn.claims import worst
from jaxdyn.papers import Experiment
from jaxdyn.papers.online.saad1995.committees import (
    check_learning_rate,
    check_sizes,
    plateau_of,
    sweep_chains,
    sweep_limits,
)
from jaxdyn.theory.online import specialisation

__all__ = ["EXPERIMENTS"]

CLOSE = 0.01  # gaps of starts
ALIKE = 1e-7


# The plateau: units that are almost alike.


def plateau(*, units=2, learning_rate=1.0, inputs=900, runs=64, sweep=sweep):
    """Units that start almost alike dwell on a plateau of known error, and leave it at a known
    rate.

    Args:
        units: number of units of the student and of the teacher.
        learning_rate: learning rate eta.
        inputs: number of inputs d of the chains beside the ODE, a multiple of 50.
        runs: number of chains.
    """
    check_learning_rate(units, learning_rate)
    check_sizes("inputs", (inputs,))
    with jax.enable_x64(True):
        level, rate = plateau_of(units, learning_rate)
        # Gaps grow at this rate to order one.
        soon = 7 / rate
        late = (np.log(1 / ALIKE) + 6) / rate
        rows = [(soon, CLOSE, 0, learning_rate), (late, ALIKE, 0, learning_rate)]
        cases = sweep_limits(rows, sweep, units=units)
        kind = {"inputs": inputs, "last": soon, "gap": CLOSE, "noise": 0, "runs": runs}
        setting = {"units": units, "learning_rate": learning_rate, "first_draw": FIRST_DRAW}
        chains = sweep_chains([kind], sweep, **setting)
    return {"limit": cases.assign(level=level, rate=rate), "chains": chains}


FIRST_DRAW = 4544  # the number of the first draw, beyond those of all other chains


def alike(results):
    return results["limit"].isel(case=1)


def plateau_deviation(results):
    """How close the error comes to the plateau's."""
    case = alike(results)
    return abs(case.error / case.level - 1).min(skipna=False)


def growth(case, name, first, last):
    """The rate at which a quantity grows between two records."""
    quantity = np.log(case[name]).isel(time=[first, last])
    times = case.time.isel(time=[first, last])
    return (quantity.diff("time").values / times.diff("time").values).squeeze()


def rate_deviation(results):
    case = alike(results)
    # On the plateau, long before the units have specialised.
    return worst(growth(case, "asymmetry", 12, 16), case.rate, relative=True)


def plot_plateau(results, figure):
    """Draw overlaps of chains and of the ODE, and the error of units that start more alike."""
    overlaps, error = plot.panels(
        figure, "Units are alike, then specialise", "Errors dwell on the plateau", height=3.4
    )
    close = results["limit"].isel(case=0)
    chains = results["chains"]
    time = chains.time.isel(run=0)
    mean = chains.overlaps.mean("run")
    half = chains.sizes["entry"] // 2
    entries = {"$Q_{11}$": 0, "$Q_{12}$": 1, "$R_{11}$": half, "$R_{12}$": half + 1}
    for colour, (name, entry) in zip(plot.COLOURS, entries.items(), strict=False):
        overlaps.plot(close.time, close.overlaps.isel(entry=entry), color=colour)
        simulated = mean.isel(entry=entry)
        plot.points_and_line(overlaps, time, simulated, colour=colour, label=name)
    overlaps.set(xlabel="examples per input", ylabel="overlaps")
    plot.legend(overlaps, simulated="chains", predicted="ODE", below=True, ncols=2)
    for colour, case in zip(plot.COLOURS[4:], (close, alike(results)), strict=False):
        error.plot(case.time, case.error, color=colour, label=f"ODE, gap {float(case.gap):g}")
    level = float(close.level)
    error.axhline(level, color="0.3", linestyle="--", label="plateau, theory")
    error.set(xlabel="examples per input", ylabel="generalisation error", yscale="log")
    # Far smaller errors are those of units that have specialised.
    error.set_ylim(level / 100, 30 * level)
    plot.legend(error, simulated="", predicted="", below=True)


# The largest learning rate: beyond it the solution is unstable.


def largest_learning_rate(*, units=2, shares=(0.5, 0.9, 0.97, 1.03), sweep=sweep):
    """Close to the solution errors decay at learning rates below a largest one, and grow beyond it,
    at the rate of the slowest mode.

    Args:
        units: number of units of the student and of the teacher.
        shares: learning rates, in units of the largest.
    """
    if units < 1 or min(shares) <= 0 or len(set(shares)) < len(shares):
        raise ValueError(
            f"units, shares: {units}, {shares}; pass 1 or more, and different ones > 0"
        )
    with jax.enable_x64(True):
        rates = float(specialisation.max_learning_rate(units)) * np.array(shares)
        cases = sweep_limits([(60 / rate, 0, 0, rate) for rate in rates], sweep, units=units)
        damping, drive, _ = specialisation.deviations(units)
    matrices = [rate * damping - rate**2 * drive for rate in rates]
    theory = [-np.linalg.eigvalsh(matrix)[0] for matrix in matrices]
    # Late, when the slowest mode is left.
    measured = [growth(cases.isel(case=case), "error", -9, -1) for case in range(len(rates))]
    cases = cases.assign_coords(share=("case", list(shares)))
    return cases.assign(growth=("case", np.array(measured)), growth_theory=("case", theory))


def growth_deviation(cases):
    return worst(cases.growth, cases.growth_theory, relative=True)


def off_the_edge(cases):
    small = bool((cases.error.isel(time=-1) < 1e-3).all())
    return small and bool((abs(cases.share - 1) >= 0.01).all())


def plot_largest_learning_rate(cases, figure):
    """Draw errors close to the solution, and the rates at which they grow."""
    errors, rates = plot.panels(
        figure, "Errors decay, or grow", "Growth of the slowest mode", height=3.4
    )
    for case in range(cases.sizes["case"]):
        one = cases.isel(case=case)
        label = f"{float(one.share):g} $\\eta_{{max}}$"
        errors.plot(one.time, one.error, color=plot.COLOURS[case % 7], label=label)
    errors.set(xlabel="examples per input", ylabel="generalisation error", yscale="log")
    plot.legend(errors, simulated="", predicted="", below=True, ncols=2)
    ordered = cases.sortby("learning_rate")
    plot.points_and_line(rates, ordered.learning_rate, ordered.growth, ordered.growth_theory)
    rates.axhline(0, color="0.6", linewidth=0.8)
    rates.set(xlabel="learning rate", ylabel="growth of the error")
    plot.legend(rates, simulated="ODE", predicted="slowest mode", below=True)


# The floor: with noise the error does not vanish.


def noise_floor(*, units=2, learning_rate=1.0, noise=0.1, sweep=sweep):
    """With noisy labels the error comes to rest at a floor, which is proportional to the squared
    noise for little noise.

    Args:
        units: number of units of the student and of the teacher.
        learning_rate: learning rate eta.
        noise: standard deviation of the noise on the labels; half of it is taken, too.
    """
    check_learning_rate(max(units, 2), learning_rate)
    if noise <= 0:
        raise ValueError(f"noise: {noise}; pass a number > 0, as there is no floor without noise")
    # Ten times as long as the slowest mode needs.
    last = 500 / learning_rate
    with jax.enable_x64(True):
        rows = [(last, 0, level, learning_rate) for level in (noise, noise / 2)]
        cases = sweep_limits(rows, sweep, units=units)
        floor = float(specialisation.noise_floor_at_rate(units, learning_rate))
    return cases.assign(error_theory=floor * cases.noise**2)


def floor_power(cases):
    """The power of the noise with which errors at rest are off their lowest order."""
    large, small = excess(cases).values
    return np.log2(large / small)


def excess(cases):
    """By how much the errors at rest exceed the floor, relatively."""
    return cases.error.isel(time=-1) / cases.error_theory - 1


def little_noise(cases):
    return bool((abs(excess(cases)) < 0.1).all())


def plot_noise_floor(cases, figure):
    """Draw how the errors come to rest."""
    (axes,) = plot.panels(figure, "With noise the error rests at the floor", height=3)
    for colour, case in zip(plot.COLOURS, range(2), strict=False):
        one = cases.isel(case=case)
        floor = np.full(one.sizes["time"], float(one.error_theory))
        label = f"noise {float(one.noise):g}"
        plot.points_and_line(axes, one.time, one.error, floor, colour=colour, label=label)
    axes.set(xlabel="examples per input", ylabel="generalisation error", yscale="log")
    # The first error, of nearly perfect students, is too small to be seen beside the floor.
    axes.set_ylim(float(cases.error_theory.min()) / 10)
    plot.legend(axes, simulated="ODE", predicted="floor in theory")


DWELL = Claim(
    "units that start almost alike dwell at the plateau's error",
    "smallest relative deviation of the error from that of the plateau",
    plateau_deviation,
    below=100 * ALIKE,
)
SPECIALISE = Claim(
    "units specialise at the rate of the plateau at this learning rate",
    "relative deviation of the rate at which units specialise from theory",
    rate_deviation,
    below=1e-3,
)
STABILITY = Claim(
    "close to the solution errors decay as its slowest mode does, and beyond the largest learning "
    "rate they grow as it does",
    "largest relative deviation of the growth of an error from that of the slowest mode",
    growth_deviation,
    below=1e-2,
    when=Domain(
        "learning rates are off the largest by 1 % or more, and errors stay small", off_the_edge
    ),
)
FLOOR = Claim(
    "with noise errors rest at the floor, up to the next order, noise^2",
    "power of the noise with which errors at rest deviate from the floor",
    floor_power,
    within=(1.9, 2.1),
    when=Domain("errors at rest exceed the floor by less than a tenth", little_noise),
)

PAPER = {"units": 3, "learning_rate": 0.5}
PAPER_PLATEAU = PAPER | {"inputs": 4800}

PLATEAU = Experiment(
    plateau,
    claims=(DWELL, SPECIALISE),
    plot=plot_plateau,
    paper=PAPER_PLATEAU,
    others=({"learning_rate": 0.7, "inputs": 450}, {"learning_rate": 1.3, "inputs": 300}),
)
LARGEST_RATE = Experiment(
    largest_learning_rate,
    claims=(STABILITY,),
    plot=plot_largest_learning_rate,
    paper={"units": 3},
    others=({"shares": (1.05,)}, {"units": 3}),
)
NOISE_FLOOR = Experiment(
    noise_floor,
    claims=(FLOOR,),
    plot=plot_noise_floor,
    paper=PAPER,
    others=({"learning_rate": 0.7, "noise": 0.2}, {"learning_rate": 1.3, "noise": 0.05}),
)
EXPERIMENTS = (PLATEAU, LARGEST_RATE, NOISE_FLOOR)
