"""The mLSTM's memory over a chunk of steps at once: decays between all steps, then matmuls over the chunk.

Derived from the recurrence in `_mlstm`. L steps, t or s, come after the batch axes. A step may be masked, which holds
the memory, or begin a new episode, which starts from the cell's initial memory.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Read(NamedTuple):
    """C q_t and n^T q_t for the memory before a chunk and each q of the chunk, and m of that memory."""

    c_q: Float[Array, "*batch L N D"]
    n_q: Float[Array, "*batch L N"]
    m: Float[Array, "*batch L N"]


class Decays(NamedTuple):
    """The shares of what step t reads: of each step s, and of the memory before its episode; and m of step t."""

    steps: Float[Array, "*batch N L L"]
    start: Float[Array, "*batch L N"]
    m: Float[Array, "*batch L N"]


def read_memory(
    c: Float[Array, "*batch N D D"],
    n: Float[Array, "*batch N D"],
    m: Float[Array, "*batch N"],
    q: Float[Array, "*batch L N D"],
) -> Read:
    """What each q reads of one memory."""
    c_q, n_q = jnp.einsum("...nvk,...tnk->...tnv", c, q), jnp.einsum("...nk,...tnk->...tn", n, q)
    return Read(c_q, n_q, jnp.broadcast_to(m[..., None, :], n_q.shape))


def chunk_decays(
    log_i: Float[Array, "*batch L N"],
    log_f: Float[Array, "*batch L N"],
    m_start: Float[Array, "*batch L N"],
    valid: Bool[Array, "*batch L"] | None = None,
    episode: Int[Array, "*batch L"] | None = None,
) -> Decays:
    """The stabilised decays between the steps of a chunk, from the logarithms of the gates.

        F_ts  = sum of log f_r over s < r <= t        F_t = sum of log f_r over all r <= t of the episode
        m_t   = max(F_t + m_start, max over s of F_ts + log i_s)
        steps = exp(F_ts + log i_s - m_t)             0 for s > t, across episodes and for a masked s
        start = exp(F_t + m_start - m_t)

    Each F_ts is a sum of its own. A difference of cumulative sums would lose its digits after a step that forgets all.

    Args:
      log_i: the logarithms of the input gates.
      log_f: the logarithms of the forget gates.
      m_start: the m of the memory before the episode of each step.
      valid: False where a step is masked; None: all count.
      episode: the number of each step's episode, which only grows; None: all steps are of one.
    """
    log_i, log_f, m_start = (jnp.swapaxes(gate, -1, -2) for gate in (log_i, log_f, m_start))
    time = jax.lax.expand_dims(jnp.arange(log_f.shape[-1]), range(log_f.ndim - 1))
    t, s = time[..., :, None], time[..., None, :]
    seen = t >= s
    if episode is not None:
        seen = seen & (episode[..., None, :, None] == episode[..., None, None, :])
    if valid is not None:
        log_f = jnp.where(valid[..., None, :], log_f, 0)
    from_start = jnp.where(seen, log_f[..., None, :], 0).sum(-1) + m_start
    from_steps = jnp.cumsum(jnp.where(t > s, log_f[..., :, None], 0), axis=-2) + log_i[..., None, :]
    if valid is not None:
        seen = seen & valid[..., None, None, :]
    from_steps = jnp.where(seen, from_steps, -jnp.inf)
    m = jnp.maximum(from_start, from_steps.max(-1))
    steps, start = jnp.exp(from_steps - m[..., None]), jnp.exp(from_start - m)
    return Decays(steps, jnp.swapaxes(start, -1, -2), jnp.swapaxes(m, -1, -2))


def read_chunk(
    decays: Decays,
    start: Read,
    q: Float[Array, "*batch L N D"],
    k: Float[Array, "*batch L N D"],
    v: Float[Array, "*batch L N D"],
) -> tuple[Float[Array, "*batch L N D"], Float[Array, "*batch L N"]]:
    """C_t q_t and n_t^T q_t of each step: its share of the start, and of the steps since."""
    scores = decays.steps * jnp.einsum("...tnd,...snd->...nts", q, k)
    c_q = decays.start[..., None] * start.c_q + jnp.einsum("...nts,...snd->...tnd", scores, v)
    return c_q, decays.start * start.n_q + jnp.swapaxes(scores.sum(-1), -1, -2)


def write_chunk(
    decays: Decays,
    c: Float[Array, "*batch N D D"],
    n: Float[Array, "*batch N D"],
    k: Float[Array, "*batch L N D"],
    v: Float[Array, "*batch L N D"],
) -> tuple[Float[Array, "*batch N D D"], Float[Array, "*batch N D"]]:
    """C and n after the last step, from those before its episode."""
    start, steps = decays.start[..., -1, :, None], jnp.swapaxes(decays.steps[..., -1, :], -1, -2)[..., None]
    c = start[..., None] * c + jnp.einsum("...snv,...snk->...nvk", steps * v, k)
    return c, start * n + (steps * k).sum(-3)
