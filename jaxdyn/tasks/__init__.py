"""Tasks: data, their second moments, and streams of batches."""

from jaxdyn.tasks.incontext import (
    Prompts,
    in_context_features,
    in_context_moments,
    in_context_regression,
)
from jaxdyn.tasks.mixtures import Mixture, Outliers, opposing_outliers, two_clusters
from jaxdyn.tasks.regression import Regression, regression, teacher_student
from jaxdyn.tasks.spectra import (
    Covariances,
    binary_tree,
    covariances,
    frames,
    from_svd,
    linear_teacher,
)
from jaxdyn.tasks.streams import epochs, full_batch, minibatch, online
from jaxdyn.tasks.teacher import labelled
from jaxdyn.tasks.views import gaussian_pairs, noisy_copies, successive_states

__all__ = [
    "Covariances",
    "Mixture",
    "Outliers",
    "Prompts",
    "Regression",
    "binary_tree",
    "covariances",
    "epochs",
    "frames",
    "from_svd",
    "full_batch",
    "gaussian_pairs",
    "in_context_features",
    "in_context_moments",
    "in_context_regression",
    "labelled",
    "linear_teacher",
    "minibatch",
    "noisy_copies",
    "online",
    "opposing_outliers",
    "regression",
    "successive_states",
    "teacher_student",
    "two_clusters",
]
