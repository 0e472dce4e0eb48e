"""How a step stretches and turns the carry: its Jacobian, largest singular values, Lyapunov exponents.

Here the carry is one vector of S numbers, its parts side by side: h of an RNN or GRU (S = H), h and then c of an LSTM
(S = 2H); a complex part is its real parts and then its imaginary ones. Everything is computed in at least float32.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from jaxlstm import _array_checks, _checks
from jaxlstm._arrays import lead_shape, select
from jaxlstm._cell import Cell
from jaxlstm._dtypes import at_least_float32, cast, compute_dtype
from jaxlstm._flat import flatten, size_of
from jaxlstm._step import Carry, Params
from jaxlstm._templates import check_differentiable
from jaxlstm._unroll import valid_steps
from jaxlstm.inspect._flat import step_of_vector
from jaxlstm.inspect._trace import trace


def step_jacobians(
    cell: Cell,
    params: Params,
    xs: ArrayLike,
    carry: Carry | None = None,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
) -> Float[Array, "T *batch S S"]:
    """The Jacobian of every step in the carry, at the carries of the run.

        J_t = d carry_t / d carry_{t-1}        J_t[a, b] = d carry_t[a] / d carry_{t-1}[b]

    Their product J_{T-1} .. J_1 J_0 is d carry_{T-1} / d carry, for the initial carry.

    Args:
      cell: the recurrence.
      params: its params.
      xs: inputs ``[T, *batch, I]``.
      carry: the carry before the first step; None means the cell's own.
      lengths: integers ``[*batch]``: only the first steps count. The others hold the carry: their J is the identity.
      mask: bool ``[T, *batch]``: False skips the step, whose J is the identity.
      reset: bool ``[T, *batch]``: where a new sequence begins, J is zero.

    Returns:
      ``[T, *batch, S, S]``: S squared numbers for each step of each sequence.

    Raises:
      ValueError, TypeError: if an argument does not fit; the message names it.

    >>> from jaxlstm.inspect import step_jacobians
    >>> cell = jl.LSTMCell(4)
    >>> step_jacobians(cell, cell.init(jax.random.key(0), input_size=3), jnp.ones((5, 3))).shape
    (5, 8, 8)
    """
    _checks.check_cell(cell, Cell)
    _, seen = trace(cell, params, xs, carry, lengths=lengths, mask=mask, reset=reset)
    check_differentiable(seen.before)
    xs = jnp.asarray(xs)
    jacobians = _jacobians(cell, *_wide(params, xs, seen.before))
    lead = lead_shape(xs, cell.spatial_shape)
    valid = valid_steps(lead[0], lead[1:], lengths=lengths, mask=mask)
    if valid is not None:
        identity = jnp.broadcast_to(jnp.eye(jacobians.shape[-1], dtype=jacobians.dtype), jacobians.shape)
        jacobians = select(valid, jacobians, identity)
    return jacobians if reset is None else select(jnp.asarray(reset), jnp.zeros_like(jacobians), jacobians)


def largest_singular_values(jacobians: Float[ArrayLike, "*lead S S"]) -> Float[Array, "*lead"]:
    """The most that each step can stretch a small difference of carries: max ||J v|| / ||v||.

    Below 1, every difference shrinks.

    Args:
      jacobians: as `step_jacobians` makes them, ``[T, *batch, S, S]``.

    Returns:
      One number for each matrix, ``[T, *batch]``.

    Raises:
      ValueError, TypeError: if the argument does not fit; the message says how.

    >>> from jaxlstm.inspect import largest_singular_values
    >>> largest_singular_values(jnp.diag(jnp.array([0.5, -2.0]))[None])
    Array([2.], dtype=float32)
    """
    jacobians = _array_checks.float_array("jacobians", jacobians, 2, "[*, S, S]")
    if jacobians.shape[-1] != jacobians.shape[-2]:
        _checks.reject("jacobians", "an array [*, S, S]", _checks.describe(jacobians))
    return jnp.linalg.svd(jacobians.astype(at_least_float32(jacobians.dtype)), compute_uv=False)[..., 0]


def lyapunov_exponents(
    cell: Cell,
    params: Params,
    xs: ArrayLike,
    carry: Carry | None = None,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> Float[Array, "*batch S"]:
    """The mean rates at which small differences of carries grow or shrink along a sequence, by QR decompositions.

        Q_t R_t = J_t Q_{t-1}    Q_{-1} = 1        exponent_k = mean over t of log |R_t[k, k]|        (nats a step)

    The largest is below 0 where the network forgets where it started, near 0 where it remembers, above 0 where it is
    chaotic. These are the exponents of this finite sequence, transient included. No Jacobian is kept.

    Args:
      cell: the recurrence.
      params: its params.
      xs: inputs ``[T, *batch, I]``.
      carry: the carry before the first step; None means the cell's own.
      lengths: integers ``[*batch]``: only the first steps count.
      mask: bool ``[T, *batch]``: False skips the step.

    Returns:
      ``[*batch, S]``, the largest first; -infinity for a direction that a step forgets entirely, NaN if no step counts.

    Raises:
      ValueError, TypeError: if an argument does not fit; the message names it.

    References: Benettin et al. 1980; for recurrent networks, Vogt et al. 2022 ("On Lyapunov exponents for RNNs").

    >>> from jaxlstm.inspect import lyapunov_exponents
    >>> cell = jl.GRUCell(4)
    >>> exponents = lyapunov_exponents(cell, cell.init(jax.random.key(0), input_size=3), jnp.ones((50, 3)))
    >>> exponents.shape, bool(exponents[0] < 0)
    ((4,), True)
    """
    _checks.check_cell(cell, Cell)
    _, seen = trace(cell, params, xs, carry, lengths=lengths, mask=mask)
    check_differentiable(seen.before)
    xs = jnp.asarray(xs)
    lead = lead_shape(xs, cell.spatial_shape)
    valid = valid_steps(lead[0], lead[1:], lengths=lengths, mask=mask)
    valid = jnp.ones(lead, bool) if valid is None else valid
    return _exponents(cell, *_wide(params, xs, seen.before), valid)


@partial(jax.jit, static_argnames="cell")
def _exponents(
    cell: Cell, params: Params, xs: Array, before: Carry, valid: Bool[Array, "T *batch"]
) -> Float[Array, "*batch S"]:
    def step(now: tuple[Array, Array], here: tuple[Array, Carry, Array]) -> tuple[tuple[Array, Array], None]:
        q, total = now
        x, before, valid = here
        next_q, r = jnp.linalg.qr(_jacobians(cell, params, x, before) @ q)
        growth = jnp.log(jnp.abs(jnp.diagonal(r, axis1=-2, axis2=-1)))
        return select(valid, (next_q, total + growth), (q, total)), None

    size, lead = size_of(before, valid.ndim), valid.shape[1:]
    q = jnp.broadcast_to(jnp.eye(size, dtype=xs.dtype), (*lead, size, size))
    (_, total), _ = jax.lax.scan(step, (q, jnp.zeros((*lead, size), xs.dtype)), (xs, before, valid))
    return -jnp.sort(-total / valid.sum(0)[..., None].astype(xs.dtype))


@partial(jax.jit, static_argnames="cell")
def _jacobians(cell: Cell, params: Params, xs: Array, before: Carry) -> Float[Array, "*lead S S"]:
    """The Jacobian of one step for each of the leading axes."""

    def jacobian(x: Array, before: Carry) -> Array:
        return jax.jacfwd(step_of_vector(cell, params, x, before))(flatten(before, 0))

    for _ in lead_shape(xs, cell.spatial_shape):
        jacobian = jax.vmap(jacobian)
    return jacobian(xs, before)


def _wide(params: Params, xs: Array, before: Carry) -> tuple[Params, Array, Carry]:
    """All in one dtype of at least float32."""
    return cast((params, xs, before), at_least_float32(compute_dtype(params, xs.dtype)))
