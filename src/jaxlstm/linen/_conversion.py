"""From modules of linen to networks of the core and back."""

from collections.abc import Mapping
from typing import Any

from flax import linen

from jaxlstm import _checks
from jaxlstm._cell import Cell
from jaxlstm._dtypes import compute_dtype
from jaxlstm._layers import Bidirectional, Layer
from jaxlstm._network import Network
from jaxlstm._step import Params
from jaxlstm._wrappers import _params
from jaxlstm.linen import _cells
from jaxlstm.linen._recurrent import OfNetwork, Recurrent

_MODULES = "a recurrent module of jaxlstm.linen or flax.linen"


def to_network(module: linen.Module, variables: Mapping[str, Any]) -> tuple[Network, Params]:
    """The network of the core that a module computes, with its params.

    From there lead `jaxlstm.interop.save`, ``to_torch``, ``to_onnx`` and ``export``, and `from_network` leads back.

    Args:
      module: `Recurrent`, `LSTM`, `GRU`, `SimpleRNN`, or Flax's `RNN`, `Bidirectional` and cells.
      variables: the module's own, ``{"params": ...}``; of a larger model, those under the module's name.

    Returns:
      ``(network, params)``. The network takes its inputs time first, returns ``(carry, ys)``, and has ys in the order
      of xs, whatever `keep_order` says. `remat`, `dtype` and `partitioning` are no part of it.

    Raises:
      ValueError, TypeError: if the core cannot run this module, or the params are not its own.

    >>> from jaxlstm.linen import GRU, to_network
    >>> module = GRU(8)
    >>> network, params = to_network(module, module.init(jax.random.key(0), jnp.ones((2, 5, 3))))
    >>> network, params[0].w_ih.shape
    (Stack(Layer(cell=GRUCell(hidden_size=8)), dropout=0.0), (3, 24))
    """
    if "params" not in variables:
        _checks.reject("variables", "a dict with the module's 'params'", _checks.describe(variables))
    params = linen.meta.unbox(variables["params"])
    if isinstance(module, OfNetwork):
        network = module._network()
        return network, _params.from_dict(network, _params.find_input_size(network, params), params)
    if isinstance(module, linen.Bidirectional):
        (cell, forward), (backward_cell, backward) = (
            _of_rnn(getattr(module, name), params.get(name, {})) for name in ("forward_rnn", "backward_rnn")
        )
        merge: Any = "concat" if module.merge_fn is linen.Bidirectional.merge_fn else module.merge_fn
        return Bidirectional(cell, None if backward_cell == cell else backward_cell, merge=merge), (forward, backward)
    if isinstance(module, linen.RNN):
        cell, params = _of_rnn(module, params)
        return Layer(cell, reverse=module.reverse), params
    if isinstance(module, linen.RNNCellBase):
        cell, params = _of_cell(module, params)
        return Layer(cell), params
    return _checks.reject("module", _MODULES, _checks.describe(module), TypeError)


def from_network(network: Network | Cell, params: Params, **options: Any) -> tuple[Recurrent, dict[str, Any]]:
    """The module around a network, and its variables: the inverse of `to_network`.

    Args:
      network: a network of the core, or a cell.
      params: its params.
      options: of `Recurrent`.

    Returns:
      ``(module, variables)``.

    Raises:
      ValueError, TypeError: if the params are not the network's, or an option has no meaning.

    >>> from jaxlstm.linen import from_network
    >>> cell = jl.LSTMCell(8)
    >>> module, variables = from_network(cell, cell.init(jax.random.key(0), input_size=3))
    >>> carry, ys = module.apply(variables, jnp.ones((2, 5, 3)))
    >>> ys.shape
    (2, 5, 8)
    """
    given: dict[str, Any] = {"param_dtype": compute_dtype(params)} | options
    module = Recurrent(network, **given)
    layers = _params.check_params(module._network(), params)[1]
    partition = {
        name: _params.partition(layer, module.partitioning, linen.Partitioned) for name, layer in layers.items()
    }
    return module, {"params": partition}


def _of_rnn(rnn: Any, params: Mapping[str, Any]) -> tuple[Cell, Params]:
    return _of_cell(getattr(rnn, "cell", rnn), params.get("cell", {}))


def _of_cell(cell: Any, params: Mapping[str, Any]) -> tuple[Cell, Params]:
    form = _cells.core_form(cell) if isinstance(cell, linen.RNNCellBase) else None
    if form is None or not _cells.starts_at_zero(cell):
        _checks.reject("module", "one of Flax's own cells, whose carry begins as zeros", _checks.describe(cell))
    if not form.names <= params.keys():
        _checks.reject("variables", f"the params {', '.join(sorted(form.names))} of {type(cell).__name__}", set(params))
    return form.pack(cell, params)
