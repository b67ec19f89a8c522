"""On-line learning in soft committee machines (Saad, Solla, 1995).

A student of K units g(h) = erf(h / sqrt(2)) learns a teacher of K orthonormal ones, all readouts 1,
from a new example at each step, at the rate eta/d for d inputs.  As d -> infinity the overlaps Q =
w w^T and R = w w*^T obey an ODE in examples/d: learning dwells on a plateau, a saddle where units
are alike, until they specialise, and ends at a floor set by noise and rate.  At finite d they are a
Markov chain, which scatters about the ODE and leaves the plateau by itself after a time of
log(d)/(2 rate).  All in float64.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdyn import RK4, Claim, crossing_time, integrate, iterate, run_key, sweep, tasks, train
from jaxdyn.losses import squared_error
from jaxdyn.papers import Reference
from jaxdyn.theory import online
from jaxdyn.theory.online import fluctuations
from jaxdyn.theory.online import specialisation as committee
from jaxdyn.theory.online.gaussian_integrals import erf, root, sobol, trapezoid

REFERENCE = Reference(
    title="On-line learning in soft committee machines",
    authors="Saad, Solla",
    year=1995,
    name="On-line learning in committee machines",
    reproduces="plateaus and escape: order parameters, an exact chain at any size, fluctuations, floors",
)
QUICK = dict(
    units=2,
    learning_rate=1.0,
    noise=0.1,
    sizes=(50, 200),
    runs=2048,
    large=5000,
    large_runs=64,
    scale=0.02,
    escape_sizes=(50, 100, 300),
    escapes=128,
    shares=(0.5, 0.9, 0.97, 1.03),
)
PAPER = {
    "units": 3,
    "learning_rate": 0.5,
    "sizes": (100, 400),
    "runs": 8192,
    "large": 10**6,
    "escapes": 1024,
}
SIZES = {"quick": QUICK, "paper": QUICK | PAPER | {"escape_sizes": (100, 400, 1600)}}
BLOCK = 50  # examples that a chain draws at once
RECORDS = np.linspace(0, 1, 41)  # in units of a run's last time
SOON = 4.0
LATE = slice(
    10, None, 10
)  # the last time of fluctuations, and the records at which they are judged
APART = 0.1
CLOSE = 0.01
ALIKE = 1e-7  # gaps of starts


def start_of(units, gap):
    """A student whose units are alike but for a gap between the overlaps of equal units and those
    of others."""
    own = gap * jnp.eye(units)
    return online.Student(0.2 + own, 0.1 + own, jnp.ones(units))


def seen(student, teacher):
    """Observe overlaps, the generalisation error, and how far the units have specialised."""
    overlaps = jnp.concatenate([jnp.ravel(a) for a in student[:2]])
    R = student.with_teacher
    error = online.generalisation_error(student, teacher)
    return {"overlaps": overlaps, "error": error, "asymmetry": committee.asymmetry(R)}


def chain(inputs, last, gap, noise, draw, *, units, learning_rate, scale):
    """Learn at finite d without weights, from random ones where there is no gap."""
    teacher = committee.teacher(units, noise)
    (k_start, key) = jax.random.split(run_key(draw.astype(int)))
    random = online.random_start(k_start, teacher, jnp.ones(units), inputs, scale)
    start = jax.tree.map(partial(jnp.where, gap == 0), random, start_of(units, gap))
    step = online.chain(teacher, inputs, learning_rate=learning_rate, examples=BLOCK)
    times = jnp.round(last * RECORDS * inputs / BLOCK)
    return iterate(
        step, start, times=times, observe=lambda state: seen(state.params, teacher), key=key
    )


def network(key, *, inputs, units, learning_rate, noise):
    """Learn by descent on the weights themselves."""
    (Q, R, v) = start_of(units, APART)
    teacher = committee.teacher(units)
    of = jnp.eye(units, inputs)
    start = root(jnp.block([[teacher.overlaps, R.T], [R, Q]]))[units:] @ jnp.eye(2 * units, inputs)

    def machine(w, x):
        return erf().apply(x @ w.T) @ v

    stream = tasks.online(
        lambda key: tasks.labelled(key, partial(machine, of), 1, inputs, noise=noise)
    )

    def observe(state):
        return seen(online.overlaps(state.params, v, of), teacher)

    field = jax.grad(squared_error(machine))
    times = (SOON * RECORDS[LATE] * inputs).round().astype(int)
    return train(
        field,
        optax.sgd(learning_rate / inputs),
        stream,
        start,
        times=times,
        observe=observe,
        key=key,
    )


def limit(last, gap, noise, learning_rate, *, units):
    """Integrate the ODE of infinite d; from close to the solution where there is no gap."""
    teacher = committee.teacher(units, noise)
    eye = jnp.eye(units)
    solved = online.Student((1 + 1e-6) * eye, eye, jnp.ones(units))
    start = jax.tree.map(partial(jnp.where, gap == 0), solved, start_of(units, gap))
    velocity = online.velocity(teacher, learning_rate=learning_rate)
    solver = RK4(0.25 / learning_rate)

    def observe(state):
        return seen(state.params, teacher)

    return integrate(velocity, start, times=last * RECORDS, observe=observe, solver=solver)


def scatter(*, units, learning_rate, noise):
    """Integrate the ODE with what fluctuates about it at finite d."""
    rule = trapezoid(9) if units == 2 else sobol(15)  # a grid of six dimensions would be too large
    teacher = committee.teacher(units, noise)
    kept = 2 * units**2
    velocity = fluctuations.online(teacher, rule=rule, learning_rate=learning_rate)

    def observe(state):
        limit, C, m = state.params
        return {**seen(limit, teacher), "offset": m[:kept], "variance": jnp.diagonal(C)[:kept]}

    start = fluctuations.start(start_of(units, APART))
    times = SOON * RECORDS[LATE]
    return integrate(velocity, start, times=times, observe=observe, rtol=1e-7)


def run(
    *,
    sweep=sweep,
    units,
    learning_rate,
    noise,
    sizes,
    runs,
    large,
    large_runs,
    scale,
    escape_sizes,
    escapes,
    shares,
):
    """Simulate chains and networks; return beside them the ODE, its fluctuations, and what is known
    in closed form."""
    import xarray as xr

    if units < 2 or any(d % BLOCK for d in (*sizes, large)):
        raise ValueError(
            f"units, sizes, large: {units}, {sizes}, {large}; pass 2 or more, and multiples of {BLOCK}"
        )
    setting = {"units": units, "learning_rate": learning_rate}
    dims = {"overlaps": "entry"}
    with jax.enable_x64(True):
        level, rate = map(float, committee.moving_plateau(units, learning_rate)[1:3])
        rate *= learning_rate
        kinds = [
            *((d, SOON, APART, noise, runs) for d in sizes),
            (large, SOON, APART, noise, large_runs),
            # One escape in 400 or so is later than the last time, and counts as that.
            *((d, (np.log(d) / 2 + 8) / rate, 0, 0, escapes) for d in escape_sizes),
            (3 * escape_sizes[-1], 7 / rate, CLOSE, 0, large_runs),
        ]
        rows = np.repeat([kind[:4] for kind in kinds], [kind[4] for kind in kinds], 0)
        axes = {("inputs", "last", "gap", "noise", "draw"): np.c_[rows, np.arange(len(rows))]}
        chains = sweep(partial(chain, **setting, scale=scale), axes, dims=dims).rename(
            inputs_last_gap_noise_draw="run"
        )
        rows = [
            (7 / rate, CLOSE, 0, learning_rate),
            ((np.log(1 / ALIKE) + 6) / rate, ALIKE, 0, learning_rate),
            *((500 / learning_rate, 0, sigma, learning_rate) for sigma in (noise, noise / 2)),
            *(
                (60 / e, 0, 0, e)
                for e in float(committee.max_learning_rate(units)) * np.array(shares)
            ),
        ]
        axes = {("last", "gap", "noise", "learning_rate"): rows}
        odes = sweep(partial(limit, units=units), axes, dims=dims).rename(
            last_gap_noise_learning_rate="case"
        )
        about = sweep(
            partial(scatter, noise=noise, **setting),
            dims=dims | {"offset": "entry", "variance": "entry"},
        )
        nets = sweep(
            partial(network, inputs=sizes[0], noise=noise, **setting), seeds=runs, dims=dims
        )
        slope, spread = map(float, committee.escape_time(rate, (units - 1) ** 2))
        (H, N, _) = committee.deviations(units)
        floor = float(committee.noise_floor(units, learning_rate))
    chains = chains.assign_coords(time=chains.time * BLOCK / chains.inputs).drop_vars(
        ["last", "noise", "draw"]
    )
    odes = odes.assign(
        mode=("case", [np.linalg.eigvalsh(e * H - e**2 * N)[0] for e in odes.learning_rate.values])
    )
    times = crossing_time(np.log(chains.asymmetry), np.log(0.1)).fillna(chains.time.max("time"))
    escape = times.values[chains.gap == 0].reshape(len(escape_sizes), escapes)
    escape = xr.Dataset({"escape": (("inputs", "run"), escape)}, {"inputs": list(escape_sizes)})
    theory = {"level": level, "rate": rate, "slope": slope, "spread": spread, "floor": floor}
    return {
        "chains": chains,
        "odes": odes.transpose("case", ...),
        "fluctuations": about,
        "networks": nets.rename(seed="run"),
        "escape": escape.assign(theory),
    }


def _runs(r, gap, size=0):
    """Return the chains with that gap, and with the number of inputs that comes at `size` among
    theirs."""
    runs = r["chains"].isel(run=r["chains"].gap.values == gap)
    return runs.isel(run=runs.inputs.values == np.unique(runs.inputs)[size])


def _cases(r, gap=0.0, noisy=False):
    return r["odes"].isel(
        case=(r["odes"].gap.values == gap) & ((r["odes"].noise.values > 0) == noisy)
    )


def _growth(cases, name, *records):
    """The rate at which a quantity of ODEs grows between two records."""
    return (
        np.diff(np.log(cases[name].values[:, records]))[:, 0]
        / np.diff(cases.time.values[:, records])[:, 0]
    )


def _off(r, size, times=1):
    """By how much overlaps of runs are off the ODE and their predicted offset, in predicted
    standard deviations."""
    runs = _runs(r, APART, size)
    about = r["fluctuations"]
    expected = about.overlaps + times * about.offset / (d := runs.inputs[0].item())
    y = runs.overlaps.isel(time=LATE).transpose("run", "time", "entry")
    return (y.values - expected.values) / np.sqrt(about.variance.values / d)


def _mean(r, size, times=1):
    return abs((off := _off(r, size, times)).mean(0)).max() * len(off) ** 0.5


def _law(r):
    """By how many standard errors chains and networks of as many inputs differ in first and second
    moments."""
    both = _runs(r, APART).isel(time=LATE), r["networks"]
    both = [runs.overlaps.transpose("run", "time", "entry").values for runs in both]
    both = [np.concatenate([y[..., None], y[..., None] * y[..., None, :]], -1) for y in both]
    return (
        abs(both[0].mean(0) - both[1].mean(0)) / np.sqrt(sum(y.var(0) / len(y) for y in both))
    ).max()


def _floor(r):
    """The power of the noise with which errors at rest are off their lowest order."""
    noise = np.sort(r["odes"].noise.values)[[-1, -2]]
    rest = _cases(r, noisy=True).error.values[:, -1]
    return np.log2(np.divide(*(rest / noise**2 / r["escape"].floor.item() - 1)))


CLAIMS = (
    Claim(
        "networks and chains of as many inputs are one in law: two moments of all overlaps to 4.5 standard errors",
        "deviation",
        _law,
        below=4.5,
    ),
    Claim(
        "at finite d their means are the ODE's, offset by 1/d as predicted, to 4.5 standard errors",
        "deviation",
        lambda r: max(_mean(r, size) for size in (0, 1, -1)),
        below=4.5,
    ),
    Claim(
        "few inputs are off the ODE by more", "deviation", lambda r: 4.5 / _mean(r, 0, 0), below=1
    ),
    Claim(
        "runs of many inputs scatter about it with the predicted variance",
        "deviation",
        lambda r: (
            abs(np.cbrt((off := _off(r, -1)).var(0, ddof=1)) - 1).max() * (4.5 * len(off)) ** 0.5
        ),
        below=4.5,
    ),
    Claim(
        "units that start almost alike dwell at the plateau's error",
        "deviation",
        lambda r: abs(_cases(r, ALIKE).error / r["escape"].level - 1).min(skipna=False),
        below=100 * ALIKE,
    ),
    Claim(
        "they specialise at the plateau's rate at this learning rate",
        "deviation",
        lambda r: abs(_growth(_cases(r, ALIKE), "asymmetry", 12, 16)[0] / r["escape"].rate - 1),
        below=1e-3,
    ),
    Claim(
        "from random weights the mean time of escape grows as log(d)/(2 rate), to 3 standard errors",
        "deviation",
        lambda r: np.ptp(
            ((e := r["escape"]).escape.mean("run") - e.slope * np.log(e.inputs)).values
        ),
        below=lambda r: 3 * r["escape"].spread * (2 / r["escape"].sizes["run"]) ** 0.5,
    ),
    # The fourth cumulant of log|xi| is four squares of its variance, or less.
    Claim(
        "and scatters as the logarithm of a normal amplitude, whatever d",
        "deviation",
        lambda r: abs((e := r["escape"]).escape.std("run", ddof=1) / e.spread - 1).max(
            skipna=False
        ),
        below=lambda r: 3 * (1.5 / r["escape"].sizes["run"]) ** 0.5,
    ),
    Claim(
        "close to the solution errors decay, beyond the largest learning rate grow, as its modes do",
        "deviation",
        lambda r: abs(_growth(_cases(r), "error", -9, -1) / _cases(r).mode.values + 1).max(),
        below=1e-2,
    ),
    Claim(
        "and with noise rest at the floor, up to the next order, noise^2",
        "deviation",
        lambda r: abs(_floor(r) - 2),
        below=0.1,
    ),
)


def plot(results, axes):
    """Draw the overlaps from one start; inset, errors on the plateau, times of escape, and means at
    finite size."""
    from jaxdyn.plot import COLOURS

    axes.figure.set_layout_engine("none")
    axes.set_position([0.1, 0.6, 0.37, 0.37])
    error, times, means = map(
        axes.inset_axes, ([1.35, 0, 1, 1], [0, -1.35, 1, 1], [1.35, -1.35, 1, 1])
    )
    odes = results["odes"]
    about = results["fluctuations"].isel(time=-1)
    escape = results["escape"]
    line = odes.isel(case=list(odes.gap).index(CLOSE))
    path = _runs(results, CLOSE)
    K2 = len(about.entry) // 2
    for i, (name, entry) in enumerate(
        {"Q_{11}": 0, "Q_{12}": 1, "R_{11}": K2, "R_{12}": K2 + 1}.items()
    ):
        axes.plot(line.time, line.overlaps[:, entry], color=COLOURS[i], label=f"${name}$")
        axes.plot(
            line.time[::2],
            path.overlaps.mean("run")[::2, entry],
            "o",
            color=COLOURS[i],
            markersize=3,
        )
    runs = _runs(results, 0, -1).isel(run=slice(8))

    def bars(a):
        return a.std("run") / a.sizes["run"] ** 0.5

    error.plot(runs.time.T, runs.error.T, color=COLOURS[1], linewidth=0.6)
    error.plot(line.time, line.error, color="black", label="ODE")
    error.axhline(escape.level, color="0.5", linestyle="--", label="plateau")
    mean = escape.escape.mean("run")
    x = np.log(escape.inputs)
    times.errorbar(x, mean, bars(escape.escape), fmt="o", color=COLOURS[0])
    times.plot(x, mean.mean() + escape.slope * (x - x.mean()), color="black")
    for i, runs in enumerate(_runs(results, APART, size) for size in (0, 1)):
        off = (d := runs.inputs[0].item()) * (runs.overlaps.isel(time=-1) - about.overlaps)
        means.errorbar(
            about.offset,
            off.mean("run"),
            bars(off),
            fmt="o",
            color=COLOURS[i],
            label=f"d = {d:.0f}",
        )
    means.axline((0, 0), slope=1, color="black")
    axes.set(xlabel="examples per input", ylabel="overlaps")
    error.set(xlabel="examples per input", ylabel="generalisation error", yscale="log")
    times.set(xlabel="log of the number of inputs d", ylabel="time of escape")
    means.set(xlabel="predicted offset of overlaps", ylabel="d (mean - ODE)")
    for panel in (axes, error, means):
        panel.legend(fontsize="x-small")
    return axes
