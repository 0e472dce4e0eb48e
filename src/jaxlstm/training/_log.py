"""Metrics of a training run as a CSV file."""

import csv
import hashlib
import os
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from io import FileIO, StringIO
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxlstm import _checks
from jaxlstm.training._errors import LogError
from jaxlstm.training._loss_fn import Metrics


@dataclass(frozen=True)
class Log:
    """A CSV file that `fit` writes, with the columns "step", the step's metrics, and the results of the evaluation.

    A value of shape [S] gets S columns, "name.0" to "name.S-1". In rows without an evaluation its columns are empty. A
    run from step 0 begins the file anew. Any other run appends to it, after removing the rows of later steps.

    Args:
      path: the file.
      every: write a row, and show a new loss on the bar, every so many steps. Evaluations are always logged.

    Raises:
      ValueError, TypeError: if an argument does not fit.
    """

    path: str | os.PathLike[str]
    _: KW_ONLY
    every: int = 1

    def __post_init__(self) -> None:
        _checks.check_path("path", self.path)
        _checks.check_size("every", self.every)


class LogFile:
    """The open file of a `Log`, whose columns are those of the first step's metrics and the first evaluation.

    A row is written when the next one comes. So reading a step's metrics does not delay the step after it, which
    already runs.

    Args:
      path: the file; None keeps only `text`.
      after: the step that the rows come after. 0 begins the file anew. Otherwise the rows up to this step stay, if the
        file has the same columns, and later rows, whose steps are taken again, are removed.
      written: the value of `written` at that step. A file that does not begin with those rows is refused.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None, *, after: int, written: dict[str, Any] | None = None
    ) -> None:
        self.text = ""  # the current loss, for a progress bar
        self._path, self._after, self._expected = path, after, written
        self._bytes, self._sum = 0, hashlib.sha256()
        # Unbuffered: a buffer that did not fit on a full disk would be written again on closing.
        self._file: FileIO | None = None
        self._columns: list[str] = []
        self._evaluated: dict[str, str] = {}
        self._pending: list[tuple[int, Metrics, dict[str, str]]] = []

    def __enter__(self) -> "LogFile":
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
        """The size of the file and a checksum of it; None without a file."""
        return {"size": self._bytes, "sha256": self._sum.hexdigest()} if self._file else None

    def begin(self, step: int, results: Metrics) -> None:
        """Take the evaluation before the first step: the names of its columns and, at step 0, a row."""
        self._evaluated = _flat("evaluation", results)
        if step == 0:
            self._pending.append((step, {}, self._evaluated))

    def add(self, step: int, metrics: Metrics, results: Metrics) -> None:
        """Add a row, and write the one before."""
        self.flush()
        # Read now, because results may hold arrays of the state, whose memory the next step reuses.
        self._pending.append((step, metrics, _flat("evaluation", results)))

    def flush(self) -> None:
        """Write the rows that wait. This waits for their steps."""
        while self._columns and self._pending:
            step, metrics, results = self._pending.pop(0)
            if "loss" in metrics:
                self.text = f"loss {np.mean(jax.device_get(metrics['loss'])):.4g}"
            row = {"step": str(step)} | _flat("train_step", metrics) | results
            if unknown := [name for name in row if name not in self._columns]:
                _checks.reject("log", f"the columns of the first step, {self._columns}", f"{unknown} as well")
            self._write([row.get(column, "") for column in self._columns])

    def set_columns(self, metrics: Metrics) -> None:
        """Take the columns from the first step's metrics, whether or not it gets a row; of later steps, nothing."""
        if self._columns:
            return
        flat = _flat("train_step", metrics)
        if twice := sorted(flat.keys() & self._evaluated.keys()):
            _checks.reject("evaluation", "names other than those of the step's metrics", twice)
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
            raise LogError(f"log: {self._path} is damaged: line {number + 1} is not CSV") from error
        if not row:
            raise LogError(f"log: {self._path} is damaged: line {number + 1} is blank")
        return row

    def _write(self, values: Sequence[str]) -> None:
        """Write a row at once. The error of a failed write names the file."""
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
        """Remove the rows of steps that are taken again, and a last row that is incomplete."""
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
