"""Newton's method as an evaluator of a sequence: what it comes to, and whether that can be expected."""

from functools import partial

import jax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from jaxlstm import _array_checks, _checks
from jaxlstm._arrays import lead_shape
from jaxlstm._cell import Cell
from jaxlstm._dtypes import cast, compute_dtype
from jaxlstm._evaluators import evaluator_of
from jaxlstm._newton import NewtonReport, newton
from jaxlstm._run import begin
from jaxlstm._step import Carry, Params
from jaxlstm._templates import check_params
from jaxlstm._unroll import valid_steps

CONTRACTING = -0.1  # nats a step


def newton_report(
    cell: Cell,
    params: Params,
    xs: ArrayLike,
    carry: Carry | None = None,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
) -> NewtonReport:
    """Run Newton's method as ``unroll(..., evaluator="newton")`` does, and say how it went, without the loop.

    Args:
      cell: the recurrence.
      params: its params.
      xs: inputs ``[T, *batch, I]``.
      carry: the carry before the first step; None means the cell's own.
      lengths: integers ``[*batch]``: only the first steps count.
      mask: bool ``[T, *batch]``: False skips the step.
      reset: bool ``[T, *batch]``: True where a new sequence begins.

    Returns:
      For each sequence: the ``iterations``, at most 64; the ``residual``, the largest difference between a number of a
      carry and what its step gives, in rounding errors of that number; and whether it ``converged``: the residual is at
      most 32. Where a sequence of the batch did not, `unroll` runs the loop.

    Raises:
      ValueError, TypeError: if an argument does not fit; the message names it.

    >>> from jaxlstm.inspect import newton_report
    >>> cell = jl.GRUCell(4)
    >>> report = newton_report(cell, cell.init(jax.random.key(0), input_size=3), jnp.ones((50, 3)))
    >>> bool(report.converged), int(report.iterations) < 10
    (True, True)
    """
    _checks.check_cell(cell, Cell)
    xs = _array_checks.input_array("xs", xs, cell.spatial_shape)
    steps, *batch = lead_shape(xs, cell.spatial_shape)
    params, first = check_params(cell, params, tuple(batch), xs, "xs")
    evaluator_of(cell, "newton", steps, first)
    if carry is not None:
        carry = _array_checks.like_template("carry", carry, first, f"for xs of shape {xs.shape}")
    if reset is not None:
        reset = _array_checks.bool_array("reset", reset, (steps, *batch))
    valid = valid_steps(steps, tuple(batch), lengths=lengths, mask=mask)
    return _report(cell, params, xs, carry, valid, reset)


@partial(jax.jit, static_argnames="cell")
def _report(
    cell: Cell, params: Params, xs: Array, carry: Carry | None, valid: Array | None, reset: Array | None
) -> NewtonReport:
    params = cast(params, compute_dtype(params, xs.dtype))
    initial, carry, inputs = begin(cell, xs, valid, reset, _array_checks.start_array(0), params, carry, None, False)
    with jax.default_matmul_precision("highest"):
        return newton(cell, params, initial, carry, inputs, reverse=False)[1]


def newton_converges(exponents: Float[Array, "*batch S"]) -> Bool[Array, "*batch"]:
    """Predict whether Newton's method converges in few iterations, from what `lyapunov_exponents` returns.

    It mostly does where the largest exponent is below -0.1 nats a step: a difference of carries then falls to a tenth
    within 23 steps. Nearer to 0 it takes more iterations, or more than the 64 allowed, and above 0 up to T. This is a
    rule of thumb: exponents are means over the sequence, and a part of it that amplifies differences can need many
    iterations. It was wrong for an sLSTM, whose stabiliser is a maximum, so that its derivative jumps; see the table of
    ``benchmarks/newton.py``.

    Args:
      exponents: ``[*batch, S]``, the largest first.

    Returns:
      True for each sequence of which this is expected, ``[*batch]``.

    Raises:
      ValueError, TypeError: if the argument does not fit; the message says how.

    Reference: Gonzalez et al. 2025, "Predictability enables parallelization of nonlinear state space models".

    >>> from jaxlstm.inspect import lyapunov_exponents, newton_converges
    >>> cell = jl.GRUCell(4)
    >>> exponents = lyapunov_exponents(cell, cell.init(jax.random.key(0), input_size=3), jnp.ones((50, 3)))
    >>> bool(newton_converges(exponents))
    True
    """
    return _array_checks.float_array("exponents", exponents, 1, "[*batch, S]")[..., 0] < CONTRACTING
