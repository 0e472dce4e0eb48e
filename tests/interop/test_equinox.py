"""Equinox's weights: its own results again, its arrays back, and what is wrong with one."""

import golden
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutations import assert_named_error, mutations

import jaxlstm as jl
from jaxlstm.interop import from_equinox, to_equinox

GOLDENS = golden.load("equinox")


@pytest.mark.parametrize("name", GOLDENS)
def test_the_same_numbers_as_equinox(name):
    golden.assert_same(GOLDENS[name], *from_equinox(GOLDENS[name].weights))


@pytest.mark.parametrize("name", GOLDENS)
def test_back_again_bit_for_bit(name):
    network, params = from_equinox(GOLDENS[name].weights)
    assert isinstance(network, jl.Stack if name == "list" else jl.Layer)
    golden.assert_bitwise(to_equinox(network, params), GOLDENS[name].weights)


def test_ten_layers_are_in_the_order_of_their_numbers():
    cell = GOLDENS["lstm"].weights
    layer = {**cell, "weight_ih": cell["weight_hh"]}
    order = sorted(range(11), key=str)
    weights = {f"{k}.{name}": array * np.float32(k + 1) for k in order for name, array in layer.items()}
    network, params = from_equinox(weights)
    assert len(network.layers) == 11
    np.testing.assert_allclose([p.b[0] for p in params], float(params[0].b[0]) * np.arange(1, 12), rtol=1e-6)
    assert set(to_equinox(network, params)) == set(weights)


def test_names_and_directions():
    weights = {f"model.{end}.{name}": array for end in "ab" for name, array in GOLDENS["gru"].weights.items()}
    network, params = from_equinox(weights, prefix="model", layers=(("a", "b"),))
    assert network == jl.Bidirectional(jl.GRUCell(4))
    golden.assert_bitwise(to_equinox(network, params, prefix="model", layers=(("a", "b"),)), weights)


@given(data=st.data())
def test_any_mutation_is_an_error_that_names_a_tensor(data):
    name = data.draw(st.sampled_from(sorted(GOLDENS)))
    free = [("weight_ih", 1), ("0.weight_ih", 1)]
    free += [("weight_hh", 1)] * (name == "gru_no_bias")  # 12 rows are a GRU of 4 or an LSTM of 3
    optional = [key for key in GOLDENS[name].weights if key.endswith("bias") and "1." not in key and name != "gru"]
    assert_named_error(from_equinox, data.draw(mutations(GOLDENS[name].weights, free, optional)))


LSTM, GRU = GOLDENS["lstm"].weights, GOLDENS["gru"].weights
WRONG = {
    "one bias": (
        {k: v for k, v in GRU.items() if k != "bias_n"},
        "bias_n: expected a tensor of this name for .*GRUCell",
    ),
    "two biases": (LSTM | {"bias_n": GRU["bias_n"]}, "bias_n: expected no tensor of this name for Equinox's LSTMCell"),
    "gates": (
        LSTM | {"weight_hh": LSTM["weight_hh"][:4]},
        r"weight_hh: expected a multiple .* got 4 in shape \(4, 4\)",
    ),
    "shape": (LSTM | {"weight_ih": GRU["weight_ih"]}, r"weight_ih: expected shape \(16, 3\), got \(12, 3\)"),
}


@pytest.mark.parametrize(("weights", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_by_name(weights, message):
    with pytest.raises(ValueError, match=message):
        from_equinox(weights)


NOT_IN_EQUINOX = {
    "an RNN": (jl.RNNCell(4), {}, "network: expected LSTM or GRU .* as Equinox has them, got RNNCell"),
    "reset before": (jl.GRUCell(4, reset_after=False), {}, "network: expected LSTM or GRU"),
    "activation": (jl.LSTMCell(4, activation_fn=jax.nn.relu), {}, "network: expected LSTM or GRU"),
    "nested": (jl.Stack(jl.Stack(jl.GRUCell(4))), {}, "network: expected Layer.* or Bidirectional in every place"),
}


@pytest.mark.parametrize(("network", "options", "message"), NOT_IN_EQUINOX.values(), ids=NOT_IN_EQUINOX)
def test_networks_that_equinox_has_not(network, options, message):
    with pytest.raises(ValueError, match=message):
        to_equinox(network, jax.tree.map(np.ones_like, golden.zeros(network)), **options)
