"""From modules of nnx to networks of the core and back."""

import inspect
from typing import Any

from flax import nnx

from jaxlstm import _checks
from jaxlstm._cell import Cell
from jaxlstm._dtypes import compute_dtype
from jaxlstm._layers import Bidirectional, Layer
from jaxlstm._network import Network
from jaxlstm._step import Params
from jaxlstm._wrappers import _params
from jaxlstm.nnx import _cells
from jaxlstm.nnx._recurrent import Recurrent

_MODULES = "a recurrent module of jaxlstm.nnx or flax.nnx"


def to_network(module: nnx.Module) -> tuple[Network, Params]:
    """The network of the core that a module computes, with its params.

    From there lead `jaxlstm.interop.save`, ``to_torch``, ``to_onnx`` and ``export``, and `from_network` leads back.

    Args:
      module: `Recurrent`, `LSTM`, `GRU`, `SimpleRNN`, or Flax's `RNN`, `Bidirectional` and cells.

    Returns:
      ``(network, params)``. The network takes its inputs time first, returns ``(carry, ys)``, and has ys in the order
      of xs, whatever `keep_order` says. `remat`, `dtype` and `partitioning` are no part of it.

    Raises:
      ValueError, TypeError: if the core cannot run this module.

    >>> from flax import nnx
    >>> from jaxlstm.nnx import GRU, to_network
    >>> network, params = to_network(GRU(3, 8, rngs=nnx.Rngs(0)))
    >>> network, params[0].w_ih.shape
    (Stack(Layer(cell=GRUCell(hidden_size=8)), dropout=0.0), (3, 24))
    """
    if isinstance(module, Recurrent):
        return module.network, module._core_params()
    if isinstance(module, nnx.Bidirectional):
        (cell, forward), (backward_cell, backward) = map(_of_rnn, (module.forward_rnn, module.backward_rnn))
        default = inspect.signature(nnx.Bidirectional.__init__).parameters["merge_fn"].default
        merge: Any = "concat" if module.merge_fn is default else module.merge_fn
        return Bidirectional(cell, None if backward_cell == cell else backward_cell, merge=merge), (forward, backward)
    if isinstance(module, nnx.RNN):
        cell, params = _of_rnn(module)
        return Layer(cell, reverse=module.reverse), params
    if isinstance(module, nnx.RNNCellBase):
        cell, params = _of_cell(module)
        return Layer(cell), params
    return _checks.reject("module", _MODULES, _checks.describe(module), TypeError)


def from_network(network: Network | Cell, params: Params, *, rngs: nnx.Rngs | None = None, **options: Any) -> Recurrent:
    """The module around a network with these params: the inverse of `to_network`.

    Args:
      network: a network of the core, or a cell.
      params: its params.
      rngs: what the module draws from in training, for a network that draws.
      options: of `Recurrent`.

    Raises:
      ValueError, TypeError: if the params are not the network's, or an option has no meaning.

    >>> from jaxlstm.nnx import from_network
    >>> cell = jl.LSTMCell(8)
    >>> module = from_network(cell, cell.init(jax.random.key(0), input_size=3))
    >>> carry, ys = module(jnp.ones((2, 5, 3)))
    >>> ys.shape
    (2, 5, 8)
    """
    network = _params.as_network(network)
    size, tree = _params.check_params(network, params)
    if rngs is None and _params.draws(network, size):
        _checks.reject("rngs", "nnx.Rngs for a network that draws in training", rngs, TypeError)
    options = {"param_dtype": compute_dtype(params)} | options
    module = Recurrent(network, size, rngs=nnx.Rngs(0) if rngs is None else rngs, **options)
    state = nnx.state(module, nnx.Param)
    nnx.replace_by_pure_dict(state, tree)
    nnx.update(module, state)
    return module


def _of_rnn(rnn: Any) -> tuple[Cell, Params]:
    return _of_cell(getattr(rnn, "cell", rnn))


def _of_cell(cell: Any) -> tuple[Cell, Params]:
    form = _cells.core_form(cell) if isinstance(cell, nnx.RNNCellBase) else None
    if form is None or not _cells.starts_at_zero(cell):
        _checks.reject("module", "one of Flax's own cells, whose carry begins as zeros", _checks.describe(cell))
    return form[:2]
