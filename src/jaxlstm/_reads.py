"""What a cell's transition reads, found in its jaxpr, so that no cell need declare it.

Nothing here changes a result. It saves arrays: where a gate looks at zx + zh alone, one array kept for the backward
pass stands for both, and where a transition has no params, no pass over all steps is made for their gradient.
"""

from typing import Any, NamedTuple

import jax

from jaxlstm._types import Carry, Cell, Params, at_least_float32, cast


class Reads(NamedTuple):
    """What is known of a cell's transition and readout."""

    summed: int  # of the leading columns of zx and zh, only the sum is looked at
    params: bool  # the transition or the readout has params of its own


def reads(cell: Cell, params: Params, carry: Carry, x: Any, noise: tuple[Any, ...]) -> Reads:
    """Trace the transition and the readout for one step, of these shapes and dtypes."""
    zx = jax.eval_shape(cell.project, params, x)
    zh = jax.eval_shape(cell.recur, params, carry, *noise)
    wide = at_least_float32(zx.dtype)
    args = jax.eval_shape(lambda *args: cast(args, wide), params, zx, zh, carry)
    transition = jax.make_jaxpr(cell.transition)(*args, *noise).jaxpr
    readout = jax.make_jaxpr(cell.readout)(params, carry).jaxpr
    count = len(jax.tree.leaves(params))
    zx_var, zh_var = transition.invars[count : count + 2]
    return Reads(
        summed=_summed(transition, zx_var, zh_var),
        params=any(_readers(jaxpr, var) for jaxpr in (transition, readout) for var in jaxpr.invars[:count]),
    )


def _summed(jaxpr: Any, zx: Any, zh: Any) -> int:
    """Leading columns whose two shares meet in an addition and go nowhere else."""
    columns = 0
    for zx_part, zh_part in zip(_parts(jaxpr, zx), _parts(jaxpr, zh), strict=False):
        readers, others = _readers(jaxpr, zx_part), _readers(jaxpr, zh_part)
        if not (len(readers) == len(others) == 1 and readers[0] is others[0] and _is(readers[0], "add")):
            break
        columns += zx_part.aval.shape[-1]
    return columns


def _parts(jaxpr: Any, var: Any) -> list[Any]:
    """The gates that an array of pre-activations is split into, or the array itself."""
    readers = _readers(jaxpr, var)
    if len(readers) == 1 and _is(readers[0], "split") and readers[0].params["axis"] == var.aval.ndim - 1:
        return list(readers[0].outvars)
    return [var]


def _is(reader: Any, name: str) -> bool:
    return getattr(getattr(reader, "primitive", None), "name", None) == name


def _readers(jaxpr: Any, var: Any) -> list[Any]:
    """The equations that read a variable, and the jaxpr itself if it returns it."""
    equations = [eqn for eqn in jaxpr.eqns if any(var is other for other in eqn.invars)]
    return equations + [jaxpr] * any(var is other for other in jaxpr.outvars)
