"""The simple recurrent network (Elman 1990): params, cell, equation. Its carry is `RNNCarry`."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxlstm import _checks, _init
from jaxlstm._cell import Cell, RNNCarry
from jaxlstm._random import Key


class RNNParams(NamedTuple):
    """``w_ih [I, H]``, ``w_hh [H, H]``, ``b [H]``, or None for no bias."""

    w_ih: Float[Array, "I H"]
    w_hh: Float[Array, "H H"]
    b: Float[Array, "H"] | None


@dataclass(frozen=True, repr=False)
class RNNCell(Cell[RNNParams, RNNCarry]):
    """A simple recurrent cell (Elman 1990), with any activation.

        h_t = activation_fn(W_ih x_t + W_hh h_{t-1} + b)        y_t = h_t

    Args:
      hidden_size: H, the features of h.
      activation_fn: tanh, or any elementwise function, such as `jax.nn.relu`.
      bias: whether there is a b.
      w_ih_init: initialiser of w_ih, called with shape (I, H).
      w_hh_init: initialiser of w_hh, called with shape (H, H).
      b_init: initialiser of b, called with shape (1, H).

    Raises:
      ValueError, TypeError: if an option has no meaning; the message names it.

    >>> cell = jl.RNNCell(4, activation_fn=jax.nn.relu)
    >>> carry, ys = jl.unroll(cell, cell.init(jax.random.key(0), input_size=3), jnp.ones((5, 3)))
    >>> ys.shape
    (5, 4)
    """

    hidden_size: int
    _: KW_ONLY
    activation_fn: Callable[[Array], Array] = jnp.tanh
    bias: bool = True
    w_ih_init: _init.Initializer = _init.glorot
    w_hh_init: _init.Initializer = _init.orthogonal
    b_init: _init.Initializer = _init.zeros

    def __post_init__(self) -> None:
        self._set(hidden_size=_checks.check_size("hidden_size", self.hidden_size))
        _checks.check_flag("bias", self.bias)
        _checks.check_unused_b_init(self)
        for name in ("activation_fn", "w_ih_init", "w_hh_init", "b_init"):
            _checks.check_function(name, getattr(self, name))

    def init(self, key: Key, input_size: int, *, dtype: DTypeLike = jnp.float32) -> RNNParams:
        """Draw initial params for inputs of `input_size` features."""
        _checks.check_init(key, input_size, dtype)
        size = self.hidden_size
        w_ih_key, w_hh_key, b_key = jax.random.split(key, 3)
        return RNNParams(
            w_ih=_init.draw_weight("w_ih_init", self.w_ih_init, w_ih_key, 1, (input_size, size), dtype),
            w_hh=_init.draw_weight("w_hh_init", self.w_hh_init, w_hh_key, 1, (size, size), dtype),
            b=_init.draw_bias(self.b_init, b_key, 1, size, dtype) if self.bias else None,
        )

    def transition(self, params: RNNParams, z: Array, carry: RNNCarry) -> RNNCarry:
        """h_t = activation_fn(z_t)."""
        return rnn_transition(z, activation_fn=self.activation_fn)


def rnn_transition(z: Float[Array, "*batch H"], *, activation_fn: Callable[[Array], Array] = jnp.tanh) -> RNNCarry:
    """h_t = activation_fn(z_t), with the pre-activations z = W_ih x + W_hh h + b."""
    return RNNCarry(h=activation_fn(z))
