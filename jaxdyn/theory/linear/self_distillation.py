"""Linear networks that predict representations: deep self-distillation compared with
reconstruction, and collapse.

The functions from `mode_velocity` to `escape_time` describe an encoder W = W_L ... W_1 with one
more layer V, under gradient flow from a balanced start aligned with E x x^T = diag(s) and E y x^T =
diag(c).  V W x predicts W y, held constant ("jepa"), or y itself ("mae").  A mode has a covariance
c and an influence rho = c/s, the coefficient of the regression of y on x (Littwin et al., 2024).
The encoder strength w of a mode obeys

    jepa: dw/dt = L c w^(3 - 1/L) (1 - w^(1/L) / rho),

    mae: dw/dt = L c w^(2 - 1/L) (1 - w^(1 + 1/L) / rho).

The functions from `predictor_velocity` on describe a linear encoder W and predictor P on views with
E x x^T = E y y^T = (1 + a) I and E y x^T = I, where a is the variance of the augmentation.  P W x
predicts W_a y, held constant (Tian, Chen, Ganguli, 2021).  The target encoder is W_a = r W, where r
is 1 unless the target lags behind.  All times are flow times, with every layer moving at unit rate.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from jaxdyn._numbers import Numbers, check_positive, floats
from jaxdyn.theory.linear._growth import reaches, strength_after, time_between

__all__ = [
    "alignment_rate",
    "collapse_rate",
    "critical_decay",
    "direct_strength",
    "escape_time",
    "fixed_strength",
    "mode_strength",
    "mode_velocity",
    "predictor_fixed_points",
    "predictor_imbalance",
    "predictor_velocity",
    "time_of_strength",
]


def mode_velocity(
    strength: Numbers, covariance: Numbers, influence: Numbers, depth: Numbers, objective: str
) -> Float[Array, "..."]:
    """Return dw/dt of a balanced mode of the encoder, for the `objective` "jepa" or "mae".

    The equations are those of the module.  `depth` is the number of the encoder's layers, at least
    1; it need not be whole.
    """
    w, c, rho, depth = floats(strength, covariance, influence, depth)
    q, r = _powers(depth, objective)
    left = 1 - w ** (r / depth) / rho
    return depth * c * w ** (1 + (q - 1) / depth) * left


def fixed_strength(influence: Numbers, depth: Numbers, objective: str) -> Float[Array, "..."]:
    """Return the strength that a mode of the encoder converges to: rho^L ("jepa") or rho^(L/(L +
    1)) ("mae").

    >>> round(float(fixed_strength(0.5, 2, "jepa")), 4), round(float(fixed_strength(0.5, 2, "mae")), 4)
    (0.25, 0.63)
    """
    rho, depth = floats(influence, depth)
    _, r = _powers(depth, objective)
    return rho ** (depth / r)


def time_of_strength(
    strength: Numbers,
    covariance: Numbers,
    influence: Numbers,
    start: Numbers,
    depth: Numbers,
    objective: str,
) -> Float[Array, "..."]:
    """Return the time at which a mode of the encoder that starts from the strength `start` reaches
    `strength`.

    The time is the integral of da / (c a^q (1 - a^r / rho)), a = w^(1/L), with (q, r) = (2L, 1) for
    "jepa" and (L, L + 1) for "mae".  For "jepa" and a whole L the integral is the sum over m = 1
    ... 2L - 1 of (a0^-m - a^-m) / (m rho^(2L - 1 - m)) and a logarithm (Littwin et al., 2024).
    Here a logarithm and 64 Gauss-Legendre nodes give the integral for both objectives and any L >=
    1: exact to rounding in float64 for start > e^(-200) of the fixed strength.  float32 overflows
    where the time does.

    The time is infinite for a strength that is never reached: one behind the start, at the fixed
    strength or beyond.  Raises ValueError for numbers that are not positive, where they are
    concrete.
    """
    mode = _logistic(strength, covariance, influence, start, depth, objective)
    x0 = mode.start
    reached = reaches(mode.strength, 1, x0)
    x = jnp.where(reached, mode.strength, x0)
    decay = jnp.log((1 - x0) / (1 - x))
    time = time_between(jnp.log(x0), jnp.log(x), decay, 1.0, mode.power) / mode.rate
    return jnp.where(reached, time, jnp.inf)


def mode_strength(
    time: Numbers,
    covariance: Numbers,
    influence: Numbers,
    start: Numbers,
    depth: Numbers,
    objective: str,
) -> Float[Array, "..."]:
    """Return the strength w(t) of a mode of the encoder from a start below its fixed strength.

    The strength is the inverse of `time_of_strength`, as well conditioned as the escape from the
    start: a relative error eps of the time moves w by eps t dw/dt.  The strength is NaN for a start
    beyond the fixed strength.  Raises ValueError for numbers that are not positive, where they are
    concrete.
    """
    (time,) = floats(time)
    fixed = fixed_strength(influence, depth, objective)
    mode = _logistic(start, covariance, influence, start, depth, objective)
    time, fixed, *numbers = jnp.broadcast_arrays(time, fixed, *mode)
    mode = _Logistic(*numbers)
    one = jnp.ones_like(mode.start)
    x = strength_after(mode.rate * time, one, mode.start, mode.power)
    return fixed * x**mode.root


def escape_time(
    covariance: Numbers, influence: Numbers, start: Numbers, depth: Numbers, objective: str
) -> Float[Array, "..."]:
    """Return the time of learning to the leading orders in a small `start`, which do not depend on
    the share learned.

    With a0 = start^(1/L) and I_m = (a0^-m - 1)/m, for m = 0 the logarithm -ln a0, the time is

        jepa: (I_(2L-1) + I_(2L-2) / rho) / c,    mae: I_(L-1) / c,

    up to terms of order a0^(3 - 2L) for "jepa" and of order one for "mae".  To this order "mae"
    does not depend on the influence (Littwin et al., 2024).

    Raises ValueError for numbers that are not positive, where they are concrete, and for another
    objective.
    """
    check_positive(covariance=covariance, influence=influence, start=start, depth=depth)
    c, rho, start, depth = floats(covariance, influence, start, depth)
    q, r = _powers(depth, objective)
    delay = -jnp.log(start) / depth

    def integral(m):
        divisor = jnp.where(m == 0, 1.0, m)
        return jnp.where(m == 0, delay, jnp.expm1(m * delay) / divisor)

    second = integral(q - 1 - r) / rho if objective == "jepa" else 0.0
    return (integral(q - 1) + second) / c


def predictor_velocity(
    predictor: Numbers,
    encoder: Numbers,
    target: Numbers,
    *,
    augmentation: Numbers,
    decay: Numbers = 0.0,
    predictor_rate: Numbers = 1.0,
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Return (dp/dt, dw/dt) of a mode that predictor p, encoder w and target w_a share.

    With the error e = w_a - (1 + a) p w

        dp/dt = alpha e w - eta p,  dw/dt = e p - eta w,

    where alpha is the `predictor_rate` and eta the weight `decay` (Tian, Chen, Ganguli, 2021).  The
    target is w itself, or a moving average that obeys dw_a/dt = beta (w - w_a).
    """
    numbers = floats(predictor, encoder, target, augmentation, decay, predictor_rate)
    p, w, target, a, decay, alpha = numbers
    error = target - (1 + a) * p * w
    of_predictor = alpha * error * w - decay * p
    of_encoder = error * p - decay * w
    return of_predictor, of_encoder


def predictor_fixed_points(
    augmentation: Numbers, decay: Numbers, target_ratio: Numbers = 1.0
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Return the fixed points (p-, p+) of a balanced mode, for which w^2 = p^2 / alpha.

        dp/dt = p^2 (r - (1 + a) p) - eta p,  p+- = (r +- sqrt(r^2 - 4 eta (1 + a))) / (2 (1 + a))

    p+ is stable, and p- is the boundary of its basin of attraction: below p- the mode collapses to
    0 (Tian, Chen, Ganguli, 2021).  Both are NaN beyond the `critical_decay`, where 0 is the only
    fixed point.

    >>> [round(float(p), 4) for p in predictor_fixed_points(0.2, 0.1)]
    [0.1162, 0.7171]
    """
    a, decay, r = floats(augmentation, decay, target_ratio)
    root = jnp.sqrt(r**2 - 4 * decay * (1 + a))
    larger = (r + root) / (2 * (1 + a))
    # The product of both is decay / (1 + a); dividing it by the larger one avoids the cancellation
    # in the smaller one.
    return decay / ((1 + a) * larger), larger


def critical_decay(augmentation: Numbers, target_ratio: Numbers = 1.0) -> Float[Array, "..."]:
    """Return the weight decay r^2 / (4 (1 + a)) beyond which every mode collapses (Tian, Chen,
    Ganguli, 2021)."""
    a, r = floats(augmentation, target_ratio)
    return r**2 / (4 * (1 + a))


def collapse_rate(
    augmentation: Numbers, decay: Numbers = 0.0, *, predictor: bool, stop_gradient: bool
) -> Float[Array, "..."]:
    """Return the rate at which |W| decays without the predictor or without the stop-gradient.

    Without a predictor the encoder collapses as e^(-(a + eta) t), and as e^(-(2a + eta) t) if
    gradients also go through its target.  With a predictor and gradients through the target

        dW/dt = -[(1 + a)(P^T P + I) - P - P^T + eta] W,

    so that |W| decays at least at the rate (1 + a) - 1/(1 + a) + eta, which is reached for P = I/(1
    + a) (after Tian, Chen, Ganguli, 2021).

    Raises ValueError if there are both a predictor and a stop-gradient, which need not collapse.
    """
    if predictor and stop_gradient:
        raise ValueError(
            "predictor, stop_gradient: together they prevent the collapse; leave out one of them"
        )
    a, decay = floats(augmentation, decay)
    if predictor:
        return (1 + a) - 1 / (1 + a) + decay
    return (1 if stop_gradient else 2) * a + decay


def direct_strength(
    augmentation: Numbers, decay: Numbers, boost: Numbers, target_ratio: Numbers = 1.0
) -> Float[Array, "..."]:
    """Return the eigenvalue (p+ / (1 + boost))^2 that all surviving modes of W W^T share under
    DirectPred.

    The predictor of DirectPred has p = sqrt(w^2) + boost * (the largest sqrt(w^2)), so all modes at
    p = p+ are equally strong (Tian, Chen, Ganguli, 2021).  The result is NaN beyond the
    `critical_decay`.
    """
    augmentation, decay, boost, target_ratio = floats(augmentation, decay, boost, target_ratio)
    _, stable = predictor_fixed_points(augmentation, decay, target_ratio)
    return (stable / (1 + boost)) ** 2


def predictor_imbalance(
    encoder: Float[Array, "features inputs"],
    predictor: Float[Array, "features features"],
    predictor_rate: Real[ArrayLike, ""] = 1.0,
) -> Float[Array, "features features"]:
    """Return W W^T - P^T P / alpha, which changes only by weight decay eta, as e^(-2 eta t).

    The law holds for any moments of the views, any target and any predictor (Tian, Chen, Ganguli,
    2021).
    """
    return encoder @ encoder.T - predictor.T @ predictor / predictor_rate


def alignment_rate(
    encoder: Float[Array, "features inputs"],
    predictor: Float[Array, "features features"],
    *,
    augmentation: Real[ArrayLike, ""],
    decay: Real[ArrayLike, ""] = 0.0,
    predictor_rate: Real[ArrayLike, ""] = 1.0,
    target_ratio: Real[ArrayLike, ""] = 1.0,
) -> Float[Array, ""]:
    """Return a lower bound on the rate at which a symmetric predictor comes to commute with the
    features' correlation.

    With F = W W^T, the commutator C = F P - P F and the symmetrised gradient of the predictor

        dC/dt = -(K C + C K),  K = (1 + a) (P^2 + alpha F / 2) - r P + 3 eta / 2.

    -d ln|C|/dt is therefore at least twice the smallest eigenvalue of K, which is returned (after
    Tian, Chen, Ganguli, 2021).
    """
    correlation = encoder @ encoder.T
    identity = jnp.eye(predictor.shape[0], dtype=predictor.dtype)
    stretch = (1 + augmentation) * (predictor @ predictor + predictor_rate * correlation / 2)
    k = stretch - target_ratio * predictor + 1.5 * decay * identity
    return 2 * jnp.linalg.eigvalsh(k)[0]


def _powers(depth, objective):
    """Return the (q, r) of da/dt = c a^q (1 - a^r / rho), a = w^(1/L)."""
    if objective == "jepa":
        return 2 * depth, jnp.ones_like(depth)
    if objective == "mae":
        return depth, depth + 1
    raise ValueError(f"objective: {objective!r} is unknown; pass 'jepa' or 'mae'")


class _Logistic(NamedTuple):
    """A mode as dx/dt = rate x^power (1 - x), with x = a^r / rho and w / (fixed strength) =
    x^root."""

    strength: Array
    start: Array
    rate: Array
    power: Array
    root: Array


def _logistic(strength, covariance, influence, start, depth, objective):
    """Return the mode that starts from `start` and is at `strength`, in its logistic variables."""
    check_positive(strength=strength, covariance=covariance, influence=influence)
    check_positive(start=start, depth=depth)
    numbers = floats(strength, covariance, influence, start, depth)
    w, c, rho, start, depth = jnp.broadcast_arrays(*numbers)
    q, r = _powers(depth, objective)
    x = w ** (r / depth) / rho
    x0 = start ** (r / depth) / rho
    rate = r * c * rho ** ((q - 1) / r)
    return _Logistic(x, x0, rate, 1 + (q - 1) / r, depth / r)
