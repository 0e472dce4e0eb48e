"""The minLSTM (Feng et al. 2024), an LSTM whose gates do not see h: params, cell. Its carry is `RNNCarry`."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxlstm import _checks, _init
from jaxlstm._cell import RNNCarry
from jaxlstm._random import Key
from jaxlstm.cells._linear import LinearCell


class MinLSTMParams(NamedTuple):
    """``w_ih [I, 3H]``, ``b [3H]``, or None for no bias; packed i, f, g."""

    w_ih: Float[Array, "I G"]
    b: Float[Array, "G"] | None


class MinLSTMGates(NamedTuple):
    """Input gate i and forget gate f, normalised to i + f = 1, and candidate g, each ``[*batch, H]``."""

    i: Float[Array, "*batch H"]
    f: Float[Array, "*batch H"]
    g: Float[Array, "*batch H"]


@dataclass(frozen=True, repr=False)
class MinLSTMCell(LinearCell[MinLSTMParams, RNNCarry]):
    """minLSTM (Feng et al. 2024, "Were RNNs all we needed?", section 3.2): linear in h, with gates that add up to 1.

        i~_t, f~_t = sigma(W_i x_t + b_i), sigma(W_f x_t + b_f)
        i_t, f_t   = i~_t / (i~_t + f~_t), f~_t / (i~_t + f~_t)
        g_t        = activation_fn(W_g x_t + b_g)
        h_t        = f_t * h_{t-1} + i_t * g_t               the output y_t

    Args:
      hidden_size: H, the features of h.
      activation_fn: of the candidate: none, as in the paper's section 3, or `min_activation`, the g of its version in
        log space (appendix B).
      bias: whether there is a b.
      w_ih_init: initialiser of w_ih, called for each gate with shape (I, H).
      b_init: initialiser of b, called with shape (3, H). Not `chrono`, since the gates are normalised.

    Raises:
      ValueError, TypeError: if an option has no meaning; the message names it.

    >>> cell = jl.MinLSTMCell(4)
    >>> carry, ys = jl.unroll(cell, cell.init(jax.random.key(0), input_size=3), jnp.ones((5, 3)))
    >>> ys.shape
    (5, 4)
    """

    hidden_size: int
    _: KW_ONLY
    activation_fn: Callable[[Array], Array] = jax.nn.identity
    bias: bool = True
    w_ih_init: _init.Initializer = _init.glorot
    b_init: _init.Initializer = _init.zeros

    def __post_init__(self) -> None:
        self._set(hidden_size=_checks.check_size("hidden_size", self.hidden_size))
        _checks.check_flag("bias", self.bias)
        _checks.check_unused_b_init(self)
        for name in ("activation_fn", "w_ih_init", "b_init"):
            _checks.check_function(name, getattr(self, name))
        if isinstance(self.b_init, _init.Chrono):
            _checks.reject("b_init", "an LSTM or a GRU for chrono", "a minLSTM, whose gates are normalised")

    def init(self, key: Key, input_size: int, *, dtype: DTypeLike = jnp.float32) -> MinLSTMParams:
        """Draw initial params for inputs of `input_size` features."""
        _checks.check_init(key, input_size, dtype)
        w_ih_key, b_key = jax.random.split(key)
        return MinLSTMParams(
            w_ih=_init.draw_weight("w_ih_init", self.w_ih_init, w_ih_key, 3, (input_size, self.hidden_size), dtype),
            b=_init.draw_bias(self.b_init, b_key, 3, self.hidden_size, dtype) if self.bias else None,
        )

    def coefficients(self, params: MinLSTMParams, zx: Array) -> tuple[RNNCarry, RNNCarry]:
        """a = f and b = i * g."""
        i, f, g = self.gates(params, zx, None)
        return RNNCarry(h=f), RNNCarry(h=i * g)

    def gates(self, params: MinLSTMParams, z: Array, carry: RNNCarry | None) -> MinLSTMGates:
        """The gates i and f, and the candidate g.

        i = sigma(log i~ - log f~), as in the paper's appendix B: the quotient is 0 / 0 where both gates are shut.
        """
        z_i, z_f, z_g = jnp.split(z, 3, axis=-1)
        odds = jax.nn.log_sigmoid(z_i) - jax.nn.log_sigmoid(z_f)
        return MinLSTMGates(i=jax.nn.sigmoid(odds), f=jax.nn.sigmoid(-odds), g=self.activation_fn(z_g))
