"""The scopes of an ONNX model: its graph, the graphs inside nodes such as If, and each call of a function.

A nested graph sees the names of the graphs around it. A function sees only the arguments of its call.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxlstm import _checks

_DEEPEST = 32  # levels of nested graphs and calls
_MOST_NODES = 2**16  # in all calls of functions together


@dataclass
class Model:
    """What the scopes of a model share: its functions, the folder of its external data, and what is left of limits."""

    functions: dict[tuple[str, str, str], Any]
    folder: Path | None
    nodes_left: int = _MOST_NODES
    elements_left: int = 2**18  # that may still be computed; each tensor that the model holds adds to it


@dataclass(eq=False)
class Scope:
    """The names of one graph or of one call of a function, and what is known about them."""

    model: Model
    nodes: list[Any]
    opsets: dict[str, int]
    tensors: dict[str, Any] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)  # names that are no constants, and what they are
    outer: "Scope | None" = None
    arguments: dict[str, "Place"] = field(default_factory=dict)  # of a function's call, by the function's names
    attributes: dict[str, Any] = field(default_factory=dict)  # of a function's call
    depth: int = 0

    def __post_init__(self) -> None:
        if self.model.nodes_left < 0 or self.depth > _DEEPEST:
            expected = f"at most {_DEEPEST} levels and {_MOST_NODES} nodes in calls of functions"
            _checks.reject("model", expected, "more")
        self.makers = {name: node for node in self.nodes for name in node.output if name}
        self.values: dict[str, np.ndarray] = {}
        self.causes: dict[str, str | None] = {}
        self.zeros: dict[str, bool] = {}
        self.calls: dict[str, Place | None] = {}

    def find(self, name: str) -> "Place":
        """The scope that a name belongs to, and its name there."""
        if name in self.tensors or name in self.makers or name in self.unread:
            return Place(self, name)
        if name in self.arguments:
            return self.arguments[name]
        return self.outer.find(name) if self.outer else Place(self, name)

    def inside(self, graph: Any) -> "Scope":
        """The scope of a graph inside one of these nodes."""
        return _graph_scope(graph, self.model, self.opsets, self, self.attributes, self.depth + 1)

    def call(self, node: Any) -> "tuple[Scope, Any] | None":
        """The scope of the function that a node calls, and the function; None if it is not a call."""
        function = self.model.functions.get((node.domain, node.op_type, node.overload))
        if function is None:
            return None
        arguments = {own: self.find(name) for own, name in zip(function.input, node.input, strict=False) if name}
        attributes = {each.name: each for each in (*function.attribute_proto, *self.resolve(node).attribute)}
        self.model.nodes_left -= len(function.node)
        scope = Scope(
            self.model, list(function.node), {**self.opsets, **_opsets(function)}, _constants(function.node),
            arguments=arguments, attributes=attributes, depth=self.depth + 1,
        )  # fmt: skip
        return scope, function

    def resolve(self, node: Any) -> Any:
        """The node, with references to attributes of its function replaced by those of the call."""
        if not any(attribute.ref_attr_name for attribute in node.attribute):
            return node
        resolved = type(node)()
        resolved.CopyFrom(node)
        del resolved.attribute[:]
        for attribute in node.attribute:
            source = self.attributes.get(attribute.ref_attr_name) if attribute.ref_attr_name else attribute
            if source is not None:
                resolved.attribute.add().CopyFrom(source)
                resolved.attribute[-1].name = attribute.name
        return resolved


class Place(NamedTuple):
    """A name and the scope that it belongs to."""

    scope: Scope
    name: str


def model_scope(model: Any, folder: Path | None) -> Scope:
    """The scope of a model's own graph."""
    functions = {(function.domain, function.name, function.overload): function for function in model.functions}
    return _graph_scope(model.graph, Model(functions, folder), _opsets(model), None, {}, 0)


def walk(scope: Scope, path: str = "") -> Iterator[tuple[str, Scope, Any]]:
    """Every node with its scope and its name, after the names of the nodes around it: ``If_0/then_branch/LSTM``."""
    counts = Counter(node.name for node in scope.nodes)
    for node in scope.nodes:
        own = node.name if node.name and counts[node.name] == 1 else next(filter(None, node.output), node.op_type)
        here = f"{path}/{text(own).lstrip('/')}" if path else text(own)
        yield here, scope, node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from walk(scope.inside(attribute.g), f"{here}/{text(attribute.name)}")
        if called := scope.call(node):
            yield from walk(called[0], here)


def text(name: str | bytes) -> str:
    """A name as a string; protobuf returns bytes if it is damaged."""
    return name if isinstance(name, str) else name.decode(errors="replace")


def _graph_scope(
    graph: Any, model: Model, opsets: dict[str, int], outer: Scope | None, attributes: dict[str, Any], depth: int
) -> Scope:
    tensors = {tensor.name: tensor for tensor in graph.initializer} | _constants(graph.node)
    unread = {value.name: f"the run-time input {value.name!r}" for value in graph.input}
    unread |= {sparse.values.name: f"the sparse tensor {sparse.values.name!r}" for sparse in graph.sparse_initializer}
    return Scope(model, list(graph.node), opsets, tensors, unread, outer, attributes=attributes, depth=depth)


def _constants(nodes: Any) -> dict[str, Any]:
    """The tensors of Constant nodes."""
    constants = (node for node in nodes if node.op_type == "Constant" and node.output)
    return {node.output[0]: each.t for node in constants for each in node.attribute if each.HasField("t")}


def _opsets(owner: Any) -> dict[str, int]:
    """Versions by domain. ONNX's own domain has two names."""
    return {"" if opset.domain == "ai.onnx" else opset.domain: opset.version for opset in owner.opset_import}
