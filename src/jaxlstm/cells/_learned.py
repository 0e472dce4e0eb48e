"""A first carry that is learned, as a cell around any other cell."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array

from jaxlstm import _checks
from jaxlstm._cell import C, Cell
from jaxlstm._dtypes import cast
from jaxlstm._random import Key
from jaxlstm._step import Carry, Params
from jaxlstm._wrapper import CellWrapper


class LearnedCarryParams(NamedTuple):
    """The params of the cell inside, and the carry that every sequence starts from, without batch axes."""

    cell: Params
    initial_carry: Carry


@dataclass(frozen=True, repr=False)
class LearnedCarry(CellWrapper[LearnedCarryParams, C]):
    """A cell whose first carry is a parameter, the same for every sequence.

        carry_0 = params.initial_carry        initially the first carry of the cell inside

    A reset returns to it too. Its gradient is summed over all sequences that start from it.

    Args:
      cell: any cell.

    Raises:
      TypeError: if it is no cell.
      ValueError: from `init`, if its carry holds complex numbers, as that of an `LRUCell`, or integers.

    >>> cell = jl.LearnedCarry(jl.LSTMCell(4))
    >>> params = cell.init(jax.random.key(0), input_size=3)
    >>> params.initial_carry.c.shape, cell.init_carry(params, (2,)).c.shape
    ((4,), (2, 4))
    """

    cell: Cell[Any, C]  # pyright: ignore[reportIncompatibleVariableOverride]

    def __post_init__(self) -> None:
        _checks.check_cell(self.cell, Cell)

    def inner_params(self, params: LearnedCarryParams) -> Params:
        """The params of the cell inside."""
        return params.cell

    def init(self, key: Key, input_size: int, *, dtype: DTypeLike = jnp.float32) -> LearnedCarryParams:
        """The params of the cell inside, and its first carry."""
        params = self.cell.init(key, input_size, dtype=dtype)
        carry = self.cell.init_carry(params)
        if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(carry)):
            _checks.reject("cell", "a cell whose carry holds real numbers alone, since it becomes params", self.cell)
        return LearnedCarryParams(cell=params, initial_carry=cast(carry, dtype))

    def init_carry(
        self, params: LearnedCarryParams, batch_shape: tuple[int, ...] = (), *, dtype: DTypeLike | None = None
    ) -> C:
        """The learned carry, for each sequence."""
        if not isinstance(params, LearnedCarryParams):
            _checks.reject("params", "LearnedCarryParams", _checks.describe(params), TypeError)
        like = super().init_carry(params, batch_shape, dtype=dtype)

        def leaf(learned: ArrayLike, like: Array) -> Array:
            return jnp.broadcast_to(learned, like.shape).astype(like.dtype)

        return jax.tree.map(leaf, params.initial_carry, like)
