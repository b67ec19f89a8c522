"""One battery over all papers: the contract, and every claim at the quick size.  A paper joins by
being there."""

import inspect

import jax
import pytest
from configurations import CONFIGURATIONS

import jaxdyn as jd
from jaxdyn import papers, results

CHAPTERS = {
    "linear",
    "kernels",
    "saddles",
    "width",
    "grokking",
    "attention",
    "measures",
    "reconstruction",
}


@pytest.fixture(scope="module", params=papers.names())
def paper(request):
    return papers.load(request.param)


@pytest.fixture(scope="module")
def reproduced(paper):
    return paper.run(**paper.SIZES["quick"])


def test_the_contract_is_kept(paper):
    assert paper.__doc__.splitlines()[0].strip().endswith(".")
    assert paper.REFERENCE.chapter in CHAPTERS
    options = dict(inspect.signature(paper.run).parameters)
    assert options.pop("sweep").default is jd.sweep
    assert all(p.kind is p.KEYWORD_ONLY for p in options.values())
    assert set(paper.SIZES) >= {"quick", "paper"}
    for size in paper.SIZES.values():
        assert set(size) == set(options)
        for name, value in size.items():
            values = value if isinstance(value, tuple) else (value,)
            assert values, f"{name} is empty"
            assert all(isinstance(v, bool | int | float | str) for v in values), name
            assert len({type(v) for v in values}) == 1, f"{name} mixes types: {value}"


def test_claims_hold_as_expected(paper, reproduced):
    verdicts = jd.verify(paper.CLAIMS, reproduced)
    assert verdicts
    assert all(v.expected for v in verdicts), [v for v in verdicts if not v.expected]


@pytest.mark.parametrize("which", [0, 1])
def test_claims_hold_for_other_configurations(paper, which):
    name = paper.__name__.rpartition(".")[2]
    options = paper.SIZES["quick"] | CONFIGURATIONS[name][which]
    assert set(options) == set(paper.SIZES["quick"])
    assert options != paper.SIZES["quick"]
    verdicts = jd.verify(paper.CLAIMS, paper.run(**options))
    assert all(v.expected for v in verdicts), [v for v in verdicts if not v.expected]


def test_results_claims_and_figure_survive_the_disk(paper, reproduced, tmp_path):
    import matplotlib.pyplot as plt

    results.save(reproduced, tmp_path / "r")
    saved = results.open(tmp_path / "r")
    assert jd.verify(paper.CLAIMS, saved) == jd.verify(paper.CLAIMS, reproduced)
    figure, axes = plt.subplots()
    assert paper.plot(saved, axes) is axes
    drawn = [axes, *axes.child_axes]
    assert all(a.get_xlabel() and a.get_ylabel() for a in drawn)
    assert any(a.has_data() for a in drawn)
    plt.close(figure)


def test_results_are_numpy_and_float64_stays_inside(paper, reproduced):
    assert not jax.config.jax_enable_x64
    for dataset in reproduced.values():
        assert not any(isinstance(v.data, jax.Array) for v in dataset.variables.values())
