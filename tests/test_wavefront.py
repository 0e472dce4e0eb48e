"""A stack as a wavefront: the numbers of a loop for each layer, and where it is not taken."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm as jl
from jaxlstm._wavefront import lowered_for

T, B, I, H = 11, 2, 5, 4  # noqa: E741
RNG = np.random.default_rng(0)
XS = RNG.normal(size=(T, B, I))
LENGTHS, MASK = np.array([11, 4]), RNG.random((T, B)) > 0.2


@dataclass(frozen=True)
class SumCell(jl.RNNCell):
    """A cell whose readout is a tree."""

    def readout(self, params, carry):
        return {"h": carry.h}


@dataclass(frozen=True)
class OddCell(jl.RNNCell):
    """A cell that reads its input weights in the recurrence."""

    def recur(self, params, carry):
        return carry.h @ params.w_hh + params.w_ih.sum()


CELLS = {
    "lstm": jl.LSTMCell(H),
    "gru": jl.GRUCell(H),
    "original gru": jl.GRUCell(H, reset_after=False),
    "variant": jl.LSTMVariantCell(H, peephole=True, projection_size=3),
    "learned": jl.LearnedCarry(jl.LSTMCell(H)),
    "min gru": jl.MinGRUCell(H),
    "ind rnn": jl.IndRNNCell(H, activation_fn=jnp.tanh),
    "slstm": jl.SLSTMCell(H, num_heads=H),
}


def stack_of(cell, layers=3):
    network = jl.Stack(*[cell] * layers)
    params = jax.eval_shape(lambda: network.init(jax.random.key(0), I, dtype=jnp.float64))
    return network, jax.tree.map(lambda leaf: jnp.asarray(RNG.normal(size=leaf.shape, scale=0.5)), params)


def loops(run, *arguments):
    """The number of loops in a function's program."""
    return str(jax.make_jaxpr(run)(*arguments)).count(" scan[")


def both_ways(run, *arguments):
    """What a function gives with a loop for each layer, and as on a GPU."""
    one = jax.jit(run)(*arguments)
    with lowered_for("cuda"):
        return one, jax.jit(lambda *arguments: run(*arguments))(*arguments)


def assert_close(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


SLOW = ("gru", "original gru", "variant", "learned", "min gru", "ind rnn", "slstm")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CELLS])
def test_the_numbers_of_a_loop_for_each_layer(name):
    network, params = stack_of(CELLS[name])
    carry = jax.tree.map(lambda leaf: leaf + 0.3, network.init_carry(params, (B,)))

    def run(params, xs, carry):
        after, ys = network.apply(params, xs, carry, lengths=LENGTHS, mask=MASK, evaluator="loop")
        return jnp.sum(jnp.sin(ys)) + sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(after)), (after, ys)

    gradient = jax.grad(run, argnums=(0, 1, 2), has_aux=True)
    one, wave = both_ways(gradient, params, XS, carry)
    assert_close(wave, one)
    with lowered_for("cuda"):
        assert loops(lambda params: network.apply(params, XS, evaluator="loop"), params) == 2  # the CPU's, the others'
    assert loops(lambda params: network.apply(params, XS, evaluator="loop"), params) > 2


@pytest.mark.parametrize(
    "options",
    [{"remat": 4}, pytest.param({"remat": True, "unroll": 3, "project_first": False}, marks=pytest.mark.slow)],
)
def test_every_option(options):
    network, params = stack_of(CELLS["lstm"])
    one, wave = both_ways(jax.grad(lambda params: jnp.sum(network.apply(params, XS, **options)[1] ** 2)), params)
    assert_close(wave, one)


@pytest.mark.parametrize("shape", [(0, B, I), (1, I), (T, 2, 3, I)])
def test_other_shapes(shape):
    network, params = stack_of(CELLS["gru"], layers=4)
    one, wave = both_ways(network.apply, params, np.ones(shape))
    assert_close(wave, one)


@pytest.mark.slow
def test_every_order_and_mode_of_derivative():
    network, params = stack_of(CELLS["gru"])

    def loss(params, xs=XS):
        return jnp.sum(jnp.sin(network.apply(params, xs)[1]))

    direction = jax.tree.map(lambda leaf: jnp.cos(leaf), params)
    modes = {
        "jvp": lambda params: jax.jvp(loss, (params,), (direction,)),
        "jvp of grad": lambda params: jax.jvp(jax.grad(loss), (params,), (direction,)),
        "grad of jvp": jax.grad(lambda params: jax.jvp(loss, (params,), (direction,))[1]),
        "vmap": lambda params: jax.vmap(jax.grad(loss), in_axes=(None, 0))(params, np.stack([XS, -XS])),
    }
    for run in modes.values():
        one, wave = both_ways(run, params)
        assert_close(wave, one)


def test_padding_reaches_nothing():
    network, params = stack_of(CELLS["lstm"])
    bad = np.where(np.arange(T)[:, None, None] < LENGTHS[:, None], XS, np.nan)
    carry = jax.tree.map(lambda leaf: leaf.at[1].set(jnp.nan), network.init_carry(params, (B,)))

    def loss(params, xs, carry, lengths):
        return jnp.sum(network.apply(params, xs, carry, lengths=lengths)[1])

    with lowered_for("cuda"):
        gradient = jax.jit(jax.grad(loss))(params, bad, None, LENGTHS)
        held = jax.jit(jax.grad(loss))(params, XS, carry, jnp.array([T, 0]))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((gradient, held)))


@pytest.mark.parametrize(
    ("network", "options"),
    {
        "cells that differ": (jl.Stack(jl.LSTMCell(H), jl.LSTMCell(H), jl.GRUCell(H)), {}),
        "widths that differ": (jl.Stack(jl.LSTMCell(H), jl.LSTMCell(H), jl.LSTMCell(3)), {}),
        "a backward layer": (jl.Stack(jl.GRUCell(H), jl.Layer(jl.GRUCell(H), reverse=True), jl.GRUCell(H)), {}),
        "both directions": (jl.Stack(*[jl.Bidirectional(jl.GRUCell(H))] * 3), {}),
        "a reset": (jl.Stack(*[jl.GRUCell(H)] * 3), {"reset": ~MASK}),
        "dropout": (jl.Stack(*[jl.GRUCell(H)] * 3, dropout=0.5), {"key": jax.random.key(0)}),
        "draws": (jl.Stack(*[jl.Zoneout(jl.GRUCell(H), h=0.5)] * 3), {"key": jax.random.key(0)}),
        "a tree as the output": (jl.Stack(jl.RNNCell(H), jl.RNNCell(H), SumCell(H)), {}),
        "a recurrence that reads the input weights": (jl.Stack(*[OddCell(H)] * 3), {}),
    }.values(),
    ids=lambda value: None,
)
def test_where_each_layer_has_its_loop(network, options):
    params = network.init(jax.random.key(0), I, dtype=jnp.float64)

    def run(params):
        return network.apply(params, XS, **options)

    with lowered_for("cuda"):
        on_gpu = loops(run, params)
    assert on_gpu == loops(run, params) > 2


def explained(size):
    network = jl.Stack(*[jl.LSTMCell(size)] * 4)
    params = jax.eval_shape(lambda: network.init(jax.random.key(0), 64))
    return jl.explain(network, params, jax.ShapeDtypeStruct((96, 32, 64), jnp.float32), platform="cuda")


def test_explain_tells_of_it_and_large_weights_keep_their_loops():
    told = explained(128)
    assert told.startswith("4 layers of LSTMCell(hidden_size=128) as a wavefront, forward, on cuda")
    assert "those of the layers above in each step" in told
    assert explained(1024).count("LSTMCell(hidden_size=1024), forward, on cuda") == 4


def test_bad_input():
    network, params = stack_of(CELLS["lstm"])
    wrong = network.init_carry(params, (B + 1,))
    with lowered_for("cuda"):
        with pytest.raises(
            ValueError, match=r"carry.h: expected shape \(2, 4\) for xs of shape \(11, 2, 5\), got \(3, 4\)"
        ):
            network.apply(params, XS, wrong)
        with pytest.raises(ValueError, match=r"lengths: expected shape \(2,\), got \(3,\)"):
            network.apply(params, XS, lengths=np.ones(3, int))
        with pytest.raises((ValueError, TypeError), match="params"):
            network.apply((params[0], params[1], params[0]), XS)


def test_what_does_not_fit_is_the_layer_s_own_mistake():
    """The messages are those of the CPU, where each layer has a loop."""
    network, params = stack_of(CELLS["lstm"])
    carry = network.init_carry(params, (B,))
    mistakes = {
        "params: expected LSTMParams, got tuple": ((params[0], tuple(params[1]), params[2]), carry),
        "params.b: expected an array, got": ((params[0], params[1]._replace(b="b"), params[2]), None),
        r"carry.c: expected shape \(2, 4\)": (params, (carry[0], carry[1]._replace(c=np.zeros((3, H))), carry[2])),
    }
    for message, (given, start) in mistakes.items():
        for platform in "cpu", "cuda":
            with lowered_for(platform), pytest.raises((TypeError, ValueError), match=message) as caught:
                network.apply(given, XS, start)
            assert "In layer 1 of 0 to 2" in caught.value.__notes__[-1]


def test_a_layer_may_start_from_its_own_carry():
    network, params = stack_of(CELLS["lstm"])
    carry = network.init_carry(params, (B,))
    one, other = both_ways(lambda params: network.apply(params, XS, (None, carry[1], None)), params)
    assert_close(other, one)


def test_newton_s_method_solves_each_layer():
    network, params = stack_of(CELLS["gru"])
    with lowered_for("cuda"):
        told = jl.explain(network, params, XS, evaluator="newton", platform="cuda")
    assert told.count("no loop: all steps at once, by Newton's method") == 3
