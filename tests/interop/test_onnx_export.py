"""Networks written as ONNX models: what onnxruntime makes of them, what comes back, and what ONNX has no node for."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from onnx import helper, numpy_helper
from onnx_models import H, model_of, run, session_of, tensors
from properties import MinimalGatedCell, Shape, carry_of, params_of

import jaxlstm as jl
from jaxlstm.interop import OnnxFunction, from_onnx, to_onnx

HARD_SIGMOID = OnnxFunction("HardSigmoid", alpha=0.25, beta=0.375)
CLIPPED = {"gate_fn": OnnxFunction("Sigmoid", clip=0.5), "activation_fn": OnnxFunction("Tanh", clip=0.5)}

NETWORKS = {  # each option of to_onnx's cells and layers is in one of them
    "cell": jl.LSTMCell(3, gate_fn=jax.nn.hard_sigmoid, activation_fn=jax.nn.elu),
    "stack": jl.Stack(
        jl.Bidirectional(jl.LSTMCell(3), jl.LSTMCell(3, gate_fn=HARD_SIGMOID), merge="mul"),
        jl.Layer(jl.RecurrentDropout(jl.RNNCell(2), 0.5), reverse=True),
        jl.GRUCell(2, reset_after=False),
        jl.Bidirectional(jl.GRUCell(2, **CLIPPED), jl.LSTMCell(2), merge="mean"),
        jl.LSTMVariantCell(2, peephole=True, clip=0.5),
        dropout=0.5,
    ),
    "variants": jl.Stack(
        jl.Bidirectional(jl.LSTMVariantCell(2, coupled=True, peephole=True)),
        jl.Bidirectional(jl.RNNCell(2, activation_fn=jax.nn.relu), merge="sum"),
        jl.Bidirectional(jl.GRUCell(3), jl.GRUCell(2)),
    ),
    "no bias": jl.Stack(
        jl.Bidirectional(jl.LSTMCell(2, bias=False), jl.LSTMCell(2)),
        jl.GRUCell(2, bias=False),
    ),
}
XS = np.random.default_rng(0).normal(size=(6, 4, 5)).astype(np.float32)
LENGTHS = np.array([6, 1, 3, 5], np.int32)


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_onnxruntime_computes_the_same(network):
    layers = jl.Layer(network) if isinstance(network, jl.Cell) else network
    params, carry = weights_of(network), carry_of(layers, Shape(6, (4,), 5, 0), np.random.default_rng(8), np.float32)
    apply = jax.jit(lambda carry, lengths: layers.apply(params, XS, carry, lengths=lengths))

    session = session_of(to_onnx(network, params, lengths=True, carry=True))
    got = run(session, {"xs": XS, "lengths": LENGTHS} | named("initial_carry", carry))
    assert_same(got, apply(carry, LENGTHS))

    zeros, whole = jax.tree.map(np.zeros_like, carry), np.full_like(LENGTHS, 6)
    assert_same(run(session_of(to_onnx(network, params)), {"xs": XS}), apply(zeros, whole))


def assert_same(got, want):
    carry, ys = want
    want = {"ys": ys} | named("final_carry", carry)
    assert set(got) == set(want)
    for name, array in want.items():
        assert_allclose(got[name], array, rtol=2e-6, atol=2e-6, err_msg=name)


def weights_of(network, dtype=np.float32):
    """Random params, no bias zero; halved, so that rounding errors do not grow."""
    return jax.tree.map(lambda leaf: 0.5 * leaf, params_of(network, 5, np.random.default_rng(7), dtype))


def named(prefix, carry):
    """Leaves by the names that the model has for them, with both directions numbered as the layers are."""

    def is_pair(node):
        return isinstance(node, jl.BidirectionalCarry)

    carry = jax.tree.map(lambda node: tuple(node) if is_pair(node) else node, carry, is_leaf=is_pair)
    leaves = jax.tree_util.tree_leaves_with_path(carry)
    return {f"{prefix}.{jax.tree_util.keystr(path, simple=True, separator='.')}": leaf for path, leaf in leaves}


@pytest.mark.parametrize("network", [NETWORKS["stack"], NETWORKS["variants"]], ids=["stack", "variants"])
def test_reading_what_was_written_gives_the_same_weights_bit_for_bit(network):
    params = weights_of(network)
    layers = from_onnx(to_onnx(network, params))
    got, want = (jax.tree.leaves(tree) for tree in ([layer.params for layer in layers.values()], params))
    for one, other in zip(got, want, strict=True):
        assert_array_equal(one, other)


def test_reading_what_was_written_gives_the_same_layers():
    network = jl.Stack(
        jl.Bidirectional(jl.LSTMCell(3), jl.LSTMCell(3, gate_fn=HARD_SIGMOID)),
        jl.Layer(jl.GRUCell(2, **CLIPPED), reverse=True),
        jl.LSTMVariantCell(2, peephole=True, coupled=True, clip=0.5),
        jl.RNNCell(2, activation_fn=jax.nn.soft_sign),
    )
    layers = from_onnx(to_onnx(network, weights_of(network)))
    assert list(layers) == ["LSTM.0", "GRU.1", "LSTM.2", "RNN.3"]
    assert jl.Stack(*(layer.network for layer in layers.values())) == network


MODELS = {
    "lstm": ("LSTM", {"direction": "bidirectional", "clip": 0.5}),
    "gru": ("GRU", {"direction": "reverse", "linear_before_reset": 1}),
    "rnn": ("RNN", {"activations": ["Elu"], "activation_alpha": [0.5]}),
}


@pytest.mark.parametrize(("op_type", "attributes"), MODELS.values(), ids=MODELS)
def test_writing_what_was_read_gives_the_same_node_with_its_biases_merged(op_type, attributes):
    held = tensors(op_type, 2 if attributes.get("direction") == "bidirectional" else 1)
    layer = from_onnx(model_of(op_type, held, **attributes))["node"]
    model = to_onnx(layer.network, layer.params)
    got = {tensor.name.rpartition(".")[2]: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for place in {"W", "R", "P"} & set(held):
        assert_array_equal(got[place], held[place])
    first, second = np.split(held["B"], 2, axis=-1)
    if op_type == "GRU":  # n's second bias is within the reset gate
        first[:, : 2 * H] += second[:, : 2 * H]
        second[:, : 2 * H] = 0
    else:
        first, second = first + second, np.zeros_like(second)
    assert_array_equal(got["B"], np.concatenate([first, second], axis=-1))
    node = next(node for node in model.graph.node if node.op_type == op_type)
    written = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    assert attributes == {name: decoded(written[name]) for name in attributes}


def decoded(value):
    if isinstance(value, bytes):
        return value.decode()
    return [decoded(item) for item in value] if isinstance(value, list) else value


def test_batch_and_steps_are_dynamic_and_nodes_are_real():
    network = jl.Stack(jl.Bidirectional(jl.GRUCell(3)), jl.RNNCell(2))
    model = to_onnx(network, weights_of(network), lengths=True)
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input}
    assert shapes == {"xs": ["steps", "batch", 5], "lengths": ["batch"]}
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("GRU") == operators.count("RNN") == 1
    assert not {"Loop", "Scan"} & set(operators)


def test_one_model_takes_any_number_of_steps_and_sequences():
    session = session_of(to_onnx(LSTM, weights_of(LSTM)))
    ys = run(session, {"xs": XS})["ys"]
    for steps, batch in ((1, 1), (3, 4), (6, 2)):
        assert_allclose(run(session, {"xs": XS[:steps, :batch]})["ys"], ys[:steps, :batch], rtol=1e-6, atol=1e-7)


def test_16_bit_weights():
    network = jl.LSTMCell(3)
    params = weights_of(network, np.float16)
    got = run(session_of(to_onnx(network, params)), {"xs": XS.astype(np.float16)})
    assert got["ys"].dtype == np.float16
    assert_allclose(got["ys"], jl.unroll(network, params, XS.astype(np.float16))[1], rtol=5e-3, atol=5e-3)


def scaled(z):
    """A function without a counterpart."""
    return 2 * z


LSTM = jl.LSTMCell(3)
MISTAKES = {
    "projection": (
        jl.LSTMVariantCell(3, projection_size=2),
        "projection_size: expected None, since ONNX has none, got 2",
    ),
    "layer norm": (jl.LSTMVariantCell(3, layer_norm=True), "layer_norm: expected False, since ONNX has none, got True"),
    "zoneout": (jl.Zoneout(LSTM, h=0.1), "cell: expected an LSTMCell, GRUCell, .*, got Zoneout"),
    "a learned carry": (jl.LearnedCarry(LSTM), "cell: expected an LSTMCell, GRUCell, .*, got LearnedCarry"),
    "an MGU": (jl.MGUCell(3), "cell: expected an LSTMCell, GRUCell, .*, got MGUCell"),
    "a user's cell": (MinimalGatedCell(3), "cell: expected an LSTMCell, GRUCell"),
    "function": (jl.GRUCell(3, gate_fn=scaled), "gate_fn: expected a function that ONNX has, .* got scaled"),
    "clip of one function": (
        jl.GRUCell(3, gate_fn=OnnxFunction("Sigmoid", clip=1.0)),
        "clip: expected an option of LSTMVariantCell",
    ),
    "clip of an LSTM's function": (
        jl.LSTMCell(3, **CLIPPED),
        "clip: expected an option of LSTMVariantCell",
    ),
    "merge": (jl.Bidirectional(LSTM, merge=lambda a, b: a - b), "merge: expected 'concat' or one of sum, mean, mul"),
}


@pytest.mark.parametrize(("network", "message"), MISTAKES.values(), ids=MISTAKES)
def test_what_onnx_has_no_node_for_is_an_error(network, message):
    with pytest.raises(ValueError, match=message):
        to_onnx(network, weights_of(network))


def test_arguments(without_type_hook):
    params = weights_of(LSTM)
    with pytest.raises(TypeError, match="network: expected a cell, a Layer, a Bidirectional or a Stack"):
        to_onnx(params, LSTM)
    with pytest.raises(TypeError, match=r"params: expected those of LSTMCell.*, with a w_ih"):
        to_onnx(LSTM, {"w_ih": 1})
    with pytest.raises(ValueError, match=r"params.w_hh: expected shape \(4, 16\) for LSTMCell"):
        to_onnx(jl.LSTMCell(4), params._replace(w_ih=np.zeros((5, 16))))
    with pytest.raises(TypeError, match="lengths: expected True or False"):
        to_onnx(LSTM, params, lengths=LENGTHS)
    bfloat16 = jax.tree.map(lambda leaf: jax.numpy.asarray(leaf, "bfloat16"), params)
    with pytest.raises(ValueError, match="params: expected float16, float32 or float64, got bfloat16"):
        to_onnx(LSTM, bfloat16)
