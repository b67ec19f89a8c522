"""Networks with all parts or without some of them, and their flow beside that of their modes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxdyn import RK4, flow
from jaxdyn._numbers import check, check_positive, normal
from jaxdyn.losses import latent_covariance_loss
from jaxdyn.rules import self_distillation
from jaxdyn.tasks import frames, noisy_copies
from jaxdyn.theory.linear import self_distillation as theory

__all__ = ["LATENT", "flow_of", "network", "random_weights", "task_of"]

LATENT = latent_covariance_loss(lambda encoder: encoder)


def task_of(width, augmentation, duration, step):
    """Return what all networks of a sweep share: bases, moments, times and the step."""
    check("width", width, lambda units: units >= 1, "one unit or more")
    check("augmentation", augmentation, lambda noise: noise >= 0, "a variance, 0 or more")
    check_positive(duration=duration, step=step)
    identity = jnp.eye(width)
    return {
        "basis": frames(jax.random.key(0), (width, width), width),
        "moments": noisy_copies(identity, augmentation * identity),
        "augmentation": augmentation,
        # Denser at first, where most happens.
        "times": duration * np.linspace(0, 1, 201) ** 2,
        "step": step,
    }


def random_weights(seed, width, scale):
    """Draw a random encoder and predictor."""
    return scale * normal(jax.random.key(seed), (2, width, width))


def network(encoder, predictor, decay, **parts):
    """Return a network's initial weights and settings; by default all parts are there.

    `parts` are `stopped`, whether the target is held constant; `learned`, whether the predictor
    learns; `symmetric`, whether it is kept symmetric; `predictor_rate`; and `target_rate`, at which
    an average of the encoder moves as the target, 0 for the encoder itself.
    """
    all_parts = {"stopped": 1, "learned": 1, "symmetric": 0}
    rates = {"predictor_rate": 1.0, "target_rate": 0.0, "decay": decay}
    weights = {"encoder": encoder, "predictor": predictor}
    return weights | all_parts | rates | parts


def flow_of(sweep, networks, task, **coordinates):
    """Sweep over a list of networks; `coordinates` label them."""

    def stacked(*leaves):
        return jnp.stack([jnp.asarray(leaf, float) for leaf in leaves])

    cases = jax.tree.map(stacked, *networks)
    modal = ("predictor", "encoder", "eigenvalues")
    experiment = partial(network_flow, cases=cases, **task)
    axes = {"case": np.arange(len(networks))}
    runs = sweep(experiment, axes, dims=dict.fromkeys(modal, "mode"))
    labels = {name: ("case", np.asarray(values, float)) for name, values in coordinates.items()}
    return runs.assign_coords(labels)


def network_flow(case, *, cases, basis, moments, augmentation, times, step):
    """Flow of one network beside its modes; what it conserves and how it aligns."""
    one = {name: values[case] for name, values in cases.items()}
    left, right = basis
    decay = one["decay"]
    predictor_rate = one["predictor_rate"]
    target_rate = one["target_rate"]
    options = {"decay": decay, "predictor_rate": predictor_rate, "augmentation": augmentation}
    velocity = partial(theory.predictor_velocity, **options)
    field_of_weights = field_with_parts(one)

    # One program for all: the target is an average where it moves at some rate, else the encoder
    # itself.
    def target_of(blocks):
        return jnp.where(target_rate > 0, blocks["target"], blocks["encoder"])

    def field(params, moments):
        modes = params["modes"]
        network = params["network"]
        weights = network | {"target": target_of(network)}
        updates = field_of_weights(weights, moments)
        encoder = modes["encoder"]
        target = target_of(modes)
        predictor_moves, encoder_moves = velocity(modes["predictor"], encoder, target)
        towards_encoder = target_rate * (target - encoder)
        moves = {"encoder": -encoder_moves, "predictor": -predictor_moves}
        return {"network": updates, "modes": moves | {"target": towards_encoder}}

    def strengths(encoder, predictor):
        of_encoder = jnp.sum(left * (encoder @ right), 0)
        of_predictor = jnp.sum(left * (predictor @ left), 0)
        return {"encoder": of_encoder, "predictor": of_predictor}

    def observe(state):
        encoder = state.params["network"]["encoder"]
        predictor = state.params["network"]["predictor"]
        modes = state.params["modes"]
        correlation = encoder @ encoder.T
        commutator = correlation @ predictor - predictor @ correlation
        kept = jnp.exp(-2 * decay * state.time) * imbalance
        drift = theory.predictor_imbalance(encoder, predictor, predictor_rate) - kept
        # Without it squares of what has collapsed would underflow.
        size = jnp.abs(encoder).max()
        norm = size * jnp.linalg.norm(encoder / size)
        predicted = {f"{name}_theory": modes[name] for name in ("encoder", "predictor")}
        invariants = {"imbalance": jnp.abs(drift).max(), "log_norm": jnp.log(norm)}
        alignment = {
            "commutator": jnp.linalg.norm(commutator),
            "alignment_rate": theory.alignment_rate(encoder, predictor, **options),
            "eigenvalues": jnp.linalg.eigvalsh(correlation),
        }
        return strengths(encoder, predictor) | predicted | invariants | alignment

    encoder = one["encoder"]
    predictor = one["predictor"]
    imbalance = theory.predictor_imbalance(encoder, predictor, predictor_rate)
    modes = strengths(encoder, predictor)
    # An average that lags behind starts at half of the encoder.
    weights = {"encoder": encoder, "predictor": predictor, "target": encoder / 2}
    modes = modes | {"target": modes["encoder"] / 2}
    start = {"network": weights, "modes": modes}
    return flow(field, moments, start, times=times, observe=observe, solver=RK4(step))


def field_with_parts(one):
    """Return the field of a network's weights, with those parts that it has."""
    options = {"weight_decay": one["decay"], "predictor_rate": one["predictor_rate"]}
    stopped = self_distillation(LATENT, target_rate=one["target_rate"], **options)
    whole = self_distillation(LATENT, stop_gradient=False, **options)

    def field(weights, moments):
        updates = stopped(weights, moments)
        online = {name: weights[name] for name in ("encoder", "predictor")}
        for name, update in whole(online, moments).items():
            updates[name] = jnp.where(one["stopped"], updates[name], update)
        update = updates["predictor"]
        symmetric = jnp.where(one["symmetric"], (update + update.T) / 2, update)
        updates["predictor"] = one["learned"] * symmetric
        return updates

    return field
