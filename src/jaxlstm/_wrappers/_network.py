"""The one-call layers in the words of the core: options -> network, params as nested dicts, and one call.

The dicts are what both Flax APIs store: ``{"layer_0": {"w_ih": ..., "w_hh": ..., "b": ...}}``, with ``forward`` and
``backward`` between where there are two directions, and ``cell`` and ``initial_carry`` where the carry is learned.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from jaxlstm import _checks
from jaxlstm._cell import Cell
from jaxlstm._dtypes import cast, compute_dtype
from jaxlstm._layers import Bidirectional, Layer
from jaxlstm._random import Key
from jaxlstm._stack import Stack
from jaxlstm._step import Carry, Params
from jaxlstm._wrappers._sequence import Call, time_first
from jaxlstm.cells import GRUCell, LearnedCarry, LSTMCell, LSTMVariantCell, RecurrentDropout, RNNCell

Partitioning = Mapping[str, tuple[str | None, ...]]  # {"w_hh": (None, "model"), ...}: a param's name -> mesh axes


def lstm_cell(features: int, *, projection: int | None, forget_bias: int | float) -> Cell:
    """The cell of `LSTM`; its h has `projection` features if that is given."""
    _checks.check_size("features", features)
    if projection is None:
        return LSTMCell(features, forget_bias=forget_bias)
    _checks.check_size("projection", projection)
    return LSTMVariantCell(features, projection_size=projection, forget_bias=forget_bias)


def gru_cell(features: int, *, reset_after: bool) -> Cell:
    """The cell of `GRU`."""
    _checks.check_size("features", features)
    return GRUCell(features, reset_after=reset_after)


def rnn_cell(features: int, *, activation_fn: Any) -> Cell:
    """The cell of `SimpleRNN`."""
    _checks.check_size("features", features)
    return RNNCell(features, activation_fn=activation_fn)


def build_network(
    cell: Cell,
    *,
    num_layers: int,
    bidirectional: bool,
    dropout: int | float,
    recurrent_dropout: int | float,
    initial_carry: str,
) -> Stack:
    """A stack of layers of this cell, both directions in each if `bidirectional`."""
    _checks.check_size("num_layers", num_layers)
    _checks.check_flag("bidirectional", bidirectional)
    _checks.check_rate("recurrent_dropout", recurrent_dropout)
    if initial_carry not in ("zeros", "learned"):
        _checks.reject("initial_carry", "'zeros' or 'learned'", _checks.describe(initial_carry))
    if recurrent_dropout:
        cell = RecurrentDropout(cell, recurrent_dropout)
    if initial_carry == "learned":
        cell = LearnedCarry(cell)
    layer = Bidirectional(cell) if bidirectional else Layer(cell)
    return Stack(*[layer] * num_layers, dropout=dropout)


def is_random(network: Stack) -> bool:
    """Whether the network draws anything in training: dropout between its layers, or in the recurrence."""
    cell = getattr(network.layers[0], "cell", None)
    inside = cell.cell if isinstance(cell, LearnedCarry) else cell
    return isinstance(inside, RecurrentDropout) or (network.dropout > 0 and len(network.layers) > 1)


def init_layer(network: Stack, index: int, key: Key, input_size: int, dtype: DTypeLike) -> dict[str, Any]:
    """Initial params of one layer of a network for inputs of `input_size` features, as a nested dict."""
    sizes = (input_size, *(layer.output_size for layer in network.layers[:-1]))
    return _as_dict(network.layers[index].init(key, sizes[index], dtype=dtype))


def check_options(dtype: Any, param_dtype: Any, remat: Any) -> None:
    """The options that are no part of a network."""
    if dtype is not None:
        _checks.check_dtype(dtype)
    _checks.check_dtype(param_dtype, "param_dtype")
    _checks.check_remat(remat)


def check_partitioning(network: Stack, partitioning: Any) -> None:
    """Mesh axes for params that the network has, one or None for each axis of the param."""
    if partitioning is None:
        return
    if not isinstance(partitioning, Mapping):
        _checks.reject("partitioning", "a dict {param: mesh axes}", _checks.describe(partitioning), TypeError)
    layer = _as_dict(_template(network, 1)[0])  # all have the same cells
    ranks = {path[-1].key: leaf.ndim for path, leaf in jax.tree_util.tree_leaves_with_path(layer)}
    for name, axes in partitioning.items():
        if name not in ranks:
            _checks.reject("partitioning", f"names among {', '.join(ranks)}", _checks.describe(name))
        if not isinstance(axes, tuple) or not all(isinstance(axis, str | None) for axis in axes):
            _checks.reject(f"partitioning[{name!r}]", "a tuple of names and None", _checks.describe(axes), TypeError)
        if len(axes) != ranks[name]:
            _checks.reject(f"partitioning[{name!r}]", f"{ranks[name]} mesh axes, None where it is not cut", axes)


def partition(layer: dict[str, Any], partitioning: Partitioning | None, box: Callable[[Array, Any], Any]) -> Any:
    """A layer's params, in a box with their mesh axes where they have some."""
    if not partitioning:
        return layer
    return {
        name: partition(value, partitioning, box)
        if isinstance(value, dict)
        else (box(value, partitioning[name]) if name in partitioning else value)
        for name, value in layer.items()
    }


def check_inputs(inputs: ArrayLike, input_size: int | None) -> int:
    """The input size of inputs ``[*batch, T, I]``, which has to be that of the params if there are any."""
    shape = jnp.shape(inputs)
    if len(shape) < 2:
        _checks.reject("inputs", "an array [*batch, T, I]", _checks.describe(inputs))
    if input_size not in (None, shape[-1]):
        _checks.reject("inputs", f"{input_size} features on the last axis, as the params", shape[-1])
    return shape[-1]


def input_size(layer: dict[str, Any]) -> int:
    """The input size that a layer's params are for."""
    while "w_ih" not in layer:
        layer = layer["forward"] if "forward" in layer else layer["cell"]
    return layer["w_ih"].shape[0]


def apply_network(
    network: Stack,
    params: dict[str, Any],
    inputs: ArrayLike,
    *,
    dtype: DTypeLike | None,
    seq_lengths: ArrayLike | None,
    mask: ArrayLike | None,
    reset: ArrayLike | None,
    initial_carry: Carry | None,
    key: Key | None,
    remat: bool | int | str | None,
) -> tuple[tuple[Carry, ...], Float[Array, "*batch T O"]]:
    """Apply the network to batch-major inputs, in `dtype`, or what params and inputs promote to."""
    steps = time_first(inputs, Call(seq_lengths=seq_lengths, mask=mask, reset=reset))
    xs, batch_shape = steps.inputs, steps.inputs.shape[1:-1]
    tree = _from_dict(_template(network, xs.shape[-1]), params)
    compute = compute_dtype(tree, xs.dtype) if dtype is None else jnp.dtype(dtype)
    tree = cast(tree, compute)
    if initial_carry is not None:
        template = jax.eval_shape(lambda: network.init_carry(tree, batch_shape))
        why = f"for inputs of batch shape {batch_shape}"
        initial_carry = _checks.like_template("initial_carry", initial_carry, template, why)
    carry, ys = network.apply(
        tree, xs.astype(compute), initial_carry, mask=steps.valid, reset=steps.reset, key=key, remat=remat
    )
    return carry, jnp.moveaxis(ys, 0, -2)


@functools.lru_cache(maxsize=256)
def _template(network: Stack, input_size: int) -> tuple[Params, ...]:
    return jax.eval_shape(lambda: network.init(jax.random.key(0), input_size))


def _as_dict(params: Any) -> Any:
    """Named tuples by the names of their fields, without those that are None; a pair by its directions."""
    if not isinstance(params, tuple):
        return params
    names = getattr(params, "_fields", ("forward", "backward"))
    return {name: _as_dict(value) for name, value in zip(names, params, strict=True) if value is not None}


def _from_dict(template: Any, tree: Any) -> Any:
    """The inverse of `_as_dict` for all layers, in the structure of the template."""
    layers = [tree[f"layer_{index}"] for index in range(len(template))]
    return tuple(_like(layer, values) for layer, values in zip(template, layers, strict=True))


def _like(template: Any, tree: Any) -> Any:
    if not isinstance(template, tuple):
        return template if template is None else tree
    names = getattr(template, "_fields", ("forward", "backward"))
    values = [_like(value, tree.get(name)) for name, value in zip(names, template, strict=True)]
    return type(template)(*values) if hasattr(template, "_fields") else tuple(values)
