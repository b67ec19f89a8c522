"""Regression with kernels on patches: learning curves, and the exponents that they tend to."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from jaxdyn import Claim, Domain, plot, sweep
from jaxdyn.claims import standard_error, worst
from jaxdyn.papers import Experiment
from jaxdyn.papers.width.cagnetta2023.spectra import check_grid
from jaxdyn.theory.regression.learning_curves import averaged_error, learning_curve
from jaxdyn.theory.width.patches import kernel, learning_exponent, sector_spectrum

__all__ = ["EXPERIMENTS"]

# Regression: the error follows the scale of the target.

RIDGE = 1e-11  # rounding; a larger one is a ridge for random features
TREE = {1: (), 2: (2,), 4: (2, 2)}
# Students, and the number of patches of a target, for p patches: on a tree, without a tree, without
# patches, random features.
PAIR = [("deep", 1), ("deep", 2), ("shallow", 1), ("dense", 1), ("random", 1)]
QUARTET = [("deep", 1), ("deep", 2), ("deep", 4)]
ROWS = {2: PAIR, 4: QUARTET}
# Angles of each active circle in the spectra of theory, by the number of active ones, in units of
# the grid; the others are averaged over.
GRIDS_OF_PAIR = {1: 32.0, 2: 1 / 4}
GRIDS_OF_QUARTET = {1: 1 / 2, 2: 1 / 8}
GRIDS = {2: GRIDS_OF_PAIR, 4: GRIDS_OF_QUARTET}


def two_patches(*, sizes=(64, 128, 256, 512), tests=128, seeds=6, grid=1024, sweep=sweep):
    """A network with a tree learns a target of one patch faster than one without patches, and one
    without a tree faster still.

    Ridgeless regression with kernels of infinite width on two patches, each a circle; targets are
    Gaussian, of one patch or of both.

    Args:
        sizes: numbers of training points, increasing.
        tests: number of test points.
        seeds: number of draws of the points.
        grid: number of angles in the spectra of theory, a multiple of 64.
    """
    return regression(2, sizes, tests, seeds, grid, sweep)


def four_patches(*, sizes=(64, 128, 256, 512), tests=128, seeds=6, grid=1024, sweep=sweep):
    """A deep network learns a target the faster, the fewer patches it depends on.

    Ridgeless regression with the tangent kernel of three hidden layers on four patches, each a
    circle; targets are Gaussian, of one, two or four patches.

    Args:
        sizes: numbers of training points, increasing.
        tests: number of test points.
        seeds: number of draws of the points.
        grid: number of angles in the spectra of theory, a multiple of 64.
    """
    return regression(4, sizes, tests, seeds, grid, sweep)


def regression(patches, sizes, tests, seeds, grid, sweep):
    """Test errors of each student on each of its targets, and their theory."""
    check_grid(grid)
    check_sizes("sizes", sizes)
    experiment = partial(simulate, patches=patches, sizes=sizes, tests=tests)
    with jax.enable_x64(True):
        runs = sweep(experiment, seeds=seeds, chunk=1, dims={"error": ("row", "n")})
        theory = equivalent(np.array(sizes, float), patches, grid)
    runs = runs.assign_coords(row=labels(patches), n=list(sizes))
    return runs.assign(error_theory=(("row", "n"), theory))


def check_sizes(name, sizes):
    if len(sizes) < 2 or min(sizes) < 1 or min(np.diff(sizes)) <= 0:
        raise ValueError(f"{name}: {sizes}; pass two numbers of points or more, increasing")


def labels(patches):
    """Name the rows: a student, and of how many of its patches the target is."""
    return [f"{name} {used}/{patches}" for name, used in ROWS[patches]]


def student(cosines, name):
    """The kernel of a student, from the cosines between patches."""
    if name == "dense":
        cosines = cosines.mean(-1, keepdims=True)
    has_tree = name in ("deep", "random")
    children = TREE[cosines.shape[-1]] if has_tree else ()
    kind = "nngp" if name == "random" else "ntk"
    return kernel(cosines, children, get=kind)


def teacher(cosines, used):
    """The kernel of a deep teacher on the first patches, at equal inputs 1."""
    children = TREE[used]
    return kernel(cosines[..., :used], children) / (2 + len(children))


def simulate(key, *, patches, sizes, tests):
    """The test error of each student on each of its targets, on random inputs."""
    rows = ROWS[patches]
    n = max(sizes)
    turns = jax.random.uniform(key, (n + tests, patches), jnp.float32).astype(float)
    angles = 2 * jnp.pi * turns
    cosines = jnp.cos(angles[:, None] - angles[None])
    learn = {name: student(cosines, name) for name in dict(rows)}
    targets = dict.fromkeys(used for _, used in rows)
    teach = {used: teacher(cosines, used) for used in targets if used < patches}
    # The deep student is the teacher of all patches.
    teach[patches] = learn["deep"] / learn["deep"][0, 0]

    def split(gram):
        return gram[:n, :n], gram[:n, n:]

    students = [split(learn[name]) for name, _ in rows]
    teachers = [split(teach[used]) for _, used in rows]
    blocks = (*zip(*students, strict=True), *zip(*teachers, strict=True))
    stacked = [jnp.stack(block) for block in blocks]

    def error(row):
        student, student_test, teacher, teacher_test = row
        of_students = (student, student_test)
        of_teachers = (teacher, teacher_test, jnp.ones(tests))
        return averaged_error(*of_students, *of_teachers, sizes, RIDGE)

    return {"error": jax.lax.map(error, stacked)}


def equivalent(n, patches, grid):
    """The learning curve of every row for n points: that of Gaussian features of the same
    spectrum."""
    grids = {active: int(share * grid) for active, share in GRIDS[patches].items()}
    # Four active circles have 32 angles each, as many as fit into memory.
    options = {"grids": grids, "average": 24} if patches == 2 else {"grids": grids | {4: 32}}
    spectra = partial(sector_spectrum, patches=patches, **options)
    students = dict(ROWS[patches])
    targets = dict.fromkeys(used for _, used in ROWS[patches])
    learn = {name: spectra(partial(student, name=name)) for name in students}
    teach = {used: spectra(partial(teacher, used=used), used=used) for used in targets}
    traces = {name: student(np.ones(patches), name) for name in students}

    def curve(name, used):
        return gaussian_curve(n, learn[name], teach[used], traces[name])

    return np.stack([curve(name, used) for name, used in ROWS[patches]])


def gaussian_curve(n, learn, teach, trace):
    """The learning curve of a student on a target, from their spectra by sector; `trace` is the sum
    of all eigenvalues of the student."""
    values, times = map(np.concatenate, zip(*learn.values(), strict=True))
    tail = max(trace - values @ times, 0)
    # What the target has in sectors that the student sees as one.
    powers = {sector: np.prod(values, 0) for sector, values in teach.items()}
    parts = [np.broadcast_to(powers[sector], len(own)) for sector, (own, _) in learn.items()]
    power = np.concatenate(parts)
    left = max(1 - power.sum(), 0)
    return learning_curve(n, values, times, power, RIDGE, tail=tail, unlearned=left).error


def exponents(errors):
    """Minus the slope of each curve in logarithms, over its second half."""
    late = errors.isel(n=slice(errors.sizes["n"] // 2 - 1, None))
    n = np.log(late.n) - np.log(late.n).mean("n")
    covariance = (np.log(late) * n).sum("n", skipna=False)
    return -covariance / (n**2).sum("n")


def beyond_errors(values, predicted):
    """How far the mean is from the prediction, beyond three standard errors."""
    deviation = abs(values.mean("seed") - predicted)
    beyond = deviation - 3 * standard_error(values)
    return float(beyond.max(skipna=False))


def error_deviation(runs):
    return beyond_errors(runs.error / runs.error_theory, 1)


def average_deviation(runs):
    return beyond_errors(np.log(runs.error / runs.error_theory).mean("n"), 0)


def exponent_deviation(runs):
    return beyond_errors(exponents(runs.error), exponents(runs.error_theory))


def lead(runs, low, high):
    """By how much one row's exponent exceeds another's, less three standard errors."""
    slopes = exponents(runs.error)
    difference = slopes.sel(row=high) - slopes.sel(row=low)
    margin = 3 * standard_error(difference)
    return float(difference.mean("seed") - margin)


def lead_of_trees(runs):
    deep = lead(runs, "dense 1/2", "deep 1/2")
    shallow = lead(runs, "deep 1/2", "shallow 1/2")
    return min(deep, shallow)


def lead_of_local_targets(runs):
    one = lead(runs, "deep 2/4", "deep 1/4")
    two = lead(runs, "deep 4/4", "deep 2/4")
    return min(one, two)


def plot_two_patches(runs, figure):
    """Draw the learning curves of all students."""
    draw_curves(runs, figure, "A tree helps with local targets")


def plot_four_patches(runs, figure):
    """Draw the learning curves of the deep network."""
    draw_curves(runs, figure, "Local targets are learned faster")


def draw_curves(runs, figure, title):
    (axes,) = plot.panels(figure, title, height=3.2)
    name = {"long_name": "student, patches"}
    runs = runs.assign_coords(row=("row", runs.row.values, name))
    plot.curves(runs.error, runs.error_theory, x="n", hue="row", axes=axes, log="xy")
    axes.set(xlabel="training points n", ylabel="test error / variance of the target")
    sizes = runs.n.values
    axes.set_xticks(sizes, sizes.astype(str))
    axes.tick_params(axis="x", which="minor", labelbottom=False)


# Far along the curves: the exponent in closed form.

# Rows with an exponent in closed form, the smoothness of the student, the dimensions of the target
# and those that the student depends on.
CLOSED_FORMS = {
    "deep 1/2": (0.5, 1, 2),
    "deep 2/2": (0.5, 2, 2),
    "shallow 1/2": (0.5, 1, 1),
    "random 1/2": (1.5, 1, 2),
}


def late_exponents(*, late=(2000, 8000), grid=1024, sweep=sweep):
    """The exponents of learning curves tend to 2 nu_T (2 nu_S + D) / (D (2 nu_S + d)), which depends
    on the student, and not to 2 nu_T / d.

    The learning curves are those of theory, for two patches, each a circle.

    Args:
        late: numbers of training points, increasing.
        grid: number of angles in the spectra, a multiple of 64.
    """
    check_grid(grid)
    check_sizes("late", late)
    with jax.enable_x64(True):
        errors = equivalent(np.array(late, float), 2, grid)
    coordinates = {"row": labels(2), "n": list(late)}
    curves = xr.DataArray(errors, coordinates, ("row", "n"))
    curves = curves.sel(row=list(CLOSED_FORMS))
    runs = xr.Dataset({"error": curves, "exponent": exponents(curves)})
    rows = CLOSED_FORMS.values()
    runs["exponent_theory"] = ("row", [learning_exponent(0.5, *numbers) for numbers in rows])
    runs["local_theory"] = ("row", [1 / dimension for _, dimension, _ in rows])
    return runs


def formula_deviation(runs):
    return worst(runs.exponent, runs.exponent_theory)


def local_deviation(runs):
    return worst(runs.exponent, runs.local_theory)


def correction(runs):
    """The order of the next correction to an exponent, at the fewest points."""
    return float(runs.n.min()) ** -0.25


def plot_late_exponents(runs, figure):
    """Draw the exponents of the curves beside both formulas."""
    (axes,) = plot.panels(figure, "Exponents depend on the student", height=3)
    places = np.arange(runs.sizes["row"])
    bar = {"linestyle": "", "marker": "_", "markersize": 16, "markeredgewidth": 2}
    point = {"linestyle": "", "marker": "o", "zorder": 3}
    local = r"2 $\nu_T$ / d, refuted"
    draw = partial(axes.plot, places)
    draw(runs.exponent, color=plot.COLOURS[0], label="learning curve", **point)
    draw(runs.exponent_theory, color="0.3", label="formula", **bar)
    bar["markersize"] = 8
    draw(runs.local_theory, color=plot.COLOURS[1], label=local, **bar)
    axes.set_xticks(places, [row.replace(" ", "\n") for row in runs.row.values])
    axes.set(xlabel="student, patches of the target", ylabel="exponent", xlim=(-0.5, 3.5))
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))


def enough_draws(runs):
    return runs.sizes["seed"] >= 4


DRAWS = Domain("there are four draws of the points or more", enough_draws)

ERRORS = Claim(
    "test errors are those of Gaussian features of the same spectrum to 10 % (a margin, not "
    "derived) and three standard errors",
    "largest relative deviation of a mean error, beyond three standard errors",
    error_deviation,
    below=0.1,
    when=DRAWS,
)
SLOPES = Claim(
    "exponents of test errors are those of Gaussian features of the same spectrum to 0.05 (a "
    "margin, not derived) and three standard errors",
    "largest deviation of a mean exponent, beyond three standard errors",
    exponent_deviation,
    below=0.05,
    when=DRAWS,
)
NOT_GAUSSIAN = Claim(
    "waves in few dimensions are Gaussian features: averaged over n their test errors are those of "
    "theory",
    "largest mean logarithm of error over theory, beyond three standard errors",
    average_deviation,
    below=0,
    when=DRAWS,
    holds=False,
)
TREES = Claim(
    "a network with a tree learns a local target faster than one without patches, and one without "
    "a tree faster still",
    "smallest lead of an exponent over the next, less three standard errors",
    lead_of_trees,
    above=0,
    when=DRAWS,
)
LOCALITY = Claim(
    "the fewer patches the target has, the faster a deep network learns it",
    "smallest lead of an exponent over the next, less three standard errors",
    lead_of_local_targets,
    above=0,
    when=DRAWS,
)
FORMULA = Claim(
    "exponents of learning curves tend to 2 nu_T (2 nu_S + D) / (D (2 nu_S + d)), to n^(-1/4)",
    "largest deviation of an exponent from the formula",
    formula_deviation,
    below=correction,
)
WHATEVER_STUDENT = Claim(
    "exponents of learning curves tend to 2 nu_T / d, whatever the student, to n^(-1/4)",
    "largest deviation of an exponent from 2 nu_T / d",
    local_deviation,
    below=correction,
    # Beyond these the correction is smaller than half the difference of the formulas.
    when=Domain("there are 1000 points or more", lambda runs: int(runs.n.min()) >= 1000),
    holds=False,
)
MANY_POINTS = {"sizes": (64, 128, 256, 512, 1024, 2048), "tests": 300, "seeds": 10, "grid": 2048}
FEW_POINTS = {"sizes": (40, 80, 160, 320), "tests": 100, "seeds": 8}
EARLIER = {"late": (1000, 4000)}
LATER = {"late": (3000, 6000)}
MORE_TESTS = {"sizes": (50, 100, 200, 400), "tests": 200}

TWO_PATCHES = Experiment(
    two_patches,
    claims=(ERRORS, NOT_GAUSSIAN, SLOPES, TREES),
    plot=plot_two_patches,
    paper=MANY_POINTS,
    others=(FEW_POINTS, MORE_TESTS),
)
FOUR_PATCHES = Experiment(
    four_patches,
    claims=(ERRORS, SLOPES, LOCALITY),
    plot=plot_four_patches,
    paper=MANY_POINTS,
    others=(FEW_POINTS, MORE_TESTS),
)
LATE_EXPONENTS = Experiment(
    late_exponents,
    claims=(FORMULA, WHATEVER_STUDENT),
    plot=plot_late_exponents,
    paper={"grid": 2048},
    others=(EARLIER, LATER),
)
EXPERIMENTS = (TWO_PATCHES, FOUR_PATCHES, LATE_EXPONENTS)
