"""Self-distillation: the field of the papers' equations, targets that average, and views to learn
from."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdyn as jd
from jaxdyn import losses, models, rules, tasks
from jaxdyn.theory.linear import self_distillation as theory

latent = losses.latent_covariance_loss(lambda w: w)


def matrices(*shapes):
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return [jax.random.normal(k, shape) for k, shape in zip(keys, shapes, strict=True)]


def linear_params():
    encoder, predictor, target = matrices((3, 4), (3, 3), (3, 4))
    return {"encoder": encoder, "predictor": predictor, "target": target}


def views():
    return tasks.noisy_copies(jnp.diag(jnp.arange(1.0, 5.0)), 0.3 * jnp.eye(4))


def test_field_is_that_of_the_paper(x64):
    # Tian, Chen, Ganguli 2021, with multiplier, decay and a target of its own.
    params = linear_params()
    (xx, yx, _) = views()
    w, p, w_a = params.values()
    field = rules.self_distillation(latent, predictor_rate=2.0, weight_decay=0.1, target_rate=0.3)
    updates = field(params, views())
    error = w_a @ yx - p @ w @ xx
    expected = 2 * error @ w.T - 0.1 * p
    np.testing.assert_allclose(-updates["predictor"], expected, atol=1e-13)
    expected = p.T @ error - 0.1 * w
    np.testing.assert_allclose(-updates["encoder"], expected, atol=1e-13)
    expected = 0.3 * (w - w_a)
    np.testing.assert_allclose(-updates["target"], expected, atol=1e-14)


def test_without_stop_gradient_it_is_the_gradient_of_the_whole_loss(x64):
    params = linear_params()
    del params["target"]
    whole = jax.grad(lambda p: latent(p, p["encoder"], views()))(params)
    updates = rules.self_distillation(latent, stop_gradient=False)(params, views())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-13), updates, whole)
    stopped = rules.self_distillation(latent)(params, views())
    assert jnp.abs(stopped["encoder"] - whole["encoder"]).max() > 0.1
    with pytest.raises(ValueError, match='leave out the block "target"'):
        rules.self_distillation(latent, stop_gradient=False)(linear_params(), views())


def test_commutator_of_a_symmetric_predictor_obeys_the_alignment_rate(x64):
    (w, p) = matrices((3, 3), (3, 3))
    moments = tasks.noisy_copies(jnp.eye(3), 0.3 * jnp.eye(3))
    p = p + p.T
    field = rules.self_distillation(latent, weight_decay=0.1, predictor_rate=2.0)
    updates = field({"encoder": w, "predictor": p}, moments)
    velocity = -updates["encoder"], -(updates["predictor"] + updates["predictor"].T) / 2
    commutator, moved = jax.jvp(lambda w, p: w @ w.T @ p - p @ w @ w.T, (w, p), velocity)
    k = 1.3 * (p @ p + w @ w.T) - p + 0.15 * jnp.eye(3)
    expected = -(k @ commutator + commutator @ k)
    np.testing.assert_allclose(moved, expected, atol=1e-12)
    rate = theory.alignment_rate(w, p, augmentation=0.3, decay=0.1, predictor_rate=2.0)
    assert float(rate) == pytest.approx(2 * np.linalg.eigvalsh(k)[0], rel=1e-12)


@pytest.mark.parametrize("stop_gradient", [True, False])
def test_encoders_alone_decay_at_the_collapse_rate(stop_gradient, x64):
    w = linear_params()["encoder"]
    moments = tasks.noisy_copies(jnp.eye(4), 0.3 * jnp.eye(4))
    field = rules.self_distillation(latent, stop_gradient=stop_gradient, weight_decay=0.1)
    rate = theory.collapse_rate(0.3, 0.1, predictor=False, stop_gradient=stop_gradient)
    computed = field({"encoder": w}, moments)["encoder"]
    np.testing.assert_allclose(computed, rate * w, atol=1e-14)


@pytest.mark.parametrize("predictor", [True, False])
def test_moments_give_the_latent_error_of_the_batch_they_came_from(predictor, x64):
    params = linear_params()
    target = params.pop("target")
    if not predictor:
        del params["predictor"]
    batch = tasks.gaussian_pairs(jax.random.key(1), views(), 30)

    def linear(w, x):
        return x @ w.T

    of_batch = losses.latent_error(linear, linear)(params, target, batch)
    computed = latent(params, target, tasks.covariances(*batch))
    np.testing.assert_allclose(computed, of_batch, rtol=1e-13)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("objective", ["jepa", "mae"])
def test_aligned_networks_move_by_the_theory_of_their_modes(depth, objective, x64):
    covariance = jnp.array([1.2, 0.5])
    influence = jnp.array([0.6, 1.4])
    w = jnp.array([0.2, 0.3])
    moments = tasks.noisy_copies(
        jnp.diag(covariance), jnp.diag(covariance / influence - covariance)
    )
    frames = [jnp.eye(2), *tasks.frames(jax.random.key(0), [2] * depth, 2)]
    last = frames[-1] @ (frames[-1].T if objective == "jepa" else jnp.eye(2))
    encoder = models.aligned(frames, w)
    predictor = frames[-1] @ jnp.diag(w ** (1 / depth)) @ frames[-1].T
    if objective == "jepa":
        field = rules.self_distillation(losses.latent_covariance_loss(models.product))
    else:
        predictor = jnp.diag(w ** (1 / depth)) @ last.T
        field = jax.grad(
            losses.covariance_loss(lambda p: p["predictor"] @ models.product(p["encoder"]))
        )
    params = {"encoder": encoder, "predictor": predictor}
    updates = field(params, moments)
    _, speed = jax.jvp(
        models.product, (encoder,), (jax.tree.map(jnp.negative, updates["encoder"]),)
    )
    expected = frames[-1] @ jnp.diag(
        theory.mode_velocity(w, covariance, influence, depth, objective)
    )
    np.testing.assert_allclose(speed, expected, atol=1e-14)


def test_what_the_layers_conserve_decays_with_the_weights(x64):
    params = linear_params()
    field = rules.self_distillation(latent, predictor_rate=2.0, weight_decay=0.1)

    def observe(s):
        return {"c": theory.imbalance(s.params["encoder"], s.params["predictor"], 2.0)}

    times = np.linspace(0, 2, 5)
    run = jax.jit(
        lambda p: jd.flow(field, views(), p, times=times, observe=observe, solver=jd.RK4(2e-3))
    )(params)
    c = run.observed["c"]
    # The method's order is four, and the fastest rate some 50.
    expected = c[0][None] * np.exp(-0.2 * times)[:, None, None]
    np.testing.assert_allclose(c, expected, atol=1e-4)


def test_target_of_a_flow_relaxes_and_that_of_training_averages(x64):
    # A loss without slope: the encoder stays where it is, or moves by a known amount a step.
    params = {"encoder": jnp.array(2.0), "target": jnp.array(-1.0)}
    still = rules.self_distillation(
        lambda online, target, batch: 0.0 * online["encoder"], target_rate=0.5
    )
    run = jd.flow(
        still,
        None,
        params,
        times=[0, 1, 2],
        observe=lambda s: {"w": s.params["target"]},
        solver=jd.RK4(0.01),
    )
    expected = 2 - 3 * np.exp(-0.5 * np.arange(3))
    np.testing.assert_allclose(run.observed["w"], expected, atol=1e-10)
    moving = rules.self_distillation(
        lambda online, target, batch: online["encoder"], target_rate=0.5
    )
    labels = {"encoder": "learned", "target": "target"}
    optimizer = optax.partition({"learned": optax.sgd(1.0), "target": optax.sgd(1.0)}, labels)
    run = jd.train(
        moving,
        optimizer,
        tasks.full_batch(None),
        params,
        times=range(6),
        observe=lambda s: s.params,
    )
    w = run.observed["encoder"]
    expected = 2.0 - np.arange(6)
    np.testing.assert_array_equal(w, expected)
    computed = run.observed["target"][1:]
    expected = 0.5 * run.observed["target"][:-1] + 0.5 * w[:-1]
    np.testing.assert_allclose(computed, expected, rtol=1e-14)


def test_nonlinear_encoders_collapse_without_stop_gradient_and_predictor():
    moments = tasks.noisy_copies(jnp.eye(4), 0.5 * jnp.eye(4))
    net = models.mlp((4, 16, 4), activation=jax.nn.relu)
    head = models.mlp((4, 4))
    stream = tasks.online(lambda key: tasks.gaussian_pairs(key, moments, 64))
    x = tasks.gaussian_pairs(jax.random.key(9), moments, 200)[0]
    loss = losses.latent_error(net.apply, head.apply)

    def spread(blocks, **options):
        encoder = net.init(jax.random.key(0))
        params = {"encoder": encoder, "predictor": head.init(jax.random.key(1)), "target": encoder}
        params = {name: params[name] for name in blocks}
        labels = {name: "target" if name == "target" else "learned" for name in blocks}
        optimizer = optax.partition({"learned": optax.sgd(0.1), "target": optax.sgd(1.0)}, labels)
        field = rules.self_distillation(loss, **options)

        def observe(s):
            return {"spread": net.apply(s.params["encoder"], x).std(0).mean()}

        key = jax.random.key(2)
        run = jax.jit(
            lambda p: jd.train(
                field, optimizer, stream, p, times=[0, 400], observe=observe, key=key
            )
        )(params)
        return float(run.observed["spread"][1] / run.observed["spread"][0])

    assert spread(["encoder"], stop_gradient=False) < 0.05
    assert spread(["encoder", "predictor", "target"], target_rate=0.05) > 0.2


def test_direct_predictor_has_its_spectrum_and_no_gradient(precision):
    basis = jnp.linalg.qr(matrices((3, 3))[0])[0]
    correlation = (basis * jnp.array([4.0, 1.0, 0.0])[None]) @ basis.T
    predictor = rules.direct_predictor(correlation, 0.1)
    # A zero eigenvalue is known to the rounding of the largest, its root to the root of that.
    eps = float(jnp.finfo(precision).eps)
    computed = jnp.diagonal(basis.T @ predictor @ basis)
    expected = [2.2, 1.2, 0.2]
    np.testing.assert_allclose(computed, expected, atol=10 * eps**0.5)
    assert jnp.all(jax.grad(lambda f: rules.direct_predictor(f).sum())(jnp.eye(3)) == 0)


def test_successive_states_are_stationary(x64):
    transition = jnp.array([[0.5, 0.4], [-0.2, 0.7]])
    noise = jnp.array([[1.0, 0.2], [0.2, 0.5]])
    xx, yx, yy = tasks.successive_states(transition, noise)
    computed = transition @ xx @ transition.T + noise
    np.testing.assert_allclose(computed, xx, atol=1e-14)
    computed = yx @ jnp.linalg.inv(xx)
    np.testing.assert_allclose(computed, transition, atol=1e-14)
    np.testing.assert_array_equal(xx, yy)
    with pytest.raises(ValueError, match=r"spectral radius 1\.1"):
        tasks.successive_states(jnp.array([[1.1]]), jnp.eye(1))


@pytest.mark.parametrize(
    "moments",
    [
        lambda: tasks.noisy_copies(
            jnp.array([[2.0, 0.5], [0.5, 1.0]]), jnp.diag(jnp.array([1.0, 0.1]))
        ),
        lambda: tasks.successive_states(jnp.array([[0.5, 0.4], [-0.2, 0.7]]), jnp.eye(2)),
        lambda: tasks.noisy_copies(jnp.eye(2), jnp.zeros((2, 2))),
    ],
)
def test_gaussian_pairs_have_the_moments(moments, precision):
    moments = moments()
    n = 40_000
    x, y = tasks.gaussian_pairs(jax.random.key(0), moments, n)
    assert x.dtype == precision
    # A sampled covariance is off by sqrt(C_ii C_jj + C_ij^2) / sqrt(n) <= C_max sqrt(2/n), here
    # with 12 entries.
    bound = 4.5 * float(jnp.max(moments.xx)) * (2 / n) ** 0.5
    for sampled, wanted in zip(tasks.covariances(x, y), moments, strict=True):
        np.testing.assert_allclose(sampled, wanted, atol=bound)


def test_moments_of_no_pair_of_variables_are_refused():
    # Copies correlate by less than one: the influence of a signal on its copy lies below it.
    with pytest.raises(ValueError, match=r"moments: their joint matrix has the eigenvalue -0\.5"):
        tasks.gaussian_pairs(
            jax.random.key(0), tasks.noisy_copies(jnp.eye(1), -0.5 * jnp.eye(1)), 10
        )
