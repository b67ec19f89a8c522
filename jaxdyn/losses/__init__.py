"""Losses, functions `(params, batch) -> number` whose gradient is a field."""

from jaxdyn.losses.latent import latent_covariance_loss, latent_error
from jaxdyn.losses.populations import teacher_loss
from jaxdyn.losses.regression import covariance_loss, cross_entropy, squared_error

__all__ = [
    "covariance_loss",
    "cross_entropy",
    "latent_covariance_loss",
    "latent_error",
    "squared_error",
    "teacher_loss",
]
