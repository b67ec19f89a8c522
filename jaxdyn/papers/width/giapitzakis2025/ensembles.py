"""Networks and ensembles of a few bits: Gaussian outputs, votes, and the union bound."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr

from jaxdyn import Claim, Domain, kernels, plot, sweep, train
from jaxdyn.claims import worst
from jaxdyn.losses import squared_error
from jaxdyn.papers import Experiment
from jaxdyn.theory.width import permutations

__all__ = ["EXPERIMENTS"]

# One network: its outputs are Gaussian.


def gaussian_outputs(
    *, bits=6, width=512, seeds=400, steps=(3, 30), learning_rate=18.0, sweep=sweep
):
    """Trained on unit vectors alone, wide networks answer all other inputs with Gaussian outputs,
    whose means have the right sign.

    Args:
        bits: number of bits k of an input.
        width: number of hidden units.
        seeds: number of networks.
        steps: numbers of steps of descent after which outputs are observed, increasing.
        learning_rate: learning rate of descent on the mean over examples.
    """
    check_task(bits, learning_rate)
    inputs, labels, truth = task(bits)
    runs = networks(bits, width, seeds, steps, learning_rate, sweep)
    with jax.enable_x64(True):
        form = partial(closed_form, truth * 1.0, learning_rate=learning_rate)
        forms = [form(float(n)) for n in (*steps, np.inf)]
        means, variances = map(np.stack, zip(*forms, strict=True))
        solve = dense_solution(inputs, labels)
        early = solve(list(steps), learning_rate=learning_rate)
        trained = solve([np.inf])
        solved = jax.tree.map(lambda *both: np.concatenate(both), early, trained)
    diagonal = np.diagonal(solved.covariance, axis1=1, axis2=2)
    error = max(worst(solved.mean, means), worst(diagonal, variances))
    spreads = [spread_of(covariance, bits) for covariance in solved.covariance[:-1]]
    runs["output_theory"] = (("time", "input", "bit"), means[:-1])
    runs["variance_theory"] = (("time", "input"), variances[:-1])
    runs["spread"] = ("time", spreads)
    return runs.assign(error_of_closed_form=error)


def check_task(bits, learning_rate):
    if not 2 <= bits <= 12:
        raise ValueError(f"bits: {bits}; pass 2 to 12, as there are 2^bits inputs")
    # The kernel of unit vectors is (a I + b 1 1^T) / k with b = 1/(2 pi) and a = 1 - b.
    b = 1 / (2 * np.pi)
    eigenvalue = (1 - b + bits * b) / bits
    largest = 2 * bits / eigenvalue
    if not 0 < learning_rate < largest:
        raise ValueError(f"learning_rate: {learning_rate}; pass one between 0 and {largest:.3g}")


def task(bits):
    """All inputs with more than one bit, normalised, and what the permutation makes of them and of
    the unit vectors."""
    masks = (np.arange(1, 2**bits)[:, None] >> np.arange(bits)) % 2
    masks = masks[masks.sum(1) > 1]
    norms = masks.sum(1, keepdims=True) ** 0.5
    order = np.random.RandomState(0).permutation(bits)
    return masks / norms, np.eye(bits)[:, order], masks[:, order]


def network(bits, width):
    """The network, its initialisation and its kernels at infinite width."""
    return kernels.serial(kernels.dense(width), kernels.relu(), kernels.dense(bits))


def networks(bits, width, seeds, steps, learning_rate, sweep):
    """Sweep networks; beside their outputs stands the truth."""
    settings = {"bits": bits, "width": width, "steps": steps, "learning_rate": learning_rate}
    experiment = partial(simulate, **settings)
    runs = sweep(experiment, seeds=seeds, dims={"output": ("input", "bit")})
    _, _, truth = task(bits)
    runs["truth"] = (("input", "bit"), truth)
    runs = runs.assign_coords(weight=("input", truth.sum(1)))
    return runs.assign_attrs(width=width)


def simulate(key, *, bits, width, steps, learning_rate):
    """The outputs of a trained network on all inputs."""
    inputs, labels, _ = task(bits)
    net = network(bits, width)
    start, _ = kernels.finite_width.draw(key, net, (bits,))
    batch = jnp.eye(bits), jnp.asarray(labels, jnp.float32)
    inputs = jnp.asarray(inputs, jnp.float32)

    def stream(key, step):
        return batch

    def observe(state):
        return {"output": net.apply(state.params, inputs)}

    field = jax.grad(squared_error(net.apply))
    optimizer = optax.sgd(learning_rate)
    return train(field, optimizer, stream, start, times=np.asarray(steps), observe=observe)


def dense_solution(inputs, labels):
    """Return a function from steps to mean and covariance of the outputs at infinite width, by a
    dense solve with kernels."""
    k = len(labels)
    points = jnp.concatenate([jnp.eye(k), jnp.asarray(inputs)])
    nngp, ntk = kernels.gram(network(k, 1), points, get=("nngp", "ntk")).values()
    modes = kernels.predict.modes(ntk[:k, :k])
    tests = {"nngp_test": nngp[k:, :k], "nngp_test_test": nngp[k:, k:]}
    solve = partial(kernels.predict.ensemble, modes, nngp[:k, :k], labels, **tests)
    return partial(solve, ntk_test=ntk[k:, :k])


@jax.jit
def closed_form(truth, steps, learning_rate):
    """Mean and variance of the outputs, from the two eigenvalues of the kernel."""
    votes = permutations.votes(truth.shape[1], truth.sum(1), steps, learning_rate)
    mean = jnp.where(truth > 0, votes.on[:, None], votes.off[:, None])
    return mean, votes.variance


def spread_of(covariance, copies):
    """What a mean square of correlated normals exceeds one by with a chance of 1/1000 (Laurent,
    Massart, 2000)."""
    scale = np.sqrt(np.diagonal(covariance))
    x = np.log(1000)
    correlation = covariance / scale / scale[:, None]
    weights = np.linalg.eigvalsh(correlation) / len(scale) / copies
    typical = 2 * np.sqrt(x * copies) * np.linalg.norm(weights)
    return typical + 2 * x * weights.max()


def closed_form_error(runs):
    return runs.error_of_closed_form


def mean_score(runs):
    """The root mean square z-score of means over networks, less what a bias of 3/width adds to it,
    over what chance exceeds once in a thousand times."""
    deviation = (runs.variance_theory / runs.sizes["seed"]) ** 0.5
    scores = (runs.output.mean("seed") - runs.output_theory) / deviation
    bias = 3 / runs.attrs["width"] / deviation
    size = (scores**2).mean(["input", "bit"]) ** 0.5
    allowed = (bias**2).mean("input") ** 0.5
    relative = (size - allowed) / (1 + runs.spread) ** 0.5
    return relative.max(skipna=False)


def variance_deviation(runs):
    ratios = runs.output.var("seed", ddof=1).mean("bit") / runs.variance_theory
    return worst(ratios.groupby("weight").mean(), 1.0)


def variance_error(runs):
    """Three standard errors of a variance, and 10/width."""
    copies = runs.sizes["bit"] * runs.sizes["seed"]
    return 3 * (2 / copies) ** 0.5 + 10 / runs.attrs["width"]


def by_weight(values, runs, bit):
    """The mean over the outputs that should be `bit`, for each number of ones in the input."""
    chosen = values.broadcast_like(runs.truth).where(runs.truth == bit)
    return chosen.groupby("weight").mean(...)


def plot_gaussian_outputs(runs, figure):
    """Draw means and variances of the outputs by the number of ones in the input."""
    means, variances = plot.panels(figure, "Signs of the means are right", "Variances")
    last = runs.isel(time=-1)
    for colour, bit in zip(plot.COLOURS, (1, 0), strict=False):
        simulated = by_weight(last.output.mean("seed"), last, bit)
        theory = by_weight(last.output_theory, last, bit)
        label = f"output should be {bit}"
        weights = simulated.weight
        plot.points_and_line(means, weights, simulated, theory, colour=colour, label=label)
    means.axhline(0, color="0.6", linewidth=0.8)
    # Room for the legend above the curves.
    means.set(xlabel="ones in the input", ylabel="mean output", ylim=(None, 1.4))
    plot.legend(means)
    simulated = last.output.var("seed", ddof=1).mean("bit")
    simulated = simulated.groupby("weight").mean()
    theory = last.variance_theory.groupby("weight").mean()
    plot.points_and_line(variances, theory.weight, simulated, theory)
    variances.set(xlabel="ones in the input", ylabel="variance of an output")
    plot.legend(variances)


# Ensembles: the sign of the mean of several networks is right more often.


def votes(
    *,
    bits=6,
    width=512,
    seeds=400,
    steps=(3, 30),
    learning_rate=18.0,
    members=(1, 2, 5, 10, 20, 50),
    sweep=sweep,
):
    """The more networks vote, the more often they get an input right, as often as the Gaussian
    outputs say.

    Args:
        bits: number of bits k of an input.
        width: number of hidden units.
        seeds: number of networks, which are split into ensembles.
        steps: numbers of steps of descent, of which the last counts.
        learning_rate: learning rate of descent on the mean over examples.
        members: numbers of networks in an ensemble.
    """
    check_task(bits, learning_rate)
    if min(members) < 1 or max(members) > seeds:
        raise ValueError(f"members: {members}; pass numbers from 1 to the {seeds} seeds")
    _, _, truth = task(bits)
    runs = networks(bits, width, seeds, steps, learning_rate, sweep)
    output = runs.output.isel(time=-1).transpose("seed", "input", "bit").values
    sizes = np.array(members, float)
    with jax.enable_x64(True):
        failure = jax.jit(permutations.log_failure)(bits, truth.sum(1)[:, None], sizes[None])
        wrong = np.asarray(jnp.exp(failure))
    votes = xr.Dataset(coords={"members": list(members)})
    votes["right"] = ("members", [exactness(output, size, truth) for size in members])
    votes["right_theory"] = ("members", 1 - wrong.mean(0))
    return votes.assign(ensembles=seeds // votes.members)


def exactness(output, members, truth):
    """How often the mean signs of disjoint groups of networks are those of an input, over all
    inputs."""
    whole = len(output) // members * members
    groups = output[:whole].reshape(-1, members, *truth.shape)
    right = (groups.mean(1) > 0) == (truth > 0)
    return right.all(2).mean()


def accuracy_score(runs):
    """The largest deviation of a frequency, in standard errors of as many ensembles on one
    input."""
    chance = runs.right_theory
    error = (chance * (1 - chance) / runs.ensembles) ** 0.5
    return worst((runs.right - chance) / error)


def plot_votes(runs, figure):
    """Draw how often ensembles are right."""
    (axes,) = plot.panels(figure, "More networks are right more often", height=3)
    plot.beside(axes, runs, "right", x="members")
    axes.set(xlabel="networks in the ensemble", ylabel="frequency of the exact output")
    axes.set(xscale="log", ylim=(0, 1.05))
    plot.legend(axes, simulated="networks", predicted="Gaussian outputs")


# All inputs at once: the union bound over outputs is sharp.


def all_inputs(
    *, bits=6, members=(50, 100, 150, 200, 300, 400, 600, 800), draws=20_000, sweep=sweep
):
    """The chance that an ensemble gets all inputs right is one minus the union bound over outputs,
    where that is small.

    Outputs are drawn from the Gaussian process of trained networks of infinite width.

    Args:
        bits: number of bits k of an input.
        members: numbers of networks in an ensemble.
        draws: number of draws of all outputs.
    """
    # Trained to the end networks are the same at any rate.
    rate = 1.0
    check_task(bits, rate)
    inputs, labels, truth = task(bits)
    ensembles = np.array(members, float)

    def union(size):
        return permutations.log_failures(bits, size, bits)[0]

    with jax.enable_x64(True):
        mean, _ = closed_form(truth * 1.0, np.inf, rate)
        covariance = np.asarray(dense_solution(inputs, labels)([np.inf]).covariance)[0]
        all_right = jax.jit(permutations.all_right, static_argnames="draws")
        key = jax.random.key(0)
        right = all_right(key, np.asarray(mean), covariance, truth, ensembles, draws=draws)
        failures = jnp.exp(jax.jit(jax.vmap(union))(ensembles))
    runs = xr.Dataset(coords={"members": list(members)}, attrs={"draws": draws})
    runs["right"] = ("members", np.asarray(right))
    runs["failures"] = ("members", np.asarray(failures))
    return runs


def union_score(runs):
    """How far the probability lies from one minus the bound, over four standard errors and, above
    it, the square of a bound below 1/2."""
    draws = runs.attrs["draws"]
    variance = (runs.right * (1 - runs.right)).clip(1 / draws)
    error = 4 * (variance / draws) ** 0.5
    above = runs.right - (1 - runs.failures)
    too_low = -above / error
    too_high = (above / (error + runs.failures**2)).where(runs.failures < 0.5, 0)
    return float(np.maximum(too_low, too_high).max())


def plot_all_inputs(runs, figure):
    """Draw the chance of all inputs and what the bound leaves of it."""
    (axes,) = plot.panels(figure, "The union bound is sharp where it is small", height=3)
    bound = (1 - runs.failures).clip(0)
    plot.points_and_line(axes, runs.members, runs.right, bound)
    axes.set(xlabel="networks in the ensemble", ylabel="chance of all inputs right")
    plot.legend(axes, simulated="Gaussian process", predicted="union bound")


def enough_networks(runs):
    return runs.sizes["seed"] >= 20


NETWORKS = Domain("there are 20 networks or more", enough_networks)
CLOSED_FORM = Claim(
    "the closed form of mean and variance is the dense solve with the kernels, trained and after "
    "finite steps",
    "largest difference between a mean or variance and the dense solve",
    closed_form_error,
    below=1e-10,
)
MEANS = Claim(
    "networks have the means of the Gaussian limit at every time, to their sampling error and "
    "3/width, the variance of their kernel",
    "largest root mean square z-score less that bias, over what chance exceeds once in a thousand",
    mean_score,
    below=1,
    when=NETWORKS,
)
VARIANCES = Claim(
    "networks have the variances of the Gaussian limit at every weight, to three standard errors "
    "and 10/width",
    "largest relative deviation of a variance",
    variance_deviation,
    below=variance_error,
    when=NETWORKS,
)
ACCURACY = Claim(
    "ensembles get an input right as often as Gaussian outputs say",
    "largest deviation of a frequency, in standard errors",
    accuracy_score,
    below=3,
)
UNION = Claim(
    "the union bound over outputs is sharp: the chance of all inputs at once is one minus it, to "
    "its square",
    "largest deviation, over four standard errors and the square of the bound",
    union_score,
    below=1,
)
WIDER = {"bits": 8, "width": 8192, "seeds": 2000, "steps": (3, 60), "learning_rate": 32.0}
WIDER_VOTES = WIDER | {"members": (1, 2, 5, 10, 20, 50, 100, 200)}
FIVE_BITS = {"bits": 5, "seeds": 200, "steps": (1, 20), "learning_rate": 10.0}
SEVEN_BITS = {"bits": 7, "width": 256, "seeds": 100, "steps": (30,)}
SEVEN_BITS_VOTES = SEVEN_BITS | {"members": (2, 10)}
FIVE_BITS_DRAWS = {"bits": 5, "draws": 1000}
SEVEN_BITS_DRAWS = {"bits": 7, "draws": 2000}
MORE_MEMBERS = (100, 200, 300, 400, 500, 600, 800, 1000)
MORE_DRAWS = {"bits": 8, "members": MORE_MEMBERS, "draws": 100_000}

GAUSSIAN_OUTPUTS = Experiment(
    gaussian_outputs,
    claims=(CLOSED_FORM, MEANS, VARIANCES),
    plot=plot_gaussian_outputs,
    paper=WIDER,
    others=(FIVE_BITS, SEVEN_BITS),
)
VOTES = Experiment(
    votes,
    claims=(ACCURACY,),
    plot=plot_votes,
    paper=WIDER_VOTES,
    others=(FIVE_BITS, SEVEN_BITS_VOTES),
)
ALL_INPUTS = Experiment(
    all_inputs,
    claims=(UNION,),
    plot=plot_all_inputs,
    paper=MORE_DRAWS,
    others=(FIVE_BITS_DRAWS, SEVEN_BITS_DRAWS),
)
EXPERIMENTS = (GAUSSIAN_OUTPUTS, VOTES, ALL_INPUTS)
