"""Learning rules that are no gradient: sign-diverse plasticity and zeroth-order estimates."""

from jaxdyn.theory.plasticity import curl, perturbation

__all__ = [
    "curl",
    "perturbation",
]
