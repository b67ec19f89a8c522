"""Models: pairs of pure functions `(init, apply)`."""

from jaxdyn.models.adapters import from_linen, from_nnx
from jaxdyn.models.gated import gated_inputs, gated_linear, gated_product
from jaxdyn.models.linear import aligned, deep_linear, lambda_balanced, orthogonal, product, product_to_depth
from jaxdyn.models.mlp import mlp
from jaxdyn.models.propagation import product_exponents, propagate

__all__ = [
    "aligned",
    "deep_linear",
    "from_linen",
    "from_nnx",
    "gated_inputs",
    "gated_linear",
    "gated_product",
    "lambda_balanced",
    "mlp",
    "orthogonal",
    "product",
    "product_exponents",
    "product_to_depth",
    "propagate",
]
