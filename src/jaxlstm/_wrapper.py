"""`CellWrapper`: the base class of cells around a cell, such as zoneout or a learned first carry."""

from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxlstm._cell import C, Cell, P
from jaxlstm._random import Key


class CellWrapper(Cell[P, C]):
    """A cell around another, which it passes everything on to. A subclass changes the methods it is about.

    A subclass is a frozen dataclass with the field ``cell``. Where its params or its draws hold more than those of the
    cell inside, it says in `inner_params` and `inner_noise` which part belongs to the cell inside.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class ShowCarry(jl.CellWrapper):  # every carry as the output
    ...     cell: jl.Cell
    ...
    ...     def readout(self, params, carry):
    ...         return carry
    >>> cell = ShowCarry(jl.LSTMCell(4))
    >>> carry, carries = jl.unroll(cell, cell.init(jax.random.key(0), input_size=3), jnp.ones((5, 3)))
    >>> carries.c.shape
    (5, 4)
    """

    cell: Cell[P, C]

    def inner_params(self, params: Any) -> Any:
        """The params of the cell inside: all of them."""
        return params

    def inner_noise(self, noise: Any) -> Any:
        """What the cell inside drew, given what `draw` returned: all of it."""
        return noise

    @property
    def hidden_size(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """H of the cell inside."""
        return self.cell.hidden_size

    @property
    def output_size(self) -> int:
        """O of the cell inside."""
        return self.cell.output_size

    @property
    def spatial_shape(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of the cell inside."""
        return self.cell.spatial_shape

    def init(self, key: Key, input_size: int, *, dtype: DTypeLike = jnp.float32) -> P:
        """The params of the cell inside."""
        return self.cell.init(key, input_size, dtype=dtype)

    def init_carry(self, params: P, batch_shape: tuple[int, ...] = (), *, dtype: DTypeLike | None = None) -> C:
        """The carry of the cell inside."""
        return self.cell.init_carry(self.inner_params(params), batch_shape, dtype=dtype)

    def project(self, params: P, x: Array) -> Any:
        """zx of the cell inside."""
        return self.cell.project(self.inner_params(params), x)

    def recur(self, params: P, carry: C, noise: Any = None) -> Any:
        """zh of the cell inside."""
        return self.cell.recur(self.inner_params(params), carry, *self._inner(noise))

    def combine(self, zx: Any, zh: Any) -> Any:
        """z of the cell inside."""
        return self.cell.combine(zx, zh)

    def transition(self, params: P, z: Any, carry: C, noise: Any = None) -> C:
        """The carry after a step of the cell inside."""
        return self.cell.transition(self.inner_params(params), z, carry, *self._inner(noise))

    def gates(self, params: P, z: Any, carry: C, noise: Any = None) -> Any:
        """The gates of the cell inside, or None if it names none."""
        return self.cell.gates(self.inner_params(params), z, carry, *self._inner(noise))

    def readout(self, params: P, carry: C) -> Any:
        """y of the cell inside."""
        return self.cell.readout(self.inner_params(params), carry)

    def draw(self, key: Key, time: Array, carry: C) -> Any:
        """What the cell inside draws."""
        return self.cell.draw(key, time, carry)

    def _inner(self, noise: Any) -> tuple[Any, ...]:
        """One more argument for a cell inside that drew something."""
        inner = None if noise is None else self.inner_noise(noise)
        return () if inner is None else (inner,)
