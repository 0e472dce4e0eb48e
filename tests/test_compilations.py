"""Outside jit, the second of two equal calls compiles nothing, gradients included, and memory stays level."""

import resource
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations
from flax import linen as flax_linen
from flax import nnx as flax_nnx

import jaxlstm as jl
import jaxlstm.inspect
import jaxlstm.linen
import jaxlstm.nnx

T, B, I, H = 6, 3, 2, 4  # noqa: E741
KEY = jax.random.key(0)
XS = jnp.ones((T, B, I))
OPTIONS = {"lengths": np.array([6, 3, 0]), "mask": np.ones((T, B), bool), "reset": np.zeros((T, B), bool)}
CELL = jl.LSTMCell(H)
PARAMS = CELL.init(KEY, I, dtype=jnp.float64)
CARRY = CELL.init_carry(PARAMS, (B,))
STACK = jl.Stack(jl.Zoneout(CELL, h=0.1), jl.RecurrentDropout(jl.GRUCell(H), 0.1), dropout=0.1)
STACK_PARAMS = STACK.init(KEY, I, dtype=jnp.float64)
BOTH = jl.Bidirectional(CELL, jl.RNNCell(H))
BOTH_PARAMS = BOTH.init(KEY, I, dtype=jnp.float64)
GATES = jl.lstm_gates(jnp.ones((B, 4 * H)))
FORGET = jnp.full((T, B, H), 0.5)


def gradient(run):
    """The gradient of everything that `run` returns, in its first argument, as a notebook would take it."""

    def total(*args):
        return sum(leaf.sum().real for leaf in jax.tree.leaves(run(*args)))

    return jax.grad(total)


def loss(carry, ys):
    return ys[-1].sum()


FORWARD = {
    "unroll": (lambda p: jl.unroll(CELL, p, XS, CARRY, **OPTIONS, key=KEY), PARAMS),
    "unroll reverse remat": (lambda p: jl.unroll(CELL, p, XS, **OPTIONS, reverse=True, remat="sqrt"), PARAMS),
    "Cell.step": (lambda p: CELL.step(p, CARRY, XS[0], reset=OPTIONS["reset"][0], key=KEY, start=3), PARAMS),
    "Stack.apply": (lambda p: STACK.apply(p, XS, **OPTIONS, key=KEY), STACK_PARAMS),
    "Stack.apply, rbg": (lambda p: STACK.apply(p, XS, key=jax.random.key(0, impl="rbg")), STACK_PARAMS),
    "Stack.step": (lambda p: STACK.step(p, STACK.init_carry(p, (B,)), XS[0], key=KEY, start=2), STACK_PARAMS),
    "Bidirectional": (lambda p: BOTH.apply(p, XS, **OPTIONS), BOTH_PARAMS),
    "truncated": (lambda p: jl.truncated(STACK, p, XS, k1=2, k2=4, **OPTIONS, key=KEY), STACK_PARAMS),
    "truncated k1=k2": (lambda p: jl.truncated(CELL, p, XS, k1=2, k2=2), PARAMS),
    "last_output": (jl.last_output, jl.BidirectionalCarry(CARRY, CARRY)),
    "lstm_gates": (jl.lstm_gates, jnp.ones((B, 4 * H))),
    "min_activation": (jl.min_activation, CARRY.c),
    "lstm_transition": (lambda c: jl.lstm_transition(GATES, c), CARRY.c),
}
EVALUATED = {"associative": jl.MinGRUCell(H), "chunkwise": jl.MLSTMCell(H), "newton": jl.RNNCell(H)}
for _name, _cell in EVALUATED.items():
    FORWARD[f"unroll {_name}"] = (
        lambda p, cell=_cell, name=_name: jl.unroll(cell, p, XS, **OPTIONS, evaluator=name),
        _cell.init(KEY, I, dtype=jnp.float64),
    )
CELLS = (
    *(jl.GRUCell(H), jl.GRUCell(H, reset_after=False), jl.RNNCell(H), jl.MGUCell(H), jl.LearnedCarry(CELL)),
    jl.LSTMVariantCell(H, peephole=True, layer_norm=True, projection_size=2),
    *(jl.MinGRUCell(H), jl.MinLSTMCell(H), jl.IndRNNCell(H), jl.SLSTMCell(H), jl.MLSTMCell(H), jl.LRUCell(H)),
    jl.ConvLSTMCell(H, spatial_shape=(B,)),
)
for _cell in CELLS:
    FORWARD[repr(_cell)] = (lambda p, cell=_cell: jl.unroll(cell, p, XS), _cell.init(KEY, I, dtype=jnp.float64))
COSTLY = {"unroll chunkwise", "unroll newton"} | {
    repr(cell) for cell in CELLS if not isinstance(cell, jl.LSTMVariantCell | jl.MLSTMCell)
}
QUICK = FORWARD.keys() - COSTLY
OTHERS = {
    "init": lambda: [net.init(KEY, I) for net in (CELL, STACK, BOTH, jl.LearnedCarry(CELL), jl.LSTMVariantCell(H))],
    "init_carry": lambda: [CELL.init_carry(PARAMS, (B,)), STACK.init_carry(STACK_PARAMS), BOTH.init_carry(BOTH_PARAMS)],
    "initialisers": lambda: (
        jl.chrono(9)(KEY, (4, H), jnp.float32),
        jl.orthogonal(KEY, (H, H), jnp.float32),
        jl.torch_uniform(KEY, (H, H), jnp.float32),
    ),
    "explain": lambda: jl.explain(CELL, PARAMS, XS),
    "pad": lambda: jl.pad([np.ones((2, I)), np.ones((5, I))]),
    "trace": lambda: jl.inspect.trace(STACK, STACK_PARAMS, XS, **OPTIONS, key=KEY),
    "gradient_flow": lambda: jl.inspect.gradient_flow(CELL, PARAMS, XS, loss=loss, **OPTIONS),
    "input_contributions": lambda: jl.inspect.input_contributions(CELL, PARAMS, XS, output=lambda y: y[..., 0]),
    "input_jacobian_norms": lambda: jl.inspect.input_jacobian_norms(CELL, PARAMS, XS, lengths=OPTIONS["lengths"]),
    "step_jacobians": lambda: jl.inspect.step_jacobians(CELL, PARAMS, XS, **OPTIONS),
    "singular values": lambda: jl.inspect.largest_singular_values(jnp.ones((T, H, H))),
    "lyapunov_exponents": lambda: jl.inspect.lyapunov_exponents(CELL, PARAMS, XS),
    "newton_report": lambda: jl.inspect.newton_report(jl.RNNCell(H), BOTH_PARAMS[1], XS, **OPTIONS),
    "newton_converges": lambda: jl.inspect.newton_converges(-jnp.ones((B, H))),
    "fixed_points": lambda: jl.inspect.fixed_points(CELL, PARAMS, XS[0, 0], CARRY, steps=3, tolerance=9.0),
    "saturation": lambda: jl.inspect.saturation(FORGET, lengths=OPTIONS["lengths"]),
    "half_life": lambda: jl.inspect.half_life(FORGET),
    "retention": lambda: jl.inspect.retention(FORGET, 3, reset=OPTIONS["reset"]),
}


def assert_compiles_once(call):
    call()
    with compilations() as seen:
        jax.block_until_ready(call())
    assert not seen


def test_compilations_are_counted():
    with compilations() as seen:
        jax.jit(lambda x: x * 3 + len(seen))(jnp.ones(7)).block_until_ready()
    assert seen


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in FORWARD]
)
def test_forward_and_gradient(name):
    run, first = FORWARD[name]
    assert_compiles_once(lambda: run(first))
    assert_compiles_once(lambda: gradient(run)(first))


@pytest.mark.parametrize("name", OTHERS)
def test_other_functions(name):
    assert_compiles_once(OTHERS[name])


def test_every_exported_function_is_here():
    tested = {
        "orthogonal",
        "torch_uniform",
        "chrono",
        *(name.split(".")[0].split(" ")[0] for name in [*FORWARD, *OTHERS]),
    }
    tested |= {"largest_singular_values"}
    functions = {name for module in (jl, jl.inspect) for name in module.__all__ if callable(vars(module)[name])}
    classes = {name for module in (jl, jl.inspect) for name in module.__all__ if isinstance(vars(module)[name], type)}
    assert {name for name in functions - classes if not name.startswith("draw_")} <= tested


def test_every_cell_is_here():
    cells = {cell for cell in vars(jl).values() if isinstance(cell, type) and issubclass(cell, jl.Cell)}
    wrapped = {jl.Zoneout, jl.RecurrentDropout}  # in STACK
    assert cells - {jl.Cell, jl.CellWrapper, jl.LinearCell} == {jl.LSTMCell, *map(type, CELLS)} | wrapped


INPUTS = jnp.ones((B, T, I), jnp.float32)
LINEN = {
    "LSTM": jaxlstm.linen.LSTM(H, num_layers=2, bidirectional=True),
    "RNN": jaxlstm.linen.RNN(flax_linen.GRUCell(H)),
}


@pytest.mark.parametrize("name", LINEN)
def test_linen(name):
    module = LINEN[name]
    variables = module.init(KEY, INPUTS)
    call = partial(module.apply, inputs=INPUTS, seq_lengths=OPTIONS["lengths"])
    assert_compiles_once(lambda: call(variables))
    assert_compiles_once(lambda: gradient(call)(variables))


NNX = {
    "LSTM": lambda rngs: jaxlstm.nnx.LSTM(I, H, num_layers=2, bidirectional=True, rngs=rngs),
    "RNN": lambda rngs: jaxlstm.nnx.RNN(jaxlstm.nnx.OptimizedLSTMCell(I, H, rngs=rngs)),
}


@pytest.mark.parametrize("name", NNX)
def test_nnx(name):
    model = NNX[name](flax_nnx.Rngs(0))
    lengths = OPTIONS["lengths"]

    def total(model):
        return sum(map(jnp.sum, jax.tree.leaves(model(INPUTS, seq_lengths=lengths))))

    assert_compiles_once(lambda: model(INPUTS, seq_lengths=lengths))
    assert_compiles_once(lambda: flax_nnx.grad(total)(model))


def test_steps_of_nnx():
    policy = jaxlstm.nnx.Recurrent(jl.GRUCell(H), I, rngs=flax_nnx.Rngs(0))
    assert_compiles_once(lambda: policy.step(policy.init_carry((B,)), INPUTS[:, 0], reset=OPTIONS["lengths"] > 0))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unroll", "Stack.apply", "truncated"])
def test_memory_is_level(name):
    run, first = FORWARD[name]
    call = gradient(run)
    for _ in range(20):
        call(first)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(200):
        call(first)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000  # KiB; leaking programs take 1800 each
