"""Central flows: the time-averaged course of gradient methods at the edge of stability.

A gradient method x' = x - g / P, with the metric P = 1/rates(nu) of its memory nu, loses stability
where the largest eigenvalue e of H u = e P u exceeds 2.  For gradient descent that is where the
sharpness exceeds 2/learning rate.  There the method oscillates about a smooth course x(t), t in
steps.  The oscillations have a covariance S in the unstable directions, and S holds the eigenvalues
of these directions at the edge (Cohen, Damian, Talwalkar, Kolter, Lee, 2024):

    dx/dt = -rates(nu) [grad L + grad <H, S>/2],  dnu/dt = drift(nu, grad L^2 + diag H S H),

    0 <= S,  2 P - H >= 0,  <S, 2 P - H> = 0.

Each step solves the semidefinite complementarity problem for the 2 P - H at the end of the step, so
that eigenvalues at the edge stay there without drift.  Below the edge S = 0, which gives the stable
flow: for gradient descent, gradient flow.
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
FRESH = 20  # iterations from random vectors to the first eigenvectors


class Method(NamedTuple):
    """A gradient method that acts on flat parameters x (n,) and has a memory nu.

    Attributes:
        init: `init(x)` returns nu at the start.
        rates: `rates(nu)` returns the learning rate, one number or one for each parameter.
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
    """Return RMSProp: nu' = decay nu + (1 - decay) g^2 and x' = x - learning_rate g / sqrt(nu') for
    each coordinate.

    If `shared`, |g|^2 takes the place of each g^2, which is scalar RMSProp
    (`optimizers.scalar_rmsprop`).  `initial` > 0 is nu before the first step.  As nu changes before
    it is used, the drift of nu has the rate (1 - decay)/decay per step (Cohen et al., 2024).  With
    a decay of 1 the method is gradient descent at learning_rate / sqrt(initial).
    """

    def mean(squares):
        return jnp.where(shared, jnp.sum(squares), squares)

    def rates(nu):
        return jnp.asarray(learning_rate, nu.dtype) / jnp.sqrt(nu)

    def drift(nu, squares):
        return jnp.asarray((1 - decay) / decay, nu.dtype) * (mean(squares) - nu)

    return Method(lambda x: jnp.broadcast_to(jnp.asarray(initial, x.dtype), x.shape), rates, drift)


class Memory(NamedTuple):
    """What the central flow carries beside the parameters x.

    The flow follows one eigenpair more than the covariance may use, to see whether `top` suffices.

    Attributes:
        nu: the memory of the method.
        vectors: rows u with u^T P u = 1, the top eigenvectors of H u = e P u at x.
        eigenvalues: the eigenvalues e of `vectors`, in decreasing order.
        roots: a root of the covariance S = roots^T roots.
        enough: False from the time at which the eigenvalue beyond those that the covariance may
            use has reached the edge too.
    """

    nu: Array
    vectors: Float[Array, "top+1 n"]
    eigenvalues: Float[Array, "top+1"]
    roots: Float[Array, "top n"]
    enough: Bool[Array, ""]


class CentralFlow(NamedTuple):
    """The central flow as a map for `iterate`.

    Attributes:
        init: `init(params)` returns the state to start from.
        step: `step(key, state)` moves the state by one unit of time, one step of the method.
    """

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

    The covariance lies in the space of `top` eigenvectors, which are followed from step to step by
    the Rayleigh-Ritz method.  Pass as `top` the number of eigenvalues that may be at the edge at
    once; if more reach the edge, `Memory.enough` becomes False.  The error of the course is of
    first order in 1/substeps, that of eigenvalues at the edge of second order.  A substep costs 3
    (top + 2) Hessian-vector products and top (top + 1)/2 third derivatives.  Where no covariance
    can hold the eigenvalues at the edge, as on a quadratic loss, parameters become NaN.

    As an average over oscillations the central flow does not describe the bursts in which descent
    crosses the edge, nor the divergence of a start far beyond the edge.

    >>> from jaxdyn import iterate
    >>> valley = lambda p, _: 0.5 * (p["y"] * (1 + p["x"])) ** 2 - p["x"]
    >>> flow = central_flow(valley, (), gradient_descent(0.5), top=1)
    >>> observe = lambda state: {"x": state.params["x"]}
    >>> start = flow.init({"x": jnp.array(0.0), "y": jnp.array(0.0)})
    >>> run = iterate(flow.step, start, times=[0, 1, 20], observe=observe)
    >>> [f"{x:.3f}" for x in run.observed["x"]]
    ['0.000', '0.500', '1.000']

    Raises ValueError for `top` < 1 or `substeps` < 2.
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
    """Return the velocity of the stable flow, for `integrate`: the course of the method without
    oscillations.

    The flow moves the pair (params, nu), which starts from nu = method.init(flat parameters).  Time
    counts the method's steps.
    """

    def velocity(_, pair):
        params, nu = pair
        x, unravel = ravel_pytree(params)
        g = _gradient(loss, batch, unravel)(x)
        return unravel(-method.rates(nu) * g), method.drift(nu, g**2)

    return velocity


def time_average(of: Callable[[Params], Array], state: State) -> Array:
    """Return the predicted time average of `of(params)` about a state of the central flow.

    The prediction is of(x) + sum_ij S_ij d_i d_j of(x) / 2.  For the loss L at the edge the
    prediction is `L + tr(P S)`, while L alone is the loss at the centre x of the oscillations.
    """
    x, unravel = ravel_pytree(state.params)

    def slope(v, y):
        return jax.jvp(lambda z: of(unravel(z)), (y,), (v,))[1]

    def bend(v):
        return jax.jvp(lambda y: slope(v, y), (x,), (v,))[1]

    bends = jax.vmap(bend)(state.memory.roots)
    return of(state.params) + jnp.sum(bends, 0) / 2


def averages(loss: Callable[[Params, Batch], Float[Array, ""]], batch: Batch) -> Observe:
    """Observe the method's averages and the eigenvalues along a central flow.

    `loss` is the predicted time average, `loss_center` the loss at x, `variance` the trace of the
    covariance, `eigenvalues` (top + 1,) are those of H u = e P u, whose edge is 2, and `enough` is
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
    """Return x and the memory after a time `dt`: Euler's method, but implicit in the covariance.

    The covariance is S = sum_ij X_ij u_i u_j^T in the top eigenvectors u.  The distance of the
    eigenvalues from the edge at the end of the substep is A + B[X], linear in X.  The conditions X
    >= 0, A + B[X] >= 0 and <X, A + B[X]> = 0 make X the solution of a complementarity problem
    (Cohen et al., 2024).
    """
    nu = memory.nu
    top = len(memory.roots)
    u = memory.vectors[:top]
    g = gradient(x)

    def rates_at(nu):
        return jnp.broadcast_to(method.rates(nu), x.shape)

    rates = rates_at(nu)
    # Symmetric matrices in the eigenvectors are stored by their upper triangle; `pair` unpacks them.
    first, second = np.triu_indices(top)
    pair = np.zeros((top, top), int)
    pair[first, second] = pair[second, first] = np.arange(len(first))
    products = u[first] * u[second]

    def along(v, y):
        return jax.jvp(gradient, (y,), (v,))[1]

    def third(vectors):
        one, other = vectors
        return jax.jvp(lambda y: along(one, y), (x,), (other,))[1]

    # One third derivative after the other: all at once would take more memory, and on CPU more
    # time.
    thirds = lax.map(third, (u[first], u[second]))

    def steeper(nu_dot):
        """Return how fast u_i P u_j changes, where P is the metric of the method."""
        _, metric_dot = jax.jvp(lambda nu: 1 / rates_at(nu), (nu,), (nu_dot,))
        return products @ metric_dot

    # The velocity of nu without a covariance, and what each covariance u_i u_j^T adds.  The
    # covariance lies in directions at the edge, where H u = 2 P u.
    nu_dot = method.drift(nu, g**2)

    def moved_by(product):
        return method.drift(nu, g**2 + product * (EDGE / rates) ** 2) - nu_dot

    nu_dots = jax.vmap(moved_by)(products)

    # A: the distance from the edge now, and its change without a covariance.
    left = jnp.diag(EDGE - memory.eigenvalues[:top])
    change = EDGE * steeper(nu_dot) + thirds @ (rates * g)
    slack = left + dt * change[pair]
    # B: the change of this distance by each covariance, through nu and through the gradient of
    # the curvature that the covariance adds.
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
    """Return the top eigenvalues and eigenvectors of H u = e u / rates at x, given those at a
    nearby x."""
    half = jnp.sqrt(rates)
    rows = len(vectors)

    def product(v):
        return half * jax.jvp(gradient, (x,), (half * v,))[1]

    # The random vector finds directions whose eigenvalues rise into the top ones, even if the
    # Hessian does not couple these directions to the vectors followed so far.
    random = _normal(0, (1, x.size), x.dtype)
    block = jnp.concatenate([vectors / half[None], random])
    block = jnp.concatenate([block, jax.vmap(product)(block)])
    unit = block / jnp.linalg.norm(block, axis=1, keepdims=True)
    basis = jnp.linalg.qr(unit.T)[0].T
    small = basis @ jax.vmap(product)(basis).T
    values, mixtures = jnp.linalg.eigh((small + small.T) / 2)
    largest = mixtures[:, ::-1][:, :rows]
    return values[::-1][:rows], half[None] * (largest.T @ basis)
