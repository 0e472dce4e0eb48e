"""Truncated backpropagation through time: the values of the whole sequence, a gradient that looks back so far only."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from jaxlstm import _checks
from jaxlstm._layers import Bidirectional, Layer, Stack
from jaxlstm._network import Network
from jaxlstm._scan import select
from jaxlstm._types import Carry, Cell, Key, Params, cast_like
from jaxlstm._unroll import valid_steps


class Span(NamedTuple):
    """Consecutive steps of the inputs, and the absolute time of the first."""

    xs: Float[Array, "T *batch I"]
    mask: Bool[Array, "T *batch"] | None
    reset: Bool[Array, "T *batch"] | None
    start: Array


Run = Callable[[Carry, Span], tuple[Carry, Array]]


def truncated(
    network: Network | Cell,
    params: Params,
    xs: ArrayLike,
    carry: Carry | None = None,
    *,
    k1: int,
    k2: int,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    key: Key | None = None,
    start: ArrayLike = 0,
    unroll: int = 1,
    remat: bool | int | str | None = None,
    project_first: bool | None = None,
) -> tuple[Carry, Float[Array, "T *batch O"]]:
    """Run a network over a sequence, with a gradient that goes back k2 steps at most: BPTT(k2; k1).

    The outputs are those of ``network.apply``. What a loss makes of the k1 outputs of block j is differentiated through
    the k2 steps that end with the block:

        y_t = network.apply(params, x_s .. x_t, stop_gradient(carry_{s-1}))     s = (j + 1) k1 - k2     t in block j

    and through all of them, the initial carry included, where the sequence does not reach back so far. With k2 >= T
    this is backpropagation through time itself.

    With k2 = k1 every step runs once. Otherwise each runs k2 / k1 times, in windows that run side by side, after a pass
    without a gradient that finds the carries they start from.

    Args:
      network: a `Network` or a cell, without a layer that runs backward.
      params: its params.
      xs: inputs, time first: ``[T, *batch, I]``.
      carry: the carry before the first step; None means the network's initial carry. Across calls the gradient ends
        here, if the carry comes from a step before: the recurrent state of `jaxlstm.training.init_state` is one.
      k1: steps of a block, T / k1 of which there are; the last may be shorter.
      k2: steps that the gradient goes back, a multiple of k1.
      lengths: as in `jaxlstm.unroll`, as are all that follow.
      mask: bool ``[T, *batch]``: False skips the step.
      reset: bool ``[T, *batch]``: True where a new sequence begins; neither values nor gradients cross there.
      key: a PRNG key for what is drawn in training; step t draws from ``start + t``, in whichever windows it runs.
      start: the absolute time of ``xs[0]``.
      unroll: steps a loop iteration.
      remat: of each window.
      project_first: where the inputs are projected.

    Returns:
      ``(carry, ys)``: the carry after the last step, and the outputs ``[T, *batch, O]``. The carry's own gradient goes
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
    network = _forward_network(network)
    _check_sizes(k1, k2)
    _checks.check_options(key=key, start=start, unroll=unroll, remat=remat, project_first=project_first)
    xs = _checks.float_array("xs", xs, 2, "[T, *batch, I]")
    steps, batch_shape = xs.shape[0], xs.shape[1:-1]
    if reset is not None:
        reset = _checks.bool_array("reset", reset, xs.shape[:-1])
    whole = Span(xs, valid_steps(steps, batch_shape, lengths=lengths, mask=mask), reset, jnp.asarray(start))

    def run(params: Params, carry: Carry | None, span: Span) -> tuple[Carry, Array]:
        options = {"key": key, "unroll": unroll, "remat": remat, "project_first": project_first}
        return network.apply(params, span.xs, carry, mask=span.mask, reset=span.reset, start=span.start, **options)

    if k2 >= steps:
        return run(params, carry, whole)
    template, _ = jax.eval_shape(run, params, carry, whole)
    carry = network.init_carry(params, batch_shape) if carry is None else jax.tree.map(jnp.asarray, carry)
    carry = cast_like(carry, template)  # the dtypes that blocks hand on
    blocks = _blocks(whole, k1)
    if k1 == k2:
        carry, ys = _block_by_block(partial(run, params), carry, blocks)
    else:
        borders = _borders(partial(run, stop_gradient(params)), carry, blocks, k2 // k1)
        carry, ys = _windows(partial(run, params), borders, blocks, k2 // k1)
    return carry, ys.reshape(-1, *ys.shape[2:])[:steps]


def _blocks(whole: Span, k1: int) -> Span:
    """Each leaf cut in blocks of k1 steps, ``[n, k1, ...]``; steps that fill up the last block do not count."""
    steps = whole.xs.shape[0]
    count = -(-steps // k1)
    missing = count * k1 - steps
    if missing and whole.mask is None:
        whole = whole._replace(mask=jnp.ones(whole.xs.shape[:-1], bool))

    def cut(leaf: Array) -> Array:
        return _pad(leaf, 0, missing).reshape(count, k1, *leaf.shape[1:])

    xs, mask, reset = jax.tree.map(cut, whole[:3])
    return Span(xs, mask, reset, whole.start + k1 * jnp.arange(count, dtype=whole.start.dtype))


def _pad(leaf: Array, before: int, after: int) -> Array:
    """Zeros, or False, in front and at the end."""
    return jnp.pad(leaf, ((before, after), *((0, 0) for _ in leaf.shape[1:])))


def _block_by_block(run: Run, carry: Carry, blocks: Span) -> tuple[Carry, Array]:
    """One scan over the blocks; the gradient ends at the borders between them, not at the carry before the first."""

    def body(carry: Carry, now: tuple[Array, Span]) -> tuple[Carry, Array]:
        first, block = now
        return run(select(first, carry, stop_gradient(carry)), block)

    return jax.lax.scan(body, carry, (jnp.arange(blocks.xs.shape[0]) == 0, blocks))


def _borders(run: Run, carry: Carry, blocks: Span, width: int) -> Carry:
    """The carry that each window of `width` blocks starts from, ``[n, ...]``: the first `width` from `carry` itself."""
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


def _windows(run: Run, borders: Carry, blocks: Span, width: int) -> tuple[Carry, Array]:
    """All windows at once, each of `width` blocks; of each the last block's outputs, and the last one's carry.

    A window that reaches before the sequence does so with steps that do not count, which hold the carry.
    """
    count, k1 = blocks.xs.shape[:2]
    mask = jnp.ones(blocks.xs.shape[:-1], bool) if blocks.mask is None else blocks.mask
    where = jnp.arange(count)[:, None] + jnp.arange(width)

    def gather(leaf: Array) -> Array:
        window = _pad(leaf, width - 1, 0)[where]
        return window.reshape(count, width * k1, *leaf.shape[2:])

    xs, mask, reset = jax.tree.map(gather, (blocks.xs, mask, blocks.reset))
    starts = blocks.start - (width - 1) * k1
    carries, ys = jax.vmap(run)(borders, Span(xs, mask, reset, starts))
    return jax.tree.map(lambda leaf: leaf[-1], carries), ys[:, -k1:]


def _check_sizes(k1: Any, k2: Any) -> None:
    for name, size in (("k1", k1), ("k2", k2)):
        _checks.check_size(name, size)
    if k2 % k1:
        _checks.reject("k2", f"a multiple of k1 = {k1}", k2)


def _forward_network(network: Any) -> Network:
    """The network, or a cell as one; none of its layers may run backward, since blocks know nothing of those after."""
    if isinstance(network, Cell):
        return Layer(network)
    if not isinstance(network, Network):
        _checks.reject(
            "network", "a Network such as Stack(LSTMCell(128)), or a cell", _checks.describe(network), TypeError
        )
    layers = network.layers if isinstance(network, Stack) else (network,)
    for layer in layers:
        if isinstance(layer, Stack):
            _forward_network(layer)
        if isinstance(layer, Bidirectional) or (isinstance(layer, Layer) and layer.reverse):
            _checks.reject("network", "layers that run forward alone", layer)
    return network
