"""Train and evaluate the models of a run: one for each cell and seed, all at once."""

import dataclasses
import importlib
from pathlib import Path

import jax
import numpy as np

import jaxlstm
from jaxlstm import Network, _checks
from jaxlstm.interop import save_params
from jaxlstm.tasks import (
    _adding,
    _continual_reber,
    _copying,
    _jsb,
    _long_lags,
    _marked,
    _mnist1d,
    _models,
    _pictures,
    _reber,
    _run,
    _temporal_order,
    _text,
    _vowels,
)
from jaxlstm.tasks._data import files_sum
from jaxlstm.tasks._models import Models
from jaxlstm.tasks._optimizers import clipped_adam, per_model
from jaxlstm.tasks._parts import layout, local, own_batches, shared_state
from jaxlstm.tasks._task import Problem, Recipe, Task
from jaxlstm.training import Checkpoints, Evaluation, Log, first_alone, fit, make_train_step

TASKS: dict[str, Task] = {
    task.recipe.task: task
    for task in (
        _vowels.TASK,
        _mnist1d.TASK,
        _jsb.TASK,
        _adding.TASK,
        _marked.ADDING_1997,
        _marked.MULTIPLICATION,
        _temporal_order.ORDER_6A,
        _temporal_order.ORDER_6B,
        _long_lags.NOISE_FREE,
        _long_lags.NOISY,
        _reber.TASK,
        _continual_reber.TASK,
        _copying.TASK,
        _text.TASK,
    )
}

MINUTES = 10  # the longest time between checkpoints


def train(recipe: Recipe, directory: Path, *, progress: bool = False, resume: bool = False) -> str:
    """Train a recipe's models and leave the run in a directory.

    Args:
      recipe: what to train.
      directory: gets config.json, metrics.csv, weights, two pictures and checkpoints. A checkpoint is saved after each
        evaluation, every few minutes and at the end.
      progress: show a progress bar.
      resume: continue the run in the directory, which has this recipe, from its latest checkpoint. A run that ended
        before its first checkpoint starts again.

    Returns:
      The test figures, one line for each cell.

    Raises:
      ValueError, TypeError: if the task has no such option, or not with such a value.
      RunError: if the directory already holds a run (nothing is written then), or a checkpoint cannot be read or
        written.
      KeyboardInterrupt, Terminated: after Ctrl-C or SIGTERM; the last finished step is saved.
    """
    checkpoints = Checkpoints(directory / _run.CHECKPOINTS, every=recipe.evaluate_every, minutes=MINUTES)
    if resume:
        checkpoints = dataclasses.replace(checkpoints, resume=_run.has_checkpoint(directory, checkpoints.steps))
    else:
        first_alone(lambda: _run.refuse_existing(directory), _run.RunError)
    _require("safetensors", "matplotlib.figure", "orbax.checkpoint")  # before training, not after it
    problem, networks = _prepare(recipe)
    if Path(recipe.file or "") in problem.files:
        recipe = dataclasses.replace(recipe, file=str(Path(recipe.file or "").absolute()))  # evaluate may run elsewhere
    data_sum = _data_sum(problem)
    if resume:
        _run.check_data(directory, recipe, data_sum)
    optimizer = per_model(clipped_adam(recipe.learning_rate, recipe.steps))
    step = make_train_step(_models.loss(problem, networks), optimizer, seeds=True, **layout(problem))
    predict = _models.predictor(problem, networks)
    evaluation = Evaluation(
        lambda state: _models.scores(problem, predict(local(state.params))), every=recipe.evaluate_every
    )
    state = shared_state(_models.initial_state(recipe, problem, networks, optimizer))

    def create() -> None:
        if not resume:
            _run.create(directory, recipe, jaxlstm.__version__, data_sum)
        with _run.errors_of_files(directory):
            _run.write_kept(directory, problem.keep)

    first_alone(create, _run.RunError)
    with _run.errors_of_files(directory):
        state = fit(
            step,
            state,
            own_batches(recipe, problem),
            steps=recipe.steps,
            evaluation=evaluation,
            log=Log(directory / _run.METRICS),
            checkpoints=checkpoints,
            save=lambda state: _save(recipe, directory, local(state.params)),
            progress=progress,
        )
        predictions = predict(local(state.params))
        if jax.process_index() == 0:
            _draw(recipe, problem, directory, predictions)
    return _report(recipe, problem, predictions)


def resume(directory: Path, *, progress: bool = False) -> str:
    """Continue the run in a directory from its latest checkpoint, bit for bit as if it had never stopped.

    Raises:
      RunError: if the directory holds no run, or a checkpoint cannot be read or written.
    """
    return train(recipe_of(directory), directory, progress=progress, resume=True)


def evaluate(directory: Path) -> str:
    """Load a run's weights and compute its test figures again: the lines that `train` returned.

    Raises:
      RunError: if the directory holds no run, the run is damaged, or the data have changed since it began.
    """
    recipe = recipe_of(directory)
    problem, networks = _prepare(recipe)
    _run.check_data(directory, recipe, _data_sum(problem))
    models = {}
    for cell, network in networks.items():
        template = jax.eval_shape(_models.init(problem, network), jax.random.key(0))
        models[cell] = _models.stack([_run.read_weights(directory, cell, seed, template) for seed in recipe.every_seed])
    return _report(recipe, problem, _models.predictor(problem, networks)(models))


def recipe_of(directory: Path) -> Recipe:
    """The recipe of the run in a directory.

    Raises:
      RunError: if the directory holds no run, or its config.json is damaged.
    """
    return _run.read_recipe(directory, _task_of)


def _task_of(recipe: Recipe) -> Task:
    """The recipe's task, once it has accepted the recipe."""
    if recipe.task not in TASKS:
        _checks.reject("task", f"one of {', '.join(TASKS)}", repr(recipe.task))
    TASKS[recipe.task].check(recipe)
    return TASKS[recipe.task]


def _require(*packages: str) -> None:
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ImportError(f"tasks need the package {package}: pip install 'jaxlstm[tasks]'") from error


def _prepare(recipe: Recipe) -> tuple[Problem, dict[str, Network]]:
    """The problem, and the network of each cell."""
    problem = _task_of(recipe).problem(recipe)
    return problem, {cell: problem.network(problem.cell(cell, recipe.hidden_size)) for cell in recipe.cells}


def _data_sum(problem: Problem) -> str | None:
    return files_sum(problem.files) if problem.files else None


def _draw(recipe: Recipe, problem: Problem, directory: Path, predictions: Models) -> None:
    """Draw the two pictures of a run."""
    _pictures.learning_curve(
        directory / _run.LEARNING_CURVE, directory / _run.METRICS, recipe.cells, problem.figure, problem.baseline
    )
    first = {cell: np.asarray(values[0]) for cell, values in predictions.items()}
    problem.picture(directory / TASKS[recipe.task].picture_name, first)


def _save(recipe: Recipe, directory: Path, models: Models) -> None:
    """Save each model's weights in a file of its own."""
    if jax.process_index() != 0:
        return
    for cell, stacked in models.items():
        for index, seed in enumerate(recipe.every_seed):
            params = jax.tree.map(lambda leaf, index=index: leaf[index], stacked)
            save_params(_run.weights_path(directory, cell, seed), params)


def _report(recipe: Recipe, problem: Problem, predictions: Models) -> str:
    """A line for each cell with its test figure; for several seeds also their mean and standard deviation."""
    lines = []
    for name, scores in _models.scores(problem, predictions).items():
        shown = " ".join(f"{score:.5f}" for score in scores)
        if recipe.seeds > 1:
            mean, spread = np.mean(scores, dtype=np.float64), np.std(scores, ddof=1, dtype=np.float64)
            shown = f"{mean:.5f} +- {spread:.5f} (mean and standard deviation of {recipe.seeds} seeds: {shown})"
        lines.append(f"{name.partition('.')[0]}: {problem.figure} {shown}")
    if problem.baseline:
        lines.append("{}: {:.5f}".format(*problem.baseline))
    return "\n".join(lines)
