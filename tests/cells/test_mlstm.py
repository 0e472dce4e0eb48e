"""MLSTMCell against float64 loops: values, gradients, extreme gates, the stabiliser, heads, initial params."""

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
    "sigmoid": (jl.MLSTMCell(4, num_heads=2), references.mlstm_step),
    "exp": (jl.MLSTMCell(4, num_heads=2, exponential_forget=True), references.exponential(references.mlstm_step)),
}
both = pytest.mark.parametrize("name", CELLS)
one = pytest.mark.parametrize("name", ["sigmoid", pytest.param("exp", marks=pytest.mark.slow)])


def extreme(params, i, f):
    """The params with these added to the biases of the gates i and f of both heads."""
    return params._replace(b=params.b + np.concatenate([np.zeros(params.b.size - 4), [i, i, f, f]]))


@one
@pytest.mark.parametrize("names", OPTIONS)
def test_equals_loop(name, names):
    cell, step = CELLS[name]
    modern.assert_equals_loop(cell, step, problem(cell), names)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, (), 1), (2, (2, 2), 3)], ids=str)
def test_equals_loop_at_other_shapes(shape):
    cell = jl.MLSTMCell(3)
    modern.assert_equals_loop(cell, references.mlstm_step, problem(cell, *shape))


@both
@pytest.mark.parametrize("i", [80, -80])
@pytest.mark.parametrize("f", [80, -80])
def test_extreme_gates(name, i, f):
    cell, step = CELLS[name]
    params, *rest = problem(cell)
    modern.assert_equals_loop(cell, step, (extreme(params, i, f), *rest))


@pytest.mark.slow
@both
@pytest.mark.parametrize(("i", "f"), [(0, 0), (80, -80), (-80, -80), (-80, 60), (60, 60)])
def test_the_stabiliser_changes_no_output(name, i, f):
    """exp(m) C and exp(m) n are the C and n of the equations without it, from an empty memory and from any."""
    cell, step = CELLS[name]
    params, xs, carry, _, _ = problem(cell)
    params, plain = extreme(params, i, f), partial(step, stabilised=False)
    for start in (carry, cell.init_carry(params, (3,))):
        last, ys = jl.unroll(cell, params, xs, start)
        scale = np.exp(start.m)[..., None]
        scaled = start._replace(c=scale[..., None] * start.c, n=scale * start.n, m=np.zeros_like(carry.m))
        want, want_ys = references.forward(plain, params, xs, jax.tree.map(np.asarray, scaled), None)
        assert_close(ys, want_ys, tolerance=1e-11)
        np.testing.assert_allclose(np.exp(last.m)[..., None] * last.n, want.n, rtol=1e-9, atol=1e-300)
        np.testing.assert_allclose(np.exp(last.m)[..., None, None] * last.c, want.c, rtol=1e-9, atol=1e-300)


@pytest.mark.slow
@pytest.mark.parametrize("i", [-300, 300])
@pytest.mark.parametrize("f", [-300, 300])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_gate_gives_nan_in_few_bits(i, f, dtype):
    """exp(-m) is beyond float32 here, both ways; a query of zeros reads zeros."""
    cell = jl.MLSTMCell(4, num_heads=2)
    params, xs, *_ = problem(cell, 3, ())
    params, xs = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (extreme(params, i, f), xs))
    for given in (params, params._replace(w_ih=params.w_ih.at[:, :4].set(0), b=params.b.at[:4].set(0))):
        carry, ys = jl.unroll(cell, given, xs)
        gradient = jax.grad(lambda params: (jl.unroll(cell, params, xs)[1] ** 2).sum())(given)
        assert carry.c.dtype == jnp.float32
        assert all(jnp.isfinite(leaf).all() for leaf in (*gradient, *carry, ys))


@pytest.mark.slow
@both
def test_derivatives_split_steps_and_networks(name):
    cell, _ = CELLS[name]
    modern.assert_equals_plain_scan(cell)
    modern.assert_split_and_steps_agree(cell)
    modern.assert_works_in_networks(cell)


def test_a_learned_memory_is_read():
    """From zeros too: it has a gradient."""
    cell = jl.LearnedCarry(jl.MLSTMCell(4, num_heads=2))
    params = cell.init(KEY, 3)
    xs = jax.random.normal(KEY, (5, 3), jnp.float32)
    gradient = jax.grad(lambda params: jl.unroll(cell, params, xs)[1].sum())(params).initial_carry
    assert np.abs(gradient.c).min() > 0


def test_gates_are_those_of_the_transition():
    cell, _ = CELLS["exp"]
    params, xs, carry, *_ = jax.tree.map(jnp.asarray, problem(cell))
    _, seen = jl.inspect.trace(cell, params, xs, carry)
    k = cell.project(params, jnp.asarray(xs))[..., 4:8].reshape(4, 3, 2, 2)
    i, f, _ = seen.gates
    assert_close(f[..., None] * seen.before.n + i[..., None] * k, seen.carry.n)
    assert_close(np.maximum(i, f), np.ones_like(i))


@pytest.mark.slow
@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_inspect_takes_a_carry_of_matrices(batch):
    """h, c, n and m side by side: 4 + 8 + 4 + 2 numbers; the flow of c is the norm of a matrix."""
    cell, _ = CELLS["sigmoid"]
    params, xs, carry, *_ = problem(cell, 3, batch)
    jacobians = jl.inspect.step_jacobians(cell, params, xs, carry)
    assert jacobians.shape == (3, *batch, 18, 18)
    moved = carry._replace(c=carry.c.copy())
    moved.c[..., 1, 0, 1] += 1e-6
    before, after = (cell.step(params, one, xs[0])[0].c for one in (carry, moved))
    column = jacobians[0][..., 4:12, 4 + 5].reshape(*batch, 2, 2, 2)
    np.testing.assert_allclose(column, (after - before) / 1e-6, atol=1e-8)
    assert jl.inspect.lyapunov_exponents(cell, params, xs, carry).shape == (*batch, 18)
    flow = jl.inspect.gradient_flow(cell, params, xs, carry, loss=lambda last, ys: (last.c**3).sum())
    last = jl.unroll(cell, params, xs, carry)[0]
    np.testing.assert_allclose(flow.c[0], np.sqrt(((3 * last.c**2) ** 2).sum((-3, -2, -1))))


def test_initial_params():
    params = jl.MLSTMCell(6, num_heads=3, forget_bias=2).init(KEY, 20)
    assert params.w_ih.shape == (20, 30)
    assert params.b.tolist() == [0.0] * 27 + [2.0] * 3
    for part, size in ((params.w_ih[:, :24], 6), (params.w_ih[:, 24:], 3)):
        bound = (6 / (20 + size)) ** 0.5
        assert 0.9 * bound < abs(part).max() <= bound
    assert jl.MLSTMCell(6, bias=False).init(KEY, 2).b is None
