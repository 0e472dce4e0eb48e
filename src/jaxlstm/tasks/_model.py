"""The model of every task: a recurrent network and a linear head on its outputs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

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
    """Draw initial params. The head reads `steps_read` outputs, concatenated; Glorot & Bengio 2010, zero bias."""
    network_key, head_key = jax.random.split(key)
    w = jax.nn.initializers.glorot_uniform()(head_key, (steps_read * network.output_size, outputs), jnp.float32)
    return ModelParams(
        network=network.init(network_key, input_size), head=HeadParams(w=w, b=jnp.zeros(outputs, jnp.float32))
    )


def dropout(key: Key | None, h: Float[Array, "..."], rate: float) -> Float[Array, "..."]:
    """Zero each unit with probability `rate` and divide the others by 1 - rate. Without a key, return h unchanged."""
    if key is None or not rate:
        return h
    keep = jax.random.bernoulli(key, jnp.float32(1 - rate), h.shape)
    return jnp.where(keep, h / (1 - rate), jnp.zeros_like(h))


def linear(params: HeadParams, h: Float[Array, "*batch H"]) -> Float[Array, "*batch C"]:
    """h @ w + b."""
    return h @ params.w + jnp.broadcast_to(params.b, (*h.shape[:-1], params.b.shape[-1]))
