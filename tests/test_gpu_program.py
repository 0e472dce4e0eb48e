"""The program for an NVIDIA H100, compiled without one: launches a step, CUDA graphs, temporary memory."""

from importlib.util import find_spec

import jax
import jax.numpy as jnp
import pytest

import jaxlstm as jl

if find_spec("jax_cuda13_plugin") is None:
    pytest.skip("needs the compiler for GPUs: pip install 'jaxlstm[gpu-program]'", allow_module_level=True)
gpu_program = pytest.importorskip("gpu_program", reason="needs the folder benchmarks").gpu_program

B, T, I, H = 32, 96, 64, 128  # noqa: E741
LSTM, GRU, RNN = jl.LSTMCell(H), jl.GRUCell(H), jl.RNNCell(H)
NETWORKS = {
    "lstm": jl.Layer(LSTM),
    "gru": jl.Layer(GRU),
    "rnn": jl.Layer(RNN),
    "bidirectional": jl.Bidirectional(LSTM),
    "stack": jl.Stack(LSTM, LSTM),
}


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


OPTIONS = {"lengths": shape(B, dtype=jnp.int32), "mask": shape(T, B, dtype=bool), "reset": shape(T, B, dtype=bool)}


def program(name, *options, dtype=jnp.float32, steps=T, compiler_options={}, **more):  # noqa: B006
    """Of a step of gradient descent."""
    network = NETWORKS[name]
    params = jax.eval_shape(lambda: network.init(jax.random.key(0), I, dtype=dtype))
    given = {option: OPTIONS[option] for option in options}

    def train(params, xs, given):
        loss = lambda params: jnp.mean(network.apply(params, xs, **given, **more)[1].astype(jnp.float32) ** 2)  # noqa: E731
        value, gradient = jax.value_and_grad(loss)(params)
        return value, jax.tree.map(lambda p, d: p - jnp.asarray(0.1, p.dtype) * d, params, gradient)

    return gpu_program(train, params, shape(steps, B, I, dtype=dtype), given, **compiler_options)


def launches_a_step(program, steps=T):
    """Of each loop, and no copy in it needs the number of the iteration."""
    assert all(loop.offset_copies == 0 for loop in program.loops)
    return [loop.launches * loop.trips / steps for loop in program.loops]


@pytest.mark.parametrize(
    ("name", "options", "dtype", "forward", "backward"),
    [
        ("lstm", (), jnp.float32, 2.63, 3.38),
        ("lstm", (), jnp.bfloat16, 2.63, 3.38),
        ("lstm", ("lengths", "mask", "reset"), jnp.float32, 2.75, 3.38),
        ("gru", (), jnp.float32, 2.5, 2.5),
        ("gru", (), jnp.bfloat16, 2.5, 2.5),
        ("gru", ("lengths", "mask", "reset"), jnp.float32, 2.63, 2.63),
        ("rnn", (), jnp.float32, 2.5, 2.38),
    ],
)
def test_launches_a_step(name, options, dtype, forward, backward):
    found = launches_a_step(program(name, *options, dtype=dtype))
    assert len(found) == 2
    assert found[0] <= forward
    assert found[1] <= backward


@pytest.mark.parametrize("name", ["bidirectional", "stack"])
def test_launches_of_two_layers_are_twice_those_of_one(name):
    found = launches_a_step(program(name))
    assert len(found) == 4
    assert max(found[:2]) <= 2.63
    assert max(found[2:]) <= 3.38


def test_steps_that_8_does_not_divide():
    found = launches_a_step(program("lstm", steps=100), 100)
    assert len(found) == 2
    assert max(found) < 4


def test_one_step_an_iteration_launches_more_than_twice_as_much():
    """What `unroll=None` is for, and that the copies are seen."""
    loops = program("lstm", unroll=1).loops
    assert [loop.launches for loop in loops] == [7, 6]
    assert loops[0].offset_copies == 3


@pytest.mark.parametrize("name", NETWORKS)
def test_a_whole_training_step_is_one_graph(name):
    assert program(name, compiler_options=jl.GPU_COMPILER_OPTIONS).one_graph
    assert not program(name).one_graph


def test_chunks_of_remat_take_several_steps_an_iteration_too():
    inner = [loop for loop in program("lstm", remat=24).loops if loop.trips == 3]  # 24 steps, 8 an iteration
    assert [loop.offset_copies for loop in inner] == [0, 0, 0]  # forward, forward again, backward
    assert max(loop.launches for loop in inner) <= 27


@pytest.mark.parametrize(("name", "limit"), [("lstm", 25.0), ("gru", 21.5), ("rnn", 9.2)])
def test_temporary_memory(name, limit):
    assert program(name).megabytes < limit
