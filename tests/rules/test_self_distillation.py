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
    signal = jnp.diag(jnp.arange(1.0, 5.0))
    return tasks.noisy_copies(signal, 0.3 * jnp.eye(4))


def partition(blocks, learning_rate):
    """Gradient descent of all blocks but the target, which moves by its own updates."""
    steps = {"learned": optax.sgd(learning_rate), "target": optax.sgd(1.0)}
    labels = {name: "target" if name == "target" else "learned" for name in blocks}
    return optax.partition(steps, labels)


def test_field_is_that_of_the_paper(x64):
    # Tian, Chen, Ganguli 2021, with multiplier, decay and a target of its own.
    params = linear_params()
    xx, yx, _ = views()
    w, p, w_a = params.values()
    field = rules.self_distillation(latent, predictor_rate=2.0, weight_decay=0.1, target_rate=0.3)
    updates = field(params, views())
    error = w_a @ yx - p @ w @ xx
    velocity = jax.tree.map(jnp.negative, updates)
    expected = 2 * error @ w.T - 0.1 * p
    np.testing.assert_allclose(velocity["predictor"], expected, atol=1e-13)
    expected = p.T @ error - 0.1 * w
    np.testing.assert_allclose(velocity["encoder"], expected, atol=1e-13)
    expected = 0.3 * (w - w_a)
    np.testing.assert_allclose(velocity["target"], expected, atol=1e-14)


def test_without_stop_gradient_it_is_the_gradient_of_the_whole_loss(x64):
    params = linear_params()
    del params["target"]

    def whole_loss(params):
        return latent(params, params["encoder"], views())

    def compare(a, b):
        np.testing.assert_allclose(a, b, atol=1e-13)

    gradient = jax.grad(whole_loss)(params)
    field = rules.self_distillation(latent, stop_gradient=False)
    updates = field(params, views())
    jax.tree.map(compare, updates, gradient)
    stopped = rules.self_distillation(latent)(params, views())
    assert jnp.abs(stopped["encoder"] - gradient["encoder"]).max() > 0.1
    with pytest.raises(ValueError, match='leave out the block "target"'):
        field(linear_params(), views())


def test_commutator_of_a_symmetric_predictor_obeys_the_alignment_rate(x64):
    w, p = matrices((3, 3), (3, 3))
    moments = tasks.noisy_copies(jnp.eye(3), 0.3 * jnp.eye(3))
    p = p + p.T
    field = rules.self_distillation(latent, weight_decay=0.1, predictor_rate=2.0)
    updates = field({"encoder": w, "predictor": p}, moments)
    w_velocity = -updates["encoder"]
    p_velocity = -(updates["predictor"] + updates["predictor"].T) / 2

    def commute(w, p):
        return w @ w.T @ p - p @ w @ w.T

    commutator, moved = jax.jvp(commute, (w, p), (w_velocity, p_velocity))
    k = 1.3 * (p @ p + w @ w.T) - p + 0.15 * jnp.eye(3)
    expected = -(k @ commutator + commutator @ k)
    np.testing.assert_allclose(moved, expected, atol=1e-12)
    rate = theory.alignment_rate(w, p, augmentation=0.3, decay=0.1, predictor_rate=2.0)
    smallest = np.linalg.eigvalsh(k)[0]
    assert float(rate) == pytest.approx(2 * smallest, rel=1e-12)


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

    x, y = batch
    computed = latent(params, target, tasks.covariances(x, y))
    expected = losses.latent_error(linear, linear)(params, target, batch)
    np.testing.assert_allclose(computed, expected, rtol=1e-13)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("objective", ["jepa", "mae"])
def test_aligned_networks_move_by_the_theory_of_their_modes(depth, objective, x64):
    covariance = jnp.array([1.2, 0.5])
    influence = jnp.array([0.6, 1.4])
    w = jnp.array([0.2, 0.3])
    noise = covariance / influence - covariance
    moments = tasks.noisy_copies(jnp.diag(covariance), jnp.diag(noise))
    frames = [jnp.eye(2), *tasks.frames(jax.random.key(0), [2] * depth, 2)]
    last = frames[-1]
    encoder = models.aligned(frames, w)
    layer = jnp.diag(w ** (1 / depth))

    def reconstruct(params):
        return params["predictor"] @ models.product(params["encoder"])

    if objective == "jepa":
        predictor = last @ layer @ last.T
        field = rules.self_distillation(losses.latent_covariance_loss(models.product))
    else:
        predictor = layer @ last.T
        field = jax.grad(losses.covariance_loss(reconstruct))
    params = {"encoder": encoder, "predictor": predictor}
    updates = field(params, moments)
    velocity = jax.tree.map(jnp.negative, updates["encoder"])
    _, speed = jax.jvp(models.product, (encoder,), (velocity,))
    mode_speeds = theory.mode_velocity(w, covariance, influence, depth, objective)
    expected = last @ jnp.diag(mode_speeds)
    np.testing.assert_allclose(speed, expected, atol=1e-14)


def test_what_the_layers_conserve_decays_with_the_weights(x64):
    params = linear_params()
    field = rules.self_distillation(latent, predictor_rate=2.0, weight_decay=0.1)

    def observe(s):
        conserved = theory.predictor_imbalance(s.params["encoder"], s.params["predictor"], 2.0)
        return {"c": conserved}

    times = np.linspace(0, 2, 5)
    solver = jd.RK4(2e-3)

    @jax.jit
    def simulate(params):
        return jd.flow(field, views(), params, times=times, observe=observe, solver=solver)

    c = simulate(params).observed["c"]
    decay = np.exp(-0.2 * times)[:, None, None]
    # The method's order is four, and the fastest rate some 50.
    expected = c[0][None] * decay
    np.testing.assert_allclose(c, expected, atol=1e-4)


def test_target_of_a_flow_relaxes_and_that_of_training_averages(x64):
    params = {"encoder": jnp.array(2.0), "target": jnp.array(-1.0)}

    def observe(state):
        return state.params

    # A loss without slope: the encoder stays where it is.
    def flat(online, target, batch):
        return 0.0 * online["encoder"]

    # A loss of slope one: the encoder moves by a known amount a step.
    def slope(online, target, batch):
        return online["encoder"]

    still = rules.self_distillation(flat, target_rate=0.5)
    times = [0, 1, 2]
    run = jd.flow(still, None, params, times=times, observe=observe, solver=jd.RK4(0.01))
    expected = 2 - 3 * np.exp(-0.5 * np.arange(3))
    np.testing.assert_allclose(run.observed["target"], expected, atol=1e-10)
    moving = rules.self_distillation(slope, target_rate=0.5)
    optimizer = partition(params, learning_rate=1.0)
    no_data = tasks.full_batch(None)
    run = jd.train(moving, optimizer, no_data, params, times=range(6), observe=observe)
    encoder = run.observed["encoder"]
    target = run.observed["target"]
    expected = 2.0 - np.arange(6)
    np.testing.assert_array_equal(encoder, expected)
    computed = target[1:]
    expected = 0.5 * target[:-1] + 0.5 * encoder[:-1]
    np.testing.assert_allclose(computed, expected, rtol=1e-14)


def test_nonlinear_encoders_collapse_without_stop_gradient_and_predictor():
    moments = tasks.noisy_copies(jnp.eye(4), 0.5 * jnp.eye(4))
    net = models.mlp((4, 16, 4), activation=jax.nn.relu)
    head = models.mlp((4, 4))
    stream = tasks.online(lambda key: tasks.gaussian_pairs(key, moments, 64))
    x, _ = tasks.gaussian_pairs(jax.random.key(9), moments, 200)
    loss = losses.latent_error(net.apply, head.apply)
    encoder = net.init(jax.random.key(0))
    predictor = head.init(jax.random.key(1))
    start = {"encoder": encoder, "predictor": predictor, "target": encoder}

    def observe(s):
        latents = net.apply(s.params["encoder"], x)
        return {"spread": latents.std(0).mean()}

    def spread(blocks, **options):
        """By what factor the latents of different inputs end up closer together."""
        field = rules.self_distillation(loss, **options)
        optimizer = partition(blocks, learning_rate=0.1)
        key = jax.random.key(2)

        @jax.jit
        def simulate(params):
            times = [0, 400]
            return jd.train(field, optimizer, stream, params, times=times, observe=observe, key=key)

        run = simulate({name: start[name] for name in blocks})
        first, last = run.observed["spread"]
        return float(last / first)

    assert spread(["encoder"], stop_gradient=False) < 0.05
    assert spread(["encoder", "predictor", "target"], target_rate=0.05) > 0.2


def test_direct_predictor_has_its_spectrum_and_no_gradient(precision):
    (matrix,) = matrices((3, 3))
    basis, _ = jnp.linalg.qr(matrix)
    eigenvalues = jnp.array([4.0, 1.0, 0.0])
    correlation = (basis * eigenvalues[None]) @ basis.T
    predictor = rules.direct_predictor(correlation, 0.1)
    # A zero eigenvalue is known to the rounding of the largest, its root to the root of that.
    eps = float(jnp.finfo(precision).eps)
    computed = jnp.diagonal(basis.T @ predictor @ basis)
    expected = [2.2, 1.2, 0.2]
    np.testing.assert_allclose(computed, expected, atol=10 * eps**0.5)
    gradient = jax.grad(lambda f: rules.direct_predictor(f).sum())(jnp.eye(3))
    assert jnp.all(gradient == 0)


def stable_transition():
    return jnp.array([[0.5, 0.4], [-0.2, 0.7]])


def test_successive_states_are_stationary(x64):
    transition = stable_transition()
    noise = jnp.array([[1.0, 0.2], [0.2, 0.5]])
    xx, yx, yy = tasks.successive_states(transition, noise)
    computed = transition @ xx @ transition.T + noise
    np.testing.assert_allclose(computed, xx, atol=1e-14)
    computed = yx @ jnp.linalg.inv(xx)
    np.testing.assert_allclose(computed, transition, atol=1e-14)
    np.testing.assert_array_equal(xx, yy)
    with pytest.raises(ValueError, match=r"spectral radius 1\.1"):
        tasks.successive_states(jnp.array([[1.1]]), jnp.eye(1))


def noisy_copies():
    signal = jnp.array([[2.0, 0.5], [0.5, 1.0]])
    noise = jnp.diag(jnp.array([1.0, 0.1]))
    return tasks.noisy_copies(signal, noise)


def successive_states():
    return tasks.successive_states(stable_transition(), jnp.eye(2))


def exact_copies():
    return tasks.noisy_copies(jnp.eye(2), jnp.zeros((2, 2)))


@pytest.mark.parametrize("make", [noisy_copies, successive_states, exact_copies])
def test_gaussian_pairs_have_the_moments(make, precision):
    moments = make()
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
    moments = tasks.noisy_copies(jnp.eye(1), -0.5 * jnp.eye(1))
    with pytest.raises(ValueError, match=r"moments: their joint matrix has the eigenvalue -0\.5"):
        tasks.gaussian_pairs(jax.random.key(0), moments, 10)
