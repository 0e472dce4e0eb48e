"""A random walk over faults of `jaxlstm train`: the next run continues bit for bit, or says in one line why not.

``JAXLSTM_FAULTS=200 pytest -m slow -s tests/tasks/test_fault_walk.py`` walks further and prints the outcomes.
"""

import collections
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("forked_command.py")
RUNS = int(os.environ.get("JAXLSTM_FAULTS", "27"))
BOOK = "the quick brown fox jumps over the lazy dog\n" * 40
OPTIONS = "--cell rnn --hidden-size 4 --layers 1 --steps 24 --batch-size 2 --evaluate-every 2 --length 8"
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

    def start(self, run, **fault):
        """Begin a run that has a fault. What it says of it is one line at most."""
        code, _, err, _ = self.command(*self.arguments, "--out", run, **fault)
        assert err.count("\n") == (code in (2, 130) or bool(err)), err
        assert err.startswith("jaxlstm: "[: len(err)]), err
        return code

    def resume(self, run):
        """ "continued" or the error, once it is sure that the run is as it should be."""
        before = contents(run)
        code, out, err, _ = self.command("train", "--out", run, "--resume")
        if code:
            assert code == 2, err
            assert err.startswith("jaxlstm: error: "), err
            assert str(run) in err, err
            assert err.count("\n") == 1, err
            after = contents(run)
            assert {path for path in before if after.get(path) != before[path]} == set()
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


def spoil(path, draw, kind):
    """Damage a file; a folder can be removed or become a file."""
    old = path.read_bytes() if path.is_file() else None
    shutil.rmtree(path) if old is None else path.unlink()
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
    """A fault in one of the files that a run has left, in its midst or at its end."""
    after = draw.uniform(0.4, 1.1) * walk.seconds
    while walk.start(run, signal=signal.SIGTERM, after=after):
        shutil.rmtree(run, ignore_errors=True)
        after += 0.2 * walk.seconds  # it was ended before training began
    whole = kind in ("removed", "replaced")
    places = [run.iterdir(), sorted((run / "checkpoints").glob("*"))[-1].rglob("*"), run.rglob("*")]
    paths = sorted(path for path in draw.choice(places) if whole or (path.is_file() and path.stat().st_size))
    path = draw.choice(paths or [run / "config.json"])
    shutil.copytree(run, kept := walk.folder / "kept")
    spoil(path, draw, kind)
    outcome = walk.resume(run)
    if outcome == "continued":
        shutil.rmtree(kept)
        return outcome
    shutil.rmtree(run)
    kept.rename(run)  # without the damage, it goes on
    assert walk.resume(run) == "continued"
    return f"refused: {path.relative_to(run)}: {outcome.replace(str(walk.folder), '')}"


FAULTS = dict.fromkeys(["SIGKILL", "SIGTERM", "SIGINT", "closed pipe", "full disk"], struck)
FAULTS |= dict.fromkeys(["flipped", "truncated", "removed", "replaced"], damaged)


@pytest.mark.slow
def test_after_a_random_fault_a_run_goes_on_bit_for_bit_or_says_why_not(command, tmp_path):
    walk, counts = Walk(command, tmp_path), collections.Counter()
    for number in range(RUNS):
        kind, run = list(FAULTS)[number % len(FAULTS)], tmp_path / f"run{number}"
        shutil.rmtree(tmp_path / "kept", ignore_errors=True)
        try:
            outcome = FAULTS[kind](walk, run, random.Random(str(number)), kind)
        except (AssertionError, OSError) as error:
            outcome = f"wrong: {error}"
        print(number, kind, outcome)
        counts[kind, outcome.split(":")[0]] += 1
        shutil.rmtree(run)
    for kind in FAULTS:
        print(kind, {outcome: count for (fault, outcome), count in counts.items() if fault == kind})
    assert not [kind for kind, outcome in counts if outcome == "wrong"]
