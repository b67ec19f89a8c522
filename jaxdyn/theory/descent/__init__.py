"""Descent in discrete steps: momentum, stability, central flows at the edge of stability, broken
symmetries."""

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
