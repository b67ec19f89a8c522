"""Claims: statements of a paper as numbers that have to lie within bounds, judged on saved results.

A claim is computed from what an experiment returned (numpy in xarray), never from a running
simulation.  The functions from `worst` on compute the quantities of claims.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "Claim",
    "Domain",
    "Verdict",
    "order",
    "ratio",
    "standard_error",
    "verify",
    "worst",
    "z_score",
]

Results = Any
"""What an experiment returns and a claim is judged on: a Dataset, or {name: Dataset}."""

Bound = float | Callable[[Results], Any]
"""A number, or a function of the results that returns one."""


class Domain(NamedTuple):
    """Where a claim can be judged, in words and as a predicate of the results.

    Attributes:
        words: the end of a sentence "judged where ...", such as "the modes differ".
        contains: a function of the results that returns whether they lie in the domain.
    """

    words: str
    contains: Callable[[Results], Any]


class Claim(NamedTuple):
    """A statement of a paper: a quantity, its value in the results, and the bounds of the value.

    Attributes:
        statement: what is claimed, a sentence that can be quoted alone.
        quantity: what is measured, such as "largest relative deviation from equation 9".
        value: the quantity as a function of the results.
        below: the upper bound of the value, a number or a function of the results.
        above: the lower bound of the value, a number or a function of the results.
        within: both bounds, a pair of numbers or a function of the results that returns a pair.
        when: the domain of the claim; outside of it the verdict is "undecided".
        holds: False marks a published statement that this library refutes.

    Exactly one of `below`, `above` and `within` is given.  xarray's `max` and `mean` skip the NaN
    of a run that blew up; `max(skipna=False)` does not.
    """

    statement: str
    quantity: str
    value: Callable[[Results], Any]
    below: Bound | None = None
    above: Bound | None = None
    within: tuple[float, float] | Callable[[Results], Any] | None = None
    when: Domain | None = None
    holds: bool = True


class Verdict(NamedTuple):
    """A judged claim: its words, its value between the bounds `low` and `high`, and the outcome.

    Attributes:
        statement: what is claimed.
        quantity: what was measured.
        value: the value of the quantity in the results.
        low: the lower bound, minus infinity where there is none.
        high: the upper bound, infinity where there is none.
        holds: whether `low < value < high`; None where that is undecided.
        expected: whether the outcome is the one that the claim expects.
        reason: why the claim is undecided, in words.
    """

    statement: str
    quantity: str
    value: float
    low: float
    high: float
    holds: bool | None
    expected: bool
    reason: str = ""

    @property
    def word(self) -> str:
        """Return the verdict in a word: holds, refuted, fails, undecided or unexpected.

        A refuted statement is a published one that fails as expected; an unexpected one is expected
        to fail but holds.

        >>> Verdict("published", "error", 1.0, -math.inf, 0.1, holds=False, expected=True).word
        'refuted'
        """
        if self.holds is None:
            return "undecided"
        if self.expected:
            return "holds" if self.holds else "refuted"
        return "unexpected" if self.holds else "fails"

    @property
    def bound(self) -> str:
        """Return in words where the value has to lie.

        >>> Verdict("each mode is a sigmoid", "error", 0.02, -math.inf, 0.08, True, True).bound
        'below 0.08'
        """
        low = f"{self.low:.3g}"
        high = f"{self.high:.3g}"
        if self.low == -math.inf:
            return f"below {high}"
        return f"above {low}" if self.high == math.inf else f"between {low} and {high}"


def verify(claims: Sequence[Claim], results: Results) -> list[Verdict]:
    """Return the verdict on each claim: whether its value in the results lies strictly between its
    bounds.

    A claim is undecided, with the reason in words, in three cases: outside of its domain, where the
    value or a bound is NaN, and where computing them raises an exception.  `expected` is True if
    the outcome is the claim's own `holds` and the value is finite: an undecided claim is not as
    expected, and an infinite value refutes nothing.

    Raises TypeError where a value is not one number, or a claim does not have exactly one bound.
    """
    if isinstance(claims, Claim):
        raise TypeError("claims: is a single Claim; pass a tuple of them: (claim,)")
    return [_judge(claim, results) for claim in claims]


def worst(simulated: Any, theory: Any = 0.0, *, relative: bool = False) -> float:
    """Return the largest |simulated - theory|, or |simulated / theory - 1| if `relative`.

    NaN anywhere makes the result NaN.

    >>> worst(np.array([1.0, 2.2]), np.array([1.0, 2.0]))
    0.2...
    """
    deviation = abs(simulated / theory - 1) if relative else abs(simulated - theory)
    return float(np.max(np.asarray(deviation)))


def ratio(values: Any, reference: Any) -> float:
    """Return the largest values / reference; NaN anywhere makes the result NaN."""
    return float(np.max(np.asarray(values / reference)))


def standard_error(values: Any, over: str = "seed") -> Any:
    """Return the standard error of the mean over a dimension; NaN for fewer than two entries."""
    entries = values.sizes[over]
    if entries < 2:
        return values.mean(over, skipna=False) * np.nan
    return values.std(over, ddof=1, skipna=False) / math.sqrt(entries)


def z_score(simulated: Any, theory: Any, over: str = "seed") -> float:
    """Return the largest deviation of a mean from theory, in standard errors of that mean."""
    deviation = simulated.mean(over, skipna=False) - theory
    return worst(deviation / standard_error(simulated, over))


def order(errors: Any, steps: Any) -> float:
    """Return the order of convergence p of errors C step^p, by a least-squares fit in the
    logarithms.

    >>> order(np.array([4e-2, 1e-2]), np.array([0.2, 0.1]))
    2.0...
    """
    log_steps = np.log(np.asarray(steps, float))
    centred = log_steps - log_steps.mean()
    return float(centred @ np.log(np.asarray(errors, float)) / (centred @ centred))


def _judge(claim, results):
    _check_bounds(claim)
    unjudged = Verdict(claim.statement, claim.quantity, math.nan, -math.inf, math.inf, None, False)
    try:
        if claim.when is not None and not bool(claim.when.contains(results)):
            return unjudged._replace(reason=f"judged only where {claim.when.words}")
        value = claim.value(results)
        low, high = _bounds(claim, results)
    except Exception as error:
        return unjudged._replace(reason=f"it could not be computed: {error!r}")
    value = _number(claim, "value", value)
    low = _number(claim, "lower bound", low)
    high = _number(claim, "upper bound", high)
    verdict = unjudged._replace(value=value, low=low, high=high)
    if math.isnan(value) or math.isnan(low) or math.isnan(high):
        return verdict._replace(reason="its value or its bound is not a number in these results")
    holds = low < value < high
    return verdict._replace(holds=holds, expected=holds is claim.holds and math.isfinite(value))


def _check_bounds(claim):
    given = [name for name in ("below", "above", "within") if getattr(claim, name) is not None]
    if len(given) != 1:
        raise TypeError(
            f"claim {claim.statement!r}: it has the bounds {given}; pass exactly one of below, "
            "above and within"
        )


def _bounds(claim, results):
    if claim.within is not None:
        return _evaluated(claim.within, results)
    if claim.above is not None:
        return _evaluated(claim.above, results), math.inf
    return -math.inf, _evaluated(claim.below, results)


def _evaluated(value, results) -> Any:
    return value(results) if callable(value) else value


def _number(claim, name, value):
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind in "bcOSUmM":
        raise TypeError(
            f"claim {claim.statement!r}: its {name} is {array.dtype} of shape {array.shape}; return "
            "one real number, such as the largest error (a condition is a number and its bound)"
        )
    return float(array.reshape(()))
