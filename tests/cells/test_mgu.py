"""MGUCell with and without its reset gate against float64 loops: values, gradients, extreme gates, initial params."""

from functools import partial

import jax
import modern
import numpy as np
import pytest
import references_modern as references
from modern import KEY, OPTIONS, problem

import jaxlstm as jl

CELLS = {
    "reset gate": (jl.MGUCell(3), references.mgu_step),
    "no reset gate": (jl.MGUCell(3, reset_gate=False), partial(references.mgu_step, reset_gate=False)),
}
both = pytest.mark.parametrize("name", CELLS)


@both
@pytest.mark.parametrize("names", OPTIONS)
def test_equals_loop(name, names):
    cell, step = CELLS[name]
    modern.assert_equals_loop(cell, step, problem(cell), names)


@pytest.mark.slow
@both
@pytest.mark.parametrize("shape", [(1, (), 1), (2, (2, 2), 3)], ids=str)
def test_equals_loop_at_other_shapes(name, shape):
    cell, step = CELLS[name]
    modern.assert_equals_loop(cell, step, problem(cell, *shape))


@pytest.mark.parametrize("f", [80, -80])
def test_extreme_gates(f):
    cell, step = CELLS["reset gate"]
    params, *rest = problem(cell)
    modern.assert_equals_loop(cell, step, (params._replace(b=params.b + np.repeat([f, 0], 3)), *rest))


@pytest.mark.slow
@both
def test_derivatives_split_steps_and_networks(name):
    cell, _ = CELLS[name]
    modern.assert_equals_plain_scan(cell)
    modern.assert_split_and_steps_agree(cell)
    modern.assert_works_in_networks(cell)


@both
def test_without_biases(name):
    """As with biases of zero."""
    cell, step = CELLS[name]
    bare = jl.MGUCell(3, reset_gate=cell.reset_gate, bias=False)
    params, xs, carry, *_ = problem(bare)
    assert (params.b, params.b_hn) == (None, None)
    got = jl.unroll(bare, params, xs, carry)
    zeros = params._replace(b=np.zeros(6), b_hn=np.zeros(3))
    modern.assert_close(got, references.forward(step, zeros, xs, carry, modern.initial_of(bare, params)))


def test_gates_are_those_of_the_transition():
    cell, _ = CELLS["reset gate"]
    params, xs, carry, *_ = problem(cell)
    _, seen = jl.inspect.trace(cell, params, xs, carry)
    f, n = seen.gates
    np.testing.assert_allclose(seen.carry.h, (1 - f) * n + f * seen.before.h, rtol=1e-12, atol=1e-12)


@both
def test_initial_params(name):
    cell = jl.MGUCell(9, reset_gate=name == "reset gate")
    params = cell.init(KEY, 20)
    bound = (6 / (20 + 9)) ** 0.5
    assert params.w_ih.shape == (20, 18)
    assert 0.9 * bound < abs(params.w_ih).max() <= bound
    for block in np.split(np.asarray(params.w_hh), 2, axis=1):
        np.testing.assert_allclose(block @ block.T, np.eye(9), atol=1e-6)
    assert not any(leaf.any() for leaf in jax.tree.leaves((params.b, params.b_hn)))
