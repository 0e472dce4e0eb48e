"""torch's weights: its own results again, its state dicts back, and what is wrong with one, by the tensor's name."""

from pathlib import Path

import golden
import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from mutations import assert_named_error, mutations

import jaxlstm as jl
from jaxlstm.interop import from_torch, to_torch

GOLDENS = golden.load("torch")
OPTIONS = {name: {"nonlinearity": name.split("_")[1]} for name in GOLDENS if name.startswith("rnn")}


def read(name):
    return from_torch(GOLDENS[name].weights, **OPTIONS.get(name, {}))


@pytest.mark.parametrize("name", GOLDENS)
def test_the_same_numbers_as_torch(name):
    network, params = read(name)
    rtol = 1e-14 if "float64" in name else 1e-6
    golden.assert_same(GOLDENS[name], network, params, ragged=not name.endswith("cell"), rtol=rtol)


def test_networks():
    both = jl.Bidirectional(jl.LSTMCell(4))
    assert read("lstm")[0] == jl.Stack(both, both)
    assert read("gru")[0] == jl.Stack(jl.GRUCell(4), jl.GRUCell(4))
    assert read("gru_bidirectional")[0] == jl.Bidirectional(jl.GRUCell(4))
    assert read("rnn_relu")[0] == jl.Layer(jl.RNNCell(4, activation_fn=jax.nn.relu))
    assert read("lstm_cell")[0] == jl.Layer(jl.LSTMCell(4))
    assert read("lstm_no_bias")[0] == jl.Layer(jl.LSTMCell(4, bias=False))
    assert read("lstm_projected")[0].layers[1].cell == jl.LSTMVariantCell(4, projection_size=2)


@pytest.mark.parametrize("name", GOLDENS)
def test_back_again(name):
    """Bit for bit but for the two biases, which come back as their sum and zeros: the same function."""
    weights = GOLDENS[name].weights
    network, params = read(name)
    back = to_torch(network.cell if name.endswith("cell") else network, params)
    golden.assert_bitwise(
        {k: v for k, v in back.items() if "bias" not in k}, {k: v for k, v in weights.items() if "bias" not in k}
    )
    assert list(back) == list(weights)
    for key in [key for key in weights if "bias_ih" in key]:
        b_ih, b_hh, merged = weights[key], weights[key.replace("ih", "hh")], back[key]
        cut = len(b_ih) * 2 // 3 if "gru" in name else len(b_ih)
        np.testing.assert_array_equal(merged[:cut], (b_ih + b_hh)[:cut])
        np.testing.assert_array_equal(merged[cut:], b_ih[cut:])
        np.testing.assert_array_equal(back[key.replace("ih", "hh")], np.append(np.zeros(cut), b_hh[cut:]))
    again = to_torch(*from_torch(back, **OPTIONS.get(name, {})))
    golden.assert_bitwise(dict(zip(back, again.values(), strict=True)), back)


def test_a_prefix_with_and_without_its_dot():
    weights = {f"encoder.rnn.{name}": array for name, array in GOLDENS["gru"].weights.items()}
    weights["encoder.head.weight"] = "not an array, and not looked at"
    network, params = from_torch(weights, prefix="encoder.rnn")
    assert jax.tree.all(jax.tree.map(np.array_equal, from_torch(weights, prefix="encoder.rnn.")[1], params))
    assert set(to_torch(network, params, prefix="encoder.rnn")) == set(weights) - {"encoder.head.weight"}


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_a_safetensors_file_of_any_dtype(tmp_path, dtype):
    weights = {name: array.astype(dtype) for name, array in GOLDENS["lstm_no_bias"].weights.items()}
    safetensors.numpy.save_file({f"rnn.{name}": array for name, array in weights.items()}, tmp_path / "x.safetensors")
    network, params = from_torch(tmp_path / "x.safetensors", prefix="rnn")
    assert params.w_ih.dtype == dtype
    golden.assert_bitwise(to_torch(network, params), weights)


def test_files_that_are_none(tmp_path):
    (tmp_path / "x").write_bytes(b"\x89PNG" + bytes(50))
    with pytest.raises(ValueError, match="x: damaged, or not a safetensors file"):
        from_torch(tmp_path / "x")
    with pytest.raises(FileNotFoundError):
        from_torch(str(tmp_path / "none"))


def test_float64_needs_x64(without_x64):
    with pytest.raises(ValueError, match="weight_ih_l0: expected at most 32 bits without jax_enable_x64"):
        read("lstm_float64")


CHANGES = {
    "of a larger model": (
        lambda w: w.update({f"encoder.{name}": w.pop(name) for name in list(w)}, head=1.0),
        r"layers: expected the names .* out of 'encoder' \(or prefix='encoder' for that one\), got None with .* 'head'",
    ),
    "missing": (lambda w: w.pop("weight_hh_l1"), "weight_hh_l1: expected a tensor of this name .* got none among"),
    "misnamed": (
        lambda w: w.update(weight_hx_l1_reverse=w.pop("weight_hh_l1_reverse")),
        "weight_hh_l1_reverse: expected .* got none, but 'weight_hx_l1_reverse'",
    ),
    "extra": (lambda w: w.update(head=w["bias_ih_l0"]), r"head: expected no tensor .* got float32\[16\]"),
    "one bias": (lambda w: w.pop("bias_hh_l0"), "bias_hh_l0: expected a tensor"),
    "shape": (
        lambda w: w.update(weight_ih_l1=w["weight_ih_l0"]),
        r"weight_ih_l1: expected shape \(16, 8\), got \(16, 3\)",
    ),
    "rank": (lambda w: w.update(weight_ih_l0=w["bias_ih_l0"]), r"weight_ih_l0: expected a matrix, got float32\[16\]"),
    "gates": (
        lambda w: w.update(weight_hh_l0=w["weight_hh_l0"][:8]),
        r"weight_hh_l0: expected a multiple of the hidden size 4, by 4 \(LSTM\) or .* got 8 in shape \(8, 4\)",
    ),
    "dtypes": (
        lambda w: w.update(bias_ih_l1=w["bias_ih_l1"].astype(np.float16)),
        "bias_ih_l1: expected dtype float32, as of weight_ih_l0, got float16",
    ),
    "integers": (
        lambda w: w.update(bias_ih_l0=np.arange(16)),
        r"bias_ih_l0: expected one of the dtypes .* int64\[16\]",
    ),
    "no array": (lambda w: w.update(bias_ih_l0=[1.0]), r"bias_ih_l0: expected an array, got \[1.0\] \(list\)"),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_what_is_wrong_is_said_by_name(change, message, without_type_hook):
    weights = dict(GOLDENS["lstm"].weights)
    change(weights)
    with pytest.raises((ValueError, TypeError), match=message):
        from_torch(weights)


@given(data=st.data())
def test_any_mutation_is_an_error_that_names_a_tensor(data):
    name = data.draw(st.sampled_from(sorted(GOLDENS)))
    first = [key for key in GOLDENS[name].weights if key in ("weight_ih", "weight_ih_l0", "weight_ih_l0_reverse")]
    free = [(first[0], 1)] if len(first) == 1 else []
    free += [("weight_hh", 1)] * (name == "gru_cell")  # 12 rows are a GRU of 4 or an LSTM of 3
    mutated = data.draw(mutations(GOLDENS[name].weights, free))
    assert_named_error(lambda weights: from_torch(weights, **OPTIONS.get(name, {})), mutated)


def test_arguments(without_type_hook):
    with pytest.raises(ValueError, match="nonlinearity: expected 'tanh' or 'relu' for an RNN, got None"):
        from_torch(GOLDENS["rnn_tanh"].weights)
    with pytest.raises(ValueError, match="nonlinearity: expected 'tanh' or 'relu', got 'gelu'"):
        from_torch(GOLDENS["rnn_tanh"].weights, nonlinearity="gelu")
    with pytest.raises(ValueError, match="nonlinearity: expected None for an LSTM or a GRU, got 'tanh'"):
        from_torch(GOLDENS["gru"].weights, nonlinearity="tanh")
    with pytest.raises(ValueError, match=r"prefix: expected the name of one of '' \(all there is\), got 'rnn'"):
        from_torch(GOLDENS["lstm"].weights, prefix="rnn")
    with pytest.raises(TypeError, match=r"weights: expected module.state_dict\(\), .* got 3"):
        from_torch(3)
    with pytest.raises(TypeError, match="prefix: expected a string, got 3"):
        from_torch(GOLDENS["lstm"].weights, prefix=3)


LAYER = jl.Layer(jl.LSTMCell(2))
NOT_IN_TORCH = {
    "reverse": (
        jl.Layer(jl.LSTMCell(2), reverse=True),
        r"network: expected Layer\(..., reverse=False\) in every layer",
    ),
    "merge": (jl.Bidirectional(jl.LSTMCell(2), merge="sum"), r"network: expected Bidirectional\(..., merge='concat'\)"),
    "mixed": (jl.Stack(jl.Bidirectional(jl.LSTMCell(2)), jl.LSTMCell(2)), "network: expected Bidirectional"),
    "sizes": (jl.Stack(jl.LSTMCell(2), jl.LSTMCell(3)), "network: expected cells like the first"),
    "reset before": (jl.GRUCell(2, reset_after=False), "network: expected LSTM, GRU .* cells as torch has them"),
    "activation": (jl.LSTMCell(2, gate_fn=jax.nn.hard_sigmoid), "network: expected LSTM, GRU"),
    "peepholes": (jl.LSTMVariantCell(2, peephole=True), "network: expected LSTM, GRU"),
    "a wrapper": (jl.Layer(jl.Zoneout(jl.LSTMCell(2), h=0.1)), "network: expected LSTM, GRU"),
}


@pytest.mark.parametrize(("network", "message"), NOT_IN_TORCH.values(), ids=NOT_IN_TORCH)
def test_networks_that_torch_has_not(network, message):
    with pytest.raises(ValueError, match=message):
        to_torch(network, golden.zeros(network))


def test_params_that_do_not_fit():
    params = jax.tree.map(np.ones_like, golden.zeros(LAYER))
    with pytest.raises(ValueError, match=r"params.w_hh: expected shape \(2, 8\) .* got \(3, 12\)"):
        to_torch(LAYER, golden.zeros(jl.LSTMCell(3))._replace(w_ih=params.w_ih))
    with pytest.raises(TypeError, match="params: expected tuple, got LSTMParams"):
        to_torch(jl.Stack(LAYER), params)


def test_the_goldens_are_small():
    assert all(path.stat().st_size < 100_000 for path in (Path(__file__).parent / "goldens").glob("*.npz"))


class Skipping(jl.LSTMCell):
    """One that computes something else."""

    def readout(self, params, carry):
        return carry.h + carry.c


def test_a_cell_of_one_s_own_is_not_written_as_torch_s():
    layer = jl.Layer(Skipping(4))
    with pytest.raises(ValueError, match=r"network: expected LSTM, GRU .* cells as torch has them, got Skipping"):
        to_torch(layer, layer.init(jax.random.key(0), 3))
