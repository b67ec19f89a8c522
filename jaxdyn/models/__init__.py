"""Models: pairs of pure functions `(init, apply)`."""

from jaxdyn.models.adapters import from_linen, from_nnx
from jaxdyn.models.linear import aligned, deep_linear, orthogonal, product
from jaxdyn.models.mlp import mlp

__all__ = ["aligned", "deep_linear", "from_linen", "from_nnx", "mlp", "orthogonal", "product"]
