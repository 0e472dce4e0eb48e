"""ONNX models read: the same function as onnxruntime's for every option, torch's own models, and what is refused."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from onnx import helper, numpy_helper
from onnx_models import LENGTHS, H, model_of, run, session_of, tensors, xs_of

import jaxlstm as jl
from jaxlstm.interop import OnnxFunction, from_onnx

GOLDENS = Path(__file__).parent / "onnx_goldens"
LSTM_FUNCTIONS = ["HardSigmoid", "Tanh", "Tanh", "Sigmoid", "LeakyRelu", "LeakyRelu"]
VARIANTS = {"clip": 0.6, "input_forget": 1}

CASES = {  # operator, attributes, what the node lacks, the cell it becomes (forward)
    "lstm": ("LSTM", {}, {"P"}, jl.LSTMCell(H)),
    "lstm-reverse-peepholes": ("LSTM", {"direction": "reverse"}, set(), jl.LSTMVariantCell(H, peephole=True)),
    "lstm-variants": (
        "LSTM",
        {"direction": "bidirectional", **VARIANTS},
        set(),
        jl.LSTMVariantCell(H, peephole=True, coupled=True, clip=float(np.float32(0.6))),
    ),
    "lstm-no-peepholes": ("LSTM", {"input_forget": 1}, {"P", "B"}, jl.LSTMVariantCell(H, coupled=True, bias=False)),
    "lstm-functions": (
        "LSTM",
        {
            "direction": "bidirectional",
            "activations": LSTM_FUNCTIONS,
            "activation_alpha": [0.25, 0.1, 0.1],
            "activation_beta": [0.375],
        },
        {"P"},
        jl.LSTMCell(H, gate_fn=OnnxFunction("HardSigmoid", alpha=0.25, beta=0.375)),
    ),
    "gru-before": ("GRU", {"direction": "bidirectional"}, set(), jl.GRUCell(H, reset_after=False)),
    "gru-after": ("GRU", {"direction": "reverse", "linear_before_reset": 1}, set(), jl.GRUCell(H)),
    "gru-no-bias": ("GRU", {"linear_before_reset": 1}, {"B"}, jl.GRUCell(H, bias=False)),
    "gru-clip": (
        "GRU",
        {"clip": 0.5},
        set(),
        jl.GRUCell(
            H,
            reset_after=False,
            gate_fn=OnnxFunction("Sigmoid", clip=0.5),
            activation_fn=OnnxFunction("Tanh", clip=0.5),
        ),
    ),
    "rnn": (
        "RNN",
        {"direction": "bidirectional", "activations": ["Relu", "Softsign"], "hidden_size": H},
        set(),
        jl.RNNCell(H, activation_fn=jax.nn.relu),
    ),
}


@pytest.mark.parametrize(("op_type", "attributes", "lacks", "cell"), CASES.values(), ids=CASES)
def test_a_node_is_the_same_function_as_onnxruntime_s(op_type, attributes, lacks, cell):
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    held = {name: array for name, array in tensors(op_type, directions).items() if name not in lacks}
    held["sequence_lens"] = LENGTHS
    model = model_of(op_type, held, **{"hidden_size": H, **attributes})
    want = run(session_of(model), {"X": xs_of()})

    layer = from_onnx(model)["node"]
    assert layer.network.cell == cell
    assert not layer.batch_first
    assert layer.inputs == {"X": "X"}
    carry, ys = layer.network.apply(layer.params, xs_of(), layer.carry, lengths=layer.lengths)
    assert jax.tree.structure(carry) == jax.tree.structure(layer.carry)
    assert_allclose(ys, np.concatenate(np.moveaxis(want["Y"], 1, 0), axis=-1), rtol=1e-6, atol=1e-6)
    for direction, one in enumerate(carry if directions == 2 else (carry,)):
        for state, value in one._asdict().items():
            assert_allclose(value, want[f"Y_{state}"][direction], rtol=1e-6, atol=1e-6)


FUNCTIONS = {
    "Affine": (0.75, 0.25),
    "Elu": (0.5,),
    "HardSigmoid": (0.125, 0.25),
    "LeakyRelu": (0.25,),
    "Relu": (),
    "ScaledTanh": (0.75, 0.5),
    "Sigmoid": (),
    "Softplus": (),
    "Softsign": (),
    "Tanh": (),
    "ThresholdedRelu": (0.5,),
}


@pytest.mark.parametrize(
    ("name", "numbers"), [*FUNCTIONS.items(), *((name, ()) for name in ("Elu", "HardSigmoid", "LeakyRelu"))]
)
def test_functions(name, numbers):
    """One step of an RNN whose W is the identity gives the function itself."""
    attributes = {f"activation_{number}": [value] for number, value in zip(("alpha", "beta"), numbers, strict=False)}
    z = np.array([[[-3.0, -0.3, 0.2], [0.4, 0.8, 3.0]]], np.float32)
    held = {"W": np.eye(3, dtype=np.float32)[None], "R": np.zeros((1, 3, 3), np.float32)}
    model = model_of("RNN", held, hidden_size=3, activations=[name], **attributes)
    layer = from_onnx(model)["node"]
    got = layer.network.cell.activation_fn(jnp.asarray(z[0]))
    assert_allclose(got, run(session_of(model), {"X": z})["Y"][0, 0], rtol=1e-6)


@pytest.mark.parametrize("name", ["Affine", "ScaledTanh", "ThresholdedRelu"])
def test_functions_whose_defaults_differ_between_kernels_need_numbers(name):
    model = model_of("RNN", tensors("RNN", 1), activations=[name])
    with pytest.raises(ValueError, match=rf"activation_alpha: expected a number for {name}"):
        from_onnx(model)


def test_layout_1_has_the_batch_ahead_in_the_states():
    held = tensors("GRU", 2)
    want = from_onnx(model_of("GRU", held, direction="bidirectional"))["node"]
    other = held | {"initial_h": held["initial_h"].swapaxes(0, 1)}
    got = from_onnx(model_of("GRU", other, direction="bidirectional", layout=1))["node"]
    assert got.batch_first
    assert got.network == want.network
    jax.tree.map(assert_array_equal, (got.params, got.carry), (want.params, want.carry))


def test_what_the_model_is_fed_is_named_and_not_invented():
    held = {name: array for name, array in tensors("LSTM", 1).items() if name in "WRB"}
    fed = ("sequence_lens", "initial_h", "initial_c")
    layer = from_onnx(model_of("LSTM", held, fed))["node"]
    assert layer.inputs == {name: name for name in ("X", *fed)}
    assert layer.carry is None
    assert layer.lengths is None


@pytest.mark.parametrize("name", ["folded", "unfolded"])
def test_torch_s_models_compute_what_torch_computes(name):
    layers = from_onnx(str(GOLDENS / f"{name}.onnx"))
    assert list(layers) == ["/lstm/LSTM", "/lstm/LSTM_1", "/gru/GRU"]
    assert [set(layer.inputs) for layer in layers.values()] == [{"X"}] * 3  # the initial states are zeros
    network = jl.Stack(*(layer.network for layer in layers.values()))
    assert network == jl.Stack(*[jl.Bidirectional(jl.LSTMCell(2))] * 2, jl.GRUCell(2))
    with np.load(GOLDENS / "torch.npz") as golden:
        carry, ys = network.apply(tuple(layer.params for layer in layers.values()), golden["xs"])
        assert_allclose(ys, golden["ys"], rtol=1e-6, atol=1e-6)
        assert_allclose(carry[-1].h, golden["h"], rtol=1e-6, atol=1e-6)


def test_nodes_without_a_name_of_their_own_have_that_of_their_output():
    model = model_of("RNN", tensors("RNN", 1), name="")
    assert list(from_onnx(model)) == ["Y"]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_weights_may_be_constant_nodes_and_of_16_bits(dtype):
    pytest.importorskip("onnx", minversion="1.18" if dtype == np.float16 else "1.19")
    held = {name: array.astype(dtype) for name, array in tensors("RNN", 1).items() if name in "WRB"}
    w = numpy_helper.from_array(held.pop("W"), "value")
    model = model_of("RNN", held, nodes=[helper.make_node("Constant", [], ["W"], value=w)])
    params = from_onnx(model)["node"].params
    assert params.w_ih.dtype == params.b.dtype == dtype
    assert_array_equal(params.w_ih, numpy_helper.to_array(w)[0].T)


def test_weights_of_8_bits_are_refused():
    pytest.importorskip("onnx", minversion="1.19")
    held = {name: array.astype(ml_dtypes.float8_e4m3fn) for name, array in tensors("RNN", 1).items()}
    with pytest.raises(ValueError, match=r"W: expected floating-point numbers of 16 or 32 bits .* got float8"):
        from_onnx(model_of("RNN", held))


def edited(op_type="LSTM", edit=None, fed=(), **attributes):
    """A model with one thing wrong in it."""
    held = tensors(op_type, 1)
    if edit:
        held = edit(held)
    return model_of(op_type, held, fed, **attributes)


def without(name):
    return lambda held: {key: array for key, array in held.items() if key != name}


MISTAKES = {
    "no such node": (lambda: helper.make_model(helper.make_graph([], "g", [], [])), "model: expected LSTM, GRU or RNN"),
    "another recurrent operator": (
        lambda: helper.make_model(helper.make_graph([helper.make_node("AttnLSTM", ["x"], ["y"])], "g", [], [])),
        "none among 1 nodes, nested .* included, only AttnLSTM 'y', which cannot be read",
    ),
    "weights at run time": (
        lambda: edited(edit=without("W"), fed=("W",)),
        "model: LSTM 'node': W: expected a constant of the model, got 'W', which comes from the run-time input 'W'",
    ),
    "no weights": (
        lambda: edited(edit=without("R")),
        "model: LSTM 'node': R: expected a constant of the model, got none",
    ),
    "rank": (lambda: edited(edit=lambda h: h | {"R": h["R"][0]}), "W and R: expected arrays .* shapes"),
    "gates": (
        lambda: edited("GRU", edit=lambda h: h | {"W": tensors("LSTM", 1)["W"]}),
        r"W: expected float32\[1, 6, 5\]",
    ),
    "directions": (lambda: edited(direction="bidirectional"), r"expected float32\[2, 8, "),
    "bias": (
        lambda: edited(edit=lambda h: h | {"B": h["B"][:, :4]}),
        r"B: expected float32\[1, 16\], got float32\[1, 4\]",
    ),
    "dtype": (
        lambda: edited(edit=lambda h: h | {"P": h["P"].astype(np.float64)}),
        r"P: expected float32.* got float64",
    ),
    "integers": (
        lambda: edited(edit=lambda h: h | {"W": h["W"].astype(np.int32)}),
        "W: expected floating-point numbers",
    ),
    "hidden_size": (lambda: edited(hidden_size=3), "hidden_size: expected 2, as in R, got 3"),
    "direction": (
        lambda: edited(direction="up"),
        "direction: expected one of forward, reverse, bidirectional, got 'up'",
    ),
    "layout": (lambda: edited(layout=2), "layout: expected one of 0, 1, got 2"),
    "unknown attribute": (lambda: edited("RNN", input_forget=1), "attributes: expected some of .*, got 'input_forget'"),
    "attribute's kind": (lambda: edited(clip=1), "clip: expected an attribute of kind FLOAT, got INT"),
    "clip": (lambda: edited(clip=-1.0), "clip: expected a positive number, got -1"),
    "g and h": (
        lambda: edited(activations=["Sigmoid", "Tanh", "Relu"]),
        "activations: expected one function for g and h, as our cells have, got Tanh and Relu",
    ),
    "too few functions": (lambda: edited(activations=["Sigmoid"]), "activations: expected 3 functions"),
    "no function": (lambda: edited("RNN", activations=["Cube"]), "activations: expected functions of ONNX.*'Cube'"),
    "too many numbers": (
        lambda: edited("RNN", activations=["Elu"], activation_alpha=[1.0, 2.0]),
        "activation_alpha: expected one number for each function that takes one, got 1 more",
    ),
    "initial_h": (
        lambda: edited(edit=lambda h: h | {"initial_h": h["initial_h"][0]}),
        r"initial_h: expected float32\[1, 3, 2\], of any batch size, got float32\[3, 2\]",
    ),
    "one state at run time": (
        lambda: edited(edit=without("initial_c"), fed=("initial_c",)),
        "initial_h and initial_c: expected both constants or neither",
    ),
    "two batch sizes": (
        lambda: edited(edit=lambda h: h | {"sequence_lens": LENGTHS[:2]}),
        "sequence_lens, initial_h and initial_c: expected one batch size",
    ),
    "negative lengths": (
        lambda: edited(edit=lambda h: h | {"sequence_lens": -LENGTHS}),
        "sequence_lens: expected int32",
    ),
    "a tensor beside the model": (
        lambda: external(edited()),
        "model: W: expected a tensor in the model",
    ),
    "a tensor of other dims": (lambda: resized(edited()), "model: W: damaged"),
}


def external(model):
    tensor = next(t for t in model.graph.initializer if t.name == "W")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    return model


def resized(model):
    next(t for t in model.graph.initializer if t.name == "W").dims[0] = 2**40
    return model


@pytest.mark.parametrize(("make", "message"), MISTAKES.values(), ids=MISTAKES)
def test_what_cannot_be_read_is_an_error_that_names_it(make, message):
    with pytest.raises(ValueError, match=message):
        from_onnx(make())


def test_float64_weights_need_x64(without_x64):
    held = {name: array.astype(np.float64) for name, array in tensors("RNN", 1).items()}
    with pytest.raises(ValueError, match="of 64 with jax_enable_x64"):
        from_onnx(model_of("RNN", held))


def test_files(tmp_path):
    path = tmp_path / "model.onnx"
    with pytest.raises(FileNotFoundError):
        from_onnx(path)
    path.write_bytes(b"\x89PNG\r\n" + bytes(100))
    with pytest.raises(ValueError, match=r"model\.onnx: damaged, or not an ONNX model"):
        from_onnx(path)
    onnx.save(model_of("RNN", tensors("RNN", 1)), path)
    assert from_onnx(path)["node"].network == jl.Layer(jl.RNNCell(H))
    with pytest.raises(TypeError, match=r"model_or_path: expected an onnx.ModelProto or a path"):
        from_onnx(path.read_bytes())


def test_without_the_package_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxlstm\[onnx\]'"):
        from_onnx("model.onnx")


FUNCTION_MISTAKES = {
    "name": (lambda: OnnxFunction("Cube"), "name: expected one of Affine"),
    "no alpha": (lambda: OnnxFunction("Elu"), "alpha: expected a number"),
    "an alpha too many": (lambda: OnnxFunction("Tanh", alpha=1.0), "alpha: expected None, since Tanh has none"),
    "clip": (lambda: OnnxFunction("Tanh", clip=0.0), "clip: expected a positive number"),
}


@pytest.mark.parametrize(("make", "message"), FUNCTION_MISTAKES.values(), ids=FUNCTION_MISTAKES)
def test_functions_that_are_none(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()
