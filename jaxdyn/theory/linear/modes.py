"""Deep linear networks: mode strengths, learning times, stable learning rates, and signals at the
start of training.

The network y = W_D ... W_1 x has inputs of unit covariance and the loss E|y - y_hat|^2 / 2.  From a
start that is balanced and aligned with the singular vectors of the input-output covariance,
gradient flow decouples into modes, one for each singular value s, whose strength u obeys du/dt = D
u^(2 - 2/D) (s - u) (Saxe, McClelland, Ganguli, 2013).  Times are flow times.  For inputs of
covariance d times the identity the same formulas hold with s/d for s and d t for t.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from jaxdyn._numbers import Numbers, decayed, floats, positive
from jaxdyn.dynamics import iterate
from jaxdyn.theory.linear._growth import reaches, strength_after, time_between

__all__ = [
    "deep_mode_strength",
    "descent_lag",
    "lyapunov_exponents",
    "max_learning_rate",
    "mode_strength",
    "seed_strengths",
    "tanh_mean_field",
    "time_of_strength",
    "time_of_strength_limit",
    "tree_singular_values",
    "unbalanced_modes",
]


def mode_strength(time: Numbers, s: Numbers, u0: Numbers) -> Float[Array, "..."]:
    """Return the strength u(t) of a balanced mode of a two-layer network, du/dt = 2 u (s - u), u(0)
    = u0 >= 0.

    The solution is the sigmoid u = s / (1 + (s/u0 - 1) e^(-2 s t)) of Saxe, McClelland, Ganguli
    (2013).  The form used here never overflows, and also holds for u0 > s and for s <= 0, where an
    absent or opposed mode decays.

    >>> f"{mode_strength(np.log(999) / 2, 1.0, 1e-3):.4f}"
    '0.5000'
    """
    time, s, u0 = floats(time, s, u0)
    left = jnp.exp(-2 * s * time)
    spent = 2 * u0 * time * decayed(2 * s * time)
    return u0 / positive(left + spent)


def deep_mode_strength(
    time: Numbers, s: Numbers, u0: Numbers, depth: Numbers
) -> Float[Array, "..."]:
    """Return the strength u(t) of a balanced mode at any depth D, du/dt = D u^(2 - 2/D) (s - u),
    for 0 < u0 < s.

    `depth` counts the weight matrices and may be any real number from 1 on.  The strength is the
    inverse of `time_of_strength`, found by bisection and Newton's method in the logit of u/s, in
    which the time is smooth and monotone.  The result is as well conditioned as the escape from a
    plateau, whose time grows as u0^(2/D - 1).
    """
    numbers = floats(time, s, u0, depth)
    time, s, u0, depth = jnp.broadcast_arrays(*numbers)
    power = 2 - 2 / depth
    return strength_after(depth * time, s, u0, power)


def time_of_strength(
    u: Numbers, s: Numbers, u0: Numbers, depth: Numbers = 2.0
) -> Float[Array, "..."]:
    """Return the time at which a balanced mode of depth D reaches the strength u, du/dt = D u^(2 -
    2/D) (s - u).

    `depth` counts the weight matrices and may be any positive real number.  The time is the
    integral of du / (D u^p (s - u)), p = 2 - 2/D.  The integral's logarithmic singularity at u = s
    is taken in closed form and the rest by 64 Gauss-Legendre nodes in log u, exact to rounding also
    for u0 = 1e-8 s.  The time is infinite for every u that the mode never reaches: s itself,
    strengths beyond s, and strengths behind the start.

    >>> f"{time_of_strength(0.5, 1.0, 1e-3):.4f}", f"{np.log(999) / 2:.4f}"
    ('3.4534', '3.4534')
    """
    u, s, u0, depth = jnp.broadcast_arrays(*floats(u, s, u0, depth))
    reached = reaches(u, s, u0)
    u = jnp.where(reached, u, u0)
    start = jnp.log(u0 / s)
    end = jnp.log(u / s)
    decay = jnp.log((s - u0) / (s - u))
    power = 2 - 2 / depth
    time = time_between(start, end, decay, s, power) / depth
    return jnp.where(reached, time, jnp.inf)


def time_of_strength_limit(u: Numbers, s: Numbers, u0: Numbers) -> Float[Array, "..."]:
    """Return the limit of depth * `time_of_strength` for infinite depth.

        ln[u (s - u0) / (u0 (s - u))] / s^2 + (1/u0 - 1/u) / s

    The largest stable learning rate falls as 1/depth (see `max_learning_rate`), so the number of
    steps at this rate converges (Saxe, McClelland, Ganguli, 2013).  The limit is infinite for u
    that is never reached.
    """
    u, s, u0 = jnp.broadcast_arrays(*floats(u, s, u0))
    reached = reaches(u, s, u0)
    u = jnp.where(reached, u, u0)
    exponential = jnp.log(u / u0 * (s - u0) / (s - u)) / s**2
    algebraic = (1 / u0 - 1 / u) / s
    return jnp.where(reached, exponential + algebraic, jnp.inf)


def unbalanced_modes(
    time: Numbers, s: Numbers, a0: Numbers, b0: Numbers
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Return both layers' strengths (a, b) of a mode from any start, da/dt = b (s - a b), db/dt = a
    (s - a b).

    The flow conserves a^2 - b^2.  The solution is that of the matrix Riccati equation of q = (a,
    b): with F = [[c, s], [s, -c]] and c = (a0^2 - b0^2)/2

        q q^T = e^(Ft) q0 q0^T e^(Ft) / (1 + q0^T (integral of e^(2Ft)) q0)

    (Fukumizu, 1998).  Numerator and denominator are each divided by their fastest growing
    exponential, so the result is accurate for strengths of any signs, for balanced starts and for s
    = 0.
    """
    time, s, a0, b0 = jnp.broadcast_arrays(*floats(time, s, a0, b0))
    c = (a0 - b0) * (a0 + b0) / 2
    rate = jnp.hypot(c, s)
    moving = rate > 0
    divisor = jnp.where(rate > 0, rate, 1.0)
    along_a = (c * a0 + s * b0) / divisor
    along_b = (s * a0 - c * b0) / divisor
    growing_a = jnp.where(moving, (a0 + along_a) / 2, a0)
    growing_b = jnp.where(moving, (b0 + along_b) / 2, b0)
    falling_a = a0 - growing_a
    falling_b = b0 - growing_b
    e = jnp.exp(-2 * rate * time)
    spent = time * decayed(2 * rate * time)
    weight = growing_a**2 + growing_b**2 + e * (falling_a**2 + falling_b**2)
    scale = jnp.sqrt(positive(e + spent * weight))
    return (growing_a + e * falling_a) / scale, (growing_b + e * falling_b) / scale


def descent_lag(
    time: Numbers, s: Numbers, u0: Numbers, depth: Numbers, learning_rate: Numbers
) -> Float[Array, "..."]:
    """Return u(descent) - u(flow) of a balanced mode at time = learning_rate * steps, to first
    order in the learning rate.

    With a = u^(1/D) the flow is da/dt = f(a) = a^(D-1) (s - a^D), and gradient descent is Euler's
    method for this flow.  Up to second order descent follows the flow of f - (learning rate) f f'/2
    (Hairer, Lubich, Wanner, 2006, chapter IX), so that the lag is -(learning rate)/2 du/dt
    ln[f(a)/f(a0)].  The formula holds for 0 < u0 < s.
    """
    numbers = floats(time, s, u0, depth, learning_rate)
    time, s, u0, depth, learning_rate = jnp.broadcast_arrays(*numbers)
    u = deep_mode_strength(time, s, u0, depth)
    power = 1 - 1 / depth
    speed = u**power * (s - u)
    start = u0**power * (s - u0)
    # At the end of learning the speed is 0, and so is speed * log(speed): `positive` avoids NaN.
    logarithm = jnp.log(positive(speed) / start)
    return -learning_rate / 2 * depth * u**power * speed * logarithm


def max_learning_rate(s: Numbers, depth: Numbers) -> Float[Array, "..."]:
    """Return the largest learning rate at which gradient descent is stable at the balanced
    solution, 2/(D s^(2-2/D)).

    The threshold is two over the sharpness at the solution.  `s` is the largest singular value, and
    `depth` counts the weight matrices.
    """
    s, depth = floats(s, depth)
    return 2 / (depth * s ** (2 - 2 / depth))


def seed_strengths(
    first: Float[Array, "hidden inputs"],
    second: Float[Array, "outputs hidden"],
    left: Float[Array, "outputs modes"],
    right: Float[Array, "inputs modes"],
) -> Float[Array, "modes"]:
    """Return the effective initial strengths u0 (modes,) of the modes of a small random two-layer
    network.

    In the vectors of a mode the combination p = (W_1 v + W_2^T u)/2 grows and other combinations
    decay.  What is left of p for mode i once the stronger modes are learned is its part orthogonal
    to theirs, so that u0 = R_ii^2 of the QR decomposition of (p_1, p_2, ...).  From these strengths
    on `mode_strength` and `time_of_strength` hold to first order in the scale of the start.  The
    columns of `left` (u) and `right` (v) go from the largest singular value to the smallest.

    Raises ValueError for more modes than hidden units.
    """
    if left.shape[1] > first.shape[0]:
        raise ValueError(
            f"left: {left.shape[1]} modes do not fit into {first.shape[0]} hidden units; pass the "
            "strongest modes only"
        )
    growing = (first @ right + second.T @ left) / 2
    r = jnp.linalg.qr(growing, mode="r")
    return jnp.diagonal(r) ** 2


def lyapunov_exponents(width: int) -> Float[Array, " width"]:
    """Return the Lyapunov exponents, per layer and largest first, of a product of Gaussian matrices
    of variance 1/width.

        mu_i = (psi((n - i + 1)/2) + ln(2/n)) / 2,  i = 1 ... n

    for the width n (Newman, 1986).  Although each layer keeps the mean squared signal, the singular
    values of a product of D layers spread as e^(mu_i D); those of orthogonal matrices stay at one.

    >>> np.round(np.asarray(lyapunov_exponents(2)), 2)
    array([-0.29, -0.98], dtype=float32)
    """
    freedom = jnp.arange(width, 0, -1, dtype=jnp.result_type(float))
    psi = jax.scipy.special.digamma(freedom / 2)
    return (psi + jnp.log(2 / width)) / 2


def tanh_mean_field(
    gain: Real[ArrayLike, ""], depth: int, variance: Real[ArrayLike, ""] = 1.0
) -> tuple[Float[Array, " depth"], Float[Array, " depth"]]:
    """Return (q_l, chi_l) of wide tanh networks, h_(l+1) = tanh(gain W_l h_l), for the layers l = 1
    ... depth.

    The mean square of layer l is q_l = E tanh^2(sqrt(v) z), and layer l multiplies the mean squared
    singular value of the Jacobian by chi_l = gain^2 E sech^4(sqrt(v) z).  Here v = gain^2 q_(l-1),
    z is standard normal and q_0 = `variance`.  The same recursion holds for orthogonal W_l and for
    Gaussian ones of variance 1/width (Poole et al., 2016).  The averages are trapezoidal sums of
    step 1/16 over |z| <= 9, exact to 1e-12 for v <= 16.
    """
    z = np.arange(-144, 145) / 16
    weight = np.exp(-(z**2) / 2)
    weight = jnp.asarray(weight / weight.sum())
    gain, variance = floats(gain, variance)

    def layer(_, state):
        variance, _ = state.params
        h = jnp.tanh(gain * jnp.sqrt(variance) * z)
        slope = 1 - h**2
        susceptibility = gain**2 * (weight @ slope**2)
        return state._replace(params=(weight @ h**2, susceptibility))

    start = (variance, jnp.ones_like(variance))

    def observe(state):
        variance, susceptibility = state.params
        return {"variance": variance, "susceptibility": susceptibility}

    layers = np.arange(1, depth + 1)
    observed = iterate(layer, start, times=layers, observe=observe).observed
    return observed["variance"], observed["susceptibility"]


def tree_singular_values(levels: int) -> Float[Array, " items"]:
    """Return the singular values, largest first, of the input-output covariance of a binary tree
    with n = 2^levels items.

    Inputs are one-hot items, and outputs indicate each item's ancestors, the item itself included.
    (n s)^2 is the sum of the block sizes from the level that a mode splits downwards; for the root
    this sum is 2n - 1 (Saxe, McClelland, Ganguli, 2013).

    >>> np.round(np.asarray(8 * tree_singular_values(3)) ** 2)
    array([15.,  7.,  3.,  3.,  1.,  1.,  1.,  1.], dtype=float32)
    """
    level = np.r_[0, np.repeat(np.arange(1, levels + 1), 2 ** np.arange(levels))]
    return jnp.sqrt(jnp.asarray(2.0 ** (levels + 1 - level) - 1)) / 2**levels
