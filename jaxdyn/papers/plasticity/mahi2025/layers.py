"""Layers that learn from inputs alone, and what is recorded of them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdyn import State, descent, iterate
from jaxdyn.models import mlp
from jaxdyn.rules import knowledge_accumulation, sigmoid_layers
from jaxdyn.tasks import full_batch

__all__ = ["FOUR_LAYERS", "PAPER", "SMALLER", "check_task", "train_layers"]

PAPER = {"examples": 200, "inputs": 64, "classes": 10, "widths": (32, 16, 10)}
SMALLER = {"examples": 40, "inputs": 24, "classes": 4, "widths": (12, 6, 4), "duration": 12.0}
FOUR_LAYERS = {"widths": (12, 8, 6, 4)}


def prototypes(key, examples, inputs, classes):
    """Draw noisy copies of sparse binary patterns, values in [0, 1]."""
    k_patterns, k_noise = jax.random.split(key)
    patterns = jax.random.bernoulli(k_patterns, 0.2, (classes, inputs))
    patterns = patterns[jnp.arange(examples) % classes]
    noise = jax.random.normal(k_noise, (examples, inputs), jnp.float32)
    noise = jnp.abs(noise).astype(float)
    return jnp.clip(0.8 * patterns + 0.1 * noise, 0, 1)


def train_layers(points, record, task, duration, sweep):
    """Train layers for pairs (learning rate, scale of the start), recorded every `record` of flow
    time."""
    examples, inputs, classes, widths = task
    dims = dict.fromkeys(("activity", "spent", "gained", "entropy_rate", "tensor_net"), "layer")
    times = record * np.arange(1, round(duration / record) + 1)
    with jax.enable_x64(True):
        x = prototypes(jax.random.key(0), examples, inputs, classes)
        gram = x @ x.T / examples + 1 / examples
        eigenvalues = jnp.linalg.eigvalsh(gram)[::-1]
        growth = np.asarray(eigenvalues / (4 * jnp.log(2)))
        system = partial(accumulated, x=x, widths=widths, times=times)
        runs = sweep(system, {("rate", "scale"): points}, dims=dims)
    # The runs of one flow time are records of one number.
    runs = runs.rename(rate_scale="point").drop_vars("time").assign_coords(time=times)
    largest, following, *_ = growth.tolist()
    return runs.assign_attrs(growth=largest, next_growth=following)


def check_task(examples, inputs, classes, widths, duration, rate):
    if min(examples, inputs, classes, *widths) < 1 or examples < 2:
        sizes = (examples, inputs, classes, widths)
        raise ValueError(f"examples, inputs, classes, widths: {sizes}; pass 2, 1, 1, 1 or more")
    if not 0 < rate <= duration / 20:
        raise ValueError(f"duration: {duration}; pass 20 times the learning rate {rate} or more")
    return examples, inputs, classes, widths


def entropy(h):
    """Return the binary entropy of all decisions, in bits."""
    xlogy = jax.scipy.special.xlogy(h, h)
    xlog1py = jax.scipy.special.xlog1py(1 - h, -h)
    return -jnp.sum(xlogy + xlog1py) / jnp.log(2)


def accumulated(rate, scale, *, x, widths, times):
    """Train layers: their activity, what the last step and all steps did to their entropy, and the
    tensor net."""
    model = mlp((x.shape[1], *widths), scale=scale)
    weights = model.init(jax.random.key(1))
    first = sigmoid_layers(weights, x)
    blocks: dict = {"params": optax.sgd(rate), "state": optax.sgd(1.0)}
    optimizer = optax.partition(blocks, {"params": "params", "state": "state"})
    inner = descent(knowledge_accumulation, optimizer, full_batch(x))

    def change(z, h, last_h):
        return -jnp.sum(z * (h - last_h)) / jnp.log(2)

    def flow(z, h, last_z):
        slope = z * h * (1 - h) / jnp.log(2)
        return jnp.sum((z - last_z) * (h - slope))

    def step(key, state):
        net = state.params["net"]
        now = sigmoid_layers(net["params"], x)
        layers = (now["inputs"], now["outputs"])
        changes = jnp.stack(list(map(change, *layers, net["state"])))
        flows = jnp.stack(list(map(flow, *layers, state.params["inputs"])))
        after = inner(key, state._replace(params=net))
        sums = {
            "spent": state.params["spent"] + changes,
            "entropy_rate": changes / rate,
            "tensor_net": flows / rate,
        }
        params = {"net": after.params, "inputs": now["inputs"], **sums}
        return after._replace(params=params)

    def gain(h, first_h):
        return entropy(h) - entropy(first_h)

    def observe(state):
        outputs = state.params["net"]["state"]
        activity = jnp.stack([jnp.linalg.norm(z) for z in state.params["inputs"]])
        gained = jnp.stack(list(map(gain, outputs, first["outputs"])))
        spread = jnp.std(outputs[-1], 0).max()
        sums = {name: state.params[name] for name in ("spent", "entropy_rate", "tensor_net")}
        return sums | {"activity": activity, "gained": gained, "spread": spread}

    net = {"params": weights, "state": first["outputs"]}
    zero = jnp.zeros(len(widths))
    sums = dict.fromkeys(("spent", "entropy_rate", "tensor_net"), zero)
    params = {"net": net, "inputs": first["inputs"], **sums}
    start = State(0, params, optimizer.init(net))
    steps = jnp.round(times / rate).astype(int)
    return iterate(step, start, times=steps, observe=observe)
