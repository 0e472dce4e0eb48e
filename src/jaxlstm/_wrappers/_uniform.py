"""The networks of `LSTM`, `GRU` and `SimpleRNN`: layers that are all alike, from a few options."""

from typing import Any

from jaxlstm import _checks
from jaxlstm._cell import Cell
from jaxlstm._layers import Bidirectional, Layer
from jaxlstm._stack import Stack
from jaxlstm.cells import GRUCell, LearnedCarry, LSTMCell, LSTMVariantCell, RecurrentDropout, RNNCell


def lstm_cell(features: int, *, projection: int | None, forget_bias: int | float) -> Cell:
    """The cell of `LSTM`; its h has `projection` features if that is given."""
    _checks.check_size("features", features)
    if projection is None:
        return LSTMCell(features, forget_bias=forget_bias)
    _checks.check_size("projection", projection)
    return LSTMVariantCell(features, projection_size=projection, forget_bias=forget_bias)


def gru_cell(features: int, *, reset_after: bool) -> Cell:
    """The cell of `GRU`."""
    _checks.check_size("features", features)
    return GRUCell(features, reset_after=reset_after)


def rnn_cell(features: int, *, activation_fn: Any) -> Cell:
    """The cell of `SimpleRNN`."""
    _checks.check_size("features", features)
    return RNNCell(features, activation_fn=activation_fn)


def build_network(
    cell: Cell,
    *,
    num_layers: int,
    bidirectional: bool,
    dropout: int | float,
    recurrent_dropout: int | float,
    initial_carry: str,
) -> Stack:
    """A stack of layers of this cell, both directions in each if `bidirectional`."""
    _checks.check_size("num_layers", num_layers)
    _checks.check_flag("bidirectional", bidirectional)
    _checks.check_rate("recurrent_dropout", recurrent_dropout)
    if initial_carry not in ("zeros", "learned"):
        _checks.reject("initial_carry", "'zeros' or 'learned'", _checks.describe(initial_carry))
    if recurrent_dropout:
        cell = RecurrentDropout(cell, recurrent_dropout)
    if initial_carry == "learned":
        cell = LearnedCarry(cell)
    layer = Bidirectional(cell) if bidirectional else Layer(cell)
    return Stack(*[layer] * num_layers, dropout=dropout)
