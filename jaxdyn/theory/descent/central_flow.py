"""Central flows: the time-averaged course of gradient methods at the edge of stability.

A gradient method x' = x - g / P, P = 1/rates(nu), loses stability where the largest eigenvalue of H
u = e P u passes 2 (for gradient descent: the sharpness 2/learning rate).  There it oscillates about
a smooth course x(t), t in steps, with a covariance S in the unstable directions that holds these
eigenvalues at the edge (Cohen, Damian, Talwalkar, Kolter, Lee, 2024):

    dx/dt = -rates(nu) [grad L + grad <H, S>/2],  dnu/dt = drift(nu, grad L^2 + diag H S H),

    0 <= S,  2 P - H >= 0,  <S, 2 P - H> = 0.

Each step solves the semidefinite complementarity problem for the 2 P - H that it will reach, so
that eigenvalues at the edge stay there without drift.  Below the edge S = 0: the stable flow, of
which gradient flow is one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from jaxdyn._numbers import normal
from jaxdyn.theory.descent import complementarity
from jaxdyn.types import Batch, Key, Observe, Params, State

__all__ = [
    "CentralFlow",
    "Memory",
    "Method",
    "averages",
    "central_flow",
    "gradient_descent",
    "rmsprop",
    "stable_velocity",
    "time_average",
]

EDGE = 2.0
FRESH = 20  # refinements of random vectors at the start


class Method(NamedTuple):
    """A gradient method with a memory nu of its own, of flat parameters.

    Attributes:
        init: `init(x)` returns nu at the start.
        rates: `rates(nu)` returns its rate, a number or one for each parameter.
        drift: `drift(nu, squares)` returns the mean velocity of nu, given the mean squared
            gradient; it is affine in `squares` (n,).
    """

    init: Callable[[Array], Array]
    rates: Callable[[Array], Array]
    drift: Callable[[Array, Array], Array]


def gradient_descent(learning_rate: Float[ArrayLike, ""]) -> Method:
    """Return gradient descent, x' = x - learning_rate g."""

    def rate(nu):
        return jnp.asarray(learning_rate, nu.dtype)

    return Method(lambda x: jnp.zeros((), x.dtype), rate, lambda nu, squares: jnp.zeros_like(nu))


def rmsprop(
    learning_rate: Float[ArrayLike, ""],
    decay: Float[ArrayLike, ""],
    initial: Float[ArrayLike, "..."],
    *,
    shared: Bool[ArrayLike, ""] = False,
) -> Method:
    """Return RMSProp, nu' = decay nu + (1 - decay) g^2 and x' = x - learning_rate g / sqrt(nu'), by
    coordinate.

    Where `shared`, |g|^2 takes the place of each g^2: scalar RMSProp (`optimizers.scalar_rmsprop`).
    `initial` > 0 is the first nu.  As nu changes before it is used, it moves by (1 - decay)/decay a
    step (Cohen et al., 2024).  With a decay of 1 this is gradient descent at learning_rate /
    sqrt(initial).
    """

    def mean(squares):
        return jnp.where(shared, jnp.sum(squares), squares)

    def rates(nu):
        return jnp.asarray(learning_rate, nu.dtype) / jnp.sqrt(nu)

    def drift(nu, squares):
        return jnp.asarray((1 - decay) / decay, nu.dtype) * (mean(squares) - nu)

    return Method(lambda x: jnp.broadcast_to(jnp.asarray(initial, x.dtype), x.shape), rates, drift)


class Memory(NamedTuple):
    """What the flow carries beside x.

    One more eigenpair is followed than the covariance may use.

    Attributes:
        nu: the memory of the method.
        vectors: rows u with u^T P u = 1: the top eigenvectors of H u = e P u at x.
        eigenvalues: their e, falling.
        roots: a root of the covariance S = roots^T roots.
        enough: False from where the eigenvalue beyond those that the covariance may use was at the
            edge, too.
    """

    nu: Array
    vectors: Float[Array, "top+1 n"]
    eigenvalues: Float[Array, "top+1"]
    roots: Float[Array, "top n"]
    enough: Bool[Array, ""]


class CentralFlow(NamedTuple):
    """A map for `iterate`, `step(key, state)`, one unit of time long, and `init(params)`, the state
    to start from."""

    init: Callable[[Params], State]
    step: Callable[[Key | None, State], State]


def central_flow(
    loss: Callable[[Params, Batch], Float[Array, ""]],
    batch: Batch,
    method: Method,
    *,
    top: int = 3,
    substeps: int = 4,
) -> CentralFlow:
    """Return the central flow of a gradient method on `loss(params, batch)`; time counts the
    method's steps.

    The covariance lies in the space of `top` eigenvectors, as many as there may be at the edge
    (else `Memory.enough` becomes False), which are followed from step to step by Rayleigh and Ritz.
    The error is of first order in 1/substeps, that of eigenvalues at the edge of second order.  A
    substep costs 3 (top + 2) Hessian-vector products and top (top + 1)/2 third derivatives.  Where
    no covariance can hold the eigenvalues at the edge, as on a quadratic loss, parameters become
    NaN.

    It is an average over oscillations: descent crosses the edge in bursts, and a start far beyond
    it may blow up, of which the flow knows nothing.

    >>> from jaxdyn import iterate
    >>> valley = lambda p, _: 0.5 * (p["y"] * (1 + p["x"])) ** 2 - p["x"]
    >>> flow = central_flow(valley, (), gradient_descent(0.5), top=1)
    >>> observe = lambda state: {"x": state.params["x"]}
    >>> start = flow.init({"x": jnp.array(0.0), "y": jnp.array(0.0)})
    >>> run = iterate(flow.step, start, times=[0, 1, 20], observe=observe)
    >>> [f"{x:.3f}" for x in run.observed["x"]]
    ['0.000', '0.500', '1.000']

    Raises ValueError for `top` or `substeps` that are too small.
    """
    if top < 1 or substeps < 2:
        raise ValueError(f"top, substeps: {top} and {substeps}; pass at least 1 and 2")
    dt = 1 / substeps

    def init(params):
        x, unravel = ravel_pytree(params)
        nu = method.init(x)
        rates = jnp.broadcast_to(method.rates(nu), x.shape)
        gradient = _gradient(loss, batch, unravel)
        vectors = _normal(1, (min(top + 1, x.size), x.size), x.dtype)

        def follow(_, pair):
            _, vectors = pair
            return _followed(gradient, x, rates, vectors)

        unknown = jnp.zeros(len(vectors), x.dtype)
        eigenvalues, vectors = lax.fori_loop(0, FRESH, follow, (unknown, vectors))
        roots = jnp.zeros_like(vectors[:top])
        return State(0, params, Memory(nu, vectors, eigenvalues, roots, jnp.asarray(True)))

    def step(key, state):
        x, unravel = ravel_pytree(state.params)
        gradient = _gradient(loss, batch, unravel)

        def substep(_, carry):
            return _substep(gradient, method, dt, *carry)

        x, memory = lax.fori_loop(0, substeps, substep, (x, state.memory))
        return state._replace(params=unravel(x), memory=memory)

    return CentralFlow(init, step)


def stable_velocity(
    loss: Callable[[Params, Batch], Float[Array, ""]], batch: Batch, method: Method
) -> Callable[[Any, tuple[Params, Array]], tuple[Params, Array]]:
    """Return the velocity of the stable flow, for `integrate`: the course the method would take
    without oscillating.

    It moves the pair (params, nu), from nu = method.init(flat parameters); time counts the method's
    steps.
    """

    def velocity(_, pair):
        params, nu = pair
        x, unravel = ravel_pytree(params)
        g = _gradient(loss, batch, unravel)(x)
        return unravel(-method.rates(nu) * g), method.drift(nu, g**2)

    return velocity


def time_average(of: Callable[[Params], Array], state: State) -> Array:
    """Predict the time average of `of(params)` about a state of the flow: of(x) + sum_ij S_ij d_i
    d_j of(x) / 2.

    Of the loss at the edge this is `L + tr(P S)`, where L alone is what the flow itself has
    reached.
    """
    x, unravel = ravel_pytree(state.params)

    def slope(v, y):
        return jax.jvp(lambda z: of(unravel(z)), (y,), (v,))[1]

    def bend(v):
        return jax.jvp(lambda y: slope(v, y), (x,), (v,))[1]

    bends = jax.vmap(bend)(state.memory.roots)
    return of(state.params) + jnp.sum(bends, 0) / 2


def averages(loss: Callable[[Params, Batch], Float[Array, ""]], batch: Batch) -> Observe:
    """Observe on a central flow what the method does on average, and the eigenvalues.

    `loss` is the predicted time average, `loss_center` the loss at x, `variance` the trace of the
    covariance, `eigenvalues` (top + 1,) those of H u = e P u, whose edge is 2, and `enough` is
    `Memory.enough`.
    """

    def loss_of(params):
        return loss(params, batch)

    def observe(state):
        memory = state.memory
        return {
            "loss": time_average(loss_of, state),
            "loss_center": loss_of(state.params),
            "variance": jnp.sum(memory.roots**2),
            "eigenvalues": memory.eigenvalues,
            "enough": memory.enough,
        }

    return observe


def _gradient(loss, batch, unravel):
    return jax.grad(lambda x: loss(unravel(x), batch))


def _normal(seed, shape, dtype):
    return normal(jax.random.key(seed), shape, dtype)


def _substep(gradient, method, dt, x, memory):
    """Move on by `dt`, by Euler's method but for the covariance, which is that for which the end
    obeys the edge.

    The covariance is S = sum_ij X_ij u_i u_j^T in the top eigenvectors u.  What is left to the edge
    at the end of the substep is A + B[X], linear in X: with X >= 0 and A + B[X] >= 0, orthogonal to
    each other, X solves a complementarity problem (Cohen et al., 2024).
    """
    nu = memory.nu
    top = len(memory.roots)
    u = memory.vectors[:top]
    g = gradient(x)

    def rates_at(nu):
        return jnp.broadcast_to(method.rates(nu), x.shape)

    rates = rates_at(nu)
    # Symmetric matrices in the eigenvectors by their upper triangle; `pair` unpacks them.
    first, second = np.triu_indices(top)
    pair = np.zeros((top, top), int)
    pair[first, second] = pair[second, first] = np.arange(len(first))
    products = u[first] * u[second]

    def along(v, y):
        return jax.jvp(gradient, (y,), (v,))[1]

    def third(vectors):
        one, other = vectors
        return jax.jvp(lambda y: along(one, y), (x,), (other,))[1]

    # One after the other: side by side they take more memory, and on CPU more time.
    thirds = lax.map(third, (u[first], u[second]))

    def steeper(nu_dot):
        """How fast u_i P u_j changes, P the metric of the method."""
        _, metric_dot = jax.jvp(lambda nu: 1 / rates_at(nu), (nu,), (nu_dot,))
        return products @ metric_dot

    # How nu moves by itself, and by each covariance u_i u_j^T, which lies where H u = 2 P u.
    nu_dot = method.drift(nu, g**2)

    def moved_by(product):
        return method.drift(nu, g**2 + product * (EDGE / rates) ** 2) - nu_dot

    nu_dots = jax.vmap(moved_by)(products)

    # A: what is left to the edge now, and how that changes without a covariance.
    left = jnp.diag(EDGE - memory.eigenvalues[:top])
    change = EDGE * steeper(nu_dot) + thirds @ (rates * g)
    slack = left + dt * change[pair]
    # B: how each covariance changes it, by nu and by the gradient that it adds.
    by_nu = EDGE * jax.vmap(steeper)(nu_dots)
    by_gradient = thirds @ (rates[None] * thirds).T / 2
    response = by_nu + by_gradient
    unpacked = response[pair[:, :, None, None], pair[None, None]]
    covariance = complementarity.solve(slack, dt * unpacked).x

    weights = covariance[first, second] * np.where(first == second, 1.0, 2.0)
    x = x - dt * rates * (g + weights @ thirds / 2)
    nu = nu + dt * (nu_dot + jnp.tensordot(weights, nu_dots, 1))
    values, vectors = jnp.linalg.eigh(covariance)
    deviations = jnp.sqrt(jnp.maximum(values, 0))
    roots = (deviations[None] * vectors).T @ u
    eigenvalues, vectors = _followed(gradient, x, rates_at(nu), memory.vectors)
    enough = memory.enough & jnp.all(eigenvalues[top:] < EDGE)
    return x, Memory(nu, vectors, eigenvalues, roots, enough)


def _followed(gradient, x, rates, vectors):
    """Return the top eigenvalues and eigenvectors of H u = e u / rates near such of an earlier
    x."""
    half = jnp.sqrt(rates)
    rows = len(vectors)

    def product(v):
        return half * jax.jvp(gradient, (x,), (half * v,))[1]

    # A random vector finds what rises from below, also where the Hessian does not couple it to the
    # rest.
    random = _normal(0, (1, x.size), x.dtype)
    block = jnp.concatenate([vectors / half[None], random])
    block = jnp.concatenate([block, jax.vmap(product)(block)])
    unit = block / jnp.linalg.norm(block, axis=1, keepdims=True)
    basis = jnp.linalg.qr(unit.T)[0].T
    small = basis @ jax.vmap(product)(basis).T
    values, mixtures = jnp.linalg.eigh((small + small.T) / 2)
    largest = mixtures[:, ::-1][:, :rows]
    return values[::-1][:rows], half[None] * (largest.T @ basis)
