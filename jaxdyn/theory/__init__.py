"""Theory: pure functions of numbers and arrays to what a learning system will do; jit, vmap and sweep them.

linear: deep linear networks mode by mode.  riccati: two layers from any balanced start.  gated: pathways that race.
highdim: regression on any spectrum in high dimension, with marchenko_pastur (one variance), leastsquares (given data),
memorisation (wrong labels) and equivalents (populations and contours).  selfdistillation: JEPA, MAE, BYOL.  momentum:
accelerated methods and their ODEs.  permutations: wide networks that vote.  hierarchical: wide CNNs on patches.
kernel_regression: learning curves.  saddles: plateaus and escapes from small weights.  embeddings: narrow networks
within wide ones.
"""

from jaxdyn.theory import (
    embeddings,
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
    permutations,
    riccati,
    saddles,
    selfdistillation,
)

__all__ = [
    "embeddings",
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
    "permutations",
    "riccati",
    "saddles",
    "selfdistillation",
]
