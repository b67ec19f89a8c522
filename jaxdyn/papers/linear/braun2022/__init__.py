"""Exact learning dynamics of deep linear networks with prior knowledge (Braun, Domine, Fitzgerald,
Saxe, 2022).

The network y = W_2 W_1 x of whitened inputs descends E|y - y_hat|^2 / 2, so that Q = [W_1^T; W_2]
obeys dQ/dt = F Q - Q Q^T Q / 2, F = [[-lambda/2, yx^T], [yx, lambda/2]], if W_2^T W_2 - W_1 W_1^T =
lambda I at the start: zero-balanced in the paper, lambda-balanced in Domine et al. (2024).  What a
network knew before decides how it learns: rich or lazy, reversing at once or late, or never.
`jaxdyn.theory.linear.riccati` is compared with integration, all in float64.

The experiments stand in two files, the learning of one target and of several in turn; a third has
the networks that they share.
"""

from jaxdyn.papers import Reference
from jaxdyn.papers.linear.braun2022 import one_target, several_targets

__all__ = ["EXPERIMENTS", "REFERENCE"]

REFERENCE = Reference(
    title="Exact learning dynamics of deep linear networks with prior knowledge",
    authors="Braun, Domine, Fitzgerald, Saxe",
    year=2022,
    name="Exact learning dynamics with prior knowledge",
    reproduces="two-layer networks from any balanced start: rich and lazy, reversal, continual "
    "learning",
)

EXPERIMENTS = (*one_target.EXPERIMENTS, *several_targets.EXPERIMENTS)
