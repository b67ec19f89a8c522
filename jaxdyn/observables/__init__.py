"""Observables: factories of pure functions `State -> {name: array}`; the names are the factories' own.

With them go a few functions of what a run has recorded: its saddles, levels and groups of examples.
"""

from jaxdyn.observables.curvature import hessian_eigenvalues, hessian_index, sharpness
from jaxdyn.observables.gradients import gradient_norm, loss
from jaxdyn.observables.groups import opposing_groups, sample_losses
from jaxdyn.observables.kernels import kernel_change, kernel_target_alignment
from jaxdyn.observables.lyapunov import tangent_growth, with_tangents
from jaxdyn.observables.records import box_average, combine, prefixed
from jaxdyn.observables.saddles import (
    charges,
    clusters,
    effective_width,
    level_times,
    plateaus,
    project_to_saddle,
    rank_distance,
    saddle_records,
    saddle_table,
    snapshot,
)
from jaxdyn.observables.weights import alignment, leakage, mode_strengths, singular_values, weight_distance

__all__ = [
    "alignment",
    "box_average",
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
    "level_times",
    "loss",
    "mode_strengths",
    "opposing_groups",
    "plateaus",
    "prefixed",
    "project_to_saddle",
    "rank_distance",
    "saddle_records",
    "saddle_table",
    "sample_losses",
    "sharpness",
    "singular_values",
    "snapshot",
    "tangent_growth",
    "weight_distance",
    "with_tangents",
]
