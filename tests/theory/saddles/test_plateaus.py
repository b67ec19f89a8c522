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
        learned = np.sort(np.linalg.eigvalsh(best.x.reshape(r, 3).T @ best.x.reshape(r, 3)))[::-1][
            :r
        ]
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
    s = np.linalg.svd(np.linalg.cholesky(C).T @ best @ np.linalg.cholesky(xx), compute_uv=False)
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
    expected = [np.sum((target - (u[:, :r] * s[:r]) @ vt[:r]) ** 2) / 2 for r in range(5)]
    np.testing.assert_allclose(saddles.linear_plateaus(s), expected, atol=1e-13)


best_rectifier = jax.jit(saddles.best_rectifier)


@pytest.mark.parametrize(
    ("v", "patches"), [((3.0, -1.0), 1), ((2.0, 1.0), 1), ((1.0, -0.5), 4), ((-2.0, 0.3), 3)]
)
def test_best_rectifier_beats_all_on_a_grid_and_meets_the_best(v, patches):
    # In the plane E relu(a.x) relu(b.x) is 2 = E |x|^2 times a mean over the angle of x.
    angles = np.linspace(0, 2 * np.pi, 3600, endpoint=False)
    rectified = np.maximum(np.cos(angles[:, None] - angles[::4][None]), 0)
    overlap = 2 * rectified.T @ rectified / len(angles)
    mean = np.sqrt(np.pi / 2) * rectified.mean(0)
    kernel = patches * overlap + patches * (patches - 1) * mean[:, None] * mean[None]
    u = np.eye(2)
    teacher = np.zeros(len(angles) // 4)
    teacher[[0, len(teacher) // 4]] = v
    g = kernel @ teacher
    losses = (teacher @ g - g**2 / np.diag(kernel)) / 2
    loss, unit = best_rectifier(u, np.array(v), patches)
    best = np.argmin(losses)
    # The grid of 0.4 degrees is off by no more than half its spacing, where the loss is a parabola.
    assert -(teacher @ g) * np.deg2rad(0.2) ** 2 / 2 < loss - losses[best] < 1e-6
    strength = g[best] / kernel[best, best]
    direction = np.array([np.cos(angles[4 * best]), np.sin(angles[4 * best])])
    np.testing.assert_allclose(unit, strength * direction, atol=0.01 * abs(strength))


def test_at_the_drop_half_of_the_loss_of_a_mode_is_gone():
    s = np.array([3.0, 1.0])
    u0 = np.array([1e-8, 1e-4])
    at = jax.jit(
        lambda depth: linear.deep_mode_strength(saddles.drop_times(s, u0, depth), s, u0, depth)
    )
    for depth in (2.0, 4.0):
        computed = (s - at(depth)) ** 2
        np.testing.assert_allclose(computed, s**2 / 2, rtol=1e-9)


def linear_saddle(s, rank, hidden, sizes=(6, 5)):
    left, right = tasks.frames(jax.random.key(1), sizes, len(s))
    frames = right, tasks.frames(jax.random.key(2), [hidden], len(s))[0], left
    kept = jnp.where(jnp.arange(len(s)) < rank, jnp.array(s), 0)
    target = tasks.from_svd(left, jnp.array(s), right)

    def loss(w):
        return 0.5 * jnp.sum((w[1] @ w[0] - target) ** 2)

    return loss, models.aligned(frames, kept)


@pytest.mark.parametrize("rank", [0, 2])
def test_negative_eigenvalues_of_a_linear_saddle_are_the_missing_modes(rank):
    s = (4.0, 2.0, 1.0, 0.5)
    loss, weights = linear_saddle(s, rank, 8)
    flat, unravel = ravel_pytree(weights)
    assert jnp.linalg.norm(jax.grad(lambda w: loss(unravel(w)))(flat)) < 1e-14
    found = jnp.linalg.eigvalsh(jax.jit(jax.hessian(lambda w: loss(unravel(w))))(flat))
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
    time = saddles.blow_up_time(
        quadratic_energy(S), {"u": jnp.array([u, 0.0]), "v": jnp.array(u / 2**0.5)}
    )
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
    start = {
        "u": jnp.array([[0.3, -1.0, 0.8], [0.5, 0.2, 0.1], [0.1, 0.1, 0.0]]),
        "v": jnp.array([0.2, -0.3, -1.0]),
    }
    escape = jax.jit(jax.vmap(lambda w: saddles.blow_up_time(quadratic_energy(S), w)))
    times = escape(start)
    # |u|^2 - 2 v^2 is conserved, so a unit of negative v that is the larger of the two ends at u = 0.
    expected = [False, False, True]
    np.testing.assert_array_equal(times == jnp.inf, expected)
    computed = escape(jax.tree.map(lambda a: 1e-3 * a, start))
    np.testing.assert_allclose(computed, 1e3 * times, rtol=1e-9)
    for i in range(2):
        w0 = np.append(start["u"][i], start["v"][i])

        def velocity(_, w):
            return np.append(2 * w[3] * S @ w[:3], w[:3] @ S @ w[:3])

        def large(_, w):
            return np.linalg.norm(w) - 1e6

        large.terminal = True
        run = solve_ivp(velocity, (0, 100), w0, events=large, rtol=1e-10, atol=1e-12)
        # What is left at |w| = 1e6 is of order 1e-6.
        expected = run.t_events[0][0]
        np.testing.assert_allclose(times[i], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("depth", [2.5, 3, 6])
def test_blow_up_leads_are_the_integrals(depth):
    u = 0.7
    s = 1.5
    p = 2 - 2 / depth
    late = quad(lambda x: 1 / (depth * x**p * s), u, np.inf, epsabs=1e-13)[0]
    saved = quad(
        lambda y: (
            (x := y ** (depth / 2)) ** (1 - p)
            / (s - x)
            / s
            / depth
            * depth
            / 2
            * y ** (depth / 2 - 1)
        ),
        0,
        u ** (2 / depth),
    )[0]
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
        slope = 2 * (a - w[1] * w[0] ** 2) + (n * a - w[1] * w[0] ** 2)
        return [2 * slope * w[0] * w[1], slope * w[0] ** 2]

    def loss(_, w):
        return quadratic_loss(np.diag([w[1] * w[0] ** 2, 0, 0]), a * np.eye(n)) - mid

    run = solve_ivp(velocity, (0, 200), [u, u / 2**0.5], events=loss, rtol=1e-10, atol=1e-14)
    predicted = 1 / (2**0.5 * S * u) - saddles.quadratic_lead(strength)
    expected = run.t_events[0][0]
    np.testing.assert_allclose(predicted, expected, rtol=1e-6)


X = normal((20, 3))
Y = normal((20, 2))
ACTIVATIONS = {"linear": lambda h: h, "relu": jax.nn.relu, "square": jnp.square, "tanh": jnp.tanh}
U = 0.5 * normal((3, 3))
V = 0.5 * normal((3, 2))
C = normal((5, 3))


def duplicate(u, v):
    return embeddings.split_unit(u, v, 1, (0.3, 0.7))


def duplicated(g, h):
    return (jnp.stack([g[0], g[2], 0.3 * g[1], 0.7 * g[1]]), h[jnp.array([0, 2, 1, 1])])


def still(g, h):
    return tuple(jnp.vstack([a, 0 * a[:1]]) for a in (g, h))


EMBEDDINGS = {  # the map, and the gradient at its image from that at the narrow network
    **{f"{name} duplicate": (name, duplicate, duplicated) for name in ACTIVATIONS},
    **{f"{name} zero": (name, embeddings.append_unit, still) for name in ACTIVATIONS},
    "square zero, any output": (
        "square",
        lambda u, v: embeddings.append_unit(u, v, jnp.array([1.0, -2.0])),
        still,
    ),
    "relu split": (
        "relu",
        lambda u, v: embeddings.split_unit(u, v, 0, (0.4, 0.6), (0.5, 2.0)),
        lambda g, h: (
            jnp.stack([g[1], g[2], 0.8 * g[0], 0.3 * g[0]]),
            jnp.stack([h[1], h[2], 0.5 * h[0], 2 * h[0]]),
        ),
    ),
    "square split": (
        "square",
        lambda u, v: embeddings.split_unit(u, v, 0, (0.2, 0.8), (-0.5, 2.0), degree=2),
        lambda g, h: (
            jnp.stack([g[1], g[2], -0.4 * g[0], 0.4 * g[0]]),
            jnp.stack([h[1], h[2], 0.25 * h[0], 4 * h[0]]),
        ),
    ),
    "linear mix": (
        "linear",
        lambda u, v: embeddings.mix_units(u, v, jnp.asarray(C)),
        lambda g, h: (jnp.linalg.pinv(C).T @ g, C @ h),
    ),
}


def layer_loss(name):
    return lambda u, v: jnp.mean((ACTIVATIONS[name](X @ u.T) @ v - Y) ** 2)


@pytest.mark.parametrize("case", EMBEDDINGS)
def test_embeddings_keep_the_loss_and_carry_gradients_linearly(case):
    # So they vanish where the narrow ones do: fixed points stay fixed points.
    name, embed, carried = EMBEDDINGS[case]
    loss = layer_loss(name)
    wide = embed(jnp.asarray(U), jnp.asarray(V))
    assert wide[0].shape[0] == wide[1].shape[0] > 3
    slopes = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    (value, gradient) = slopes(*wide)
    (narrow, slope) = slopes(U, V)
    np.testing.assert_allclose(value, narrow, rtol=1e-12)
    for found, correct in zip(gradient, carried(*slope), strict=True):
        np.testing.assert_allclose(found, correct, atol=1e-13)


def test_shares_must_add_up():
    with pytest.raises(ValueError, match=r"shares: .*add up to 1"):
        embeddings.split_unit(jnp.asarray(U), jnp.asarray(V), 0, (0.5, 0.6))


def test_the_minimum_of_narrow_quadratic_networks_is_a_saddle_of_wide_ones():
    a = np.array([2.0, 2.0, 2.0])
    losses, excess = saddles.quadratic_plateaus(a)

    def loss(w):
        M = jnp.einsum("i,ij,ik->jk", w["v"], w["u"], w["u"])
        return jnp.sum((jnp.diag(a) - M) ** 2) + jnp.trace(jnp.diag(a) - M) ** 2 / 2

    c = a[0] + excess[1]
    u = jnp.eye(3)[:1] * (2**0.5 * c) ** (1 / 3)
    v = jnp.array([(c / 2) ** (1 / 3)])
    wide = embeddings.split_unit(u, v, 0, (0.3, 0.7)), embeddings.append_unit(u, v, 1.0)
    index = []
    for networks in (u[None], v[None]), jax.tree.map(lambda *a: jnp.stack(a), *wide):
        flat = jax.vmap(lambda w: ravel_pytree(w)[0])(dict(zip("uv", networks, strict=True)))
        unravel = ravel_pytree({"u": networks[0][0], "v": networks[1][0]})[1]

        def of(w, unravel=unravel):
            return loss(unravel(w))

        value, gradient, hessian = jax.jit(
            jax.vmap(lambda w, of=of: (of(w), jax.grad(of)(w), jax.hessian(of)(w)))
        )(flat)
        np.testing.assert_allclose(value, losses[1], rtol=1e-12)
        np.testing.assert_allclose(gradient, 0, atol=1e-13)
        index.extend(np.sum(np.linalg.eigvalsh(hessian) < -1e-9, -1).tolist())
    # Copies of one unit may turn apart; a unit of positive output may leave zero along the two
    # missing modes.
    assert index == [0, 2, 2]


def descended(name, u, v, rate=0.05):
    field = jax.grad(lambda w, _: layer_loss(name)(*w))
    run = jd.train(
        field, optax.sgd(rate), lambda key, step: (), (u, v), times=[300], observe=lambda state: {}
    )
    assert layer_loss(name)(*run.final.params) < 0.98 * layer_loss(name)(u, v)
    return run.final.params


def test_descent_keeps_the_invariant_manifolds():
    u = jnp.asarray(U)
    v = jnp.asarray(V)
    # Equal units stay equal, whatever the activation.
    w, z = descended("tanh", *embeddings.split_unit(u, v, 0, (0.5, 0.5)))
    np.testing.assert_allclose(w[-1], w[-2], atol=1e-12)
    np.testing.assert_allclose(z[-1], z[-2], atol=1e-12)
    # Zero units stay zero.
    w, z = descended("square", *embeddings.append_unit(u, v), rate=0.01)
    np.testing.assert_array_equal(w[-1], jnp.zeros(3))
    np.testing.assert_array_equal(z[-1], jnp.zeros(2))
    # Rectifiers in proportion stay in proportion.
    w, z = descended("relu", *embeddings.split_unit(u, v, 0, (0.2, 0.8), (0.5, 1.0)))
    expected = 0.5 * w[-1]
    np.testing.assert_allclose(w[-2], expected, atol=1e-12)
    expected = 0.5 * z[-1]
    np.testing.assert_allclose(z[-2], expected, atol=1e-12)
    # Linear units in a common space of dimension 2 stay there.
    basis = np.linalg.qr(normal((5, 2)))[0]
    w, z = descended("linear", *embeddings.mix_units(u[:2], v[:2], jnp.asarray(basis)))
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

    @jax.jit
    def both(scale):
        start = jax.tree.map(lambda w: scale * w, net.init(jax.random.key(3)))
        escape = saddles.blow_up_time(
            lambda w: jnp.sum(models.product(w) * target), start, steps=600
        )
        times = 1.1 * escape * jnp.linspace(0, 1, 1501)

        def observe(state):
            return {"loss": loss(state.params, moments)}

        run = jd.flow(
            jax.grad(loss), moments, start, times=times, observe=observe, solver=jd.RK4(0.02)
        )
        return escape, when_falling(times, run.observed["loss"], (5 + 0.5) / 2)

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

    @jax.jit
    @jax.vmap
    def flow(scale):
        start = jax.tree.map(
            lambda w: scale * w, models.in_context_attention(2, 4).init(jax.random.key(0))
        )
        times = jnp.linspace(0, 40, 801)
        observe = observables.snapshot(loss, moments)
        seen = jd.flow(
            jax.grad(loss), moments, start, times=times, observe=observe, solver=jd.RK4(0.05)
        ).observed
        saddle = analysis.saddle_records(seen["loss"], seen["gradient_norm"])
        return (
            jnp.sum(saddle),
            when_falling(times, seen["loss"], levels.mean()),
            seen["loss"][-1],
        )

    count, drops, end = flow(jnp.array([1e-4, 1e-6]))
    np.testing.assert_array_equal(count, 1)
    np.testing.assert_allclose(end, levels[1], rtol=1e-6)
    # Linear interpolation between records 0.05 apart is off by 1e-4 or less.
    computed = drops[1] - drops[0]
    expected = np.log(100) / rate
    np.testing.assert_allclose(computed, expected, atol=1e-3)
