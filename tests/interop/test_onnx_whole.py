"""Whole ONNX models as they are found: with our networks in place of their nodes they compute what onnxruntime does."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnx.reference
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from onnx import helper, numpy_helper
from onnx.reference.op_run import OpRun
from onnx_models import H, model_of, run, session_of, tensors, xs_of
from onnxruntime import quantization

import jaxlstm as jl
from jaxlstm.interop import from_onnx

GOLDENS = Path(__file__).parent / "onnx_goldens"
RNG = np.random.default_rng(0)
AUDIO = RNG.normal(size=(2, 32)).astype(np.float32)
STATE = RNG.normal(size=(2, 2, 2)).astype(np.float32)
WORDS = RNG.integers(0, 7, (4, 9))

MODELS = {  # the nodes that are read, and some inputs
    "tagger": (["node_lstm__2"], [{"words": WORDS}, {"words": WORDS[:1, :2]}]),
    "crnn": (["/lstm/LSTM", "/gru/GRU"], [{"image": RNG.normal(size=(2, 1, 8, 12)).astype(np.float32)}]),
    "translator": (["/encoder/LSTM", "/decoder/LSTM"], [{"source": WORDS, "target": WORDS[:3]}]),
    "voice": (
        [
            f"/If/{rate}_branch/{name}/If/{size}_branch/{name}/LSTM{number}"
            for rate, name in (("then", "high"), ("else", "low"))
            for size, number in (("then", ""), ("else", "_1"))
        ],
        [
            {"audio": AUDIO[:batch], "state": STATE[:, :batch], "rate": np.array(rate)}
            for batch in (1, 2)
            for rate in (8000, 16000)
        ],
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_whole_model_computes_what_onnxruntime_computes(name):
    names, feeds = MODELS[name]
    model = onnx.load(GOLDENS / f"{name}.onnx")
    layers = from_onnx(model)
    assert list(layers) == names
    used = set()
    ours, session = evaluator(model, layers, used), session_of(model)
    for feed in feeds:
        for got, want in zip(ours.run(None, feed), run(session, feed).values(), strict=True):
            assert_allclose(got, want, rtol=2e-6, atol=2e-6)
    assert len(used) == len(layers)


def evaluator(model, layers, used):
    """ONNX's evaluator with our networks in place of the model's recurrent nodes."""
    by_outputs = {tuple(layer.outputs.values()): layer for layer in layers.values()}

    def compute(self, xs, *others, **_):
        layer = by_outputs[tuple(filter(None, self.onnx_node.output))]
        used.add(id(layer))
        given = dict(zip(("W", "R", "B", "sequence_lens", "initial_h", "initial_c"), others, strict=False))
        states = [jnp.asarray(given[place][0]) for place in layer.inputs if place != "X"]
        carry, ys = layer.network.apply(layer.params, jnp.asarray(xs), jl.LSTMCarry(*states) if states else layer.carry)
        each = list(carry) if isinstance(layer.network, jl.Bidirectional) else [carry]
        ys = jnp.stack(jnp.split(ys, len(each), axis=-1), axis=1)
        return tuple(np.asarray(one) for one in (ys, *map(jnp.stack, zip(*each, strict=True))))[: len(self.output)]

    operators = [type(name, (OpRun,), {"op_domain": "", "_run": compute}) for name in ("LSTM", "GRU", "RNN")]
    return onnx.reference.ReferenceEvaluator(model, new_ops=operators)


def constant(name, array):
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(array)))


def body(name="RNN", h="h"):
    """The nodes of one RNN that reads x and gives y; all its weights are of its own graph."""
    held = {place: array for place, array in tensors("RNN", 1).items() if place in "WRB"}
    node = helper.make_node("RNN", ["x", "W", "R", "B", "", h], ["y", "y_h"], name=name, hidden_size=H)
    return [*(constant(*item) for item in held.items()), node]


def graph_of(nodes, inputs=("x",), outputs=("y",), **others):
    infos = [[info(name) for name in names] for names in (inputs, outputs)]
    return helper.make_graph(nodes, "graph", *infos, **others)


def info(name, kind=onnx.TensorProto.FLOAT, shape=None):
    return helper.make_tensor_value_info(name, kind, shape)


def in_a_loop():
    """A chunk of xs in each iteration, the state carried."""
    step = graph_of(
        [
            helper.make_node("Gather", ["chunks", "i"], ["x"], axis=0),
            *body(),
            helper.make_node("Identity", ["go"], ["goes"]),
        ],
        outputs=(),
    )
    step.input.extend([info("i", onnx.TensorProto.INT64, []), info("go", onnx.TensorProto.BOOL, []), info("h")])
    del step.input[0]
    step.output.extend([info("goes", onnx.TensorProto.BOOL, []), info("y_h"), info("y")])
    loop = helper.make_node("Loop", ["two", "", "h_0"], ["h_n", "ys"], name="chunkwise", body=step)
    return graph_of([constant("two", np.array(2)), loop], ("chunks", "h_0"), ("ys", "h_n"))


def in_a_scan():
    step = graph_of(body(), ("h", "x"), ("y_h", "y"))
    scan = helper.make_node("Scan", ["h_0", "chunks"], ["h_n", "ys"], name="chunkwise", body=step, num_scan_inputs=1)
    return graph_of([scan], ("chunks", "h_0"), ("ys", "h_n"))


@pytest.mark.parametrize("make", [in_a_loop, in_a_scan])
def test_nodes_in_loops_and_scans(make):
    model = model_of_graph(make())
    chunks = np.stack([xs_of(), xs_of(2)])
    h_0 = tensors("RNN", 1)["initial_h"]
    want = run(session_of(model), {"chunks": chunks, "h_0": h_0})
    layers = from_onnx(model)
    assert list(layers) == ["chunkwise/body/RNN"]
    layer = layers["chunkwise/body/RNN"]
    assert layer.inputs == {"X": "x", "initial_h": "h"}
    assert layer.outputs == {"Y": "y", "Y_h": "y_h"}
    carry, ys = layer.network.apply(layer.params, chunks.reshape(-1, *chunks.shape[2:]), jl.RNNCarry(h_0[0]))
    assert_allclose(ys, want["ys"].reshape(ys.shape), rtol=1e-6, atol=1e-6)
    assert_allclose(carry.h, want["h_n"][0], rtol=1e-6, atol=1e-6)


def model_of_graph(graph, functions=(), opset=17, ir_version=8):
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, 1) for name in ("own", "com.microsoft"))]
    return helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=ir_version)


def test_nodes_in_functions_are_those_of_each_call():
    """A function of a function, called twice with weights of its own; one number is an attribute of the call."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    scale = onnx.NodeProto(op_type="Constant", output=["scale"])
    scale.attribute.add(name="value_float", ref_attr_name="scale", type=onnx.AttributeProto.FLOAT)
    double = helper.make_function("own", "scaled", ["w"], ["v"], [
        scale, helper.make_node("Mul", ["w", "scale"], ["v"]),
    ], opsets, ["scale"])  # fmt: skip
    inner = helper.make_function("own", "rnn", ["x", "w", "r"], ["y"], [
        helper.make_node("scaled", ["w"], ["v"], domain="own", scale=2.0),
        helper.make_node("RNN", ["x", "v", "r"], ["y"], name="RNN", hidden_size=H),
    ], opsets)  # fmt: skip
    outer = helper.make_function("own", "deep", ["x", "w", "r"], ["y"], [
        helper.make_node("rnn", ["x", "w", "r"], ["y"], domain="own", name="inner"),
    ], opsets)  # fmt: skip
    held = {f"{place}{seed}": tensors("RNN", 1, seed)[place] for place in "WR" for seed in (0, 1)}
    calls = [helper.make_node("deep", ["x", f"W{n}", f"R{n}"], [f"y{n}"], domain="own", name="") for n in (0, 1)]
    initializers = [numpy_helper.from_array(array, name) for name, array in held.items()]
    graph = graph_of(calls, outputs=("y0", "y1"), initializer=initializers)
    model = model_of_graph(graph, [double, inner, outer])

    want = run(session_of(model), {"x": xs_of()})
    layers = from_onnx(model)
    assert list(layers) == ["y0/inner/RNN", "y1/inner/RNN"]
    for layer, ys in zip(layers.values(), want.values(), strict=True):
        assert_allclose(layer.network.apply(layer.params, xs_of())[1], ys[:, 0], rtol=1e-6, atol=1e-6)


def dynamic(*nodes):
    """Zeros made at run time, in as many sequences as X has."""
    return [
        helper.make_node("Shape", ["X"], ["shape"]),
        constant("one", [1]),
        constant("size", [H]),
        helper.make_node("Gather", ["shape", "one"], ["batch"]),
        helper.make_node("Concat", ["one", "batch", "size"], ["states"], axis=0),
        *nodes,
    ]


def fill(number, output="initial_h"):
    value = numpy_helper.from_array(np.array([number], np.float32))
    return helper.make_node("ConstantOfShape", ["states"], [output], value=value)


ZEROS = {
    "ConstantOfShape": dynamic(fill(0)),
    "the default": dynamic(helper.make_node("ConstantOfShape", ["states"], ["initial_h"])),
    "Expand": dynamic(constant("zero", np.float32(0)), helper.make_node("Expand", ["zero", "states"], ["initial_h"])),
    "several": dynamic(
        fill(0, "zeros"),
        helper.make_node("Concat", ["zeros", "zeros"], ["both"], axis=0),
        helper.make_node("Cast", ["both"], ["cast"], to=onnx.TensorProto.FLOAT),
        constant("zero", [0]),
        helper.make_node("Slice", ["cast", "zero", "one", "zero"], ["initial_h"]),
    ),
    "times zero": dynamic(
        fill(1, "ones"), constant("zero", np.float32(0)), helper.make_node("Mul", ["ones", "zero"], ["initial_h"])
    ),
    "constants": [constant("initial_h", np.zeros((1, 3, H), np.float32))],
}


@pytest.mark.parametrize("nodes", ZEROS.values(), ids=ZEROS)
def test_initial_states_of_zeros_are_found_to_be_zeros(nodes):
    held = {place: array for place, array in tensors("RNN", 1).items() if place in "WRB"}
    model = model_of("RNN", held, nodes=nodes, hidden_size=H)
    layer = from_onnx(model)["node"]
    assert layer.inputs == {"X": "X"}
    assert layer.carry is None
    ys = run(session_of(model), {"X": xs_of()})["Y"]
    assert_allclose(layer.network.apply(layer.params, xs_of())[1], ys[:, 0], rtol=1e-6, atol=1e-6)


def test_initial_states_of_ones_are_not():
    held = {place: array for place, array in tensors("RNN", 1).items() if place in "WRB"}
    assert from_onnx(model_of("RNN", held, nodes=dynamic(fill(1))))["node"].inputs["initial_h"] == "initial_h"


def test_one_state_of_zeros_beside_one_that_is_fed():
    held = {place: array for place, array in tensors("LSTM", 1).items() if place in "WRB"}
    layer = from_onnx(model_of("LSTM", held, ("initial_c",), nodes=dynamic(fill(0))))["node"]
    assert layer.inputs == {"X": "X", "initial_c": "initial_c"}
    assert layer.outputs == {"Y": "Y", "Y_h": "Y_h", "Y_c": "Y_c"}


@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize("directions", [1, 2])
def test_dynamically_quantised_nodes(directions, per_column, tmp_path):
    held = {place: array for place, array in tensors("LSTM", directions).items() if place in "WRB"}
    direction = "bidirectional" if directions == 2 else "forward"
    plain = model_of("LSTM", held, hidden_size=H, direction=direction)
    onnx.save(plain, tmp_path / "plain.onnx")
    quantization.quantize_dynamic(tmp_path / "plain.onnx", tmp_path / "quantised.onnx", per_channel=per_column)
    model = onnx.load(tmp_path / "quantised.onnx")
    assert "DynamicQuantizeLSTM" in [node.op_type for node in model.graph.node]
    (layer,), (want,) = from_onnx(model).values(), from_onnx(plain).values()
    assert layer.network == want.network
    assert layer.inputs == {"X": "X"}
    for got, leaf in zip(jax.tree.leaves(layer.params), jax.tree.leaves(want.params), strict=True):
        assert_allclose(got, leaf, atol=0.02)  # half a step of 256
    ys = run(session_of(model), {"X": xs_of()})["Y"]
    ours = layer.network.apply(layer.params, xs_of())[1]
    assert_allclose(ours, np.concatenate(np.moveaxis(ys, 1, 0), axis=-1), atol=0.05)  # there X is rounded too


def test_dynamically_quantised_weights_are_those_of_the_equation():
    rng = np.random.default_rng(0)
    held = {name: rng.integers(0, 255, (1, rows, 4 * H), np.uint8) for name, rows in (("W", 5), ("R", H))}
    held |= {f"{name}_scale": rng.uniform(0.01, 0.1, (1, 4 * H)).astype(np.float32) for name in "WR"}
    held |= {f"{name}_zero_point": rng.integers(100, 150, (1, 4 * H), np.uint8) for name in "WR"}
    places = ["X", "W", "R", *[""] * 5, "W_scale", "W_zero_point", "R_scale", "R_zero_point"]
    node = helper.make_node("DynamicQuantizeLSTM", places, ["Y"], domain="com.microsoft", hidden_size=H)
    initializers = [numpy_helper.from_array(array, name) for name, array in held.items()]
    params = from_onnx(model_of_graph(graph_of([node], ("X",), ("Y",), initializer=initializers)))["Y"].params
    gates = [0, 2, 3, 1]  # theirs are i o f c
    for got, place in ((params.w_ih, "W"), (params.w_hh, "R")):
        w = held[f"{place}_scale"][0] * (held[place][0].astype(np.float32) - held[f"{place}_zero_point"][0])
        assert_allclose(got, np.concatenate([w[:, g * H : (g + 1) * H] for g in gates], axis=1), rtol=1e-6)


def test_quantised_weights_without_scales_or_of_other_shapes_are_named():
    def read(**held):
        places = ["X", "W", "R", *[""] * 5, "W_scale", "W_zero_point", "R_scale", "R_zero_point"]
        places = [place if place in held or place == "X" else "" for place in places]
        node = helper.make_node("DynamicQuantizeLSTM", places, ["Y"], domain="com.microsoft", hidden_size=H)
        initializers = [numpy_helper.from_array(array, name) for name, array in held.items()]
        return from_onnx(model_of_graph(graph_of([node], ("X",), ("Y",), initializer=initializers)))

    w, scale, zero = np.ones((1, 5, 4 * H), np.int8), np.ones(1, np.float32), np.zeros(1, np.int8)
    with pytest.raises(ValueError, match="'Y': W_zero_point: expected a constant of the model, got none"):
        read(W=w, W_scale=scale)
    with pytest.raises(ValueError, match=r"'Y': W: expected int8 or uint8 .*, got int8\[1, 5, 8\], float32\[2\]"):
        read(W=w, W_scale=np.ones(2, np.float32), W_zero_point=zero)
    with pytest.raises(ValueError, match="DynamicQuantizeLSTM 'Y': W: expected int8 or uint8"):
        read(W=w.astype(np.float32), W_scale=scale, W_zero_point=zero)


def saved_apart(path, **changes):
    """A model with its tensors in a file beside it; their entries changed."""
    model = model_of("RNN", tensors("RNN", 1))
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data} | changes
        del tensor.external_data[:]
        for key, value in entries.items():
            if value is not None:
                tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())


def test_weights_beside_the_model(tmp_path):
    saved_apart(tmp_path / "model.onnx")
    want = from_onnx(model_of("RNN", tensors("RNN", 1)))["node"]
    got = from_onnx(tmp_path / "model.onnx")["node"]
    jax.tree.map(assert_array_equal, (got.params, got.carry), (want.params, want.carry))
    saved_apart(tmp_path / "model.onnx", length=None)  # which may be left out
    jax.tree.map(assert_array_equal, from_onnx(tmp_path / "model.onnx")["node"].params, want.params)
    with pytest.raises(ValueError, match=r"W: expected a tensor in the model .*, got one in another file"):
        from_onnx(onnx.load(tmp_path / "model.onnx", load_external_data=False))


ESCAPES = {
    "above": ({"location": "../secret.bin"}, r"a file in the model's folder .*, got '\.\./secret\.bin'"),
    "absolute": ({"location": "/etc/hostname"}, "a file in the model's folder .*, got '/etc/hostname'"),
    "a link": ({"location": "link.bin"}, r"a file in the model's folder .*, got 'link\.bin'"),
    "no file": ({"location": "none.bin"}, "a file in the model's folder"),
    "a folder": ({"location": "."}, "a file in the model's folder"),
    "nothing": ({"location": "\0"}, "a file in the model's folder"),
    "too long a name": ({"location": "x" * 5000}, "a file in the model's folder"),
    "beyond the end": ({"offset": str(2**40)}, r"bytes from 1099511627776 on in 'weights\.bin', got \d+ in all"),
    "negative": ({"offset": "-8"}, "bytes from -8 on"),
    "too long": ({"length": "1e9"}, "damaged"),
    "too short": ({"length": "4"}, "damaged"),
}


@pytest.mark.parametrize(("changes", "message"), ESCAPES.values(), ids=ESCAPES)
def test_weights_lie_in_the_folder_of_the_model_or_are_refused(tmp_path, changes, message):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(4096))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    saved_apart(folder / "model.onnx", **changes)
    with pytest.raises(ValueError, match=message) as caught:
        from_onnx(folder / "model.onnx")
    assert len(str(caught.value)) <= 600
