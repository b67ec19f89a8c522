"""Exact learning dynamics of deep linear networks with prior knowledge (Braun, Domine, Fitzgerald,
Saxe, 2022).

The network y = W_2 W_1 x of whitened inputs descends E|y - y_hat|^2 / 2, so that Q = [W_1^T; W_2]
obeys dQ/dt = F Q - Q Q^T Q / 2, F = [[-lambda/2, yx^T], [yx, lambda/2]], if W_2^T W_2 - W_1 W_1^T =
lambda I at the start: zero-balanced in the paper, lambda-balanced in Domine et al. (2024).  What a
network knew before decides how it learns: rich or lazy, reversing at once or late, or never.
`jaxdyn.theory.linear.riccati` is compared with integration, all in float64.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxdyn import RK4, Claim, State, flow, iterate, sweep
from jaxdyn.losses.regression import covariance_loss
from jaxdyn.models import lambda_balanced, product
from jaxdyn.observables.weights import mode_strengths
from jaxdyn.papers import Reference
from jaxdyn.tasks.spectra import frames, from_svd, linear_teacher
from jaxdyn.theory.linear import riccati

TITLE = "Exact learning dynamics of deep linear networks with prior knowledge"
REFERENCE = Reference(
    title=TITLE,
    authors="Braun, Domine, Fitzgerald, Saxe",
    year=2022,
    name="Exact learning dynamics with prior knowledge",
    reproduces="two-layer networks from any balanced start: rich and lazy, reversal, continual learning",
)
QUICK = dict(
    strengths=(3.0, 2.0, 1.0),
    inputs=5,
    outputs=4,
    imbalances=(0.5, 2.0),
    lazy=50.0,
    scale=0.3,
    draws=2,
    learned=1.5,
    reversed_after=(3.0, 4.0),
)
SIZES = {"quick": QUICK, "paper": QUICK | {"imbalances": (0.25, 0.5, 1.0, 2.0, 4.0), "draws": 12}}


def printed(time, weights, yx, imbalance):
    """Return e^(Ft) Q [I + Q^T (e^(Ft) F^-1 e^(Ft) - F^-1) Q / 2]^-1 Q^T e^(Ft), the formula as
    printed."""
    w, v = jnp.linalg.eigh(riccati.generator(yx, imbalance))
    q = v.T @ jnp.concatenate([weights[0].T, weights[1]])
    moving = jnp.exp(w * time)[:, None] * q
    metric = jnp.eye(q.shape[1]) + (moving.T @ (moving / w[:, None]) - q.T @ (q / w[:, None])) / 2
    return v @ moving @ jnp.linalg.inv(metric) @ moving.T @ v.T


def problem(index, draw, opposed, *, first, second, yx):
    """Return one of the starts and its target; a square one's determinant has the start's sign, or
    the opposite."""
    start = [first[index, draw], second[index, draw]]
    if yx.shape[0] == yx.shape[1]:
        same = jnp.linalg.det(product(start)) * jnp.linalg.det(yx) > 0
        yx = yx.at[0].multiply(jnp.where(same == opposed, -1.0, 1.0))
    return start, yx


def learn(imbalance, opposed, index, draw, late, **networks):
    """Gradient flow from given weights beside the exact solution: accurately at first, or until
    late, in fast steps."""
    start, yx = problem(index, draw, opposed, **networks)
    fastest = jnp.hypot(imbalance, 2 * jnp.linalg.norm(yx, 2))
    rate = riccati.late_rate(yx, len(start[0]), imbalance)
    times = jnp.linspace(0.0, 1.0, 51) * jnp.where(late, 25 / rate, 24 / fastest)
    x = jnp.eye(yx.shape[1])
    initial = riccati.ntk(start, x)

    def moved(weights):
        return jnp.linalg.norm(riccati.ntk(weights, x) - initial) / jnp.linalg.norm(initial)

    def observe(state):
        exact = riccati.solution(state.time, start, yx)
        mean, deviation = riccati.imbalance(state.params)
        kernel = {"kernel": moved(state.params), "kernel_theory": moved(exact)}
        seen = {
            "gap": jnp.linalg.norm(product(state.params) - yx),
            "drift": jnp.maximum(mean - imbalance, deviation),
        }
        return (
            kernel
            | seen
            | {"gram": riccati.gram(state.params), "gram_theory": riccati.gram(exact), "rate": rate}
        )

    field = jax.grad(covariance_loss(product))
    solver = RK4(jnp.where(late, 0.2, 0.01) / fastest)
    return flow(field, linear_teacher(yx), start, times=times, observe=observe, solver=solver)


def formulas(imbalance, opposed, index, draw, *, steps=50, **networks):
    """Return relative errors of the exact and the printed form at each time, against short steps of
    e^16."""
    start, yx = problem(index, draw, opposed, **networks)
    w, v = jnp.linalg.eigh(riccati.generator(yx, imbalance))
    times = 8 / w[-1] * jnp.arange(1, steps + 1)
    references = jax.vmap(lambda *weights: riccati.gram(weights))(
        *riccati.trajectory(times, start, yx)
    )

    def errors(time, reference):
        def relative(s):
            return jnp.linalg.norm(s - reference) / jnp.linalg.norm(reference)

        # No number, after an overflow, is as good as no digit.
        lost = jnp.fmin(relative(printed(time, start, yx, imbalance)), 1.0)
        return {"exact": relative(riccati.gram(riccati.solution(time, start, yx))), "printed": lost}

    # Rounding of a step is relative to the start, of which the least part that grows becomes as
    # large as the largest.
    growing = jnp.linalg.svd(
        v[:, -len(start[0]) :].T @ jnp.concatenate([start[0].T, start[1]]), compute_uv=False
    )
    return jax.vmap(errors)(times, references) | {"amplified": growing[0] / growing[-1]}


def continual(imbalance, opposed, index, draw, *, modes, learned, records=40, **networks):
    """Learn a target for the time `learned`, then its reverse, then another one, by flow and by the
    exact solution."""
    start, yx = problem(index, draw, opposed, **networks)
    targets = jnp.stack([yx, -yx, yx[::-1]])
    field = jax.grad(covariance_loss(product))
    solver = RK4(0.015 / jnp.hypot(imbalance, 2 * jnp.linalg.norm(yx, 2)))

    def advance(key, state):
        task = state.time // records
        dt = jnp.where(task == 0, learned, 4 * learned) / records
        moments = linear_teacher(targets[task])
        simulated, exact = state.params
        moved = flow(
            field, moments, simulated, times=dt[None], observe=lambda state: {}, solver=solver
        ).final.params
        return state._replace(params=(moved, riccati.solution(dt, exact, targets[task])))

    def observe(state):
        def see(weights):
            return (modes(State(state.time, weights))["mode_strengths"], riccati.gram(weights))

        (u, s), (u_theory, s_theory) = map(see, state.params)
        return {"u": u, "u_theory": u_theory, "gram": s, "gram_theory": s_theory}

    return iterate(advance, (start, start), times=np.arange(3 * records + 1), observe=observe)


def reverse(imbalance, opposed, index, draw, after, *, modes, s, records=800, **networks):
    """Return when the weakest mode has half reversed after the target was learned for the time
    `after`."""
    start, yx = problem(index, draw, opposed, **networks)
    dt = 1.5 * after * (1 + s.max() / s.min()) / records

    def advance(key, state):
        task = jnp.where(state.time, dt, after), state.params, jnp.where(state.time, -yx, yx)
        return state._replace(params=riccati.solution(*task))

    u = iterate(advance, start, times=np.arange(1, records + 2), observe=modes).observed[
        "mode_strengths"
    ]
    below = u[:, np.argmin(s)] < -s.min() / 2
    return {"when": jnp.where(below.any(), dt * jnp.argmax(below), jnp.nan)}


def run(
    *,
    sweep=sweep,
    strengths,
    inputs,
    outputs,
    imbalances,
    lazy,
    scale,
    draws,
    learned,
    reversed_after,
):
    """Simulate networks of unequal and of equal layers; return theory beside them."""

    def both(*values):
        return [sign * value for value in values for sign in (-1.0, 1.0)]

    dims = {name: ("row", "column") for name in ("gram", "gram_theory")}
    hidden = len(strengths)
    s = np.array(strengths)
    label = ("imbalance", "opposed", "index")

    def networks(sizes, lambdas):
        R = frames(jax.random.key(0), (sizes[0], sizes[2]), hidden)

        def draw(value, i):
            return lambda_balanced(jax.random.key(i + 1), sizes, value, scale=scale)

        rows = [zip(*[draw(value, i) for i in range(draws)], strict=True) for value in lambdas]
        first, second = (jnp.array(layer) for layer in zip(*rows, strict=True))
        return {"first": first, "second": second, "yx": from_svd(R[1], s, R[0])}, mode_strengths(
            product, R[1], R[0]
        )

    with jax.enable_x64(True):
        wide = sorted([0.0, *both(*imbalances)])
        square = sorted([0.0, 0.0, *both(*imbalances, lazy)])
        rectangle, modes = networks((inputs, hidden, outputs), wide)
        axes = {label: [(value, 0, i) for i, value in enumerate(wide)], "draw": np.arange(draws)}
        unequal = sweep(partial(learn, **rectangle), axes | {"late": (0, 1)}, dims=dims)
        printed = sweep(
            partial(formulas, **rectangle), axes, dims={"exact": "step", "printed": "step"}
        )
        tasks = partial(continual, modes=modes, learned=learned, **rectangle)
        tasks = sweep(tasks, axes, dims=dims | {"u": "mode", "u_theory": "mode"})
        reversal = sweep(
            partial(reverse, modes=modes, s=s, **rectangle), axes | {"after": reversed_after}
        )
        axes[label] = [(value, int(i == square.index(0.0)), i) for i, value in enumerate(square)]
        equal = sweep(
            partial(learn, **networks((hidden,) * 3, square)[0]), axes | {"late": (0, 1)}, dims=dims
        )
    results = {
        "unequal": unequal,
        "equal": equal,
        "printed": printed,
        "tasks": tasks,
        "reversal": reversal,
    }
    results = {name: runs.rename(imbalance_opposed_index="run") for name, runs in results.items()}
    tasks = results["tasks"]
    reversal = results["reversal"]
    equal = results["equal"]
    tasks["clock"] = learned * (tasks.time.clip(max=40) + 4 * (tasks.time - 40).clip(min=0)) / 40
    # The strong modes take the larger seeds: e^-(s_max + s_min) after is left to the weakest,
    # growing as e^(s_min t). Some starts have little of what delays it most, and come to that
    # later; these are rare.
    delay = reversal.when.diff("after").isel(after=0) / np.diff(reversed_after)[0]
    reversal["delay"] = delay.median("draw", skipna=False)
    reversal["delay_theory"] = 1 + s.max() / s.min()
    for runs in (results["unequal"], equal):
        end = runs.sel(late=1).isel(time=[40, 50])
        moderate = (runs.opposed == 0) & (abs(runs.imbalance) < lazy)
        rate = (-np.log(end.gap).diff("time") / end.time.diff("time")).isel(time=0)
        runs["rate_error"] = abs(rate / end.rate.isel(time=0) - 1).where(moderate, 0.0).mean("draw")
    equal["unlearned"] = (equal.gap.sel(late=1).isel(time=-1) / s.min()).where(
        equal.opposed == 1, 1.0
    )
    linear = equal.sel(late=0).isel(run=-1, drop=True)
    equal["laziness"] = linear.gap / linear.gap.isel(time=0, drop=True) - np.exp(
        -lazy * linear.time
    )
    equal["lazy_bound"] = 2 * (s.max() ** 2 / lazy + 5 * scale**2) / lazy
    return results


def _worst(simulated, theory):
    return abs(simulated - theory).max(skipna=False)


def _early(r, name):
    """Largest deviation from theory among networks of unequal and of equal layers, over theory's
    largest value."""
    early = [r[which].sel(late=0) for which in ("unequal", "equal")]
    return max(_worst(d[name], d[f"{name}_theory"]) / abs(d[f"{name}_theory"]).max() for d in early)


def _moved(r):
    """How far the kernels of square networks have moved in the end, by ascending imbalance."""
    return (
        r["equal"]
        .kernel.sel(late=1)
        .isel(time=-1, run=r["equal"].opposed == 0)
        .transpose("run", "draw")
        .values
    )


def _delays(r, balanced):
    return r["reversal"].delay.isel(run=(r["reversal"].imbalance == 0) == balanced)


CLAIMS = (
    Claim(
        "the solution is the flow, up to the error of the flow's steps",
        "deviation",
        lambda r: _early(r, "gram"),
        below=1e-9,
    ),
    Claim(
        "so are the tangent kernel's changes",
        "deviation",
        lambda r: _early(r, "kernel"),
        below=1e-9,
    ),
    Claim(
        "the flow conserves W_2^T W_2 - W_1 W_1^T, up to the error of its steps",
        "deviation",
        lambda r: max(
            abs(r[name].drift.sel(late=0)).max(skipna=False) for name in ("unequal", "equal")
        ),
        below=1e-9,
    ),
    Claim(
        "the printed formula holds in double precision to a part in a million, while e^(2 w t) grows to e^800",
        "deviation",
        lambda r: r["printed"].printed.max(skipna=False),
        below=1e-6,
        holds=False,
    ),
    Claim(
        "the graded form does, up to the rounding of short steps of the condition e^8, which the flow amplifies",
        "deviation",
        lambda r: (r["printed"].exact / r["printed"].amplified).max(skipna=False),
        below=np.exp(8) * np.finfo(float).eps,
    ),
    Claim(
        "late the map nears its target at sqrt(lambda^2 + 4 s_min^2), slower if some directions have none",
        # Decays of like size at (1 + x) times the rate are still mixed in at 20 decay times, by x
        # e^(-20 x) < 1/20e.
        "deviation",
        lambda r: max(r[name].rate_error.max(skipna=False) for name in ("unequal", "equal")),
        below=1 / 20 / np.e,
    ),
    Claim(
        "the further from balance, the less the kernel moves: from rich to lazy learning",
        "deviation",
        lambda r: np.exp(np.diff(np.log(_moved(r).mean(1))[len(_moved(r)) // 2 :]).max()),
        below=1,
    ),
    Claim(
        "and it moves alike for both signs, where inputs and outputs are alike",
        "deviation",
        lambda r: abs(_moved(r) / _moved(r)[::-1] - 1).max(),
        below=0.02,
    ),
    Claim(
        "a large imbalance is lazy, the map goes as 1 - e^(-lambda t), up to 2 (s^2 / lambda + 5 scale^2) / lambda",
        "deviation",
        lambda r: abs(r["equal"].laziness).max(skipna=False) / r["equal"].lazy_bound,
        below=1,
    ),
    Claim(
        "a square start of zero balance whose determinant has the wrong sign never learns its weakest mode",
        "deviation",
        lambda r: _worst(r["equal"].unlearned, 1),
        below=1e-3,
    ),
    Claim(
        "out of balance the solution goes on from task to task, through a reversal, as the flow does",
        "deviation",
        lambda r: _worst(
            r["tasks"].gram, r["tasks"].gram_theory.where(r["tasks"].imbalance, r["tasks"].gram)
        ),
        below=1e-7,
    ),
    Claim(
        "in zero balance each unit of time learned delays the median reversal of the weakest by 1 + s_max/s_min",
        "deviation",
        lambda r: _worst(_delays(r, True) / r["reversal"].delay_theory, 1),
        below=0.05,
    ),
    Claim(
        "out of balance by no time: it reverses at once",
        "deviation",
        lambda r: _delays(r, False).max(skipna=False),
        below=0.05,
    ),
)


def plot(results, axes):
    """Draw the weakest mode as it is learned, reversed and learned anew, for different imbalances
    of the start."""
    from jaxdyn.plot import curves

    tasks = results["tasks"].isel(mode=-1, run=results["tasks"].imbalance >= 0)
    tasks = tasks.assign_coords(time=tasks.clock.values).swap_dims(run="imbalance")
    curves(
        tasks.u, tasks.u_theory, hue="imbalance", over="draw", spread="std", axes=axes, points=40
    )
    axes.set(xlabel="flow time t", ylabel="strength of the weakest mode")
    return axes
