"""Choosing recurrent layers in a whole model by their names alone, before any tensor is looked at."""

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
    """How a framework names what holds a cell; the defaults are for one that has no such container."""

    separator: str
    weights: str  # what the caller should pass
    is_cell: Callable[[Scope], bool]  # whether these are the tensors of one cell, perhaps with wrong names
    is_recurrent: Callable[[Mapping[str, Any]], bool]  # whether these names, one or two parts long, are a cell's
    find_directions: Callable[[list[str]], tuple[str, str] | None] = lambda children: None
    find_sequence: Callable[[list[str]], list[str] | None] = lambda children: None  # the same names, bottom first
    directions: Callable[[Cell], tuple[str, str]] | None = None
    number: Callable[[int], str] | None = None  # the k-th of a sequence
    in_layer: Callable[[Cell], str] | None = None  # the cell in a layer
    names_are_cells: bool = True  # whether `layers` names the cells themselves when written, or what holds them
    optional_bias: bool = False  # whether cells can do without biases
    ignored: str = r"(?!)"  # tensors in a layer that are no weights


def all_tensors(weights: Any, dialect: Dialect) -> Scope:
    """Every tensor of a model by its whole name, but for what the dialect ignores."""
    scope = _tensors.name_tensors(weights, dialect.separator, dialect.weights)
    kept = {name: value for name, value in scope.tensors.items() if not re.search(dialect.ignored, name)}
    return scope._replace(tensors=kept)


def select(scope: Scope, name: str, argument: str, dialect: Dialect) -> str:
    """The path in the scope that is `name`, or else the only one with a recurrent layer below that ends in it."""
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
    """Check that no tensors lie beside those of recurrent layers; if there are, say which layers there are."""
    cells = set(_find_cells(scope, dialect))
    for tensor in scope.tensors if cells else ():
        if not cells & set(_parents(tensor, dialect.separator)):
            ask_for_layers(scope, dialect, f"with tensors of others, such as {scope.path + tensor!r}")


def ask_for_layers(scope: Scope, dialect: Dialect, why: str) -> NoReturn:
    """Reject a model of which the caller has to choose layers."""
    layers = find_layers(scope, dialect)
    if not layers:
        names = _tensors.listed(scope.path + name for name in scope.tensors)
        _tensors.reject("weights", "tensors of recurrent layers", f"none that are named like such among {names}")
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
    """The paths of the recurrent layers: of a cell, of the layer that holds nothing else, or of both directions."""
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
    """The paths below which there are a recurrent cell's names, in the order of the tensors."""
    groups: dict[str, dict[str, Any]] = {}
    for name, value in scope.tensors.items():
        for path in list(_parents(name, dialect.separator))[:2]:
            rest = name[len(path) + len(dialect.separator) :] if path else name
            groups.setdefault(path, {})[rest] = value
    return [path for path, tensors in groups.items() if dialect.is_recurrent(tensors)]


def _parents(name: str, separator: str) -> Iterator[str]:
    """The paths that a name lies below, the nearest first and the empty one last."""
    while name:
        name = name.rpartition(separator)[0]
        yield name


def _found(layers: Sequence[str]) -> str:
    """A few of the layers' names. That of a layer alone, which lies below no name, is empty."""
    names = [repr(layer) if layer else "'' (all there is)" for layer in layers[:6]]
    return ", ".join(names) + (f" and {len(layers) - 6} more" if len(layers) > 6 else "")
