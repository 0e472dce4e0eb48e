"""The minimal gated unit (Zhou et al. 2016): params, cell, equations. Its carry is `RNNCarry`."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxlstm import _checks, _init
from jaxlstm._arrays import add_bias
from jaxlstm._cell import Cell, RNNCarry
from jaxlstm._random import Key
from jaxlstm.cells._gru import gru_transition


class MGUParams(NamedTuple):
    """``w_ih [I, 2H]``, ``w_hh [H, 2H]``, ``b [2H]`` packed f, n; ``b_hn [H]``, or None with reset_gate=False.

    Both biases are None with bias=False.
    """

    w_ih: Float[Array, "I G"]
    w_hh: Float[Array, "H G"]
    b: Float[Array, "G"] | None
    b_hn: Float[Array, "H"] | None


class MGUPreactivations(NamedTuple):
    """The sum for f, and both shares of n apart, since f acts on the second alone."""

    f: Float[Array, "*batch H"]
    x_n: Float[Array, "*batch H"]
    h_n: Float[Array, "*batch H"]


class MGUGates(NamedTuple):
    """Forget gate f and candidate n after their activations, each ``[*batch, H]``."""

    f: Float[Array, "*batch H"]
    n: Float[Array, "*batch H"]


@dataclass(frozen=True, repr=False)
class MGUCell(Cell[MGUParams, RNNCarry]):
    """Minimal gated unit (Zhou et al. 2016), with the reset after the matmul, as Flax has it.

        f_t = sigma(W_if x_t + b_f + W_hf h_{t-1})
        n_t = tanh(W_in x_t + b_n + f_t * (W_hn h_{t-1} + b_hn))        reset_gate=True
        n_t = tanh(W_in x_t + b_n + W_hn h_{t-1})                       reset_gate=False
        h_t = (1 - f_t) * n_t + f_t * h_{t-1}                           the output y_t

    Args:
      hidden_size: H, the features of h.
      reset_gate: whether f also scales the candidate's share of h.
      gate_fn: sigma above, for f.
      activation_fn: tanh above, for n.
      bias: whether there are biases.
      w_ih_init: initialiser of w_ih, called for each gate with shape (I, H).
      w_hh_init: initialiser of w_hh, called for each gate with shape (H, H).
      b_init: initialiser of b, called with shape (2, H). b_hn starts at zero.

    Raises:
      ValueError, TypeError: if an option has no meaning; the message names it.

    >>> cell = jl.MGUCell(4)
    >>> carry, ys = jl.unroll(cell, cell.init(jax.random.key(0), input_size=3), jnp.ones((5, 3)))
    >>> ys.shape
    (5, 4)
    """

    hidden_size: int
    _: KW_ONLY
    reset_gate: bool = True
    gate_fn: Callable[[Array], Array] = jax.nn.sigmoid
    activation_fn: Callable[[Array], Array] = jnp.tanh
    bias: bool = True
    w_ih_init: _init.Initializer = _init.glorot
    w_hh_init: _init.Initializer = _init.orthogonal
    b_init: _init.Initializer = _init.zeros

    def __post_init__(self) -> None:
        self._set(hidden_size=_checks.check_size("hidden_size", self.hidden_size))
        _checks.check_flag("reset_gate", self.reset_gate)
        _checks.check_flag("bias", self.bias)
        _checks.check_unused_b_init(self)
        for name in ("gate_fn", "activation_fn", "w_ih_init", "w_hh_init", "b_init"):
            _checks.check_function(name, getattr(self, name))

    def init(self, key: Key, input_size: int, *, dtype: DTypeLike = jnp.float32) -> MGUParams:
        """Draw initial params for inputs of `input_size` features; b_hn starts at zero."""
        _checks.check_init(key, input_size, dtype)
        size = self.hidden_size
        w_ih_key, w_hh_key, b_key = jax.random.split(key, 3)
        return MGUParams(
            w_ih=_init.draw_weight("w_ih_init", self.w_ih_init, w_ih_key, 2, (input_size, size), dtype),
            w_hh=_init.draw_weight("w_hh_init", self.w_hh_init, w_hh_key, 2, (size, size), dtype),
            b=_init.draw_bias(self.b_init, b_key, 2, size, dtype) if self.bias else None,
            b_hn=jnp.zeros(size, dtype) if self.bias and self.reset_gate else None,
        )

    def recur(self, params: MGUParams, carry: RNNCarry) -> Array:
        """zh = h @ w_hh, plus b_hn for n."""
        zh = carry.h @ params.w_hh
        if params.b_hn is None:
            return zh
        return add_bias(zh, jnp.concatenate([jnp.zeros_like(params.b_hn), params.b_hn]))

    def combine(self, zx: Array, zh: Array) -> Array | MGUPreactivations:
        """With the reset gate z_f summed and z_n in two parts, else the sum."""
        if not self.reset_gate:
            return zx + zh
        (zx_f, zx_n), (zh_f, zh_n) = jnp.split(zx, 2, axis=-1), jnp.split(zh, 2, axis=-1)
        return MGUPreactivations(f=zx_f + zh_f, x_n=zx_n, h_n=zh_n)

    def transition(self, params: MGUParams, z: Array | MGUPreactivations, carry: RNNCarry) -> RNNCarry:
        """The gate, and h between the candidate and the old h."""
        gates = self.gates(params, z, carry)
        return gru_transition(gates.f, gates.n, carry.h)

    def gates(self, params: MGUParams, z: Array | MGUPreactivations, carry: RNNCarry) -> MGUGates:
        """The gate f and the candidate n in the form chosen."""
        if isinstance(z, MGUPreactivations):
            f = self.gate_fn(z.f)
            return MGUGates(f=f, n=self.activation_fn(z.x_n + f * z.h_n))
        z_f, z_n = jnp.split(z, 2, axis=-1)
        return MGUGates(f=self.gate_fn(z_f), n=self.activation_fn(z_n))
