"""What the tests of cells since 2015 share: problems, and values and gradients of the loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references_modern as references
from references import assert_close, random_options

import jaxlstm as jl

KEY = jax.random.key(0)
SLOW = [pytest.param(names, marks=pytest.mark.slow) for names in ("reverse", "lengths mask reset")]
OPTIONS = ["", "reverse lengths mask reset", *SLOW]
ONE_QUICK = ["reverse lengths mask reset", pytest.param("", marks=pytest.mark.slow), *SLOW]


def problem(cell, steps=4, batch=(3,), input_size=2, seed=0):
    """Params with biases, inputs, a carry with a normaliser above 0, cotangents of the last carry and of ys."""
    draw = np.random.default_rng(seed).normal

    def random(tree):
        def leaf(leaf):
            number = draw(size=leaf.shape)
            return number + 1j * draw(size=leaf.shape) if leaf.dtype.kind == "c" else number

        return jax.tree.map(leaf, tree)

    params = jax.eval_shape(lambda: cell.init(KEY, input_size))
    template = jax.eval_shape(lambda p: cell.init_carry(p, batch), params)
    params, carry, dcarry = random(params), random(template), random(template)
    if isinstance(carry, jl.SLSTMCarry):
        carry = carry._replace(n=1 + np.abs(carry.n))
    shape = (steps, *batch, *cell.spatial_shape)
    return params, draw(size=(*shape, input_size)), carry, dcarry, draw(size=(*shape, cell.hidden_size))


def initial_of(cell, params):
    """The carry of one sequence before its first step."""
    return jax.tree.map(np.asarray, cell.init_carry(params, dtype=np.float64))


def assert_equals_loop(cell, step, arguments, names="", run=jl.unroll, initial=None):
    """Values and gradients of `unroll`, with NaN in what the options hide, are those of the loop.

    The loop knows real vectors alone: for a cell with others, `run` takes and gives those, and `initial` is one.
    """
    params, xs, carry, dcarry, dys = arguments
    initial = initial_of(cell, params) if initial is None else initial
    options = random_options(names, len(xs), xs.shape[1:-1])
    valid = references.steps_that_count(xs, options.get("lengths"), options.get("mask"))
    hidden = np.where(valid[..., None], xs, np.nan)
    got, pull_back = jax.vjp(lambda p, x, c: run(cell, p, x, c, **options), params, hidden, carry)
    assert_close(got, references.forward(step, params, xs, carry, initial, **options))
    want = references.backward(step, params, xs, carry, initial, dcarry, dys, **options)
    assert_close(pull_back((dcarry, dys)), want)


def assert_equals_plain_scan(cell, input_size=3, steps=6):
    """The gradient of `unroll`, the tangents and a second derivative are those of autodiff of a scan over the step."""
    params, xs, carry, _, _ = problem(cell, steps, (2,), input_size)

    def plain(params, xs, carry):
        return jax.lax.scan(lambda carry, x: cell.step(params, carry, x), carry, xs)

    def ours(params, xs, carry):
        return jl.unroll(cell, params, xs, carry)

    def second(run):
        def loss(x):
            return sum((jnp.abs(jnp.sin(leaf)) ** 2).sum() for leaf in jax.tree.leaves(run(params, x, carry)))

        return jax.jit(lambda x: jax.jvp(jax.grad(loss), (x,), (jnp.cos(x),)))(jnp.asarray(xs))

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12), second(ours), second(plain))


def assert_split_and_steps_agree(cell):
    """A sequence cut in two and step by step, from the cell's own carry."""
    params, xs, _, _, _ = problem(cell, 5, (2,), 3)
    carry, ys = jl.unroll(cell, params, xs)
    half, first = jl.unroll(cell, params, xs[:2])
    assert_close((carry, ys), (lambda c, y: (c, np.concatenate([first, y])))(*jl.unroll(cell, params, xs[2:], half)))
    now = cell.init_carry(params, (2,))
    for x, y in zip(xs, ys, strict=True):
        now, got = cell.step(params, now, x)
        assert_close(got, y)
    assert_close(now, carry)


def assert_works_in_networks(cell):
    """Both directions, stacks, remat and a batch of none: finite, with a gradient for every param."""
    network = jl.Stack(jl.Bidirectional(cell), cell, cell)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), network.init(KEY, 3))
    xs = np.random.default_rng(0).normal(size=(9, *cell.spatial_shape, 3))

    def loss(params, remat):
        return (network.apply(params, xs, remat=remat)[1] ** 2).sum()

    one, other = (jax.jit(jax.grad(loss), static_argnums=1)(params, remat) for remat in (None, "sqrt"))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)
