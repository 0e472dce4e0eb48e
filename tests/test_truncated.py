"""Truncated backpropagation: values of the whole sequence, and a gradient cut where it should be."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm as jl

KEY = jax.random.key(0)
T, B, I = 7, 3, 2  # noqa: E741
CELL = jl.RNNCell(3)
PARAMS = jax.tree.map(lambda leaf: leaf + 0.1, CELL.init(KEY, I, dtype=jnp.float64))
XS, WEIGHTS = jax.random.normal(KEY, (T, B, I)), jax.random.normal(jax.random.key(1), (T, B, 3))
CARRY = jl.RNNCarry(jnp.full((B, 3), 0.3))
LENGTHS = jnp.array([7, 4, 0])
MASK = jnp.asarray(np.random.default_rng(0).random((T, B)) < 0.8)
RESET = jnp.asarray(np.random.default_rng(1).random((T, B)) < 0.2)
OPTIONS = {"lengths": LENGTHS, "mask": MASK, "reset": RESET}
CELL_ON_ALL = partial(jl.Layer(CELL).apply, **OPTIONS)


def loss(run, params, carry, xs):
    carry, ys = run(params, xs, carry)
    return jnp.sum(ys * WEIGHTS) + jnp.sum(carry.h**2)


def gradients(run):
    return jax.jit(jax.grad(partial(loss, run), argnums=(0, 1, 2)))(PARAMS, CARRY, XS)


def by_definition(params, xs, carry, *, k1, k2):
    """Each block's outputs through a window of its own, in Python loops over blocks and steps."""
    valid = MASK & (jnp.arange(T)[:, None] < LENGTHS[None])
    ys = []
    for first in range(0, T, k1):
        begin = first + k1 - k2
        h = carry.h
        for t in range(min(first + k1, T)):
            if t == begin > 0:
                h = jax.lax.stop_gradient(h)
            h = jnp.where(RESET[t, :, None], 0, h)
            new = jnp.tanh(xs[t] @ params.w_ih + h @ params.w_hh + params.b[None])
            h = jnp.where(valid[t, :, None], new, h)
            if t >= first:
                ys.append(jnp.where(valid[t, :, None], new, 0))
    return jl.RNNCarry(h), jnp.stack(ys)


def assert_close(got, expected, atol=1e-12):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=atol), got, expected)


@pytest.mark.parametrize(("k1", "k2"), [(3, 3), (2, 4), (1, 3)])
def test_values_are_those_of_the_whole_sequence_and_gradients_those_of_the_windows(k1, k2):
    run = partial(jl.truncated, CELL, k1=k1, k2=k2, **OPTIONS)
    assert_close(jax.jit(run)(PARAMS, XS, CARRY), CELL_ON_ALL(PARAMS, XS, CARRY))
    assert_close(gradients(run), gradients(partial(by_definition, k1=k1, k2=k2)))


def test_with_k2_of_the_whole_sequence_it_is_backpropagation_through_time():
    whole = gradients(CELL_ON_ALL)
    assert_close(gradients(partial(jl.truncated, CELL, k1=2, k2=8, **OPTIONS)), whole)


def test_a_stack_draws_in_windows_what_it_draws_in_the_whole():
    network = jl.Stack(jl.LSTMCell(2), jl.GRUCell(3), dropout=0.4)
    params = network.init(KEY, I, dtype=jnp.float64)
    options = {"key": jax.random.key(5), "start": 7}
    xs = XS[:6]  # a multiple of k1, and no mask: nothing is selected
    run = partial(jl.truncated, network, k1=2, k2=4, **options)
    assert_close(*jax.jit(lambda *args: (run(*args), network.apply(*args, **options)))(params, xs))


def test_a_sequence_of_no_steps_gives_the_carry_back():
    carry, ys = jl.truncated(CELL, PARAMS, XS[:0], CARRY, k1=2, k2=4)
    assert_close(carry, CARRY)
    assert ys.shape == (0, B, 3)


def test_the_gradient_of_a_loss_reaches_no_further_than_k2():
    last = lambda xs: jnp.sum(jl.truncated(CELL, PARAMS, xs, k1=2, k2=4)[1][5])  # noqa: E731
    reached = jnp.abs(jax.jit(jax.grad(last))(XS)).sum((1, 2)) > 0
    assert reached.tolist() == [False] * 2 + [True] * 4 + [False]


def test_blocks_as_long_as_the_truncation_run_once():
    """As many matmuls in the program as the whole sequence has, in a loop inside another."""

    def dots(run):
        lowered = jax.jit(partial(run, project_first=True)).lower(PARAMS, XS, CARRY)
        return lowered.as_text().count("stablehlo.dot_general")

    assert dots(partial(jl.truncated, CELL, k1=5, k2=5)) == dots(jl.Layer(CELL).apply) == 2


def test_bfloat16_keeps_its_dtypes():
    cell = jl.LSTMCell(4)
    params = cell.init(KEY, I, dtype=jnp.bfloat16)
    for k1, k2 in ((2, 2), (2, 4)):
        carry, ys = jax.eval_shape(partial(jl.truncated, cell, k1=k1, k2=k2), params, XS.astype(jnp.bfloat16))
        assert ys.dtype == carry.h.dtype == jnp.bfloat16
        assert carry.c.dtype == jnp.float32


MISTAKES = {
    "k2 not a multiple": ({"k1": 4, "k2": 6}, "k2: expected a multiple of k1 = 4, got 6"),
    "no block": ({"k1": 0, "k2": 6}, "k1: expected a positive int, got 0"),
    "wrong reset": (
        {"k1": 2, "k2": 2, "reset": jnp.zeros((2, B), bool)},
        r"reset: expected shape \(7, 3\), got \(2, 3\)",
    ),
    "a text among the params": (
        {"k1": 2, "k2": 2, "params": PARAMS._replace(b="x")},
        r"params.b: expected an array, got 'x'",
    ),
    "a text as carry": ({"k1": 2, "k2": 2, "carry": "abc"}, r"carry: expected an array, got 'abc' \(str\)"),
    "wrong lengths": ({"k1": 2, "k2": 2, "lengths": jnp.zeros(2, int)}, r"lengths: expected shape \(3,\), got \(2,\)"),
}


@pytest.mark.parametrize(("options", "message"), MISTAKES.values(), ids=MISTAKES)
@pytest.mark.usefixtures("without_type_hook")
def test_what_does_not_fit_is_named(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        jl.truncated(CELL, options.pop("params", PARAMS), XS, **options)


@pytest.mark.parametrize("network", [jl.Bidirectional(jl.RNNCell(2)), jl.Layer(jl.RNNCell(2), reverse=True)])
def test_layers_that_run_backward_are_refused(network):
    stack = jl.Stack(jl.Stack(jl.RNNCell(2), network))
    with pytest.raises(ValueError, match=r"network: expected layers that run forward, got .*RNNCell"):
        jl.truncated(stack, stack.init(KEY, I), XS, k1=2, k2=2)


def test_a_class_is_no_network(without_type_hook):
    with pytest.raises(TypeError, match="network: expected a Network"):
        jl.truncated(jl.LSTMCell, PARAMS, XS, k1=2, k2=2)
