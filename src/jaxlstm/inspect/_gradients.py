"""Gradients of a loss in every carry, and of an output in every input."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Inexact, Int

from jaxlstm import _array_checks, _checks
from jaxlstm._arrays import lead_shape, select
from jaxlstm._cell import C, Cell, P
from jaxlstm._dtypes import at_least_float32, compute_dtype
from jaxlstm._flat import size_of, unflatten
from jaxlstm._layers import Layer
from jaxlstm._network import Network, check_network
from jaxlstm._step import Carry, Params
from jaxlstm._templates import check_differentiable, check_params
from jaxlstm._unroll import unroll, valid_steps
from jaxlstm.inspect._perturbed import PerturbedCell


def gradient_flow(
    cell: Cell[P, C],
    params: P,
    xs: ArrayLike,
    carry: C | None = None,
    *,
    loss: Callable[[Carry, Array], Array],
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
) -> C:
    """How much of a loss reaches each earlier carry: the norm of its gradient against the lag.

        || d loss / d h_t ||    || d loss / d c_t ||        t = last - lag

    h_t and c_t are the two parts of the carry that step t+1 starts from. Each gradient is taken with the other part
    fixed: d loss / d c_t goes back through c_{t+1} and its gates, but not through h_t = o_t tanh(c_t).

    Args:
      cell: the recurrence.
      params: its params.
      xs: inputs ``[T, *batch, I]``.
      carry: the carry before the first step; None means the cell's own.
      loss: ``loss(carry, ys) -> scalar``, of what `unroll` returns.
      lengths: integers ``[*batch]``: only the first steps count, and lag 0 is the last step of each sequence.
      mask: bool ``[T, *batch]``: False skips the step, whose norm is then zero.
      reset: bool ``[T, *batch]``: True where a new sequence begins.

    Returns:
      The norms ``[T, *batch]`` of each part in the cell's carry, such as ``LSTMCarry(h, c)``, lag 0 first, and zero for
      lags that reach before the first step.

    Raises:
      ValueError, TypeError: if an argument does not fit; the message names it.

    >>> from jaxlstm.inspect import gradient_flow
    >>> cell = jl.RNNCell(4)
    >>> params, xs = cell.init(jax.random.key(0), input_size=3), jnp.ones((20, 3))
    >>> flow = gradient_flow(cell, params, xs, loss=lambda carry, ys: ys[-1].sum())
    >>> flow.h.shape, bool(flow.h[19] < flow.h[0])
    ((20,), True)
    """
    _checks.check_cell(cell, Cell)
    _checks.check_callable("loss", loss)
    xs = _array_checks.input_array("xs", xs, cell.spatial_shape)
    lead = lead_shape(xs, cell.spatial_shape)
    params, first = check_params(cell, params, lead[1:], xs, "xs")
    check_differentiable(first)
    xs = xs.astype(compute_dtype(params, xs.dtype))
    run = partial(
        unroll, PerturbedCell(cell, xs.shape[-1]), params, carry=carry, lengths=lengths, mask=mask, reset=reset
    )

    def perturbed_loss(perturbations: Array) -> Array:
        value = loss(*run(xs=jnp.concatenate([_features(xs, lead), perturbations], axis=-1)))
        if jnp.shape(value):
            _checks.reject("loss", "a function that returns a scalar", _checks.describe(value))
        return value

    none = jnp.zeros((*lead, size_of(first, len(lead) - 1)), xs.dtype)
    gradients = unflatten(jax.grad(perturbed_loss)(none), first, len(lead) - 1)
    last = _last_step(lead, lengths, mask)
    return jax.tree.map(lambda gradient: _by_lag(_norm(gradient, len(lead)), last), gradients)


def input_contributions(
    network: Network | Cell,
    params: Params,
    xs: ArrayLike,
    carry: Carry | None = None,
    *,
    output: Callable[[Array], Array],
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
) -> Float[Array, "T *batch"]:
    """How much each input position contributes to one output, as gradient times input.

        a_t = x_t . d output(y_last) / d x_t        y_last: y of the last step that counts

    To first order, a_t is how much the output would fall if x_t were zero. The a_t add up to the output only if it is
    linear in xs and zero at xs = 0.

    Args:
      network: a `Network` or a cell, whose output is one array.
      params: its params.
      xs: inputs ``[T, *batch, I]``.
      carry: the carry before the first step; None means the network's own.
      output: ``output(y_last [*batch, O]) -> [*batch]``: one number for each sequence, such as ``lambda y: y[..., 3]``.
      lengths: integers ``[*batch]``: only the first steps count.
      mask: bool ``[T, *batch]``: False skips the step.
      reset: bool ``[T, *batch]``: True where a new sequence begins.

    Returns:
      ``a [T, *batch]``, positive or negative, and zero at masked steps.

    Raises:
      ValueError, TypeError: if an argument does not fit; the message names it.

    Reference: Ancona et al. 2018, "Towards better understanding of gradient-based attribution methods", section 2.

    >>> from jaxlstm.inspect import input_contributions
    >>> cell = jl.LSTMCell(4)
    >>> params = cell.init(jax.random.key(0), input_size=3)
    >>> input_contributions(cell, params, jnp.ones((5, 2, 3)), output=lambda y: y[..., 0]).shape
    (5, 2)
    """
    _checks.check_callable("output", output)
    xs, lead, output_at_last_step = _output_at_last_step(network, params, xs, carry, lengths, mask, reset)

    def total(xs: Array) -> Array:
        value = output(output_at_last_step(xs))
        if jnp.shape(value) != lead[1:]:
            _checks.reject("output", f"a function from [*batch, O] to shape {lead[1:]}", _checks.describe(value))
        return value.sum()  # sequences do not depend on each other

    return _features(xs * jax.grad(total)(xs), lead).sum(-1)


def input_jacobian_norms(
    network: Network | Cell,
    params: Params,
    xs: ArrayLike,
    carry: Carry | None = None,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
) -> Float[Array, "T *batch"]:
    """How much the whole last output depends on each input: the Frobenius norm of its Jacobian.

        n_t = || d y_last / d x_t ||_F        y_last: y of the last step that counts

    Args:
      network: a `Network` or a cell, whose output is one array.
      params: its params.
      xs: inputs ``[T, *batch, I]``.
      carry: the carry before the first step; None means the network's own.
      lengths: integers ``[*batch]``: only the first steps count.
      mask: bool ``[T, *batch]``: False skips the step.
      reset: bool ``[T, *batch]``: True where a new sequence begins.

    Returns:
      ``n [T, *batch]``, zero at masked steps. All O rows of the Jacobian are computed at once.

    Raises:
      ValueError, TypeError: if an argument does not fit; the message names it.

    >>> from jaxlstm.inspect import input_jacobian_norms
    >>> cell = jl.GRUCell(4)
    >>> params = cell.init(jax.random.key(0), input_size=3)
    >>> input_jacobian_norms(cell, params, jnp.ones((5, 2, 3)), lengths=jnp.array([5, 2]))[2:, 1]
    Array([0., 0., 0.], dtype=float32)
    """
    xs, lead, output_at_last_step = _output_at_last_step(network, params, xs, carry, lengths, mask, reset)
    y, transpose = jax.vjp(output_at_last_step, xs)
    features = y.shape[len(lead) - 1 :]
    rows = jnp.eye(math.prod(features), dtype=y.dtype).reshape(-1, *features)
    jacobian = jax.vmap(lambda row: transpose(jnp.broadcast_to(row, y.shape))[0])(rows)
    return _norm(jnp.moveaxis(jacobian, 0, len(lead)), len(lead))


def _output_at_last_step(
    network: Network | Cell,
    params: Params,
    xs: ArrayLike,
    carry: Carry | None,
    lengths: ArrayLike | None,
    mask: ArrayLike | None,
    reset: ArrayLike | None,
) -> tuple[Array, tuple[int, ...], Callable[[Array], Array]]:
    """The inputs, zero at masked steps; (T, *batch); the function from inputs to the last outputs that count."""
    check_network(network)
    network = network if isinstance(network, Network) else Layer(network)
    inputs = _array_checks.input_array("xs", xs, network.spatial_shape)
    if not inputs.shape[0]:
        _checks.reject("xs", "at least one step", _checks.describe(inputs))
    lead = lead_shape(inputs, network.spatial_shape)
    last = _last_step(lead, lengths, mask)
    valid = valid_steps(lead[0], lead[1:], lengths=lengths, mask=mask)
    if valid is not None:
        inputs = select(valid, inputs, jnp.zeros_like(inputs))  # NaN in the padding times a zero gradient is NaN

    def output_at_last_step(xs: Array) -> Array:
        _, ys = network.apply(params, xs, carry, lengths=lengths, mask=mask, reset=reset)
        if not isinstance(ys, Array):
            _checks.reject("network", "a network whose output is one array", _checks.describe(ys), TypeError)
        where = jnp.maximum(last, 0).reshape(1, *last.shape, *(1,) * (ys.ndim - 1 - last.ndim))
        return jnp.take_along_axis(ys, where, axis=0)[0]

    return inputs, lead, output_at_last_step


def _features(xs: Array, lead: tuple[int, ...]) -> Float[Array, "*lead F"]:
    """The inputs with their spatial axes and features as one axis. A size of -1 would fail for an empty batch."""
    return xs.reshape(*lead, math.prod(xs.shape[len(lead) :]))


def _last_step(lead: tuple[int, ...], lengths: ArrayLike | None, mask: ArrayLike | None) -> Int[Array, "*batch"]:
    """The last step that counts in each sequence; -1 where none does."""
    steps, *batch = lead
    valid = valid_steps(steps, tuple(batch), lengths=lengths, mask=mask)
    if valid is None:
        return jnp.full(batch, steps - 1)
    times = jnp.arange(steps).reshape(steps, *(1 for _ in batch))
    return jnp.max(jnp.where(valid, times, -1), axis=0, initial=-1)


def _by_lag(values: Float[Array, "T *batch"], last: Int[Array, "*batch"]) -> Float[Array, "T *batch"]:
    """The value at step last - lag for each lag; zero before the first step."""
    lags = jnp.arange(values.shape[0], dtype=last.dtype).reshape(-1, *(1 for _ in last.shape))
    steps = last[None] - lags
    found = jnp.take_along_axis(values, jnp.maximum(steps, 0), axis=0)
    return jnp.where(steps >= 0, found, jnp.zeros_like(found))


def _norm(values: Inexact[Array, "..."], lead: int) -> Float[Array, "*lead"]:
    """The Euclidean norm over all but so many leading axes, in at least float32."""
    flat = values.reshape(*values.shape[:lead], math.prod(values.shape[lead:]))
    return jnp.linalg.norm(flat.astype(at_least_float32(values.dtype)), axis=-1)
