"""What the property tests draw from: cells, one of them a user's own, sequences with options, and a loop to hold to."""

from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import NamedTuple

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np

import jaxlstm as jl


@dataclass(frozen=True)
class MinimalGatedCell(jl.Cell):
    """What a user writes: f = sigma(z_f), h' = (1 - f) * h + f * tanh(zx_n + f * zh_n) (Zhou et al. 2016)."""

    hidden_size: int

    def init(self, key, input_size, *, dtype=jnp.float32):
        w_ih_key, w_hh_key = jax.random.split(key)
        gates = 2 * self.hidden_size
        return jl.RNNParams(
            w_ih=jax.random.normal(w_ih_key, (input_size, gates), dtype),
            w_hh=jax.random.normal(w_hh_key, (self.hidden_size, gates), dtype),
            b=jnp.zeros(gates, dtype),
        )

    def combine(self, zx, zh):
        (zx_f, zx_n), (zh_f, zh_n) = jnp.split(zx, 2, axis=-1), jnp.split(zh, 2, axis=-1)
        return zx_f + zh_f, zx_n, zh_n

    def transition(self, params, z, carry):
        z_f, zx_n, zh_n = z
        f = jax.nn.sigmoid(z_f)
        return jl.RNNCarry(h=(1 - f) * carry.h + f * jnp.tanh(zx_n + f * zh_n))


class LearnedStartParams(NamedTuple):
    """Params with the hidden state that the cell starts from."""

    w_ih: jax.Array
    w_hh: jax.Array
    b: jax.Array
    h_0: jax.Array


@dataclass(frozen=True)
class LearnedStartCell(MinimalGatedCell):
    """A cell whose first carry is a parameter."""

    def init(self, key, input_size, *, dtype=jnp.float32):
        return LearnedStartParams(*super().init(key, input_size, dtype=dtype), jnp.zeros(self.hidden_size, dtype))

    def init_carry(self, params, batch_shape=(), *, dtype=None):
        h = jnp.broadcast_to(params.h_0, (*batch_shape, self.hidden_size))
        return jl.RNNCarry(h=h.astype(dtype or h.dtype))


class CountedCarry(NamedTuple):
    """h, and the steps so far."""

    h: jax.Array
    n: jax.Array


@dataclass(frozen=True)
class CountingCell(jl.RNNCell):
    """A cell whose carry holds integers."""

    def init_carry(self, params, batch_shape=(), *, dtype=None):
        return CountedCarry(super().init_carry(params, batch_shape, dtype=dtype).h, jnp.zeros(batch_shape, jnp.int32))

    def transition(self, params, z, carry):
        return CountedCarry(jnp.tanh(z), carry.n + 1)


def counting():
    """That cell, its params and inputs."""
    cell = CountingCell(3)
    return cell, jl.RNNParams(np.ones((2, 3)), np.ones((3, 3)), np.ones(3)), np.ones((4, 2))


CELLS = {
    "lstm": jl.LSTMCell(3),
    "gru": jl.GRUCell(3),
    "gru_reset_before": jl.GRUCell(3, reset_after=False),
    "rnn": jl.RNNCell(3),
    "user": MinimalGatedCell(3),
    "learned_start": LearnedStartCell(3),
}


class Shape(NamedTuple):
    """T steps, batch axes, I and H."""

    steps: int
    batch: tuple[int, ...]
    input_size: int
    hidden_size: int


USUAL = Shape(5, (3,), 2, 3)
SHAPES = (
    USUAL,
    Shape(1, (), 1, 1),
    Shape(4, (), 2, 3),
    Shape(3, (2, 2), 2, 1),
    Shape(0, (2,), 2, 3),
    Shape(3, (0,), 2, 3),
)
ALL = ("lengths", "mask", "reset")
PRESENT = ((), ("lengths",), ("mask",), ("reset",), ALL)  # few, since each compiles anew


class Case(NamedTuple):
    """The arguments of `unroll`."""

    cell: jl.Cell
    params: tuple
    xs: np.ndarray
    carry: tuple
    options: dict


class Drawn(NamedTuple):
    """What makes a case, drawn apart from the arrays, since hypothesis forbids what the type hook does meanwhile."""

    shape: Shape
    seed: int
    options: dict


def sequences(shapes=(USUAL,), present=PRESENT):
    """A sequence at one of these shapes, with one of these sets of options."""
    return st.sampled_from(shapes).flatmap(
        lambda shape: st.builds(Drawn, st.just(shape), st.integers(0, 9), options_of(shape, present))
    )


def case_of(cell, drawn):
    """The drawn sequence for a cell."""
    shape, seed, options = drawn
    cell, rng = replace(cell, hidden_size=shape.hidden_size), np.random.default_rng(seed)
    xs = rng.normal(size=(shape.steps, *shape.batch, shape.input_size))
    return Case(cell, params_of(cell, shape.input_size, rng), xs, carry_of(cell, shape, rng), options)


def example(cell, shape=USUAL, present=ALL):
    """One case, in which no two sequences are alike."""
    rng, steps, batch = np.random.default_rng(7), shape.steps, shape.batch
    options = {
        "lengths": rng.integers(1, steps + 1, batch).astype(np.int32) if steps else np.zeros(batch, np.int32),
        "mask": rng.random((steps, *batch)) < 0.7,
        "reset": rng.random((steps, *batch)) < 0.3,
    }
    return case_of(cell, Drawn(shape, 7, {name: options[name] for name in present}))


def options_of(shape, present=PRESENT):
    """A dict of lengths, mask and reset, or of as many of them as one of `present` names."""
    drawn = {
        "lengths": hnp.arrays(np.int32, shape.batch, elements=st.integers(0, shape.steps)),
        "mask": hnp.arrays(bool, (shape.steps, *shape.batch)),
        "reset": hnp.arrays(bool, (shape.steps, *shape.batch)),
    }
    return st.sampled_from(present).flatmap(lambda names: st.fixed_dictionaries({name: drawn[name] for name in names}))


def params_of(network, input_size, rng, dtype=np.float64):
    """Random params, biases too: those that a cell starts from are mostly zero and hide mistakes."""
    return _random(_templates(network, input_size, ())[0], rng, dtype)


def carry_of(network, shape, rng, dtype=np.float64):
    """A random carry."""
    return _random(_templates(network, shape.input_size, shape.batch)[1], rng, dtype)


@lru_cache
def _templates(network, input_size, batch):
    def templates():
        params = network.init(jax.random.key(0), input_size)
        return params, network.init_carry(params, batch)

    return jax.eval_shape(templates)


def _random(template, rng, dtype):
    def leaf(leaf):
        number = rng.normal(size=leaf.shape).astype(dtype)
        return number + 1j * rng.normal(size=leaf.shape).astype(dtype) if leaf.dtype.kind == "c" else number

    return jax.tree.map(leaf, template)


step = jax.jit(lambda cell, params, carry, x: cell.step(params, carry, x), static_argnums=0)


def loop(case, *, reverse=False, step=step):
    """`unroll` as its documentation says it, a step at a time."""
    cell, params, xs, carry, options = case
    steps, *batch, _ = xs.shape
    initial = cell.init_carry(params, tuple(batch))
    valid, reset = valid_of(case), options.get("reset", np.zeros(xs.shape[:-1], bool))
    ys = [np.zeros((*batch, cell.output_size))] * steps
    for t in reversed(range(steps)) if reverse else range(steps):
        if not reverse:
            carry = where(reset[t], initial, carry)
        after, y = step(cell, params, carry, xs[t])
        carry, ys[t] = where(valid[t], after, carry), where(valid[t], y, jnp.zeros_like(y))
        if reverse:
            carry = where(reset[t], initial, carry)
    return carry, jnp.stack(ys) if ys else jnp.zeros((0, *batch, cell.output_size))


def valid_of(case):
    """Which steps count."""
    steps = case.xs.shape[0]
    lengths = case.options.get("lengths", np.full(case.xs.shape[1:-1], steps))
    times = np.arange(steps).reshape(steps, *(1,) * lengths.ndim)
    return (times < lengths) & case.options.get("mask", True)


def where(condition, yes, no):
    """`yes` or `no` for each sequence of the batch."""
    condition = jnp.asarray(condition)
    features = lambda leaf: range(condition.ndim, leaf.ndim)  # noqa: E731
    return jax.tree.map(lambda yes, no: jnp.where(jnp.expand_dims(condition, features(no)), yes, no), yes, no)


def cotangents(tree):
    """Numbers, all different, to weigh the leaves with, so that no part of a gradient can hide behind another."""

    def leaf(leaf):
        numbers = jnp.cos(1.0 + jnp.arange(leaf.size, dtype=leaf.real.dtype)).reshape(leaf.shape)
        return jax.lax.complex(numbers, numbers**2) if jnp.iscomplexobj(leaf) else numbers

    return jax.tree.map(leaf, tree)


def weighed(tree):
    """A scalar in which every number of the tree has its own weight."""
    parts = jax.tree.map(lambda leaf, weight: (leaf * weight).sum().real, tree, cotangents(tree))
    return sum(jax.tree.leaves(parts))


@partial(jax.jit, static_argnames=("cell", "reverse", "unroll", "remat"))
def with_gradients(cell, params, xs, carry, options, *, reverse=False, unroll=1, remat=None):
    """``(carry, ys)``, and the gradients with respect to params, xs and carry."""

    def loss(params, xs, carry):
        after = jl.unroll(cell, params, xs, carry, **options, reverse=reverse, unroll=unroll, remat=remat)
        return weighed(after), after

    gradients, after = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(params, xs, carry)
    return after, gradients


def assert_close(got, expected, rtol=1e-12, atol=1e-13):
    """Trees of one structure whose leaves agree to a few ulps of float64."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=rtol, atol=atol), got, expected)
