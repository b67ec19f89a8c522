"""Analysis of saddles, for any network: where a run pauses, at what it pauses, and how wide the
network acts there.

`snapshot` records what is needed, and `saddle_table` turns the run into a table.  The parts of
`saddle_table` can also be used by themselves.
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
from jaxdyn.observables.saddles import effective_width, snapshot
from jaxdyn.types import Batch, Params, State, Trajectory

if TYPE_CHECKING:
    import xarray

__all__ = ["plateaus", "project_to_saddle", "saddle_records", "saddle_table"]

Loss = Callable[[Params, Batch], Float[Array, ""]]


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
    """Return the saddles that a run has passed, and the end of the run, one by one along the
    dimension "saddle".

    The run, of `train` or `flow`, must have recorded a `snapshot` of this loss and batch; `like`
    are parameters of the same structure, such as the start.  The variables, in order of time, are:

    - `time`, `record`, `loss`, `gradient_norm`: of the record next to the saddle
      (`saddle_records`); `left` is False for the last entry, the end of the run, which may be a
      minimum, or a saddle that the run has never left;
    - `saddle_loss`, `residual`, `distance`: loss and gradient norm of the critical point nearby
      (`project_to_saddle`), and its distance from the record relative to the parameters' norm;
      there is a saddle where residual is far below gradient_norm;
    - `index`: the number of falling directions of the critical point, 0 at a minimum
      (`hessian_index`, whose options are the further keywords);
    - `unit_width`, `direction_width`: see `effective_width`; left out without `units`.

    >>> from jaxdyn.dynamics import flow
    >>> loss, start = lambda w, target: (w[0] * w[1] - target) ** 2, jnp.array([1e-3, 1e-3])
    >>> run = flow(jax.grad(loss), 1.0, start, times=np.linspace(0, 10, 101), observe=snapshot(loss, 1.0))
    >>> table = saddle_table(run, loss, 1.0, like=start)
    >>> table.saddle_loss.values.round(3), table["index"].values, table.left.values
    (array([1., 0.], dtype=float32), array([1., 0.], dtype=float32), array([ True, False]))

    Raises ValueError for a run without a snapshot, a run of other parameters, a run that is not
    finite at its first record, or a run of float64 outside of `jax.enable_x64`.
    """
    import xarray as xr

    seen = _snapshots(run, like)
    finite = np.isfinite(seen["gradient_norm"])
    kept = np.flatnonzero(np.logical_and(np.ravel(run.ok), finite))
    if not len(kept):
        raise ValueError(
            "run: not finite at its first record; start it with smaller weights or steps"
        )
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
    """Return the records of a run's snapshots as numpy arrays."""
    missing = {"loss", "gradient_norm", "params"} - set(run.observed)
    if missing:
        raise ValueError(
            f"run: has not observed {sorted(missing)}; record observe=snapshot(loss, batch)"
        )
    seen = {name: np.asarray(run.observed[name]) for name in ("loss", "gradient_norm", "params")}
    size = ravel_pytree(like)[0].size
    if seen["params"].ndim != 2 or seen["params"].shape[1] != size:
        raise ValueError(
            f"run: its params have the shape {seen['params'].shape}, `like` has {size} parameters; "
            "pass one run (of a sweep, choose one) and parameters of its structure, such as its start"
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
    """Return at which records a run is next to a saddle: the minima of the gradient norm that the
    run leaves again.

    Such a minimum lies `prominence` decades below the norms before and after it.  The first record,
    which has nothing before it, counts if the norm then rises by as much.  Time does not enter, as
    the durations of plateaus range from ln(1/scale) to powers of 1/scale.  Records do not count
    from the first one whose loss is within `tail` of the lowest loss, as a fraction of the whole
    fall of the loss: near a minimum the norm flickers at the solver's tolerance.  Dips are shallow
    where plateaus follow each other closely, and noise creates further dips: use the norm of the
    full batch.

    >>> norm = jnp.array([0.1, 1.0, 10.0, 1.0, 0.01, 0.1, 1.0, 0.01])
    >>> saddle_records(jnp.array([4.0, 4.0, 3.0, 2.0, 2.0, 1.5, 1.0, 0.5]), norm).nonzero()[0].tolist()
    [0, 4]
    """
    loss = jnp.asarray(loss)
    height = jnp.log10(jnp.asarray(gradient_norm))
    records = jnp.arange(len(loss))
    lowest = jnp.nanmin(loss)
    ended = jnp.cumsum(loss <= lowest + tail * (loss[0] - lowest)) > 0

    def climb(carry, record):
        falling, extreme, place = carry
        y, k = record
        further = jnp.where(falling, y < extreme, y > extreme)
        turned = jnp.where(falling, y > extreme + prominence, y < extreme - prominence)
        moves = further | turned
        new_extreme = jnp.where(moves, y, extreme)
        new_place = jnp.where(moves, k, place)
        return (falling ^ turned, new_extreme, new_place), (turned & falling, place)

    # A gradient of 0 lies below all others, but its logarithm is kept finite.
    height = jnp.maximum(height, jnp.log10(jnp.finfo(height.dtype).tiny))
    heights = jnp.where(ended, jnp.nan, height)
    start = (jnp.asarray(True), heights[0], records[0])
    _, (left, places) = jax.lax.scan(climb, start, (heights, records))
    return jnp.zeros(len(loss), bool).at[places].max(left)


def plateaus(
    time: Float[ArrayLike, " times"],
    loss: Float[ArrayLike, " times"],
    *,
    flatness: Float[ArrayLike, ""] = 0.02,
) -> Bool[Array, " times"]:
    """Return which records lie on plateaus: there the loss falls at less than `flatness` times its
    fastest rate.

    The rate is per time of the run, so that short plateaus may count as steep where others are
    long; `saddle_records` does not depend on time.
    """
    fall = jnp.diff(jnp.asarray(loss))
    slope = jnp.abs(fall / jnp.diff(jnp.asarray(time)))
    flat = slope < flatness * jnp.max(slope)
    on_both_sides = flat[1:] & flat[:-1]
    return jnp.concatenate([flat[:1], on_both_sides, flat[-1:]])


def project_to_saddle(
    loss: Loss, params: Params, batch: Batch, *, steps: int = 10, products: int = 50
) -> Params:
    """Return the critical point of the loss next to `params`, such as the saddle that a run passes
    at a record.

    The method is Levenberg and Marquardt's on the gradient g, with steps -(H^2 + mu)^(-1) H g and
    mu = |g|^2 / |params|^2.  Each step takes at most `products` iterations of conjugate gradients,
    which work for any number of parameters.  From nearby, the convergence is quadratic, also to a
    point of a continuum of critical points (Yamashita & Fukushima, 2001).  Of the points on the way
    the one with the smallest gradient is returned.
    """
    flat, unravel = ravel_pytree(params)

    def gradient(w):
        return ravel_pytree(jax.grad(loss)(unravel(w), batch))[0]

    def closer(_, state):
        w, g, best, smallest = state.params
        product = _hessian_product(loss, unravel(w), batch)[1]
        damping = (g @ g) / (w @ w)

        def damped(v):
            return product(product(v)) + damping * v

        # A looser tolerance of the linear solver would end the quadratic convergence.
        step, _ = jax.scipy.sparse.linalg.cg(damped, product(g), tol=1e-10, maxiter=products)
        w = w - step
        g = gradient(w)
        squared = g @ g
        better = squared < smallest
        best = jnp.where(better, w, best)
        return state._replace(params=(w, g, best, jnp.where(better, squared, smallest)))

    g = gradient(flat)
    run = iterate(closer, (flat, g, flat, g @ g), times=[steps], observe=lambda state: {})
    _, _, best, _ = run.final.params
    return unravel(best)
