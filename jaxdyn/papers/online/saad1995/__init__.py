"""On-line learning in soft committee machines (Saad, Solla, 1995).

A student of K units g(h) = erf(h / sqrt(2)) learns a teacher of K orthonormal ones, all readouts 1,
from a new example at each step, at the rate eta/d for d inputs.  As d -> infinity the overlaps Q =
w w^T and R = w w*^T obey an ODE in examples/d: learning dwells on a plateau, a saddle where units
are alike, until they specialise, and ends at a floor set by noise and rate.  At finite d they are a
Markov chain, which scatters about the ODE and leaves the plateau by itself after a time of
log(d)/(2 rate).  All in float64.
"""

from jaxdyn.papers import Reference
from jaxdyn.papers.online.saad1995 import chains, limits

__all__ = ["EXPERIMENTS", "REFERENCE"]

REFERENCE = Reference(
    title="On-line learning in soft committee machines",
    authors="Saad, Solla",
    year=1995,
    name="On-line learning in committee machines",
    reproduces="plateaus and escape: order parameters, an exact chain at any size, fluctuations, floors",
)

EXPERIMENTS = (*chains.EXPERIMENTS, *limits.EXPERIMENTS)
