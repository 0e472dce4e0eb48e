"""The mLSTM in chunks against its loop: values, derivatives, extreme gates, NaN, dtypes, memory, dependent steps."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import modern
import numpy as np
import pytest
import references_modern as references
from modern import KEY, problem
from references import random_options, steps_that_count

import jaxlstm as jl
from jaxlstm import _chunkwise, _run, _unroll
from jaxlstm._arrays import select
from jaxlstm._dtypes import cast, compute_dtype

CELLS = {
    "sigmoid": jl.MLSTMCell(4, num_heads=2),
    "exp": jl.MLSTMCell(4, num_heads=2, exponential_forget=True),
    "learned": jl.LearnedCarry(jl.MLSTMCell(4, num_heads=2)),
}
ALL = "reverse lengths mask reset"


run_jitted = jax.jit(_chunkwise.run, static_argnums=(0, 5, 6))


def chunkwise(cell, params, xs, carry=None, *, chunk=3, lengths=None, mask=None, reset=None, reverse=False):
    """`unroll` in chunks."""
    params, xs, carry, reset = jax.tree.map(jnp.asarray, (params, xs, carry, reset))
    params = cast(params, compute_dtype(params, xs.dtype))
    valid = _unroll.valid_steps(xs.shape[0], xs.shape[1:-1], lengths=lengths, mask=mask)
    initial, carry, inputs = _run.begin(cell, xs, valid, reset, jnp.asarray(0), params, carry, None, reverse)
    carry, ys = run_jitted(cell, params, initial, carry, inputs, reverse, chunk)
    return select(reset[:1].any(0), initial, carry) if reverse and reset is not None else carry, ys


def with_gradients(unroll, cell, options):
    """A jitted function of a problem: the last carry, ys, and gradients in params, xs and carry."""

    @jax.jit
    def run(params, xs, carry, dcarry, dys):
        out, pull_back = jax.vjp(lambda p, x, c: unroll(cell, p, x, c, **options), params, xs, carry)
        return out, pull_back((dcarry, dys))

    return lambda arguments: run(*jax.tree.map(jnp.asarray, arguments))


def assert_equal(got, want, tolerance=1e-12):
    """Equal to the tolerance, relative to the largest number of an array, if that is above 1."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        a, b = (np.asarray(leaf, np.float64) for leaf in (a, b))
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1, np.abs(b).max(initial=0)))


def assert_equals_unroll(cell, arguments, names="", **chunk):
    """Values and gradients, with NaN in what the options hide."""
    params, xs, *rest = arguments
    options = random_options(names, len(xs), xs.shape[1:-1])
    valid = steps_that_count(xs, options.get("lengths"), options.get("mask"))
    arguments = params, np.where(valid[..., None], xs, np.nan), *rest
    got = with_gradients(partial(chunkwise, **chunk), cell, options)(arguments)
    assert_equal(got, with_gradients(jl.unroll, cell, options)(arguments))


@pytest.mark.parametrize("name", ["sigmoid", pytest.param("exp", marks=pytest.mark.slow)])
def test_equals_the_numpy_loop(name):
    step = references.mlstm_step if name == "sigmoid" else references.exponential(references.mlstm_step)
    modern.assert_equals_loop(CELLS[name], step, problem(CELLS[name]), ALL, run=chunkwise)


EACH = ["", "reverse", "lengths", "mask", "reset", "reverse reset", ALL]


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("learned", "lengths mask reset"),
        *(pytest.param("sigmoid", names, marks=pytest.mark.slow) for names in EACH),
        *(pytest.param(name, ALL, marks=pytest.mark.slow) for name in ("learned", "exp")),
    ],
)
def test_equals_unroll(name, names):
    assert_equals_unroll(CELLS[name], problem(CELLS[name], 7, (5,)), names)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(0, (2,), 4), (1, (), 4), (6, (), 3), (4, (2, 3), 64), (5, (0,), 2), (5, (3,), 1)])
def test_equals_unroll_at_other_shapes(shape):
    steps, batch, chunk = shape
    assert_equals_unroll(CELLS["sigmoid"], problem(CELLS["sigmoid"], steps, batch), ALL, chunk=chunk)


def steep(params):
    """z_i and z_f of some +-80, other ones in each step."""
    return params._replace(w_ih=np.concatenate([params.w_ih[:, :-4], 80 * params.w_ih[:, -4:]], axis=-1))


@pytest.mark.parametrize("name", ["exp", pytest.param("sigmoid", marks=pytest.mark.slow)])
def test_extreme_gates(name):
    options = random_options("mask reset", 20, (3,))
    runs = [with_gradients(unroll, CELLS[name], options) for unroll in (partial(chunkwise, chunk=8), jl.unroll)]
    params, *rest = problem(CELLS[name], 20, (3,))
    shifts = [np.repeat([0, i, f], [16, 2, 2]) for i in (80, -80) for f in (80, -80)]
    for given in (steep(params), *(params._replace(b=params.b + shift) for shift in shifts)):
        assert_equal(*(run((given, *rest)) for run in runs))


@pytest.mark.parametrize("names", ["lengths reset", pytest.param("reverse mask reset", marks=pytest.mark.slow)])
def test_nan_in_a_carry_that_is_not_read(names):
    """Of sequences without steps, and of those that are reset before the first step that counts: as in the loop."""
    cell = CELLS["sigmoid"]
    params, xs, carry, dcarry, dys = problem(cell, 5, (3,))
    options = random_options(names, 5, (3,))  # the first of the lengths is 0
    options["reset"][-1 if "reverse" in names else 0, 1] = True
    if "reverse" in names:  # moved by a step: into the last step there is no edge
        options["mask"][-1, 1] = False
    for leaf in carry:
        leaf[:2] = np.nan
    arguments = params, xs, carry, dcarry, dys
    got, want = (with_gradients(unroll, cell, options)(arguments) for unroll in (chunkwise, jl.unroll))
    assert_equal(got, want)
    if "lengths" in names:
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(got[1]))


@pytest.mark.slow
@pytest.mark.parametrize("i", [-300, 300])
@pytest.mark.parametrize("f", [-300, 300])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_gate_gives_nan_in_few_bits(i, f, dtype):
    cell = CELLS["exp"]
    params, xs, *_ = problem(cell, 7, (3,))
    params = params._replace(b=params.b + np.repeat([0, i, f], [16, 2, 2]))
    params, xs = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (params, xs))
    options = random_options("lengths mask reset", 7, (3,))
    for given in (params, params._replace(w_ih=params.w_ih.at[:, :4].set(0), b=params.b.at[:4].set(0))):
        carry, ys = chunkwise(cell, given, xs, **options)
        gradient = jax.grad(lambda params: (chunkwise(cell, params, xs, **options)[1] ** 2).sum())(given)
        assert all(jnp.isfinite(leaf).all() for leaf in (*gradient, *carry, ys))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "names"), [("sigmoid", ""), ("exp", "lengths mask reset")])
def test_second_derivatives(name, names):
    params, xs, *_ = jax.tree.map(jnp.asarray, problem(CELLS[name], 7))
    options = random_options(names, 7, (3,))

    def second(unroll):
        def loss(params, x):
            return sum(
                (jnp.sin(leaf) ** 2).sum() for leaf in jax.tree.leaves(unroll(CELLS[name], params, x, **options))
            )

        tangents = jax.tree.map(jnp.cos, (params, xs))
        return jax.jit(lambda *args: jax.jvp(jax.grad(loss, (0, 1)), args, tangents))(params, xs)

    assert_equal(second(chunkwise), second(jl.unroll))


@pytest.mark.slow
def test_vmap_is_a_batch_axis():
    cell = CELLS["sigmoid"]
    params, xs, carry, _, _ = problem(cell, 7, (3,))
    options = random_options("lengths mask reset", 7, (3,))
    axes = {"lengths": 0, "mask": 1, "reset": 1}
    run = jax.vmap(lambda x, c, o: chunkwise(cell, params, x, c, **o), in_axes=(1, 0, axes), out_axes=(0, 1))
    assert_equal(run(xs, carry, options), chunkwise(cell, params, xs, carry, **options))


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 3e-6), ("bfloat16", 0.03)])
def test_few_bits(dtype, tolerance):
    """At T = 4096 the dtypes are those of the loop, and outputs and gradients are as near to float64 as its are."""
    cell = jl.MLSTMCell(16, num_heads=2)
    params, xs = cell.init(KEY, 8), jax.random.normal(KEY, (4096, 2, 8), jnp.float32)
    params, xs = jax.tree.map(lambda leaf: leaf.astype(dtype), (params, xs))

    def run(unroll, params, xs):
        def loss(params, xs):
            carry, ys = unroll(cell, params, xs)
            return (ys.astype(compute_dtype(ys, jnp.float32)) ** 2).mean(), (carry, ys)

        gradient, (carry, ys) = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, xs)
        return carry, ys, gradient

    got, loop = (run(unroll, params, xs) for unroll in (partial(chunkwise, chunk=64), jl.unroll))
    want = run(jl.unroll, *cast((params, xs), jnp.float64))
    for a, b, exact in zip(*map(jax.tree.leaves, (got, loop, want)), strict=True):
        assert a.dtype == b.dtype
        a, b, exact = (np.asarray(leaf, np.float64) for leaf in (a, b, exact))
        assert np.abs(a - exact).max() <= max(tolerance * np.abs(exact).max(), 2 * np.abs(b - exact).max())


@pytest.mark.parametrize("chunk", [64, pytest.param(None, marks=pytest.mark.slow)])
def test_gradient_memory_and_dependent_steps(chunk):
    """In chunks, less than a tenth of what C of every step takes, and T / 64 dependent iterations, not T."""
    cell, steps = jl.MLSTMCell(256, num_heads=4), 4096
    unroll = jl.unroll if chunk is None else partial(chunkwise, chunk=chunk)
    params = jax.eval_shape(lambda: cell.init(KEY, 256))
    xs = jax.ShapeDtypeStruct((steps, 1, 256), jnp.float32)
    gradient = jax.grad(lambda params, xs: (unroll(cell, params, xs)[1] ** 2).mean(), argnums=(0, 1))
    program = jax.jit(gradient).lower(params, xs).compile()
    share = program.memory_analysis().temp_size_in_bytes / (steps * 4 * 64 * 64 * 4)
    assert share > 1 if chunk is None else share < 0.1
    assert iterations(program) == [steps // (chunk or 1)] * 2  # forward and backward


def iterations(program):
    """Of each loop of a compiled program, how often it runs."""
    counts = re.findall(r'known_trip_count"?[:=]\{"?n"?[:=]"?(\d+)', program.as_text())
    assert len(counts) == len(re.findall(r"= .* while\(", program.as_text()))
    return [int(count) for count in counts]
