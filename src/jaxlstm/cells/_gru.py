"""The gated recurrent unit (Cho et al. 2014), both reset forms: params, cell, equations. Its carry is `RNNCarry`."""

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


class GRUParams(NamedTuple):
    """``w_ih [I, 3H]``, ``w_hh [H, 3H]``, ``b [3H]`` packed r, z, n; ``b_hn [H]``, or None with reset_after=False.

    Both biases are None with bias=False.
    """

    w_ih: Float[Array, "I G"]
    w_hh: Float[Array, "H G"]
    b: Float[Array, "G"] | None
    b_hn: Float[Array, "H"] | None


class GRUPreactivations(NamedTuple):
    """The sums for r and z, and both shares of n apart, since r acts on the second alone."""

    rz: Float[Array, "*batch 2H"]
    x_n: Float[Array, "*batch H"]
    h_n: Float[Array, "*batch H"] | None  # None with reset_after=False, whose matmul waits for r


class GRUGates(NamedTuple):
    """Reset gate r, update gate z and candidate n after their activations, each ``[*batch, H]``."""

    r: Float[Array, "*batch H"]
    z: Float[Array, "*batch H"]
    n: Float[Array, "*batch H"]


@dataclass(frozen=True, repr=False)
class GRUCell(Cell[GRUParams, RNNCarry]):
    """Gated recurrent unit (Cho et al. 2014).

        r_t, z_t = sigma(W_ir x_t + W_hr h_{t-1} + b_r), sigma(W_iz x_t + W_hz h_{t-1} + b_z)
        n_t = tanh(W_in x_t + b_n + r_t * (W_hn h_{t-1} + b_hn))        reset_after=True: torch, cuDNN, Keras
        n_t = tanh(W_in x_t + b_n + W_hn (r_t * h_{t-1}))               reset_after=False: the paper (its equation 8)
        h_t = (1 - z_t) * n_t + z_t * h_{t-1}                           the output y_t

    Args:
      hidden_size: H, the features of h.
      reset_after: whether the reset gate acts after the matmul, as in the fast kernels, or before it, as in the paper.
      gate_fn: sigma above, for r and z.
      activation_fn: tanh above, for n.
      bias: whether there are biases.
      w_ih_init: initialiser of w_ih, called for each gate with shape (I, H).
      w_hh_init: initialiser of w_hh, called for each gate with shape (H, H).
      b_init: initialiser of b, called with shape (3, H). Zeros, the default, forget within a few steps; for lags of 50
        or more, give ``jl.chrono(longest)``. b_hn starts at zero.

    Raises:
      ValueError, TypeError: if an option has no meaning; the message names it.

    >>> cell = jl.GRUCell(4)
    >>> carry, ys = jl.unroll(cell, cell.init(jax.random.key(0), input_size=3), jnp.ones((5, 2, 3)))
    >>> ys.shape, carry.h.shape
    ((5, 2, 4), (2, 4))
    """

    hidden_size: int
    _: KW_ONLY
    reset_after: bool = True
    gate_fn: Callable[[Array], Array] = jax.nn.sigmoid
    activation_fn: Callable[[Array], Array] = jnp.tanh
    bias: bool = True
    w_ih_init: _init.Initializer = _init.glorot
    w_hh_init: _init.Initializer = _init.orthogonal
    b_init: _init.Initializer = _init.zeros

    def __post_init__(self) -> None:
        self._set(hidden_size=_checks.check_size("hidden_size", self.hidden_size))
        _checks.check_flag("reset_after", self.reset_after)
        _checks.check_flag("bias", self.bias)
        _checks.check_unused_b_init(self)
        for name in ("gate_fn", "activation_fn", "w_ih_init", "w_hh_init", "b_init"):
            _checks.check_function(name, getattr(self, name))

    def init(self, key: Key, input_size: int, *, dtype: DTypeLike = jnp.float32) -> GRUParams:
        """Draw initial params for inputs of `input_size` features; b_hn starts at zero."""
        _checks.check_init(key, input_size, dtype)
        size = self.hidden_size
        w_ih_key, w_hh_key, b_key = jax.random.split(key, 3)
        return GRUParams(
            w_ih=_init.draw_weight("w_ih_init", self.w_ih_init, w_ih_key, 3, (input_size, size), dtype),
            w_hh=_init.draw_weight("w_hh_init", self.w_hh_init, w_hh_key, 3, (size, size), dtype),
            b=_init.draw_bias(self.b_init, b_key, 3, size, dtype) if self.bias else None,
            b_hn=jnp.zeros(size, dtype) if self.bias and self.reset_after else None,
        )

    def recur(self, params: GRUParams, carry: RNNCarry) -> Array:
        """zh = h @ w_hh, plus b_hn for n. With reset_after=False, r and z alone: the matmul for n waits for r."""
        size = self.hidden_size
        if not self.reset_after:
            return carry.h @ params.w_hh[:, : 2 * size]
        zh = carry.h @ params.w_hh
        if params.b_hn is None:
            return zh
        return add_bias(zh, jnp.concatenate([jnp.zeros(2 * size, params.b_hn.dtype), params.b_hn]))

    def combine(self, zx: Array, zh: Array) -> GRUPreactivations:
        """z_r and z_z summed, z_n in two parts."""
        zx_rz, zx_n = jnp.split(zx, [2 * self.hidden_size], axis=-1)
        zh_rz, zh_n = jnp.split(zh, [2 * self.hidden_size], axis=-1)
        return GRUPreactivations(rz=zx_rz + zh_rz, x_n=zx_n, h_n=zh_n if self.reset_after else None)

    def transition(self, params: GRUParams, z: GRUPreactivations, carry: RNNCarry) -> RNNCarry:
        """The gates, and h between the candidate and the old h."""
        gates = self.gates(params, z, carry)
        return gru_transition(gates.z, gates.n, carry.h)

    def gates(self, params: GRUParams, z: GRUPreactivations, carry: RNNCarry) -> GRUGates:
        """The gates r and z, and the candidate n in the form chosen."""
        r, update = (self.gate_fn(gate) for gate in jnp.split(z.rz, 2, axis=-1))
        h_n = (r * carry.h) @ params.w_hh[:, 2 * self.hidden_size :] if z.h_n is None else r * z.h_n
        return GRUGates(r=r, z=update, n=self.activation_fn(z.x_n + h_n))


def gru_transition(z: Float[Array, "*batch H"], n: Float[Array, "*batch H"], h: Float[Array, "*batch H"]) -> RNNCarry:
    """h_t = (1 - z_t) * n_t + z_t * h_{t-1}, with the update gate z and the candidate n."""
    return RNNCarry(h=(1 - z) * n + z * h)
