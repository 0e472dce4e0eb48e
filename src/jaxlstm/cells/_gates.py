"""How a cell names its gates, for those who look inside it. No step, loop or derivative needs this."""

from typing import Any

from jaxtyping import Array

from jaxlstm._types import Carry, Cell, Params


def gates_of(cell: Cell, params: Params, zx: Array, zh: Array, carry: Carry, *noise: Any) -> Any:
    """What ``cell.gates(params, zx, zh, carry)`` returns, or None for a cell that names no gates.

    `gates` has the arguments of `transition`, which calls it, and returns a named tuple of arrays ``[*batch, H]``:
    gates and candidates after their activations. So there is one equation for what a step does and what is shown.
    """
    name_gates = getattr(cell, "gates", None)
    return None if name_gates is None else name_gates(params, zx, zh, carry, *noise)
