"""Everything that a cell or a network computes on its way through a sequence, from one run of `unroll`.

The cells run with a readout that returns y and the carry. The gates of all steps are then computed at once from the
carry that each step was given.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool

from jaxlstm import _array_checks, _checks
from jaxlstm._arrays import lead_shape, select
from jaxlstm._cell import C, Cell, P
from jaxlstm._dtypes import at_least_float32, cast, cast_like, compute_dtype
from jaxlstm._layers import Bidirectional
from jaxlstm._network import Network, Options, check_network
from jaxlstm._random import Key, times
from jaxlstm._sharding import match_varying, with_automatic_axes
from jaxlstm._stack import Stack
from jaxlstm._step import Carry, Inputs, Output, Params, apply_reset, draw_noise, preactivations, without_masked
from jaxlstm._unroll import unroll, valid_steps
from jaxlstm._wavefront import lowered_for
from jaxlstm._wrapper import CellWrapper


class Trace(NamedTuple):
    """A run of a cell, time first, in its named tuples: ``[*batch, H]`` at a step is ``[T, *batch, H]`` here."""

    ys: Output  # the outputs; zeros at masked steps
    carry: Carry  # after each step; held at masked steps
    before: Carry  # the carry that each step was given, after a reset
    gates: Any  # Gates(i, f, g, o), GRUGates(r, z, n), ..., or None for a cell that names none; zeros at masked steps


def trace(
    network: Network[P, C] | Cell[P, C],
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
) -> tuple[C, Any]:
    """Run a cell or a network over a sequence as `unroll` does, and record every gate, candidate and carry.

    Args:
      network: a `Network` or a cell. Gates are recorded of cells whose `gates` returns them.
      params: its params.
      xs: inputs ``[T, *batch, I]``.
      carry: the carry before the first step; None means the network's own.
      lengths: integers ``[*batch]``: only the first steps count.
      mask: bool ``[T, *batch]``: False skips the step.
      reset: bool ``[T, *batch]``: True where a new sequence begins.
      reverse: for a cell, run from the last step to the first. The layers of a network have their own direction.
      key: a PRNG key for what is drawn in training; None means evaluation.
      start: the absolute time of ``xs[0]``.

    Returns:
      ``(carry, trace)``: the carry after the last step, and for a cell or a `Layer` a `Trace`. For a `Bidirectional` it
      is a pair (forward, backward) of traces, for a `Stack` a tuple with what each layer gives, bottom first.

    Raises:
      ValueError, TypeError: if an argument does not fit; the message names it.

    >>> from jaxlstm.inspect import trace
    >>> cell = jl.LSTMCell(4)
    >>> carry, seen = trace(cell, cell.init(jax.random.key(0), input_size=3), jnp.ones((5, 2, 3)))
    >>> gates = seen.gates
    >>> gates.f.shape, seen.carry.c.shape
    ((5, 2, 4), (5, 2, 4))
    >>> bool(jnp.allclose(seen.carry.c, gates.f * seen.before.c + gates.i * gates.g))
    True
    """
    check_network(network)
    if key is not None:
        _checks.check_key(key)
    start = _array_checks.start_array(start)
    if isinstance(network, Network):
        if reverse:
            _checks.reject("reverse", "False for a network, whose layers have their own direction", reverse)
        more = {"unroll": None, "remat": None, "project_first": None, "evaluator": "loop"}
        return _trace_network(network, params, xs, carry, Options(lengths, mask, reset, key, start, **more))
    options = {"lengths": lengths, "mask": mask, "reset": reset, "reverse": reverse, "key": key, "start": start}
    return _trace_cell(network, params, xs, carry, **options)


def _trace_network(
    network: Network, params: Params, xs: ArrayLike, carry: Carry | None, options: Options
) -> tuple[Carry, Any]:
    """`trace` of a network."""
    traces: list[Trace] = []

    def run_cell(
        cell: Cell,
        params: tuple[Params, ...],
        xs: ArrayLike,
        carry: tuple[Carry | None, ...],
        *,
        reverse: tuple[bool, ...],
        key: tuple[Key | None, ...],
        **options: Any,
    ) -> tuple[tuple[Carry, ...], tuple[Array, ...]]:
        each = zip(params, carry, reverse, key, strict=True)
        seen = [_trace_cell(cell, p, xs, c, reverse=back, key=k, **options) for p, c, back, k in each]
        traces.extend(of_direction for _, of_direction in seen)
        return tuple(after for after, _ in seen), tuple(of_direction.ys for _, of_direction in seen)

    xs = _array_checks.input_array("xs", xs, network.spatial_shape)
    with lowered_for("cpu"):  # where each layer has a loop of its own
        after, _ = network._apply(params, xs, carry, options, run_cell)
    return after, _nest(network, iter(traces))


def _nest(network: Network, traces: Iterator[Trace]) -> Any:
    """The traces of a network's cells, in the order they ran, nested as its layers are."""
    if isinstance(network, Stack):
        return tuple(_nest(layer, traces) for layer in network.layers)
    return (next(traces), next(traces)) if isinstance(network, Bidirectional) else next(traces)


def _trace_cell(
    cell: Cell,
    params: Params,
    xs: ArrayLike,
    carry: Carry | None,
    *,
    lengths: ArrayLike | None,
    mask: ArrayLike | None,
    reset: ArrayLike | None,
    reverse: bool,
    key: Key | None,
    start: Array,
    **loop: Any,
) -> tuple[Carry, Trace]:
    options = {"lengths": lengths, "mask": mask, "reset": reset, "key": key, "start": start}
    last, shown = unroll(ShowCarry(cell), params, xs, carry, reverse=reverse, **options, **loop)
    xs = jnp.asarray(xs)
    lead = lead_shape(xs, cell.spatial_shape)
    valid = valid_steps(lead[0], lead[1:], lengths=lengths, mask=mask)
    valid = jnp.ones(lead, bool) if valid is None else valid
    reset = jnp.zeros_like(valid) if reset is None else jnp.asarray(reset)
    params, carry = jax.tree.map(jnp.asarray, (params, carry))
    return last, _complete(params, xs, carry, shown, valid, reset, key, start, cell=cell, reverse=reverse)


class Shown(NamedTuple):
    """The outputs of a cell, and its carries after each step."""

    y: Any
    carry: Carry


@dataclass(frozen=True, repr=False)
class ShowCarry(CellWrapper[P, C]):
    """A cell whose output is `Shown`."""

    cell: Cell[P, C]

    def readout(self, params: P, carry: C) -> Shown:
        """y of the cell inside, and its carry."""
        return Shown(self.cell.readout(params, carry), carry)


@partial(jax.jit, static_argnames=("cell", "reverse"))
def _complete(
    params: Params,
    xs: Array,
    carry: Carry | None,
    shown: Shown,
    valid: Bool[Array, "T *batch"],
    reset: Bool[Array, "T *batch"],
    key: Key | None,
    start: Array,
    *,
    cell: Cell,
    reverse: bool,
) -> Trace:
    """The trace of a run whose outputs and carries are zero at masked steps: carries held there, and the gates."""
    batch_shape = valid.shape[1:]

    def complete(
        params: Params,
        xs: Array,
        carry: Carry | None,
        shown: Shown,
        valid: Array,
        reset: Array,
        key: Key | None,
        start: Array,
    ) -> Any:
        dtype = compute_dtype(params, xs.dtype)
        params = cast(params, dtype)
        initial = cell.init_carry(params, batch_shape, dtype=dtype)
        first = initial if carry is None else cast_like(carry, initial)
        initial, first = match_varying((initial, first), params, xs, shown, valid, reset)
        carries, before = _hold(shown.carry, valid, reset, initial, first, reverse=reverse)
        noise = jax.vmap(lambda time: draw_noise(cell, key, time, initial, batch_shape))(times(start, xs.shape[0]))
        inputs = Inputs(without_masked(xs, valid).astype(dtype), None, None, noise)
        gates = jax.vmap(partial(_gates, cell, params))(before, inputs)
        return (), (carries, before, select(valid, gates, jax.tree.map(jnp.zeros_like, gates)))

    divided = with_automatic_axes(complete, len(batch_shape))
    _, (carries, before, gates) = divided(params, xs, carry, shown, valid, reset, key, start)
    return Trace(shown.y, carries, before, gates)


def _hold(
    after: Carry, valid: Array, reset: Array, initial: Carry, first: Carry, *, reverse: bool
) -> tuple[Carry, Carry]:
    """The carries after and before each step, held at masked steps and reset."""
    edges = jnp.concatenate([reset[1:], jnp.zeros_like(reset[:1])]) if reverse else reset

    def step(carry: Carry, now: tuple[Carry, Array, Array]) -> tuple[Carry, tuple[Carry, Carry]]:
        after, valid, edge = now
        before = apply_reset(Inputs(valid, valid, edge, None), initial, carry)
        carry = select(valid, after, before)
        return carry, (carry, before)

    return jax.lax.scan(step, first, (after, valid, edges), reverse=reverse)[1]


def _gates(cell: Cell, params: Params, before: Carry, inputs: Inputs) -> Any:
    """The gates of one step."""
    z = preactivations(cell, params, before, inputs)
    noise = () if inputs.noise is None else (inputs.noise,)
    return cell.gates(*cast((params, z, before), at_least_float32(inputs.x.dtype)), *noise)
