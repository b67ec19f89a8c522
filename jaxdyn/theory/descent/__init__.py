"""Descent in discrete steps: momentum, stability, the edge of stability on average, broken symmetries."""

from jaxdyn.theory.descent import (
    central_flow,
    complementarity,
    momentum,
    noether,
    opposing,
    stability,
)

__all__ = [
    "central_flow",
    "complementarity",
    "momentum",
    "noether",
    "opposing",
    "stability",
]
