"""Exact solutions to the nonlinear dynamics of learning in deep linear networks (Saxe, McClelland,
Ganguli, 2013).

The network y = W_D ... W_1 x descends E|y - y_hat|^2 / 2.  From a balanced start that is aligned
with the task, each singular value s of the input-output covariance is learned by itself, du/dt = D
u^(2 - 2/D) (s - u): plateaus and sudden transitions.  Depth delays them by a finite number of
steps, if the initial weights let the signal through: random orthogonal matrices do, Gaussian ones
do not.  All numbers are in float64.

The experiments stand in three files: starts that are aligned with the task, small random weights,
and what the signal does in deep random networks.
"""

from jaxdyn.papers import Reference
from jaxdyn.papers.linear.saxe2013 import aligned_starts, deep_random_networks, small_weights

__all__ = ["EXPERIMENTS", "REFERENCE"]

REFERENCE = Reference(
    title="Exact solutions to the nonlinear dynamics of learning in deep linear neural networks",
    authors="Saxe, McClelland, Ganguli",
    year=2013,
    arxiv="1312.6120",
    name="Exact solutions of deep linear networks",
    reproduces="plateaus and sigmoids, depth, random starts, signal propagation",
)

EXPERIMENTS = (
    *aligned_starts.EXPERIMENTS,
    *small_weights.EXPERIMENTS,
    *deep_random_networks.EXPERIMENTS,
)
