"""ONNX models of one recurrent node, and onnxruntime to run them."""

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
PLACES = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
INPUTS, H, STEPS, BATCH = 5, 2, 4, 3
LENGTHS = np.array([4, 1, 2], np.int32)


def tensors(op_type, directions, seed=0, scale=0.7):
    """All that a node can hold, with no bias zero."""
    rng, gates = np.random.default_rng(seed), GATES[op_type] * H
    shapes = {"W": (gates, INPUTS), "R": (gates, H), "B": (2 * gates,), "initial_h": (BATCH, H)}
    if op_type == "LSTM":
        shapes |= {"initial_c": (BATCH, H), "P": (3 * H,)}
    drawn = {name: rng.normal(scale=scale, size=(directions, *shape)) for name, shape in shapes.items()}
    return {name: array.astype(np.float32) for name, array in drawn.items()}


def xs_of(seed=1):
    """Inputs some of which saturate the gates."""
    return np.random.default_rng(seed).normal(scale=2, size=(STEPS, BATCH, INPUTS)).astype(np.float32)


def model_of(op_type, held, fed=(), name="node", nodes=(), **attributes):
    """A model with this node: constants, and the names of what it is fed beside X."""
    states = ["h", "c"] if op_type == "LSTM" else ["h"]
    outputs = ["Y", *(f"Y_{state}" for state in states)]
    given = {"X", *held, *fed, *(output for other in nodes for output in other.output)}
    places = [place if place in given else "" for place in PLACES]
    node = helper.make_node(op_type, places if op_type == "LSTM" else places[:6], outputs, name=name, **attributes)
    inputs = [helper.make_tensor_value_info(place, type_of(place), None) for place in ("X", *fed)]
    graph = helper.make_graph(
        [*nodes, node],
        "graph",
        inputs,
        [helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None) for output in outputs],
        [numpy_helper.from_array(array, place) for place, array in held.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


def type_of(place):
    return onnx.TensorProto.INT32 if place == "sequence_lens" else onnx.TensorProto.FLOAT


def session_of(model):
    """onnxruntime with this model, in one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(session, feeds):
    """The outputs by name."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))
