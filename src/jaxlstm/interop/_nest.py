"""From named cells to a network and back.

A `Dialect` says how a framework names what holds a cell. If the names do not show the order of the cells, the caller
gives it: `layers` names them, bottom first, with a pair of names for the two directions of one layer.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm import _checks
from jaxlstm._cell import Cell
from jaxlstm._layers import Bidirectional, Layer
from jaxlstm._network import Network
from jaxlstm._stack import Stack
from jaxlstm._step import Params
from jaxlstm.cells import GRUCell, LSTMCell, RNNCell
from jaxlstm.interop import _select, _tensors
from jaxlstm.interop._select import Dialect, LayerName
from jaxlstm.interop._tensors import Scope

Read = Callable[[Scope], tuple[Network, Params]]
Write = Callable[[Any, Any], dict[str, np.ndarray]]


def read_network(
    scope: Scope,
    prefix: str,
    layers: Sequence[LayerName] | None,
    dialect: Dialect,
    read: Read,
    merge: Callable[[str], str] = lambda path: "concat",
) -> tuple[Network, Params]:
    """Read the named layers, or everything below the prefix. Looks at no other tensors.

    `read` reads one cell, or one module of several layers. `merge` says how the two directions at a path merge.
    """
    _tensors.check_prefix(prefix)
    scope = scope.inside(_select.select(scope, prefix, "prefix", dialect))
    if layers is None:
        _select.check_only_layers(scope, dialect)
        return _read_layer(_tensors.read_arrays(scope), dialect, read, merge)
    paths = {name: _select.select(scope, name, "layers", dialect) for name in _select.check_layers(layers)}
    for path in paths.values():
        _select.check_only_layers(scope.inside(path), dialect)
    below = tuple(path + dialect.separator for path in paths.values())
    chosen = {name: value for name, value in scope.tensors.items() if name.startswith(below)}
    scope = _tensors.read_arrays(scope._replace(tensors=chosen))
    parts = [
        _read_layer(scope.inside(paths[layer]), dialect, read, merge)
        if isinstance(layer, str)
        else _read_directions(scope, (paths[layer[0]], paths[layer[1]]), dialect, read, merge)
        for layer in layers
    ]
    return parts[0] if len(parts) == 1 else _stack(scope, parts)


def write_network(
    network: Network | Cell,
    params: Params,
    prefix: str,
    layers: Sequence[LayerName] | None,
    dialect: Dialect,
    write: Write,
) -> dict[str, np.ndarray]:
    """The tensors by their whole names, bottom first, forward before backward."""
    path = _tensors.path_of(prefix, dialect.separator)
    if layers is not None:
        _select.check_layers(layers)
    places = list(_places(network, layers, dialect))
    for place in places:
        if type(place.cell) not in (LSTMCell, GRUCell, RNNCell):
            _checks.reject("network", "LSTMCell, GRUCell and RNNCell alone", place.cell)
    tensors = {}
    for place, one in zip(places, _tensors.params_per_cell(network, params), strict=True):
        bias = place.bias or not dialect.optional_bias
        written = write(place.cell, _tensors.fill_biases(place.cell, one) if bias else one)
        tensors |= {path + place.path + name: np.array(array, order="C") for name, array in written.items()}
    return tensors


def find_numbered(children: list[str], start: str = "") -> list[str] | None:
    """The names in order, if they are `start` followed by 0, 1, 2 and so on."""
    numbered = [f"{start}{k}" for k in range(len(children))]
    return numbered if set(numbered) == set(children) else None


def is_usual(cell: Cell) -> bool:
    """Whether a cell uses sigmoid and tanh. Some frameworks have no others."""
    gate_fn = getattr(cell, "gate_fn", jax.nn.sigmoid)
    return gate_fn is jax.nn.sigmoid and getattr(cell, "activation_fn", None) is jnp.tanh


def _read_layer(scope: Scope, dialect: Dialect, read: Read, merge: Callable[[str], str]) -> tuple[Network, Params]:
    """Read one cell, two directions or a numbered sequence; goes down where there is only one child."""
    while not dialect.is_cell(scope):
        children = scope.children
        if any(dialect.separator not in name for name in scope.tensors):  # a cell's, misnamed
            break
        if pair := dialect.find_directions(children):
            return _read_directions(scope, pair, dialect, read, merge)
        if len(children) > 1 or not children[0]:
            return _read_sequence(scope, children, dialect, read, merge)
        scope = scope.inside(children[0])
    return read(scope)


def _read_sequence(
    scope: Scope, children: list[str], dialect: Dialect, read: Read, merge: Callable[[str], str]
) -> tuple[Network, Params]:
    """Read layers that are numbered as a `Stack`."""
    sequence = dialect.find_sequence(children)
    if sequence is None:
        _select.ask_for_layers(scope, dialect, f"for {_tensors.listed(children)}")
    return _stack(scope, [_read_layer(scope.inside(child), dialect, read, merge) for child in sequence])


def _read_directions(
    scope: Scope, names: tuple[str, str], dialect: Dialect, read: Read, merge: Callable[[str], str]
) -> tuple[Network, Params]:
    """Read two layers of one cell each as the two directions of one."""
    leaves = [{name.rpartition(dialect.separator)[2] for name in scope.inside(one).tensors} for one in names]
    for name, missing in zip(names, (leaves[1] - leaves[0], leaves[0] - leaves[1]), strict=True):
        if missing:  # otherwise a missing bias would pass for a cell without biases
            _tensors.reject(scope.path + name, f"a tensor {min(missing)!r}, as the other direction has", "none")
    (forward, forward_params), (backward, backward_params) = (
        _read_one(scope.inside(name), dialect, read, merge) for name in names
    )
    if _input_size(forward_params) != _input_size(backward_params):
        expected = f"{_input_size(forward_params)} input features, as forward"
        _tensors.reject(scope.path + names[1], expected, _input_size(backward_params))
    other = None if forward == backward else backward
    return Bidirectional(forward, other, merge=merge(scope.path)), (forward_params, backward_params)


def _read_one(scope: Scope, dialect: Dialect, read: Read, merge: Callable[[str], str]) -> tuple[Cell, Params]:
    """Read one cell, however deep it is."""
    layer, params = _read_layer(scope, dialect, read, merge)
    if not isinstance(layer, Layer):
        _tensors.reject(scope.path, "one cell for one direction", layer)
    return layer.cell, params


def _stack(scope: Scope, parts: list[tuple[Network, Params]]) -> tuple[Network, Params]:
    """A Stack of layers. Checks that each takes the outputs of the one below."""
    for k, ((below, _), (_, above)) in enumerate(itertools.pairwise(parts)):
        if _input_size(above) != below.output_size:
            expected = f"{below.output_size} input features, the outputs of the layer below"
            _tensors.reject(f"{scope.path}layers[{k + 1}]", expected, _input_size(above))
    layers, params = zip(*parts, strict=True)
    return Stack(*layers), params


def _input_size(params: Params) -> int:
    return jax.tree.leaves(params)[0].shape[0]


class _Place(NamedTuple):
    """Where a cell's tensors go."""

    path: str  # empty, or ends in the separator
    cell: Cell
    bias: bool  # whether the layer has biases, in either direction


def _places(network: Network | Cell, layers: Sequence[LayerName] | None, dialect: Dialect) -> Iterator[_Place]:
    """The places of all cells, bottom first."""
    if isinstance(network, Cell):
        yield _Place("", network, getattr(network, "bias", True))
        return
    parts = network.layers if isinstance(network, Stack) else (network,)
    if layers is not None and len(layers) != len(parts):
        _checks.reject("layers", f"{len(parts)} names or pairs of names", layers)
    if layers is None and isinstance(network, Stack):
        if dialect.number is None:
            _checks.reject("layers", f"{len(parts)} names or pairs of names, bottom first", None)
        layers = [dialect.number(k) for k in range(len(parts))]
        dialect = dialect._replace(names_are_cells=False)
    for part, name in zip(parts, layers or [""], strict=True):
        yield from _layer_places(part, name, dialect)


def _layer_places(layer: Network, name: LayerName, dialect: Dialect) -> Iterator[_Place]:
    """The places of one layer's cells."""
    if isinstance(layer, Layer) and not layer.reverse and isinstance(name, str):
        yield _Place(_cell_path(name, layer.cell, dialect), layer.cell, getattr(layer.cell, "bias", True))
    elif isinstance(layer, Bidirectional):
        cells = layer.cell, layer.backward_cell or layer.cell
        bias = any(getattr(cell, "bias", True) for cell in cells)
        if isinstance(name, str):
            if dialect.directions is None:
                _checks.reject("layers", "a pair of names (forward, backward) for a Bidirectional", repr(name) or None)
            start = f"{name}{dialect.separator}" if name else ""
            forward, backward = dialect.directions(layer.cell)
            name = (start + forward, start + backward)
            dialect = dialect._replace(names_are_cells=False)
        for one, cell in zip(name, cells, strict=True):
            yield _Place(_cell_path(one, cell, dialect), cell, bias)
    elif isinstance(layer, Layer) and not layer.reverse:
        _checks.reject("layers", f"one name for {layer}", name)
    else:
        _checks.reject("network", "Layer(..., reverse=False) or Bidirectional in every place", layer)


def _cell_path(name: str, cell: Cell, dialect: Dialect) -> str:
    """The path of a cell, where the name is that of its layer or its own."""
    inner = "" if dialect.in_layer is None or (name and dialect.names_are_cells) else dialect.in_layer(cell)
    return "".join(part + dialect.separator for part in (name, inner) if part)
