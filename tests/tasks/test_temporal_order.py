"""Temporal order: places and numbers of the relevant symbols, classes by the paper's table, distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.tasks._generated import Sequences
from jaxlstm.tasks._temporal_order import ALPHABET, make_batch, measure

COUNT = 4000
CLASSES = {  # the paper's, in its order: Q, R, S, U and Q, R, S, U, V, A, B, C
    2: ["XX", "XY", "YX", "YY"],
    3: ["XXX", "XXY", "XYX", "XYY", "YXX", "YXY", "YYX", "YYY"],
}
PLACES = {2: [(10, 20), (50, 60)], 3: [(10, 20), (33, 43), (66, 76)]}


@pytest.fixture(scope="module", params=[2, 3])
def drawn(request):
    """How many symbols are relevant, the strings as lists of letters, classes."""
    xs, targets, lengths = jax.tree.map(np.asarray, make_batch(jax.random.key(0), COUNT, 100, relevant=request.param))
    assert xs.shape == (110, COUNT, 8)
    steps = np.arange(110)[:, None]
    np.testing.assert_array_equal(xs.sum(-1), steps < lengths)  # one-hot, and nothing behind the end
    letters = np.array(list(ALPHABET))[xs.argmax(-1)]
    return request.param, [letters[: lengths[n], n] for n in range(COUNT)], targets


def test_strings_are_built_as_the_paper_says(drawn):
    relevant, strings, _ = drawn
    for string in strings:
        assert 100 <= len(string) <= 110
        assert (string[0], string[-1]) == ("E", "B")
        places = np.flatnonzero(np.isin(string, ["X", "Y"]))
        assert all(low <= place <= high for place, (low, high) in zip(places, PLACES[relevant], strict=True))
        others = np.delete(string[1:-1], places - 1)
        assert set(others) <= set("abcd")


def test_the_class_is_the_order(drawn):
    relevant, strings, targets = drawn
    for string, target in zip(strings, targets, strict=True):
        assert "".join(string[np.isin(string, ["X", "Y"])]) == CLASSES[relevant][target]


def test_classes_places_lengths_and_symbols_are_uniform(drawn):
    relevant, strings, targets = drawn
    np.testing.assert_allclose(np.bincount(targets) / COUNT, 0.5**relevant, atol=0.03)
    np.testing.assert_allclose(np.bincount([len(s) for s in strings])[100:] / COUNT, 1 / 11, atol=0.02)
    first = [np.flatnonzero(np.isin(s, ["X", "Y"]))[0] for s in strings]
    np.testing.assert_allclose(np.bincount(first)[10:] / COUNT, 1 / 11, atol=0.02)
    letters = np.concatenate(strings)
    shares = [np.mean(letters[np.isin(letters, list("abcd"))] == letter) for letter in "abcd"]
    np.testing.assert_allclose(shares, 0.25, atol=0.01)


@pytest.mark.parametrize("relevant", [2, 3])
def test_the_shortest_sequences(relevant):
    xs, _, lengths = jax.tree.map(np.asarray, make_batch(jax.random.key(1), 200, 10, relevant=relevant))
    assert set(lengths) == {10, 11}
    assert (xs[..., 6:].sum((0, 2)) == relevant).all()


def test_right_means_every_probability_is_near():
    p = np.array([[0.75, 0.25], [0.65, 0.35], [0.25, 0.75]])
    loss, metrics = measure(jnp.log(jnp.float32(p)), Sequences(None, jnp.zeros(3, jnp.int32)))
    np.testing.assert_allclose(metrics["right"], 1 / 3)
    np.testing.assert_allclose(metrics["error"], (0.25 + 0.35 + 0.75) / 3, rtol=1e-6)
    np.testing.assert_allclose(loss, -np.log(p[:, 0]).mean(), rtol=1e-6)
