"""Observables of saddles, for any network: where a run pauses, what it pauses at, and how wide the network acts there.

`snapshot` records what is needed, `saddle_table` turns the run into a table; its parts can be had by themselves.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from jaxdyn.dynamics import iterate
from jaxdyn.observables.curvature import _hessian_product, hessian_index
from jaxdyn.types import Batch, Observe, Params, State, Trajectory

if TYPE_CHECKING:
    import xarray

Loss = Callable[[Params, Batch], Float[Array, ""]]


def snapshot(loss: Loss, batch: Batch) -> Observe:
    """Observe what `saddle_table` needs: `loss`, `gradient_norm` and all parameters in one vector, `params`.

    A run of T records of P parameters keeps T P numbers.
    """

    def observe(state):
        value, gradient = jax.value_and_grad(loss)(state.params, batch)
        norm = jnp.linalg.norm(ravel_pytree(gradient)[0])
        return {"loss": value, "gradient_norm": norm, "params": ravel_pytree(state.params)[0]}

    return observe


def saddle_table(
    run: Trajectory,
    loss: Loss,
    batch: Batch,
    *,
    like: Params,
    units: Callable[[Params], Float[Array, "units ..."]] | None = None,
    prominence: float = 0.3,
    tail: float = 1e-6,
    **index: Any,
) -> "xarray.Dataset":
    """Return the saddles that a run has passed, and where it is at the end, one by one along the dimension "saddle".

    The run, of `train` or `flow`, has recorded a `snapshot` of this loss and batch; `like` are parameters of its
    structure, such as its start.  In order of time:

    - `time`, `record`, `loss`, `gradient_norm`: of the record next to the saddle (`saddle_records`); `left` is False
      for the last one, the end of the run, which may be a minimum, or a saddle that the run has never left;
    - `saddle_loss`, `residual`, `distance`: loss and gradient norm of the critical point nearby (`project_to_saddle`)
      and how far it is, relative to the parameters' norm; there is a saddle where residual is far below gradient_norm;
    - `index`: the number of its falling directions, 0 at a minimum (`hessian_index`, whose options follow);
    - `unit_width`, `direction_width`: see `effective_width`; left out without `units`.

    >>> from jaxdyn.dynamics import flow
    >>> loss, start = lambda w, target: (w[0] * w[1] - target) ** 2, jnp.array([1e-3, 1e-3])
    >>> run = flow(jax.grad(loss), 1.0, start, times=np.linspace(0, 10, 101), observe=snapshot(loss, 1.0))
    >>> table = saddle_table(run, loss, 1.0, like=start)
    >>> table.saddle_loss.values.round(3), table["index"].values, table.left.values
    (array([1., 0.], dtype=float32), array([1., 0.], dtype=float32), array([ True, False]))

    Raises ValueError for a run without a snapshot, of other parameters, of one that is not finite at its first record,
    or of float64 outside of `jax.enable_x64`.
    """
    import xarray as xr

    seen = _snapshots(run, like)
    kept = np.flatnonzero(np.logical_and(np.ravel(run.ok), np.isfinite(seen["gradient_norm"])))
    if not len(kept):
        raise ValueError("run: not finite at its first record; start it with smaller weights or steps")
    seen = {name: values[: kept[-1] + 1] for name, values in seen.items()}
    passed = saddle_records(seen["loss"], seen["gradient_norm"], prominence=prominence, tail=tail)
    records = np.append(np.flatnonzero(passed), kept[-1])
    unravel = ravel_pytree(like)[1]
    observe = hessian_index(loss, batch, **index)

    @jax.jit
    def judge(flat):
        params = unravel(flat)
        saddle = project_to_saddle(loss, params, batch)
        size = jnp.maximum(jnp.linalg.norm(flat), jnp.finfo(flat.dtype).tiny)
        moved = jnp.linalg.norm(ravel_pytree(saddle)[0] - flat) / size
        here = snapshot(loss, batch)(State(0, saddle))
        found = {"saddle_loss": here["loss"], "residual": here["gradient_norm"], "distance": moved}
        width = {} if units is None else effective_width(units)(State(0, params))
        return found | observe(State(0, saddle)) | width

    judged = [jax.tree.map(np.asarray, judge(seen["params"][record])) for record in records]
    table = {name: values[records] for name, values in seen.items() if name != "params"}
    table |= {name: np.stack([row[name] for row in judged]) for name in judged[0]}
    left = np.arange(len(records)) < len(records) - 1
    table |= {"time": np.asarray(run.time)[records], "record": records, "left": left}
    columns = {name: ("saddle", values) for name, values in table.items()}
    return xr.Dataset(columns, attrs={"parameters": len(seen["params"][0])})


def _snapshots(run, like):
    """Return the records of a run's snapshots as numpy."""
    missing = {"loss", "gradient_norm", "params"} - set(run.observed)
    if missing:
        raise ValueError(f"run: has not observed {sorted(missing)}; record observe=snapshot(loss, batch)")
    seen = {name: np.asarray(run.observed[name]) for name in ("loss", "gradient_norm", "params")}
    size = ravel_pytree(like)[0].size
    if seen["params"].ndim != 2 or seen["params"].shape[1] != size:
        raise ValueError(
            f"run: its params have the shape {seen['params'].shape}, `like` has {size} parameters; pass one run (of a "
            "sweep, choose one) and parameters of its structure, such as its start"
        )
    if seen["params"].dtype == np.float64 and not jax.config.jax_enable_x64:
        raise ValueError("run: is of float64; call saddle_table within jax.enable_x64(True)")
    return seen


def saddle_records(
    loss: Float[ArrayLike, " times"],
    gradient_norm: Float[ArrayLike, " times"],
    *,
    prominence: Float[ArrayLike, ""] = 0.3,
    tail: Float[ArrayLike, ""] = 1e-6,
) -> Bool[Array, " times"]:
    """Return at which records a run is next to a saddle: the minima of the gradient's norm that it leaves again.

    Such a minimum lies `prominence` decades below what comes before and after it; the first record, with nothing before
    it, counts where the norm rises by as much.  No clock enters, as the durations of plateaus range from ln(1/scale) to
    powers of 1/scale.  Records from the first whose loss exceeds the lowest by less than `tail` of what it falls in all
    do not count: near a minimum the norm flickers at the solver's tolerance.  Dips are shallow where plateaus follow
    each other closely, and noise makes more of them: use the full batch's norm.

    >>> norm = jnp.array([0.1, 1.0, 10.0, 1.0, 0.01, 0.1, 1.0, 0.01])
    >>> saddle_records(jnp.array([4.0, 4.0, 3.0, 2.0, 2.0, 1.5, 1.0, 0.5]), norm).nonzero()[0].tolist()
    [0, 4]
    """
    loss, height = jnp.asarray(loss), jnp.log10(jnp.asarray(gradient_norm))
    records = jnp.arange(len(loss))
    lowest = jnp.nanmin(loss)
    ended = jnp.cumsum(loss <= lowest + tail * (loss[0] - lowest)) > 0

    def climb(carry, record):
        falling, extreme, place = carry
        y, k = record
        further = jnp.where(falling, y < extreme, y > extreme)
        turned = jnp.where(falling, y > extreme + prominence, y < extreme - prominence)
        new = (falling ^ turned, jnp.where(further | turned, y, extreme), jnp.where(further | turned, k, place))
        return new, (turned & falling, place)

    # A gradient of 0 lies below all others, but not infinitely.
    height = jnp.maximum(height, jnp.log10(jnp.finfo(height.dtype).tiny))
    heights = jnp.where(ended, jnp.nan, height)
    start = (jnp.asarray(True), heights[0], records[0])
    _, (left, places) = jax.lax.scan(climb, start, (heights, records))
    return jnp.zeros(len(loss), bool).at[places].max(left)


def plateaus(
    time: Float[ArrayLike, " times"], loss: Float[ArrayLike, " times"], *, flatness: Float[ArrayLike, ""] = 0.02
) -> Bool[Array, " times"]:
    """Return which records lie on plateaus: the loss falls at less than `flatness` times its fastest rate.

    On the clock of the run, so that short plateaus pass for steep where others are long; see `saddle_records`.
    """
    slope = jnp.abs(jnp.diff(jnp.asarray(loss)) / jnp.diff(jnp.asarray(time)))
    flat = slope < flatness * jnp.max(slope)
    return jnp.concatenate([flat[:1], flat[1:] & flat[:-1], flat[-1:]])


def level_times(
    time: Float[ArrayLike, " times"], loss: Float[ArrayLike, " times"], levels: Float[ArrayLike, " levels"]
) -> Float[Array, " levels"]:
    """Return when the loss first falls to each of the levels, by linear interpolation; NaN where it never does.

    >>> level_times(jnp.array([0.0, 1.0, 2.0]), jnp.array([4.0, 2.0, 1.0]), jnp.array([3.0, 1.5, 0.5])).tolist()
    [0.5, 1.5, nan]
    """
    time, loss = jnp.asarray(time), jnp.asarray(loss)

    def first(level):
        below = loss <= level
        after = jnp.maximum(jnp.argmax(below), 1)
        share = (loss[after - 1] - level) / (loss[after - 1] - loss[after])
        when = jnp.where(below[0], time[0], time[after - 1] + share * (time[after] - time[after - 1]))
        return jnp.where(jnp.any(below), when, jnp.nan)

    return jax.vmap(first)(jnp.asarray(levels))


def project_to_saddle(loss: Loss, params: Params, batch: Batch, *, steps: int = 10, products: int = 50) -> Params:
    """Return the critical point of the loss next to `params`: the saddle itself, from a record on the way past it.

    Levenberg's and Marquardt's method on the gradient g: steps -(H^2 + mu)^(-1) H g, mu = |g|^2 / |params|^2, by at
    most `products` iterations of conjugate gradients, which work for any number of parameters.  It converges to one of
    a continuum of critical points too (Yamashita & Fukushima, 2001), quadratically, from nearby.  Of the points on the
    way the one of the smallest gradient is returned.
    """
    flat, unravel = ravel_pytree(params)
    gradient = lambda w: ravel_pytree(jax.grad(loss)(unravel(w), batch))[0]

    def closer(_, state):
        w, g, best, smallest = state.params
        product = _hessian_product(loss, unravel(w), batch)[1]
        damping = (g @ g) / (w @ w)
        step = jax.scipy.sparse.linalg.cg(
            lambda v: product(product(v)) + damping * v, product(g), tol=1e-10, maxiter=products
        )[0]
        w = w - step
        g = gradient(w)
        better = g @ g < smallest
        return state._replace(params=(w, g, jnp.where(better, w, best), jnp.where(better, g @ g, smallest)))

    g = gradient(flat)
    run = iterate(closer, (flat, g, flat, g @ g), times=[steps], observe=lambda state: {})
    return unravel(run.final.params[2])


def effective_width(units: Callable[[Params], Float[Array, "units ..."]]) -> Observe:
    """Observe how many units work, `unit_width`, and into how many directions, `direction_width`.

    Participation ratios (sum x)^2 / sum x^2 of the squared norms of the rows of `units(params)` and of the squares of
    their singular values.  A row holds all weights of a unit, those in and those out, or what it contributes (such as
    `models.attention_heads`).  A saddle of rank r has r directions: in r units (sparse), or spread over all of them.
    NaN where all are 0.

    >>> {name: f"{width:.1f}" for name, width in effective_width(lambda w: w)(State(0, jnp.ones((4, 2)))).items()}
    {'unit_width': '4.0', 'direction_width': '1.0'}
    """

    def observe(state):
        rows = units(state.params)
        rows = rows.reshape(len(rows), -1)
        # Scaled, or fourth powers of small initial weights would underflow.
        rows = rows / jnp.max(jnp.abs(rows))
        products = rows @ rows.T
        norms = jnp.diagonal(products)
        # The sum of the fourth powers of singular values is that of the squares of all products of rows.
        squared = jnp.sum(norms) ** 2
        return {"unit_width": squared / jnp.sum(norms**2), "direction_width": squared / jnp.sum(products**2)}

    return observe


def clusters(
    units: Callable[[Params], tuple[Float[Array, "units place"], Float[Array, " units"]]],
    *,
    radius: Float[ArrayLike, ""],
    active: Float[ArrayLike, ""] = 0.03,
) -> Observe:
    """Observe how many `clusters` units form: distinct directions of rectifiers, kinks of a piecewise linear function.

    `units(params)` are points and weights: u_i / |u_i| and v_i |u_i| for directions, -bias / slope and v_i slope_i for
    kinks.  Units count whose |weight| is at least the share `active` of the largest; those of one sign within the
    `radius` of each other are one cluster.  A sum over units of 1 / (the size of their neighbourhood), which counts
    clusters that are tight and apart.
    """

    def observe(state):
        place, weight = units(state.params)
        works = (jnp.abs(weight) >= active * jnp.max(jnp.abs(weight))) & (weight != 0)
        apart = jnp.sqrt(jnp.sum((place[:, None] - place[None]) ** 2, -1))
        together = (apart <= radius) & (weight[:, None] * weight[None] > 0) & works[None]
        return {"clusters": jnp.sum(jnp.where(works, 1 / jnp.maximum(jnp.sum(together, 1), 1), 0))}

    return observe


def rank_distance(of: Callable[[Params], Float[Array, "_ _"]], rank: int) -> Observe:
    """Observe how far the matrix `of(params)` is from that `rank`, `rank_distance` = sigma_(rank + 1) / sigma_rank.

    For linear units with all their weights in the rows it is the distance to the invariant manifold of a narrower
    network.  Raises ValueError for a rank that is none of a narrower one.
    """

    def observe(state):
        singular = jnp.linalg.svd(of(state.params), compute_uv=False)
        if not 1 <= rank < len(singular):
            raise ValueError(f"rank: {rank} of {len(singular)} singular values; pass 1 <= rank < {len(singular)}")
        return {"rank_distance": singular[rank] / singular[rank - 1]}

    return observe


def charges(of: Callable[[Params], Float[Array, "..."]], loss: Loss, batch: Batch, like: Params) -> Observe:
    """Observe the `charges` that a symmetry of the loss conserves under gradient flow, any array `of(params)`.

    A charge is conserved where its gradient is the generator of a symmetry: params + s xi(params) leaves the loss as it
    is to first order, so that d charge / dt = -<xi, grad loss> = 0.  For a symmetric matrix A with generator A params
    it is <params, A params> / 2: |u_i|^2 - p v_i^2 for units of degree p, W_1 W_1^T - W_2^T W_2 for linear layers.

    Raises ValueError where that fails at the concrete parameters `like`: the largest |cosine| of the angle between a
    charge's gradient and the loss's is not 0 to half the digits.
    """
    flat, unravel = ravel_pytree(like)

    @jax.jit
    def largest_cosine(flat):
        gradient = jax.grad(lambda w: loss(unravel(w), batch))(flat)
        generators = jax.jacrev(lambda w: jnp.ravel(of(unravel(w))))(flat)
        sizes = jnp.linalg.norm(generators, axis=1) * jnp.linalg.norm(gradient)
        return jnp.max(jnp.abs(generators @ gradient) / jnp.where(sizes == 0, 1, sizes))

    cosine = largest_cosine(flat)
    if not isinstance(cosine, jax.core.Tracer) and cosine > jnp.finfo(flat.dtype).eps ** 0.5:
        raise ValueError(
            "of: is no charge of a symmetry of this loss: the cosine between its gradient and the loss's is "
            f"{cosine:.3g}, not 0; pass one whose gradient is the generator of a symmetry"
        )
    return lambda state: {"charges": of(state.params)}
