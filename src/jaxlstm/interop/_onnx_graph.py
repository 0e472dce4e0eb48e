"""Builds an ONNX graph."""

from typing import Any

import numpy as np
from jax.typing import DTypeLike

_OPSET, _IR_VERSION = 14, 8  # the oldest that have everything used here


class Graph:
    """Nodes, constants, inputs and outputs. Each method adds one and returns the name of its value."""

    def __init__(self, onnx: Any, dtype: np.dtype, lengths: bool, carry: bool) -> None:
        self.dtype, self.lengths, self.carry = dtype, lengths, carry
        self._onnx, self._nodes, self._constants, self._inputs, self._outputs = onnx, [], [], [], []
        self._count = 0

    def input(self, name: str, dtype: DTypeLike, shape: tuple[int | str, ...]) -> str:
        """An input of the model; axes that are names are dynamic."""
        self._inputs.append(self._value_info(name, dtype, shape))
        return name

    def output(self, name: str, value: str, shape: tuple[int | str, ...]) -> None:
        """An output of the model, under this name."""
        self._nodes.append(self._onnx.helper.make_node("Identity", [value], [name]))
        self._outputs.append(self._value_info(name, self.dtype, shape))

    def constant(self, name: str, array: np.ndarray) -> str:
        """A tensor that the model holds."""
        self._constants.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def nodes(self, op_type: str, inputs: list[str], outputs: int, **attributes: Any) -> list[str]:
        """A node with several outputs."""
        names = [self._fresh(op_type) for _ in range(outputs)]
        self._nodes.append(self._onnx.helper.make_node(op_type, inputs, names, **attributes))
        return names

    def node(self, op_type: str, inputs: list[str], **attributes: Any) -> str:
        """A node with one output."""
        return self.nodes(op_type, inputs, 1, **attributes)[0]

    def unstack(self, value: str, axis: int, count: int) -> list[str]:
        """Split an array along an axis of size `count`, and drop the axis."""
        parts = [value] if count == 1 else self.nodes("Split", [value], count, axis=axis)
        axes = self.constant(self._fresh("axes"), np.array([axis]))
        return [self.node("Squeeze", [part, axes]) for part in parts]

    def stack(self, values: list[str]) -> str:
        """Join arrays along a new leading axis."""
        axes = self.constant(self._fresh("axes"), np.array([0]))
        parts = [self.node("Unsqueeze", [value, axes]) for value in values]
        return parts[0] if len(parts) == 1 else self.node("Concat", parts, axis=0)

    def model(self) -> Any:
        """The finished model."""
        helper = self._onnx.helper
        graph = helper.make_graph(self._nodes, "jaxlstm", self._inputs, self._outputs, self._constants)
        opset = helper.make_opsetid("", _OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION, producer_name="jaxlstm")

    def _value_info(self, name: str, dtype: DTypeLike, shape: tuple[int | str, ...]) -> Any:
        helper = self._onnx.helper
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)

    def _fresh(self, name: str) -> str:
        self._count += 1
        return f"{name}_{self._count}"
