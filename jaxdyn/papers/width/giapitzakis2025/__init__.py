"""Exact learning of permutations for nonzero binary inputs (Giapitzakis, Back de Luca,
Fountoulakis, 2025).

Two-layer ReLU networks f = n^(-1/2) sum_j a_j relu(w_j . x / sqrt(k)) learn a permutation of k bits
from the k unit vectors.  In the limit of large width the outputs on any other input are Gaussian,
and the sign of their mean is right: enough networks vote for the right answer on all 2^k inputs.
One input needs an ensemble of order k ln k.  For all of them the paper proves that order k^2
suffices; the union bound over outputs itself needs 6 c_2 k ln k, set by the inputs of weight two,
and k^(3/2) ln k beyond k of 10^4: the square is a loose upper bound (no lower bound is known).
Times are steps of descent on the mean over examples, whose learning rate is k times that of the
paper's sum.
"""

from jaxdyn.papers import Reference
from jaxdyn.papers.width.giapitzakis2025 import ensembles, sizes

__all__ = ["EXPERIMENTS", "REFERENCE"]

REFERENCE = Reference(
    title="Exact learning of permutations for nonzero binary inputs with logarithmic training size "
    "and quadratic ensemble complexity",
    authors="Giapitzakis, Back de Luca, Fountoulakis",
    year=2025,
    arxiv="2502.16763",
    name="Exact learning of permutations",
    reproduces="ensembles of wide networks vote; how many it takes: k ln k, not the published k^2",
)

EXPERIMENTS = (*ensembles.EXPERIMENTS, *sizes.EXPERIMENTS)
