"""Observables: factories of pure functions `State -> {name: array}`; the names are the factories' own."""

from jaxdyn.observables.curvature import sharpness
from jaxdyn.observables.gradients import gradient_norm, loss
from jaxdyn.observables.kernels import kernel_change, kernel_target_alignment
from jaxdyn.observables.lyapunov import tangent_growth, with_tangents
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
    "prefixed",
    "sharpness",
    "singular_values",
    "tangent_growth",
    "weight_distance",
    "with_tangents",
]
