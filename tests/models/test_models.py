import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import jaxdyn as jd
from jaxdyn import losses, models, observables, rules, tasks


def assert_trees_close(computed, expected, **tolerances):
    def compare(a, b):
        np.testing.assert_allclose(a, b, **tolerances)

    jax.tree.map(compare, computed, expected)


def two_layer_sigmoid(time, s, u0):
    """The strength of a mode of singular value s under gradient flow from u0."""
    growth = np.exp(-2 * s * time)
    return s / (1 + (s / u0 - 1) * growth)


@pytest.mark.usefixtures("x64")
def test_saxe_modes_follow_the_sigmoid():
    # Saxe, McClelland, Ganguli 2013: two layers, aligned and balanced: u(t) = s / (1 + (s/u0 - 1)
    # e^{-2 s t}).
    s = np.array([4.0, 2.0, 1.0])
    u0 = 0.05
    frames = tasks.frames(jax.random.key(0), (5, 4, 6), 3)
    left = frames[-1]
    right = frames[0]
    moments = tasks.linear_teacher(tasks.from_svd(left, s, right))
    strengths = observables.mode_strengths(models.product, left, right)
    leakage = observables.leakage(models.product, left, right)
    observe = observables.combine(strengths, leakage)
    start = models.aligned(frames, jnp.full(3, u0))
    times = np.linspace(0.0, 3.0, 7)
    field = jax.grad(losses.covariance_loss(models.product))
    run = jd.flow(field, moments, start, times=times, observe=observe)
    simulated = run.observed["mode_strengths"]
    expected = two_layer_sigmoid(times[:, None], s, u0)
    # The solver's rtol is 1e-8.
    assert jnp.max(jnp.abs(simulated - expected)) < 1e-7
    assert jnp.max(run.observed["leakage"]) < 1e-13


def test_saxe_in_steps_approaches_flow_at_first_order():
    frames = tasks.frames(jax.random.key(0), (4, 4, 4), 2)
    left = frames[-1]
    right = frames[0]
    s = np.array([2.0, 1.0])
    u0 = 0.1
    moments = tasks.linear_teacher(tasks.from_svd(left, s, right))
    field = jax.grad(losses.covariance_loss(models.product))
    start = models.aligned(frames, jnp.full(2, u0))
    observe = observables.mode_strengths(models.product, left, right)
    flow_times = np.linspace(0, 2, 11)
    expected = two_layer_sigmoid(flow_times[:, None], s, u0)

    def whole(key, step):
        return moments

    def gap(rate):
        steps = np.round(flow_times / rate)
        run = jd.train(field, optax.sgd(rate), whole, start, times=steps, observe=observe)
        simulated = run.observed["mode_strengths"]
        return jnp.max(jnp.abs(simulated - expected))

    assert 1.9 < gap(0.02) / gap(0.01) < 2.1


def test_orthogonal_has_orthonormal_columns_or_rows_and_haar_moments(precision):
    tall = models.orthogonal(jax.random.key(0), 5, 3, 2.0)
    wide = models.orthogonal(jax.random.key(0), 3, 5)
    eps = float(jnp.finfo(precision).eps)
    expected = 4 * np.eye(3)
    np.testing.assert_allclose(tall.T @ tall, expected, atol=50 * eps)
    np.testing.assert_allclose(wide @ wide.T, np.eye(3), atol=50 * eps)
    # Haar: E q_ij^2 = 1/n with variance 2(n-1)/(n^2 (n+2)), and E trace = 0 with variance 1 (QR's
    # own signs bias it).
    n = 4
    draws = 2000
    keys = jax.random.split(jax.random.key(1), draws)
    q = jax.vmap(lambda key: models.orthogonal(key, n, n))(keys)
    deviations = jnp.abs(jnp.mean(q**2, 0) - 1 / n)
    variance = 2 * (n - 1) / (n**2 * (n + 2))
    assert jnp.all(deviations < 4.5 * (variance / draws) ** 0.5)
    traces = jnp.trace(q, axis1=1, axis2=2)
    assert abs(jnp.mean(traces)) < 4 / draws**0.5


@pytest.mark.parametrize(
    ("sizes", "imbalance"), [((4, 3, 5), 1.5), ((4, 3, 5), -0.5), ((2, 6, 3), 0.0), ((5, 4, 2), -3)]
)
def test_lambda_balanced_weights_are_and_have_half_normal_singular_values(
    sizes, imbalance, precision
):
    def draw(key):
        return models.lambda_balanced(key, sizes, imbalance, scale=0.5)

    first, second = jax.jit(draw)(jax.random.key(0))
    inputs, hidden, outputs = sizes
    assert (first.shape, second.shape) == ((hidden, inputs), (outputs, hidden))
    difference = second.T @ second - first @ first.T
    expected = imbalance * np.eye(hidden)
    atol = 100 * jnp.finfo(precision).eps
    np.testing.assert_allclose(difference, expected, atol=atol)

    def smaller(pair):
        return pair[0] if imbalance >= 0 else pair[1]

    keys = jax.random.split(jax.random.key(1), 500)
    drawn = jax.jit(jax.vmap(lambda key: smaller(draw(key))))(keys)
    squares = np.sum(drawn**2, (1, 2)) / 0.25
    # Each of the rank's x^2 / scale^2 is chi-squared with one degree of freedom: mean 1, variance
    # 2.
    rank = min(sizes)
    assert abs(np.mean(squares) / rank - 1) < 4.5 * (2 / rank / 500) ** 0.5
    assert smaller((first, second)).dtype == precision


def test_lambda_balanced_weights_that_do_not_exist_are_refused_or_nan():
    key = jax.random.key(0)
    traced = jax.jit(models.lambda_balanced, static_argnums=1)
    for sizes, imbalance in [((4, 3, 2), 1.0), ((2, 3, 4), -1.0)]:
        with pytest.raises(ValueError, match="imbalance"):
            models.lambda_balanced(key, sizes, imbalance)
        impossible, _ = traced(key, sizes, imbalance)
        assert jnp.all(jnp.isnan(impossible))
        possible, _ = traced(key, sizes, -imbalance)
        assert jnp.all(jnp.isfinite(possible))


def test_initial_scales_are_as_documented_and_float64_repeats_float32():
    net = models.mlp((400, 300, 200), scale=1.5, bias_scale=0.5)
    params = net.init(jax.random.key(0))
    for w, b in zip(params["weights"], params["biases"], strict=True):
        # The variance of n Gaussian draws is known to sqrt(2/n).
        assert abs(jnp.var(w) * w.shape[1] / 1.5**2 - 1) < 4 * (2 / w.size) ** 0.5
        assert abs(jnp.var(b) / 0.5**2 - 1) < 4 * (2 / b.size) ** 0.5
    unbiased = models.mlp((2, 2), bias_scale=None)
    assert "biases" not in unbiased.init(jax.random.key(0))

    def mlp():
        return models.mlp((3, 4, 2))

    def orthogonal():
        return models.deep_linear((3, 4, 2), init="orthogonal")

    for make in (mlp, orthogonal):
        low = make().init(jax.random.key(3))
        with jax.enable_x64(True):
            high = make().init(jax.random.key(3))
        assert_trees_close(low, high, atol=1e-6)
        assert {a.dtype for a in jax.tree.leaves(high)} == {np.dtype("float64")}


def test_an_mlp_with_identity_activation_is_the_deep_linear_network():
    sizes = (3, 5, 4, 2)
    params = models.mlp(sizes, bias_scale=None).init(jax.random.key(0))
    weights = params["weights"]
    x = jax.random.normal(jax.random.key(1), (7, 3))
    out = models.mlp(sizes, activation=lambda h: h).apply(params, x)
    expected = x @ models.product(weights).T
    np.testing.assert_allclose(out, expected, atol=1e-5)
    computed = models.deep_linear(sizes).apply(weights, x)
    np.testing.assert_allclose(computed, out, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: models.mlp((3,)), "sizes"),
        (lambda: models.deep_linear((3, 0, 2)), "sizes"),
        (lambda: models.deep_linear((3, 2), init="normal"), "'normal'"),
        (lambda: models.aligned([jnp.eye(2)], jnp.ones(2)), "frames"),
        (lambda: models.lambda_balanced(jax.random.key(0), (3, 2), 1.0), "sizes"),
    ],
)
def test_bad_arguments_are_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()


# Models of Flax.


class LinenNet(linen.Module):
    rate: float = 0.0

    @linen.compact
    def __call__(self, x, train):
        x = linen.Dense(8)(x)
        x = linen.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        x = linen.Dropout(self.rate, deterministic=not train)(jnp.tanh(x))
        return linen.Dense(2)(x)


class NNXNet(nnx.Module):
    def __init__(self, rngs, rate=0.0):
        self.first = nnx.Linear(3, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        self.last = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x):
        h = jnp.tanh(self.norm(self.first(x)))
        return self.last(self.dropout(h))


def from_linen(module, x):
    """The model of a module that is told by `train` whether it is trained."""
    return models.from_linen(module, x, training={"train": True}, evaluating={"train": False})


def linen_model(rate=0.0):
    return from_linen(LinenNet(rate), jnp.ones((1, 3)))


def nnx_model(rate=0.0):
    return models.from_nnx(lambda rngs: NNXNet(rngs, rate))


both = pytest.mark.parametrize("make", [linen_model, nnx_model])


def sample(key, n=16):
    """A batch and the key of its dropout."""
    x_key, dropout_key = jax.random.split(key)
    x = jax.random.normal(x_key, (n, 3)) + 1.0
    return x, jnp.sin(x[:, :2]), dropout_key


def half_squared_error(out, y):
    return 0.5 * jnp.mean(jnp.sum((out - y) ** 2, -1))


def field_of(model):
    def loss(params, batch):
        x, y, key = batch
        out, state = model.apply(params, x, train=True, key=key)
        return half_squared_error(out, y), state

    return rules.with_state(loss)


def optimizer(rate=0.1):
    blocks = {"params": optax.sgd(rate), "state": optax.sgd(1.0)}
    return optax.partition(blocks, {"params": "params", "state": "state"})


def train_net(model, key, steps=20):
    times = np.array([0, 1, steps])

    def observe(s):
        return {"out": model.apply(s.params, jnp.ones((1, 3)))}

    field = field_of(model)
    stream = tasks.online(sample)
    start = model.init(key)
    options = {"times": times, "observe": observe, "key": jax.random.key(7)}
    return jd.train(field, optimizer(), stream, start, **options)


def by_hand_linen(params, state, batches):
    module = LinenNet()

    @jax.jit
    def step(params, state, x, y):
        def loss(p):
            out, new = module.apply({"params": p, **state}, x, True, mutable=["batch_stats"])
            return half_squared_error(out, y), new

        gradient, state_now = jax.grad(loss, has_aux=True)(params)
        descended = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)
        return descended, state_now

    for x, y, _ in batches:
        params, state = step(params, state, x, y)
    return {"params": params, "state": state}


def by_hand_nnx(params, state, batches):
    module = NNXNet(nnx.Rngs(0))
    copied = jax.tree.map(lambda a: a, params)
    nnx.update(module, nnx.State(copied), nnx.State(state))
    module.train()
    tx = nnx.Optimizer(module, optax.sgd(0.1), wrt=nnx.Param)

    @nnx.jit
    def step(module, tx, x, y):
        gradient = nnx.grad(lambda m: half_squared_error(m(x), y))(module)
        tx.update(module, gradient)

    for x, y, _ in batches:
        step(module, tx, x, y)
    _, weights, _, moved = nnx.split(module, nnx.Param, nnx.RngState, ...)
    return {"params": nnx.to_pure_dict(weights), "state": nnx.to_pure_dict(moved)}


@pytest.mark.parametrize(
    ("make", "by_hand"), [(linen_model, by_hand_linen), (nnx_model, by_hand_nnx)]
)
def test_weights_and_running_statistics_equal_a_flax_loop(make, by_hand):
    model = make()
    start = model.init(jax.random.key(0))
    final = train_net(model, jax.random.key(0)).final.params
    keys = [jd.step_key(jax.random.key(7), step) for step in range(20)]
    batches = [sample(key) for key in keys]
    expected = by_hand(start["params"], start["state"], batches)
    # Both are float32; 20 steps of different compilation leave a few tens of eps.
    assert_trees_close(final, expected, rtol=1e-5, atol=3e-6)

    def largest_change(a, b):
        return float(jnp.max(jnp.abs(a - b)))

    moved = jax.tree.map(largest_change, start["state"], final["state"])
    assert min(jax.tree.leaves(moved)) > 0.1


@both
def test_dropout_is_drawn_from_the_key_only_in_training(make):
    model = make(0.5)
    params = model.init(jax.random.key(0))
    x, _, key = sample(jax.random.key(1))

    def draw(key):
        out, _ = model.apply(params, x, train=True, key=key)
        return out

    assert jnp.array_equal(draw(key), draw(key))
    assert not jnp.allclose(draw(key), draw(jax.random.key(2)))
    assert jnp.array_equal(model.apply(params, x), model.apply(params, x))
    draws = [draw(k) for k in jax.random.split(key, 8)]
    # Half the units of each example are dropped: the variance between draws is real in every row.
    assert jnp.all(jnp.std(jnp.stack(draws), 0) > 0)
    with pytest.raises(Exception, match=r"PRNG|key:"):
        model.apply(params, x, train=True)


@both
def test_no_tracer_stays_behind(make):
    model = make(0.5)
    params = model.init(jax.random.key(0))
    x, _, key = sample(jax.random.key(1))

    def apply_in_training(params):
        return model.apply(params, x, train=True, key=key)

    with jax.checking_leaks():
        jax.jit(apply_in_training)(params)
        jax.jit(model.apply)(params, x)


@both
def test_three_seeds_at_once_equal_three_runs(make):
    model = make(0.3)
    keys = jax.random.split(jax.random.key(0), 3)

    def train_from(key):
        return train_net(model, key, 5)

    together = jax.jit(jax.vmap(train_from))(keys)
    alone = train_from(keys[1])
    computed = together.observed["out"][1]
    np.testing.assert_allclose(computed, alone.observed["out"], atol=1e-5)
    assert jnp.std(together.observed["out"][:, 0]) > 0


def test_linen_and_nnx_agree_on_equal_weights():
    x = jax.random.normal(jax.random.key(1), (5, 3))

    def nnx_layers(rngs):
        first = nnx.Linear(3, 4, rngs=rngs)
        last = nnx.Linear(4, 2, rngs=rngs)
        return nnx.Sequential(first, jnp.tanh, last)

    linen_layers = linen.Sequential([linen.Dense(4), jnp.tanh, linen.Dense(2)])
    old = models.from_linen(linen_layers, x)
    new = models.from_nnx(nnx_layers)
    params = old.init(jax.random.key(0))
    shape = new.init(jax.random.key(0))
    assert params["state"] == shape["state"] == {}
    # Both hold {kernel, bias} for each layer.
    first = params["params"]["layers_0"]
    last = params["params"]["layers_2"]
    moved = {"params": {"layers": {0: first, 2: last}}, "state": {}}
    assert jax.tree.structure(moved) == jax.tree.structure(shape)
    computed = old.apply(params, x)
    expected = new.apply(moved, x)
    np.testing.assert_allclose(computed, expected, atol=1e-6)
    for model, p in ((old, params), (new, moved)):
        assert model.apply(p, x, train=True)[1] == {}
    batch = (x, x[:, :2])
    old_gradient = jax.grad(losses.squared_error(old.apply))(params, batch)
    new_gradient = jax.grad(losses.squared_error(new.apply))(moved, batch)
    computed = old_gradient["params"]["layers_0"]["kernel"]
    expected = new_gradient["params"]["layers"][0]["kernel"]
    np.testing.assert_allclose(computed, expected, atol=1e-6)


class Normed(linen.Module):
    @linen.compact
    def __call__(self, x, *, train):
        h = linen.Dense(4)(x)
        h = linen.BatchNorm(use_running_average=not train)(h)
        return linen.Dense(1)(h)


def normed_nnx(rngs):
    first = nnx.Linear(3, 4, rngs=rngs)
    norm = nnx.BatchNorm(4, rngs=rngs)
    last = nnx.Linear(4, 1, rngs=rngs)
    return nnx.Sequential(first, norm, last)


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_flax_models_are_swept(kind):
    x = jax.random.normal(jax.random.key(0), (16, 3))
    y = x[:, :1]
    model = from_linen(Normed(), x) if kind == "linen" else models.from_nnx(normed_nnx)

    def mean_square(outputs, targets):
        return jnp.mean((outputs - targets) ** 2)

    def loss(params, batch):
        inputs, targets = batch
        outputs, state = model.apply(params, inputs, train=True)
        return mean_square(outputs, targets), state

    def error(s):
        outputs = model.apply(s.params, x)
        return {"loss": mean_square(outputs, y)}

    def whole(key, step):
        return (x, y)

    def experiment(key, *, rate):
        field = rules.with_state(loss)
        start = model.init(key)
        times = np.array([0, 60])
        return jd.train(field, optimizer(rate), whole, start, times=times, observe=error)

    swept = jd.sweep(experiment, {"rate": [0.02, 0.1]}, seeds=3)
    assert swept.ok.all()
    assert (swept.loss[..., 1] < swept.loss[..., 0]).all()
    computed = swept.loss.isel(rate=0, time=0)
    expected = swept.loss.isel(rate=1, time=0)
    np.testing.assert_array_equal(computed, expected)


def test_the_jacobian_of_a_propagated_signal_is_its_derivative(x64):
    def draw(key):
        return models.deep_linear((6, 6), scale=1.2).init(key)[0]

    def propagate(signal):
        return models.propagate(jax.random.key(1), draw, signal, depth=5)

    def last(signal):
        return propagate(signal)[0]

    start = jnp.linspace(-1, 1, 6)
    _, computed = propagate(start)
    expected = jax.jacfwd(last)(start)
    np.testing.assert_allclose(computed, expected)


def test_exponents_add_up_to_the_determinants_of_the_layers(x64):
    def draw(key):
        return models.deep_linear((5, 5)).init(key)[0]

    def rotation(key):
        return models.orthogonal(key, 5, 5)

    key = jax.random.key(2)
    exponents = models.product_exponents(key, draw, width=5, depth=7)
    layers = [draw(jd.step_key(key, step)) for step in range(7)]
    log_determinants = [np.linalg.slogdet(layer)[1] for layer in layers]
    # det(W_D ... W_1) is the product of the determinants.
    expected = np.mean(log_determinants)
    np.testing.assert_allclose(exponents.sum(), expected, rtol=1e-12)
    rotations = models.product_exponents(key, rotation, width=5, depth=7)
    np.testing.assert_allclose(rotations, 0, atol=1e-14)


def test_one_program_multiplies_to_any_depth():
    weights = models.deep_linear((3,) * 6).init(jax.random.key(0))
    cut = jax.jit(models.product_to_depth)
    for depth in (0, 2, 5):
        expected = models.product([jnp.eye(3), *weights[:depth]])
        np.testing.assert_allclose(cut(weights, depth), expected, rtol=1e-6)
