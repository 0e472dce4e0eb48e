"""A trace has unroll's numbers bit for bit, and its gates are those of the NumPy references."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from properties import LearnedStartCell, MinimalGatedCell

import jaxlstm as jl
from jaxlstm.cells import GRUGates
from jaxlstm.inspect import trace

STEPS, BATCH, SIZE, INPUTS = 5, (3,), 3, 2
EVERY = jl.LSTMVariantCell(SIZE, peephole=True, coupled=True, projection_size=2, layer_norm=True, clip=0.9)
CELLS = {
    "lstm": jl.LSTMCell(SIZE),
    "gru": jl.GRUCell(SIZE),
    "gru reset before": jl.GRUCell(SIZE, reset_after=False),
    "rnn": jl.RNNCell(SIZE),
    "variant": jl.LSTMVariantCell(SIZE, peephole=True),
    "wrapped": jl.RecurrentDropout(jl.Zoneout(EVERY, h=0.3, c=0.4), 0.4),
    "learned start": LearnedStartCell(SIZE),
}
OPTIONS = {
    "lengths": np.array([5, 3, 0]),
    "mask": np.random.default_rng(1).random((STEPS, *BATCH)) < 0.8,
    "reset": np.random.default_rng(2).random((STEPS, *BATCH)) < 0.3,
}


def problem(cell, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), INPUTS))
    carry = jax.eval_shape(lambda p: cell.init_carry(p, BATCH), params)
    xs = jax.ShapeDtypeStruct((STEPS, *BATCH, INPUTS), dtype)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), dtype), (params, xs, carry))


def assert_same(got, want):
    """The same trees, shapes, dtypes and bits."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def at(tree, t):
    return jax.tree.map(lambda leaf: leaf[t], tree)


@pytest.mark.parametrize(
    ("name", "options", "dtype"),
    [
        *((name, {**OPTIONS, "reverse": name == "gru"}, np.float64) for name in CELLS),
        ("lstm", {}, np.float32),
        ("gru", {"reset": OPTIONS["reset"]}, np.float32),
        ("lstm", {"lengths": OPTIONS["lengths"]}, jnp.bfloat16),
    ],
    ids=lambda value: (
        " ".join(value) if isinstance(value, dict) else value if isinstance(value, str) else value.__name__
    ),
)
def test_has_the_bits_of_unroll(name, options, dtype):
    cell = CELLS[name]
    args = problem(cell, dtype)
    last, ys = jax.jit(partial(jl.unroll, cell, **options))(*args)
    carry, seen = jax.jit(partial(trace, cell, **options))(*args)
    assert_same((carry, seen.ys), (last, ys))
    valid = references.steps_that_count(args[1], options.get("lengths"), options.get("mask"))
    assert_same(np.where(valid[..., None], seen.carry.h, 0).astype(dtype), ys)  # every cell here shows its h
    arrived = at(seen.carry, -1)
    if options.get("reverse"):
        arrived = jax.tree.map(lambda leaf: jnp.where(options["reset"][0][:, None], 0, leaf), at(seen.carry, 0))
    if name in ("lstm", "rnn", "variant"):
        assert_same(arrived, last)
    else:  # XLA rounds the h of a GRU with masks differently for the carry and for ys, within unroll
        references.assert_close(arrived, last, 1e-14 if dtype == np.float64 else 1e-6)


def test_carries_are_those_of_shorter_sequences():
    cell = CELLS["lstm"]
    params, xs, carry = problem(cell)
    _, seen = trace(cell, params, xs, carry, **OPTIONS)
    run = jax.jit(partial(jl.unroll, cell, mask=OPTIONS["mask"], reset=OPTIONS["reset"]))
    for t in range(STEPS):
        want, _ = run(params, xs, carry, lengths=np.minimum(OPTIONS["lengths"], t + 1))
        kept = OPTIONS["reset"][t + 1 :].any(0)[:, None]  # a reset in the padding resets, which is later than t
        got = at(seen.carry, t)
        jax.tree.map(lambda a, b, kept=kept: np.testing.assert_allclose(np.where(kept, b, a), b, rtol=1e-13), got, want)


REFERENCES = {
    "lstm": (references.lstm_step, lambda kept: jl.Gates(*kept[2:6])),
    "gru": (references.gru_after_step, lambda kept: GRUGates(*kept[2:5])),
    "gru reset before": (references.gru_before_step, lambda kept: GRUGates(*kept[2:5])),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_gates_and_carries_equal_the_references(name):
    cell, (step, gates_of) = CELLS[name], REFERENCES[name]
    params, xs, carry = problem(cell)
    _, seen = trace(cell, params, xs, carry, **OPTIONS)
    valid = references.steps_that_count(xs, OPTIONS["lengths"], OPTIONS["mask"])
    numpy_params = jax.tree.map(np.asarray, params)
    for n in range(*BATCH):
        now = jax.tree.map(lambda leaf, n=n: np.asarray(leaf[n]), carry)
        for t in range(STEPS):
            now = references.zeros_like(now) if OPTIONS["reset"][t, n] else now
            references.assert_close(at(seen.before, (t, n)), now)
            want = at(jax.tree.map(np.zeros_like, seen.gates), (t, n))
            if valid[t, n]:
                now, kept = step(numpy_params, now, np.asarray(xs[t, n]))
                want = gates_of(kept)
            references.assert_close(at(seen.gates, (t, n)), want)
            references.assert_close(at(seen.carry, (t, n)), now)


def test_gates_of_a_variant_make_its_cell_state():
    cell = EVERY
    _, seen = trace(cell, *problem(cell))
    i, f, g, o = seen.gates
    np.testing.assert_allclose(seen.carry.c, f * seen.before.c + i * g, rtol=1e-14)
    np.testing.assert_allclose(f, 1 - i, rtol=1e-14)
    assert o.shape == (STEPS, *BATCH, SIZE)


def test_a_wrapper_shows_the_gates_of_the_cell_inside():
    inside, cell = CELLS["lstm"], jl.Zoneout(CELLS["lstm"], c=0.5)
    params, xs, carry = problem(cell)
    _, seen = trace(cell, params, xs, carry)
    assert_same(at(seen.gates, 0), at(trace(inside, params, xs, carry)[1].gates, 0))
    i, f, g, _ = seen.gates
    np.testing.assert_allclose(seen.carry.c, (seen.before.c + f * seen.before.c + i * g) / 2, rtol=1e-13)


@pytest.mark.parametrize("cell", [CELLS["rnn"], MinimalGatedCell(SIZE), jl.Zoneout(CELLS["rnn"], h=0.1)], ids=str)
def test_a_cell_that_names_no_gates(cell):
    _, seen = trace(cell, *problem(cell))
    assert seen.gates is None
    assert_same(seen.carry.h, seen.ys)


def test_gates_of_16_bit_params_are_in_32():
    _, seen = trace(CELLS["lstm"], *problem(CELLS["lstm"], jnp.bfloat16))
    assert (seen.gates.f.dtype, seen.carry.h.dtype, seen.carry.c.dtype) == (jnp.float32, jnp.bfloat16, jnp.float32)


NETWORK = jl.Stack(
    jl.Bidirectional(jl.Zoneout(jl.LSTMCell(SIZE), h=0.3, c=0.4), jl.GRUCell(SIZE)),
    jl.RecurrentDropout(jl.GRUCell(SIZE), 0.4),
    dropout=0.5,
)
TRAINING = {**OPTIONS, "key": jax.random.key(3), "start": 7}


@pytest.mark.parametrize("options", [OPTIONS, TRAINING], ids=["evaluation", "training"])
def test_a_network_s_traces_are_of_the_run_of_its_layers(options):
    """Each layer's outputs and last carries are those of the network up to there, with the same draws."""
    params, xs, carry = problem(NETWORK)
    after, seen = trace(NETWORK, params, xs, carry, **options)
    last, ys = NETWORK.apply(params, xs, carry, **options)
    close = partial(jax.tree.map, partial(np.testing.assert_allclose, rtol=1e-13, atol=1e-13))
    close(after, last)
    (forward, backward), top = seen
    assert [type(one.carry) for one in (forward, backward, top)] == [jl.LSTMCarry, jl.RNNCarry, jl.RNNCarry]
    close(top.ys, ys)
    below = jl.Stack(NETWORK.layers[0], dropout=0.5)
    close(np.concatenate([forward.ys, backward.ys], -1), below.apply(params[:1], xs, carry[:1], **options)[1])
    close((at(forward.carry, -1), at(top.carry, -1)), (last[0].forward, last[1]))
    r, z, n = top.gates
    valid = references.steps_that_count(xs, OPTIONS["lengths"], OPTIONS["mask"])[..., None]
    close(top.carry.h, np.where(valid, (1 - z) * n + z * top.before.h, top.before.h))
    assert r.shape == n.shape


@pytest.mark.parametrize("name", ["rnn", "lstm", "wrapped"])
def test_a_trace_is_one_run(name):
    """One loop for the recurrence, however many arrays the carry has, and one to hold the carries at masked steps."""
    text = jax.jit(partial(trace, CELLS[name], **OPTIONS)).lower(*problem(CELLS[name])).as_text()
    assert text.count("stablehlo.while") == 2


def test_nan_in_the_padding_reaches_nothing():
    cell = CELLS["lstm"]
    params, xs, carry = problem(cell)
    valid = references.steps_that_count(xs, OPTIONS["lengths"], OPTIONS["mask"])
    padded = jnp.where(valid[..., None], xs, jnp.nan)
    assert_same(trace(cell, params, padded, carry, **OPTIONS), trace(cell, params, xs, carry, **OPTIONS))


def test_no_steps():
    cell = CELLS["gru"]
    params, xs, carry = problem(cell)
    last, seen = trace(cell, params, xs[:0], carry)
    assert_same(last, carry)
    assert seen.gates.z.shape == seen.before.h.shape == (0, *BATCH, SIZE)


def test_mistakes_have_the_messages_of_unroll(without_type_hook):
    cell = CELLS["lstm"]
    params, xs, _ = problem(cell)
    for args, message in (
        (
            (jl.LSTMCell, params, xs),
            r"network: expected a Network such as Stack\(LSTMCell\(128\)\), or a cell \(an ins",
        ),
        ((cell, params, xs[..., :1]), r"params.w_ih: expected shape \(1, 12\)"),
        ((cell, params, xs, jl.RNNCarry(h=np.zeros((3, 3)))), "carry: expected LSTMCarry, got RNNCarry"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            trace(*args)
    for network in cell, jl.Stack(cell):
        with pytest.raises(TypeError, match=r"key: expected a PRNG key \(jax.random.key\(seed\)\), got 0 \(int\)"):
            trace(network, params, xs, key=0)
    with pytest.raises(ValueError, match=r"lengths: expected shape \(3,\), got \(2,\)"):
        trace(cell, params, xs, lengths=np.array([1, 2]))
