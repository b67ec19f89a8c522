"""Deep random networks: what the signal does in them, and how soon they learn."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdyn import Claim, crossing_time, plot, sweep, train
from jaxdyn._numbers import check, check_positive
from jaxdyn.claims import Domain, standard_error, worst
from jaxdyn.losses import covariance_loss
from jaxdyn.models import deep_linear, product_exponents, product_to_depth, propagate
from jaxdyn.papers import Experiment
from jaxdyn.tasks import linear_teacher
from jaxdyn.theory import linear

__all__ = ["EXPERIMENTS"]

INITIALISATIONS = ("gaussian", "orthogonal")
WORDS = ["Gaussian", "orthogonal"]

# Linear networks: products of Gaussian matrices.


def gaussian_products(*, depth=1000, seeds=4, sweep=sweep):
    """Gaussian layers stretch a signal in some directions and shrink it in most of the others.

    The singular values of a product of D random matrices grow or decay as exp(D times a Lyapunov
    exponent), so that no depth keeps all directions of the signal.

    Args:
        depth: number of layers, each of 32 units.
        seeds: number of networks.
    """
    check_positive(depth=depth)
    dims = {"exponent": "index", "spread": "index"}
    with jax.enable_x64(True):
        runs = sweep(partial(gaussian_product, depth=depth), seeds=seeds, dims=dims)
    runs.attrs["depth"] = depth
    return runs.assign_coords(index=np.arange(1, runs.sizes["index"] + 1))


def gaussian_product(key, *, depth, width=32):
    """Lyapunov exponents of a random product, and how far those of one product spread.

    The diagonal entry R_ii of a layer's QR decomposition is a chi variable, whose logarithm has a
    variance known in closed form.
    """

    def gaussian(key):
        return deep_linear((width, width)).init(key)[0]

    exponent = product_exponents(key, gaussian, width=width, depth=depth)
    degrees_of_freedom = jnp.arange(width, 0, -1)
    variance = jax.scipy.special.polygamma(1, degrees_of_freedom / 2) / 4
    theory = linear.lyapunov_exponents(width)
    spread = jnp.sqrt(variance / depth)
    return {"exponent": exponent, "exponent_theory": theory, "spread": spread}


def exponent_z_score(runs):
    """Deviation of the mean exponents from theory, in standard errors that theory knows too."""
    deviation = (runs.exponent - runs.exponent_theory).mean("seed")
    return worst(deviation / runs.spread * runs.sizes["seed"] ** 0.5)


def plot_gaussian_products(runs, figure):
    """Draw all exponents beside theory."""
    (axes,) = plot.panels(figure, "Gaussian layers keep few directions of a signal", height=3.0)
    plot.beside(axes, runs, "exponent", x="index", points=32)
    axes.axhline(0, color="0.6", linewidth=0.8, linestyle="--", label="signal of constant size")
    axes.set(xlabel="direction, in order of growth", ylabel="Lyapunov exponent (per layer)")
    plot.legend(axes)


# Nonlinear networks at the edge of chaos.


def tanh_networks(*, width=100, gains=(1.0, 1.05), seeds=4, sweep=sweep):
    """Deep tanh networks keep a signal's size, and only orthogonal ones keep its directions.

    The networks have 50 layers.  At a gain slightly above 1 mean field theory predicts the sizes of
    the signal and of the Jacobian; its singular values are concentrated near this size only where
    the layers are orthogonal.

    Args:
        width: number of units of each layer.
        gains: factors of the weights; at 1 a linear layer keeps the signal's size.
        seeds: number of networks.
    """
    check_positive(gains=np.array(gains))
    check("width", width, lambda value: value >= 2, "two units or more")
    axes = {"gain": gains, "orthogonal": (0, 1)}
    experiment = partial(tanh_signal, width=width)
    with jax.enable_x64(True):
        runs = sweep(experiment, axes, seeds=seeds, dims={"mean_square": "moment"})
    runs.attrs["width"] = width
    return runs.assign_coords(moment=["signal", "Jacobian"])


def tanh_signal(key, gain, orthogonal, *, width, depth=50):
    """Mean squares of the signal and of the singular values of the Jacobian of a deep tanh network.

    `concentration` is the share of singular values that are within 4 times their root mean square.
    """
    models = [deep_linear((width, width), scale=gain, init=init) for init in INITIALISATIONS]
    gaussian, haar = (model.init for model in models)

    def draw(key):
        return jnp.where(orthogonal, haar(key)[0], gaussian(key)[0])

    signs = jnp.where(jnp.arange(width) % 2 == 0, 1.0, -1.0)
    signal, jacobian = propagate(key, draw, signs, depth=depth)
    squares = jnp.linalg.svd(jacobian, compute_uv=False) ** 2
    mean_squares, growth = linear.tanh_mean_field(gain, depth)
    logarithm = jnp.log(squares / squares.mean())
    near = jnp.abs(logarithm) < 2 * np.log(4)
    sizes = jnp.array([jnp.mean(signal**2), squares.mean()])
    theory = jnp.array([mean_squares[-1], growth.prod()])
    return {"mean_square": sizes, "mean_square_theory": theory, "concentration": near.mean()}


def mean_field_deviation(runs):
    """Deviation of orthogonal networks from mean field theory, in units of what is allowed.

    Five percent are allowed for the finite width, and three standard errors for few networks.
    """
    orthogonal = runs.sel(orthogonal=1)
    deviation = orthogonal.mean_square - orthogonal.mean_square_theory
    allowed = 0.05 * orthogonal.mean_square_theory.mean("seed")
    return worst(deviation.mean("seed") / (allowed + 3 * standard_error(deviation)))


def concentration_ratio(runs):
    share = runs.concentration.mean(("seed", "gain"))
    return share.sel(orthogonal=0) / share.sel(orthogonal=1)


def plot_tanh_networks(runs, figure):
    """Draw the sizes beside mean field theory, and the shares of singular values near them."""
    sizes, shares = plot.panels(
        figure,
        "Orthogonal networks keep mean field's size",
        "Gaussian ones lose most directions",
        height=3.2,
    )
    orthogonal = runs.sel(orthogonal=1)
    for colour, moment in zip(plot.COLOURS, runs.moment.values, strict=False):
        moments = orthogonal.sel(moment=moment)
        plot.beside(sizes, moments, "mean_square", x="gain", colour=colour, label=moment)
    sizes.set(xlabel="gain", ylabel="mean square", yscale="log")
    plot.legend(sizes, below=True, ncols=2)
    shares_by_gain = runs.concentration.mean("seed")
    for colour, kind, name in zip(plot.COLOURS[2:], (0, 1), WORDS, strict=False):
        share = shares_by_gain.sel(orthogonal=kind)
        shares.plot(share.gain, share, "o-", color=colour, label=name)
    shares.set(xlabel="gain", ylabel="share of directions", ylim=(0, 1.05))
    plot.legend(shares, simulated="", predicted="", below=True)


# Learning from these initial weights.


def initial_weights(*, depths=(2, 8, 16), rates=(0.35, 0.5, 0.7, 1.0), seeds=4, sweep=sweep):
    """Orthogonal weights learn as fast at any depth, Gaussian ones only in shallow networks.

    The task is a linear map of 10 inputs.  A network has learned when its loss is below 5 % of that
    of the zero map; each network learns at the best of the learning rates.

    Args:
        depths: numbers of weight matrices.
        rates: learning rates, multiplied by the depth.
        seeds: number of networks.
    """
    check_positive(depths=np.array(depths), rates=np.array(rates))
    layers = [10] * (max(depths) + 1)
    axes = {"depth": depths, "rate": rates, "orthogonal": (0, 1), "draw": np.arange(seeds)}
    with jax.enable_x64(True):
        # Drawn outside of the sweep: random numbers for every layer are what takes long to compile
        # there.
        networks = jnp.array([initial_networks(layers, draw) for draw in range(seeds)])
        # The weights are rotation invariant, so the task may be diagonal.
        task = jnp.linspace(0.5, 2, 10)
        runs = sweep(partial(descent_from, networks=networks, strengths=task), axes)
    # The best rate of each network, and the median over networks, some of which start close to a
    # saddle.
    learned = crossing_time(runs.loss, 0.05).min("rate")
    runs["steps"] = learned.fillna(runs.sizes["time"]).median("draw")
    return runs


def initial_networks(layers, draw):
    """Gaussian and orthogonal weights that keep the signal's size on average."""
    key = jax.random.key(draw)
    return [deep_linear(layers, init=init).init(key) for init in INITIALISATIONS]


def descent_from(depth, rate, orthogonal, draw, *, networks, strengths, steps=600):
    """Relative loss of descent at the learning rate `rate / depth` from random weights."""
    moments = linear_teacher(jnp.diag(strengths))
    loss = covariance_loss(partial(product_to_depth, depth=depth))

    def observe(state):
        loss_of_zero_map = jnp.trace(moments.yy)
        return {"loss": 2 * loss(state.params, moments) / loss_of_zero_map}

    def stream(key, step):
        return moments

    weights = list(networks[draw, orthogonal])
    optimizer = optax.sgd(rate / depth)
    times = np.arange(steps + 1)
    return train(jax.grad(loss), optimizer, stream, weights, times=times, observe=observe)


def slowest_orthogonal(runs):
    return runs.steps.sel(orthogonal=1).max()


def fastest_deep_gaussian(runs):
    deep = runs.steps.sel(orthogonal=0).where(runs.depth >= 8)
    return deep.min()


def plot_initial_weights(runs, figure):
    """Draw losses of the deepest networks, and the steps that learning takes by depth."""
    deepest = runs.isel(depth=-1, rate=0).loss
    losses, steps = plot.panels(
        figure,
        f"Gaussian networks of {int(deepest.depth)} layers stay behind",
        "Orthogonal networks learn at any depth",
    )
    for colour, kind, name in zip(plot.COLOURS[2:], (0, 1), WORDS, strict=False):
        for loss in deepest.sel(orthogonal=kind).transpose("draw", ...):
            losses.plot(loss.time, loss, color=colour, linewidth=1)
        median = runs.steps.sel(orthogonal=kind)
        steps.plot(median.depth, median, "o-", color=colour, label=name)
    losses.set(xlabel="step", ylabel="relative loss", yscale="log", ylim=(1e-4, 10))
    steps.set(xlabel="number of layers", ylabel="median steps to learn")
    steps.legend()


DEEP_ENOUGH = Domain("a network has eight layers or more", lambda runs: runs.depth.max() >= 8)
WIDE_AND_SEVERAL = Domain(
    "there are two networks or more and they are at least as wide as deep, 50 units",
    lambda runs: runs.sizes["seed"] > 1 and runs.width >= 50,
)

EXPERIMENTS = (
    Experiment(
        gaussian_products,
        claims=(
            Claim(
                "Gaussian layers spread a signal by the Lyapunov exponents of Gaussian matrices, "
                "each within 4.5 standard errors",
                "largest deviation of a mean exponent from theory, in standard errors",
                exponent_z_score,
                below=4.5,
            ),
        ),
        plot=plot_gaussian_products,
        paper={"seeds": 16},
        others=({"depth": 600},),
    ),
    Experiment(
        tanh_networks,
        claims=(
            Claim(
                "signals and Jacobians of orthogonal tanh networks have the sizes of mean field "
                "theory, to 5 % and three standard errors",
                "largest deviation of a mean square from mean field theory, divided by 5 % of it "
                "and three standard errors",
                mean_field_deviation,
                below=1,
                when=WIDE_AND_SEVERAL,
            ),
            Claim(
                "Gaussian layers leave at most half as many of the Jacobian's singular values near "
                "their root mean square as orthogonal layers do",
                "share of singular values within 4 times the root mean square, Gaussian / "
                "orthogonal",
                concentration_ratio,
                below=0.5,
            ),
        ),
        plot=plot_tanh_networks,
        paper={"seeds": 16, "width": 200},
        others=({"gains": (0.95, 1.05)},),
    ),
    Experiment(
        initial_weights,
        claims=(
            Claim(
                "half of all orthogonal networks, of any depth, learn within 60 steps",
                "largest median number of steps of orthogonal networks",
                slowest_orthogonal,
                below=60,
            ),
            Claim(
                "half of all Gaussian networks of eight layers or more do not learn within 100 "
                "steps",
                "smallest median number of steps of Gaussian networks of eight layers or more",
                fastest_deep_gaussian,
                above=100,
                when=DEEP_ENOUGH,
            ),
        ),
        plot=plot_initial_weights,
        paper={"seeds": 16, "depths": (2, 4, 8, 16, 32)},
        others=({"depths": (3, 10), "seeds": 6},),
    ),
)
