"""Times of learning in theory, and the steps of methods that they suggest."""

import jax
import jax.numpy as jnp

from jaxdyn import RK4
from jaxdyn.theory.linear import self_distillation as theory

__all__ = ["OBJECTIVES", "fixed_steps", "half_times", "longest_time"]

OBJECTIVES = ("jepa", "mae")


def longest_time(share, covariance, influence, start, depth, objective):
    """Return the time at which the last feature has learned this `share`, but for those that start
    above theirs."""
    target = share * theory.fixed_strength(influence, depth, objective)
    times = theory.time_of_strength(target, covariance, influence, start, depth, objective)
    return jnp.max(jnp.where(jnp.isfinite(times), times, 0.0))


def fixed_steps(step, covariance, influence, depth, objective):
    """Return the method of fixed steps, `step` in units of the fastest relaxation of a learned
    network's layers."""
    fixed = theory.fixed_strength(influence, depth, objective)
    fastest = jnp.max((depth + 1) * covariance / influence * fixed**2)
    return RK4(step / fastest)


def half_times(objective, depth, start, *, covariance, influence):
    """Times to half of what is learned, their leading orders, and the standard error that one
    example gives them.

    It gives it through c and v = E x^2, whose estimates have the covariance ((v^2 + c^2, 2 c v),
    (2 c v, 2 v^2)) / n.
    """
    half = theory.fixed_strength(influence, depth, objective) / 2
    c = covariance
    v = covariance / influence

    def time(c, v, half):
        return theory.time_of_strength(half, c, c / v, start, depth, objective)

    gradient = jax.grad(time, argnums=(0, 1))
    of_c, of_v = jax.vmap(gradient)(c, v, half)
    variance = of_c**2 * (v**2 + c**2) + 2 * of_v**2 * v**2 + 4 * of_c * of_v * c * v
    error = jnp.sqrt(variance)
    leading = theory.escape_time(c, influence, start, depth, objective)
    return {"half_time": time(c, v, half), "leading": leading, "error": error}
