"""Weights in and out: files of this library, and the arrays of other frameworks, none of which is imported.

``from_x(weights) -> (network, params)`` reads what framework x trained, ``to_x(network, params)`` writes it back.
"""

from jaxlstm.interop._safetensors import load_params, save_params
from jaxlstm.interop._torch import from_torch, to_torch

__all__ = ["from_torch", "load_params", "save_params", "to_torch"]
