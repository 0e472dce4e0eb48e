"""A random walk over faults of `jaxlstm train`: the next run continues bit for bit, or says in one line why not.

``JAXLSTM_FAULTS=0:200 pytest -m slow -s tests/tasks/test_fault_walk.py`` walks further and prints the outcomes;
``JAXLSTM_FAULTS=35:36`` repeats one.
"""

import collections
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("forked_command.py")
RUNS = range(*map(int, os.environ.get("JAXLSTM_FAULTS", "0:18").split(":")))
BOOK = "the quick brown fox jumps over the lazy dog\n" * 40
OPTIONS = "--cell rnn --hidden-size 4 --layers 1 --steps 24 --batch-size 2 --evaluate-every 2 --length 8"
STOPPED = 6  # runs that SIGTERM ends, whose files are damaged, as those of one that is whole
LIMITS = (300, 50_000)  # bytes, from less than config.json has to what only the largest picture exceeds


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """``command(*arguments, signal=, after=, limit=, unread=)``: exit code, stdout, stderr, seconds."""
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("cache")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    environment = os.environ | {"JAX_PLATFORMS": "cpu"} | cache
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    with subprocess.Popen([sys.executable, str(PROGRAM)], env=environment, **pipes) as program:

        def command(*arguments, **options):
            print(json.dumps({"arguments": list(map(str, arguments)), **options}), file=program.stdin)
            return json.loads(program.stdout.readline())

        yield command
        program.stdin.close()


class Walk:
    """Runs on one text, each in a folder of its own, and the run without a fault that each should come to."""

    def __init__(self, command, folder):
        self.command, self.folder = command, folder
        (folder / "book.txt").write_text(BOOK)
        self.arguments = ["train", "text", "--file", folder / "book.txt", *OPTIONS.split()]
        self.whole = folder / "whole"
        for _ in range(2):  # the second with programs that are compiled, as all that follow
            shutil.rmtree(self.whole, ignore_errors=True)
            code, self.report, _, self.seconds = command(*self.arguments, "--out", self.whole)
            assert code == 0
        self.left = [self.whole, *(folder / f"stopped{number}" for number in range(STOPPED))]
        for number, run in enumerate(self.left[1:]):
            after = self.seconds * (0.3 + 0.6 * number / STOPPED)
            while self.start(run, signal=signal.SIGTERM, after=after):  # until it has begun to train
                remove(run)
                after *= 1.2

    def start(self, run, **fault):
        """The exit code of a run that has a fault, of which it says one line at most."""
        code, _, err, _ = self.command(*self.arguments, "--out", run, **fault)
        assert re.fullmatch(r"(jaxlstm: .+\n)?", err)
        assert err or code not in (2, 130)
        return code

    def resume(self, run):
        """What came of it, checked: "continued", or the error."""
        steps, before = saved_steps(run), contents(run)
        code, out, err, _ = self.command("train", "--out", run, "--resume")
        if code:
            assert code == 2, err
            assert re.fullmatch(rf"jaxlstm: error: .*{re.escape(str(run))}.*\n", err), err
            after = contents(run)
            if saved_steps(run) == steps:  # else it failed at its end, as where its weights cannot be written
                assert not {path for path in before if after.get(path) != before[path]}
            return err
        assert not err
        self.assert_whole(run, out)
        return "continued"

    def assert_whole(self, run, out):
        """The run has come to what the one without a fault came to."""
        assert out.splitlines()[:-1] == self.report.splitlines()[:-1]
        for path in self.whole.iterdir():
            if path.is_file() and path.name != "config.json":
                assert (run / path.name).read_bytes() == path.read_bytes(), path.name


def contents(run):
    """All files but what belongs to the process that writes, and checkpoints that were never finished."""
    files = (path for path in run.rglob("*") if path.is_file() and "tmp" not in str(path.relative_to(run)))
    return {path: path.read_bytes() for path in files if path.name not in ("lock", "writer")}


def saved_steps(run):
    return {path.name for path in run.glob("checkpoints/*") if path.name.isdecimal()}


def struck(walk, run, draw, kind):
    """A fault while the command runs."""
    if kind == "full disk":
        low, high = LIMITS
        code = walk.start(run, limit=int(low * (high / low) ** draw.random()))
        assert code == 2
    elif kind == "closed pipe":
        assert walk.start(run, unread=True) == 141
    else:
        number = getattr(signal, kind)
        code = walk.start(run, signal=number, after=draw.uniform(0, 1.1 * walk.seconds))
        assert code in {"SIGKILL": (0, -number), "SIGTERM": (0, -number), "SIGINT": (0, 130)}[kind]
    outcome = walk.resume(run)
    if outcome != "continued":
        assert "holds no run: config.json" in outcome
        code, out, *_ = walk.command(*walk.arguments, "--out", run)
        assert code == 0
        walk.assert_whole(run, out)
        return "begun anew"
    return outcome


def remove(path):
    """A file, a folder or nothing."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def spoil(path, draw, kind):
    """Damage a file; a folder can be removed or become a file."""
    old = path.read_bytes() if path.is_file() else None
    remove(path)
    if kind == "truncated":
        path.write_bytes(old[: draw.randrange(len(old))])
    elif kind == "flipped":
        spot = draw.randrange(len(old))
        path.write_bytes(old[:spot] + bytes([old[spot] ^ 1 << draw.randrange(8)]) + old[spot + 1 :])
    elif kind == "replaced" and old is None:
        path.write_text("")
    elif kind == "replaced":
        path.mkdir()


def damaged(walk, run, draw, kind):
    """A fault in one of the files that a run has left when it ended."""
    shutil.copytree(draw.choice(walk.left), run)
    latest = run / "checkpoints" / max(saved_steps(run), key=int)
    paths = draw.choice([run.iterdir(), latest.rglob("*"), run.rglob("*")])
    if kind in ("flipped", "truncated"):
        paths = (path for path in paths if path.is_file() and path.stat().st_size)
    path = draw.choice(sorted(paths))
    copy = shutil.copytree if path.is_dir() else shutil.copy
    copy(path, walk.folder / "kept")
    spoil(path, draw, kind)
    outcome = walk.resume(run)
    if outcome == "continued":
        return outcome
    remove(path)
    copy(walk.folder / "kept", path)
    assert walk.resume(run) == "continued"
    return f"refused: {path.relative_to(run)}: {outcome.replace(str(walk.folder), '')}"


FAULTS = dict.fromkeys(["SIGKILL", "SIGTERM", "SIGINT", "closed pipe", "full disk"], struck)
FAULTS |= dict.fromkeys(["flipped", "truncated", "removed", "replaced"], damaged)


@pytest.mark.slow
def test_after_a_random_fault_a_run_goes_on_bit_for_bit_or_says_why_not(command, tmp_path):
    walk, counts = Walk(command, tmp_path), collections.Counter()
    for number in RUNS:
        kind, run = list(FAULTS)[number % len(FAULTS)], tmp_path / f"run{number}"
        remove(tmp_path / "kept")
        try:
            outcome = FAULTS[kind](walk, run, random.Random(str(number)), kind)
        except (AssertionError, OSError) as error:
            outcome = f"wrong: {error}"
        print(number, kind, outcome.strip())
        counts[kind, outcome.split(":")[0]] += 1
        shutil.rmtree(run)
    for kind in FAULTS:
        print(kind, {outcome: count for (fault, outcome), count in counts.items() if fault == kind})
    assert not [kind for kind, outcome in counts if outcome == "wrong"]
