"""Files of which something has been changed: a ValueError or what was in them before, and never more memory than that.

The files are read by libraries in C++ and Rust, which would end the process if they were led astray.
"""

import json
import re
import tracemalloc
from pathlib import Path

import jax
import numpy as np
import onnx
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from onnx import helper, numpy_helper
from onnx_models import LENGTHS, model_of, tensors
from properties import params_of

import jaxlstm as jl
from jaxlstm.interop import (
    OnnxLayer,
    from_equinox,
    from_flax,
    from_haiku,
    from_keras,
    from_onnx,
    from_torch,
    load,
    load_params,
    save,
    to_torch,
)
from jaxlstm.interop._arguments import check_network
from jaxlstm.interop._description import to_text
from jaxlstm.interop._onnx_constants import _COMPUTED
from jaxlstm.interop._safetensors import write

NETWORK = jl.Stack(
    jl.Bidirectional(jl.LearnedCarry(jl.LSTMCell(2)), jl.MGUCell(2)), jl.GRUCell(1, bias=False), dropout=0.5
)
PARAMS = params_of(NETWORK, 3, np.random.default_rng(0), np.float32)
GOLDENS = Path(__file__).parent / "onnx_goldens"

pytestmark = pytest.mark.usefixtures("without_type_hook")
few = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
many = settings(few, max_examples=2_000)

positions = st.floats(0, 1, exclude_max=True)
changes = st.one_of(
    st.tuples(st.just("flip"), positions, st.integers(0, 7)),
    st.tuples(st.just("set"), positions, st.integers(0, 255)),
    st.tuples(st.just("cut"), positions, st.integers(1, 64)),
    st.tuples(st.just("repeat"), positions, st.integers(1, 64)),
    st.tuples(st.just("end"), positions, st.just(0)),
    st.tuples(st.just("length"), positions, st.sampled_from([0, 1, 2**31, 2**40, 2**63, 100_000_001])),
    st.tuples(st.just("header"), positions, st.integers(0, 7)),
)
several = st.lists(changes, min_size=1, max_size=4)


def apply(data, changes):
    """The bytes after these changes."""
    for kind, position, number in changes:
        at = int(position * len(data))
        if kind == "flip" and data:
            data = data[:at] + bytes([data[at] ^ 1 << number]) + data[at + 1 :]
        elif kind == "header" and data:  # where the words are, and not the numbers
            at = int(position * min(len(data), 1500))
            data = data[:at] + bytes([data[at] ^ 1 << number]) + data[at + 1 :]
        elif kind == "set":
            data = data[:at] + bytes([number]) + data[at + 1 :]
        elif kind == "cut":
            data = data[:at] + data[at + number :]
        elif kind == "repeat":
            data = data[: at + number] + data[at:]
        elif kind == "end":
            data = data[:at]
        elif kind == "length":
            data = number.to_bytes(8, "little") + data[8:]
    return data


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "network.safetensors"
    save(path, NETWORK, PARAMS)
    return path.read_bytes()


def check_load(path, data):
    path.write_bytes(data)
    result, message = attempt(load, path)
    if result:  # what was changed says nothing, such as the order of keys
        assert result[0] == NETWORK
        jax.tree.map(assert_array_equal, result[1], PARAMS)
    else:
        assert str(path) in message


def attempt(read, path, errors=ValueError):
    """What was read, and the message of the error if nothing was."""
    try:
        return read(path), None
    except errors as error:
        return None, str(error)


@few
@given(changes=several)
def test_load(tmp_path, good, changes):
    check_load(tmp_path / "x", apply(good, changes))


@pytest.mark.slow
@many
@given(changes=several)
def test_load_at_length(tmp_path, good, changes):
    check_load(tmp_path / "x", apply(good, changes))


@few
@given(changes=several)
def test_load_params(tmp_path, good, changes):
    (tmp_path / "x").write_bytes(apply(good, changes))
    params, message = attempt(lambda path: load_params(path, PARAMS), tmp_path / "x")
    if params:
        assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, PARAMS)
    else:
        assert str(tmp_path) in message


TORCH = jl.Bidirectional(jl.LSTMCell(2))
TORCH_PARAMS = params_of(TORCH, 3, np.random.default_rng(0), np.float32)
TORCH_FILE = safetensors.numpy.save(to_torch(TORCH, TORCH_PARAMS))


def check_from_torch(path, data):
    """There is no checksum, so other numbers are read; other names, shapes and dtypes are not."""
    path.write_bytes(data)
    result, message = attempt(from_torch, path)
    if result:
        assert result[0] == TORCH
        assert jax.tree.map(np.shape, result[1]) == jax.tree.map(np.shape, TORCH_PARAMS)
    else:
        assert str(path) in message or re.match(r"(?s).+: expected .+, got .+", message)
        assert len(message) < 600


@few
@given(changes=several)
def test_from_torch(tmp_path, changes):
    check_from_torch(tmp_path / "x", apply(TORCH_FILE, changes))


@pytest.mark.slow
@many
@given(changes=several)
def test_from_torch_at_length(tmp_path, changes):
    check_from_torch(tmp_path / "x", apply(TORCH_FILE, changes))


KERAS = Path(__file__).parent / "goldens" / "keras2"
KERAS_FILES = {
    "tagger.keras": ("bi", "top"),
    "tagger.h5": ("bi", "top"),
    "tagger.weights.h5": ("bidirectional", "lstm"),
}
with_infinities = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")


def check_from_keras(path, name, changes):
    """Other numbers are read, and other names that fit; sizes other than the file's are not."""
    path.write_bytes(apply((KERAS / name).read_bytes(), changes))
    options = {"layers": KERAS_FILES[name], "merge_mode": "sum"}
    result, message = attempt(lambda path: from_keras(path, **options), path, (ValueError, TypeError))
    if result:
        assert [layer.output_size for layer in result[0].layers] == [2, 4]
        assert check_network(*result) == 3
    else:
        assert str(path) in message or re.match(r"(?s).+: expected .+, got .+", message)
        assert len(message) < 600


@few
@given(name=st.sampled_from(sorted(KERAS_FILES)), changes=several)
@with_infinities
def test_from_keras(tmp_path, name, changes):
    check_from_keras(tmp_path / "x", name, changes)


@pytest.mark.slow
@many
@given(name=st.sampled_from(sorted(KERAS_FILES)), changes=several)
@with_infinities
def test_from_keras_at_length(tmp_path, name, changes):
    check_from_keras(tmp_path / "x", name, changes)


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=400)
READERS = {
    "torch": (from_torch, "weight_hh_l0"),
    "keras": (from_keras, "recurrent_kernel"),
    "flax": (from_flax, "hn/kernel"),
}
READERS |= {"haiku": (from_haiku, "w_h"), "equinox": (from_equinox, "weight_hh")}


@few
@example(which="haiku", found=["/"], chosen=None)
@example(which="flax", found=["a/" * 3000 + "b"], chosen=None)
@given(which=st.sampled_from(sorted(READERS)), found=st.lists(names, min_size=1, max_size=12), chosen=st.none() | names)
@example(which="torch", found=[f"{'a' * 1000}{k}" for k in range(9)], chosen="b" * 1000)
@example(which="keras", found=["a" * 1000], chosen=None)
def test_names_of_any_length_make_short_messages(which, found, chosen):
    read, tensor = READERS[which]
    separator = "." if which in ("torch", "equinox") else "/"
    weights = {f"{name}{separator}{tensor}": np.ones((4, 16), np.float32) for name in found} | {"other": "no array"}
    for options in ({}, {"prefix": chosen or ""}, {"layers": (chosen or found[0],)}):
        with pytest.raises((ValueError, TypeError), match=r"(?s).+: expected .+, got .+") as caught:
            read(weights, **options)
        assert len(str(caught.value)) < 600


values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([]), st.just({}),
    st.sampled_from(["GRUCell", "Stack", "jax.nn.relu", 10**400, float("nan"), [[1]], {"type": "Layer"}]),
)  # fmt: skip


def places(value, path=()):
    """Every place in a description."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


DESCRIPTION = json.loads(to_text(NETWORK, 3))
PLACES = list(places(DESCRIPTION))


def replaced(value, path, new):
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


@settings(few, max_examples=25)
@given(place=st.sampled_from(PLACES), new=values)
def test_descriptions(tmp_path, place, new):
    """With the right checksum, so that the description itself is what is looked at."""
    write(tmp_path / "x", PARAMS, {"description": json.dumps(replaced(DESCRIPTION, place, new))})
    result, message = attempt(load, tmp_path / "x")
    if result:  # another function or rate in the same place
        assert isinstance(result[0], jl.Network)
        assert jax.tree.structure(result[1]) == jax.tree.structure(PARAMS)
    else:
        assert str(tmp_path) in message


def onnx_files():
    held = tensors("LSTM", 2) | {"sequence_lens": LENGTHS}
    functions = ["HardSigmoid", "Tanh", "Tanh"] * 2
    yield model_of(
        "LSTM", held, direction="bidirectional", clip=1.0, activations=functions, activation_alpha=[0.5, 0.5]
    ).SerializeToString()
    for name in ("folded", "unfolded", "voice"):
        yield (GOLDENS / f"{name}.onnx").read_bytes()
    yield computed().SerializeToString()
    yield apart()[0].SerializeToString()


def apart():
    """A model whose weights are in another file, and the bytes of that file."""
    model, data = model_of("GRU", tensors("GRU", 1)), b""
    for tensor in model.graph.initializer:
        entries = {"location": "weights.bin", "offset": len(data), "length": len(tensor.raw_data)}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))
        data += tensor.raw_data
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.ClearField("raw_data")
    return model, data


def computed():
    """A GRU in a function, with weights that are dequantised, expanded, cut and scaled; a quantised LSTM beside it."""
    rng, opsets = np.random.default_rng(0), [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    held = {
        "q": rng.integers(-99, 99, (1, 12, 5), np.int8),
        "scale": np.float32(0.01),
        "zero": np.zeros((1, 1, 2), "f4"),
    }
    held |= {"shape": np.array([1, 6, 2]), "axis": np.array([1])}
    held |= {name: rng.integers(0, 99, (1, rows, 8), np.uint8) for name, rows in (("u", 5), ("v", 2))}
    held |= {"fine": np.full(1, 0.01, np.float32), "point": np.full(1, 50, np.uint8)}
    function = helper.make_function("own", "gru", ["x", "w", "r"], ["y", "h"], [
        helper.make_node("Shape", ["x"], ["sizes"], start=1, end=2),
        helper.make_node("Concat", ["axis", "sizes", "axis"], ["states"], axis=0),
        helper.make_node("Constant", [], ["axis"], value_ints=[1]),
        helper.make_node("ConstantOfShape", ["states"], ["zeros"]),
        helper.make_node("GRU", ["x", "w", "r", "", "", "zeros"], ["y", "h"], hidden_size=2),
    ], opsets)  # fmt: skip
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "scale"], ["all"]),
        helper.make_node("Split", ["all"], ["w", "other"], axis=1, num_outputs=2),
        helper.make_node("Expand", ["zero", "shape"], ["r"]),
        helper.make_node("ReduceSum", ["r", "axis"], ["sum"]),
        helper.make_node("Add", ["r", "sum"], ["same"]),
        helper.make_node("gru", ["x", "w", "same"], ["y", "h"], domain="own"),
        helper.make_node(
            "DynamicQuantizeLSTM", ["x", "u", "v", "", "", "", "", "", "fine", "point", "fine", "point"], ["z"],
            domain="com.microsoft", hidden_size=2,
        ),
    ]  # fmt: skip
    infos = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("x", "y")]
    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in held.items()]
    graph = helper.make_graph(nodes, "graph", infos[:1], infos[1:], initializers)
    return helper.make_model(graph, functions=[function], opset_imports=opsets)


ONNX_FILES = list(onnx_files())
which_file = st.sampled_from(range(len(ONNX_FILES)))


def check_from_onnx(path, data):
    path.write_bytes(data)
    (path.parent / "weights.bin").write_bytes(apart()[1])
    check_layers(*attempt(from_onnx, path), str(path))


def check_layers(layers, message, *beginnings):
    if layers is None:
        assert message.startswith(("model: ", *beginnings))
        assert len(message) <= 600
    else:
        for layer in layers.values():
            assert isinstance(layer, OnnxLayer)
            assert check_network(layer.network, layer.params) > 0


def test_the_models_themselves_are_read(tmp_path):
    (tmp_path / "weights.bin").write_bytes(apart()[1])
    for data, count in zip(ONNX_FILES, [1, 3, 3, 4, 2, 1], strict=True):
        (tmp_path / "model.onnx").write_bytes(data)
        assert len(from_onnx(tmp_path / "model.onnx")) == count


@few
@given(which=which_file, changes=several)
def test_from_onnx(tmp_path, which, changes):
    check_from_onnx(tmp_path / "x", apply(ONNX_FILES[which], changes))


@pytest.mark.slow
@many
@given(which=which_file, changes=several)
def test_from_onnx_at_length(tmp_path, which, changes):
    check_from_onnx(tmp_path / "x", apply(ONNX_FILES[which], changes))


def nodes_of(nodes):
    """These nodes and those of the graphs that they hold."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            yield from nodes_of(attribute.g.node)


def change_model(model, kind, one, other):
    """One field of a model changed, by two numbers in [0, 1)."""

    def pick(items, number):
        return items[int(number * len(items))]

    nodes = list(nodes_of([*model.graph.node, *(node for function in model.functions for node in function.node)]))
    constants = [a.t for node in nodes for a in node.attribute if a.HasField("t")]
    tensor, node = pick([*model.graph.initializer, *constants], one), pick(nodes, one)
    numbers = (0, -1, 1, 3, 8, 2**31, 2**40, 2**63 - 1)
    if kind == "dims" and tensor.dims:
        tensor.dims[-1] = pick(numbers, other)
    elif kind == "dtype":
        tensor.data_type = int(other * 24)
    elif kind == "number" and tensor.data_type == onnx.TensorProto.INT64:
        size = len(tensor.raw_data) // 8
        tensor.raw_data = np.array([pick(numbers, (other + k / 3) % 1) for k in range(size)], np.int64).tobytes()
    elif kind == "input" and node.input:
        names = [value.name for value in model.graph.initializer] + [value for n in nodes for value in n.output]
        node.input[int(other * len(node.input))] = pick(names, one)
    elif kind == "operator":
        node.op_type = pick(OPERATORS, other)
    elif kind == "attribute" and node.attribute:
        attribute = pick(node.attribute, other)
        attribute.i, attribute.f, attribute.type = pick(numbers, one), -1.0, int(one * 15)
    elif kind == "version":
        model.opset_import[0].version = pick((0, 1, 7, 9, 11, 13, 18, 21, 99), other)
    elif kind == "call":
        node.op_type, node.domain = "gru", "own"


OPERATORS = ["LSTM", "GRU", "RNN", "If", "DynamicQuantizeLSTM", *sorted(_COMPUTED)]
KINDS = ("dims", "dtype", "number", "input", "operator", "attribute", "version", "call")
model_changes = st.lists(st.tuples(st.sampled_from(KINDS), positions, positions), min_size=1, max_size=3)


def check_model(which, changes):
    model = onnx.load_from_string(ONNX_FILES[which])
    for change in changes:
        change_model(model, *change)
    check_layers(*attempt(from_onnx, model))


@few
@given(which=which_file, changes=model_changes)
def test_from_onnx_of_models_that_are_wrong_inside(which, changes):
    check_model(which, changes)


@pytest.mark.slow
@settings(many, max_examples=600)  # with memory traced, which takes its time
@given(which=which_file, changes=model_changes)
def test_from_onnx_of_models_that_are_wrong_inside_at_length(which, changes):
    tracemalloc.start()
    try:
        check_model(which, changes)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


FOREIGN = {
    "nothing": b"",
    "zeros": bytes(4096),
    "pickle": b"\x80\x04\x95" + b"c__builtin__\neval\n" * 50,
    "archive": b"PK\x03\x04" + bytes(range(256)) * 8,
    "text": b"h_t = o_t * tanh(c_t)\n" * 100,
    "a long header": (2**63 - 1).to_bytes(8, "little") + b"{}",
    "a header of 99 MB": (99_000_000).to_bytes(8, "little") + b"{" + b" " * 1000 + b"}",
    "a huge tensor": len(
        HUGE := b'{"b":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
    ).to_bytes(8, "little")
    + HUGE,
}


@pytest.mark.parametrize("read", [load, from_torch, from_keras, from_onnx])
@pytest.mark.parametrize("data", FOREIGN.values(), ids=FOREIGN)
def test_foreign_files(tmp_path, read, data):
    (tmp_path / "x").write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"x: |model: "):
            read(tmp_path / "x")
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
