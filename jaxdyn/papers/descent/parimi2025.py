"""On the dynamics of acceleration in first order gradient methods (Parimi, Mehra, Wagh, Yerudkar,
Singh, 2025).

Nesterov's, the triple momentum and the heavy-ball method are one three-term recursion of different
coefficients.  On a quadratic of condition number kappa they need sqrt(kappa) steps where gradient
descent needs kappa; in small steps they are damped oscillators, told apart by terms of the order of
the square root of the learning rate.  On functions that are no quadratics the heavy ball may cycle
for ever.  All in float64; the paper's own derivation was not at hand.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxdyn import RK4, Claim, State, integrate, power_law, sweep, train
from jaxdyn.optimizers import ahead, nesterov_schedule, three_term
from jaxdyn.papers import Reference
from jaxdyn.theory.descent import momentum

__all__ = ["REFERENCE"]

TITLE = "On the Dynamics of Acceleration in First order Gradient Methods"
REFERENCE = Reference(
    title=TITLE,
    authors="Parimi, Mehra, Wagh, Yerudkar, Singh",
    year=2025,
    arxiv="2509.18346",
    name="Dynamics of acceleration",
    reproduces="Nesterov, heavy ball, triple momentum: rates, cycles, their ODEs",
)
QUICK = dict(
    kappas=(25.0, 100.0),
    dims=40,
    duration=3.0,
    ridge_kappa=401.0,
    examples=60,
    features=20,
    span=20.0,
    learning_rates=(1e-2, 1e-3, 1e-4, 1e-5),
    curvature=4.0,
    masses=(0.03, 0.01, 0.003),
)
SIZES = {
    "quick": QUICK,
    "paper": QUICK | {"kappas": (25.0, 100.0, 1e4), "dims": 100, "features": 50},
}
RULES = {
    "gradient descent": (momentum.gradient_descent, lambda kappa: (kappa - 1) / (kappa + 1)),
    "Nesterov": (momentum.nesterov, lambda kappa: 1 - 1 / np.sqrt(kappa)),
    "Nesterov, quadratic": (
        momentum.nesterov_quadratic,
        lambda kappa: 1 - 2 / np.sqrt(3 * kappa + 1),
    ),
    "heavy ball": (momentum.heavy_ball, lambda kappa: (np.sqrt(kappa) - 1) / (np.sqrt(kappa) + 1)),
    "triple momentum": (momentum.triple_momentum, lambda kappa: 1 - 1 / np.sqrt(kappa)),
}


def STREAM(key, step):
    return ()


def descend(rule, m, L, slope, start, *, times, observe):
    """Train by one of RULES, tuned to curvatures from m to L; `observe` sees what it puts out."""
    method = jax.tree.map(
        lambda *each: jnp.stack(each)[rule], *(tune(m, L) for tune, _ in RULES.values())
    )

    def output(state):
        return observe(state.time, ahead(state, method.output - method.lookahead), method)

    return train(
        lambda x, _: slope(x), three_term(*method[:3]), STREAM, start, times=times, observe=output
    )


def quadratic(rule, kappa, *, dims, duration):
    """All modes of a quadratic beside their closed form, for `duration` times kappa steps."""
    curvature = jnp.linspace(1, kappa, dims)
    times = jnp.linspace(0, duration * kappa, 201).round()

    def observe(time, x, method):
        return {"x": x, "x_theory": momentum.mode(time, method, curvature)}

    return descend(
        rule, 1.0, kappa, lambda x: curvature * x, jnp.ones(dims), times=times, observe=observe
    )


def piecewise(rule, *, steps=200):
    """The function of curvatures 1 and 25 of Lessard, Recht, Packard (2016)."""

    def slope(x):
        return jnp.where(x < 1, 25 * x, jnp.where(x < 2, x + 24, 25 * x - 24))

    def observe(time, x, method):
        return {"x": x}

    return descend(
        rule, 1.0, 25.0, slope, jnp.array(3.3), times=np.arange(steps + 1), observe=observe
    )


def logistic(rule, *, problem):
    """Distance to the minimum of a logistic regression with weight decay."""
    _, slope, m, L, minimum = problem

    def observe(time, x, method):
        return {"distance": jnp.linalg.norm(x - minimum)}

    times = np.arange(0, 13 * L / m, 1 + np.sqrt(L / m) // 4)
    return descend(rule, m, L, slope, minimum + 3, times=times, observe=observe)


def convex(learning_rate, *, span):
    """One mode of unit curvature under Nesterov's method for convex functions, beside its ODE."""
    rule = three_term(learning_rate, nesterov_schedule, nesterov_schedule)
    step = jnp.sqrt(learning_rate)

    def iterate(state):
        return ahead(state, -nesterov_schedule(state.time))

    def seen(t, x):
        return {"t": t, "x": x, "x_theory": momentum.nesterov_flow(t, 1.0)}

    def observe(state):
        return seen(step * state.time, iterate(state))

    return train(
        lambda x, _: x, rule, STREAM, 1.0, times=jnp.linspace(0, span, 201) / step, observe=observe
    )


def strongly_convex(learning_rate, nesterov, *, curvature, span):
    """One mode under Nesterov's method or the heavy ball, beside ODEs of low and high resolution;
    convexity 1."""
    s = learning_rate
    step = jnp.sqrt(learning_rate)
    b = (1 - step) / (1 + step)
    change = -2 * s * curvature / (1 + step)
    odes = [
        ode(s, 1.0, curvature)
        for ode in (momentum.nesterov_oscillator, momentum.heavy_ball_oscillator)
    ]
    high = [jnp.where(nesterov == 1, *coefficient) for coefficient in zip(*odes, strict=True)]

    def observe(state):
        def solution(ode, v0):
            return momentum.oscillator(step * state.time, *ode, 1.0, v0)

        meeting = solution(high, momentum.step_velocity(change, step, *high, 1.0))
        low = solution((2.0, curvature), 0.0)
        published = solution(high, change / step)
        return {"x": state.params, "low": low, "published": published, "meeting": meeting}

    rule = three_term(s, b, nesterov * b)
    start = jnp.array(1.0)
    times = jnp.linspace(0, span, 201) / step
    # The first step of both is `change`: for the heavy ball after one of plain descent.
    memory = rule.init(start)._replace(velocity=jnp.where(nesterov == 1, 0.0, -s * curvature))
    return train(
        lambda x, _: curvature * x,
        rule,
        STREAM,
        State(0, start, memory),
        times=times,
        observe=observe,
    )


def potential(*, problem):
    """The flow of low resolution, X' = sqrt(m)(Z - X), Z' = sqrt(m)(X - Z) - grad f(X)/sqrt(m), and
    its potential."""
    (loss, slope, m, L, minimum) = problem
    root = np.sqrt(problem[2])
    start = minimum + 3
    times = np.linspace(0, 8 / root, 201)

    def velocity(_, p):
        return (root * (p[1] - p[0]), root * (p[0] - p[1]) - slope(p[0]) / root)

    def height(x, z):
        return loss(x) - loss(minimum) + m / 2 * jnp.sum((z - minimum) ** 2)

    def observe(state):
        return {"potential": height(*state.params) * jnp.exp(root * state.time)}

    return integrate(
        velocity, (start, start), times=times, observe=observe, solver=RK4(0.2 / np.sqrt(L))
    )


def inertia(mass, *, curvature=2.0):
    """A particle, mass x'' + x' + curvature x = 0, beside the flow on its slow manifold."""

    def velocity(_, p):
        return (p[1], -(p[1] + curvature * p[0]) / mass)

    def slow(time):
        return jnp.exp(-curvature * (1 + mass * curvature) * time)

    def observe(state):
        return {"x": state.params[0], "x_theory": slow(state.time)}

    start = (1.0, -curvature)
    return integrate(
        velocity, start, times=np.linspace(0, 3, 61), observe=observe, solver=RK4(0.1 * mass)
    )


def regression(examples, features, kappa):
    """Return loss, gradient, convexity, smoothness and minimum of a random logistic regression with
    weight decay."""
    rows = jnp.asarray(np.random.default_rng(0).standard_normal((examples, features)))
    smoothness = float(jnp.linalg.eigvalsh(rows.T @ rows)[-1]) / 4
    decay = smoothness / (kappa - 1)
    minimum = jnp.zeros(features)

    def loss(x):
        return jnp.sum(jax.nn.softplus(-rows @ x)) + decay / 2 * jnp.sum(x**2)

    for _ in range(20):
        minimum -= jnp.linalg.solve(jax.hessian(loss)(minimum), jax.grad(loss)(minimum))
    return loss, jax.grad(loss), decay, smoothness + decay, np.asarray(minimum)


def lessard_cycle():
    """The points x_{k+1} = (1 + b - 25 a) x_k - b x_{k-1} + 24 a [x_k >= 2] of a cycle with one of
    them beyond 2."""
    (a, b) = map(float, momentum.heavy_ball(1.0, 25.0)[:2])
    shift = np.eye(3)[[1, 2, 0]]
    return np.sort(
        np.linalg.solve(shift - (1 + b - 25 * a) * np.eye(3) + b * shift.T, [0, 24 * a, 0])
    )


def run(
    *,
    sweep=sweep,
    kappas,
    dims,
    duration,
    ridge_kappa,
    examples,
    features,
    span,
    learning_rates,
    curvature,
    masses,
):
    """Iterate the methods and integrate the flows; return theory beside them."""
    with jax.enable_x64(True):
        rules = {"rule": np.arange(len(RULES))}
        over = {"x": "mode", "x_theory": "mode"}
        modes = sweep(
            partial(quadratic, dims=dims, duration=duration), rules | {"kappa": kappas}, dims=over
        )
        lessard = sweep(piecewise, rules)
        problem = regression(examples, features, ridge_kappa)
        local = sweep(partial(logistic, problem=problem), rules)
        bessel = sweep(partial(convex, span=span), {"learning_rate": learning_rates})
        options = {"curvature": curvature, "span": span / 2}
        axes = {"learning_rate": learning_rates}
        odes = sweep(partial(strongly_convex, **options), axes | {"nesterov": (0, 1)})
        falling = sweep(partial(potential, problem=problem))
        slow = sweep(inertia, {"mass": masses})
        loss, _, m, L, minimum = problem
        curvatures = jnp.linalg.eigvalsh(jax.hessian(loss)(minimum))
        rates = [
            float(momentum.mode_rate(tune(m, L), curvatures).max()) for tune, _ in RULES.values()
        ]
        lessard["cycle"] = "point", lessard_cycle()
    modes["rate_theory"] = (
        ("rule", "kappa"),
        [[rate(kappa) for kappa in kappas] for _, rate in RULES.values()],
    )
    local["rate_theory"] = ("rule", rates)
    local["bound"] = 1 - 1 / np.sqrt(ridge_kappa)
    named = {"modes": modes, "lessard": lessard, "local": local}
    flows = {"bessel": bessel, "odes": odes, "potential": falling, "slow": slow}
    return flows | {name: runs.assign_coords(rule=list(RULES)) for name, runs in named.items()}


def _mode_error(r):
    error, scale = (
        abs(a).max("mode", skipna=False)
        for a in (r["modes"].x - r["modes"].x_theory, r["modes"].x_theory)
    )
    # The smallest numbers have no digits left to judge.
    relative = error / scale.where(scale > 1e-290)
    return (relative / (4 * np.finfo(float).eps * (r["modes"].time + 5) ** 2)).max(skipna=False)


def _rate_error(r):
    """Of the second half of the run, in units of the factor 4 of a double or an oscillating
    root."""
    half, end = (r["modes"].isel(time=record) for record in (100, 200))
    fell = np.log(abs(end.x).max("mode", skipna=False) / abs(half.x).max("mode", skipna=False))
    expected = (end.time.values - half.time.values) * np.log(end.rate_theory)
    return abs(fell - expected).max(skipna=False) / np.log(4)


def _local_rate_error(r):
    """The same between distances of 1e-3 and 1e-11 of the start's."""
    log = np.log(r["local"].distance / r["local"].distance[:, 0])
    near = log.where((log < np.log(1e-3)) & (log > np.log(1e-11)))
    fell = near.max("time") - near.min("time")
    steps = near.idxmin("time") - near.idxmax("time")
    return abs(fell + steps * np.log(r["local"].rate_theory)).max(skipna=False) / np.log(4)


def _guarantee(r):
    """The largest distance in units of the start's times kappa times what holds for every strongly
    convex function."""
    rates = {"gradient descent": 12 / 13, "Nesterov": np.sqrt(0.8), "triple momentum": 0.8}
    x = abs(r["lessard"].x)
    return max(
        (x.sel(rule=rule) / (25 * x[0, 0] * rate**x.time)).max(skipna=False)
        for rule, rate in rates.items()
    )


def _order(error, dim, expected):
    """How far the exponent with which the largest error falls is from the expected one."""
    worst = abs(error).max("time", skipna=False).transpose(..., dim)
    fits = [power_law(error[dim].values, row).exponent for row in np.atleast_2d(worst.values)]
    return abs(np.array(fits) - expected).max()


CLAIMS = (
    Claim(
        "modes of a quadratic follow their closed form, up to rounding, which a double root amplifies by steps^2",
        "deviation",
        _mode_error,
        below=1,
    ),
    Claim(
        "gradient descent contracts a quadratic by 1 - 2/kappa a step, the others by 1 - c/sqrt(kappa), c = 1 to 2",
        "deviation",
        _rate_error,
        below=1,
    ),
    Claim(
        "on a logistic regression each ends at the rate of the curvatures at the minimum",
        "deviation",
        _local_rate_error,
        below=1,
    ),
    Claim(
        "there Nesterov's and the triple momentum method beat 1 - 1/sqrt(kappa)",
        "deviation",
        lambda r: (
            (r["local"].rate_theory / r["local"].bound)
            .sel(rule=["Nesterov", "triple momentum"])
            .max()
        ),
        below=1,
    ),
    Claim(
        "the heavy ball, the fastest on quadratics, ends on a cycle of three points of a piecewise one",
        "deviation",
        lambda r: abs(
            np.sort(r["lessard"].x.sel(rule="heavy ball").values[-3:]) - r["lessard"].cycle.values
        ).max(),
        below=1e-9,
    ),
    Claim(
        "the other methods contract there as guaranteed, to kappa times the start",
        "deviation",
        _guarantee,
        below=1,
    ),
    Claim(
        "Nesterov's method for convex functions follows a Bessel function to order sqrt(learning rate)",
        "deviation",
        lambda r: _order(r["bessel"].x - r["bessel"].x_theory, "learning_rate", 0.5),
        below=0.05,
    ),
    Claim(
        "and its loss stays below 2 |x_0|^2 / t^2",
        "deviation",
        lambda r: (r["bessel"].t ** 2 * r["bessel"].x ** 2 / 4).max(),
        below=1,
    ),
    Claim(
        "ODEs of high resolution meet strongly convex methods to the order of the learning rate",
        "deviation",
        lambda r: _order(r["odes"].x - r["odes"].meeting, "learning_rate", 1),
        below=0.1,
    ),
    Claim(
        "from their published starting velocity they do too",
        "deviation",
        lambda r: _order(r["odes"].x - r["odes"].published, "learning_rate", 1),
        below=0.1,
        holds=False,
    ),
    Claim(
        "that of low resolution, the same for both methods, meets them to order sqrt(learning rate)",
        "deviation",
        lambda r: _order(r["odes"].x - r["odes"].low, "learning_rate", 0.5),
        below=0.1,
    ),
    Claim(
        "its potential f - f* + m/2 |Z - x*|^2 falls at least as fast as e^(-sqrt(m) t)",
        "deviation",
        lambda r: r["potential"].potential.diff("time").max(skipna=False),
        below=0,
    ),
    Claim(
        "a light particle keeps to its slow manifold to second order in its mass",
        "deviation",
        lambda r: _order(r["slow"].x - r["slow"].x_theory, "mass", 2),
        below=0.1,
    ),
)


def plot(results, axes):
    """Draw how each method contracts the quadratic of the largest condition number."""
    from jaxdyn.plot import curves

    modes = results["modes"].isel(kappa=-1)
    curves(
        *(np.sqrt((x**2).sum("mode")) for x in (modes.x, modes.x_theory)),
        hue="rule",
        axes=axes,
        log="y",
    )
    axes.set(xlabel="steps k", ylabel="distance to the minimum", ylim=(1e-16, None))
    return axes
