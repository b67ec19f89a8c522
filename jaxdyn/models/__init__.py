"""Models: pairs of pure functions `(init, apply)`, and weights to start them from."""

from jaxdyn.models.adapters import from_layers, from_linen, from_nnx
from jaxdyn.models.attention import attention_heads, attention_product, in_context_attention
from jaxdyn.models.gated import gated_inputs, gated_linear, gated_product
from jaxdyn.models.linear import (
    aligned,
    deep_linear,
    diagonal_linear,
    lambda_balanced,
    orthogonal,
    product,
    product_to_depth,
)
from jaxdyn.models.mlp import mlp
from jaxdyn.models.propagation import product_exponents, propagate
from jaxdyn.models.two_layer import two_layer, two_layer_product

__all__ = [
    "aligned",
    "attention_heads",
    "attention_product",
    "deep_linear",
    "diagonal_linear",
    "from_layers",
    "from_linen",
    "from_nnx",
    "gated_inputs",
    "gated_linear",
    "gated_product",
    "in_context_attention",
    "lambda_balanced",
    "mlp",
    "orthogonal",
    "product",
    "product_exponents",
    "product_to_depth",
    "propagate",
    "two_layer",
    "two_layer_product",
]
