"""Weights in and out: files of this library, ONNX models, and programs for serving.

`save` and `load` keep a network with its params; `save_params` and `load_params` any other tree of arrays, such as a
model with a head, of which the reader brings a template.
"""

from jaxlstm.interop._onnx import OnnxLayer, from_onnx
from jaxlstm.interop._onnx_export import to_onnx
from jaxlstm.interop._onnx_operators import OnnxFunction
from jaxlstm.interop._safetensors import load_params, save_params
from jaxlstm.interop._save import load, save
from jaxlstm.interop._stablehlo import export

__all__ = [
    "OnnxFunction",
    "OnnxLayer",
    "export",
    "from_onnx",
    "load",
    "load_params",
    "save",
    "save_params",
    "to_onnx",
]
