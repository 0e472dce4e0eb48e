"""ONNX's recurrent operators, for reading and writing: inputs, outputs, gate order, default functions.

ONNX packs the gates of an LSTM as i, o, f, c and of a GRU as z, r, h, and stores weights ``[directions, G, in]``.
"""

from typing import Any, NamedTuple


class Operator(NamedTuple):
    """One operator: inputs by position, the position of each of our gates, default functions of one direction."""

    inputs: tuple[str, ...]
    gates: tuple[int, ...]
    functions: tuple[str, ...]
    attributes: tuple[str, ...] = ()  # that only this operator has
    outputs: tuple[str, ...] = ("Y", "Y_h")


_INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h")
_LSTM = Operator(
    (*_INPUTS, "initial_c", "P"),
    (0, 2, 3, 1),
    ("Sigmoid", "Tanh", "Tanh"),
    ("input_forget",),
    ("Y", "Y_h", "Y_c"),
)
QUANTIZED = "DynamicQuantizeLSTM"  # of com.microsoft: W and R are integers [directions, in, G], scales come last
OPERATORS = {
    "LSTM": _LSTM,
    "GRU": Operator(_INPUTS, (1, 0, 2), ("Sigmoid", "Tanh"), ("linear_before_reset",)),
    "RNN": Operator(_INPUTS, (0,), ("Tanh",)),
    QUANTIZED: _LSTM._replace(inputs=(*_LSTM.inputs, "W_scale", "W_zero_point", "R_scale", "R_zero_point")),
}


def is_recurrent(node: Any) -> bool:
    """Whether a node is one of these operators."""
    return node.op_type in OPERATORS and node.domain in (
        ("com.microsoft",) if node.op_type == QUANTIZED else ("", "ai.onnx")
    )


def library() -> Any:
    """The package onnx, imported when it is needed."""
    try:
        import onnx
        import onnx.numpy_helper
    except ImportError as error:
        raise ImportError("ONNX models need the package onnx: pip install 'jaxlstm[onnx]'") from error
    return onnx
