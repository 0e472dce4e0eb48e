"""Flax's weights, linen and nnx: its own results again, its dicts back, and what is wrong with one."""

import golden
import jax
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from mutations import assert_named_error, mutations

import jaxlstm as jl
from jaxlstm.interop import from_flax, to_flax

GOLDENS = golden.load("flax")
COMPACT = ("OptimizedLSTMCell_0", "GRUCell_0")
OPTIONS = {name: {"activation_fn": jax.numpy.tanh} for name in GOLDENS if name.endswith("simple")}
OPTIONS["linen_compact"] = {"layers": COMPACT}


def read(name, weights=None):
    return from_flax(weights or GOLDENS[name].weights, **OPTIONS.get(name, {}))


@pytest.mark.parametrize("name", GOLDENS)
def test_the_same_numbers_as_flax(name):
    golden.assert_same(GOLDENS[name], *read(name), order=(1, 0))


def test_networks():
    assert read("linen_lstm")[0] == read("nnx_optimized_lstm")[0] == jl.Layer(jl.LSTMCell(4))
    assert read("linen_bidirectional")[0] == jl.Bidirectional(jl.LSTMCell(4))
    assert read("linen_compact")[0] == jl.Stack(jl.LSTMCell(4), jl.GRUCell(4))
    weights = {f"a/{name}": array for name, array in GOLDENS["nnx_gru"].weights.items()}
    cell = jl.GRUCell(4, gate_fn=jax.nn.hard_sigmoid, activation_fn=jax.nn.relu)
    network, _ = from_flax(weights, prefix="a", gate_fn=jax.nn.hard_sigmoid, activation_fn=jax.nn.relu)
    assert network == jl.Layer(cell)


@pytest.mark.parametrize("name", GOLDENS)
def test_back_again_bit_for_bit(name):
    layout = "nnx_optimized" if name == "nnx_optimized_lstm" else name.partition("_")[0]
    network, params = read(name)
    back = to_flax(
        network,
        params,
        layout=layout,
        layers=COMPACT if name == "linen_compact" else None,
    )
    golden.assert_bitwise(flat(back), flat(GOLDENS[name].weights))


def test_sequences_and_prefixes():
    (_, lower), (_, upper) = read("nnx_lstm"), read("nnx_gru")
    network, params = jl.Stack(jl.LSTMCell(4), jl.GRUCell(4)), (lower, upper._replace(w_ih=upper.w_hh))
    linen = to_flax(network, params, layout="linen", prefix="encoder")
    assert set(linen["encoder"]) == {"layers_0", "layers_1"}
    nnx = to_flax(network, params, layout="nnx", prefix="encoder")
    assert set(nnx["encoder"]["layers"]) == {0, 1}
    named = to_flax(network, params, layout="nnx", layers=("below/cell", "above/cell"))
    assert set(named["below"]["cell"]) == {"ii", "if_", "ig", "io", "hi", "hf", "hg", "ho"}
    both = from_flax(linen, prefix="encoder"), from_flax(nnx), from_flax(named, layers=("below", "above/cell"))
    for again, again_params in both:
        assert again == network
        jax.tree.map(np.testing.assert_array_equal, again_params, params)


def test_two_directions_by_name():
    _, params = read("linen_lstm")
    network = jl.Bidirectional(jl.LSTMCell(4))
    weights = to_flax(network, (params, params), layout="linen", layers=(("there", "back"),))
    assert set(weights) == {"there", "back"}
    assert from_flax(weights, layers=(("there", "back"),))[0] == network


def drawn(network):
    """Float32 params, nowhere zero, but for the b_hn of a GRU that nnx has not."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(scale=0.5, size=leaf.shape).astype("f4"), golden.zeros(network))


def flat(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    return dict(sorted(named.items()))


@given(data=st.data())
def test_any_mutation_is_an_error_that_names_a_tensor(data):
    name = data.draw(st.sampled_from(sorted(GOLDENS)))
    free = [(key, 0) for key in GOLDENS[name].weights if key.endswith("dense_i/kernel")]
    free += [("cell/i/kernel", 0)]
    read_below = tuple(f"{layer}/" for layer in COMPACT) if name == "linen_compact" else ("",)
    mutated = data.draw(mutations(GOLDENS[name].weights, free, read=read_below))
    assume("misnamed cell/if_/kernel" not in mutated[0])  # which is nnx's name for it
    assert_named_error(lambda weights: read(name, weights), mutated)


def without(weights, *names):
    return {name: array for name, array in weights.items() if name not in names}


LSTM, GRU = GOLDENS["linen_lstm"].weights, GOLDENS["nnx_gru"].weights
TWO = {f"{rnn}/{name}": array for rnn in ("rnn", "other") for name, array in GRU.items()}
WRONG = {
    "missing": (without(LSTM, "cell/hf/bias"), {}, "cell/hf/bias: expected a tensor of this name for Flax's LSTMCell"),
    "extra": (LSTM | {"cell/ii/bias": LSTM["cell/hf/bias"]}, {}, "cell/ii/bias: expected no tensor of this name"),
    "shape": (
        LSTM | {"cell/if/kernel": LSTM["cell/hf/kernel"]},
        {},
        r"cell/if/kernel: expected shape \(3, 4\), got \(4, 4\)",
    ),
    "bias of a GRU": (
        {name.replace("i/bias", "h/bias"): array for name, array in GRU.items()},
        {},
        r"cell/dense_h/kernel: expected a multiple of the hidden size 4, by 4 \(LSTM\), got 12",
    ),
    "an MGU": (
        {f"{gate}/kernel": np.ones((4, 4), "f4") for gate in ("if", "in", "hf", "hn")},
        {},
        "expected a tensor of this name for Flax's",
    ),
    "two": (TWO, {}, "layers: expected the names of the layers, bottom first, out of 'rnn', 'other' .* got None"),
    "no such": (TWO, {"layers": ("rnn", "no")}, "layers: expected the name of one of 'rnn', 'other', got 'no'"),
    "sizes": (
        TWO,
        {"layers": ("rnn", "other")},
        r"layers\[1\]: expected 4 input features, the outputs of the layer below, got 3",
    ),
    "twice": (TWO, {"layers": ("rnn", "rnn")}, "layers: expected different names"),
    "a string": (TWO, {"layers": "rnn"}, "layers: expected a tuple of names, bottom first, got 'rnn'"),
    "three": (TWO, {"layers": (("a", "b", "c"),)}, "layers: expected names, or pairs of names"),
    "activation": (
        GOLDENS["nnx_simple"].weights,
        {},
        "activation_fn: expected that of the SimpleCell 'cell/', which weights do not show, got None",
    ),
    "prefix": (LSTM, {"prefix": "rnn"}, "prefix: expected the name of one of 'cell', got 'rnn'"),
    "same name": ({"a": {"b": LSTM}, "a/b": LSTM}, {}, "weights: expected different names, got two tensors named"),
}


@pytest.mark.parametrize(("weights", "options", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_by_name(weights, options, message, without_type_hook):
    with pytest.raises((ValueError, TypeError), match=message):
        from_flax(weights, **options)


NOT_IN_FLAX = {
    "b_hn": (jl.GRUCell(4), {"layout": "nnx"}, r"params\.b_hn: expected zeros for nnx\.GRUCell, which has none"),
    "reset before": (
        jl.GRUCell(4, reset_after=False),
        {"layout": "linen"},
        "network: expected GRU cells with reset_after",
    ),
    "variant": (jl.LSTMVariantCell(4), {"layout": "linen"}, "network: expected LSTMCell, GRUCell and RNNCell alone"),
    "reverse": (jl.Layer(jl.LSTMCell(4), reverse=True), {"layout": "nnx"}, r"network: expected Layer\(..., reverse=F"),
    "layout": (jl.LSTMCell(4), {"layout": "jax"}, "layout: expected 'linen' or 'nnx' or 'nnx_optimized', got 'jax'"),
    "layers": (
        jl.Stack(jl.LSTMCell(4)),
        {"layout": "nnx", "layers": ("a", "b")},
        "layers: expected 1 names or pairs of names, got",
    ),
    "pair": (
        jl.Layer(jl.LSTMCell(4)),
        {"layout": "nnx", "layers": (("a", "b"),)},
        "layers: expected one name for Layer",
    ),
}


@pytest.mark.parametrize(("network", "options", "message"), NOT_IN_FLAX.values(), ids=NOT_IN_FLAX)
def test_networks_that_flax_has_not(network, options, message):
    with pytest.raises(ValueError, match=message):
        to_flax(network, drawn(network), **options)
