"""Initialisers of recurrent weights.

An initialiser is a function ``(key, shape, dtype) -> array``, as in `jax.nn.initializers`. That of a weight draws one
gate of shape (in, out), so those of JAX mean what they say. That of a bias draws all gates at once, (gates, H).
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxlstm import _checks
from jaxlstm._dtypes import at_least_float32
from jaxlstm._random import Key

Initializer = Callable[..., Array]  # (key, shape, dtype) -> array of that shape


def glorot(key: Key, shape: tuple[int, ...], dtype: DTypeLike) -> Float[Array, "*kernel in out"]:
    """U(-a, a) with a = sqrt(6 / (in + out)) (Glorot & Bengio 2010, equation 16).

    Those of a convolution are the features times the positions of the kernel.
    """
    return jax.nn.initializers.glorot_uniform()(key, shape, dtype)


def orthogonal(key: Key, shape: tuple[int, int], dtype: DTypeLike) -> Float[Array, "in out"]:
    """An orthogonal matrix, uniform over the orthogonal group (Saxe et al. 2014; Mezzadri 2007).

    If the matrix is not square, its shorter axis is orthonormal. Unlike JAX's own it also draws 16-bit matrices.

    >>> w = jl.orthogonal(jax.random.key(0), (3, 3), jnp.float32)
    >>> bool(jnp.allclose(w @ w.T, jnp.eye(3), atol=1e-6))
    True
    """
    wide = at_least_float32(dtype)  # QR has no 16-bit form
    return jax.nn.initializers.orthogonal()(key, shape, wide).astype(dtype)


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

    Raises:
      ValueError, TypeError: if `longest` is no number above 2.

    >>> cell = jl.LSTMCell(hidden_size=8, b_init=jl.chrono(784))
    >>> params = cell.init(jax.random.key(0), input_size=1)
    >>> bool((params.b[8:16] >= 0).all())
    True
    """
    return Chrono(longest)


@dataclass(frozen=True, repr=False)
class Chrono:
    """What `chrono` returns. An object, not a closure, so that cells that hold it compare by value and can be saved."""

    longest: int | float

    def __post_init__(self) -> None:
        longest = _checks.check_number("longest", self.longest)
        if longest <= 2:
            _checks.reject("longest", "more than 2 steps", self.longest)
        object.__setattr__(self, "longest", int(longest) if longest.is_integer() else longest)

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


def unit_uniform(key: Key, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """U(0, 1)."""
    return jax.random.uniform(key, shape, dtype)


def zeros(key: Key, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Zeros."""
    return jnp.zeros(shape, dtype)


def draw(name: str, init: Initializer, key: Key, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """What the initialiser called `name` draws, checked."""
    drawn = init(key, shape, dtype)
    expected = f"{jax.dtypes.canonicalize_dtype(dtype)}{list(map(int, shape))}"
    got = _checks.describe(drawn)
    if got != expected:
        _checks.reject(f"what {name} returns", expected, got)
    return drawn


def draw_weight(
    name: str, init: Initializer, key: Key, gates: int, shape: tuple[int, ...], dtype: DTypeLike
) -> Float[Array, "*kernel in G"]:
    """Draw the matrix (in, out) of each gate as if alone, and pack the gates side by side: (in, gates * out).

    They are drawn under vmap, so that an orthogonal initialiser makes one batched QR decomposition a weight.
    """
    if gates == 1:
        return draw(name, init, key, shape, dtype)
    return pack_gates(jax.vmap(lambda key: draw(name, init, key, shape, dtype))(jax.random.split(key, gates)))


def draw_bias(init: Initializer, key: Key, gates: int, size: int, dtype: DTypeLike) -> Float[Array, "G"]:
    """Draw the biases of all gates, (gates, size), and pack them: (gates * size)."""
    return pack_gates(draw("b_init", init, key, (gates, size), dtype))


def with_forget_bias(value: float) -> Initializer:
    """Biases of zero but for the second gate's, f of an LSTM, which have this value."""
    return lambda key, shape, dtype: zeros(key, shape, dtype).at[1].set(value)


def pack_gates(gates: Float[Array, "gates ..."]) -> Array:
    """Gates side by side on the last axis: ``(gates, in, out) -> (in, gates * out)``, ``(gates, H) -> (gates * H)``."""
    return jnp.concatenate(list(gates), axis=-1)
