"""Weights that an ONNX model computes from constants: by which nodes, in which opsets, and how much of it."""

import itertools
import time
import tracemalloc

import jax
import numpy as np
import onnx
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from onnx import helper, numpy_helper
from onnx_models import INPUTS, H, model_of, run, session_of, tensors, xs_of

from jaxlstm.interop import from_onnx

NEWEST = onnx.defs.onnx_opset_version()
RUN = 21  # the newest opset that the oldest onnxruntime of the tests runs
SHAPE = (1, 4 * H, INPUTS)
RNG = np.random.default_rng(0)
W = RNG.normal(scale=0.5, size=SHAPE).astype(np.float32)
Q = RNG.integers(-128, 128, SHAPE, np.int8)
SCALE, ZERO = np.float32(0.01), np.int8(3)
COLUMNS = RNG.uniform(0.01, 0.1, 4 * H).astype(np.float32)
ints = np.array


def op(op_type, inputs, output="W", **attributes):
    return helper.make_node(op_type, inputs.split(), output.split(), **attributes)


WAYS = {  # W, the tensors it is made of, and the nodes
    "DequantizeLinear": (
        SCALE * (Q - np.float32(ZERO)),
        {"q": Q, "scale": SCALE, "zero": ZERO},
        [op("DequantizeLinear", "q scale zero")],
    ),
    "DequantizeLinear of rows": (
        COLUMNS[:, None] * Q.astype(np.float32),
        {"q": Q, "scale": COLUMNS},
        [op("DequantizeLinear", "q scale", axis=1)],
    ),
    "QDQ": (
        SCALE * np.clip(np.round(W / SCALE), -128, 127),
        {"w": W, "scale": SCALE, "zero": np.int8(0)},
        [op("QuantizeLinear", "w scale zero", "q"), op("DequantizeLinear", "q scale zero")],
    ),
    "DequantizeLinear of com.microsoft": (
        SCALE * Q.astype(np.float32),
        {"q": Q.astype(np.int16), "scale": SCALE, "zero": np.int16(0)},
        [op("DequantizeLinear", "q scale zero", domain="com.microsoft")],
    ),
    "Split": (W, {"all": np.concatenate([W, W + 1]), "sizes": ints([1, 1])}, [op("Split", "all sizes", "W V", axis=0)]),
    "Gather": (W[:, ::-1], {"w": W, "order": np.arange(4 * H)[::-1].copy()}, [op("Gather", "w order", axis=1)]),
    "Expand": (
        np.broadcast_to(W[:, :1], SHAPE),
        {"row": W[:, :1], "shape": ints(SHAPE)},
        [op("Expand", "row shape")],
    ),
    "Mul": (W * SCALE, {"w": W, "scale": SCALE}, [op("Mul", "w scale")]),
    "Cast": (
        W.astype(np.float16).astype(np.float32),
        {"half": W.astype(np.float16)},
        [op("Cast", "half", to=onnx.TensorProto.FLOAT)],
    ),
    "bytes": (
        (Q.astype(np.float32) - 3) * SCALE,
        {"q": Q, "zero": np.float32(3), "scale": SCALE},
        [
            op("Cast", "q", "float", to=onnx.TensorProto.FLOAT),
            op("Sub", "float zero", "moved"),
            op("Mul", "moved scale"),
        ],
    ),
    "low rank": (
        W + np.matmul(W[0, :, :2], W[0, :2]),
        {"w": W, "a": W[0, :, :2], "b": W[0, :2]},
        [op("MatMul", "a b", "ab"), op("Add", "w ab")],
    ),
    "weight norm": (
        W / np.linalg.norm(W, axis=2, keepdims=True) * COLUMNS[:, None],
        {"v": W, "g": COLUMNS[:, None], "axis": ints([2])},
        [op("ReduceL2", "v axis", "norm"), op("Div", "v norm", "unit"), op("Mul", "unit g")],
    ),
    "reshaped by its own shape": (
        W,
        {"flat": W.ravel(), "like": W},
        [op("Shape", "like", "shape"), op("Reshape", "flat shape")],
    ),
}  # fmt: skip


def made(held, nodes, opset=18, ir_version=8):
    others = {name: array for name, array in tensors("LSTM", 1).items() if name in "RB"}
    model = model_of("LSTM", others | held, nodes=nodes, hidden_size=H)
    del model.opset_import[:]
    model.opset_import.extend([helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)])
    model.ir_version = ir_version
    return model


@pytest.mark.parametrize(("w", "held", "nodes"), WAYS.values(), ids=WAYS)
def test_weights_that_nodes_make_of_constants(w, held, nodes):
    model = made(held, nodes)
    layer = from_onnx(model)["node"]
    gates = np.split(np.asarray(w, np.float32)[0], 4)
    assert_allclose(layer.params.w_ih, np.concatenate([gates[g] for g in (0, 2, 3, 1)]).T, rtol=1e-6)
    ys = layer.network.apply(layer.params, xs_of())[1]
    assert_allclose(ys, run(session_of(model), {"X": xs_of()})["Y"][:, 0], rtol=2e-6, atol=2e-6)


def rearranged(opset):
    """Nodes that give W again, as this opset writes them."""
    slices = [op("Slice", "w zero three", "low"), op("Slice", "w three end", "high")]
    if opset < 13:
        older = [op("Slice", "w", "low", starts=[0], ends=[3]), op("Slice", "w", "high", starts=[3], ends=[99])]
        return {"w": W[0]}, [
            *(slices if opset >= 10 else older),
            op("Concat", "low high", "joined", axis=0),
            op("Split", "joined", "one two", axis=1, split=[2, INPUTS - 2]),
            op("Concat", "one two", "again", axis=1),
            op("Unsqueeze", "again", "deep", axes=[0, 3]),
            op("Squeeze", "deep", axes=[3]),
        ]  # fmt: skip
    return {"w": W[0]}, [
        *slices,
        op("Concat", "low high", "joined", axis=0),
        op("Split", "joined sizes", "one two", axis=1),
        op("Concat", "one two", "again", axis=1),
        op("Unsqueeze", "again outer", "deep"),
        op("Squeeze", "deep last"),
    ]


INDICES = {"zero": [0], "three": [3], "end": [99], "sizes": [2, INPUTS - 2], "outer": [0, 3], "last": [3]}


@pytest.mark.parametrize("opset", range(7, NEWEST + 1))
def test_every_opset(opset):
    held, nodes = rearranged(opset)
    used = {name for node in nodes for name in node.input}
    model = made(held | {name: ints(each) for name, each in INDICES.items() if name in used}, nodes, opset)
    layer, want = (from_onnx(each)["node"] for each in (model, made({"W": W}, [])))
    assert layer.network == want.network
    jax.tree.map(assert_array_equal, layer.params, want.params)
    if opset <= RUN:
        ys = run(session_of(model), {"X": xs_of()})["Y"][:, 0]
        assert_allclose(layer.network.apply(layer.params, xs_of())[1], ys, rtol=2e-6, atol=2e-6)


def chain(count):
    names = ["w", *(f"same_{index}" for index in range(count)), "W"]
    return [op("Identity", a, b) for a, b in itertools.pairwise(names)]


def outside():
    tensor = onnx.TensorProto(dims=[1], data_type=onnx.TensorProto.UINT8, data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="pyproject.toml")
    return tensor


SPARSE = helper.make_sparse_tensor(
    numpy_helper.from_array(np.ones(1, np.float32), "W"), numpy_helper.from_array(ints([0])), [8]
)
FED = onnx.helper.make_tensor_value_info("fed", onnx.TensorProto.FLOAT, None)
UNREAD = {  # what comes from the run, from operators that are not evaluated, or from nowhere
    "an operator of another domain": (
        [op("MatMulNBits", "w", domain="com.microsoft", name="packed")],
        "got 'W', which comes from MatMulNBits 'packed', an operator that from_onnx does not evaluate",
    ),
    "an operator without a bound": ([op("Einsum", "w", equation="abc->abc")], "comes from Einsum 'W', an operator"),
    "random numbers": ([op("RandomNormal", "", shape=list(SHAPE))], "comes from RandomNormal 'W', an operator"),
    "a branch": ([op("If", "w")], "comes from If 'W', an operator"),
    "an input, far away": ([op("Mul", "w fed", "m"), op("Add", "m w")], "which comes from the run-time input 'fed'"),
    "nothing": ([op("Mul", "w none")], "comes from 'none', which nothing in the model makes"),
    "itself": ([op("Mul", "w W")], "comes from a chain of more than 64 nodes"),
    "far away": (chain(80), "comes from a chain of more than 64 nodes"),
    "a damaged node": ([op("Reshape", "w w")], "model: Reshape 'W': cannot be computed"),
    "strings": ([op("Cast", "w", to=onnx.TensorProto.STRING)], "model: Cast 'W': expected an array of numbers"),
    "a file where the program runs": (
        [op("Concat", "w", axis=0, odd=outside())],
        r"model: Concat 'W': cannot be computed \('odd' is a graph or a tensor in another file\)",
    ),
    "a graph": ([op("Identity", "w", odd=helper.make_graph([], "g", [], []))], "'odd' is a graph or a tensor in"),
    "a sparse constant": ([helper.make_node("Constant", [], ["W"], sparse_value=SPARSE)], "model: Constant 'W': "),
    "a string": ([op("Constant", "", value_string="x")], "model: Constant 'W': expected an array of numbers"),
}  # fmt: skip


@pytest.mark.parametrize(("nodes", "message"), UNREAD.values(), ids=UNREAD)
def test_what_is_not_computed_is_named(nodes, message):
    model = made({"w": W}, nodes)
    model.graph.input.append(FED)
    with pytest.raises(ValueError, match=message):
        from_onnx(model)


def test_sparse_tensors_are_named():
    model = made({}, [])
    model.graph.sparse_initializer.append(SPARSE)
    next(node for node in model.graph.node if node.op_type == "LSTM").input[1] = "W"
    with pytest.raises(ValueError, match="got 'W', which comes from the sparse tensor 'W'"):
        from_onnx(model)


def doubling(count):
    names = ["w", *(f"joined_{index}" for index in range(count)), "W"]
    return [op("Concat", f"{a} {a}", b, axis=0) for a, b in itertools.pairwise(names)]


HUGE = {
    "w": W,
    "huge": ints([2**20, 2**13]),
    "long": ints([2**40]),
    "one": ints(1),
    "zero": ints(0),
    "ends": ints([0] * 3 + [2**30] * 3),
}
BOMBS = {
    "doubled": doubling(40),
    "ConstantOfShape": [op("ConstantOfShape", "huge")],
    "Expand": [op("Expand", "zero huge")],
    "Tile": [op("Tile", "huge long", "W")],
    "Pad": [op("Pad", "w ends")],
    "Range": [op("Squeeze", "long", "far"), op("Range", "zero far one")],
    "OneHot": [op("OneHot", "huge long huge")],
    "Mul": [op("Reshape", "many tall", "a"), op("Reshape", "many wide", "b"), op("Mul", "a b")],
    "a constant of zeros": [helper.make_node("Constant", [], ["W"], sparse_value=helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(1, np.float32), "v"), numpy_helper.from_array(ints([0])), [2**40]))],
    "functions of functions": pytest.param([op("f0", "w", domain="own")], marks=pytest.mark.slow),
    "a function of itself": [op("endless", "w", domain="own")],
}  # fmt: skip


@pytest.mark.parametrize("nodes", BOMBS.values(), ids=BOMBS)
def test_what_would_be_large_is_refused_before_it_is_computed(nodes, without_type_hook):
    many = {"many": np.ones(2**14, np.float32), "tall": ints([2**14, 1]), "wide": ints([1, 2**14])}
    model = made(HUGE | many, nodes)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    model.opset_import.append(opsets[1])
    callers = {f"f{n}": f"f{n + 1}" for n in range(25)} | {"endless": "endless"}
    for name, other in callers.items():
        twice = [helper.make_node(other, ["x"], [y], domain="own") for y in ("a", "b")]
        model.functions.append(helper.make_function("own", name, ["x"], ["a"], twice, opsets))
    tracemalloc.start()
    start = time.monotonic()
    try:
        with pytest.raises(
            ValueError, match=r"16 for each that the model holds|expected at most 32 levels and 65536 nodes"
        ) as caught:
            from_onnx(model)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
    assert time.monotonic() - start < 60
    assert len(str(caught.value)) <= 600


def test_names_of_any_length_leave_a_message_short():
    held = {name: array for name, array in tensors("RNN", 1).items() if name != "W"}
    with pytest.raises(ValueError, match=r"model: RNN 'nnn.* \.\.\. ") as caught:
        from_onnx(model_of("RNN", held, ("W",), name="n" * 10_000))
    assert len(str(caught.value)) <= 600
