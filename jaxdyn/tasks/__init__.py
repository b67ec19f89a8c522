"""Tasks: data, its moments, and streams of batches."""

from jaxdyn.tasks.mixtures import Mixture, two_clusters
from jaxdyn.tasks.regression import Regression, regression, teacher_student
from jaxdyn.tasks.spectra import Covariances, binary_tree, covariances, frames, from_svd, linear_teacher
from jaxdyn.tasks.streams import epochs, full_batch, minibatch, online
from jaxdyn.tasks.teacher import labelled
from jaxdyn.tasks.views import gaussian_pairs, noisy_copies, successive_states

__all__ = [
    "Covariances",
    "Mixture",
    "Regression",
    "binary_tree",
    "covariances",
    "epochs",
    "frames",
    "from_svd",
    "full_batch",
    "gaussian_pairs",
    "labelled",
    "linear_teacher",
    "minibatch",
    "noisy_copies",
    "online",
    "regression",
    "successive_states",
    "teacher_student",
    "two_clusters",
]
