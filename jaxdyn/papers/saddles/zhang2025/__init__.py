"""Saddle-to-saddle dynamics explains a simplicity bias across neural network architectures (Zhang,
Saxe, Latham, 2025).

Networks f(x) = sum_i v_i phi(x; u_i) of neurons, kernels or attention heads learn from small
weights in stages: near each saddle on the way they compute what a narrower network can at best, and
each stage adds an effective unit.  Where layers are linear in u_i directions grow as e^(s t), and
the data decide which is next; where they are of higher order units blow up one by one, and the
initial weights decide.  Losses are exact averages, but for softmax and kinks; all is float64, as
the losses of small weights differ by less than float32 resolves.
"""

from jaxdyn.papers import Reference
from jaxdyn.papers.saddles.zhang2025 import attention, linear, units

__all__ = ["EXPERIMENTS", "REFERENCE"]

REFERENCE = Reference(
    title="Saddle-to-saddle dynamics explains a simplicity bias across neural network architectures",
    authors="Zhang, Saxe, Latham",
    year=2025,
    arxiv="2512.20607",
    name="Saddle-to-saddle dynamics",
    reproduces="plateaus and drop times of eight architectures, and why some learn by directions, others by units",
)

EXPERIMENTS = (*linear.EXPERIMENTS, *units.EXPERIMENTS, *attention.EXPERIMENTS)
