"""Cells and networks as values: copies, pickles, other processes, `dataclasses.replace`, NumPy scalars as options."""

import copy
import dataclasses
import multiprocessing
import pickle
import sys
from functools import partial

import cloudpickle
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm as jl

LSTM = jl.LSTMCell(4)
VALUES = {
    "lstm": LSTM,
    "gru": jl.GRUCell(3, gate_fn=jax.nn.hard_sigmoid, activation_fn=jax.nn.relu),
    "rnn": jl.RNNCell(3, activation_fn=jax.lax.tanh, w_ih_init=jl.torch_uniform),
    "variant": jl.LSTMVariantCell(4, peephole=True, clip=2, b_init=jl.chrono(9)),
    "mgu": jl.MGUCell(2),
    "min": jl.Bidirectional(jl.MinGRUCell(2, activation_fn=jl.min_activation), jl.MinLSTMCell(2)),
    "ind_rnn": jl.IndRNNCell(2),
    "xlstm": jl.Stack(jl.SLSTMCell(4, num_heads=2), jl.MLSTMCell(4, forget_bias=3)),
    "lru": jl.LRUCell(4, state_size=2, r_min=0.5),
    "conv_lstm": jl.Bidirectional(jl.ConvLSTMCell(4, spatial_shape=(3, 2), kernel_shape=5)),
    "wrapped": jl.LearnedCarry(jl.RecurrentDropout(jl.Zoneout(LSTM, h=0.1), 0.2)),
    "layer": jl.Layer(LSTM, reverse=True),
    "bidirectional": jl.Bidirectional(LSTM, jl.GRUCell(4), merge=jnp.maximum),
    "stack": jl.Stack(jl.Bidirectional(LSTM), jl.Layer(jl.GRUCell(3)), dropout=0.3),
}
every_value = pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)


@every_value
@pytest.mark.parametrize(
    "through",
    [
        lambda value: pickle.loads(pickle.dumps(value)),
        lambda value: cloudpickle.loads(cloudpickle.dumps(value)),
        copy.copy,
        copy.deepcopy,
        dataclasses.replace,
        *([copy.replace] if sys.version_info >= (3, 13) else []),
    ],
    ids=["pickle", "cloudpickle", "copy", "deepcopy", "replace"] + ["copy.replace"] * (sys.version_info >= (3, 13)),
)
def test_round_trips_are_equal(value, through):
    result = through(value)
    assert result == value
    assert hash(result) == hash(value)
    assert repr(result) == repr(value)


@every_value
def test_a_repr_shows_what_differs_from_the_defaults(value):
    assert "0x" not in repr(value)
    assert "None" not in repr(value)


def test_a_partial_of_a_jitted_function_is_pickled():
    cell = jl.RNNCell(3, activation_fn=partial(jax.nn.leaky_relu, negative_slope=0.1))
    found = pickle.loads(pickle.dumps(cell))
    params = cell.init(jax.random.key(0), 2)
    ys, expected = (jl.unroll(one, params, -np.ones((4, 2)))[1] for one in (found, cell))
    np.testing.assert_array_equal(ys, expected)
    assert copy.copy(cell) == copy.deepcopy(cell) == cell


def test_a_stack_with_other_options():
    stack = VALUES["stack"]
    changed = dataclasses.replace(stack, dropout=0.1)
    assert (changed.layers, changed.dropout) == (stack.layers, 0.1)
    assert dataclasses.replace(stack, layers=(LSTM,)) == jl.Stack(LSTM, dropout=0.3)
    with pytest.raises(ValueError, match=r"layers: expected \(\) where layers_or_cells are given"):
        jl.Stack(LSTM, layers=(LSTM,))


def _ys(network):
    return np.asarray(network.apply(network.init(jax.random.key(0), 2), jnp.ones((3, 2)))[1])


def test_a_spawned_process_computes_the_same():
    network = VALUES["stack"]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(_ys, (network,))
    with jax.enable_x64(False) if hasattr(jax, "enable_x64") else jax.experimental.disable_x64():
        here = _ys(network)
    np.testing.assert_allclose(there, here, rtol=1e-6)


NUMPY = {
    "hidden_size": (lambda n: jl.LSTMCell(n(4)), LSTM),
    "forget_bias": (lambda n: jl.LSTMCell(4, forget_bias=n(1)), LSTM),
    "clip": (lambda n: jl.LSTMVariantCell(4, clip=n(2)), jl.LSTMVariantCell(4, clip=2.0)),
    "projection_size": (
        lambda n: jl.LSTMVariantCell(4, projection_size=n(2)),
        jl.LSTMVariantCell(4, projection_size=2),
    ),
    "chrono": (lambda n: jl.LSTMCell(4, b_init=jl.chrono(n(9))), jl.LSTMCell(4, b_init=jl.chrono(9))),
    "gru": (lambda n: jl.GRUCell(n(4)), jl.GRUCell(4)),
    "rnn": (lambda n: jl.RNNCell(n(4)), jl.RNNCell(4)),
    "mgu": (lambda n: jl.MGUCell(n(4)), jl.MGUCell(4)),
    "min_gru": (lambda n: jl.MinGRUCell(n(4)), jl.MinGRUCell(4)),
    "min_lstm": (lambda n: jl.MinLSTMCell(n(4)), jl.MinLSTMCell(4)),
    "ind_rnn": (lambda n: jl.IndRNNCell(n(4)), jl.IndRNNCell(4)),
    "slstm": (lambda n: jl.SLSTMCell(n(4), num_heads=n(2)), jl.SLSTMCell(4, num_heads=2)),
    "mlstm": (lambda n: jl.MLSTMCell(n(4), num_heads=n(2)), jl.MLSTMCell(4, num_heads=2)),
    "lru": (lambda n: jl.LRUCell(n(4), state_size=n(2)), jl.LRUCell(4, state_size=2)),
    "conv_lstm": (
        lambda n: jl.ConvLSTMCell(n(4), spatial_shape=(n(3),), kernel_shape=n(5)),
        jl.ConvLSTMCell(4, spatial_shape=(3,), kernel_shape=5),
    ),
}
FLOATS = ("forget_bias", "clip", "chrono")


@pytest.mark.parametrize("name", NUMPY)
@pytest.mark.usefixtures("without_type_hook")
def test_numpy_scalars_are_plain_numbers(name):
    make, expected = NUMPY[name]
    for kind in (np.int64, np.int8, *([np.float64, np.float32] if name in FLOATS else [])):
        cell = make(kind)
        assert cell == expected
        assert "np." not in repr(cell)
        params = cell.init(jax.random.key(0), 2, dtype=jnp.float32)
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}


def test_carries_and_params_are_registered_for_export():
    network = jl.Stack(jl.Bidirectional(LSTM, jl.GRUCell(4)), jl.LSTMVariantCell(3, layer_norm=True), jl.MGUCell(2))
    params = network.init(jax.random.key(0), 2, dtype=jnp.float64)
    xs = jnp.ones((3, 1, 2))
    exported = jax.export.export(jax.jit(network.apply))(params, xs)
    again = jax.export.deserialize(exported.serialize())
    got, want = again.call(params, xs), network.apply(params, xs)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(np.testing.assert_array_equal, got, want)


MODERN = [jl.MinGRUCell(2), jl.MinLSTMCell(2), jl.IndRNNCell(2), jl.SLSTMCell(2), jl.MLSTMCell(2)]
MODERN += [jl.LRUCell(2), jl.ConvLSTMCell(2, spatial_shape=(3,))]


@pytest.mark.parametrize("cell", MODERN, ids=repr)
def test_every_named_tuple_of_a_cell_is_registered_for_export(cell):
    def tuples(params, x):
        carry = cell.init_carry(params)
        z = cell.combine(cell.project(params, x), cell.recur(params, carry))
        return params, carry, cell.gates(params, z, carry)

    arguments = cell.init(jax.random.key(0), 2, dtype=jnp.float64), jnp.ones((*cell.spatial_shape, 2))
    exported = jax.export.export(jax.jit(tuples))(*arguments)
    got = jax.eval_shape(jax.export.deserialize(exported.serialize()).call, *arguments)
    assert jax.tree.structure(got) == jax.tree.structure(jax.eval_shape(tuples, *arguments))


def test_subpackages_are_imported_when_used():
    assert jl.inspect.trace
    assert jl.interop.save
    assert {"inspect", "interop", "linen", "nnx", "tasks", "training"} <= set(dir(jl))
    with pytest.raises(AttributeError, match="module 'jaxlstm' has no attribute 'nonsense'"):
        jl.nonsense  # noqa: B018
