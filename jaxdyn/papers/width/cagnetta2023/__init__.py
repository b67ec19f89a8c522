"""What can be learnt with wide convolutional neural networks? (Cagnetta, Favero, Wyart, 2023).

Inputs are p patches, each on a circle or a sphere, which a deep CNN of infinite width joins two by
two.  Its kernel's spectrum inherits that tree, Lambda ~ k^(-2 nu - d) with d the dimension of the
smallest meta-patch that holds the active patches, so that ridgeless regression on n points learns a
target local to d of D dimensions as n^-beta, beta = 2 nu_T (2 nu_S + D) / (D (2 nu_S + d)); a
global one with 2 nu_T / D, the curse.  The law is anisotropic: with one wave number fixed the decay
is that of a single patch.  Tangent kernels (nu = 1/2, "ntk") and random features (3/2, "nngp");
errors are averaged exactly over Gaussian teachers, relative to the target's variance.
"""

from jaxdyn.papers import Reference
from jaxdyn.papers.width.cagnetta2023 import regression, spectra

__all__ = ["EXPERIMENTS", "REFERENCE"]

REFERENCE = Reference(
    title="What can be learnt with wide convolutional neural networks?",
    authors="Cagnetta, Favero, Wyart",
    year=2023,
    arxiv="2208.01003",
    name="What wide CNNs can learn",
    reproduces="spectra of hierarchical kernels with exact constants; learning curves that follow the target's scale",
)

EXPERIMENTS = (*spectra.EXPERIMENTS, *regression.EXPERIMENTS)
