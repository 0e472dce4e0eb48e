"""Weights in and out: files of this library, and later those of other frameworks."""

from jaxlstm.interop._safetensors import load_params, save_params

__all__ = ["load_params", "save_params"]
