"""Observables of saddles and of single examples: against closed forms, planted structure and
networks of others."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen

import jaxdyn as jd
from jaxdyn import analysis, losses, models, observables, tasks
from jaxdyn.theory import saddles


def normal(seed, *shape):
    drawn = jax.random.normal(jax.random.key(seed), shape, jnp.float32)
    return drawn.astype(float)


def test_losses_of_examples_average_to_the_loss():
    net = models.mlp((3, 4, 2))
    x = normal(0, 7, 3)
    params = net.init(jax.random.key(2))
    cases = (
        (losses.squared_error(net.apply), normal(1, 7, 2)),
        (losses.cross_entropy(net.apply), jnp.arange(7) % 2),
    )
    for loss, y in cases:
        observe = jax.jit(observables.sample_losses(loss, (x, y)))
        seen = observe(jd.State(0, params))["sample_losses"]

        @jax.jit
        def whole_and_fourth(p, loss=loss, y=y):
            whole = loss(p, (x, y))
            fourth = loss(p, (x[3:4], y[3:4]))
            return whole, fourth

        computed = [seen.mean(), seen[3]]
        expected = whole_and_fourth(params)
        np.testing.assert_allclose(computed, expected, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_planted_opposing_groups_are_found():
    # One large feature shared by two groups of opposite labels: descent beyond the edge of
    # stability pits them.
    key = jax.random.key(0)
    n = 30
    planted = 4
    draw = np.random.default_rng(0).standard_normal
    ordinary = draw((n, 6))
    feature = 6 * np.eye(6)[:1]
    opposed = 0.3 * draw((2 * planted, 6)) + feature
    labels = np.repeat([1.0, -1.0], planted)
    of_ordinary = np.sign(ordinary @ draw(6))
    x = np.concatenate([ordinary, opposed])
    y = np.concatenate([of_ordinary, labels])[:, None]
    data = x, y
    net = models.mlp((6, 16, 1), bias_scale=None, scale=0.5)
    loss = losses.squared_error(net.apply)
    start = net.init(key)
    stream = tasks.full_batch(data)
    times = np.arange(100, 600)
    observe = observables.sample_losses(loss, data)
    run = jd.train(jax.grad(loss), optax.sgd(0.5), stream, start, times=times, observe=observe)
    members, correlations = analysis.opposing_groups(run.observed["sample_losses"], 2 * planted)
    assert sorted(members.tolist()) == list(range(n, n + 2 * planted))
    signs = labels[members - n]
    expected = signs * signs[0]
    np.testing.assert_array_equal(np.sign(correlations), expected)


def test_groups_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"size, losses: 4 members .*\(5, 3\)"):
        analysis.opposing_groups(jnp.ones((5, 3)), 4)


def dips(height, prominence):
    """Records that are the lowest between two places `prominence` higher, the start being as high
    as any."""
    found = []
    for k in range(len(height)):
        before = np.flatnonzero(height[:k] > height[k] + prominence)
        after = np.flatnonzero(height[k:] > height[k] + prominence) + k
        if len(after):
            first = before[-1] + 1 if len(before) else 0
            basin = height[first : after[0]]
            if height[k] == basin.min():
                found.append(k)
    return found


def test_saddles_are_prominent_minima_of_the_gradient():
    rng = np.random.default_rng(0)
    find = jax.jit(analysis.saddle_records)
    for _ in range(20):
        walk = np.float32(np.cumsum(0.3 * rng.standard_normal(60)))
        gradient_norm = np.float32(10**walk)
        loss = -np.arange(60, dtype=np.float32)
        marked = find(loss, gradient_norm)
        # The last records, where the loss has converged, do not count.
        height = np.log10(gradient_norm)[:59]
        expected = dips(height, 0.3)
        np.testing.assert_array_equal(np.flatnonzero(marked), expected)


def test_flicker_at_the_end_is_no_saddle_and_an_exact_start_is_one():
    loss = np.float32([2, 2, 2, 1, 1e-7, 1e-7, 1e-7, 0])
    norm = np.float32([0, 1e-3, 1, 1, 1e-6, 1e-3, 1e-6, 1e-3])
    marked = analysis.saddle_records(loss, norm)
    assert np.flatnonzero(marked).tolist() == [0]
    still = analysis.saddle_records(np.ones(5, np.float32), np.zeros(5, np.float32))
    assert not np.any(still)
    # What a run that blew up has recorded before still counts.
    norm[2:] = np.nan
    loss[2:] = np.nan
    falling = np.float32([1, 0.1, *norm[2:]])
    assert not np.any(analysis.saddle_records(loss, falling))


def test_plateaus_of_a_staircase():
    time = np.linspace(0, 10, 1001, dtype=np.float32)
    first_step = np.tanh(5 * (time - 3)) / 2
    second_step = np.tanh(5 * (time - 7)) / 2
    loss = np.float32(2 - first_step - second_step)
    flat = analysis.plateaus(time, loss)
    changes = np.flatnonzero(np.diff(np.asarray(flat, int)))
    assert np.diff(changes).shape == (3,)
    computed = flat[np.array([100, 500, 900, 300, 700])]
    expected = [1, 1, 1, 0, 0]
    np.testing.assert_array_equal(computed, expected)


@pytest.mark.usefixtures("x64")
def test_widths_are_participation_ratios():
    rows = normal(0, 6, 4)
    widths = observables.effective_width(lambda p: p)
    seen = widths(jd.State(0, rows))

    def participation_ratio(x):
        return np.sum(x) ** 2 / np.sum(x**2)

    expected = participation_ratio(np.sum(rows**2, 1))
    np.testing.assert_allclose(seen["unit_width"], expected, rtol=1e-13)
    singular_values = np.linalg.svd(rows, compute_uv=False)
    expected = participation_ratio(singular_values**2)
    np.testing.assert_allclose(seen["direction_width"], expected, rtol=1e-13)
    # Sparse: two units alike in norm, orthogonal; spread: one direction in all units.
    sparse = jnp.zeros((6, 4)).at[0, 0].set(1).at[3, 2].set(1)
    spread = jnp.ones((6, 1)) @ rows[:1]
    for rows, unit, direction in ((sparse, 2, 2), (spread, 6, 1)):
        seen = widths(jd.State(0, rows))
        computed = [seen["unit_width"], seen["direction_width"]]
        np.testing.assert_allclose(computed, [unit, direction], rtol=1e-13)
    tilted = spread.at[0, 0].add(0.3)
    s = np.linalg.svd(tilted, compute_uv=False)
    distance = observables.rank_distance(lambda p: p, 1)
    seen = distance(jd.State(0, tilted))
    expected = s[1] / s[0]
    np.testing.assert_allclose(seen["rank_distance"], expected, rtol=1e-12)
    too_high = observables.rank_distance(lambda p: p, 4)
    with pytest.raises(ValueError, match="rank: 4 of 4 singular values; pass 1 <= rank < 4"):
        too_high(jd.State(0, tilted))


def test_clusters_are_of_one_sign_near_and_active():
    points = jnp.array([[0.0, 0.0], [0.01, 0.0], [1.0, 0.0], [1.0, 0.01], [1.0, 0.02], [5.0, 5.0]])
    weights = jnp.array([1.0, 0.5, 1.0, 0.7, -0.4, 0.001])
    observe = observables.clusters(lambda p: (points, p), radius=0.1)
    seen = observe(jd.State(0, weights))
    # Two at the origin, two at (1, 0) and a third there of the other sign; the last does hardly
    # anything.
    assert seen["clusters"] == 3
    seen = observe(jd.State(0, 0 * weights))
    assert seen["clusters"] == 0


@pytest.mark.usefixtures("x64")
def test_charges_are_conserved_along_a_flow():
    loss = losses.covariance_loss(models.product)
    moments = tasks.linear_teacher(jnp.diag(jnp.array([2.0, 1.0])))
    start = models.deep_linear((2, 3, 2)).init(jax.random.key(0))

    def balance(w):
        return w[0] @ w[0].T - w[1].T @ w[1]

    observe = observables.charges(balance, loss, moments, start)
    options = dict(times=[0.0, 1.0], observe=observe, solver=jd.RK4(0.02))
    flow = jax.jit(functools.partial(jd.flow, jax.grad(loss), **options))
    run = flow(moments, start)
    before, after = run.observed["charges"]
    # The method's error: (sharpness * step)^5 a step.
    np.testing.assert_allclose(after, before, atol=50 * 0.1**5)
    assert jnp.max(jnp.abs(before)) > 0.1
    # Quadratic units conserve |u|^2 - 2 v^2, and nothing else of that kind.
    teacher = {"u": jnp.eye(3), "v": jnp.array([1.0, 2.0, 3.0])}
    loss = losses.teacher_loss("square")
    net = models.two_layer(3, 5, activation=jnp.square)
    start = net.init(jax.random.key(0))

    def conserved(p):
        return jnp.sum(p["u"] ** 2, 1) - 2 * p["v"] ** 2

    def not_conserved(p):
        return jnp.sum(p["u"] ** 2, 1) - p["v"] ** 2

    observables.charges(conserved, loss, teacher, start)
    with pytest.raises(
        ValueError,
        match=r"of: is no charge of a symmetry of this loss: the cosine .* is 0\.\d+, not 0",
    ):
        observables.charges(not_conserved, loss, teacher, start)


@pytest.mark.usefixtures("x64")
def test_the_table_of_a_linear_network_is_that_of_theory():
    s = np.array([4.0, 2.0, 1.0])
    hidden = 12
    moments = tasks.linear_teacher(jnp.diag(s) @ jnp.eye(3, 4))
    loss = losses.covariance_loss(models.product)
    net = models.deep_linear((4, hidden, 3), scale=1e-4)
    start = net.init(jax.random.key(2))
    observe = observables.snapshot(loss, moments)
    times = np.linspace(0, 15, 601)
    options = dict(times=times, observe=observe, solver=jd.RK4(0.025))
    flow = jax.jit(functools.partial(jd.flow, jax.grad(loss), **options))
    run = flow(moments, start)

    def units(w):
        incoming, outgoing = w
        return jnp.concatenate([incoming, outgoing.T], 1)

    table = analysis.saddle_table(run, loss, moments, like=start, units=units)
    assert table.left.values.tolist() == [True, True, True, False]
    # Critical points of exactly the losses and indices of the best networks of rank 0, 1, 2, 3.
    expected = saddles.linear_plateaus(s)
    np.testing.assert_allclose(table.saddle_loss, expected, atol=1e-12)
    assert np.all(table.residual < 1e-12)
    assert np.all(table.residual < 1e-6 * table.gradient_norm)
    falling_directions = [(hidden - rank) * (3 - rank) for rank in range(4)]
    assert table["index"].values.tolist() == falling_directions
    # The first direction is spread over units as the initial weights say, up to the next one's
    # share.
    spread = saddles.unit_spread(*start, jnp.eye(3)[0], jnp.eye(4)[0])
    slack = 2 * (table.direction_width[1] - 1)
    assert abs(table.unit_width[1] / spread - 1) < slack < 0.1
    # Beyond `dense` parameters the index is estimated, to sqrt(2 index / probes).
    index = observables.hessian_index(loss, moments, dense=10, depth=12, probes=32)
    seen = jax.jit(index)(jd.State(0, start))
    error = abs(seen["index"] - 36)
    assert 0 < error < 4.5 * (2 * 36 / 32) ** 0.5


def test_a_run_that_never_leaves_is_a_saddle_at_its_end():
    loss = losses.covariance_loss(models.product)
    moments = tasks.linear_teacher(jnp.diag(jnp.array([2.0, 1.0])))
    start = [jnp.zeros((3, 2)), jnp.zeros((2, 3))]
    observe = observables.snapshot(loss, moments)
    stream = tasks.full_batch(moments)
    times = np.arange(0, 50, 10)
    run = jd.train(jax.grad(loss), optax.sgd(0.1), stream, start, times=times, observe=observe)
    table = analysis.saddle_table(run, loss, moments, like=start)
    assert table.sizes["saddle"] == 1
    expected = {"index": 6, "left": 0, "residual": 0, "distance": 0}
    assert {name: float(table[name][0]) for name in expected} == expected


def trained(model, loss, data, scale, rate, steps):
    """The run of a flax network from its own initial weights times `scale`."""
    drawn = model.init(jax.random.key(1), data[0])
    start = jax.tree.map(lambda w: scale * w, drawn)
    stream = tasks.full_batch(data)
    times = np.arange(0, steps, steps // 200)
    observe = observables.snapshot(loss, data)

    @jax.jit
    def train(start):
        field = jax.grad(loss)
        return jd.train(field, optax.sgd(rate), stream, start, times=times, observe=observe)

    return train(start), start


def test_the_table_reads_a_flax_mlp():
    first = linen.Dense(16, use_bias=False)
    last = linen.Dense(3, use_bias=False)
    net = linen.Sequential([first, jnp.tanh, last])
    x = jax.random.normal(jax.random.key(0), (200, 4))
    strengths = jnp.array([1.0, 0.5, 0.2])
    data = x, 0.3 * x[:, :3] * strengths[None]

    def loss(p, batch):
        x, y = batch
        errors = net.apply(p, x) - y
        return 0.5 * jnp.mean(jnp.sum(errors**2, 1))

    run, start = trained(net, loss, data, 1e-4, 0.1, 2000)

    def kernel(p, layer):
        return p["params"][f"layers_{layer}"]["kernel"]

    def units(p):
        incoming = kernel(p, 0).T
        outgoing = kernel(p, 2)
        return jnp.concatenate([incoming, outgoing], 1)

    table = analysis.saddle_table(run, loss, data, like=start, units=units)
    # At small outputs it is a linear network: at rank r of 3 modes 16 units have (16 - r)(3 - r)
    # falling directions.
    assert table["index"].values.tolist() == [48, 30, 14, 0]
    assert table.left.values.tolist() == [True, True, True, False]
    assert np.all(table.residual[:3] < 0.05 * table.gradient_norm[:3])
    assert table.direction_width[1] < 1.1 < table.direction_width[2] < 2 < table.direction_width[0]
    assert table.attrs["parameters"] == 16 * 7


def test_the_table_reads_flax_attention_in_a_flow():
    class Attention(linen.Module):
        @linen.compact
        def __call__(self, tokens):
            options = dict(qkv_features=6, use_bias=False, dtype=tokens.dtype)
            attend = linen.MultiHeadDotProductAttention(2, **options)
            return attend(tokens)[:, -1, -1]

    prompts = tasks.in_context_regression(jax.random.key(0), 64, 6, jnp.eye(2))
    pairs = jnp.concatenate([prompts.x, prompts.y[:, :, None]], 2)
    query = jnp.concatenate([prompts.query, jnp.zeros((64, 1))], 1)
    tokens = jnp.concatenate([pairs, query[:, None]], 1)
    data = tokens, prompts.target
    net = Attention()

    def loss(p, batch):
        tokens, target = batch
        error = net.apply(p, tokens) - target
        return 0.5 * jnp.mean(error**2)

    drawn = net.init(jax.random.key(1), tokens)
    start = jax.tree.map(lambda w: 0.2 * w, drawn)
    times = np.linspace(0, 200, 201)
    options = dict(times=times, observe=observables.snapshot(loss, data), solver=jd.RK4(0.25))
    flow = jax.jit(functools.partial(jd.flow, jax.grad(loss), **options))
    run = flow(data, start)

    def heads(p):
        """A row for each head: its query, key and value weights."""
        weights = p["params"]["MultiHeadDotProductAttention_0"]
        rows = []
        for name in ("query", "key", "value"):
            by_head = jnp.moveaxis(weights[name]["kernel"], 1, 0)
            rows.append(by_head.reshape(2, -1))
        return jnp.concatenate(rows, 1)

    table = analysis.saddle_table(run, loss, data, like=start, units=heads, prominence=0.2)
    assert np.all(np.diff(table.loss) < 0)
    assert {"time", "index", "unit_width", "saddle_loss", "left"} <= set(table.data_vars)
    assert np.all(table.residual <= table.gradient_norm)
    assert np.all(np.isfinite(table.to_dataarray()))


@pytest.mark.usefixtures("x64")
def test_what_is_no_run_with_snapshots_is_refused():
    def loss(w, b):
        return (w[0] * w[1] - b) ** 2

    batch = 1.0
    like = jnp.array([1e-2, 1e-2])
    times = np.linspace(0, 5, 11)
    observe = observables.snapshot(loss, batch)
    run = jd.flow(jax.grad(loss), batch, like, times=times, observe=observe)
    only_loss = run._replace(observed={"loss": run.observed["loss"]})
    with pytest.raises(ValueError, match=r"run: has not observed \['gradient_norm', 'params'\]"):
        analysis.saddle_table(only_loss, loss, batch, like=like)
    with pytest.raises(ValueError, match=r"shape \(11, 2\), `like` has 3 parameters"):
        analysis.saddle_table(run, loss, batch, like=jnp.ones(3))
    lost = run._replace(ok=np.zeros(11, bool))
    with pytest.raises(ValueError, match="run: not finite at its first record"):
        analysis.saddle_table(lost, loss, batch, like=like)
    recorded = jax.tree.map(np.asarray, run)
    with (
        jax.enable_x64(False),
        pytest.raises(ValueError, match="run: is of float64; call saddle_table within"),
    ):
        analysis.saddle_table(recorded, loss, batch, like=jnp.ones(2))
    with pytest.raises(ValueError, match="depth, probes: 0, 16"):
        observables.hessian_index(loss, batch, depth=0)
