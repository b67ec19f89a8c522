"""Early-learning regularization prevents memorization of noisy labels (Liu et al., 2020).

A linear classifier of two clusters, x = y* v + sigma z, is trained on labels of which a fraction is
wrong.  At first its gradient points along v and it predicts the true labels, of the mislabelled
examples too; later it memorises the wrong ones and forgets.  For the square loss theory has the
fractions at all times.  A penalty that holds predictions to their running average stops
memorisation if it is strong; a weak one only delays it.  All in float64.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.special import ndtr

from jaxdyn import Claim, Trajectory, crossing_time, log_times, sweep, train
from jaxdyn.models import deep_linear
from jaxdyn.papers import Reference
from jaxdyn.rules import early_learning
from jaxdyn.tasks import two_clusters
from jaxdyn.theory.regression import given_data, memorisation

__all__ = ["REFERENCE"]

TITLE = "Early-Learning Regularization Prevents Memorization of Noisy Labels"
REFERENCE = Reference(
    title=TITLE,
    authors="Liu, Niles-Weed, Razavian, Fernandez-Granda",
    year=2020,
    arxiv="2007.00151",
    name="Early-learning regularisation",
    reproduces="memorisation of wrong labels at all times, and what prevents it",
)
QUICK = dict(
    samples=400,
    ratio=0.9,
    flipped=0.2,
    sigmas=(0.25, 0.5),
    seeds=4,
    noisy_samples=200,
    noisy_sigma=0.25,
    noisy_seeds=2,
    strengths=(0.0, 1.0, 3.0, 7.0),
    decays=(0.7, 0.9),
    learning_rate=1.0,
    steps=2000,
)
LARGE = {
    "samples": 1000,
    "sigmas": (0.15, 0.25, 0.5),
    "seeds": 16,
    "noisy_samples": 500,
    "learning_rate": 0.5,
}
SIZES = {"quick": QUICK, "paper": QUICK | LARGE | {"noisy_seeds": 4, "steps": 4000}}
GROUPS = ("memorised", "clean", "test")


def fractions(margins, along, norm, mixture, sigma):
    """Return the fraction of wrong examples predicted as labelled, of clean and of new ones
    predicted right."""
    right = margins * mixture.labels > 0
    wrong = mixture.wrong

    def share(group):
        return jnp.sum(right & group) / jnp.sum(group)

    return {"memorised": share(wrong), "clean": share(~wrong), "test": ndtr(along / (sigma * norm))}


def theory_of(predicted):
    """Name the predicted fractions as theory."""
    return {f"{name}_theory": getattr(predicted, name) for name in GROUPS}


def first_step(draw, index, *, mixtures, sigmas, flipped):
    """The first step of descent from zero, along which all losses agree."""
    mixture = jax.tree.map(lambda a: a[draw, index], mixtures)
    sigma = jnp.array(sigmas)[index]
    step = mixture.labels @ mixture.x
    norm = jnp.linalg.norm(step)
    cosine, predicted = memorisation.first_step(sigma, flipped, *mixture.x.shape[::-1])
    seen = fractions(mixture.x @ step, step[0], norm, mixture, sigma)
    return {"cosine": step[0] / norm, "cosine_theory": cosine} | seen | theory_of(predicted)


def square_flow(draw, index, *, mixtures, sigmas, flipped, times):
    """Gradient flow of the square loss from zero, solved for all times at once."""
    mixture = jax.tree.map(lambda a: a[draw, index], mixtures)
    sigma = jnp.array(sigmas)[index]
    samples, inputs = mixture.x.shape
    weights = given_data.flow(times, mixture.x, mixture.labels)

    def see(w):
        return fractions(mixture.x @ w, w[0], jnp.linalg.norm(w), mixture, sigma)

    predicted = memorisation.flow(times, sigma, flipped, inputs, samples)
    return Trajectory(times, jax.vmap(see)(weights) | theory_of(predicted))


def noisy_descent(draw, strength, decay, *, mixtures, sigma, learning_rate, steps):
    """Descent of the cross-entropy with early-learning regularisation; strength 0 is without."""
    mixture = jax.tree.map(lambda a: a[draw], mixtures)
    samples, inputs = mixture.x.shape
    batch = mixture.x, ((mixture.labels + 1) / 2).astype(int), jnp.arange(samples)
    rates = {"params": optax.sgd(learning_rate), "state": optax.sgd(1.0)}
    optimizer = optax.partition(rates, {"params": "params", "state": "state"})
    field = early_learning(deep_linear((inputs, 2)).apply, strength, decay)

    def observe(state):
        w = jnp.subtract(*state.params["params"][0][::-1])
        return fractions(mixture.x @ w, w[0], jnp.linalg.norm(w), mixture, sigma)

    start = {"params": [jnp.zeros((2, inputs))], "state": jnp.zeros((samples, 2))}
    return train(
        field,
        optimizer,
        lambda key, step: batch,
        start,
        times=log_times(steps, 30)[1:],
        observe=observe,
    )


def run(
    *,
    sweep=sweep,
    samples,
    ratio,
    flipped,
    sigmas,
    seeds,
    noisy_samples,
    noisy_sigma,
    noisy_seeds,
    strengths,
    decays,
    learning_rate,
    steps,
):
    """Train on wrong labels by each loss; return theory beside the square loss."""

    def draw(seed, n, sigma):
        return two_clusters(jax.random.key(seed), n, round(ratio * n), sigma=sigma, flipped=flipped)

    def stack(trees):
        return jax.tree.map(lambda *a: jnp.stack(a), *trees)

    with jax.enable_x64(True):
        mixtures = stack(
            [stack([draw(seed, samples, sigma) for sigma in sigmas]) for seed in range(seeds)]
        )
        axes = {"draw": np.arange(seeds), "index": np.arange(len(sigmas))}
        times = np.geomspace(0.01, 3000, 24)
        options = {"mixtures": mixtures, "sigmas": sigmas, "flipped": flipped}
        first = sweep(partial(first_step, **options), axes)
        square = sweep(partial(square_flow, **options, times=times), axes)
        noisy = stack([draw(seed, noisy_samples, noisy_sigma) for seed in range(noisy_seeds)])
        options = {
            "mixtures": noisy,
            "sigma": noisy_sigma,
            "learning_rate": learning_rate,
            "steps": steps,
        }
        axes = {"draw": np.arange(noisy_seeds), "strength": strengths, "decay": decays}
        noisy = sweep(partial(noisy_descent, **options), axes)

    def name(runs):
        return runs.rename(draw="seed", index="sigma").assign_coords(sigma=list(sigmas))

    first = name(first)
    square = name(square)
    noisy = noisy.rename(draw="seed")
    # Standard errors: of a fraction q of n_g examples in each run q (1 - q)/n_g, and what its
    # weights share, of the order of q (1 - q)/n; of the cosine those of the step's length along and
    # across v.
    for runs in (first, square):
        for group, share in zip(GROUPS, (1 / flipped, 1 / (1 - flipped), 0), strict=True):
            q = runs[f"{group}_theory"]
            runs[f"{group}_sem"] = np.sqrt(q * (1 - q) * (share + 2) / samples / seeds)
        runs["rounding"] = 2 / samples
    c = 1 - 2 * flipped
    cosine = first.cosine_theory
    relative = first.sigma**2 / c**2 + 1 / (2 * ratio)
    first["cosine_sem"] = cosine * (1 - cosine**2) * np.sqrt(relative / samples / seeds)
    return {"first": first, "square": square, "noisy": noisy}


def _error(runs, name):
    """The mean over seeds against theory, in units of 3 standard errors and twice the share of one
    example."""
    error = abs((runs[name] - runs[f"{name}_theory"]).mean("seed", skipna=False))
    return (error / (3 * runs[f"{name}_sem"] + runs.rounding).mean("seed")).max(skipna=False)


def _half_error(r):
    """The same of the time at which half of the wrong labels are memorised, through the slope of
    the fraction there."""
    seen, theory, sem = (
        r["square"][f"memorised{part}"].mean("seed") for part in ("", "_theory", "_sem")
    )
    moved = np.log(crossing_time(seen, 0.5) / crossing_time(theory, 0.5))
    slope = theory.differentiate("time") * theory.time
    return (abs(moved) * slope.max("time") / (3 * sem.max("time"))).max(skipna=False)


def _last(r, strength, name="memorised"):
    """At the end of training, for the regularisations chosen."""
    runs = r["noisy"][name].mean("seed").isel(time=-1)
    return runs.where(strength(runs.strength))


def _half_time(r, strength):
    runs = r["noisy"].memorised.mean("seed")
    return crossing_time(runs.where(strength(runs.strength)), 0.5)


def NONE(s):
    return s == 0


def WEAK(s):
    return (s > 0) & (s <= 1)


def STRONG(s):
    return s >= 3


CLAIMS = (
    Claim(
        "the first step is as far along v as predicted",
        "deviation",
        lambda r: _error(r["first"], "cosine"),
        below=1,
    ),
    Claim(
        "it predicts the true labels of mislabelled examples as often as predicted",
        "deviation",
        lambda r: _error(r["first"], "memorised"),
        below=1,
    ),
    Claim("and of new ones", "deviation", lambda r: _error(r["first"], "test"), below=1),
    Claim(
        "the square loss memorises wrong labels as predicted at all times",
        "deviation",
        lambda r: _error(r["square"], "memorised"),
        below=1,
    ),
    Claim("half of them at the predicted time", "deviation", _half_error, below=1),
    Claim(
        "it keeps clean ones as predicted",
        "deviation",
        lambda r: _error(r["square"], "clean"),
        below=1,
    ),
    Claim(
        "and forgets new ones as predicted",
        "deviation",
        lambda r: _error(r["square"], "test"),
        below=1,
    ),
    Claim(
        "cross-entropy ends by memorising all wrong labels",
        "deviation",
        lambda r: 1 - _last(r, NONE).mean(),
        below=0.02,
    ),
    Claim(
        "it was right on new inputs before: errors grow tenfold from their best time on",
        "deviation",
        lambda r: (
            (1 - r["noisy"].test.mean("seed").max("time").sel(strength=0))
            / (1 - _last(r, NONE, "test"))
        ).max(),
        below=0.1,
    ),
    Claim(
        "early-learning regularisation of strength 3 or more prevents memorisation",
        "deviation",
        lambda r: _last(r, STRONG).max(),
        below=0.02,
    ),
    Claim(
        "and ends within 0.02 of the best accuracy on new inputs",
        "deviation",
        lambda r: r["noisy"].test.mean("seed").max() - _last(r, STRONG, "test").min(),
        below=0.02,
    ),
    Claim(
        "of strength 1 or less it prevents memorisation too",
        "deviation",
        lambda r: _last(r, WEAK).max(),
        below=0.02,
        holds=False,
    ),
    Claim(
        "no: it delays it at least twofold",
        "deviation",
        lambda r: _half_time(r, NONE).max() / _half_time(r, WEAK).min(),
        below=0.5,
    ),
)


def plot(results, axes):
    """Draw what the square loss memorises beside theory and, in the inset, what the regularisation
    does about it."""
    from jaxdyn.plot import curves

    square = results["square"].isel(sigma=0)

    def stack(ending):
        return (
            square[[f"{group}{ending}" for group in GROUPS]]
            .to_array("examples")
            .assign_coords(examples=["wrong, as labelled", "clean, as labelled", "new, right"])
        )

    curves(stack(""), stack("_theory"), hue="examples", spread="std", axes=axes, log="x")
    axes.set(xlabel="flow time t (square loss)", ylabel="fraction predicted", ylim=(-0.05, 1.05))
    inset = axes.inset_axes((0.14, 0.24, 0.34, 0.44))
    noisy = results["noisy"].memorised.isel(decay=0)
    curves(noisy, hue="strength", axes=inset, log="x", points=8)
    inset.get_legend().set(loc="upper left", bbox_to_anchor=(0, 1))
    inset.set_xlabel("steps (regularised)", fontsize="small")
    inset.set_ylabel("memorised", fontsize="small")
    return axes
