"""Haiku's weights: its own results again, its dicts back, and what is wrong with one."""

import golden
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutations import assert_named_error, mutations

import jaxlstm as jl
from jaxlstm.interop import from_haiku, to_haiku

GOLDENS = golden.load("haiku")
LAYERS = {"deep": ("lstm", "lstm_1", "gru")}
PREFIXES = {"lstm": "lstm", "gru": "gru", "rnn": "vanilla_rnn", "rnn_one_bias": "vanilla_rnn", "deep": ""}


def read(name, weights=None):
    return from_haiku(weights or GOLDENS[name].weights, layers=LAYERS.get(name))


@pytest.mark.parametrize("name", GOLDENS)
def test_the_same_numbers_as_haiku(name):
    golden.assert_same(GOLDENS[name], *read(name))


def test_networks():
    gru = jl.GRUCell(4, reset_after=False)
    assert read("lstm")[0] == jl.Layer(jl.LSTMCell(4))
    assert read("rnn")[0] == read("rnn_one_bias")[0] == jl.Layer(jl.RNNCell(4, activation_fn=jax.nn.relu))
    assert read("deep")[0] == jl.Stack(jl.LSTMCell(4), jl.LSTMCell(4), gru)


@pytest.mark.parametrize("name", GOLDENS)
def test_back_again(name):
    """Bit for bit but for what was added: 1 to the forget bias, and the second bias of a VanillaRNN to the first."""
    network, params = read(name)
    double_bias = name != "rnn_one_bias"
    back = to_haiku(network, params, prefix=PREFIXES[name], layers=LAYERS.get(name), double_bias=double_bias)
    back = {f"{module}/{leaf}": array for module, arrays in back.items() for leaf, array in arrays.items()}
    want = GOLDENS[name].weights
    assert set(back) == set(want)
    for key, array in want.items():
        if "lstm" in key and key.endswith("b"):
            np.testing.assert_array_equal(np.delete(back[key], slice(8, 12)), np.delete(array, slice(8, 12)))
            np.testing.assert_allclose(back[key], array, rtol=0, atol=2**-23)
        elif name == "rnn" and key.endswith("b"):
            total = want["vanilla_rnn/linear/b"] + want["vanilla_rnn/linear_1/b"]
            np.testing.assert_array_equal(back[key], np.zeros(4) if "_1" in key else total)
        else:
            golden.assert_bitwise({key: back[key]}, {key: array})


def test_the_one_is_in_the_params():
    weights = {"linear": {"w": np.ones((7, 16), np.float32), "b": np.arange(16, dtype=np.float32)}}
    _, params = from_haiku(weights)
    np.testing.assert_array_equal(params.b.reshape(4, 4)[:, 0], [0, 8 + 1, 4, 12])  # i f g o, of i g f o


@given(data=st.data())
def test_any_mutation_is_an_error_that_names_a_tensor(data):
    name = data.draw(st.sampled_from(sorted(GOLDENS)))
    free = [("lstm/linear/w", 0), ("gru/w_i", 0), ("vanilla_rnn/linear/w", 0)]
    read_below = tuple(f"{layer}/" for layer in LAYERS.get(name, ())) or ("",)
    optional = ("vanilla_rnn/linear_1/b",)
    mutated = data.draw(mutations(GOLDENS[name].weights, free, optional, read_below))
    assert_named_error(lambda weights: read(name, weights), mutated)


ONES = np.ones((7, 16), np.float32)
WRONG = {
    "order": (
        GOLDENS["deep"].weights,
        {},
        "layers: expected the names of the layers, .* out of 'gru', 'lstm', 'lstm_1' .* got None",
    ),
    "sizes": (
        {"linear": {"w": ONES[:4], "b": ONES[0]}},
        {},
        r"linear/w: expected shape \(I \+ H, 4H\), got shape \(4, 16\)",
    ),
    "bias": ({"linear": {"w": ONES, "b": ONES[0, :8]}}, {}, r"linear/b: expected shape \(16,\), got \(8,\)"),
    "prefix": (
        GOLDENS["lstm"].weights,
        {"prefix": "encoder/~/lstm"},
        "prefix: expected the name of one of 'lstm', got 'encoder/~/lstm'",
    ),
}


@pytest.mark.parametrize(("weights", "options", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_by_name(weights, options, message):
    with pytest.raises(ValueError, match=message):
        from_haiku(weights, **options)


NOT_IN_HAIKU = {
    "reset after": (jl.GRUCell(4), {}, "network: expected LSTM, GRU .* as Haiku has them, got GRUCell"),
    "tanh": (jl.RNNCell(4), {}, "network: expected LSTM, GRU"),
    "unnamed": (jl.Stack(jl.LSTMCell(4)), {}, "layers: expected 1 names or pairs of names, bottom first, got None"),
    "directions": (
        jl.Bidirectional(jl.LSTMCell(4)),
        {"layers": ("lstm",)},
        r"layers: expected a pair of names \(forward, backward\) for a Bidirectional, got 'lstm'",
    ),
}


@pytest.mark.parametrize(("network", "options", "message"), NOT_IN_HAIKU.values(), ids=NOT_IN_HAIKU)
def test_networks_that_haiku_has_not(network, options, message):
    with pytest.raises(ValueError, match=message):
        to_haiku(network, golden.zeros(network), **options)
