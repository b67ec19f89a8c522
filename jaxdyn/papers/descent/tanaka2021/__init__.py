"""Noether's learning dynamics: role of symmetry breaking in neural networks (Tanaka, Kunin, 2021).

A symmetry of the loss leaves every gradient g orthogonal to its generator, and gradient flow
conserves the charge of that symmetry.  Finite steps v <- b v - a (g + k theta), theta <- theta + v,
of learning rate a, momentum b and weight decay k, move the charge by laws that are exact step by
step.  They are seen here for softmax layers (translation), for weights before a normalisation
(scale) and for ReLU units (rescaling), in float64.  Weight decay before a normalisation is an
adaptive method, RMSProp on the sphere, and its weights come to turn by a fixed angle a step.
"""

from jaxdyn.papers import Reference
from jaxdyn.papers.descent.tanaka2021 import adam, charges, sphere, turning

__all__ = ["EXPERIMENTS", "REFERENCE"]

REFERENCE = Reference(
    title="Noether's learning dynamics: role of symmetry breaking in neural networks",
    authors="Tanaka, Kunin",
    year=2021,
    arxiv="2105.02716",
    name="Noether's learning dynamics",
    reproduces="what symmetries conserve, and exact laws of how steps, momentum and decay move it",
)

EXPERIMENTS = (
    charges.EXPERIMENT,
    adam.EXPERIMENT,
    sphere.EXPERIMENT,
    turning.EXPERIMENT,
)
