"""Errors against hand calculation, known statistics and closed-form curves."""

import numpy as np
import pytest
import scipy.stats
import xarray as xr

from jaxdyn.compare import compare, crossing_time, power_law, predictions


def dataset(values, dims=("seed", "time"), **extra):
    """The values of one variable `u` and its coordinates, which count."""
    values = np.asarray(values, float)
    coords = {dim: np.arange(size) for dim, size in zip(dims, values.shape, strict=True)}
    u = (dims, values, {"units": "1/steps"})
    return xr.Dataset({"u": u, **extra}, coords)


def over_time(values):
    """A theory, which has no seeds."""
    return dataset(values, ("time",))


def test_compare_equals_the_formulas():
    rng = np.random.default_rng(0)
    u = rng.normal(size=(4, 5))
    theory = rng.normal(size=5)
    out = compare(dataset(u), over_time(theory))
    mean = u.mean(0)
    sem = scipy.stats.sem(u, axis=0)
    expected = np.linalg.norm(mean - theory) / np.linalg.norm(theory)
    np.testing.assert_allclose(out.u_error, expected, rtol=1e-12)
    np.testing.assert_allclose(out.u_sem, sem, rtol=1e-12)
    expected = (mean - theory) / sem
    np.testing.assert_allclose(out.u_z, expected, rtol=1e-12)
    assert out.u_sem.attrs == {"units": "1/steps"}
    assert not out.u_error.attrs
    assert not out.u_z.attrs


def test_z_is_standard_normal_when_the_theory_is_the_mean():
    rng = np.random.default_rng(1)
    u = rng.normal(3.0, 2.0, size=(50, 2000))
    mean = np.full(2000, 3.0)
    z = compare(dataset(u), over_time(mean)).u_z
    # The standard deviation of Student's t with 49 degrees, within four of its own standard errors.
    assert abs(float(z.mean())) < 4 / 2000**0.5
    assert abs(float(z.std()) - (49 / 47) ** 0.5) < 4 / 4000**0.5


def test_compare_broadcasts_by_name_and_pairs_seeds():
    u = np.arange(24.0).reshape(3, 2, 4) + 1
    simulated = dataset(u, ("seed", "mode", "time"))
    theory = dataset(u.transpose(2, 0, 1), ("time", "seed", "mode"))
    out = compare(simulated, theory)
    assert out.u_error.dims == ("mode",)
    assert (out.u_error == 0).all()
    assert (out.u_sem == 0).all()
    levels = np.array([2.0, 3.0])
    constant = compare(simulated, xr.Dataset({"u": ("mode", levels)}))
    deviations = u.mean(0) - levels[:, None]
    root_mean_square = np.sqrt((deviations**2).mean(1))
    expected = root_mean_square / levels
    np.testing.assert_allclose(constant.u_error, expected, rtol=1e-12)


def test_compare_of_one_seed_none_and_no_time():
    single = dataset([[1.0, 2.0]])
    one_seed = compare(single, over_time([1.0, 1.0]))
    np.testing.assert_allclose(one_seed.u_error, 0.5**0.5)
    assert one_seed.u_sem.isnull().all()
    assert one_seed.u_z.isnull().all()
    seeds = dataset([1.0, 3.0], ("seed",))
    no_time = compare(seeds, xr.Dataset({"u": 4.0}))
    assert (float(no_time.u_error), float(no_time.u_sem), float(no_time.u_z)) == (0.5, 1.0, -2.0)
    neither = compare(xr.Dataset({"u": 1.0}), xr.Dataset({"u": 2.0}))
    assert float(neither.u_error) == 0.5


def test_a_blow_up_is_nan_and_an_unscheduled_record_is_left_out():
    theory = over_time([1.0, 2.0, 4.0])
    fine = (("seed", "time"), np.ones((2, 3), bool))
    unscheduled = [[1.0, np.nan, 3.0], [1.0, np.nan, 3.0]]
    simulated = dataset(unscheduled, ok=fine)
    np.testing.assert_allclose(compare(simulated, theory).u_error, 1 / 17**0.5)
    blown = (("seed", "time"), [[True, True, True], [True, False, False]])
    blown_up = dataset([[1.0, 2.0, 3.0], [1.0, np.nan, np.nan]], ok=blown)
    assert np.isnan(compare(blown_up, theory).u_error)
    unknown = dataset(unscheduled)
    assert np.isnan(compare(unknown, theory).u_error), "without `ok` a NaN may be a blow-up"
    one_only = dataset([[1.0, np.nan, 3.0], [1.0, 2.0, 3.0]], ok=fine)
    assert np.isnan(compare(one_only, theory).u_error), "half of the runs are no mean"
    one_infinite = dataset([[np.inf, 2.0], [1.0, 2.0]])
    infinite = compare(one_infinite, over_time([1.0, 2.0]))
    assert (float(infinite.u_error), float(infinite.u_sem[1])) == (np.inf, 0.0)
    assert set(compare(simulated, simulated)) == {"u_error", "u_sem", "u_z"}


def test_compare_refuses_what_is_not_the_same_experiment():
    simulated = dataset(np.ones((2, 3)))
    with pytest.raises(ValueError, match="did you mean 'u'"):
        compare(simulated, xr.Dataset({"u1": 1.0}))
    other_times = over_time(np.ones(3)).assign_coords(time=[0.0, 0.1, 0.2])
    with pytest.raises(ValueError, match="coordinates are not those"):
        compare(simulated, other_times)
    time = (("seed", "time"), np.arange(6.0).reshape(2, 3))
    own_times = simulated.drop_vars("time").assign_coords(time=time)
    assert (compare(own_times, own_times).u_error == 0).all()
    doubled = own_times.assign_coords(time=own_times.time * 2)
    with pytest.raises(ValueError, match="times are not those"):
        compare(own_times, doubled)


def test_predictions_are_the_theory_beside_the_simulation():
    u_theory = ("time", np.full(3, 2.0))
    both = dataset(np.ones((2, 3))).assign(u_theory=u_theory)
    assert float(compare(both, predictions(both)).u_error) == 0.5
    with pytest.raises(ValueError, match="_theory"):
        predictions(both[["u"]])


def test_crossing_of_an_exponential_is_second_order_in_the_spacing():
    level = xr.DataArray([0.9, 0.5, 0.1], {"level": [0, 1, 2]})
    # Linear interpolation errs by h^2/8 |u''/u'| at most, here h^2/8.
    for h in (0.1, 0.05):
        time = np.arange(0, 4, h)
        decay = np.exp(-time)
        u = xr.DataArray(decay, {"time": time}, attrs={"units": "1"})
        error = abs(crossing_time(u, level) + np.log(level))
        assert float(error.max()) <= h**2 / 8
    assert float(error.max()) > 0


# Values at four times, and when they cross one.
RUNS_AND_CROSSINGS = {
    (0, 2, 0, 2): 0.5,
    (3, 1, 1, 1): 1.0,
    (1, 5, 5, 5): 0.0,
    (0, 0, 1, 5): 2.0,
    (0, 0, 0, 0): np.nan,
    (0, np.nan, 3, 3): np.nan,
    (2, 2, 2, 0): 3.0,
}


def test_crossings_up_down_at_the_start_exact_and_never():
    time = np.array([0.0, 1.0, 2.0, 4.0])
    runs = np.array(list(RUNS_AND_CROSSINGS), float)
    crossings = list(RUNS_AND_CROSSINGS.values())
    u = xr.DataArray(runs, dims=("run", "time"), coords={"time": time})
    np.testing.assert_array_equal(crossing_time(u, 1), crossings)


def test_crossing_with_a_time_per_run_and_units():
    time = np.array([[0.0, 1.0, 2.0], [0.0, 10.0, 20.0]])
    dims = ("rate", "time")
    u = xr.DataArray([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]], dims=dims)
    u = u.assign_coords(time=(dims, time, {"units": "steps"}))
    when = crossing_time(u, 1.5)
    np.testing.assert_allclose(when, [1.5, 15.0])
    assert when.dims == ("rate",)
    assert when.attrs == {"units": "steps"}
    of_integers = u.transpose("time", "rate").astype(int)
    level_of_each = xr.DataArray([1, 2], dims="rate")
    when = crossing_time(of_integers, level_of_each)
    expected = [1.0, 20.0]
    np.testing.assert_allclose(when, expected)


def test_crossing_errors_name_what_to_pass():
    u = xr.DataArray([0.0, 1.0], dims="time")
    with pytest.raises(ValueError, match="did you mean 'time'"):
        crossing_time(u, 1.0, dim="tim")
    with pytest.raises(ValueError, match="assign_coords"):
        crossing_time(u, 1.0)
    timed = u.assign_coords(time=[0, 1])
    level_at_other_times = xr.DataArray([0.0, 1.0], {"time": [1, 2]})
    with pytest.raises(ValueError, match="exact"):
        crossing_time(timed, level_at_other_times)


def test_power_law_agrees_with_scipy_and_covers_at_its_level():
    rng = np.random.default_rng(2)
    x = np.geomspace(1, 100, 6)
    covered = []
    for _ in range(400):
        noise = np.exp(rng.normal(0, 0.1, 6))
        y = 3 * x**-1.5 * noise
        fit = power_law(x, y, confidence=0.8)
        covered.append(fit.low <= -1.5 <= fit.high)
    reference = scipy.stats.linregress(np.log(x), np.log(y))
    np.testing.assert_allclose(fit.exponent, reference.slope, rtol=1e-10)
    computed = np.log(fit.prefactor)
    np.testing.assert_allclose(computed, reference.intercept, rtol=1e-9)
    computed = fit.high - fit.exponent
    quantile = scipy.stats.t.ppf(0.9, 4)
    expected = reference.stderr * quantile
    np.testing.assert_allclose(computed, expected, rtol=1e-9)
    assert abs(np.mean(covered) - 0.8) < 4 * (0.8 * 0.2 / 400) ** 0.5


def test_power_law_takes_labelled_arrays_and_refuses_what_is_no_power_law():
    y = xr.DataArray([2.0, 8.0, 32.0], {"x": [1.0, 2.0, 4.0]})
    fit = power_law(y.x, y)
    assert abs(fit.exponent - 2) < 1e-12
    with_a_gap = y.where(y.x < 4)
    assert np.isnan(power_law(y.x, with_a_gap)).all()
    for x, z in (
        ([1, 2], [1, 2]),
        ([1, 2, 3], [1, 2]),
        ([1, 2, 3], [1, 0, 2]),
        ([1, 2, 3], [1, np.inf, 2]),
        ([1, 1, 1], [1, 2, 3]),
    ):
        with pytest.raises(ValueError, match=r"^[xy]"):
            power_law(x, z)
    with pytest.raises(ValueError, match="confidence"):
        power_law([1, 2, 3], [1, 2, 3], confidence=95.0)


def test_crossing_times_survive_numbers_near_overflow():
    time = [0, 1, 2, 3]
    values = xr.DataArray([1e200, 1e250, 1.0, 0.5], {"time": time})
    assert float(crossing_time(values, 0.75)) == 2.5
