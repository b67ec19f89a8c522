"""Theory of saddles: plateaus against narrow networks fitted otherwise, escapes against flows,
embeddings."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from scipy.integrate import quad, solve_ivp
from scipy.optimize import minimize

import jaxdyn as jd
from jaxdyn import analysis, losses, models, observables, tasks
from jaxdyn.theory import linear, saddles
from jaxdyn.theory.saddles import embeddings

pytestmark = pytest.mark.usefixtures("x64")
normal = np.random.default_rng(0).standard_normal


def when_falling(time, loss, level):
    """Return when a loss that only falls is at a level, by linear interpolation."""
    return jnp.interp(level, loss[::-1], time[::-1])


def quadratic_loss(M, A):
    # E (x^T E x)^2 / 2 for standard normal x, by Isserlis' theorem.
    E = A - M
    return np.sum(E**2) + np.trace(E) ** 2 / 2


@pytest.mark.parametrize("a", [(3.0, 2.0, 1.0), (2.0, 2.0, 2.0), (3.0, 0.5, -1.0)])
def test_quadratic_plateaus_are_what_a_fit_of_few_units_finds(a):
    losses, excess = saddles.quadratic_plateaus(np.array(a))
    for r in (1, 2):

        def loss(w, r=r):
            u = w.reshape(r, 3)
            return quadratic_loss(u.T @ u, np.diag(a))

        fits = [minimize(loss, normal(3 * r), tol=1e-12) for _ in range(4)]
        best = min(fits, key=lambda fit: fit.fun)
        np.testing.assert_allclose(best.fun, losses[r], rtol=1e-9)
        u = best.x.reshape(r, 3)
        eigenvalues = np.linalg.eigvalsh(u.T @ u)
        learned = np.sort(eigenvalues)[::-1][:r]
        expected = np.array(a)[:r] + excess[r]
        np.testing.assert_allclose(learned, expected, rtol=1e-4)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_attention_plateaus_are_best_approximations_of_low_rank(rank):
    # With C = E beta beta^T the loss is |C^(1/2) (U - U*) Lambda^(1/2)|^2 / 2 and a constant:
    # Eckart and Young.
    variances = np.array([0.9, 0.5, 0.3, 0.2])
    n = 20
    q = np.linalg.qr(normal((4, 4)))[0]
    xx = q @ np.diag(variances) @ q.T
    C = xx @ xx * (1 + 1 / n) + xx * np.trace(xx) / n
    best = np.linalg.solve(C, xx)
    left = np.linalg.cholesky(C).T
    right = np.linalg.cholesky(xx)
    s = np.linalg.svd(left @ best @ right, compute_uv=False)
    floor = (np.trace(xx) - np.sum(s**2)) / 2
    losses, learned = saddles.attention_plateaus(variances, n, rank)
    expected = [floor + np.sum(s[r:] ** 2) / 2 for r in range(0, 5, rank)]
    np.testing.assert_allclose(losses, expected, rtol=1e-12)
    # C^(-1) Lambda = (C Lambda^(-1))^(-1), of which the amplitudes are the eigenvalues, smallest
    # variance last.
    expected = np.linalg.eigvalsh(best)
    np.testing.assert_allclose(np.sort(learned), expected, rtol=1e-12)


def test_linear_plateaus_are_best_approximations_of_low_rank():
    target = normal((4, 6))
    u, s, vt = np.linalg.svd(target)

    def loss(rank):
        approximation = (u[:, :rank] * s[:rank]) @ vt[:rank]
        return np.sum((target - approximation) ** 2) / 2

    expected = [loss(rank) for rank in range(5)]
    computed = saddles.linear_plateaus(s)
    np.testing.assert_allclose(computed, expected, atol=1e-13)


best_rectifier = jax.jit(saddles.best_rectifier)


@pytest.mark.parametrize(
    ("v", "patches"), [((3.0, -1.0), 1), ((2.0, 1.0), 1), ((1.0, -0.5), 4), ((-2.0, 0.3), 3)]
)
def test_best_rectifier_beats_all_on_a_grid_and_meets_the_best(v, patches):
    # In the plane E relu(a.x) relu(b.x) is 2 = E |x|^2 times a mean over the angle of x.
    angles = np.linspace(0, 2 * np.pi, 3600, endpoint=False)
    between = angles[:, None] - angles[::4][None]
    rectified = np.maximum(np.cos(between), 0)
    overlap = 2 * rectified.T @ rectified / len(angles)
    mean = np.sqrt(np.pi / 2) * rectified.mean(0)
    other_patches = (patches - 1) * mean[:, None] * mean[None]
    kernel = patches * overlap + patches * other_patches
    u = np.eye(2)
    teacher = np.zeros(len(angles) // 4)
    teacher[[0, len(teacher) // 4]] = v
    g = kernel @ teacher
    losses = (teacher @ g - g**2 / np.diag(kernel)) / 2
    loss, unit = best_rectifier(u, np.array(v), patches)
    best = np.argmin(losses)
    # The grid of 0.4 degrees is off by no more than half its spacing, where the loss is a parabola.
    largest_miss = (teacher @ g) * np.deg2rad(0.2) ** 2 / 2
    assert -largest_miss < loss - losses[best] < 1e-6
    strength = g[best] / kernel[best, best]
    angle = angles[4 * best]
    direction = np.array([np.cos(angle), np.sin(angle)])
    np.testing.assert_allclose(unit, strength * direction, atol=0.01 * abs(strength))


def test_at_the_drop_half_of_the_loss_of_a_mode_is_gone():
    s = np.array([3.0, 1.0])
    u0 = np.array([1e-8, 1e-4])

    @jax.jit
    def strength_at_drop(depth):
        times = saddles.drop_times(s, u0, depth)
        return linear.deep_mode_strength(times, s, u0, depth)

    for depth in (2.0, 4.0):
        computed = (s - strength_at_drop(depth)) ** 2
        np.testing.assert_allclose(computed, s**2 / 2, rtol=1e-9)


def linear_saddle(s, rank, hidden, sizes=(6, 5)):
    left, right = tasks.frames(jax.random.key(1), sizes, len(s))
    (middle,) = tasks.frames(jax.random.key(2), [hidden], len(s))
    strengths = jnp.array(s)
    kept = jnp.where(jnp.arange(len(s)) < rank, strengths, 0)
    target = tasks.from_svd(left, strengths, right)

    def loss(w):
        residual = w[1] @ w[0] - target
        return 0.5 * jnp.sum(residual**2)

    return loss, models.aligned((right, middle, left), kept)


@pytest.mark.parametrize("rank", [0, 2])
def test_negative_eigenvalues_of_a_linear_saddle_are_the_missing_modes(rank):
    s = (4.0, 2.0, 1.0, 0.5)
    loss, weights = linear_saddle(s, rank, 8)
    flat, unravel = ravel_pytree(weights)

    def flat_loss(w):
        return loss(unravel(w))

    gradient = jax.grad(flat_loss)(flat)
    assert jnp.linalg.norm(gradient) < 1e-14
    hessian = jax.jit(jax.hessian(flat_loss))(flat)
    found = jnp.linalg.eigvalsh(hessian)
    expected = saddles.saddle_eigenvalues(np.array(s), rank, 8)
    assert len(expected) == (8 - rank) * (4 - rank) == np.sum(found < -1e-9)
    computed = found[: len(expected)]
    np.testing.assert_allclose(computed, np.sort(expected), atol=1e-12)
    with pytest.raises(ValueError, match="rank: 5 modes of 4 in 8 units"):
        saddles.saddle_eigenvalues(np.array(s), 5, 8)


def quadratic_energy(S):
    return lambda w: w["v"] * w["u"] @ S @ w["u"]


def test_blow_up_times_of_aligned_units_are_their_closed_forms():
    # u' = sqrt(2) s u^2 for a balanced quadratic unit, w' = w^(D - 1) for D layers of one unit.
    S = jnp.diag(jnp.array([3.0, 1.0]))
    u = 0.02
    start = {"u": jnp.array([u, 0.0]), "v": jnp.array(u / 2**0.5)}
    time = saddles.blow_up_time(quadratic_energy(S), start)
    # Fourth order at steps of 0.1: relative errors of 0.1^4 / 120.
    expected = 1 / (2**0.5 * 3 * u)
    np.testing.assert_allclose(time, expected, rtol=1e-6)
    deep = saddles.blow_up_time(jnp.prod, jnp.full(5, 0.1), degree=5)
    np.testing.assert_allclose(deep, 0.1**-3 / 3, rtol=1e-6)
    # So few steps that it has grown 100 times only, and 1e-4 of the time is what is left.
    short = saddles.blow_up_time(jnp.prod, jnp.full(4, 0.1), degree=4, steps=165)
    np.testing.assert_allclose(short, 0.1**-2 / 2, rtol=1e-6)
    with pytest.raises(ValueError, match="degree: 2"):
        saddles.blow_up_time(jnp.prod, jnp.ones(2), degree=2)


def test_blow_up_times_follow_any_unit_and_scale_inversely():
    S = np.diag([3.0, 2.0, 1.0])
    first = jnp.array([[0.3, -1.0, 0.8], [0.5, 0.2, 0.1], [0.1, 0.1, 0.0]])
    second = jnp.array([0.2, -0.3, -1.0])
    start = {"u": first, "v": second}
    energy = quadratic_energy(S)

    @jax.jit
    @jax.vmap
    def escape(weights):
        return saddles.blow_up_time(energy, weights)

    times = escape(start)
    # |u|^2 - 2 v^2 is conserved, so a unit of negative v that is the larger of the two ends at u =
    # 0.
    expected = [False, False, True]
    np.testing.assert_array_equal(times == jnp.inf, expected)
    smaller = jax.tree.map(lambda a: 1e-3 * a, start)
    computed = escape(smaller)
    np.testing.assert_allclose(computed, 1e3 * times, rtol=1e-9)

    def velocity(_, w):
        u = w[:3]
        v = w[3]
        return np.append(2 * v * S @ u, u @ S @ u)

    def large(_, w):
        return np.linalg.norm(w) - 1e6

    large.terminal = True
    for i in range(2):
        w0 = np.append(first[i], second[i])
        run = solve_ivp(velocity, (0, 100), w0, events=large, rtol=1e-10, atol=1e-12)
        # What is left at |w| = 1e6 is of order 1e-6.
        expected = run.t_events[0][0]
        np.testing.assert_allclose(times[i], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("depth", [2.5, 3, 6])
def test_blow_up_leads_are_the_integrals(depth):
    u = 0.7
    s = 1.5
    p = 2 - 2 / depth

    def blow_up(x):
        return 1 / (depth * x**p * s)

    def difference(x):
        return x ** (1 - p) / (s - x) / s / depth

    def difference_in_root(y):
        # With x = y^(D/2) the integrand has no singularity at zero.
        speed = depth / 2 * y ** (depth / 2 - 1)
        return difference(y ** (depth / 2)) * speed

    late, _ = quad(blow_up, u, np.inf, epsabs=1e-13)
    saved, _ = quad(difference_in_root, 0, u ** (2 / depth))
    computed = saddles.blow_up_lead(u, s, depth)
    np.testing.assert_allclose(computed, late - saved, rtol=1e-8)


def test_quadratic_drop_is_that_of_a_unit_that_saturates():
    # One balanced, aligned unit of y = 2 |x|^2 in three dimensions: the loss is a parabola in its
    # strength.
    a = 2.0
    n = 3
    u = 1e-3
    losses, excess = saddles.quadratic_plateaus(np.full(n, a))
    strength = a + excess[1]
    S = 2 * a + n * a
    mid = (losses[0] + losses[1]) / 2

    def velocity(_, w):
        # Minus the gradient of (a - c)^2 + (n a - c)^2 / 2 with c = v u^2.
        c = w[1] * w[0] ** 2
        slope = 2 * (a - c) + (n * a - c)
        return [2 * slope * w[0] * w[1], slope * w[0] ** 2]

    def above_middle(_, w):
        c = w[1] * w[0] ** 2
        loss = quadratic_loss(np.diag([c, 0, 0]), a * np.eye(n))
        return loss - mid

    start = [u, u / 2**0.5]
    run = solve_ivp(velocity, (0, 200), start, events=above_middle, rtol=1e-10, atol=1e-14)
    blow_up = 1 / (2**0.5 * S * u)
    predicted = blow_up - saddles.quadratic_lead(strength)
    expected = run.t_events[0][0]
    np.testing.assert_allclose(predicted, expected, rtol=1e-6)


X = normal((20, 3))
Y = normal((20, 2))
ACTIVATIONS = {"linear": lambda h: h, "relu": jax.nn.relu, "square": jnp.square, "tanh": jnp.tanh}
U = 0.5 * normal((3, 3))
V = 0.5 * normal((3, 2))
C = normal((5, 3))


# Each embedding of the narrow network, and after it the gradient at its image, from the gradient
# (g, h) at the narrow network.


def duplicate(u, v):
    return embeddings.split_unit(u, v, 1, (0.3, 0.7))


def duplicate_gradient(g, h):
    first = jnp.stack([g[0], g[2], 0.3 * g[1], 0.7 * g[1]])
    second = h[jnp.array([0, 2, 1, 1])]
    return first, second


def append_with_output(u, v):
    return embeddings.append_unit(u, v, jnp.array([1.0, -2.0]))


def append_gradient(g, h):
    first = jnp.vstack([g, 0 * g[:1]])
    second = jnp.vstack([h, 0 * h[:1]])
    return first, second


def split_rectifier(u, v):
    return embeddings.split_unit(u, v, 0, (0.4, 0.6), (0.5, 2.0))


def split_rectifier_gradient(g, h):
    first = jnp.stack([g[1], g[2], 0.8 * g[0], 0.3 * g[0]])
    second = jnp.stack([h[1], h[2], 0.5 * h[0], 2 * h[0]])
    return first, second


def split_square(u, v):
    return embeddings.split_unit(u, v, 0, (0.2, 0.8), (-0.5, 2.0), degree=2)


def split_square_gradient(g, h):
    first = jnp.stack([g[1], g[2], -0.4 * g[0], 0.4 * g[0]])
    second = jnp.stack([h[1], h[2], 0.25 * h[0], 4 * h[0]])
    return first, second


def mix(u, v):
    return embeddings.mix_units(u, v, jnp.asarray(C))


def mix_gradient(g, h):
    return jnp.linalg.pinv(C).T @ g, C @ h


DUPLICATES = {f"{name} duplicate": (name, duplicate, duplicate_gradient) for name in ACTIVATIONS}
ZEROS = {f"{name} zero": (name, embeddings.append_unit, append_gradient) for name in ACTIVATIONS}
EMBEDDINGS = {
    **DUPLICATES,
    **ZEROS,
    "square zero, any output": ("square", append_with_output, append_gradient),
    "relu split": ("relu", split_rectifier, split_rectifier_gradient),
    "square split": ("square", split_square, split_square_gradient),
    "linear mix": ("linear", mix, mix_gradient),
}


def layer_loss(name):
    activation = ACTIVATIONS[name]

    def loss(u, v):
        outputs = activation(X @ u.T) @ v
        return jnp.mean((outputs - Y) ** 2)

    return loss


@pytest.mark.parametrize("case", EMBEDDINGS)
def test_embeddings_keep_the_loss_and_carry_gradients_linearly(case):
    # So they vanish where the narrow ones do: fixed points stay fixed points.
    name, embed, carry = EMBEDDINGS[case]
    loss = layer_loss(name)
    first, second = embed(jnp.asarray(U), jnp.asarray(V))
    assert first.shape[0] == second.shape[0] > 3
    slopes = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    value, gradient = slopes(first, second)
    narrow_value, narrow_gradient = slopes(U, V)
    np.testing.assert_allclose(value, narrow_value, rtol=1e-12)
    carried = carry(*narrow_gradient)
    for computed, expected in zip(gradient, carried, strict=True):
        np.testing.assert_allclose(computed, expected, atol=1e-13)


def test_shares_must_add_up():
    u = jnp.asarray(U)
    v = jnp.asarray(V)
    with pytest.raises(ValueError, match=r"shares: .*add up to 1"):
        embeddings.split_unit(u, v, 0, (0.5, 0.6))


def test_the_minimum_of_narrow_quadratic_networks_is_a_saddle_of_wide_ones():
    a = np.array([2.0, 2.0, 2.0])
    losses, excess = saddles.quadratic_plateaus(a)

    def loss(w):
        M = jnp.einsum("i,ij,ik->jk", w["v"], w["u"], w["u"])
        missing = jnp.diag(a) - M
        return jnp.sum(missing**2) + jnp.trace(missing) ** 2 / 2

    def index(us, vs):
        """How many negative eigenvalues each of these networks has, which are fixed points."""
        networks = {"u": us, "v": vs}
        flat = jax.vmap(lambda w: ravel_pytree(w)[0])(networks)
        first = jax.tree.map(lambda values: values[0], networks)
        _, unravel = ravel_pytree(first)

        def flat_loss(w):
            return loss(unravel(w))

        @jax.jit
        @jax.vmap
        def derivatives(w):
            return flat_loss(w), jax.grad(flat_loss)(w), jax.hessian(flat_loss)(w)

        value, gradient, hessian = derivatives(flat)
        np.testing.assert_allclose(value, losses[1], rtol=1e-12)
        np.testing.assert_allclose(gradient, 0, atol=1e-13)
        eigenvalues = np.linalg.eigvalsh(hessian)
        return np.sum(eigenvalues < -1e-9, -1).tolist()

    c = a[0] + excess[1]
    u = jnp.eye(3)[:1] * (2**0.5 * c) ** (1 / 3)
    v = jnp.array([(c / 2) ** (1 / 3)])
    split = embeddings.split_unit(u, v, 0, (0.3, 0.7))
    appended = embeddings.append_unit(u, v, 1.0)
    us, vs = jax.tree.map(lambda *pair: jnp.stack(pair), split, appended)
    # Copies of one unit may turn apart; a unit of positive output may leave zero along the two
    # missing modes.
    assert index(u[None], v[None]) + index(us, vs) == [0, 2, 2]


def descended(name, u, v, rate=0.05):
    """Where gradient descent on the layer's loss has come after 300 steps."""
    loss = layer_loss(name)
    field = jax.grad(lambda weights, _: loss(*weights))
    optimizer = optax.sgd(rate)

    def no_data(key, step):
        return ()

    def observe(state):
        return {}

    run = jd.train(field, optimizer, no_data, (u, v), times=[300], observe=observe)
    final = run.final.params
    assert loss(*final) < 0.98 * loss(u, v)
    return final


def test_descent_keeps_the_invariant_manifolds():
    u = jnp.asarray(U)
    v = jnp.asarray(V)
    # Equal units stay equal, whatever the activation.
    start = embeddings.split_unit(u, v, 0, (0.5, 0.5))
    w, z = descended("tanh", *start)
    np.testing.assert_allclose(w[-1], w[-2], atol=1e-12)
    np.testing.assert_allclose(z[-1], z[-2], atol=1e-12)
    # Zero units stay zero.
    start = embeddings.append_unit(u, v)
    w, z = descended("square", *start, rate=0.01)
    np.testing.assert_array_equal(w[-1], jnp.zeros(3))
    np.testing.assert_array_equal(z[-1], jnp.zeros(2))
    # Rectifiers in proportion stay in proportion.
    start = embeddings.split_unit(u, v, 0, (0.2, 0.8), (0.5, 1.0))
    w, z = descended("relu", *start)
    expected = 0.5 * w[-1]
    np.testing.assert_allclose(w[-2], expected, atol=1e-12)
    expected = 0.5 * z[-1]
    np.testing.assert_allclose(z[-2], expected, atol=1e-12)
    # Linear units in a common space of dimension 2 stay there.
    basis = np.linalg.qr(normal((5, 2)))[0]
    start = embeddings.mix_units(u[:2], v[:2], jnp.asarray(basis))
    w, z = descended("linear", *start)
    s = np.linalg.svd(np.concatenate([w, z], 1), compute_uv=False)
    assert s[1] > 0.1
    assert s[2] < 1e-12


def test_a_deep_network_drops_when_all_of_it_would_blow_up_up_to_the_lead():
    # At small weights the whole network is one unit of degree 3, whose energy is <target, W_3 W_2
    # W_1>.
    s = 3.0
    target = jnp.diag(jnp.array([3.0, 1.0]))
    net = models.deep_linear((2, 3, 3, 2))
    loss = losses.covariance_loss(models.product)
    moments = tasks.linear_teacher(target)
    lead = saddles.blow_up_lead((1 - 0.5**0.5) * s, s, 3.0)
    gradient = jax.grad(loss)
    solver = jd.RK4(0.02)

    def energy(weights):
        return jnp.sum(models.product(weights) * target)

    def observe(state):
        return {"loss": loss(state.params, moments)}

    @jax.jit
    def both(scale):
        drawn = net.init(jax.random.key(3))
        start = jax.tree.map(lambda w: scale * w, drawn)
        escape = saddles.blow_up_time(energy, start, steps=600)
        times = 1.1 * escape * jnp.linspace(0, 1, 1501)
        run = jd.flow(gradient, moments, start, times=times, observe=observe, solver=solver)
        drop = when_falling(times, run.observed["loss"], (5 + 0.5) / 2)
        return escape, drop

    for scale in (0.1, 0.05):
        escape, drop = both(scale)
        # The next mode has learned a share of the order of the scale by then.
        assert abs(escape - drop - lead) < scale * lead


def test_merged_heads_of_attention_drop_once_after_the_logarithm_of_their_scale():
    variances = jnp.array([1.0, 0.6])
    moments = tasks.in_context_moments(jnp.diag(variances), 20)
    loss = losses.covariance_loss(models.attention_product)
    levels = saddles.attention_plateaus(variances, 20, 2)[0]
    rate = jnp.linalg.norm(variances**2)
    net = models.in_context_attention(2, 4)
    gradient = jax.grad(loss)
    observe = observables.snapshot(loss, moments)
    solver = jd.RK4(0.05)

    @jax.jit
    @jax.vmap
    def flow(scale):
        drawn = net.init(jax.random.key(0))
        start = jax.tree.map(lambda w: scale * w, drawn)
        times = jnp.linspace(0, 40, 801)
        run = jd.flow(gradient, moments, start, times=times, observe=observe, solver=solver)
        seen = run.observed
        saddle = analysis.saddle_records(seen["loss"], seen["gradient_norm"])
        drop = when_falling(times, seen["loss"], levels.mean())
        return jnp.sum(saddle), drop, seen["loss"][-1]

    count, drops, end = flow(jnp.array([1e-4, 1e-6]))
    np.testing.assert_array_equal(count, 1)
    np.testing.assert_allclose(end, levels[1], rtol=1e-6)
    # Linear interpolation between records 0.05 apart is off by 1e-4 or less.
    computed = drops[1] - drops[0]
    expected = np.log(100) / rate
    np.testing.assert_allclose(computed, expected, atol=1e-3)
