"""Keras's files that are damaged or hostile: a ValueError that names the file, and nothing large, foreign or run."""

import contextlib
import json
import shutil
import sys
import tracemalloc
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxlstm as jl
from jaxlstm.interop import _hdf5, from_keras

h5py = pytest.importorskip("h5py", reason="h5py is not installed")

FOLDER = Path(__file__).parent / "goldens" / "keras2"
BIAS = "model_weights/top/top/lstm_cell/bias:0"


@pytest.fixture
def path(tmp_path):
    return Path(shutil.copy(FOLDER / "tagger.h5", tmp_path / "model.h5"))


def replace(path, make):
    """Another tensor in the place of the bias of "top"."""
    with h5py.File(path, "r+") as file:
        del file[BIAS]
        make(file)


def virtual(file):
    layout = h5py.VirtualLayout(shape=(16,), dtype="f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", shape=(16,))
    file.create_virtual_dataset(BIAS, layout)


TENSORS = {
    "in another file": (
        lambda file: file.create_dataset(BIAS, (16,), "f4", external=[("/etc/passwd", 0, 64)]),
        "expected numbers as they are, got another file's",
    ),
    "virtual": (virtual, "expected numbers as they are, got another file's"),
    "compressed": (
        lambda file: file.create_dataset(BIAS, data=np.ones(16, "f4"), compression="gzip"),
        "expected numbers as they are, got compressed ones",
    ),
    "never written": (
        lambda file: file.create_dataset(BIAS, (16,), "f4", chunks=(8,)),
        r"expected 64 bytes for the shape \(16,\), got 0",
    ),
    "huge": (
        lambda file: file.create_dataset(BIAS, (2**40,), "f4", chunks=(1024,)),
        r"expected 4398046511104 bytes for the shape \(1099511627776,\), got 0",
    ),
    "texts": (lambda file: file.create_dataset(BIAS, data="b"), "expected one of the dtypes .*, got object"),
    "integers": (
        lambda file: file.create_dataset(BIAS, data=np.arange(16)),
        "expected one of the dtypes .*, got int64",
    ),
}


@pytest.mark.parametrize(("make", "message"), TENSORS.values(), ids=TENSORS)
def test_a_tensor_that_is_none(path, make, message):
    replace(path, make)
    tracemalloc.start()
    try:
        with pytest.raises((ValueError, TypeError), match=f"(top/lstm_cell/bias|{BIAS}): {message}"):
            from_keras(path, prefix="top")
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
    from_keras(path, prefix="bi")  # whose tensors are as they were


def test_links_are_not_followed(path, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["bias"] = np.ones(16, "f4")
    for link in (h5py.ExternalLink("other.h5", "bias"), h5py.SoftLink("/model_weights/bi")):
        with h5py.File(path, "r+") as file:
            del file["model_weights/top"]
            file["model_weights/top"] = link
        with pytest.raises(ValueError, match="prefix: expected the name of one of 'bi', got 'top'"):
            from_keras(path, prefix="top")


def test_groups_that_hold_each_other(path):
    with h5py.File(path, "r+") as file:
        file["model_weights/bi/again"] = file["model_weights"]
    from_keras(path, prefix="bi")


def test_more_objects_than_a_model_has(path, monkeypatch):
    monkeypatch.setattr(_hdf5, "_MOST_OBJECTS", 20)
    with pytest.raises(ValueError, match=r"model.h5: expected fewer than 20 .*, got more"):
        from_keras(path, prefix="bi")


def test_strings_on_which_hdf5_would_hang(path):
    data = bytearray(path.read_bytes())
    heap = data.index(b"GCOL\x01")
    size = int.from_bytes(data[heap + 24 : heap + 32], "little")
    free = heap + 16 + 16 + (size + 7) // 8 * 8
    data[free : free + 16] = bytes(16)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"model.h5: expected a file of Keras, got a damaged one \(model_config\)"):
        from_keras(path, prefix="bi")


CONFIGS = {
    "no JSON": ("{", r"expected a configuration of Keras in JSON, got Expecting"),
    "too deep": ("[" * 100_000, r"expected a configuration of Keras in JSON, got maximum recursion"),
    "too long": (" " * (2**24 + 1), "expected a configuration of at most 16777216 characters"),
}


@pytest.mark.parametrize(("text", "message"), CONFIGS.values(), ids=CONFIGS)
def test_a_configuration_that_is_none(tmp_path, text, message):
    rewrite(FOLDER / "tagger.keras", tmp_path / "x.keras", {"config.json": text})
    with pytest.raises(ValueError, match=f"x.keras: {message}"):
        from_keras(tmp_path / "x.keras", prefix="bi")


def rewrite(source, target, members, **options):
    """An archive with other members."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", **options) as new:
        for name in old.namelist():
            if members.get(name, "") is not None:
                new.writestr(name, members.get(name, old.read(name)))


ARCHIVES = {
    "a member less": ({"model.weights.h5": None}, {}, "There is no item named 'model.weights.h5'"),
    "no weights": ({"model.weights.h5": b"no weights"}, {}, "expected a file of Keras, got a damaged one"),
    "no version": ({"metadata.json": "{}"}, {}, "'keras_version'"),
    "a list": ({"metadata.json": "[]"}, {}, "list indices"),
    "compressed": (
        {"config.json": " " * 10**6},
        {"compression": zipfile.ZIP_DEFLATED},
        "compressed, which Keras does not",
    ),
}


@pytest.mark.parametrize(("members", "options", "message"), ARCHIVES.values(), ids=ARCHIVES)
def test_an_archive_that_is_none(tmp_path, members, options, message):
    rewrite(FOLDER / "tagger.keras", tmp_path / "x.keras", members, **options)
    with pytest.raises(ValueError, match=f"x.keras: .*{message}"):
        from_keras(tmp_path / "x.keras", prefix="bi")


@contextlib.contextmanager
def edited(path):
    """The configuration of a file, to be changed. The file is written anew, as Keras would."""
    old = path.rename(path.with_suffix(".old"))
    with h5py.File(old) as file, h5py.File(path, "w") as new:
        yield (config := json.loads(file.attrs["model_config"]))
        file.copy("model_weights", new)
        new.attrs["keras_version"], new.attrs["model_config"] = file.attrs["keras_version"], json.dumps(config)


def test_a_file_with_something_replaced_in_it(path):
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = file.attrs["model_config"].replace("hard_sigmoid", "sigmoid")
    with pytest.raises(ValueError, match=r"model.h5: expected one model_config; h5repack .* got 2 different ones"):
        from_keras(path, prefix="top")


ODD = {
    "an activation of one's own": (
        {"activation": "my_activation"},
        "activation: expected a function or one of .* 'my_act",
    ),
    "a layer": ({"activation": {"class_name": "LeakyReLU", "config": {}}}, "activation: expected a function or one of"),
    "a number": ({"recurrent_activation": 3}, "recurrent_activation: expected a function or one of .* got 3"),
    "a GRU's bias": ({"reset_after": True}, None),
}


@pytest.mark.parametrize(("options", "message"), ODD.values(), ids=ODD)
def test_options_that_are_not_ours(path, options, message):
    """The message names the argument, with which the user can say what was meant."""
    with edited(path) as config:
        layer = next(layer for layer in config["config"]["layers"] if layer["config"]["name"] == "top")
        layer["config"] |= options
    if message is None:
        from_keras(path, prefix="top")
        return
    with pytest.raises(ValueError, match=message):
        from_keras(path, prefix="top")
    given = dict.fromkeys(options, "tanh")
    from_keras(path, prefix="top", **given)


def test_directions_with_options_of_their_own(path):
    with edited(path) as config:
        both = next(layer for layer in config["config"]["layers"] if layer["config"]["name"] == "bi")["config"]
        both["backward_layer"] = json.loads(json.dumps(both["layer"]))
        both["backward_layer"]["config"] |= {"name": "back", "activation": "relu"}
    network, _ = from_keras(path, prefix="bi")
    forward, backward = jl.LSTMCell(2), jl.LSTMCell(2, activation_fn=jax.nn.relu)
    assert network == jl.Bidirectional(forward, backward, merge="sum")


def test_the_optimizer_s_copies_are_no_layers(path):
    with h5py.File(path, "r+") as file:
        file["optimizer_weights/Adam/m/top"] = file["model_weights/top/top"]
        file.copy("model_weights/top/top", "optimizer_weights/Adam/v/top")
    from_keras(path, prefix="top")
    with pytest.raises(ValueError, match=r"bottom first, out of 'bi', 'top' \(or"):
        from_keras(path)


def test_a_layer_that_goes_backwards(path):
    with edited(path) as config:
        for layer in config["config"]["layers"]:
            if layer["config"]["name"] == "top":
                layer["config"]["go_backwards"] = True
    assert from_keras(path, prefix="top")[0].reverse
    assert from_keras(path, prefix="bi")[0] == from_keras(FOLDER / "tagger.h5", prefix="bi")[0]
    with pytest.raises(ValueError, match=r"layers: expected a layer with go_backwards=True to be read alone"):
        from_keras(path, layers=("bi", "top"))


def test_files_of_another_kind(tmp_path):
    with pytest.raises(FileNotFoundError):
        from_keras(tmp_path / "none.keras")
    (tmp_path / "x.h5").write_bytes(b"GIF89a")
    with pytest.raises(
        ValueError, match=r"x.h5: expected a .keras, .weights.h5 or .h5 file of Keras, got another kind"
    ):
        from_keras(tmp_path / "x.h5")
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file["a/x"] = file["b/y"] = np.ones(3)
    with pytest.raises(ValueError, match=r"weights: expected tensors of recurrent layers, got none .* 'a/x', 'b/y'"):
        from_keras(tmp_path / "y.h5")
    with h5py.File(tmp_path / "z.h5", "w"):
        pass
    with pytest.raises(ValueError, match=r"weights: expected .*, got no tensors"):
        from_keras(tmp_path / "z.h5")


def test_without_h5py_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"h5py: pip install 'jaxlstm\[keras-files\]'"):
        from_keras(FOLDER / "tagger.keras")
