"""Rules: losses and fields, what turns a batch into updates."""

from jaxdyn.rules.early_learning import early_learning
from jaxdyn.rules.losses import covariance_loss, cross_entropy, squared_error
from jaxdyn.rules.state import with_state
from jaxdyn.rules.transforms import ahead, nesterov_schedule, three_term

__all__ = [
    "ahead",
    "covariance_loss",
    "cross_entropy",
    "early_learning",
    "nesterov_schedule",
    "squared_error",
    "three_term",
    "with_state",
]
