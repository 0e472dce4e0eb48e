"""Params as the derivative rule treats them: matrices outside the scan, and vectors that `transition` reads inside."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array

from jaxlstm._cell import Cell
from jaxlstm._step import Params


def vectors_of(cell: Cell, params: Params) -> Params:
    """The params with None in place of the matrices."""
    return jax.tree.map(lambda leaf: leaf if _is_vector(cell, leaf) else None, params)


def matrices_of(cell: Cell, params: Params) -> Params:
    """The params with None in place of the vectors."""
    return jax.tree.map(lambda leaf: None if _is_vector(cell, leaf) else leaf, params)


def _is_vector(cell: Cell, leaf: Array) -> bool:
    """Whether it has one axis at most, or besides that the cell's spatial axes, such as peepholes at each position."""
    return leaf.ndim < 2 + len(cell.spatial_shape)


def fill(params: Params, some: Params) -> Params:
    """The params with some of them replaced."""
    return jax.tree.map(lambda leaf, new: leaf if new is None else new, params, some)


def reads(fn: Callable[[Params], Any], params: Params) -> bool:
    """Whether a function does anything with its argument."""
    jaxpr = jax.make_jaxpr(fn)(params).jaxpr
    read = [var for eqn in jaxpr.eqns for var in eqn.invars] + list(jaxpr.outvars)
    return any(var is given for var in read for given in jaxpr.invars)
