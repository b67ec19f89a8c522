"""The neural race reduction: dynamics of abstraction in gated networks (Saxe, Sodhani, Lewallen,
2022).

The gated network y = sum_p g_p W_2[r_p2] W_1[r_p1] x descends E|y - y_hat|^2 / 2.  Pathways whose
gates are never open together learn as linear networks of their own, du/dt = 2 u (s - d u); matrices
shared between M contexts learn faster, by sqrt(M) for one of two layers; pathways that are open
together race to explain what they share, and the one that sees most data wins.  The gated networks
are simulated in full, theory is computed from their initial weights, in float64.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxdyn import RK4, Claim, crossing_time, flow, sweep
from jaxdyn.losses.regression import covariance_loss, squared_error
from jaxdyn.models import gated_inputs, gated_linear, gated_product
from jaxdyn.papers import Reference
from jaxdyn.tasks.spectra import Covariances, covariances, frames
from jaxdyn.theory import linear
from jaxdyn.theory.linear import gated

TITLE = "The neural race reduction: dynamics of abstraction in gated networks"
REFERENCE = Reference(
    title=TITLE,
    authors="Saxe, Sodhani, Lewallen",
    year=2022,
    arxiv="2207.10430",
    name="The neural race reduction",
    reproduces="gated networks: pathways that race, and what sharing speeds up",
)
QUICK = dict(hidden=8, scale=1e-3, seeds=4, contexts=(4, 9, 16), strengths=(2.0, 1.0), u0=1e-3)
SIZES = {
    "quick": QUICK,
    "paper": QUICK | {"hidden": 32, "seeds": 16, "contexts": (2, 4, 9, 16, 25, 36)},
}


def exclusive_or(key, *, hidden, scale):
    """Flow of the network with one pathway for each of the four examples of XoR, from small random
    weights."""
    x = jnp.array([[1.0, 1.0, 1.0], [1.0, -1.0, 1.0], [-1.0, 1.0, 1.0], [-1.0, -1.0, 1.0]])
    y = jnp.array([[-1.0], [1.0], [1.0], [-1.0]])
    gates = jnp.eye(4)
    routes = [(p, p) for p in range(4)]
    model = gated_linear((3, hidden, 1), routes)
    # Equal variances of both layers, scale^2 for each weight.
    first, second = model.init(key)
    start = [scale * 3**0.5 * first, scale * hidden**0.5 * second]
    loss = covariance_loss(lambda w: gated_product(w, routes))
    moments = covariances(gated_inputs(x, gates), y)
    # A pathway sees a quarter of the data: s = |y| |x| / 4 and d = |x|^2 / 4, with the seed |W_1 v
    # + W_2^T u|^2 / 4.
    size = 3**0.5
    growing = jnp.einsum("phi,pi->ph", start[0], x / size) + y * start[1][:, 0]
    u0 = jnp.sum(growing**2, 1) / 4
    s = size / 4
    d = size**2 / 4

    def theory(time):
        return y[:, 0] * size * linear.mode_strength(d * time, s / d, u0)

    batch = jax.grad(squared_error(model.apply))

    def observe(state):
        fields = jax.grad(loss)(state.params, moments), batch(state.params, ((x, gates), y))
        apart = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), *fields)
        outputs = {"y": model.apply(state.params, (x, gates))[:, 0], "y_theory": theory(state.time)}
        return outputs | {"fields_apart": jnp.max(jnp.stack(apart)), "seed_strength": u0}

    times = np.linspace(0, 60, 121)
    return flow(jax.grad(loss), moments, start, times=times, observe=observe, solver=RK4(0.05))


def in_contexts(contexts, *, most, shared, race, s, u0, bases):
    """Flow of a gated network that learns one linear map in `contexts` equally frequent ones, from
    aligned weights.

    Each context has a pathway with an output layer of its own; the input layer is its own too, or
    `shared` by all.  In a `race` there is one more pathway, which is open in all contexts.
    """
    right, hidden, left = bases
    routes = [(0, 0)] * race + [(0 if shared else race + c, race + c) for c in range(most)]
    gates = np.concatenate([np.ones((most, race)), np.eye(most)], axis=1)
    share = jnp.where(jnp.arange(most) < contexts, 1 / contexts, 0.0)
    # Inputs are white in each context, so that pathways correlate by how often both are open.
    open_ = share @ gates
    both = jnp.einsum("c,cp,cq->pq", share, gates, gates)
    yx = (left * s[None]) @ right.T
    moments = Covariances(jnp.kron(both, jnp.eye(len(right))), jnp.kron(open_[None], yx), yx @ yx.T)
    # The layer used more often is larger in balance.
    ratio = contexts**0.25 if shared else 1.0
    a = jnp.full(s.size, u0**0.5 * ratio)
    b = jnp.full(s.size, u0**0.5 / ratio)
    start = [
        jnp.stack([(hidden * a[None]) @ right.T] * (1 if shared else most + race)),
        jnp.stack([(left * b[None]) @ hidden.T] * (most + race)),
    ]

    def end_to_end(w):
        return gated_product(w, routes).reshape(len(left), len(routes), len(right))

    delay = jnp.log(s.min() / u0) / s.min() / 2
    times = jnp.linspace(0.0, 1.0, 201) * (delay + 10 / s.min() if race else 1.3 * contexts * delay)

    def observe(state):
        u = jnp.einsum("oa,opi,ia->pa", left, end_to_end(state.params), right)[: race + 1]
        if race:
            outcome = jax.vmap(
                lambda s: gated.race_outcome(jnp.full(2, u0), 2 / jnp.array([1.0, contexts]), s)
            )(s)
            return {"u": u, "u_theory": outcome.T}
        modes = gated.shared_modes(
            state.time, s, a, b, first=1.0 if shared else 1 / contexts, second=1 / contexts
        )
        return {"u": u[0], "u_theory": modes[0] * modes[1]}

    loss = covariance_loss(lambda w: gated_product(w, routes))
    return flow(
        jax.grad(loss), moments, start, times=times, observe=observe, solver=RK4(0.02 / s.max())
    )


def run(*, sweep=sweep, hidden, scale, seeds, contexts, strengths, u0):
    """Simulate XoR, networks with shared and separate layers, and a race; return theory beside
    them."""
    import xarray as xr

    with jax.enable_x64(True):
        examples = {name: "example" for name in ("y", "y_theory", "seed_strength")}
        xor = sweep(partial(exclusive_or, hidden=hidden, scale=scale), seeds=seeds, dims=examples)
        s = np.array(strengths)
        bases = frames(jax.random.key(0), (s.size + 1, s.size + 2, s.size), s.size)
        network = partial(in_contexts, most=max(contexts), s=s, u0=u0, bases=bases)
        axes = {"contexts": np.array(contexts, float)}
        names = {False: "separate", True: "shared"}
        dims = {"u": "mode", "u_theory": "mode"}
        results = {
            names[shared]: sweep(partial(network, shared=shared, race=0), axes, dims=dims)
            for shared in names
        }
        dims = {name: ("pathway", "mode") for name in dims}
        race = sweep(partial(network, shared=False, race=1), axes, dims=dims)
    level = xr.DataArray(s, dims="mode")
    for runs in results.values():
        runs["half_time"] = crossing_time(runs.u, level / 2)
    return {"xor": xor, "race": race, **results}


def _worst(simulated, theory):
    return abs(simulated - theory).max(skipna=False)


CLAIMS = (
    Claim(
        "outputs on XoR follow the sigmoids of their pathways' seeds, up to 10 of these seeds",
        "deviation",
        lambda r: _worst(r["xor"].y, r["xor"].y_theory) / r["xor"].seed_strength.max(),
        below=10,
    ),
    Claim(
        "the gated network's gradient depends on the covariances of gated inputs alone",
        "deviation",
        lambda r: r["xor"].fields_apart.max(skipna=False),
        below=1e-12,
    ),
    Claim(
        "with own or shared layers modes follow the hyperbolic solution in the layers' shares of the data",
        "deviation",
        lambda r: max(_worst(r[name].u, r[name].u_theory) for name in ("separate", "shared")),
        below=1e-6,
    ),
    Claim(
        "sharing one of two layers between M contexts makes learning sqrt(M) times faster",
        "deviation",
        lambda r: _worst(
            r["separate"].half_time / r["shared"].half_time / r["shared"].contexts ** 0.5, 1
        ),
        below=0.01,
    ),
    Claim(
        "a pathway open in all contexts and one of its own share what they explain as the race between them predicts",
        "deviation",
        lambda r: _worst(r["race"].u.isel(time=-1), r["race"].u_theory.isel(time=-1)),
        below=1e-6,
    ),
)


def plot(results, axes):
    """Draw the outputs for the four examples of XoR."""
    from jaxdyn.plot import curves

    xor = (
        results["xor"].assign_coords(example=["(+, +)", "(+, -)", "(-, +)", "(-, -)"]).isel(seed=0)
    )
    curves(xor.y, xor.y_theory, hue="example", axes=axes, points=40)
    axes.set(xlabel="flow time t", ylabel="output")
    return axes
