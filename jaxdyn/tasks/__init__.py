"""Tasks: data, its moments, and streams of batches."""

from jaxdyn.tasks.mixtures import Mixture, two_clusters
from jaxdyn.tasks.spectra import Covariances, binary_tree, covariances, frames, from_svd, linear_teacher
from jaxdyn.tasks.streams import epochs, full_batch, minibatch, online

__all__ = [
    "Covariances",
    "Mixture",
    "binary_tree",
    "covariances",
    "epochs",
    "frames",
    "from_svd",
    "full_batch",
    "linear_teacher",
    "minibatch",
    "online",
    "two_clusters",
]
