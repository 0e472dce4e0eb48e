"""The LSTM (Hochreiter & Schmidhuber 1997; Gers et al. 2000 for the forget gate): params, carry, cell, equations."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxlstm import _array_checks, _checks, _init
from jaxlstm._cell import Cell
from jaxlstm._dtypes import at_least_float32, carry_dtype
from jaxlstm._random import Key


class LSTMParams(NamedTuple):
    """``w_ih [I, 4H]``, ``w_hh [H, 4H]``, ``b [4H]``, or None for no bias; the gates packed in the order i, f, g, o."""

    w_ih: Float[Array, "I G"]
    w_hh: Float[Array, "H G"]
    b: Float[Array, "G"] | None


class LSTMCarry(NamedTuple):
    """Hidden state ``h [*batch, H]`` (short-term memory, the output) and cell state ``c [*batch, H]`` (long-term)."""

    h: Float[Array, "*batch H"]
    c: Float[Array, "*batch H"]


class Gates(NamedTuple):
    """Input gate i, forget gate f, candidate g and output gate o after their activations, each ``[*batch, H]``."""

    i: Float[Array, "*batch H"]
    f: Float[Array, "*batch H"]
    g: Float[Array, "*batch H"]
    o: Float[Array, "*batch H"]


@dataclass(frozen=True, repr=False)
class LSTMCell(Cell[LSTMParams, LSTMCarry]):
    """Long short-term memory (Hochreiter & Schmidhuber 1997; forget gate: Gers, Schmidhuber & Cummins 2000).

        i_t, f_t, o_t = sigma(z)    g_t = tanh(z)    z = W_ih x_t + W_hh h_{t-1} + b, a quarter for each
        c_t = f_t * c_{t-1} + i_t * g_t              the long-term memory
        h_t = o_t * tanh(c_t)                        the short-term memory, and the output y_t

    Args:
      hidden_size: H, the features of h and of c.
      forget_bias: the initial b of the forget gate; the others start at 0 (Jozefowicz et al. 2015). It is part of the
        params and never added again. A bias of 1 forgets within a few steps; for lags of 50 or more, see `chrono`.
      gate_fn: sigma above, for i, f and o.
      activation_fn: tanh above, for g and for the c in h.
      bias: whether there is a b.
      w_ih_init: initialiser of w_ih, called for each gate with shape (I, H).
      w_hh_init: initialiser of w_hh, called for each gate with shape (H, H).
      b_init: initialiser of b, called with shape (4, H), such as ``jl.chrono(100)``. It replaces `forget_bias`, so
        giving both is an error.

    Raises:
      ValueError, TypeError: if an option has no meaning; the message names it.

    >>> cell = jl.LSTMCell(hidden_size=128)
    >>> params = cell.init(jax.random.key(0), input_size=64)
    >>> carry, ys = jl.unroll(cell, params, jnp.ones((10, 32, 64)))
    >>> ys.shape, carry.c.shape
    ((10, 32, 128), (32, 128))
    """

    hidden_size: int
    _: KW_ONLY
    forget_bias: int | float = 1.0
    gate_fn: Callable[[Array], Array] = jax.nn.sigmoid
    activation_fn: Callable[[Array], Array] = jnp.tanh
    bias: bool = True
    w_ih_init: _init.Initializer = _init.glorot
    w_hh_init: _init.Initializer = _init.orthogonal
    b_init: _init.Initializer | None = None

    def __post_init__(self) -> None:
        self._set(
            hidden_size=_checks.check_size("hidden_size", self.hidden_size),
            forget_bias=_checks.check_number("forget_bias", self.forget_bias),
        )
        for name in ("gate_fn", "activation_fn", "w_ih_init", "w_hh_init"):
            _checks.check_function(name, getattr(self, name))
        _checks.check_bias(self.bias, self.forget_bias, self.b_init)

    def init(self, key: Key, input_size: int, *, dtype: DTypeLike = jnp.float32) -> LSTMParams:
        """Draw initial params for inputs of `input_size` features."""
        _checks.check_init(key, input_size, dtype)
        size = self.hidden_size
        w_ih_key, w_hh_key, b_key = jax.random.split(key, 3)
        b_init = self.b_init or _init.with_forget_bias(self.forget_bias)
        return LSTMParams(
            w_ih=_init.draw_weight("w_ih_init", self.w_ih_init, w_ih_key, 4, (input_size, size), dtype),
            w_hh=_init.draw_weight("w_hh_init", self.w_hh_init, w_hh_key, 4, (size, size), dtype),
            b=_init.draw_bias(b_init, b_key, 4, size, dtype) if self.bias else None,
        )

    def init_carry(
        self, params: LSTMParams, batch_shape: tuple[int, ...] = (), *, dtype: DTypeLike | None = None
    ) -> LSTMCarry:
        """Zeros; c in at least float32."""
        dtype = carry_dtype(params, batch_shape, dtype)
        shape = (*batch_shape, self.hidden_size)
        return LSTMCarry(h=jnp.zeros(shape, dtype), c=jnp.zeros(shape, at_least_float32(dtype)))

    def transition(self, params: LSTMParams, z: Array, carry: LSTMCarry) -> LSTMCarry:
        """The gates, and what they do to the cell state."""
        return lstm_transition(self.gates(params, z, carry), carry.c, activation_fn=self.activation_fn)

    def gates(self, params: LSTMParams, z: Array, carry: LSTMCarry) -> Gates:
        """The gates of z."""
        return lstm_gates(z, gate_fn=self.gate_fn, activation_fn=self.activation_fn)


def lstm_gates(
    z: Float[Array, "*batch G"],
    *,
    gate_fn: Callable[[Array], Array] = jax.nn.sigmoid,
    activation_fn: Callable[[Array], Array] = jnp.tanh,
) -> Gates:
    """Gate activations: i, f, o = sigma(z_i), sigma(z_f), sigma(z_o) and g = tanh(z_g), for z packed i, f, g, o.

    Raises:
      ValueError, TypeError: if an argument does not fit; the message names it.

    >>> jl.lstm_gates(jnp.zeros(4)).f
    Array([0.5], dtype=float32)
    """
    z = _array_checks.float_array("z", z, 0, "")
    if not z.ndim or z.shape[-1] % 4:
        _checks.reject("z", "4 gates side by side on the last axis", _checks.describe(z))
    i, f, g, o = jnp.split(z, 4, axis=-1)
    return Gates(i=gate_fn(i), f=gate_fn(f), g=activation_fn(g), o=gate_fn(o))


def lstm_transition(
    gates: Gates, c: Float[Array, "*batch H"], *, activation_fn: Callable[[Array], Array] = jnp.tanh
) -> LSTMCarry:
    """State transition: c_t = f_t * c_{t-1} + i_t * g_t, then h_t = o_t * tanh(c_t).

    Some notes on the LSTM print ``C_t = i_t * C_{t-1} + f_t * g_t``. That is a misprint: in their own text, as in every
    paper, the forget gate multiplies the old memory. The misprint describes the same network with i and f exchanged.

    Raises:
      ValueError, TypeError: if an argument does not fit; the message names it.

    >>> keep_all = jl.Gates(i=jnp.zeros(1), f=jnp.ones(1), g=jnp.ones(1), o=jnp.ones(1))
    >>> jl.lstm_transition(keep_all, jnp.full(1, 0.25)).c
    Array([0.25], dtype=float32)
    """
    i, f, g, o = gates
    c = _array_checks.float_array("c", c, 0, "")
    if f.shape != c.shape:
        _checks.reject("c", f"shape {f.shape}, as the gates", c.shape)
    c = f * c + i * g
    return LSTMCarry(h=o * activation_fn(c), c=c)
