"""Recurrent modules for Flax linen.

`RNN`, `Bidirectional` and the cells stand in for Flax's own, with the same arguments and params. `LSTM`, `GRU` and
`SimpleRNN` are whole networks in one call, and `last_output` is what a classifier reads of them.
"""

try:
    import flax as _flax  # noqa: F401
except ImportError as error:
    raise ImportError(f"jaxlstm.linen needs Flax: pip install 'jaxlstm[flax]' ({error})") from error

from flax.linen import (
    ConvLSTMCell,
    GRUCell,
    LSTMCell,
    MGUCell,
    OptimizedLSTMCell,
    RNNCellBase,
    SimpleCell,
)

from jaxlstm._layers import last_output
from jaxlstm.linen._conversion import from_network, to_network
from jaxlstm.linen._layers import GRU, LSTM, SimpleRNN
from jaxlstm.linen._recurrent import Recurrent
from jaxlstm.linen._rnn import RNN, Bidirectional

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Bidirectional",
    "ConvLSTMCell",
    "GRUCell",
    "LSTMCell",
    "MGUCell",
    "OptimizedLSTMCell",
    "RNNCellBase",
    "Recurrent",
    "SimpleCell",
    "SimpleRNN",
    "from_network",
    "last_output",
    "to_network",
]
