"""The loop: its log, its evaluations, and every way in which it ends."""

import csv
import itertools
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlstm.training import Checkpoints, Evaluation, Log, LogError, Terminated, fit, init_state, make_train_step

OPTIMIZER = optax.sgd(0.1)
ONES = itertools.repeat(1.0)


def quadratic(params, batch, key):
    return jnp.sum((params - batch) ** 2), {"params": params}


@pytest.fixture
def train_step():
    return make_train_step(quadratic, OPTIMIZER)


@pytest.fixture
def state():
    return init_state(jnp.float32(0), OPTIMIZER, jax.random.key(0))


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_it_takes_as_many_steps_and_batches_as_asked(train_step, state):
    batches = iter(range(10))
    state = fit(train_step, state, (jnp.float32(n) for n in batches), steps=4, progress=False)
    assert state.step == 4
    assert next(batches) == 4  # no batch was drawn in vain
    by_hand = 0.0
    for n in range(4):
        by_hand -= 0.1 * 2 * (by_hand - n)
    np.testing.assert_allclose(state.params, by_hand, rtol=1e-6)


def test_the_log_has_a_row_for_each_step(train_step, state, tmp_path):
    fit(train_step, state, ONES, steps=3, log=Log(tmp_path / "log.csv"), progress=False)
    rows = read(tmp_path / "log.csv")
    assert list(rows[0]) == ["step", "grad_norm", "loss", "params"]
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    np.testing.assert_allclose([float(row["params"]) for row in rows], [0, 0.2, 0.36], rtol=1e-6)
    np.testing.assert_allclose([float(row["loss"]) for row in rows], [1, 0.64, 0.4096], rtol=1e-6)
    assert rows[1]["params"] == "0.2"  # as many digits as float32 has


def test_the_interval_of_the_log_thins_the_rows_but_not_the_evaluations(train_step, state, tmp_path):
    log, evaluation = Log(tmp_path / "log.csv", every=4), Evaluation(lambda state: {"score": 1}, every=3)
    fit(train_step, state, ONES, steps=10, progress=False, log=log, evaluation=evaluation)
    rows = read(tmp_path / "log.csv")
    assert [row["step"] for row in rows] == ["0", "3", "4", "6", "8", "9", "10"]
    assert [row["step"] for row in rows if row["score"]] == ["0", "3", "6", "9", "10"]


@pytest.mark.parametrize(("every", "expected"), [(None, [0, 7]), (3, [0, 3, 6, 7]), (7, [0, 7]), (100, [0, 7])])
def test_evaluation_comes_first_every_n_steps_and_last(train_step, state, every, expected):
    seen = []

    def evaluate(state):
        seen.append(int(state.step))
        return {"score": state.params}

    fit(train_step, state, ONES, steps=7, evaluation=Evaluation(evaluate, every=every), progress=False)
    assert seen == expected


def test_evaluation_without_a_rhythm_is_at_the_two_ends_of_a_later_run_too(train_step, state):
    state = fit(train_step, state, ONES, steps=3, progress=False)
    seen = []
    evaluation = Evaluation(lambda state: seen.append(int(state.step)) or {})
    fit(train_step, state, ONES, steps=4, evaluation=evaluation, progress=False)
    assert seen == [3, 7]


def test_arrays_have_a_column_for_each_number(state, train_step, tmp_path):
    states = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), state)
    many = jax.vmap(train_step)
    evaluation, log = Evaluation(lambda state: {"both": state.params}), Log(tmp_path / "log.csv")
    batches = itertools.repeat(jnp.array([1.0, 2.0], jnp.float32))
    states = fit(many, states, batches, steps=2, evaluation=evaluation, log=log, progress=False)
    first, *_, last = read(tmp_path / "log.csv")
    assert list(last)[1:] == [f"{name}.{i}" for name in ("grad_norm", "loss", "params", "both") for i in (0, 1)]
    assert first["both.1"] == "0.0"
    assert first["loss.0"] == ""
    assert np.float32(last["both.1"]) == states.params[1]


def test_a_resumed_run_is_the_uninterrupted_one(train_step, state, tmp_path):
    noisy = make_train_step(lambda p, b, key: (jnp.sum((p - jax.random.normal(key, (), p.dtype)) ** 2), {}), OPTIMIZER)
    whole = fit(noisy, jax.tree.map(jnp.copy, state), ONES, steps=6, log=Log(tmp_path / "whole.csv"), progress=False)
    parts = fit(noisy, state, ONES, steps=2, log=Log(tmp_path / "parts.csv"), progress=False)
    parts = fit(noisy, parts, ONES, steps=4, log=Log(tmp_path / "parts.csv"), progress=False)
    assert parts.params == whole.params
    assert (tmp_path / "parts.csv").read_text() == (tmp_path / "whole.csv").read_text()


def test_a_new_run_begins_its_log_anew_and_a_resumed_one_refuses_another(train_step, state, tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("step,other\n1,2\n")
    with pytest.raises(ValueError, match=r"log: expected .* to have the columns .*'grad_norm'.* got .*'other'"):
        fit(
            train_step,
            jax.tree.map(jnp.copy, state)._replace(step=jnp.int32(1)),
            ONES,
            steps=1,
            log=Log(log),
            progress=False,
        )
    assert "other" in log.read_text()
    fit(train_step, state, ONES, steps=1, log=Log(log), progress=False)
    assert "other" not in log.read_text()


DAMAGES = {
    "a blank line": lambda log: log.replace(b"2,", b"\r\n2,", 1),
    "a blank first line": lambda log: b"\r\n" + log,
    "a word as a step": lambda log: log.replace(b"\r\n2,", b"\r\ntwo,"),
    "a binary": lambda log: bytes(reversed(range(256))),
    "UTF-16": lambda log: log.decode().encode("utf-16"),
    "a step of 5000 digits": lambda log: log.replace(b"\r\n2,", b"\r\n" + b"2" * 5000 + b","),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_log_is_named_and_left_alone(damage, train_step, state, tmp_path):
    log = tmp_path / "log.csv"
    state = fit(train_step, state, ONES, steps=3, log=Log(log), progress=False)
    log.write_bytes(damage(log.read_bytes()))
    before = log.read_bytes()
    with pytest.raises(LogError, match=r"log: .*log.csv is damaged: line \d+ "):
        fit(train_step, state, ONES, steps=1, log=Log(log), progress=False)
    assert log.read_bytes() == before


@pytest.mark.parametrize(
    ("metrics", "results", "message"),
    [
        ({"step": 1.0}, {}, "train_step: expected metrics with columns of their own .*'step', which the log has"),
        ({}, {"step": 1.0}, "evaluation: expected metrics with columns of their own .*'step', which the log has"),
        ({"a": np.zeros(2), "a.0": 1.0}, {}, "train_step: expected .*'a.0', which two metrics come to"),
    ],
)
def test_metrics_that_would_share_a_column_are_refused(metrics, results, message):
    step = make_train_step(lambda params, batch, key: (params * batch, jax.tree.map(jnp.asarray, metrics)), OPTIMIZER)
    state = init_state(jnp.float32(0), OPTIMIZER, jax.random.key(0))
    with pytest.raises(ValueError, match=message):
        fit(step, state, ONES, steps=1, evaluation=Evaluation(lambda _: results), progress=False)


class Foreign:
    """As a tensor of another library."""


@pytest.mark.parametrize("batch", [{"xs": Foreign()}, (1.0, "text"), [None, b"x"]])
def test_batches_of_other_libraries_are_named(batch, train_step, state):
    with pytest.raises(TypeError, match=r"batches: a batch\[.*\]: expected an array of NumPy or JAX .*, got \w+"):
        fit(train_step, state, [batch], steps=1, progress=False)


@pytest.mark.parametrize("found", [None, 0.5, [1.0], {1: 2.0}])
def test_an_evaluation_returns_a_dict(found, train_step, state, without_type_hook):
    with pytest.raises(TypeError, match="evaluation: expected fn to return a dict with str keys, got"):
        fit(train_step, state, ONES, steps=1, evaluation=Evaluation(lambda _: found), progress=False)


def test_a_log_of_every_fourth_step_is_that_of_a_run_that_never_ended(train_step, tmp_path):
    """Ended after steps 3 and 5, before and after its first row but that of step 0."""

    def run(name, batches, resume=False):
        fit(
            train_step,
            init_state(jnp.float32(0), OPTIMIZER, jax.random.key(0)),
            batches,
            steps=9,
            evaluation=Evaluation(lambda state: {"a, b": state.params}),
            log=Log(tmp_path / f"{name}.csv", every=4),
            checkpoints=Checkpoints(tmp_path / name, every=1, resume=resume),
            progress=False,
        )

    run("whole", ONES)
    for count in (3, 5):
        with pytest.raises(ValueError, match=r"batches: expected"):
            run("ended", [1.0] * count, resume=count > 3)
    run("ended", ONES, resume=True)
    rows = read(tmp_path / "ended.csv")
    assert [row["step"] for row in rows] == ["0", "4", "8", "9"]
    assert rows == read(tmp_path / "whole.csv")


def test_a_result_that_comes_later_has_no_column(train_step, state):
    def evaluate(state):
        return {"score": 0} if state.step == 0 else {"score": 0, "other": 1}

    message = r"log: expected the columns of the first step, \['step', .*, 'score'\], got \['other'\] as well"
    with pytest.raises(ValueError, match=message):
        fit(train_step, state, ONES, steps=3, evaluation=Evaluation(evaluate), progress=False)


def test_a_full_disk_is_an_error_that_names_the_log(train_step, state):
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        fit(train_step, state, ONES, steps=3, log=Log("/dev/full"), progress=False)


def test_save_is_called_once_with_the_last_state(train_step, state):
    saved = []
    after = fit(train_step, state, ONES, steps=3, save=saved.append, progress=False)
    assert len(saved) == 1
    assert saved[0] is after


def test_the_bar_shows_the_loss(train_step, state, capsys):
    fit(train_step, state, ONES, steps=30)
    shown = capsys.readouterr().err
    assert "30/30" in shown
    assert "loss " in shown


def test_too_few_batches_are_an_error_that_says_how_many_came_and_saves(train_step, state, tmp_path):
    saved = []
    batches = [jnp.float32(1)] * 5
    with pytest.raises(ValueError, match=r"batches: expected 8 of them \(steps\), got only 5"):
        fit(train_step, state, batches, steps=8, save=saved.append, log=Log(tmp_path / "log.csv"), progress=False)
    assert saved[0].step == 5
    assert len(read(tmp_path / "log.csv")) == 5


class TestInterrupts:
    @pytest.mark.parametrize("where", ["batch", "step", "evaluation"])
    def test_the_running_step_is_finished_and_saved(self, train_step, state, tmp_path, where):
        saved = []

        def interrupt_at(place, step):
            if place == where and step == 2:
                signal.raise_signal(signal.SIGINT)

        def batches():
            for step in itertools.count():
                interrupt_at("batch", step)
                yield jnp.float32(1)

        def step(state, batch):
            interrupt_at("step", int(state.step))
            return train_step(state, batch)

        def evaluate(state):
            interrupt_at("evaluation", int(state.step) - 1)
            return {"score": 0}

        before = signal.getsignal(signal.SIGINT)
        options = {"evaluation": Evaluation(evaluate, every=1), "log": Log(tmp_path / "log.csv")}
        with pytest.raises(KeyboardInterrupt, match="stopped after step 3"):
            fit(step, state, batches(), steps=100, save=saved.append, progress=False, **options)
        assert len(saved) == 1
        assert saved[0].step == 3
        assert not saved[0].params.is_deleted()
        assert [row["step"] for row in read(tmp_path / "log.csv")] == ["0", "1", "2", "3"]
        assert signal.getsignal(signal.SIGINT) is before

    def test_a_second_one_does_not_wait(self, train_step, state):
        saved = []

        def batches():
            yield jnp.float32(1)
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("the second Ctrl-C should have ended this")

        before = signal.getsignal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            fit(train_step, state, batches(), steps=100, save=saved.append, progress=False)
        assert not saved
        assert signal.getsignal(signal.SIGINT) is before

    def test_one_at_the_last_step_still_stops_the_caller(self, train_step, state):
        saved = []

        def batches():
            yield jnp.float32(1)
            signal.raise_signal(signal.SIGINT)
            yield jnp.float32(1)

        with pytest.raises(KeyboardInterrupt):
            fit(train_step, state, batches(), steps=2, save=saved.append, progress=False)
        assert saved[0].step == 2

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_one_that_comes_while_it_saves_still_stops_the_caller(self, train_step, state, number):
        def save(state):
            signal.raise_signal(number)

        with pytest.raises((KeyboardInterrupt, Terminated), match="stopped after step 2"):
            fit(train_step, state, ONES, steps=2, save=save, progress=False)

    @pytest.mark.parametrize(("save", "code"), [(None, 143), (lambda state: None, 0)])
    def test_the_exit_code_after_sigterm_says_whether_anything_was_saved(self, train_step, state, save, code):
        def batches():
            signal.raise_signal(signal.SIGTERM)
            yield jnp.float32(1)

        with pytest.raises(Terminated) as ended:
            fit(train_step, state, batches(), steps=2, save=save, progress=False)
        assert ended.value.code == code

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_the_error_has_the_last_state_where_nothing_else_has(self, train_step, state, number):
        def batches():
            yield jnp.float32(1)
            signal.raise_signal(number)
            yield jnp.float32(1)

        with pytest.raises(
            (KeyboardInterrupt, Terminated), match="nothing was saved, and this error's `state`"
        ) as ended:
            fit(train_step, state, batches(), steps=9, progress=False)
        state = fit(train_step, ended.value.state, ONES, steps=1, progress=False)
        assert state.step == 3

    def test_one_that_is_ignored_stays_so(self, train_step, state):
        """As Ctrl-C is for a program that a script runs in the background."""

        def batches():
            signal.raise_signal(signal.SIGINT)
            yield jnp.float32(1)

        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            assert fit(train_step, state, batches(), steps=1, progress=False).step == 1
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        finally:
            signal.signal(signal.SIGINT, before)

    def test_one_that_an_error_overtakes_is_not_lost(self, train_step, state):
        def batches():
            signal.raise_signal(signal.SIGINT)
            raise OSError("no more of them")
            yield

        with pytest.raises(KeyboardInterrupt) as stopped:
            fit(train_step, state, batches(), steps=2, progress=False)
        assert isinstance(stopped.value.__context__, OSError)

    def test_other_threads_leave_the_handler_alone(self, train_step, state):
        result = []
        thread = threading.Thread(target=lambda: result.append(fit(train_step, state, ONES, steps=3, progress=False)))
        thread.start()
        thread.join()
        assert result[0].step == 3


OPTIONS = {
    "steps": lambda size: {"steps": size},
    "Evaluation.every": lambda size: {"evaluation": Evaluation(dict, every=size)},
    "Log.every": lambda size: {"log": Log("log.csv", every=size)},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("value", [0, -1])
def test_options_without_meaning_are_named(train_step, state, options, value):
    with pytest.raises(ValueError, match=f"(steps|every): expected a positive int, got {value}"):
        fit(train_step, state, ONES, **{"steps": 1, "progress": False, **options(value)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"log": "log.csv"}, r"log: expected Log\(path, every=...\) of jaxlstm.training, or None, got 'log.csv' \(str"),
        ({"evaluation": dict}, r"evaluation: expected Evaluation\(fn, every=...\) of .*, got <class 'dict'>"),
        ({"checkpoints": "saved"}, r"checkpoints: expected Checkpoints\(directory, every=...\) of .*, got 'saved'"),
        ({"save": "saved"}, r"save: expected a function, got 'saved'"),
    ],
)
def test_what_belongs_in_a_group_is_refused_without_it(train_step, state, options, message, without_type_hook):
    with pytest.raises(TypeError, match=message):
        fit(train_step, state, ONES, steps=1, progress=False, **options)
    assert not state.params.is_deleted()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Log(1), r"path: expected a path \(a str or a pathlib.Path\), got 1 \(int\)"),
        (lambda: Checkpoints(b"saved"), r"directory: expected a path .*, got b'saved' \(bytes\)"),
        (lambda: Checkpoints("saved", resume="yes"), r"resume: expected True or False, got 'yes'"),
        (lambda: Evaluation(3), r"fn: expected a function, got 3 \(int\)"),
    ],
)
def test_a_group_checks_what_it_holds(make, message, without_type_hook):
    with pytest.raises(TypeError, match=message):
        make()


def test_an_evaluation_may_not_hide_a_metric(train_step, state):
    with pytest.raises(ValueError, match=r"evaluation: expected names .* got \['loss'\]"):
        fit(train_step, state, ONES, steps=1, evaluation=Evaluation(lambda state: {"loss": 1}), progress=False)
