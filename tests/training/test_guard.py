"""Updates that are not finite, gradients of several small batches, 16-bit compute, and a carried state."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxlstm as jl
from jaxlstm.training import Checkpoints, Log, fit, init_state, make_train_step, skip_nonfinite, squared_error

KEY = jax.random.key(0)


def two(params, batch, key):
    return jnp.sum(params["a"] * batch[0]) + jnp.sum(params["b"]["w"] * batch[1]), {}


def batches(*values):
    """Pairs of factors, which are the gradients."""
    return [jnp.array(value, jnp.float32) for value in values]


def start(optimizer):
    return init_state({"a": jnp.ones(1, jnp.float32), "b": {"w": jnp.ones(1, jnp.float32)}}, optimizer, KEY)


GOOD, BAD_A, BAD_B = (1.0, 1.0), (np.inf, np.nan), (1.0, np.nan)


def test_a_bad_update_leaves_params_and_the_optimizers_state_alone(tmp_path):
    optimizer = skip_nonfinite(optax.adam(0.1), stop_after=2)
    guarded, plain = make_train_step(two, optimizer), make_train_step(two, optax.adam(0.1))
    options = {"progress": False, "log": Log(tmp_path / "log.csv")}
    state = fit(guarded, start(optimizer), batches(GOOD, BAD_B, GOOD, BAD_A, GOOD), steps=5, **options)
    expected = fit(plain, start(optax.adam(0.1)), batches(GOOD, GOOD, GOOD), steps=3, progress=False)
    jax.tree.map(np.testing.assert_array_equal, state.params, expected.params)
    jax.tree.map(np.testing.assert_array_equal, state.opt_state.inner, expected.opt_state)
    rows = [line.split(",") for line in (tmp_path / "log.csv").read_text().splitlines()]
    skipped = rows[0].index("skipped")
    assert [row[skipped] for row in rows[1:]] == ["0", "1", "1", "2", "2"]


def test_a_bad_batch_leaves_the_carried_state_alone():
    optimizer = skip_nonfinite(optax.sgd(0.1))

    def loss_fn(params, carry, batch, key):
        carry = carry + params["a"] * batch
        return jnp.sum(carry), (carry, {})

    state = init_state({"a": jnp.ones(1, jnp.float32)}, optimizer, KEY, carry=jnp.zeros(1, jnp.float32))
    train_step, carries = make_train_step(loss_fn, optimizer), []
    for batch in (1.0, np.nan, 1.0):
        state, metrics = train_step(state, jnp.float32(batch))
        carries.append(float(state.carry[0]))
    np.testing.assert_allclose(carries, [1, 1, 1.9], rtol=1e-6)
    assert metrics["skipped"] == 1


STOPS = {
    "at the end": [GOOD, BAD_B, BAD_B],
    "in the midst": [GOOD, BAD_B, BAD_A, GOOD, GOOD, GOOD],  # good updates that came too late
}


@pytest.mark.parametrize("sequence", STOPS.values(), ids=STOPS)
def test_too_many_in_a_row_stop_the_training_and_name_the_first_that_went_bad(sequence):
    optimizer = skip_nonfinite(optax.sgd(0.1), stop_after=2)
    message = r"not finite 2 steps in a row, from step 2; the first was that of params\['b'\]\['w'\]"
    with pytest.raises(FloatingPointError, match=message):
        fit(make_train_step(two, optimizer), start(optimizer), batches(*sequence), steps=len(sequence), progress=False)


def test_no_checkpoint_is_made_of_a_state_that_stops_the_training(tmp_path):
    """It would stop again wherever it resumes."""
    optimizer, checkpoints = skip_nonfinite(optax.sgd(0.1), stop_after=1), Checkpoints(tmp_path, every=1)
    with pytest.raises(FloatingPointError, match="1 steps in a row, from step 2"):
        fit(
            make_train_step(two, optimizer),
            start(optimizer),
            batches(GOOD, BAD_A, GOOD),
            steps=3,
            checkpoints=checkpoints,
            progress=False,
        )
    assert checkpoints.steps == (1,)


def test_seeds_are_guarded_each_for_itself():
    optimizer = skip_nonfinite(optax.sgd(0.1))
    states = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), start(optimizer))
    states, metrics = jax.vmap(make_train_step(two, optimizer))(states, jnp.array([GOOD, BAD_A], jnp.float32))
    assert metrics["skipped"].tolist() == [0, 1]
    np.testing.assert_allclose(states.params["a"], [[0.9], [1.0]])


def test_the_guard_s_arguments_are_checked(without_type_hook):
    with pytest.raises(TypeError, match="optimizer: expected an Optax gradient transformation"):
        skip_nonfinite(0.1)
    with pytest.raises(ValueError, match="stop_after: expected a positive int, got 0"):
        skip_nonfinite(optax.sgd(0.1), stop_after=0)


CELL = jl.LSTMCell(3)
PARAMS = CELL.init(KEY, 2)
XS = jax.random.normal(KEY, (5, 4, 2), jnp.float32)


def mean_square(params, xs, key):
    return squared_error(jl.unroll(CELL, params, xs)[1], jnp.ones((5, xs.shape[1], 3), jnp.float32)), {}


def test_gradients_of_small_batches_add_up_to_one_step():
    """With `optax.MultiSteps`: two batches of two sequences are one of four."""
    optimizer = optax.MultiSteps(optax.adam(0.1), every_k_schedule=2).gradient_transformation()
    state, step = init_state(PARAMS, optimizer, KEY), make_train_step(mean_square, optimizer)
    for half in (XS[:, :2], XS[:, 2:]):
        state, _ = step(state, half)
    whole, _ = make_train_step(mean_square, optax.adam(0.1))(init_state(PARAMS, optax.adam(0.1), KEY), XS)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), state.params, whole.params)


def test_bfloat16_compute_with_float32_params_gradients_and_cell_state():
    """Cast in the loss: the gradient of a cast is a cast back."""
    seen = []

    def loss_fn(params, xs, key):
        carry, ys = jl.unroll(CELL, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params), xs)
        seen.append((ys.dtype, carry.h.dtype, carry.c.dtype))
        return squared_error(ys, jnp.ones(ys.shape, jnp.bfloat16)), {}

    optimizer = optax.adam(0.1)
    state, metrics = make_train_step(loss_fn, optimizer)(init_state(PARAMS, optimizer, KEY), XS.astype(jnp.bfloat16))
    assert seen[0] == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    assert metrics["loss"].dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.opt_state[0].mu))} == {jnp.dtype("float32")}
    _, full = make_train_step(mean_square, optimizer)(init_state(PARAMS, optimizer, KEY), XS)
    np.testing.assert_allclose(metrics["grad_norm"], full["grad_norm"], rtol=0.05)


def test_truncated_backpropagation_goes_on_from_batch_to_batch_in_one_step_that_gives_its_carry_away():
    """k2 as long as what there is: the gradient of each chunk as a whole."""

    def loss_fn(run, params, carry, xs, key):
        carry, ys = run(CELL, params, xs, carry)
        return jnp.sum(ys**2), (carry, {})

    optimizer, states = optax.sgd(0.1), {}
    for name, run in (("whole", jl.unroll), ("truncated", partial(jl.truncated, k1=1, k2=2))):
        state = init_state(PARAMS, optimizer, KEY, carry=CELL.init_carry(PARAMS, (4,)))
        train_step = make_train_step(partial(loss_fn, run), optimizer)
        for chunk in (XS[:2], XS[2:4]):
            before, (state, _) = state.carry, train_step(state, chunk)
        assert before.h.is_deleted()
        states[name] = state
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
    jax.tree.map(close, states["truncated"].params, states["whole"].params)
    jax.tree.map(close, states["truncated"].carry, states["whole"].carry)


def test_a_carried_state_goes_from_batch_to_batch_and_no_gradient_does():
    """Two chunks with the carry handed on: the values of the whole, the gradient of each chunk."""

    def loss_fn(params, carry, xs, key):
        carry, ys = jl.unroll(CELL, params, xs, carry)
        return jnp.sum(ys**2), (carry, {})

    optimizer = optax.sgd(0.0)
    mine = jax.tree.map(lambda leaf: leaf + 0.5, CELL.init_carry(PARAMS, (4,)))
    state = init_state(PARAMS, optimizer, KEY, carry=mine)
    train_step, metrics = make_train_step(loss_fn, optimizer), []
    for chunk in (XS[:2], XS[2:]):
        state, reported = train_step(state, chunk)
        metrics.append(reported)
    assert not mine.h.is_deleted()
    carry, ys = jl.unroll(CELL, PARAMS, XS, mine)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), state.carry, carry)
    np.testing.assert_allclose(sum(float(m["loss"]) for m in metrics), jnp.sum(ys**2), rtol=1e-5)
    before, _ = jl.unroll(CELL, PARAMS, XS[:2], mine)
    gradient = jax.jit(jax.grad(lambda params: loss_fn(params, before, XS[2:], KEY)[0]))(PARAMS)
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in gradient))
    np.testing.assert_allclose(metrics[1]["grad_norm"], norm, rtol=1e-5)


CARRIES = {
    "not given back": (lambda carry: {}, TypeError, r"to return \(loss, \(carry, metrics\)\), got \{\}"),
    "of another shape": (
        lambda carry: (carry[:1], {}),
        TypeError,
        r"a carry like the one it was given, .*\[2\], got .*\[1\]",
    ),
}


@pytest.mark.parametrize(("returned", "error", "message"), CARRIES.values(), ids=CARRIES)
def test_the_carry_must_be_given_back_as_it_was(returned, error, message):
    optimizer = optax.sgd(0.1)
    step = make_train_step(lambda params, carry, batch, key: (params.sum(), returned(carry)), optimizer)
    with pytest.raises(error, match=message):
        step(init_state(jnp.ones(2), optimizer, KEY, carry=jnp.zeros(2)), None)
