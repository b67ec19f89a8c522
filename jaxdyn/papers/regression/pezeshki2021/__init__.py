"""Multi-scale feature learning dynamics: insights for double descent (Pezeshki, Mitra, Bengio,
Lajoie, 2021).

A linear student learns y = w . z + noise from x = F z, in which d - p of d features are kappa times
smaller.  Its test error E_G = (1 - 2 R + Q)/2, R the overlap of student and teacher and Q that of
the student with itself, falls while the large features are learned, rises while they fit what the
small ones would explain, and falls again.  The published closed form of R and Q is not exact: it
gives each group all n samples to itself, but the p large features use up p of them.  The exact one
is a deterministic equivalent.  Time is that of the sum over samples, dw/dt = X^T (y - X w).

The experiments stand in two files, the dynamics and the published formula; a third has the systems
and their theory.
"""

from jaxdyn.papers import Reference
from jaxdyn.papers.regression.pezeshki2021 import dynamics, published
from jaxdyn.papers.regression.pezeshki2021.systems import population as population

__all__ = ["EXPERIMENTS", "REFERENCE"]


REFERENCE = Reference(
    title="Multi-scale feature learning dynamics: insights for double descent",
    authors="Pezeshki, Mitra, Bengio, Lajoie",
    year=2021,
    arxiv="2112.03215",
    name="Multi-scale feature learning",
    reproduces="epoch-wise double descent, exactly; the published formula is off",
)

EXPERIMENTS = (*dynamics.EXPERIMENTS, *published.EXPERIMENTS)
