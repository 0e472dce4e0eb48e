"""MinGRUCell and MinLSTMCell against float64 loops: values, gradients, extreme gates, coefficients, initial params."""

from functools import partial

import jax
import jax.numpy as jnp
import modern
import numpy as np
import pytest
import references_modern as references
from modern import KEY, OPTIONS, problem
from references import assert_close

import jaxlstm as jl

CELLS = {
    "gru": (jl.MinGRUCell, references.min_gru_step),
    "lstm": (jl.MinLSTMCell, references.min_lstm_step),
}
both = pytest.mark.parametrize("name", CELLS)


@both
@pytest.mark.parametrize("names", OPTIONS)
def test_equals_loop(name, names):
    make, step = CELLS[name]
    modern.assert_equals_loop(make(3), step, problem(make(3)), names)


@pytest.mark.slow
@both
@pytest.mark.parametrize("shape", [(1, (), 1), (2, (2, 2), 3)], ids=str)
def test_equals_loop_at_other_shapes(name, shape):
    make, step = CELLS[name]
    cell = make(2, activation_fn=jl.min_activation)
    modern.assert_equals_loop(cell, partial(step, activation=references.g), problem(cell, *shape))


@both
def test_extreme_gates(name):
    """Both gates of a minLSTM shut: what is left is their ratio."""
    make, step = CELLS[name]
    params, *rest = problem(make(3))
    for signs in ([80, -80], [-80, 80], [-80, -80.5], [80, 79]):
        gates = 1 if name == "gru" else 2
        b = params.b + np.concatenate([np.full(3, sign) for sign in signs[:gates]] + [np.zeros(3)])
        modern.assert_equals_loop(make(3), step, (params._replace(b=b), *rest))


def test_shut_gates_in_float32_are_not_nan():
    """sigma(-200) is 0 there, so that the paper's quotient is 0 / 0."""
    cell = jl.MinLSTMCell(2)
    params = cell.init(KEY, 1)
    params = params._replace(b=jnp.array([-200.0, -200, -201, -200, 0, 0], jnp.float32))
    gates = cell.gates(params, params.b, cell.init_carry(params))
    np.testing.assert_allclose(gates.f, [1 / (1 + np.e), 0.5], rtol=1e-4)
    gradient = jax.grad(lambda params: jl.unroll(cell, params, jnp.ones((3, 1), jnp.float32))[1].sum())(params)
    assert all(jnp.isfinite(leaf).all() for leaf in gradient)


@both
def test_coefficients_give_the_trajectory(name):
    """h_t = a_t h_{t-1} + b_t, of all steps at once."""
    cell = CELLS[name][0](3, activation_fn=jnp.tanh)
    params, xs, carry, _, _ = problem(cell)
    params = jax.tree.map(jnp.asarray, params)
    a, b = cell.coefficients(params, cell.project(params, jnp.asarray(xs)))
    h, expected = carry.h, []
    for a_t, b_t in zip(a.h, b.h, strict=True):
        h = a_t * h + b_t
        expected.append(h)
    assert_close(jl.unroll(cell, params, xs, carry), (jl.RNNCarry(h), jnp.stack(expected)))


@pytest.mark.slow
@both
def test_derivatives_equal_a_plain_scan_s(name):
    modern.assert_equals_plain_scan(CELLS[name][0](4))


@pytest.mark.slow
@both
def test_split_steps_and_networks(name):
    modern.assert_split_and_steps_agree(CELLS[name][0](4))
    modern.assert_works_in_networks(CELLS[name][0](4))


@both
def test_initial_params(name):
    make, _ = CELLS[name]
    gates = 2 if name == "gru" else 3
    params = make(9).init(KEY, 20)
    bound = (6 / (20 + 9)) ** 0.5
    assert params.w_ih.shape == (20, 9 * gates)
    assert 0.9 * bound < abs(params.w_ih).max() <= bound
    assert params.b.tolist() == [0.0] * 9 * gates
    assert make(9, bias=False).init(KEY, 20).b is None


def test_no_chrono_and_no_recurrent_dropout():
    for make in (jl.MinGRUCell, jl.MinLSTMCell):
        with pytest.raises(ValueError, match="b_init: expected an LSTM or a GRU for chrono"):
            make(3, b_init=jl.chrono(9)).init(KEY, 2)
        cell = jl.RecurrentDropout(make(3), 0.5)
        with pytest.raises(ValueError, match="cell: expected a cell whose recur reads h, got Min"):
            jl.unroll(cell, cell.init(KEY, 2), jnp.ones((4, 2), jnp.float32))
