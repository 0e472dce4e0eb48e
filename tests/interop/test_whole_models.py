"""Whole models: layers chosen by name, whatever lies beside them, and what is said where there is no choice."""

from pathlib import Path

import golden
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import jaxlstm as jl
from jaxlstm.interop import from_equinox, from_flax, from_haiku, from_keras, from_torch, to_torch

FOLDER = Path(__file__).parent / "goldens" / "torch_models"
OUTPUTS = dict(np.load(FOLDER / "outputs.npz"))


def assert_computes(network_and_params, model, xs, ys, carry=None):
    network, params = network_and_params
    want = OUTPUTS[f"{model}/{ys}"]
    _, got = jax.jit(network.apply)(params, OUTPUTS[f"{model}/{xs}"], carry)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_a_tagger_of_torch():
    """An embedding in bfloat16 and a float8 tensor lie in the file, and the LSTM has no biases."""
    both = jl.Bidirectional(jl.LSTMCell(2, bias=False))
    network, params = found = from_torch(FOLDER / "tagger.safetensors", prefix="lstm")
    assert network == jl.Stack(both, both)
    assert_computes(found, "tagger", "embedded", "lstm")
    assert "bias_ih_l0" not in to_torch(network, params)


def test_a_crnn_of_torch():
    """Two modules, one on top of the other, and an integer of BatchNorm."""
    layers = ("rnns.0", "rnns.1")
    network, params = found = from_torch(FOLDER / "crnn.safetensors", layers=layers)
    assert network == jl.Stack(jl.Bidirectional(jl.GRUCell(3)), jl.GRUCell(2))
    assert_computes(found, "crnn", "features", "upper")
    assert_computes(from_torch(FOLDER / "crnn.safetensors", prefix="rnns.1"), "crnn", "lower", "upper")
    back = to_torch(network, params, layers=layers)
    assert {"rnns.0.weight_hh_l0_reverse", "rnns.1.weight_ih_l0"} < set(back)
    again, more = from_torch(back, layers=layers)
    assert again == network
    jax.tree.map(np.testing.assert_array_equal, more, params)


def test_an_encoder_and_a_decoder_of_torch():
    encoder, params = from_torch(FOLDER / "translator.safetensors", prefix="encoder")
    carry, _ = encoder.apply(params, OUTPUTS["translator/source"])
    decoder = from_torch(FOLDER / "translator.safetensors", prefix="decoder")
    assert_computes(decoder, "translator", "target", "decoded", carry)


GRU = golden.load("torch")["gru"].weights
LSTM = golden.load("torch")["lstm_no_bias"].weights
MODEL = {
    **{f"encoder.{name}": array for name, array in LSTM.items()},
    **{f"decoder.{name}": array for name, array in GRU.items()},
    "emb.weight": np.ones((9, 3), ml_dtypes.bfloat16),
    "norm.num_batches_tracked": np.array(3),
    "name": "what a checkpoint has besides",
}
WRAPPERS = ("module.", "_orig_mod.", "_orig_mod.module.", "state_dict.model.", "")


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_what_wraps_a_model_can_be_left_out(wrapper):
    weights = {wrapper + name: array for name, array in MODEL.items()} | {"epoch": 3}
    for prefix in ("decoder", f"{wrapper}decoder", f"{wrapper}decoder."):
        network, params = from_torch(weights, prefix=prefix)
        assert network == jl.Stack(jl.GRUCell(4), jl.GRUCell(4))
        np.testing.assert_array_equal(params[0].w_hh, GRU["weight_hh_l0"].T)


def test_a_checkpoint_as_it_is():
    checkpoint = {"state_dict": MODEL, "epoch": 3, "optimizer": {"state": {0: {"exp_avg": np.ones(2)}}, "groups": [1]}}
    assert from_torch(checkpoint, layers=("encoder",))[0] == jl.Layer(jl.LSTMCell(4, bias=False))


def test_what_torch_saved_itself_is_left_to_torch(tmp_path):
    for start in (b"PK\x03\x04", b"\x80\x02"):
        (tmp_path / "m.pt").write_bytes(start + bytes(100))
        with pytest.raises(
            ValueError, match=r"m.pt: expected a safetensors file, .* torch.load\(path, weights_only=True\)"
        ):
            from_torch(tmp_path / "m.pt")


class Parameter:
    """A tensor as torch has it: NumPy gets it only without its gradient, and from the CPU."""

    def __init__(self, array, ready=False):
        self.array, self.ready, self.shape, self.dtype = array, ready, array.shape, f"torch.{array.dtype}"

    def detach(self):
        return self

    def cpu(self):
        return Parameter(self.array, ready=True)

    def __array__(self, dtype=None, copy=None):
        if not self.ready:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad")
        return self.array


def test_parameters_with_gradients():
    _, params = from_torch({name: Parameter(array) for name, array in LSTM.items()})
    np.testing.assert_array_equal(params.w_hh, LSTM["weight_hh_l0"].T)


def model_of(framework):
    """A layer as its framework made it, and in a model with other things."""
    _, layer, separator, start = CASES[framework]
    weights = golden.load(framework)[layer].weights
    model = {"model/emb/x": np.ones((9, 3), ml_dtypes.bfloat16), "model/norm/x": np.array(3), "model/x": "no array"}
    model |= {f"model/core/{name.removeprefix(start)}": array for name, array in weights.items()}
    return {name.replace("/", separator): value for name, value in model.items()}, weights


CASES = {  # reader, layer, separator, and what the layer's names begin with
    "torch": (from_torch, "lstm", ".", ""),
    "keras": (from_keras, "lstm", "/", "lstm/"),
    "flax": (from_flax, "linen_lstm", "/", ""),
    "haiku": (from_haiku, "lstm", "/", "lstm/"),
    "equinox": (from_equinox, "lstm", ".", ""),
}


@pytest.mark.parametrize("framework", CASES)
def test_layers_and_prefix_choose_among_whatever_is_there(framework):
    read, _, separator, _ = CASES[framework]
    model, alone = model_of(framework)
    network, params = read(alone)
    whole = f"model{separator}core"
    names = ({"prefix": whole}, {"prefix": "core"}, {"layers": ("core",)}, {"layers": (whole,)})
    for options in (*names, {"prefix": "model", "layers": ("core",)}, {"prefix": "model", "layers": (whole,)}):
        again, others = read(model, **options)
        assert again == network
        jax.tree.map(np.testing.assert_array_equal, others, params)


@pytest.mark.parametrize("framework", CASES)
def test_without_a_choice_the_message_lists_the_layers(framework):
    read, _, separator, _ = CASES[framework]
    weights, _ = model_of(framework)
    path = f"model{separator}core"
    expected = (
        rf"layers: expected the names of the layers, .* out of '{path}' \(or prefix='{path}' for that one\), got None"
    )
    with pytest.raises(ValueError, match=expected):
        read(weights)
    with pytest.raises(ValueError, match=f"prefix: expected the name of one of '{path}', got 'other'"):
        read(weights, prefix="other")
    assert read(weights, prefix=path)[0] == read(weights, prefix="core")[0]


@pytest.mark.parametrize("framework", CASES)
def test_a_name_that_two_layers_end_in_is_not_guessed(framework):
    read, _, separator, _ = CASES[framework]
    weights, _ = model_of(framework)
    twice = {f"{part}{separator}{name}": value for part in "ab" for name, value in weights.items()}
    message = rf"prefix: expected .*, got 'core', the end of 'a{separator}model{separator}core', 'b{separator}model"
    with pytest.raises(ValueError, match=message):
        read(twice, prefix="core")
    assert read(twice, prefix=f"a{separator}model{separator}core")[0] == read(weights, prefix="core")[0]


@pytest.mark.parametrize("framework", CASES)
def test_only_what_is_chosen_is_read(framework):
    """The dtypes of the layers chosen must agree, and no others."""
    read = CASES[framework][0]
    weights, _ = model_of(framework)
    weights |= {
        name.replace("core", "half"): np.asarray(array, np.float16) for name, array in weights.items() if "core" in name
    }
    assert read(weights, layers=("core",))[1] is not None
    for names in (("core", "half"), (("core", "half"),)):
        if framework != "torch" or isinstance(names[0], str):
            with pytest.raises(ValueError, match=r"expected dtype float(32|16), as of"):
                read(weights, layers=names)


def test_modules_of_torch_have_both_directions_themselves(without_type_hook):
    with pytest.raises(ValueError, match="layers: expected names of modules"):
        from_torch(MODEL, layers=(("encoder", "decoder"),))
    network, params = from_torch(MODEL, prefix="decoder")
    with pytest.raises(ValueError, match=r"layers: expected 2 names, got \('a', 'b', 'c'\)"):
        to_torch(network, params, layers=("a", "b", "c"))
    assert set(to_torch(network, params, layers=("a",))) == {f"a.{name}" for name in GRU}


def test_flat_dicts_of_flax():
    """Keys as flax.traverse_util.flatten_dict makes them."""
    weights = {tuple(name.split("/")): array for name, array in golden.load("flax")["linen_lstm"].weights.items()}
    assert from_flax(weights)[0] == jl.Layer(jl.LSTMCell(4))


def test_what_layers_hold_that_is_no_weight():
    flax = dict(golden.load("flax")["nnx_lstm"].weights) | {"rngs/key": "a key", "rngs/count": np.array(1)}
    assert from_flax(flax)[0] == jl.Layer(jl.LSTMCell(4))
    keras = golden.load("keras")["lstm"].weights | {"seed_generator/seed_generator_state": np.ones(2, np.uint32)}
    assert from_keras(keras)[0] == jl.Layer(jl.LSTMCell(4))
    named = {f"{name}:0": array for name, array in golden.load("keras")["lstm"].weights.items()}  # as TensorFlow does
    assert from_keras(named)[0] == jl.Layer(jl.LSTMCell(4))


def test_an_equinox_module_with_functions_in_it():
    eqx = pytest.importorskip("equinox", reason="Equinox is not installed")

    class Model(eqx.Module):
        emb: eqx.nn.Embedding
        cells: list
        activation: object = jnp.tanh

    with jax.numpy_dtype_promotion("standard"):
        keys = jax.random.split(jax.random.key(0), 3)
        cells = [eqx.nn.GRUCell(3, 4, key=keys[0]), eqx.nn.LSTMCell(4, 2, use_bias=False, key=keys[1])]
        model = Model(eqx.nn.Embedding(9, 3, key=keys[2]), cells)
    network, params = from_equinox(model, prefix="cells")
    assert network == jl.Stack(jl.GRUCell(4), jl.LSTMCell(2, bias=False))
    np.testing.assert_array_equal(params[0].w_hh, cells[0].weight_hh.T)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_the_way_back_to_torch_in_every_dtype(dtype):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    module = torch.nn.LSTM(3, 4, num_layers=2, bias=False, dtype=getattr(torch, dtype))
    arrays = to_torch(*from_torch(dict(module.named_parameters())))
    tensors = {name: torch.from_dlpack(jnp.asarray(array)) for name, array in arrays.items()}
    again = torch.nn.LSTM(3, 4, num_layers=2, bias=False, dtype=getattr(torch, dtype))
    again.load_state_dict(tensors)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
