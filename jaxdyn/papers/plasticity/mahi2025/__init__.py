"""Structured knowledge accumulation: the principle of entropic least action in forward-only neural
learning (Mahi, 2025).

Layers of sigmoids, h = sigmoid(z), learn without labels and without a backward pass: each descends
its own entropy H = -(1/ln 2) sum z dh along the last change of its outputs.  Step by step H adds up
to the change of the binary entropy of the decisions h: the rule is a local ascent of |z|, dz/dt = G
(z h (1 - h)) / ln 2 in the first layer, G = x x^T / n + 1 1^T / n, and z = 0 is unstable at the
rate of its largest eigenvalue over 4 ln 2.  In float64.
"""

from jaxdyn.papers import Reference
from jaxdyn.papers.plasticity.mahi2025 import rates, starts

__all__ = ["EXPERIMENTS", "REFERENCE"]

REFERENCE = Reference(
    title="Structured knowledge accumulation: the principle of entropic least action in "
    "forward-only neural learning",
    authors="Mahi",
    year=2025,
    arxiv="2504.03214",
    name="Structured knowledge accumulation",
    reproduces="learning forward only: entropies that telescope; the intrinsic time and least action that are not",
)

EXPERIMENTS = (*rates.EXPERIMENTS, *starts.EXPERIMENTS)
