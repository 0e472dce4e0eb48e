"""Flax's own scan of any cell, with masks, resets and lengths: the way of the cells that the core does not know.

The scan itself is the caller's, since each Flax API lifts its modules in its own way.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxlstm._arrays import select
from jaxlstm._wrappers._sequence import Call, Steps, flip

Step = Callable[[Any, Any], tuple[Any, Any]]  # (carry, x) -> (carry, y)
Scan = Callable[[Callable[[Step], Step], Any, Steps], tuple[Any, Any]]  # (what to make of the step, carry, steps)


def held(scan: Scan, steps: Steps, carry: Any, initial: Any, *, reverse: bool) -> tuple[Any, Any]:
    """Scan the steps; those that do not count hold the carry and give zeros, as in `jaxlstm.unroll`.

    Args:
      scan: Flax's scan over the first axis of the steps.
      steps: inputs and what counts, in their own order.
      carry: the carry before the first step; each leaf leads with the batch axes.
      initial: what a reset starts from.
      reverse: travel from the last step to the first.

    Returns:
      The last carry, and the outputs in the order of the inputs.
    """
    inputs, valid, reset = steps
    if valid is not None:
        inputs = select(valid, inputs, jnp.zeros_like(inputs))
    ends_in_reset = None
    if reset is not None and reverse:  # the reset at t is for the step that comes after it in travel
        ends_in_reset, reset = reset[:1].any(0), jnp.concatenate([reset[1:], jnp.zeros_like(reset[:1])])

    def counted(step: Step) -> Step:
        def run(carry: Any, now: Steps) -> tuple[Any, Any]:
            x, valid, reset = now
            if reset is not None:
                carry = select(reset, initial, carry)
            if valid is None:
                return step(carry, x)
            after, y = step(select(valid, carry, initial), x)  # so that NaN in a carry held reaches no gradient
            return select(valid, (after, y), (carry, jax.tree.map(jnp.zeros_like, y)))

        return run

    carry, ys = scan(counted, carry, _turned(Steps(inputs, valid, reset), reverse))
    if ends_in_reset is not None:
        carry = select(ends_in_reset, initial, carry)
    return carry, _turned(ys, reverse)


def running(scan: Scan, steps: Steps, carry: Any, call: Call) -> tuple[Any, Any]:
    """Scan the steps as Flax does, on into the padding: its outputs there, and the carry of each last step that counts.

    A length of 0 gives the carry that came in.
    """

    def beside(step: Step) -> Step:
        def run(carries: tuple[Any, Any], now: Steps) -> tuple[Any, Any]:
            carry, kept = carries
            after, y = step(carry, now.inputs)
            return (after, after if now.valid is None else select(now.valid, after, kept)), y

        return run

    def turned(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: flip(leaf, call.seq_lengths), tree) if call.reverse else tree

    (_, carry), ys = scan(beside, (carry, carry), steps._replace(inputs=turned(steps.inputs)))
    return carry, turned(ys)


def _turned(tree: Any, reverse: bool) -> Any:
    return jax.tree.map(lambda leaf: jnp.flip(leaf, axis=0), tree) if reverse else tree
