"""Exact solutions to the nonlinear dynamics of learning in deep linear networks (Saxe, McClelland,
Ganguli, 2013).

The network y = W_D ... W_1 x descends E|y - y_hat|^2 / 2.  From a balanced start that is aligned
with the task, each singular value s of the input-output covariance is learned by itself, du/dt = D
u^(2 - 2/D) (s - u): plateaus and sudden transitions.  Depth delays them by a finite number of
steps, if the initial weights let the signal through: random orthogonal matrices do, Gaussian ones
do not.  Theory is computed beside what is observed, all in float64.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdyn import RK4, Claim, crossing_time, flow, iterate, sweep, train
from jaxdyn.losses.regression import covariance_loss
from jaxdyn.models import (
    aligned,
    deep_linear,
    product,
    product_exponents,
    product_to_depth,
    propagate,
)
from jaxdyn.observables.weights import mode_strengths
from jaxdyn.papers import Reference
from jaxdyn.tasks.spectra import binary_tree, frames, from_svd, linear_teacher
from jaxdyn.theory import linear

TITLE = "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks"
REFERENCE = Reference(
    title=TITLE,
    authors="Saxe, McClelland, Ganguli",
    year=2013,
    arxiv="1312.6120",
    name="Exact solutions of deep linear networks",
    reproduces="plateaus and sigmoids, depth, random starts, signal propagation",
)
QUICK = dict(
    aligned_strengths=(3.0, 2.0, 1.0),
    u0=0.05,
    depths=(2, 3, 5),
    learning_rates=(1e-2, 4e-3),
    second=(0.02, 1.3, -0.9),
    step_depths=(2, 3, 5, 10, 20, 50, 100, 200),
    strengths=(4.0, 3.0, 2.0, 1.5, 1.0, 0.5),
    scale=1e-3,
    levels=3,
    seeds=4,
    product_depth=1000,
    width=100,
    gains=(1.0, 1.05),
    init_depths=(2, 8, 16),
    init_rates=(0.35, 0.5, 0.7, 1.0),
)
DEEP = {"depths": (2, 3, 5, 10), "init_depths": (2, 4, 8, 16, 32)}
INITS = ("gaussian", "orthogonal")
SIZES = {
    "quick": QUICK,
    "paper": QUICK | DEEP | {"learning_rates": (1e-2, 4e-3, 1e-3), "seeds": 16, "width": 200},
}


def aligned_network(R, s, u0, depth):
    """Return a loss, its moments, a balanced start aligned with them, its modes, and times until
    all are learned."""
    end_to_end = partial(product_to_depth, depth=depth)
    left = jnp.stack(R)[depth]
    start = aligned(R, jnp.full(s.size, u0) ** ((len(R) - 1) / depth))
    moments = linear_teacher(from_svd(left, s, R[0]))
    times = linear.time_of_strength(0.99 * s.min(), s.min(), u0, depth) * np.linspace(0.02, 1, 50)
    return (
        covariance_loss(end_to_end),
        moments,
        start,
        mode_strengths(end_to_end, left, R[0]),
        times,
    )


def aligned_flow(depth, *, R, s, u0):
    """Gradient flow beside the closed form of each mode."""
    loss, moments, start, strengths, times = aligned_network(R, s, u0, depth)

    def theory(time):
        return linear.deep_mode_strength(time, s, u0, depth)

    def observe(state):
        return {"u": strengths(state)["mode_strengths"], "u_theory": theory(state.time)}

    solver = RK4(0.015 * linear.max_learning_rate(s.max(), depth))
    return flow(jax.grad(loss), moments, start, times=times, observe=observe, solver=solver)


def aligned_descent(depth, learning_rate, *, R, s, u0):
    """Descent of the same networks, as it lags behind the flow."""
    loss, moments, start, strengths, times = aligned_network(R, s, u0, depth)

    def observe(state):
        mode = learning_rate * state.time, s, u0, depth
        lag = strengths(state)["mode_strengths"] - linear.deep_mode_strength(*mode)
        return {"lag": lag, "lag_theory": linear.descent_lag(*mode, learning_rate)}

    steps = jnp.round(times / learning_rate)

    def stream(key, step):
        return moments

    return train(
        jax.grad(loss), optax.sgd(learning_rate), stream, start, times=steps, observe=observe
    )


def unbalanced_flow(second, *, times, first=1.3, s=2.0):
    """Flow of a network of single units whose layers differ."""
    start = [jnp.full((1, 1), first), jnp.full((1, 1), second)]
    moments = linear_teacher(jnp.full((1, 1), s))

    def theory(time):
        return jnp.stack(linear.unbalanced_modes(time, s, first, second))

    def observe(state):
        return {"layers": jnp.ravel(jnp.stack(state.params)), "layers_theory": theory(state.time)}

    return flow(
        jax.grad(covariance_loss(product)),
        moments,
        start,
        times=times,
        observe=observe,
        solver=RK4(0.002),
    )


def chain_descent(depth, ratio, *, s, u0, steps):
    """Descent of one mode, whose balanced layers stay equal, at `ratio` of the largest stable
    learning rate."""
    rate = ratio * linear.max_learning_rate(s, depth)

    def move(a):
        return a + rate * (s - a**depth) * a ** (depth - 1)

    def step(key, state):
        return state._replace(params=move(state.params))

    return iterate(
        step, u0 ** (1 / depth), times=steps, observe=lambda state: {"u": state.params**depth}
    )


def random_flow(key, *, target, variance, scale, times):
    """Flow from small random weights, for inputs of covariance `variance`, beside the sigmoids that
    their QR seeds."""
    left, s, right = map(jnp.asarray, np.linalg.svd(target, full_matrices=False))
    start = deep_linear((target.shape[1], 2 * s.size, target.shape[0]), scale=scale).init(key)
    moments = linear_teacher(jnp.asarray(target), variance * jnp.eye(target.shape[1]))
    strengths = mode_strengths(product, left, right.T)
    u0 = linear.seed_strengths(*start, left, right.T)

    def theory(time):
        return linear.mode_strength(variance * time, s, u0)

    def observe(state):
        return {"u": strengths(state)["mode_strengths"], "u_theory": theory(state.time)}

    solver = RK4(0.05 / (variance * s[0]))
    return flow(
        jax.grad(covariance_loss(product)),
        moments,
        start,
        times=times,
        observe=observe,
        solver=solver,
    )


def gaussian_product(key, *, depth, width=32):
    """Lyapunov exponents of a random product; the log R_ii^2 of a layer is that of a chi-squared
    variable."""

    def gaussian(key):
        return deep_linear((width, width)).init(key)[0]

    exponents = product_exponents(key, gaussian, width=width, depth=depth)
    spread = jnp.sqrt(jax.scipy.special.polygamma(1, jnp.arange(width, 0, -1) / 2) / 4 / depth)
    return {
        "exponents": exponents,
        "exponents_theory": linear.lyapunov_exponents(width),
        "spread": spread,
    }


def tanh_signal(key, gain, orthogonal, *, width, depth=50):
    """Signal and Jacobian of a deep tanh network; `concentration`: singular values within 4 times
    their rms."""
    gaussian, haar = (deep_linear((width, width), scale=gain, init=init).init for init in INITS)

    def draw(key):
        return jnp.where(orthogonal, haar(key)[0], gaussian(key)[0])

    h, jacobian = propagate(
        key, draw, jnp.where(jnp.arange(width) % 2 == 0, 1.0, -1.0), depth=depth
    )
    squares = jnp.linalg.svd(jacobian, compute_uv=False) ** 2
    (q, chi) = linear.tanh_mean_field(gain, depth)
    near = jnp.abs(jnp.log(squares / squares.mean())) < 2 * np.log(4)
    signal = jnp.array([jnp.mean(h**2), squares.mean()])
    theory = jnp.array([q[-1], chi.prod()])
    return {"signal": signal, "signal_theory": theory, "concentration": near.mean()}


def init_descent(depth, rate, orthogonal, draw, *, networks, s, steps=600):
    """Relative loss of descent at the learning rate `rate / depth` from random weights of norm
    one."""
    # The weights are rotation invariant, so the task may be diagonal.
    moments = linear_teacher(jnp.diag(s))
    loss = covariance_loss(partial(product_to_depth, depth=depth))

    def observe(state):
        return {"loss": 2 * loss(state.params, moments) / jnp.trace(moments.yy)}

    start = list(networks[draw, orthogonal])

    def stream(key, step):
        return moments

    optimizer = optax.sgd(rate / depth)
    return train(
        jax.grad(loss), optimizer, stream, start, times=np.arange(steps + 1), observe=observe
    )


def run(
    *,
    sweep=sweep,
    aligned_strengths,
    u0,
    depths,
    learning_rates,
    second,
    step_depths,
    strengths,
    scale,
    levels,
    seeds,
    product_depth,
    width,
    gains,
    init_depths,
    init_rates,
):
    """Simulate every section; return theory beside it."""
    import xarray as xr

    def over(dim, name):
        return {name: dim, f"{name}_theory": dim}

    def from_random(target, variance, time):
        options = {
            "target": target,
            "variance": variance,
            "scale": scale,
            "times": np.linspace(0, time, 401),
        }
        s = xr.DataArray(np.linalg.svd(target, compute_uv=False).round(9), dims="mode")
        runs = sweep(
            partial(random_flow, **options), seeds=seeds, dims=over("mode", "u")
        ).assign_coords(s=s)
        return runs.assign(
            {f"half_{name}": crossing_time(runs[name], s / 2) for name in ("u", "u_theory")}
        )

    with jax.enable_x64(True):
        s = jnp.array(aligned_strengths)
        n = len(strengths)
        network = {
            "R": frames(jax.random.key(0), [s.size + 1] * (max(depths) + 1), s.size),
            "s": s,
            "u0": u0,
        }
        flow = sweep(partial(aligned_flow, **network), {"depth": depths}, dims=over("mode", "u"))
        axes = {"depth": depths, "learning_rate": learning_rates}
        descent = sweep(partial(aligned_descent, **network), axes, dims=over("mode", "lag"))
        sharpness = xr.DataArray(
            2 / np.asarray(linear.max_learning_rate(s.max(), np.array(depths))), dims="depth"
        )

        def largest(lag):
            return abs(lag).max(("time", "mode"), skipna=False)

        descent["beyond"] = largest(descent.lag - descent.lag_theory) / largest(descent.lag_theory)
        descent["beyond_theory"] = descent.learning_rate * sharpness
        pair = partial(unbalanced_flow, times=np.linspace(0, 10, 101))
        pair = sweep(pair, {"second": second}, dims=over("layer", "layers"))
        axes = {"depth": np.array(step_depths, float), "ratio": np.linspace(0.98, 1.02, 40)}
        stability = sweep(partial(chain_descent, s=2.0, u0=2.002, steps=np.array([0, 2000])), axes)
        settles = abs(stability.u[..., 1] - 2) < abs(stability.u[..., 0] - 2)
        stability["stable"] = stability.ratio.where(settles).max("ratio")
        steps = sweep(
            partial(chain_descent, s=1.0, u0=0.05, steps=np.arange(200)), axes | {"ratio": (0.5,)}
        )
        scaled = axes["depth"] * linear.time_of_strength(0.95, 1.0, 0.05, axes["depth"])
        steps["steps"] = crossing_time(steps.u[:, 0], 0.95)
        steps["steps_theory"] = ("depth", np.asarray(scaled))
        steps["steps_limit"] = float(linear.time_of_strength_limit(0.95, 1.0, 0.05))

        random = from_random(np.diag(strengths) @ np.eye(n, n + 2), 1.0, 10 / min(strengths))
        tree = from_random(np.asarray(binary_tree(levels)[1]).T, 0.5**levels, 10 * 2**levels)
        # Modes of equal s mix, so only their mean time is defined.
        tree_levels = tree[["half_u", "half_u_theory"]].groupby("s").mean(..., skipna=False)
        dims = over("index", "exponents") | {"spread": "index"}
        products = sweep(partial(gaussian_product, depth=product_depth), seeds=seeds, dims=dims)
        products["z"] = (
            (products.exponents - products.exponents_theory).mean("seed")
            / products.spread
            * seeds**0.5
        )
        axes = {"gain": gains, "orthogonal": (0, 1)}
        dims = over("moment", "signal")
        tanh = sweep(partial(tanh_signal, width=width), axes, seeds=seeds, dims=dims)
        error = tanh.signal - tanh.signal_theory
        allowed = 0.05 * tanh.signal_theory.mean("seed")
        tanh["z"] = error.mean("seed") / (allowed + 3 * error.std("seed", ddof=1) / seeds**0.5)
        # Drawn outside of the sweep: random numbers for every layer are what takes long to compile
        # there.
        layers = [10] * (max(init_depths) + 1)
        networks = [
            [deep_linear(layers, init=init).init(jax.random.key(draw)) for init in INITS]
            for draw in range(seeds)
        ]
        axes = {
            "depth": init_depths,
            "rate": init_rates,
            "orthogonal": (0, 1),
            "draw": np.arange(seeds),
        }
        starts = sweep(
            partial(init_descent, networks=jnp.array(networks), s=jnp.linspace(0.5, 2, 10)), axes
        )
        # The best rate of each network, and the median over networks, some of which start close to
        # a saddle.
        learned = crossing_time(starts.loss, 0.05).min("rate").fillna(starts.sizes["time"])
        starts["steps"] = learned.median("draw")
    return {
        "flow": flow,
        "descent": descent,
        "pair": pair,
        "stability": stability,
        "steps": steps,
        "random": random,
        "tree": tree,
        "levels": tree_levels,
        "products": products,
        "tanh": tanh,
        "starts": starts,
    }


def _worst(simulated, theory):
    return abs(simulated - theory).max(skipna=False)


CLAIMS = (
    Claim(
        "every mode of an aligned start follows its own equation, at any depth",
        "deviation",
        lambda r: _worst(r["flow"].u / r["flow"].u_theory, 1),
        below=1e-8,
    ),
    Claim(
        "descent lags behind it in proportion to the learning rate, up to relative order rate times sharpness",
        "deviation",
        lambda r: (r["descent"].beyond / r["descent"].beyond_theory).max(skipna=False),
        below=1,
    ),
    Claim(
        "layers that start unbalanced, with any signs, follow the hyperbolic solution",
        "deviation",
        lambda r: _worst(r["pair"].layers, r["pair"].layers_theory),
        below=1e-10,
    ),
    Claim(
        "learning is stable up to the rate 2/(D s^(2 - 2/D))",
        "deviation",
        lambda r: _worst(r["stability"].stable, 1),
        below=0.01,
    ),
    Claim(
        "at half of that rate descent takes the steps of the flow, give or take one",
        "deviation",
        lambda r: _worst(r["steps"].steps, r["steps"].steps_theory),
        below=1,
    ),
    Claim(
        "however deep the network, they exceed those of infinite depth by no more than one",
        "deviation",
        lambda r: (r["steps"].steps - r["steps"].steps_limit).max(skipna=False),
        below=1,
    ),
    Claim(
        "from small random weights each half-time is that of the seed in its QR decomposition",
        "deviation",
        lambda r: _worst(r["random"].half_u / r["random"].half_u_theory, 1),
        below=0.01,
    ),
    Claim(
        "a hierarchy is learned level by level at the predicted times",
        "deviation",
        lambda r: _worst(r["levels"].half_u / r["levels"].half_u_theory, 1),
        below=0.02,
    ),
    Claim(
        "Gaussian layers spread the signal by Lyapunov exponents, each within 4.5 standard errors",
        "deviation",
        lambda r: _worst(r["products"].z, 0),
        below=4.5,
    ),
    Claim(
        "signals and Jacobians of orthogonal tanh networks have mean field's size, to 5 % and three standard errors",
        "deviation",
        lambda r: _worst(r["tanh"].z.sel(orthogonal=1), 0),
        below=1,
    ),
    Claim(
        "Gaussian layers leave half as many of the Jacobian's singular values near that size, or fewer",
        "deviation",
        lambda r: np.divide(*r["tanh"].concentration.mean(("seed", "gain"))),
        below=0.5,
    ),
    Claim(
        "half of all orthogonal networks, of any depth, learn within 60 steps",
        "deviation",
        lambda r: r["starts"].steps.sel(orthogonal=1).max(),
        below=60,
    ),
    Claim(
        "half of all Gaussian ones of eight layers or more do not within 100",
        "deviation",
        lambda r: (100 / r["starts"].steps.where(r["starts"].depth >= 8).sel(orthogonal=0)).max(),
        below=1,
    ),
)


def plot(results, axes):
    """Draw the strengths of the modes learned from small random weights, one by one."""
    from jaxdyn.plot import modes

    random = results["random"].isel(seed=0).swap_dims(mode="s")
    random["s"].attrs["long_name"] = "singular value s"
    modes(random.u, random.u_theory, mode="s", axes=axes, points=40)
    axes.set(xlabel="flow time t", ylabel="mode strength u")
    return axes
