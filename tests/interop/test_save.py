"""A network in a file and back: the same network, the same numbers, and every way in which a file can be wrong."""

import json
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from numpy.testing import assert_array_equal
from properties import MinimalGatedCell, params_of

import jaxlstm as jl
from jaxlstm.interop import OnnxFunction, load, load_params, save, save_params
from jaxlstm.interop._description import _FUNCTIONS, from_text, to_text

NETWORKS = {  # every class, and every option with a value that is not its default
    "lstm": jl.LSTMCell(
        3, forget_bias=0.5, gate_fn=jax.nn.hard_sigmoid, activation_fn=jnp.sin, w_hh_init=jl.torch_uniform
    ),
    "lstm-b_init": jl.LSTMCell(3, b_init=jax.nn.initializers.ones),
    "chrono": jl.Bidirectional(jl.LSTMCell(3, b_init=jl.chrono(784)), jl.GRUCell(3, b_init=jl.chrono(9.5))),
    "gru": jl.Layer(jl.GRUCell(3, reset_after=False, gate_fn=OnnxFunction("HardSigmoid", 0.2, 0.5)), reverse=True),
    "rnn": jl.Bidirectional(jl.RNNCell(3, activation_fn=jax.nn.relu), jl.RNNCell(3), merge="mul"),
    "variants": jl.LSTMVariantCell(3, peephole=True, coupled=True, projection_size=2, layer_norm=True, clip=2.5),
    "stack": jl.Stack(
        jl.Stack(jl.Bidirectional(jl.Zoneout(jl.LSTMCell(3), h=0.1, c=0.25)), jl.GRUCell(2), dropout=0.5),
        jl.RecurrentDropout(jl.Zoneout(jl.GRUCell(2), h=0.1), 0.25),
    ),
    "mgu": jl.MGUCell(
        3,
        reset_gate=False,
        gate_fn=jax.nn.hard_sigmoid,
        activation_fn=jax.nn.relu,
        w_ih_init=jl.orthogonal,
        w_hh_init=jl.torch_uniform,
        b_init=jax.nn.initializers.ones,
    ),
    "min_gru": jl.MinGRUCell(
        3, activation_fn=jl.min_activation, w_ih_init=jl.orthogonal, b_init=jax.nn.initializers.ones
    ),
    "min_lstm": jl.Bidirectional(
        jl.MinLSTMCell(3, activation_fn=jnp.tanh, w_ih_init=jl.orthogonal, b_init=jax.nn.initializers.ones)
    ),
    "ind_rnn": jl.IndRNNCell(
        3, activation_fn=jnp.tanh, w_ih_init=jl.orthogonal, u_init=jl.torch_uniform, b_init=jax.nn.initializers.ones
    ),
    "slstm": jl.SLSTMCell(
        4,
        num_heads=2,
        exponential_forget=True,
        w_ih_init=jl.orthogonal,
        w_hh_init=jl.torch_uniform,
        b_init=jl.chrono(9),
    ),
    "mlstm": jl.LearnedCarry(
        jl.MLSTMCell(4, num_heads=2, exponential_forget=True, forget_bias=2.5, w_ih_init=jl.torch_uniform)
    ),
    "lru": jl.LRUCell(3, state_size=2, r_min=0.5, r_max=0.9, max_phase=1.5),
    "conv_lstm": jl.Bidirectional(
        jl.ConvLSTMCell(
            3,
            spatial_shape=(4, 2),
            kernel_shape=(3, 5),
            peephole=False,
            w_ih_init=jl.torch_uniform,
            w_hh_init=jl.torch_uniform,
            b_init=jl.chrono(9),
        ),
        jl.ConvLSTMCell(2, spatial_shape=(4, 2), forget_bias=0.5),
    ),
    "learned": jl.Stack(
        jl.Bidirectional(jl.LearnedCarry(jl.Zoneout(jl.LSTMCell(3), c=0.1)), jl.MGUCell(3)),
        jl.RecurrentDropout(jl.LearnedCarry(jl.LearnedCarry(jl.GRUCell(2, bias=False))), 0.25),
    ),
    "no bias": jl.Stack(
        jl.Bidirectional(jl.LSTMCell(3, bias=False), jl.LSTMVariantCell(3, peephole=True, bias=False)),
        jl.Bidirectional(jl.GRUCell(2, bias=False), jl.MGUCell(2, bias=False)),
        jl.Bidirectional(jl.RNNCell(2, bias=False), jl.IndRNNCell(2, bias=False)),
        jl.Bidirectional(jl.MinGRUCell(2, bias=False), jl.MinLSTMCell(2, bias=False)),
        jl.Bidirectional(jl.SLSTMCell(2, bias=False), jl.MLSTMCell(2, bias=False)),
    ),
}
GRU = jl.GRUCell(2)


def weights_of(network, dtype=np.float32):
    return params_of(network, 4, np.random.default_rng(3), dtype)


@pytest.fixture
def path(tmp_path):
    save(tmp_path / "network.safetensors", GRU, weights_of(GRU))
    return tmp_path / "network.safetensors"


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_the_round_trip_changes_nothing(tmp_path, network):
    params = weights_of(network)
    save(tmp_path / "x", network, params)
    loaded, got = load(str(tmp_path / "x"))
    assert loaded == network
    assert type(loaded) is type(network)
    assert jax.tree.structure(got) == jax.tree.structure(params)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(params), strict=True):
        assert isinstance(one, jax.Array)
        assert one.dtype == other.dtype
        assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_dtypes_are_kept(tmp_path, dtype):
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), weights_of(GRU))
    save(tmp_path / "x", GRU, params)
    got = load(tmp_path / "x")[1]
    assert {str(leaf.dtype) for leaf in got} == {dtype}
    assert_array_equal(got.w_hh, params.w_hh)


def test_other_programs_can_read_it(path):
    tensors = safetensors.numpy.load_file(path)
    assert set(tensors) == {"w_ih", "w_hh", "b", "b_hn"}
    with safetensors.safe_open(path, "numpy") as file:
        description = json.loads(file.metadata()["description"])
    assert description["version"] == 1
    assert description["network"]["hidden_size"] == 2
    assert_array_equal(load_params(path, weights_of(GRU)).b, tensors["b"])


def test_tensors_of_a_learned_carry_are_named_by_their_paths(tmp_path):
    network = jl.Bidirectional(jl.LearnedCarry(jl.LSTMCell(2, bias=False)))
    save(tmp_path / "x", network, weights_of(network))
    names = ("cell.w_ih", "cell.w_hh", "initial_carry.h", "initial_carry.c")
    assert set(safetensors.numpy.load_file(tmp_path / "x")) == {f"{k}.{name}" for k in (0, 1) for name in names}


@pytest.mark.parametrize("name", _FUNCTIONS)
def test_every_function_with_a_name_comes_back(name):
    cell = jl.RNNCell(2, activation_fn=_FUNCTIONS[name])
    assert from_text(to_text(cell, 1)) == (cell, 1)


def test_numbers_of_numpy_are_written_as_numbers(without_type_hook):
    cell = jl.LSTMVariantCell(np.int64(2), clip=np.float32(0.5))
    assert from_text(to_text(cell, 1))[0] == jl.LSTMVariantCell(2, clip=0.5)


NAMELESS = {
    "lambda": (
        jl.RNNCell(2, activation_fn=lambda z: z),
        "network.activation_fn: expected a function or class with a name",
    ),
    "partial": (
        jl.Stack(
            jl.RNNCell(2), jl.Bidirectional(jl.GRUCell(2, gate_fn=partial(jax.nn.leaky_relu, negative_slope=0.2)))
        ),
        r"network.layers\[1\].cell.gate_fn: expected .* got functools.partial",
    ),
    "closure": (jl.GRUCell(2, b_init=jax.nn.initializers.constant(1.0)), "network.b_init: expected"),
    "a user's cell": (jl.Layer(MinimalGatedCell(2)), "network.cell: expected .* got MinimalGatedCell"),
    "merge": (jl.Bidirectional(jl.GRUCell(2), merge=jnp.subtract), "network.merge: expected"),
}


@pytest.mark.parametrize(("network", "message"), NAMELESS.values(), ids=NAMELESS)
def test_what_has_no_name_is_an_error_when_it_is_saved(tmp_path, network, message):
    with pytest.raises(ValueError, match=message):
        save(tmp_path / "x", network, weights_of(network))
    assert not list(tmp_path.iterdir())


def test_params_that_do_not_fit_are_an_error_when_they_are_saved(tmp_path):
    with pytest.raises(ValueError, match=r"params.b: expected shape \(6,\) for GRUCell\(hidden_size=2\), got \(5,\)"):
        save(tmp_path / "x", GRU, weights_of(GRU)._replace(b=np.zeros(5)))
    with pytest.raises(TypeError, match="params: expected tuple, got GRUParams"):
        save(tmp_path / "x", jl.Stack(GRU), weights_of(GRU))
    with pytest.raises(TypeError, match="params: expected LearnedCarryParams, got GRUParams"):
        save(tmp_path / "x", jl.LearnedCarry(GRU), weights_of(GRU))
    with pytest.raises(TypeError, match="params: expected GRUParams, got LearnedCarryParams"):
        save(tmp_path / "x", GRU, weights_of(jl.LearnedCarry(GRU)))
    with pytest.raises(ValueError, match=r"params: expected GRUParams\(.*b_hn=None\), got GRUParams\(.*b_hn='float32"):
        save(tmp_path / "x", jl.GRUCell(2, bias=False), weights_of(GRU))


def write(path, description, params=None):
    """A file whose checksum is right, whatever it says."""
    from jaxlstm.interop._safetensors import write

    text = description if isinstance(description, str) else json.dumps(description)
    write(path, weights_of(GRU) if params is None else params, {"description": text})


def changed(**changes):
    """The description of GRU with some of it changed."""
    description = json.loads(to_text(GRU, 4))
    for key, value in changes.items():
        (description if key in description else description["network"])[key] = value
    return description


DEEP = "{" + '"type":"Layer","cell":{' * 3000
DESCRIPTIONS = {
    "version": (changed(version=2), "format version: expected 1, the only one that this version .* reads, got 2"),
    "no version": ({}, "format version: expected 1, .* got None"),
    "no JSON": ("{", "Expecting property name"),
    "a list": ([1], "format version: expected 1"),
    "another key": ({**changed(), "more": 1}, "description: expected the keys input_size, network, version"),
    "class": (
        changed(type="Popen"),
        "network: expected one of Stack, .*, got Popen|network: expected one of .* 'Popen'",
    ),
    "no option": (changed(network={"type": "GRUCell"}), "network: expected the keys activation_fn, b_init"),
    "function": (
        changed(gate_fn={"function": "os.system"}),
        "network.gate_fn: expected one of jax.nn.celu, .*os.system",
    ),
    "no flag": (changed(bias=0), "bias: expected True or False, got 0"),
    "no bias": (changed(bias=False), "expected only the 2 tensors of the template, got also 'b'"),
    "no list": (
        changed(network={"type": "Stack", "layers": 3, "dropout": 0.0}),
        r"network.layers: expected a list of layers, got 3 \(int\)",
    ),
    "a huge learned carry": (
        changed(network={"type": "LearnedCarry", "cell": changed(hidden_size=10**9)["network"]}),
        r"expected a tensor 'cell.b', got none of that name",
    ),
    "no function": (changed(gate_fn=3), "gate_fn: expected a function, got 3"),
    "chrono": (changed(b_init={"type": "Chrono", "longest": 1}), "longest: expected more than 2 steps, got 1"),
    "not an initialiser": (changed(w_ih_init={"function": "jax.numpy.tanh"}), "tanh"),
    "size": (changed(hidden_size=-1), "hidden_size: expected a positive int, got -1"),
    "a huge size": (changed(hidden_size=10**9), r"w_ih: expected shape \(4, 3000000000\), got \(4, 6\)"),
    "too huge a size": (changed(hidden_size=10**30), "network.hidden_size: expected an integer up to 2147483647"),
    "input_size": (changed(input_size="4"), "input_size: expected a positive int"),
    "another input_size": (changed(input_size=5), r"w_ih: expected shape \(5, 6\), got \(4, 6\)"),
    "a function as a network": (changed(network={"function": "jax.nn.relu"}), "network: expected a network or a cell"),
    "too long": ("1" * 2**21, "description: expected at most 1048576 characters"),
    "too deep": (DEEP + "}" * 3001, "network.safetensors: "),
    "deep": (json.dumps({"version": 1, "input_size": 1, "network": eval("[" * 80 + "]" * 80)}), "at most 64 levels"),
    "empty stack": (
        changed(network={"type": "Stack", "layers": [], "dropout": 0.0}),
        "layers_or_cells: expected at least one",
    ),
}


@pytest.mark.parametrize(("description", "message"), DESCRIPTIONS.values(), ids=DESCRIPTIONS)
def test_a_description_that_makes_no_sense_is_an_error_that_names_the_file(
    tmp_path, without_type_hook, description, message
):
    write(tmp_path / "network.safetensors", description)
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path / "network.safetensors")
    assert "network.safetensors: " in str(caught.value)


def test_tensors_that_are_not_those_described(tmp_path):
    params = weights_of(GRU)
    write(tmp_path / "x", changed(), params._replace(b=np.zeros(6, np.int32)))
    with pytest.raises(ValueError, match="x: b: expected dtype float32, got int32"):
        load(tmp_path / "x")
    write(tmp_path / "x", changed(), params._replace(b_hn=None))
    with pytest.raises(ValueError, match="x: expected a tensor 'b_hn', got none of that name among 3 tensors"):
        load(tmp_path / "x")


def test_a_changed_number_is_an_error(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        ValueError, match=r"network\.safetensors: expected tensors with the checksum .* the file is damaged"
    ):
        load(path)


def test_params_alone_are_no_network(tmp_path):
    save_params(tmp_path / "x", weights_of(GRU))
    with pytest.raises(ValueError, match=r"x: expected a file of jaxlstm\.interop\.save, with a description"):
        load(tmp_path / "x")


def test_float64_is_not_rounded_in_silence(tmp_path, without_x64):
    save(tmp_path / "x", GRU, weights_of(GRU, np.float64))
    with pytest.raises(ValueError, match="x: w_ih: expected at most 32 bits without jax_enable_x64, got float64"):
        load(tmp_path / "x")


def test_without_the_package_the_message_names_the_extra(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxlstm\[safetensors\]'"):
        load(path)
