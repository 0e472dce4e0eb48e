"""SLSTMCell against float64 loops: values, gradients, extreme gates, the stabiliser, heads, initial params."""

import re

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
    "sigmoid": (jl.SLSTMCell(4, num_heads=2), references.slstm_step),
    "exp": (jl.SLSTMCell(4, num_heads=2, exponential_forget=True), references.exponential(references.slstm_step)),
}
both = pytest.mark.parametrize("name", CELLS)
one = pytest.mark.parametrize("name", ["sigmoid", pytest.param("exp", marks=pytest.mark.slow)])


def extreme(params, i, f):
    """The params with these added to the biases of the gates i and f."""
    size = params.b.size // 4
    return params._replace(b=params.b + np.concatenate([np.full(size, i), np.full(size, f), np.zeros(2 * size)]))


@one
@pytest.mark.parametrize("names", OPTIONS)
def test_equals_loop(name, names):
    cell, step = CELLS[name]
    modern.assert_equals_loop(cell, step, problem(cell), names)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, (), 1), (2, (2, 2), 3)], ids=str)
def test_equals_loop_at_other_shapes(shape):
    cell = jl.SLSTMCell(3)
    modern.assert_equals_loop(cell, references.slstm_step, problem(cell, *shape))


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
    """exp(m) c and exp(m) n are the c and n of the equations without it, from an empty memory and from any."""
    cell, _ = CELLS[name]
    params, xs, carry, _, _ = problem(cell)
    params, plain = extreme(params, i, f), references.plain_slstm_step
    plain = references.exponential(plain) if name == "exp" else plain
    for start in (carry, cell.init_carry(params, (3,))):
        (last, ys), zeros = jl.unroll(cell, params, xs, start), np.zeros_like(carry.m)
        scaled = start._replace(c=np.exp(start.m) * start.c, n=np.exp(start.m) * start.n, m=zeros)
        want, want_ys = references.forward(plain, params, xs, jax.tree.map(np.asarray, scaled), None)
        assert_close(ys, want_ys)
        np.testing.assert_allclose(np.exp(last.m) * last.c, want.c, rtol=1e-11, atol=1e-300)
        np.testing.assert_allclose(np.exp(last.m) * last.n, want.n, rtol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("i", [-300, 300])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_gate_gives_nan_in_few_bits(i, dtype):
    """From an empty memory the normaliser is 1 or more, and the output the candidate of the first step."""
    cell = jl.SLSTMCell(4, num_heads=2)
    params, xs, *_ = problem(cell, 3, ())
    params, xs = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (extreme(params, i, -i), xs))
    reset = np.array([False, False, True])
    carry, ys = jl.unroll(cell, params, xs, reset=reset)
    assert (carry.n >= 1).all()
    assert carry.n.dtype == jnp.float32
    gradient = jax.grad(lambda params: (jl.unroll(cell, params, xs, reset=reset)[1] ** 2).sum())(params)
    assert all(jnp.isfinite(leaf).all() for leaf in (*gradient, *carry, ys))


@pytest.mark.slow
@both
def test_derivatives_split_steps_and_networks(name):
    cell, _ = CELLS[name]
    modern.assert_equals_plain_scan(cell)
    modern.assert_split_and_steps_agree(cell)
    modern.assert_works_in_networks(cell)


def test_heads_do_not_see_each_other():
    """The Jacobian of the new h in the old one is block-diagonal."""
    cell, _ = CELLS["sigmoid"]
    params, xs, carry, *_ = problem(cell, 1, ())
    jacobian = jax.jacobian(lambda h: cell.step(params, carry._replace(h=h), xs[0])[1])(carry.h)
    blocks = np.kron(np.eye(2), np.ones((2, 2))) > 0
    assert (np.abs(jacobian[blocks]) > 0).all()
    assert not jacobian[~blocks].any()


def test_gates_are_those_of_the_transition():
    cell, _ = CELLS["exp"]
    params, xs, carry, *_ = problem(cell)
    _, seen = jl.inspect.trace(cell, params, xs, carry)
    i, f, g, o = seen.gates
    assert_close(f * seen.before.c + i * g, seen.carry.c)
    assert_close(o * seen.carry.c / (f * seen.before.n + i), seen.ys)
    assert_close(np.maximum(i, f), np.ones_like(i))


def test_initial_params_and_carry():
    cell = jl.SLSTMCell(6, num_heads=2)
    params = cell.init(KEY, 20)
    assert (params.w_ih.shape, params.w_hh.shape) == ((20, 24), (2, 3, 12))
    assert params.b.tolist() == [0.0] * 6 + [1.0] * 6 + [0.0] * 12
    for head in params.w_hh:
        for gate in np.split(np.asarray(head), 4, axis=1):
            np.testing.assert_allclose(gate @ gate.T, np.eye(3), atol=1e-6)
    carry = cell.init_carry(params, (2,), dtype=jnp.bfloat16)
    assert [leaf.dtype.name for leaf in carry] == ["bfloat16"] + ["float32"] * 3
    assert jl.SLSTMCell(6, bias=False).init(KEY, 2).b is None
    chrono = jl.SLSTMCell(6, b_init=jl.chrono(50)).init(KEY, 2).b
    assert (chrono[6:12] == -chrono[:6]).all()


@pytest.mark.parametrize("make", [jl.SLSTMCell, jl.MLSTMCell])
@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ({"num_heads": 3}, "num_heads: expected a divisor of hidden_size=4, got 3"),
        ({"num_heads": 0}, "num_heads: expected a positive int, got 0"),
        ({"exponential_forget": "exp"}, "exponential_forget: expected True or False, got 'exp' (str)"),
        ({"forget_bias": None}, "forget_bias: expected a number, got None"),
        ({"forget_bias": 2, "bias": False}, "forget_bias: expected its default where b_init is given or bias=False"),
    ],
)
@pytest.mark.usefixtures("without_type_hook")
def test_mistakes_are_named(make, mistake, message):
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        make(4, **mistake)
