"""Models: pairs of pure functions `(init, apply)`."""

from jaxdyn.models.linear import aligned, deep_linear, orthogonal, product

__all__ = ["aligned", "deep_linear", "orthogonal", "product"]
