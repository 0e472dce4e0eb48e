"""Random strings of the embedded Reber grammar (Reber 1967; Smith & Zipser 1989).

A string of the Reber grammar starts with B, ends with E and follows the transitions of TABLE, which maps a state to
(symbol, next state) pairs. Where a state has two transitions, each is taken with probability 1/2.

A string of the embedded grammar is B T <Reber string> T E or B P <Reber string> P E. The last symbol but one repeats
the second, and nothing in between tells which it was.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jaxlstm.tasks._types import Key

ALPHABET = "BTPSXVE"
START = "start"

TABLE = {
    "begin": (("B", "fork"),),
    "fork": (("T", "upper"), ("P", "lower")),
    "upper": (("S", "upper"), ("X", "cross")),
    "lower": (("T", "lower"), ("V", "descent")),
    "cross": (("X", "lower"), ("S", "close")),
    "descent": (("P", "cross"), ("V", "close")),
    "close": (("E", "done"),),
}


class Walk(NamedTuple):
    """The symbols, the symbols that the grammar allows at each step, and whether a string ends there."""

    symbols: Int[Array, "T B"]
    legal: Bool[Array, "T B 7"]
    ended: Bool[Array, "T B"]


def walk(key: Key, batch_size: int, steps: int, *, within: bool) -> Walk:
    """Draw embedded strings, one after the other.

    Args:
      key: a PRNG key.
      batch_size: B.
      steps: T, the symbols of a walk.
      within: make the first string end within the walk. A transition that leaves too few steps for that is not taken.
        Needs at least 9 steps.

    >>> from jaxlstm.tasks._grammar import ALPHABET, walk
    >>> symbols = walk(jax.random.key(0), batch_size=1, steps=9, within=True).symbols
    >>> string = "".join(ALPHABET[int(symbol)] for symbol in symbols[:, 0])
    >>> string in ("BTBTXSETE", "BTBPVVETE", "BPBTXSEPE", "BPBPVVEPE")  # the shortest strings
    True
    """
    symbols, following, fewest, legal = (jnp.asarray(array) for array in (_SYMBOLS, _NEXT, _FEWEST, _LEGAL))
    arcs = jax.random.randint(key, (steps, batch_size), 0, 2, jnp.int32)
    left = jnp.arange(steps - 1, -1, -1, dtype=jnp.int32)  # steps after each one

    def step(state: Array, now: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array, Array]]:
        arc, left = now
        if within:
            arc = jnp.where(fewest[following[state, arc]] > left, 1 - arc, arc)
        after = following[state, arc]
        return after, (symbols[state, arc], legal[state], after == 0)

    start = jnp.zeros(batch_size, jnp.int32)
    return Walk(*jax.lax.scan(step, start, (arcs, left))[1])


def _embedded() -> dict[str, tuple[tuple[str, str], ...]]:
    """The transitions of the embedded grammar, with a way back from the last E to the start."""
    table = {START: (("B", "choose"),), "choose": (("T", "T begin"), ("P", "P begin"))}
    for outer in "TP":
        table |= {f"{outer} {state}": tuple((s, f"{outer} {to}") for s, to in arcs) for state, arcs in TABLE.items()}
        table[f"{outer} done"] = ((outer, "end"),)
    return table | {"end": (("E", START),)}


def _arrays() -> tuple[np.ndarray, ...]:
    """The grammar as arrays, whose first axis is the state; the start comes first.

    The symbols ``[states, 2]`` and next states ``[states, 2]`` of both transitions (a single one is repeated), the
    fewest symbols to the end of the string ``[states]``, and the allowed symbols ``[states, 7]``.
    """
    table = _embedded()
    states = list(table)
    arcs = [(out * 2)[:2] if len(out) == 1 else out for out in table.values()]
    symbols = np.array([[ALPHABET.index(symbol) for symbol, _ in out] for out in arcs], np.int32)
    following = np.array([[states.index(to) for _, to in out] for out in arcs], np.int32)
    legal = np.zeros((len(states), len(ALPHABET)), np.bool_)
    np.put_along_axis(legal, symbols, True, axis=1)
    fewest = np.full(len(states), len(states), np.int32)
    fewest[0] = 0  # the end of a string leads back to the start
    for _ in states:
        fewest[1:] = 1 + fewest[following[1:]].min(axis=1)
    return symbols, following, fewest, legal


_SYMBOLS, _NEXT, _FEWEST, _LEGAL = _arrays()
