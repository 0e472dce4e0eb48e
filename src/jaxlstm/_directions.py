"""The directions of a sequence, forward, backward or both: a loop for each, or one loop for both.

In one loop, the params of both are stacked and the backward one's sequence is flipped. A step then has one matmul and
one kernel for the gates, not two of each.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Directions = tuple[bool, ...]  # of each, whether it runs from the last step to the first


def run_directions(
    fn: Callable[[bool, Any, Any], tuple[Any, Any]],
    reverse: Directions,
    one_loop: bool,
    constants: tuple[Any, ...],
    sequences: tuple[Any, ...],
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """``after, outputs = fn(reverse, constants, sequences)`` for each direction: the tuples of both.

    Args:
      fn: a loop over time.
      reverse: the directions.
      one_loop: run (forward, backward) in one loop. Their arrays have the same shapes and dtypes.
      constants: for each direction, what has no time axis; so is `after`.
      sequences: for each direction, what has a leading time axis; so are `outputs`.
    """
    if len(reverse) == 1 or not one_loop:
        after, outputs = zip(*map(fn, reverse, constants, sequences), strict=True)
        return after, outputs
    stacked = jax.tree.map(lambda *both: jnp.stack(both), *constants)
    flipped = jax.tree.map(lambda ahead, back: jnp.stack([ahead, jnp.flip(back, 0)], axis=1), *sequences)
    after, outputs = jax.vmap(lambda *args: fn(False, *args), in_axes=(0, 1), out_axes=(0, 1))(stacked, flipped)
    ahead, back = (jax.tree.map(lambda leaf, i=i: leaf[i], after) for i in range(2))
    outputs_ahead = jax.tree.map(lambda leaf: leaf[:, 0], outputs)
    outputs_back = jax.tree.map(lambda leaf: jnp.flip(leaf[:, 1], 0), outputs)
    return (ahead, back), (outputs_ahead, outputs_back)
