"""LSTMs and RNNs in JAX as pure functions.

import jaxlstm as jl

cell = jl.LSTMCell(hidden_size=128)
params = cell.init(key, input_size=64)
carry, ys = jl.unroll(cell, params, xs)     # xs [T, *batch, 64] -> ys [T, *batch, 128]
"""

import importlib as _importlib
from typing import Any as _Any

from jaxlstm._cell import Cell, RNNCarry
from jaxlstm._explain import explain
from jaxlstm._init import chrono, orthogonal, torch_uniform
from jaxlstm._layers import Bidirectional, BidirectionalCarry, Layer, last_output
from jaxlstm._network import Network
from jaxlstm._padding import pad
from jaxlstm._stack import Stack
from jaxlstm._truncated import truncated
from jaxlstm._unroll import unroll
from jaxlstm._wrapper import CellWrapper
from jaxlstm.cells import (
    ConvLSTMCell,
    ConvLSTMParams,
    Gates,
    GRUCell,
    GRUGates,
    GRUParams,
    IndRNNCell,
    IndRNNParams,
    LearnedCarry,
    LearnedCarryParams,
    LinearCell,
    LRUCarry,
    LRUCell,
    LRUParams,
    LSTMCarry,
    LSTMCell,
    LSTMNormParams,
    LSTMParams,
    LSTMVariantCell,
    LSTMVariantParams,
    MGUCell,
    MGUGates,
    MGUParams,
    MinGRUCell,
    MinGRUGates,
    MinGRUParams,
    MinLSTMCell,
    MinLSTMGates,
    MinLSTMParams,
    MLSTMCarry,
    MLSTMCell,
    MLSTMGates,
    MLSTMParams,
    RecurrentDropout,
    RNNCell,
    RNNParams,
    SLSTMCarry,
    SLSTMCell,
    SLSTMGates,
    SLSTMParams,
    Zoneout,
    lstm_gates,
    lstm_transition,
    min_activation,
)

__version__ = "0.2.0"

__all__ = [
    "Bidirectional",
    "BidirectionalCarry",
    "Cell",
    "CellWrapper",
    "ConvLSTMCell",
    "ConvLSTMParams",
    "GRUCell",
    "GRUGates",
    "GRUParams",
    "Gates",
    "IndRNNCell",
    "IndRNNParams",
    "LRUCarry",
    "LRUCell",
    "LRUParams",
    "LSTMCarry",
    "LSTMCell",
    "LSTMNormParams",
    "LSTMParams",
    "LSTMVariantCell",
    "LSTMVariantParams",
    "Layer",
    "LearnedCarry",
    "LearnedCarryParams",
    "LinearCell",
    "MGUCell",
    "MGUGates",
    "MGUParams",
    "MLSTMCarry",
    "MLSTMCell",
    "MLSTMGates",
    "MLSTMParams",
    "MinGRUCell",
    "MinGRUGates",
    "MinGRUParams",
    "MinLSTMCell",
    "MinLSTMGates",
    "MinLSTMParams",
    "Network",
    "RNNCarry",
    "RNNCell",
    "RNNParams",
    "RecurrentDropout",
    "SLSTMCarry",
    "SLSTMCell",
    "SLSTMGates",
    "SLSTMParams",
    "Stack",
    "Zoneout",
    "chrono",
    "explain",
    "last_output",
    "lstm_gates",
    "lstm_transition",
    "min_activation",
    "orthogonal",
    "pad",
    "torch_uniform",
    "truncated",
    "unroll",
]

_PACKAGES = ("inspect", "interop", "linen", "nnx", "tasks", "training")  # imported when first used


def __getattr__(name: str) -> _Any:
    if name in _PACKAGES:
        return _importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_PACKAGES]
