"""The cells, a file each, with the same definitions in the same order: params, carry, cell, equations."""

from jax import export as _export

from jaxlstm._cell import RNNCarry
from jaxlstm.cells._gru import GRUCell, GRUGates, GRUParams
from jaxlstm.cells._learned import LearnedCarry, LearnedCarryParams
from jaxlstm.cells._lstm import Gates, LSTMCarry, LSTMCell, LSTMParams, lstm_gates, lstm_transition
from jaxlstm.cells._lstm_variants import LSTMNormParams, LSTMVariantCell, LSTMVariantParams
from jaxlstm.cells._mgu import MGUCell, MGUGates, MGUParams
from jaxlstm.cells._regularize import RecurrentDropout, Zoneout
from jaxlstm.cells._rnn import RNNCell, RNNParams

__all__ = [
    "GRUCell",
    "GRUGates",
    "GRUParams",
    "Gates",
    "LSTMCarry",
    "LSTMCell",
    "LSTMNormParams",
    "LSTMParams",
    "LSTMVariantCell",
    "LSTMVariantParams",
    "LearnedCarry",
    "LearnedCarryParams",
    "MGUCell",
    "MGUGates",
    "MGUParams",
    "RNNCell",
    "RNNParams",
    "RecurrentDropout",
    "Zoneout",
    "lstm_gates",
    "lstm_transition",
]

# So that a user's exported function may take and return them; whoever loads it imports jaxlstm first.
for _kind in (
    *(GRUGates, GRUParams, Gates, LSTMCarry, LSTMNormParams, LSTMParams, LSTMVariantParams, LearnedCarryParams),
    *(MGUGates, MGUParams, RNNCarry, RNNParams),
):
    _export.register_namedtuple_serialization(_kind, serialized_name=f"jaxlstm.{_kind.__name__}")
