"""JapaneseVowels as it is loaded, split, standardised and drawn; no training here."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm as jl
from jaxlstm.tasks import TASKS, _vowels
from jaxlstm.tasks._data import epochs
from jaxlstm.tasks._model import dropout, init_model
from jaxlstm.tasks._vowels import max_pool

RECIPE = TASKS["vowels"].recipe


@pytest.mark.parametrize(("split", "count", "shortest", "longest"), [("train", 270, 7, 26), ("test", 370, 7, 29)])
def test_the_data_are_those_published(split, count, shortest, longest):
    xs, lengths, labels = _vowels.load(split)
    assert xs.shape == (count, 29, 12)
    assert (lengths.min(), lengths.max()) == (shortest, longest)
    assert (xs.dtype, lengths.dtype, labels.dtype) == (np.float32, np.int32, np.int32)
    assert set(labels) == set(range(9))
    if split == "train":
        assert (np.bincount(labels) == 30).all()
    for sequence, length in zip(xs, lengths, strict=True):
        assert (sequence[:length] != 0).any(axis=1).all()
        assert (sequence[length:] == 0).all()


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_data_are_those_that_aeon_ships(split):
    datasets = pytest.importorskip("aeon.datasets", reason="compares with the data of the package aeon")
    sequences, labels = datasets.load_japanese_vowels(split=split)[:2]
    ours = _vowels.load(split)
    assert ours.labels.tolist() == [int(label) - 1 for label in labels]
    for xs, length, theirs in zip(ours.xs, ours.lengths, sequences, strict=True):
        np.testing.assert_array_equal(xs[:length], theirs.T.astype(np.float32))


def test_there_are_two_parts():
    with pytest.raises(ValueError, match="split: expected 'train' or 'test', got 'all'"):
        _vowels.load("all")


def test_channels_are_standardised_by_the_training_sequences_alone():
    train, test = _vowels.load("train"), _vowels.load("test")
    xs = _vowels._standardise(train, by=train)
    steps = np.concatenate([x[:length] for x, length in zip(xs, train.lengths, strict=True)])
    np.testing.assert_allclose(steps.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(steps.std(0), 1, atol=1e-5)
    others = _vowels._standardise(test, by=train)
    assert others.dtype == np.float32
    assert (others[0, test.lengths[0] :] == 0).all()
    assert abs(others[others != 0].mean()) > 1e-4  # by its own statistics this would be 0


def test_holding_out_keeps_speakers_even_and_never_looks_at_the_test_set():
    train, held = _vowels._split(5)
    assert (np.bincount(held.labels) == 5).all()
    assert (np.bincount(train.labels) == 25).all()
    everything = {x.tobytes() for x in _vowels.load("train").xs}
    assert {x.tobytes() for x in train.xs} | {x.tobytes() for x in held.xs} == everything
    assert not {x.tobytes() for x in train.xs} & {x.tobytes() for x in held.xs}


def test_an_epoch_draws_every_sequence_once_in_an_order_of_the_seed_s():
    first, again, other = (list(itertools.islice(epochs(10, 4, seed), 5)) for seed in (0, 0, 1))
    drawn = np.concatenate(first)
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    np.testing.assert_array_equal(first, again)
    assert (drawn != np.concatenate(other)).any()


def test_the_length_of_the_padding_does_not_change_a_prediction():
    problem = _vowels.problem(dataclasses.replace(RECIPE, hold_out=1))
    network = problem.network(jl.LSTMCell(4))
    params = init_model(network, jax.random.key(0), problem.input_size, problem.outputs)
    assert problem.predict(network, params).shape == (9, 9)
    _, held = _vowels._split(1)
    xs, lengths = held.xs, held.lengths
    _, ys = network.apply(params.network, np.swapaxes(xs, 0, 1), lengths=lengths)
    for n, length in enumerate(lengths[:3]):
        _, alone = network.apply(params.network, xs[n, :length])
        np.testing.assert_allclose(max_pool(ys, jnp.asarray(lengths))[n], alone.max(0), rtol=1e-5, atol=1e-6)


def test_max_pool_of_no_steps_is_zero():
    pooled = max_pool(jnp.full((3, 2, 1), -1.0), jnp.array([0, 2]))
    np.testing.assert_array_equal(pooled, [[0], [-1]])


def test_dropout_keeps_the_mean_and_is_off_without_a_key():
    h = jnp.ones(10_000, jnp.float32)
    assert dropout(None, h, 0.5) is h
    dropped = dropout(jax.random.key(0), h, 0.25)
    np.testing.assert_allclose(dropped.mean(), 1, atol=0.02)
    assert set(np.unique(dropped)) == {0, np.float32(1 / 0.75)}
