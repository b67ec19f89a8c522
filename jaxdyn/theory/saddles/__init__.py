"""Saddle-to-saddle dynamics: plateaus, escape times, and narrow networks within wide ones."""

from jaxdyn.theory.saddles import embeddings, plateaus
from jaxdyn.theory.saddles.plateaus import (
    attention_plateaus,
    best_rectifier,
    blow_up_lead,
    blow_up_time,
    drop_times,
    linear_plateaus,
    quadratic_lead,
    quadratic_plateaus,
    saddle_eigenvalues,
    unit_spread,
)

__all__ = [
    "attention_plateaus",
    "best_rectifier",
    "blow_up_lead",
    "blow_up_time",
    "drop_times",
    "embeddings",
    "linear_plateaus",
    "plateaus",
    "quadratic_lead",
    "quadratic_plateaus",
    "saddle_eigenvalues",
    "unit_spread",
]
