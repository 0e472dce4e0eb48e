"""The gated recurrent unit (Cho et al. 2014), both reset forms: params, cell, equations. Its carry is `RNNCarry`."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxlstm import _checks, _init
from jaxlstm._types import Cell, Key, RNNCarry


class GRUParams(NamedTuple):
    """``w_ih [I, 3H]``, ``w_hh [H, 3H]``, ``b [3H]`` in the order r, z, n; ``b_hn [H]``, or None for reset before."""

    w_ih: Float[Array, "I G"]
    w_hh: Float[Array, "H G"]
    b: Float[Array, "G"]
    b_hn: Float[Array, "H"] | None


class GRUGates(NamedTuple):
    """Reset gate r, update gate z and candidate n after their activations, each ``[*batch, H]``."""

    r: Float[Array, "*batch H"]
    z: Float[Array, "*batch H"]
    n: Float[Array, "*batch H"]


@dataclass(frozen=True, repr=False)
class GRUCell(Cell):
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
      w_ih_init: initialiser of w_ih, called with shape (3, I, H).
      w_hh_init: initialiser of w_hh, called with shape (3, H, H).
      b_init: initialiser of b, called with shape (3, H), such as `chrono`. b_hn starts at zero.

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
    w_ih_init: _init.Initializer = _init.glorot
    w_hh_init: _init.Initializer = _init.orthogonal
    b_init: _init.Initializer = _init.zeros

    def __post_init__(self) -> None:
        _checks.check_size("hidden_size", self.hidden_size)
        _checks.check_flag("reset_after", self.reset_after)
        for name in ("gate_fn", "activation_fn", "w_ih_init", "w_hh_init", "b_init"):
            _checks.check_function(name, getattr(self, name))

    def init(self, key: Key, input_size: int, *, dtype: DTypeLike = jnp.float32) -> GRUParams:
        """Draw initial params for inputs of `input_size` features; b_hn starts at zero."""
        _checks.check_init(key, input_size, dtype)
        size = self.hidden_size
        w_ih_key, w_hh_key, b_key = jax.random.split(key, 3)
        return GRUParams(
            w_ih=_init.pack(self.w_ih_init(w_ih_key, (3, input_size, size), dtype)),
            w_hh=_init.pack(self.w_hh_init(w_hh_key, (3, size, size), dtype)),
            b=_init.pack(self.b_init(b_key, (3, size), dtype)),
            b_hn=jnp.zeros(size, dtype) if self.reset_after else None,
        )

    def recur(self, params: GRUParams, carry: RNNCarry) -> Array:
        """zh = h @ w_hh, with b_hn on n; for reset before without n, whose matmul waits for r."""
        size = self.hidden_size
        if params.b_hn is None:
            return carry.h @ params.w_hh[:, : 2 * size]
        b = jnp.concatenate([jnp.zeros(2 * size, params.b_hn.dtype), params.b_hn])
        return carry.h @ params.w_hh + b

    def transition(self, params: GRUParams, zx: Array, zh: Array, carry: RNNCarry) -> RNNCarry:
        """The gates, and h between the candidate and the old h."""
        gates = self.gates(params, zx, zh, carry)
        return gru_transition(gates.z, gates.n, carry.h)

    def gates(self, params: GRUParams, zx: Array, zh: Array, carry: RNNCarry) -> GRUGates:
        """The gates r and z, and the candidate n in the form chosen."""
        h, size = carry.h, self.hidden_size
        zx_r, zx_z, zx_n = jnp.split(zx, 3, axis=-1)
        zh_r, zh_z, *zh_n = jnp.split(zh, 3 if self.reset_after else 2, axis=-1)
        r, z = self.gate_fn(zx_r + zh_r), self.gate_fn(zx_z + zh_z)
        if self.reset_after:
            n = self.activation_fn(zx_n + r * zh_n[0])
        else:
            n = self.activation_fn(zx_n + (r * h) @ params.w_hh[:, 2 * size :])
        return GRUGates(r=r, z=z, n=n)


def gru_transition(z: Float[Array, "*batch H"], n: Float[Array, "*batch H"], h: Float[Array, "*batch H"]) -> RNNCarry:
    """h_t = (1 - z_t) * n_t + z_t * h_{t-1}, of the update gate z and the candidate n."""
    return RNNCarry(h=(1 - z) * n + z * h)
