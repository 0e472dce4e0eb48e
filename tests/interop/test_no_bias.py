"""Cells with bias=False in other frameworks: no tensors where these can do without, and zeros where they cannot."""

from dataclasses import replace
from functools import partial

import golden
import jax
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from onnx import numpy_helper
from properties import params_of

import jaxlstm as jl
from jaxlstm.interop import (
    from_equinox,
    from_flax,
    from_haiku,
    from_keras,
    from_onnx,
    from_torch,
    to_equinox,
    to_flax,
    to_haiku,
    to_keras,
    to_onnx,
    to_torch,
)

LSTM = jl.LSTMCell(3, bias=False)
GRU = jl.GRUCell(3, bias=False)
BEFORE = jl.GRUCell(3, reset_after=False, bias=False)
RNN = jl.RNNCell(3, activation_fn=jax.nn.relu, bias=False)
PROJECTED = jl.LSTMVariantCell(3, projection_size=2, bias=False)

OPTIONAL = (to_torch, to_keras, to_equinox)
WRITERS = {  # writer, its options, the cells that its framework has
    "torch": (to_torch, {}, (LSTM, GRU, RNN, PROJECTED)),
    "keras": (to_keras, {}, (LSTM, GRU, BEFORE, RNN)),
    "linen": (to_flax, {"layout": "linen"}, (LSTM, GRU, RNN)),
    "nnx": (to_flax, {"layout": "nnx"}, (LSTM, GRU, RNN)),
    "nnx_optimized": (to_flax, {"layout": "nnx_optimized"}, (LSTM, GRU, RNN)),
    "haiku": (to_haiku, {}, (LSTM, BEFORE, RNN)),
    "equinox": (to_equinox, {}, (LSTM, GRU)),
}
CASES = {
    f"{name}-{type(cell).__name__}-{index}": (write, options, cell)
    for name, (write, options, cells) in WRITERS.items()
    for index, cell in enumerate(cells)
}


def weights_of(network):
    return params_of(network, 3, np.random.default_rng(0), np.float32)


def with_zeros(network, params):
    """The params as those of a network with biases, which are zeros where there were none."""
    return jax.tree.map(lambda zeros, leaf: zeros if leaf is None else leaf, golden.zeros(network), params)


@pytest.mark.parametrize(("write", "options", "cell"), CASES.values(), ids=CASES)
def test_biases_that_are_none_are_zeros_or_not_written(write, options, cell):
    params = weights_of(cell)
    assert params.b is None
    with_biases = replace(cell, bias=True)
    want = flat(write(with_biases, with_zeros(with_biases, params), **options))
    want = {name: array for name, array in want.items() if write not in OPTIONAL or "bias" not in name}
    golden.assert_bitwise(flat(write(cell, params, **options)), want)


def flat(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def lstm_and_gru(bias, **options):
    return jl.Stack(jl.LSTMCell(3, bias=bias), jl.GRUCell(3, bias=bias, **options))


ROUND_TRIPS = {
    "torch": (to_torch, from_torch, lambda bias: jl.Stack(*[jl.Bidirectional(jl.LSTMCell(3, bias=bias))] * 2), {}),
    "keras": (to_keras, partial(from_keras, reset_after=True), lstm_and_gru, {"layers": ("a", "b")}),
    "flax": (partial(to_flax, layout="nnx"), from_flax, lstm_and_gru, {}),
    "haiku": (to_haiku, from_haiku, partial(lstm_and_gru, reset_after=False), {"layers": ("a", "b")}),
    "equinox": (to_equinox, from_equinox, lstm_and_gru, {}),
}


@pytest.mark.parametrize(("write", "read", "make", "options"), ROUND_TRIPS.values(), ids=ROUND_TRIPS)
def test_they_come_back_as_none_or_zeros(write, read, make, options):
    params = weights_of(make(bias=False))
    network, got = read(write(make(bias=False), params, **options), **options)
    assert network == make(bias=write not in OPTIONAL)
    jax.tree.map(assert_array_equal, got, params if write in OPTIONAL else with_zeros(network, params))


@pytest.mark.parametrize(
    ("write", "read"), [(to_torch, from_torch), (to_keras, from_keras), (to_equinox, from_equinox)]
)
def test_both_directions_have_biases_if_one_has(write, read):
    network = jl.Bidirectional(jl.LSTMCell(3), LSTM)
    params = weights_of(network)
    options = {"layers": (("a", "b"),)} if write is to_equinox else {}
    again, got = read(write(network, params, **options), **options)
    assert again == jl.Bidirectional(jl.LSTMCell(3))
    jax.tree.map(assert_array_equal, got, with_zeros(again, params))


ONNX = {  # network, and whether each node has a B
    "none": (jl.Stack(jl.Bidirectional(GRU), LSTM), [False, False]),
    "one layer": (jl.Stack(LSTM, jl.GRUCell(2)), [False, True]),
    "one direction": (jl.Bidirectional(jl.LSTMCell(3), LSTM), [True]),
}


@pytest.mark.parametrize(("network", "have_b"), ONNX.values(), ids=ONNX)
def test_an_onnx_node_without_biases_has_no_b(network, have_b):
    params = weights_of(network)
    model = to_onnx(network, params)
    nodes = [node for node in model.graph.node if node.op_type in ("LSTM", "GRU")]
    assert [bool(node.input[3]) for node in nodes] == have_b
    read = jax.tree.leaves([layer.params for layer in from_onnx(model).values()], is_leaf=lambda n: hasattr(n, "b"))
    written = jax.tree.leaves(params, is_leaf=lambda node: hasattr(node, "b"))
    for got, want in zip(read, written, strict=True):
        assert_array_equal(got.w_hh, want.w_hh)
        if want.b is None and network != ONNX["one direction"][0]:
            assert got.b is None
        else:
            assert_array_equal(got.b, np.zeros_like(got.b) if want.b is None else want.b)


def test_a_direction_without_biases_has_zeros_beside_one_with():
    network = jl.Bidirectional(jl.GRUCell(2), jl.GRUCell(2, bias=False))
    params = weights_of(network)
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in to_onnx(network, params).graph.initializer}
    assert held["GRU.B"][0].any()
    assert not held["GRU.B"][1].any()
    assert from_torch(to_torch(network, params))[0] == jl.Bidirectional(jl.GRUCell(2))


SHAPES = r"LSTMParams\(.*b='float32\[12\]'\)"
MISTAKES = {
    "biases that the network has not": (LSTM, weights_of(jl.LSTMCell(3)), rf"params: expected .*, got {SHAPES}"),
    "none of those that it has": (jl.LSTMCell(3), weights_of(LSTM), rf"params: expected {SHAPES}, got .*b=None"),
}


@pytest.mark.parametrize(("network", "params", "message"), MISTAKES.values(), ids=MISTAKES)
def test_biases_that_do_not_fit_are_an_error(network, params, message):
    with pytest.raises(ValueError, match=message):
        to_torch(network, params)
