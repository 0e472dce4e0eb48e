"""The configuration that Keras writes beside a model's weights: which options its recurrent layers have.

It is nested JSON. What describes a layer is a dict with ``class_name`` and ``config``, and in the latter a ``name``.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jaxlstm.interop import _tensors

_LONGEST = 2**24  # characters
_RECURRENT = ("LSTM", "GRU", "SimpleRNN", "LSTMCell", "GRUCell", "SimpleRNNCell", "CuDNNLSTM", "CuDNNGRU")


class KerasConfig(NamedTuple):
    """What a file says of its model; nothing, for weights alone."""

    model: Any = None  # parsed JSON
    version: tuple[int, ...] | None = None  # of the Keras that wrote the file

    def options(self, path: str) -> dict[str, Any]:
        """The options of the recurrent cell whose tensors are below this path; empty if the file does not tell."""
        parts = path.split("/")
        layer = _locate(self.model, parts)
        while layer is not None and layer["class_name"] not in _RECURRENT:
            layer = _inner(layer, parts)
        if layer is None:
            return {}
        options = {name: _plain(value) for name, value in layer["config"].items()}
        if self.version is not None and self.version < (3,):
            for name in ("activation", "recurrent_activation"):
                if options.get(name) == "hard_sigmoid":
                    options[name] = "keras2_hard_sigmoid"
        return options

    def merge_mode(self, path: str) -> Any:
        """How the Bidirectional at this path merges; None if the file does not tell."""
        layer = _locate(self.model, path.split("/"))
        return layer["config"].get("merge_mode") if layer is not None else None

    def names(self) -> dict[str, str]:
        """The layers' names by their places in the file, such as ``layers/lstm_1``."""
        return dict(_layer_names(self.model, ""))


def is_model(text: bytes) -> bool:
    """Whether a text is a model's configuration."""
    try:
        model = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(model, dict) and {"class_name", "config"} <= model.keys()


def parse_config(name: str, text: str | None, version: str | None) -> KerasConfig:
    """What the texts in the file `name` say."""
    numbers = re.match(r"(\d{1,4})\.(\d{1,4})", version or "")
    version_numbers = tuple(map(int, numbers.groups())) if numbers else None
    if text is None:
        return KerasConfig(None, version_numbers)
    if len(text) > _LONGEST:
        _tensors.reject(name, f"a configuration of at most {_LONGEST} characters", len(text))
    try:
        config = KerasConfig(json.loads(text), version_numbers)
        config.names()
    except (ValueError, RecursionError) as error:
        _tensors.reject(name, "a configuration of Keras in JSON", error)
    return config


def _layers(value: Any) -> Iterator[dict[str, Any]]:
    """The layers described inside a value, the outermost first."""
    level = [value]
    while level:
        inner: list[Any] = []
        for one in level:
            children = list(one.values() if isinstance(one, dict) else one if isinstance(one, list) else ())
            yield from filter(_is_layer, children)
            inner += children
        level = inner


def _is_layer(value: Any) -> bool:
    described = isinstance(value, dict) and isinstance(value.get("class_name"), str)
    return described and isinstance(value.get("config"), dict)


def _locate(model: Any, parts: Sequence[str]) -> dict[str, Any] | None:
    """The innermost layer on a path of names, of which some are no layers'."""
    layer = None
    for part in parts:
        inside = _layers(model if layer is None else layer)
        layer = next((one for one in inside if one["config"].get("name") == part), layer)
    return layer


def _inner(layer: dict[str, Any], parts: Sequence[str]) -> dict[str, Any] | None:
    """What runs inside a Bidirectional, an RNN or a StackedRNNCells on the way to a path; None for other layers."""
    options = layer["config"]
    backward = options.get("backward_layer") if any(part.startswith("backward_") for part in parts) else None
    inner = {"Bidirectional": backward or options.get("layer"), "RNN": options.get("cell")}.get(layer["class_name"])
    return inner if _is_layer(inner) else None


def _plain(value: Any) -> Any:
    """The name of a function that Keras wrote as a dict."""
    return value["config"] if isinstance(value, dict) and value.get("class_name") == "function" else value


def _layer_names(model: Any, path: str) -> Iterator[tuple[str, str]]:
    """Places and names of a model's layers. A place is the class in snake case, with a number from the second on."""
    if not _is_layer(model):
        return
    options = model["config"]
    for held in ("layers", "cells"):
        seen: Counter[str] = Counter()
        layers = options.get(held)
        for layer in filter(_is_layer, layers if isinstance(layers, list) else ()):
            name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", layer["class_name"])
            name = re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
            place = f"{path}{held}/{name}" + (f"_{seen[name]}" if seen[name] else "")
            seen[name] += 1
            yield place, str(layer["config"].get("name"))
            yield from _layer_names(layer, f"{place}/")
    yield from _layer_names(options.get("cell"), f"{path}cell/")
