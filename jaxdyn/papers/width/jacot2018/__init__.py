"""Neural tangent kernel: convergence and generalization in neural networks (Jacot, Gabriel,
Hongler, 2018).

A network z_l = w_std/sqrt(n) W_l h_(l-1) + b_std b_l, h_l = act(z_l), all parameters N(0, 1),
descends the mean of (f - y)^2/2 over P examples.  For wide layers that is linear descent in
function space, f <- f - (lr/P) K (f - y), with the neural tangent kernel K of the limit: networks
are a Gaussian process at all times, principal components of K are learned each at a rate of its
own, and stopping early leaves the slow ones, which are mostly noise.  At finite width K has exactly
known moments; it moves by 1/width, faster than the 1/sqrt(width) of the proof.
"""

from jaxdyn.papers import Reference
from jaxdyn.papers.width.jacot2018 import start, training

__all__ = ["EXPERIMENTS", "REFERENCE"]

REFERENCE = Reference(
    title="Neural tangent kernel: convergence and generalization in neural networks",
    authors="Jacot, Gabriel, Hongler",
    year=2018,
    arxiv="1806.07572",
    name="The neural tangent kernel",
    reproduces="its exact variance at finite width, drift 1/n, Gaussian processes in training, early stopping",
)

EXPERIMENTS = (*start.EXPERIMENTS, *training.EXPERIMENTS)
