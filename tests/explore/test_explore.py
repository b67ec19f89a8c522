"""One battery over all explorations: the interface, theory beside simulation, and widgets without a
browser."""

import io
import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib import image

from jaxdyn import explore, papers


@pytest.fixture(scope="module", params=explore.names())
def name(request):
    return request.param


@pytest.fixture(scope="module")
def table(name):
    return explore.table(name)


def test_a_table_has_what_its_readers_rely_on(name, table):
    module = explore.load(name)
    assert name in papers.names()
    assert list(table.sizes) in (["point", *module.SLIDERS], [*module.SLIDERS, "point"])
    assert json.loads(table.attrs["default"]) == module.DEFAULT
    for slider, values in module.SLIDERS.items():
        assert table[slider].values.tolist() == list(values)
        assert module.DEFAULT[slider] in values
    assert {table.attrs["xscale"], table.attrs["yscale"]} <= {"linear", "log"}
    assert all(table.attrs[label] for label in ("title", "xlabel", "ylabel"))
    curves = table.drop_vars("x")
    assert len(curves.data_vars) <= 5
    assert all(np.isfinite(values).all() for values in table.data_vars.values())
    assert table.sizes["point"] <= 80
    assert sum(values.size for values in table.data_vars.values()) < 30_000
    if table.attrs["yscale"] == "log":
        assert all((values > 0).all() for values in curves.data_vars.values())
    # Each slider moves something.
    for slider in module.SLIDERS:
        assert any(
            float((values.max(slider) - values.min(slider)).max()) > 0
            for values in curves.data_vars.values()
        )


def test_theory_agrees_with_its_simulation_at_the_default(name, table):
    run = explore.simulate(name)
    shown = table.sel(json.loads(table.attrs["default"]))
    assert set(run) - {"x"}
    for curve in set(run) - {"x"}:
        theory = np.interp(run["x"], shown.x, shown[curve])
        assert len(run["x"]) == len(run[curve]) >= 6
        assert (
            abs(run[curve] - theory).max()
            < explore.load(name).WITHIN * np.ptp(shown[curve].values) + 1e-7
        )


def test_a_drawing_has_the_curves_and_the_points(table):
    curve = next(name for name in table.data_vars if name != "x")
    x = table.x.values.ravel()[:3]
    axes = explore.draw(table, {"x": x, curve: np.ones(3)})
    # One line a curve, and the points of the run.
    assert len(axes.lines) == len(table.data_vars)
    assert (axes.get_xscale(), axes.get_yscale()) == (table.attrs["xscale"], table.attrs["yscale"])
    plt.close(axes.figure)


def test_a_widget_redraws_as_sliders_move_and_simulates_on_a_click():
    box = explore.widget("parimi2025")
    heading, condition, _, button, picture = box.children
    assert "Parimi" in heading.value
    first = picture.value
    assert image.imread(io.BytesIO(first)).ndim == 3
    condition.value = 30.0
    moved = picture.value
    assert moved != first
    button.click()
    assert picture.value != moved
    assert (button.description, button.disabled) == ("simulate", False)
    # The points belong to the values at which they were simulated.
    condition.value = 100.0
    assert picture.value == first


def test_mistakes_are_explained():
    with pytest.raises(ValueError, match="no exploration 'saxe2103'; did you mean 'saxe2013'"):
        explore.table("saxe2103")
    with pytest.raises(ValueError, match="no slider 'dept'; did you mean 'depth'"):
        explore.simulate("saxe2013", dept=2.0)
    with pytest.raises(ValueError, match=r"depth: 2.5 is none of \(1.0, 2.0"):
        explore.simulate("saxe2013", depth=2.5)
