"""A call of a recurrent module as Flax makes it: checked under Flax's names, laid time first, run on the core."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Bool, Int

from jaxlstm import _array_checks, _checks, _unroll
from jaxlstm._cell import Cell, RNNCarry
from jaxlstm._dtypes import cast, compute_dtype
from jaxlstm._step import Carry, Params
from jaxlstm.cells import LSTMCarry


class Call(NamedTuple):
    """Flax's arguments of one call, those left out filled in with the module's own."""

    seq_lengths: ArrayLike | None = None
    mask: ArrayLike | None = None
    reset: ArrayLike | None = None
    time_major: bool = False
    reverse: bool = False
    keep_order: bool = True
    feature_axes: int = 1


class Steps(NamedTuple):
    """What a scan reads at each step, time first; None where all steps count, or none resets."""

    inputs: Array  # [T, *batch, *features]
    valid: Bool[Array, "T *batch"] | None
    reset: Bool[Array, "T *batch"] | None


def asked(name: str, given: bool | None, own: bool) -> bool:
    """A flag as a call gives it, or the module's own."""
    flag = own if given is None else given
    _checks.check_flag(name, flag)
    return flag


def time_first(inputs: ArrayLike, call: Call) -> Steps:
    """Check the arguments of a call, and lay them time first."""
    inputs = jnp.asarray(inputs)
    axes = "[T, *batch, *features]" if call.time_major else "[*batch, T, *features]"
    if inputs.ndim < call.feature_axes + 1:
        _checks.reject("inputs", f"an array {axes} with {call.feature_axes} of features", _checks.describe(inputs))
    time_axis = 0 if call.time_major else inputs.ndim - call.feature_axes - 1
    lead = inputs.shape[: inputs.ndim - call.feature_axes]
    inputs = jnp.moveaxis(inputs, time_axis, 0)
    steps, *batch = inputs.shape[: len(lead)]
    mask, reset = (
        None if value is None else jnp.moveaxis(_array_checks.bool_array(name, value, lead), time_axis, 0)
        for name, value in (("mask", call.mask), ("reset", call.reset))
    )
    lengths = None if call.seq_lengths is None else _seq_lengths(call.seq_lengths, tuple(batch), steps)
    return Steps(inputs, _unroll.valid_steps(steps, tuple(batch), lengths=lengths, mask=mask), reset)


def as_asked(ys: Any, call: Call) -> Any:
    """Outputs, time first in the order of the inputs, in the layout and the order that the call asks for."""

    def leaf(ys: Array) -> Array:
        if call.reverse and not call.keep_order:
            ys = flip(ys, call.seq_lengths)
        return ys if call.time_major else jnp.moveaxis(ys, 0, ys.ndim - call.feature_axes - 1)

    return jax.tree.map(leaf, ys)


def flip(xs: Array, seq_lengths: ArrayLike | None) -> Array:
    """The steps ``[T, *batch, ...]`` of each sequence from its last to its first, its padding still at the end."""
    if seq_lengths is None:
        return jnp.flip(xs, axis=0)
    lengths = jnp.asarray(seq_lengths).astype(jnp.int32)
    times = jnp.arange(xs.shape[0], dtype=lengths.dtype).reshape(-1, *(1 for _ in lengths.shape))
    source = (lengths[None] - 1 - times) % max(xs.shape[0], 1)
    return jnp.take_along_axis(xs, source.reshape(*source.shape, *(1,) * (xs.ndim - source.ndim)), axis=0)


def is_static(function: object) -> bool:
    """Whether a function may be an option of a cell of the core: hashable, and closed over no array."""
    cells = getattr(function, "__closure__", None) or ()
    arrays = any(isinstance(leaf, jax.Array) for cell in cells for leaf in jax.tree.leaves(cell.cell_contents))
    return isinstance(function, Hashable) and not arrays


class CoreRun(NamedTuple):
    """A cell of the core over a sequence, for Flax."""

    cell: Cell
    params: Params
    steps: Steps
    carry: Carry
    dtype: Any  # of the computation
    reverse: bool
    unroll: int | None
    remat: bool | int | str | None


def core_run(
    cell: Cell,
    params: Params,
    steps: Steps,
    initial_carry: Any,
    *,
    dtype: DTypeLike | None,
    reverse: bool,
    unroll: int | None,
    remat: bool | int | str | None,
) -> CoreRun:
    """Check Flax's carry, and choose the dtype to compute in: `dtype`, None meaning what all the arrays promote to."""
    input_size, batch_shape = params.w_ih.shape[0], steps.inputs.shape[1:-1]
    if steps.inputs.shape[-1] != input_size:
        _checks.reject("inputs", f"{input_size} features on the last axis, as the params", steps.inputs.shape[-1])
    carry = _core_carry(initial_carry, jax.eval_shape(lambda: cell.init_carry(params, batch_shape)))
    compute = compute_dtype((params, carry), steps.inputs.dtype) if dtype is None else jnp.dtype(dtype)
    return CoreRun(cell, params, steps, carry, compute, reverse, unroll, remat)


def run_on_core(*runs: CoreRun) -> list[tuple[Any, Array]]:
    """``(carry, ys)`` of each run, with Flax's carry, time first.

    Forward and backward over the same steps run together where they are alike. What comes out has the dtype that the
    computation and the carry promote to, as in Flax.
    """
    options = {(run.cell, run.dtype, run.unroll, run.remat) for run in runs}
    if len(options) > 1:
        return [result for run in runs for result in run_on_core(run)]
    ((cell, dtype, unroll, remat),) = options
    _checks.check_options(key=None, unroll=unroll, remat=remat, project_first=None)
    after, ys = _unroll.unroll_directions(
        cell,
        tuple(cast(run.params, dtype) for run in runs),
        runs[0].steps.inputs.astype(dtype),
        tuple(run.carry for run in runs),
        reverse=tuple(run.reverse for run in runs),
        key=(None,) * len(runs),
        lengths=None,
        mask=runs[0].steps.valid,
        reset=runs[0].steps.reset,
        start=_array_checks.start_array(0),
        unroll=unroll,
        remat=remat,
        project_first=None,
        evaluator=None,
    )
    return [_as_in_flax(*result) for result in zip(runs, after, ys, strict=True)]


def run_both(
    rnns: Sequence[Any],
    runs_on_core: Callable[[Any, Call], bool],
    begin: Callable[[int, Call, Steps], CoreRun],
    inputs: ArrayLike,
    **options: Any,
) -> list[tuple[Any, Any]] | None:
    """The carry and the outputs of a module that runs forward and of one that runs backward; None unless on the core.

    Args:
      rnns: the modules.
      runs_on_core: whether the core runs a call of a module.
      begin: what the core runs for the module of this number.
      inputs: of both.
      options: the other fields of `Call`.
    """
    calls = [
        Call(reverse=reverse, feature_axes=rnn.cell.num_feature_axes, **options)
        for rnn, reverse in zip(rnns, (False, True), strict=True)
    ]
    if not all(map(runs_on_core, rnns, calls)):
        return None
    steps = time_first(inputs, calls[0])
    results = run_on_core(*(begin(index, call, steps) for index, call in enumerate(calls)))
    return [(carry, as_asked(ys, call)) for (carry, ys), call in zip(results, calls, strict=True)]


def _as_in_flax(run: CoreRun, after: Carry, ys: Array) -> tuple[Any, Array]:
    after = jax.tree.map(lambda leaf, before: leaf.astype(compute_dtype(before, run.dtype)), after, run.carry)
    return _flax_carry(after), ys.astype(compute_dtype(run.carry.h, run.dtype))


def _core_carry(carry: Any, template: Carry) -> Carry:
    """Flax's carry, (c, h) or h alone, as the core's, once it fits."""
    if isinstance(template, LSTMCarry):
        _checks.check_tuple("initial_carry", carry, 2, "c, h")
        c, h = (_carry_array(f"initial_carry[{i}]", leaf, template.h.shape) for i, leaf in enumerate(carry))
        return LSTMCarry(h=h, c=c)
    return RNNCarry(h=_carry_array("initial_carry", carry, template.h.shape))


def _flax_carry(carry: Carry) -> Any:
    return (carry.c, carry.h) if isinstance(carry, LSTMCarry) else carry.h


def _carry_array(name: str, value: Any, shape: tuple[int, ...]) -> Array:
    array = _array_checks.float_array(name, value, 0, "")
    if array.shape != shape:
        _checks.reject(name, f"shape {shape}", array.shape)
    return array


def _seq_lengths(lengths: ArrayLike, batch_shape: tuple[int, ...], steps: int) -> Int[Array, "*batch"]:
    """Integers of the batch's shape, within 0..T: an error outside jit, clamped inside."""
    array = jnp.asarray(lengths)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        _checks.reject("seq_lengths", f"an integer array of shape {batch_shape}", _checks.describe(array), TypeError)
    if array.shape != batch_shape:
        _checks.reject("seq_lengths", f"shape {batch_shape}", array.shape)
    if not isinstance(array, Tracer):
        values = np.asarray(array)  # else, inside jit, these would be operations of the program
        low, high = values.min(initial=0), values.max(initial=0)
        if low < 0 or high > steps:
            _checks.reject("seq_lengths", f"values in 0..{steps} (the number of steps in inputs)", f"{low}..{high}")
    return jnp.clip(array.astype(jnp.int32), 0, steps)  # 8 bits may not hold the steps
