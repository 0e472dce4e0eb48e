"""The position in the data, so that a run goes on with the batch after the last it saw."""

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
_DRAWN, _ENDED, _FAILED = range(3)  # what a process says of its next batch, the worst last


class Batches:
    """An iterator over batches that can be set to where another one was.

    Where the iterator has get_state and set_state, as Grain's do, these say where. Any other is drawn from as often as
    steps were taken, and what it gives is dropped: this costs the making of those batches, once, on resuming.
    """

    def __init__(self, batches: Iterable[Any]) -> None:
        self._iterator = iter(batches)
        self._before: Any = None
        self._checked = False  # the first batch stands for all
        self._has_state = hasattr(self._iterator, "get_state") and hasattr(self._iterator, "set_state")

    def take(self, count: int) -> Iterator[Any]:
        """At most `count` batches; drawing one more than needed could block, or waste it.

        They end in all processes where they end in one of them: the others would wait for it in the step.
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
                self._before = before if batch is not _NONE else None  # what was drawn in vain is drawn again
                return
            if not self._checked:
                _check_arrays(batch)
                self._checked = True
            yield batch

    def position(self) -> Any:
        """Where the iterator is, as JSON; None where only the number of steps says so."""
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
        """Continue from a position that another iterator over the same data had after `steps` steps."""
        if (position is None) == self._has_state:
            kinds = ["without get_state", "with get_state and set_state"]
            _checks.reject("batches", f"an iterator {kinds[position is not None]}", f"one {kinds[self._has_state]}")
        if position is None:
            drawn = sum(1 for _ in itertools.islice(self._iterator, steps))
            if drawn < steps:
                _checks.reject("batches", f"{steps} of them, those of the steps that were taken", f"only {drawn}")
            return
        state = base64.b64decode(position["bytes"]) if "bytes" in position else position["json"]
        self._iterator.set_state(state)  # type: ignore[attr-defined]


def _check_arrays(batch: Any) -> None:
    """Refuse what JAX could not take, such as tensors of torch, by name."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        numbers = isinstance(leaf, (jax.Array, np.ndarray, np.generic, bool, int, float, complex))
        if not numbers and not hasattr(leaf, "__jax_array__"):
            name = f"batches: a batch{jax.tree_util.keystr(path)}"
            kind = f"{type(leaf).__module__}.{type(leaf).__qualname__}"
            _checks.reject(
                name, "an array of NumPy or JAX (of another library's, np.asarray makes one)", kind, TypeError
            )
