"""Layers on top of each other, with dropout between them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxlstm import _checks
from jaxlstm._arrays import lead_shape
from jaxlstm._associative import why_not_linear
from jaxlstm._cell import Cell
from jaxlstm._layers import Layer
from jaxlstm._network import Network, Options, RunCell, StepOptions
from jaxlstm._random import Key, draw_at, split_keys, times
from jaxlstm._sharding import spans_devices, with_automatic_axes
from jaxlstm._step import Carry, Output, Params
from jaxlstm._unroll import unroll_directions, valid_steps
from jaxlstm._wavefront import is_best, run_layers


@dataclass(frozen=True, init=False, repr=False)
class Stack(Network[tuple[Any, ...], tuple[Any, ...]]):
    """Layers on top of each other, each reading the ys of the one below.

    On accelerators, three or more equal layers with small weights run in one loop, each a step behind the one below.
    `jaxlstm.explain` says where.

    Args:
      layers_or_cells: bottom first; a cell becomes a `Layer`.
      dropout: with a `key` in ``apply`` or ``step``, the probability that a unit between layers is zeroed. The others
        are divided by 1 - dropout (Srivastava et al. 2014; Zaremba et al. 2014: not on the recurrence, not after the
        last layer). Without a key nothing is dropped. The draw for step t comes from ``start + t``.
      layers: the layers as a tuple, in place of `layers_or_cells`. This is what `dataclasses.replace` gives.

    Raises:
      ValueError, TypeError: if an option has no meaning; the message names it.

    >>> network = jl.Stack(jl.Bidirectional(jl.LSTMCell(8)), jl.LSTMCell(4), dropout=0.5)
    >>> params = network.init(jax.random.key(0), input_size=3)
    >>> carry, ys = network.apply(params, jnp.ones((5, 2, 3)), key=jax.random.key(1))
    >>> ys.shape, len(carry)
    ((5, 2, 4), 2)
    """

    layers: tuple[Network, ...]
    dropout: float

    def __init__(
        self, *layers_or_cells: Network | Cell, dropout: int | float = 0.0, layers: tuple[Network | Cell, ...] = ()
    ) -> None:
        if layers_or_cells and layers:
            _checks.reject("layers", "() where layers_or_cells are given", layers)
        if not isinstance(layers, (tuple, list)):
            _checks.reject("layers", "a tuple of cells and layers", _checks.describe(layers), TypeError)
        name = "layers" if layers else "layers_or_cells"
        layers = layers_or_cells or tuple(layers)
        if not layers:
            _checks.reject(name, "at least one cell or layer", "none")
        for index, layer in enumerate(layers):
            if not isinstance(layer, Network):
                _checks.check_cell(layer, Cell, f"{name}[{index}]")
            _checks.check_spatial_shape(f"{name}[{index}]", layer, layers[0].spatial_shape)
        self._set(
            layers=tuple(Layer(layer) if isinstance(layer, Cell) else layer for layer in layers),
            dropout=_checks.check_rate("dropout", dropout),
        )

    def __repr__(self) -> str:
        return f"Stack({', '.join(map(repr, self.layers))}, dropout={self.dropout})"

    @property
    def output_size(self) -> int:
        """O, the features of the last layer's ys."""
        return self.layers[-1].output_size

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """That of the layers."""
        return self.layers[0].spatial_shape

    def init(self, key: Key, input_size: int, *, dtype: DTypeLike = jnp.float32) -> tuple[Any, ...]:
        """A tuple of each layer's params, bottom first."""
        _checks.check_init(key, input_size, dtype)
        sizes = (input_size, *(layer.output_size for layer in self.layers[:-1]))
        keys = jax.random.split(key, len(self.layers))
        return tuple(layer.init(k, size, dtype=dtype) for layer, k, size in zip(self.layers, keys, sizes, strict=True))

    def init_carry(
        self, params: tuple[Any, ...], batch_shape: tuple[int, ...] = (), *, dtype: DTypeLike | None = None
    ) -> tuple[Any, ...]:
        """A tuple of each layer's carry, bottom first."""
        _checks.check_tuple("params", params, len(self.layers), "one per layer, bottom first")
        carries = []
        for index, (layer, of_layer) in enumerate(zip(self.layers, params, strict=True)):
            with _checks.noting(_checks.IN_LAYER, index, len(self.layers) - 1, layer):
                carries.append(layer.init_carry(of_layer, batch_shape, dtype=dtype))
        return tuple(carries)

    def _apply(
        self,
        params: tuple[Any, ...],
        xs: Array,
        carry: tuple[Any, ...] | None,
        options: Options,
        run_cell: RunCell = unroll_directions,
    ) -> tuple[tuple[Any, ...], Output]:
        carries = (None,) * len(self.layers) if carry is None else carry
        _checks.check_tuple("params", params, len(self.layers), "one per layer, bottom first")
        _checks.check_tuple("carry", carries, len(self.layers), "one per layer, bottom first")
        partly = carry is not None and any(of_layer is None for of_layer in carry)
        cell = None if partly else self._cell_of_all(options)
        if cell is not None and not spans_devices(xs) and is_best(cell, params, xs):
            steps, *batch = lead_shape(xs, self.spatial_shape)
            valid = valid_steps(steps, tuple(batch), lengths=options.lengths, mask=options.mask)
            return run_layers(run_cell, cell, params, xs, carry, valid, **options._asdict())

        def run(
            layer: Network, params: Params, xs: Array, carry: Carry | None, key: Key | None
        ) -> tuple[Carry, Output]:
            return layer._apply(params, xs, carry, options._replace(key=key), run_cell)

        def drop(key: Key, ys: Array) -> Array:
            return _dropout(ys, key, options.start, rate=self.dropout, time=True)

        return self._through_layers(params, xs, carries, options.key, run, drop)

    def _cell_of_all(self, options: Options) -> Cell | None:
        """The cell that all layers have, if all run forward in loops, nothing is drawn, and nothing is reset."""
        cells = {layer.cell if isinstance(layer, Layer) and not layer.reverse else None for layer in self.layers}
        (cell, *others) = cells
        draws = options.key is not None and (self.dropout > 0 or getattr(type(cell), "draw", None) is not Cell.draw)
        at_once = isinstance(cell, Cell) and why_not_linear(cell) is None
        loop = options.evaluator == "loop" or (options.evaluator is None and not at_once)
        return None if others or options.reset is not None or draws or not loop else cell

    def _step(
        self, params: tuple[Any, ...], carry: tuple[Any, ...], x: Array, options: StepOptions
    ) -> tuple[tuple[Any, ...], Output]:
        _checks.check_tuple("params", params, len(self.layers), "one per layer, bottom first")
        _checks.check_tuple("carry", carry, len(self.layers), "one per layer, bottom first")

        def run(layer: Network, params: Params, x: Array, carry: Carry, key: Key | None) -> tuple[Carry, Output]:
            return layer._step(params, carry, x, options._replace(key=key))

        def drop(key: Key, y: Array) -> Array:
            return _dropout(y, key, options.start, rate=self.dropout, time=False)

        return self._through_layers(params, x, carry, options.key, run, drop)

    def _through_layers(
        self,
        params: tuple[Any, ...],
        inputs: Array,
        carry: tuple[Any, ...],
        key: Key | None,
        run: Callable[..., tuple[Carry, Any]],
        drop: Callable[[Key, Array], Array],
    ) -> tuple[tuple[Any, ...], Any]:
        """Run each layer on what the layer below gave, with dropout between them: the carries, and the last outputs."""
        depth = len(self.layers)
        layer_keys, dropout_keys = split_keys(key, depth), split_keys(key, depth, offset=depth)
        outputs, after = inputs, []
        for index, layer in enumerate(self.layers):
            if index and not isinstance(outputs, Array):
                name = f"layers_or_cells[{index - 1}]"
                _checks.reject(name, "one array as its output, for the layer above", _checks.describe(outputs))
            dropout_key = dropout_keys[index]
            if index and self.dropout and dropout_key is not None:
                outputs = drop(dropout_key, outputs)
            with _checks.noting(_checks.IN_LAYER, index, len(self.layers) - 1, layer):
                layer_after, outputs = run(layer, params[index], outputs, carry[index], layer_keys[index])
            after.append(layer_after)
        return tuple(after), outputs


@partial(jax.jit, static_argnames=("rate", "time"))
def _dropout(outputs: Array, key: Key, start: Array, *, rate: float, time: bool) -> Array:
    """Dropout of the outputs of all steps, or of one, with a draw for each absolute time. Jitted, to compile once."""

    def run(_: Any, outputs: Array, key: Key, start: Array) -> tuple[Any, Array]:
        shape = outputs.shape[1:] if time else outputs.shape

        def keep(now: Array) -> Array:
            draw = lambda key, now: jax.random.bernoulli(jax.random.fold_in(key, now), 1 - rate, shape)  # noqa: E731
            return draw_at(draw, key, now)

        kept = jax.vmap(keep)(times(start, outputs.shape[0])) if time else keep(start)
        return (), jnp.where(kept, outputs / (1 - rate), jnp.zeros_like(outputs))

    return with_automatic_axes(run, outputs.ndim - 1 - time, time=time)((), outputs, key, start)[1]
