"""HDF5 files that may be damaged or hostile, read through h5py.

What is read is bounded by the size of the file. Links to other files are not followed. Compressed tensors are refused,
since HDF5 would look for a plugin to decompress them. Strings are read here, without HDF5.
"""

import contextlib
import io
import math
import mmap
import struct
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlstm.interop import _tensors

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_HEAP = b"GCOL\x01"  # how a heap of strings begins
_MOST_OBJECTS = 100_000
_FAILURES = (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError)  # of h5py, on damaged files


class Hdf5File:
    """The tensors of an open file by their paths, and its texts: all strings in attributes, in no order."""

    def __init__(self, name: str, file: Any, size: int, texts: list[bytes]):
        self._name, self._file, self._size, self.texts = name, file, size, texts
        self.groups: list[str] = []
        self.tensors: dict[str, _LazyTensor] = {}
        with _failures(name):
            file.visititems(self._visit)  # each object once, along hard links alone
        if len(self.groups) + len(self.tensors) >= _MOST_OBJECTS:
            _tensors.reject(name, f"fewer than {_MOST_OBJECTS} groups and tensors", "more")

    def has_attribute(self, attribute: str) -> bool:
        """Whether the root has this attribute."""
        with _failures(self._name):
            return attribute in self._file.attrs

    def _visit(self, path: str | bytes, found: Any) -> bool | None:
        path = path if isinstance(path, str) else path.decode(errors="backslashreplace")
        if hasattr(found, "shape"):
            self.tensors[path] = _LazyTensor(f"{self._name}: {path}", found, self._size)
        else:
            self.groups.append(path)
        return len(self.groups) + len(self.tensors) >= _MOST_OBJECTS or None  # True ends the visit


class _LazyTensor:
    """A dataset of an open file, which is read when NumPy asks for it."""

    def __init__(self, name: str, dataset: Any, size: int):
        self._name, self._dataset, self._size = name, dataset, size
        self.shape = dataset.shape or ()
        # HDF5 has no bfloat16: Keras writes opaque values of two bytes.
        self.dtype = jnp.dtype(jnp.bfloat16) if dataset.dtype == np.dtype("V2") else dataset.dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        needed = math.prod(self.shape) * self.dtype.itemsize
        with _failures(self._name):
            stored, created = self._dataset.id.get_storage_size(), self._dataset.id.get_create_plist()
            elsewhere = created.get_external_count() or self._dataset.is_virtual
            compressed = created.get_nfilters()
        if compressed or elsewhere:
            _tensors.reject(self._name, "numbers as they are", "compressed ones" if compressed else "another file's")
        if needed > min(stored, self._size):
            _tensors.reject(self._name, f"{needed} bytes for the shape {self.shape}", min(stored, self._size))
        with _failures(self._name):
            return np.asarray(self._dataset[()]).view(self.dtype)


@contextlib.contextmanager
def opened(name: str, data: bytes | None = None) -> Iterator[Hdf5File]:
    """An HDF5 file, open to be read: that of this name, or these bytes of it."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError("Keras's files need the package h5py: pip install 'jaxlstm[keras-files]'") from error
    if data is None:
        with open(name, "rb") as source, mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            texts, size = _read_texts(mapped), len(mapped)
    else:
        texts, size = _read_texts(data), len(data)
    with _failures(name):
        file = h5py.File(name if data is None else io.BytesIO(data), "r")
    with file:
        yield Hdf5File(name, file, size, texts)


def _read_texts(data: bytes | mmap.mmap) -> list[bytes]:
    """The strings in a file. HDF5 itself hangs, crashes or allocates gigabytes where their lengths are damaged."""
    texts: list[bytes] = []
    place = data.find(_HEAP)
    while place >= 0 and len(texts) < _MOST_OBJECTS:
        end = min(place + int.from_bytes(data[place + 8 : place + 16], "little"), len(data))
        place += 16
        while place + 16 <= end:
            index, size = struct.unpack_from("<H6xQ", data, place)
            if not index or place + 16 + size > end:  # the free space at the end, or damaged
                break
            texts.append(data[place + 16 : place + 16 + size].rstrip(b"\0"))
            place += 16 + (size + 7) // 8 * 8
        place = data.find(_HEAP, place)
    return texts


@contextlib.contextmanager
def _failures(name: str) -> Iterator[None]:
    """Whatever h5py raises, as a ValueError that names the file."""
    try:
        yield
    except _FAILURES as error:
        _tensors.reject(name, "a file of Keras", f"a damaged one ({' '.join(str(error).split())})")
