"""Weights in and out: files of this library, weights of other frameworks, ONNX models, and programs for serving.

``from_x(weights) -> (network, params)`` reads what framework x trained, ``to_x(network, params)`` writes it back. No
framework is imported.

`save` and `load` keep a network with its params. `save_params` and `load_params` keep any other tree of arrays, such as
a model with a head; the reader gives a template of the tree.
"""

from jaxlstm.interop._activations import OnnxFunction
from jaxlstm.interop._equinox import from_equinox, to_equinox
from jaxlstm.interop._flax import from_flax, to_flax
from jaxlstm.interop._haiku import from_haiku, to_haiku
from jaxlstm.interop._keras import from_keras, to_keras
from jaxlstm.interop._onnx import OnnxLayer, from_onnx
from jaxlstm.interop._onnx_export import to_onnx
from jaxlstm.interop._safetensors import load_params, save_params
from jaxlstm.interop._save import load, save
from jaxlstm.interop._stablehlo import export
from jaxlstm.interop._torch import from_torch, to_torch

__all__ = [
    "OnnxFunction",
    "OnnxLayer",
    "export",
    "from_equinox",
    "from_flax",
    "from_haiku",
    "from_keras",
    "from_onnx",
    "from_torch",
    "load",
    "load_params",
    "save",
    "save_params",
    "to_equinox",
    "to_flax",
    "to_haiku",
    "to_keras",
    "to_onnx",
    "to_torch",
]
