"""Metrics of a training run as a CSV file."""

import csv
import hashlib
import os
from collections.abc import Sequence
from io import FileIO, StringIO
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxlstm import _checks
from jaxlstm.training._errors import LogError
from jaxlstm.training._step import Metrics


class Log:
    """Rows of a CSV file, each written when the next one comes.

    So that reading a step's metrics waits for that step alone, while the one after it already runs. The columns are
    those of the first step's metrics and the first evaluation.

    Args:
      path: the file; None keeps only `text`.
      after: the step that the rows come after. 0 begins the file anew; after any other the rows up to it stay, if
        there is a file with the same columns, and those of later steps, which will come again, are cut.
      written: what `written` was at that step; a file that does not begin with those rows is refused.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None, *, after: int, written: dict[str, Any] | None = None
    ) -> None:
        self.text = ""  # the current loss, for a progress bar
        self._path, self._after, self._expected = path, after, written
        self._bytes, self._sum = 0, hashlib.sha256()
        # Without a buffer: what a full disk had no room for would be tried again on closing.
        self._file: FileIO | None = None
        self._columns: list[str] = []
        self._evaluated: dict[str, str] = {}
        self._pending: list[tuple[int, Metrics, dict[str, str]]] = []

    def __enter__(self) -> "Log":
        if self._path is not None:
            if self._expected:
                self._check(Path(self._path), **self._expected)
            self._file = FileIO(self._path, "a+" if self._after else "w")
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.flush()
        finally:
            if self._file:
                self._file.close()

    @property
    def written(self) -> dict[str, Any] | None:
        """How long the file is and the sum of its bytes; None without a file."""
        return {"size": self._bytes, "sha256": self._sum.hexdigest()} if self._file else None

    def begin(self, step: int, evaluation: Metrics) -> None:
        """What evaluation gives before the first step: a row of its own at step 0, and the names of its columns."""
        self._evaluated = _flat("evaluate", evaluation)
        if step == 0:
            self._pending.append((step, {}, self._evaluated))

    def know(self, metrics: Metrics) -> None:
        """Have the columns of a step's metrics, whether or not that step gets a row."""
        if not self._columns:
            self._set_columns(metrics)

    def add(self, step: int, metrics: Metrics, evaluation: Metrics) -> None:
        """Hand over a row, and write what was waiting."""
        self.know(metrics)
        self.flush()
        # An evaluation may hold arrays of the state, which the next step takes, so it is read at once.
        self._pending.append((step, metrics, _flat("evaluate", evaluation)))

    def flush(self) -> None:
        """Write what was waiting; this waits for its step."""
        while self._columns and self._pending:
            step, metrics, evaluation = self._pending.pop(0)
            if "loss" in metrics:
                self.text = f"loss {np.mean(jax.device_get(metrics['loss'])):.4g}"
            row = {"step": str(step)} | _flat("train_step", metrics) | evaluation
            if unknown := [name for name in row if name not in self._columns]:
                _checks.reject("log", f"the columns of the first step, {self._columns}", f"{unknown} as well")
            self._write([row.get(column, "") for column in self._columns])

    def _set_columns(self, metrics: Metrics) -> None:
        flat = _flat("train_step", metrics)
        twice = sorted(flat.keys() & self._evaluated.keys())
        if twice:
            _checks.reject("evaluate", "names that the step's metrics do not have", twice)
        self._columns = ["step", *flat, *self._evaluated]
        lines = []
        if self._file and self._after:
            self._file.seek(0)
            rows = self._file.readall()[: (self._expected or {}).get("size")]  # later ones come again
            lines = rows.splitlines(keepends=True)
        if not lines:
            self._write(self._columns)
            return
        header = self._row(0, lines[0])
        if header != self._columns:
            raise LogError(f"log: expected {self._path} to have the columns {self._columns}, got {header}")
        self._cut(lines)

    def _check(self, path: Path, *, size: int, sha256: str) -> None:
        """Refuse a file in which rows that a checkpoint has behind it are missing or changed."""
        if not path.exists():
            raise LogError(f"log: {path} is missing; the checkpoint of step {self._after} needs its rows")
        if hashlib.sha256(path.read_bytes()[:size]).hexdigest() != sha256:
            raise LogError(f"log: {path} is damaged: its rows up to step {self._after} are not those that were written")

    def _row(self, number: int, line: bytes) -> list[str]:
        try:
            row = next(csv.reader([line.decode()]), [])
        except (ValueError, csv.Error) as error:
            raise LogError(f"log: {self._path} is damaged: line {number + 1} is no text of a table") from error
        if not row:
            raise LogError(f"log: {self._path} is damaged: line {number + 1} is blank")
        return row

    def _write(self, values: Sequence[str]) -> None:
        """A row, on disk when this returns; an error of the system says which file it is of."""
        if not self._file:
            return
        text = StringIO()
        csv.writer(text).writerow(values)
        rest = text.getvalue().encode()
        self._count(rest)
        while rest:
            try:
                rest = rest[self._file.write(rest) :]
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(self._path)) from error

    def _count(self, written: bytes) -> None:
        self._bytes += len(written)
        self._sum.update(written)

    def _cut(self, lines: Sequence[bytes]) -> None:
        """Leave the rows up to the step that the new ones come after; a last row that lacks its end goes too."""
        end = len(lines[0])
        for number, line in enumerate(lines[1:], start=1):
            if number == len(lines) - 1 and not line.endswith(b"\n"):
                break
            step = self._row(number, line)[0]
            if not step.isdecimal() or len(step) > 18:
                raise LogError(f"log: {self._path} is damaged: line {number + 1} begins with {step[:40]!r}, not a step")
            if int(step) > self._after:
                break
            end += len(line)
        if self._file:
            self._file.truncate(end)
            self._count(b"".join(lines)[:end])


def _flat(source: str, metrics: Metrics) -> dict[str, str]:
    """One entry a number, in as many digits as its dtype has: arrays of shape [S] become name.0 to name.S-1."""
    flat: dict[str, str] = {}
    for name, value in jax.device_get(metrics).items():
        for suffix, number in _numbers(value):
            if name + suffix in ("step", *flat):
                which = "which the log has already" if name + suffix == "step" else "which two metrics come to"
                _checks.reject(source, "metrics with columns of their own in the log", f"{name + suffix!r}, {which}")
            flat[name + suffix] = str(number)
    return flat


def _numbers(value: Any) -> list[tuple[str, Any]]:
    array = np.asarray(value)
    return [("".join(f".{i}" for i in index), array[index]) for index in np.ndindex(array.shape)]
