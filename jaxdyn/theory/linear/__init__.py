"""Linear networks: deep ones mode by mode, two layers from any balanced start, gated ones,
self-distillation."""

from jaxdyn.theory.linear import gated, modes, riccati, self_distillation
from jaxdyn.theory.linear.modes import (
    deep_mode_strength,
    descent_lag,
    lyapunov_exponents,
    max_learning_rate,
    mode_strength,
    seed_strengths,
    tanh_mean_field,
    time_of_strength,
    time_of_strength_limit,
    tree_singular_values,
    unbalanced_modes,
)

__all__ = [
    "deep_mode_strength",
    "descent_lag",
    "gated",
    "lyapunov_exponents",
    "max_learning_rate",
    "mode_strength",
    "modes",
    "riccati",
    "seed_strengths",
    "self_distillation",
    "tanh_mean_field",
    "time_of_strength",
    "time_of_strength_limit",
    "tree_singular_values",
    "unbalanced_modes",
]
