"""The independently recurrent network (Li et al. 2018): params, cell. Its carry and its equation are the RNN's."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxlstm import _checks, _init
from jaxlstm._arrays import per_feature
from jaxlstm._cell import Cell, RNNCarry
from jaxlstm._random import Key
from jaxlstm.cells._rnn import rnn_transition


class IndRNNParams(NamedTuple):
    """``w_ih [I, H]``, ``u [H]``, ``b [H]``, or None for no bias."""

    w_ih: Float[Array, "I H"]
    u: Float[Array, "H"]
    b: Float[Array, "H"] | None


@dataclass(frozen=True, repr=False)
class IndRNNCell(Cell[IndRNNParams, RNNCarry]):
    """Independently recurrent cell (Li et al. 2018, equation 2): each unit sees the past of itself alone.

        h_t = activation_fn(W_ih x_t + u * h_{t-1} + b)        y_t = h_t

    Args:
      hidden_size: H, the features of h.
      activation_fn: relu, as in the paper, or any elementwise function.
      bias: whether there is a b.
      w_ih_init: initialiser of w_ih, called with shape (I, H).
      u_init: initialiser of u, called with shape (H,). The default is U(0, 1). For sequences of T steps and relu the
        paper bounds u by 2^(1/T), which is hardly more than 1, and clips u to that after each update; that is up to
        the optimizer.
      b_init: initialiser of b, called with shape (1, H).

    Raises:
      ValueError, TypeError: if an option has no meaning; the message names it.

    >>> cell = jl.IndRNNCell(4)
    >>> carry, ys = jl.unroll(cell, cell.init(jax.random.key(0), input_size=3), jnp.ones((5, 3)))
    >>> ys.shape
    (5, 4)
    """

    hidden_size: int
    _: KW_ONLY
    activation_fn: Callable[[Array], Array] = jax.nn.relu
    bias: bool = True
    w_ih_init: _init.Initializer = _init.glorot
    u_init: _init.Initializer = _init.unit_uniform
    b_init: _init.Initializer = _init.zeros

    def __post_init__(self) -> None:
        self._set(hidden_size=_checks.check_size("hidden_size", self.hidden_size))
        _checks.check_flag("bias", self.bias)
        _checks.check_unused_b_init(self)
        for name in ("activation_fn", "w_ih_init", "u_init", "b_init"):
            _checks.check_function(name, getattr(self, name))

    def init(self, key: Key, input_size: int, *, dtype: DTypeLike = jnp.float32) -> IndRNNParams:
        """Draw initial params for inputs of `input_size` features."""
        _checks.check_init(key, input_size, dtype)
        size = self.hidden_size
        w_ih_key, u_key, b_key = jax.random.split(key, 3)
        return IndRNNParams(
            w_ih=_init.draw_weight("w_ih_init", self.w_ih_init, w_ih_key, 1, (input_size, size), dtype),
            u=_init.draw("u_init", self.u_init, u_key, (size,), dtype),
            b=_init.draw_bias(self.b_init, b_key, 1, size, dtype) if self.bias else None,
        )

    def recur(self, params: IndRNNParams, carry: RNNCarry) -> Array:
        """zh = u * h."""
        return per_feature(params.u, carry.h) * carry.h

    def transition(self, params: IndRNNParams, z: Array, carry: RNNCarry) -> RNNCarry:
        """h_t = activation_fn(z_t)."""
        return rnn_transition(z, activation_fn=self.activation_fn)
