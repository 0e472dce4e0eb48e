"""Every way into and out of the command line fails with one clear line: arguments, files, streams, signals."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from jaxlstm import tasks
from jaxlstm.__main__ import _unraisable, main

HEED = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # which pytest's workers ignore
COMMAND = [sys.executable, "-c", f"{HEED}; import sys; from jaxlstm_command import main; sys.exit(main())"]
TEXT = "the quick brown fox jumps over the lazy dog\u00e9\n" * 12
TINY = [
    "--hidden-size",
    "4",
    "--layers",
    "1",
    "--steps",
    "4",
    "--batch-size",
    "2",
    "--evaluate-every",
    "2",
    "--length",
    "8",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run on a small text, and the text."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "book.txt").write_text(TEXT)
    assert main(["train", "text", "--file", str(folder / "book.txt"), "--out", str(folder / "run"), *TINY]) == 0
    return folder


@pytest.fixture
def copy(run, tmp_path):
    """The same run, to be spoilt."""
    for path in (run / "run").rglob("*"):
        target = tmp_path / "run" / path.relative_to(run / "run")
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            target.write_bytes(path.read_bytes())
    return tmp_path / "run"


def say(capsys, *arguments):
    """Exit code, stdout and stderr."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_one_line(code, err, *words):
    assert code == 2, err
    assert err.startswith("jaxlstm: error: "), err
    assert err.count("\n") == 1
    assert len(err) < 1100
    assert all(word in err for word in words), err


MANY = "9" * 400
ARGUMENTS = {
    "steps of 400 digits": (["--steps", MANY], ["--steps: expected an int in 1..2147483647"]),
    "steps of 5000 digits": (["--steps", "9" * 5000], ["--steps: invalid int value"]),
    "a negative size": (["--hidden-size", "-3"], ["--hidden-size: expected a positive int, got -3"]),
    "a huge size": (["--hidden-size", "3000000000"], ["--hidden-size: expected an int in 1..16384, got 3000000000"]),
    "a huge batch": (["--batch-size", str(10**12)], ["--batch-size: expected an int in 1..1000000"]),
    "many layers": (["--layers", str(10**9)], ["--layers: expected an int in 1..1000"]),
    "many seeds": (["--seeds", str(10**9)], ["--seeds: expected an int in 1..10000"]),
    "rate nan": (["--learning-rate", "nan"], ["--learning-rate: expected a finite number"]),
    "no number": (["--dropout", "much"], ["--dropout: invalid float value: 'much'"]),
    "not UTF-8": (["--cell", "\udcff"], ["--cell: expected one of"]),
    "a long word": (["x" * 5000], ["invalid choice"]),
}


@pytest.mark.parametrize(("arguments", "words"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_arguments(arguments, words, tmp_path, capsys, without_type_hook):
    code, _, err = say(capsys, "train", *arguments, "--out", tmp_path / "run")
    assert_one_line(code, err, *words)
    assert not (tmp_path / "run").exists()


OUTS = {
    "a long name": lambda folder: folder / ("a" * 300),
    "below a file": lambda folder: folder / "file" / "run",
    "a file": lambda folder: folder / "file",
}


@pytest.mark.parametrize("out", OUTS.values(), ids=OUTS)
def test_where_no_run_can_be(out, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    code, _, err = say(capsys, "train", "--out", out(tmp_path))
    assert_one_line(code, err, str(tmp_path))


def test_where_one_may_not_look(tmp_path, capsys, monkeypatch):
    """As below a folder without permission, which does not exist for root."""

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", refuse)
    code, _, err = say(capsys, "train", "--out", tmp_path / "run")
    assert_one_line(code, err, str(tmp_path), "Permission denied")


DEEP = "[" * 10**5 + "]" * 10**5
SPOILT = {
    "no config": ("config.json", None, ["evaluate", "sample", "resume"]),
    "a folder as config": ("config.json", "folder", ["evaluate", "sample", "resume"]),
    "a deep config": ("config.json", DEEP, ["evaluate", "sample", "resume"]),
    "a config of huge numbers": ("config.json", '{"steps": ' + "9" * 5000 + "}", ["evaluate", "sample", "resume"]),
    "a config in UTF-16": ("config.json", "{}".encode("utf-16"), ["evaluate", "sample", "resume"]),
    "an edited config": ("config.json", ('"steps": 4', '"steps": 6'), ["evaluate", "sample", "resume"]),
    "no vocabulary": ("vocabulary.json", None, ["sample"]),
    "an edited vocabulary": ("vocabulary.json", ("quick"[0], "Q"), ["sample"]),
    "a deep vocabulary": ("vocabulary.json", DEEP, ["sample"]),
    "a folder as vocabulary": ("vocabulary.json", "folder", ["sample"]),
    "no weights": ("weights_lstm_seed0.safetensors", None, ["evaluate", "sample"]),
    "a folder as weights": ("weights_lstm_seed0.safetensors", "folder", ["evaluate", "sample"]),
    "damaged weights": ("weights_lstm_seed0.safetensors", b"\0" * 40, ["evaluate", "sample"]),
    "a blank line in the log": ("metrics.csv", ("\r\n2,", "\r\n\r\n2,"), ["resume"]),
    "a blank first line": ("metrics.csv", ("step,", "\r\nstep,"), ["resume"]),
    "other columns": ("metrics.csv", ("grad_norm", "gradient"), ["resume"]),
    "a word as a step": ("metrics.csv", ("\r\n2,", "\r\ntwo,"), ["resume"]),
    "a binary log": ("metrics.csv", bytes(range(256)) * 9, ["resume"]),
    "a log in UTF-16": ("metrics.csv", "step,loss\r\n".encode("utf-16"), ["resume"]),
    "a folder as log": ("metrics.csv", "folder", ["resume"]),
}
COMMANDS = {
    "evaluate": lambda folder: ["evaluate", folder],
    "sample": lambda folder: ["sample", folder, "--length", "3", "--prompt", "the"],
    "resume": lambda folder: ["train", "--out", folder, "--resume"],
}


def spoil(path, how):
    whole = path.read_bytes()
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif isinstance(how, tuple):
        old, new = (word.encode() for word in how)
        assert old in whole
        path.write_bytes(whole.replace(old, new, 1))
    elif how is not None:
        path.write_bytes(how if isinstance(how, bytes) else how.encode())


@pytest.mark.parametrize(("name", "how", "commands"), SPOILT.values(), ids=SPOILT)
def test_files_of_a_run(name, how, commands, copy, capsys, without_type_hook):
    spoil(copy / name, how)
    for checkpoint in (copy / "checkpoints").glob("4"):  # so that there is something left to do
        shutil.rmtree(checkpoint)
    before = contents(copy)
    for command in commands:
        code, _, err = say(capsys, *COMMANDS[command](copy))
        assert_one_line(code, err, name if "weights" not in name else str(copy))
    after = contents(copy)
    assert {path: after.get(path) for path in before} == before


@pytest.mark.parametrize("how", [None, "{"])
def test_a_resumed_run_writes_a_damaged_vocabulary_again(how, run, copy):
    spoil(copy / "vocabulary.json", how)
    assert main(COMMANDS["resume"](str(copy))) == 0
    assert (copy / "vocabulary.json").read_bytes() == (run / "run" / "vocabulary.json").read_bytes()


def test_another_text_is_refused_and_nothing_is_touched(run, copy, capsys):
    book = run / "book.txt"
    for other in (TEXT.replace("quick", "kciuq"), "other " + TEXT):
        book.write_text(other)
        before = contents(copy)
        for command in ("resume", "evaluate"):
            code, _, err = say(capsys, *COMMANDS[command](copy))
            assert_one_line(code, err, f"{book} has changed since the run")
        assert contents(copy) == before
        assert say(capsys, *COMMANDS["sample"](copy))[0] == 0
    book.write_text(TEXT)
    assert say(capsys, *COMMANDS["evaluate"](copy))[0] == 0


def test_a_damaged_mat_file(tmp_path, capsys):
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    for content in (b"", header, header + os.urandom(400), header + b"\x0f\0\0\0\x40\0\0\0" + b"x" * 64):
        (tmp_path / "x.mat").write_bytes(content)
        code, _, err = say(capsys, "train", "jsb", "--file", tmp_path / "x.mat", "--out", tmp_path / "run")
        assert_one_line(code, err, f"{tmp_path / 'x.mat'}: damaged, or not JSB_Chorales.mat")


@pytest.mark.parametrize("error", [MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")])
def test_too_little_memory(error, monkeypatch, tmp_path, capsys):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(tasks, "train", fail)
    code, _, err = say(capsys, "train", "--out", tmp_path / "run")
    assert_one_line(code, err, "not enough memory")


def program(arguments, **options):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"} | options.pop("environment", {})
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, **options)


def test_a_full_disk_behind_the_output(run):
    with Path("/dev/full").open("w") as full:
        for arguments in (["--help"], COMMANDS["sample"](run / "run")):
            process = program(arguments, stdout=full)
            _, err = process.communicate(timeout=120)
            assert_one_line(process.returncode, err, "the output cannot be written (No space left on device)")


@pytest.mark.slow
def test_a_disk_that_fills_up_during_a_save_is_one_line(run, tmp_path):
    """Of many writes at once, which TensorStore would print of one by one."""
    code = COMMAND[-1].replace(
        "import sys;", "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, [2200] * 2);"
    )
    command = ["train", "text", "--file", run / "book.txt", "--cell", "lstm", "--out", tmp_path / "run", *TINY]
    for _ in range(2):
        process = subprocess.run(
            [sys.executable, "-c", code, *map(str, command)],
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert_one_line(process.returncode, process.stderr, "could not be written; ", "(File too large)")
        shutil.rmtree(tmp_path / "run")


def test_a_reader_that_goes_away(run):
    process = program(["sample", run / "run", "--length", "2000"], stdout=subprocess.PIPE)
    process.stdout.read(3)
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=120) == 141
    assert not err


def test_an_output_without_the_character(run):
    process = program(
        ["sample", run / "run", "--prompt", "\u00e9"],
        stdout=subprocess.PIPE,
        environment={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    )
    _, err = process.communicate(timeout=120)
    assert_one_line(process.returncode, err, "the output's encoding, ascii, has no character '\\xe9'")


@pytest.mark.parametrize("seconds", [0.15, 0.5, 1.0])
def test_ctrl_c_while_libraries_are_imported(seconds, tmp_path):
    process = program(["train", "--out", tmp_path / "run"], stdout=subprocess.PIPE)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    before = process.returncode == -signal.SIGINT or err.startswith("Fatal Python error: init")
    if not before:  # Python itself had begun
        assert (process.returncode, err) == (130, "jaxlstm: interrupted\n")


def test_what_to_type_to_go_on_is_quoted(run, monkeypatch, tmp_path, capsys):
    out = tmp_path / "a run; rm x"

    def stop(*_, **__):
        raise KeyboardInterrupt("training stopped after step 3; Checkpoints(..., resume=True) continues")

    monkeypatch.setattr(tasks, "train", stop)
    code, _, err = say(capsys, "train", "--out", out)
    assert code == 130
    assert err.endswith(f"to continue: jaxlstm train --out '{out}' --resume\n")


@pytest.mark.parametrize("temperature", ["0", "1e-39", "1e-45", "1e-30"])
def test_a_temperature_near_zero_takes_the_likeliest(run, capsys, temperature):
    sample = [*COMMANDS["sample"](run / "run"), "--temperature"]
    assert say(capsys, *sample, temperature)[1] == say(capsys, *sample, "0")[1]


def test_an_interrupt_that_python_ignores_comes_again(monkeypatch):
    """As where Ctrl-C comes within a callback of the garbage collector."""
    monkeypatch.setattr(sys, "unraisablehook", _unraisable)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    class Ignoring:
        def __del__(self):
            raise KeyboardInterrupt

    try:
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            Ignoring()
            time.sleep(30)  # which it interrupts
    finally:
        signal.signal(signal.SIGINT, before)
