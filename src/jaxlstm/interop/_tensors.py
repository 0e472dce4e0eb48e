"""Named arrays of other frameworks: reading and checking them, and reordering the gates inside them.

A framework's file says which names and shapes its cells have; the checks here say what is wrong, by the tensor's name.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm import _checks
from jaxlstm._cell import Cell
from jaxlstm._network import Network
from jaxlstm._step import Params
from jaxlstm.cells import GRUCell
from jaxlstm.interop._arguments import check_network

_DTYPES = ("float16", "bfloat16", "float32", "float64")
_KINDS = {4: "LSTM", 3: "GRU", 1: "RNN"}


class Scope(NamedTuple):
    """The tensors below one path, by the rest of their names. `read_arrays` makes them NumPy arrays."""

    path: str  # empty, or ends in the separator
    separator: str
    tensors: dict[str, Any]

    def inside(self, name: str) -> "Scope":
        """What lies below `name`; all of it for the empty name."""
        if not name:
            return self
        below = f"{name}{self.separator}"
        inner = {key.removeprefix(below): value for key, value in self.tensors.items() if key.startswith(below)}
        return Scope(self.path + below, self.separator, inner)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.removesuffix(self.separator).rpartition(self.separator)[2]

    @property
    def children(self) -> list[str]:
        """The first part of each name, without repeats, in the order of the tensors."""
        return list(dict.fromkeys(name.partition(self.separator)[0] for name in self.tensors))


def name_tensors(weights: Any, separator: str, expected: str) -> Scope:
    """All tensors of a mapping, nested or flat, by their whole names. Does not look at the tensors.

    `expected` says what the caller should pass, for the message.
    """
    if not isinstance(weights, Mapping):
        reject("weights", expected, _checks.describe(weights), TypeError)
    named = _flatten(weights, "", separator)
    if not named:
        reject("weights", expected, "no tensors")
    return Scope("", separator, named)


def read_arrays(scope: Scope) -> Scope:
    """Read the tensors as NumPy arrays, which must have one floating-point dtype."""
    arrays: dict[str, np.ndarray] = {}
    first = None
    for name, value in scope.tensors.items():
        array = _array(scope.path + name, value)
        first = first or (scope.path + name, array.dtype)
        if array.dtype != first[1]:
            reject(scope.path + name, f"dtype {first[1]}, as of {first[0]}", array.dtype)
        arrays[name] = array
    return scope._replace(tensors=arrays)


def reject(name: str, expected: object, got: object, error: type[Exception] = ValueError) -> NoReturn:
    """Raise `error` with a message of bounded length, since names can come from damaged files."""
    _checks.reject(shorten(name, 180), shorten(str(expected), 260), shorten(str(got), 130), error)


def shorten(text: str, longest: int) -> str:
    """The text, without its middle if it is too long."""
    return text if len(text) <= longest else f"{text[: longest // 2 - 3]} ... {text[-longest // 2 + 3 :]}"


def path_of(prefix: str, separator: str) -> str:
    """The prefix, ending in a separator, which the caller may leave out."""
    check_prefix(prefix)
    return prefix.removesuffix(separator) + separator if prefix else ""


def check_prefix(prefix: object) -> None:
    """Check that a prefix is a string."""
    if not isinstance(prefix, str):
        reject("prefix", "a string", _checks.describe(prefix), TypeError)


def check_names(scope: Scope, names: Iterable[str], what: str) -> None:
    """Check that exactly these tensors are there."""
    wanted = list(names)
    extra = [name for name in scope.tensors if name not in wanted]
    for name in wanted:
        if name not in scope.tensors:
            got = f"none, but {scope.path + extra[0]!r}" if extra else f"none among {listed(scope.tensors)}"
            reject(scope.path + name, f"a tensor of this name for {what}", got)
    if extra:
        reject(scope.path + extra[0], f"no tensor of this name for {what}", _checks.describe(scope.tensors[extra[0]]))


def check_matrix(scope: Scope, name: str) -> tuple[int, int]:
    """Check that a tensor is a matrix. Returns its shape."""
    shape = scope.tensors[name].shape
    if len(shape) != 2 or 0 in shape:
        reject(scope.path + name, "a matrix", _checks.describe(scope.tensors[name]))
    return shape


def check_shapes(scope: Scope, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check the shape of each tensor."""
    for name, shape in shapes.items():
        if scope.tensors[name].shape != shape:
            reject(scope.path + name, f"shape {shape}", scope.tensors[name].shape)


def gate_count(scope: Scope, name: str, packed: int, size: int, allowed: tuple[int, ...] = (4, 3, 1)) -> int:
    """How many gates of `size` a packed axis holds: 4 for an LSTM, 3 for a GRU, 1 for an RNN."""
    gates, rest = divmod(packed, size)
    if rest or gates not in allowed:
        kinds = " or ".join(f"{count} ({_KINDS[count]})" for count in allowed)
        expected = f"a multiple of the hidden size {size}, by {kinds}"
        reject(scope.path + name, expected, f"{packed} in shape {scope.tensors[name].shape}")
    return gates


def params_per_cell(network: Network | Cell, params: Params) -> list[Any]:
    """Check that the params fit the network. Returns those of each cell as NumPy arrays."""
    check_network(network, params)
    return jax.tree.leaves(jax.tree.map(np.asarray, params), is_leaf=lambda node: hasattr(node, "_fields"))


def fill_biases(cell: Cell, params: Any) -> Any:
    """The params of a cell; if it has bias=False, with zeros for the biases."""
    if params.b is not None:
        return params
    biases = {"b": np.zeros(params.w_ih.shape[-1], params.w_ih.dtype)}
    if isinstance(cell, GRUCell) and cell.reset_after:
        biases["b_hn"] = np.zeros(cell.hidden_size, params.w_ih.dtype)
    return params._replace(**biases)


def check_zeros(name: str, values: np.ndarray, why: str) -> None:
    """Check that values are zero for which the other framework has no place."""
    if values.any():
        reject(name, f"zeros {why}", f"values up to {np.abs(values).max()}")


def reorder(packed: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """Reorder the gates packed on the last axis: place k gets the gate ``order[k]``."""
    gates = np.split(packed, len(order), axis=-1)
    return np.concatenate([gates[k] for k in order], axis=-1)


def merge_gru_biases(b_ih: np.ndarray, b_hh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(b, b_hn) of a GRU's two biases, packed r, z, n. Adds those of r and z; keeps the two of n."""
    cut = 2 * b_ih.size // 3
    return np.concatenate([b_ih[:cut] + b_hh[:cut], b_ih[cut:]]), b_hh[cut:]


def split_gru_bias(b: np.ndarray, b_hn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(b_ih, b_hh) that merge to these. b_hh is zero for r and z."""
    return b, np.concatenate([np.zeros(2 * b_hn.size, b.dtype), b_hn])


def make_params(kind: type, **arrays: np.ndarray | None) -> Params:
    """Params of this kind, as JAX arrays that share no memory with the ones given."""
    return kind(**{name: None if array is None else jnp.array(array) for name, array in arrays.items()})


def listed(names: Iterable[str]) -> str:
    """The first few names, for a message."""
    names = list(names)
    shown = ", ".join(map(repr, names[:4]))
    return f"{shown} and {len(names) - 4} more" if len(names) > 4 else shown or "(none)"


def _flatten(weights: Mapping[Any, Any], path: str, separator: str) -> dict[str, Any]:
    """Leaves, named by the keys that lead to them. A key can be a tuple, as in Flax's flat dicts."""
    named: dict[str, Any] = {}
    for key, value in weights.items():
        name = path + separator.join(map(str, key if isinstance(key, tuple) else (key,)))
        leaves = _flatten(value, name + separator, separator) if isinstance(value, Mapping) else {name: value}
        if twice := sorted(set(leaves) & set(named)):
            reject("weights", "different names", f"two tensors named {twice[0]!r}")
        named |= leaves
    return named


def _array(name: str, value: Any) -> np.ndarray:
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        reject(name, "an array", _checks.describe(value), TypeError)
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype not in _DTYPES:
        reject(name, f"one of the dtypes {', '.join(_DTYPES)}", _checks.describe(value), TypeError)
    if jnp.asarray(np.zeros((), dtype)).dtype != dtype:
        reject(name, "at most 32 bits without jax_enable_x64", dtype)  # JAX would round silently
    if hasattr(value, "detach"):  # a torch tensor, which may require a gradient or be on another device
        value = value.detach().cpu()
        value = jnp.from_dlpack(value) if dtype == "bfloat16" else value  # NumPy has no bfloat16
    return np.asarray(value)
