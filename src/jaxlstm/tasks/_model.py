"""The model of every task: a recurrent network, its outputs pooled over time, and a linear head."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxlstm import Network
from jaxlstm.tasks._types import Key, Params


class HeadParams(NamedTuple):
    """``w [H, C]``, ``b [C]``."""

    w: Float[Array, "H C"]
    b: Float[Array, "C"]


class ModelParams(NamedTuple):
    """Params of the network and of the linear head on it."""

    network: Params
    head: HeadParams


def init_model(network: Network, key: Key, input_size: int, outputs: int, steps_read: int = 1) -> ModelParams:
    """Draw initial params; the head, which reads so many steps side by side, as Glorot & Bengio 2010, its bias 0."""
    network_key, head_key = jax.random.split(key)
    w = jax.nn.initializers.glorot_uniform()(head_key, (steps_read * network.output_size, outputs), jnp.float32)
    return ModelParams(
        network=network.init(network_key, input_size), head=HeadParams(w=w, b=jnp.zeros(outputs, jnp.float32))
    )


def max_pool(ys: Float[Array, "T *batch H"], lengths: Int[Array, "*batch"]) -> Float[Array, "*batch H"]:
    """The largest output of each unit over each sequence's own steps; 0 for a sequence of none.

    >>> from jaxlstm.tasks._model import max_pool
    >>> max_pool(jnp.array([[[-2.0]], [[-1.0]], [[0.0]]]), jnp.array([2]))
    Array([[-1.]], dtype=float32)
    """
    times = jnp.arange(ys.shape[0], dtype=lengths.dtype).reshape(-1, *(1 for _ in lengths.shape))
    pooled = jnp.max(jnp.where((times < lengths[None])[..., None], ys, -jnp.inf), axis=0)
    return jnp.where((lengths > 0)[..., None], pooled, 0)


def output_at_last_step(
    ys: Float[Array, "T *batch H"], lengths: Int[Array, "*batch"] | None
) -> Float[Array, "*batch H"]:
    """Each sequence's output at its own last step, of which it has at least one.

    >>> from jaxlstm.tasks._model import output_at_last_step
    >>> output_at_last_step(jnp.array([[[1.0]], [[2.0]], [[0.0]]]), jnp.array([2]))
    Array([[2.]], dtype=float32)
    """
    if lengths is None:
        return ys[-1]
    return jnp.take_along_axis(ys, (lengths - 1)[None, ..., None], axis=0)[0]


def dropout(key: Key | None, h: Float[Array, "..."], rate: float) -> Float[Array, "..."]:
    """Zero each unit with probability `rate` and divide the others by 1 - rate; without a key, nothing."""
    if key is None or not rate:
        return h
    keep = jax.random.bernoulli(key, jnp.float32(1 - rate), h.shape)
    return jnp.where(keep, h / (1 - rate), jnp.zeros_like(h))


def linear(params: HeadParams, h: Float[Array, "*batch H"]) -> Float[Array, "*batch C"]:
    """h @ w + b."""
    return h @ params.w + jnp.broadcast_to(params.b, (*h.shape[:-1], params.b.shape[-1]))
