"""The implicit regularization of dynamical stability in stochastic gradient descent (Wu, Su, 2023).

At a minimum that fits all examples SGD maps deviations, d <- d - (eta / B) sum_batch g_i (g_i . d),
and their second moments linearly; eta is the learning rate, B the batch size, g_i the gradient of
the output for example i.  The moments stay bounded up to a learning rate that is found exactly.
Stability bounds the trace of the Hessian for small batches, its largest eigenvalue for large ones:
tr H <= 2 B / eta, and lambda_max <= 2 / eta for gradient descent.  For two-layer ReLU and diagonal
linear networks the trace bounds norms of the weights.  All in float64.
"""

from jaxdyn.papers import Reference
from jaxdyn.papers.descent.wu2023 import minima, moments, path_norm, thresholds

__all__ = ["EXPERIMENTS", "REFERENCE"]

REFERENCE = Reference(
    title="The implicit regularization of dynamical stability in stochastic gradient descent",
    authors="Wu, Su",
    year=2023,
    arxiv="2305.17490",
    name="Stability of SGD",
    reproduces="the exact learning rate at which a minimum is stable in mean square, "
    "and the flatness it demands",
)

EXPERIMENTS = (
    thresholds.EXPERIMENT,
    moments.EXPERIMENT,
    path_norm.EXPERIMENT,
    minima.OF_SGD,
    minima.OF_DESCENT,
)
