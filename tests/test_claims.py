"""Claims: what their words are judged by, where they are undecided, and the quantities in them."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import xarray as xr

from jaxdyn import claims
from jaxdyn.claims import Claim, Domain, Verdict, verify

RUNS = xr.Dataset({"u": (("seed", "time"), np.full((2, 3), 0.25))})


def judge(value, **options):
    """The verdict on a claim with this value."""

    def quantity(results):
        return value

    if not {"above", "within"} & set(options):
        options = {"below": 1.0} | options
    claim = Claim("a statement", "a quantity", quantity, **options)
    (verdict,) = verify((claim,), RUNS)
    return verdict


def test_a_verdict_keeps_words_value_and_bounds():
    claim = Claim("errors are small", "largest error", lambda runs: runs.u.max(), below=0.3)
    expected = Verdict("errors are small", "largest error", 0.25, -math.inf, 0.3, True, True)
    assert verify((claim,), RUNS) == [expected]


@pytest.mark.parametrize(
    ("value", "bounds", "holds"),
    [
        (0.5, {"below": 1.0}, True),
        (1.0, {"below": 1.0}, False),
        (2.0, {"above": 1.0}, True),
        (0.5, {"above": 1.0}, False),
        (0.5, {"within": (0.0, 1.0)}, True),
        (-0.5, {"within": (0.0, 1.0)}, False),
        (0.5, {"below": lambda runs: 1 / runs.sizes["seed"]}, False),
        (0.4, {"within": lambda runs: (0.0, 1 / runs.sizes["seed"])}, True),
    ],
)
def test_a_value_lies_strictly_between_its_bounds(value, bounds, holds):
    assert judge(value, **bounds).holds is holds
    assert judge(value, **bounds).expected is holds
    assert judge(value, **bounds, holds=False).expected is not holds


def test_undecided_says_why():
    domain = Domain("there are three seeds", lambda runs: runs.sizes["seed"] == 3)
    outside = judge(0.0, when=domain)
    reason = "judged only where there are three seeds"
    assert (outside.word, outside.reason) == ("undecided", reason)
    assert judge(math.nan).word == "undecided"
    assert "not a number" in judge(math.nan).reason
    without_bound = judge(0.0, below=lambda runs: np.float32(np.nan), holds=False)
    assert without_bound.word == "undecided"
    broken = Claim("a statement", "a quantity", lambda runs: runs["absent"], below=1.0)
    (verdict,) = verify((broken,), RUNS)
    assert verdict.word == "undecided"
    assert "absent" in verdict.reason
    assert not verdict.expected


def test_a_run_that_diverged_refutes_nothing():
    assert judge(math.inf).word == "fails"
    assert not judge(math.inf, holds=False).expected
    assert judge(jnp.asarray(2.0), below=1, holds=False).word == "refuted"


def test_claims_that_cannot_be_read_are_named():
    for value in (True, jnp.asarray(True), np.zeros(2), "small", 1j):
        with pytest.raises(TypeError, match="claim 'a statement': its value"):
            judge(value)
    with pytest.raises(TypeError, match="exactly one of below"):
        judge(0.0, above=0.0, below=1.0)
    with pytest.raises(TypeError, match="Claim"):
        verify(Claim("no tuple", "size", len, below=1.0), {})


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ({"below": 1e-3}, "below 0.001"),
        ({"above": 2.0}, "above 2"),
        ({"within": (1.0, 2.0)}, "between 1 and 2"),
    ],
)
def test_bounds_are_said_in_words(bounds, words):
    assert judge(1.5, **bounds).bound == words


def test_the_worst_deviation_and_ratio_do_not_skip_what_blew_up():
    theory = xr.DataArray([1.0, 2.0, 4.0], dims="time")
    simulated = theory * xr.DataArray([1.0, 1.1, 0.95], dims="time")
    assert claims.worst(simulated, theory) == pytest.approx(0.2)
    assert claims.worst(simulated, theory, relative=True) == pytest.approx(0.1)
    assert claims.ratio(simulated, theory) == pytest.approx(1.1)
    blown_up = simulated.where(simulated < 3)
    assert math.isnan(claims.worst(blown_up, theory))
    assert math.isnan(claims.ratio(blown_up, theory))


def test_standard_errors_are_those_of_the_mean():
    draws = np.random.default_rng(0).normal(2.0, 3.0, size=(50, 7))
    runs = xr.DataArray(draws, dims=("seed", "time"))
    errors = scipy.stats.sem(draws, axis=0)
    np.testing.assert_allclose(claims.standard_error(runs), errors, rtol=1e-12)
    deviations = abs(draws.mean(0) - 2.0)
    expected = np.max(deviations / errors)
    assert claims.z_score(runs, 2.0) == pytest.approx(expected, rel=1e-12)
    assert math.isnan(claims.z_score(runs.isel(seed=[0]), 2.0))


def test_the_order_of_convergence_is_that_of_the_errors():
    steps = np.array([0.4, 0.2, 0.1])
    assert claims.order(3 * steps**1.7, steps) == pytest.approx(1.7)
