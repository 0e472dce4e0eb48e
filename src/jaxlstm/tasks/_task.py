"""What a task is made of: a recipe (numbers a user may change) and the problem that it leads to."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxlstm import Cell, Network, _checks, chrono
from jaxlstm.cells import GRUCell, LSTMCell, RNNCell
from jaxlstm.tasks._model import ModelParams

CELLS: dict[str, Callable[..., Cell]] = {"rnn": RNNCell, "gru": GRUCell, "lstm": LSTMCell}
LARGEST_SEED = 2**31 - 1  # keys are made from 32-bit integers where x64 is off
LARGEST = {  # what the machine may refuse later, and less clearly, is refused here
    "hidden_size": 16_384,
    "layers": 1000,
    "steps": 2**31 - 1,  # they are counted in int32
    "batch_size": 1_000_000,
    "seeds": 10_000,
    "evaluate_every": 2**31 - 1,
}
SHORTEST = {  # lengths below which a task has no sequences; 2 for the others that have a length
    "adding-1997": 20,
    "multiplication": 20,
    "temporal-order-6a": 10,
    "temporal-order-6b": 10,
    "reber": 9,
    "copying": 1,
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a run. What a task has no use for is None.

    Args:
      task: its name; `jaxlstm.tasks.TASKS` has them all.
      cell: a name in `CELLS`, or "all" for one model of each, trained side by side.
      hidden_size: H of each cell, in each direction.
      layers: recurrent layers on top of each other.
      dropout: the rate between layers and before the head.
      steps: of training.
      batch_size: sequences a step.
      learning_rate: of Adam, at the start; it falls to 0 as half a cosine.
      seed: of the first model.
      seeds: how many models to train at once, with seeds seed, seed + 1, ...; each as it would be alone, to rounding.
      evaluate_every: in steps.
      length: steps of a sequence, where the task generates them; its docstring says which, where they are not all.
      hold_out: training sequences of each class to keep back and evaluate on; 0 to evaluate on the test set.
      file: where the data lie, for a task that does not come with them.

    Raises:
      ValueError, TypeError: if a value has no meaning; the message begins with the field's name.
    """

    task: str
    cell: str
    hidden_size: int
    layers: int
    dropout: float
    steps: int
    batch_size: int
    learning_rate: float
    seed: int
    seeds: int
    evaluate_every: int
    length: int | None = None
    hold_out: int | None = None
    file: str | None = None

    def __post_init__(self) -> None:
        if self.cell not in (*CELLS, "all"):
            _checks.reject("cell", f"one of {', '.join(CELLS)}, all", repr(self.cell))
        for name, largest in LARGEST.items():
            _check_range(name, _checks.check_size(name, getattr(self, name)), 1, largest)
        _checks.check_rate("dropout", self.dropout)
        _checks.check_number("learning_rate", self.learning_rate)
        if self.learning_rate <= 0:
            _checks.reject("learning_rate", "a positive number", self.learning_rate)
        _check_range("seed", self.seed, 0, LARGEST_SEED)
        if self.length is not None:
            _check_range("length", self.length, SHORTEST.get(self.task, 2), 1_000_000)
        if self.hold_out is not None:
            _check_range("hold_out", self.hold_out, 0, 29)
        if self.file is not None and (not isinstance(self.file, str) or not self.file):
            _checks.reject("file", "the path of a file", _checks.describe(self.file), TypeError)

    @property
    def every_seed(self) -> range:
        """The seeds of the models."""
        return range(self.seed, self.seed + self.seeds)

    @property
    def cells(self) -> tuple[str, ...]:
        """The names of the cells to train."""
        return tuple(CELLS) if self.cell == "all" else (self.cell,)


def _check_range(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        _checks.reject(name, f"an int in {low}..{high}", _checks.describe(value), TypeError)
    if not low <= value <= high:
        _checks.reject(name, f"an int in {low}..{high}", value)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A task's data and what to do with it, once the recipe is known.

    Args:
      input_size: features of a step of the input.
      outputs: features of the model's output.
      network: the network around a cell.
      batches: of one seed, without end, sequences on the last axis; None where the loss draws all of its batch from
        its key.
      loss: ``(network, params, batch, key) -> (loss, metrics)`` for one batch, whose first `batch_size` sequences
        count: several processes share one that is filled up.
      predict: ``(network, params) -> predictions`` for all the test sequences.
      score: predictions to the test figure.
      figure: what `score` computes, in words.
      baseline: a figure to compare with, and its name.
      picture: draws the predictions that the first seed's models, by the names of their cells, make.
      steps_read: how many steps' outputs the linear head reads side by side.
      initial_carry: ``(network, params) -> carry`` before the first batch, where each goes on from the one before; then
        loss is ``(network, params, carry, batch, key) -> (loss, (carry, metrics))``.
      vocabulary: the characters that inputs and outputs stand for, which the run keeps; None where they are no text.
      data_sum: of what was read from files, by which a change is noticed; None where nothing was.
      longest: the steps over which something is to be remembered, where LSTM and GRU start from biases made for that
        (`chrono`); None for those that they have otherwise.
    """

    input_size: int
    outputs: int
    network: Callable[[Cell], Network]
    batches: Callable[[int], Iterator[Any]]
    loss: Callable[..., tuple[Any, Any]]
    predict: Callable[[Network, ModelParams], Any]
    score: Callable[[Any], Any]
    figure: str
    baseline: tuple[str, float] | None
    picture: Callable[[Path, Mapping[str, Any]], None]
    steps_read: int = 1
    initial_carry: Callable[[Network, ModelParams], Any] | None = None
    vocabulary: str | None = None
    data_sum: str | None = None
    longest: int | None = None

    def cell(self, name: str, hidden_size: int) -> Cell:
        """A cell of `CELLS`, with biases for what is to be remembered."""
        if self.longest is None or name == "rnn":
            return CELLS[name](hidden_size)
        return CELLS[name](hidden_size, b_init=chrono(max(3, self.longest)))


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task: its own recipe, what a recipe leads to, one line of help, and its picture of predictions' name."""

    recipe: Recipe
    problem: Callable[[Recipe], Problem]
    help: str
    picture_name: str
