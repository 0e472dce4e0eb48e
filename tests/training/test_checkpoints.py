"""Checkpoints: what they hold, when they are made, which are kept, and every way in which one cannot be had."""

import contextlib
import dataclasses
import itertools
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlstm.training import (
    CheckpointError,
    Checkpoints,
    Evaluation,
    Log,
    LogError,
    Terminated,
    _storage,
    fit,
    init_state,
    make_train_step,
)

OPTIMIZER = optax.adam(0.1)
CARRY = {"h": jnp.zeros((2, 3), jnp.bfloat16)}


def loss_fn(params, carry, batch, key):
    noise = jax.random.normal(key, batch.shape, batch.dtype)
    carry = {"h": carry["h"] + batch.astype(jnp.bfloat16)[None]}
    return jnp.sum((params["w"] - batch - noise + carry["h"].mean(dtype=jnp.float32)) ** 2), (carry, {})


TRAIN_STEP = make_train_step(loss_fn, OPTIMIZER)


def fresh(size=3):
    return init_state({"w": jnp.zeros(size, jnp.float32)}, OPTIMIZER, jax.random.key(7, impl="rbg"), carry=CARRY)


def data():
    return (jnp.full(3, n, jnp.float32) for n in itertools.count())


def run(directory, steps=6, state=None, batches=None, **options):
    where = {"every": 2, "resume": options.pop("resume", False), **options.pop("where", {})}
    checkpoints = Checkpoints(directory / "saved", **where)
    batches = data() if batches is None else batches
    state = fresh() if state is None else state
    options = {"progress": False, "log": Log(directory / "log.csv"), "checkpoints": checkpoints, **options}
    return fit(TRAIN_STEP, state, batches, steps=steps, **options)


def raw(state):
    return jax.tree.map(np.asarray, state._replace(key=jax.random.key_data(state.key)))


def assert_same(got, expected):
    jax.tree.map(np.testing.assert_array_equal, raw(got), raw(expected))
    assert jax.tree.map(lambda leaf: leaf.dtype, got) == jax.tree.map(lambda leaf: leaf.dtype, expected)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupted: its directory and its last state."""
    directory = tmp_path_factory.mktemp("whole")
    return directory, run(directory)


@pytest.fixture
def saved(whole, tmp_path):
    """A copy of that run, to be spoilt."""
    shutil.copytree(whole[0], tmp_path / "run")
    return tmp_path / "run"


def test_a_checkpoint_holds_the_whole_state(whole):
    directory, state = whole
    checkpoints = Checkpoints(directory / "saved")
    assert checkpoints.steps == (2, 4, 6)
    assert_same(checkpoints.restore(fresh()), state)
    assert checkpoints.restore(fresh(), 2).step == 2


@pytest.mark.parametrize("last", [2, 4, 6])
def test_a_resumed_run_is_the_uninterrupted_one(whole, saved, last):
    for step in range(last + 2, 8, 2):
        shutil.rmtree(saved / "saved" / str(step))
    if last < 6:
        with (saved / "log.csv").open("a") as log:
            log.write("seven\r\n,0.1,")  # rows that were being written, and damaged
    assert_same(run(saved, resume=True), whole[1])
    assert (saved / "log.csv").read_text() == (whole[0] / "log.csv").read_text()
    assert Checkpoints(saved / "saved").steps == (2, 4, 6)


class Counted:
    """An iterator with a state, as Grain's."""

    def __init__(self, wrap=lambda state: state):
        self.n, self.wrap, self.drawn = 0, wrap, 0

    def __iter__(self):
        return self

    def __next__(self):
        self.n, self.drawn = self.n + 1, self.drawn + 1
        return jnp.full(3, self.n - 1, jnp.float32)

    def get_state(self):
        return self.wrap({"n": self.n})

    def set_state(self, state):
        self.n = (json.loads(state) if isinstance(state, bytes) else state)["n"]


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: json.dumps(state).encode()], ids=["dict", "bytes"])
def test_an_iterator_with_a_state_is_set_to_it(whole, tmp_path, wrap):
    run(tmp_path, steps=4, batches=Counted(wrap))
    batches = Counted(wrap)
    assert_same(run(tmp_path, resume=True, batches=batches), whole[1])
    assert batches.drawn == 2
    with pytest.raises(ValueError, match=r"batches: expected an iterator with get_state .*, got one without"):
        run(tmp_path, steps=8, resume=True)


def test_grain_goes_on_where_it_was(tmp_path):
    def batches():
        numbers = grain.MapDataset.source(np.arange(10, dtype=np.float32)).shuffle(seed=3).repeat()
        return iter(numbers.batch(3).to_iter_dataset(grain.ReadOptions(num_threads=0)))

    uninterrupted = run(tmp_path / "whole", batches=batches())
    run(tmp_path, steps=3, batches=batches())
    assert_same(run(tmp_path, resume=True, batches=batches()), uninterrupted)
    assert (tmp_path / "log.csv").read_text() == (tmp_path / "whole" / "log.csv").read_text()


def test_without_a_state_there_must_be_as_many_batches_as_were_drawn(saved):
    with pytest.raises(ValueError, match=r"batches: expected 6 of them, .* got only 5"):
        run(saved, steps=8, resume=True, batches=[jnp.zeros(3, jnp.float32)] * 5)


def test_a_run_at_its_end_stays_as_it_is_and_one_beyond_is_refused(whole, saved):
    assert_same(run(saved, resume=True), whole[1])
    with pytest.raises(ValueError, match="steps: expected at least 6, which the checkpoint already has, got 5"):
        run(saved, steps=5, resume=True)


def test_the_latest_are_kept_and_the_best(tmp_path):
    scores = iter([9.0, 5.0, 3.0, 4.0, np.nan, 6.0, 7.0, 8.0])
    where = {"every": None, "keep": 2, "best": "score"}
    run(tmp_path, 7, where=where, evaluation=Evaluation(lambda state: {"score": next(scores)}, every=1))
    checkpoints = Checkpoints(tmp_path / "saved")
    assert checkpoints.steps == (2, 6, 7)
    assert checkpoints.best_step == 2
    message = r"best: expected the name of one of the evaluation's results, \['other'\], got 'score'"
    with pytest.raises(ValueError, match=message):
        run(tmp_path, 8, log=None, resume=True, where=where, evaluation=Evaluation(lambda state: {"other": 1}))
    with pytest.raises(ValueError, match="evaluation: expected an Evaluation, since checkpoints has best='score'"):
        run(tmp_path, 8, log=None, resume=True, where=where)


def test_after_so_many_minutes_a_checkpoint_is_made(tmp_path):
    run(tmp_path, 3, where={"every": None, "minutes": 1e-9, "keep": 9})
    assert Checkpoints(tmp_path / "saved").steps == (1, 2, 3)


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_finishes_the_step_and_saves(whole, tmp_path, number, error):
    def batches():
        for step, batch in enumerate(data()):
            if step == 2:
                signal.raise_signal(number)
            yield batch

    before = signal.getsignal(number)
    how = r"Checkpoints\(..., resume=True\) continues from its checkpoint in .*saved$"
    with pytest.raises(error, match=f"stopped after step 3; {how}") as stopped:
        run(tmp_path, batches=batches())
    assert signal.getsignal(number) is before
    assert getattr(stopped.value, "code", 0) == 0
    assert_same(run(tmp_path, resume=True), whole[1])


def test_a_program_that_sigterm_ends_says_how_to_go_on(tmp_path):
    program = f"""
import itertools, jax, optax, signal
from jaxlstm.training import Checkpoints, fit, init_state, make_train_step

def batches():
    yield jax.numpy.float32(1)
    signal.raise_signal(signal.SIGTERM)
    yield jax.numpy.float32(1)

optimizer = optax.sgd(0.1)
step = make_train_step(lambda params, batch, key: (params * batch, {{}}), optimizer)
state = init_state(jax.numpy.float32(0), optimizer, jax.random.key(0))
fit(step, state, batches(), steps=9, checkpoints=Checkpoints({str(tmp_path)!r}), progress=False)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    how = f"Checkpoints(..., resume=True) continues from its checkpoint in {tmp_path}"
    sentence = f"training stopped after step 2; {how}"
    assert re.fullmatch(rf"(WARNING:[\w.]+:)?{re.escape(sentence)}\n", result.stderr)
    assert Checkpoints(tmp_path).steps == (2,)


def test_the_best_is_found_while_another_process_removes_old_ones(tmp_path, monkeypatch):
    where = {"best": "score"}
    run(tmp_path, where=where, evaluation=Evaluation(lambda state: {"score": float(state.step)}, every=2))  # 2, 4, 6
    checkpoints = Checkpoints(tmp_path / "saved", **where)
    read_record = _storage.read_record

    def removed_meanwhile(path):
        if path.name == "2":
            shutil.rmtree(path)
        return read_record(path)

    monkeypatch.setattr(_storage, "read_record", removed_meanwhile)
    assert checkpoints.best_step == 4


def refused(directory, message, **options):
    """A run stops with this sentence, and the checkpoints and the log that were there are there still."""
    before = contents(directory)
    with pytest.raises(CheckpointError, match=message) as error:
        run(directory, **options)
    assert "\n" not in str(error.value)
    assert contents(directory) == before


def contents(directory):
    ours = (path for path in directory.rglob("*") if path.is_file() and path.name not in ("lock", "writer"))
    return {path: path.read_bytes() for path in ours}


def test_a_run_begun_anew_does_not_write_over_checkpoints(saved):
    refused(saved, "saved already holds a checkpoint of step 6; resume from it, or choose another directory")


def test_a_missing_checkpoint(tmp_path):
    refused(tmp_path, "saved holds no checkpoint$", resume=True)
    with pytest.raises(CheckpointError, match=r"saved holds no checkpoint$"):
        Checkpoints(tmp_path / "saved").restore(fresh())
    assert Checkpoints(tmp_path / "none").steps == ()
    assert not (tmp_path / "none").exists()


def test_a_step_that_is_not_there(whole):
    with pytest.raises(CheckpointError, match="no checkpoint of step 3, only of 2, 4, 6"):
        Checkpoints(whole[0] / "saved").restore(fresh(), 3)


def test_one_of_another_model(saved):
    refused(
        saved,
        r"6 does not fit: state.params\['w'\]: expected float32\[4\], got float32\[3\]",
        resume=True,
        state=fresh(4),
    )
    other = fresh()._replace(carry={"c": jnp.zeros(1)})
    refused(saved, r"state.carry\['c'\]: expected float64\[1\], got no such leaf", resume=True, state=other)
    other = fresh()._replace(key=jax.random.key(0))
    refused(saved, r"state.key: expected key<fry>\[\], got key<rbg>\[\]", resume=True, state=other)


def test_one_of_an_older_format(saved):
    record = saved / "saved" / "6" / "jaxlstm" / "metadata"
    record.write_text(record.read_text().replace('"format": 2', '"format": 1'))
    refused(saved, "6 has the format 1; this version of jaxlstm reads format 2", resume=True)


def test_a_foreign_one(saved):
    (saved / "saved" / "8").mkdir()
    (saved / "saved" / "8" / "photo.jpg").write_text("mine")
    refused(saved, "8 is not a checkpoint of jaxlstm", resume=True)
    assert (saved / "saved" / "8" / "photo.jpg").exists()


def test_a_half_written_one_is_passed_over_and_removed(whole, saved):
    half = saved / "saved" / "6.orbax-checkpoint-tmp"
    (saved / "saved" / "6").rename(half)
    shutil.rmtree(half / "jaxlstm")
    assert Checkpoints(saved / "saved").steps == (2, 4)
    assert_same(run(saved, resume=True), whole[1])
    assert not half.exists()


def test_what_orbax_can_do_without_is_not_logged(whole, saved, caplog):
    metadata = saved / "saved" / "6" / "_CHECKPOINT_METADATA"
    metadata.unlink()
    metadata.mkdir()
    assert_same(run(saved, resume=True), whole[1])
    assert not caplog.records


LOGS = {
    "a digit": (lambda log: log.write_bytes(log.read_bytes().replace(b"\r\n2,", b"\r\n2,1")), "is damaged: its rows"),
    "a row": (lambda log: log.write_bytes(b"".join(log.read_bytes().splitlines(True)[:-1])), "is damaged: its rows"),
    "the file": (Path.unlink, "is missing; the checkpoint of step 6 needs its rows$"),
}


@pytest.mark.parametrize(("damage", "message"), LOGS.values(), ids=LOGS)
@pytest.mark.parametrize("steps", [6, 8])
def test_a_log_that_is_not_what_was_written_is_refused(damage, message, steps, saved):
    before = (saved / "log.csv").read_bytes()
    damage(saved / "log.csv")
    after = contents(saved)
    assert after.get(saved / "log.csv") != before
    with pytest.raises(LogError, match=rf"^log: \S*log.csv {message}"):
        run(saved, steps, resume=True)
    assert contents(saved) == after
    assert run(saved, steps, resume=True, log=None).step == steps


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's, of coroutines it gave up
@pytest.mark.parametrize("how", ["cut", "gone", "record"])
def test_a_damaged_one_is_named_and_the_one_before_is_there(saved, how):
    latest = saved / "saved" / "6"
    if how == "record":
        (latest / "jaxlstm" / "metadata").write_text("{")
    for path in latest.glob("state/**/d/*") if how != "record" else ():
        path.write_bytes(path.read_bytes()[:10]) if how == "cut" else path.unlink()
    refused(saved, r"6 is damaged \(", resume=True)
    assert Checkpoints(saved / "saved").restore(fresh(), 4).step == 4
    shutil.rmtree(latest)
    assert run(saved, resume=True, steps=4).step == 4


def test_a_record_that_has_changed_on_disk_is_named(saved):
    record = saved / "saved" / "6" / "jaxlstm" / "metadata"
    content = record.read_text()
    record.write_text(content.replace('"score": null', '"score": 1234'))
    refused(saved, r"6 is damaged \(the checksum of its record is wrong\)", resume=True)
    record.write_text(content)
    assert run(saved, resume=True).step == 6


def test_a_bit_that_has_changed_on_disk_is_named(tmp_path):
    """In the data of an array, where neither Orbax nor TensorStore would notice it."""
    optimizer, noise = optax.sgd(0.1), np.random.default_rng(0).normal(size=5000).astype(np.float32)
    train_step = make_train_step(lambda params, batch, key: (params["w"].sum(), {}), optimizer)
    checkpoints = Checkpoints(tmp_path)
    start = init_state({"w": noise}, optimizer, jax.random.key(0))
    state = fit(train_step, start, [None], steps=1, checkpoints=checkpoints, progress=False)
    (data,) = (path for path in tmp_path.glob("1/state/**/d/*") if path.stat().st_size > 15_000)
    content = data.read_bytes()
    for place in (6_000, 12_000):
        data.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(CheckpointError, match=r"1 is damaged \("):
            checkpoints.restore(state)
    data.write_bytes(content)
    np.testing.assert_array_equal(checkpoints.restore(state).params["w"], state.params["w"])


def test_two_writers_on_one_folder(saved):
    with Checkpoints(saved / "saved").writer():
        refused(saved, "saved is being written to by another run, process [0-9]+", resume=True)


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_forked_process_does_not_keep_the_lock(tmp_path):
    """Such as a loader of data that outlives a run that was killed."""
    receive, send = os.pipe()
    with contextlib.ExitStack() as at_the_end:
        with Checkpoints(tmp_path).writer():
            child = os.fork()
            if not child:
                os.write(send, b".")
                signal.pause()  # it lives on
            at_the_end.callback(os.waitpid, child, 0)
            at_the_end.callback(os.kill, child, signal.SIGKILL)
            os.read(receive, 1)  # it has begun, and so let go
            with pytest.raises(CheckpointError, match="written to by another run"), Checkpoints(tmp_path).writer():
                pass
        with Checkpoints(tmp_path).writer():
            pass


def test_a_folder_that_takes_no_files(tmp_path):
    (tmp_path / "saved").write_text("a file")
    refused(tmp_path, "saved cannot be written to: File exists")


def test_a_folder_that_may_not_be_written_to(saved):
    """As another user than root, who may write anywhere."""
    user = os.geteuid()
    for path in (saved, saved / "saved"):
        path.chmod(0o555)
    (saved / "saved" / "lock").unlink()
    for parent in saved.parents:
        if "pytest" in str(parent):  # its folders let nobody else in
            parent.chmod(0o755)
    try:
        if user == 0:
            os.seteuid(65534)
        refused(saved, "saved cannot be written to: Permission denied", resume=True, log=None)
    finally:
        os.seteuid(user)
        for path in (saved, saved / "saved"):
            path.chmod(0o755)
    assert run(saved, resume=True).step == 6


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # as above
def test_a_full_disk(saved, whole):
    """A limit on the size of files, which the system reports as it does a full disk: writing fails half-way."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    expected = contents(saved)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40, before[1]))
        with pytest.raises(
            CheckpointError, match="the checkpoint of step 8 could not be written; the last good one is that of step 6"
        ):
            run(saved, steps=8, resume=True, log=None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert Checkpoints(saved / "saved").steps == (2, 4, 6)
    assert expected.items() <= contents(saved).items()
    assert_same(run(saved, resume=True), whole[1])


def test_a_disk_that_is_full_from_the_first(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
        with pytest.raises(CheckpointError, match="saved cannot be written to: File too large"):
            run(tmp_path, log=None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


MISTAKES = {
    "every": ({"every": 0}, ValueError, "every: expected a positive int, got 0"),
    "minutes": ({"minutes": -1}, ValueError, "minutes: expected a positive number, got -1"),
    "keep": ({"keep": 0}, ValueError, "keep: expected a positive int, got 0"),
    "best_mode": ({"best_mode": "median"}, ValueError, "best_mode: expected 'min' or 'max', got 'median'"),
}


@pytest.mark.parametrize(("options", "error", "message"), MISTAKES.values(), ids=MISTAKES)
def test_options_without_meaning_are_named(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        Checkpoints(tmp_path, **options)


def test_the_folder_is_the_one_that_was_meant(whole, monkeypatch):
    """Whatever directory the process changes to later."""
    monkeypatch.chdir(whole[0])
    checkpoints = Checkpoints("saved")
    monkeypatch.chdir("/")
    assert checkpoints.steps == (2, 4, 6)
    assert dataclasses.replace(checkpoints, resume=True).directory == whole[0] / "saved"


def test_a_best_that_later_evaluations_lack_is_named(tmp_path):
    evaluation = Evaluation(lambda state: {"other": 1} if state.step else {"score": 1, "other": 1}, every=2)
    with pytest.raises(ValueError, match=r"best: expected the name of one of .* results, \['other'\], got 'score'"):
        run(tmp_path, log=None, where={"best": "score"}, evaluation=evaluation)


def test_without_orbax_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "orbax.checkpoint", None)
    with pytest.raises(ImportError, match=r"checkpoints need Orbax: pip install 'jaxlstm\[checkpoints\]'"):
        run(tmp_path)


def test_leaves_without_elements_are_saved_too(tmp_path, capfd):
    params = {"w": jnp.zeros(3, jnp.float32), "empty": jnp.zeros((0, 4), jnp.bfloat16)}
    state = init_state(params, OPTIMIZER, jax.random.key(7), carry=CARRY)
    state = run(tmp_path, steps=2, state=state)
    restored = Checkpoints(tmp_path / "saved").restore(state)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), restored) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), state
    )
    np.testing.assert_array_equal(restored.params["w"], state.params["w"])
    assert "Traceback" not in capfd.readouterr().err


FULL = """
import itertools, resource, sys
import jax, jax.numpy as jnp, optax
from jaxlstm.training import CheckpointError, Checkpoints, fit, init_state, make_train_step

optimizer = optax.sgd(0.1)
step = make_train_step(lambda params, batch, key: (jnp.sum((params - batch) ** 2), {}), optimizer)
state = init_state(jax.random.normal(jax.random.key(0), (300, 300)), optimizer, jax.random.key(0))
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    fit(step, state, itertools.repeat(1.0), steps=4, checkpoints=Checkpoints(sys.argv[1], every=2), progress=False)
except CheckpointError as error:
    sys.exit(str(error))
"""


def test_a_write_that_fails_is_a_sentence_without_the_log_of_orbax(tmp_path):
    """TensorStore may print something of its own beside it."""
    command = [sys.executable, "-c", FULL, str(tmp_path / "saved")]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    expected = "the checkpoint of step 2 could not be written; there is none before it (File too large)"
    assert f"{tmp_path / 'saved'}: {expected}" in result.stderr
    assert "orbax" not in result.stderr
    assert result.returncode == 1


def test_a_disk_without_room_for_a_checkpoint_is_one_sentence(tmp_path, monkeypatch, capfd):
    run(tmp_path, steps=2)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=40))
    message = r"step 4 could not be written; the last good one is that of step 2 \(No space left .* needed, 4e-05 free"
    with pytest.raises(CheckpointError, match=message):
        run(tmp_path, steps=6, resume=True)
    assert "Traceback" not in capfd.readouterr().err
    monkeypatch.undo()
    assert run(tmp_path, steps=6, resume=True).step == 6
