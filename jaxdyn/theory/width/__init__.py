"""Wide networks: kernels on patches, and ensembles that vote on permutations."""

from jaxdyn.theory.width import patches, permutations

__all__ = [
    "patches",
    "permutations",
]
