"""Simulation against theory, in numbers: errors of labelled results, crossing times, power laws.

All functions work on saved results (numpy in xarray), never on a running simulation.
"""

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxdyn.types import nearest

if TYPE_CHECKING:
    import xarray

__all__ = ["PowerLaw", "compare", "crossing_time", "power_law", "predictions"]

_RECORD = ("time", "ok")


class PowerLaw(NamedTuple):
    """The fit y = prefactor x^exponent.

    Attributes:
        exponent: the exponent of the fit.
        low: the lower end of the exponent's confidence interval.
        high: the upper end of the exponent's confidence interval.
        prefactor: the prefactor of the fit.
    """

    exponent: float
    low: float
    high: float
    prefactor: float


def compare(
    simulated: "xarray.Dataset", predicted: "xarray.Dataset", *, over: str = "seed"
) -> "xarray.Dataset":
    """Return how far each variable of `predicted` is from the simulated one of its name, averaged
    over `over`.

    With s and p the means over the dimension `over`, by default the seeds, a variable `u` has

    - `u_error`: the relative L2 error `sqrt(sum_t |s - p|^2 / sum_t |p|^2)` over the recorded times
      (without the dimension "time": of each entry); inf where the prediction is 0 throughout;
    - `u_sem`: the standard error of `s - p` over seeds, in the units of `u`, NaN for fewer than two
      seeds;
    - `u_z`: `(s - p) / u_sem`.

    Simulation and prediction broadcast by the names of dimensions.  A prediction with seeds is
    compared seed by seed.  A run that blew up makes its mean NaN; records that a finite run did not
    observe (`jaxdyn.at`) are left out.

    Raises ValueError for a prediction that was not simulated, or for coordinates (times, learning
    rates) that differ; TypeError for anything but Datasets.
    """
    import xarray as xr

    for name, value in (("simulated", simulated), ("predicted", predicted)):
        if not isinstance(value, xr.Dataset):
            raise TypeError(
                f"{name}: is a {type(value).__name__}; pass a Dataset, such as `sweep` returns"
            )
    simulated, predicted = _aligned(simulated, predicted)
    out = {}
    for name in predicted.data_vars:
        if name in _RECORD:
            continue
        if name not in simulated.data_vars:
            raise ValueError(
                f"predicted: {name!r} was not simulated; {nearest(name, simulated.data_vars)}"
            )
        s = simulated[name]
        p = predicted[name]
        left_out = s.isnull() & simulated["ok"] if "ok" in simulated else xr.zeros_like(s, bool)
        if over in left_out.dims:
            left_out = left_out.all(over)
        difference = _mean(s - p, over)
        sem = _standard_error(s - p, over)
        p = _mean(p, over)
        out[f"{name}_error"] = (_norm(difference, left_out) / _norm(p, left_out)).drop_attrs()
        out[f"{name}_sem"] = sem.drop_attrs().assign_attrs(_units(s))
        out[f"{name}_z"] = (difference / sem).drop_attrs()
    return xr.Dataset(out)


def predictions(results: "xarray.Dataset") -> "xarray.Dataset":
    """Return the variables stored as `<name>_theory` under the names `<name>`, as `compare` and the
    plots take them.

    Raises ValueError where there are none.
    """
    ending = "_theory"
    names = {
        name: name.removesuffix(ending)
        for name in map(str, results.data_vars)
        if name.endswith(ending)
    }
    if not names:
        raise ValueError(
            f"results: no variable ends in {ending!r} among "
            f"{sorted(map(str, results.data_vars))}; store predictions as <name>_theory"
        )
    return results[list(names)].rename(names)


def crossing_time(
    values: "xarray.DataArray", level: Any, *, dim: str = "time"
) -> "xarray.DataArray":
    """Return when `values` first meet `level`, upwards or downwards, by linear interpolation; NaN
    where they never do.

    The times are the coordinate `dim` of `values`, one for all runs or one per run.  `level` is a
    number or a DataArray that broadcasts by name; it may vary in time too.  A crossing between
    records on either side of a NaN is not seen.

    >>> import xarray
    >>> float(crossing_time(xarray.DataArray([0.0, 1.0, 3.0], {"time": [0, 10, 20]}), 2.0))
    15.0

    Raises ValueError for `values` without the dimension or coordinate `dim`.
    """
    import xarray as xr

    if dim not in values.dims:
        raise ValueError(f"dim: values have no dimension {dim!r}; {nearest(dim, values.dims)}")
    if dim not in values.coords:
        raise ValueError(
            f"dim: values have no coordinate {dim!r}; give them one: values.assign_coords({dim}=...)"
        )

    def first(above, time):
        before = above[..., :-1]
        after = above[..., 1:]
        met = (np.sign(before) * np.sign(after) <= 0) & (before != 0)
        slope = np.where(met, after - before, 1)
        fraction = np.where(met, -before / slope, 0)
        when = time[..., :-1] + fraction * (time[..., 1:] - time[..., :-1])
        met = np.concatenate([above[..., :1] == 0, met], -1)
        when = np.concatenate([time[..., :1], when], -1)
        found = np.take_along_axis(when, np.argmax(met, -1)[..., None], -1)[..., 0]
        return np.where(met.any(-1), found, np.nan)

    # An array of times without coordinates may have the dimension's name and still broadcast
    # against the values.
    time = xr.DataArray(values[dim].variable).astype(float)
    with xr.set_options(arithmetic_join="exact"):
        above = (values.astype(float) - level).drop_vars(dim)
    above, time = xr.broadcast(above, time)
    crossed = xr.apply_ufunc(first, above, time, input_core_dims=[[dim], [dim]])
    return crossed.drop_attrs().assign_attrs(_units(values[dim]))


def power_law(x: Any, y: Any, *, confidence: float = 0.95) -> PowerLaw:
    """Return the fit `y = prefactor * x**exponent` to n points by least squares in the logarithms.

    The confidence interval of the exponent is Student's, `exponent -+ t(n - 2) * standard error`,
    which presumes independent relative errors of one size.  `x` and `y` are arrays or lists (n,).
    A NaN among the points makes the fit NaN, so that a claim on the fit is undecided.

    Raises ValueError for other shapes, fewer than 3 points, points that are not positive and
    finite, or points at a single x.

    >>> round(power_law([1, 2, 4, 8], [3.0, 6.0, 12.0, 24.0]).exponent, 6)
    1.0
    """
    from scipy.special import stdtrit

    x = np.asarray(x, float)
    y = np.asarray(y, float)
    if x.shape != y.shape or x.ndim != 1 or len(x) < 3:
        raise ValueError(
            f"x, y: shapes {x.shape} and {y.shape}; pass two lists of the same 3 points or more"
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: {confidence} is no level between 0 and 1, such as 0.95")
    for name, values in (("x", x), ("y", y)):
        if np.any(values <= 0) or np.any(np.isinf(values)):
            raise ValueError(
                f"{name}: {values} are not all positive and finite; pass numbers that are"
            )
    if np.any(np.isnan([x, y])):
        return PowerLaw(*[math.nan] * 4)
    u = np.log(x)
    v = np.log(y)
    centred = u - u.mean()
    if np.ptp(u) == 0:
        raise ValueError(f"x: all points lie at {x[0]}; an exponent needs different values")
    exponent = centred @ v / (centred @ centred)
    residual = v - v.mean() - exponent * centred
    error = math.sqrt(residual @ residual / (len(x) - 2) / (centred @ centred))
    margin = stdtrit(len(x) - 2, (1 + confidence) / 2) * error
    prefactor = math.exp(v.mean() - exponent * u.mean())
    return PowerLaw(float(exponent), float(exponent - margin), float(exponent + margin), prefactor)


def _mean(values, over):
    return values.mean(over, skipna=False) if over in values.dims else values


def _standard_error(values, over):
    runs = values.sizes.get(over, 1)
    if runs == 1:
        return (_mean(values, over) * np.nan).astype(float)
    # A loss may be infinite while the parameters are finite; its deviation is then NaN.
    with np.errstate(invalid="ignore"):
        return values.std(over, ddof=1, skipna=False) / math.sqrt(runs)


def _norm(values, left_out):
    squares = (abs(values) ** 2).where(~left_out, 0)
    return np.sqrt(squares.sum([dim for dim in squares.dims if dim == "time"], skipna=False))


def _units(values):
    return {key: value for key, value in values.attrs.items() if key == "units"}


def _aligned(simulated, predicted):
    import xarray as xr

    try:
        simulated, predicted = xr.align(simulated, predicted, join="exact", copy=False)
    except ValueError as error:
        raise ValueError(
            f"predicted: its coordinates are not those of the simulation: {error}"
        ) from error
    # Times per run are not an index: xarray does not align them, and arithmetic would drop them
    # where they differ.
    if "time" in simulated.coords and "time" in predicted.coords:
        ours, theirs = xr.broadcast(
            *(xr.DataArray(d["time"].variable) for d in (simulated, predicted))
        )
        if not np.array_equal(ours, theirs):
            raise ValueError(
                "predicted: its times are not those of the simulation; compare equal times of one unit"
            )
    return simulated, predicted
