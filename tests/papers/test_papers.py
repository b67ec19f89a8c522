"""One battery over all papers: the contract, and every claim at the quick size.

A paper joins by being there; `make test` runs one configuration of every experiment, `make test-all`
the others too.
"""

import inspect

import jax
import numpy as np
import pytest

import jaxdyn as jd
from jaxdyn import papers, plot, results

PAPERS = {name: papers.load(name) for name in papers.names()}
EXPERIMENTS = {
    f"{name}-{experiment.name}": experiment
    for name, paper in PAPERS.items()
    for experiment in paper.EXPERIMENTS
}
OTHERS = {
    f"{name}-{number}": (experiment, options)
    for name, experiment in EXPERIMENTS.items()
    for number, options in enumerate(experiment.others)
}


@pytest.fixture(scope="module", params=EXPERIMENTS.values(), ids=EXPERIMENTS)
def experiment(request):
    return request.param


@pytest.fixture(scope="module")
def reproduced(experiment):
    return experiment.run()


@pytest.mark.parametrize("name", PAPERS)
def test_a_paper_has_a_reference_and_experiments(name):
    paper = PAPERS[name]
    reference = paper.REFERENCE
    summary = " ".join(paper.__doc__.partition("\n\n")[0].split())
    assert summary.endswith(f"{reference.year}).")
    assert reference.authors.split(",")[0] in summary
    assert 0 < len(reference.name) < 60
    assert reference.reproduces
    names = [experiment.name for experiment in paper.EXPERIMENTS]
    assert len(set(names)) == len(names) >= 1


def test_an_experiment_declares_its_options_once(experiment):
    parameters = dict(inspect.signature(experiment.run).parameters)
    assert parameters.pop("sweep").default is jd.sweep
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters.values())
    for name, option in papers.options(experiment).items():
        values = option.default if isinstance(option.default, tuple) else (option.default,)
        assert values, f"{name} is empty"
        assert all(isinstance(value, bool | int | float | str) for value in values), name
        assert len({type(value) for value in values}) == 1, f"{name} mixes types: {values}"
        assert option.description.endswith("."), f"{name}: describe it under Args, in a sentence"
    assert experiment.sentence.endswith(".")
    described = inspect.getdoc(experiment.run).partition("Args:")[2]
    assert described.count("\n    ") >= len(parameters)
    quick = experiment.sized("quick")
    assert set(experiment.paper) <= set(quick)
    for changed in experiment.others:
        assert set(changed) <= set(quick)
        assert quick | dict(changed) != quick


def test_claims_can_be_quoted_alone(experiment):
    openings = ("and ", "so ", "it ", "they ", "these ", "those ", "there ", "its ", "their ")
    assert experiment.claims
    for claim in experiment.claims:
        assert not claim.statement.startswith(openings), claim.statement
        assert len(claim.quantity.split()) > 1, claim.statement


def test_claims_hold_as_expected(experiment, reproduced):
    verdicts = jd.verify(experiment.claims, reproduced)
    assert all(verdict.expected for verdict in verdicts), [v for v in verdicts if not v.expected]


@pytest.mark.slow
@pytest.mark.parametrize(("experiment", "options"), OTHERS.values(), ids=OTHERS)
def test_claims_hold_for_other_configurations(experiment, options):
    verdicts = jd.verify(experiment.claims, experiment.run(**options))
    unexpected = [v for v in verdicts if not (v.expected or v.reason.startswith("judged only"))]
    assert not unexpected
    assert any(verdict.expected for verdict in verdicts)


def test_results_claims_and_figure_survive_the_disk(experiment, reproduced, tmp_path):
    results.save(reproduced, tmp_path / "saved")
    saved = results.open(tmp_path / "saved")
    before = jd.verify(experiment.claims, reproduced)
    after = jd.verify(experiment.claims, saved)
    assert [verdict.word for verdict in after] == [verdict.word for verdict in before]
    # Sums may be taken in another order, over arrays that lie otherwise in memory.
    values = [verdict.value for verdict in before]
    np.testing.assert_allclose([verdict.value for verdict in after], values, rtol=1e-9, atol=1e-14)
    check_figure(drawn(experiment, saved))


def test_results_are_numpy_and_float64_stays_inside(experiment, reproduced):
    assert not jax.config.jax_enable_x64
    datasets = reproduced.values() if isinstance(reproduced, dict) else [reproduced]
    for dataset in datasets:
        assert not any(isinstance(v.data, jax.Array) for v in dataset.variables.values())


def drawn(experiment, saved):
    import matplotlib.pyplot as plt

    with plot.style():
        figure = plt.figure(layout="constrained")
        experiment.plot(saved, figure)
        figure.draw_without_rendering()
        plt.close(figure)
    return figure


def check_figure(figure):
    """Every panel says what is seen, in letters of at least 7 pt at a width of 100 mm."""
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert panels
    for axes in panels:
        assert axes.has_data()
        assert axes.get_title(), "a panel without a title"
        assert axes.get_xlabel(), axes.get_title()
        assert axes.get_ylabel(), axes.get_title()
        assert not axes.child_axes, "a hand-placed inset"
    assert figure.get_layout_engine() is not None
    smallest = 7 * figure.get_size_inches()[0] / (100 / 25.4)
    texts = [text for text in figure.findobj(match=is_text) if text.get_text().strip()]
    assert min(text.get_fontsize() for text in texts) >= 0.99 * smallest


def is_text(artist):
    from matplotlib.text import Text

    return isinstance(artist, Text) and artist.get_visible()
