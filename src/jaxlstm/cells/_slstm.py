"""The sLSTM (Beck et al. 2024, xLSTM): exponential gates and a scalar memory. Params, carry, cell, equations."""

from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxlstm import _checks, _init
from jaxlstm._cell import Cell
from jaxlstm._dtypes import at_least_float32, carry_dtype
from jaxlstm._random import Key

NO_WEIGHT = -1e30  # the m of an empty memory: exp(m) is 0 beside any gate, but unlike -inf it survives arithmetic


class SLSTMParams(NamedTuple):
    """``w_ih [I, 4H]`` and ``b [4H]``, or None for no bias, packed i, f, g, o; ``w_hh [N, D, 4D]``, packed per head.

    N is the number of heads and D = H / N.
    """

    w_ih: Float[Array, "I G"]
    w_hh: Float[Array, "N D head_gates"]
    b: Float[Array, "G"] | None


class SLSTMCarry(NamedTuple):
    """The output h, the memory c and its normaliser n, both to be multiplied by exp(m): each ``[*batch, H]``."""

    h: Float[Array, "*batch H"]
    c: Float[Array, "*batch H"]
    n: Float[Array, "*batch H"]
    m: Float[Array, "*batch H"]


class SLSTMGates(NamedTuple):
    """Stabilised input and forget gates i and f (equations 16 and 17), candidate g, output gate o: ``[*batch, H]``."""

    i: Float[Array, "*batch H"]
    f: Float[Array, "*batch H"]
    g: Float[Array, "*batch H"]
    o: Float[Array, "*batch H"]


@dataclass(frozen=True, repr=False)
class SLSTMCell(Cell[SLSTMParams, SLSTMCarry]):
    """sLSTM, the cell alone (Beck et al. 2024, "xLSTM", equations 8 to 17): exponential gates, kept in range by m.

        z   = W_ih x_t + W_hh h_{t-1} + b                    a quarter for each gate; W_hh has a block for each head
        m_t = max(log f~ + m_{t-1}, z_i)                     f~ = sigma(z_f), or exp(z_f)
        i_t = exp(z_i - m_t)    f_t = exp(log f~ + m_{t-1} - m_t)    g_t = tanh(z_g)    o_t = sigma(z_o)
        c_t = f_t * c_{t-1} + i_t * g_t
        n_t = f_t * n_{t-1} + i_t
        h_t = o_t * c_t / n_t                                the output y_t

    m changes no output: the memory is exp(m) c, its normaliser exp(m) n. An empty memory has c = n = 0 and m = -1e30,
    so the first step gives n = 1 exactly, and n stays at least 1: no step divides by 0, whatever the gates. (With
    `LearnedCarry` only h learns from there, since a memory with that m has no weight.)

    Args:
      hidden_size: H, the features of h.
      num_heads: N, a divisor of H: units see the h of their own head alone.
      exponential_forget: whether the forget gate is an exponential rather than a sigmoid.
      forget_bias: the initial b of the forget gate; the others start at 0.
      bias: whether there is a b.
      w_ih_init: initialiser of w_ih, called for each gate with shape (I, H).
      w_hh_init: initialiser of w_hh, called for each head and gate with shape (D, D).
      b_init: initialiser of b, called with shape (4, H). It replaces `forget_bias`, so giving both is an error.

    Raises:
      ValueError, TypeError: if an option has no meaning; the message names it.

    >>> cell = jl.SLSTMCell(8, num_heads=2)
    >>> carry, ys = jl.unroll(cell, cell.init(jax.random.key(0), input_size=3), jnp.ones((5, 3)))
    >>> ys.shape, carry.n.shape
    ((5, 8), (8,))
    """

    hidden_size: int
    _: KW_ONLY
    num_heads: int = 1
    exponential_forget: bool = False
    forget_bias: int | float = 1.0
    bias: bool = True
    w_ih_init: _init.Initializer = _init.glorot
    w_hh_init: _init.Initializer = _init.orthogonal
    b_init: _init.Initializer | None = None

    def __post_init__(self) -> None:
        self._set(
            hidden_size=_checks.check_size("hidden_size", self.hidden_size),
            num_heads=_checks.check_size("num_heads", self.num_heads),
            forget_bias=_checks.check_number("forget_bias", self.forget_bias),
        )
        _checks.check_heads(self.num_heads, self.hidden_size)
        _checks.check_flag("exponential_forget", self.exponential_forget)
        for name in ("w_ih_init", "w_hh_init"):
            _checks.check_function(name, getattr(self, name))
        _checks.check_bias(self.bias, self.forget_bias, self.b_init)

    def init(self, key: Key, input_size: int, *, dtype: DTypeLike = jnp.float32) -> SLSTMParams:
        """Draw initial params for inputs of `input_size` features."""
        _checks.check_init(key, input_size, dtype)
        size, head_size = self.hidden_size, self.hidden_size // self.num_heads
        w_ih_key, w_hh_key, b_key = jax.random.split(key, 3)
        b_init = self.b_init or _init.with_forget_bias(self.forget_bias)

        def draw_head(key: Key) -> Array:
            return _init.draw_weight("w_hh_init", self.w_hh_init, key, 4, (head_size, head_size), dtype)

        return SLSTMParams(
            w_ih=_init.draw_weight("w_ih_init", self.w_ih_init, w_ih_key, 4, (input_size, size), dtype),
            w_hh=jax.vmap(draw_head)(jax.random.split(w_hh_key, self.num_heads)),
            b=_init.draw_bias(b_init, b_key, 4, size, dtype) if self.bias else None,
        )

    def init_carry(
        self, params: SLSTMParams, batch_shape: tuple[int, ...] = (), *, dtype: DTypeLike | None = None
    ) -> SLSTMCarry:
        """An empty memory, in at least float32, and h = 0."""
        dtype = carry_dtype(params, batch_shape, dtype)
        h = jnp.zeros((*batch_shape, self.hidden_size), dtype)
        c = h.astype(at_least_float32(dtype))
        return SLSTMCarry(h=h, c=c, n=c, m=jnp.full_like(c, NO_WEIGHT))

    def recur(self, params: SLSTMParams, carry: SLSTMCarry) -> Array:
        """zh = h @ w_hh, head by head, with the gates of all heads packed i, f, g, o."""
        *batch, size = carry.h.shape
        heads = carry.h.reshape(*batch, self.num_heads, size // self.num_heads)
        zh = jnp.einsum("...nd,ndg->...ng", heads, params.w_hh)
        return zh.reshape(*batch, self.num_heads, 4, size // self.num_heads).swapaxes(-3, -2).reshape(*batch, 4 * size)

    def transition(self, params: SLSTMParams, z: Array, carry: SLSTMCarry) -> SLSTMCarry:
        """The gates, and what they do to the memory."""
        gates, m = slstm_gates(z, carry.m, exponential_forget=self.exponential_forget)
        return slstm_transition(gates, carry, m)

    def gates(self, params: SLSTMParams, z: Array, carry: SLSTMCarry) -> SLSTMGates:
        """The gates of z, stabilised."""
        return slstm_gates(z, carry.m, exponential_forget=self.exponential_forget)[0]


def slstm_gates(
    z: Float[Array, "*batch G"], m: Float[Array, "*batch H"], *, exponential_forget: bool = False
) -> tuple[SLSTMGates, Float[Array, "*batch H"]]:
    """The gates of z, packed i, f, g, o, and the new m."""
    z_i, z_f, z_g, z_o = jnp.split(z, 4, axis=-1)
    i, f, m = exponential_gates(z_i, z_f, m, exponential_forget=exponential_forget)
    return SLSTMGates(i=i, f=f, g=jnp.tanh(z_g), o=jax.nn.sigmoid(z_o)), m


def slstm_transition(gates: SLSTMGates, carry: SLSTMCarry, m: Float[Array, "*batch H"]) -> SLSTMCarry:
    """c_t = f_t * c_{t-1} + i_t * g_t, n_t = f_t * n_{t-1} + i_t and h_t = o_t * c_t / n_t, beside the new m."""
    i, f, g, o = gates
    c = f * carry.c + i * g
    n = f * carry.n + i
    return SLSTMCarry(h=o * (c / n), c=c, n=n, m=m)


def exponential_gates(
    z_i: Float[Array, "*batch n"],
    z_f: Float[Array, "*batch n"],
    m: Float[Array, "*batch n"],
    *,
    exponential_forget: bool = False,
) -> tuple[Float[Array, "*batch n"], Float[Array, "*batch n"], Float[Array, "*batch n"]]:
    """i = exp(z_i) and f = sigma(z_f) or exp(z_f), both divided so that the larger share is 1; and the new m.

        m_t = max(log f + m_{t-1}, z_i)    i = exp(z_i - m_t)    f = exp(log f + m_{t-1} - m_t)

    Reference: Beck et al. 2024, equations 15 to 17, of the sLSTM and the mLSTM.
    """
    old = log_forget(z_f, exponential=exponential_forget) + m
    m = jnp.maximum(old, z_i)
    return jnp.exp(z_i - m), jnp.exp(old - m), m


def log_forget(z_f: Float[Array, "*axes n"], *, exponential: bool) -> Float[Array, "*axes n"]:
    """log f of f = sigma(z_f) or exp(z_f)."""
    return z_f if exponential else jax.nn.log_sigmoid(z_f)
