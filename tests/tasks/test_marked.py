"""Adding and multiplication in the form of 1997: places of the markers, targets, lengths, values."""

import jax
import numpy as np
import pytest

from jaxlstm.tasks import TASKS
from jaxlstm.tasks._generated import Sequences
from jaxlstm.tasks._marked import make_batch, measure

COUNT, T = 4000, 40


@pytest.fixture(scope="module", params=[False, True], ids=["adding", "multiplication"])
def drawn(request):
    """Whether to multiply, and NumPy's view of a batch."""
    sequences = make_batch(jax.random.key(0), COUNT, T, multiply=request.param)
    return request.param, *jax.tree.map(np.asarray, sequences)


def test_lengths_are_uniform_over_a_tenth(drawn):
    _, xs, _, lengths = drawn
    assert xs.shape == (44, COUNT, 2)
    assert set(lengths) == set(range(40, 45))
    np.testing.assert_allclose(np.bincount(lengths)[40:] / COUNT, 0.2, atol=0.03)
    for n in range(100):
        assert (xs[lengths[n] :, n] == 0).all()


def test_both_ends_are_minus_one_and_two_steps_are_marked_in_their_ranges(drawn):
    _, xs, _, lengths = drawn
    markers = xs[..., 1]
    assert (markers[0] == -1).all()
    assert (markers[lengths - 1, np.arange(COUNT)] == -1).all()
    assert ((markers == -1).sum(0) == 2).all()
    marked = markers == 1
    at_start = marked.sum(0) == 1  # the other one stands at the first step, under its -1
    assert ((marked.sum(0) == 2) | at_start).all()
    assert marked[1:10].any(0)[~at_start].all()
    assert not marked[T // 2 :].any()
    np.testing.assert_allclose(at_start.mean(), 0.1 + 0.9 / 19, atol=0.02)
    np.testing.assert_allclose(marked[10 : T // 2].mean(1), 1 / 19, atol=0.015)  # b, at every place alike


def test_the_target_is_the_papers_formula(drawn):
    multiply, xs, targets, _ = drawn
    for n in range(200):
        values = [x for x, marker in xs[:, n] if marker == 1]
        if multiply:
            values += [1.0] * (2 - len(values))
            expected = values[0] * values[1]
        else:
            values += [0.0] * (2 - len(values))
            expected = 0.5 + (values[0] + values[1]) / 4
        np.testing.assert_allclose(targets[n], expected, rtol=1e-6)
    assert ((targets >= 0) & (targets <= 1)).all()


def test_values_are_uniform(drawn):
    multiply, xs, _, _ = drawn
    deciles = np.quantile(xs[:T, :, 0], np.linspace(0, 1, 11))
    np.testing.assert_allclose(deciles, np.linspace(0 if multiply else -1, 1, 11), atol=0.02)


def test_numbers_do_not_depend_on_x64(drawn, without_x64):
    multiply, xs, targets, lengths = drawn
    again = make_batch(jax.random.key(0), COUNT, T, multiply=multiply)
    assert (again.xs.dtype, again.targets.dtype, again.lengths.dtype) == (np.float32, np.float32, np.int32)
    for one, other in zip(again, (xs, targets, lengths), strict=True):
        np.testing.assert_array_equal(one, other)


def test_right_is_off_by_less_than_four_hundredths():
    targets = np.float32([0.5, 0.5, 0.5, 0.5])
    answers = np.float32([0.5, 0.539, 0.461, 0.541])
    loss, metrics = measure(jax.numpy.asarray(answers), Sequences(None, jax.numpy.asarray(targets)))
    assert metrics["right"] == 0.75
    np.testing.assert_allclose(metrics["error"], 0.119 / 4, rtol=1e-4)
    np.testing.assert_allclose(loss, (2 * 0.039**2 + 0.041**2) / 4, rtol=1e-4)


def test_the_lstm_is_made_for_the_length():
    problem = TASKS["multiplication"].problem(TASKS["multiplication"].recipe)
    assert problem.cell("lstm", 4) != problem.cell("rnn", 4)
    b = problem.cell("lstm", 100).init(jax.random.key(0), 2).b
    assert 1.5 < np.asarray(b[100:200]).mean() < np.log(100)
