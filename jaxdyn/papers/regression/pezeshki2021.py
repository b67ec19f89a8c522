"""Multi-scale feature learning dynamics: insights for double descent (Pezeshki, Mitra, Bengio,
Lajoie, 2021).

A linear student learns y = w . z + noise from x = F z, in which d - p of d features are kappa times
smaller.  Its test error E_G = (1 - 2 R + Q)/2, R the overlap of student and teacher and Q that of
the student with itself, falls while the large features are learned, rises while they fit what the
small ones would explain, and falls again.  The published closed form of R and Q is not exact: it
gives each group all n samples to itself, but the p large features use up p of them.  The exact one
is a deterministic equivalent.  Time is that of the sum over samples, dw/dt = X^T (y - X w).
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxdyn import Claim, Trajectory, sweep
from jaxdyn.papers import Reference
from jaxdyn.tasks.regression import regression
from jaxdyn.theory.regression import equivalents, given_data, spectrum

__all__ = ["REFERENCE"]

TITLE = "Multi-scale feature learning dynamics: insights for double descent"
REFERENCE = Reference(
    title=TITLE,
    authors="Pezeshki, Mitra, Bengio, Lajoie",
    year=2021,
    arxiv="2112.03215",
    name="Multi-scale feature learning",
    reproduces="epoch-wise double descent, exactly; the published formula is off",
)
QUICK = dict(
    samples=(150, 130, 120),
    fast=(60, 70, 80),
    kappas=(50.0, 100.0, 40.0),
    noises=(0.0, 0.0, 0.2),
    inputs=100,
    seeds=24,
    times=29,
    penalties=24,
)
PAPER = {
    "samples": (600, 520, 480),
    "fast": (240, 280, 320),
    "inputs": 400,
    "seeds": 40,
    "times": 57,
    "penalties": 48,
}
SIZES = {"quick": QUICK, "paper": QUICK | PAPER}


def population(samples, fast, kappa, *, inputs):
    """Two groups of features; the teacher is random in z, so the stronger in x the smaller they
    are."""
    slow = inputs - fast
    scales = jnp.stack([jnp.ones_like(kappa), kappa**-2.0])
    counts = jnp.stack([fast, slow])
    return equivalents.Spectrum(scales / inputs, counts, counts / scales, jnp.zeros(2))


def order_parameters(R, Q):
    """R, Q and E_G."""
    return {"R": R, "Q": Q, "E": (1 - 2 * R + Q) / 2}


def theory(samples, fast, kappa, noise, *, inputs, times):
    """The flow at each time and ridge regression with the penalty 1/time, exactly and as
    published."""
    system = population(samples, fast, kappa, inputs=inputs), samples, noise
    flow = spectrum.flow(samples * times, *system)
    ridge = spectrum.ridge(1 / (samples * times), *system)
    exact = {
        name: order_parameters(e.overlap, e.self_overlap)
        for name, e in (("flow", flow), ("ridge", ridge))
    }
    parts = exact | {"published": decoupled(1 / times, samples, fast, kappa, noise, inputs)}
    coarse = spectrum.flow(samples * times, *system, nodes=24).excess / 2
    observed = {f"{part}_{name}": a for part, names in parts.items() for name, a in names.items()}
    return Trajectory(times, observed | {"contour": abs(coarse - observed["flow_E"])})


def simulate(key, samples, fast, kappa, noise, *, inputs, most, times):
    """The same from data: the flow, and ridge regression."""
    data = regression(key, most, 1 / inputs, (inputs,), inputs, noise=1.0)
    scale = jnp.where(jnp.arange(inputs) < fast, 1.0, 1 / kappa)
    # Examples that are left out are zero, so that one program has any number of them.
    used = jnp.where(jnp.arange(most) < samples, 1.0, 0.0)
    x = data.x * used[:, None]
    y = (data.y + (noise - 1) * (data.y - data.x @ data.teacher)) * used
    flow = given_data.flow(most * times, x * scale[None], y) * scale[None]
    ridge = given_data.ridge(1 / (most * times), x * scale[None], y) * scale[None]

    def overlaps(w):
        return order_parameters(w @ data.teacher / inputs, jnp.sum(w**2, -1) / inputs)

    parts = {"flow": overlaps(flow), "ridge": overlaps(ridge)}
    return Trajectory(
        times, {f"{part}_{name}": a for part, names in parts.items() for name, a in names.items()}
    )


def regularised(penalty, samples, fast, kappa, noise, *, inputs, times):
    """The test error of the flow of a penalised loss."""
    system = population(samples, fast, kappa, inputs=inputs), samples, noise
    return Trajectory(
        times, {"E": spectrum.flow(samples * times, *system, penalty=penalty / samples).excess / 2}
    )


def decoupled(penalty, n, p, kappa, noise, d):
    """R, Q and E_G of ridge regression as published (eqs. 14 and 15), for one definition of the
    penalty."""
    sizes = jnp.stack([p, d - p])
    alpha = n / sizes
    ratio = penalty[:, None] * d / sizes[None] * jnp.stack([jnp.ones_like(kappa), kappa**2])[None]
    gap = 1 - alpha[None] - ratio
    a = 1 + 2 * ratio / (gap + jnp.sqrt(gap**2 + 4 * ratio))
    R = n / d / a
    b = alpha[None] / (a**2 - alpha[None])
    c = 1 + noise**2 - 2 * R[:, ::-1] - (2 - a) / a * n / d
    Q = (b[:, :1] * b[:, 1:] * c[:, ::-1] + b * c) / (1 - b[:, :1] * b[:, 1:])
    return order_parameters(R.sum(1), Q.sum(1))


def run(*, sweep=sweep, samples, fast, kappas, noises, inputs, seeds, times, penalties):
    """Simulate each system; return exact and published theory beside it."""
    numbers = dict(samples=samples, fast=fast, kappa=kappas, noise=noises)
    if len({len(values) for values in numbers.values()}) > 1:
        raise ValueError(
            f"samples, fast, kappas, noises: {numbers}; pass one of each for every system"
        )
    systems = np.array(list(numbers.values()), float).T
    with jax.enable_x64(True):
        common = {"inputs": inputs, "times": np.geomspace(0.1, 1e6, times)}
        rename = {"_".join(numbers): "system"}

        def over(run, systems, **options):
            return sweep(run, {tuple(numbers): systems}, **options).rename(rename)

        # The same with one scale, and with fewer samples than inputs.
        plain = systems * [1, 1, 0, 0] + [0, 0, 1, 0]
        few = systems * [0, 1, 1, 0] + [0.9 * inputs, 0, 0, 0]
        exact = over(partial(theory, **common), np.concatenate([systems, plain, few]))
        runs = over(partial(simulate, most=max(samples), **common), systems, seeds=seeds)
        grid = partial(regularised, inputs=inputs, times=np.geomspace(0.1, 1e6, 2 * penalties))
        grid = partial(grid, **dict(zip(numbers, systems[0], strict=True)))
        phase = sweep(grid, {"penalty": np.geomspace(1e-6, 1, penalties)})
    parts = [exact.isel(system=slice(i * len(systems), (i + 1) * len(systems))) for i in range(3)]
    for name in ("R", "Q", "E"):
        for part in ("flow", "ridge"):
            error = runs[f"{part}_{name}"] - parts[0][f"{part}_{name}"]
            runs[f"{part}_{name}_theory"] = parts[0][f"{part}_{name}"]
            allowed = 4 * error.std("seed", ddof=1) / seeds**0.5 + 1 / inputs
            runs[f"{part}_{name}_z"] = abs(error.mean("seed")) / allowed
        runs[f"published_{name}"] = parts[0][f"published_{name}"]
    runs["inputs"] = inputs
    return {
        "systems": runs,
        "turns": turns(runs),
        "plain": parts[1],
        "few": parts[2],
        "phase": phase,
    }


def turns(runs):
    """How far the error rises, and then falls again, between the times of the exact theory's
    extrema."""
    import xarray as xr

    def between(E, theory):
        low = int(np.argmax(np.diff(theory) > 1e-6))
        high = low + int(np.argmax(theory[low:]))
        last = high + int(np.argmin(theory[high:]))
        return E[..., high] - np.stack([E[..., low], E[..., last]])

    theory = runs.flow_E_theory.transpose("system", "time")
    simulated = runs.flow_E.transpose("system", "seed", "time")
    change = np.array([between(E, T) for E, T in zip(simulated.values, theory.values, strict=True)])
    return xr.Dataset({"change": (("system", "side", "seed"), change)})


def _judged(runs, part):
    return max(runs[f"{part}_{name}_z"].max(skipna=False) for name in ("R", "Q", "E"))


def _rises(phase):
    """By how much the error rises after its lowest value so far, for each penalty."""
    E = phase.E.transpose("penalty", "time").values
    return (E - np.minimum.accumulate(E, 1)).max(1)


CLAIMS = (
    Claim(
        "R, Q and E_G of the flow are those of the exact theory, to four standard errors and 1/d",
        "deviation",
        lambda r: _judged(r["systems"], "flow"),
        below=1,
    ),
    Claim(
        "so are those of ridge regression",
        "deviation",
        lambda r: _judged(r["systems"], "ridge"),
        below=1,
    ),
    Claim(
        "the published closed form is that of ridge regression, to 1/d",
        "deviation",
        lambda r: abs(r["systems"].published_E - r["systems"].ridge_E_theory).max(),
        below=lambda r: 1 / r["systems"].inputs,
        holds=False,
    ),
    Claim(
        "with fewer samples than inputs it keeps to R <= n/d",
        "deviation",
        lambda r: (r["few"].published_R * r["systems"].inputs / r["few"].samples).max(skipna=False),
        below=1,
        holds=False,
    ),
    Claim(
        "the exact R does",
        "deviation",
        lambda r: (r["few"].ridge_R * r["systems"].inputs / r["few"].samples).max(skipna=False),
        below=1,
    ),
    Claim(
        "the error falls, rises and falls again, each by three standard errors",
        "deviation",
        lambda r: (
            3
            * r["turns"].change.std("seed", ddof=1)
            / r["turns"].sizes["seed"] ** 0.5
            / r["turns"].change.mean("seed")
        ).max(skipna=False),
        below=1,
    ),
    Claim(
        "with one scale and no noise it only falls",
        "deviation",
        lambda r: r["plain"].flow_E.diff("time").max(skipna=False),
        below=1e-10,
    ),
    Claim(
        "a penalty makes the rise smaller, the more the larger it is",
        "deviation",
        lambda r: np.diff(_rises(r["phase"])).max(),
        below=1e-10,
    ),
    Claim(
        "24 nodes on the contour are exact to 1e-6",
        "deviation",
        lambda r: max(r[name].contour.max(skipna=False) for name in ("plain", "few")),
        below=1e-6,
    ),
)


def plot(results, axes):
    """Draw the error of each system over time, as published dashed; inset, that of the first over
    time and penalty."""
    from jaxdyn.plot import COLOURS, curves

    runs = results["systems"]
    label = [
        f"n={n:.0f} p={p:.0f} \u03ba={k:g} \u03c3={s:g}"
        for n, p, k, s in zip(
            runs.samples.values, runs.fast.values, runs.kappa.values, runs.noise.values, strict=True
        )
    ]
    runs = runs.assign_coords(system=label)
    curves(runs.flow_E, runs.flow_E_theory, hue="system", axes=axes, log="x")
    for place, colour in zip(range(len(label)), COLOURS, strict=False):
        axes.plot(runs.time, runs.published_E[place], "--", color=colour, linewidth=1)
    axes.set(xlabel="flow time t (published, dashed: 1/penalty)", ylabel="test error $E_G$")
    phase = results["phase"].E
    inset = axes.inset_axes([0.69, 0.62, 0.29, 0.36])
    inset.pcolormesh(
        phase.time,
        phase.penalty,
        phase.transpose("penalty", "time"),
        shading="nearest",
        rasterized=True,
    )
    inset.set(xscale="log", yscale="log")
    inset.set_xlabel("time", fontsize="x-small")
    inset.set_ylabel("penalty of the first", fontsize="x-small")
    inset.tick_params(labelsize="xx-small")
    return axes
