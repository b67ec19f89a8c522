"""On the Dynamics of Acceleration in First order Gradient Methods (Parimi, Mehra, Wagh, Yerudkar,
Singh, 2025).

Nesterov's, the triple momentum and the heavy-ball method are one three-term recursion of different
coefficients.  On a quadratic of condition number kappa they need sqrt(kappa) steps where gradient
descent needs kappa; in small steps they are damped oscillators, told apart by terms of the order of
the square root of the learning rate.  On functions that are no quadratics the heavy ball may cycle
for ever.  All in float64; the paper's own derivation was not at hand.
"""

from jaxdyn.papers import Reference
from jaxdyn.papers.descent.parimi2025 import logistic, odes, particle, piecewise, quadratic

__all__ = ["EXPERIMENTS", "REFERENCE"]

REFERENCE = Reference(
    title="On the Dynamics of Acceleration in First order Gradient Methods",
    authors="Parimi, Mehra, Wagh, Yerudkar, Singh",
    year=2025,
    arxiv="2509.18346",
    name="Dynamics of acceleration",
    reproduces="Nesterov, heavy ball, triple momentum: rates, cycles, their ODEs",
)

EXPERIMENTS = (
    quadratic.EXPERIMENT,
    piecewise.EXPERIMENT,
    logistic.RATES,
    odes.CONVEX,
    odes.STRONGLY_CONVEX,
    logistic.POTENTIAL,
    particle.EXPERIMENT,
)
