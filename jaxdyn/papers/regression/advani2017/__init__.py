"""High-dimensional dynamics of generalization error in neural networks (Advani, Saxe, 2017).

A student of N weights learns P = alpha N noisy examples of a linear teacher by gradient flow, dw/dt
= X (y - X^T w), with inputs of variance 1/N.  Their spectrum (Marchenko, Pastur) fixes the errors
at any time: overtraining is worst at alpha = 1, fewer examples leave a subspace frozen, more leave
a gap above zero, and early stopping does what ridge does.  Nonlinear students overtrain most where
their size matches the data.  Errors are in units of the noise; flows of linear students and of
readouts are solved exactly, at all times at once, in float64.

The experiments stand in three files: linear students, those with fewer examples than weights, and
nonlinear students.
"""

from jaxdyn.papers import Reference
from jaxdyn.papers.regression.advani2017 import frozen_subspace, linear_students, nonlinear_students

__all__ = ["EXPERIMENTS", "REFERENCE"]

REFERENCE = Reference(
    title="High-dimensional dynamics of generalization error in neural networks",
    authors="Advani, Saxe",
    year=2017,
    arxiv="1710.03667",
    name="High-dimensional dynamics of generalisation error",
    reproduces="over-training, its peak at as many samples as inputs, early stopping",
)

EXPERIMENTS = (
    *linear_students.EXPERIMENTS,
    frozen_subspace.EXPERIMENT,
    *nonlinear_students.EXPERIMENTS,
)
