"""What cells share whose carry is linear in the carry before it: they state the coefficients, and the rest follows."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxlstm import _checks
from jaxlstm._cell import C, Cell, P


class LinearCell(Cell[P, C]):
    """A cell whose carry is linear in the carry before it, with coefficients that depend on the input alone.

        carry_t = a_t * carry_{t-1} + b_t        elementwise, for each array of the carry

    A subclass defines `coefficients`. It has no matmul of the carry: z is zx. It cannot draw random numbers.

    An associative scan multiplies the a of many steps. Where their product overflows, it gives NaN or infinity even if
    the carry itself does not; with ``|a| <= 1`` it never does.
    """

    def coefficients(self, params: P, zx: Any) -> tuple[C, C]:
        """``(a, b)`` of a step, or of all steps at once, from the input's share zx.

        Each has the structure of the carry, and shapes that broadcast to the carry's: a single `a` without batch axes
        is enough.
        """
        raise NotImplementedError(f"{type(self).__name__} must define coefficients(params, zx)")

    def recur(self, params: P, carry: C, noise: Any = None) -> None:
        """Nothing: no gate depends on the carry."""
        if noise is not None:
            _checks.reject(f"{type(self).__name__}.draw", "None, since coefficients depend on the input alone", noise)

    def combine(self, zx: Any, zh: None) -> Any:
        """z = zx."""
        return zx

    def transition(self, params: P, z: Any, carry: C) -> C:
        """carry_t = a_t * carry_{t-1} + b_t."""
        name = f"what {type(self).__name__}.coefficients returns"
        both = self.coefficients(params, z)
        _checks.check_tuple(name, both, 2, "a, b")
        a, b = (_broadcast(f"{name}, [{index}]", one, carry) for index, one in enumerate(both))
        return jax.tree.map(lambda a, old, b: a * old + b, a, carry, b)


def _broadcast(name: str, coefficient: C, carry: C) -> C:
    """A coefficient with the shapes of the carry."""
    if jax.tree.structure(coefficient) != jax.tree.structure(carry):
        _checks.reject(name, f"a {type(carry).__name__}, as the carry", _checks.describe(coefficient), TypeError)

    def leaf(given: Any, old: Array) -> Array:
        ends = zip(reversed(jnp.shape(given)), reversed(old.shape), strict=False)
        if jnp.ndim(given) > old.ndim or not all(size in (1, of_carry) for size, of_carry in ends):
            _checks.reject(name, f"a shape that broadcasts to the carry's, {old.shape}", jnp.shape(given))
        return jnp.broadcast_to(given, old.shape)

    return jax.tree.map(leaf, coefficient, carry)
