"""How fast zeroth-order rules learn: exact second moments of their estimates, for a linear map
learned online.

A student y = W x of M outputs and N inputs descends |W* x - W x|^2 / 2 on one fresh x ~ N(0, I) per
step.  All rules follow the gradient on average; they differ in the factor kappa of E |estimate|^2 =
kappa |W* - W|^2:

    E |W* - W|^2  <-  (1 - 2 eta + eta^2 kappa) E |W* - W|^2 + (noise of finite perturbations),

so that eta = 1/kappa is best and 2/kappa is the limit of stability.  The rules are "gradient",
"node" (perturbed outputs), "weight" (perturbed weights; also the forward gradient) and "rademacher"
(weights perturbed by random signs).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdyn._numbers import Numbers, floats
from jaxdyn.types import nearest

__all__ = ["RULES", "contraction", "estimate_variance", "noise_floor"]

RULES = ("gradient", "node", "weight", "rademacher")


def estimate_variance(rule: str, outputs: Numbers, inputs: Numbers) -> Float[Array, "..."]:
    """Return kappa, the second moment of a rule's estimate over |W* - W|^2.

    kappa is N + 2 for the gradient itself.  For Gaussian perturbations kappa is (N + 2) (M + 2)
    with perturbed nodes and (N + 2) (M N + 2) with perturbed weights; for random signs of weights
    kappa is (N + 2) M N.  Perturbing weights is slower than gradient descent by the number of
    weights, perturbing nodes by the number of nodes (Werfel, Xie, Seung, 2005).

    Raises ValueError for an unknown rule.

    >>> [int(estimate_variance(rule, 4, 6)) for rule in RULES]
    [8, 48, 208, 192]
    """
    m, n = floats(outputs, inputs)
    weights = m * n
    factors = {"gradient": jnp.ones_like(weights), "node": m + 2}
    factors |= {"weight": weights + 2, "rademacher": weights}
    if rule not in factors:
        raise ValueError(f"rule: {rule!r} is unknown; {nearest(rule, RULES)}")
    return (n + 2) * factors[rule]


def contraction(
    rule: str, learning_rate: Numbers, outputs: Numbers, inputs: Numbers
) -> Float[Array, "..."]:
    """Return the factor 1 - 2 eta + eta^2 kappa by which a step multiplies E |W* - W|^2.

    The factor does not depend on the size of the perturbations.

    Raises ValueError for an unknown rule.
    """
    kappa = estimate_variance(rule, outputs, inputs)
    eta = jnp.asarray(learning_rate, kappa.dtype)
    return 1 - 2 * eta + eta**2 * kappa


def noise_floor(
    rule: str, sigma: Numbers, learning_rate: Numbers, outputs: Numbers, inputs: Numbers
) -> Float[Array, "..."]:
    """Return the final E |W* - W|^2 under one-sided perturbations of standard deviation `sigma`;
    inf if unstable.

    The floor is eta sigma^2 / (4 (2 - eta kappa)) times N M (M + 2) (M + 4) for nodes, and times N
    (N + 2) [M (M + 2) (M + 4) + M^2 (M + 2) (N - 1)] for weights.  The floor is 0 for the gradient.
    Antithetic perturbations have no floor either, as the loss is quadratic.

    Raises ValueError for a rule whose floor is not known.
    """
    m, n = floats(outputs, inputs)
    # E |p|^4 |xi|^2 of a Gaussian perturbation xi whose part p moves the outputs: the share of p
    # in |xi|^2, and the share of the other parts.
    along = m * (m + 2) * (m + 4)
    across = m**2 * (m + 2) * (n - 1)
    sizes = {"gradient": 0 * n, "node": n * along, "weight": n * (n + 2) * (along + across)}
    if rule not in sizes:
        raise ValueError(f"rule: the floor of {rule!r} is not known; {nearest(rule, sizes)}")
    eta = jnp.asarray(learning_rate, m.dtype)
    kappa = estimate_variance(rule, m, n)
    stable = eta * kappa < 2
    margin = jnp.where(stable, 2 - eta * kappa, 1)
    floor = eta * sigma**2 / 4 * sizes[rule] / margin
    return jnp.where(stable, floor, jnp.inf)
