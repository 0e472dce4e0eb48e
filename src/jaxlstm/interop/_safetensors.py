"""Params as a safetensors file: one tensor for each leaf, named by its path, such as ``network.0.forward.w_ih``.

The metadata holds a checksum of the tensors and of the rest of the metadata. A file without one is read too.
"""

import contextlib
import functools
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm import _checks
from jaxlstm._step import Params
from jaxlstm.interop import _tensors

_CHECKSUM = "sha256"
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}


def save_params(path: str | os.PathLike[str], params: Params) -> None:
    """Write a tree of arrays to a safetensors file.

    The file appears whole or not at all: a temporary file beside it is renamed over it.

    Args:
      path: the file.
      params: a tree of arrays. The path of each leaf is its tensor's name: fields, keys and indices joined by dots.

    Raises:
      ValueError, TypeError: if two leaves would have one name, or a leaf is not an array of numbers.
      ImportError: if the package safetensors is missing.

    >>> import pathlib, tempfile
    >>> from jaxlstm.interop import load_params, save_params
    >>> cell = jl.GRUCell(hidden_size=4)
    >>> params = cell.init(jax.random.key(0), input_size=3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_params(pathlib.Path(folder, "gru.safetensors"), params)
    ...     loaded = load_params(pathlib.Path(folder, "gru.safetensors"), params)
    >>> bool((loaded.w_hh == params.w_hh).all())
    True
    """
    write(path, params, {})


def load_params(path: str | os.PathLike[str], template: Params) -> Params:
    """Read a safetensors file into a tree like `template`.

    Args:
      path: the file.
      template: a tree of arrays, or of their shapes as ``jax.eval_shape(cell.init, key, input_size)`` gives them.

    Returns:
      The tree, with the file's numbers as JAX arrays.

    Raises:
      ValueError: if the file is damaged or of another kind, lacks a tensor or holds another one, or a shape or dtype is
        not that of the template; the message names the file, the tensor, what was expected and what came.
      FileNotFoundError: if there is no such file.
      ImportError: if the package safetensors is missing.
    """
    with opened(path) as file:
        return read(path, file, template)


def write(path: str | os.PathLike[str], params: Params, metadata: dict[str, str]) -> None:
    """Write a tree of arrays with metadata."""
    save = _library().numpy.save
    tensors = {name: _to_numpy(name, leaf) for name, leaf in _named(params).items()}
    metadata = {"format": "jaxlstm"} | metadata
    data = save(tensors, metadata | {_CHECKSUM: _checksum(tensors, metadata)})
    write_bytes(path, data)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file. It appears whole or not at all."""
    path = Path(path)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o666 & ~_umask())  # a temporary file is readable by its owner only
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Open a safetensors file for reading."""
    library = _library()
    try:
        with library.safe_open(os.fspath(path), framework="numpy") as file:
            yield file
    except library.SafetensorError as error:
        raise ValueError(f"{os.fspath(path)}: damaged, or not a safetensors file ({error})") from error


def read(path: str | os.PathLike[str], file: Any, template: Params) -> Params:
    """Read an open file's tensors into a tree like the template. Checks names, shapes, dtypes and the checksum."""
    wanted = _named(template)
    _check(path, wanted, tensors_of(file))
    tensors = {name: file.get_tensor(name) for name in wanted}
    metadata = dict(file.metadata() or {})
    checksum = metadata.pop(_CHECKSUM, None)
    if checksum not in (None, _checksum(tensors, metadata)):
        _tensors.reject(
            os.fspath(path), f"tensors with the checksum {checksum[:12]}...", "another: the file is damaged"
        )
    return jax.tree.unflatten(jax.tree.structure(template), [_to_jax(path, name, tensors[name]) for name in wanted])


class _LazyTensor:
    """A tensor of an open file, which is read when NumPy asks for it."""

    def __init__(self, file: Any, name: str):
        kept = file.get_slice(name)
        self.dtype = _DTYPES.get(kept.get_dtype(), kept.get_dtype())
        self.shape = tuple(kept.get_shape())
        self._read = functools.partial(file.get_tensor, name)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self._read()


def lazy_tensors(file: Any) -> dict[str, _LazyTensor]:
    """An open file's tensors by name. Each is read when NumPy asks for it."""
    return {name: _LazyTensor(file, name) for name in file.keys()}  # noqa: SIM118


def tensors_of(file: Any) -> dict[str, tuple[str | None, tuple[int, ...]]]:
    """The dtypes (None if JAX does not have it) and shapes of an open file's tensors, by name."""
    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    return {name: (_DTYPES.get(one.get_dtype()), tuple(one.get_shape())) for name, one in slices.items()}


def _checksum(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> str:
    """SHA-256 over the metadata, and over the names, dtypes, shapes and numbers of the tensors."""
    digest = hashlib.sha256(repr(sorted(metadata.items())).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(repr((name, str(tensor.dtype), tensor.shape)).encode())
        digest.update(tensor.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _check(path: Any, wanted: dict[str, Any], found: dict[str, tuple[str | None, tuple[int, ...]]]) -> None:
    """Check the file's names, shapes and dtypes against the template's."""
    name = os.fspath(path)
    if missing := sorted(set(wanted) - set(found)):
        _tensors.reject(name, f"a tensor {missing[0]!r}", f"none of that name among {len(found)} tensors")
    if extra := sorted(set(found) - set(wanted)):
        _tensors.reject(name, f"only the {len(wanted)} tensors of the template", f"also {extra[0]!r}")
    for tensor, leaf in wanted.items():
        dtype, shape = found[tensor]
        if shape != leaf.shape:
            _tensors.reject(f"{name}: {tensor}", f"shape {leaf.shape}", shape)
        if dtype != str(leaf.dtype):
            _tensors.reject(f"{name}: {tensor}", f"dtype {leaf.dtype}", dtype)


def tensor_name(path: Any) -> str:
    """The name of the tensor for a leaf at this path."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _named(tree: Any) -> dict[str, Any]:
    """The leaves by the names of their tensors."""
    named = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = tensor_name(path)
        if name in named:
            _tensors.reject("params", "leaves with different names", f"two named {name!r}")
        named[name] = leaf
    return named


def _to_numpy(name: str, leaf: Any) -> np.ndarray:
    if not hasattr(leaf, "dtype") or str(leaf.dtype) not in _DTYPES.values():
        _tensors.reject(f"params: {name}", "an array of numbers", _checks.describe(leaf), TypeError)
    return np.asarray(leaf, order="C")


def _to_jax(path: Any, name: str, tensor: np.ndarray) -> jax.Array:
    array = jnp.asarray(tensor)
    if array.dtype != tensor.dtype:  # JAX would round silently
        _tensors.reject(f"{os.fspath(path)}: {name}", "at most 32 bits without jax_enable_x64", tensor.dtype)
    return array


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _library() -> Any:
    """Import safetensors."""
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise ImportError("weights files need the package safetensors: pip install 'jaxlstm[safetensors]'") from error
    return safetensors
