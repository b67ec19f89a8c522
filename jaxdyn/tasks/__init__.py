"""Tasks: data, its moments, and streams of batches."""

from jaxdyn.tasks.spectra import Covariances, binary_tree, covariances, frames, from_svd, linear_teacher

__all__ = ["Covariances", "binary_tree", "covariances", "frames", "from_svd", "linear_teacher"]
