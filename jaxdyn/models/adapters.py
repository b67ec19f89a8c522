"""Networks of other libraries and of `jaxdyn.kernels` as models.

The parameters of flax modules are {"params": weights, "state": all else that moves}, both plain
dicts; "state" (such as the running statistics of BatchNorm) is empty where a module has none.
`apply(params, x)` evaluates the module and returns its outputs.  `apply(params, x, train=True,
key=key)` runs the module as in training, with `key` for its dropout, and returns `(outputs, state)`
with the new block "state", which `rules.with_state` turns into updates.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxdyn._checks import kind
from jaxdyn.types import Key, Model

__all__ = ["from_layers", "from_linen", "from_nnx"]


def from_linen(
    module: Any,
    example_input: PyTree[Array],
    *,
    training: dict[str, Any] = {},
    evaluating: dict[str, Any] = {},
) -> Model:
    """Return a `flax.linen` module as a model, initialised on an input of the shape of
    `example_input`.

    `training` and `evaluating` are the arguments by which the module's `__call__` tells its two
    modes apart, such as {"train": True} and {"train": False}.

    >>> from flax import linen
    >>> model = from_linen(linen.Dense(3), jnp.ones((1, 2)))
    >>> params = model.init(jax.random.key(0))
    >>> model.apply(params, jnp.ones((4, 2))).shape
    (4, 3)
    """

    def init(key):
        variables = dict(module.init(key, example_input, **evaluating))
        return {"params": variables.pop("params", {}), "state": variables}

    def apply(params: Any, x: Any, *, train: bool = False, key: Key | None = None):
        variables = {"params": params["params"], **params["state"]}
        if not train:
            return module.apply(variables, x, **evaluating)
        rngs = {} if key is None else {"params": key, "dropout": key}
        return module.apply(variables, x, rngs=rngs, mutable=list(params["state"]), **training)

    return Model(init, apply)


def from_nnx(make_module: Callable[[Any], Any]) -> Model:
    """Return the `flax.nnx` module that `make_module(rngs)` makes as a model.

    `apply` calls the module on `x` after its `train()` or `eval()`.  Raises ValueError where a
    module with random numbers, such as dropout, is run as in training without a key.

    >>> from flax import nnx
    >>> model = from_nnx(lambda rngs: nnx.Linear(2, 3, rngs=rngs))
    >>> params = model.init(jax.random.key(0))
    >>> model.apply(params, jnp.ones((4, 2))).shape
    (4, 3)
    """
    from flax import nnx

    def split(module):
        return nnx.split(module, nnx.Param, nnx.RngState, ...)

    graph, *blocks = split(nnx.eval_shape(lambda: make_module(nnx.Rngs(0))))

    def init(key):
        _, weights, _, state = split(make_module(nnx.Rngs(key)))
        return {"params": nnx.to_pure_dict(weights), "state": nnx.to_pure_dict(state)}

    def filled(block, values):
        # A copy: nnx writes into the block it is given, and tracers must not stay behind.
        block = jax.tree.map(lambda leaf: leaf, block)
        nnx.replace_by_pure_dict(block, values)
        return block

    def apply(params: Any, x: Any, *, train: bool = False, key: Key | None = None):
        weights, rng, state = blocks
        if train and key is None and jax.tree.leaves(rng):
            raise ValueError(
                "key: this module draws random numbers in training; pass apply(..., train=True, key=key)"
            )
        rng = _reseeded(rng, jax.random.key(0) if key is None else key)
        module = nnx.merge(
            graph, filled(weights, params["params"]), rng, filled(state, params["state"])
        )
        (module.train if train else module.eval)()
        outputs = module(x)
        if not train:
            return outputs
        _, _, _, changed = split(module)
        return outputs, nnx.to_pure_dict(changed)

    return Model(init, apply)


def from_layers(layer: Any, in_shape: Sequence[int]) -> Model:
    """Return a `kernels.Layer` as a model, for examples of the shape `in_shape`.

    A network that is written once as layers can then be trained as a model, and the same layers
    give the kernel of infinite width (`kernels.gram`), the empirical kernel (`kernels.empirical`)
    and the theory of finite width (`kernels.finite_width`).

    Raises TypeError for a `layer` without `init` and `apply`, and for a shape that is a number.

    >>> from jaxdyn import kernels
    >>> layer = kernels.serial(kernels.dense(16), kernels.relu(), kernels.dense(3))
    >>> model = from_layers(layer, (2,))
    >>> params = model.init(jax.random.key(0))
    >>> model.apply(params, jnp.ones((4, 2))).shape
    (4, 3)
    """
    if not (hasattr(layer, "init") and hasattr(layer, "apply")):
        raise TypeError(f"layer: is {kind(layer)}; pass a layer, such as kernels.dense(16)")
    if not isinstance(in_shape, Sequence):
        raise TypeError(
            f"in_shape: is {kind(in_shape)}; pass the shape of one example, such as (5,)"
        )

    def init(key):
        _, params = layer.init(key, tuple(in_shape))
        return params

    return Model(init, layer.apply)


def _reseeded(rng, key):
    """Fill the abstract state of nnx's random streams: each stream gets a key of its own and counts
    from 0."""
    leaves, treedef = jax.tree.flatten(rng)

    def is_key(leaf):
        return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)

    def fill(i, leaf):
        return jax.random.fold_in(key, i) if is_key(leaf) else jnp.zeros(leaf.shape, leaf.dtype)

    return jax.tree.unflatten(treedef, [fill(i, leaf) for i, leaf in enumerate(leaves)])
