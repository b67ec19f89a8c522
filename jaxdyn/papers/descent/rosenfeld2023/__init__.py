"""Outliers with opposing signals have an outsized effect on neural network optimization (Rosenfeld,
Risteski, 2023).

Where a large feature comes with either label alike, a network learns to ignore it.  The better it
learns all else, the sharper the valley of the feature becomes: in the two-layer linear network
c b^T x by alpha c^2, alpha the variance of the feature, the outlier.  At 2/(learning rate) descent
leaves the valley; the losses of the two groups of outliers then rise in turn, until they spike and
push c back.  With slow signals left to learn descent stays at this edge, on its central flow:
c = sqrt(2/(learning rate alpha)), and E o^2, o the outlier's weight, such that c no longer grows.
All linear networks are in float64.
"""

from jaxdyn.papers import Reference
from jaxdyn.papers.descent.rosenfeld2023 import central_flow, groups, sharpening, spike
from jaxdyn.papers.descent.rosenfeld2023.linear import LOSS, linear_start

__all__ = ["EXPERIMENTS", "LOSS", "REFERENCE", "linear_start"]

REFERENCE = Reference(
    title="Outliers with opposing signals have an outsized effect on neural network optimization",
    authors="Rosenfeld, Risteski",
    year=2023,
    arxiv="2311.04163",
    name="Outliers with opposing signals",
    reproduces="a valley that sharpens, two groups whose losses spike in turn, "
    "and the central flow between them",
)

EXPERIMENTS = (
    sharpening.EXPERIMENT,
    spike.EXPERIMENT,
    central_flow.EXPERIMENT,
    groups.EXPERIMENT,
)
