"""Weights in and out: files of this library, ONNX models, and programs for serving."""

from jaxlstm.interop._onnx import OnnxLayer, from_onnx
from jaxlstm.interop._onnx_export import to_onnx
from jaxlstm.interop._onnx_operators import OnnxFunction
from jaxlstm.interop._safetensors import load_params, save_params

__all__ = ["OnnxFunction", "OnnxLayer", "from_onnx", "load_params", "save_params", "to_onnx"]
