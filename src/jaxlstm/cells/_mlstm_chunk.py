"""The mLSTM's memory over a chunk of steps at once: decays between all steps, then matmuls over the chunk.

Derived from the recurrence in `_mlstm`. L steps, t or s, come after the batch axes. Steps of different episodes do not
see each other: the first step of an episode starts from the cell's initial memory, but those of episode 0 from the
memory before the chunk.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Read(NamedTuple):
    """C q_t and n^T q_t of the memory before the episode of each step, and the m of that memory."""

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
    episode: Int[Array, "*batch L"],
) -> Decays:
    """The decays between the steps of a chunk: products of the stabilised gates i and f of the recurrence.

        m_t   = max(log f~_t + m_{t-1}, log i~_t)        the recurrence, by an associative scan
        steps = i_s f_{s+1} ... f_t                      0 for s > t and across episodes
        start = product of f_r over all r <= t of the episode

    Each product is a sum of logarithms of its own: the difference of two cumulative sums would have no digits left
    after a step that forgets all. A masked step has log i~ = -inf and log f~ = 0.

    Args:
      log_i: log i~, of the input gates before they are stabilised.
      log_f: log f~, likewise.
      m_start: the m of the memory before the episode of each step.
      episode: the number of the episode of each step, which only grows.
    """
    new = jnp.diff(episode, axis=-1, prepend=episode[..., :1] - 1) > 0
    m, m_before = _stabilisers(log_i, log_f, m_start, new[..., None])
    log_i, log_f = (jnp.swapaxes(gate, -1, -2) for gate in (log_i - m, log_f + m_before - m))
    time = jax.lax.expand_dims(jnp.arange(episode.shape[-1]), range(log_f.ndim - 1))
    t, s = time[..., :, None], time[..., None, :]
    seen = (t >= s) & (episode[..., None, :, None] == episode[..., None, None, :])
    between = jnp.cumsum(jnp.where(t > s, log_f[..., :, None], 0), axis=-2)
    start = jnp.where(seen, log_f[..., None, :], 0).sum(-1)
    steps = jnp.exp(jnp.where(seen, between + log_i[..., None, :], -jnp.inf))
    return Decays(steps=steps, start=jnp.swapaxes(jnp.exp(start), -1, -2), m=m)


def _stabilisers(log_i: Array, log_f: Array, m_start: Array, new: Array) -> tuple[Array, Array]:
    """m of each step and m before it. An associative scan of x -> max(f + x, i), where a new episode has f = -inf."""

    def compose(one: tuple[Array, Array], two: tuple[Array, Array]) -> tuple[Array, Array]:
        return one[0] + two[0], jnp.maximum(two[0] + one[1], two[1])

    i = jnp.where(new, jnp.maximum(log_f + m_start, log_i), log_i)
    _, m = jax.lax.associative_scan(compose, (jnp.where(new, -jnp.inf, log_f), i), axis=log_i.ndim - 2)
    return m, jnp.where(new, m_start, jnp.roll(m, 1, axis=-2))


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
