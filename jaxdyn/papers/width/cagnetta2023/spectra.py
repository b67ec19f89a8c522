"""Spectra of kernels on patches, and their laws."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from jaxdyn import Claim, plot, sweep
from jaxdyn.claims import worst
from jaxdyn.papers import Experiment
from jaxdyn.theory.width.patches import (
    SMOOTHNESS,
    axis_law,
    joint_law,
    kernel,
    sphere_spectrum,
    torus_spectrum,
)

__all__ = ["EXPERIMENTS", "check_grid"]

KINDS = list(SMOOTHNESS)
LOWEST = 16  # wave numbers at which asymptotic laws are judged, and above
DIMENSIONS = {"circles": 1, "spheres": 2}


# Two patches, both active: one law in all directions.


def joint_spectra(*, grid=1024, degrees=32, sweep=sweep):
    """With all patches active the eigenvalues of a deep CNN's kernel decay as those of one patch of
    all dimensions, with an exact constant.

    Two patches are on circles or on spheres, under two hidden layers.

    Args:
        grid: number of angles of each circle, a multiple of 64.
        degrees: largest degree of the functions on the spheres.
    """
    return by_geometry(joint_eigenvalues, grid, degrees)


def by_geometry(eigenvalues, grid, degrees):
    """Return {geometry: eigenvalues and their laws by kind of kernel and wave number}."""
    check_grid(grid)
    if degrees < LOWEST:
        raise ValueError(f"degrees: {degrees}; pass {LOWEST} or more, where the laws are judged")
    # At a thirty-second of the grid aliasing is below 1 %.
    largest = {"circles": grid // 32, "spheres": degrees}
    results = {}
    with jax.enable_x64(True):
        for name, dim in DIMENSIONS.items():
            waves = np.arange(4, largest[name] + 1)
            parts = [
                xr.Dataset(eigenvalues(kind, dim, waves, grid), {"k": waves}) for kind in KINDS
            ]
            results[name] = xr.concat(parts, xr.Variable("kind", KINDS))
    return results


def check_grid(grid):
    if grid < 32 * LOWEST or grid % 64:
        raise ValueError(f"grid: {grid} angles; pass a multiple of 64, {32 * LOWEST} or more")


def spectrum(kind, dim, waves, grid):
    """Eigenvalues of two patches under two layers, by the wave numbers or degrees of both."""

    def function(cosines):
        return kernel(cosines, (2,), get=kind)

    if dim == 1:
        eigenvalues, _ = torus_spectrum(function, (grid, grid))
    else:
        eigenvalues, _ = sphere_spectrum(function, int(waves[-1]), 2)
    return np.asarray(eigenvalues)


def joint(kind, dim, *waves):
    """The law of both patches at these wave numbers of the first and second."""
    shift = (dim - 1) / 2
    pairs = np.stack(np.broadcast_arrays(*waves), -1) + shift
    return np.asarray(joint_law(pairs, 2, dim, get=kind))


def joint_eigenvalues(kind, dim, k, grid):
    eigenvalues = spectrum(kind, dim, k, grid)
    values = {"diagonal": eigenvalues[k, k], "diagonal_theory": joint(kind, dim, k, k)}
    if dim == 1:
        values["oblique"] = eigenvalues[k, 2 * k]
        values["oblique_theory"] = joint(kind, dim, k, 2 * k)
    return over_waves(values)


def over_waves(values):
    return {name: ("k", array) for name, array in values.items()}


def smoothness(runs):
    """The nu of each kind of kernel."""
    kinds = runs.kind.values
    values = [SMOOTHNESS[kind] for kind in kinds]
    return xr.DataArray(values, {"kind": kinds})


def shift_of(relative, power):
    """A relative deviation of eigenvalues k^-power, as a shift of the wave number."""
    late = relative.sel(k=slice(LOWEST, None))
    return worst(late * late.k / power)


def diagonal_shift(results):
    shifts = []
    for name, dim in DIMENSIONS.items():
        runs = results[name]
        relative = runs.diagonal / runs.diagonal_theory - 1
        shifts.append(shift_of(relative, 2 * smoothness(runs) + 2 * dim))
    return max(shifts)


def oblique_shift(results):
    runs = results["circles"]
    return shift_of(runs.oblique / runs.oblique_theory - 1, 2 * smoothness(runs) + 2)


def wave_axes(axes, k):
    """Label the axes of eigenvalues over wave numbers, of which powers of two are shown."""
    axes.set(xlabel="wave number k", ylabel="eigenvalue", xscale="log", yscale="log")
    shown = [power for power in (4, 8, 16, 24, 32, 64) if k.min() <= power <= k.max()]
    axes.set_xticks(shown, map(str, shown))
    axes.tick_params(axis="x", which="minor", labelbottom=False)


def plot_joint_spectra(results, figure):
    """Draw eigenvalues with all patches active, and their laws."""
    panels = plot.panels(figure, "Patches on circles", "Patches on spheres", height=3.4)
    lines = {
        "(k, k), ntk": ("ntk", "diagonal"),
        "(k, k), nngp": ("nngp", "diagonal"),
        "(k, 2k), ntk": ("ntk", "oblique"),
    }
    for axes, runs in zip(panels, results.values(), strict=True):
        for colour, (label, (kind, part)) in zip(plot.COLOURS, lines.items(), strict=False):
            if part in runs:
                one = runs.sel(kind=kind)
                plot.beside(axes, one, part, x="k", colour=colour, label=label, points=12)
        wave_axes(axes, runs.k)
    panels[1].set_xlabel("degree k")
    for axes in panels:
        plot.legend(axes, simulated="numbers", predicted="C k$^{-2\\nu-d}$", below=True)


# Near the axes: the law of a single patch.


def near_the_axes(*, grid=1024, degrees=32, sweep=sweep):
    """With one wave number fixed eigenvalues decay as those of a single patch: the decay is not
    isotropic.

    Two patches are on circles or on spheres, under two hidden layers.

    Args:
        grid: number of angles of each circle, a multiple of 64.
        degrees: largest degree of the functions on the spheres.
    """
    return by_geometry(axis_eigenvalues, grid, degrees)


def axis_eigenvalues(kind, dim, k, grid):
    eigenvalues = spectrum(kind, dim, k, grid)
    values = {"isotropic_theory": joint(kind, dim, k, 1)}
    for other in (0, 1):
        leading, corner = map(np.asarray, axis_law(k, other, dim, get=kind))
        after, _ = map(np.asarray, axis_law(k + 1, other, dim, get=kind))
        values[f"axis_{other}"] = eigenvalues[k, other]
        values[f"axis_{other}_theory"] = leading + corner
        # Opposite patches cancel most of it for odd k; what is left out is of the size of the even
        # ones.
        values[f"axis_{other}_scale"] = np.maximum(leading, after)
    return over_waves(values)


def axis_shift(results, other):
    shifts = []
    for name, dim in DIMENSIONS.items():
        runs = results[name]
        error = runs[f"axis_{other}"] - runs[f"axis_{other}_theory"]
        relative = error / runs[f"axis_{other}_scale"]
        shifts.append(shift_of(relative, 2 * smoothness(runs) + dim))
    return max(shifts)


def on_axis_shift(results):
    return axis_shift(results, 0)


def beside_axis_shift(results):
    return axis_shift(results, 1)


def isotropic_factor(results):
    """The largest factor between eigenvalues beside the axis and the law of both patches."""
    logarithms = [worst(np.log(runs.axis_1 / runs.isotropic_theory)) for runs in results.values()]
    return np.exp(max(logarithms))


def plot_near_the_axes(results, figure):
    """Draw eigenvalues on and beside the axis, and their laws."""
    panels = plot.panels(figure, "Patches on circles", "Patches on spheres", height=3.4)
    parities = {"even": slice(0, None, 2), "odd": slice(1, None, 2)}
    for axes, runs in zip(panels, results.values(), strict=True):
        one = runs.sel(kind="ntk")
        # The first wave number is even.
        for colour, (parity, every) in zip(plot.COLOURS, parities.items(), strict=False):
            axis = one.isel(k=every)
            label = f"(k, 0), {parity} k"
            plot.beside(axes, axis, "axis_0", x="k", colour=colour, label=label, points=8)
        beside = one.isel(k=slice(0, None, 2))
        colour = plot.COLOURS[2]
        plot.beside(axes, beside, "axis_1", x="k", colour=colour, label="(k, 1)", points=8)
        axes.plot(one.k, one.isotropic_theory, "--", color=colour, label="(k, 1), if isotropic")
        wave_axes(axes, runs.k)
    panels[1].set_xlabel("degree k")
    for axes in panels:
        plot.legend(axes, simulated="numbers", below=True)


# Overlapping patches: the same law with another constant.


def overlapping_patches(*, grid=1024, sweep=sweep):
    """One hidden layer on overlapping patches keeps the law of its patches, and does not mix what
    is not in one patch.

    Three circles are joined in pairs, each by a window of its own.

    Args:
        grid: number of angles of each circle, a multiple of 64.
    """
    check_grid(grid)
    with jax.enable_x64(True):
        parts = [overlap(kind, grid) for kind in KINDS]
    return xr.concat(parts, xr.Variable("kind", KINDS))


def overlap(kind, grid):
    """Eigenvalues of windows of two circles out of three, and those that vanish."""

    def pair(cosines):
        return kernel(cosines.mean(-1, keepdims=True), get=kind) / 3

    def windows(cosines):
        pairs = (cosines[..., :2], cosines[..., 1:], cosines[..., ::2])
        means = jnp.stack([both.mean(-1) for both in pairs], -1)
        return kernel(means, get=kind)

    def law(*waves):
        waves = np.stack(np.broadcast_arrays(*waves), -1)
        return np.asarray(joint_law(waves, 1, get=kind, scale=2 / 3))

    eigenvalues, _ = map(np.asarray, torus_spectrum(pair, (grid, grid)))
    k = np.arange(LOWEST, grid // 32 + 1)
    even = k[k % 2 == 0]
    # Odd sums of wave numbers, waves of all three circles, of two that are not in one patch, and
    # odd waves of single patches.
    three, _ = torus_spectrum(windows, (16, 16, 16))
    apart, _ = torus_spectrum(partial(kernel, get=kind), (64, 64))
    odd = (eigenvalues[1:9:2, 2:9:2], eigenvalues[2:9:2, 1:9:2])
    zero = (*odd, three[1:, 1:, 1:], apart[1:, 1:], apart[3:12:2, 0])
    pairs = {"pair": ("k", eigenvalues[k, k]), "pair_theory": ("k", law(k, k))}
    # A circle is in two of the three windows.
    circles = 2 * eigenvalues[even, 0]
    singles = {"single": ("even", circles), "single_theory": ("even", 2 * law(even, 0))}
    mixed = {"mixed": max(worst(values) for values in zero)}
    return xr.Dataset(pairs | singles | mixed, {"k": k, "even": even})


def mixed_eigenvalue(runs):
    return runs.mixed.max(skipna=False)


def overlap_shift(runs):
    power = 2 * smoothness(runs) + 2
    pair = (runs.pair / runs.pair_theory - 1) * runs.k
    single = (runs.single / runs.single_theory - 1) * runs.even
    return max(worst(pair / power), worst(single / power))


def plot_overlapping_patches(runs, figure):
    """Draw eigenvalues of overlapping patches, and their law."""
    panels = plot.panels(figure, "Waves of two circles", "Waves of one circle", height=3.4)
    parts = {"pair": "k", "single": "even"}
    for axes, (part, x) in zip(panels, parts.items(), strict=True):
        for colour, kind in zip(plot.COLOURS, KINDS, strict=False):
            one = runs.sel(kind=kind)
            plot.beside(axes, one, part, x=x, colour=colour, label=kind, points=10)
        wave_axes(axes, runs.k)
    for axes in panels:
        plot.legend(axes, simulated="numbers", predicted="C k$^{-2\\nu-2}$", below=True)


SHIFT = "largest deviation of an eigenvalue, as a shift of its wave number"
JOINT_LAW = Claim(
    "with all patches active eigenvalues follow C k^(-2 nu - d) on circles and spheres, to half a "
    "wave number",
    SHIFT,
    diagonal_shift,
    below=0.5,
)
OBLIQUE = Claim(
    "the constant C of eigenvalues of all patches does not depend on the direction, to half a wave "
    "number",
    SHIFT,
    oblique_shift,
    below=0.5,
)
ON_AXIS = Claim(
    "with one patch active eigenvalues follow the law of a patch, even and odd k apart, plus that "
    "of the corner, to half a wave number",
    SHIFT,
    on_axis_shift,
    below=0.5,
)
ISOTROPIC = Claim(
    "the decay of eigenvalues is isotropic: the law of all patches holds with one wave number kept "
    "at 1, to a factor 1.5",
    "largest factor between an eigenvalue and the law of all patches",
    isotropic_factor,
    below=1.5,
    holds=False,
)
BESIDE_AXIS = Claim(
    "with one wave number kept at 1 eigenvalues follow the law of a patch with a constant of its "
    "own, to one wave number",
    SHIFT,
    beside_axis_shift,
    below=1,
)
NO_MIXING = Claim(
    "one hidden layer does not mix patches, and overlapping ones only within a window: other "
    "eigenvalues are zero to rounding",
    "largest eigenvalue of waves that are not within a patch",
    mixed_eigenvalue,
    below=1e-15,
)
OVERLAP = Claim(
    "overlapping patches keep the law, with C times 2/p for even k_1 + k_2, to half a wave number",
    SHIFT,
    overlap_shift,
    below=0.5,
)
FINER = {"grid": 2048, "degrees": 64}
COARSER = {"grid": 768, "degrees": 24}
MORE_DEGREES = {"degrees": 48}

JOINT_SPECTRA = Experiment(
    joint_spectra,
    claims=(JOINT_LAW, OBLIQUE),
    plot=plot_joint_spectra,
    paper=FINER,
    others=(COARSER, MORE_DEGREES),
)
NEAR_THE_AXES = Experiment(
    near_the_axes,
    claims=(ON_AXIS, ISOTROPIC, BESIDE_AXIS),
    plot=plot_near_the_axes,
    paper=FINER,
    others=(COARSER, MORE_DEGREES),
)
OVERLAPPING = Experiment(
    overlapping_patches,
    claims=(NO_MIXING, OVERLAP),
    plot=plot_overlapping_patches,
    paper={"grid": 2048},
    others=({"grid": 768}, {"grid": 1280}),
)
EXPERIMENTS = (JOINT_SPECTRA, NEAR_THE_AXES, OVERLAPPING)
