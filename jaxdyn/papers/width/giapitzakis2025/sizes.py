"""How many networks must vote for an input of k bits, and for all of them at once."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from jaxdyn import Claim, Domain, plot, sweep
from jaxdyn.claims import worst
from jaxdyn.papers import Experiment
from jaxdyn.theory.width import permutations

__all__ = ["EXPERIMENTS"]

# How many networks k bits need.

SIZES = (8, 16, 64, 256, 1024, 4096, 32768)


def one_input_size(*, sizes=SIZES, risk=0.05, sweep=sweep):
    """One input of two ones needs an ensemble of order k ln k.

    Args:
        sizes: numbers of bits k, increasing.
        risk: chance of failure that is accepted.
    """
    counts = ensemble_sizes(sizes, risk)
    names = ["one", "one_theory"]
    return counts[names].assign(leading=leading_order(counts, "one"))


def all_inputs_size(*, sizes=SIZES, risk=0.05, sweep=sweep):
    """All inputs at once need order k ln k networks by the union bound, and k^(3/2) ln k beyond k of
    10^4: the published k^2 is loose.

    Args:
        sizes: numbers of bits k, increasing.
        risk: chance of failure that is accepted.
    """
    counts = ensemble_sizes(sizes, risk)
    names = ["all", "all_theory", "share", "crude"]
    return counts[names].assign(near_full=leading_order(counts, "all"))


def ensemble_sizes(sizes, risk):
    if len(sizes) < 2 or min(sizes) < 4 or min(np.diff(sizes)) <= 0:
        raise ValueError(f"sizes: {sizes}; pass two numbers of bits or more, from 4, increasing")
    if not 0 < risk < 0.5:
        raise ValueError(f"risk: {risk}; pass a chance between 0 and 0.5")
    with jax.enable_x64(True):
        counts = sharp(np.asarray(sizes, float), risk, max(sizes))
        arrays = {name: ("bits", np.asarray(values)) for name, values in counts.items()}
    return xr.Dataset(arrays, {"bits": list(sizes)})


@partial(jax.jit, static_argnames="largest")
def sharp(k, risk, largest):
    """Ensemble sizes for one input of weight two and for all, the share of weight two in the
    failures, and laws."""
    every = permutations.ensemble_size_all(k, risk, largest=largest)

    def failures(case):
        bits, members = case
        return permutations.log_failures(bits, members, largest)

    total, by_weight = jax.lax.map(failures, (k, every))
    risk_of_one = -jnp.expm1(jnp.log1p(-risk) / (k - 2))
    risk_of_all = 2 * risk / (k * (k - 1) * (k - 2))
    one = permutations.ensemble_size(k, 2.0, risk)
    counts = {"one": one, "all": every, "crude": permutations.crude_size(k, risk)}
    one_law = permutations.weight_two_size(k, risk_of_one)
    all_law = permutations.weight_two_size(k, risk_of_all)
    share = jnp.exp(by_weight[:, 0] - total)
    return counts | {"one_theory": one_law, "all_theory": all_law, "share": share}


def leading_order(counts, name):
    """The leading order in k: 2 c_2 k ln k for one input, C k^(3/2) ln k for all."""
    k = counts.bits
    with jax.enable_x64(True):
        if name == "one":
            return 2 * permutations.noise_ratio(2.0).item() * k * np.log(k)
        return permutations.near_full_coefficient() * k**1.5 * np.log(k)


def one_input_deviation(runs):
    return worst(runs.one, runs.one_theory, relative=True)


def largest_change(runs):
    """The largest change, from one size to the next, of the number over 2 c_2 k ln k."""
    return (runs.one / runs.leading).diff("bits").max(skipna=False)


def local_exponents(runs, name):
    """The powers of k by which a number grows from one size to the next."""
    rise = np.log(runs[name]).diff("bits")
    slopes = rise / np.log(runs.bits).diff("bits")
    return slopes.values


def largest_exponent(runs):
    return local_exponents(runs, "all").max()


def closest_to_two(runs):
    return abs(local_exponents(runs, "all") - 2).min()


def crude_exponent_deviation(runs):
    return abs(local_exponents(runs, "crude")[-1] - 2)


def crude_correction(runs):
    """Ten times the order of the next correction, ln(k)/k."""
    k = float(runs.bits[-2])
    return 10 * np.log(k) / k


def weight_two_deviation(runs):
    """How far the number is from the quantile of weight two, beyond the share of other weights."""
    deviation = abs(runs["all"] / runs.all_theory - 1) - (1 - runs.share)
    return deviation.where(runs.share > 0.99).max()


def near_full_deviation(runs):
    """The relative deviation from C k^(3/2) ln k, times ln k."""
    deviation = abs(runs["all"] / runs.near_full - 1) * np.log(runs.bits)
    return deviation.where(runs.share < 0.01).max()


def plot_one_input_size(runs, figure):
    """Draw the number of networks, and what is left of it over its leading order."""
    number, left = plot.panels(figure, "One input needs k ln k", "Over 2 c$_2$ k ln k it falls")
    plot.beside(number, runs, "one", x="bits")
    number.set(xlabel="bits k", ylabel="networks needed", xscale="log", yscale="log")
    plot.legend(number, simulated="exact", predicted="quantile", loc="lower right")
    over = runs.one / runs.leading
    plot.points_and_line(left, runs.bits, over, runs.one_theory / runs.leading)
    left.axhline(1, color="0.6", linewidth=0.8)
    left.set(xlabel="bits k", ylabel="networks / (2 c$_2$ k ln k)", xscale="log")


def plot_all_inputs_size(runs, figure):
    """Draw the numbers of networks, and by which weights the ensembles fail."""
    number, share = plot.panels(
        figure, "All inputs need less than k$^2$", "Two ones fail first", height=3.4
    )
    plot.points_and_line(number, runs.bits, runs["all"], label="union bound")
    laws = {
        "all_theory": "two ones",
        "near_full": "C k$^{3/2}$ ln k",
        "crude": "k$^2$ bound",
    }
    for colour, (name, label) in zip(plot.COLOURS[1:], laws.items(), strict=False):
        number.plot(runs.bits, runs[name], color=colour, label=label)
    number.set(xlabel="bits k", ylabel="networks needed", xscale="log", yscale="log")
    plot.legend(number, simulated="", predicted="", below=True)
    plot.points_and_line(share, runs.bits, runs.share)
    share.plot(runs.bits, runs.share, color=plot.COLOURS[0], linewidth=0.8)
    share.set(xlabel="bits k", ylabel="share of two ones in failures", xscale="log")


TWO_ONES = Domain(
    "inputs of weight two make up 99 % of the failures at some size",
    lambda runs: (runs.share > 0.99).any(),
)
FEW_ZEROS = Domain(
    "inputs of weight two make up less than 1 % of the failures at some size",
    lambda runs: (runs.share < 0.01).any(),
)
QUANTILE = Claim(
    "to get one input of weight two right takes as many networks as the quantile of "
    "one output that should be zero",
    "largest relative deviation of the number of networks from that quantile",
    one_input_deviation,
    below=1e-5,
)
LINEARITHMIC = Claim(
    "to get one input right takes a linearithmic number of networks: divided by 2 c_2 "
    "k ln k it only falls",
    "largest change of that ratio from one size to the next",
    largest_change,
    below=0,
)
NO_MORE = Claim(
    "to get all inputs of k bits right takes no more than order k^2 networks",
    "largest power of k by which their number grows from one size to the next",
    largest_exponent,
    below=2,
)
NO_LESS = Claim(
    "to get all inputs of k bits right takes no less than order k^2 networks: the "
    "local power comes within 1/4 of two",
    "smallest distance from two of the power by which their number grows",
    closest_to_two,
    below=0.25,
    holds=False,
)
CRUDE = Claim(
    "the k^2 comes from one signal-to-noise ratio for all 2^k inputs, to order ln(k)/k",
    "distance from two of the power by which that bound grows at last",
    crude_exponent_deviation,
    below=crude_correction,
)
WEIGHT_TWO = Claim(
    "where inputs of weight two make up the failures, their quantile is the number of networks, 6 "
    "c_2 k ln k",
    "largest relative deviation from the quantile, beyond the share of other weights",
    weight_two_deviation,
    below=1e-9,
    when=TWO_ONES,
)
NEAR_FULL = Claim(
    "where inputs of weight two make up no failures, those with few zeros need C k^(3/2) ln k "
    "networks, to 2/ln k",
    "largest relative deviation from C k^(3/2) ln k, times ln k",
    near_full_deviation,
    below=2,
    when=FEW_ZEROS,
)
MANY_SIZES = (8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384, 65536, 262144, 1048576)
MORE_SIZES = {"sizes": MANY_SIZES}
MORE_RISK = {"risk": 0.1}
LESS_RISK = {"risk": 0.01}

ONE_INPUT = Experiment(
    one_input_size,
    claims=(QUANTILE, LINEARITHMIC),
    plot=plot_one_input_size,
    paper=MORE_SIZES,
    others=(MORE_RISK, LESS_RISK),
)
ALL_AT_ONCE = Experiment(
    all_inputs_size,
    claims=(NO_MORE, NO_LESS, CRUDE, WEIGHT_TWO, NEAR_FULL),
    plot=plot_all_inputs_size,
    paper=MORE_SIZES,
    others=(MORE_RISK, LESS_RISK),
)
EXPERIMENTS = (ONE_INPUT, ALL_AT_ONCE)
