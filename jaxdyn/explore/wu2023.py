"""The learning rate at which SGD leaves a minimum, by batch size, number of examples and their
gradients."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdyn._numbers import normal
from jaxdyn.theory.descent import stability

__all__ = ["AXES", "DEFAULT", "SLIDERS", "WITHIN", "simulate", "theory"]

SLIDERS = {
    "alignment_of_gradients": (0.0, 0.1, 0.3, 0.6, 0.9),
    "spread_of_norms": (1.0, 2.0, 4.0, 8.0),
    "examples": (4, 8, 16),
}
DEFAULT = {"alignment_of_gradients": 0.0, "spread_of_norms": 1.0, "examples": 8}
AXES = {
    "xlabel": "batch size",
    "ylabel": "largest stable learning rate",
    "xscale": "log",
    "yscale": "log",
}
DRAWN = 20_000
WITHIN = 0.03  # four standard errors of the moments of so many batches
SIZES = 2.0 ** np.arange(0, 6.5, 0.5)


def gradients(alignment, spread, examples):
    """Return gradients in rows, of mean square 1: a part of all, one of their own, and norms spread
    by a factor."""
    own = normal(jax.random.key(0), (examples, examples)) / examples**0.5
    common = jnp.ones(examples) / examples**0.5
    mixed = jnp.sqrt(1 - alignment) * own + jnp.sqrt(alignment) * common[None]
    length = jnp.linalg.norm(mixed, axis=1, keepdims=True)
    norms = spread ** jnp.linspace(-0.5, 0.5, examples)[:, None]
    g = mixed / length * norms
    mean_square = jnp.mean(jnp.sum(g**2, 1))
    return g / jnp.sqrt(mean_square)


def theory(*, alignment_of_gradients, spread_of_norms, examples):
    """Return the exact threshold of mean-square stability, what bounds it, and gradient
    descent's."""
    g = gradients(alignment_of_gradients, spread_of_norms, examples)
    of_sizes = (None, 0)
    exact = jax.vmap(stability.max_learning_rate, of_sizes)
    necessary = jax.vmap(stability.necessary_learning_rate, of_sizes)
    descent = stability.max_learning_rate(g, jnp.inf)
    sizes = jnp.asarray(SIZES)
    return {
        "x": SIZES,
        "exact": exact(g, sizes),
        "necessary": necessary(g, sizes),
        "2 B / tr H": 2 * SIZES,
        "gradient descent": jnp.full(SIZES.shape, descent),
    }


def simulate(key, *, alignment_of_gradients, spread_of_norms, examples):
    """Find by bisection where second moments grow under the mean of 20,000 batches drawn."""
    g = gradients(alignment_of_gradients, spread_of_norms, examples)
    n = examples
    sizes = SIZES[np.isin(SIZES, 2.0 ** np.arange(7))]

    @jax.jit
    def threshold(drawn, batch):
        # The Hessians of batches, from how often each example is in them.
        inside = jnp.arange(drawn.shape[1])[None, :, None] < batch
        counts = jnp.sum(jax.nn.one_hot(drawn, n) * inside, 1)
        share = counts / batch
        hessians = jnp.einsum("di,ia,ib->dab", share, g, g)
        products = jnp.einsum("dab,dxy->axby", hessians, hessians)
        squares = products.reshape(n * n, n * n) / len(drawn)
        mean = hessians.mean(0)
        eye = jnp.eye(n)
        sums = jnp.kron(mean, eye) + jnp.kron(eye, mean)
        # Moments grow beyond the rate at which rate * squares exceeds the sums along some of them.
        root = jnp.linalg.cholesky(sums)
        scaled = jax.scipy.linalg.solve_triangular(root, squares, lower=True)
        scaled = jax.scipy.linalg.solve_triangular(root, scaled.T, lower=True)
        growth = jnp.linalg.eigvalsh((scaled + scaled.T) / 2)
        return 1 / growth[-1]

    drawn = jax.random.randint(key, (DRAWN, int(sizes[-1])), 0, n)
    return {"x": sizes, "exact": jnp.stack([threshold(drawn, batch) for batch in sizes])}
