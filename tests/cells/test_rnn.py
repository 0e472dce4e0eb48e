"""RNNCell, tanh and relu, against float64 loops: values, gradients, initial params."""

import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from jaxtyping import jaxtyped
from references import assert_close

import jaxlstm as jl

REFERENCES = {jnp.tanh: references.RNN_TANH, jax.nn.relu: references.RNN_RELU}
SHAPES = [(1, (), 1, 1), (5, (2,), 3, 5), (4, (2, 3), 1, 3), (0, (3,), 2, 3)]  # T, batch, I, H
OPTIONS = ["reverse", "lengths mask reset", "reverse lengths mask reset"]
KEY = jax.random.key(0)

both_activations = pytest.mark.parametrize("activation_fn", list(REFERENCES), ids=["tanh", "relu"])


def problem(steps, batch, input_size, hidden_size):
    """Params with biases that are not zero, inputs, an initial carry, and cotangents of the final carry and of ys."""
    draw = np.random.default_rng(0).normal
    params = jl.RNNParams(
        w_ih=draw(size=(input_size, hidden_size)),
        w_hh=draw(size=(hidden_size, hidden_size)),
        b=draw(size=hidden_size),
    )
    carry, dcarry = (jl.RNNCarry(h=draw(size=(*batch, hidden_size))) for _ in "01")
    return params, draw(size=(steps, *batch, input_size)), carry, dcarry, draw(size=(steps, *batch, hidden_size))


def assert_equals_loop(activation_fn, shape, options):
    """Values and gradients of `jl.unroll` are those of the reference."""
    reference = REFERENCES[activation_fn]
    params, xs, carry, dcarry, dys = problem(*shape)
    cell = jl.RNNCell(shape[-1], activation_fn=activation_fn)
    got, pull_back = jax.vjp(lambda p, x, c: jl.unroll(cell, p, x, c, **options), params, xs, carry)
    assert_close(got, references.forward(reference, params, xs, carry, **options))
    want = references.backward(reference, params, xs, carry, dcarry, dys, **options)
    assert_close(pull_back((dcarry, dys)), want)


@both_activations
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_loop(activation_fn, shape):
    assert_equals_loop(activation_fn, shape, {})


@both_activations
@pytest.mark.parametrize("names", OPTIONS)
def test_equals_loop_with_options(activation_fn, names):
    assert_equals_loop(activation_fn, (5, (4,), 3, 2), references.random_options(names, 5, (4,)))


@both_activations
@pytest.mark.parametrize("names", ["", *OPTIONS])
def test_gradient_of_loop_equals_finite_differences(activation_fn, names):
    arguments = problem(4, (3,), 2, 2)
    options = references.random_options(names, 4, (3,))
    got = references.backward(REFERENCES[activation_fn], *arguments, **options)
    want = references.numerical_backward(REFERENCES[activation_fn], *arguments, **options)
    assert_close(got, want, tolerance=1e-7)


@both_activations
@pytest.mark.parametrize("batch", [(), (2, 3)], ids=str)
def test_step_equals_loop(activation_fn, batch):
    params, xs, carry, _, _ = problem(1, batch, 3, 5)
    after, y = jl.RNNCell(5, activation_fn=activation_fn).step(params, carry, xs[0])
    want, ys = references.forward(REFERENCES[activation_fn], params, xs, carry)
    assert_close((after, y), (want, ys[0]))


def test_bfloat16():
    params, xs, carry, _, _ = problem(5, (2,), 3, 5)
    params, xs, carry = jax.tree.map(lambda a: jnp.asarray(a / 2, jnp.bfloat16), (params, xs, carry))
    after, ys = jl.unroll(jl.RNNCell(5), params, xs, carry)
    assert (after.h.dtype, ys.dtype) == (jnp.bfloat16, jnp.bfloat16)
    wide = jax.tree.map(lambda a: np.asarray(a, np.float64), (params, xs, carry))
    got = jax.tree.map(lambda a: a.astype(jnp.float64), (after, ys))
    assert_close(got, references.forward(references.RNN_TANH, *wide), tolerance=0.03)  # 8 bits of mantissa, 5 steps


def test_params_fit_their_annotations():
    params = jl.RNNCell(9).init(KEY, 20)
    assert [a.shape for a in params] == [(20, 9), (9, 9), (9,)]
    with jaxtyped("context"):
        for name, axes in typing.get_type_hints(jl.RNNParams).items():
            assert isinstance(getattr(params, name), axes), name


def test_initial_params():
    params = jl.RNNCell(9).init(KEY, 20)
    bound = (6 / (20 + 9)) ** 0.5
    assert_close(params.w_hh @ params.w_hh.T, np.eye(9), tolerance=1e-6)
    assert 0.9 * bound < abs(params.w_ih).max() <= bound
    assert params.b.tolist() == [0.0] * 9


def test_init_is_a_function_of_the_key():
    cell = jl.RNNCell(9)
    params = jax.tree.map(np.asarray, cell.init(KEY, 20))
    assert_close(cell.init(KEY, 20), params, tolerance=0)
    other = cell.init(jax.random.key(1), 20)
    assert not (other.w_ih == params.w_ih).any()
    assert not (other.w_hh == params.w_hh).any()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_init_honours_dtype(dtype):
    cell = jl.RNNCell(3)
    params = jax.eval_shape(lambda: cell.init(KEY, 2, dtype=dtype))
    assert {a.dtype.name for a in params} == {dtype}
    assert cell.init_carry(params, (4,)).h.dtype.name == dtype
