"""One layer of attention that learns in context: from pairs (x_n, y_n) in a prompt it predicts the
label y of a query."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxdyn.models.two_layer import unit_init
from jaxdyn.types import Model, Params

__all__ = ["attention_heads", "attention_product", "in_context_attention"]


def in_context_attention(
    inputs: int,
    heads: int,
    *,
    rank: int | None = None,
    softmax: bool = False,
    scale: Float[ArrayLike, "..."] = 1.0,
) -> Model:
    """Return attention that is reduced to regression in context (Zhang, Singh, Latham, Saxe, 2025).

    Its prediction is

        y_hat = sum_h v_h sum_n a_n^h y_n,

    where the weight a_n^h of pair n in head h is x_n^T U_h query / N or, with `softmax`, the
    softmax over n of x_n^T U_h query.  All other weights of a layer of attention start at 0 and are
    left out.  Parameters are {"v": (heads,), "key": (heads, rank, inputs), "query": (heads, rank,
    inputs)} with U_h = K_h^T Q_h, or, without a rank, {"v": (heads,), "key_query": (heads, inputs,
    inputs)}.  `apply` maps prompts (x (n, N, inputs), y (n, N), query (n, inputs)) to (n,).  |v_h|
    and the norms of the matrices start at about `scale`, which is one number for all heads or one
    for each.

    >>> params = in_context_attention(4, 3, rank=2, scale=0.1).init(jax.random.key(0))
    >>> {name: weights.shape for name, weights in params.items()}
    {'v': (3,), 'key': (3, 2, 4), 'query': (3, 2, 4)}

    Raises ValueError for a scale of 0, from where the gradient vanishes.
    """
    if rank is None:
        matrices = {"key_query": (heads, inputs, inputs)}
    else:
        matrices = {"key": (heads, rank, inputs), "query": (heads, rank, inputs)}
    shapes = {"v": (heads,)} | matrices

    def apply(params, prompts):
        x, y, query = prompts
        scores = jnp.einsum("bna,hac,bc->bhn", x, _scores(params), query)
        weights = jax.nn.softmax(scores, axis=-1) if softmax else scores / x.shape[1]
        return jnp.einsum("h,bhn,bn->b", params["v"], weights, y)

    return Model(unit_init(shapes, scale), apply)


def attention_heads(params: Params) -> Float[Array, "heads inputs inputs"]:
    """Return the map `v_h U_h` of each head of `in_context_attention`, whose size says how active
    the head is.

    |v_h| alone does not say how active a head is, since U_h may be small.
    """
    return params["v"][:, None, None] * _scores(params)


def attention_product(params: Params) -> Float[Array, "1 inputs_squared"]:
    """Return linear `in_context_attention` as a matrix (1, inputs^2) on
    `tasks.in_context_features`, `sum_h v_h U_h` in one row.

    Without softmax the attention is a linear network of these features: with this matrix
    `losses.covariance_loss` trains on second moments, those of `tasks.in_context_moments` or of
    samples.
    """
    return jnp.sum(attention_heads(params), 0).reshape(1, -1)


def _scores(params):
    if "key_query" in params:
        return params["key_query"]
    return jnp.einsum("hra,hrb->hab", params["key"], params["query"])
