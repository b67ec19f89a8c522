"""Theory: pure functions of numbers and arrays to what a learning system will do; jit, vmap and sweep them.

linear: deep linear networks mode by mode.  riccati: two layers from any balanced start.  gated: pathways that race.
highdim: regression on any spectrum in high dimension, with marchenko_pastur (one variance), leastsquares (given data),
memorisation (wrong labels) and equivalents (populations and contours).  selfdistillation: JEPA, MAE, BYOL.  momentum:
accelerated methods and their ODEs.  permutations: wide networks that vote.  hierarchical: wide CNNs on patches.
kernel_regression: learning curves.  stability: minima of SGD.  noether: symmetries under finite steps.
curl: sign-diverse plasticity.  perturbation: zeroth-order learning.
"""

from jaxdyn.theory import (
    curl,
    equivalents,
    gated,
    hierarchical,
    highdim,
    kernel_regression,
    leastsquares,
    linear,
    marchenko_pastur,
    memorisation,
    momentum,
    noether,
    permutations,
    perturbation,
    riccati,
    selfdistillation,
    stability,
)

__all__ = [
    "curl",
    "equivalents",
    "gated",
    "hierarchical",
    "highdim",
    "kernel_regression",
    "leastsquares",
    "linear",
    "marchenko_pastur",
    "memorisation",
    "momentum",
    "noether",
    "permutations",
    "perturbation",
    "riccati",
    "selfdistillation",
    "stability",
]
