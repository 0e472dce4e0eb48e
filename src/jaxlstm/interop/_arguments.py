"""Checks of a network and its params, for everything that writes them."""

import functools
from typing import Any

import jax

from jaxlstm import _array_checks, _checks
from jaxlstm._cell import Cell
from jaxlstm._network import Network
from jaxlstm._step import Params


def check_network(network: Any, params: Params) -> int:
    """Check that the params fit the network. Returns the number of input features.

    Raises:
      ValueError, TypeError: if they do not, or the network is neither a cell nor made of layers.
    """
    if not isinstance(network, (Cell, Network)):
        _checks.reject("network", "a cell, a Layer, a Bidirectional or a Stack", _checks.describe(network), TypeError)
    w_ih = _first_w_ih(params)
    if getattr(w_ih, "ndim", None) != 2 + len(network.spatial_shape):
        _checks.reject("params", f"those of {network}, with a w_ih [I, G] first", _checks.describe(params), TypeError)
    input_size = int(w_ih.shape[-2])  # type: ignore[union-attr]
    _array_checks.like_template("params", params, template(network, input_size), f"for {network}")
    return input_size


def _first_w_ih(params: Any) -> Any:
    """The w_ih of the first cell, inside tuples of layers and directions and inside LearnedCarryParams."""
    while isinstance(params, tuple) and params and not hasattr(params, "w_ih"):
        params = params[0]
    return getattr(params, "w_ih", None)


@functools.lru_cache(maxsize=32)
def template(network: Cell | Network, input_size: int) -> Params:
    """The shapes of the network's params."""
    return jax.eval_shape(lambda: network.init(jax.random.key(0), input_size))
