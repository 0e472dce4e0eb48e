"""Recurrent modules for Flax linen.

`RNN`, `Bidirectional` and the cells stand in for Flax's own, with the same arguments and params. `LSTM`, `GRU` and
`SimpleRNN` are whole networks in one call, and `last_output` is what a classifier reads of them.
"""

from flax.linen import (
    ConvLSTMCell,
    GRUCell,
    LSTMCell,
    MGUCell,
    OptimizedLSTMCell,
    RNNCellBase,
    SimpleCell,
)

from jaxlstm.linen._rnn import RNN, Bidirectional

__all__ = [
    "RNN",
    "Bidirectional",
    "ConvLSTMCell",
    "GRUCell",
    "LSTMCell",
    "MGUCell",
    "OptimizedLSTMCell",
    "RNNCellBase",
    "SimpleCell",
]
