"""A network as JSON, from which it is rebuilt without running code.

    {"version": 1, "input_size": 3, "network": {"type": "GRUCell", "hidden_size": 4, "gate_fn": {"function": ...}, ...}}

Every option is written, defaults too. Only what the tables below name can be written or read.
"""

import dataclasses
import json
import numbers
from collections.abc import Callable, Hashable
from typing import Any

import jax

from jaxlstm import _checks, _init
from jaxlstm._cell import Cell
from jaxlstm._layers import Bidirectional, Layer
from jaxlstm._network import Network
from jaxlstm._stack import Stack
from jaxlstm.cells import (
    ConvLSTMCell,
    GRUCell,
    IndRNNCell,
    LearnedCarry,
    LRUCell,
    LSTMCell,
    LSTMVariantCell,
    MGUCell,
    MinGRUCell,
    MinLSTMCell,
    MLSTMCell,
    RecurrentDropout,
    RNNCell,
    SLSTMCell,
    Zoneout,
    min_activation,
)
from jaxlstm.interop._activations import SAVED, OnnxFunction

VERSION = 1
_LONGEST, _DEEPEST = 2**20, 64  # characters (thousands of layers) and levels of nesting
_LARGEST = 2**31 - 1  # size that a cell can have: JAX's errors for larger ones are obscure

_CLASSES: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        *(Stack, Bidirectional, Layer),
        *(LSTMCell, LSTMVariantCell, GRUCell, MGUCell, RNNCell, LearnedCarry, RecurrentDropout, Zoneout),
        *(ConvLSTMCell, IndRNNCell, LRUCell, MinGRUCell, MinLSTMCell, MLSTMCell, SLSTMCell),
        *(OnnxFunction, _init.Chrono),
    )
}
_FUNCTIONS: dict[str, Callable[..., Any]] = (
    SAVED
    | {f"jax.nn.initializers.{name}": getattr(jax.nn.initializers, name) for name in ("ones", "zeros")}
    | {
        f"jaxlstm.{name}": getattr(_init, name)
        for name in ("glorot", "orthogonal", "torch_uniform", "unit_uniform", "zeros")
    }
    | {"jaxlstm.min_activation": min_activation}
)
_NAMES: dict[Any, str] = {function: name for name, function in _FUNCTIONS.items()}


def to_text(network: Cell | Network, input_size: int) -> str:
    """The description of a network.

    Raises:
      ValueError, TypeError: if an option has no name here; the message names the option.
    """
    return json.dumps({"version": VERSION, "input_size": input_size, "network": _describe("network", network)})


def from_text(text: str) -> tuple[Cell | Network, int]:
    """The network of a description, and its input size.

    Raises:
      ValueError: if the text is no description, or of another version, or its options make no sense.
    """
    if len(text) > _LONGEST:
        _checks.reject("description", f"at most {_LONGEST} characters", len(text))
    try:
        description = json.loads(text)
        version = description["version"] if isinstance(description, dict) and "version" in description else None
        if version != VERSION:
            _checks.reject("format version", f"{VERSION}, the only one that this version of jaxlstm reads", version)
        _check_keys("description", description, {"version", "input_size", "network"})
        network = _rebuild("network", description["network"])
        input_size = _rebuild("input_size", description["input_size"])
        _checks.check_size("input_size", input_size)
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    if not isinstance(network, (Cell, Network)):
        _checks.reject("network", "a network or a cell", _checks.describe(network))
    return network, input_size


def _describe(where: str, value: Any) -> Any:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, tuple):
        return [_describe(f"{where}[{index}]", item) for index, item in enumerate(value)]
    if _CLASSES.get(type(value).__name__) is type(value):
        options = {f.name: _describe(f"{where}.{f.name}", getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, **options}
    if isinstance(value, Hashable) and value in _NAMES:
        return {"function": _NAMES[value]}
    names = "a name in jaxlstm, jax.nn or jax.numpy, so that a file can say it"
    expected = f"a function or class with {names} (save_params and export take any)"
    return _checks.reject(where, expected, getattr(value, "__qualname__", None) or _checks.describe(value))


def _rebuild(where: str, value: Any) -> Any:
    if where.count(".") + where.count("[") > _DEEPEST:
        _checks.reject("network", f"at most {_DEEPEST} levels", "more")
    if isinstance(value, list):
        return tuple(_rebuild(f"{where}[{index}]", item) for index, item in enumerate(value))
    if not isinstance(value, dict):
        if isinstance(value, int) and abs(value) > _LARGEST:
            _checks.reject(where, f"an integer up to {_LARGEST}", "more")
        return value
    if set(value) == {"function"}:
        return _look_up(where, _FUNCTIONS, value["function"])
    kind = _look_up(where, _CLASSES, value.get("type"))
    names = [field.name for field in dataclasses.fields(kind)]
    _check_keys(where, value, {"type", *names})
    options = {name: _rebuild(f"{where}.{name}", value[name]) for name in names}
    if kind is Stack and not isinstance(options["layers"], tuple):
        _checks.reject(f"{where}.layers", "a list of layers", _checks.describe(options["layers"]))
    return kind(**options)


def _look_up(where: str, table: dict[str, Any], name: Any) -> Any:
    if not isinstance(name, str) or name not in table:
        _checks.reject(where, f"one of {', '.join(table)}", _checks.describe(name))
    return table[name]


def _check_keys(where: str, value: dict[str, Any], keys: set[str]) -> None:
    if set(value) != keys:
        _checks.reject(where, f"the keys {', '.join(sorted(keys))}", ", ".join(sorted(value)))
