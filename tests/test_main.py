"""The command line, in its own process's main(): what it writes, prints, repeats, and refuses."""

import contextlib
import csv
import dataclasses
import inspect
import io
import json
import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy.io import savemat

from jaxlstm import tasks
from jaxlstm.__main__ import main
from jaxlstm._arguments import parser

TINY = ["--hidden-size", "4", "--steps", "3", "--batch-size", "5", "--evaluate-every", "2"]
RUNS = {
    "vowels": ["--seeds", "2", "--seed", "3", "--dropout", "0.2"],
    "adding": ["--length", "5", "--dropout", "0.2"],
}
PICTURES = {"vowels": "confusion_matrix.png", "adding": "predictions.png"}
MODELS = {"vowels": ["lstm_seed3", "lstm_seed4"], "adding": ["gru_seed0", "lstm_seed0", "rnn_seed0"]}


@pytest.fixture(scope="module", params=RUNS)
def run(request, tmp_path_factory):
    """A task, its directory, and what training printed."""
    task = request.param
    directory = tmp_path_factory.mktemp("runs") / "deep" / task
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["train", task, "--out", str(directory), *TINY, *RUNS[task]]) == 0
    return task, directory, printed.getvalue()


def say(capsys, *arguments):
    """Exit code, stdout and stderr of a command line."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_run_leaves_its_files(run):
    task, directory, _ = run
    weights = [f"weights_{model}.safetensors" for model in MODELS[task]]
    expected = {"config.json", "metrics.csv", "learning_curve.png", "checkpoints", PICTURES[task], *weights}
    assert {path.name for path in directory.iterdir()} == expected
    for picture in directory.glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_configuration_holds_every_option(run):
    task, directory, _ = run
    config = json.loads((directory / "config.json").read_text())
    assert config.pop("versions").keys() == {"jaxlstm", "jax", "python"}
    assert config.pop("sums").keys() == {"options", "data"}
    recipe = tasks.Recipe(**config)
    assert (recipe.task, recipe.hidden_size, recipe.steps, recipe.dropout) == (task, 4, 3, 0.2)
    assert config.keys() == {field.name for field in dataclasses.fields(tasks.Recipe)}


def test_metrics_have_every_step_and_the_test_figures(run):
    task, directory, _ = run
    with (directory / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["0", "1", "2", "3"]
    name = {"vowels": "lstm.test.1", "adding": "rnn.test.0"}[task]
    assert [bool(row[name]) for row in rows] == [True, False, True, True]
    assert all(float(row["loss.0"]) > 0 for row in rows[1:])


@pytest.mark.parametrize("x64", [True, False])
def test_evaluate_prints_the_same_figures(run, capsys, request, x64):
    if not x64:
        request.getfixturevalue("without_x64")  # what is float32 by intention does not depend on the mode
    task, directory, printed = run
    before = contents(directory)
    code, out, _ = say(capsys, "evaluate", directory)
    assert code == 0
    assert out.splitlines() == printed.splitlines()[:-1]
    expected = {"vowels": "lstm: test accuracy", "adding": "rnn: test mean squared error"}[task]
    assert expected in out
    assert contents(directory) == before


def test_a_run_is_never_overwritten(run, capsys):
    task, directory, _ = run
    before = contents(directory)
    code, out, err = say(capsys, "train", task, "--out", directory, *TINY)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"jaxlstm: error: .* already holds a run \(.*\); choose another directory\n", err)
    assert contents(directory) == before


def test_a_seed_alone_is_the_same_run_as_among_others(run, tmp_path, capsys):
    task, directory, _ = run
    if task != "vowels":
        pytest.skip("one task is enough")
    arguments = [*TINY, *RUNS[task], "--seeds", "1", "--seed", "4"]
    assert say(capsys, "train", task, "--out", tmp_path / "alone", *arguments)[0] == 0
    template = _template(tasks.recipe_of(directory))
    both, alone = (tasks._run.read_weights(d, "lstm", 4, template) for d in (directory, tmp_path / "alone"))
    for a, b in zip(jax.tree.leaves(both), jax.tree.leaves(alone), strict=True):
        assert abs(a - b).max() < 1e-5


def _template(recipe):
    problem, networks = tasks._train._prepare(recipe)
    return jax.eval_shape(tasks._models.init(problem, networks["lstm"]), jax.random.key(0))


SHORT = {"reber": 9, "adding-1997": 20, "multiplication": 20, "temporal-order-6a": 10, "temporal-order-6b": 10}
# Others run the same code.
SIBLINGS = ("multiplication", "adding-1997", "temporal-order-6a", "temporal-order-6b", "noise-free-lag", "noisy-lag")
SIBLINGS += ("continual-reber", "mnist1d", "copying", "text", "reber")
GENERATED = [name for name, task in tasks.TASKS.items() if task.recipe.length is not None and name != "adding"]


@pytest.mark.parametrize(
    "task",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SIBLINGS)) for name in (*GENERATED, "mnist1d", "jsb")],
)
def test_every_task_is_trained_and_evaluated(task, tmp_path, capsys):
    arguments = ["--cell", "rnn", *TINY]
    if task in GENERATED:
        arguments += ["--length", str(SHORT.get(task, 5))]
    if task in FILES:
        arguments += ["--file", FILES[task](tmp_path)]
    code, printed, err = say(capsys, "train", task, "--out", tmp_path / "run", *arguments)
    assert (code, err) == (0, "")
    assert tasks.TASKS[task].picture_name in {path.name for path in (tmp_path / "run").iterdir()}
    code, out, _ = say(capsys, "evaluate", tmp_path / "run")
    assert code == 0
    assert out.splitlines() == printed.splitlines()[:-1]
    assert re.match(r"rnn: \D+[\d.]+", out)


def chorales(directory):
    """A file like JSB_Chorales.mat, with two short chorales in each part."""
    parts = {}
    for name in ("traindata", "validdata", "testdata"):
        parts[name] = np.empty((1, 2), object)
        for index in range(2):
            parts[name][0, index] = np.eye(4 + index, 88, dtype=np.uint8)
    savemat(directory / "chorales.mat", parts)
    return directory / "chorales.mat"


def book(directory):
    """A text."""
    (directory / "book.txt").write_text("to be or not to be, " * 50)
    return str(directory / "book.txt")


FILES = {"jsb": chorales, "text": book}


def test_the_chorales_are_found_again_from_another_directory(tmp_path, capsys, monkeypatch):
    path = chorales(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert say(capsys, "train", "jsb", "--file", path.name, "--cell", "rnn", "--out", "run", *TINY)[0] == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert say(capsys, "evaluate", tmp_path / "run")[0] == 0
    path.unlink()
    code, _, err = say(capsys, "evaluate", tmp_path / "run")
    assert code == 2
    assert err == (
        f"jaxlstm: error: {path} cannot be read (No such file or directory); "
        "the jsb task needs JSB_Chorales.mat: --file\n"
    )


def test_vowels_is_the_default_task_and_can_hold_out_training_sequences(tmp_path, capsys):
    code, out, _ = say(capsys, "train", "--out", tmp_path / "run", "--cell", "rnn", "--hold-out", "1", *TINY)
    assert code == 0
    assert out.startswith("rnn: accuracy on held-out training sequences 0.")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["task"] == "vowels"


MISTAKES = {
    "no command": ([], "required: COMMAND"),
    "unknown command": (["predict"], "invalid choice: 'predict'"),
    "unknown task": (["train", "parsing", "--out", "{new}"], "invalid choice: 'parsing'"),
    "no directory": (["train"], "required: --out"),
    "unknown option": (["train", "--out", "{new}", "--speed=3"], "unrecognized arguments: --speed=3"),
    "not a number": (["train", "--out", "{new}", "--steps", "many"], "--steps: invalid int value: 'many'"),
    "unknown cell": (
        ["train", "--out", "{new}", "--cell", "cnn"],
        "--cell: expected one of rnn, gru, lstm, mgu, min_gru, min_lstm, ind_rnn, slstm, mlstm, lru, all, got 'cnn'",
    ),
    "no steps": (["train", "--out", "{new}", "--steps", "0"], "--steps: expected a positive int, got 0"),
    "no units": (["train", "--out", "{new}", "--hidden-size", "-1"], "--hidden-size: expected a positive int, got -1"),
    "all dropped": (["train", "--out", "{new}", "--dropout", "1"], "--dropout: expected a rate in [0, 1), got 1.0"),
    "no rate": (["train", "--out", "{new}", "--learning-rate", "0"], "--learning-rate: expected a positive number"),
    "infinite rate": (
        ["train", "--out", "{new}", "--learning-rate", "inf"],
        "--learning-rate: expected a finite number",
    ),
    "negative seed": (["train", "--out", "{new}", "--seed", "-1"], "--seed: expected an int in 0.."),
    "length of vowels": (["train", "--out", "{new}", "--length", "9"], "--length: the task vowels has no such option"),
    "too short": (["train", "adding", "--out", "{new}", "--length", "1"], "--length: expected an int in 2.."),
    "shorter than the grammar": (
        ["train", "reber", "--out", "{new}", "--length", "8"],
        "--length: expected an int in 9..",
    ),
    "file of adding": (
        ["train", "adding", "--out", "{new}", "--file", "x"],
        "--file: the task adding has no such option",
    ),
    "no file": (["train", "jsb", "--out", "{new}", "--file", "{new}"], "cannot be read (No such file or directory)"),
    "another file": (["train", "jsb", "--out", "{new}", "--file", "{file}"], "damaged, or not JSB_Chorales.mat"),
    "nothing left": (["train", "--out", "{new}", "--hold-out", "30"], "--hold-out: expected an int in 0..29, got 30"),
    "out is a file": (["train", "--out", "{file}"], "file cannot be written to"),
    "out is below a file": (["train", "--out", "{file}/run", *TINY], "cannot be written to"),
    "resume nothing": (["train", "--out", "{new}", "--resume"], "holds no run: config.json cannot be read"),
    "resume with options": (
        ["train", "--out", "{new}", "--resume", "--steps", "9"],
        "--steps: a resumed run keeps its own options",
    ),
    "no such process": (
        ["train", "--out", "{new}", "--num-processes", "2", "--process-id", "2"],
        "expected a number in 0..1",
    ),
    "no coordinator": (["train", "--out", "{new}", "--num-processes", "2"], "--coordinator: expected HOST:PORT"),
    "a process alone": (["train", "--out", "{new}", "--process-id", "1"], "--process-id: expected a number in 0..0"),
    "no process": (["train", "--out", "{new}", "--num-processes", "0"], "--num-processes: expected a positive number"),
    "a coordinator of one": (
        ["train", "--out", "{new}", "--coordinator", "localhost:1"],
        "got localhost:1 and --num-processes 1",
    ),
    "evaluate nothing": (["evaluate", "{new}"], "holds no run: config.json cannot be read"),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_sentence_and_nothing_is_written(arguments, message, tmp_path, capsys, without_type_hook):
    (tmp_path / "file").write_text("mine")
    places = {"new": tmp_path / "new", "file": tmp_path / "file"}
    code, out, err = say(capsys, *(argument.format(**places) for argument in arguments))
    assert (code, out) == (2, "")
    assert err.startswith("jaxlstm: error: ")
    assert err.count("\n") == 1
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("task", tasks.TASKS)
def test_a_recipe_that_a_task_cannot_have_is_refused(task, tmp_path, without_type_hook):
    """Also without the command line. Nothing is written."""
    recipe, limits = tasks.TASKS[task].recipe, tasks.TASKS[task].limits
    wrong = {"length": 100, "hold_out": 1, "file": "x"}
    for name in wrong:
        value = getattr(recipe, name)
        values = [wrong[name]] if value is None else [None]
        if value is not None and name in limits:
            values += [limits[name][0] - 1, limits[name][1] + 1, 5.0]
        for value in values:
            with pytest.raises((ValueError, TypeError), match=f"^{name}: "):
                tasks.train(dataclasses.replace(recipe, **{name: value}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def contents(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def copy(run, tmp_path):
    for path in filter(Path.is_file, run[1].iterdir()):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path, tmp_path / f"weights_{MODELS[run[0]][-1]}.safetensors"


def test_damaged_and_missing_weights_are_named(run, tmp_path, capsys):
    directory, weights = copy(run, tmp_path)
    weights.write_bytes(weights.read_bytes()[:-1])
    code, _, err = say(capsys, "evaluate", directory)
    assert code == 2
    assert re.fullmatch(rf"jaxlstm: error: .*{weights.name}: damaged, or not a safetensors file \(.*\)\n", err)
    weights.unlink()
    code, _, err = say(capsys, "evaluate", directory)
    assert code == 2
    assert re.fullmatch(rf"jaxlstm: error: .* holds no weights of .* \({weights.name}\)\n", err)


CONFIGS = {
    "not JSON": lambda text: text[:-5],
    "a list": lambda text: "[]",
    "an unknown option": lambda text: text.replace('"layers"', '"levels"'),
    "an unknown task": lambda text: re.sub('"task": "[a-z0-9-]*"', '"task": "parsing"', text),
    "a wrong size": lambda text: re.sub('"hidden_size": 4', '"hidden_size": "4"', text),
    "no length": lambda text: re.sub('"(length|hold_out)": [0-9]+', r'"\1": null', text),
    "a file": lambda text: text.replace('"file": null', '"file": "x.mat"'),
}


@pytest.mark.parametrize("change", CONFIGS.values(), ids=CONFIGS)
def test_a_damaged_configuration_is_named(run, tmp_path, capsys, change, without_type_hook):
    directory, _ = copy(run, tmp_path)
    config = directory / "config.json"
    config.write_text(change(config.read_text()))
    code, _, err = say(capsys, "evaluate", directory)
    assert code == 2
    assert err.startswith(f"jaxlstm: error: {config} is damaged: ")
    assert err.count("\n") == 1


def test_weights_of_another_model_are_an_error_that_names_the_tensor(run, tmp_path, capsys):
    directory, _ = copy(run, tmp_path)
    config = directory / "config.json"
    options = json.loads(config.read_text()) | {"hidden_size": 6}
    sums = options.pop("sums")
    config.write_text(json.dumps(options | {"sums": sums}))
    code, _, err = say(capsys, "evaluate", directory)
    assert code == 2
    assert "config.json is damaged: the checksum of its options has changed" in err
    sums["options"] = tasks._run.sum_of({name: value for name, value in options.items() if name != "versions"})
    config.write_text(json.dumps(options | {"sums": sums}))
    code, _, err = say(capsys, "evaluate", directory)
    assert code == 2
    assert re.search(r"network\.0\S*: expected shape .*(6|24).*, got .*(4|16)", err)


@pytest.mark.parametrize(
    ("package", "task"),
    [
        ("mnist1d.data", "mnist1d"),
        ("safetensors", "vowels"),
        ("matplotlib.figure", "vowels"),
    ],
)
def test_a_missing_package_is_a_sentence_that_names_the_extra(monkeypatch, tmp_path, capsys, package, task):
    monkeypatch.setitem(sys.modules, package, None)
    code, _, err = say(capsys, "train", task, "--out", tmp_path / "run", *TINY)
    assert code == 2
    assert err.startswith("jaxlstm: error: ")
    assert "pip install 'jaxlstm[tasks]'" in err
    assert not (tmp_path / "run").exists()


def test_without_optax_the_core_loads_and_the_command_line_says_what_it_needs():
    code = "import sys; sys.modules['optax'] = None; from jaxlstm.__main__ import main; sys.exit(main(['train']))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert re.fullmatch(r"jaxlstm: error: .*pip install 'jaxlstm\[tasks\]' .*\n", result.stderr)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_saves_the_last_finished_step_and_the_run_goes_on(run, number, code, monkeypatch, tmp_path, capsys):
    task, directory, printed = run
    if task != "vowels":
        pytest.skip("one task is enough")
    batches = tasks._train.own_batches

    def interrupted(recipe, problem):
        for step, batch in enumerate(batches(recipe, problem)):
            if step == 0:
                signal.raise_signal(number)
            yield batch

    with monkeypatch.context() as patched:
        patched.setattr(tasks._train, "own_batches", interrupted)
        answer, _, err = say(capsys, "train", task, "--out", tmp_path / "run", *TINY, *RUNS[task])
    assert answer == code
    how = f"jaxlstm train --out {tmp_path / 'run'} --resume"
    assert err == f"jaxlstm: training stopped after step 1; to continue: {how}\n"
    if number == signal.SIGTERM:
        return  # it goes on as after the other
    assert say(capsys, "evaluate", tmp_path / "run")[0] == 0
    answer, out, _ = say(capsys, *how.split()[1:])
    assert (answer, out.splitlines()[:-1]) == (0, printed.splitlines()[:-1])
    assert (tmp_path / "run" / "metrics.csv").read_bytes() == (directory / "metrics.csv").read_bytes()
    weights = f"weights_{MODELS[task][0]}.safetensors"
    resumed, whole = (load_file(place / weights) for place in (tmp_path / "run", directory))
    assert all((resumed[name] == whole[name]).all() for name in whole)


def test_a_run_of_another_task_is_not_resumed(run, capsys):
    task, directory, _ = run
    before, other = contents(directory), "reber"
    code, out, err = say(capsys, "train", other, "--out", directory, "--resume")
    assert (code, out) == (2, "")
    assert err == f"jaxlstm: error: TASK: {directory} holds a run of {task}, got {other}\n"
    assert contents(directory) == before


def test_ctrl_c_before_the_first_step_is_no_traceback(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tasks._train, "_prepare", lambda recipe: signal.raise_signal(signal.SIGINT))
    code, _, err = say(capsys, "train", "--out", tmp_path / "run")
    assert (code, err) == (130, "jaxlstm: interrupted\n")
    assert not (tmp_path / "run").exists()


def defaults(block):
    """The value of each task in "(default: VALUE OF THE OTHERS; TASK, TASK VALUE; TASK VALUE)"."""
    found, others = {}, None
    for group in block.split("(default: ")[1].rstrip(")").split("; "):
        *names, value = group.replace(",", "").split()
        found |= dict.fromkeys(names, value)
        others = others if names else value
    return dict.fromkeys(tasks.TASKS, others) | found


def test_help_shows_every_option_and_every_default(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit) as exit_code:
        main(["train", "--help"])
    assert exit_code.value.code == 0
    shown = capsys.readouterr().out
    for field in dataclasses.fields(tasks.Recipe):
        if field.name == "task":
            continue
        line = next(line for line in shown.splitlines() if line.strip().startswith("--" + field.name.replace("_", "-")))
        block = " ".join(shown[shown.index(line) :].split("\n  --")[0].split())
        for task in tasks.TASKS.values():
            value = getattr(task.recipe, field.name)
            assert defaults(block).get(task.recipe.task) == (None if value is None else str(value))


def helped(capsys, *command):
    """What --help says of each option, on a line of its own."""
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    entries = re.findall(r"^  --([\w-]+)( \S+)? +(.*)$", capsys.readouterr().out, re.M)
    return {name.replace("-", "_"): text for name, _, text in entries}


def described(function):
    """What the docstring says of each argument."""
    section = inspect.getdoc(function).split("Args:\n")[1].split("\n\n")[0]
    entries = re.split(r"^  (?=\w)", section, flags=re.M)[1:]
    return {name: " ".join(text.split())[:-1] for name, text in (entry.split(":", 1) for entry in entries)}


OF_A_RUN = {"out", "resume", "num_processes", "process_id", "coordinator"}


@pytest.mark.parametrize("task", tasks.TASKS)
def test_the_options_of_a_task_are_those_of_its_recipe(task, monkeypatch, capsys):
    """Their help is the docstring's, their defaults are the recipe's: neither is written down a second time."""
    monkeypatch.setenv("COLUMNS", "1000")
    recipe = dataclasses.asdict(tasks.TASKS[task].recipe)
    shown = helped(capsys, "train", task)
    assert shown.keys() - OF_A_RUN == {name for name, value in recipe.items() if value is not None} - {"task"}
    for name in shown.keys() - OF_A_RUN:
        assert shown[name] == f"{described(tasks.Recipe)[name]} (default: {recipe[name]})"


def test_the_options_of_sampling_are_the_arguments_of_sample(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "1000")
    shown, texts = helped(capsys, "sample"), described(tasks.sample)
    parameters = dict(inspect.signature(tasks.sample).parameters)
    assert parameters.pop("directory")
    assert shown.keys() == parameters.keys()
    for name, parameter in parameters.items():
        default = "" if parameter.default is None else f" (default: {parameter.default!r})"
        assert shown[name] == texts[name] + default
    parsed = vars(parser(tasks).parse_args(["sample", "DIR"]))
    assert {name: parsed[name] for name in parameters} == {name: p.default for name, p in parameters.items()}


def test_python_m_runs_it(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["jaxlstm", "evaluate", "nowhere"])
    monkeypatch.delitem(sys.modules, "jaxlstm.__main__")
    with pytest.raises(SystemExit) as exit_code:
        runpy.run_module("jaxlstm", run_name="__main__")
    assert exit_code.value.code == 2
    assert "nowhere holds no run" in capsys.readouterr().err


def test_importing_the_library_loads_neither_training_nor_tasks():
    code = (
        "import sys, jaxlstm\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('optax', 'aeon', 'matplotlib', 'tqdm', 'safetensors')"
        " or m.startswith(('jaxlstm.training', 'jaxlstm.tasks', 'jaxlstm.interop'))])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_run_without_the_checkpoints_that_it_had_is_not_begun_again(run, tmp_path, capsys):
    _, directory, _ = run
    for name in ("config.json", "metrics.csv"):
        shutil.copy(directory / name, tmp_path)
    before = contents(tmp_path)
    code, _, err = say(capsys, "train", "--out", tmp_path, "--resume")
    assert (code, err.count("\n")) == (2, 1)
    assert "holds metrics.csv, but no checkpoint to resume from in checkpoints" in err
    assert contents(tmp_path) == before


def test_a_sample_needs_a_run_of_text(run, capsys):
    task, directory, _ = run
    code, _, err = say(capsys, "sample", directory)
    assert (code, err) == (2, f"jaxlstm: error: {directory} holds a run of the task {task}, expected text\n")


def test_a_full_disk_is_one_sentence(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tasks._run, "METRICS", "/dev/full")
    monkeypatch.setattr(tasks._run, "refuse_existing", lambda directory: None)  # /dev/full is there
    code, _, err = say(capsys, "train", "adding", "--cell", "rnn", "--out", tmp_path / "run", *TINY, "--length", "5")
    assert (code, err) == (2, "jaxlstm: error: /dev/full cannot be written (No space left on device)\n")


def test_a_run_that_ended_before_its_first_checkpoint_begins_again(run, tmp_path, capsys):
    """Such as one that was killed while it compiled: config.json is all that it left."""
    task, directory, printed = run
    if task != "vowels":
        pytest.skip("one task is enough")
    shutil.copy(directory / "config.json", tmp_path)
    code, out, _ = say(capsys, "train", "--out", tmp_path, "--resume")
    assert (code, out.splitlines()[:-1]) == (0, printed.splitlines()[:-1])
    assert (tmp_path / "metrics.csv").read_bytes() == (directory / "metrics.csv").read_bytes()


def together(*commands):
    """What each command line printed, all of them running at once; "{port}" is a free one."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    programs = [
        subprocess.Popen(
            [sys.executable, "-m", "jaxlstm", "train", *(str(word).format(port=port) for word in command)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    try:
        printed = [program.communicate(timeout=300)[0] for program in programs]
    finally:
        for program in programs:
            program.kill()
    assert [program.returncode for program in programs] == [0] * len(commands)
    return printed


SHARED = {  # batches that two processes do not divide: indices, sequences that the loss draws, a carried state
    "vowels": [],
    "reber": ["--batch-size", "5"],
    "text": ["--batch-size", "5", "--length", "20", "--dropout", "0", "--file", str(Path(__file__))],
}


@pytest.mark.slow
@pytest.mark.parametrize("task", SHARED)
def test_two_processes_train_what_one_does(tmp_path, task):
    command = [task, "--cell", "lstm", "--hidden-size", "4", "--steps", "3", "--evaluate-every", "2", *SHARED[task]]
    several = ["--out", tmp_path / "two", "--num-processes", "2", "--coordinator", "localhost:{port}", "--process-id"]
    alone, first, second = together(
        [*command, "--out", tmp_path / "one"], [*command, *several, "0"], [*command, *several, "1"]
    )
    one, two = (
        list(csv.DictReader((tmp_path / name / "metrics.csv").read_text().splitlines())) for name in ("one", "two")
    )
    assert figures(first) == pytest.approx(figures(alone), rel=1e-4)
    assert not figures(second)
    assert len(one) == len(two) == 4
    for row, other in zip(one, two, strict=True):
        for name, number in row.items():
            assert number == other[name] == "" or float(number) == pytest.approx(float(other[name]), rel=1e-4)

    log = (tmp_path / "two" / "metrics.csv").read_text()
    shutil.rmtree(tmp_path / "two" / "checkpoints" / "3")
    together([*several, "0", "--resume"], [*several, "1", "--resume"])
    assert (tmp_path / "two" / "metrics.csv").read_text() == log


def figures(out):
    """The figure of each cell: the first number of its line."""
    return {cell: float(figure) for cell, figure in re.findall(r"^(\w+): \D*(\d+\.\d+)", out, re.MULTILINE)}


CHORALES = os.environ.get("JSB_CHORALES", "JSB_Chorales.mat")
SOLVED = [  # a short training of the LSTM on a task of each kind, and where its figure comes to lie
    ("multiplication", (0, 0.002), ["--steps", "1000"]),
    ("temporal-order-6b", (0.99, 1), ["--steps", "700"]),
    ("reber", (0.99, 1), []),
    ("noise-free-lag", (1, 1), []),
    ("continual-reber", (0.9, 1), ["--steps", "1000"]),
    ("mnist1d", (0.87, 1), ["--steps", "2000"]),
    (
        "copying",
        (0, 0.5),  # without memory 0.69
        ["--length", "10", "--hidden-size", "128", "--learning-rate", "0.01", "--batch-size", "16", "--steps", "1500"],
    ),
    ("text", (0, 3), ["--hidden-size", "64", "--layers", "1", "--steps", "400", "--evaluate-every", "400"]),
    # the keys' frequencies alone: 11.09
    ("jsb", (0, 10.5), ["--file", CHORALES, "--hidden-size", "64", "--dropout", "0.2", "--steps", "200"]),
]


@pytest.mark.slow
@pytest.mark.usefixtures("without_x64")
class TestRecipes:
    """The figures that the documentation promises."""

    def test_vowels(self, tmp_path, capsys):
        code, out, _ = say(capsys, "train", "vowels", "--cell", "lstm", "--seeds", "5", "--out", tmp_path / "run")
        assert code == 0
        assert figures(out)["lstm"] >= 0.975

    def test_adding(self, tmp_path, capsys):
        code, out, _ = say(capsys, "train", "adding", "--cell", "lstm", "--out", tmp_path / "run")
        assert code == 0
        assert figures(out)["lstm"] < 0.005

    @pytest.mark.parametrize(("task", "least", "options"), SOLVED, ids=[name for name, *_ in SOLVED])
    def test_memory(self, task, least, options, tmp_path, capsys):
        if task == "jsb" and not Path(CHORALES).exists():
            pytest.skip(f"no file {CHORALES}")
        code, out, _ = say(capsys, "train", task, "--cell", "lstm", "--out", tmp_path / "run", *options)
        assert code == 0
        low, high = least
        assert low <= figures(out)["lstm"] <= high
