"""A sequence in chunks: the backward pass has the carries between them, and runs each chunk again."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxlstm._directions import Directions
from jaxlstm._step import Carry, Inputs, Output


def in_chunks(
    run: Callable[..., tuple[Any, Any]],
    carry: tuple[Carry, ...],
    inputs: tuple[Inputs, ...],
    length: int,
    reverse: Directions,
) -> tuple[tuple[Carry, ...], tuple[Output, ...]]:
    """`run` over chunks of this length, and over a rest that is the last in each direction. Tuples as in `recurrence`.

    Of two directions, the backward one takes its chunks from the end while the forward one takes them from the start.
    """
    run = jax.checkpoint(run, prevent_cse=False)
    from_end = all(reverse)
    parts = [_split(given, length, back, flip=back != from_end) for given, back in zip(inputs, reverse, strict=True)]
    whole, rest = zip(*parts, strict=True)
    carry, ys = jax.lax.scan(run, carry, whole, reverse=from_end)
    last = (None,) * len(reverse)
    if inputs[0].x.shape[0] % length:
        carry, last = run(carry, rest)
    each = zip(ys, last, reverse, strict=True)
    return carry, tuple(_join(whole, rest, back, flip=back != from_end) for whole, rest, back in each)


def _split(inputs: Inputs, length: int, reverse: bool, *, flip: bool) -> tuple[Inputs, Inputs]:
    """The inputs of whole chunks ``[chunks, length, ...]``, the last chunk first with `flip`, and those of the rest."""
    steps = inputs.x.shape[0]
    chunks, rest = divmod(steps, length)
    edge = rest if reverse else steps - rest
    parts = jax.tree.map(lambda leaf: leaf[:edge], inputs), jax.tree.map(lambda leaf: leaf[edge:], inputs)
    whole, remainder = reversed(parts) if reverse else parts
    whole = jax.tree.map(lambda leaf: leaf.reshape(chunks, length, *leaf.shape[1:]), whole)
    return jax.tree.map(lambda leaf: jnp.flip(leaf, 0), whole) if flip else whole, remainder


def _join(whole: Output, rest: Output | None, reverse: bool, *, flip: bool) -> Output:
    """The outputs of whole chunks and of the rest, as `_split` divided the inputs, one after another."""
    whole = jax.tree.map(lambda leaf: jnp.flip(leaf, 0), whole) if flip else whole
    whole = jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[0] * leaf.shape[1], *leaf.shape[2:]), whole)
    if rest is None:
        return whole
    both = (rest, whole) if reverse else (whole, rest)
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *both)
