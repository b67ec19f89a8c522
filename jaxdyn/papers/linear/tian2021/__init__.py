"""Understanding self-supervised learning dynamics without contrastive pairs (Tian, Chen, Ganguli,
2021).

A linear encoder W and predictor P learn to predict from one view x of an input what the encoder, or
an average W_a of it, makes of another view y: E|P W x - W_a y|^2 / 2, W_a y held constant, with
weight decay eta.  Views have the covariances E x x^T = (1 + a) I and E y x^T = I.  Predictor and
stop-gradient together prevent the collapse of W, for modes that start beyond p- and converge to p+
= (1 + sqrt(1 - 4 eta (1 + a))) / (2 (1 + a)), all in float64.

The experiments stand in two files: what survives and what collapses from aligned starts and without
parts of the network, and what happens from random starts; a third has the networks.
"""

from jaxdyn.papers import Reference
from jaxdyn.papers.linear.tian2021 import random_starts, survival

__all__ = ["EXPERIMENTS", "REFERENCE"]

REFERENCE = Reference(
    title="Understanding self-supervised learning dynamics without contrastive pairs",
    authors="Tian, Chen, Ganguli",
    year=2021,
    arxiv="2102.06810",
    name="Self-supervised learning without contrast",
    reproduces="why BYOL and SimSiam do not collapse, and when they do",
)

EXPERIMENTS = (*survival.EXPERIMENTS, *random_starts.EXPERIMENTS)
