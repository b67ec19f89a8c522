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
    times = np.linspace(0, time, 9)

    def observe(state):
        return {"u": state.params}

    return jd.integrate(
        lambda t, u: u * (jnp.asarray(rates) - u),
        jnp.full(len(rates), 0.1),
        times=times,
        observe=observe,
    )


def growth(*, rates=(3.0, 2.0), time=4.0, seeds=2, undecided=False, sweep=jd.sweep):
    """Every population follows its own sigmoid.

    Args:
        rates: growth rates of the populations.
        time: flow time at which the runs end.
        seeds: number of runs.
        undecided: whether one claim cannot be judged.
    """
    flow = sweep(
        functools.partial(simulate, rates=rates, time=time), seeds=seeds, dims={"u": "mode"}
    )
    capacity = np.asarray(rates)
    passed = flow.time.values[:, None]
    sigmoid = capacity / (1 + (capacity / 0.1 - 1) * np.exp(-capacity * passed))
    flow["u_theory"] = ("time", "mode"), sigmoid
    flow.attrs["undecided"] = int(undecided)
    return flow


def still(*, seeds=1, sweep=jd.sweep):
    """A population at its capacity stays there.

    Args:
        seeds: number of runs.
    """
    return {"flow": sweep(functools.partial(simulate, rates=(0.1,), time=1.0), seeds=seeds)}


def draw(results, figure):
    axes = figure.subplots()
    flow = results["flow"] if isinstance(results, dict) else results
    axes.plot(flow.time, flow.u.isel(seed=0))


CLAIMS = (
    jd.Claim(
        "the flow follows the sigmoid",
        "largest deviation",
        lambda flow: abs(flow.u - flow.u_theory).max(),
        below=1e-3,
    ),
    jd.Claim("a refuted statement", "a number", lambda flow: 1.0, below=0.1, holds=False),
    jd.Claim(
        "judged where asked",
        "a number",
        lambda flow: np.nan if flow.attrs["undecided"] else 0.0,
        below=0.1,
    ),
)
STILL = jd.Claim(
    "nothing moves", "largest motion", lambda r: abs(r["flow"].u - 0.1).max(), below=1e-6
)


@pytest.fixture
def logistic(monkeypatch):
    paper = types.ModuleType("jaxdyn.papers.linear.logistic", "Logistic growth (Verhulst, 1838).")
    paper.REFERENCE = papers.Reference(
        title="Logistic growth", authors="Verhulst", year=1838, name="Growth", reproduces="sigmoids"
    )
    paper.EXPERIMENTS = (
        papers.Experiment(growth, CLAIMS, draw, paper={"seeds": 3}),
        papers.Experiment(still, (STILL,), draw),
    )
    monkeypatch.setitem(sys.modules, paper.__name__, paper)
    monkeypatch.setattr(papers, "_subjects", lambda: {"logistic": "linear"})
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
    assert {p.name for p in (tmp_path / "results" / "logistic").iterdir()} == {"growth", "still"}
    folder = tmp_path / "results" / "logistic" / "growth"
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
    runs = tmp_path / "results" / "logistic" / "growth" / "runs"
    command("run", "logistic", "growth")
    (first,) = runs.iterdir()
    written = first.joinpath("blocks").stat().st_mtime_ns
    command("run", "logistic", "growth")
    assert [*runs.iterdir()] == [first]
    assert first.joinpath("blocks").stat().st_mtime_ns == written
    command("run", "logistic", "growth", "--time", "3")
    assert len([*runs.iterdir()]) == 2


def test_options_are_typed_by_their_defaults(logistic, tmp_path):
    words = ("--rates", 3, 2, 1, "--seeds", 1, "--size", "paper", "--out", "other")
    assert command("run", "logistic", "growth", *words) == 0
    folder = tmp_path / "other" / "logistic" / "growth"
    made = json.loads((folder / "provenance.json").read_text())
    assert made["options"] == {
        "rates": [3.0, 2.0, 1.0],
        "time": 4.0,
        "seeds": 1,
        "undecided": False,
    }
    assert made["size"] == "paper"
    assert not made["default"]


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("run", "logistik"), "did you mean 'logistic'"),
        (("run", "logistic", "growth", "--seeds", "2.5"), "'2.5' is no int"),
        (("run", "logistic", "growth", "--rates", "x"), "'x' is no float"),
        (("run", "logistic", "growth", "--sedes", "2"), "--seeds"),
        (("run", "logistic", "groth"), "did you mean 'growth'"),
        (("run", "logistic", "--rates", "1"), "jaxdyn run logistic growth --rates"),
        (("run", "logistic", "--size", "huge"), "huge"),
        (("rnu", "logistic"), '"run"'),
        (("run", "logistic", "growth", "--seeds", "0"), "seeds: 0"),
        (("verify", "logistic"), "run it first"),
        (("verify",), "run a paper first"),
        (("plot", "logistic"), "run it first"),
        (("verify", "logistic", "growth"), "jaxdyn run logistic growth"),
    ],
)
def test_mistakes_are_explained_and_exit_with_2(logistic, words, shown, capsys, tmp_path):
    assert command(*words) == 2
    captured = capsys.readouterr()
    assert shown in captured.out + captured.err
    assert not list(tmp_path.glob("results/*/*/results"))


def test_results_of_an_earlier_version_are_refused(logistic, tmp_path, capsys):
    old = tmp_path / "results" / "logistic"
    old.mkdir(parents=True)
    (old / "provenance.json").write_text("{}")
    for words in (("run", "logistic"), ("verify", "logistic"), ("list", "logistic")):
        assert command(*words) == 2
        assert "holds results of jaxdyn 0.1" in capsys.readouterr().err


def with_claims(paper, *claims):
    growth, *others = paper.EXPERIMENTS
    paper.EXPERIMENTS = (growth._replace(claims=claims), *others)


def test_a_claim_that_fails_exits_with_1_and_stays_on_record(logistic):
    with_claims(logistic, jd.Claim("too much", "a number", lambda flow: 1.0, below=0.5), *CLAIMS)
    assert command("run", "logistic") == 1
    assert command("verify", "logistic") == 1
    with_claims(logistic, *CLAIMS)
    assert command("verify") == 0


def test_undecided_fails_at_the_default_sizes_only(logistic):
    assert command("run", "logistic", "growth", "--undecided") == 0
    always = CLAIMS[2]._replace(value=lambda flow: np.nan)
    with_claims(logistic, always)
    assert command("run", "logistic", "growth") == 1


def test_verify_and_plot_do_not_simulate(logistic, tmp_path, capsys):
    command("run", "logistic")

    def refuse(*, sweep=jd.sweep):
        raise AssertionError("simulated")

    refuse.__name__ = "growth"
    growth, still = logistic.EXPERIMENTS
    logistic.EXPERIMENTS = (growth._replace(run=refuse), still)
    refuse.__doc__ = "Nothing is run."
    figure = tmp_path / "results" / "logistic" / "growth" / "figure.svg"
    figure.unlink()
    capsys.readouterr()
    assert command("verify", "logistic", "growth", "--json") == 0
    verdicts = json.loads(capsys.readouterr().out)["logistic"]["growth"]
    assert verdicts[0]["holds"] is True
    assert command("plot", "logistic", "growth") == 0
    assert figure.exists()


def test_run_says_at_once_what_it_does_and_each_verdict_with_its_number(logistic, capsys):
    command("run", "logistic", "growth")
    shown = capsys.readouterr()
    assert shown.err.startswith(
        "logistic growth: running at size quick, into results/logistic/growth"
    )
    assert "refuted   a refuted statement\n            a number = 1 (below 0.1)" in shown.out


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


def test_list_fits_a_terminal_and_says_what_was_run(logistic, capsys):
    assert command("list") == 0
    assert capsys.readouterr().out.split() == [
        "linear",
        "logistic",
        "2",
        "experiments",
        "not",
        "run",
        "yet",
    ]
    command("run", "logistic", "growth")
    capsys.readouterr()
    command("list")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith("1 of 2, quick: 2 hold, 1 refuted")
    assert len(line) <= 80
    command("list", "logistic")
    shown = capsys.readouterr().out
    assert (
        "growth\n  Every population follows its own sigmoid.\n  quick: 2 hold, 1 refuted" in shown
    )
    assert "still\n  A population at its capacity stays there.\n  not run yet" in shown


def test_help_explains_the_experiments_and_their_options(logistic, capsys):
    assert command("run", "logistic", "--help") == 0
    assert "growth: Every population follows its own sigmoid." in capsys.readouterr().out
    assert command("run", "logistic", "growth", "--help") == 0
    shown = " ".join(capsys.readouterr().out.replace("│", "").split())
    assert "Growth rates of the populations. Default at quick: 3.0 2.0" in shown
    assert "Flow time at which the runs end. Default at quick: 4.0" in shown
