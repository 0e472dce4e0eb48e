"""Keras's weights: its own results again, its weights back, and what is wrong with them, by the tensor's name."""

import os

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from mutations import assert_named_error, mutations

import jaxlstm as jl
from jaxlstm.interop import from_keras, to_keras
from jaxlstm.interop._activations import KERAS

GOLDENS = golden.load("keras")
OPTIONS = {
    "lstm_hard": {"activation": "softsign", "recurrent_activation": "hard_sigmoid"},
    "gru_no_bias": {"reset_after": True},
    "rnn": {"activation": "elu"},
    "bidirectional_ave": {"merge_mode": "ave"},
    "stack": {"layers": ("lstm", "bidirectional")},
}
PREFIXES = {"stack": "", "rnn": "simple_rnn"}


def read(name):
    return from_keras(GOLDENS[name].weights, **OPTIONS.get(name, {}))


@pytest.mark.parametrize("name", GOLDENS)
def test_the_same_numbers_as_keras(name):
    golden.assert_same(GOLDENS[name], *read(name))


def test_networks():
    assert read("gru")[0] == jl.Layer(jl.GRUCell(4))
    assert read("gru_before")[0] == jl.Layer(jl.GRUCell(4, reset_after=False))
    assert read("bidirectional_ave")[0] == jl.Bidirectional(jl.GRUCell(4), merge="mean")
    assert read("stack")[0] == jl.Stack(jl.LSTMCell(4), jl.Bidirectional(jl.GRUCell(4)))


@pytest.mark.parametrize("name", GOLDENS)
def test_back_again(name):
    """Bit for bit but for the two rows of a GRU's bias, which come back as their sum and zeros for z and r."""
    network, params = read(name)
    prefix = PREFIXES.get(name, name.partition("_")[0])
    layers = OPTIONS["stack"]["layers"] if name == "stack" else None
    back = to_keras(network, params, prefix=prefix, layers=layers)
    want = dict(GOLDENS[name].weights)
    for key, bias in want.items():
        if bias.shape == (2, 12):
            zr, n = np.split(bias, [8], axis=1)
            want[key] = np.concatenate([np.stack([zr.sum(0), np.zeros(8, np.float32)]), n], axis=1)
    golden.assert_bitwise(back, want)


def test_a_layer_in_a_model_and_a_cell_alone():
    weights = {f"sequential/{name}": array for name, array in GOLDENS["gru"].weights.items()} | {
        "sequential/dense/kernel": 1
    }
    network, params = from_keras(weights, prefix="sequential/gru")
    assert network == jl.Layer(jl.GRUCell(4))
    assert list(to_keras(network.cell, params)) == ["kernel", "recurrent_kernel", "bias"]
    again, _ = from_keras(to_keras(network.cell, params))
    assert again == network


def test_two_directions_by_name():
    network, params = read("bidirectional")
    pair = (("forward_lstm_7", "backward_lstm_7"),)
    weights = to_keras(network, params, prefix="bidirectional_2", layers=pair)
    assert "bidirectional_2/backward_lstm_7/lstm_cell/kernel" in weights
    for options in ({}, {"prefix": "bidirectional_2", "layers": pair}):
        assert from_keras(weights, **options)[0] == network


def test_both_slopes_of_hard_sigmoid():
    z = jnp.linspace(-4, 4, 9)
    slopes = {}
    for name in ("hard_sigmoid", "keras2_hard_sigmoid"):
        cell = from_keras(GOLDENS["lstm"].weights, recurrent_activation=name)[0].cell
        slopes[name] = float(jax.grad(cell.gate_fn)(0.1))
        np.testing.assert_allclose(cell.gate_fn(z), np.clip(z * slopes[name] + 0.5, 0, 1), atol=1e-7)
    assert slopes == pytest.approx({"hard_sigmoid": 1 / 6, "keras2_hard_sigmoid": 0.2})


@pytest.fixture(scope="module")
def keras():
    """Keras on JAX, which it must be told before it is imported."""
    os.environ["KERAS_BACKEND"] = "jax"
    keras = pytest.importorskip("keras", reason="keras is not installed")
    if keras.backend.backend() != "jax":
        pytest.skip(f"keras runs on {keras.backend.backend()}")
    return keras


def test_activations_are_those_of_keras_by_name(keras):
    z = jnp.linspace(-5, 5, 41, dtype=np.float32)
    with jax.numpy_dtype_promotion("standard"):
        for name, function in KERAS.items():
            if name != "keras2_hard_sigmoid":
                theirs = keras.activations.get(name)(z)
                np.testing.assert_allclose(function(z), theirs, rtol=1e-6, atol=1e-6, err_msg=name)


@given(data=st.data())
def test_any_mutation_is_an_error_that_names_a_tensor(data):
    name = data.draw(st.sampled_from(sorted(GOLDENS)))
    weights = GOLDENS[name].weights
    free = [(key, 0) for key in weights if key.endswith("/kernel") and "bidirectional" not in key]
    optional = [key for key in weights if key.endswith("bias") and "bidirectional" not in key]
    options = {"reset_after": name != "gru_before"} | OPTIONS.get(name, {})  # which the bias's rank tells otherwise
    optional += [key for key in weights if name == "stack" and key.endswith("bias")]
    mutated = data.draw(mutations(weights, free, optional, ("lstm/", "bidirectional/") if name == "stack" else ("",)))
    assume(not any(getattr(array, "shape", None) in ((32,), (24,)) for array in mutated[1].values()))  # those of CuDNN
    assert_named_error(lambda weights: from_keras(weights, **options), mutated)


LSTM, GRU = GOLDENS["lstm"].weights, GOLDENS["gru"].weights
NO_BIAS = GOLDENS["gru_no_bias"].weights
WRONG = {
    "rnn": (
        GOLDENS["rnn"].weights,
        {},
        "activation: expected that of the SimpleRNN 'simple_rnn/simple_rnn_cell/', .* None",
    ),
    "which GRU": (
        NO_BIAS,
        {},
        "reset_after: expected True or False for the GRU 'gru/gru_cell/', which only a bias would show",
    ),
    "not that GRU": (
        GRU,
        {"reset_after": False},
        r"gru/gru_cell/bias: expected shape \(12,\) for reset_after=False, got \(2, 12\)",
    ),
    "bias": (
        GRU | {"gru/gru_cell/bias": np.ones(8, "f4")},
        {},
        r"gru/gru_cell/bias: expected shape \(2, 12\) or \(12,\), got \(8,\)",
    ),
    "gates": (
        LSTM | {"lstm/lstm_cell/recurrent_kernel": np.ones((4, 15), "f4")},
        {},
        r"lstm/lstm_cell/recurrent_kernel: expected a multiple .* got 15 in shape \(4, 15\)",
    ),
    "order": (
        GOLDENS["stack"].weights,
        {},
        "layers: expected the names of the layers, .* out of 'lstm', 'bidirectional' .* got None",
    ),
    "name": (
        LSTM,
        {"recurrent_activation": "hard"},
        r"recurrent_activation: expected a function or one of .* got 'hard'",
    ),
    "merge": (LSTM, {"merge_mode": "mean"}, "merge_mode: expected 'concat' or 'sum' or 'mul' or 'ave', got 'mean'"),
}


@pytest.mark.parametrize(("weights", "options", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_by_name(weights, options, message):
    with pytest.raises(ValueError, match=message):
        from_keras(weights, **options)


def test_directions_must_fit_each_other():
    weights = dict(GOLDENS["bidirectional"].weights)
    for direction in ("forward_lstm", "backward_lstm"):
        one = {name: array for name, array in weights.items() if name != f"bidirectional/{direction}/lstm_cell/bias"}
        message = f"bidirectional/{direction}: expected a tensor 'bias', as the other direction has, got none"
        with pytest.raises(ValueError, match=message):
            from_keras(one)
    name = "bidirectional/backward_lstm/lstm_cell/kernel"
    weights[name] = weights[name][:2]
    with pytest.raises(ValueError, match="backward_lstm: expected 3 input features, as forward, got 2"):
        from_keras(weights)


def test_a_stack_needs_names():
    network, params = read("gru")
    with pytest.raises(ValueError, match="layers: expected 1 names or pairs of names, bottom first, got None"):
        to_keras(jl.Stack(network), (params,))
