"""Saddle-to-saddle dynamics: where a network from small weights pauses, for how long, and how it
escapes.

A network of hidden units (neurons, kernels, attention heads) pauses near saddles at which it
computes the best that a narrower network can (Zhang, Saxe, Latham, 2025).  All losses are E|y -
y_hat|^2 / 2, and all times are flow times.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from jaxdyn._numbers import Numbers, floats
from jaxdyn.dynamics import RK4, integrate
from jaxdyn.theory.linear.modes import time_of_strength

__all__ = [
    "attention_plateaus",
    "best_rectifier",
    "blow_up_lead",
    "blow_up_time",
    "drop_times",
    "linear_plateaus",
    "quadratic_lead",
    "quadratic_plateaus",
    "saddle_eigenvalues",
    "unit_spread",
]


def linear_plateaus(s: Float[ArrayLike, " modes"]) -> Float[Array, " modes+1"]:
    """Return the losses of the best linear networks of r = 0, 1, ... hidden units, of any depth.

    The losses are (1/2) sum_(j > r) s_j^2 for singular values s of the input-output covariance,
    largest first, and whitened inputs.  The same holds for r kernels of a linear convolution whose
    stride is the kernels' length; s are then the singular values of the target as a matrix (kernel,
    patches).

    >>> linear_plateaus(jnp.array([4.0, 2.0, 1.0])).tolist()
    [10.5, 2.5, 0.5, 0.0]
    """
    return _remaining(jnp.asarray(s) ** 2) / 2


def quadratic_plateaus(
    a: Float[ArrayLike, " modes"],
) -> tuple[Float[Array, " modes+1"], Float[Array, " modes+1"]]:
    """Return (losses, excess) of the best r = 0, 1, ... quadratic units for y = x^T A x, x standard
    normal.

    The units v_i (u_i . x)^2 have learned the first r eigenvalues a of A, in the order given, as
    far as the units' signs allow.  With T = sum_(j > r) a_j the loss is sum_(j > r) a_j^2 + T^2 /
    (r + 2).  The strength learned for a_j is a_j + T / (r + 2): the units make up for the missing
    trace by the excess T / (r + 2).

    >>> [f"{loss:.3f}" for loss in quadratic_plateaus(jnp.array([2.0, 2.0, 2.0]))[0]]
    ['30.000', '13.333', '5.000', '0.000']
    """
    a = jnp.asarray(a)
    trace = _remaining(a)
    excess = trace / (2 + jnp.arange(len(a) + 1))
    return _remaining(a**2) + trace * excess, excess


def attention_plateaus(
    variances: Float[ArrayLike, " inputs"], length: int, rank: int = 1
) -> tuple[Float[Array, " _"], Float[Array, " inputs"]]:
    """Return the losses of the best 0, 1, ... heads of linear attention at in-context regression,
    and what U learns.

    Heads of the given `rank` predict sum_h v_h beta^T K_h^T Q_h x = beta^T U x from beta = (1/N)
    sum_n y_n x_n, N = `length`.  Inputs have the given `variances`, largest first, and tasks are w
    ~ N(0, I).  In the eigenbasis of the covariance U learns the amplitudes lambda / C, C = lambda^2
    (1 + 1/N) + lambda tr/N.  Each amplitude lowers the loss by lambda^3 / (2 C), and a head learns
    `rank` amplitudes.  A head of merged keys and queries has all ranks: pass `rank =
    len(variances)`.

    >>> [f"{loss:.3f}" for loss in attention_plateaus(jnp.array([0.4, 0.3, 0.2, 0.1]), 32)[0]]
    ['0.500', '0.320', '0.188', '0.103', '0.066']
    """
    variances = jnp.asarray(variances)
    trace = jnp.sum(variances)
    second = variances**2 * (1 + 1 / length) + variances * trace / length
    gained = jnp.cumsum(variances**3 / second)
    gained = jnp.concatenate([jnp.zeros_like(gained[:1]), gained])
    heads = jnp.arange(-(-len(variances) // rank) + 1)
    amplitudes = jnp.minimum(rank * heads, len(variances))
    losses = trace - gained[amplitudes]
    return losses / 2, variances / second


def best_rectifier(
    u: Float[ArrayLike, "units 2"],
    v: Float[ArrayLike, " units"],
    patches: Numbers = 1,
    angles: int = 720,
) -> tuple[Float[Array, ""], Float[Array, "2"]]:
    """Return the loss of the best single rectifier for a teacher sum_i v_i relu(u_i . x), and its
    strength as a vector.

    Inputs are standard normal in the plane, or `patches` independent ones whose outputs are summed.
    The best unit vector e maximises |g|, g(e) = E relu(e . x) y; it is found on a grid of `angles`
    and by Newton's method.  The strength is g / k with k = E relu(e . x)^2 (arc-cosine kernel of
    Cho & Saul, 2009).  The vector is g e / k, so it points against e where g is negative.

    >>> loss, unit = best_rectifier(jnp.eye(2), jnp.array([3.0, -1.0]))
    >>> f"{loss:.4f}", f"{jnp.linalg.norm(unit):.3f}"
    ('0.1725', '2.720')
    """
    u = jnp.asarray(u)
    v = jnp.asarray(v)
    summed = patches * (patches - 1) / (2 * jnp.pi)
    norms = jnp.linalg.norm(u, axis=1)
    directions = jnp.arctan2(u[:, 1], u[:, 0])

    def product(angle):
        # The angle between two directions in the plane, in [0, pi], without an arc cosine's
        # infinite slope.
        turned = jnp.remainder(angle - directions + jnp.pi, 2 * jnp.pi)
        between = jnp.abs(turned - jnp.pi)
        return norms * (patches * _arc_cosine(between) + summed)

    def learned(angle):
        return v @ product(angle)

    scan = jnp.linspace(-jnp.pi, jnp.pi, angles)
    size = jnp.abs(jax.vmap(learned)(scan))
    angle = scan[jnp.argmax(size)]
    slope = jax.grad(learned)
    for _ in range(4):
        angle = angle - slope(angle) / jax.grad(slope)(angle)
    teacher = v @ jax.vmap(product)(directions) @ (v * norms)
    own = patches / 2 + summed
    strength = learned(angle) / own
    direction = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    loss = (teacher - learned(angle) * strength) / 2
    return loss, strength * direction


def drop_times(s: Numbers, u0: Numbers, depth: Numbers = 2.0) -> Float[Array, "..."]:
    """Return when the loss of a linear network passes midway between the plateaus before and after
    mode s is learned.

    At this time the mode's strength is (1 - 1/sqrt 2) s; see `linear.time_of_strength`.  For two
    layers and the start u0 of `linear.seed_strengths` the time holds for each mode of small random
    weights.  Deeper networks must start aligned.

    >>> f"{drop_times(2.0, 1e-8):.3f}"
    '4.558'
    """
    return time_of_strength((1 - 0.5**0.5) * jnp.asarray(s), s, u0, depth)


def unit_spread(
    first: Float[Array, "hidden inputs"],
    second: Float[Array, "outputs hidden"],
    left: Float[Array, " outputs"],
    right: Float[Array, " inputs"],
) -> Float[Array, ""]:
    """Return over how many hidden units a small random two-layer linear network spreads the first
    mode that it learns.

    The number is the participation ratio (sum_i p_i^2)^2 / sum_i p_i^4 of the growing combination p
    = (W_1 v + W_2^T u)/2 for the strongest mode's singular vectors u and v (see
    `linear.seed_strengths`).  The participation ratio is about a third of the units, as p is
    Gaussian.
    """
    squares = (first @ right + left @ second) ** 2
    return jnp.sum(squares) ** 2 / jnp.sum(squares**2)


def saddle_eigenvalues(
    s: Float[ArrayLike, " modes"], rank: int, width: int
) -> Float[Array, " index"]:
    """Return the negative eigenvalues of the Hessian where `width` hidden linear units have learned
    `rank` modes.

    At this saddle of a two-layer network each missing mode j has the eigenvalue -s_j with
    multiplicity width - rank.  The number of negative eigenvalues is the index of the saddle,
    (width - rank)(modes - rank).  Singular values s are passed largest first.

    >>> saddle_eigenvalues(jnp.array([4.0, 2.0, 1.0]), 1, 3).tolist()
    [-2.0, -2.0, -1.0, -1.0]

    Raises ValueError for a rank below 0 or above the number of modes or units.
    """
    s = jnp.asarray(s)
    if not 0 <= rank <= min(len(s), width):
        raise ValueError(
            f"rank: {rank} modes of {len(s)} in {width} units; pass 0 <= rank <= "
            f"{min(len(s), width)}"
        )
    missing = s[rank:]
    free = width - rank
    return -jnp.repeat(missing, free, total_repeat_length=free * len(missing))


def blow_up_time(
    energy: Callable[[PyTree[Array]], Float[Array, ""]],
    start: PyTree[Array],
    degree: int = 3,
    steps: int = 1500,
) -> Float[Array, ""]:
    """Return when a single unit w' = grad energy(w) becomes infinite: the time to escape from small
    weights.

    While weights are small, units do not interact, and the energy of a unit is homogeneous of a
    `degree` > 2, so that times scale as (scale of the start)^(2 - degree).  The degree is 3 for
    quadratic units, with energy v u^T S u and S = E y x x^T, and for attention heads, with energy v
    k^T S q; the degree is D for D linear layers.  The unit with the shortest time is learned first.

    The flow is integrated in the time sigma set by the Hessian, d time / d sigma = 1 / |Hessian|_F,
    for `steps` steps of 0.1.  A unit that has grown along its final direction has the time |w|^2 /
    (degree (degree - 2) energy) left.  The result is infinite for units that do not escape.

    >>> f"{blow_up_time(lambda w: w[0] * w[1] * w[2], jnp.array([0.01, 0.01, 0.01])):.2f}"
    '100.00'

    Raises ValueError for a degree that is not above 2.
    """
    if degree <= 2:
        raise ValueError(
            f"degree: {degree}; only energies of a degree above 2 blow up, others grow "
            "exponentially"
        )
    start, unravel = ravel_pytree(start)

    def energy_of(w):
        return energy(unravel(w))

    slope = jax.grad(energy_of)
    hessian = jax.hessian(energy_of)

    def velocity(_, params):
        clock = 1 / jnp.linalg.norm(hessian(params["w"]))
        return {"w": slope(params["w"]) * clock, "time": clock}

    initial = {"w": start, "time": jnp.zeros((), start.dtype)}
    times = [0.1 * steps]
    run = integrate(velocity, initial, times=times, observe=lambda state: {}, solver=RK4(0.1))
    w = run.final.params["w"]
    left = energy_of(w)
    # A unit that has not grown a hundredfold does not count as aligned with its final direction.
    grown = (w @ w > 1e4 * (start @ start)) & (left > 0)
    remaining = w @ w / (degree * (degree - 2) * left)
    return jnp.where(grown, run.final.params["time"] + remaining, jnp.inf)


def blow_up_lead(u: Numbers, s: Numbers, depth: Numbers) -> Float[Array, "..."]:
    """Return the lead: how long before the blow-up time without saturation a mode reaches the
    strength u.

    A balanced mode du/dt = D u^(2 - 2/D) (s - u), D > 2, from a small u0 would be infinite at the
    time u0^(2/D - 1) / ((D - 2) s) if s - u stayed s.  The mode reaches u < s earlier than that by

        [u^(2/D - 1) / (D - 2) - (integral of dy / (s - y^(D/2)) from 0 to u^(2/D)) / 2] / s,

    whatever u0 is.  The integral takes 64 Gauss-Legendre nodes.

    >>> f"{1e-6 ** (-1 / 3) / 2 - blow_up_lead(0.5, 2.0, 3.0):.2f}", f"{time_of_strength(0.5, 2.0, 1e-6, 3.0):.2f}"
    ('49.46', '49.46')
    """
    u, s, depth = jnp.broadcast_arrays(*floats(u, s, depth))
    end = u ** (2 / depth)
    nodes, weights = np.polynomial.legendre.leggauss(64)
    shares = (nodes + 1).reshape((1,) * end.ndim + (64,)) / 2
    y = end[..., None] * shares
    integrand = 1 / (s[..., None] - y ** (depth[..., None] / 2))
    saturating = integrand @ weights * end / 2
    growing = u ** (2 / depth - 1) / (depth - 2)
    return (growing - saturating / 2) / s


def quadratic_lead(strength: Numbers) -> Float[Array, "..."]:
    """Return by how much the loss drops before the `blow_up_time` of the quadratic unit that is
    learned first.

    The drop is the time at which the loss is midway between its plateaus.  On its way to the
    `strength` c* (an eigenvalue of A plus the excess of `quadratic_plateaus`) a balanced unit that
    is aligned with the eigenvector obeys dc/dt = 9 2^(2/3) c^(4/3) (c* - c).  This equation is that
    of a mode of depth 3 at 3 2^(2/3) times its rate (`blow_up_lead`).  Units from small weights are
    balanced, as |u|^2 - 2 v^2 is conserved, and they are aligned where A is a multiple of the
    identity.
    """
    (strength,) = floats(strength)
    midway = (1 - 0.5**0.5) * strength
    lead = blow_up_lead(midway, strength, 3.0)
    return lead / (3 * 2 ** (2 / 3))


def _remaining(values):
    """Return sum_(j > r) values_j for r = 0, 1, ... len(values)."""
    return jnp.append(jnp.cumsum(values[::-1])[::-1], 0)


def _arc_cosine(angle):
    """Return E relu(a . x) relu(b . x) of unit vectors at the given angle, x standard normal."""
    return (jnp.sin(angle) + (jnp.pi - angle) * jnp.cos(angle)) / (2 * jnp.pi)
