"""LSTMCell against float64 loops: values, gradients, equations, initial params."""

import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from jaxtyping import jaxtyped
from references import assert_close

import jaxlstm as jl

SHAPES = [(1, (), 1, 1), (5, (2,), 3, 5), (4, (2, 3), 1, 3), (0, (3,), 2, 3)]  # T, batch, I, H
OPTIONS = ["reverse", "lengths", "mask", "reset", "reverse reset", "lengths mask reset", "reverse lengths mask reset"]
KEY = jax.random.key(0)


def problem(steps, batch, input_size, hidden_size):
    """Params with biases that are not zero, inputs, an initial carry, and cotangents of the final carry and of ys."""
    draw = np.random.default_rng(0).normal
    params = jl.LSTMParams(
        w_ih=draw(size=(input_size, 4 * hidden_size)),
        w_hh=draw(size=(hidden_size, 4 * hidden_size)),
        b=draw(size=4 * hidden_size),
    )
    carry, dcarry = (jl.LSTMCarry(h=draw(size=(*batch, hidden_size)), c=draw(size=(*batch, hidden_size))) for _ in "01")
    return params, draw(size=(steps, *batch, input_size)), carry, dcarry, draw(size=(steps, *batch, hidden_size))


def assert_equals_loop(shape, options):
    """Values and gradients of `jl.unroll` are those of the reference."""
    params, xs, carry, dcarry, dys = problem(*shape)
    cell = jl.LSTMCell(shape[-1])
    got, pull_back = jax.vjp(lambda p, x, c: jl.unroll(cell, p, x, c, **options), params, xs, carry)
    assert_close(got, references.forward(references.LSTM, params, xs, carry, **options))
    want = references.backward(references.LSTM, params, xs, carry, dcarry, dys, **options)
    assert_close(pull_back((dcarry, dys)), want)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_loop(shape):
    assert_equals_loop(shape, {})


@pytest.mark.parametrize("names", OPTIONS)
def test_equals_loop_with_options(names):
    assert_equals_loop((5, (4,), 3, 2), references.random_options(names, 5, (4,)))


@pytest.mark.parametrize("names", ["", *OPTIONS])
def test_gradient_of_loop_equals_finite_differences(names):
    arguments = problem(4, (3,), 2, 2)
    options = references.random_options(names, 4, (3,))
    got = references.backward(references.LSTM, *arguments, **options)
    assert_close(got, references.numerical_backward(references.LSTM, *arguments, **options), tolerance=1e-7)


@pytest.mark.parametrize("batch", [(), (2, 3)], ids=str)
def test_step_equals_loop(batch):
    params, xs, carry, _, _ = problem(1, batch, 3, 5)
    after, y = jl.LSTMCell(5).step(params, carry, xs[0])
    want, ys = references.forward(references.LSTM, params, xs, carry)
    assert_close((after, y), (want, ys[0]))


def test_bfloat16_keeps_the_cell_state_in_float32():
    params, xs, carry, _, _ = problem(5, (2,), 3, 5)
    params, xs, carry = jax.tree.map(lambda a: jnp.asarray(a / 2, jnp.bfloat16), (params, xs, carry))
    after, ys = jl.unroll(jl.LSTMCell(5), params, xs, carry)
    assert (after.h.dtype, after.c.dtype, ys.dtype) == (jnp.bfloat16, jnp.float32, jnp.bfloat16)
    wide = jax.tree.map(lambda a: np.asarray(a, np.float64), (params, xs, carry))
    got = jax.tree.map(lambda a: a.astype(jnp.float64), (after, ys))
    assert_close(got, references.forward(references.LSTM, *wide), tolerance=0.03)  # 8 bits of mantissa, 5 steps


def test_gates_are_the_equations():
    z = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4 * 5)))
    z_i, z_f, z_g, z_o = z[..., :5], z[..., 5:10], z[..., 10:15], z[..., 15:]
    sigmoid = references.sigmoid
    assert_close(jl.lstm_gates(z), jl.Gates(i=sigmoid(z_i), f=sigmoid(z_f), g=np.tanh(z_g), o=sigmoid(z_o)))


def test_transition_is_the_equations():
    i, f, g, o, c = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2, 3)))
    got = jl.lstm_transition(jl.Gates(i=i, f=f, g=g, o=o), c)
    assert_close(got, jl.LSTMCarry(h=o * np.tanh(f * c + i * g), c=f * c + i * g))


def test_other_activations():
    params, xs, carry, _, _ = problem(1, (2,), 3, 5)
    cell = jl.LSTMCell(5, gate_fn=jax.nn.hard_sigmoid, activation_fn=jax.nn.soft_sign)
    i, f, g, o = np.split(xs[0] @ params.w_ih + carry.h @ params.w_hh + params.b, 4, axis=-1)
    hard_sigmoid, soft_sign = lambda z: np.clip(z / 6 + 0.5, 0, 1), lambda z: z / (1 + abs(z))
    c = hard_sigmoid(f) * carry.c + hard_sigmoid(i) * soft_sign(g)
    h = hard_sigmoid(o) * soft_sign(c)
    assert_close(cell.step(params, carry, xs[0]), (jl.LSTMCarry(h=h, c=c), h))


def test_misprinted_equation_is_ours_with_i_and_f_exchanged():
    class Misprint(jl.LSTMCell):
        def transition(self, params, z, carry):
            i, f, g, o = jl.lstm_gates(z)
            c = i * carry.c + f * g
            return jl.LSTMCarry(h=o * jnp.tanh(c), c=c)

    params, xs, carry, _, _ = problem(5, (2,), 3, 5)
    i, f, g_and_o = np.arange(5), np.arange(5, 10), np.arange(10, 20)
    exchanged = jax.tree.map(lambda w: w[..., np.concatenate([f, i, g_and_o])], params)
    want = jax.tree.map(np.asarray, jl.unroll(jl.LSTMCell(5), params, xs, carry))
    assert_close(jl.unroll(Misprint(5), exchanged, xs, carry), want)


def test_params_fit_their_annotations():
    params = jl.LSTMCell(9).init(KEY, 20)
    assert [a.shape for a in params] == [(20, 36), (9, 36), (36,)]
    with jaxtyped("context"):
        for name, axes in typing.get_type_hints(jl.LSTMParams).items():
            assert isinstance(getattr(params, name), axes), name


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 0.01)])
def test_initial_recurrent_weights_are_orthogonal_per_gate(dtype, tolerance):
    params = jl.LSTMCell(9).init(KEY, 20, dtype=dtype)
    for gate in np.split(np.asarray(params.w_hh, np.float64), 4, axis=1):
        assert_close(gate @ gate.T, np.eye(9), tolerance)


def test_initial_input_weights_have_the_glorot_bound_of_one_gate():
    params = jl.LSTMCell(9).init(KEY, 20)
    bound = (6 / (20 + 9)) ** 0.5
    for gate in np.split(np.asarray(params.w_ih), 4, axis=1):
        assert 0.9 * bound < abs(gate).max() <= bound


@pytest.mark.parametrize("forget_bias", [1.0, -2.5])
def test_forget_bias_is_in_the_params_of_the_forget_gate(forget_bias):
    b = jl.LSTMCell(9, forget_bias=forget_bias).init(KEY, 20).b
    assert b.tolist() == [0.0] * 9 + [forget_bias] * 9 + [0.0] * 18


def test_forget_bias_is_not_added_in_the_graph():
    params, xs, carry, _, _ = problem(5, (2,), 3, 5)
    want = jax.tree.map(np.asarray, jl.unroll(jl.LSTMCell(5), params, xs, carry))
    assert_close(jl.unroll(jl.LSTMCell(5, forget_bias=50.0), params, xs, carry), want, tolerance=0)


def test_chrono_biases():
    i, f, g, o = np.split(np.asarray(jl.LSTMCell(200, b_init=jl.chrono(100)).init(KEY, 1).b), 4)
    assert (i == -f).all()
    assert not g.any()
    assert not o.any()
    assert 0 <= f.min() < np.log(1 + 5) < np.log(99 - 5) < f.max() <= np.log(99)
    np.testing.assert_allclose(np.exp(f).mean(), 50, atol=6)  # u is uniform, not log u


def test_chrono_is_equal_by_value_and_prints_itself():
    assert jl.LSTMCell(2, b_init=jl.chrono(784)) == jl.LSTMCell(2, b_init=jl.chrono(784))
    assert jl.LSTMCell(2, b_init=jl.chrono(784)) != jl.LSTMCell(2, b_init=jl.chrono(785))
    assert hash(jl.chrono(784)) == hash(jl.chrono(784))
    assert str(jl.LSTMCell(2, b_init=jl.chrono(784))) == "LSTMCell(hidden_size=2, b_init=chrono(784))"


def test_torch_uniform_bounds():
    initialisers = dict.fromkeys(("w_ih_init", "w_hh_init", "b_init"), jl.torch_uniform)
    for a in jl.LSTMCell(25, **initialisers).init(KEY, 7):
        assert 0.9 / 5 < abs(a).max() <= 1 / 5
        assert abs(a.mean()) < 0.05


def test_init_is_a_function_of_the_key():
    cell = jl.LSTMCell(9)
    params = jax.tree.map(np.asarray, cell.init(KEY, 20))
    assert_close(cell.init(KEY, 20), params, tolerance=0)
    other = cell.init(jax.random.key(1), 20)
    assert not (other.w_ih == params.w_ih).any()
    assert not (other.w_hh == params.w_hh).any()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
@pytest.mark.parametrize("options", [{}, {"b_init": jl.chrono(9.0), "w_ih_init": jl.torch_uniform}], ids=["", "other"])
def test_init_honours_dtype(dtype, options):
    cell = jl.LSTMCell(3, **options)
    params = jax.eval_shape(lambda: cell.init(KEY, 2, dtype=dtype))
    assert {a.dtype.name for a in params} == {dtype}
    carry = cell.init_carry(params, (4,))
    assert carry.h.dtype.name == dtype
    assert carry.c.dtype.name == ("float64" if dtype == "float64" else "float32")
