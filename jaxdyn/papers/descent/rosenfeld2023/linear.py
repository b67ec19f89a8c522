"""The two-layer linear network c b^T x of signals and an outlier: its descent and its flow."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdyn import RK4, at, flow, train
from jaxdyn.losses import covariance_loss
from jaxdyn.models import product
from jaxdyn.observables import combine, loss, sharpness
from jaxdyn.optimizers import kicks
from jaxdyn.tasks import Covariances, full_batch
from jaxdyn.theory.descent import opposing

__all__ = [
    "LOSS",
    "SLOWER_SIGNALS",
    "THREE_SIGNALS",
    "first_alone",
    "linear_descent",
    "linear_flow",
    "linear_start",
]

LOSS = covariance_loss(product)

# Other configurations, which several experiments are judged in.
THREE_SIGNALS = {"outlier": 30.0, "variances": (1.0, 0.2, 0.04)}
SLOWER_SIGNALS = {"variances": (0.5, 0.1, 0.03, 0.02)}


def linear_start(variances, outlier):
    """Small weights of a two-layer network, and the moments of what it learns: signals of target 1,
    and an outlier."""
    yx = jnp.append(variances, 0.0)[None]
    signals = (variances > 0).astype(float)
    xx = jnp.diag(jnp.append(variances, outlier))
    moments = Covariances(xx, yx, jnp.sum(variances)[None, None])
    first = 0.05 * jnp.append(signals, 1.0)[None]
    second = jnp.full((1, 1), 0.1)
    return [first, second], moments


def first_alone(variances):
    """The variances where the first signal is the only one."""
    variances = np.array(variances)
    return variances * (np.arange(variances.size) == 0)


def observables(moments, times):
    """Observe the weights, the loss and, at these times, the sharpness."""

    def weights(state):
        (first,), ((c,),) = state.params
        return {
            "c": c,
            "b": first[:-1],
            "o": first[-1],
            "valley": moments.xx[-1, -1] * c**2,
            "balance": c**2 - first @ first,
        }

    # As many directions as there are weights: Lanczos is exact.
    depth = moments.xx.shape[0] + 1
    curvature = at(times, sharpness(LOSS, moments, depth=depth))
    return combine(weights, loss(LOSS, moments), curvature)


def flow_valley(start, variances, outlier):
    """The curvature of the valley at which gradient flow ends."""
    first, second = start
    targets = (variances > 0).astype(float)
    limit = opposing.flow_limit(second[0, 0], first[0], targets)
    return outlier * limit**2


def linear_descent(rate, kick, draw, *, variances, outlier, steps):
    """Descent of a two-layer linear network, and its central flow from the edge on."""
    start, moments = linear_start(variances, outlier)
    noise = kicks(jax.random.key(draw), kick)
    optimizer = optax.chain(optax.sgd(rate), noise)
    times = np.arange(steps + 1)
    observe = observables(moments, [0, steps])
    gradient = jax.grad(LOSS)
    stream = full_batch(moments)
    run = train(gradient, optimizer, stream, start, times=times, observe=observe)
    beyond = run.observed["c"] >= opposing.edge(outlier, rate)
    met = jnp.argmax(beyond)
    since = jnp.where(jnp.any(beyond), times - met, -1)
    b = run.observed["b"]
    targets = jnp.ones(variances.size)
    course = opposing.course(since, b[met], variances, targets, outlier, rate)
    # Before the edge is met there is no central flow.
    at_edge = since >= 0
    theory = {
        "c_theory": jnp.where(at_edge, course.c, jnp.nan),
        "b_theory": jnp.where(at_edge[:, None], course.b, jnp.nan),
        "variance_theory": jnp.where(at_edge, course.variance, jnp.nan),
    }
    limit = flow_valley(start, variances, outlier)
    others = {
        "variance": run.observed["o"] ** 2,
        "since": since,
        "flow_valley": jnp.full(steps + 1, limit),
    }
    return run._replace(observed=run.observed | theory | others)


def linear_flow(*, variances, outlier, times):
    """Gradient flow of the same, and the curvature of the valley at which it ends."""
    start, moments = linear_start(variances, outlier)
    observe = observables(moments, times)
    # A tenth of the time constant of the outlier, the fastest direction.
    solver = RK4(0.1 / outlier)
    run = flow(jax.grad(LOSS), moments, start, times=times, observe=observe, solver=solver)
    limit = jnp.full(len(times), flow_valley(start, variances, outlier))
    return run._replace(observed=run.observed | {"valley_theory": limit})
