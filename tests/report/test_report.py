"""What is shown of saved results: charts, records, pages of what is whole, missing or damaged."""

import html
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import saved
import xarray as xr

import jaxdyn
from jaxdyn import __main__ as cli
from jaxdyn import papers, report
from jaxdyn.report import _charts, _pages

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "docs" / "gallery"


@pytest.mark.parametrize("name", [path.stem for path in sorted(RECORDS.glob("*.json"))])
def test_a_record_is_that_of_the_papers_claims(name):
    known = json.loads((RECORDS / f"{name}.json").read_text())
    experiments = {one.name: one for one in papers.load(name).EXPERIMENTS}
    assert list(known) == list(experiments)
    for experiment, sizes in known.items():
        claims = [
            f"{'holds' if claim.holds else 'refuted'}: {claim.statement}"
            for claim in experiments[experiment].claims
        ]
        assert list(sizes) == ["quick", "paper"]
        for size, run in sizes.items():
            stale = f"{name} {experiment} at {size}: the record is stale; `make gallery` renews it"
            assert run["verdicts"] == claims, stale
            assert run["cpu_seconds"] > 0


def growth(**sizes):
    """Runs of exp(-a t) with noise over seeds, and theory."""
    rng = np.random.default_rng(0)
    s = xr.DataArray(np.linspace(0, 2, sizes.get("time", 9)), dims="time", name="time")
    a = xr.DataArray(1.0 + np.arange(sizes.get("rate", 3)), dims="rate", name="rate")
    theory = np.exp(-a * s)
    dims = ("seed", *theory.dims)
    noise = xr.DataArray(rng.normal(size=(4, *theory.shape)), dims=dims)
    return xr.Dataset(
        {"u": theory + 0.01 * noise, "u_theory": theory}, {"time": s.values, "rate": a.values}
    )


def test_a_chart_has_the_mean_over_seeds_its_error_and_the_theory():
    runs = growth()
    (chart,), more = report.charts({"decay": runs})
    assert more == 0
    assert (chart["title"], chart["xlabel"], chart["hue"]) == ("decay: u", "time", "rate")
    assert [curve["name"] for curve in chart["curves"]] == ["1", "2", "3"]
    for rate, curve in enumerate(chart["curves"]):
        one = runs.isel(rate=rate)
        computed = chart["xs"][curve["x"]]
        np.testing.assert_allclose(computed, runs.time, rtol=1e-5)
        np.testing.assert_allclose(curve["theory"], one.u_theory, rtol=1e-3)
        places, mean, error = np.array(curve["points"]).T
        expected = one.u.mean("seed")[places.astype(int)]
        np.testing.assert_allclose(mean, expected, rtol=1e-3)
        expected = one.u.std("seed", ddof=1)[places.astype(int)] / 2
        np.testing.assert_allclose(error, expected, rtol=0.06)


def test_long_curves_are_thinned_and_keep_their_ends():
    runs = growth(time=5001, rate=12)
    (chart,), _ = report.charts({"decay": runs})
    assert len(chart["curves"]) == _charts.HUES
    (x,) = chart["xs"]
    assert len(x) <= _charts.LINE
    assert (x[0], x[-1]) == (0, 2)
    assert x[1] == pytest.approx(2 / 5000, rel=1e-3)
    assert all(len(curve["points"]) <= _charts.POINTS for curve in chart["curves"])


@pytest.mark.parametrize(
    ("time", "values", "logs"),
    [
        (np.geomspace(0.01, 100, 50), np.ones(50), (True, False)),
        (np.linspace(0, 100, 50), np.geomspace(1e-3, 1, 50), (False, True)),
        (np.linspace(0, 100, 50), np.linspace(-1e-3, 1, 50), (False, False)),
    ],
)
def test_scales_are_logarithmic_where_positive_numbers_span_decades(time, values, logs):
    runs = xr.Dataset({"u": ("time", values), "u_theory": ("time", values)}, {"time": time})
    (chart,), _ = report.charts({"decay": runs})
    assert (chart["xlog"], chart["ylog"]) == logs


def test_a_theory_without_hue_is_one_line_and_times_may_differ_by_run():
    u_theory = ("time", np.linspace(1, 0, 9))
    runs = growth().assign(u_theory=u_theory)
    (chart,), _ = report.charts({"decay": runs})
    assert [("theory" in curve, "points" in curve) for curve in chart["curves"]] == [
        (False, True)
    ] * 3 + [(True, False)]
    runs = growth()
    runs = runs.drop_vars("time").assign_coords(time=runs.rate * runs.time)
    (chart,), _ = report.charts({"decay": runs})
    assert [chart["xs"][curve["x"]][-1] for curve in chart["curves"]] == [2, 4, 6]


def test_what_has_no_numbers_to_stand_at_gets_labels():
    rules = xr.Dataset(
        {"v": ("rule", [1.0, 2]), "v_theory": ("rule", [1.0, 2])}, {"rule": ["sgd", "adam"]}
    )
    (chart,), _ = report.charts({"": rules})
    assert chart["ticks"] == ["sgd", "adam"]
    assert chart["xs"] == [[1, 2]]


def test_what_is_no_pair_is_no_chart_and_a_page_stays_light():
    lost = ("time", np.full(9, np.nan))
    runs = growth().assign(lonely=1.0, word="a", word_theory="b", lost=lost)
    runs["lost_theory"] = runs.lost
    assert len(report.charts({"decay": runs})[0]) == 1
    wide = {f"u{i}": growth(time=200, rate=7).expand_dims(draw=9, other=9) for i in range(20)}
    shown, more = report.charts(wide)
    assert len(json.dumps(shown)) < 1.1 * _charts.WEIGHT
    assert more == 20 * _charts.VIEWS - len(shown)
    assert [chart["group"] for chart in shown] == sorted(
        (c["group"] for c in shown), key=list(wide).index
    )


def test_pages_show_what_fails_and_what_is_refuted_and_escape_it(tmp_path):
    saved.write("tian2021", tmp_path)
    entry = report.read("tian2021", tmp_path)
    shown = _pages.paper(entry, (None, entry), explored=False)
    experiment = entry.ran[0].experiment.name
    assert [v.word for v in entry.verdicts] == [
        "holds",
        "fails",
        "refuted",
        "undecided",
        "unexpected",
    ]
    for word, said in [
        ("fails", "1 fails"),
        ("refuted", "1 refuted"),
        ("unexpected", "1 unexpected"),
    ]:
        assert f'<tr data-verdict="{word}">' in shown
        assert f'<span class="{word}">{said}</span>' in shown
    assert "a &lt; b &amp; c" in shown
    assert "a < b & c" not in shown
    assert "The claims have changed since" in shown
    assert "judged only where it rains" in shown
    assert f"jaxdyn run tian2021 {experiment} --size paper --width 3" in shown
    assert "</script" not in json.dumps(report.charts(entry.datasets)[0])


@pytest.mark.parametrize(
    "broken", ["verdicts.json", "provenance.json", "results/jaxdyn.json", "figure.png"]
)
def test_damaged_results_are_said_to_be(broken, tmp_path):
    place = saved.write("tian2021", tmp_path)
    (place / broken).write_text("{")
    pages = report.site(tmp_path / "site", results=tmp_path, names=["tian2021"])
    for page in pages:
        assert "damaged results" in page.read_text()
    assert "jaxdyn run tian2021" in pages[1].read_text()


def test_the_command_repeats_the_options_of_a_run():
    def decay(*, a=(1, 2), b=3, c=True, d=False, e="x"):
        """Everything decays."""

    experiment = papers.Experiment(decay, (), None)
    options = {"a": [1, -2], "b": 3, "c": False, "d": True, "e": "it's"}
    made = {"size": "quick", "options": options}
    ran = report.Ran(experiment, Path(), made=made)
    command = """jaxdyn run tian2021 decay --a 1 -2 --no-c --d --e 'it'"'"'s'"""
    shown = html.unescape(_pages._command("tian2021", ran))
    assert shown.startswith(f'<div class="command"><code>{command}</code>')


def test_results_of_an_earlier_version_are_said_to_be(tmp_path):
    place = saved.write("tian2021", tmp_path)
    (place.parent / "provenance.json").write_text("{}")
    assert report.read("tian2021", tmp_path).trouble == "results of jaxdyn 0.1"


def test_a_site_replaces_a_site_and_nothing_else(tmp_path):
    saved.write("tian2021", tmp_path / "results")
    out = tmp_path / "site"
    for _ in range(2):
        report.site(out, results=tmp_path / "results", names=["tian2021", "wu2023"])
    assert "not run yet" in (out / "index.html").read_text()
    assert not list(out.rglob("*.part"))
    with pytest.raises(ValueError, match=r"out: .* holds other files"):
        report.site(tmp_path / "results", results=tmp_path / "results")


def test_a_record_keeps_its_cost_where_runs_were_stored(tmp_path, alone):
    saved.write("tian2021", tmp_path, default=True)

    def read():
        path = report.record(report.read("tian2021", tmp_path), tmp_path / "docs")
        (sizes,) = json.loads(path.read_text()).values()
        return sizes

    assert read()["paper"]["cpu_seconds"] == 12.3
    saved.write("tian2021", tmp_path, default=True, reused=True, cpu_seconds=0.1)
    assert read()["paper"]["cpu_seconds"] == 12.3
    saved.write("tian2021", tmp_path, default=True, size="quick", cpu_seconds=123.4)
    assert list(read()) == ["quick", "paper"]
    row = report.table(["tian2021"], tmp_path / "docs").splitlines()[-1]
    assert row.endswith("| 1 holds, 1 fails, 1 unexpected, 1 refuted, 1 undecided | 120, 12 s |")
    saved.write("tian2021", tmp_path)
    with pytest.raises(ValueError, match="other options"):
        read()
    assert report.table(["wu2023"], tmp_path / "docs").endswith("|  | not run yet |")


@pytest.fixture
def alone(monkeypatch):
    """The paper tian2021 with its first experiment alone."""
    paper = papers.load("tian2021")
    monkeypatch.setattr(paper, "EXPERIMENTS", paper.EXPERIMENTS[:1])


def test_an_exploration_holds_its_table():
    table = saved.exploration()
    data = embedded(report.exploration(table))
    assert data["sliders"][0] | {"texts": 0} == {
        "name": "rate",
        "label": "rate",
        "start": 2,
        "texts": 0,
    }
    assert data["sliders"][1]["texts"] == ["flow", "descent"]
    assert (data["x"]["over"], data["curves"][0]["over"]) == ([], ["rate", "kind"])
    values = np.reshape(data["curves"][0]["values"], (5, 2, -1))
    expected = table.decay.transpose("rate", "kind", "point")
    np.testing.assert_allclose(values, expected, rtol=1e-3)


def test_a_heavy_exploration_loses_points_not_sliders():
    table = saved.exploration(points=3001, rates=40)
    page = report.exploration(table)
    assert len(page) < 300_000
    data = embedded(page)
    assert len(data["sliders"][0]["texts"]) == 40
    assert data["x"]["values"][-1] == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.drop_attrs(), "no attributes"),
        (lambda t: t.drop_vars("x"), "pass `x` over `point`"),
        (lambda t: t.drop_vars("rate"), r"\['rate'\] have no values"),
    ],
)
def test_a_table_that_is_none_is_explained(change, said):
    with pytest.raises(ValueError, match=said):
        report.exploration(change(saved.exploration()))


def embedded(page):
    return json.loads(page.partition('id="table">')[2].partition("</script>")[0])


@pytest.fixture
def explore(monkeypatch):
    """An exploration of one paper."""
    module = saved.explore_module()
    monkeypatch.setitem(sys.modules, "jaxdyn.explore", module)
    monkeypatch.setattr(jaxdyn, "explore", module, raising=False)


def command(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["jaxdyn", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code


def test_the_command_line_writes_a_site_and_a_page_with_sliders(
    explore, alone, monkeypatch, tmp_path, capsys
):
    monkeypatch.chdir(tmp_path)
    saved.write("tian2021", tmp_path / "results", default=True)
    assert command(monkeypatch, "report") == 0
    assert capsys.readouterr().out == "site/index.html\n"
    assert len(list((tmp_path / "site").glob("*.html"))) == 1 + len(papers.names())
    assert 'href="explore/tian2021.html"' in (tmp_path / "site" / "tian2021.html").read_text()
    assert (
        'href="../tian2021.html"' in (tmp_path / "site" / "explore" / "tian2021.html").read_text()
    )
    assert command(monkeypatch, "report", "tian2021", "--record") == 0
    assert command(monkeypatch, "explore", "tian2021", "--out", "here") == 0
    assert embedded((tmp_path / "here" / "tian2021.html").read_text())["points"] == 30
    assert command(monkeypatch, "report", "tain2021") == 2
    assert "did you mean 'tian2021'?" in capsys.readouterr().err
    assert command(monkeypatch, "report", "--record") == 2
    assert f"{papers.names()[0]} " in capsys.readouterr().err
