"""The params of a network as both Flax APIs store them: nested dicts of arrays.

``{"layer_0": {"w_ih": ..., "w_hh": ..., "b": ...}}``: what is no stack is one layer. The names within a layer are those
of the params' own fields, with ``forward`` and ``backward`` between where there are two directions.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxlstm import _checks
from jaxlstm._cell import Cell
from jaxlstm._layers import Bidirectional, Layer
from jaxlstm._network import Network
from jaxlstm._random import Key
from jaxlstm._stack import Stack
from jaxlstm._step import Params, draw_noise

Partitioning = Mapping[str, tuple[str | None, ...]]  # {"w_hh": (None, "model"), ...}: a param's name -> mesh axes
Names = tuple[str, ...]


def as_network(network: Any) -> Network:
    """A network of the core, which one cell is too."""
    if isinstance(network, Network):
        return network
    _checks.check_cell(network, Cell, "network")
    return Layer(network)


def layers_of(network: Network) -> tuple[Network, ...]:
    """The layers of a stack, bottom first; any other network is one layer."""
    return network.layers if isinstance(network, Stack) else (network,)


def init_layer(network: Network, index: int, key: Key, input_size: int, dtype: DTypeLike) -> dict[str, Any]:
    """Initial params of one layer of a network for inputs of `input_size` features."""
    layers = layers_of(network)
    sizes = (input_size, *(layer.output_size for layer in layers[:-1]))
    return _nested(layers[index], layers[index].init(key, sizes[index], dtype=dtype))


def to_dict(network: Network, params: Params) -> dict[str, Any]:
    """A network's params as a nested dict."""
    each = enumerate(zip(layers_of(network), _by_layer(network, params), strict=True))
    return {f"layer_{index}": _nested(layer, of_layer) for index, (layer, of_layer) in each}


def from_dict(network: Network, input_size: int, tree: Mapping[str, Any]) -> Params:
    """The inverse of `to_dict`, checked against the params that the network has for inputs of this size."""
    params = template(network, input_size)

    def read(index: int, layer: Network, path: Any, leaf: Any) -> Any:
        names = (f"layer_{index}", *_names(layer, path))
        value: Any = functools.reduce(lambda tree, name: tree[name], names, tree)
        if value.shape != leaf.shape:
            _checks.reject("params", f"shape {leaf.shape} for {'/'.join(names)}", value.shape)
        return value

    layers = tuple(
        jax.tree_util.tree_map_with_path(functools.partial(read, index, layer), of_layer)
        for index, (layer, of_layer) in enumerate(zip(layers_of(network), _by_layer(network, params), strict=True))
    )
    return layers if isinstance(network, Stack) else layers[0]


def check_params(network: Network, params: Params) -> tuple[int, dict[str, Any]]:
    """The input size that a network's params are for, and the params as a nested dict."""
    wanted = template(network, 1)
    if jax.tree.structure(params) != jax.tree.structure(wanted):
        _checks.reject("params", f"the structure {jax.tree.structure(wanted)}", jax.tree.structure(params))
    tree = to_dict(network, params)
    return find_input_size(network, tree), tree


def find_input_size(network: Network, tree: Mapping[str, Any], guess: int | None = None) -> int:
    """The number of input features that params in a nested dict are for, tried first with a guess."""
    shapes = _shapes(tree)
    sizes = {size for shape in shapes.values() for size in shape}
    sizes |= {one - other for one in sizes for other in sizes}  # where one matrix is for x and h
    for size in (*(() if guess is None else (guess,)), *sorted(size for size in sizes if size > 0)):
        if _shapes(to_dict(network, template(network, size))) == shapes:
            return size
    wanted = _shapes(to_dict(network, template(network, guess or 1)))
    return _checks.reject(
        "params", f"those of {network} ({', '.join(wanted)})", ", ".join(map("{0[0]} {0[1]}".format, shapes.items()))
    )


def _shapes(tree: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(entry.key for entry in path): leaf.shape for path, leaf in leaves}


@functools.lru_cache(maxsize=256)
def template(network: Network, input_size: int) -> Params:
    """Shapes and dtypes of a network's params."""
    return jax.eval_shape(lambda: network.init(jax.random.key(0), input_size))


@functools.lru_cache(maxsize=256)
def draws(network: Network, input_size: int) -> bool:
    """Whether the network draws anything in training: dropout between its layers, or what its cells draw."""
    return _draws(network, template(network, input_size))


def check_partitioning(network: Network, input_size: int, partitioning: Any) -> None:
    """Mesh axes for params that the network has, one or None for each axis of the param."""
    if partitioning is None:
        return
    if not isinstance(partitioning, Mapping):
        _checks.reject("partitioning", "a dict {param: mesh axes}", _checks.describe(partitioning), TypeError)
    tree = to_dict(network, template(network, input_size))
    ranks = {path[-1].key: leaf.ndim for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    for name, axes in partitioning.items():
        if name not in ranks:
            _checks.reject("partitioning", f"names among {', '.join(sorted(ranks))}", _checks.describe(name))
        if not isinstance(axes, tuple) or not all(isinstance(axis, str | None) for axis in axes):
            _checks.reject(f"partitioning[{name!r}]", "a tuple of names and None", _checks.describe(axes), TypeError)
        if len(axes) != ranks[name]:
            _checks.reject(f"partitioning[{name!r}]", f"{ranks[name]} mesh axes, None for an undivided axis", axes)


def partition(layer: dict[str, Any], partitioning: Partitioning | None, box: Callable[[Array, Any], Any]) -> Any:
    """A layer's params, in a box with their mesh axes where they have some."""

    def leaf(path: Any, value: Array) -> Any:
        name = path[-1].key
        return box(value, partitioning[name]) if partitioning and name in partitioning else value

    return jax.tree_util.tree_map_with_path(leaf, layer)


def _by_layer(network: Network, params: Params) -> tuple[Params, ...]:
    return params if isinstance(network, Stack) else (params,)


def _nested(layer: Network, params: Params) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        *outer, last = _names(layer, path)
        functools.reduce(lambda tree, name: tree.setdefault(name, {}), outer, tree)[last] = leaf
    return tree


def _names(network: Network, path: tuple[Any, ...]) -> Names:
    """The names on the way to a leaf; params that are one array are called "params"."""
    if isinstance(network, Bidirectional):
        return ("forward", "backward")[path[0].idx], *_names(network._layers[path[0].idx], path[1:])
    if isinstance(network, Stack):
        return f"layer_{path[0].idx}", *_names(network.layers[path[0].idx], path[1:])
    words = (getattr(entry, "name", getattr(entry, "key", getattr(entry, "idx", None))) for entry in path)
    return tuple(map(str, words)) or ("params",)


def _draws(network: Network, params: Params) -> bool:
    if isinstance(network, Stack) and network.dropout and len(network.layers) > 1:
        return True
    if isinstance(network, Layer):
        cell, key, time = network.cell, jax.random.key(0), jnp.zeros((), jnp.int32)
        drawn = jax.eval_shape(lambda p: draw_noise(cell, key, time, cell.init_carry(p), ()), params)
        return bool(jax.tree.leaves(drawn))
    layers = network._layers if isinstance(network, Bidirectional) else layers_of(network)
    return any(map(_draws, layers, params))
