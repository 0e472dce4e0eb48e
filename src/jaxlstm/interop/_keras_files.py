"""Files of Keras, read without Keras: .keras, .weights.h5, and the .h5 files of all versions.

Tensors are named as Keras names its variables, such as ``bi/forward_lstm/lstm_cell/kernel``. A file without these names
has those of classes and attributes.
"""

import contextlib
import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

from jaxlstm.interop import _hdf5, _tensors
from jaxlstm.interop._hdf5 import Hdf5File
from jaxlstm.interop._keras_config import KerasConfig, is_model, parse_config

_CELL = r"(.*_)?cell(_\d+)?|cu_?dnn_?(lstm|gru)(_\d+)?"
_VARIABLES = {"0": "kernel", "1": "recurrent_kernel", "2": "bias"}  # of a cell, which are numbered
_ARCHIVE = b"PK\x03\x04"
_FAILURES = (zipfile.BadZipFile, OSError, LookupError, ValueError, TypeError, RuntimeError, EOFError, zlib.error)


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[tuple[dict[str, Any], KerasConfig]]:
    """Open a file. Yields its tensors by name, which are not read yet, and its model's configuration."""
    name = os.fspath(path)
    with open(name, "rb") as file:
        start = file.read(8)
    if start.startswith(_ARCHIVE):
        text, version, data = _read_archive(name)
        config = parse_config(name, text, version)
        with _hdf5.opened(name, data) as file:
            yield _name_by_structure(file, config), config
    elif start == _hdf5.SIGNATURE:
        with _hdf5.opened(name) as file:
            config = parse_config(name, _find_model(name, file), _find_version(name, file))
            layout = _name_by_structure if "vars" in file.groups else _name_by_layer
            yield layout(file, config), config
    else:
        _tensors.reject(name, "a .keras, .weights.h5 or .h5 file of Keras", "another kind of file")


def _read_archive(name: str) -> tuple[str, str, bytes]:
    """The configuration, Keras's version and the weights in a .keras file, which is a zip archive."""
    members = []
    try:
        with zipfile.ZipFile(name) as archive:
            for member in ("config.json", "metadata.json", "model.weights.h5"):
                info = archive.getinfo(member)
                if info.compress_type != zipfile.ZIP_STORED or info.file_size > os.path.getsize(name):
                    raise ValueError(f"{member} is compressed, which Keras does not do")
                members.append(archive.read(info))
        return members[0].decode(), str(json.loads(members[1])["keras_version"]), members[2]
    except _FAILURES as error:
        _tensors.reject(name, "a .keras file", f"another archive, or a damaged one ({error})")


def _find_model(name: str, file: Hdf5File) -> str | None:
    """The model's configuration among a file's strings; None if the file holds weights alone."""
    if not file.has_attribute("model_config"):
        return None
    found = {text for text in file.texts if text.startswith(b"{") and is_model(text)}
    if not found:
        _tensors.reject(name, "a file of Keras", "a damaged one (model_config)")
    return _only(name, "model_config", found)


def _find_version(name: str, file: Hdf5File) -> str | None:
    """Keras's version among a file's strings."""
    return _only(name, "keras_version", {t for t in file.texts if re.fullmatch(rb"\d+\.\d+\.\d+(-\w+)?", t)})


def _only(name: str, what: str, found: set[bytes]) -> str | None:
    """The only text, if there is one. What was replaced can still be in an HDF5 file."""
    if len(found) > 1:
        _tensors.reject(name, f"one {what}; h5repack removes what was replaced", f"{len(found)} different ones")
    return next(iter(found)).decode(errors="replace") if found else None


def _name_by_structure(file: Hdf5File, config: KerasConfig) -> dict[str, Any]:
    """Name the tensors of a file laid out by attributes, such as ``layers/lstm/cell/vars/0``."""
    names = config.names()
    tensors: dict[str, Any] = {}
    for place, tensor in file.tensors.items():
        path, _, variable = place.rpartition("/vars/")
        parts = path.split("/")
        usual = ["" if part in ("layers", "cells") else part for part in parts]  # lists, which have no names
        named = [names.get("/".join(parts[: end + 1]), part) for end, part in enumerate(usual)]
        if re.fullmatch(_CELL, parts[-1]) or re.fullmatch(_CELL, named[-1]):
            variable = _VARIABLES.get(variable, variable)
        name = "/".join([*filter(None, named), variable])
        tensors[place if name in tensors else name] = tensor
    return tensors


def _name_by_layer(file: Hdf5File, config: KerasConfig) -> dict[str, Any]:
    """Name the tensors of a file laid out by layers, such as ``model_weights/bi/sequential/bi/.../kernel:0``."""
    del config
    tensors = {}
    below = "model_weights/" if "model_weights" in file.groups else ""  # the optimizer's are elsewhere
    for place, tensor in file.tensors.items():
        if not place.startswith(below):
            continue
        layer, *parts = place.removeprefix(below).split("/")
        inside = parts[parts.index(layer) + 1 :] if layer in parts else parts
        tensors["/".join([layer, *inside])] = tensor
    return tensors
