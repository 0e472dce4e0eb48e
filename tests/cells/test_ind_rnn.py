"""IndRNNCell against float64 loops: values, gradients, initial params."""

from functools import partial

import jax.numpy as jnp
import modern
import numpy as np
import pytest
import references_modern as references
from modern import KEY, OPTIONS, problem

import jaxlstm as jl

RELU, TANH = jl.IndRNNCell(3), jl.IndRNNCell(3, activation_fn=jnp.tanh)


@pytest.mark.parametrize("names", OPTIONS)
def test_equals_loop(names):
    modern.assert_equals_loop(RELU, references.ind_rnn_step, problem(RELU), names)
    modern.assert_equals_loop(TANH, partial(references.ind_rnn_step, activation=np.tanh), problem(TANH), names)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, (), 1), (2, (2, 2), 3)], ids=str)
def test_equals_loop_at_other_shapes(shape):
    modern.assert_equals_loop(RELU, references.ind_rnn_step, problem(RELU, *shape))


@pytest.mark.slow
def test_derivatives_split_steps_and_networks():
    modern.assert_equals_plain_scan(jl.IndRNNCell(4, activation_fn=jnp.tanh))
    modern.assert_split_and_steps_agree(jl.IndRNNCell(4))
    modern.assert_works_in_networks(jl.IndRNNCell(4))


def test_initial_params():
    params = jl.IndRNNCell(999).init(KEY, 20)
    assert params.u.shape == (999,)
    assert 0 <= params.u.min() < 0.01 < 0.99 < params.u.max() <= 1
    assert params.b.tolist() == [0.0] * 999
    half = jl.IndRNNCell(4, u_init=lambda key, shape, dtype: jnp.full(shape, 0.5, dtype)).init(KEY, 2)
    assert half.u.tolist() == [0.5] * 4


def test_recurrent_dropout():
    """It scales u * h for units that are seen, and drops it for the others."""
    params, xs, *_ = problem(TANH, 2, ())
    dropped = jl.unroll(jl.RecurrentDropout(TANH, 0.5), params, xs, key=KEY)[1]
    first = np.tanh(xs[0] @ params.w_ih + params.b)
    choices = [np.tanh(xs[1] @ params.w_ih + params.b + factor * params.u * first) for factor in (0, 2)]
    assert np.isclose(dropped[1], choices).any(axis=0).all()
