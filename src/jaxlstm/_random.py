"""Draws at absolute times: step t draws from ``start + t``, whatever is drawn beside it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

Key = Array  # one PRNG key, typed or raw
Draw = Callable[[Key, Array], Any]  # (key, time) -> arrays


def split_keys(key: Key | None, count: int, offset: int = 0) -> tuple[Key | None, ...]:
    """`count` keys folded from one, or as many None."""
    if key is None:
        return (None,) * count
    return tuple(jax.random.fold_in(key, offset + index) for index in range(count))


def times(start: Int[Array, ""], steps: int) -> Int[Array, "T"]:
    """The absolute times of the steps."""
    return start + jnp.arange(steps, dtype=start.dtype)


def draw_at(draw: Draw, key: Key, time: Array) -> Any:
    """``draw(key, time)``, the same under `jax.vmap` as alone.

    Only threefry's draws are, so those of other PRNGs are made one after the other under vmap.
    """
    if _is_threefry(key):
        return draw(key, time)
    return jax.custom_batching.sequential_vmap(draw)(key, time)


def _is_threefry(key: Key) -> bool:
    return str(jax.random.key_impl(key)) == "threefry2x32"
