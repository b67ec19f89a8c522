"""Clusters with wrong labels, and what a classifier makes of them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr

from jaxdyn._numbers import check, check_positive
from jaxdyn.tasks import two_clusters

__all__ = ["GROUPS", "check_clusters", "fractions", "over_clusters", "stack", "theory_of"]

GROUPS = {
    "memorised": "wrong, as labelled",
    "clean": "clean, as labelled",
    "test": "new, as is true",
}


def check_clusters(examples, inputs_per_example, flipped):
    check_positive(examples=examples, inputs_per_example=inputs_per_example)
    check_positive(flipped=flipped)
    check("flipped", flipped, lambda share: share < 0.5, "a share below a half")


def stack(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def fractions(margins, along, norm, mixture, sigma):
    """Return the fraction of wrong examples predicted as labelled, of clean ones predicted right,
    and of new ones."""
    right = margins * mixture.labels > 0
    wrong = mixture.wrong

    def share(group):
        return jnp.sum(right & group) / jnp.sum(group)

    test = ndtr(along / (sigma * norm))
    return {"memorised": share(wrong), "clean": share(~wrong), "test": test}


def theory_of(predicted):
    """Name the predicted fractions as theory."""
    return {f"{name}_theory": getattr(predicted, name) for name in GROUPS}


def over_clusters(experiment, examples, inputs_per_example, flipped, sigmas, seeds, sweep):
    """Sweep over draws of clusters and their widths, and add standard errors."""
    inputs = round(inputs_per_example * examples)

    def draw(seed, sigma):
        key = jax.random.key(seed)
        return two_clusters(key, examples, inputs, sigma=sigma, flipped=flipped)

    def of_all_widths(seed):
        return stack([draw(seed, sigma) for sigma in sigmas])

    index = np.arange(len(sigmas))
    axes = {"draw": np.arange(seeds), "index": index}
    with jax.enable_x64(True):
        mixtures = stack([of_all_widths(seed) for seed in range(seeds)])
        options = {"mixtures": mixtures, "sigmas": sigmas, "flipped": flipped}
        runs = sweep(partial(experiment, **options), axes)
    runs = runs.rename(draw="seed", index="sigma")
    runs = runs.assign_coords(sigma=list(sigmas))
    numbers = {"examples": examples, "inputs_per_example": inputs_per_example, "flipped": flipped}
    return with_standard_errors(runs.assign_attrs(numbers))


def with_standard_errors(runs):
    """Add standard errors of the means over all seeds, in theory.

    A fraction q of n_g examples varies by q (1 - q)/n_g in each run, and by the part that its
    weights share, of the order of q (1 - q)/n.
    """
    examples = runs.attrs["examples"]
    seeds = runs.sizes["seed"]
    flipped = runs.attrs["flipped"]
    shares = {"memorised": 1 / flipped, "clean": 1 / (1 - flipped), "test": 0}
    for group, share in shares.items():
        q = runs[f"{group}_theory"]
        variance = q * (1 - q) * (share + 2) / examples
        runs[f"{group}_error"] = np.sqrt(variance / seeds)
    return runs
