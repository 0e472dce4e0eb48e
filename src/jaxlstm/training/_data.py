"""Batches, and the position in them, so that a resumed run continues with the next batch."""

import base64
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from jaxlstm import _checks
from jaxlstm.training._processes import largest

_NONE = object()
_DRAWN, _ENDED, _FAILED = range(3)  # how a process fared with its next batch, the worst last


class Batches:
    """An iterator over batches that can continue from where another one was.

    If the iterator has get_state and set_state, such as Grain's, they store and restore its position. From any other,
    as many batches as steps were taken are drawn again and dropped.
    """

    def __init__(self, batches: Iterable[Any]) -> None:
        self._iterator = iter(batches)
        self._before: Any = None
        self._checked = False  # only the first batch is
        self._has_state = hasattr(self._iterator, "get_state") and hasattr(self._iterator, "set_state")

    def take(self, count: int) -> Iterator[Any]:
        """Yield at most `count` batches, and draw no more: drawing might block, and would waste a batch.

        If they end in one process they end in all, because the others would wait for it in the step.
        """
        for _ in range(count):
            before = self.position() if jax.process_count() > 1 else None
            try:
                batch = next(self._iterator, _NONE)
            except Exception:
                largest(_FAILED)
                raise
            found = largest(_ENDED if batch is _NONE else _DRAWN)
            if found == _FAILED:
                _checks.reject("batches", "a batch in every process", "an error in another one")
            if found == _ENDED:
                self._before = before if batch is not _NONE else None  # the unused batch is drawn again on resuming
                return
            if not self._checked:
                _check_arrays(batch)
                self._checked = True
            yield batch

    def position(self) -> Any:
        """The position of the iterator as JSON; None if it has no state, so that the number of steps must do."""
        if self._before is not None:
            return self._before
        if not self._has_state:
            return None
        state: Any = self._iterator.get_state()  # type: ignore[attr-defined]
        if isinstance(state, bytes):
            return {"bytes": base64.b64encode(state).decode()}
        try:
            return {"json": json.loads(json.dumps(state))}
        except TypeError as error:
            _checks.reject("batches", "get_state() to return bytes or what JSON can hold", error, TypeError)

    def go_to(self, position: Any, steps: int) -> None:
        """Go to the position that another iterator over the same data had after `steps` steps."""
        if (position is None) == self._has_state:
            kinds = ["without get_state", "with get_state and set_state"]
            _checks.reject("batches", f"an iterator {kinds[position is not None]}", f"one {kinds[self._has_state]}")
        if position is None:
            drawn = sum(1 for _ in itertools.islice(self._iterator, steps))
            if drawn < steps:
                _checks.reject("batches", f"{steps} of them, for the steps already taken", f"only {drawn}")
            return
        state = base64.b64decode(position["bytes"]) if "bytes" in position else position["json"]
        self._iterator.set_state(state)  # type: ignore[attr-defined]


def _check_arrays(batch: Any) -> None:
    """Refuse leaves that JAX does not accept, such as tensors of torch. The error names the leaf."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        numbers = isinstance(leaf, (jax.Array, np.ndarray, np.generic, bool, int, float, complex))
        if not numbers and not hasattr(leaf, "__jax_array__"):
            name = f"batches: a batch{jax.tree_util.keystr(path)}"
            kind = f"{type(leaf).__module__}.{type(leaf).__qualname__}"
            _checks.reject(name, "an array of NumPy or JAX (np.asarray converts those of others)", kind, TypeError)
