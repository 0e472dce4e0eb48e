"""GRUCell, both reset forms, against float64 loops: values, gradients, initial params."""

import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from jaxtyping import jaxtyped
from references import assert_close

import jaxlstm as jl

REFERENCES = {True: references.GRU_AFTER, False: references.GRU_BEFORE}  # reset_after
SHAPES = [(1, (), 1, 1), (5, (2,), 3, 5), (4, (2, 3), 1, 3), (0, (3,), 2, 3)]  # T, batch, I, H
OPTIONS = ["reverse", "lengths mask reset", "reverse lengths mask reset"]
KEY = jax.random.key(0)

both_forms = pytest.mark.parametrize("reset_after", [True, False], ids=["reset_after", "reset_before"])


def problem(reset_after, steps, batch, input_size, hidden_size):
    """Params with biases that are not zero, inputs, an initial carry, and cotangents of the final carry and of ys."""
    draw = np.random.default_rng(0).normal
    params = jl.GRUParams(
        w_ih=draw(size=(input_size, 3 * hidden_size)),
        w_hh=draw(size=(hidden_size, 3 * hidden_size)),
        b=draw(size=3 * hidden_size),
        b_hn=draw(size=hidden_size) if reset_after else None,
    )
    carry, dcarry = (jl.RNNCarry(h=draw(size=(*batch, hidden_size))) for _ in "01")
    return params, draw(size=(steps, *batch, input_size)), carry, dcarry, draw(size=(steps, *batch, hidden_size))


def assert_equals_loop(reset_after, shape, options):
    """Values and gradients of `jl.unroll` are those of the reference."""
    reference = REFERENCES[reset_after]
    params, xs, carry, dcarry, dys = problem(reset_after, *shape)
    cell = jl.GRUCell(shape[-1], reset_after=reset_after)
    got, pull_back = jax.vjp(lambda p, x, c: jl.unroll(cell, p, x, c, **options), params, xs, carry)
    assert_close(got, references.forward(reference, params, xs, carry, **options))
    want = references.backward(reference, params, xs, carry, dcarry, dys, **options)
    assert_close(pull_back((dcarry, dys)), want)


@both_forms
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_loop(reset_after, shape):
    assert_equals_loop(reset_after, shape, {})


@both_forms
@pytest.mark.parametrize("names", OPTIONS)
def test_equals_loop_with_options(reset_after, names):
    assert_equals_loop(reset_after, (5, (4,), 3, 2), references.random_options(names, 5, (4,)))


@both_forms
@pytest.mark.parametrize("names", ["", *OPTIONS])
def test_gradient_of_loop_equals_finite_differences(reset_after, names):
    arguments = problem(reset_after, 4, (3,), 2, 2)
    options = references.random_options(names, 4, (3,))
    got = references.backward(REFERENCES[reset_after], *arguments, **options)
    want = references.numerical_backward(REFERENCES[reset_after], *arguments, **options)
    assert_close(got, want, tolerance=1e-7)


@both_forms
@pytest.mark.parametrize("batch", [(), (2, 3)], ids=str)
def test_step_equals_loop(reset_after, batch):
    params, xs, carry, _, _ = problem(reset_after, 1, batch, 3, 5)
    after, y = jl.GRUCell(5, reset_after=reset_after).step(params, carry, xs[0])
    want, ys = references.forward(REFERENCES[reset_after], params, xs, carry)
    assert_close((after, y), (want, ys[0]))


@both_forms
def test_bfloat16(reset_after):
    params, xs, carry, _, _ = problem(reset_after, 5, (2,), 3, 5)
    params, xs, carry = jax.tree.map(lambda a: jnp.asarray(a / 2, jnp.bfloat16), (params, xs, carry))
    after, ys = jl.unroll(jl.GRUCell(5, reset_after=reset_after), params, xs, carry)
    assert (after.h.dtype, ys.dtype) == (jnp.bfloat16, jnp.bfloat16)
    wide = jax.tree.map(lambda a: np.asarray(a, np.float64), (params, xs, carry))
    got = jax.tree.map(lambda a: a.astype(jnp.float64), (after, ys))
    assert_close(got, references.forward(REFERENCES[reset_after], *wide), tolerance=0.03)  # 8 bits of mantissa, 5 steps


@both_forms
def test_other_activations(reset_after):
    params, xs, carry, _, _ = problem(reset_after, 1, (2,), 3, 5)
    cell = jl.GRUCell(5, reset_after=reset_after, gate_fn=jax.nn.hard_sigmoid, activation_fn=jax.nn.soft_sign)
    hard_sigmoid, soft_sign = lambda z: np.clip(z / 6 + 0.5, 0, 1), lambda z: z / (1 + abs(z))
    zx, (w_hr, w_hz, w_hn) = xs[0] @ params.w_ih + params.b, np.split(params.w_hh, 3, axis=1)
    r, z = hard_sigmoid(zx[:, :5] + carry.h @ w_hr), hard_sigmoid(zx[:, 5:10] + carry.h @ w_hz)
    n = soft_sign(zx[:, 10:] + (r * (carry.h @ w_hn + params.b_hn) if reset_after else (r * carry.h) @ w_hn))
    h = (1 - z) * n + z * carry.h
    assert_close(cell.step(params, carry, xs[0]), (jl.RNNCarry(h=h), h))


def test_both_forms_are_one_function_of_a_single_unit_without_b_hn():
    params, xs, carry, _, _ = problem(False, 5, (2,), 3, 1)
    before = jax.tree.map(np.asarray, jl.unroll(jl.GRUCell(1, reset_after=False), params, xs, carry))
    assert_close(jl.unroll(jl.GRUCell(1), params._replace(b_hn=np.zeros(1)), xs, carry), before)


def test_both_forms_differ_for_more_units():
    params, xs, carry, _, _ = problem(False, 5, (2,), 3, 2)
    _, before = jl.unroll(jl.GRUCell(2, reset_after=False), params, xs, carry)
    _, after = jl.unroll(jl.GRUCell(2), params._replace(b_hn=np.zeros(2)), xs, carry)
    assert abs(before - after).max() > 0.01


@both_forms
def test_params_fit_their_annotations(reset_after):
    params = jl.GRUCell(9, reset_after=reset_after).init(KEY, 20)
    assert [a.shape for a in params[:3]] == [(20, 27), (9, 27), (27,)]
    with jaxtyped("context"):
        for name, axes in typing.get_type_hints(jl.GRUParams).items():
            assert isinstance(getattr(params, name), axes), name


def test_biases_start_at_zero():
    params = jl.GRUCell(9).init(KEY, 20)
    assert params.b.tolist() == [0.0] * 27
    assert params.b_hn.tolist() == [0.0] * 9


def test_reset_before_has_no_b_hn():
    assert jl.GRUCell(9, reset_after=False).init(KEY, 20).b_hn is None


@both_forms
def test_initial_recurrent_weights_are_orthogonal_per_gate(reset_after):
    params = jl.GRUCell(9, reset_after=reset_after).init(KEY, 20)
    for gate in np.split(np.asarray(params.w_hh), 3, axis=1):
        assert_close(gate @ gate.T, np.eye(9), tolerance=1e-6)


def test_initial_input_weights_have_the_glorot_bound_of_one_gate():
    params = jl.GRUCell(9).init(KEY, 20)
    bound = (6 / (20 + 9)) ** 0.5
    for gate in np.split(np.asarray(params.w_ih), 3, axis=1):
        assert 0.9 * bound < abs(gate).max() <= bound


def test_chrono_biases():
    r, z, n = np.split(np.asarray(jl.GRUCell(200, b_init=jl.chrono(100)).init(KEY, 1).b), 3)
    assert not r.any()
    assert not n.any()
    assert 0 <= z.min() < np.log(1 + 5) < np.log(99 - 5) < z.max() <= np.log(99)
    np.testing.assert_allclose(np.exp(z).mean(), 50, atol=6)  # u is uniform, not log u


def test_torch_uniform_bounds():
    initialisers = dict.fromkeys(("w_ih_init", "w_hh_init", "b_init"), jl.torch_uniform)
    for a in jl.GRUCell(25, **initialisers).init(KEY, 7)[:3]:
        assert 0.9 / 5 < abs(a).max() <= 1 / 5
        assert abs(a.mean()) < 0.05


def test_init_is_a_function_of_the_key():
    cell = jl.GRUCell(9)
    params = jax.tree.map(np.asarray, cell.init(KEY, 20))
    assert_close(cell.init(KEY, 20), params, tolerance=0)
    other = cell.init(jax.random.key(1), 20)
    assert not (other.w_ih == params.w_ih).any()
    assert not (other.w_hh == params.w_hh).any()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
@pytest.mark.parametrize("options", [{}, {"b_init": jl.chrono(9.0), "w_ih_init": jl.torch_uniform}], ids=["", "other"])
def test_init_honours_dtype(dtype, options):
    cell = jl.GRUCell(3, **options)
    params = jax.eval_shape(lambda: cell.init(KEY, 2, dtype=dtype))
    assert {a.dtype.name for a in params} == {dtype}
    assert cell.init_carry(params, (4,)).h.dtype.name == dtype
