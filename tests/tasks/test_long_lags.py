"""Long time lags: the two sequences of task 2a, the random ones of 2b, and what counts as right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.tasks._generated import Sequences, one_hot
from jaxlstm.tasks._long_lags import make_batch, measure

P, COUNT = 6, 2000


@pytest.fixture(scope="module")
def drawn():
    """Symbols ``[p + 1, B]`` of both tasks, seen and predicted."""
    symbols = {}
    for noise in (False, True):
        xs, targets, lengths = make_batch(jax.random.key(0), COUNT, P, noise=noise)
        assert (xs.shape, targets.shape, lengths) == ((P, COUNT, P + 1), (P, COUNT), None)
        assert (xs.sum(-1) == 1).all()
        seen = np.asarray(xs.argmax(-1))
        np.testing.assert_array_equal(seen[1:], targets[:-1])
        symbols[noise] = np.concatenate([seen, np.asarray(targets[-1:])])
    return symbols


def test_without_noise_there_are_two_sequences_and_a_batch_holds_both_evenly(drawn):
    sequences, counts = np.unique(drawn[False].T, axis=0, return_counts=True)
    np.testing.assert_array_equal(sequences, [[5, 0, 1, 2, 3, 4, 5], [6, 0, 1, 2, 3, 4, 6]])
    np.testing.assert_array_equal(counts, COUNT // 2)
    keys = jax.random.split(jax.random.key(2), COUNT)
    odd = jax.vmap(lambda key: make_batch(key, 3, P, noise=False).targets[-1])(keys)
    assert set(np.sum(np.asarray(odd) == 5, axis=1)) == {1, 2}
    np.testing.assert_allclose(np.mean(odd == 5), 0.5, atol=0.02)


def test_with_noise_the_last_symbol_is_the_first_and_those_between_are_uniform(drawn):
    first, between, last = drawn[True][0], drawn[True][1:-1], drawn[True][-1]
    np.testing.assert_array_equal(first, last)
    np.testing.assert_allclose(np.mean(first == 5), 0.5, atol=0.04)
    np.testing.assert_allclose(np.bincount(between.ravel()) / between.size, 0.2, atol=0.02)
    assert abs(np.corrcoef(between)[np.triu_indices(P - 1, 1)]).max() < 0.1


@pytest.mark.parametrize(("noise", "right"), [(False, [False, True]), (True, [True, True])])
def test_right_looks_at_all_steps_or_at_the_last(noise, right):
    sequences = make_batch(jax.random.key(1), 2, P, noise=noise)
    logits = 10 * one_hot(sequences.targets, P + 1)
    logits = logits.at[2, 0].set(0)  # the first sequence's third answer says nothing
    _, metrics = measure(logits, sequences, noise=noise)
    assert float(metrics["right"]) == np.mean(right)
    _, metrics = measure(logits.at[-1, 1].set(0), sequences, noise=noise)
    assert float(metrics["right"]) == np.mean(right) - 0.5


def test_the_bound_is_a_quarter():
    def right(p):
        logits = jnp.log(jnp.array([[[p, 1 - p]]], jnp.float32))
        return measure(logits, Sequences(None, jnp.zeros((1, 1), jnp.int32)), noise=True)[1]["right"]

    assert (right(0.76), right(0.74)) == (1, 0)
