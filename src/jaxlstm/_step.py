"""One step of a cell, composed in one place, for `Cell.step`, the loop, the derivative rule and `inspect`."""

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree, Shaped

from jaxlstm import _array_checks, _checks
from jaxlstm._arrays import lead_shape, select
from jaxlstm._dtypes import at_least_float32, cast, cast_like
from jaxlstm._random import Key, draw_at

if TYPE_CHECKING:
    from jaxlstm._cell import Cell

    Output = Array  # an editor is told the usual case
else:
    Cell = Any
    Output = PyTree[Shaped[Array, "..."]]  # a readout may return any tree of arrays

Params = Any  # params of a cell that is not known
Carry = Any  # a carry of a cell that is not known


class Inputs(NamedTuple):
    """What a step reads, or with a leading time axis what all steps read. None where there is no such input."""

    x: Float[Array, "*batch I"]
    valid: Bool[Array, "*batch"] | None  # False: hold the carry, return zeros
    reset: Bool[Array, "*batch"] | None  # True: start from the initial carry
    noise: Any  # what Cell.draw returned, or for a `Wave`, which layers run


class Kept(NamedTuple):
    """What the derivative needs of a step."""

    before: Carry  # the carry that the step started from, after a reset
    z: Any  # the pre-activations, or None where the derivative computes them again


def masked_step(
    cell: Cell, params: Params, initial: Carry, carry: Carry, inputs: Inputs, zx: Any = None
) -> tuple[Carry, Output, Kept]:
    """One step, with its reset and its mask: ``(carry, y, kept)``. A zx that is given is not computed again."""
    held, after, kept = change(cell, params, initial, carry, inputs, zx)
    y = readout(cell, params, after)
    _check_batch(f"what {type(cell).__name__}.readout returns", y, lead_shape(inputs.x, cell.spatial_shape))
    after, y = hold_masked(inputs, after, y, held)
    return after, y, kept


def next_carry(cell: Cell, params: Params, initial: Carry, carry: Carry, inputs: Inputs, zx: Any = None) -> Carry:
    """The carry of `masked_step` alone, in the dtypes of the one given. They may be wider than `readout` accepts."""
    held, after, _ = change(cell, params, initial, carry, inputs, zx)
    return hold_masked(inputs, after, None, held)[0]


def change(
    cell: Cell, params: Params, initial: Carry, carry: Carry, inputs: Inputs, zx: Any = None
) -> tuple[Carry, Carry, Kept]:
    """The carry after the reset, that after the step, masked or not, and what the derivative needs."""
    held = apply_reset(inputs, initial, carry)
    before = held
    if inputs.valid is not None:
        before = select(inputs.valid, held, initial)  # so that NaN in a held carry reaches no gradient
    z = preactivations(cell, params, before, inputs, zx)
    return held, transition(cell, params, z, before, inputs), Kept(before, z)


def apply_reset(inputs: Inputs, initial: Carry, carry: Carry) -> Carry:
    """The initial carry where a new sequence begins, else the carry."""
    return carry if inputs.reset is None else select(inputs.reset, initial, carry)


def preactivations(cell: Cell, params: Params, before: Carry, inputs: Inputs, zx: Any = None) -> Any:
    """z = combine(project(x), recur(carry)): matmuls in the compute dtype, the sum in at least float32."""
    if zx is None:
        with jax.named_scope("project"):
            zx = cell.project(params, inputs.x)
    with jax.named_scope("recur"):
        zh = cell.recur(params, before, *_noise(inputs))
    with jax.named_scope("combine"):
        return cell.combine(*cast((zx, zh), at_least_float32(inputs.x.dtype)))


def transition(cell: Cell, params: Params, z: Any, before: Carry, inputs: Inputs) -> Carry:
    """The carry after a step, computed in at least float32 and cast back to the carry's dtypes."""
    wide = at_least_float32(inputs.x.dtype)
    with jax.named_scope("transition"):
        after = cell.transition(cast(params, wide), z, cast(before, wide), *_noise(inputs))
        name = f"what {type(cell).__name__}.transition returns"
        return cast_like(_array_checks.like_template(name, after, before, "as before the step"), before)


def readout(cell: Cell, params: Params, after: Carry) -> Output:
    """The output of a step: any tree of arrays."""
    with jax.named_scope("readout"):
        return cell.readout(params, after)


def hold_masked(inputs: Inputs, after: Carry, y: Any, held: Carry) -> tuple[Carry, Any]:
    """The carry and the output of a step that counts; for a masked step the carry before it, and zeros."""
    if inputs.valid is None:
        return after, y
    return select(inputs.valid, (after, y), (held, jax.tree.map(jnp.zeros_like, y)))


def without_masked(x: Array, valid: Array | None) -> Array:
    """Zeros in place of masked inputs: before any arithmetic, or NaN in the padding would reach gradients."""
    return x if valid is None else select(valid, x, jnp.zeros_like(x))


def draw_noise(cell: Cell, key: Key | None, time: Array, carry: Carry, batch_shape: tuple[int, ...]) -> Any:
    """What the cell draws for the step at this absolute time, for a carry of these shapes; without a key, None."""
    if key is None:
        return None
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), carry)
    noise = draw_at(lambda key, time: cell.draw(key, time, shapes), key, time)
    _check_batch(f"what {type(cell).__name__}.draw returns", noise, batch_shape)
    return noise


def _check_batch(name: str, tree: Any, batch_shape: tuple[int, ...]) -> None:
    for leaf in jax.tree.leaves(tree):
        if leaf.shape[: len(batch_shape)] != batch_shape:
            _checks.reject(name, f"arrays that begin with the batch axes {batch_shape}", f"shape {leaf.shape}")


def _noise(inputs: Inputs) -> tuple[Any, ...]:
    """One more argument for cells that drew something; the others need not know of it."""
    return () if inputs.noise is None else (inputs.noise,)
