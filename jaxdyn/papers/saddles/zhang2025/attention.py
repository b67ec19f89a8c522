"""Attention: heads are of higher order in their weights, and one after another blows up."""

import jax
import jax.numpy as jnp

from jaxdyn import Claim, Domain, models, plot, sweep
from jaxdyn.losses import covariance_loss, squared_error
from jaxdyn.papers import Experiment
from jaxdyn.papers.saddles.zhang2025.course import (
    LEVEL_DISTANCE,
    SADDLES_PASSED,
    Network,
    active_units,
    course_legend,
    courses,
    draw_course,
    level_distance,
    number_of_saddle,
    passes_saddles,
    reach,
)
from jaxdyn.tasks import in_context_moments, in_context_regression
from jaxdyn.theory import saddles

__all__ = ["EXPERIMENTS"]


def attention_heads(*, variances=(1.0, 0.6, 0.35), heads=6, seeds=2, records=1200, sweep=sweep):
    """Attention heads learn in-context regression one after another; softmax attention first
    pauses where its largest head would by itself.

    Heads of rank 1 see prompts of 32 examples, exactly averaged; softmax attention has three heads
    of the scales 0.05, 0.005 and 0.0005, and 100 prompts of 12 examples of the first two inputs.

    Args:
        variances: variances of the inputs, two at least.
        heads: number of heads of linear attention.
        seeds: number of networks.
        records: number of steps of the integration, each of which is recorded.
    """
    if len(variances) < 2 or min(variances) <= 0:
        raise ValueError(f"variances: {variances}; pass two or more > 0")
    variances = tuple(sorted(variances, reverse=True))
    options = {"sweep": sweep, "seeds": seeds, "records": records, "variances": variances}
    with jax.enable_x64(True):
        exact = courses(linear_attention, {}, heads=heads, **options)
        softmax = courses(softmax_attention, {"single": (0, 1)}, **options)
    return {"linear": exact, "softmax": softmax.assign_coords(single=[False, True])}


def linear_attention(key, *, variances, heads):
    """Heads of linear attention with exact averages over prompts of 32 examples."""
    s = jnp.array(variances)
    k_weights = jax.random.split(key, 7)[3]
    model = models.in_context_attention(s.size, heads, rank=1, scale=0.05)
    weights = model.init(k_weights)
    levels, _ = saddles.attention_plateaus(s, 32)
    loss = covariance_loss(models.attention_product)
    moments = in_context_moments(jnp.diag(s), 32)
    width = active_units(models.attention_heads)
    # Heads grow at rates of the variance's square.
    return Network(weights, loss, moments, width, 80 / s[-1] ** 2, levels)


def softmax_attention(key, *, single, variances):
    """Three heads of softmax attention of different scales, or the largest alone."""
    s = jnp.array(variances)
    keys = jax.random.split(key, 7)
    scale = jnp.array([0.05, 0.005, 0.0005])
    model = models.in_context_attention(2, 3, rank=1, softmax=True, scale=scale)
    # Heads of zero keys and queries just average the prompt, and stay so.
    kept = jnp.where(single, jnp.array([1, 0, 0]), 1)[:, None, None]
    start = model.init(keys[4])
    of_heads = {name: kept * value for name, value in start.items() if name != "v"}
    weights = start | of_heads
    *inputs, targets = in_context_regression(keys[5], 100, 12, jnp.diag(s[:2]))
    loss = squared_error(model.apply)
    width = active_units(models.attention_heads)
    return Network(weights, loss, (tuple(inputs), targets), width, 100 / s[1] ** 2)


def linear_attention_distance(results):
    return level_distance(results["linear"])


def single_head_distance(results):
    """How far the loss at the first saddle is from that of the largest head at the same time."""
    softmax = results["softmax"]
    together = softmax.sel(single=False)
    apart = abs(softmax.loss.sel(single=True) - together.loss)
    first = together.saddle & (number_of_saddle(together) == 1)
    return float((apart / reach(together)).where(first).max())


def linear_passes_saddles(results):
    return passes_saddles(results["linear"])


def softmax_passes_saddles(results):
    return passes_saddles(results["softmax"].sel(single=False))


def plot_attention_heads(results, figure):
    """Draw a course of linear attention and one of softmax attention."""
    exact, softmax = plot.panels(
        figure, "Linear attention: head by head", "Softmax: largest head first"
    )
    draw_course(exact, results["linear"].isel(seed=0))
    run = results["softmax"].isel(seed=0)
    alone = run.sel(single=True)
    draw_course(softmax, run.sel(single=False))
    time = alone.share * alone.duration
    softmax.plot(time, alone.loss, "--", color=plot.COLOURS[2], zorder=1)
    # For the legend of both panels.
    exact.plot([], [], "--", color=plot.COLOURS[2], label="largest head")
    course_legend(figure, exact)


HEADS_PAUSE = Claim(
    "at its saddles linear attention has the losses of the best attention of fewer heads",
    LEVEL_DISTANCE,
    linear_attention_distance,
    below=1,
    when=Domain(SADDLES_PASSED.words, linear_passes_saddles),
)
LARGEST_HEAD = Claim(
    "softmax attention first passes the saddle of its largest head alone, where that is ten times "
    "the next",
    "largest difference between the loss at the first saddle and that of the largest head alone, "
    "in units of what the gradient leaves open",
    single_head_distance,
    below=1,
    when=Domain(SADDLES_PASSED.words, softmax_passes_saddles),
)

HEADS = Experiment(
    attention_heads,
    claims=(HEADS_PAUSE, LARGEST_HEAD),
    plot=plot_attention_heads,
    paper={"seeds": 8, "records": 4000},
    others=({"variances": (0.9, 0.5), "heads": 4}, {"variances": (1.0, 0.5, 0.3)}),
)
EXPERIMENTS = (HEADS,)
