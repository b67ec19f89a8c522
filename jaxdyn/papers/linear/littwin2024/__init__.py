"""How JEPA avoids noisy features: the implicit bias of deep linear self-distillation networks
(Littwin et al., 2024).

A deep linear encoder W with one layer V on top descends E|V W x - y|^2 / 2 (MAE: V decodes) or E|V
W x - W y|^2 / 2 with W y held constant (JEPA: V predicts).  A feature is known by its covariance c
= E y x and by its influence rho = E y x / E x^2.  Both objectives learn features one by one, with
large c first; JEPA prefers influential ones among them, the more so the deeper its encoder, and MAE
does not.  Times are those of every layer moving at unit rate, all float64.

The preference is one of finite starts: JEPA's times at equal c differ by a share of order
start^(1/L), which vanishes with the start, though slowly where L is large.

The experiments stand in two files, several features and two features; a third has the times of
theory that they share.
"""

from jaxdyn.papers import Reference
from jaxdyn.papers.linear.littwin2024 import several_features, two_features

__all__ = ["EXPERIMENTS", "REFERENCE"]

REFERENCE = Reference(
    title="How JEPA Avoids Noisy Features: The Implicit Bias of Deep Linear Self Distillation "
    "Networks",
    authors="Littwin, Saremi, Advani, Thilak, Nakkiran, Huang, Susskind",
    year=2024,
    arxiv="2407.03475",
    name="How JEPA avoids noisy features",
    reproduces="deep self-distillation: which features are learned first, and when",
)

EXPERIMENTS = (*several_features.EXPERIMENTS, *two_features.EXPERIMENTS)
