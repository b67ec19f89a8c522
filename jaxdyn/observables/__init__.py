"""Observables: factories of pure functions `State -> {name: array}`."""

from jaxdyn.observables.records import combine, prefixed
from jaxdyn.observables.weights import alignment, leakage, mode_strengths, singular_values

__all__ = ["alignment", "combine", "leakage", "mode_strengths", "prefixed", "singular_values"]
