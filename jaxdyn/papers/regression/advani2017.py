"""High-dimensional dynamics of generalization error in neural networks (Advani, Saxe, 2017).

A student of N weights learns P = alpha N noisy examples of a linear teacher by gradient flow, dw/dt
= X (y - X^T w), with inputs of variance 1/N.  Their spectrum (Marchenko, Pastur) fixes the errors
at any time: overtraining is worst at alpha = 1, fewer examples leave a subspace frozen, more leave
a gap above zero, and early stopping does what ridge does. Nonlinear students overtrain most where
their size matches the data.  Errors are in units of the noise; what is linear is solved exactly, at
all times at once.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdyn import Claim, Trajectory, log_times, sweep, train
from jaxdyn._numbers import normal
from jaxdyn.losses.regression import squared_error
from jaxdyn.papers import Reference
from jaxdyn.tasks.regression import teacher_student
from jaxdyn.tasks.streams import full_batch
from jaxdyn.theory.regression import equivalents, given_data, isotropic, spectrum

TITLE = "High-dimensional dynamics of generalization error in neural networks"
REFERENCE = Reference(
    title=TITLE,
    authors="Advani, Saxe",
    year=2017,
    arxiv="1710.03667",
    name="High-dimensional dynamics of generalisation error",
    reproduces="over-training, its peak at as many samples as inputs, early stopping",
)
QUICK = dict(
    inputs=200,
    alphas=(0.5, 1.0, 2.0),
    snr=5.0,
    inr=1.0,
    last=100.0,
    seeds=8,
    snrs=(1.0, 5.0, 50.0),
    frozen_alpha=0.6,
    frozen_inputs=60,
    frozen_steps=2000,
    feature_samples=100,
    widths=(20, 50, 80, 100, 125, 200, 400),
    network_samples=60,
    hidden=(2, 6, 14, 40),
    network_steps=2000,
)
PAPER = {
    "inputs": 400,
    "last": 400.0,
    "seeds": 16,
    "widths": (20, 50, 80, 100, 125, 200, 800),
    "network_samples": 100,
    "network_steps": 4000,
    "hidden": (4, 8, 14, 22, 32, 80),
}
SIZES = {"quick": QUICK, "paper": QUICK | PAPER}


def simulate(key, alpha, *, inputs, most, snr, inr, times):
    """Test and training error of the flow on alpha N of the examples drawn, beside the integrals
    over the spectrum."""
    data = teacher_student(key, inputs, most, snr=snr, inr=inr)
    samples = alpha * inputs
    # Examples that are left out are zero, so that one program has any number of them.
    used = jnp.arange(most) < jnp.round(samples)
    noise = jnp.where(used, data.y - data.x @ data.teacher, 0.0)
    x = data.x * used[:, None]
    y = x @ data.teacher + noise * jnp.sqrt(samples / jnp.sum(noise**2))
    w = given_data.flow(most * times, x, y, data.start)
    train = given_data.mean_squared_error(w, x, y) * most / samples
    theory = learning_curve(times, alpha, snr, inr)
    observed = {
        "test": 1 + given_data.excess_error(w, data.teacher, data.eigenvalues),
        "train": train,
    }
    return Trajectory(
        times, observed | {"test_theory": 1 + theory.excess, "train_theory": theory.train}
    )


def learning_curve(times, alpha, snr, inr):
    """The errors of the flow in the paper's clock, that of the sum over samples."""
    return spectrum.flow(alpha * times, equivalents.population(1.0, 1.0, snr, inr), alpha, 1.0)


def overtraining(alpha, *, snr, last):
    """What the test error has risen by at a late time."""
    errors = learning_curve(jnp.geomspace(1e-2, last, 100), alpha, snr, 0.0).excess
    return {"gap": errors[-1] - errors.min()}


def asymptotics(alpha, *, snr, inr):
    """The end of training by its integral, by its closed form, and by the contour of any
    spectrum."""
    late = 50 / (1 - alpha**-0.5) ** 2
    population = equivalents.population(1.0, 1.0, snr, inr)
    options = {"power": snr, "noise": 1.0, "start": inr}
    times = jnp.array([0.1, 1.0, 10.0, late])
    integral = isotropic.flow(times, alpha, **options, nodes=4000).excess
    contour = spectrum.flow(times, population, alpha, 1.0).excess
    return {
        "end": integral[-1],
        "end_theory": isotropic.trained(alpha, **options),
        "contour": abs(contour / integral - 1).max(),
    }


def stopping(snr, alpha):
    """The test error of the best time to stop over that of the best ridge."""
    _, stopped = spectrum.optimal_stopping(equivalents.population(1.0, 1.0, snr), alpha, 1.0)
    return {"ratio": (1 + stopped) / (1 + isotropic.optimal_ridge(alpha, power=snr, noise=1.0)[1])}


def frozen_descent(key, *, alpha, inputs, snr, inr, steps):
    """How far descent moves the weights along each direction, and the error in those that it does
    not."""
    samples = round(alpha * inputs)
    data = teacher_student(key, inputs, samples, snr=snr, inr=inr)
    gradient = jax.grad(squared_error(lambda w, x: x @ w))
    rate = 0.5 * samples / jnp.linalg.norm(data.x, 2) ** 2
    run = train(
        gradient,
        optax.sgd(rate),
        full_batch((data.x, data.y)),
        data.start,
        times=[steps],
        observe=lambda _: {},
    )
    frame = jnp.linalg.svd(data.x)[2]
    error = jnp.sum((frame[samples:] @ (run.final.params - data.teacher)) ** 2) / inputs
    return {"moved": jnp.sort(abs(frame @ (run.final.params - data.start))), "frozen": error}


def features(key, width, *, samples, widest, times, inputs=20, noise=0.5, tested=300):
    """The flow of a linear readout of random ReLU features; those beyond `width` are off."""
    (x, y), test, (first, _) = relu_student(key, samples, tested, inputs, widest, noise)
    on = jnp.where(jnp.arange(widest) < width, 1 / jnp.sqrt(width), 0.0)

    def hidden(x):
        return jax.nn.relu(x @ first.T / jnp.sqrt(inputs)) * on[None]

    w = given_data.flow(samples * times, hidden(x), y)
    return Trajectory(times, {"test": given_data.mean_squared_error(w, hidden(test[0]), test[1])})


def network(key, width, *, samples, widest, times, inputs=6, noise=1.0, tested=300):
    """Descent of all weights of a ReLU network; units beyond `width` start at zero, where their
    gradient is zero."""
    data, test, start = relu_student(key, samples, tested, inputs, widest, noise)
    on = jnp.where(jnp.arange(widest) < width, 0.1, 0.0)

    def apply(w, x):
        return jax.nn.relu(x @ w[0].T / jnp.sqrt(inputs)) @ w[1] / jnp.sqrt(width)

    optimizer = optax.sgd(0.1 * jnp.sqrt(jnp.minimum(width, 50)), 0.95)

    def observe(state):
        return {"test": jnp.mean((apply(state.params, test[0]) - test[1]) ** 2)}

    start = start[0] * on[:, None], start[1] * on
    return train(
        jax.grad(squared_error(apply)),
        optimizer,
        full_batch(data),
        start,
        times=times,
        observe=observe,
    )


def relu_student(key, samples, tested, inputs, widest, noise):
    """Noisy examples of a ReLU network of as many units as inputs, clean ones to test on, and
    random weights."""
    # Drawn at once, which compiles faster.
    sizes = [(samples + tested) * inputs, inputs**2, inputs, samples, widest * inputs, widest]
    numbers = normal(key, (sum(sizes),))
    x, first, second, e, *weights = jnp.split(numbers, np.cumsum(sizes)[:-1])
    x = x.reshape(-1, inputs)
    y = jax.nn.relu(x @ first.reshape(inputs, inputs).T / jnp.sqrt(inputs)) @ second
    y = (y - y[samples:].mean()) / y[samples:].std()
    data = x[:samples], y[:samples] + noise * e
    return data, (x[samples:], y[samples:]), (weights[0].reshape(widest, inputs), weights[1])


def run(
    *,
    sweep=sweep,
    inputs,
    alphas,
    snr,
    inr,
    last,
    seeds,
    snrs,
    frozen_alpha,
    frozen_inputs,
    frozen_steps,
    feature_samples,
    widths,
    network_samples,
    hidden,
    network_steps,
):
    """Simulate linear and nonlinear students; return theory beside the linear ones."""
    with jax.enable_x64(True):
        alphas = np.round(np.array(alphas) * inputs) / inputs
        options = {"snr": snr, "inr": inr}
        times = np.r_[0, np.geomspace(0.1, last, 19)]
        flow = partial(
            simulate, inputs=inputs, most=round(alphas.max() * inputs), times=times, **options
        )
        flow = sweep(flow, {"alpha": alphas}, seeds=seeds)
        for name in ("test", "train"):
            error = flow[name] - flow[f"{name}_theory"]
            theory = flow[f"{name}_theory"].isel(seed=0)
            # The spectrum of N inputs moves means of f by sup f/N (Bai, Silverstein), and resolves
            # it to 1/(t density).
            edge = np.exp(-2 * flow.time * (1 - flow.alpha**0.5) ** 2) * theory.isel(time=0)
            size = (
                edge + theory * (1 + flow.time**0.5)
            ) / inputs + 1e-10  # what contours are exact to
            flow[f"{name}_z"] = error.mean("seed") / (
                4 * error.std("seed", ddof=1) / seeds**0.5 + size
            )
        gaps = sweep(
            partial(overtraining, snr=snr, last=last), {"alpha": np.linspace(0.6, 1.6, 201)}
        )
        gaps["shift"] = last**-0.5
        ends = sweep(
            partial(asymptotics, **options), {"alpha": [a for a in alphas if a != 1] or [0.5, 2.0]}
        )
        late = np.geomspace(1e2, 1e4, 5)
        growth = late**0.5 * (
            isotropic.flow(late, 1.0, noise=1.0, nodes=4000).noise
            - isotropic.noise_at_threshold(late)
        )
        ends["growth"] = "late", np.asarray(growth)
        ratios = sweep(stopping, {"snr": snrs, "alpha": alphas})
        frozen = partial(
            frozen_descent, alpha=frozen_alpha, inputs=frozen_inputs, steps=frozen_steps, **options
        )
        frozen = sweep(frozen, seeds=seeds, dims={"moved": "direction"})
        kept = 1 - round(frozen_alpha * frozen_inputs) / frozen_inputs
        frozen["still"], frozen["still_theory"] = (
            (frozen.moved < 1e-10).sum("direction"),
            round(kept * frozen_inputs),
        )
        # The squared length of a random unit vector's part in a subspace is beta distributed.
        spread = 2 * (1 - kept) * (snr**2 + inr**2) + 4 * snr * inr
        frozen["frozen_theory"], frozen["spread"] = (
            kept * (snr + inr),
            (kept * spread / frozen_inputs / seeds) ** 0.5,
        )
        random = partial(
            features, samples=feature_samples, widest=max(widths), times=np.geomspace(0.1, 1e6, 29)
        )
        random = sweep(random, {"width": np.array(widths, float)}, seeds=seeds)
    student = partial(
        network, samples=network_samples, widest=max(hidden), times=log_times(network_steps, 30)
    )
    student = sweep(student, {"width": np.array(hidden, float)}, seeds=seeds)
    for runs, ratio in (
        (random, random.width / feature_samples),
        (student, student.width * 7 / network_samples),
    ):
        runs["gap"] = runs.test.isel(time=-1) - runs.test.min("time")
        runs["ratio"] = ratio
    return {
        "flow": flow,
        "gaps": gaps,
        "ends": ends,
        "ratios": ratios,
        "frozen": frozen,
        "features": random,
        "network": student,
    }


def _largest(values):
    return abs(values).max(skipna=False)


def _worst(runs):
    """The parameters per example at which the mean over seeds overtrains most."""
    return float(runs.ratio[int(runs.gap.mean("seed").argmax("width"))])


def _disorder(runs):
    """The number of widths that overtrain no less than the next one towards the number of
    examples."""
    gap = runs.gap.mean("seed").values
    ratio = runs.ratio.values
    return sum((a >= b) == (y <= 1) for a, b, y in zip(gap, gap[1:], ratio[1:], strict=False))


def _fall(runs):
    """Three standard errors of what the widest network overtrains less than the worst, over it."""
    worst = int(runs.gap.mean("seed").argmax("width"))
    fall = runs.gap.isel(width=worst) - runs.gap.isel(width=-1)
    return abs(3 * fall.std("seed", ddof=1) / runs.sizes["seed"] ** 0.5 / fall.mean("seed"))


CLAIMS = (
    Claim(
        "test errors are the integrals over the spectrum, to four standard errors and the size of the system",
        "deviation",
        lambda r: _largest(r["flow"].test_z),
        below=1,
    ),
    Claim("so are training errors", "deviation", lambda r: _largest(r["flow"].train_z), below=1),
    Claim(
        "training ends in the closed forms for more and fewer examples than weights",
        "deviation",
        lambda r: _largest(r["ends"].end / r["ends"].end_theory - 1),
        below=1e-10,
    ),
    Claim(
        "contours of deterministic equivalents give the same as the integrals",
        "deviation",
        lambda r: _largest(r["ends"].contour),
        below=1e-10,
    ),
    Claim(
        "with as many examples as weights noise adds 0.661 sqrt(t) - 1/2, up to 1/sqrt(t)",
        "deviation",
        lambda r: _largest(r["ends"].growth),
        below=1,
    ),
    Claim(
        "overtraining is worst there, up to 1/sqrt(t)",
        "deviation",
        lambda r: abs(r["gaps"].alpha[int(r["gaps"].gap.argmax("alpha"))] - 1),
        below=lambda r: r["gaps"]["shift"],
    ),
    Claim(
        "early stopping is no better than the best ridge",
        "deviation",
        lambda r: (1 / r["ratios"].ratio).max(skipna=False),
        below=1,
    ),
    Claim(
        "and no more than 3 % worse",
        "deviation",
        lambda r: r["ratios"].ratio.max(skipna=False),
        below=1.03,
    ),
    Claim(
        "as many directions as weights outnumber examples do not move",
        "deviation",
        lambda r: _largest(r["frozen"].still - r["frozen"].still_theory),
        below=0.5,
    ),
    Claim(
        "they keep their share of the initial error, within 4.5 standard errors",
        "deviation",
        lambda r: (
            abs(r["frozen"].frozen.mean("seed") - r["frozen"].frozen_theory) / r["frozen"].spread
        ),
        below=4.5,
    ),
    Claim(
        "readouts of random ReLU features overtrain most where there are as many as examples",
        "deviation",
        lambda r: abs(_worst(r["features"]) - 1),
        below=1e-6,
    ),
    Claim(
        "and the less, the further their number is from that",
        "deviation",
        lambda r: _disorder(r["features"]),
        below=1,
    ),
    Claim(
        "trained ReLU networks overtrain most at 1 to 3.5 parameters an example",
        "deviation",
        lambda r: abs(np.log(_worst(r["network"]) / 3.5**0.5)),
        below=np.log(3.5) / 2,
    ),
    Claim(
        "and the widest less, by three standard errors",
        "deviation",
        lambda r: _fall(r["network"]),
        below=1,
    ),
)


def plot(results, axes):
    """Draw the test error over training time for each number of examples per weight."""
    from jaxdyn.plot import curves

    flow = results["flow"].isel(time=slice(1, None))
    flow["alpha"].attrs["long_name"] = "examples per weight"
    curves(flow.test, flow.test_theory.isel(seed=0), hue="alpha", axes=axes, log="x")
    axes.set(xlabel="flow time t", ylabel="test error (variances of the noise)")
    return axes
