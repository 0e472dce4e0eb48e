"""One layer of cells over a sequence: `Layer` in one direction, `Bidirectional` in both.

They are frozen dataclasses of static options with the methods of `Network`. Params and carries of a Bidirectional are
(forward, backward).
"""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxlstm import _checks
from jaxlstm._arrays import lead_shape, select
from jaxlstm._cell import C, Cell, P
from jaxlstm._network import Network, Options, RunCell, StepOptions
from jaxlstm._random import Key, split_keys
from jaxlstm._step import Carry, Output
from jaxlstm._unroll import unroll_directions, valid_steps


class BidirectionalCarry(NamedTuple):
    """The carry of a `Bidirectional`: that of each direction after its whole sequence."""

    forward: Carry
    backward: Carry


jax.export.register_namedtuple_serialization(BidirectionalCarry, serialized_name="jaxlstm.BidirectionalCarry")


@dataclass(frozen=True, repr=False)
class Layer(Network[P, C]):
    """One cell over a sequence, in one direction.

    Args:
      cell: the recurrence.
      reverse: run from the last step to the first; ys stay in the order of xs.

    Raises:
      ValueError, TypeError: if an option has no meaning; the message names it.

    >>> layer = jl.Layer(jl.RNNCell(4), reverse=True)
    >>> carry, ys = layer.apply(layer.init(jax.random.key(0), 3), jnp.ones((5, 2, 3)))
    >>> ys.shape
    (5, 2, 4)
    """

    cell: Cell[P, C]
    _: KW_ONLY
    reverse: bool = False

    def __post_init__(self) -> None:
        _checks.check_cell(self.cell, Cell)
        _checks.check_flag("reverse", self.reverse)

    @property
    def output_size(self) -> int:
        """O, the features of ys."""
        return self.cell.output_size

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """That of the cell."""
        return self.cell.spatial_shape

    def init(self, key: Key, input_size: int, *, dtype: DTypeLike = jnp.float32) -> P:
        """The cell's params."""
        return self.cell.init(key, input_size, dtype=dtype)

    def init_carry(self, params: P, batch_shape: tuple[int, ...] = (), *, dtype: DTypeLike | None = None) -> C:
        """The cell's carry."""
        return self.cell.init_carry(params, batch_shape, dtype=dtype)

    def _apply(
        self, params: P, xs: Array, carry: C | None, options: Options, run_cell: RunCell = unroll_directions
    ) -> tuple[C, Output]:
        more = options._asdict() | {"key": (options.key,)}
        (after,), (ys,) = run_cell(self.cell, (params,), xs, (carry,), reverse=(self.reverse,), **more)
        return after, ys

    def _step(self, params: P, carry: C, x: Array, options: StepOptions) -> tuple[C, Output]:
        if self.reverse:
            return super()._step(params, carry, x, options)
        return self.cell.step(params, carry, x, **options._asdict())


_MERGES: dict[str, Callable[[Array, Array], Array]] = {
    "concat": lambda forward, backward: jnp.concatenate([forward, backward], axis=-1),
    "sum": lambda forward, backward: forward + backward,
    "mean": lambda forward, backward: (forward + backward) / 2,
    "mul": lambda forward, backward: forward * backward,
}


@dataclass(frozen=True, repr=False)
class Bidirectional(Network[tuple[P, Any], BidirectionalCarry]):
    """Two cells over a sequence, one from each end (Schuster & Paliwal 1997).

    With `lengths`, the backward cell starts at the last step of each sequence. The carry holds what each direction has
    after its whole sequence. `jaxlstm.last_output` reads the output for the whole sequence from it. On accelerators,
    equal cells run in one loop.

    Args:
      cell: the cell that runs forward.
      backward_cell: the cell that runs from the last step to the first; None means another like `cell`.
      merge: how the two outputs of a step become one: "concat" (forward first), "sum", "mean", "mul", or a function
        of two arrays.

    Raises:
      ValueError, TypeError: if an option has no meaning; the message names it.

    >>> network = jl.Bidirectional(jl.LSTMCell(4))
    >>> (forward, backward), ys = network.apply(network.init(jax.random.key(0), 3), jnp.ones((5, 2, 3)))
    >>> ys.shape, backward.h.shape
    ((5, 2, 8), (2, 4))
    """

    cell: Cell[P, Any]
    backward_cell: Cell | None = None
    _: KW_ONLY
    merge: str | Callable[[Array, Array], Array] = "concat"

    def __post_init__(self) -> None:
        _checks.check_cell(self.cell, Cell)
        if self.backward_cell is not None:
            _checks.check_cell(self.backward_cell, Cell, "backward_cell")
            _checks.check_spatial_shape("backward_cell", self.backward_cell, self.cell.spatial_shape)
        _checks.check_merge(self.merge, tuple(_MERGES))
        forward, backward = (layer.output_size for layer in self._layers)
        if self.merge in ("sum", "mean", "mul") and forward != backward:
            _checks.reject("backward_cell", f"{forward} output features for merge={self.merge!r}", backward)

    @property
    def _layers(self) -> tuple[Layer[P, Any], Layer]:
        return Layer(self.cell), Layer(self.backward_cell or self.cell, reverse=True)

    @property
    def output_size(self) -> int:
        """O, the features of ys after the merge."""
        outputs = (jax.ShapeDtypeStruct((layer.output_size,), jnp.float32) for layer in self._layers)
        return jax.eval_shape(self._merge, *outputs).shape[-1]

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """That of the cells."""
        return self.cell.spatial_shape

    def init(self, key: Key, input_size: int, *, dtype: DTypeLike = jnp.float32) -> tuple[P, Any]:
        """(forward, backward) params."""
        _checks.check_init(key, input_size, dtype)
        forward, backward = self._layers
        forward_key, backward_key = jax.random.split(key)
        return forward.init(forward_key, input_size, dtype=dtype), backward.init(backward_key, input_size, dtype=dtype)

    def init_carry(
        self, params: tuple[P, Any], batch_shape: tuple[int, ...] = (), *, dtype: DTypeLike | None = None
    ) -> BidirectionalCarry:
        """(forward, backward) carries."""
        _checks.check_tuple("params", params, 2, "forward, backward")
        forward, backward = (
            layer.init_carry(p, batch_shape, dtype=dtype) for layer, p in zip(self._layers, params, strict=True)
        )
        return BidirectionalCarry(forward, backward)

    def _apply(
        self,
        params: tuple[P, Any],
        xs: Array,
        carry: tuple[Carry, Carry] | None,
        options: Options,
        run_cell: RunCell = unroll_directions,
    ) -> tuple[BidirectionalCarry, Output]:
        _checks.check_tuple("params", params, 2, "forward, backward")
        carries: Any = (None, None) if carry is None else carry
        _checks.check_tuple("carry", carries, 2, "forward, backward", BidirectionalCarry)
        keys = split_keys(options.key, 2)
        if self.backward_cell in (None, self.cell):
            more = options._asdict() | {"key": keys}
            after, outputs = run_cell(self.cell, params, xs, carries, reverse=(False, True), **more)
        else:
            each = zip(self._layers, params, carries, keys, strict=True)
            runs = (layer._apply(p, xs, c, options._replace(key=k), run_cell) for layer, p, c, k in each)
            after, outputs = zip(*runs, strict=True)
        ys = jax.tree.map(self._merge, *outputs)
        if callable(self.merge):  # the others map zeros to zeros
            ys = _zero_padding(ys, lead_shape(xs, self.spatial_shape), options)
        return BidirectionalCarry(*after), ys

    def _merge(self, forward: Array, backward: Array) -> Array:
        merge = _MERGES[self.merge] if isinstance(self.merge, str) else self.merge
        return merge(forward, backward)


def last_output(carry: Carry) -> Float[Array, "*batch O"]:
    """The output of a network for each whole sequence, read from the carry that `unroll` or ``apply`` returns.

    For a cell or a `Layer` it is h after the last step that counts; with reverse=True after the first. For a
    `Bidirectional`, whatever its merge, it is the last h of the forward cell beside the last h of the backward cell,
    which has then read the whole sequence. For a `Stack` it is that of the top layer. For a ragged batch, ``ys[-1]`` is
    none of these: it is padding, and the backward cell has read one step there.

    Args:
      carry: a carry of any network whose cells have an h.

    Returns:
      ``[*batch, H]``, or ``[*batch, 2H]`` for both directions, forward first.

    Raises:
      TypeError: if this is no such carry.

    >>> network = jl.Bidirectional(jl.LSTMCell(4))
    >>> params = network.init(jax.random.key(0), input_size=3)
    >>> carry, ys = network.apply(params, jnp.ones((5, 2, 3)), lengths=jnp.array([5, 2]))
    >>> jl.last_output(carry).shape, bool((jl.last_output(carry)[1, :4] == ys[1, 1, :4]).all())
    ((2, 8), True)
    """
    if isinstance(carry, BidirectionalCarry):
        return jnp.concatenate([last_output(direction) for direction in carry], axis=-1)
    if type(carry) is tuple and carry:
        return last_output(carry[-1])
    h = getattr(carry, "h", None)
    if h is None:
        _checks.reject("carry", "the carry of a network whose cells have an h", _checks.describe(carry), TypeError)
    return h


def _zero_padding(ys: Output, lead: tuple[int, ...], options: Options) -> Output:
    valid = valid_steps(lead[0], lead[1:], lengths=options.lengths, mask=options.mask)
    return ys if valid is None else select(valid, ys, jax.tree.map(jnp.zeros_like, ys))
