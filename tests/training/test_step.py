"""The training state and the step: what they compute, give away, keep, and refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxlstm as jl
from jaxlstm.training import cross_entropy, init_state, make_train_step

KEY = jax.random.key(7)


def quadratic(params, batch, key):
    return jnp.sum((params["w"] - batch) ** 2), {"noise": jax.random.normal(key)}


def start(optimizer, params=None, key=KEY):
    params = {"w": jnp.array([1.0, 2.0])} if params is None else params
    return init_state(params, optimizer, key)


def test_a_step_is_the_optimizers_update_by_the_gradient():
    optimizer = optax.sgd(0.25)
    state, metrics = make_train_step(quadratic, optimizer)(start(optimizer), jnp.array([0.0, 0.0]))
    np.testing.assert_allclose(state.params["w"], [0.5, 1.0])  # w - 0.25 * 2w
    np.testing.assert_allclose(metrics["loss"], 5.0)
    np.testing.assert_allclose(metrics["grad_norm"], np.sqrt(4.0 + 16.0))
    assert set(metrics) == {"loss", "grad_norm", "noise"}
    assert state.step == 1
    assert state.step.dtype == jnp.int32


def test_the_key_of_step_n_is_folded_from_the_run_s():
    optimizer = optax.adam(0.1)
    step, state = make_train_step(quadratic, optimizer), start(optimizer)
    for n in range(3):
        state, metrics = step(state, jnp.zeros(2))
        assert metrics["noise"] == jax.random.normal(jax.random.fold_in(KEY, n))
    assert (jax.random.key_data(state.key) == jax.random.key_data(KEY)).all()


KEEPS_PARAMS = optax.GradientTransformation(
    init=lambda params: params, update=lambda updates, state, params=None: (updates, state)
)


@pytest.mark.parametrize("optimizer", [optax.adam(0.1), KEEPS_PARAMS], ids=["adam", "keeps params"])
def test_the_state_is_given_away_and_the_callers_arrays_are_not(optimizer):
    w, key = jnp.array([1.0, 2.0]), jax.random.key(7)
    state = init_state({"w": w, "again": w}, optimizer, key)
    after, _ = make_train_step(quadratic, optimizer)(state, jnp.zeros(2))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
    assert not any(leaf.is_deleted() for leaf in (w, key, *jax.tree.leaves(after)))


def test_old_style_keys_and_numpy_params_are_taken():
    optimizer = optax.sgd(0.1)
    state = start(optimizer, {"w": np.ones(2)}, jax.random.PRNGKey(0))
    state, _ = make_train_step(quadratic, optimizer)(state, jnp.zeros(2))
    assert isinstance(state.params["w"], jax.Array)


OPTIMIZERS = {
    "clipped AdamW with a schedule": optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 0.01, 10, 100))
    ),
    "SGD with momentum": optax.sgd(optax.linear_schedule(0.1, 0.0, 100), momentum=0.9),
}


CASES = {
    "float32, AdamW": (jnp.float32, OPTIMIZERS["clipped AdamW with a schedule"]),
    "bfloat16, AdamW": (jnp.bfloat16, OPTIMIZERS["clipped AdamW with a schedule"]),
    "float64, SGD": (jnp.float64, OPTIMIZERS["SGD with momentum"]),
}


@pytest.mark.parametrize(
    ("dtype", "optimizer"),
    [pytest.param(*case, id=name, marks=[pytest.mark.slow] * (name == "float64, SGD")) for name, case in CASES.items()],
)
def test_a_hundred_steps_are_one_trace(dtype, optimizer):
    """Of a classifier of ragged sequences; dtypes that drifted from step to step would trace again."""
    network, traces = jl.Layer(jl.LSTMCell(6)), []

    def loss_fn(params, batch, key):
        traces.append(1)
        xs, lengths, labels = batch
        _, ys = network.apply(params, xs, lengths=lengths)
        return cross_entropy(ys.sum(0), labels), {}

    xs = jnp.asarray(np.random.default_rng(0).normal(size=(7, 6, 3)), dtype)
    batch = xs, jnp.array([7, 3, 1, 0, 7, 2]), jnp.array([0, 1, 2, 3, 4, 5])
    step, state = make_train_step(loss_fn, optimizer), init_state(network.init(KEY, 3, dtype=dtype), optimizer, KEY)
    losses = []
    for _ in range(100):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert len(traces) == 1
    assert losses[-1] < losses[0]
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(state.params))


def test_several_seeds_under_vmap_are_the_seeds_one_by_one():
    optimizer = optax.adam(0.1)
    step = make_train_step(quadratic, optimizer)
    singles = [start(optimizer, {"w": jnp.arange(2.0) + seed}, jax.random.key(seed)) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *singles)
    batch = jnp.arange(6.0).reshape(3, 2)
    many, many_metrics = jax.vmap(step)(stacked, batch)
    for index, state in enumerate(singles):
        one, metrics = step(state, batch[index])
        np.testing.assert_allclose(many.params["w"][index], one.params["w"], rtol=1e-12)
        np.testing.assert_allclose(many_metrics["noise"][index], metrics["noise"], rtol=1e-12)
    assert (many.step == 1).all()


MISTAKES = {
    "no metrics": (lambda p, b, k: p["w"].sum(), TypeError, r"loss_fn: expected to return \(loss, metrics\)"),
    "vector loss": (lambda p, b, k: (p["w"], {}), ValueError, r"scalar loss .* got one of shape \(2,\)"),
    "int loss": (
        lambda p, b, k: (jnp.sum(b, dtype=int), {}),
        TypeError,
        "loss_fn: expected to return a floating-point",
    ),
    "Python loss": (lambda p, b, k: (1.0, {}), TypeError, "loss_fn: expected to return a floating-point"),
    "metrics not by name": (
        lambda p, b, k: (p["w"].sum(), [1]),
        TypeError,
        "loss_fn: expected to return metrics as a dict",
    ),
    "reports the loss": (
        lambda p, b, k: (p["w"].sum(), {"loss": 1}),
        ValueError,
        r"other than 'loss', 'grad_norm'.*\['loss'\]",
    ),
}


@pytest.mark.parametrize(("loss_fn", "error", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_loss_function_must_return_a_scalar_and_a_dict(loss_fn, error, message):
    optimizer = optax.sgd(0.1)
    with pytest.raises(error, match=message):
        make_train_step(loss_fn, optimizer)(start(optimizer), jnp.zeros(2))


def test_wrong_arguments_are_named(without_type_hook):
    with pytest.raises(TypeError, match="optimizer: expected an Optax gradient transformation"):
        init_state({}, optax.sgd, KEY)
    with pytest.raises(TypeError, match="optimizer: expected"):
        make_train_step(quadratic, 0.1)
    with pytest.raises(TypeError, match="key: expected a PRNG key"):
        init_state({}, optax.sgd(0.1), 0)
    with pytest.raises(TypeError, match="loss_fn: expected a function"):
        make_train_step(None, optax.sgd(0.1))


def test_compiler_options_are_those_of_the_outermost_jit():
    def loss_fn(params, batch, key):
        return jnp.mean((params["w"] * batch - 3) ** 2), {}

    optimizer = optax.sgd(0.5)
    start = lambda: init_state({"w": jnp.array(0.0)}, optimizer, jax.random.key(0))  # noqa: E731
    plain, batch = make_train_step(loss_fn, optimizer), jnp.ones((3, 4))
    step = make_train_step(loss_fn, optimizer, compiler_options={"xla_backend_optimization_level": 1})
    expected = plain(start(), batch[0])
    assert step(start(), batch[0])[0].params == expected[0].params
    state, metrics = jax.jit(lambda state: jax.lax.scan(step, state, batch))(start())  # has options of its own
    assert metrics["loss"].tolist() == [9.0, 0.0, 0.0]
    assert state.params["w"] == 3
    unknown = make_train_step(loss_fn, optimizer, compiler_options={"no_such_option": True})
    with pytest.raises(Exception, match="no_such_option"):
        unknown(start(), batch[0])
    assert jax.vmap(unknown)(jax.tree.map(lambda leaf: leaf[None], start()), batch[:1])[1]["loss"].tolist() == [9.0]


@pytest.mark.parametrize("options", ["fast", {1: True}])
def test_compiler_options_of_another_type_are_refused(without_type_hook, options):
    with pytest.raises(TypeError, match="compiler_options: expected a dict with str keys, got"):
        make_train_step(lambda params, batch, key: (0.0, {}), optax.sgd(0.5), compiler_options=options)


def test_seeds_are_trained_as_each_would_be_alone():
    optimizer = optax.adam(0.1)
    states = [start(optimizer, {"w": jnp.full(2, float(seed))}, jax.random.key(seed)) for seed in range(3)]
    batches = jnp.arange(6.0).reshape(3, 2)
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    together, metrics = make_train_step(quadratic, optimizer, seeds=True)(together, batches)
    assert metrics["loss"].shape == (3,)
    alone = make_train_step(quadratic, optimizer)
    for seed, state in enumerate(states):
        state, expected = alone(state, batches[seed])
        np.testing.assert_allclose(together.params["w"][seed], state.params["w"], rtol=1e-6)
        np.testing.assert_allclose(metrics["noise"][seed], expected["noise"], rtol=1e-6)


def test_seeds_is_a_flag(without_type_hook):
    with pytest.raises(TypeError, match="seeds: expected True or False, got 3"):
        make_train_step(quadratic, optax.sgd(0.1), seeds=3)
