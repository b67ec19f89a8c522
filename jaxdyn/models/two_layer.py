"""Two-layer networks whose units may start at any size, and see whole inputs or share weights
between patches of the inputs."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxdyn._numbers import normal
from jaxdyn.types import Key, Model, Params

__all__ = ["two_layer", "two_layer_product"]


def two_layer(
    inputs: int,
    width: int,
    *,
    activation: Callable[[Array], Array],
    patches: int = 1,
    pooled: bool = True,
    balanced: bool = False,
    scale: Float[ArrayLike, "..."] = 1.0,
) -> Model:
    """Return the network `y = sum_i sum_p v_ip activation(u_i . x_p)` of the consecutive `patches`
    x_p of the input.

    Parameters are {"u": (width, inputs / patches), "v": (width,)}, one output weight for each unit,
    so that its activities in all patches are summed; if not `pooled`, "v" is (width, patches).
    `apply` maps rows `x` (..., inputs) to (...).  With one patch the first layer is fully
    connected, and with several it is a convolution whose stride is the length of its filters.
    |u_i| and |v_i| start at about `scale`, which is one number for all units or one for each:
    weights are from N(0, scale^2 / m) with m the number of the unit's weights in that layer.  With
    `balanced`, v_i is exactly +|u_i| or -|u_i|, a balance that gradient flow keeps for rectifiers.

    >>> filters = two_layer(6, 4, activation=jax.nn.relu, patches=3, scale=0.1).init(jax.random.key(0))
    >>> {name: weights.shape for name, weights in filters.items()}
    {'u': (4, 2), 'v': (4,)}

    Raises ValueError for inputs that the patches do not divide evenly, for balanced units with
    several outgoing weights, and for a scale of 0, from where the gradient vanishes.
    """
    if inputs % patches:
        raise ValueError(f"patches: {patches} do not divide {inputs} inputs evenly; pass a divisor")
    if balanced and not pooled:
        raise ValueError("balanced: needs one outgoing weight for each unit; pass pooled=True")
    outgoing = (width,) if pooled else (width, patches)
    draw = unit_init({"u": (width, inputs // patches), "v": outgoing}, scale)

    def init(key):
        params = draw(key)
        if not balanced:
            return params
        norms = jnp.linalg.norm(params["u"], axis=1)
        return params | {"v": jnp.sign(params["v"]) * norms}

    def apply(params, x):
        by_patch = x.reshape(*x.shape[:-1], patches, -1)
        hidden = activation(by_patch @ params["u"].T)
        v = params["v"].reshape(width, -1)
        return jnp.einsum("...pi,ip->...", hidden, jnp.broadcast_to(v, (width, patches)))

    return Model(init, apply)


def two_layer_product(params: Params) -> Float[Array, "1 inputs"]:
    """Return the end-to-end matrix (1, inputs) of a linear `two_layer` network that is fully
    connected or not pooled.

    With this matrix `losses.covariance_loss` trains on second moments, exact ones or those of
    samples.
    """
    v = params["v"]
    by_patch = v.reshape(len(v), -1)
    products = jnp.einsum("ip,ik->pk", by_patch, params["u"])
    return products.reshape(1, -1)


def unit_init(
    shapes: dict[str, tuple[int, ...]], scale: Float[ArrayLike, "..."]
) -> Callable[[Key], Params]:
    """Return the init of arrays (units, ...) whose units have norms of about `scale`, a number or
    one for each unit.

    Raises ValueError for a concrete scale of 0.
    """
    if not isinstance(scale, jax.core.Tracer) and not np.any(scale):
        raise ValueError(
            f"scale: {scale} starts at an exact saddle, where the gradient is 0; pass a small scale, "
            "such as 1e-3"
        )

    def scaled(drawn, shape):
        by_unit = jnp.reshape(scale, (-1,) + (1,) * (len(shape) - 1))
        return drawn.reshape(shape) * (by_unit / np.prod(shape[1:]) ** 0.5)

    def init(key):
        ends = np.cumsum([np.prod(shape) for shape in shapes.values()])
        # One draw for all arrays compiles faster than one for each.
        drawn = normal(key, (int(ends[-1]),))
        parts = zip(jnp.split(drawn, ends[:-1]), shapes.items(), strict=True)
        return {name: scaled(part, shape) for part, (name, shape) in parts}

    return init
