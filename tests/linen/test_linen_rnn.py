"""linen's `RNN` and `Bidirectional`: Flax's numbers where Flax is right, the named fixes where it is not."""

from functools import partial

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax_cases import (
    BATCH,
    CALLS,
    FEATURES,
    HIDDEN,
    INPUTS,
    LENGTHS,
    MASK,
    RESET,
    STEPS,
    SWEEP,
    VALID,
    assert_close,
    assert_same,
    counting,
    everything,
    last_carry,
    random_like,
    run,
    weighed,
)

import jaxlstm.linen as ours
from jaxlstm._wrappers import _sequence
from jaxlstm._wrappers._sequence import run_on_core
from jaxlstm.linen import _rnn

F64 = {"param_dtype": jnp.float64}
CELLS = {
    "lstm": ours.LSTMCell(HIDDEN, **F64),
    "optimized": ours.OptimizedLSTMCell(HIDDEN, activation_fn=jnp.sin, **F64),
    "gru": ours.GRUCell(HIDDEN, **F64),
    "mgu": ours.MGUCell(HIDDEN, **F64),
    "mgu_no_reset": ours.MGUCell(HIDDEN, reset_gate=False, **F64),
    "simple": ours.SimpleCell(HIDDEN, activation_fn=jax.nn.sigmoid, **F64),
    "residual": ours.SimpleCell(HIDDEN, residual=True, **F64),
}


class Subclass(nn.LSTMCell):
    """A cell that the core does not know, and that computes what an LSTM does."""


class Dropping(nn.RNNCellBase):
    """What a user writes: random numbers at each step, a carry of two kinds, a count of the steps."""

    @nn.compact
    def __call__(self, carry, x):
        h, steps = carry
        self.variable("count", "steps", lambda: jnp.zeros((), jnp.int32)).value += 1
        h = nn.Dropout(0.5, deterministic=False)(jnp.tanh(nn.Dense(HIDDEN, param_dtype=jnp.float64)(x) + h))
        return (h, steps + 1), {"h": h}

    def initialize_carry(self, rng, input_shape):
        shape = input_shape[:-1]
        return jax.random.normal(rng, (*shape, HIDDEN)), jnp.zeros(shape, jnp.int32)

    num_feature_axes = 1


SUBCLASS = Subclass(HIDDEN, **F64)


def variables_of(rnn, inputs=INPUTS):
    return random_like(jax.eval_shape(rnn.init, jax.random.key(0), jnp.asarray(inputs)))


LSTM_VARIABLES = variables_of(ours.RNN(CELLS["lstm"]))


def compare(name, calls, dtype=jnp.float64, tolerance=1e-12):
    """Our results and Flax's with random params."""
    cell = CELLS[name].clone(param_dtype=dtype)
    inputs = jnp.asarray(INPUTS, dtype)
    variables, mine = (jax.eval_shape(module.RNN(cell).init, jax.random.key(0), inputs) for module in (nn, ours))
    assert mine == variables
    first = jax.eval_shape(lambda: cell.initialize_carry(jax.random.key(0), inputs[:, 0].shape))

    def call_of(module, variables, inputs, first, call):
        rnn = module.RNN(cell, return_carry=True, unroll=1 + call.get("reverse", False))
        result = rnn.apply(variables, inputs, initial_carry=first, **call)
        return result if call.get("return_carry", True) else (first, result)

    point = random_like(variables), inputs, random_like(first, 1)
    assert_close(*(everything(partial(call_of, module), calls, *point) for module in (ours, nn)), tolerance)


@pytest.mark.parametrize(("name", "call"), [("lstm", "keep_order"), ("gru", "reverse")])
def test_numbers_are_flaxs(name, call):
    compare(name, [call])


@pytest.mark.slow
@pytest.mark.parametrize("name", CELLS)
def test_numbers_are_flaxs_in_every_call(name):
    compare(name, SWEEP)
    compare(name, SWEEP[1:], jnp.float32, 1e-6)


def test_the_way_each_cell_goes(monkeypatch):
    def run_on_core(*runs):
        raise RuntimeError("on the core")

    monkeypatch.setattr(_rnn, "run_on_core", run_on_core)

    def goes_to_the_core(cell, call=None, **options):
        try:
            jax.eval_shape(lambda: ours.RNN(cell, **options).init(jax.random.key(0), INPUTS, **(call or {})))
        except RuntimeError as error:
            return str(error) == "on the core"
        return False

    scale = jnp.ones(())
    assert all(map(goes_to_the_core, CELLS.values()))
    assert goes_to_the_core(CELLS["lstm"], CALLS["reverse"])
    assert not goes_to_the_core(SUBCLASS)
    assert not goes_to_the_core(ours.LSTMCell(HIDDEN, **F64, activation_fn=nn.PReLU()))
    assert not goes_to_the_core(ours.LSTMCell(HIDDEN, **F64, activation_fn=lambda x: scale * x))
    assert not goes_to_the_core(ours.LSTMCell(HIDDEN, **F64, carry_init=nn.initializers.ones_init()), {"reset": RESET})
    assert not goes_to_the_core(CELLS["lstm"], CALLS["lengths"], zero_padding=False)
    per_step = {"variable_axes": {"params": 0}, "variable_broadcast": False, "split_rngs": {"params": True}}
    assert not goes_to_the_core(CELLS["lstm"], **per_step)


def test_both_directions_go_together(monkeypatch):
    """To the core in one call, where the core runs both; else each as it would alone."""
    runs = []
    for module in (_rnn, _sequence):
        monkeypatch.setattr(module, "run_on_core", lambda *args: runs.append(len(args)) or run_on_core(*args))

    def ways(*cells):
        runs.clear()
        both = ours.Bidirectional(*map(ours.RNN, cells))
        jax.eval_shape(lambda: both.init(jax.random.key(0), INPUTS))
        return runs[:1]

    lstm, gru = CELLS["lstm"].clone(), CELLS["gru"].clone()
    assert ways(lstm, lstm.clone()) == [2]
    assert ways(lstm, gru) == [2]
    assert ways(lstm, SUBCLASS.clone()) == [1]
    assert ways(SUBCLASS.clone(), SUBCLASS.clone()) == []


MASKED = {
    "all": {"seq_lengths": LENGTHS, "mask": MASK, "reset": RESET},
    "backward": {"seq_lengths": LENGTHS, "mask": MASK, "reset": RESET, "reverse": True},
}


@pytest.mark.parametrize("call", [MASKED["all"], pytest.param(MASKED["backward"], marks=pytest.mark.slow)])
def test_a_cell_that_the_core_does_not_know_gets_the_same(call):
    """Masks, resets and lengths, their gradients too; NaN stands where nothing counts."""
    counts = VALID & MASK
    inputs = np.where(counts[..., None], INPUTS, np.nan)
    first = random_like((jnp.zeros((BATCH, HIDDEN)), jnp.zeros((BATCH, HIDDEN))), 1)

    def results(cell):
        rnn = ours.RNN(cell, return_carry=True)

        def loss(params, inputs, first):
            result = rnn.apply(params, inputs, initial_carry=first, **call)
            return weighed(result), result

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(LSTM_VARIABLES, jnp.asarray(inputs), first)

    core, scanned = results(CELLS["lstm"]), results(SUBCLASS)
    assert_close(scanned, core)
    (_, dinputs, dfirst), ((c, _), outputs) = core
    outputs = outputs if not call.get("reverse") else jnp.asarray(unflipped(outputs))
    assert np.isfinite(dinputs).all()
    assert not dinputs[~counts].any()
    assert not outputs[~counts].any()
    assert (np.abs(outputs[counts]) > 0).all()
    assert_same(c[1], jnp.zeros(HIDDEN) if RESET[1].any() else first[0][1])
    assert_same(c[3], jnp.zeros(HIDDEN))
    assert not dfirst[0][3].any()


def unflipped(outputs):
    """Outputs of a reverse call without keep_order, in the order of the inputs."""
    return np.stack([np.r_[ys[:n][::-1], ys[n:][::-1]] for ys, n in zip(np.asarray(outputs), LENGTHS, strict=True)])


def test_what_is_fixed():
    rnn = ours.RNN(CELLS["lstm"], return_carry=True)
    first = random_like((jnp.zeros((BATCH, HIDDEN)), jnp.zeros((BATCH, HIDDEN))), 1)
    (c, h), outputs = run(rnn.apply, LSTM_VARIABLES, INPUTS, initial_carry=first, seq_lengths=LENGTHS)
    assert_same((c[1], h[1]), (first[0][1], first[1][1]))
    assert not outputs[~VALID].any()
    for call in (CALLS["lengths"], CALLS["reverse"]):
        padded = ours.RNN(CELLS["lstm"], return_carry=True, zero_padding=False)
        carry, outputs = run(padded.apply, LSTM_VARIABLES, INPUTS, initial_carry=first, **call)
        flaxs = nn.RNN(CELLS["lstm"], return_carry=True)
        theirs = run(flaxs.apply, LSTM_VARIABLES, INPUTS, initial_carry=first, **call)
        assert theirs[1][~VALID].any()  # what the cell makes of the padding
        assert_close((last_carry(carry, call), outputs), (last_carry(theirs[0], call), theirs[1]))
        assert_same(carry[0][1], first[0][1])


def test_several_batch_axes_and_none():
    rnn = ours.RNN(CELLS["lstm"], return_carry=True)
    expected = run(rnn.apply, LSTM_VARIABLES, INPUTS, seq_lengths=LENGTHS)
    inputs, lengths = INPUTS.reshape(2, 2, STEPS, FEATURES), LENGTHS.reshape(2, 2)
    (c, h), outputs = run(rnn.apply, LSTM_VARIABLES, inputs, seq_lengths=lengths)
    assert_close(((c.reshape(4, -1), h.reshape(4, -1)), outputs.reshape(4, STEPS, -1)), expected)
    carry, outputs = run(rnn.apply, LSTM_VARIABLES, INPUTS[2], seq_lengths=jnp.int32(3))
    assert_close((carry, outputs), jax.tree.map(lambda leaf: leaf[2], expected))


@pytest.mark.parametrize("reverse", [False, True])
def test_a_users_cell_works_as_in_flax(reverse):
    cell = run(
        Dropping().init,
        {"params": jax.random.key(0), "dropout": jax.random.key(1)},
        *(Dropping().initialize_carry(jax.random.key(0), (BATCH, FEATURES)), jnp.asarray(INPUTS[:, 0])),
    )
    variables = {collection: {"cell": tree} for collection, tree in cell.items()}
    options = {"variable_carry": "count", "split_rngs": {"params": False, "dropout": True}, "return_carry": True}
    mine, theirs = (
        run(
            module.RNN(Dropping(), reverse=reverse, **options).apply,
            variables,
            INPUTS,
            init_key=jax.random.key(2),
            rngs={"dropout": jax.random.key(3)},
            mutable="count",
        )
        for module in (ours, nn)
    )
    assert_close(mine, theirs)
    assert int(mine[1]["count"]["cell"]["steps"]) == STEPS + 1


@pytest.mark.slow
def test_convolutions_work_as_in_flax():
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4, 4, 1)))
    options = {"features": 2, "kernel_size": (3, 3), "param_dtype": jnp.float64}
    mine, theirs = (
        jax.jit(module.RNN(module.ConvLSTMCell(**options), return_carry=True).init_with_output)(
            jax.random.key(0), inputs
        )
        for module in (ours, nn)
    )
    assert_close(mine, theirs)
    _, variables = mine
    _, outputs = ours.RNN(ours.ConvLSTMCell(**options), return_carry=True).apply(
        variables, inputs, seq_lengths=jnp.array([3, 1])
    )
    assert not outputs[1, 1:].any()
    assert_close(outputs[0], mine[0][1][0])


def test_bidirectional():
    def network(module, **options):
        return module.Bidirectional(
            *(module.RNN(module.GRUCell(HIDDEN, **F64)) for _ in range(2)), return_carry=True, **options
        )

    variables = run(network(nn).init, jax.random.key(0), INPUTS)
    assert_same(run(network(ours).init, jax.random.key(0), INPUTS), variables)
    call = {"seq_lengths": LENGTHS, "init_key": jax.random.key(1)}
    carry, outputs = run(network(ours, merge_fn=jnp.multiply).apply, variables, INPUTS, **call)
    theirs, their_outputs = run(network(nn, merge_fn=jnp.multiply).apply, variables, INPUTS, **call)
    assert_close(
        (last_carry(carry, call), counting(outputs, call)), (last_carry(theirs, call), counting(their_outputs, call))
    )
    apply = network(ours).apply
    masked = run(apply, variables, INPUTS, mask=VALID)
    assert_close(masked, run(apply, variables, INPUTS, seq_lengths=LENGTHS, initial_carry=(None, None)))
    alone = run(apply, variables, INPUTS[:, 2:])
    reset = np.zeros_like(VALID)
    reset[:, 2] = True
    assert_close(run(apply, variables, INPUTS, reset=reset)[1][:, 2:], alone[1])


class Block(nn.Module):
    """A layer to be repeated by ``nn.scan``."""

    @nn.compact
    def __call__(self, x, _):
        return ours.RNN(ours.GRUCell(FEATURES, **F64))(x), None


@pytest.mark.slow
def test_inside_flaxs_transforms():
    inputs, key = jnp.asarray(INPUTS), jax.random.key(0)
    for transform in (nn.remat, nn.jit):
        mine, theirs = (transform(module.RNN)(CELLS["gru"]).init_with_output(key, inputs) for module in (ours, nn))
        assert_close(mine, theirs)
    ensemble = nn.vmap(
        ours.RNN, in_axes=None, out_axes=0, variable_axes={"params": 0}, split_rngs={"params": True}, axis_size=2
    )(CELLS["gru"])
    outputs, stacked = ensemble.init_with_output(key, inputs)
    assert_close(outputs[1], ours.RNN(CELLS["gru"]).apply(jax.tree.map(lambda leaf: leaf[1], stacked), inputs))
    deep = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)()
    (outputs, _), stacked = deep.init_with_output(key, inputs, None)
    layer = ours.RNN(ours.GRUCell(FEATURES, **F64))
    for index in range(2):
        params = {"cell": jax.tree.map(lambda leaf, index=index: leaf[index], stacked["params"]["GRUCell_0"])}
        inputs = layer.apply({"params": params}, inputs)
    assert_close(outputs, inputs)


def test_names_tables_and_partitioning_are_flaxs():
    kernel_init = nn.with_partitioning(nn.initializers.lecun_normal(), ("in", "hidden"))
    mine, theirs = (
        nn.Sequential(
            [module.RNN(module.LSTMCell(HIDDEN, kernel_init=kernel_init, **F64)), nn.Dense(1, param_dtype=jnp.float64)]
        )
        for module in (ours, nn)
    )
    variables = run(mine.init, jax.random.key(0), INPUTS)
    assert_same(variables, run(theirs.init, jax.random.key(0), INPUTS))
    assert variables["params"]["layers_0"]["cell"]["ii"]["kernel"].names == ("in", "hidden")
    assert_close(run(mine.apply, variables, INPUTS), run(theirs.apply, variables, INPUTS))
    assert "LSTMCell" in mine.tabulate(jax.random.key(0), INPUTS)


@pytest.mark.parametrize("cell", [ours.LSTMCell, pytest.param(ours.GRUCell, marks=pytest.mark.slow)])
def test_mixed_precision_has_flaxs_dtypes(cell):
    cell, inputs = cell(HIDDEN, dtype=jnp.bfloat16), jnp.asarray(INPUTS, jnp.float32)
    with jax.numpy_dtype_promotion("standard"):  # Flax mixes dtypes
        variables = run(ours.RNN(cell).init, jax.random.key(0), inputs)
        for first in (jnp.float32, jnp.bfloat16):
            zeros = jnp.zeros((BATCH, HIDDEN), first)
            carry = (zeros, zeros) if isinstance(cell, ours.LSTMCell) else zeros
            mine, theirs = (
                run(module.RNN(cell, return_carry=True).apply, variables, inputs, initial_carry=carry)
                for module in (ours, nn)
            )
            assert_close(mine, theirs, 0.02)


def test_integers_are_promoted_as_in_flax():
    inputs = jnp.arange(12).reshape(2, 2, 3)
    with jax.numpy_dtype_promotion("standard"):
        mine, theirs = (run(module.RNN(CELLS["simple"]).apply, SIMPLE_VARIABLES, inputs) for module in (ours, nn))
    assert_close(mine, theirs)


SIMPLE_VARIABLES = variables_of(ours.RNN(CELLS["simple"]))


@pytest.mark.parametrize("remat", [True, pytest.param("sqrt", marks=pytest.mark.slow)])
def test_remat(remat):
    def gradient(**options):
        rnn = ours.RNN(CELLS["simple"], **options)
        return run(jax.grad(lambda params: weighed(rnn.apply(params, INPUTS))), SIMPLE_VARIABLES)

    assert_close(gradient(remat=remat), gradient())


BAD = {
    "inputs: expected 3 features on the last axis, as the params, got 4": {"inputs": np.ones((4, 5, 4))},
    "inputs: expected an array [*batch, T, *features]": {"inputs": np.ones(3)},
    "seq_lengths: expected shape (4,), got (3,)": {"seq_lengths": np.array([1, 2, 3])},
    "seq_lengths: expected an integer array of shape (4,)": {"seq_lengths": np.ones(4)},
    "seq_lengths: expected values in 0..5 (the number of steps in inputs), got 0..6": {
        "seq_lengths": LENGTHS + np.array([1, 0, 0, 0])
    },
    "mask: expected shape (4, 5), got (5, 4)": {"mask": VALID.T},
    "mask: expected a bool array of shape (4, 5)": {"mask": VALID.astype(int)},
    "reset: expected shape (4, 5), got (4,)": {"reset": VALID[:, 0]},
    "initial_carry: expected a tuple of 2 (c, h)": {"initial_carry": jnp.zeros((4, 2))},
    "initial_carry[1]: expected shape (4, 2), got (4, 3)": {"initial_carry": (jnp.zeros((4, 2)), jnp.zeros((4, 3)))},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_calls(message):
    call = {"inputs": INPUTS, **BAD[message]}
    with pytest.raises((ValueError, TypeError)) as error:
        ours.RNN(CELLS["lstm"]).apply(LSTM_VARIABLES, **call)
    assert str(error.value).startswith(message)


def test_options_that_do_not_fit():
    padded = ours.RNN(CELLS["lstm"], zero_padding=False)
    with pytest.raises(ValueError, match="zero_padding: expected True where mask or reset is given, got False"):
        padded.apply(LSTM_VARIABLES, INPUTS, mask=MASK)
    with pytest.raises(ValueError, match="remat: expected None where the cell is scanned as in Flax"):
        ours.RNN(SUBCLASS, remat=True).apply(LSTM_VARIABLES, INPUTS)
    both = ours.Bidirectional(ours.RNN(CELLS["gru"]), ours.RNN(CELLS["gru"]))
    with pytest.raises(TypeError, match="initial_carry: expected a tuple of 2"):
        both.init(jax.random.key(0), INPUTS, initial_carry=jnp.zeros((4, 2)))
    with pytest.raises(flax.errors.ScopeParamNotFoundError):
        ours.RNN(CELLS["gru"]).apply({"params": {"cell": {}}}, INPUTS)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.uint32])
def test_lengths_are_numbers_whatever_integers_hold_them(dtype, reverse):
    inputs = jax.random.normal(jax.random.key(0), (2, 300, FEATURES))
    rnn = ours.RNN(CELLS["lstm"], reverse=reverse)
    got, want = (run(rnn.apply, LSTM_VARIABLES, inputs, seq_lengths=jnp.array([200, 255], d)) for d in (dtype, "int32"))
    np.testing.assert_array_equal(got, want)
