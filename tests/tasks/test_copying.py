"""The copying task: what is shown, what is asked, and the floor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.tasks._copying import floor, make_batch, measure
from jaxlstm.tasks._generated import one_hot


@pytest.mark.parametrize("length", [1, 2, 30])
def test_ten_symbols_blanks_a_sign_and_the_symbols_again(length):
    xs, targets, lengths = make_batch(jax.random.key(0), 50, length)
    assert (xs.shape, targets.shape, lengths) == ((length + 20, 50, 10), (length + 20, 50), None)
    assert (xs.sum(-1) == 1).all()
    shown = np.asarray(xs.argmax(-1))
    assert (shown[:10] < 8).all()
    assert (shown[10 : length + 9] == 8).all()
    assert (shown[length + 9] == 9).all()
    assert (shown[length + 10 :] == 8).all()
    assert (targets[: length + 10] == 8).all()
    np.testing.assert_array_equal(targets[length + 10 :], shown[:10])


def test_symbols_are_uniform_and_independent():
    symbols = np.asarray(make_batch(jax.random.key(0), 4000, 1).targets[-10:])
    np.testing.assert_allclose(np.bincount(symbols.ravel()) / symbols.size, 1 / 8, atol=0.01)
    assert abs(np.corrcoef(symbols)[np.triu_indices(10, 1)]).max() < 0.08


def test_the_floor_is_what_blanks_and_then_guessing_give():
    sequences = make_batch(jax.random.key(0), 100, 5)
    blank = jnp.full((15, 100, 10), -jnp.inf, jnp.float32).at[..., 8].set(0)
    guess = jnp.zeros((10, 100, 10), jnp.float32).at[..., 8:].set(-jnp.inf)
    loss, metrics = measure(jnp.concatenate([blank, guess]), sequences)
    np.testing.assert_allclose(loss, floor(5), rtol=1e-6)
    np.testing.assert_allclose(metrics["copied"], 1 / 8, atol=0.03)
    assert measure(one_hot(sequences.targets, 10), sequences)[1]["copied"] == 1
