"""onnxruntime's C++ kernels as a second, independent oracle, in float32: values, final carries, ragged lengths.

ONNX packs the LSTM as i, o, f, c and the GRU as z, r, h, stores weights ``[directions, gates * H, in]`` and adds two
biases. Lengths here are at least 1: for a length of 0 onnxruntime gives a final carry of zeros, where ours holds it.
"""

import jax
import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import jaxlstm as jl

LSTM = (jl.LSTMCell, {}, "LSTM", [0, 3, 1, 2], {})  # cell, its options, operator, its gates' places in ours, attributes
GRU_AFTER = (jl.GRUCell, {}, "GRU", [1, 0, 2], {"linear_before_reset": 1})
GRU_BEFORE = (jl.GRUCell, {"reset_after": False}, "GRU", [1, 0, 2], {"linear_before_reset": 0})
RNN_TANH = (jl.RNNCell, {}, "RNN", [0], {})
RNN_RELU = (jl.RNNCell, {"activation_fn": jax.nn.relu}, "RNN", [0], {"activations": ["Relu"]})
ORACLES = {"lstm": LSTM, "gru-after": GRU_AFTER, "gru-before": GRU_BEFORE, "rnn-tanh": RNN_TANH, "rnn-relu": RNN_RELU}

sizes = st.fixed_dictionaries(
    {"steps": st.integers(1, 6), "batch": st.integers(1, 4), "inputs": st.integers(1, 5), "hidden": st.integers(1, 5)}
)


@pytest.mark.parametrize("oracle", ORACLES.values(), ids=ORACLES)
@settings(max_examples=8)
@given(sizes=sizes, ragged=st.booleans(), reverse=st.booleans(), seed=st.integers(0, 2**32 - 1))
def test_one_direction(oracle, sizes, ragged, reverse, seed):
    make_cell, options, *operator = oracle
    rng = np.random.default_rng(seed)
    cell = make_cell(sizes["hidden"], **options)
    params, carry = random_like(rng, cell, sizes)
    xs, lengths = random_inputs(rng, sizes, ragged)
    got = jl.unroll(cell, params, xs, carry, lengths=lengths, reverse=reverse)
    carries, ys = run_onnx(operator, [params], xs, [carry], lengths, "reverse" if reverse else "forward")
    assert_close(got, (carries[0], ys[:, 0]))


@pytest.mark.parametrize(
    "oracle", [LSTM, GRU_AFTER, GRU_BEFORE, RNN_TANH], ids=["lstm", "gru-after", "gru-before", "rnn"]
)
@settings(max_examples=4)
@given(sizes=sizes, ragged=st.booleans(), seed=st.integers(0, 2**32 - 1))
def test_bidirectional(oracle, sizes, ragged, seed):
    make_cell, options, *operator = oracle
    rng = np.random.default_rng(seed)
    cell = make_cell(sizes["hidden"], **options)
    (forward, forward_carry), (backward, backward_carry) = (random_like(rng, cell, sizes) for _ in "01")
    xs, lengths = random_inputs(rng, sizes, ragged)
    params, carry = (forward, backward), jl.BidirectionalCarry(forward_carry, backward_carry)
    got = jl.Bidirectional(cell).apply(params, xs, carry, lengths=lengths)
    carries, ys = run_onnx(operator, params, xs, carry, lengths, "bidirectional")
    assert_close(got, (jl.BidirectionalCarry(*carries), np.concatenate([ys[:, 0], ys[:, 1]], axis=-1)))


def random_like(rng, cell, sizes):
    """Float32 params, no bias of which is zero, and an initial carry; halved, so that rounding errors do not grow."""
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), sizes["inputs"]))
    carry = jax.eval_shape(lambda p: cell.init_carry(p, (sizes["batch"],)), params)
    return jax.tree.map(lambda a: rng.normal(scale=0.5, size=a.shape).astype(np.float32), (params, carry))


def random_inputs(rng, sizes, ragged):
    """Inputs ``[T, B, I]``, and lengths from 1 to T or None."""
    steps, batch = sizes["steps"], sizes["batch"]
    xs = rng.normal(size=(steps, batch, sizes["inputs"])).astype(np.float32)
    return xs, rng.integers(1, steps, batch, np.int32, endpoint=True) if ragged else None


def run_onnx(operator, params, xs, carry, lengths, direction):
    """A model of one node: the final carry of each direction, and ys ``[T, directions, B, H]``."""
    name, order, attributes = operator
    if "activations" in attributes:
        attributes = {**attributes, "activations": attributes["activations"] * len(params)}
    w, r, b = (np.stack(leaves) for leaves in zip(*(to_onnx(p, order) for p in params), strict=True))
    feeds = {"X": xs, "W": w, "R": r, "B": b}
    if lengths is not None:
        feeds["sequence_lens"] = lengths
    fields = carry[0]._fields
    feeds |= {f"initial_{field}": np.stack([getattr(c, field) for c in carry]) for field in fields}
    outputs = ["Y", *(f"Y_{field}" for field in fields)]

    places = ["X", "W", "R", "B", "sequence_lens", *(f"initial_{field}" for field in fields)]
    places = [place if place in feeds else "" for place in places]
    hidden_size = r.shape[-1]
    node = helper.make_node(name, places, outputs, hidden_size=hidden_size, direction=direction, **attributes)
    types = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32}
    graph = helper.make_graph(
        [node],
        name,
        [helper.make_tensor_value_info(k, types[a.dtype.name], a.shape) for k, a in feeds.items()],
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, None) for k in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    threads = onnxruntime.SessionOptions()
    threads.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), threads, providers=["CPUExecutionProvider"])
    ys, *finals = session.run(None, feeds)
    return [type(c)(*(final[d] for final in finals)) for d, c in enumerate(carry)], ys


def to_onnx(params, order):
    """W, R and B of one direction. Our one bias is cut in two unequal parts, unless b_hn claims the second place."""

    def gates(a):
        blocks = np.split(a, len(order), axis=-1)
        return np.concatenate([blocks[place] for place in order], axis=-1)

    b = gates(params.b)
    b_w, b_r = 0.75 * b, b - 0.75 * b
    b_hn = getattr(params, "b_hn", None)
    if b_hn is not None:
        b_w, b_r = b, np.concatenate([np.zeros(2 * b_hn.size, b.dtype), b_hn])
    return gates(params.w_ih).T, gates(params.w_hh).T, np.concatenate([b_w, b_r])


def assert_close(got, want):
    """Within 1e-6: two to three times the worst seen over many draws, which is the rounding of two float32 programs."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), got, want)
