"""The cells, a file each, with the same definitions in the same order: params, carry, cell, equations."""

from jax import export as _export

from jaxlstm._cell import RNNCarry
from jaxlstm.cells._conv_lstm import ConvLSTMCell, ConvLSTMParams
from jaxlstm.cells._gru import GRUCell, GRUGates, GRUParams
from jaxlstm.cells._ind_rnn import IndRNNCell, IndRNNParams
from jaxlstm.cells._learned import LearnedCarry, LearnedCarryParams
from jaxlstm.cells._linear import LinearCell
from jaxlstm.cells._lru import LRUCarry, LRUCell, LRUParams
from jaxlstm.cells._lstm import Gates, LSTMCarry, LSTMCell, LSTMParams, lstm_gates, lstm_transition
from jaxlstm.cells._lstm_variants import LSTMNormParams, LSTMVariantCell, LSTMVariantParams
from jaxlstm.cells._mgu import MGUCell, MGUGates, MGUParams
from jaxlstm.cells._min_gru import MinGRUCell, MinGRUGates, MinGRUParams, min_activation
from jaxlstm.cells._min_lstm import MinLSTMCell, MinLSTMGates, MinLSTMParams
from jaxlstm.cells._mlstm import MLSTMCarry, MLSTMCell, MLSTMGates, MLSTMParams
from jaxlstm.cells._regularize import RecurrentDropout, Zoneout
from jaxlstm.cells._rnn import RNNCell, RNNParams
from jaxlstm.cells._slstm import SLSTMCarry, SLSTMCell, SLSTMGates, SLSTMParams

__all__ = [
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
    "RNNCell",
    "RNNParams",
    "RecurrentDropout",
    "SLSTMCarry",
    "SLSTMCell",
    "SLSTMGates",
    "SLSTMParams",
    "Zoneout",
    "lstm_gates",
    "lstm_transition",
    "min_activation",
]

# So that a user's exported function may take and return them; whoever loads it imports jaxlstm first.
for _kind in (
    *(GRUGates, GRUParams, Gates, LSTMCarry, LSTMNormParams, LSTMParams, LSTMVariantParams, LearnedCarryParams),
    *(MGUGates, MGUParams, RNNCarry, RNNParams, IndRNNParams, MinGRUGates, MinGRUParams, MinLSTMGates, MinLSTMParams),
    *(MLSTMCarry, MLSTMGates, MLSTMParams, SLSTMCarry, SLSTMGates, SLSTMParams),
    *(ConvLSTMParams, LRUCarry, LRUParams),
):
    _export.register_namedtuple_serialization(_kind, serialized_name=f"jaxlstm.{_kind.__name__}")
