"""The generator of the adding problem."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.tasks import CELLS, TASKS
from jaxlstm.tasks._adding import make_batch
from jaxlstm.tasks._model import init_model

XS, TARGETS, _ = jax.tree.map(np.asarray, make_batch(jax.random.key(0), 20_000, 10))


def test_shapes_and_dtypes_are_the_same_with_and_without_x64(without_x64):
    xs, targets, lengths = make_batch(jax.random.key(0), 20_000, 10)
    assert lengths is None
    assert xs.dtype == XS.dtype == targets.dtype == TARGETS.dtype == jnp.float32
    assert xs.shape == (10, 20_000, 2)
    np.testing.assert_array_equal(xs, XS)


def test_there_is_one_marker_in_each_half_at_every_place_alike():
    markers = XS[..., 1]
    assert set(np.unique(markers)) == {0, 1}
    assert (markers[:5].sum(0) == 1).all()
    assert (markers[5:].sum(0) == 1).all()
    np.testing.assert_allclose(markers.mean(1), 0.2, atol=0.02)


def test_the_target_is_the_sum_of_the_marked_values():
    values = XS[..., 0]
    expected = [values[np.flatnonzero(XS[:, n, 1]), n].sum() for n in range(100)]
    np.testing.assert_allclose(TARGETS[:100], expected, rtol=1e-6)


def test_values_are_uniform_and_a_constant_answer_has_an_error_of_a_sixth():
    deciles = np.quantile(XS[..., 0], np.linspace(0, 1, 11))
    np.testing.assert_allclose(deciles, np.linspace(0, 1, 11), atol=0.01)
    np.testing.assert_allclose(np.mean((TARGETS - 1) ** 2), 1 / 6, rtol=0.03)


def test_other_keys_draw_other_sequences():
    xs, _, _ = make_batch(jax.random.key(1), 100, 10)
    assert not (xs == XS[:, :100]).all()


@pytest.mark.parametrize("length", [2, 3])
def test_the_shortest_sequences(length):
    xs, targets, _ = make_batch(jax.random.key(0), 7, length)
    assert (xs[..., 1].sum(0) == 2).all()
    assert targets.shape == (7,)


def test_the_recipe_is_the_same_for_all_cells():
    assert TASKS["adding"].recipe.cells == ("rnn", "gru", "lstm")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in ("slstm", "lru"))) for n in CELLS]
)
def test_every_cell_has_a_loss(name):
    """Also with units that four heads cannot divide. A cell draws from its place, so the first ones keep theirs."""
    assert tuple(CELLS)[:3] == ("rnn", "gru", "lstm")
    recipe = TASKS["adding"].recipe_with(cell=name, hidden_size=6, batch_size=2, length=4)
    problem = TASKS["adding"].problem(recipe)
    network = problem.network(problem.cell(name, recipe.hidden_size))
    key = jax.random.key(0)
    params = jax.eval_shape(lambda key: init_model(network, key, problem.input_size, problem.outputs), key)
    assert jax.eval_shape(partial(problem.loss, network), params, None, key)[0].shape == ()
