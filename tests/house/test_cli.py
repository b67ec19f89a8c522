"""The command line, on a paper made for the purpose: options, exit codes, what lands where, what is
reused."""

import functools
import json
import os
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest

import jaxdyn as jd
from jaxdyn import __main__ as cli
from jaxdyn import papers


def simulate(key, *, rates, time):
    return jd.integrate(
        lambda t, u: u * (jnp.asarray(rates) - u),
        jnp.full(len(rates), 0.1),
        times=np.linspace(0, time, 9),
        observe=lambda s: {"u": s.params},
    )


def run(*, sweep=jd.sweep, rates, time, seeds, undecided):
    flow = sweep(
        functools.partial(simulate, rates=rates, time=time), seeds=seeds, dims={"u": "mode"}
    )
    s = np.asarray(rates)
    t = flow.time.values[:, None]
    flow["u_theory"] = ("time", "mode"), s / (1 + (s / 0.1 - 1) * np.exp(-s * t))
    flow.attrs["undecided"] = int(undecided)
    return {"flow": flow}


CLAIMS = (
    jd.Claim(
        "the flow follows the sigmoid", lambda r: abs(r["flow"].u - r["flow"].u_theory).max(), 1e-3
    ),
    jd.Claim("a refuted statement", lambda r: 1.0, 0.1, holds=False),
    jd.Claim("judged where asked", lambda r: np.nan if r["flow"].attrs["undecided"] else 0.0, 0.1),
)


def plot(results, axes):
    axes.plot(results["flow"].time, results["flow"].u_theory)
    return axes


@pytest.fixture
def logistic(monkeypatch):
    sizes = dict(rates=(3.0, 2.0), time=4.0, seeds=2, undecided=False)
    paper = types.ModuleType("jaxdyn.papers.logistic", "Logistic growth (Verhulst, 1838).")
    paper.__file__ = __file__
    paper.REFERENCE = papers.Reference("Logistic growth", "Verhulst", 1838, chapter="linear")
    paper.SIZES = {"quick": sizes, "paper": sizes | {"seeds": 3}}
    paper.run = run
    paper.CLAIMS = CLAIMS
    paper.plot = plot
    monkeypatch.setitem(sys.modules, paper.__name__, paper)
    monkeypatch.setattr(papers, "names", lambda: ["logistic"])
    return paper


def command(*words):
    sys.argv = ["jaxdyn", *map(str, words)]
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code


@pytest.fixture(autouse=True)
def _arguments(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=1")
    monkeypatch.chdir(tmp_path)


def test_run_reproduces_a_paper(logistic, tmp_path, capsys):
    assert command("run", "logistic") == 0
    folder = tmp_path / "results" / "logistic"
    assert {p.name for p in folder.iterdir()} == {
        "figure.png",
        "figure.svg",
        "verdicts.json",
        "provenance.json",
        "results",
        "runs",
    }
    shown = capsys.readouterr().out
    assert "the flow follows the sigmoid" in shown
    assert str(folder.relative_to(tmp_path)) in shown
    verdicts = json.loads((folder / "verdicts.json").read_text())
    assert [v["holds"] for v in verdicts] == [True, False, True]
    made = json.loads((folder / "provenance.json").read_text())
    assert made["options"]["rates"] == [3.0, 2.0]
    assert made["versions"]["jax"]


def test_the_same_options_reuse_the_store_and_others_get_their_own(logistic, tmp_path):
    runs = tmp_path / "results" / "logistic" / "runs"
    command("run", "logistic")
    (first,) = runs.iterdir()
    written = first.joinpath("blocks").stat().st_mtime_ns
    command("run", "logistic")
    assert [*runs.iterdir()] == [first]
    assert first.joinpath("blocks").stat().st_mtime_ns == written
    command("run", "logistic", "--time", "3")
    assert len([*runs.iterdir()]) == 2


def test_options_are_typed_by_the_sizes(logistic, tmp_path):
    assert (
        command(
            "run", "logistic", "--rates", 3, 2, 1, "--seeds", 1, "--size", "paper", "--out", "other"
        )
        == 0
    )
    made = json.loads((tmp_path / "other" / "logistic" / "provenance.json").read_text())
    assert made["options"] == {
        "rates": [3.0, 2.0, 1.0],
        "time": 4.0,
        "seeds": 1,
        "undecided": False,
    }
    assert made["size"] == "paper"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("run", "logistik"), "did you mean 'logistic'"),
        (("run", "logistic", "--seeds", "2.5"), "'2.5' is no int"),
        (("run", "logistic", "--rates", "x"), "'x' is no float"),
        (("run", "logistic", "--sedes", "2"), "--seeds"),
        (("run", "logistic", "--size", "huge"), "huge"),
        (("rnu", "logistic"), '"run"'),
        (("run", "logistic", "--seeds", "0"), "seeds: 0"),
        (("verify", "logistic"), "run it first"),
        (("verify",), "run a paper first"),
        (("plot", "logistic"), "run it first"),
    ],
)
def test_mistakes_are_explained_and_exit_with_2(logistic, words, shown, capsys, tmp_path):
    assert command(*words) == 2
    captured = capsys.readouterr()
    assert shown in captured.out + captured.err
    assert not list(tmp_path.glob("results/*/results"))


def test_a_claim_that_fails_exits_with_1_and_stays_on_record(logistic, tmp_path):
    logistic.CLAIMS = (jd.Claim("too much", lambda r: 1.0, 0.5), *CLAIMS)
    assert command("run", "logistic") == 1
    assert command("verify", "logistic") == 1
    logistic.CLAIMS = CLAIMS
    assert command("verify") == 0


def test_undecided_fails_at_the_default_sizes_only(logistic):
    assert command("run", "logistic", "--undecided") == 0
    logistic.SIZES = {"quick": logistic.SIZES["quick"] | {"undecided": True}}
    assert command("run", "logistic") == 1


def test_verify_and_plot_do_not_simulate(logistic, tmp_path, capsys):
    command("run", "logistic")
    logistic.run = None
    figure = tmp_path / "results" / "logistic" / "figure.svg"
    figure.unlink()
    assert command("verify", "logistic", "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["logistic"][0]["holds"] is True
    assert command("plot", "logistic") == 0
    assert figure.exists()


def test_run_says_at_once_what_it_does(logistic, capsys):
    command("run", "logistic")
    assert capsys.readouterr().err.startswith(
        "logistic: running at size quick, into results/logistic"
    )


@pytest.mark.parametrize(
    ("argv", "given", "level"),
    [
        (["python", "-m", "jaxdyn", "list"], None, "3"),
        (["python", "/bin/jaxdyn", "list"], None, "3"),
        (["python", "/bin/jaxdyn", "list"], "0", "0"),
        (["python", "mine.py"], None, None),
    ],
)
def test_errors_of_the_cache_are_kept_from_the_command_line_alone(argv, given, level, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", argv)
    monkeypatch.setattr(sys, "argv", [argv[1], *argv[2:]])
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    if given is not None:
        monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", given)
    jd._quiet_command_line()
    assert os.environ.get("TF_CPP_MIN_LOG_LEVEL") == level


def test_without_matplotlib_nothing_runs_in_vain(logistic, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert command("run", "logistic") == 2
    assert "pip install jaxdyn[plot]" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_explained(logistic, capsys, tmp_path):
    (tmp_path / "file").touch()
    assert command("run", "logistic", "--out", "file") == 2
    assert "error: [Errno" in capsys.readouterr().err


def test_animate_explains_mistakes(capsys):
    assert command("animate") == 2
    assert "Animations: cohen2024" in capsys.readouterr().out
    assert command("animate", "saxe2031") == 2
    assert "did you mean 'saxe2013'" in capsys.readouterr().err
    assert command("animate", "saxe2013", "--out", "saxe.mp4") == 2
    assert "ends in .gif" in capsys.readouterr().err


def test_list_names_the_papers(logistic, capsys):
    assert command("list") == 0
    assert "Logistic growth (Verhulst, 1838)" in capsys.readouterr().out


def test_help_shows_the_options(logistic, capsys):
    assert command("run", "logistic", "--help") == 0
    shown = capsys.readouterr().out
    assert "--rates" in shown
    assert "3.0 2.0" in shown
