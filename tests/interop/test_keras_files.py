"""Files of Keras 2 and 3, read without Keras: the same numbers, and the options that the files tell."""

import json
import os
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm as jl
from jaxlstm.interop import from_keras
from jaxlstm.interop._activations import KERAS

h5py = pytest.importorskip("h5py", reason="h5py is not installed")

FOLDER = Path(__file__).parent / "goldens" / "keras2"
KERAS2 = dict(np.load(FOLDER / "outputs.npz"))
TAGGER = jl.Bidirectional(jl.LSTMCell(2), merge="sum"), jl.LSTMCell(4, gate_fn=KERAS["keras2_hard_sigmoid"])


def assert_computes(network_and_params, xs, want, tolerance=1e-6):
    network, params = network_and_params
    _, ys = jax.jit(network.apply)(params, jnp.asarray(xs))
    np.testing.assert_allclose(ys, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["tagger.keras", "tagger.h5"])
def test_a_model_of_keras_2_says_which_options_its_layers_have(name):
    """The names are the layers' own, though a .keras file has only their classes."""
    bi, top = from_keras(FOLDER / name, prefix="bi"), from_keras(FOLDER / name, prefix="top")
    assert (bi[0], top[0].cell) == TAGGER
    assert_computes(bi, KERAS2["embedded"], KERAS2["bi"])
    assert_computes(top, KERAS2["bi"], KERAS2["top"])
    both = from_keras(FOLDER / name, layers=("bi", "top"))
    assert both[0] == jl.Stack(*TAGGER)
    jax.tree.map(np.testing.assert_array_equal, both[1], (bi[1], top[1]))


@pytest.mark.parametrize(
    ("name", "bi", "top"), [("weights.h5", "bi", "top"), ("tagger.weights.h5", "bidirectional", "lstm")]
)
def test_weights_alone_need_the_options(name, bi, top):
    found = from_keras(FOLDER / name, prefix=bi, merge_mode="sum")
    assert_computes(found, KERAS2["embedded"], KERAS2["bi"])
    found = from_keras(str(FOLDER / name), prefix=top, recurrent_activation="keras2_hard_sigmoid")
    assert_computes(found, KERAS2["bi"], KERAS2["top"])


def test_options_that_are_given_come_first():
    cell = from_keras(FOLDER / "tagger.h5", prefix="top", recurrent_activation="relu", activation="elu")[0].cell
    assert cell == jl.LSTMCell(4, gate_fn=jax.nn.relu, activation_fn=jax.nn.elu)
    assert from_keras(FOLDER / "tagger.h5", prefix="bi", merge_mode="mul")[0].merge == "mul"


def test_layers_of_one_class_keep_their_order_and_options():
    network, params = found = from_keras(FOLDER / "two.keras", layers=("lower", "upper"))
    lower = jl.GRUCell(4, reset_after=False, activation_fn=jax.nn.relu)
    assert network == jl.Stack(lower, jl.GRUCell(2, bias=False))
    assert params[1].b is None
    assert_computes(found, KERAS2["xs"], KERAS2["two"])


def test_cudnn_layers():
    network, _ = found = from_keras(FOLDER / "cudnn.h5", layers=("cu", "cubi"))
    assert network == jl.Stack(jl.LSTMCell(4), jl.Bidirectional(jl.GRUCell(2)))
    assert_computes(found, KERAS2["xs"], KERAS2["cudnn"])
    with h5py.File(FOLDER / "cudnn.h5") as file:
        weights = {
            f"cu/{name}": np.asarray(file[f"model_weights/cu/cu/{name}:0"])
            for name in ("kernel", "recurrent_kernel", "bias")
        }
    assert from_keras(weights)[0] == jl.Layer(jl.LSTMCell(4))


@pytest.fixture
def old(tmp_path):
    """Weights written by a version whose default was hard_sigmoid."""
    path = tmp_path / "old.h5"
    with h5py.File(FOLDER / "weights.h5") as file, h5py.File(path, "w") as new:
        for layer in file:
            file.copy(layer, new)
        new.attrs["keras_version"] = b"2.2.4"
    return path


def test_an_old_file_of_weights_asks_for_the_activation_of_the_gates(old):
    message = r"recurrent_activation: expected 'keras2_hard_sigmoid', the default of Keras 2\.2, .* got None"
    with pytest.raises(ValueError, match=message):
        from_keras(old, prefix="top")
    found = from_keras(old, prefix="top", recurrent_activation="keras2_hard_sigmoid")
    assert_computes(found, KERAS2["bi"], KERAS2["top"])


def test_an_old_model_says_it_itself(tmp_path):
    with h5py.File(FOLDER / "tagger.h5") as file, h5py.File(tmp_path / "old.h5", "w") as new:
        for layer in file["model_weights"]:
            file.copy(f"model_weights/{layer}", new.require_group("model_weights"))
        layers = json.loads(file.attrs["model_config"])["config"]["layers"]
        new.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": layers})  # as it was until 2.2
        new.attrs["keras_version"] = b"2.2.0"
    assert from_keras(tmp_path / "old.h5", prefix="top")[0].cell == TAGGER[1]


@pytest.fixture(scope="module")
def keras():
    os.environ["KERAS_BACKEND"] = "jax"
    keras = pytest.importorskip("keras", reason="keras is not installed")
    if keras.backend.backend() != "jax":
        pytest.skip(f"keras runs on {keras.backend.backend()}")
    return keras


@pytest.fixture(scope="module")
def models(keras, tmp_path_factory):
    """Whole models of Keras 3 in files, and what their recurrent layers compute, time first."""
    folder, rng = tmp_path_factory.mktemp("keras3"), np.random.default_rng(0)
    outputs = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Keras's variables, by h5py
        built = {"tagger": tagger(keras), "crnn": crnn(keras), "encoder_decoder": encoder_decoder(keras)}
        for name, (model, xs, tensors) in built.items():
            model.set_weights([rng.normal(scale=0.5, size=w.shape) for w in model.get_weights()])
            for ending in ("keras", "weights.h5", "h5"):
                save = model.save_weights if ending == "weights.h5" else model.save
                save(folder / f"{name}.{ending}")
            ys = keras.Model(model.inputs, tensors)(xs)
            outputs[name] = [np.asarray(y).swapaxes(0, 1) for y in ys]
    return folder, outputs, {name: model for name, (model, _, _) in built.items()}


def tagger(keras):
    """A Sequential, whose name is in the paths of its variables."""
    layers = [keras.Input((None,), dtype="int32"), keras.layers.Embedding(9, 3, name="emb")]
    layers += [keras.layers.Bidirectional(keras.layers.LSTM(2, return_sequences=True, dropout=0.1), name="bi")]
    layers += [keras.layers.LSTM(4, return_sequences=True, recurrent_activation="hard_sigmoid", name="top")]
    model = keras.Sequential([*layers, keras.layers.Dense(2)])
    model.compile("adam", "mse")
    tensors = [model.get_layer(name).output for name in ("emb", "bi", "top")]
    return model, [np.arange(12).reshape(2, 6) % 9], tensors


def crnn(keras):
    """A functional model, with layers that have running means."""
    image = keras.Input((6, 4, 1))
    features = keras.layers.BatchNormalization()(keras.layers.Conv2D(2, 3, padding="same")(image))
    features = keras.layers.Reshape((6, 8))(features)
    lower = keras.layers.Bidirectional(keras.layers.GRU(3, return_sequences=True), merge_mode="ave", name="lower")
    upper = keras.layers.GRU(2, return_sequences=True, reset_after=False, use_bias=False, name="upper")
    ys = upper(lower(features))
    model = keras.Model(image, keras.layers.Dense(2)(ys), name="crnn")
    return model, [np.linspace(-1, 1, 2 * 6 * 4).reshape(2, 6, 4, 1)], [features, lower.output, ys]


def encoder_decoder(keras):
    """A model in a model, and a cell of its own in a layer."""
    source, target = keras.Input((6, 3)), keras.Input((6, 2))
    h = keras.layers.SimpleRNN(4, activation="relu", name="rnn")(source)
    encoder = keras.Model(source, h, name="encoder")
    state = encoder(source)
    decoder = keras.layers.RNN(keras.layers.GRUCell(4, activation="softsign"), return_sequences=True, name="decoder")
    ys = decoder(target, initial_state=state)
    xs = [np.linspace(-1, 1, 2 * 6 * size).reshape(2, 6, size) for size in (3, 2)]
    return keras.Model([source, target], keras.layers.Dense(2)(ys)), xs, [source, target, ys]


ENDINGS = ("keras", "weights.h5", "h5")


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_tagger(models, ending):
    folder, outputs, _ = models
    alone = ending == "weights.h5"
    options = {"prefix": "lstm", "recurrent_activation": "hard_sigmoid"} if alone else {"prefix": "top"}
    embedded, bi, top = outputs["tagger"]
    assert_computes(from_keras(folder / f"tagger.{ending}", prefix="bidirectional" if alone else "bi"), embedded, bi)
    network, params = from_keras(folder / f"tagger.{ending}", **options)
    assert network.cell == jl.LSTMCell(4, gate_fn=jax.nn.hard_sigmoid)
    assert_computes((network, params), bi, top)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_crnn(models, ending):
    folder, outputs, _ = models
    features, lower, upper = outputs["crnn"]
    alone = ending == "weights.h5"
    merge_mode, reset_after = ("ave", False) if alone else (None, None)
    lower_name, upper_name = ("bidirectional", "gru") if alone else ("lower", "upper")
    assert_computes(from_keras(folder / f"crnn.{ending}", prefix=lower_name, merge_mode=merge_mode), features, lower)
    assert_computes(from_keras(folder / f"crnn.{ending}", prefix=upper_name, reset_after=reset_after), lower, upper)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS)
def test_an_encoder_and_a_decoder(models, ending):
    folder, (source, target, want) = models[0], models[1]["encoder_decoder"]
    alone = ending == "weights.h5"
    path = folder / f"encoder_decoder.{ending}"
    rnn = {"prefix": "simple_rnn", "activation": "relu"} if alone else {"prefix": "rnn"}
    gru = {"prefix": "rnn", "activation": "softsign"} if alone else {"prefix": "decoder"}
    (encoder, params), (decoder, more) = from_keras(path, **rnn), from_keras(path, **gru)
    carry, _ = encoder.apply(params, jnp.asarray(source))
    _, ys = decoder.apply(more, jnp.asarray(target), carry)
    np.testing.assert_allclose(ys, want, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_variables_by_their_paths(models):
    """Names as Keras gives them, with the model's or without."""
    folder, _, built = models
    for name, layer in (("tagger", "bi"), ("crnn", "lower")):
        weights = {variable.path: variable for variable in built[name].variables}
        _, params = from_keras(weights, prefix=layer)
        jax.tree.map(np.testing.assert_array_equal, params, from_keras(folder / f"{name}.keras", prefix=layer)[1])


@pytest.mark.slow
def test_a_model_without_a_choice_lists_its_layers(models):
    for ending in ENDINGS:
        bi, top = ("bidirectional", "lstm") if ending == "weights.h5" else ("bi", "top")
        message = rf"layers: expected .* out of '{bi}', '{top}' \(or prefix='{bi}' .*, got None with .* such as 'dense"
        with pytest.raises(ValueError, match=message):
            from_keras(models[0] / f"tagger.{ending}")
