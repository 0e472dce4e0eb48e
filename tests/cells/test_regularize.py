"""Zoneout and RecurrentDropout: float64 loops with the same draws, expectations, statistics, splits, cells inside."""

import re
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
import references_variants
from properties import LearnedStartCell, MinimalGatedCell

import jaxlstm as jl

KEY = jax.random.key(0)
LSTM = jl.LSTMCell(3)
WRAPPED = {
    "zoneout": jl.Zoneout(LSTM, h=0.3, c=0.5),
    "zoneout of h": jl.Zoneout(jl.GRUCell(3, reset_after=False), h=0.4),
    "dropout": jl.RecurrentDropout(LSTM, 0.4),
    "zoneout of dropout": jl.Zoneout(jl.RecurrentDropout(jl.GRUCell(3), 0.5), h=0.5),
    "dropout of zoneout": jl.RecurrentDropout(jl.Zoneout(LSTM, c=0.5), 0.5),
    "twice": jl.Zoneout(jl.Zoneout(LSTM, h=0.5), h=0.5),
    "user's": jl.Zoneout(jl.RecurrentDropout(MinimalGatedCell(3), 0.5), h=0.2),
    "learned start": jl.RecurrentDropout(LearnedStartCell(3), 0.5),
    "variant": jl.RecurrentDropout(jl.LSTMVariantCell(3, projection_size=2, layer_norm=True), 0.5),
}
every_wrapped = pytest.mark.parametrize("cell", WRAPPED.values(), ids=WRAPPED)


def problem(cell, steps=6, batch=(2, 2)):
    rng = np.random.default_rng(0)
    params = jax.eval_shape(lambda: cell.init(KEY, 2))
    carry = jax.eval_shape(lambda p: cell.init_carry(p, batch), params)
    params, carry = jax.tree.map(lambda a: rng.normal(size=a.shape), (params, carry))
    return params, rng.normal(size=(steps, *batch, 2)), carry


def draws(cell, carry, steps, start=0):
    """What the cell draws at each step, as NumPy arrays."""
    return [jax.tree.map(np.asarray, cell.draw(KEY, jnp.asarray(start + t), carry)) for t in range(steps)]


def assert_close(got, want, tolerance=1e-12):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), got, want)


def assert_equal(got, want):
    assert_close(got, want, tolerance=1e-15)


def equations(noise, cell):
    """A step of "zoneout", or of "zoneout of dropout", given what is drawn or None, as loops."""

    def zoneout(t, n, carry, x):
        kept = {"h": cell.h, "c": cell.c} if noise is None else {"h": noise[t].h[n], "c": noise[t].c[n]}
        after, _ = references.lstm_step(params, carry, x)
        return references_variants.zoneout(carry, after, kept)

    def zoneout_of_dropout(t, n, carry, x):
        seen = 1.0 if noise is None else noise[t].inner.seen[n] / (1 - cell.cell.rate)
        after = references_variants.gru_dropped_step(params, carry, x, seen)
        return references_variants.zoneout(carry, after, {"h": cell.h if noise is None else noise[t].h[n]})

    params, _, _ = problem(cell)
    return zoneout if cell.c else zoneout_of_dropout


@pytest.mark.parametrize("key", [None, KEY], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", ["zoneout", "zoneout of dropout"])
def test_equals_loop(name, key):
    cell = WRAPPED[name]
    params, xs, carry = problem(cell)
    noise = None if key is None else draws(cell, carry, len(xs))
    want = references_variants.run(equations(noise, cell), xs, carry)
    assert_close(jl.unroll(cell, params, xs, carry, key=key), want)


@every_wrapped
def test_any_split_draws_the_same(cell):
    params, xs, carry = problem(cell)
    run = jax.jit(lambda xs, carry, start: jl.unroll(cell, params, xs, carry, key=KEY, start=start))
    whole = run(xs, carry, 7)
    middle, first = run(xs[:3], carry, 7)
    last, second = run(xs[3:], middle, 10)
    assert_equal((last, jnp.concatenate([first, second])), whole)
    after, elsewhere = run(xs, carry, 0)
    constant = isinstance(cell, jl.RecurrentDropout) and not isinstance(cell.cell, jl.Zoneout)
    assert jnp.array_equal(elsewhere, whole[1]) == constant  # one mask a sequence has no time
    assert jax.tree.structure(after) == jax.tree.structure(whole[0])


@every_wrapped
def test_options_of_the_sequence_and_step(cell):
    params, xs, carry = problem(cell)
    mask = np.random.default_rng(1).random(xs.shape[:-1]) < 0.6
    _, ys = jl.unroll(cell, params, np.where(mask[..., None], xs, np.nan), carry, mask=mask, key=KEY, remat=2)
    assert jnp.isfinite(ys).all()
    assert not ys[~mask].any()
    after, y = cell.step(params, carry, xs[0])
    assert_equal((after, y[None]), jl.unroll(cell, params, xs[:1], carry))


def test_network_of_wrapped_cells():
    network = jl.Stack(jl.Bidirectional(WRAPPED["zoneout"]), WRAPPED["user's"], dropout=0.5)
    params = jax.tree.map(lambda a: jnp.full(a.shape, 0.3), jax.eval_shape(lambda: network.init(KEY, 2)))
    _, ys = network.apply(params, np.ones((5, 4, 2)), key=KEY)
    _, again = network.apply(params, np.ones((5, 4, 2)), key=KEY)
    assert_equal(ys, again)
    assert len(np.unique(ys[-1], axis=0)) > 1  # each sequence draws its own


@pytest.mark.parametrize("cell", [jl.Zoneout(LSTM), jl.RecurrentDropout(LSTM, 0)], ids=str)
@pytest.mark.parametrize("key", [None, KEY], ids=["evaluation", "training"])
def test_rate_zero_is_the_cell_itself(cell, key):
    params, xs, carry = problem(cell)
    assert_equal(jl.unroll(cell, params, xs, carry, key=key), jl.unroll(LSTM, params, xs, carry))


def test_rates():
    """Shares of units over 60 steps of 2000 units: a standard deviation is 0.0015."""
    cell = jl.Zoneout(jl.RecurrentDropout(LSTM, 0.25), h=0.1, c=0.6)
    carry = jl.LSTMCarry(h=jnp.zeros((10, 200)), c=jnp.zeros((10, 200)))
    noise = jax.vmap(lambda time: cell.draw(KEY, time, carry))(jnp.arange(60))
    shares = [a.mean() for a in (noise.h, noise.c, noise.inner.seen[0])]
    np.testing.assert_allclose(shares[:2], [0.1, 0.6], atol=0.006)
    np.testing.assert_allclose(shares[2], 0.75, atol=0.04)
    assert (noise.inner.seen == noise.inner.seen[:1]).all()


def test_draws_are_independent():
    """Of one another, of time, and of those of the cells inside: all correlations of 4000 units are small."""
    inner = jl.Zoneout(jl.RecurrentDropout(jl.RecurrentDropout(LSTM, 0.5), 0.5), h=0.5, c=0.5)
    cell = jl.Zoneout(inner, h=0.5, c=0.5)
    carry = jl.LSTMCarry(h=jnp.zeros(4000), c=jnp.zeros(4000))
    now, then = draws(cell, carry, 2)
    dropped = now.inner.inner
    masks = [now.h, now.c, now.inner.h, now.inner.c, dropped.seen, dropped.inner.seen, then.h, then.c, then.inner.h]
    correlations = np.corrcoef(np.stack(masks))
    assert abs(correlations - np.eye(len(masks))).max() < 0.08


def test_dropout_keeps_the_mean_of_the_recurrence():
    cell = jl.RecurrentDropout(jl.RNNCell(3, activation_fn=lambda z: z), 0.3)
    params, xs, carry = problem(cell, steps=1, batch=())
    runs = jax.vmap(lambda key: jl.unroll(cell, params, xs, carry, key=key)[1])(jax.random.split(KEY, 20_000))
    _, expected = jl.unroll(cell, params, xs, carry)
    np.testing.assert_allclose(runs.mean(0), expected, atol=0.05)


def test_evaluation_of_zoneout_is_the_mean_of_one_step():
    """Of c; h is a function of the new c before its zoneout."""
    cell = WRAPPED["zoneout"]
    params, xs, carry = problem(cell, steps=1, batch=())
    runs, _ = jax.vmap(lambda key: jl.unroll(cell, params, xs, carry, key=key))(jax.random.split(KEY, 20_000))
    expected, _ = jl.unroll(cell, params, xs, carry)
    assert_close(jax.tree.map(lambda a: a.mean(0), runs), expected, tolerance=0.03)


@pytest.mark.parametrize("wrap", [lambda cell: jl.Zoneout(cell, h=0.1), lambda cell: jl.RecurrentDropout(cell, 0.1)])
def test_is_a_cell_like_the_one_inside(wrap):
    inside = jl.LSTMVariantCell(3, projection_size=2)
    cell = wrap(inside)
    assert (cell.hidden_size, cell.output_size) == (3, 2)
    assert cell == wrap(inside)
    assert hash(cell) == hash(wrap(inside))
    assert "LSTMVariantCell(hidden_size=3, projection_size=2)" in repr(cell)
    template = jax.eval_shape(lambda: inside.init(KEY, 2))
    assert jax.eval_shape(lambda: cell.init(KEY, 2)) == template
    assert jax.eval_shape(lambda p: cell.init_carry(p, (4,)), template) == jax.eval_shape(
        lambda p: inside.init_carry(p, (4,)), template
    )


@dataclass(frozen=True)
class BareCell(jl.Cell):
    """A cell whose carry has neither h nor c."""

    hidden_size: int

    class Carry(NamedTuple):
        s: jax.Array

    def init(self, key, input_size, *, dtype=jnp.float32):
        weights = [jnp.ones((n, self.hidden_size), dtype) for n in (input_size, self.hidden_size)]
        return jl.RNNParams(*weights, b=jnp.ones(self.hidden_size, dtype))

    def init_carry(self, params, batch_shape=(), *, dtype=None):
        return self.Carry(jnp.zeros((*batch_shape, self.hidden_size), dtype or params.b.dtype))

    def recur(self, params, carry):
        return carry.s @ params.w_hh

    def transition(self, params, z, carry):
        return self.Carry(jnp.tanh(z))

    def readout(self, params, carry):
        return carry.s


def run(cell):
    return jl.unroll(cell, cell.init(KEY, 2), np.ones((3, 2), np.float32))


RESET_BEFORE = jl.GRUCell(3, reset_after=False)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: jl.Zoneout(LSTM, h=1), "h: expected a rate in [0, 1), got 1"),
        (lambda: jl.Zoneout(LSTM, c=-0.1), "c: expected a rate in [0, 1), got -0.1"),
        (lambda: jl.Zoneout(LSTM, c="0.1"), "c: expected a number, got '0.1' (str)"),
        (lambda: jl.Zoneout(jl.LSTMCell, h=0.1), "cell: expected a Cell such as LSTMCell(128) (an instance"),
        (
            lambda: run(jl.Zoneout(jl.GRUCell(3), c=0.1)),
            "c: expected 0 for GRUCell(hidden_size=3), whose carry has no c",
        ),
        (
            lambda: run(jl.Zoneout(jl.SLSTMCell(3), c=0.1)),
            "c: expected 0 for SLSTMCell(hidden_size=3), whose memory is c exp(m), got 0.1",
        ),
        (
            lambda: run(jl.Zoneout(BareCell(3), h=0.1)),
            "h: expected 0 for BareCell(hidden_size=3), whose carry has no h",
        ),
        (lambda: jl.RecurrentDropout(LSTM, 1.0), "rate: expected a rate in [0, 1), got 1.0"),
        (lambda: jl.RecurrentDropout(LSTM, None), "rate: expected a number, got None"),
        (lambda: jl.RecurrentDropout(3, 0.1), "cell: expected a Cell such as LSTMCell(128), got 3 (int)"),
        (lambda: jl.RecurrentDropout(RESET_BEFORE, 0.1), "cell: expected a cell with all matmuls of h in recur"),
        (
            lambda: jl.RecurrentDropout(jl.Zoneout(RESET_BEFORE), 0.1),
            "cell: expected a cell with all matmuls of h in recur",
        ),
        (lambda: run(jl.RecurrentDropout(BareCell(3), 0.1)), "cell: expected a cell whose carry has h, got BareCell("),
    ],
)
@pytest.mark.usefixtures("without_type_hook")
def test_mistakes_are_named(mistake, message):
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        mistake()


def test_zoneout_of_nothing_needs_no_h():
    carry, ys = run(jl.Zoneout(BareCell(3)))
    assert_equal(carry.s, ys[-1])


@pytest.mark.parametrize(
    "wrap", [lambda rate: jl.RecurrentDropout(jl.GRUCell(4), rate), lambda rate: jl.Zoneout(jl.GRUCell(4), h=rate)]
)
def test_a_rate_of_numpy_is_that_number(wrap):
    cell, same = wrap(np.float64(0.3)), wrap(0.3)
    assert cell == same
    params = cell.init(KEY, 3)
    gradient = jax.grad(lambda params: jl.unroll(cell, params, jnp.ones((5, 2, 3), jnp.float32), key=KEY)[1].sum())(
        params
    )
    assert gradient.w_hh.dtype == jnp.float32


def test_steps_are_told_apart_whatever_integer_counts_them():
    cell = jl.Zoneout(jl.LSTMCell(2), h=0.5)
    params = cell.init(KEY, 1)
    run = lambda start: jl.unroll(cell, params, jnp.ones((300, 1), jnp.float32), key=KEY, start=start)[1]  # noqa: E731
    np.testing.assert_array_equal(run(np.uint8(0)), run(0))
