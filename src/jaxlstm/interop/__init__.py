"""Weights in and out: files of this library, and the arrays of other frameworks, none of which is imported.

``from_x(weights) -> (network, params)`` reads what framework x trained, ``to_x(network, params)`` writes it back.
"""

from jaxlstm.interop._equinox import from_equinox, to_equinox
from jaxlstm.interop._flax import from_flax, to_flax
from jaxlstm.interop._haiku import from_haiku, to_haiku
from jaxlstm.interop._keras import from_keras, to_keras
from jaxlstm.interop._safetensors import load_params, save_params
from jaxlstm.interop._torch import from_torch, to_torch

__all__ = [
    "from_equinox",
    "from_flax",
    "from_haiku",
    "from_keras",
    "from_torch",
    "load_params",
    "save_params",
    "to_equinox",
    "to_flax",
    "to_haiku",
    "to_keras",
    "to_torch",
]
