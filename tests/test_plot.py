"""What is drawn are the dataset's numbers, with its units."""

import builtins

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_hex

from jaxdyn import Trajectory, plot


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


@pytest.fixture
def strengths():
    """Five seeds of three modes at ten times."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5, 3, 10))
    time = ("time", np.arange(10.0) ** 2, {"units": "steps"})
    array = xr.DataArray(values, dims=("seed", "mode", "time"), coords={"time": time})
    return array.rename("mode_strength").assign_attrs(units="1/s")


def points(axes):
    """Return the data of each errorbar: positions, bars and colour."""
    drawn = []
    for container in axes.containers:
        line, _, bars = container.lines
        segments = np.array(bars[0].get_segments()) if bars else None
        colour = to_hex(line.get_color())
        drawn.append((line.get_xydata(), segments, colour))
    return drawn


def lines(axes):
    """Return the data and colour of each line that is not made of points."""
    drawn = [line for line in axes.lines if line.get_linestyle() != "None"]
    return [(line.get_xydata(), to_hex(line.get_color())) for line in drawn]


def lengths(bars):
    """The length of each errorbar."""
    return np.ptp(bars[..., 1], axis=1)


def texts(legend):
    return [text.get_text() for text in legend.get_texts()]


def test_curves_draw_mean_and_standard_error_and_theory_in_one_colour(strengths):
    theory = strengths.mean("seed") + 1
    axes = plot.curves(strengths, theory, hue="mode")
    assert len(points(axes)) == len(lines(axes)) == 3
    drawn = zip(points(axes), lines(axes), strict=True)
    for i, ((place, bars, colour), (curve, same)) in enumerate(drawn):
        one = strengths.isel(mode=i)
        expected = np.c_[one.time, one.mean("seed")]
        np.testing.assert_allclose(place, expected)
        expected = 2 * one.std("seed", ddof=1) / 5**0.5
        np.testing.assert_allclose(lengths(bars), expected)
        expected = np.c_[one.time, theory.isel(mode=i)]
        np.testing.assert_allclose(curve, expected)
        assert colour == same == plot.COLOURS[i].lower()
    axes = plot.curves(strengths, hue="mode", spread="std")
    _, bars, _ = points(axes)[0]
    expected = 2 * strengths.isel(mode=0).std("seed", ddof=1)
    np.testing.assert_allclose(lengths(bars), expected)


def test_labels_carry_units_and_the_legend_the_order_of_the_hue(strengths):
    rates = strengths.rename(mode="learning_rate").assign_coords(learning_rate=[0.1, 1e-5, 3.0])
    axes = plot.curves(rates, rates, hue="learning_rate", log="y")
    labels = (axes.get_xlabel(), axes.get_ylabel(), axes.get_yscale())
    assert labels == ("time (steps)", "mode strength (1/s)", "log")
    legend = axes.get_legend()
    assert legend.get_title().get_text() == "learning rate"
    assert texts(legend) == ["0.1", "1e-05", "3", "simulation", "theory"]
    counted = plot.modes(strengths).get_legend()
    assert texts(counted) == ["1", "2", "3"]


def test_curves_thin_the_points_and_not_the_lines():
    run = xr.DataArray(np.arange(1000.0), {"time": np.arange(1000)}, name="loss")
    run = run.assign_attrs(long_name="test loss")
    axes = plot.curves(run, points=20)
    place, bars, _ = points(axes)[0]
    curve, _ = lines(axes)[0]
    assert (len(place), bars, len(curve)) == (20, None, 1000)
    assert (place[0, 0], place[-1, 0]) == (0, 999)
    assert axes.get_ylabel() == "test loss"
    assert axes.get_legend() is None


def test_curves_leave_out_what_was_not_observed_and_take_a_theory_with_times_of_its_own(strengths):
    gaps = strengths.where(strengths.time % 2 == 0)
    gaps[0, :, -2] = np.inf
    theory = xr.DataArray([1.0, 2.0], {"time": [0.0, 50.0]})
    given = plt.subplots()[1]
    assert plot.curves(gaps, theory, hue="mode", axes=given) is given
    assert all(len(place) == 4 and np.isfinite(place).all() for place, _, _ in points(given))
    (curve, colour), *more = lines(given)
    expected = [[0, 1], [50, 2]]
    np.testing.assert_array_equal(curve, expected)
    assert (colour, more) == ("#000000", [])


def test_curves_with_a_time_for_each_hue(strengths):
    time = (("mode", "time"), np.arange(30.0).reshape(3, 10))
    own = strengths.assign_coords(time=time)
    axes = plot.curves(own, hue="mode")
    assert [place[0, 0] for place, _, _ in points(axes)] == [0, 10, 20]
    times_of_seeds = own.rename(mode="seed", seed="mode")
    with pytest.raises(ValueError, match="put the others into `hue`"):
        plot.curves(times_of_seeds, hue="mode")


def test_many_hues_have_distinct_colours(strengths):
    many = strengths.isel(mode=[0] * 12)
    drawn = points(plot.modes(many))
    assert len({colour for _, _, colour in drawn}) == 12


@pytest.mark.parametrize("log", ["", "x", "xy"])
def test_phase_diagram_centres_its_cells_on_the_coordinates(log):
    x = np.geomspace(0.1, 10, 5)
    y = np.array([1.0, 2.0, 4.0])
    coords = {"rate": x, "scale": y}
    losses = np.arange(30.0).reshape(2, 5, 3)
    values = xr.DataArray(losses, dims=("seed", "rate", "scale"), coords=coords, name="loss")
    values[:, 1, 2] = np.nan
    line = xr.DataArray(1 / y, {"scale": y})
    shuffled = values.isel(rate=[3, 0, 4, 2, 1])
    axes = plot.phase_diagram(shuffled, x="rate", y="scale", log=log, boundary=line)
    mesh = axes.collections[0]
    drawn = mesh.get_array()
    computed = drawn.filled(np.nan)
    expected = values.mean("seed").transpose("scale", "rate")
    np.testing.assert_array_equal(computed, expected)
    edges = mesh.get_coordinates()

    def middle(numbers, side):
        above = numbers[1:]
        below = numbers[:-1]
        return np.sqrt(above * below) if side in log else (above + below) / 2

    if "x" in log:
        computed = middle(edges[0, :, 0], "x")
        np.testing.assert_allclose(computed, x)
    computed = edges[0, 1:-1, 0]
    np.testing.assert_allclose(computed, middle(x, "x"))
    computed = edges[1:-1, 0, 1]
    np.testing.assert_allclose(computed, middle(y, "y"))
    computed = axes.lines[0].get_xydata()
    expected = np.c_[1 / y, y]
    np.testing.assert_array_equal(computed, expected)
    assert (axes.get_xlabel(), axes.get_xscale()) == ("rate", "log" if "x" in log else "linear")
    assert axes.figure.axes[1].get_ylabel() == "loss"


def test_unknown_and_left_over_dimensions_are_named(strengths):
    words = "x: simulated has no dimension 'tme'; did you mean 'time'"
    with pytest.raises(ValueError, match=words):
        plot.curves(strengths, x="tme", hue="mode")
    words = "hue: simulated has no dimension 'modes'; did you mean 'mode'"
    with pytest.raises(ValueError, match=words):
        plot.curves(strengths, hue="modes")
    with pytest.raises(ValueError, match=r"\['mode'\] are left over"):
        plot.curves(strengths)
    with pytest.raises(ValueError, match="predicted"):
        plot.curves(strengths.isel(mode=0), strengths)
    with pytest.raises(ValueError, match="y: values has no dimension"):
        plot.phase_diagram(strengths, x="time", y="rate")
    with pytest.raises(ValueError, match="boundary"):
        plot.phase_diagram(strengths, x="time", y="mode", boundary=strengths)
    with pytest.raises(ValueError, match="no positive numbers"):
        plot.phase_diagram(strengths, x="time", y="mode", log="x")


def test_without_matplotlib_the_error_says_what_to_install(strengths, monkeypatch):
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match=r"pip install jaxdyn\[plot\]"):
        plot.modes(strengths)


def test_saddles_lie_on_the_loss_with_their_labels_and_theory_beside_them():
    time = np.linspace(0, 10, 50)
    run = Trajectory(time, {"loss": np.exp(-time)})
    columns = {
        "time": ("saddle", [0.0, 5.0]),
        "loss": ("saddle", [1.0, 0.4]),
        "index": ("saddle", [12.0, 0.0]),
        "left": ("saddle", [True, False]),
    }
    table = xr.Dataset(columns)
    axes = plot.saddles(run, table, levels=[1.0, 0.4], drops=[2.5])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("time", "loss")
    assert [text.get_text() for text in axes.texts] == ["index 12", "index 0"]
    points = [line for line in axes.lines if line.get_linestyle() == "None"]
    markers = [(point.get_marker(), *point.get_xydata()[0]) for point in points]
    assert markers == [("o", 0, 1), ("s", 5, 0.4)]
    computed = axes.lines[0].get_xydata()
    expected = np.c_[time, run.observed["loss"]]
    np.testing.assert_array_equal(computed, expected)
    assert len(axes.lines) == 1 + 2 + 1 + 2
    _, labels = axes.get_legend_handles_labels()
    assert labels == ["loss", "plateau in theory", "drop in theory", "saddle"]
    again = plot.saddles(run, table, labels={"index": "{:.0f}"}, axes=axes)
    assert again is axes
    assert axes.texts[-1].get_text() == "0"
    with pytest.raises(ValueError, match="run: has no `loss` of one run"):
        plot.saddles(Trajectory(time, {}), table)


def test_the_style_is_that_of_figures_made_in_it_and_leaves_others_alone(strengths):
    before = dict(plt.rcParams)
    axes = plot.modes(strengths)
    with plot.style():
        mine = plt.subplots()[1]
        mine.plot([0, 1], [0, 1])
        mine.plot([0, 1], [1, 0])
    colours = [to_hex(line.get_color()).upper() for line in mine.lines]
    assert colours == list(plot.COLOURS[:2])
    for one in (axes, mine):
        visible = [side for side, spine in one.spines.items() if spine.get_visible()]
        assert visible == ["left", "bottom"]
    assert dict(plt.rcParams) == before
