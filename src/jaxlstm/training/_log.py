"""Metrics of a training run as a CSV file."""

import csv
import os
from typing import Any, TextIO

import jax
import numpy as np

from jaxlstm import _checks
from jaxlstm.training._step import Metrics


class Log:
    """Rows of a CSV file, each written when the next one comes.

    So that reading a step's metrics waits for that step alone, while the one after it already runs. The columns are
    those of the first step's metrics and the first evaluation.

    Args:
      path: the file; None keeps only `text`.
      resume: write at the end of the file, if there is one with the same columns, instead of beginning it anew.
    """

    def __init__(self, path: str | os.PathLike[str] | None, *, resume: bool) -> None:
        self.text = ""  # the current loss, for a progress bar
        self._path, self._resume = path, resume
        self._file: TextIO | None = None
        self._columns: list[str] = []
        self._evaluated: dict[str, str] = {}
        self._pending: list[tuple[int, Metrics, dict[str, str]]] = []

    def __enter__(self) -> "Log":
        if self._path is not None:
            self._file = open(self._path, "a+" if self._resume else "w", newline="", buffering=1)
        return self

    def __exit__(self, *error: object) -> None:
        self._write()
        if self._file:
            self._file.close()

    def begin(self, step: int, evaluation: Metrics) -> None:
        """What evaluation gives before the first step: a row of its own at step 0, and the names of its columns."""
        self._evaluated = _flat(evaluation)
        if step == 0:
            self._pending.append((step, {}, self._evaluated))

    def add(self, step: int, metrics: Metrics, evaluation: Metrics) -> None:
        """Hand over a row, and write what was waiting."""
        if not self._columns:
            self._set_columns(metrics)
        self._write()
        # An evaluation may hold arrays of the state, which the next step takes, so it is read at once.
        self._pending.append((step, metrics, _flat(evaluation)))

    def _set_columns(self, metrics: Metrics) -> None:
        flat = _flat(metrics)
        twice = sorted(flat.keys() & self._evaluated.keys())
        if twice:
            _checks.reject("evaluate", "names that the step's metrics do not have", twice)
        self._columns = ["step", *flat, *self._evaluated]
        if not self._file:
            return
        self._file.seek(0)
        header = self._file.readline().rstrip().split(",") if self._resume else [""]
        if header == [""]:
            csv.writer(self._file).writerow(self._columns)
        elif header != self._columns:
            _checks.reject("log", f"a file with the columns {self._columns}", header)

    def _write(self) -> None:
        while self._columns and self._pending:
            step, metrics, evaluation = self._pending.pop(0)
            if "loss" in metrics:
                self.text = f"loss {np.mean(jax.device_get(metrics['loss'])):.4g}"
            if self._file:
                row = {"step": str(step)} | _flat(metrics) | evaluation
                csv.DictWriter(self._file, self._columns).writerow(row)


def _flat(metrics: Metrics) -> dict[str, str]:
    """One entry a number, in as many digits as its dtype has: arrays of shape [S] become name.0 to name.S-1."""
    flat = {}
    for name, value in jax.device_get(metrics).items():
        flat |= {name + suffix: str(number) for suffix, number in _numbers(value)}
    return flat


def _numbers(value: Any) -> list[tuple[str, Any]]:
    array = np.asarray(value)
    return [("".join(f".{i}" for i in index), array[index]) for index in np.ndindex(array.shape)]
