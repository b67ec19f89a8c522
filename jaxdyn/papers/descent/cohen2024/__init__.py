"""Understanding optimization in deep learning with central flows (Cohen, Damian, Talwalkar, Kolter,
Lee, 2024).

Descent with the learning rate eta makes a network sharper until the largest eigenvalue of its
Hessian is 2/eta; from there on it oscillates and no longer follows gradient flow (Cohen, Kaur, Li,
Kolter, Talwalkar, 2021).  Averaged over time it follows the central flow dx/dt = -eta grad [L + <H,
S>/2], S the covariance that holds eigenvalues at this edge.  So do RMSProp with one rate for all
parameters and with one for each, at the edge of their own rates.  All train a tanh network on a
wave of Gaussian inputs, beside their central and their stable flow, in float64.
"""

from jaxdyn.papers import Reference
from jaxdyn.papers.descent.cohen2024 import average, edge, rates, rmsprop

__all__ = ["EXPERIMENTS", "REFERENCE"]

REFERENCE = Reference(
    title="Understanding optimization in deep learning with central flows",
    authors="Cohen, Damian, Talwalkar, Kolter, Lee",
    year=2024,
    arxiv="2410.24206",
    name="Central flows",
    reproduces="the edge of stability: descent and RMSProp on average, the loss that oscillations "
    "cost, and where averages fail",
)

EXPERIMENTS = (
    edge.EXPERIMENT,
    average.EXPERIMENT,
    rmsprop.EXPERIMENT,
    rates.HIGH,
    rates.UNSTABLE,
)
