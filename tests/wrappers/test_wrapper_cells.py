"""A learned carry, and the cell that only Flax needs, against a loop in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax_cases import HIDDEN, INPUTS, assert_close, random_like, run

import jaxlstm as jl
from jaxlstm._wrappers._cells import ResidualRNNCell

XS = INPUTS.swapaxes(0, 1)


def loop(step, size=HIDDEN):
    h, ys = np.zeros((XS.shape[1], size)), []
    for x in XS:
        h = step(x, h)
        ys.append(h)
    return np.stack(ys)


def params_of(cell):
    return random_like(jax.eval_shape(lambda: cell.init(jax.random.key(0), XS.shape[-1], dtype=jnp.float64)))


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
