"""A network and its params as one safetensors file, which is read without running code."""

import os
from typing import Any

import jax
import jax.numpy as jnp

from jaxlstm._cell import Cell
from jaxlstm._network import Network
from jaxlstm._step import Params
from jaxlstm.interop import _tensors
from jaxlstm.interop._arguments import check_network, template
from jaxlstm.interop._description import from_text, to_text
from jaxlstm.interop._safetensors import opened, read, tensor_name, tensors_of, write

_KEY = "description"


def save(path: str | os.PathLike[str], network: Network | Cell, params: Params) -> None:
    """Write a network and its params to a safetensors file, which `load` reads.

    The tensors are named by their paths, such as ``0.1.w_ih``; the metadata describes the network with all its options
    and holds a checksum. The file appears whole or not at all.

    Args:
      path: the file.
      network: a Layer, Bidirectional, Stack or cell of this library. Its functions are written by name, so they must be
        those of `jax.nn`, `jax.numpy`, this library or an `OnnxFunction`.
      params: its params.

    Raises:
      ValueError, TypeError: if params do not fit, or an option is a function without such a name; the message names it.
      ImportError: if the package safetensors is missing.

    >>> import pathlib, tempfile
    >>> from jaxlstm.interop import load, save
    >>> network = jl.Layer(jl.GRUCell(hidden_size=4), reverse=True)
    >>> params = network.init(jax.random.key(0), input_size=3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(pathlib.Path(folder, "network.safetensors"), network, params)
    ...     loaded, params = load(pathlib.Path(folder, "network.safetensors"))
    >>> loaded == network
    True
    """
    input_size = check_network(network, params)
    write(path, params, {_KEY: to_text(network, input_size)})


def load(path: str | os.PathLike[str]) -> tuple[Network | Cell, Params]:
    """Read what `save` wrote: ``(network, params)``, ready for ``network.apply(params, xs)``.

    Args:
      path: the file. It is data alone: nothing in it is run.

    Returns:
      The network, equal to the one saved, and its params as JAX arrays.

    Raises:
      ValueError: if the file is damaged, of another kind or of another format version, or its tensors are not those
        that it describes; the message names the file and what is wrong with it.
      FileNotFoundError: if there is no such file.
      ImportError: if the package safetensors is missing.
    """
    with opened(path) as file:
        network, shapes = _described(path, file)
        return network, read(path, file, _with_dtypes(shapes, tensors_of(file)))


def _described(path: str | os.PathLike[str], file: Any) -> tuple[Network | Cell, Params]:
    """The network of an open file, and the shapes of its params."""
    metadata = file.metadata() or {}
    name = os.fspath(path)
    if _KEY not in metadata:
        _tensors.reject(name, f"a file of jaxlstm.interop.save, with a {_KEY}", f"metadata {sorted(metadata)}")
    try:
        network, input_size = from_text(metadata[_KEY])
        return network, template(network, input_size)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{name}: {_tensors.shorten(str(error), 400)}") from error


def _with_dtypes(shapes: Params, found: dict[str, tuple[str | None, tuple[int, ...]]]) -> Params:
    """The shapes, with the file's dtypes if they are floating-point. `read` rejects the others."""

    def leaf(path: Any, shape: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        dtype, _ = found.get(tensor_name(path), (None, ()))
        floating = dtype is not None and jnp.issubdtype(dtype, jnp.floating)
        return jax.ShapeDtypeStruct(shape.shape, dtype if floating else shape.dtype)

    return jax.tree_util.tree_map_with_path(leaf, shapes)
