"""Initialisers of recurrent weights.

An initialiser is a function ``(key, shape, dtype) -> array``, as in `jax.nn.initializers`. Here the shape leads with
the gates: ``(gates, in, out)`` for a matrix, ``(gates, H)`` for a bias; `pack` lays the gates side by side. So each
gate is drawn as a matrix of its own, and any initialiser of JAX with ``in_axis=-2, out_axis=-1, batch_axis=0`` fits.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxlstm import _checks
from jaxlstm._types import Key, at_least_float32

Initializer = Callable[..., Array]  # (key, shape, dtype) -> array of that shape

glorot = jax.nn.initializers.glorot_uniform(in_axis=-2, out_axis=-1, batch_axis=0)


def orthogonal(key: Key, shape: tuple[int, int, int], dtype: DTypeLike) -> Float[Array, "gates in out"]:
    """An orthogonal matrix for each gate, uniform over the orthogonal group (Saxe et al. 2014; Mezzadri 2007).

    If a matrix is not square, its shorter axis is orthonormal. All gates share one QR decomposition call.

    >>> w = jl.orthogonal(jax.random.key(0), (4, 3, 3), jnp.float32)
    >>> bool(jnp.allclose(w[0] @ w[0].T, jnp.eye(3), atol=1e-6))
    True
    """
    gates, rows, columns = shape
    wide = at_least_float32(dtype)  # QR has no 16-bit form
    normal = jax.random.normal(key, (gates, max(rows, columns), min(rows, columns)), wide)
    q, r = jnp.linalg.qr(normal)
    q = q * jnp.sign(jnp.diagonal(r, axis1=-2, axis2=-1))[:, None, :]  # else Q would not be uniform
    return (q if rows >= columns else jnp.swapaxes(q, -1, -2)).astype(dtype)


def torch_uniform(key: Key, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """U(-1/sqrt(H), 1/sqrt(H)), H the last axis: what torch draws every recurrent weight and bias from.

    torch has two biases a gate where one acts; here one is drawn.
    """
    bound = shape[-1] ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def chrono(longest: int | float) -> Initializer:
    """Draw biases for dependencies of up to `longest` steps (Tallec & Ollivier 2018, equation 16).

        LSTM: b_f = log u, b_i = -b_f        GRU: b_z = log u        u ~ U(1, longest - 1), the other gates 0

    Args:
      longest: the longest dependency expected, in steps; more than 2.

    Returns:
      An initialiser for `b_init`; those of the same `longest` are equal.

    >>> cell = jl.LSTMCell(hidden_size=8, b_init=jl.chrono(784))
    >>> params = cell.init(jax.random.key(0), input_size=1)
    >>> bool((params.b[8:16] >= 0).all())
    True
    """
    return Chrono(longest)


@dataclass(frozen=True, repr=False)
class Chrono:
    """What `chrono` returns: an object and no closure, so that cells that have it compare by value and can be saved."""

    longest: int | float

    def __post_init__(self) -> None:
        _checks.check_number("longest", self.longest)
        if self.longest <= 2:
            _checks.reject("longest", "more than 2 steps", self.longest)

    def __call__(self, key: Key, shape: tuple[int, int], dtype: DTypeLike) -> Float[Array, "gates H"]:
        """The biases of a cell of this many gates."""
        gates, hidden_size = shape
        if gates not in (3, 4):
            _checks.reject("b_init", "an LSTM or a GRU for chrono", f"a cell of {gates} gates")
        wide = at_least_float32(dtype)  # which can count the steps
        keep = jnp.log(jax.random.uniform(key, (hidden_size,), wide, 1, self.longest - 1)).astype(dtype)
        zero = jnp.zeros_like(keep)
        return jnp.stack([-keep, keep, zero, zero] if gates == 4 else [zero, keep, zero])

    def __repr__(self) -> str:
        return f"chrono({self.longest!r})"


def zeros(key: Key, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Zeros."""
    return jnp.zeros(shape, dtype)


def pack(gates: Float[Array, "gates ..."]) -> Array:
    """Gates side by side on the last axis: ``(gates, in, out) -> (in, gates * out)``, ``(gates, H) -> (gates * H)``."""
    return jnp.concatenate(list(gates), axis=-1)
