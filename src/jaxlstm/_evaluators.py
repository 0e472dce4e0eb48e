"""Which evaluators a cell can have: the loop, an associative scan, chunks, Newton's method."""

import jax
import jax.numpy as jnp

from jaxlstm import _checks
from jaxlstm._associative import why_not_linear
from jaxlstm._cell import Cell
from jaxlstm._chunkwise import why_not_in_chunks
from jaxlstm._step import Carry


def evaluator_of(cell: Cell, evaluator: str | None, steps: int, carry: Carry) -> str | None:
    """What was asked for, or "loop" for no steps. An evaluator that is not possible is an error.

    Where nothing was asked for: None if an associative scan is possible, else "loop".
    """
    whys = {"loop": None, "associative": why_not_linear(cell), "chunkwise": why_not_in_chunks(cell), "newton": None}
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(carry)]
    if not all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes):
        whys["newton"] = "its carry does not hold real numbers alone"
    if not all(jnp.issubdtype(dtype, jnp.inexact) for dtype in dtypes):
        whys["associative"] = whys["associative"] or "its carry holds integers"
    if not isinstance(steps, int):
        whys |= dict.fromkeys(("associative", "chunkwise", "newton"), "a symbolic number of steps needs a loop")
    if evaluator is not None and whys[evaluator]:
        possible = ", ".join(repr(name) for name, why_not in whys.items() if not why_not)
        _checks.reject(
            "evaluator", f"None or {possible}", f"{evaluator!r} for {type(cell).__name__}: {whys[evaluator]}"
        )
    if steps == 0 or (evaluator is None and whys["associative"]):
        return "loop"
    return evaluator
