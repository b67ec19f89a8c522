"""Derivatives of the outputs at one sample in factors: where a parameter enters through one dense
layer, convolution or embedding, its Jacobian is a sum of outer products of what enters the layer
and the derivative of the output by what leaves it.

The traced equations of the function are searched for such layers.  Zeros ("taps") are added at the
outputs h of these layers, and one backward pass gives the derivatives by all taps and by all other
parameters.
"""

import functools
import itertools
import math
from collections import defaultdict
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core
from jax.extend.core import primitives as prim

__all__ = ["Factors", "Plan", "Tap", "plan"]

REINDEXED = {
    prim.reshape_p,
    prim.transpose_p,
    prim.squeeze_p,
    prim.broadcast_in_dim_p,
    prim.convert_element_type_p,
    prim.copy_p,
    prim.rev_p,
    prim.neg_p,
}


class Tap(NamedTuple):
    """A layer `h = weight (*) a + bias`, applied at `sites` S places of a sample: a is (S, C), and
    h is (S, F).

    Attributes:
        weight: the number of the weight among the leaves of the parameters.
        bias: the number of the bias among the leaves, or None.
        entering: the variable that enters the layer.
        fold: the function that turns the value of `entering` into a.
        indices: whether a are the row numbers of an embedding.
        scales: the scalar factors of the weight.
        bias_scales: the scalar factors of the bias.
        leaving: the variable that the tap is added to.
        unfold: the function that turns a derivative by `leaving` into (S, F).
        sites: the number S of places.
        fan_in: the number C of inputs.
        fan_out: the number F of outputs.
    """

    weight: int
    bias: int | None
    entering: Any
    fold: Any
    indices: bool
    scales: list
    bias_scales: list
    leaving: Any
    unfold: Any
    sites: int
    fan_in: int
    fan_out: int


class Factors(NamedTuple):
    """The Jacobian of one layer, the sum over places s of the outer products of entering_s and
    leaving_s.

    Attributes:
        entering: what enters the layer, (S, C), or row numbers (S,).
        leaving: the derivative of the outputs by what leaves the layer, (k, S, F).
    """

    entering: Any
    leaving: Any


class Plan(NamedTuple):
    """The layers that were found in a network, and how to compute its derivatives.

    Attributes:
        derive: `derive(leaves, x)` returns the Factors of the layers, and the Jacobians (n, k, P)
            by the other leaves.
        layers: the layers found.
        rest: the sizes of the other leaves.
        flops: the floating-point operations of one evaluation.
    """

    derive: Any
    layers: list[Tap]
    rest: list[int]
    flops: int


def plan(f, params, x, *, taps: bool) -> Plan:
    """Return the plan of the derivatives of `f(params, x) -> (k,)` by the floating leaves of
    `params`, at single samples like `x`."""
    leaves, treedef = jax.tree.flatten(params)
    inputs, in_tree = jax.tree.flatten(x)

    def flat(*atoms):
        return f(treedef.unflatten(atoms[: len(leaves)]), in_tree.unflatten(atoms[len(leaves) :]))

    closed = jax.make_jaxpr(flat)(*leaves, *inputs)
    eqns, consts, outvars = _inlined(closed)
    trained = [i for i, leaf in enumerate(leaves) if _real(jnp.result_type(leaf))]
    layers = _layers(eqns, closed.jaxpr.invars, outvars, trained) if taps else []
    points = list(dict.fromkeys(layer.leaving for layer in layers))
    zeros = [core.Var(point.aval) for point in points]
    aux = []
    for layer in layers:
        scales = [scale for _, scale in layer.scales + layer.bias_scales]
        aux.append([layer.entering, *scales])
    tapped = _tapped(eqns, dict(zip(points, zeros, strict=True)))
    invars = [*consts, *closed.jaxpr.invars, *zeros]
    seen_too = [*outvars, *itertools.chain(*aux)]
    jaxpr = closed.jaxpr.replace(constvars=[], invars=invars, outvars=seen_too, eqns=tapped)
    evaluate = core.jaxpr_as_fun(core.ClosedJaxpr(jaxpr, []))
    owned = {i for layer in layers for i in (layer.weight, layer.bias)}
    rest = [i for i in trained if i not in owned]

    def outputs(taps, others, leaves, x):
        leaves = list(leaves)
        for i, leaf in zip(rest, others, strict=True):
            leaves[i] = leaf
        out, *seen = evaluate(*consts.values(), *leaves, *x, *taps)
        return out, seen

    def derive(params, x):
        leaves = jax.tree.leaves(params)
        x = jax.tree.leaves(x)
        start = [jnp.zeros(v.aval.shape, v.aval.dtype) for v in zeros]

        def one(x):
            jacobian = jax.jacrev(outputs, argnums=(0, 1), has_aux=True)
            (by_tap, by_leaf), seen = jacobian(start, [leaves[i] for i in rest], leaves, x)
            by_point = dict(zip(points, by_tap, strict=True))
            seen = iter(seen)
            factors = []
            for layer, atoms in zip(layers, aux, strict=True):
                own = list(itertools.islice(seen, len(atoms)))
                dtype = jnp.result_type(leaves[layer.weight])
                factors.append(_factors(layer, own, by_point[layer.leaving], dtype))
            return factors, [j.reshape(len(j), -1) for j in by_leaf]

        return jax.vmap(one)(x)

    sizes = [math.prod(jnp.shape(leaves[i])) for i in rest]
    return Plan(derive, layers, sizes, _flops(closed.jaxpr))


def _factors(layer, seen, by_tap, dtype):
    entering, *scales = seen
    values = [scale.reshape(()).astype(dtype) for scale in scales]

    def product(factors, values):
        total = jnp.ones((), dtype)
        for (divides, _), value in zip(factors, values, strict=True):
            total = total / value if divides else total * value
        return total

    own = len(layer.scales)
    scale = product(layer.scales, values[:own])
    leaving = jax.vmap(layer.unfold)(by_tap).astype(dtype)
    if layer.indices:
        return Factors(layer.fold(entering), scale * leaving)
    entering = scale * layer.fold(entering).astype(dtype)
    if layer.bias is not None:
        bias = product(layer.bias_scales, values[own:])
        column = jnp.full((layer.sites, 1), bias)
        entering = jnp.concatenate([entering, column], axis=1)
    return Factors(entering, leaving)


def _inlined(closed):
    """Return the equations, with the bodies of jitted functions in the place of their calls, the
    constants, and the outputs."""
    eqns = []
    consts = {}

    def visit(jaxpr, values, inputs):
        env = dict(zip(jaxpr.invars, inputs, strict=True))
        for var, value in zip(jaxpr.constvars, values, strict=True):
            env[var] = core.Var(var.aval)
            consts[env[var]] = value

        def read(atom):
            return atom if isinstance(atom, core.Literal) else env[atom]

        for eqn in jaxpr.eqns:
            arguments = [read(a) for a in eqn.invars]
            if eqn.primitive is prim.jit_p:
                body = eqn.params["jaxpr"]
                results = visit(body.jaxpr, body.consts, arguments)
            else:
                results = [core.Var(v.aval) for v in eqn.outvars]
                eqns.append(eqn.replace(invars=arguments, outvars=results))
            env.update(zip(eqn.outvars, results, strict=True))
        return [read(a) for a in jaxpr.outvars]

    return eqns, consts, visit(closed.jaxpr, closed.consts, closed.jaxpr.invars)


def _tapped(eqns, zeros):
    """Return the equations with zeros added to those variables that have a tap."""
    result = []
    for eqn in eqns:
        before = {v: core.Var(v.aval) for v in eqn.outvars if v in zeros}
        result.append(eqn.replace(outvars=[before.get(v, v) for v in eqn.outvars]))
        for v, plain in before.items():
            result.append(core.new_jaxpr_eqn([plain, zeros[v]], [v], prim.add_p, {}, eqn.effects))
    return result


def _layers(eqns, invars, outvars, trained):
    uses = defaultdict(list)
    made = {}
    for eqn in eqns:
        made.update(dict.fromkeys(eqn.outvars, eqn))
        for position, atom in enumerate(eqn.invars):
            if not isinstance(atom, core.Literal):
                uses[atom].append((eqn, position))
    for atom in outvars:
        if not isinstance(atom, core.Literal):
            uses[atom].append((None, 0))
    along = functools.partial(_along, uses, made)
    biases = dict(filter(None, (_bias(i, invars[i], along) for i in trained)))
    layers = [_layer(i, invars[i], along, biases) for i in trained]
    return [layer for layer in layers if layer is not None]


def _along(uses, made, var, reindex=True):
    """Follow a variable that is used once through changes of shape and scalar factors, to the
    equation that uses it otherwise.

    Returns (equation, position, variable, factors); the equation is None where the variable is used
    several times or is an output.
    """
    scales = []
    while len(uses[var]) == 1 and uses[var][0][0] is not None:
        eqn, position = uses[var][0]
        out = eqn.outvars[0]
        same = _real(out.aval.dtype) and out.aval.size == var.aval.size
        if eqn.primitive in REINDEXED and same and (reindex or out.aval.shape == var.aval.shape):
            var = out
        elif same and _scales(eqn, position):
            other = eqn.invars[1 - position]
            if not isinstance(other, core.Literal) and other in made:
                source = made[other]
                other = source.invars[0] if source.primitive is prim.broadcast_in_dim_p else other
            if other.aval.size != 1 or out.aval.shape != var.aval.shape:
                return eqn, position, var, scales
            scales.append((eqn.primitive is prim.div_p, other))
            var = out
        else:
            return eqn, position, var, scales
    return None, 0, var, scales


def _scales(eqn, position):
    """Return whether an equation multiplies its operand at this position by another operand, or
    divides it."""
    divides = eqn.primitive is prim.div_p and position == 0
    return eqn.primitive is prim.mul_p or divides


class _Bias(NamedTuple):
    """A leaf that is only added: its number, its size, the axes of the sum that it varies along,
    and its scalar factors."""

    leaf: int
    size: int
    axes: list[int]
    scales: list


def _bias(leaf, var, along):
    """Return the sum (equation, position) that a leaf enters, and the leaf as a bias, or None if
    the leaf enters no sum."""
    size = var.aval.size
    eqn, position, var, scales = along(var)
    axes = [i for i, n in enumerate(var.aval.shape) if n > 1]
    if eqn is not None and eqn.primitive is prim.broadcast_in_dim_p:
        axes = [eqn.params["broadcast_dimensions"][i] for i in axes]
        eqn, position, _, more = along(eqn.outvars[0], reindex=False)
        scales = scales + more
    if eqn is None or eqn.primitive is not prim.add_p:
        return None
    return (id(eqn), position), _Bias(leaf, size, axes, scales)


def _layer(leaf, var, along, biases):
    size = var.aval.size
    eqn, position, var, scales = along(var)
    if eqn is None or eqn.primitive not in RECOGNISED:
        return None
    recognised = RECOGNISED[eqn.primitive](eqn, position, var)
    if recognised is None:
        return None
    fold, axes, fan_in, entering = recognised
    leaving = eqn.outvars[0]
    fan_out = size // fan_in
    sites = leaving.aval.size // fan_out
    indices = eqn.primitive is prim.gather_p
    unfold = functools.partial(_fold, last=axes)
    bias = None
    bias_scales = []
    end, position, _, more = (None, 0, None, []) if indices else along(leaving, reindex=sites == 1)
    added = None if end is None else biases.get((id(end), 1 - position))
    same_size = end is not None and end.outvars[0].aval.size == leaving.aval.size
    if added is not None and added.size == fan_out and end is not None and same_size:
        wide = [i for i in axes if leaving.aval.shape[i] > 1]
        if sites == 1 or sorted(added.axes) == sorted(wide):
            # A bias belongs to one layer only: both factors of a product of two leaves end in the
            # same sum.
            del biases[id(end), 1 - position]
            bias = added.leaf
            bias_scales = added.scales
            scales = scales + more
            leaving = end.outvars[0]
            unfold = unfold if sites > 1 else lambda h: h.reshape(1, -1)
    return Tap(
        leaf,
        bias,
        entering,
        fold,
        indices,
        scales,
        bias_scales,
        leaving,
        unfold,
        sites,
        fan_in,
        fan_out,
    )


def _fold(array, last):
    """Return the array as a matrix whose columns are the axes `last`, and whose rows are all other
    axes."""
    others = [i for i in range(array.ndim) if i not in last]
    columns = math.prod(array.shape[i] for i in last)
    return array.transpose(*others, *last).reshape(-1, columns)


def _dense(eqn, position, var):
    contracted, batch = eqn.params["dimension_numbers"]
    if math.prod(var.aval.shape[i] for i in batch[position]) != 1:
        return None
    free = var.aval.ndim - len(contracted[position]) - len(batch[position])
    rank = eqn.outvars[0].aval.ndim
    first = rank - free if position == 1 else len(batch[0])
    axes = tuple(range(first, first + free))
    fan_in = math.prod(var.aval.shape[i] for i in contracted[position])
    fold = functools.partial(_fold, last=contracted[1 - position])
    return fold, axes, fan_in, eqn.invars[1 - position]


def _convolution(eqn, position, var):
    p = eqn.params
    if position != 1 or p["feature_group_count"] != 1 or p["batch_group_count"] != 1:
        return None
    left, right, out = p["dimension_numbers"]
    kernel = [var.aval.shape[i] for i in right[2:]]
    sizes = [eqn.outvars[0].aval.shape[i] for i in out[2:]]

    def windows(a):
        a = a.transpose(left[0], *left[2:], left[1])
        padding = zip(p["padding"], p["lhs_dilation"], strict=True)
        edges = [(low, high, d - 1) for (low, high), d in padding]
        whole = (0, 0, 0)
        a = lax.pad(a, jnp.zeros((), a.dtype), [whole, *edges, whole])
        steps = p["window_strides"]
        channels = a.shape[-1]

        def shifted(offsets):
            first = [o * d for o, d in zip(offsets, p["rhs_dilation"], strict=True)]
            axes = zip(first, sizes, steps, strict=True)
            last = [start + (n - 1) * step + 1 for start, n, step in axes]
            return lax.slice(a, [0, *first, 0], [len(a), *last, channels], [1, *steps, 1])

        shifts = [shifted(offsets) for offsets in itertools.product(*map(range, kernel))]
        return jnp.concatenate(shifts, axis=-1).reshape(-1, len(shifts) * a.shape[-1])

    # `windows` has rows in the order (batch, space); the output's places must have the same order.
    axes = (out[1],)
    if sorted((out[0], *out[2:])) != [out[0], *out[2:]]:
        return None
    return windows, axes, math.prod(kernel) * var.aval.shape[right[1]], eqn.invars[0]


def _embedding(eqn, position, var):
    p = eqn.params
    rows = var.aval.shape[0] if var.aval.ndim else 1
    mode = lax.GatherScatterMode
    numbers = p["dimension_numbers"]
    whole = p["slice_sizes"] == (1, *var.aval.shape[1:])
    simple = (numbers.collapsed_slice_dims, numbers.start_index_map) == ((0,), (0,))
    if position != 0 or not whole or not simple or numbers.operand_batching_dims:
        return None

    def indices(found):
        found = found.reshape(-1)
        return jnp.clip(found, 0, rows - 1) if p["mode"] == mode.CLIP else found

    return indices, tuple(numbers.offset_dims), rows, eqn.invars[1]


RECOGNISED = {
    prim.dot_general_p: _dense,
    prim.conv_general_dilated_p: _convolution,
    prim.gather_p: _embedding,
}


def _flops(jaxpr):
    """Return the operations of matrix products and convolutions, also inside calls and scans."""
    total = 0
    for eqn in jaxpr.eqns:
        out = (
            eqn.outvars[0].aval.size if eqn.outvars and hasattr(eqn.outvars[0].aval, "size") else 0
        )
        if eqn.primitive is prim.dot_general_p:
            contracted = eqn.params["dimension_numbers"][0][0]
            total += 2 * out * math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
        elif eqn.primitive is prim.conv_general_dilated_p:
            features = eqn.params["dimension_numbers"].rhs_spec[0]
            total += 2 * out * eqn.invars[1].aval.size // eqn.invars[1].aval.shape[features]
        else:
            total += eqn.params.get("length", 1) * sum(
                map(_flops, core.jaxprs_in_params(eqn.params))
            )
    return total


def _real(dtype):
    return jnp.issubdtype(dtype, jnp.floating)
