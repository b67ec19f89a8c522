"""Observables: factories of pure functions `State -> {name: array}`, each with the factory's name
unless stated."""

from jaxdyn.observables.curvature import hessian_eigenvalues, hessian_index, sharpness
from jaxdyn.observables.gradients import gradient_norm, loss
from jaxdyn.observables.groups import sample_losses
from jaxdyn.observables.kernels import kernel_change, kernel_target_alignment
from jaxdyn.observables.records import combine, prefixed
from jaxdyn.observables.saddles import charges, clusters, effective_width, rank_distance, snapshot
from jaxdyn.observables.weights import (
    alignment,
    leakage,
    mode_strengths,
    singular_values,
    weight_distance,
)

__all__ = [
    "alignment",
    "charges",
    "clusters",
    "combine",
    "effective_width",
    "gradient_norm",
    "hessian_eigenvalues",
    "hessian_index",
    "kernel_change",
    "kernel_target_alignment",
    "leakage",
    "loss",
    "mode_strengths",
    "prefixed",
    "rank_distance",
    "sample_losses",
    "sharpness",
    "singular_values",
    "snapshot",
    "weight_distance",
]
