"""Learning rules that are not gradients of a loss: sign-diverse plasticity and zeroth-order
estimates."""

from jaxdyn.theory.plasticity import curl, perturbation

__all__ = [
    "curl",
    "perturbation",
]
