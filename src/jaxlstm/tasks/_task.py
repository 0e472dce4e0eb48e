"""What a task consists of: a recipe (the options of a run) and the problem that the recipe leads to."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jaxlstm import Cell, Network, _checks, chrono
from jaxlstm.cells import (
    GRUCell,
    IndRNNCell,
    LRUCell,
    LSTMCell,
    MGUCell,
    MinGRUCell,
    MinLSTMCell,
    MLSTMCell,
    RNNCell,
    SLSTMCell,
)
from jaxlstm.tasks._model import ModelParams

CELLS: dict[str, Callable[..., Cell]] = {  # each draws its params from its place here: new ones come last
    "rnn": RNNCell,
    "gru": GRUCell,
    "lstm": LSTMCell,
    "mgu": MGUCell,
    "min_gru": MinGRUCell,
    "min_lstm": MinLSTMCell,
    "ind_rnn": IndRNNCell,
    "slstm": lambda hidden_size: SLSTMCell(hidden_size, num_heads=math.gcd(4, hidden_size)),
    "mlstm": lambda hidden_size: MLSTMCell(hidden_size, num_heads=math.gcd(4, hidden_size)),
    "lru": LRUCell,
}
ALL = ("rnn", "gru", "lstm")
LARGEST_SEED = 2**31 - 1  # without x64, keys are made from 32-bit integers
LARGEST = {  # above these the machine would fail later, with a message that is harder to understand
    "hidden_size": 16_384,
    "layers": 1000,
    "steps": 2**31 - 1,  # counted in int32
    "batch_size": 1_000_000,
    "seeds": 10_000,
    "evaluate_every": 2**31 - 1,
}
LARGEST_LENGTH = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All options of a run. An option that the task does not have is None.

    The command line takes its options and their help from here.

    Args:
      task: a name in `jaxlstm.tasks.TASKS`.
      cell: rnn, gru, lstm, mgu, min_gru, min_lstm, ind_rnn, slstm, mlstm, lru, or all, which trains rnn, gru and lstm.
        slstm and mlstm have 4 heads, or 2 or 1 where 4 do not divide the units.
      hidden_size: units of a cell in each direction.
      steps: training steps.
      batch_size: sequences in a batch.
      learning_rate: initial learning rate of Adam; it decays to 0 along half a cosine.
      evaluate_every: training steps between evaluations.
      layers: recurrent layers.
      dropout: dropout rate between layers and before the output, in [0, 1).
      seed: random seed of the first model.
      seeds: number of models to train at once, with the seeds SEED, SEED + 1, ...; each trains as it would alone.
      length: length of the sequences, of the time lag (noise-free-lag, noisy-lag, copying) or of a chunk of text.
      hold_out: training sequences of each class to hold out and evaluate on; 0 evaluates on the test set.
      file: file with the data.

    Raises:
      ValueError, TypeError: if a value is invalid; the message starts with the field's name.
    """

    task: str
    cell: str
    hidden_size: int
    steps: int
    batch_size: int
    learning_rate: float
    evaluate_every: int
    layers: int = 1
    dropout: float = 0.0
    seed: int = 0
    seeds: int = 1
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
        if self.file is not None and (not isinstance(self.file, str) or not self.file):
            _checks.reject("file", "the path of a file", _checks.describe(self.file), TypeError)

    @property
    def every_seed(self) -> range:
        """The seeds of the models."""
        return range(self.seed, self.seed + self.seeds)

    @property
    def cells(self) -> tuple[str, ...]:
        """The names of the cells to train."""
        return ALL if self.cell == "all" else (self.cell,)


def _check_range(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        _checks.reject(name, f"an int in {low}..{high}", _checks.describe(value), TypeError)
    if not low <= value <= high:
        _checks.reject(name, f"an int in {low}..{high}", value)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A task's data, model and pictures for a given recipe.

    Args:
      input_size: features of an input step.
      outputs: features of the model's output.
      network: builds the network from a cell.
      batches: an endless iterator of batches for a seed, with the sequences on the last axis. The batch is None if the
        loss draws its sequences from its key.
      loss: ``(network, params, batch, key) -> (loss, metrics)``. Only the first `batch_size` sequences count: several
        processes pad a batch that they cannot divide.
      predict: ``(network, params) -> predictions`` for the whole test set.
      score: computes the test figure from the predictions.
      figure: the name of the test figure.
      baseline: the name and value of a figure to compare with.
      picture: draws the predictions of the first seed's models, given by cell name.
      steps_read: how many steps' outputs the linear head reads, concatenated.
      initial_carry: ``(network, params) -> carry`` before the first batch, for a task in which each batch continues the
        one before. The loss is then ``(network, params, carry, batch, key) -> (loss, (carry, metrics))``.
      files: the files that the data were read from. A run remembers their checksum.
      keep: names and contents of further files that the run's directory gets.
      longest: the longest time lag, for `chrono` biases of LSTM and GRU; None for the cells' default biases.
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
    files: Sequence[Path] = ()
    keep: Mapping[str, str] = field(default_factory=dict)
    longest: int | None = None

    def cell(self, name: str, hidden_size: int) -> Cell:
        """A cell of `CELLS`; an LSTM or a GRU with `chrono` biases if the problem has a time lag."""
        if self.longest is None or name not in ("gru", "lstm"):
            return CELLS[name](hidden_size)
        return CELLS[name](hidden_size, b_init=chrono(max(3, self.longest)))


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task of `TASKS`.

    Args:
      recipe: the default options.
      problem: builds the problem from a recipe.
      help: one line for the command line's help.
      picture_name: the file name of the picture of predictions.
      limits: the smallest and largest value of options that only some tasks have.
    """

    recipe: Recipe
    problem: Callable[[Recipe], Problem]
    help: str
    picture_name: str
    limits: Mapping[str, tuple[int, int]] = field(default_factory=lambda: {"length": (2, LARGEST_LENGTH)})

    def recipe_with(self, **options: Any) -> Recipe:
        """The default recipe with some options replaced.

        Raises:
          ValueError, TypeError: if an option is invalid or not one of the task's; the message starts with its name.
        """
        recipe = replace(self.recipe, **options)
        self.check(recipe)
        return recipe

    def check(self, recipe: Recipe) -> None:
        """Check the options that only some tasks have.

        Raises:
          ValueError, TypeError: if an option is invalid or not one of the task's; the message starts with its name.
        """
        for name in ("length", "hold_out", "file"):
            value = getattr(recipe, name)
            if getattr(self.recipe, name) is None:
                if value is not None:
                    raise ValueError(f"{name}: the task {self.recipe.task} has no such option")
            elif value is None:
                _checks.reject(name, f"a value, as the task {self.recipe.task} needs one", None)
            elif name in self.limits:
                _check_range(name, value, *self.limits[name])
