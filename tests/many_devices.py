"""Run by test_sharding.py in a process with four virtual devices: one device's numbers, wherever arrays lie."""

from contextlib import nullcontext
from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

import jaxlstm as jl
from jaxlstm import linen
from jaxlstm.inspect import trace

DRAW = np.random.default_rng(0)
T, B, I, H = 5, 4, 3, 4  # noqa: E741
CELL, STACK = jl.LSTMCell(H), jl.Stack(jl.LSTMCell(H), jl.Layer(jl.GRUCell(H)), dropout=0.5)
BOTH = jl.Stack(jl.Bidirectional(jl.LSTMCell(H)), jl.Zoneout(jl.GRUCell(H), h=0.5))
KEY = jax.random.key(3)
XS = DRAW.normal(size=(T, B, I))
LENGTHS, MASK, RESET = DRAW.integers(0, T + 1, B), DRAW.random((T, B)) < 0.8, DRAW.random((T, B)) < 0.3
PARTITIONING = {"w_ih": (None, "m"), "w_hh": (None, "m"), "b": ("m",)}
LSTM = linen.LSTM(H, num_layers=2, dropout=0.5, param_dtype=jnp.float64, partitioning=PARTITIONING)


def run_linen(params, xs, **rngs):
    return LSTM.apply(params, jnp.moveaxis(xs, 0, 1), deterministic=not rngs, rngs=rngs)


def step(network, params, xs, **options):
    """Two steps, the second from the carry of the first."""
    carry = network.init_carry(params, xs.shape[1:-1])
    carry, y = network.step(params, carry, xs[0], **options)
    return network.step(params, carry, xs[1], **options), y


ZONEOUT = jl.Zoneout(CELL, h=0.3, c=0.3)
RUNS = {  # name: (what draws the params, the function of params and xs)
    "unroll": (CELL, partial(jl.unroll, CELL)),
    "reset": (CELL, lambda p, xs: jl.unroll(CELL, p, xs, lengths=LENGTHS, mask=MASK, reset=RESET)),
    "reverse": (CELL, partial(jl.unroll, CELL, reverse=True, reset=RESET, project_first=True)),
    "carry": (CELL, lambda p, xs: jl.unroll(CELL, p, xs, jl.unroll(CELL, p, xs)[0])),
    "remat": (CELL, partial(jl.unroll, CELL, remat=True)),
    "chunks": (CELL, partial(jl.unroll, CELL, remat="sqrt", lengths=LENGTHS)),
    "truncated": (STACK, partial(jl.truncated, STACK, k1=2, k2=2, key=KEY)),
    "windows": (CELL, partial(jl.truncated, CELL, k1=2, k2=4, lengths=LENGTHS, reset=RESET)),
    "zoneout": (ZONEOUT, partial(jl.unroll, ZONEOUT, key=KEY)),
    "dropout": (STACK, lambda p, xs: STACK.apply(p, xs, key=KEY)),
    "both directions": (BOTH, lambda p, xs: BOTH.apply(p, xs, key=KEY, lengths=LENGTHS)),
    "linen": (LSTM, run_linen),
    "linen, dropout": (LSTM, partial(run_linen, dropout=KEY)),
    "trace": (CELL, partial(trace, CELL, lengths=LENGTHS, reset=RESET)),
    "trace, dropout": (STACK, partial(trace, STACK, key=KEY)),
    "step": (CELL, partial(step, CELL)),
    "step, reset": (CELL, partial(step, CELL, mask=MASK[0], reset=RESET[0])),
    "step, dropout": (STACK, partial(step, STACK, key=KEY)),
}


def init(network):
    if isinstance(network, nn.Module):
        return nn.meta.unbox(network.init(jax.random.key(0), jnp.zeros((B, T, I)), deterministic=True))
    return network.init(jax.random.key(0), I, dtype=jnp.float64)


def lay(mesh, params, xs, batch=None):
    """Params with their last axis on "m", and xs with their batch on `batch`."""
    specs = [Spec(*(None,) * (leaf.ndim - 1), "m") for leaf in jax.tree.leaves(params)]
    specs = jax.tree.unflatten(jax.tree.structure(params), specs)
    there = jax.tree.map(lambda leaf, spec: jax.device_put(leaf, NamedSharding(mesh, spec)), params, specs)
    return there, jax.device_put(xs, NamedSharding(mesh, Spec(None, batch)))


def loss(run, *arguments):
    return sum((leaf**2).sum() for leaf in jax.tree.leaves(run(*arguments)))


def assert_close(got, expected):
    got, expected = (jax.tree.map(np.asarray, tree) for tree in (got, expected))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9), got, expected)


@cache
def alone(name):
    """Params, the function, its gradient, and what they give on one device."""
    network, run = RUNS[name]
    gradient = jax.grad(partial(loss, run), argnums=(0, 1))
    params = init(network)
    return params, run, gradient, *jax.jit(lambda *arguments: (run(*arguments), gradient(*arguments)))(params, XS)


FAST = ("reset", "windows", "trace, dropout", "step, dropout", "linen, dropout")


def grid():
    for name in RUNS:
        for batch in (None, "d"):
            for is_set in (False, True):
                for jitted in (False, True):
                    slow = not (name in FAST and batch == "d" and jitted and not is_set)
                    marks = [pytest.mark.slow] if slow else []
                    yield pytest.param(
                        name,
                        batch,
                        is_set,
                        jitted,
                        id=f"{name}-{batch}-{'set' if is_set else 'unset'}-{'jit' if jitted else 'eager'}",
                        marks=marks,
                    )


@pytest.mark.parametrize(("name", "batch", "is_set", "jitted"), list(grid()))
def test_on_a_mesh_of_explicit_axes(name, batch, is_set, jitted):
    params, run, gradient, expected, expected_gradient = alone(name)
    mesh = jax.make_mesh((2, 2), ("d", "m"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)
    there = lay(mesh, params, XS, batch)
    wrap = jax.jit if jitted else lambda run: run
    with jax.set_mesh(mesh) if is_set else nullcontext():
        assert_close(wrap(run)(*there), expected)
        if jitted or is_set:  # else JAX says "Please enter your jit into a mesh context", for a plain loss too
            assert_close(wrap(gradient)(*there), expected_gradient)


IN_SHARD_MAP = ("unroll", "reset")
