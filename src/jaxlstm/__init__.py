"""LSTMs and RNNs in JAX as pure functions.

import jaxlstm as jl

cell = jl.LSTMCell(hidden_size=128)
params = cell.init(key, input_size=64)
carry, ys = jl.unroll(cell, params, xs)     # xs [T, *batch, 64] -> ys [T, *batch, 128]
"""

from jaxlstm._init import chrono, orthogonal, torch_uniform
from jaxlstm._layers import Bidirectional, Layer, Stack
from jaxlstm._network import Network
from jaxlstm._truncated import truncated
from jaxlstm._types import Cell, RNNCarry
from jaxlstm._unroll import unroll
from jaxlstm.cells import (
    Gates,
    GRUCell,
    GRUParams,
    LSTMCarry,
    LSTMCell,
    LSTMNormParams,
    LSTMParams,
    LSTMVariantCell,
    LSTMVariantParams,
    RecurrentDropout,
    RNNCell,
    RNNParams,
    Zoneout,
    lstm_gates,
    lstm_transition,
)

__version__ = "0.1.0"

__all__ = [
    "Bidirectional",
    "Cell",
    "GRUCell",
    "GRUParams",
    "Gates",
    "LSTMCarry",
    "LSTMCell",
    "LSTMNormParams",
    "LSTMParams",
    "LSTMVariantCell",
    "LSTMVariantParams",
    "Layer",
    "Network",
    "RNNCarry",
    "RNNCell",
    "RNNParams",
    "RecurrentDropout",
    "Stack",
    "Zoneout",
    "chrono",
    "lstm_gates",
    "lstm_transition",
    "orthogonal",
    "torch_uniform",
    "truncated",
    "unroll",
]
