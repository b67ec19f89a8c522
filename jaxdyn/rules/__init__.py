"""Rules: losses and fields, what turns a batch into updates."""

from jaxdyn.rules.early_learning import early_learning
from jaxdyn.rules.losses import covariance_loss, cross_entropy, squared_error
from jaxdyn.rules.populations import teacher_student
from jaxdyn.rules.selfdistill import direct_predictor, latent_covariance_loss, latent_error, self_distillation
from jaxdyn.rules.state import with_state
from jaxdyn.rules.transforms import ahead, nesterov_schedule, three_term

__all__ = [
    "ahead",
    "covariance_loss",
    "cross_entropy",
    "direct_predictor",
    "early_learning",
    "latent_covariance_loss",
    "latent_error",
    "nesterov_schedule",
    "self_distillation",
    "squared_error",
    "teacher_student",
    "three_term",
    "with_state",
]
