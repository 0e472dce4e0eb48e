"""Networks of cells: `Layer`, `Bidirectional`, `Stack`. Each maps a whole sequence to a sequence.

They are frozen dataclasses of static options with the methods of `Network`. Params and carries nest as the layers do:
a tuple for a Stack, bottom first; (forward, backward) for a Bidirectional.
"""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Bool, Float

from jaxlstm import _checks
from jaxlstm._network import Network, Options
from jaxlstm._scan import select
from jaxlstm._types import Carry, Cell, Key, Params, times
from jaxlstm._unroll import unroll, valid_steps


@dataclass(frozen=True)
class Layer(Network):
    """One cell over a sequence, in one direction.

    Args:
      cell: the recurrence.
      reverse: run from the last step to the first; ys stay in the order of xs.

    >>> layer = jl.Layer(jl.RNNCell(4), reverse=True)
    >>> carry, ys = layer.apply(layer.init(jax.random.key(0), 3), jnp.ones((5, 2, 3)))
    >>> ys.shape
    (5, 2, 4)
    """

    cell: Cell
    _: KW_ONLY
    reverse: bool = False

    def __post_init__(self) -> None:
        _checks.check_cell(self.cell, Cell)
        _checks.check_flag("reverse", self.reverse)

    @property
    def output_size(self) -> int:
        """O, the features of ys."""
        return self.cell.output_size

    def init(self, key: Key, input_size: int, *, dtype: DTypeLike = jnp.float32) -> Params:
        """The cell's params."""
        return self.cell.init(key, input_size, dtype=dtype)

    def init_carry(self, params: Params, batch_shape: tuple[int, ...] = (), *, dtype: DTypeLike | None = None) -> Carry:
        """The cell's carry."""
        return self.cell.init_carry(params, batch_shape, dtype=dtype)

    def _apply(self, params: Params, xs: Array, carry: Carry | None, options: Options) -> tuple[Carry, Array]:
        return unroll(self.cell, params, xs, carry, reverse=self.reverse, **options._asdict())


_MERGES: dict[str, Callable[[Array, Array], Array]] = {
    "concat": lambda forward, backward: jnp.concatenate([forward, backward], axis=-1),
    "sum": lambda forward, backward: forward + backward,
    "mean": lambda forward, backward: (forward + backward) / 2,
    "mul": lambda forward, backward: forward * backward,
}


@dataclass(frozen=True)
class Bidirectional(Network):
    """Two cells over a sequence, one from each end (Schuster & Paliwal 1997).

    With `lengths`, the backward cell starts at each sequence's own last step. The carries hold what each direction has
    after its whole sequence: the right "last output" of a ragged batch is ``forward.h`` beside ``backward.h``.

    Args:
      cell: the cell that runs forward.
      backward_cell: the cell that runs from the last step to the first; None means another like `cell`.
      merge: how the two outputs of a step become one: "concat" (forward first), "sum", "mean", "mul", or a function
        of the two arrays.

    >>> network = jl.Bidirectional(jl.LSTMCell(4))
    >>> (forward, backward), ys = network.apply(network.init(jax.random.key(0), 3), jnp.ones((5, 2, 3)))
    >>> ys.shape, backward.h.shape
    ((5, 2, 8), (2, 4))
    """

    cell: Cell
    backward_cell: Cell | None = None
    _: KW_ONLY
    merge: str | Callable[[Array, Array], Array] = "concat"

    def __post_init__(self) -> None:
        _checks.check_cell(self.cell, Cell)
        if self.backward_cell is not None:
            _checks.check_cell(self.backward_cell, Cell, "backward_cell")
        _checks.check_merge(self.merge, tuple(_MERGES))
        forward, backward = (layer.output_size for layer in self._layers)
        if self.merge in ("sum", "mean", "mul") and forward != backward:
            _checks.reject("backward_cell", f"{forward} output features for merge={self.merge!r}", backward)

    @property
    def _layers(self) -> tuple[Layer, Layer]:
        return Layer(self.cell), Layer(self.backward_cell or self.cell, reverse=True)

    @property
    def output_size(self) -> int:
        """O, the features of ys after the merge."""
        outputs = (jax.ShapeDtypeStruct((layer.output_size,), jnp.float32) for layer in self._layers)
        return jax.eval_shape(self._merge, *outputs).shape[-1]

    def init(self, key: Key, input_size: int, *, dtype: DTypeLike = jnp.float32) -> tuple[Params, Params]:
        """(forward, backward) params."""
        _checks.check_init(key, input_size, dtype)
        keys = jax.random.split(key)
        forward, backward = (
            layer.init(k, input_size, dtype=dtype) for layer, k in zip(self._layers, keys, strict=True)
        )
        return forward, backward

    def init_carry(
        self, params: Params, batch_shape: tuple[int, ...] = (), *, dtype: DTypeLike | None = None
    ) -> tuple[Carry, Carry]:
        """(forward, backward) carries."""
        _checks.check_tuple("params", params, 2, "forward, backward")
        forward, backward = (
            layer.init_carry(p, batch_shape, dtype=dtype) for layer, p in zip(self._layers, params, strict=True)
        )
        return forward, backward

    def _apply(
        self, params: Params, xs: Array, carry: Carry | None, options: Options
    ) -> tuple[tuple[Carry, Carry], Array]:
        _checks.check_tuple("params", params, 2, "forward, backward")
        carries = (None, None) if carry is None else carry
        _checks.check_tuple("carry", carries, 2, "forward, backward")
        (forward, forward_ys), (backward, backward_ys) = (
            layer._apply(p, xs, c, options._replace(key=k))
            for layer, p, c, k in zip(self._layers, params, carries, _split(options.key, 2), strict=True)
        )
        ys = self._merge(forward_ys, backward_ys)
        if callable(self.merge):  # the others map zeros to zeros
            ys = _zero_padding(ys, xs, options)
        return (forward, backward), ys

    def _merge(self, forward: Array, backward: Array) -> Array:
        merge = _MERGES[self.merge] if isinstance(self.merge, str) else self.merge
        return merge(forward, backward)


@dataclass(frozen=True, init=False, repr=False)
class Stack(Network):
    """Layers on top of each other, each reading the ys of the one below.

    Args:
      layers_or_cells: bottom first; a cell becomes a `Layer`.
      dropout: the rate at which units between layers are zeroed while a `key` is given to ``apply``, the others being
        divided by 1 - dropout (Srivastava et al. 2014; Zaremba et al. 2014: not on the recurrence, not after the last
        layer). Without a key nothing is dropped. The draw for step t comes from ``start + t``.

    >>> network = jl.Stack(jl.Bidirectional(jl.LSTMCell(8)), jl.LSTMCell(4), dropout=0.5)
    >>> params = network.init(jax.random.key(0), input_size=3)
    >>> carry, ys = network.apply(params, jnp.ones((5, 2, 3)), key=jax.random.key(1))
    >>> ys.shape, len(carry)
    ((5, 2, 4), 2)
    """

    layers: tuple[Network, ...]
    dropout: float

    def __init__(self, *layers_or_cells: Network | Cell, dropout: int | float = 0.0) -> None:
        if not layers_or_cells:
            _checks.reject("layers_or_cells", "at least one cell or layer", "none")
        for index, layer in enumerate(layers_or_cells):
            if not isinstance(layer, Network):
                _checks.check_cell(layer, Cell, f"layers_or_cells[{index}]")
        _checks.check_rate("dropout", dropout)
        layers = tuple(Layer(layer) if isinstance(layer, Cell) else layer for layer in layers_or_cells)
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "dropout", float(dropout))

    def __repr__(self) -> str:
        return f"Stack({', '.join(map(repr, self.layers))}, dropout={self.dropout})"

    @property
    def output_size(self) -> int:
        """O, the features of the last layer's ys."""
        return self.layers[-1].output_size

    def init(self, key: Key, input_size: int, *, dtype: DTypeLike = jnp.float32) -> tuple[Params, ...]:
        """A tuple of each layer's params, bottom first."""
        _checks.check_init(key, input_size, dtype)
        sizes = (input_size, *(layer.output_size for layer in self.layers[:-1]))
        keys = jax.random.split(key, len(self.layers))
        return tuple(layer.init(k, size, dtype=dtype) for layer, k, size in zip(self.layers, keys, sizes, strict=True))

    def init_carry(
        self, params: Params, batch_shape: tuple[int, ...] = (), *, dtype: DTypeLike | None = None
    ) -> tuple[Carry, ...]:
        """A tuple of each layer's carry, bottom first."""
        _checks.check_tuple("params", params, len(self.layers), "one per layer, bottom first")
        return tuple(
            layer.init_carry(p, batch_shape, dtype=dtype) for layer, p in zip(self.layers, params, strict=True)
        )

    def _apply(
        self, params: Params, xs: Array, carry: Carry | None, options: Options
    ) -> tuple[tuple[Carry, ...], Array]:
        depth = len(self.layers)
        _checks.check_tuple("params", params, depth, "one per layer, bottom first")
        carries = (None,) * depth if carry is None else carry
        _checks.check_tuple("carry", carries, depth, "one per layer, bottom first")
        layer_keys, dropout_keys = _split(options.key, depth), _split(options.key, depth, offset=depth)
        ys, after = xs, []
        for index, layer in enumerate(self.layers):
            if index and self.dropout:
                ys = _dropout(dropout_keys[index], ys, self.dropout, options.start)
            layer_options = options._replace(key=layer_keys[index])
            layer_after, ys = layer._apply(params[index], ys, carries[index], layer_options)
            after.append(layer_after)
        return tuple(after), ys


def _split(key: Key | None, count: int, offset: int = 0) -> tuple[Key | None, ...]:
    """`count` keys folded from one, or as many None."""
    if key is None:
        return (None,) * count
    return tuple(jax.random.fold_in(key, offset + index) for index in range(count))


def _dropout(
    key: Key | None, ys: Float[Array, "T *batch O"], rate: float, start: ArrayLike
) -> Float[Array, "T *batch O"]:
    """With a key, zero each unit with probability `rate`, divide the others by 1 - rate; step t draws at start + t."""
    if key is None:
        return ys

    def keep(time: Array) -> Bool[Array, "*batch O"]:
        return jax.random.bernoulli(jax.random.fold_in(key, time), 1 - rate, ys.shape[1:])

    return jnp.where(jax.vmap(keep)(times(start, ys.shape[0])), ys / (1 - rate), jnp.zeros_like(ys))


def _zero_padding(ys: Array, xs: Array, options: Options) -> Array:
    valid = valid_steps(xs.shape[0], xs.shape[1:-1], lengths=options.lengths, mask=options.mask)
    return ys if valid is None else select(valid, ys, jnp.zeros_like(ys))
