"""Early-learning regularization prevents memorization of noisy labels (Liu et al., 2020).

A linear classifier of two clusters, x = y* v + sigma z, is trained on labels of which a fraction is
wrong.  At first its gradient points along v and it predicts the true labels, of the mislabelled
examples too; later it memorises the wrong ones and forgets.  For the square loss theory has the
fractions at all times.  A penalty that holds predictions to their running average stops
memorisation if it is strong; a weak one only delays it.  All in float64.

The experiments stand in two files, what theory predicts and what a penalty does; a third has the
clusters.
"""

from jaxdyn.papers import Reference
from jaxdyn.papers.regression.liu2020 import early_learning_penalty, predictions

__all__ = ["EXPERIMENTS", "REFERENCE"]

REFERENCE = Reference(
    title="Early-Learning Regularization Prevents Memorization of Noisy Labels",
    authors="Liu, Niles-Weed, Razavian, Fernandez-Granda",
    year=2020,
    arxiv="2007.00151",
    name="Early-learning regularisation",
    reproduces="memorisation of wrong labels at all times, and what prevents it",
)

EXPERIMENTS = (*predictions.EXPERIMENTS, *early_learning_penalty.EXPERIMENTS)
