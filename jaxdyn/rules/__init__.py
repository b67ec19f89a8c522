"""Rules: losses and fields, what turns a batch into updates."""

from jaxdyn.rules.curl import keep_norms, sign_diverse
from jaxdyn.rules.early_learning import early_learning
from jaxdyn.rules.entropic import knowledge_accumulation, sigmoid_layers
from jaxdyn.rules.losses import covariance_loss, cross_entropy, squared_error
from jaxdyn.rules.perturbation import forward_gradient, node_perturbation, noisy, weight_perturbation
from jaxdyn.rules.populations import teacher_loss
from jaxdyn.rules.selfdistill import direct_predictor, latent_covariance_loss, latent_error, self_distillation
from jaxdyn.rules.state import with_state
from jaxdyn.rules.transforms import ahead, kicks, nesterov_schedule, scalar_rmsprop, three_term

__all__ = [
    "ahead",
    "covariance_loss",
    "cross_entropy",
    "direct_predictor",
    "early_learning",
    "forward_gradient",
    "keep_norms",
    "kicks",
    "knowledge_accumulation",
    "latent_covariance_loss",
    "latent_error",
    "nesterov_schedule",
    "node_perturbation",
    "noisy",
    "scalar_rmsprop",
    "self_distillation",
    "sigmoid_layers",
    "sign_diverse",
    "squared_error",
    "teacher_loss",
    "three_term",
    "weight_perturbation",
    "with_state",
]
