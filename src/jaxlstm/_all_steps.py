"""Part (1) of the derivative rule in `_tangent`: the tangents of all steps in the params and the inputs, at once."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxlstm._arrays import lead_shape, pack, unpack
from jaxlstm._scan import Plan
from jaxlstm._split_params import fill, matrices_of, reads
from jaxlstm._step import Carry, Inputs, Kept, Output, Params, preactivations, readout, transition


class Direct(NamedTuple):
    """The tangents in the params and the input; None where a piece does not read the params.

    Those of `transition` are in the matrices alone.
    """

    dz: Any
    dafter: Carry | None
    dy: Output | None


def of_params_and_inputs(
    plan: Plan, packed: bool, params: Params, dparams: Params, inputs: Inputs, kept: Kept, dxs: Array
) -> Direct:
    """Part (1) for all steps; with dz as one array if `packed`."""
    with jax.named_scope("all_steps"):
        return _merged(plan, partial(_of_step, plan, packed, params, dparams), inputs, kept, dxs)


def _of_step(
    plan: Plan, packed: bool, params: Params, dparams: Params, inputs: Inputs, kept: Kept, dx: Array
) -> Direct:
    z, dz = jax.jvp(
        lambda p, x: preactivations(plan.cell, p, kept.before, inputs._replace(x=x)), (params, inputs.x), (dparams, dx)
    )
    z = z if kept.z is None else unpack(kept.z, z)

    def of_matrices(matrices: Params) -> Carry:
        return transition(plan.cell, fill(params, matrices), z, kept.before, inputs)

    def of_readout(after: Carry, params: Params) -> Output:
        return readout(plan.cell, params, after)

    dafter = dy = None
    matrices = matrices_of(plan.cell, params)
    if reads(of_matrices, matrices):
        _, dafter = jax.jvp(of_matrices, (matrices,), (matrices_of(plan.cell, dparams),))
    if reads(partial(of_readout, kept.before), params):
        _, dy = jax.jvp(partial(of_readout, of_matrices(matrices)), (params,), (dparams,))
    return Direct(pack(dz, inputs.x.ndim - 1) if packed else dz, dafter, dy)


def _merged(plan: Plan, fn: Callable[..., Any], inputs: Inputs, kept: Kept, dxs: Array) -> Any:
    """`fn` for all steps at once, with time and batch merged into one axis.

    Under vmap the gradient of a weight would contract two axes. XLA on CPU copies the operands of such a matmul, and
    with jax 0.12 accumulates it in 16 bits where they have 16. A batch that is divided among devices comes first:
    merged behind time, it would be gathered from all of them.
    """
    lead = lead_shape(inputs.x, plan.cell.spatial_shape)

    def merge(leaf: Array) -> Array:
        leaf = jnp.moveaxis(leaf, 0, len(lead) - 1) if plan.batch_first else leaf
        return leaf.reshape(math.prod(lead), *leaf.shape[len(lead) :])

    def part(leaf: Array) -> Array:
        if not plan.batch_first:
            return leaf.reshape(*lead, *leaf.shape[1:])
        return jnp.moveaxis(leaf.reshape(*lead[1:], lead[0], *leaf.shape[1:]), len(lead) - 1, 0)

    return jax.tree.map(part, fn(*jax.tree.map(merge, (inputs, kept, dxs))))
