"""Observables: factories of pure functions `State -> {name: array}`; the names are the factories' own."""

from jaxdyn.observables.curvature import sharpness
from jaxdyn.observables.gradients import gradient_norm, loss
from jaxdyn.observables.groups import opposing_groups, sample_losses
from jaxdyn.observables.kernels import kernel_change, kernel_target_alignment
from jaxdyn.observables.records import combine, prefixed
from jaxdyn.observables.weights import alignment, leakage, mode_strengths, singular_values, weight_distance

__all__ = [
    "alignment",
    "combine",
    "gradient_norm",
    "kernel_change",
    "kernel_target_alignment",
    "leakage",
    "loss",
    "mode_strengths",
    "opposing_groups",
    "prefixed",
    "sample_losses",
    "sharpness",
    "singular_values",
    "weight_distance",
]
