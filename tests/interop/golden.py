"""What the tests of every framework share: networks that it made and ran, from goldens/, and how to hold to one."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxlstm as jl


class Golden(NamedTuple):
    """One network of a framework: its weights by name, what went in, and what came out."""

    weights: dict[str, np.ndarray]
    carry: list[np.ndarray]
    ys: np.ndarray
    final: list[np.ndarray]
    xs: np.ndarray
    lengths: np.ndarray


def load(framework):
    """Goldens by name."""
    with np.load(Path(__file__).parent / "goldens" / f"{framework}.npz") as file:
        arrays = dict(file)
    names = sorted({name.partition("/")[0] for name in arrays if "/" in name})
    return {name: _golden(arrays, name) for name in names}


def assert_same(golden, network, params, *, ragged=True, order=(0, 1), rtol=1e-6):
    """The network computes what the framework did, from its initial carry: every output and the final carry."""
    template = jax.eval_shape(lambda: network.init_carry(params, golden.xs.shape[1:2]))
    carry = as_carry(template, golden.carry, order)
    lengths = golden.lengths if ragged else None
    xs = golden.xs.astype(golden.ys.dtype)
    final, ys = jax.jit(lambda params, carry: network.apply(params, xs, carry, lengths=lengths))(params, carry)
    assert ys.dtype == golden.ys.dtype
    np.testing.assert_allclose(ys, golden.ys, rtol=rtol, atol=rtol)
    for got, want in zip(jax.tree.leaves(final), jax.tree.leaves(as_carry(template, golden.final, order)), strict=True):
        np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol)


def zeros(network, input_size=3):
    """Params of zeros that fit the network or cell."""
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), input_size))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def as_carry(template, parts, order=(0, 1)):
    """The framework's parts as our carry; `order` is (1, 0) where it has c before h."""
    left = list(parts)
    leaves = []
    for cell in jax.tree.leaves(template, is_leaf=lambda node: isinstance(node, jl.LSTMCarry | jl.RNNCarry)):
        own = [left.pop(0) for _ in cell]
        leaves += own if len(own) == 1 else [own[place] for place in order]
    assert not left
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def assert_bitwise(got: dict[str, Any], want: dict[str, Any]):
    """The same names, in the same order, with the same bits."""
    assert list(got) == list(want)
    for name, array in want.items():
        assert isinstance(got[name], np.ndarray)
        assert got[name].dtype == array.dtype, name
        assert got[name].flags.c_contiguous, name
        assert got[name].flags.writeable, name  # torch takes no other
        assert got[name].shape == array.shape, name
        assert got[name].tobytes() == np.ascontiguousarray(array).tobytes(), name


def _golden(arrays, case):
    def part(name):
        start = f"{case}/{name}/"
        return {key.removeprefix(start): array for key, array in arrays.items() if key.startswith(start)}

    carries = {name: [part(name)[str(k)] for k in range(len(part(name)))] for name in ("carry", "final")}
    return Golden(part("weights"), ys=arrays[f"{case}/ys"], xs=arrays["xs"], lengths=arrays["lengths"], **carries)
