"""What can be learnt with wide convolutional neural networks? (Cagnetta, Favero, Wyart, 2023).

Inputs are p patches, each on a circle or a sphere, which a deep CNN of infinite width joins two by
two.  Its kernel's spectrum inherits that tree, Lambda ~ k^(-2 nu - d) with d the dimension of the
smallest meta-patch that holds the active patches, so that ridgeless regression on n points learns a
target local to d of D dimensions as n^-beta, beta = 2 nu_T (2 nu_S + D) / (D (2 nu_S + d)); a
global one with 2 nu_T / D, the curse.  The law is anisotropic: with one wave number fixed the decay
is that of a single patch.  Tangent kernels (nu = 1/2, "ntk") and random features (3/2, "nngp");
errors are averaged exactly over Gaussian teachers, relative to the target's variance.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxdyn import Claim, sweep
from jaxdyn.papers import Reference
from jaxdyn.theory.regression.learning_curves import averaged_error, learning_curve
from jaxdyn.theory.width import patches as hierarchical
from jaxdyn.theory.width.patches import (
    SMOOTHNESS,
    axis_law,
    joint_law,
    kernel,
    learning_exponent,
    torus_spectrum,
)

TITLE = "What can be learnt with wide convolutional neural networks?"
REFERENCE = Reference(
    title=TITLE,
    authors="Cagnetta, Favero, Wyart",
    year=2023,
    arxiv="2208.01003",
    name="What wide CNNs can learn",
    reproduces="spectra of patches kernels with exact constants; learning curves that follow the target's scale",
)
QUICK = dict(
    grid=1024, degrees=32, sizes=(64, 128, 256, 512), tests=128, seeds=6, late=(2000, 8000)
)
PAPER = {
    "grid": 2048,
    "degrees": 64,
    "sizes": (64, 128, 256, 512, 1024, 2048),
    "tests": 300,
    "seeds": 10,
}
SIZES = {"quick": QUICK, "paper": QUICK | PAPER}
LOWEST = 16
RIDGE = 1e-11
TREE = {1: (), 2: (2,), 4: (2, 2)}
# The patches of each student's targets, for p patches: on a tree, without a tree, without patches,
# random features.
STUDENTS = {
    2: {"deep": (1, 2), "shallow": (1,), "dense": (1,), "random": (1,)},
    4: {"deep": (1, 2, 4)},
}
LABELS = [
    f"{name} {q}/{p}"
    for p, students in STUDENTS.items()
    for name, targets in students.items()
    for q in targets
]
# Rows with an exponent in closed form, the smoothness of the student and the dimensions it depends
# on.
EXPONENTS = {
    "deep 1/2": (0.5, 1, 2),
    "deep 2/2": (0.5, 2, 2),
    "shallow 1/2": (0.5, 1, 1),
    "random 1/2": (1.5, 1, 2),
}


def student(cosines, name):
    """The kernel of a student, from the cosines between patches."""
    cosines = cosines.mean(-1, keepdims=True) if name == "dense" else cosines
    children = TREE[cosines.shape[-1]] if name in ("deep", "random") else ()
    return kernel(cosines, children, get="nngp" if name == "random" else "ntk")


def teacher(cosines, q):
    """The kernel of a deep teacher on the first q patches, at equal inputs 1."""
    return kernel(cosines[..., :q], TREE[q]) / (2 + len(TREE[q]))


def simulate(key, *, patches, sizes, tests):
    """The test error of each student on each of its targets, on random inputs."""
    students = STUDENTS[patches]
    n = max(sizes)
    angles = 2 * jnp.pi * jax.random.uniform(key, (n + tests, patches), jnp.float32).astype(float)
    cosines = jnp.cos(angles[:, None] - angles[None])
    learn = {name: student(cosines, name) for name in students}
    teach = {q: teacher(cosines, q) for q in students["deep"] if q < patches}
    # The deep student is the teacher of all patches.
    teach[patches] = learn["deep"] / learn["deep"][0, 0]

    def split(matrix):
        return (matrix[:n, :n], matrix[:n, n:])

    rows = [
        (*split(learn[name]), *split(teach[q]))
        for name, targets in students.items()
        for q in targets
    ]
    stacked = [jnp.stack(parts) for parts in zip(*rows, strict=True)]
    return {
        "error": jax.lax.map(
            lambda row: averaged_error(*row, jnp.ones(tests), sizes, RIDGE), stacked
        )
    }


def theory(n, grid):
    """The learning curve of every row, for samples n."""
    curves = []
    for patches, students in STUDENTS.items():
        options = {
            2: dict(grids={1: 32 * grid, 2: grid // 4}, average=24),
            4: dict(grids={1: grid // 2, 2: grid // 8, 4: 32}),
        }[patches]

        def spectra(function, **more):
            return hierarchical.sector_spectrum(function, patches, **options, **more)  # noqa: B023

        teach = {q: spectra(partial(teacher, q=q), used=q) for q in students["deep"]}
        for name, targets in students.items():
            learn = spectra(partial(student, name=name))
            values, times = (np.concatenate(parts) for parts in zip(*learn.values(), strict=True))
            tail = max(student(np.ones(patches), name) - values @ times, 0)
            for q in targets:
                power = np.concatenate(
                    [
                        np.broadcast_to(np.prod(teach[q][sector], 0), len(own))
                        for sector, (own, _) in learn.items()
                    ]
                )
                left = max(1 - power.sum(), 0)
                curves.append(
                    learning_curve(n, values, times, power, RIDGE, tail=tail, unlearned=left).error
                )
    return np.stack(curves)


def decay(get, dim, largest, grid):
    """Eigenvalues of two patches under two layers, over wave numbers or degrees k, with their
    laws."""

    def function(t):
        return kernel(t, (2,), get=get)

    both = (
        torus_spectrum(function, (grid, grid))
        if dim == 1
        else hierarchical.sphere_spectrum(function, largest, 2)
    )
    found = np.asarray(both[0])
    k = np.arange(4, largest + 1)
    shift = (dim - 1) / 2

    def joint(*waves):
        return np.asarray(
            joint_law(np.stack(np.broadcast_arrays(*waves), -1) + shift, 2, dim, get=get)
        )

    parts = {
        "joint": (found[k, k], joint(k, k), joint(k, k)),
        "isotropic": (found[k, 1], joint(k, 1), joint(k, 1)),
    }
    if dim == 1:
        parts["oblique"] = found[k, 2 * k], joint(k, 2 * k), joint(k, 2 * k)
    for other in (0, 1):
        leading, corner = (np.asarray(a) for a in axis_law(k, other, dim, get=get))
        # Opposite patches cancel most of it for odd k; what is left out is of the size of the even
        # ones.
        parts[f"axis_{other}"] = (
            found[k, other],
            leading + corner,
            np.maximum(leading, np.asarray(axis_law(k + 1, other, dim, get=get)[0])),
        )
    return {name: np.stack([a, law, abs(a - law) / size]) for name, (a, law, size) in parts.items()}


def overlapping(get, grid):
    """One hidden layer on three overlapping pairs of circles: how far eigenvalues are from their
    law, and from zero."""

    def pair(t):
        return kernel(t.mean(-1, keepdims=True), get=get) / 3

    found = np.asarray(torus_spectrum(pair, (grid, grid))[0])
    k = np.arange(LOWEST, grid // 32 + 1)

    def law(*waves):
        return joint_law(np.stack(np.broadcast_arrays(*waves), -1), 1, get=get, scale=2 / 3)

    even = k[k % 2 == 0]
    values = {
        "pair": (found[k, k], law(k, k), k),
        "single": (2 * found[even, 0], 2 * law(even, 0), even),
    }

    def windows(t):
        return jnp.stack([t[..., :2].mean(-1), t[..., 1:].mean(-1), t[..., ::2].mean(-1)], -1)

    whole = torus_spectrum(lambda t: kernel(windows(t), get=get), (16, 16, 16))[0]
    shallow = torus_spectrum(lambda t: kernel(t, get=get), (64, 64))[0]
    odd = [
        found[1:9:2, 2:9:2],
        found[2:9:2, 1:9:2],
        whole[1:, 1:, 1:],
        shallow[1:, 1:],
        shallow[3:12:2, 0],
    ]
    error = {name: max(abs(a / b - 1) * at) for name, (a, b, at) in values.items()}
    # In units of what the law changes over half a wave number.
    return {name: e / (SMOOTHNESS[get] + 1) for name, e in error.items()} | {
        "zero": max(abs(a).max() for a in odd)
    }


def run(*, sweep=sweep, grid, degrees, sizes, tests, seeds, late):
    """Find spectra, simulate regression on random inputs, and put the theory beside both."""
    import xarray as xr

    gets = list(SMOOTHNESS)
    with jax.enable_x64(True):
        results = {}
        for name, dim, largest in (("torus", 1, grid // 32), ("sphere", 2, degrees)):
            laws = [decay(get, dim, largest, grid) for get in gets]
            found = {
                part: (("get", "what", "k"), np.stack([law[part] for law in laws]))
                for part in laws[0]
            }
            coordinates = {
                "get": gets,
                "what": ["found", "law", "error"],
                "k": np.arange(4, largest + 1),
            }
            results[name] = xr.Dataset(found, coordinates)
        values = [overlapping(get, grid) for get in gets]
        results["overlap"] = xr.Dataset(
            {name: ("get", [float(v[name]) for v in values]) for name in values[0]}, {"get": gets}
        )
        runs = [
            sweep(
                partial(simulate, patches=patches, sizes=sizes, tests=tests),
                seeds=seeds,
                chunk=1,
                dims={"error": ("row", "n")},
            )
            for patches in STUDENTS
        ]
        both = theory(np.array([*sizes, *late], float), grid)
    curves = xr.concat([run[["error"]] for run in runs], "row").assign_coords(
        row=LABELS, n=list(sizes)
    )
    curves["error_theory"] = ("row", "n"), both[:, : len(sizes)]
    far = xr.Dataset(
        {"error": (("row", "n"), both[:, len(sizes) :])}, {"row": LABELS, "n": list(late)}
    )
    return results | {"curves": curves, "late": far}


def _decays(r, part, shift):
    """The distance from a law over what the law changes in `shift` wave numbers, (2 nu + d) shift /
    k."""
    nu = np.array([SMOOTHNESS[get] for get in r["torus"]["get"].values])[:, None]
    sizes = {
        "torus": 2 * nu + 2 - part.startswith("axis"),
        "sphere": 2 * nu + 4 - 2 * part.startswith("axis"),
    }

    def error(d, size):
        return abs(d[part].sel(what="error") * d.k / size).max(skipna=False) / shift

    return max(
        error(r[name].sel(k=slice(LOWEST, None)), size)
        for name, size in sizes.items()
        if part in r[name]
    )


def _exponents(errors):
    """Minus the slope of each curve in logarithms, over its second half."""
    late = errors.isel(n=slice(errors.sizes["n"] // 2 - 1, None))
    n = np.log(late.n) - np.log(late.n).mean("n")
    return -(np.log(late) * n).sum("n", skipna=False) / (n**2).sum("n")


def _off(values, predicted=0.0):
    """How far the mean is from the prediction, beyond three standard errors."""
    error = values.std("seed", ddof=1) / values.sizes["seed"] ** 0.5
    return (abs(values.mean("seed") - predicted) - 3 * error).max(skipna=False)


def _gap(r, low, high):
    """Three standard errors less the difference of two rows' exponents."""
    slopes = _exponents(r["curves"].error)
    gap = slopes.sel(row=high) - slopes.sel(row=low)
    return 3 * gap.std("seed", ddof=1) / gap.sizes["seed"] ** 0.5 - gap.mean("seed")


def _late(r, exponent):
    """How far the theory's exponent at large n is from a formula of (nu_S, d, D), over n^(-1/4)."""
    found = _exponents(r["late"].error)
    scale = float(r["late"].n.min()) ** -0.25
    return max(
        abs(float(found.sel(row=row)) - exponent(*numbers)) / scale
        for row, numbers in EXPONENTS.items()
    )


CLAIMS = (
    Claim(
        "with all patches active eigenvalues follow C k^(-2 nu - d) on tori and spheres, to half a wave number",
        "deviation",
        lambda r: _decays(r, "joint", 0.5),
        below=1,
    ),
    Claim(
        "C does not depend on the direction",
        "deviation",
        lambda r: _decays(r, "oblique", 0.5),
        below=1,
    ),
    Claim(
        "with one patch active they follow the law of a patch, even and odd k apart, plus that of the corner",
        "deviation",
        lambda r: _decays(r, "axis_0", 0.5),
        below=1,
    ),
    Claim(
        "the decay is isotropic: the law holds with one wave number kept at 1, to a factor 1.5",
        "deviation",
        lambda r: max(
            abs(np.log(r[d].isotropic.sel(what="found") / r[d].isotropic.sel(what="law"))).max()
            for d in ("torus", "sphere")
        ),
        below=np.log(1.5),
        holds=False,
    ),
    Claim(
        "there it is the law of a patch with a constant of its own, to one wave number",
        "deviation",
        lambda r: _decays(r, "axis_1", 1),
        below=1,
    ),
    Claim(
        "one hidden layer does not mix patches, overlapping ones only within a window: zero to rounding",
        "deviation",
        lambda r: r["overlap"].zero.max(skipna=False),
        below=1e-15,
    ),
    Claim(
        "overlapping patches keep the law, with C times 2/p for even k_1 + k_2, to half a wave number",
        "deviation",
        lambda r: max(r["overlap"].pair.max(skipna=False), r["overlap"].single.max(skipna=False)),
        below=1,
    ),
    Claim(
        "test errors are those of the Gaussian equivalent to 10% (a margin, not derived) and three standard errors",
        "deviation",
        lambda r: _off(r["curves"].error / r["curves"].error_theory, 1),
        below=0.1,
    ),
    Claim(
        "on average over n they are exactly, to three standard errors: waves in few dimensions are Gaussian features",
        "deviation",
        lambda r: _off(np.log(r["curves"].error / r["curves"].error_theory).mean("n")),
        below=0,
        holds=False,
    ),
    Claim(
        "exponents are those of its curves, to 0.05 (a margin, not derived) and three standard errors",
        "deviation",
        lambda r: _off(_exponents(r["curves"].error), _exponents(r["curves"].error_theory)),
        below=0.05,
    ),
    Claim(
        "exponents of the curves tend to 2 nu_T (2 nu_S + D) / (D (2 nu_S + d)), to n^(-1/4)",
        "deviation",
        lambda r: _late(r, lambda nu, d, D: learning_exponent(0.5, nu, d, D)),
        below=1,
    ),
    Claim(
        "they tend to 2 nu_T / d, whatever the student",
        "deviation",
        lambda r: _late(r, lambda nu, d, D: 1 / d),
        below=1,
        holds=False,
    ),
    Claim(
        "a tree learns a local target faster than a network without patches, one without a tree faster still",
        "deviation",
        lambda r: max(_gap(r, "dense 1/2", "deep 1/2"), _gap(r, "deep 1/2", "shallow 1/2")),
        below=0,
    ),
    Claim(
        "the fewer patches the target has, the faster a deep network learns it",
        "deviation",
        lambda r: max(_gap(r, "deep 2/4", "deep 1/4"), _gap(r, "deep 4/4", "deep 2/4")),
        below=0,
    ),
)


def plot(results, axes):
    """Draw the learning curves; inset, eigenvalues of the deep network on circles with their
    laws."""
    from jaxdyn.plot import curves

    shown = results["curves"].drop_sel(row="random 1/2")
    shown = shown.assign_coords(row=("row", shown.row.values, {"long_name": "target's patches"}))
    curves(shown.error, shown.error_theory, x="n", hue="row", axes=axes, log="xy")
    axes.set(
        xlabel="training points n", ylabel="test error / variance of the target", ylim=(None, 50)
    )
    inset = axes.inset_axes([0.36, 0.63, 0.63, 0.36])
    torus = results["torus"].sel(get="ntk")
    for part, colour, label in (
        ("axis_0", "C0", "(k, 0)"),
        ("axis_1", "C2", "(k, 1)"),
        ("joint", "C1", "(k, k)"),
    ):
        inset.loglog(
            torus.k, torus[part].sel(what="found"), "o", color=colour, markersize=2, label=label
        )
        for law in (torus[part].sel(what="law")[parity::2] for parity in (0, 1)):
            inset.plot(law.k, law, color=colour, linewidth=0.8)
    for label, text in (
        (inset.set_xlabel, "wave number k"),
        (inset.set_ylabel, "eigenvalue, NTK, 2 patches"),
    ):
        label(text, fontsize="x-small", labelpad=0)
    inset.legend(fontsize=5)
    inset.tick_params(labelsize="xx-small", which="both")
    return axes
