"""Exact learning of permutations for nonzero binary inputs (Giapitzakis, Back de Luca,
Fountoulakis, 2025).

Two-layer ReLU networks f = n^(-1/2) sum_j a_j relu(w_j . x / sqrt(k)) learn a permutation of k bits
from the k unit vectors.  In the limit of large width the outputs on any other input are Gaussian,
and the sign of their mean is right: enough networks vote for the right answer on all 2^k inputs.
One input needs an ensemble of order k ln k.  For all of them the paper proves that order k^2
suffices; the union bound over outputs itself needs 6 c_2 k ln k, set by the inputs of weight two,
and k^(3/2) ln k beyond k of 10^4: the square is a loose upper bound (no lower bound is known).
Times are steps of descent on the mean over examples, whose learning rate is k times that of the
paper's sum.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdyn import Claim, kernels, sweep, train
from jaxdyn.losses import squared_error
from jaxdyn.papers import Reference
from jaxdyn.theory.width import permutations

TITLE = "Exact learning of permutations for nonzero binary inputs with logarithmic training size and quadratic ensemble"
REFERENCE = Reference(
    title=TITLE + " complexity",
    authors="Giapitzakis, Back de Luca, Fountoulakis",
    year=2025,
    arxiv="2502.16763",
    name="Exact learning of permutations",
    reproduces="ensembles of wide networks vote; how many it takes: k ln k, not the published k^2",
)
QUICK = dict(
    bits=6,
    width=512,
    seeds=400,
    steps=(3, 30),
    learning_rate=18.0,
    members=(1, 2, 5, 10, 20, 50),
    risk=0.05,
    all_members=(50, 100, 150, 200, 300, 400, 600, 800),
    draws=20_000,
    sizes=(8, 16, 64, 256, 1024, 4096, 32768),
)
PAPER = {
    "bits": 8,
    "width": 8192,
    "seeds": 2000,
    "steps": (3, 60),
    "learning_rate": 32.0,
    "draws": 100_000,
    "members": (1, 2, 5, 10, 20, 50, 100, 200),
    "all_members": (100, 200, 300, 400, 500, 600, 800, 1000),
    "sizes": (8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384, 65536, 262144, 1048576),
}
SIZES = {"quick": QUICK, "paper": QUICK | PAPER}


def network(bits, width):
    """The network, its initialisation and its kernels at infinite width."""
    return kernels.serial(kernels.dense(width), kernels.relu(), kernels.dense(bits))


def task(bits):
    """All inputs with more than one bit, normalised, and what the permutation makes of them and of
    the unit vectors."""
    masks = (np.arange(1, 2**bits)[:, None] >> np.arange(bits)) % 2
    masks = masks[masks.sum(1) > 1]
    order = np.random.RandomState(0).permutation(bits)
    return masks / masks.sum(1, keepdims=True) ** 0.5, np.eye(bits)[:, order], masks[:, order]


def simulate(key, *, bits, width, steps, learning_rate):
    """The outputs of a trained network on all inputs."""
    inputs, labels, _ = task(bits)
    net = network(bits, width)
    start, _ = kernels.finite_width.draw(key, net, (bits,))
    batch = jnp.eye(bits), jnp.asarray(labels, jnp.float32)
    inputs = jnp.asarray(inputs, jnp.float32)

    def observe(state):
        return {"output": net.apply(state.params, inputs)}

    field = jax.grad(squared_error(net.apply))
    return train(
        field,
        optax.sgd(learning_rate),
        lambda *_: batch,
        start,
        times=np.asarray(steps),
        observe=observe,
    )


def gaussian(inputs, labels, steps, learning_rate):
    """Mean and covariance of the outputs at infinite width, at each step and trained, by a dense
    solve with kernels."""
    k = len(labels)
    kernel = kernels.gram(
        network(k, 1), jnp.concatenate([jnp.eye(k), jnp.asarray(inputs)]), get=("nngp", "ntk")
    )
    nngp = kernel["nngp"]
    ntk = kernel["ntk"]
    tests = dict(ntk_test=ntk[k:, :k], nngp_test=nngp[k:, :k], nngp_test_test=nngp[k:, k:])
    solve = partial(
        kernels.predict.ensemble, kernels.predict.modes(ntk[:k, :k]), nngp[:k, :k], labels, **tests
    )
    return jax.tree.map(
        lambda *a: np.concatenate(a),
        solve(list(steps), learning_rate=learning_rate),
        solve([np.inf]),
    )


@jax.jit
def closed_form(truth, steps, learning_rate):
    """The same, with the variance alone, from the two eigenvalues of the kernel."""
    votes = permutations.votes(truth.shape[1], truth.sum(1), steps, learning_rate)
    return jnp.where(truth > 0, votes.on[:, None], votes.off[:, None]), votes.variance


def exactness(output, members, truth):
    """How often the mean signs of disjoint groups of networks are those of an input, over all
    inputs."""

    def groups(size):
        return output[: len(output) // size * size].reshape(-1, size, *truth.shape).mean(1)

    return [((groups(size) > 0) == (truth > 0)).all(2).mean() for size in members]


@partial(jax.jit, static_argnames="largest")
def sharp(k, risk, largest):
    """Ensemble sizes for one input of weight two and for all, the share of weight two in the
    failures, and laws."""
    every = permutations.ensemble_size_all(k, risk, largest=largest)
    total, by_weight = jax.lax.map(lambda one: permutations.log_failures(*one, largest), (k, every))
    one_law = permutations.weight_two_size(k, -jnp.expm1(jnp.log1p(-risk) / (k - 2)))
    all_law = permutations.weight_two_size(k, 2 * risk / (k * (k - 1) * (k - 2)))
    return {
        "one": permutations.ensemble_size(k, 2.0, risk),
        "all": every,
        "share": jnp.exp(by_weight[:, 0] - total),
        "one_law": one_law,
        "all_law": all_law,
        "crude": permutations.crude_size(k, risk),
    }


def run(
    *,
    sweep=sweep,
    bits,
    width,
    seeds,
    steps,
    learning_rate,
    members,
    risk,
    all_members,
    draws,
    sizes,
):
    """Train networks, solve for their limit, count how many must vote."""
    import xarray as xr

    inputs, labels, truth = task(bits)
    settings = dict(steps=steps, learning_rate=learning_rate)
    runs = sweep(
        partial(simulate, bits=bits, width=width, **settings),
        seeds=seeds,
        dims={"output": ("input", "bit")},
    )
    output = runs.output.isel(time=-1).transpose("seed", "input", "bit").values
    with jax.enable_x64(True):
        forms = [closed_form(truth * 1.0, float(n), learning_rate) for n in (*steps, np.inf)]
        means, variances = (np.stack(parts) for parts in zip(*forms, strict=True))
        solved = gaussian(inputs, labels, **settings)
        wrong = jax.jit(permutations.log_failure)(
            bits, truth.sum(1)[:, None], np.asarray(members, float)[None]
        )
        union = jax.jit(jax.vmap(lambda n: permutations.log_failures(bits, n, bits)[0]))
        ensembles = np.array(all_members, float)
        joint = jax.jit(permutations.all_right, static_argnames="draws")
        joint = joint(
            jax.random.key(0), means[-1], solved.covariance[-1], truth, ensembles, draws=draws
        )
        wrong, failures, joint = jax.device_get((jnp.exp(wrong), jnp.exp(union(ensembles)), joint))
        counts = jax.device_get(sharp(np.asarray(sizes, float), risk, max(sizes)))
        noise = permutations.noise_ratio(2.0).item()
        near_full = permutations.near_full_coefficient()
    dense = solved.mean - means, np.diagonal(solved.covariance, axis1=1, axis2=2) - variances
    nets = {
        "truth": (("input", "bit"), truth),
        "output_theory": (("time", "input", "bit"), means[:-1]),
        "variance_theory": (("time", "input"), variances[:-1]),
        "dense": max(abs(error).max() for error in dense),
        "spread": ("time", [_spread(covariance, bits) for covariance in solved.covariance[:-1]]),
        "width": width,
        "seeds": seeds,
        "draws": draws,
    }

    def data(name, values, **arrays):
        return xr.Dataset({k: (name, a) for k, a in arrays.items()}, {name: list(values)})

    return {
        "nets": runs.assign_coords(weight=("input", truth.sum(1))).assign(nets),
        "votes": data(
            "members",
            members,
            right=exactness(output, members, truth),
            right_theory=1 - wrong.mean(0),
        ),
        "all": data("members", all_members, right=joint, failures=failures),
        "sizes": data("bits", sizes, **counts).assign(noise_ratio=noise, near_full=near_full),
    }


def _spread(covariance, copies):
    """What a mean square of correlated normals exceeds one by with a chance of 1/1000 (Laurent,
    Massart, 2000)."""
    scale = np.sqrt(np.diagonal(covariance))
    x = np.log(1000)
    weights = np.linalg.eigvalsh(covariance / scale / scale[:, None]) / len(scale) / copies
    return 2 * np.sqrt(x * copies) * np.linalg.norm(weights) + 2 * x * weights.max()


def _scores(nets):
    """The root mean square of the z-scores of means over networks, less what a bias of 3/width adds
    to it."""
    deviation = (nets.variance_theory / nets.seeds) ** 0.5
    z = (nets.output.mean("seed") - nets.output_theory) / deviation

    def square(a):
        return (a**2).mean([d for d in a.dims if d != "time"])

    return (square(z) ** 0.5 - square(3 / nets.width / deviation) ** 0.5) / (1 + nets.spread) ** 0.5


def _accuracy(r):
    p = r["votes"].right_theory
    groups = r["nets"].seeds // r["votes"].members
    return (abs(r["votes"].right - p) / (3 * (p * (1 - p) / groups) ** 0.5)).max(skipna=False)


def _excess(sizes, name):
    """The local exponents of a number of networks in k, less the published two."""
    return np.diff(np.log(sizes[name])) / np.diff(np.log(sizes.bits)) - 2


def _joint(r):
    """How far the probability lies from one minus the bound, over four standard errors and the
    bound's square."""
    right = r["all"].right
    failures = r["all"].failures
    error = 4 * ((right * (1 - right)).clip(1 / r["nets"].draws) / r["nets"].draws) ** 0.5
    below = (1 - failures - right) / error
    return np.maximum(
        below, np.where(failures < 0.5, (right - 1 + failures) / (error + failures**2), 0)
    ).max()


def _ratio(sizes, name, power, coefficient):
    """A number of networks over coefficient k^power ln k."""
    return sizes[name] / (coefficient * sizes.bits**power * np.log(sizes.bits))


CLAIMS = (
    Claim(
        "the closed form of mean and variance is the dense solve with the kernels, trained and after finite steps",
        "deviation",
        lambda r: r["nets"].dense,
        below=1e-10,
    ),
    Claim(
        "networks have these means at every time, to their sampling error and 3/width, the variance of their kernel",
        "deviation",
        lambda r: _scores(r["nets"]).max(skipna=False),
        below=1,
    ),
    Claim(
        "and these variances at every weight, to three standard errors and 10/width",
        "deviation",
        lambda r: abs(
            (r["nets"].output.var("seed", ddof=1).mean("bit") / r["nets"].variance_theory)
            .groupby("weight")
            .mean()
            - 1
        ).max(skipna=False),
        below=lambda r: (
            3 * (2 / (r["nets"].sizes["bit"] * r["nets"].seeds)) ** 0.5 + 10 / r["nets"].width
        ),
    ),
    Claim(
        "ensembles get an input right as often as the Gaussian says, to three standard errors",
        "deviation",
        _accuracy,
        below=1,
    ),
    Claim(
        "one input of weight two needs the quantile of one of its outputs that should be zero",
        "deviation",
        lambda r: abs(r["sizes"].one / r["sizes"].one_law - 1).max(skipna=False),
        below=1e-5,
    ),
    Claim(
        "its number over 2 c_2 k ln k only falls: one input is linearithmic",
        "deviation",
        lambda r: _ratio(r["sizes"], "one", 1, 2 * r["sizes"].noise_ratio).diff("bits").max(),
        below=0,
    ),
    Claim(
        "all inputs need no more than order k^2 networks",
        "deviation",
        lambda r: _excess(r["sizes"], "all").max(),
        below=0,
    ),
    Claim(
        "and no less: the local exponent comes within 1/4 of two",
        "deviation",
        lambda r: abs(_excess(r["sizes"], "all")).min(),
        below=0.25,
        holds=False,
    ),
    Claim(
        "the k^2 comes from one signal-to-noise ratio for all 2^k inputs, to order ln(k)/k",
        "deviation",
        lambda r: abs(_excess(r["sizes"], "crude")[-1]),
        below=lambda r: 10 * float(np.log(r["sizes"].bits[-2]) / r["sizes"].bits[-2]),
    ),
    Claim(
        "where inputs of weight two make up the failures, their quantile is the number: 6 c_2 k ln k",
        "deviation",
        lambda r: (
            (abs(r["sizes"]["all"] / r["sizes"].all_law - 1) - (1 - r["sizes"].share))
            .where(r["sizes"].share > 0.99)
            .max()
        ),
        below=1e-9,
    ),
    Claim(
        "where they do not, inputs with few zeros set it: C k^(3/2) ln k, to 2/ln k",
        "deviation",
        lambda r: (
            (
                abs(_ratio(r["sizes"], "all", 1.5, r["sizes"].near_full) - 1)
                * np.log(r["sizes"].bits)
            )
            .where(r["sizes"].share < 0.01)
            .max()
        ),
        below=2,
    ),
    Claim(
        "the union bound over outputs is sharp: the chance of all inputs at once is one minus it, to its square",
        "deviation",
        _joint,
        below=1,
    ),
)


def plot(results, axes):
    """Draw accuracy against ensemble size; inset, the sizes that k bits need and the outputs of
    each weight."""
    nets, votes, every, sizes = (results[name] for name in ("nets", "votes", "all", "sizes"))
    axes.plot(votes.members, votes.right_theory, "C0", label="one input: theory")
    axes.plot(votes.members, votes.right, "C0o", label="one input: networks")
    axes.plot(every.members, (1 - every.failures).clip(0), "C1", label="all inputs: union bound")
    axes.plot(every.members, every.right, "C1s", markersize=4, label="all inputs: Gaussian process")
    axes.set(
        xlabel="networks in the ensemble",
        ylabel="probability of the exact output",
        xscale="log",
        ylim=(0, 2.2),
        yticks=np.linspace(0, 1, 6),
    )
    axes.legend(fontsize="x-small", loc=(0.02, 0.31))
    left = axes.inset_axes([0.1, 0.64, 0.36, 0.34])
    right = axes.inset_axes([0.62, 0.64, 0.36, 0.34])
    styles = {
        "crude": ("k:", "$k^2$ bound"),
        "all": ("C1", "all inputs"),
        "one": ("C0", "one input"),
    }
    for name, (style, label) in styles.items():
        left.loglog(sizes.bits, sizes[name], style, label=label)
    last = nets.isel(time=-1)
    for bit, colour in ((1, "C2"), (0, "C3")):

        def by_weight(a, bit=bit):
            return a.broadcast_like(last.truth).where(last.truth == bit).groupby("weight").mean(...)

        mean = by_weight(last.output.mean("seed"))
        bar = by_weight(last.output.var("seed")) ** 0.5
        right.errorbar(
            mean.weight,
            mean,
            bar.values,
            fmt="o",
            color=colour,
            markersize=3,
            label=f"output {bit}",
        )
        mean = by_weight(last.output_theory)
        bar = by_weight(last.variance_theory) ** 0.5
        right.plot(mean.weight, mean, color=colour)
        right.fill_between(mean.weight, mean - bar, mean + bar, color=colour, alpha=0.2)
    for inset, x, y in (
        (left, "bits k", "networks needed"),
        (right, "ones in the input", "output"),
    ):
        inset.legend(fontsize=5)
        inset.set_xlabel(x, fontsize="x-small")
        inset.set_ylabel(y, fontsize="x-small")
        inset.tick_params(labelsize="xx-small")
    return axes
