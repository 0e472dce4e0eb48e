"""A network as a StableHLO program for serving: one file, which JAX runs without this library."""

import os
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import export as jax_export
from jaxtyping import Array

from jaxlstm import _checks
from jaxlstm._cell import Cell
from jaxlstm._dtypes import compute_dtype
from jaxlstm._layers import BidirectionalCarry, Layer
from jaxlstm._network import Network
from jaxlstm._step import Carry, Params
from jaxlstm.interop._arguments import check_network
from jaxlstm.interop._safetensors import write_bytes


def export(
    path: str | os.PathLike[str],
    network: Network | Cell,
    params: Params,
    *,
    lengths: bool = False,
    carry: bool = False,
) -> None:
    """Write a network with its params as a program for CPU, CUDA and TPU, for any number of steps and sequences.

    To run it, with JAX alone::

        import jax.export, pathlib
        program = jax.export.deserialize(pathlib.Path("network.stablehlo").read_bytes())
        carry, ys = program.call(xs)                                     # xs [T, B, I] -> ys [T, B, O]
        carry, ys = program.call(xs, lengths=lengths, carry=carry)       # of a program that takes them

    The program needs no type of this library: a cell's carry is a dict, ``{"h": ..., "c": ...}``, and that of a
    Bidirectional or a Stack is a tuple, ``(forward, backward)`` or one part per layer. Arrays have the dtype of the
    params (a cell state c at least float32), lengths are int32. The program evaluates, so dropout is left out.

    Args:
      path: the file. It appears whole or not at all.
      network: a Layer, Bidirectional, Stack or cell, also one of your own whose params begin with w_ih.
      params: its params, which become constants of the program.
      lengths: whether the program takes the lengths of ragged sequences.
      carry: whether the program takes the carry before the first step; otherwise it starts from the initial one.

    Raises:
      ValueError, TypeError: if the params do not fit the network.

    >>> import pathlib, tempfile
    >>> from jaxlstm.interop import export
    >>> cell = jl.GRUCell(hidden_size=4)
    >>> params = cell.init(jax.random.key(0), input_size=3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "gru.stablehlo")
    ...     export(path, cell, params)
    ...     program = jax.export.deserialize(path.read_bytes())
    >>> carry, ys = program.call(jnp.ones((5, 2, 3)))
    >>> ys.shape, carry["h"].shape
    ((5, 2, 4), (2, 4))
    """
    input_size = check_network(network, params)
    _checks.check_flag("lengths", lengths)
    _checks.check_flag("carry", carry)
    layers = Layer(network) if isinstance(network, Cell) else network
    steps, batch = cast(tuple[int, int], jax_export.symbolic_shape("steps, batch"))
    dtype = compute_dtype(params)
    initial = jax.eval_shape(lambda: layers.init_carry(params, (batch,)))
    arguments = {"lengths": jax.ShapeDtypeStruct((batch,), jnp.int32)} if lengths else {}
    arguments |= {"carry": _plain(initial)} if carry else {}

    def program(xs: Array, *, lengths: Array | None = None, carry: Any = None) -> tuple[Any, Array]:
        before = None if carry is None else _named_as(initial, carry)
        after, ys = layers.apply(params, xs, before, lengths=lengths)
        return _plain(after), ys

    exported = jax_export.export(jax.jit(program), platforms=("cpu", "cuda", "tpu"))(
        jax.ShapeDtypeStruct((steps, batch, *network.spatial_shape, input_size), dtype), **arguments
    )
    write_bytes(path, bytes(exported.serialize()))


def _plain(carry: Carry) -> Any:
    """Cells' named tuples as dicts, and all else as plain tuples: types that JAX can write."""
    if _is_cell_carry(carry):
        return {name: _plain(part) for name, part in carry._asdict().items()}
    return tuple(_plain(part) for part in carry) if isinstance(carry, tuple) else carry


def _named_as(template: Carry, plain: Any) -> Carry:
    """The inverse of `_plain`, with the types of the template."""
    if _is_cell_carry(template):
        return type(template)(**{name: _named_as(part, plain[name]) for name, part in template._asdict().items()})
    if not isinstance(template, tuple):
        return plain
    parts = tuple(_named_as(part, values) for part, values in zip(template, plain, strict=True))
    return BidirectionalCarry(*parts) if isinstance(template, BidirectionalCarry) else parts


def _is_cell_carry(carry: Carry) -> bool:
    """Whether this is the named tuple of one cell, not of both directions."""
    return hasattr(carry, "_fields") and not isinstance(carry, BidirectionalCarry)
