"""Rules: losses and fields, what turns a batch into updates."""

from jaxdyn.rules.losses import covariance_loss, cross_entropy, squared_error
from jaxdyn.rules.selfdistill import direct_predictor, latent_covariance_loss, latent_error, self_distillation
from jaxdyn.rules.state import with_state

__all__ = [
    "covariance_loss",
    "cross_entropy",
    "direct_predictor",
    "latent_covariance_loss",
    "latent_error",
    "self_distillation",
    "squared_error",
    "with_state",
]
