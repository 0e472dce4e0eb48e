"""What cells share whose carry is linear in the carry before it: they state the coefficients, and the rest follows."""

from typing import Any

import jax

from jaxlstm._cell import C, Cell, P


class LinearCell(Cell[P, C]):
    """A cell whose carry is linear in the carry before it, with coefficients that depend on the input alone.

        carry_t = a_t * carry_{t-1} + b_t        elementwise, for each array of the carry

    A subclass defines `coefficients`. It has no matmul of the carry: z is zx.
    """

    def coefficients(self, params: P, zx: Any) -> tuple[C, C]:
        """``(a, b)`` of a step, or of all steps at once, from the input's share zx; each is a carry."""
        raise NotImplementedError(f"{type(self).__name__} must define coefficients(params, zx)")

    def recur(self, params: P, carry: C) -> None:
        """Nothing: no gate depends on the carry."""
        return

    def combine(self, zx: Any, zh: None) -> Any:
        """z = zx."""
        return zx

    def transition(self, params: P, z: Any, carry: C) -> C:
        """carry_t = a_t * carry_{t-1} + b_t."""
        a, b = self.coefficients(params, z)
        return jax.tree.map(lambda a, old, b: a * old + b, a, carry, b)
