"""The forward loop over checked arguments, and what it keeps of each step for the derivative."""

from functools import partial
from typing import Any, NamedTuple

import jax

from jaxlstm._cell import Cell
from jaxlstm._step import Carry, Inputs, Kept, Output, Params, masked_step


class Plan(NamedTuple):
    """The static choices of a run."""

    cell: Cell
    reverse: bool
    unroll: int
    keep_preactivations: bool  # for the derivative, which otherwise computes them again
    project_first: bool | None  # project all inputs before the loop; None: what is best on the platform
    batch_first: bool  # merge time behind the batch, since the batch is divided among devices


def forward(plan: Plan, params: Params, initial: Carry, carry: Carry, inputs: Inputs) -> tuple[Carry, Output, Kept]:
    """Scan the cell: the last carry, the outputs, and what the derivative needs. The compiler drops what is not used.

    By default each input is projected in its own step on CPU, where writing zx of all steps to memory and reading it
    back costs more than two small matmuls a step. On other platforms one matmul before the loop projects all inputs.
    """
    if plan.project_first is not None:
        return _forward(plan, plan.project_first, params, initial, carry, inputs)
    inside, first = (partial(_forward, plan, project_first) for project_first in (False, True))
    return jax.lax.platform_dependent(params, initial, carry, inputs, cpu=inside, default=first)


def _forward(
    plan: Plan, project_first: bool, params: Params, initial: Carry, carry: Carry, inputs: Inputs
) -> tuple[Carry, Output, Kept]:
    zxs = None
    if project_first:
        with jax.named_scope("project"):
            zxs = jax.vmap(partial(plan.cell.project, params))(inputs.x)

    def step(carry: Carry, now: tuple[Inputs, Any]) -> tuple[Carry, tuple[Output, Kept]]:
        carry, y, kept = masked_step(plan.cell, params, initial, carry, *now)
        return carry, (y, kept if plan.keep_preactivations else kept._replace(z=None))

    carry, (ys, kept) = jax.lax.scan(step, carry, (inputs, zxs), reverse=plan.reverse, unroll=plan.unroll)
    return carry, ys, kept
