"""Kernels before training: their moments at finite width, and whether they are positive definite."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from jaxdyn import Claim, Domain, kernels, plot, sweep
from jaxdyn.claims import standard_error, worst, z_score
from jaxdyn.kernels import empirical, finite_width
from jaxdyn.papers import Experiment
from jaxdyn.papers.width.jacot2018.networks import KINDS, limit_network, network

__all__ = ["EXPERIMENTS"]

BIAS = 0.5  # b_std of the networks of one hidden layer

# Random networks: their kernels have exactly known moments.


def random_kernels(*, widths=(8, 32), depths=(1, 2, 3, 4), deep_width=32, seeds=600, sweep=sweep):
    """Kernels of random networks vary from one network to the other as exact moments say, at any
    width and depth.

    Networks of one hidden layer see antipodal pairs on a sphere; deep rectifiers see one point.

    Args:
        widths: numbers of units of the networks of one hidden layer.
        depths: numbers of hidden layers of the deep rectifiers.
        deep_width: number of units in each layer of the deep rectifiers.
        seeds: number of networks of each kind.
    """
    x = antipodal_pairs(4)
    deep = {"depths": depths, "deep_width": deep_width}
    most = max(*widths, deep_width)
    experiment = partial(initial_kernels, most=most, x=np.float32(x), **deep)
    axes = {"width": np.array(widths, float)}
    entries = ("kind", "row", "column")
    runs = sweep(experiment, axes, seeds=seeds, dims={"ntk": entries, "deep": "depth"})
    with jax.enable_x64(True):
        mean, variance = jax.jit(exact_moments)(x)
        closed_form = jax.jit(closed_forms)(x)[:, 1]
        laws = [finite_width.rectifier_relative_variance([deep_width] * depth) for depth in depths]
    runs["ntk_theory"] = (entries, np.asarray(mean))
    runs["closed_form"] = (entries, np.asarray(closed_form))
    runs["ntk_variance_theory"] = (entries, np.asarray(variance))
    runs["deep_variance_theory"] = ("depth", np.asarray(laws))
    return runs.assign_coords(kind=list(KINDS), depth=list(depths))


def antipodal_pairs(pairs):
    """Pairs of opposite points on the sphere of radius sqrt(3) in three dimensions."""
    half = np.random.default_rng(0).standard_normal((pairs, 3))
    norms = np.linalg.norm(half, axis=1, keepdims=True)
    half = half * 3**0.5 / norms
    return np.concatenate([half, -half])


def initial_kernels(key, width, *, most, x, depths, deep_width):
    """Kernels of networks of one hidden layer, and those of deep rectifiers at the first point,
    over their mean."""

    def kernel(smooth, *sizes):
        layer = network(smooth, *sizes, most=(max(depths), most))
        params, _ = finite_width.draw(key, layer, x.shape[1:])
        return empirical.ntk(layer.apply, params, x)

    deep = jnp.ones(len(depths))
    smooth = jnp.r_[1, 0, 0 * deep]
    units = jnp.r_[width, width, deep_width * deep]
    layers = jnp.r_[1, 1, jnp.array(depths)]
    # With a weight variance of 2 rectifiers keep the size of what they pass on.
    w_std = jnp.r_[1, 1, 2**0.5 * deep]
    b_std = jnp.r_[BIAS, BIAS, 0 * deep]
    ntk = jax.vmap(kernel)(smooth, units, layers, w_std, b_std)
    # Each layer of weights contributes the same mean.
    deep_mean = 2 * jnp.array(depths) + 2
    return {"ntk": ntk[:2], "deep": ntk[2:, 0, 0] / deep_mean}


def exact_moments(x):
    """Mean and variance of the kernels of one hidden unit, of erf and of the rectifier."""
    smooth = finite_width.one_hidden_layer(jax.scipy.special.erf, 1, x, b_std=BIAS)
    rectified = finite_width.one_hidden_layer(jax.nn.relu, 1, x, b_std=BIAS, kinks=(0.0,))
    return [jnp.stack(pair) for pair in zip(smooth, rectified, strict=True)]


def closed_forms(x):
    """Kernels of one hidden layer of infinite width, without and with biases, of each kind."""

    def gram(kind, b_std):
        layers = kind._replace(depth=1, w_std=1.0, b_std=b_std)
        return kernels.gram(limit_network(layers), x)

    biases = jnp.array([0.0, BIAS])
    grams = [jax.vmap(partial(gram, kind))(biases) for kind in KINDS.values()]
    return jnp.stack(grams)


def quadrature_error(runs):
    return worst(runs.closed_form, runs.ntk_theory)


def mean_z_score(runs):
    return z_score(runs.ntk, runs.ntk_theory)


def variance_z_score(runs):
    squares = (runs.ntk - runs.ntk_theory) ** 2
    return z_score(squares, runs.ntk_variance_theory / runs.width)


def deep_z_score(runs):
    return z_score(runs.deep**2, 1 + runs.deep_variance_theory)


def plot_random_kernels(runs, figure):
    """Draw variances of the kernels of one hidden layer, and relative ones of deep rectifiers."""
    shallow, deep = plot.panels(figure, "One hidden layer", "Deeper kernels vary more")
    narrowest = runs.isel(width=0)
    squares = (narrowest.ntk - narrowest.ntk_theory) ** 2
    for colour, kind in zip(plot.COLOURS, KINDS, strict=False):
        exact = narrowest.ntk_variance_theory.sel(kind=kind) / narrowest.width
        entries = squares.sel(kind=kind).stack(entry=("row", "column"))
        exact = exact.stack(entry=("row", "column"))
        # In their order, so that the line goes from left to right.
        order = np.argsort(exact.values)
        exact = exact[order]
        entries = entries.isel(entry=order)
        measured = entries.mean("seed")
        style = {"errors": standard_error(entries), "colour": colour, "label": kind}
        plot.points_and_line(shallow, exact, measured, exact, **style)
    shallow.set(xlabel="variance of an entry, exact", ylabel="variance over networks")
    plot.legend(shallow)
    spread = (runs.deep**2 - 1).isel(width=0)
    mean = spread.mean("seed")
    errors = standard_error(spread)
    plot.points_and_line(deep, runs.depth, mean, runs.deep_variance_theory, errors=errors)
    deep.set(xlabel="hidden layers", ylabel="Var K / (E K)$^2$", xticks=runs.depth.values)
    plot.legend(deep)


# Antipodal points: the kernel is positive definite only with biases.


def definite_kernels(*, pairs=4, sweep=sweep):
    """On antipodal points kernels of one hidden layer are singular without biases, and positive
    definite with them.

    Args:
        pairs: number of pairs of opposite points on the sphere.
    """
    x = antipodal_pairs(pairs)
    with jax.enable_x64(True):
        values = jax.jit(spectra)(x)
    coordinates = {"kind": list(KINDS), "b_std": [0.0, BIAS]}
    eigenvalues = xr.DataArray(np.asarray(values), coordinates, ("kind", "b_std", "rank"))
    return xr.Dataset({"eigenvalues": eigenvalues})


def spectra(x):
    return jnp.linalg.eigvalsh(closed_forms(x))


def smallest_eigenvalues(runs):
    return runs.eigenvalues.isel(rank=0)


def singular_eigenvalue(runs):
    return worst(smallest_eigenvalues(runs).sel(b_std=0))


def more_pairs_than_dimensions(runs):
    return runs.sizes["rank"] > 2 * 3


def definite_eigenvalue(runs):
    return smallest_eigenvalues(runs).sel(b_std=BIAS).min(skipna=False)


def plot_definite_kernels(runs, figure):
    """Draw the spectra without and with biases."""
    panels = plot.panels(figure, *[f"Kernel of {kind} networks" for kind in KINDS])
    number = np.arange(1, runs.sizes["rank"] + 1)
    for axes, kind in zip(panels, KINDS, strict=True):
        for marker, b_std in zip("os", runs.b_std.values, strict=True):
            values = runs.eigenvalues.sel(kind=kind, b_std=b_std)
            axes.plot(number, values, marker, label="with biases" if b_std else "without biases")
        # Singular ones are zero but for rounding.
        axes.set_yscale("symlog", linthresh=1e-3)
        axes.axhline(0, color="0.6", linewidth=0.8)
        axes.set(xlabel="number of the eigenvalue", ylabel="eigenvalue of the kernel")
    panels[0].legend()


# Squares of products of Gaussian weights have heavy tails: their means are not Gaussian before.
MANY_NETWORKS = Domain(
    "there are 400 networks or more, whose mean squares are Gaussian",
    lambda runs: runs.sizes["seed"] >= 400,
)

QUADRATURE = Claim(
    "quadrature over pairs of preactivations meets the closed forms of the kernels of rectifiers "
    "and error functions",
    "largest difference between an entry by quadrature and its closed form",
    quadrature_error,
    below=1e-12,
)
EXACT_MEAN = Claim(
    "with one hidden layer of any width the mean kernel is that of infinite width",
    "largest deviation of a mean entry, in standard errors",
    mean_z_score,
    below=4.5,
    when=MANY_NETWORKS,
)
EXACT_VARIANCE = Claim(
    "with one hidden layer of any width the kernel has the exact variance that theory gives",
    "largest deviation of an entry's variance, in standard errors",
    variance_z_score,
    below=4.5,
    when=MANY_NETWORKS,
)
LAW_OF_DEPTH = Claim(
    "kernels of deep rectifiers have the exact relative variance of their depth and width",
    "largest deviation of the mean squared kernel, in standard errors",
    deep_z_score,
    below=4.5,
    when=MANY_NETWORKS,
)
SINGULAR = Claim(
    "on antipodal points kernels of one hidden layer without biases are singular",
    "largest absolute value of the smallest eigenvalue",
    singular_eigenvalue,
    below=1e-13,
    # The odd part of a rectifier is linear: its kernel has the rank of the dimensions.
    when=Domain("there are more pairs than the three dimensions", more_pairs_than_dimensions),
)
DEFINITE = Claim(
    "on antipodal points kernels of one hidden layer with biases are positive definite",
    "smallest eigenvalue",
    definite_eigenvalue,
    above=1e-10,
)

PAPER = {"widths": (16, 64), "seeds": 4000, "depths": (1, 2, 3, 4, 8), "deep_width": 64}
NARROW = {"widths": (5, 20), "depths": (1, 3), "deep_width": 10}

RANDOM_KERNELS = Experiment(
    random_kernels,
    claims=(QUADRATURE, EXACT_MEAN, EXACT_VARIANCE, LAW_OF_DEPTH),
    plot=plot_random_kernels,
    paper=PAPER,
    others=(NARROW, {"seeds": 400}),
)
DEFINITE_KERNELS = Experiment(
    definite_kernels,
    claims=(SINGULAR, DEFINITE),
    plot=plot_definite_kernels,
    others=({"pairs": 5}, {"pairs": 6}),
)
EXPERIMENTS = (RANDOM_KERNELS, DEFINITE_KERNELS)
