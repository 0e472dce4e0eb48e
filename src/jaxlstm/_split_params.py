"""Params as the derivative rule treats them: matrices outside the scan, and vectors that `transition` reads inside."""

from collections.abc import Callable
from typing import Any

import jax

from jaxlstm._step import Params


def vectors_of(params: Params) -> Params:
    """The params with None in place of the matrices."""
    return jax.tree.map(lambda leaf: leaf if leaf.ndim < 2 else None, params)


def matrices_of(params: Params) -> Params:
    """The params with None in place of the vectors."""
    return jax.tree.map(lambda leaf: None if leaf.ndim < 2 else leaf, params)


def fill(params: Params, some: Params) -> Params:
    """The params with some of them replaced."""
    return jax.tree.map(lambda leaf, new: leaf if new is None else new, params, some)


def reads(fn: Callable[[Params], Any], params: Params) -> bool:
    """Whether a function does anything with its argument."""
    jaxpr = jax.make_jaxpr(fn)(params).jaxpr
    read = [var for eqn in jaxpr.eqns for var in eqn.invars] + list(jaxpr.outvars)
    return any(var is given for var in read for given in jaxpr.invars)
