"""Exact learning of permutations for nonzero binary inputs (Giapitzakis, Back de Luca, Fountoulakis, 2025).

Two-layer ReLU networks f = n^(-1/2) sum_j a_j relu(w_j . x / sqrt(k)) learn a permutation of k bits from the k unit
vectors.  In the limit of large width the outputs on any other input are
Gaussian, and the sign of their mean is right: enough networks vote for the right answer on all 2^k inputs.  One input
needs an ensemble of order k ln k.  For all of them the paper proves that order k^2 suffices; the sharp number of the
union bound over outputs is 6 c_2 k ln k, set by the inputs of weight two, and k^(3/2) ln k beyond k of 10^4.
Times are steps of descent on the mean over examples, whose learning rate is k times that of the paper's sum.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from jaxdyn import Claim, kernels, sweep, train
from jaxdyn.papers import Reference
from jaxdyn.rules import squared_error
from jaxdyn.theory import permutations

TITLE = (
    "Exact learning of permutations for nonzero binary inputs with logarithmic training size and quadratic ensemble "
    "complexity"
)
REFERENCE = Reference(TITLE, "Giapitzakis, Back de Luca, Fountoulakis", 2025, "2502.16763", "kernels")
QUICK = dict(bits=6, width=512, seeds=400, steps=(3, 30), learning_rate=18.0, members=(1, 5, 20, 50), risk=0.05,
             all_members=(50, 100, 200, 400, 800), draws=4000,
             sizes=(8, 16, 64, 256, 1024, 4096, 32768))  # fmt: skip
PAPER = {"bits": 8, "width": 8192, "seeds": 2000, "steps": (3, 60), "learning_rate": 32.0, "draws": 50_000,
         "members": (1, 10, 50, 200), "all_members": (100, 200, 400, 600, 1000),
         "sizes": (8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384, 65536, 262144, 1048576)}  # fmt: skip
SIZES = {"quick": QUICK, "paper": PAPER}


def network(bits, width):
    """The network, its initialisation and its kernels at infinite width."""
    return kernels.serial(kernels.dense(width), kernels.relu(), kernels.dense(bits))


def task(bits):
    """All inputs with more than one bit, normalised, and what the permutation makes of them and of the unit vectors."""
    masks = (np.arange(1, 2**bits)[:, None] >> np.arange(bits)) % 2
    masks = masks[masks.sum(1) > 1]
    order = np.random.RandomState(0).permutation(bits)
    return masks / masks.sum(1, keepdims=True) ** 0.5, np.eye(bits)[:, order], masks[:, order]


def simulate(key, *, bits, width, steps, learning_rate):
    """The outputs of a trained network on all inputs."""
    inputs, labels, _ = task(bits)
    net = network(bits, width)
    # One draw of all parameters, which are standard normal, compiles ten times faster than one for each.
    size, unravel = ravel_pytree(net.init(jax.random.key(0), (bits,))[1])
    start = unravel(jax.random.normal(key, size.shape, jnp.float32))
    batch = jnp.eye(bits), jnp.asarray(labels, jnp.float32)
    inputs = jnp.asarray(inputs, jnp.float32)
    observe = lambda state: {"output": net.apply(state.params, inputs)}
    field, stream = jax.grad(squared_error(net.apply)), lambda *_: batch
    return train(field, optax.sgd(learning_rate), stream, start, times=np.asarray(steps), observe=observe)


def gaussian(inputs, labels, times, **options):
    """Mean and covariance of the outputs at infinite width, by a dense solve with the kernels of the architecture."""
    k, x = len(labels), jnp.concatenate([jnp.eye(len(labels)), jnp.asarray(inputs)])
    kernel = kernels.gram(network(k, 1), x, get=("nngp", "ntk"))
    nngp, ntk = kernel["nngp"], kernel["ntk"]
    tests = dict(ntk_test=ntk[k:, :k], nngp_test=nngp[k:, :k], nngp_test_test=nngp[k:, k:])
    return kernels.predict.ensemble(ntk[:k, :k], nngp[:k, :k], labels, times, **tests, **options)


@jax.jit
def closed_form(truth, steps=np.inf, learning_rate=0.0):
    """The same mean, and the variance, from the two eigenvalues of the kernel."""
    votes = permutations.votes(truth.shape[1], truth.sum(1), steps, learning_rate)
    return jnp.where(truth > 0, votes.on[:, None], votes.off[:, None]), votes.variance


def exactness(output, members, truth):
    """How often the mean signs of disjoint groups of networks are those of an input, over all inputs."""
    groups = lambda size: output[: len(output) // size * size].reshape(-1, size, *truth.shape).mean(1)
    return [((groups(size) > 0) == (truth > 0)).all(2).mean() for size in members]


def all_right(mean, covariance, truth, members, draws):
    """The probability that every input is right, drawn from the Gaussian process; outputs are independent."""
    spread = np.linalg.cholesky(covariance + 1e-12 * np.eye(len(mean)))
    noise = np.random.default_rng(0).standard_normal((draws, len(mean))) @ spread.T
    right = [[(((m + noise / size**0.5) > 0) == (t > 0)).all(1).mean() for m, t in zip(mean.T, truth.T, strict=True)]
             for size in members]  # fmt: skip
    return np.prod(right, 1)


@partial(jax.jit, static_argnames="largest")
def sharp(k, risk, largest):
    """Ensemble sizes for one input of weight two and for all, the share of weight two in the failures, and laws."""
    every = permutations.ensemble_size_all(k, risk, largest=largest)
    total, by_weight = jax.lax.map(lambda one: permutations.log_failures(*one, largest), (k, every))
    votes = permutations.votes(k, 2.0)
    noise = votes.variance / votes.off**2
    # What inputs of weight two alone need, in one output each: the quantile of a Gaussian.
    quantile = lambda tail: noise * jax.scipy.special.ndtri(tail) ** 2
    return {
        "one": permutations.ensemble_size(k, 2.0, risk),
        "all": every,
        "share": jnp.exp(by_weight[:, 0] - total),
        "one_law": quantile(-jnp.expm1(jnp.log1p(-risk) / (k - 2))),
        "all_law": quantile(2 * risk / (k * (k - 1) * (k - 2))),
        "crude": 2 * noise * (k * np.log(2) + jnp.log(k / risk)),
    }


def run(*, sweep=sweep, bits, width, seeds, steps, learning_rate, members, risk, all_members, draws, sizes):
    """Train networks, solve for their limit, count how many must vote."""
    import xarray as xr

    inputs, labels, truth = task(bits)
    settings = dict(steps=steps, learning_rate=learning_rate)
    experiment = partial(simulate, bits=bits, width=width, **settings)
    runs = sweep(experiment, seeds=seeds, dims={"output": ("input", "bit")})
    output = runs.output.isel(time=-1).transpose("seed", "input", "bit").values
    fine = np.unique(np.round(np.geomspace(1, max(members), 30)))
    with jax.enable_x64(True):
        forms = [closed_form(truth * 1.0, float(n), learning_rate) for n in (*steps, np.inf)]
        means, variances = (np.stack(parts) for parts in zip(*forms, strict=True))
        solved = gaussian(inputs, labels, np.asarray(steps), learning_rate=learning_rate)
        solved, trained = jax.device_get((solved, gaussian(inputs, labels, np.inf)))
        wrong = jnp.exp(jax.jit(permutations.log_failure)(bits, truth.sum(1)[:, None], np.r_[members, fine][None]))
        expected, smooth = np.split(1 - np.asarray(wrong).mean(0), [len(members)])
        counts = jax.device_get(sharp(np.asarray(sizes, float), risk, max(sizes)))
        union = jax.jit(jax.vmap(lambda n: jnp.exp(permutations.log_failures(bits, n, bits)[0])))
        failures = np.asarray(union(np.asarray(all_members, float)))
        limit = permutations.noise_ratio(2.0).item(), permutations.near_full_coefficient()
    every = all_right(trained.mean, trained.covariance, truth, all_members, draws)
    dense = np.concatenate([solved.mean, trained.mean[None]]) - means
    diagonal = np.diagonal(np.concatenate([solved.covariance, trained.covariance[None]]), axis1=1, axis2=2)
    nets = {
        "truth": (("input", "bit"), truth),
        "output_theory": (("time", "input", "bit"), means[:-1]),
        "variance_theory": (("time", "input"), variances[:-1]),
        "spread": ("time", [_spread(covariance, bits) for covariance in solved.covariance]),
        "dense": max(abs(dense).max(), abs(diagonal - variances).max()),
        "width": width, "seeds": seeds, "draws": draws,
    }  # fmt: skip
    of_members = lambda names, members: xr.Dataset({k: ("members", v) for k, v in names.items()}, {"members": members})
    return {
        "nets": runs.assign_coords(weight=("input", truth.sum(1))).assign(nets),
        "votes": of_members({"right": exactness(output, members, truth), "right_theory": expected}, list(members)),
        "smooth": of_members({"right": smooth}, fine),
        "all": of_members({"right": every, "failures": failures}, list(all_members)),
        "sizes": xr.Dataset({k: ("bits", v) for k, v in counts.items()}, {"bits": list(sizes)}).assign(
            noise_ratio=limit[0], near_full=limit[1]),
    }  # fmt: skip


def _spread(covariance, copies):
    """A bound that the mean square of correlated standard normals exceeds by one with a chance of 1/1000.

    2 sqrt(x) |w| + 2 x max(w), x = ln 1000, for eigenvalues w that sum to one (Laurent, Massart, 2000).
    """
    scale = np.sqrt(np.diagonal(covariance))
    weights = np.linalg.eigvalsh(covariance / scale / scale[:, None]) / len(scale) / copies
    x = np.log(1000)
    return 2 * np.sqrt(x * copies) * np.linalg.norm(weights) + 2 * x * weights.max()


def _scores(nets):
    """The root mean square of the z-scores of means over networks, less what a bias of 3/width adds to it."""
    deviation = (nets.variance_theory / nets.seeds) ** 0.5
    z = (nets.output.mean("seed") - nets.output_theory) / deviation
    square = lambda a: (a**2).mean([d for d in a.dims if d != "time"])
    return (square(z) ** 0.5 - square(3 / nets.width / deviation) ** 0.5) / (1 + nets.spread) ** 0.5


def _variances(nets):
    """The variance over networks of each weight, over that of the Gaussian."""
    ratio = nets.output.var("seed", ddof=1).mean("bit") / nets.variance_theory
    return ratio.groupby("weight").mean()


def _accuracy(r):
    p, groups = r["votes"].right_theory, r["nets"].seeds // r["votes"].members
    return (abs(r["votes"].right - p) / (3 * (p * (1 - p) / groups) ** 0.5)).max(skipna=False)


def _exponents(sizes, name):
    """The local exponents of a number of networks in k."""
    return np.diff(np.log(sizes[name])) / np.diff(np.log(sizes.bits))


def _linearithmic(sizes):
    ratio = sizes.one / (2 * sizes.noise_ratio * sizes.bits * np.log(sizes.bits))
    return max(np.diff(ratio).max(), 1 - ratio.min())


def _joint(r):
    """How far the probability lies from one minus the bound, over three standard errors and the bound's square."""
    right, failures = r["all"].right, r["all"].failures
    error = 3 * ((right * (1 - right)).clip(1 / r["nets"].draws) / r["nets"].draws) ** 0.5
    below = (1 - failures - right) / error
    return np.maximum(below, np.where(failures < 0.5, (right - 1 + failures) / (error + failures**2), 0)).max()


def _near_full(sizes):
    law = sizes.near_full * sizes.bits**1.5 * np.log(sizes.bits)
    error = abs(sizes["all"] / law - 1) * np.log(sizes.bits)
    return error.where(sizes.share < 0.01).max()


CLAIMS = (
    Claim("the closed form of mean and variance is the dense solve with the kernels, trained and after finite steps",
          lambda r: r["nets"].dense, 1e-10),
    Claim("networks have these means at every time, to their sampling error and 3/width, the variance of their kernel",
          lambda r: _scores(r["nets"]).max(skipna=False), 1),
    Claim("and these variances at every weight, to three standard errors and 10/width",
          lambda r: abs(_variances(r["nets"]) - 1).max(skipna=False),
          lambda r: 3 * (2 / (r["nets"].sizes["bit"] * r["nets"].seeds)) ** 0.5 + 10 / r["nets"].width),
    Claim("ensembles get an input right as often as the Gaussian says, to three standard errors", _accuracy, 1),
    Claim("one input of weight two needs the quantile of one of its outputs that should be zero",
          lambda r: abs(r["sizes"].one / r["sizes"].one_law - 1).max(skipna=False), 1e-5),
    Claim("its number over 2 c_2 k ln k falls towards one: one input is linearithmic",
          lambda r: _linearithmic(r["sizes"]), 1e-6),
    Claim("all inputs need no more than order k^2 networks",
          lambda r: _exponents(r["sizes"], "all").max() - 2, 0),
    Claim("and no less: the local exponent comes within 1/4 of two",
          lambda r: abs(_exponents(r["sizes"], "all") - 2).min(), 0.25, holds=False),
    Claim("the k^2 comes from one signal-to-noise ratio for all 2^k inputs, to order ln(k)/k",
          lambda r: abs(_exponents(r["sizes"], "crude")[-1] - 2),
          lambda r: 10 * float(np.log(r["sizes"].bits[-2]) / r["sizes"].bits[-2])),
    Claim("where inputs of weight two make up the failures, their quantile is the number: 6 c_2 k ln k",
          lambda r: (abs(r["sizes"]["all"] / r["sizes"].all_law - 1) - (1 - r["sizes"].share)).where(
              r["sizes"].share > 0.99).max(), 1e-9),
    Claim("where they do not, inputs with few zeros set it: C k^(3/2) ln k, to 2/ln k",
          lambda r: _near_full(r["sizes"]), 2),
    Claim("the union bound over outputs is sharp: the chance of all inputs at once is one minus it, to its square",
          _joint, 1),
)  # fmt: skip


def plot(results, axes):
    """Draw accuracy against ensemble size; inset, the sizes that k bits need and the outputs of each weight."""
    nets, votes, smooth, every, sizes = (results[name] for name in ("nets", "votes", "smooth", "all", "sizes"))
    axes.plot(smooth.members, smooth.right, "C0", label="one input: theory")
    axes.plot(votes.members, votes.right, "C0o", label="one input: networks")
    axes.plot(every.members, (1 - every.failures).clip(0), "C1", label="all inputs: union bound")
    axes.plot(every.members, every.right, "C1s", label="all inputs: Gaussian process")
    axes.set(xlabel="networks in the ensemble", ylabel="probability of the exact output", xscale="log", ylim=(0, 2.05))
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.legend(fontsize="x-small", loc="lower right")
    left, right = axes.inset_axes([0.1, 0.62, 0.36, 0.36]), axes.inset_axes([0.62, 0.62, 0.36, 0.36])
    for name, style, label in (("crude", "k:", "$k^2$ (bound)"), ("all", "C1", "all inputs"), ("all_law", "C1--", None),
                               ("one", "C0", "one input")):  # fmt: skip
        left.loglog(sizes.bits, sizes[name], style, label=label)
    left.set(xlabel="bits k", ylabel="networks needed")
    last, weights = nets.isel(time=-1), np.unique(nets.weight)
    for on, colour in ((True, "C2"), (False, "C3")):
        where = last.truth > 0 if on else last.truth == 0
        by_weight = lambda a, keep=where: a.where(keep).groupby("weight").mean(...).reindex(weight=weights)
        bar = (by_weight(last.output.var("seed")) ** 0.5).values
        right.errorbar(weights, by_weight(last.output.mean("seed")), bar, fmt="o", color=colour, markersize=3)
        mean, bar = by_weight(last.output_theory), by_weight(last.variance_theory.broadcast_like(last.truth)) ** 0.5
        right.plot(weights, mean, color=colour, label=f"output {int(on)}")
        right.fill_between(weights, mean - bar, mean + bar, color=colour, alpha=0.2)
    right.set(xlabel="ones in the input", ylabel="output")
    for inset in (left, right):
        inset.legend(fontsize=5)
        inset.xaxis.label.set_size("x-small")
        inset.yaxis.label.set_size("x-small")
        inset.tick_params(labelsize="xx-small")
    return axes
