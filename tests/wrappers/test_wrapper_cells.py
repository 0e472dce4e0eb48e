"""The minimal gated unit, a learned carry, and the cell that only Flax needs, against loops in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax_cases import HIDDEN, INPUTS, assert_close, random_like, run

import jaxlstm as jl
from jaxlstm._wrappers._cells import ResidualRNNCell

XS = INPUTS.swapaxes(0, 1)


def sigma(z):
    return 1 / (1 + np.exp(-z))


def loop(step, size=HIDDEN):
    h, ys = np.zeros((XS.shape[1], size)), []
    for x in XS:
        h = step(x, h)
        ys.append(h)
    return np.stack(ys)


def params_of(cell):
    return random_like(jax.eval_shape(lambda: cell.init(jax.random.key(0), XS.shape[-1], dtype=jnp.float64)))


@pytest.mark.parametrize("reset_gate", [True, False])
def test_mgu(reset_gate):
    cell = jl.MGUCell(HIDDEN, reset_gate=reset_gate)
    params = params_of(cell)
    (w_if, w_in), (w_hf, w_hn) = np.split(np.asarray(params.w_ih), 2, 1), np.split(np.asarray(params.w_hh), 2, 1)
    b_f, b_n = np.split(np.asarray(params.b), 2)

    def step(x, h):
        f = sigma(x @ w_if + b_f + h @ w_hf)
        zh_n = f * (h @ w_hn + np.asarray(params.b_hn)) if reset_gate else h @ w_hn
        return (1 - f) * np.tanh(x @ w_in + b_n + zh_n) + f * h

    assert_close(run(partial(jl.unroll, cell), params, XS)[1], jnp.asarray(loop(step)))


def test_residual():
    cell = ResidualRNNCell(HIDDEN)
    params = params_of(cell)
    w_ih, w_hh, b = map(np.asarray, params)
    assert_close(
        run(partial(jl.unroll, cell), params, XS)[1],
        jnp.asarray(loop(lambda x, h: np.tanh(x @ w_ih + b + h @ w_hh + h))),
    )


def test_learned_carry_is_a_first_carry_with_a_gradient():
    cell = jl.LearnedCarry(jl.RecurrentDropout(jl.LSTMCell(HIDDEN), 0.5))
    params = params_of(cell)
    first = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (XS.shape[1], HIDDEN)), params.initial_carry)
    key = jax.random.key(1)
    expected = run(partial(jl.unroll, cell.cell), params.cell, XS, first, key=key)
    assert_close(run(partial(jl.unroll, cell), params, XS, key=key), expected)
    gradient = run(jax.grad(lambda params: jnp.sum(jl.unroll(cell, params, XS)[1] ** 2)), params)
    assert all(leaf.any() for leaf in gradient.initial_carry)
