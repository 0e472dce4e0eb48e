"""A network as a program: run by JAX alone, in a process that cannot import this library."""

import subprocess
import sys
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from properties import MinimalGatedCell, Shape, carry_of, params_of

import jaxlstm as jl
from jaxlstm.interop import export

pytestmark = pytest.mark.usefixtures("without_type_hook")  # it takes no symbol for a size

NETWORK = jl.Stack(jl.Bidirectional(jl.LSTMCell(3)), jl.GRUCell(2), dropout=0.5)
XS = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
LENGTHS = np.array([5, 0, 3, 1], np.int32)


def weights_of(network):
    return params_of(network, 3, np.random.default_rng(1), np.float32)


SERVER = """
import pathlib, sys
sys.modules["jaxlstm"] = None  # any import of it would fail
import jax.export, numpy as np
program = jax.export.deserialize(pathlib.Path("network.stablehlo").read_bytes())
assert set(program.platforms) == {"cpu", "cuda", "tpu"}
with np.load("inputs.npz") as inputs:
    xs, lengths, *leaves = (inputs[name] for name in inputs)
one, other, gru = leaves[:2], leaves[2:4], leaves[4]
carry = (({"h": one[0], "c": one[1]}, {"h": other[0], "c": other[1]}), {"h": gru})
((one, other), gru), ys = program.call(xs, lengths=lengths, carry=carry)
np.savez("outputs.npz", ys, one["h"], one["c"], other["h"], other["c"], gru["h"])
print(program.call(xs[:2, :1], lengths=lengths[:1], carry=jax.tree.map(lambda leaf: leaf[:1], carry))[1].shape)
"""


def test_a_process_without_this_library_runs_it(tmp_path):
    params, shape = weights_of(NETWORK), Shape(5, (4,), 3, 0)
    carry = carry_of(NETWORK, shape, np.random.default_rng(2), np.float32)
    export(tmp_path / "network.stablehlo", NETWORK, params, lengths=True, carry=True)
    np.savez(tmp_path / "inputs.npz", XS, LENGTHS, *jax.tree.leaves(carry))
    ran = subprocess.run(
        [sys.executable, "-c", SERVER], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "(2, 1, 2)\n"
    after, ys = jax.jit(lambda carry: NETWORK.apply(params, XS, carry, lengths=LENGTHS))(carry)
    with np.load(tmp_path / "outputs.npz") as outputs:
        for name, want in zip(outputs, (ys, *jax.tree.leaves(after)), strict=True):
            assert_allclose(outputs[name], want, rtol=1e-6, atol=1e-6)


def test_a_user_s_cell_and_any_number_of_steps_and_sequences(tmp_path):
    cell = MinimalGatedCell(3)
    params = weights_of(cell)
    export(tmp_path / "x", cell, params)
    program = jax.export.deserialize((tmp_path / "x").read_bytes())
    want = jax.jit(lambda params: jl.unroll(cell, params, XS)[1])(params)
    for steps, batch in ((5, 4), (1, 1), (3, 2)):
        carry, ys = program.call(XS[:steps, :batch])
        assert_allclose(ys, want[:steps, :batch], rtol=1e-6, atol=1e-6)
        assert_allclose(carry["h"], want[steps - 1, :batch], rtol=1e-6, atol=1e-6)


NETWORKS = {
    "mgu": jl.MGUCell(2),
    "min": jl.Stack(jl.MinGRUCell(2), jl.MinLSTMCell(2), jl.IndRNNCell(2)),
    "xlstm": jl.Bidirectional(jl.SLSTMCell(4, num_heads=2), jl.MLSTMCell(4, num_heads=2)),
    "lru": jl.LRUCell(2, state_size=4),
    "conv lstm": jl.ConvLSTMCell(2, spatial_shape=(6,)),
    "learned": jl.Bidirectional(jl.LearnedCarry(jl.LSTMCell(2)), jl.LearnedCarry(jl.MGUCell(2, bias=False))),
    "no bias": jl.Layer(jl.GRUCell(2, bias=False)),
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_every_kind_of_params_and_a_carry_of_plain_types(tmp_path, network):
    params, layers = weights_of(network), jl.Layer(network) if isinstance(network, jl.Cell) else network
    xs = XS if not network.spatial_shape else np.random.default_rng(0).normal(size=(5, 4, 6, 3)).astype(np.float32)
    export(tmp_path / "x", network, params)
    carry, ys = jax.export.deserialize((tmp_path / "x").read_bytes()).call(xs)
    after, want = jax.jit(lambda params: layers.apply(params, xs))(params)
    assert_allclose(ys, want, rtol=1e-6, atol=1e-6)
    assert type(carry) is (
        dict if hasattr(after, "_asdict") and not isinstance(after, jl.BidirectionalCarry) else tuple
    )
    parts = (carry,) if isinstance(carry, dict) else carry
    for part, one in zip(parts, (after,) if isinstance(carry, dict) else after, strict=True):
        assert list(part) == sorted(one._fields)
        for name, value in part.items():
            assert_allclose(value, getattr(one, name), rtol=1e-6, atol=1e-6)


class Nested(NamedTuple):
    """A carry around another."""

    inner: jl.LSTMCarry
    steps: jax.Array


@dataclass(frozen=True)
class CountingCell(jl.CellWrapper):
    """What a user writes: a cell whose carry holds that of the cell inside."""

    cell: jl.Cell

    def init_carry(self, params, batch_shape=(), *, dtype=None):
        inner = super().init_carry(params, batch_shape, dtype=dtype)
        return Nested(inner, jnp.zeros((*batch_shape, 1), inner.c.dtype))

    def recur(self, params, carry, noise=None):
        return super().recur(params, carry.inner, noise)

    def transition(self, params, z, carry, noise=None):
        return Nested(super().transition(params, z, carry.inner, noise), carry.steps + 1)

    def readout(self, params, carry):
        return super().readout(params, carry.inner)


def test_a_carry_within_a_carry_is_a_dict_within_a_dict(tmp_path):
    cell = CountingCell(jl.LSTMCell(2))
    export(tmp_path / "x", cell, weights_of(cell), carry=True)
    program = jax.export.deserialize((tmp_path / "x").read_bytes())
    zeros = np.zeros((4, 2), np.float32)
    carry, _ = program.call(XS, carry={"inner": {"h": zeros, "c": zeros}, "steps": zeros[:, :1]})
    assert set(carry["inner"]) == {"h", "c"}
    assert_allclose(carry["steps"], np.full((4, 1), 5.0))


def test_16_bit_weights_keep_the_cell_state_in_32(tmp_path):
    cell = jl.LSTMCell(3)
    export(tmp_path / "x", cell, jax.tree.map(lambda leaf: jnp.asarray(leaf, "bfloat16"), weights_of(cell)), carry=True)
    program = jax.export.deserialize((tmp_path / "x").read_bytes())
    assert {aval.dtype.name for aval in program.in_avals} == {"bfloat16", "float32"}
    assert sorted(aval.dtype.name for aval in program.out_avals) == ["bfloat16", "bfloat16", "float32"]


def test_arguments(tmp_path):
    cell = jl.LSTMCell(3)
    with pytest.raises(TypeError, match="network: expected a cell"):
        export(tmp_path / "x", weights_of(cell), cell)
    with pytest.raises(TypeError, match="carry: expected True or False"):
        export(tmp_path / "x", cell, weights_of(cell), carry=jl.LSTMCarry(h=1, c=1))
    with pytest.raises(ValueError, match=r"params.b: expected shape \(16,\)"):
        export(tmp_path / "x", jl.LSTMCell(4), weights_of(jl.LSTMCell(4))._replace(b=np.zeros(12)))
    assert not list(tmp_path.iterdir())
