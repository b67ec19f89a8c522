"""Theory: pure functions of numbers and arrays to what a learning system will do; jit, vmap and sweep them.

linear: deep linear networks mode by mode.  riccati: two layers from any balanced start.  gated: pathways that race.
highdim: regression on any spectrum in high dimension, with marchenko_pastur (one variance), leastsquares (given data),
memorisation (wrong labels) and equivalents (populations and contours).  selfdistillation: JEPA, MAE, BYOL.  momentum:
accelerated methods and their ODEs.  permutations: wide networks that vote.  hierarchical: wide CNNs on patches.
kernel_regression: learning curves.  online: students of a teacher by their order parameters, at infinite size and as an
exact chain, with fluctuations (finite size), specialisation (plateaus, stability, floors) and gaussian_integrals.
"""

from jaxdyn.theory import (
    equivalents,
    fluctuations,
    gated,
    gaussian_integrals,
    hierarchical,
    highdim,
    kernel_regression,
    leastsquares,
    linear,
    marchenko_pastur,
    memorisation,
    momentum,
    online,
    permutations,
    riccati,
    selfdistillation,
    specialisation,
)

__all__ = [
    "equivalents",
    "fluctuations",
    "gated",
    "gaussian_integrals",
    "hierarchical",
    "highdim",
    "kernel_regression",
    "leastsquares",
    "linear",
    "marchenko_pastur",
    "memorisation",
    "momentum",
    "online",
    "permutations",
    "riccati",
    "selfdistillation",
    "specialisation",
]
