"""Rules: fields that are not gradients, and functions that transform fields."""

from jaxdyn.rules.curl import sign_diverse
from jaxdyn.rules.early_learning import early_learning
from jaxdyn.rules.entropic import knowledge_accumulation, sigmoid_layers
from jaxdyn.rules.perturbation import (
    forward_gradient,
    node_perturbation,
    noisy,
    weight_perturbation,
)
from jaxdyn.rules.self_distillation import direct_predictor, self_distillation
from jaxdyn.rules.state import with_state

__all__ = [
    "direct_predictor",
    "early_learning",
    "forward_gradient",
    "knowledge_accumulation",
    "node_perturbation",
    "noisy",
    "self_distillation",
    "sigmoid_layers",
    "sign_diverse",
    "weight_perturbation",
    "with_state",
]
