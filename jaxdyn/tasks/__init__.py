"""Tasks: data, its moments, and streams of batches."""

from jaxdyn.tasks.regression import Regression, regression, teacher_student
from jaxdyn.tasks.spectra import Covariances, binary_tree, covariances, frames, from_svd, linear_teacher
from jaxdyn.tasks.streams import epochs, full_batch, minibatch, online

__all__ = [
    "Covariances",
    "Regression",
    "binary_tree",
    "covariances",
    "epochs",
    "frames",
    "from_svd",
    "full_batch",
    "linear_teacher",
    "minibatch",
    "online",
    "regression",
    "teacher_student",
]
