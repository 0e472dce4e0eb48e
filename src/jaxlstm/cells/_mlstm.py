"""The mLSTM (Beck et al. 2024, xLSTM), by steps or chunks: a matrix memory. Params, carry, cell, equations."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxlstm import _checks, _init
from jaxlstm._arrays import add_bias, select
from jaxlstm._cell import Cell
from jaxlstm._dtypes import at_least_float32, carry_dtype
from jaxlstm._random import Key
from jaxlstm.cells._mlstm_chunk import chunk_decays, read_chunk, read_memory, write_chunk
from jaxlstm.cells._slstm import exponential_gates, log_forget


class MLSTMParams(NamedTuple):
    """``w_ih [I, 4H + 2N]``, ``b [4H + 2N]``, or None for no bias; packed q, k, v, o (H each), i, f (N each).

    N is the number of heads.
    """

    w_ih: Float[Array, "I G"]
    b: Float[Array, "G"] | None


class MLSTMCarry(NamedTuple):
    """The output h; for each of N heads of size D a memory c and its normaliser n, to be multiplied by exp(m)."""

    h: Float[Array, "*batch H"]
    c: Float[Array, "*batch N D D"]
    n: Float[Array, "*batch N D"]
    m: Float[Array, "*batch N"]


class MLSTMGates(NamedTuple):
    """Stabilised input and forget gates i and f of each head (equations 16 and 17), and output gate o."""

    i: Float[Array, "*batch N"]
    f: Float[Array, "*batch N"]
    o: Float[Array, "*batch H"]


@dataclass(frozen=True, repr=False)
class MLSTMCell(Cell[MLSTMParams, MLSTMCarry]):
    """mLSTM, the cell alone (Beck et al. 2024, "xLSTM", equations 19 to 27): a matrix memory with keys and values.

        q_t = W_q x_t + b_q    k_t = W_k x_t / sqrt(D) + b_k    v_t = W_v x_t + b_v    o_t = sigma(W_o x_t + b_o)
        m_t = max(log f~ + m_{t-1}, z_i)                    z_i, z_f = W x_t + b, one a head; f~ = sigma or exp of z_f
        i_t = exp(z_i - m_t)    f_t = exp(log f~ + m_{t-1} - m_t)
        C_t = f_t C_{t-1} + i_t v_t k_t^T                   for each head of size D = H / N
        n_t = f_t n_{t-1} + i_t k_t
        h_t = o_t * C_t q_t / max(|n_t^T q_t|, exp(-m_t))   the output y_t

    m changes no output: in terms of the memory exp(m) C and its normaliser exp(m) n, the lower bound exp(-m) is the
    paper's 1. No gate depends on h. A gradient keeps C, [N, D, D], of every step.
    With a chunk length as `remat`, it keeps that of one step a chunk.

    Args:
      hidden_size: H, the features of h.
      num_heads: N, a divisor of H.
      exponential_forget: whether the forget gate is an exponential rather than a sigmoid.
      forget_bias: the initial b of the forget gate; the others start at 0.
      bias: whether there is a b.
      w_ih_init: initialiser of w_ih, called with shape (I, H) for q, k, v and o, with (I, N) for i and f.

    Raises:
      ValueError, TypeError: if an option has no meaning; the message names it.

    >>> cell = jl.MLSTMCell(8, num_heads=2)
    >>> carry, ys = jl.unroll(cell, cell.init(jax.random.key(0), input_size=3), jnp.ones((5, 3)))
    >>> ys.shape, carry.c.shape
    ((5, 8), (2, 4, 4))
    """

    hidden_size: int
    _: KW_ONLY
    num_heads: int = 1
    exponential_forget: bool = False
    forget_bias: int | float = 1.0
    bias: bool = True
    w_ih_init: _init.Initializer = _init.glorot

    def __post_init__(self) -> None:
        self._set(
            hidden_size=_checks.check_size("hidden_size", self.hidden_size),
            num_heads=_checks.check_size("num_heads", self.num_heads),
            forget_bias=_checks.check_number("forget_bias", self.forget_bias),
        )
        _checks.check_heads(self.num_heads, self.hidden_size)
        _checks.check_flag("exponential_forget", self.exponential_forget)
        _checks.check_function("w_ih_init", self.w_ih_init)
        _checks.check_bias(self.bias, self.forget_bias, None)

    def init(self, key: Key, input_size: int, *, dtype: DTypeLike = jnp.float32) -> MLSTMParams:
        """Draw initial params for inputs of `input_size` features."""
        _checks.check_init(key, input_size, dtype)
        size, heads = self.hidden_size, self.num_heads
        vectors_key, gates_key = jax.random.split(key)
        vectors = _init.draw_weight("w_ih_init", self.w_ih_init, vectors_key, 4, (input_size, size), dtype)
        gates = _init.draw_weight("w_ih_init", self.w_ih_init, gates_key, 2, (input_size, heads), dtype)
        b = jnp.zeros(4 * size + 2 * heads, dtype).at[-heads:].set(self.forget_bias) if self.bias else None
        return MLSTMParams(w_ih=jnp.concatenate([vectors, gates], axis=-1), b=b)

    def init_carry(
        self, params: MLSTMParams, batch_shape: tuple[int, ...] = (), *, dtype: DTypeLike | None = None
    ) -> MLSTMCarry:
        """Zeros; the memory in at least float32."""
        dtype = carry_dtype(params, batch_shape, dtype)
        wide, heads, head_size = at_least_float32(dtype), self.num_heads, self.hidden_size // self.num_heads
        return MLSTMCarry(
            h=jnp.zeros((*batch_shape, self.hidden_size), dtype),
            c=jnp.zeros((*batch_shape, heads, head_size, head_size), wide),
            n=jnp.zeros((*batch_shape, heads, head_size), wide),
            m=jnp.zeros((*batch_shape, heads), wide),
        )

    def project(self, params: MLSTMParams, x: Array) -> Array:
        """zx = x @ w_ih + b, with the keys' share of x divided by sqrt(D)."""
        size, heads = self.hidden_size, self.num_heads
        q, k, rest = jnp.split(x @ params.w_ih, [size, 2 * size], axis=-1)
        zx = jnp.concatenate([q, k * (size // heads) ** -0.5, rest], axis=-1)
        return zx if params.b is None else add_bias(zx, params.b)

    def recur(self, params: MLSTMParams, carry: MLSTMCarry) -> None:
        """Nothing: no gate depends on the carry."""
        return

    def combine(self, zx: Array, zh: None) -> Array:
        """z = zx."""
        return zx

    def transition(self, params: MLSTMParams, z: Array, carry: MLSTMCarry) -> MLSTMCarry:
        """The gates, and the memory that they write and q reads."""
        gates, m = self._gates_and_m(z, carry.m)
        q, k, v = (part.reshape(*carry.n.shape) for part in jnp.split(z[..., : 3 * self.hidden_size], 3, axis=-1))
        return mlstm_transition(gates, q, k, v, carry, m)

    def gates(self, params: MLSTMParams, z: Array, carry: MLSTMCarry) -> MLSTMGates:
        """The gates of z, stabilised."""
        return self._gates_and_m(z, carry.m)[0]

    def chunk(
        self,
        params: MLSTMParams,
        z: Float[Array, "*batch L G"],
        carry: MLSTMCarry,
        initial: MLSTMCarry,
        valid: Bool[Array, "*batch L"] | None = None,
        reset: Bool[Array, "*batch L"] | None = None,
    ) -> tuple[MLSTMCarry, Float[Array, "*batch L H"]]:
        """L steps of `transition` at once: the carry after the last, and the h of each.

            C_t q_t = f_1 ... f_t C q_t + sum over s <= t of i_s f_{s+1} ... f_t (k_s^T q_t) v_s

        for the C before the chunk, and n_t^T q_t likewise. Only the last of the C_t is computed, and matmuls over the
        chunk replace L dependent steps. A NaN in a step that counts may reach every h of the chunk.

        Args:
          params: the cell's params.
          z: the pre-activations of the steps, which come after the batch axes.
          carry: the carry before the first step.
          initial: the carry that a reset returns to.
          valid: False where a step is masked. It holds the carry, and its h is 0.
          reset: True where a step starts from `initial`.

        Reference: the recurrence above, whose solution is the parallel form in the appendix of Beck et al. 2024.
        """
        episode = jnp.zeros(z.shape[:-1], jnp.int32) if reset is None else jnp.cumsum(reset, axis=-1)
        held = carry
        if valid is not None or reset is not None:  # so that NaN in a carry that no step reads reaches no gradient
            reads = episode == 0 if valid is None else valid & (episode == 0)
            carry = select(reads.any(-1), carry, initial)
        q, k, v, z_o, log_i, log_f = self._split_chunk(z, valid)
        read = read_memory(carry.c, carry.n, carry.m, q)
        if reset is not None:
            read = select(episode == 0, read, read_memory(initial.c, initial.n, initial.m, q))
            held, carry = select(episode[..., -1] > 0, (initial, initial), (held, carry))
        decays = chunk_decays(log_i, log_f, read.m, episode)
        c_q, n_q = read_chunk(decays, read, q, k, v)
        h = jax.nn.sigmoid(z_o) * (c_q / _norm(n_q, decays.m)[..., None]).reshape(*z_o.shape)
        c, n = write_chunk(decays, carry.c, carry.n, k, v)
        after = MLSTMCarry(h=h[..., -1, :], c=c, n=n, m=decays.m[..., -1, :])
        return (after, h) if valid is None else _hold_masked(after, h, held, valid, episode)

    def _split_chunk(self, z: Array, valid: Array | None) -> tuple[Array, ...]:
        """q, k and v of each head, z_o, log i~ and log f~, which say that masked steps write and forget nothing."""
        size, heads = self.hidden_size, self.num_heads
        vectors, z_o, log_i, z_f = jnp.split(z, [3 * size, 4 * size, 4 * size + heads], axis=-1)
        q, k, v = (part.reshape(*z.shape[:-1], heads, size // heads) for part in jnp.split(vectors, 3, axis=-1))
        log_f = log_forget(z_f, exponential=self.exponential_forget)
        if valid is not None:
            log_i, log_f = (
                select(valid, gate, jnp.full_like(gate, to)) for gate, to in ((log_i, -jnp.inf), (log_f, 0))
            )
        return q, k, v, z_o, log_i, log_f

    def _gates_and_m(self, z: Array, m: Array) -> tuple[MLSTMGates, Array]:
        size, heads = self.hidden_size, self.num_heads
        _, z_o, z_i, z_f = jnp.split(z, [3 * size, 4 * size, 4 * size + heads], axis=-1)
        i, f, m = exponential_gates(z_i, z_f, m, exponential_forget=self.exponential_forget)
        return MLSTMGates(i=i, f=f, o=jax.nn.sigmoid(z_o)), m


def mlstm_transition(
    gates: MLSTMGates,
    q: Float[Array, "*batch N D"],
    k: Float[Array, "*batch N D"],
    v: Float[Array, "*batch N D"],
    carry: MLSTMCarry,
    m: Float[Array, "*batch N"],
) -> MLSTMCarry:
    """C_t = f C_{t-1} + i v k^T, n_t = f n_{t-1} + i k, h_t = o * C_t q / max(|n_t^T q|, exp(-m_t)); and the new m."""
    i, f = gates.i[..., None], gates.f[..., None]
    c = f[..., None] * carry.c + (i * v)[..., None] * k[..., None, :]
    n = f * carry.n + i * k
    read = (c * q[..., None, :]).sum(-1) / _norm((n * q).sum(-1), m)[..., None]
    return MLSTMCarry(h=gates.o * read.reshape(*gates.o.shape), c=c, n=n, m=m)


def _norm(n_q: Float[Array, "*batch N"], m: Float[Array, "*batch N"]) -> Float[Array, "*batch N"]:
    """max(|n^T q|, exp(-m)).

    exp(-m) is kept where it and its square's inverse, which its derivative needs, are within the range of the dtype.
    """
    limit = -math.log(float(jnp.finfo(m.dtype).tiny))
    return jnp.maximum(jnp.abs(n_q), jnp.exp(jnp.clip(-m, -0.49 * limit, 0.99 * limit)))


def _hold_masked(
    after: MLSTMCarry,
    h: Float[Array, "*batch L H"],
    held: MLSTMCarry,
    valid: Bool[Array, "*batch L"],
    episode: Int[Array, "*batch L"],
) -> tuple[MLSTMCarry, Float[Array, "*batch L H"]]:
    """The h of the last step that counts in the carry, or the carry held where none does; zeros for masked steps."""
    counts = valid & (episode == episode[..., -1:])
    time = jax.lax.broadcasted_iota(jnp.int32, valid.shape, valid.ndim - 1)
    last = jnp.where(counts, time, -1).max(-1, keepdims=True)
    after = after._replace(h=select(time == last, h, jnp.zeros_like(h)).sum(-2))
    return select(counts.any(-1), after, held), select(valid, h, jnp.zeros_like(h))
