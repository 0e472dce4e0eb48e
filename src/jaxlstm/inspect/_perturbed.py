"""A cell that adds a perturbation to every carry, whose gradient is that of the carry."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxlstm._cell import C, Cell, P
from jaxlstm._flat import unflatten
from jaxlstm._random import Key
from jaxlstm._wrapper import CellWrapper


class Perturbed(NamedTuple):
    """Pre-activations (or the input's share of them) and the perturbation of the carry after the step."""

    z: Any
    perturbation: Array


@dataclass(frozen=True, repr=False)
class PerturbedCell(CellWrapper[P, C]):
    """Adds a perturbation, passed as extra input columns, to the carry after each step. Inputs have no spatial axes.

    The gradient of a loss in the perturbation of step t is d loss / d carry_t.
    """

    cell: Cell[P, C]
    input_size: int

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """No axes: an input is one vector, which holds that of the cell inside."""
        return ()

    def init(self, key: Key, input_size: int, *, dtype: DTypeLike = jnp.float32) -> P:
        """The params of the cell inside, whose inputs have no extra columns."""
        return self.cell.init(key, self.input_size, dtype=dtype)

    def project(self, params: P, x: Array) -> Perturbed:
        """zx of the cell inside, and the perturbation."""
        shape = (*self.cell.spatial_shape, self.input_size)
        x, perturbation = jnp.split(x, [math.prod(shape)], axis=-1)
        return Perturbed(self.cell.project(params, x.reshape(*x.shape[:-1], *shape)), perturbation)

    def combine(self, zx: Perturbed, zh: Any) -> Perturbed:
        """z of the cell inside, and the perturbation."""
        return Perturbed(self.cell.combine(zx.z, zh), zx.perturbation)

    def transition(self, params: P, z: Perturbed, carry: C, noise: Any = None) -> C:
        """The carry after a step of the cell inside, plus the perturbation."""
        after = super().transition(params, z.z, carry, noise)
        return jax.tree.map(jnp.add, after, unflatten(z.perturbation, carry, z.perturbation.ndim - 1))
