"""Training as linear dynamics in function space: what a kernel predicts for gradient flow and
gradient descent.

THE TIME.  The loss is that of `losses.squared_error`, a mean over the n examples and a sum over
outputs,

    L = 1/(2n) sum_i |f(x_i) - y_i|^2,   so   df/dt = -Theta(., X) (f(X) - y) / n.

Here t is the flow time of `jaxdyn.flow`, and t = learning_rate * steps for gradient descent.  The
loss of neural-tangents is a mean over all n k elements of the outputs of n examples with k outputs:
its time is t_NT = k t / learning_rate_NT, and its descent at the learning rate learning_rate_NT is
`descent` at learning_rate_NT / k.  Only the largest learning rate of neural-tangents is that of a
mean over examples.  With a sum over examples everything is n times faster: t_sum = t / n.

THE KERNEL.  `ntk` (n, n) is shared by all outputs, and comes from `kernels.gram` or
`empirical.ntk`; the kernel (n, n, k, k) of a finite network, between outputs too, is also accepted.
`modes(ntk)` may be passed in the place of `ntk`: many calls then share one decomposition.  The
kernel may also be a function v -> Theta v of arrays shaped like `y` (from `empirical.ntk_product`,
or a product with a matrix whose rows are sharded): it is not decomposed, and `products` is the
number of times that it may be called.  Kernels between test and training inputs are (m, n), (m, n,
k, k) or functions.  Labels are (n,) or (n, k), and results have the shape of the times in front.

THE RIDGE.  `ridge` adds ridge/(2n) |theta - theta_0|^2 to the loss, with theta the parameters and
theta_0 their initial values:

    f = f_0 + Theta(., X) (Theta + ridge)^-1 (1 - e^{-(Theta + ridge) t/n}) (y - f_0).

At infinite time f is the posterior mean of a Gaussian process with noise of variance `ridge` on the
labels.  The ridge has the unit of the kernel.  Kernels have to be positive semidefinite;
eigenvalues that are zero up to rounding are set to exactly zero, and nothing is learned in their
directions in any time.

All predictions can be jitted, vmapped and differentiated, also in a kernel whose eigenvalues
coincide; second derivatives in the kernel raise NotImplementedError.  With a kernel that is a
function, `flow` and `descent` have derivatives in numbers and labels only (derivatives in the
kernel raise NotImplementedError), and these derivatives do not work under vmap.  Where the
arguments are concrete, ValueError is raised for arrays of different precision, for kernels that are
not square, symmetric or positive, for shapes that do not fit, and for negative times.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from jaxdyn._numbers import Number
from jaxdyn.dynamics import integrate
from jaxdyn.kernels import _inputs as inputs
from jaxdyn.kernels import _krylov as krylov
from jaxdyn.kernels import _training as training
from jaxdyn.kernels._eigenmodes import Modes, decompose, descent_gain, flow_gain

__all__ = [
    "Gaussian",
    "Outputs",
    "descent",
    "ensemble",
    "flow",
    "flow_loss",
    "max_learning_rate",
    "modes",
    "posterior",
    "time_to_loss",
]

Product = Callable[[Float[Array, "..."]], Float[Array, "..."]]
Matrix = Real[ArrayLike, "..."]
Kernel = Matrix | Modes | Product
Labels = Real[ArrayLike, "..."] | Sequence[int | float]
Times = Real[ArrayLike, "*times"] | Sequence[int | float]


class Outputs(NamedTuple):
    """The outputs of a network at each time; for labels (n,) the axis k of outputs is absent.

    Attributes:
        train: the outputs on the training inputs, (*times, n, k).
        test: the outputs on the test inputs, (*times, m, k), or None without test inputs.
    """

    train: Float[Array, "..."]
    test: Float[Array, "..."] | None = None


class Gaussian(NamedTuple):
    """The Gaussian distribution of the outputs; for labels (n,) the axis k of outputs is absent.

    Attributes:
        mean: the mean of the outputs, (*times, m, k).
        covariance: the covariance between inputs, (*times, m, m), the same for each output.
    """

    mean: Float[Array, "..."]
    covariance: Float[Array, "..."] | None = None


def modes(ntk: Matrix) -> Modes:
    """Return the eigenvalues and eigenvectors of a kernel, to be passed in its place to any number
    of predictions.

    >>> modes(jnp.array([[2.0, 1.0], [1.0, 2.0]])).values.tolist()
    [1.0, 3.0]

    Raises ValueError for a kernel that is not square, symmetric and positive up to rounding.
    """
    return decompose(inputs.square(inputs.arrays(ntk=ntk)[0], "ntk"))


def flow(
    ntk: Kernel,
    y: Labels,
    times: Times,
    *,
    ntk_test: Matrix | Product | None = None,
    start: Labels = 0.0,
    start_test: Labels = 0.0,
    ridge: Number = 0.0,
    products: int = 100,
) -> Outputs:
    """Return the outputs under gradient flow of the squared error from the outputs `start` at time
    0.

    `times` are flow times, and infinite times give the limit.  `start_test` are the outputs at time
    0 on the test inputs, which have the kernel `ntk_test` with the training inputs.  A kernel that
    is a function is called up to `products` times (by Lanczos' method); outputs at times that need
    more calls are NaN.

    >>> flow(jnp.eye(2), jnp.array([1.0, 2.0]), [0.0, 2 * np.log(2), np.inf]).train.round(3).tolist()
    [[0.0, 0.0], [0.5, 1.0], [1.0, 2.0]]
    """
    inputs.check("times", times, lambda t: t >= 0, "times >= 0; infinity is the limit")
    return _predicted(
        flow_gain, _per(times, y), (ridge,), ntk, y, ntk_test, start, start_test, products
    )


def descent(
    ntk: Kernel,
    y: Labels,
    steps: Times,
    learning_rate: Number,
    *,
    momentum: Number = 0.0,
    ntk_test: Matrix | Product | None = None,
    start: Labels = 0.0,
    start_test: Labels = 0.0,
    ridge: Number = 0.0,
    products: int = 100,
) -> Outputs:
    """Return the outputs after each number of steps of gradient descent, as
    `optax.sgd(learning_rate, momentum)` steps.

    The velocity m <- momentum m + gradient starts at zero (Polyak, 1964).  Above
    `max_learning_rate` the outputs grow without bound, and are not finite once they leave the
    floating-point range.  All other arguments are those of `flow`.

    >>> descent(jnp.eye(2), jnp.array([1.0, 2.0]), [0, 1, 2], 1.0).train.tolist()
    [[0.0, 0.0], [0.5, 1.0], [0.75, 1.5]]
    """
    numbers = _per(learning_rate, y), momentum, ridge
    return _predicted(
        descent_gain, _steps("steps", steps), numbers, ntk, y, ntk_test, start, start_test, products
    )


def ensemble(
    ntk: Matrix | Modes,
    nngp: Matrix,
    y: Labels,
    times: Times,
    *,
    ntk_test: Matrix | None = None,
    nngp_test: Matrix | None = None,
    nngp_test_test: Matrix | None = None,
    ridge: Number = 0.0,
    learning_rate: Number | None = None,
    momentum: Number = 0.0,
    covariance: bool = True,
) -> Gaussian:
    """Return mean and covariance of the outputs over random initial weights, on the test inputs if
    there are any, else on the training inputs.

    Initial outputs f_0 are Gaussian with the covariance K = `nngp`, and training turns them into f
    = f_0 + A (y - f_0), so that

        mean = A y,  covariance = K_** + A K A' - A K_*' - K_* A'      (Lee, Xiao et al., 2019),

    with K_* = `nngp_test` between test and training inputs and K_** = `nngp_test_test` between test
    inputs.  `times` are those of `flow`, or numbers of steps of `descent` if a `learning_rate` is
    given.  The covariance costs m n^2 operations for each time; `covariance=False` leaves it out.
    With `nngp` in the place of `ntk` too, only the last layer is trained, and without a ridge the
    limit of infinite time is `posterior` without noise.

    Raises ValueError where only some of the kernels of the test inputs are given.
    """
    if learning_rate is None:
        inputs.check("times", times, lambda t: t >= 0, "times >= 0; infinity is the limit")
        gain = flow_gain
        times = _per(times, y)
        numbers = (ridge,)
    else:
        gain = descent_gain
        times = _steps("times", times)
        numbers = (_per(learning_rate, y), momentum, ridge)
    tests = {"ntk_test": ntk_test, "nngp_test": nngp_test, "nngp_test_test": nngp_test_test}
    needed = tests if covariance else {"ntk_test": ntk_test}
    missing = [name for name, value in needed.items() if value is None]
    if missing and len(missing) < len(needed):
        raise ValueError(
            f"{missing[0]}: missing beside the other kernels of the test inputs; pass this kernel too"
        )
    decomposed = _decomposed(ntk)
    given = [name for name, value in needed.items() if value is not None]
    labels, prior, *arrays = inputs.arrays(
        decomposed.kernel, y=y, nngp=nngp, **{name: tests[name] for name in given}
    )
    if covariance:
        inputs.check_labels(labels, inputs.square(prior, "nngp").shape[0])
    columns = inputs.columns(decomposed, labels)
    arrays = dict(zip(given, arrays, strict=True))
    for name in given[:2]:
        inputs.check_test(arrays[name], labels.shape[0], name)
    numbers = inputs.cast(numbers, labels.dtype)
    mean, cov = training.ensemble(
        gain, covariance, times.ravel(), numbers, decomposed, prior, columns, *arrays.values()
    )
    mean = mean.reshape(*times.shape, -1, *labels.shape[1:])
    return Gaussian(mean, None if cov is None else cov.reshape(*times.shape, *cov.shape[1:]))


def posterior(
    kernel: Matrix | Product,
    y: Labels,
    kernel_test: Matrix | Product,
    kernel_test_test: Matrix | None = None,
    *,
    noise: Number = 0.0,
) -> Gaussian:
    """Return the posterior of a Gaussian process, given labels with noise of variance `noise`.

    Mean and covariance on the test inputs are

        mean = K_* (K + noise)^-1 y,   covariance = K_** - K_* (K + noise)^-1 K_*',

    computed by Cholesky decomposition.  For a kernel that is a function only the mean is available;
    it is found by conjugate gradients, and is NaN where they do not converge.  Raises ValueError
    for a kernel that is singular without noise; `flow` at infinite time has the limit of vanishing
    noise.

    >>> posterior(jnp.eye(2), jnp.array([1.0, 2.0]), 0.5 * jnp.ones((1, 2)), jnp.ones((1, 1))).covariance.tolist()
    [[0.5]]
    """
    if callable(kernel):
        if kernel_test_test is not None:
            raise ValueError(
                "kernel_test_test: the covariance needs the kernel as a matrix, not as a function"
            )
        (right,) = inputs.arrays(y=y)
        solution = krylov.solve(lambda v: kernel(v) + noise * v, right)
        return Gaussian(inputs.applied(kernel_test, solution))
    kernel, labels, tests = inputs.arrays(kernel=kernel, y=y, kernel_test=kernel_test)
    inputs.check_labels(labels, inputs.square(kernel, "kernel").shape[0])
    inputs.check_test(tests, labels.shape[0], "kernel_test")
    factor = jnp.linalg.cholesky(kernel + noise * jnp.eye(len(kernel), dtype=kernel.dtype))
    inputs.check_factor(factor, kernel)
    whitened = jax.scipy.linalg.solve_triangular(factor, tests.T, lower=True)
    mean = whitened.T @ jax.scipy.linalg.solve_triangular(factor, labels, lower=True)
    if kernel_test_test is None:
        return Gaussian(mean)
    return Gaussian(
        mean, inputs.arrays(kernel, kernel_test_test=kernel_test_test)[0] - whitened.T @ whitened
    )


def flow_loss(
    loss: Callable[[Float[Array, "..."], Real[Array, "..."]], Float[Array, ""]],
    ntk: Matrix | Product,
    y: Labels,
    times: Times,
    *,
    start: Labels,
    ntk_test: Matrix | Product | None = None,
    start_test: Labels = 0.0,
    damping: Number | None = None,
    **options,
) -> Outputs:
    """Return the outputs under gradient flow df/dt = -Theta(., X) grad loss(f(X), y) of any loss of
    all outputs.

    The loss contains its own mean over examples: `1/(2n) sum (f - y)^2` gives `flow`.  With
    `damping` the outputs move as a heavy ball from rest,

        f'' + damping f' = -Theta grad loss,

    which descent with a momentum follows at damping = (1 - momentum) / sqrt(learning_rate), in the
    time sqrt(learning_rate) * steps.  The coefficients q of f = f_0 - Theta(., X) q are integrated
    by `jaxdyn.integrate`, which takes the `options` and raises its errors.  Derivatives are
    forward-mode only.
    """
    matrices = {
        k: v for k, v in (("ntk", ntk), ("ntk_test", ntk_test)) if v is not None and not callable(v)
    }
    arrays = dict(zip(matrices, inputs.arrays(**matrices), strict=True))
    if "ntk" in arrays:
        inputs.square(inputs.flattened(arrays["ntk"]), "ntk")
        inputs.check_labels(jnp.asarray(start), arrays["ntk"].shape[0], "start")
    if "ntk_test" in arrays:
        inputs.check_test(arrays["ntk_test"], np.shape(start)[0], "ntk_test")
    theta = arrays.get("ntk", ntk)
    theta_test = arrays.get("ntk_test", ntk_test)
    dtype = jnp.result_type(float, jnp.asarray(start), *arrays.values())
    start = jnp.asarray(start, dtype)
    labels = jnp.asarray(y)

    def force(q):
        return jax.grad(loss)(start - inputs.applied(theta, q), labels)

    rest = jnp.zeros_like(start)

    def observe(state):
        q = state.params if damping is None else state.params[0]
        seen = {"train": start - inputs.applied(theta, q)}
        return (
            seen
            if ntk_test is None
            else seen | {"test": inputs.moved(start_test, -inputs.applied(theta_test, q))}
        )

    if damping is None:
        run = integrate(lambda _, q: force(q), rest, times=times, observe=observe, **options)
    else:

        def velocity(_, p):
            return (p[1], force(p[0]) - damping * p[1])

        run = integrate(velocity, (rest, rest), times=times, observe=observe, **options)
    return Outputs(run.observed["train"], run.observed.get("test"))


def max_learning_rate(
    ntk: Kernel, *, momentum: Number = 0.0, like: Labels | None = None, products: int = 100
) -> Float[Array, ""]:
    """Return 2 (1 + momentum) n / lambda_max, the learning rate above which `descent` grows without
    bound.

    The largest rate is the same for one output as for many outputs with a shared kernel.  A kernel
    that is a function needs an array `like` the labels, for their shape and precision; lambda_max
    is then estimated from below, by `products` steps of Lanczos' method.

    >>> float(max_learning_rate(jnp.diag(jnp.array([1.0, 4.0]))))
    1.0

    Raises ValueError for a kernel that is a function without `like`.
    """
    if callable(ntk):
        if like is None:
            raise ValueError(
                "like: a kernel that is a function has no shape; pass the labels as `like`"
            )
        start = jax.random.normal(jax.random.key(0), np.shape(like), jnp.float32)
        _, decomposed = krylov.lanczos(
            ntk, start.astype(jnp.result_type(float, jnp.asarray(like))), products
        )
        examples = np.shape(like)[0]
    else:
        decomposed = _decomposed(ntk)
        examples = np.shape(decomposed.values if isinstance(ntk, Modes) else ntk)[0]
    # To first order the change of the eigenvector has no effect on this quotient, which therefore
    # has the right derivative in the kernel.
    top = decomposed.vectors[:, -1]
    return 2 * (1 + momentum) * examples / (top @ decomposed.kernel @ top)


def time_to_loss(
    ntk: Matrix | Modes,
    y: Labels,
    loss: Real[ArrayLike, "*losses"] | Sequence[int | float],
    *,
    start: Labels = 0.0,
    ridge: Number = 0.0,
) -> Float[Array, "..."]:
    """Return the flow time at which `flow` has reduced 1/(2n) sum |f - y|^2 on the training inputs
    to `loss`.

    The time is zero where the loss starts at or below `loss`, and infinite where it never falls so
    far, because of a ridge or of an eigenvalue zero.
    """
    decomposed = _decomposed(ntk)
    (labels,) = inputs.arrays(decomposed.kernel, y=y)
    columns = inputs.columns(decomposed, labels)
    residual = columns - inputs.broadcast(start, labels, "start").reshape(columns.shape)
    ridge, targets = inputs.cast((ridge, loss), labels.dtype)
    return training.time_to_loss(decomposed, residual, targets, ridge, labels.shape[0])


def _predicted(gain, times, numbers, ntk, y, ntk_test, start, start_test, products):
    if callable(ntk):
        return Outputs(
            *training.learned_by_products(
                gain, times, numbers, ntk, y, ntk_test, start, start_test, products
            )
        )
    decomposed = _decomposed(ntk)
    tests = {} if ntk_test is None else {"ntk_test": ntk_test}
    labels, *tests = inputs.arrays(decomposed.kernel, y=y, **tests)
    columns = inputs.columns(decomposed, labels)
    for test in tests:
        inputs.check_test(test, labels.shape[0], "ntk_test")
    start = inputs.broadcast(start, labels, "start")
    numbers = inputs.cast(numbers, labels.dtype)
    residual = columns - start.reshape(columns.shape)
    rows = map(inputs.flattened, tests)
    train, test = training.learned(gain, times.ravel(), numbers, decomposed, residual, *rows)
    train = inputs.moved(start, train.reshape(*times.shape, *labels.shape))
    if not tests:
        return Outputs(train)
    test = test.reshape(*times.shape, tests[0].shape[0], *labels.shape[1:])
    return Outputs(train, inputs.moved(start_test, test))


def _decomposed(ntk):
    if isinstance(ntk, Modes):
        return ntk
    (kernel,) = inputs.arrays(ntk=ntk)
    return decompose(inputs.square(inputs.flattened(kernel), "ntk"))


def _per(number, y):
    """Return a time or rate of the mean over examples as one of the sum over examples."""
    if not np.ndim(y):
        raise ValueError(f"y: {y} is one number; pass labels (n,) or (n, outputs)")
    return jnp.asarray(number) / np.shape(y)[0]


def _steps(name, steps):
    inputs.check(
        name, steps, lambda k: (k >= 0) & (k == np.round(k)), "whole numbers of steps >= 0"
    )
    return jnp.asarray(steps, int)
