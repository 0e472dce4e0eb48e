"""Choosing recurrent layers in a whole model by name, before looking at any tensor."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from jaxlstm import _checks
from jaxlstm._cell import Cell
from jaxlstm.interop import _tensors
from jaxlstm.interop._tensors import Scope

LayerName = str | tuple[str, str]


class Dialect(NamedTuple):
    """How a framework names cells and what holds them. The defaults are for a framework without containers."""

    separator: str
    weights: str  # what the caller should pass
    is_cell: Callable[[Scope], bool]  # whether to read this as one cell, even if names are wrong
    is_recurrent: Callable[[Mapping[str, Any]], bool]  # whether names of one or two parts are a cell's
    find_directions: Callable[[list[str]], tuple[str, str] | None] = lambda children: None
    find_sequence: Callable[[list[str]], list[str] | None] = lambda children: None  # the names, bottom first
    directions: Callable[[Cell], tuple[str, str]] | None = None
    number: Callable[[int], str] | None = None  # the name of the k-th layer
    in_layer: Callable[[Cell], str] | None = None  # the name of the cell in a layer
    names_are_cells: bool = True  # when writing: whether `layers` names cells or what holds them
    optional_bias: bool = False  # whether the framework has cells without biases
    ignored: str = r"(?!)"  # a pattern for tensors that are no weights, such as the state of a dropout


def all_tensors(weights: Any, dialect: Dialect) -> Scope:
    """Every tensor of a model by its whole name, except those that the dialect ignores."""
    scope = _tensors.name_tensors(weights, dialect.separator, dialect.weights)
    kept = {name: value for name, value in scope.tensors.items() if not re.search(dialect.ignored, name)}
    return scope._replace(tensors=kept)


def select(scope: Scope, name: str, argument: str, dialect: Dialect) -> str:
    """The path called `name`, or else the only path that ends in it and holds a recurrent layer."""
    name = name.removesuffix(dialect.separator)
    for path in (name, name.removeprefix(scope.path)):
        if not path or any(tensor.startswith(path + dialect.separator) for tensor in scope.tensors):
            return path
    end = dialect.separator + name
    places = {
        path
        for cell in _find_cells(scope, dialect)
        for path in (cell, *_parents(cell, dialect.separator))
        if (dialect.separator + path).endswith(end)
    }
    outermost = [path for path in places if not places & set(_parents(path, dialect.separator))]
    if len(outermost) != 1:
        got = f"{name!r}, the end of {_tensors.listed(sorted(outermost))}" if outermost else repr(name)
        found = find_layers(scope, dialect)
        where = f"the name of one of {_found(found)}" if found else "a name with a recurrent layer below it"
        got += "" if found else f", and none anywhere: there are {_tensors.listed(scope.tensors)}"
        _tensors.reject(argument, where, got)
    return outermost[0]


def check_only_layers(scope: Scope, dialect: Dialect) -> None:
    """Check that all tensors belong to recurrent layers. The message lists these layers."""
    cells = set(_find_cells(scope, dialect))
    for tensor in scope.tensors if cells else ():
        if not cells & set(_parents(tensor, dialect.separator)):
            ask_for_layers(scope, dialect, f"with tensors of others, such as {scope.path + tensor!r}")


def ask_for_layers(scope: Scope, dialect: Dialect, why: str) -> NoReturn:
    """Reject a model in which the caller must choose layers. The message lists them."""
    layers = find_layers(scope, dialect)
    if not layers:
        names = _tensors.listed(scope.path + name for name in scope.tensors)
        _tensors.reject("weights", "tensors of recurrent layers", f"none with such names among {names}")
    expected = f"the names of the layers, bottom first, out of {_found([scope.path + layer for layer in layers])}"
    _tensors.reject("layers", f"{expected} (or prefix={scope.path + layers[0]!r} for that one)", f"None {why}")


def check_layers(layers: Sequence[LayerName]) -> list[str]:
    """All names in `layers`, in order."""
    names: list[Any] = []
    if isinstance(layers, str) or not isinstance(layers, Sequence) or not layers:
        _tensors.reject("layers", "a tuple of names, bottom first", _checks.describe(layers), TypeError)
    for layer in layers:
        names += layer if isinstance(layer, tuple) and len(layer) == 2 else [layer]
    if not all(isinstance(name, str) and name for name in names):
        _tensors.reject("layers", "names, or pairs of names (forward, backward)", _checks.describe(layers), TypeError)
    if len(set(names)) < len(names):
        _tensors.reject("layers", "different names", layers)
    return names


def find_layers(scope: Scope, dialect: Dialect) -> list[str]:
    """The paths of the recurrent layers: of cells, of layers around one cell, or of both directions."""
    tensors = Counter(parent for name in scope.tensors for parent in _parents(name, dialect.separator))
    layers = []
    for cell in _find_cells(scope, dialect):
        parent, _, name = cell.rpartition(dialect.separator)
        alone = parent and tensors[parent] == tensors[cell] and re.fullmatch(r"(.*_)?cell(_\d+)?", name)
        layers.append(parent if alone else cell)
    children: dict[str, list[str]] = {}
    for layer in layers:
        parent, _, name = layer.rpartition(dialect.separator)
        children.setdefault(parent, []).append(name)
    for parent, names in children.items():
        if parent and dialect.find_directions(names):
            layers = [parent if layer.rpartition(dialect.separator)[0] == parent else layer for layer in layers]
    return list(dict.fromkeys(layers))


def _find_cells(scope: Scope, dialect: Dialect) -> list[str]:
    """The paths of the recurrent cells, in the order of the tensors."""
    groups: dict[str, dict[str, Any]] = {}
    for name, value in scope.tensors.items():
        for path in list(_parents(name, dialect.separator))[:2]:
            rest = name[len(path) + len(dialect.separator) :] if path else name
            groups.setdefault(path, {})[rest] = value
    return [path for path, tensors in groups.items() if dialect.is_recurrent(tensors)]


def _parents(name: str, separator: str) -> Iterator[str]:
    """The paths above a name, nearest first. The last is empty."""
    while name:
        name = name.rpartition(separator)[0]
        yield name


def _found(layers: Sequence[str]) -> str:
    """The first few layers, for a message. A layer that is the whole of the weights has the empty name."""
    names = [repr(layer) if layer else "'' (all there is)" for layer in layers[:6]]
    return ", ".join(names) + (f" and {len(layers) - 6} more" if len(layers) > 6 else "")
