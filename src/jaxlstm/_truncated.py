"""Truncated backpropagation through time: the values of the whole sequence, with a gradient over a few steps only."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from jaxlstm import _array_checks, _checks
from jaxlstm._arrays import lead_shape, select
from jaxlstm._cell import C, Cell, P
from jaxlstm._dtypes import cast_like, widen
from jaxlstm._layers import Bidirectional, Layer
from jaxlstm._network import Network, check_network
from jaxlstm._random import Key
from jaxlstm._sharding import match_varying, with_automatic_axes
from jaxlstm._stack import Stack
from jaxlstm._step import Carry, Output, Params
from jaxlstm._unroll import valid_steps


class Span(NamedTuple):
    """Consecutive steps of the inputs, and the absolute time of the first."""

    xs: Float[Array, "T *batch I"]
    mask: Bool[Array, "T *batch"] | None
    reset: Bool[Array, "T *batch"] | None
    start: Array


Run = Callable[[Carry, Span], tuple[Carry, Output]]


def truncated(
    network: Network[P, C] | Cell[P, C],
    params: P,
    xs: ArrayLike,
    carry: C | None = None,
    *,
    k1: int,
    k2: int,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    key: Key | None = None,
    start: ArrayLike = 0,
    unroll: int | None = None,
    remat: bool | int | str | None = None,
    project_first: bool | None = None,
    evaluator: str | None = None,
) -> tuple[C, Output]:
    """Run a network over a sequence, with a gradient that goes back at most k2 steps: BPTT(k2; k1).

    The outputs are those of ``network.apply``. The k1 outputs of block j are differentiated through the k2 steps that
    end with the block:

        y_t = network.apply(params, x_s .. x_t, stop_gradient(carry_{s-1}))     s = (j + 1) k1 - k2     t in block j

    Where the sequence has fewer steps before the block, they are differentiated through all of them and into the
    initial carry. With k2 >= T this is backpropagation through time itself.

    With k2 = k1 every step runs once. Otherwise every step runs k2 / k1 times, in windows that run side by side, after
    a pass without a gradient that computes the carries they start from.

    Args:
      network: a `Network` or a cell, without a layer that runs backward.
      params: its params.
      xs: inputs, time first: ``[T, *batch, I]``. T must be known.
      carry: the carry before the first step; None means the network's initial carry. The gradient reaches it, and no
        further if it is a constant, such as the carry of a `jaxlstm.training.TrainState`.
      k1: the number of steps in a block; the last block may be shorter.
      k2: the number of steps that the gradient goes back, a multiple of k1.
      lengths: integers ``[*batch]``: only the first ``lengths`` steps count.
      mask: bool ``[T, *batch]``: False skips the step.
      reset: bool ``[T, *batch]``: True where a new sequence begins. Neither values nor gradients cross there.
      key: a PRNG key for what is drawn in training. Step t draws from ``start + t`` in every window.
      start: the absolute time of ``xs[0]``.
      unroll: the number of steps in a loop iteration.
      remat: as in `jaxlstm.unroll`, for each window.
      project_first: where the inputs are projected, as in `jaxlstm.unroll`.
      evaluator: how the steps of a window are evaluated, as in `jaxlstm.unroll`.

    Returns:
      ``(carry, ys)``: the carry after the last step, and the outputs ``[T, *batch, O]``. The gradient of the carry goes
      back as far as that of the last block.

    Raises:
      ValueError, TypeError: if an argument does not fit, or a layer runs backward; the message names it.

    Reference:
      Williams & Peng 1990, "An efficient gradient-based algorithm for on-line training of recurrent network
      trajectories", there BPTT(h; h') with h = k2 and h' = k1.

    >>> cell = jl.RNNCell(hidden_size=4)
    >>> params = cell.init(jax.random.key(0), input_size=3)
    >>> xs = jnp.ones((100, 2, 3))
    >>> last = lambda xs: jl.truncated(cell, params, xs, k1=10, k2=20)[1][-1].sum()
    >>> reached = jnp.abs(jax.jit(jax.grad(last))(xs)).sum((1, 2)) > 0
    >>> int(reached.sum()), bool(reached[-20:].all())
    (20, True)
    """
    check_network(network)
    network = _forward_network(network)
    _check_sizes(k1, k2)
    _checks.check_options(key=key, unroll=unroll, remat=remat, project_first=project_first, evaluator=evaluator)
    xs = _array_checks.input_array("xs", xs, network.spatial_shape)
    steps, *batch = lead_shape(xs, network.spatial_shape)
    if not isinstance(steps, int):
        _checks.reject("xs", "a known number of steps, to cut into blocks", steps)
    if reset is not None:
        reset = _array_checks.bool_array("reset", reset, (steps, *batch))
    params, carry = _array_checks.arrays("params", params), _array_checks.arrays("carry", carry)
    mask = valid_steps(steps, tuple(batch), lengths=lengths, mask=mask)
    options = {"unroll": unroll, "remat": remat, "project_first": project_first, "evaluator": evaluator}
    static = {"network": network, "k1": k1, "k2": k2, "options": tuple(options.items())}
    return _truncated(params, xs, carry, mask, reset, key, _array_checks.start_array(start), **static)


@partial(jax.jit, static_argnames=("network", "k1", "k2", "options"))
def _truncated(
    params: Params,
    xs: Array,
    carry: Carry | None,
    mask: Array | None,
    reset: Array | None,
    key: Key | None,
    start: Array,
    *,
    network: Network,
    k1: int,
    k2: int,
    options: tuple[tuple[str, Any], ...],
) -> tuple[Carry, Output]:
    """`truncated` of checked arguments. Jitted, so that equal calls outside jit compile once."""

    def run(params: Params, key: Key | None, carry: Carry | None, span: Span) -> tuple[Carry, Output]:
        given = {"mask": span.mask, "reset": span.reset, "key": key, "start": span.start, **dict(options)}
        return network.apply(params, span.xs, carry, **given)

    whole = Span(xs, mask, reset, start)
    if k2 >= xs.shape[0]:
        return run(params, key, carry, whole)

    def in_blocks(params: Params, xs: Array, carry: Carry | None, key: Key | None, *rest: Any) -> tuple[Carry, Output]:
        whole = Span(xs, *rest)
        batch_shape = lead_shape(xs, network.spatial_shape)[1:]
        template, _ = jax.eval_shape(run, params, key, carry, whole)
        carry = network.init_carry(params, batch_shape) if carry is None else carry
        carry = match_varying(cast_like(carry, template), template)  # what blocks hand on
        blocks, wide = _blocks(whole, k1, network.spatial_shape), widen(params)

        def of_block(carry: Carry, block: Span) -> tuple[Carry, Output]:
            return run(cast_like(wide, params), key, carry, block)

        if k1 == k2:
            carry, ys = _block_by_block(of_block, carry, blocks)
        else:
            borders = _borders(partial(run, stop_gradient(params), key), carry, blocks, k2 // k1)
            carry, ys = _windows(partial(run, params, key), borders, blocks, k2 // k1, network.spatial_shape)
        return carry, jax.tree.map(lambda leaf: jax.lax.collapse(leaf, 0, 2)[: xs.shape[0]], ys)

    batch_rank = len(lead_shape(xs, network.spatial_shape)) - 1
    return with_automatic_axes(in_blocks, batch_rank)(params, xs, carry, key, *whole[1:])


def _blocks(whole: Span, k1: int, spatial_shape: tuple[int, ...]) -> Span:
    """Each leaf cut into blocks of k1 steps, ``[n, k1, ...]``. Steps that fill up the last block do not count."""
    steps = whole.xs.shape[0]
    count = -(-steps // k1)
    missing = count * k1 - steps
    if missing and whole.mask is None:
        whole = whole._replace(mask=jnp.ones(lead_shape(whole.xs, spatial_shape), bool))

    def cut(leaf: Array) -> Array:
        return _pad(leaf, 0, missing).reshape(count, k1, *leaf.shape[1:])

    xs, mask, reset = jax.tree.map(cut, whole[:3])
    return Span(xs, mask, reset, whole.start + k1 * jnp.arange(count, dtype=whole.start.dtype))


def _pad(leaf: Array, before: int, after: int) -> Array:
    """Zeros, or False, in front and at the end."""
    return jnp.pad(leaf, ((before, after), *((0, 0) for _ in leaf.shape[1:])))


def _block_by_block(run: Run, carry: Carry, blocks: Span) -> tuple[Carry, Output]:
    """One scan over the blocks. The gradient ends at the borders between them, not at the carry before the first."""

    def body(carry: Carry, now: tuple[Array, Span]) -> tuple[Carry, Output]:
        first, block = now
        return run(select(first, carry, stop_gradient(carry)), block)

    return jax.lax.scan(body, carry, (jnp.arange(blocks.xs.shape[0]) == 0, blocks))


def _borders(run: Run, carry: Carry, blocks: Span, width: int) -> Carry:
    """The carry that each window of `width` blocks starts from, ``[n, ...]``. The first `width` start from `carry`."""
    later = jax.tree.map(lambda leaf: stop_gradient(leaf[: leaf.shape[0] - width]), blocks)

    def body(carry: Carry, block: Span) -> tuple[Carry, Carry]:
        carry, _ = run(carry, block)
        return carry, carry

    _, found = jax.lax.scan(body, stop_gradient(carry), later)
    return jax.tree.map(
        lambda first, rest: jnp.concatenate([jnp.broadcast_to(first, (width, *first.shape)), rest]),
        carry,
        stop_gradient(found),
    )


def _windows(
    run: Run, borders: Carry, blocks: Span, width: int, spatial_shape: tuple[int, ...]
) -> tuple[Carry, Output]:
    """Run all windows at once, each of `width` blocks: the last window's carry, and the last block of each window's ys.

    Where a window begins before the sequence, it has masked steps there, which hold the carry.
    """
    count, k1 = blocks.xs.shape[:2]
    mask = jnp.ones(lead_shape(blocks.xs, spatial_shape), bool) if blocks.mask is None else blocks.mask
    where = jnp.arange(count)[:, None] + jnp.arange(width)[None]

    def gather(leaf: Array) -> Array:
        window = _pad(leaf, width - 1, 0)[where]
        return window.reshape(count, width * k1, *leaf.shape[2:])

    xs, mask, reset = jax.tree.map(gather, (blocks.xs, mask, blocks.reset))
    starts = blocks.start - (width - 1) * k1
    carries, ys = jax.vmap(run)(borders, Span(xs, mask, reset, starts))
    return jax.tree.map(lambda leaf: leaf[-1], carries), jax.tree.map(lambda leaf: leaf[:, -k1:], ys)


def _check_sizes(k1: Any, k2: Any) -> None:
    for name, size in (("k1", k1), ("k2", k2)):
        _checks.check_size(name, size)
    if k2 % k1:
        _checks.reject("k2", f"a multiple of k1 = {k1}", k2)


def _forward_network(network: Any) -> Network:
    """The network, or a cell as one. No layer may run backward, since a block does not see the steps after it."""
    if isinstance(network, Cell):
        return Layer(network)
    layers = network.layers if isinstance(network, Stack) else (network,)
    for layer in layers:
        if isinstance(layer, Stack):
            _forward_network(layer)
        if isinstance(layer, Bidirectional) or (isinstance(layer, Layer) and layer.reverse):
            _checks.reject("network", "layers that run forward", layer)
    return network
