"""Theory: pure functions of numbers and arrays to what a learning system will do; jit, vmap and sweep them.

linear: deep linear networks mode by mode.  riccati: two layers from any balanced start.  gated: pathways that race.
highdim: regression on any spectrum in high dimension, with marchenko_pastur (one variance), leastsquares (given data),
memorisation (wrong labels) and equivalents (populations and contours).  selfdistillation: JEPA, MAE, BYOL.  momentum:
accelerated methods and their ODEs.  permutations: wide networks that vote.  hierarchical: wide CNNs on patches.
kernel_regression: learning curves.  noether: symmetries under finite steps.  stability: minima of SGD.  centralflow:
descent and RMSProp at the edge of stability, on average, by complementarity (a semidefinite problem), and opposing:
two-layer networks with outliers, in closed form.  curl: sign-diverse plasticity.  perturbation: zeroth-order learning.
saddles: plateaus and escapes from small weights.  embeddings: narrow networks within wide ones.  online: committees
that learn online by their order parameters, with gaussian_integrals of their units, specialisation (plateaus, escape,
stability) and fluctuations at finite size.
"""

from jaxdyn.theory import (
    centralflow,
    complementarity,
    curl,
    embeddings,
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
    noether,
    online,
    opposing,
    permutations,
    perturbation,
    riccati,
    saddles,
    selfdistillation,
    specialisation,
    stability,
)

__all__ = [
    "centralflow",
    "complementarity",
    "curl",
    "embeddings",
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
    "noether",
    "online",
    "opposing",
    "permutations",
    "perturbation",
    "riccati",
    "saddles",
    "selfdistillation",
    "specialisation",
    "stability",
]
