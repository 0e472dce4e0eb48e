"""Recurrent modules for Flax nnx.

`RNN`, `Bidirectional` and the cells stand in for Flax's own, with the same arguments and state. `LSTM`, `GRU` and
`SimpleRNN` are whole networks in one call, and `last_output` is what a classifier reads of them.
"""

try:
    import flax as _flax  # noqa: F401
except ImportError as error:
    raise ImportError(f"jaxlstm.nnx needs Flax: pip install 'jaxlstm[flax]' ({error})") from error

from flax.nnx import RNNCellBase

from jaxlstm._layers import last_output
from jaxlstm.nnx._cells import GRUCell, LSTMCell, OptimizedLSTMCell, SimpleCell
from jaxlstm.nnx._conversion import from_network, to_network
from jaxlstm.nnx._layers import GRU, LSTM, SimpleRNN
from jaxlstm.nnx._recurrent import Recurrent
from jaxlstm.nnx._rnn import RNN, Bidirectional

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Bidirectional",
    "GRUCell",
    "LSTMCell",
    "OptimizedLSTMCell",
    "RNNCellBase",
    "Recurrent",
    "SimpleCell",
    "SimpleRNN",
    "from_network",
    "last_output",
    "to_network",
]
