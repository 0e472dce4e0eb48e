"""The program for an NVIDIA H100, compiled without one: launches a step, temporary memory."""

from importlib.util import find_spec

import jax.numpy as jnp
import pytest

import jaxlstm as jl
from jaxlstm._wavefront import lowered_for

if find_spec("jax_cuda13_plugin") is None:
    pytest.skip("needs the compiler for GPUs: pip install 'jaxlstm[gpu-program]'", allow_module_level=True)
benchmark = pytest.importorskip("gpu_program", reason="needs the folder benchmarks")

B, T, I, H = 32, 96, 64, 128  # noqa: E741
LSTM, GRU, RNN = jl.LSTMCell(H), jl.GRUCell(H), jl.RNNCell(H)
NETWORKS = {
    "lstm": jl.Layer(LSTM),
    "gru": jl.Layer(GRU),
    "rnn": jl.Layer(RNN),
    "bidirectional": jl.Bidirectional(LSTM),
    "stack": jl.Stack(LSTM, LSTM),
    "layer norm": jl.Layer(jl.LSTMVariantCell(H, layer_norm=True)),
}


def program(name, *, dtype=jnp.float32, steps=T, masked=False, compiler_options=None, **options):
    """Of a step of gradient descent."""
    step, shapes = benchmark.training_step(NETWORKS[name], (B, steps, I), dtype, masked, **options)
    return benchmark.gpu_program(step, *shapes, **(compiler_options or {}))


def launches_a_step(program, steps=T):
    """Of each loop, and no copy in it needs the number of the iteration."""
    assert all(loop.offset_copies == 0 for loop in program.loops)
    return [loop.launches * loop.trips / steps for loop in program.loops]


@pytest.mark.parametrize(
    ("name", "masked", "dtype", "forward", "backward"),
    [
        ("lstm", False, jnp.float32, 2.25, 3.25),
        ("lstm", False, jnp.bfloat16, 2.25, 3.25),
        ("lstm", True, jnp.float32, 2.75, 3.38),
        ("gru", False, jnp.float32, 2.38, 2.57),
        ("gru", False, jnp.bfloat16, 2.38, 2.57),
        ("gru", True, jnp.float32, 2.63, 2.75),
        ("rnn", False, jnp.float32, 2.38, 2.38),
    ],
)
def test_launches_a_step(name, masked, dtype, forward, backward):
    found = launches_a_step(program(name, masked=masked, dtype=dtype))
    assert len(found) == 2
    assert found[0] <= forward
    assert found[1] <= backward


@pytest.mark.parametrize(("masked", "dtype"), [(False, jnp.float32), (True, jnp.bfloat16)])
def test_both_directions_launch_as_much_as_one(masked, dtype):
    found = launches_a_step(program("bidirectional", masked=masked, dtype=dtype))
    assert len(found) == 2
    assert found[0] <= 2.75
    assert found[1] <= 3.38


def test_both_directions_run_in_chunks_in_one_loop_too():
    loops = program("bidirectional", remat=24, unroll=8).loops
    assert [loop.trips for loop in loops] == [4, 3, 4, 3, 3]  # chunks forward; chunks backward, each run again


def test_two_layers_with_a_loop_each_launch_twice_as_much_as_one():
    found = launches_a_step(program("stack"))
    assert len(found) == 4
    assert max(found[:2]) <= 2.63
    assert max(found[2:]) <= 3.38


@pytest.mark.parametrize(("cell", "megabytes"), [(LSTM, 112), (GRU, 92)])
def test_four_layers_launch_half_as_much_in_a_wavefront(cell, megabytes):
    step, shapes = benchmark.training_step(jl.Stack(*[cell] * 4), (B, T, I), jnp.float32, False)
    with lowered_for("cuda"):
        wave = benchmark.gpu_program(step, *shapes)
    assert [loop.trips for loop in wave.loops] == [9, 9]  # 96 + 3 steps, 11 an iteration
    assert sum(launches_a_step(wave)) <= 10  # 23.5 with a loop for each layer of LSTM, 19.5 of GRU
    assert wave.megabytes < megabytes


def test_steps_that_8_does_not_divide():
    found = launches_a_step(program("lstm", steps=100), 100)
    assert len(found) == 2
    assert max(found) < 4


def test_one_step_an_iteration_launches_more_than_twice_as_much():
    """What `unroll=None` is for, and that the copies are seen."""
    loops = program("lstm", unroll=1).loops
    assert [loop.launches for loop in loops] == [6, 6]
    assert loops[0].offset_copies == 2


def test_layer_norm_s_sums_have_kernels_of_their_own():
    """Fused into each other they take minutes to compile."""
    assert program("layer norm", unroll=2).sums <= 2


def test_chunks_of_remat_take_several_steps_an_iteration_too():
    inner = [loop for loop in program("lstm", remat=24).loops if loop.trips == 2]  # 24 steps, 12 an iteration
    assert [loop.offset_copies for loop in inner] == [0, 0, 0]  # forward, forward again, backward
    assert max(loop.launches for loop in inner) <= 40


@pytest.mark.parametrize(("name", "limit"), [("lstm", 23.8), ("gru", 20.0), ("rnn", 8.5), ("bidirectional", 47.1)])
def test_temporary_memory(name, limit):
    assert program(name).megabytes < limit
