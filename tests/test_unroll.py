"""What `unroll` promises, for every cell of the library and for one that a user writes."""

import itertools
from dataclasses import dataclass
from functools import partial

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from properties import (
    ALL,
    CELLS,
    SHAPES,
    USUAL,
    Case,
    MinimalGatedCell,
    Shape,
    assert_close,
    carry_of,
    case_of,
    example,
    loop,
    params_of,
    sequences,
    valid_of,
    weighed,
    where,
    with_gradients,
)

import jaxlstm as jl

# The compiler takes most of the time, so the cells that have nothing of their own here are among the slow tests.
QUICK = ("lstm", "gru", "user", "learned_start")


def of_cells(names):
    return pytest.mark.parametrize(
        "cell", [pytest.param(CELLS[name], id=name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in names]
    )


every_cell = of_cells(CELLS)
# The cell with a learned start is there for the resets: elsewhere it is the user's.
cells = of_cells(list(CELLS)[:-1])
two_cells = pytest.mark.parametrize("cell", [CELLS["lstm"], CELLS["user"]], ids=["lstm", "user"])
both_ways = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])


def run(case, **changes):
    arguments = {**case.options, **changes}
    return jl.unroll(case.cell, case.params, case.xs, case.carry, **arguments)


@cells
@both_ways
@given(drawn=sequences(SHAPES))
def test_is_a_loop_over_step(cell, reverse, drawn):
    case = case_of(cell, drawn)
    assert_close(run(case, reverse=reverse), loop(case, reverse=reverse))


@every_cell
@both_ways
def test_gradients_are_those_of_the_loop(cell, reverse):
    case = example(cell)

    @jax.jit
    def expected(params, xs, carry):
        def plain(cell, params, carry, x):
            return cell.step(params, carry, x)

        def loss(params, xs, carry):
            return weighed(loop(Case(cell, params, xs, carry, case.options), reverse=reverse, step=plain))

        return jax.grad(loss, argnums=(0, 1, 2))(params, xs, carry)

    _, gradients = with_gradients(*case, reverse=reverse)
    assert_close(gradients, expected(case.params, case.xs, case.carry))


@cells
def test_step_is_a_scan_body(cell):
    case = example(cell, present=())
    initial = cell.init_carry(case.params, USUAL.batch)
    scanned = jax.lax.scan(partial(cell.step, case.params), initial, case.xs)
    assert_close(scanned, jl.unroll(cell, case.params, case.xs))


@cells
@both_ways
@given(drawn=sequences(present=((), ALL)), cut=st.sampled_from([0, 2, 5]))
def test_any_split_with_the_carry_handed_on(cell, reverse, drawn, cut):
    case = case_of(cell, drawn)
    parts = [part(case, 0, cut), part(case, cut, USUAL.steps)]
    carry, ys = case.carry, [None, None]
    for index in (1, 0) if reverse else (0, 1):
        carry, ys[index] = run(parts[index]._replace(carry=carry), reverse=reverse)
    assert_close((carry, jnp.concatenate(ys)), run(case, reverse=reverse))


@cells
@both_ways
@given(drawn=sequences(present=(("lengths",), ("mask",), ("lengths", "mask"))))
def test_lengths_and_mask_are_removal(cell, reverse, drawn):
    case = case_of(cell, drawn)
    carry, ys = run(case, reverse=reverse)
    for b, kept in enumerate(valid_of(case).T):
        alone = loop(Case(cell, case.params, case.xs[kept, b], at(case.carry, b), {}), reverse=reverse)
        assert_close((at(carry, b), ys[kept, b]), alone)
        assert not ys[~kept, b].any()


@every_cell
@both_ways
@given(drawn=sequences(present=(("reset",),)))
def test_resets_are_sequences_apart(cell, reverse, drawn):
    case = case_of(cell, drawn)
    carry, ys = run(case, reverse=reverse)
    for b in range(USUAL.batch[0]):
        starts = np.flatnonzero(case.options["reset"][:, b])
        edges = itertools.pairwise([0, *starts[starts > 0], USUAL.steps])
        apart = [Case(cell, case.params, case.xs[slice(*edge), b], cell.init_carry(case.params), {}) for edge in edges]
        first, last = (-1, 0) if reverse else (0, -1)
        if reverse or not case.options["reset"][0, b]:
            apart[first] = apart[first]._replace(carry=at(case.carry, b))
        runs = [loop(episode, reverse=reverse) for episode in apart]
        after = cell.init_carry(case.params) if reverse and case.options["reset"][0, b] else runs[last][0]
        assert_close((at(carry, b), ys[:, b]), (after, jnp.concatenate([ys for _, ys in runs])))


@every_cell
def test_a_reset_on_a_skipped_step_still_resets(cell):
    case = example(cell, present=())
    reset = np.zeros((USUAL.steps, *USUAL.batch), bool)
    reset[2] = True
    carry, ys = run(case, reset=reset, mask=~reset)
    assert_close((carry, ys[3:]), jl.unroll(cell, case.params, case.xs[3:]))


@every_cell
def test_a_reset_at_0_in_reverse_gives_an_initial_carry(cell):
    case = example(cell, present=())
    reset = np.zeros((USUAL.steps, *USUAL.batch), bool)
    reset[0] = True
    carry, ys = run(case, reset=reset, reverse=True)
    assert_close((carry, ys), (cell.init_carry(case.params, USUAL.batch), run(case, reverse=True)[1]))


@cells
@both_ways
@given(drawn=sequences(present=(ALL,)), bad=st.sampled_from([np.nan, np.inf, -np.inf]))
def test_nothing_leaks_from_the_padding(cell, reverse, drawn, bad):
    case = case_of(cell, drawn)
    skipped = ~valid_of(case)
    clean = with_gradients(*case._replace(xs=where(skipped, 0.0, case.xs)), reverse=reverse)
    spoilt = with_gradients(*case._replace(xs=where(skipped, bad, case.xs)), reverse=reverse)
    jax.tree.map(np.testing.assert_array_equal, spoilt, clean)
    _, (_, dxs, _) = spoilt
    assert not np.asarray(dxs)[skipped].any()


@every_cell
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nothing_leaks_from_a_carry_that_a_reset_cuts_off(cell, bad):
    case = example(cell)
    case.options["reset"][0] = True
    (after, gradients) = with_gradients(*case)
    spoilt = with_gradients(*case._replace(carry=jax.tree.map(lambda leaf: jnp.full_like(leaf, bad), case.carry)))
    jax.tree.map(np.testing.assert_array_equal, spoilt, (after, gradients))
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradients[2]))


@every_cell
@both_ways
def test_nothing_leaks_from_a_carry_held_until_a_reset(cell, reverse):
    case = example(cell, present=())
    mask, reset = np.ones((2, USUAL.steps, *USUAL.batch), bool)
    mask[-1 if reverse else 0] = False
    reset[:] = False
    reset[-1 if reverse else 1] = True
    case = case._replace(options={"mask": mask, "reset": reset})
    clean = with_gradients(*case, reverse=reverse)
    nan = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), case.carry)
    jax.tree.map(np.testing.assert_array_equal, with_gradients(*case._replace(carry=nan), reverse=reverse), clean)


@cells
@both_ways
@pytest.mark.parametrize("shape", [Shape(0, (3,), 2, 3), USUAL], ids=["no steps", "length 0"])
def test_without_steps_the_carry_comes_back(cell, reverse, shape):
    case = example(cell, shape, present=())
    lengths = np.zeros(shape.batch, np.int32)
    (carry, ys), (dparams, dxs, dcarry) = with_gradients(*case._replace(options={"lengths": lengths}), reverse=reverse)
    jax.tree.map(np.testing.assert_array_equal, carry, case.carry)
    assert ys.shape == (shape.steps, *shape.batch, shape.hidden_size)
    assert not ys.any()
    assert not any(leaf.any() for leaf in jax.tree.leaves((dparams, dxs)))
    assert_close(dcarry, jax.grad(weighed)(case.carry))


@cells
@given(drawn=sequences(present=(ALL,)), order=st.permutations(range(USUAL.batch[0])))
def test_batch_order_does_not_matter(cell, drawn, order):
    case = case_of(cell, drawn)
    order = np.array(order)
    options = {name: value[..., order] for name, value in case.options.items()}
    shuffled = Case(cell, case.params, case.xs[:, order], at(case.carry, order), options)
    carry, ys = run(case)
    assert_close(run(shuffled), (at(carry, order), ys[:, order]))


@cells
@both_ways
def test_vmap_is_batch(cell, reverse):
    case = example(cell)
    lengths, mask, reset = (case.options[name] for name in ALL)

    def alone(xs, carry, lengths, mask, reset):
        options = {"lengths": lengths, "mask": mask, "reset": reset, "reverse": reverse}
        return jl.unroll(cell, case.params, xs, carry, **options)

    mapped = jax.vmap(alone, in_axes=(1, 0, 0, 1, 1), out_axes=(0, 1))(case.xs, case.carry, lengths, mask, reset)
    assert_close(mapped, run(case, reverse=reverse))


@cells
@both_ways
def test_jit_is_no_jit(cell, reverse):
    case = example(cell, Shape(3, (2,), 2, 3))
    compiled = jax.jit(jl.unroll, static_argnames=("cell", "reverse"))(*case[:4], **case.options, reverse=reverse)
    with jax.disable_jit():
        interpreted = run(case, reverse=reverse)
    assert_close(compiled, interpreted)
    assert_close(run(case, reverse=reverse), interpreted)


@two_cells
@both_ways
@pytest.mark.parametrize("remat", [True, 2, pytest.param(7, marks=pytest.mark.slow)])
def test_remat_changes_nothing(cell, reverse, remat):
    case = example(cell)
    assert_close(with_gradients(*case, reverse=reverse, remat=remat), with_gradients(*case, reverse=reverse))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gru", "gru_reset_before", "rnn", "learned_start"])
@pytest.mark.parametrize("remat", [True, 3])
def test_remat_changes_nothing_for_the_other_cells(name, remat):
    case = example(CELLS[name])
    assert_close(with_gradients(*case, remat=remat), with_gradients(*case))


@pytest.mark.parametrize("remat", [True, 2, "sqrt"])
@pytest.mark.parametrize("shape", [Shape(0, (2,), 2, 3), Shape(3, (0,), 2, 3), Shape(3, (), 2, 3)], ids=str)
def test_remat_of_odd_shapes(shape, remat):
    case = example(CELLS["lstm"], shape)
    assert_close(with_gradients(*case, remat=remat), with_gradients(*case))


@two_cells
@both_ways
@pytest.mark.parametrize("unroll", [2])
def test_unrolling_the_loop_changes_nothing(cell, reverse, unroll):
    case = example(cell)
    assert_close(with_gradients(*case, reverse=reverse, unroll=unroll), with_gradients(*case, reverse=reverse))


def test_remat_false_is_none():
    case = example(CELLS["lstm"])
    assert_close(run(case, remat=False), run(case))


def test_remat_saves_memory():
    cell, shape = jl.LSTMCell(32), Shape(1024, (4,), 8, 32)
    rng = np.random.default_rng(0)
    params, xs = params_of(cell, 8, rng), rng.normal(size=(1024, 4, 8))
    carry = carry_of(cell, shape, rng)

    def temporary_bytes(remat):
        compiled = with_gradients.lower(cell, params, xs, carry, {}, remat=remat).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    everything, carries, chunks, sqrt = map(temporary_bytes, (None, True, 32, "sqrt"))
    assert carries < everything
    assert chunks == sqrt < everything / 4


def test_training_traces_once():
    cell, traces = CELLS["lstm"], []
    case = example(cell, present=())

    @jax.jit
    def train(params, xs, lengths):
        traces.append(None)
        gradients = jax.grad(lambda params: jl.unroll(cell, params, xs, lengths=lengths)[1].sum())(params)
        return jax.tree.map(lambda param, gradient: param - 0.01 * gradient, params, gradients)

    params = case.params
    for index in range(100):
        params = train(params, case.xs + index, np.array([index % 6, 5, 3]))
    assert len(traces) == 1


def test_calls_outside_jit_trace_once():
    traces = []

    @dataclass(frozen=True)
    class CountingCell(MinimalGatedCell):
        def transition(self, params, z, carry):
            traces.append(None)
            return super().transition(params, z, carry)

    case = example(CountingCell(3), present=())
    loss = jax.grad(lambda params: jl.unroll(CountingCell(3), params, case.xs)[1].sum())
    jl.unroll(CountingCell(3), case.params, case.xs)
    loss(case.params)
    once = len(traces)
    for _ in range(99):
        jl.unroll(CountingCell(3), case.params, case.xs)
    for _ in range(5):
        loss(case.params)
    assert len(traces) == once
    assert once <= 12


DTYPES = (jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64)


@pytest.mark.parametrize(
    ("cell", "params_dtype", "xs_dtype"),
    [
        pytest.param(CELLS[name], of_params, of_xs, id=f"{name}-{of_params.__name__}-{of_xs.__name__}")
        for name in ("lstm", "gru", "user")
        for of_params in DTYPES
        for of_xs in DTYPES
        if name == "lstm" or jnp.bfloat16 in (of_params, of_xs)
    ],
)
def test_dtypes_follow_params_and_inputs(cell, params_dtype, xs_dtype):
    rng = np.random.default_rng(0)
    params = params_of(cell, USUAL.input_size, rng, params_dtype)
    xs = jax.ShapeDtypeStruct((USUAL.steps, *USUAL.batch, USUAL.input_size), xs_dtype)
    x = jax.ShapeDtypeStruct(xs.shape[1:], xs_dtype)
    with jax.numpy_dtype_promotion("standard"):
        expected = jnp.promote_types(params_dtype, xs_dtype)
        wide = jnp.promote_types(expected, jnp.float32)

    carry, ys = jax.eval_shape(partial(jl.unroll, cell), params, xs)
    assert ys.dtype == carry.h.dtype == expected
    assert getattr(carry, "c", carry.h).dtype == (wide if hasattr(carry, "c") else expected)
    assert jax.eval_shape(partial(jl.unroll, cell), params, xs, carry) == (carry, ys)
    assert jax.eval_shape(cell.step, params, carry, x)[0] == carry
    initial = cell.init_carry(params, USUAL.batch, dtype=expected)
    scanned, _ = jax.eval_shape(lambda params, xs: jax.lax.scan(partial(cell.step, params), initial, xs), params, xs)
    assert scanned == carry
    gradients = jax.eval_shape(jax.grad(lambda params, xs: jl.unroll(cell, params, xs)[1].sum()), params, xs)
    assert all(leaf.dtype == params_dtype for leaf in jax.tree.leaves(gradients))


@cells
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_narrow_numbers_are_those_of_float64(cell, dtype):
    rng = np.random.default_rng(0)
    params = params_of(cell, USUAL.input_size, rng, dtype)
    xs = jnp.asarray(rng.normal(size=(USUAL.steps, *USUAL.batch, USUAL.input_size)), dtype)
    _, narrow = jl.unroll(cell, params, xs)
    _, wide = jl.unroll(cell, jax.tree.map(lambda leaf: leaf.astype(float), params), xs.astype(float))
    np.testing.assert_allclose(narrow.astype(float), wide, rtol=0, atol=16 * float(jnp.finfo(dtype).eps))


def test_a_carry_is_taken_in_the_dtype_of_the_outputs():
    case = example(CELLS["lstm"], present=())
    params, xs = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (case.params, jnp.asarray(case.xs)))
    carry, ys = jl.unroll(case.cell, params, xs, case.carry)
    assert (carry.h.dtype, carry.c.dtype, ys.dtype) == (jnp.bfloat16, jnp.float32, jnp.bfloat16)


@every_cell
def test_without_x64(cell, without_x64):
    case = example(cell)  # NumPy's float64 and int64, which JAX then takes as 32-bit
    options = {**case.options, "lengths": case.options["lengths"].astype(np.int64)}
    carry, ys = jl.unroll(*case[:4], **options, start=3)
    assert {leaf.dtype for leaf in jax.tree.leaves((carry, ys))} == {np.dtype("float32")}
    assert ys.shape == (USUAL.steps, *USUAL.batch, USUAL.hidden_size)


@cells
def test_numpy_arrays_are_taken(cell):
    numpy = example(cell)
    arrays = numpy._replace(**jax.tree.map(jnp.asarray, {"params": numpy.params, "xs": numpy.xs, "carry": numpy.carry}))
    assert_close(run(numpy), run(arrays))
    assert_close(
        cell.step(numpy.params, numpy.carry, numpy.xs[0]), cell.step(arrays.params, arrays.carry, arrays.xs[0])
    )


def test_lengths_are_clamped_inside_jit():
    case = example(CELLS["lstm"], present=())
    clamped = run(case, lengths=np.array([0, 5, 2]))
    compiled = jax.jit(partial(jl.unroll, case.cell))(*case[1:4], lengths=jnp.array([-3, 99, 2]))
    assert_close(compiled, clamped)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint32, np.int64])
def test_lengths_of_any_integer_dtype(dtype):
    case = example(CELLS["rnn"], present=())
    assert_close(run(case, lengths=np.array([0, 5, 2], dtype)), run(case, lengths=np.array([0, 5, 2])))


def test_without_batch_axes_a_length_is_a_number():
    case = example(CELLS["lstm"], Shape(4, (), 2, 3), present=())
    carry, ys = run(case, lengths=2)
    assert_close((carry, ys[:2]), run(case._replace(xs=case.xs[:2])))


def part(case, start, stop):
    """The steps from start to stop, with the options as they are there."""
    options = {name: value[start:stop] for name, value in case.options.items() if name != "lengths"}
    if "lengths" in case.options:
        options["lengths"] = np.clip(case.options["lengths"] - start, 0, stop - start)
    return case._replace(xs=case.xs[start:stop], options=options)


def at(carry, index):
    """The carry of one sequence of the batch, or of some."""
    return jax.tree.map(lambda leaf: leaf[index], carry)
