"""`unroll`, a cell over a whole sequence: its arguments and their preconditions."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool

from jaxlstm import _array_checks, _checks
from jaxlstm._arrays import lead_shape
from jaxlstm._cell import C, Cell, P
from jaxlstm._directions import Directions
from jaxlstm._evaluators import evaluator_of
from jaxlstm._random import Key
from jaxlstm._run import run_checked
from jaxlstm._sharding import spans_devices
from jaxlstm._step import Carry, Output, Params
from jaxlstm._templates import check_params


def unroll(
    cell: Cell[P, C],
    params: P,
    xs: ArrayLike,
    carry: C | None = None,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    reverse: bool = False,
    key: Key | None = None,
    start: ArrayLike = 0,
    unroll: int | None = None,
    remat: bool | int | str | None = None,
    project_first: bool | None = None,
    evaluator: str | None = None,
) -> tuple[C, Output]:
    """Run a cell over a sequence: ``carry, y_t = cell.step(params, carry, x_t)`` for t = 0 .. T-1.

    Padded and masked steps hold the carry and give zero ys. Values in the padding, NaN included, reach neither an
    output nor a gradient. A sequence of length 0 returns the carry that came in. The whole sequence, any split of it
    with the carry handed on, and single steps give the same numbers.

    Args:
      cell: the recurrence, such as ``LSTMCell(128)``.
      params: its params, as ``cell.init`` makes them.
      xs: inputs, time first: ``[T, *batch, I]``, with any number of batch axes. Those of a `ConvLSTMCell` have its
        spatial axes between batch and I.
      carry: the carry before the first step; None means ``cell.init_carry(params, batch_shape)``.
      lengths: integers ``[*batch]``: only the first ``lengths`` steps count. Values outside 0..T are an error. Inside
        jit, where values are not known, they act as 0 or T.
      mask: bool ``[T, *batch]``: False skips the step. With `lengths`, a step counts where both say so.
      reset: bool ``[T, *batch]``: True where a new sequence begins. Nothing crosses the edge between steps t-1 and t.
        Forward, step t starts from ``cell.init_carry(params)``, never from `carry`. With `reverse`, step t-1 does, and
        a reset at step 0 makes the last carry an initial one. A reset on a masked step still resets. In a replay buffer
        ``done`` is True at the last step of an episode, so reset[t] = done[t-1].
      reverse: run from the last step to the first. The order of ys is that of xs.
      key: a PRNG key for cells that draw at random in training; None means evaluation.
      start: the absolute time of ``xs[0]``. Step t draws from ``start + t``, so a sequence may be cut anywhere.
      unroll: the number of steps in a loop iteration, as in `jax.lax.scan`. None: what is best on the platform. That is
        1 on CPU and where T is symbolic, and elsewhere the largest divisor of T from 16 down to 4, else 16.
      remat: what to keep for the backward pass. None: what it needs of every step. True: only the carries; each step is
        computed again. A chunk length: only the carries between chunks. "sqrt": chunks of about sqrt(T) steps, so that
        memory, apart from xs, ys and their gradients, grows as sqrt(T). Chunks need a T that is known, not symbolic.
      project_first: where to apply the input weights. True: to all inputs before the loop, in one matmul. False: in
        each step, which takes less memory. None: before the loop, but on CPU in each step, unless the batch is one
        sequence ``[T, 1, I]`` and the weight matrices take 2 MB or more. The results differ by rounding only.
      evaluator: how the steps are evaluated; the results differ by rounding only. "loop": one after the other, for any
        cell. "associative": all at once, in a tree of depth log2(T), for a `LinearCell`. "chunkwise": the steps of a
        chunk at once, 64 or as many as `remat` says, for an `MLSTMCell`. "newton": all at once, by Newton's method,
        which is experimental: for cells that forget, see `jaxlstm.inspect.newton_converges`. Where it does not
        converge, the loop runs, with a warning. None: what is best on the platform. That is the loop on CPU, and
        elsewhere an associative scan where it is possible.

    Returns:
      ``(carry, ys)``: the carry after the last step, and the outputs ``[T, *batch, O]``, or the tree of arrays that the
      cell's `readout` returns, with a leading axis T.

    Raises:
      ValueError, TypeError: if an argument does not fit; the message names it, what was expected and what came.

    >>> cell = jl.GRUCell(hidden_size=4)
    >>> params = cell.init(jax.random.key(0), input_size=3)
    >>> carry, ys = jl.unroll(cell, params, jnp.ones((5, 2, 3)), lengths=jnp.array([5, 2]))
    >>> ys.shape, bool((ys[2:, 1] == 0).all())
    ((5, 2, 4), True)
    """
    _checks.check_flag("reverse", reverse)
    _checks.check_options(key=key, unroll=unroll, remat=remat, project_first=project_first, evaluator=evaluator)
    (after,), (ys,) = unroll_directions(
        cell,
        (params,),
        xs,
        (carry,),
        reverse=(reverse,),
        key=(key,),
        lengths=lengths,
        mask=mask,
        reset=reset,
        start=_array_checks.start_array(start),
        unroll=unroll,
        remat=remat,
        project_first=project_first,
        evaluator=evaluator,
    )
    return after, ys


def unroll_directions(
    cell: Cell[P, C],
    params: tuple[P, ...],
    xs: ArrayLike,
    carry: tuple[C | None, ...],
    *,
    reverse: Directions,
    key: tuple[Key | None, ...],
    lengths: ArrayLike | None,
    mask: ArrayLike | None,
    reset: ArrayLike | None,
    start: Array,
    unroll: int | None,
    remat: bool | int | str | None,
    project_first: bool | None,
    evaluator: str | None,
) -> tuple[tuple[C, ...], tuple[Output, ...]]:
    """`unroll` in one or both directions, with the params, the carry and the key of each.

    Forward and backward run in one loop where that is best on the platform. They have a loop each where the params
    differ in shapes or dtypes, where a carry holds integers, and where the batch is divided among devices.
    """
    _checks.check_cell(cell, Cell)
    xs = _array_checks.input_array("xs", xs, cell.spatial_shape)
    steps, *batch = lead_shape(xs, cell.spatial_shape)
    checked = []
    for back, of_direction in zip(reverse, zip(params, carry, strict=True), strict=True):
        with _checks.noting(f"In the {'backward' if back else 'forward'} direction" * (len(reverse) > 1)):
            checked.append(_check_trees(cell, *of_direction, tuple(batch), xs))
    params, carry, firsts = zip(*checked, strict=True)
    if reset is not None:
        reset = _array_checks.bool_array("reset", reset, (steps, *batch))
    valid = valid_steps(steps, tuple(batch), lengths=lengths, mask=mask)
    static = {
        "cell": cell,
        "unroll": _steps_per_iteration(unroll, steps),
        "remat": chunk_length(remat, steps),
        "project_first": project_first,
        "batch_first": spans_devices(xs),
        "evaluator": evaluator_of(cell, evaluator, steps, firsts[0]),
    }
    if len(reverse) == 1 or fit_one_loop(params, firsts, xs):
        return run_checked(params, xs, carry, valid, reset, key, start, reverse=reverse, **static)
    each = zip(params, carry, key, reverse, strict=True)
    runs = [run_checked((p,), xs, (c,), valid, reset, (k,), start, reverse=(back,), **static) for p, c, k, back in each]
    return tuple(after for (after,), _ in runs), tuple(ys for _, (ys,) in runs)


def _check_trees(
    cell: Cell[P, C], params: P, carry: C | None, batch: tuple[int, ...], xs: Array
) -> tuple[P, C | None, C]:
    """The params and the carry of a direction, checked, and the shapes of the carry."""
    params, first = check_params(cell, params, batch, xs, "xs")
    if carry is not None:
        carry = _array_checks.like_template("carry", carry, first, f"for xs of shape {xs.shape}")
    return params, carry, first


def fit_one_loop(params: tuple[Params, ...], carry: tuple[Carry, ...], xs: Array) -> bool:
    """Whether both directions can run in one loop."""
    kinds = [jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), given) for given in params]
    floats = (jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(carry))
    return kinds[0] == kinds[1] and all(floats) and not spans_devices(xs)


def valid_steps(
    steps: int, batch_shape: tuple[int, ...], *, lengths: ArrayLike | None, mask: ArrayLike | None
) -> Bool[Array, "T *batch"] | None:
    """True where a step counts: before its sequence's length, and where the mask says so. None where all do."""
    valid = None
    if mask is not None:
        valid = _array_checks.bool_array("mask", mask, (steps, *batch_shape))
    if lengths is not None:
        time = jnp.arange(steps).reshape(steps, *(1 for _ in batch_shape))
        within = time < _array_checks.length_array(lengths, batch_shape, steps).astype(time.dtype)[None]
        valid = within if valid is None else within & valid
    return valid


def _steps_per_iteration(unroll: int | None, steps: int) -> int | None:
    if unroll is None:
        return None
    if unroll != 1 and not isinstance(steps, int):
        _checks.reject("unroll", "1 where the number of steps is symbolic", unroll)
    return int(unroll)


def chunk_length(remat: bool | int | str | None, steps: int) -> bool | int:
    """`remat` as True, False, or a number of steps."""
    if remat is None or isinstance(remat, bool):
        return bool(remat)
    if not isinstance(steps, int):
        _checks.reject("remat", "None or True where the number of steps is symbolic", repr(remat))
    return max(math.isqrt(steps), 1) if isinstance(remat, str) else int(remat)
