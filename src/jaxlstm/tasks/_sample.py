"""Generates text with a trained model, one character at a time."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxlstm import Network, _checks
from jaxlstm.tasks import _text
from jaxlstm.tasks._model import ModelParams
from jaxlstm.tasks._text_model import indices, load_text
from jaxlstm.tasks._types import Carry, Key


def sample(
    directory: Path,
    prompt: str = "\n",
    *,
    length: int = 500,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
) -> Iterator[str]:
    """Generate text with the model of a run of the task "text".

        p = softmax(logits / temperature)      over the top_k largest logits

    Args:
      directory: the run's directory. If it has several models, see `load_text` for which one is used.
      prompt: text that the model reads first, at least one character.
      length: characters to generate.
      temperature: below 1 favours likely characters; 0 always takes the likeliest.
      top_k: draw only from the N likeliest characters.
      seed: random seed.

    Returns:
      An iterator over the generated characters, without the prompt.

    Raises:
      RunError: if the directory holds no such run, or the prompt has characters that the model does not know.
      ValueError, TypeError: if an option is invalid; the message starts with its name.
    """
    _check_options(prompt, length, temperature, top_k, seed)
    network, params, vocabulary = load_text(directory)
    characters = indices("prompt", prompt, vocabulary)

    def speak(characters: Int[Array, "T"]) -> Iterator[str]:
        carry = network.init_carry(params.network, (1,))
        for key in jax.random.split(jax.random.key(seed), length):
            carry, logits = _read(network, params, carry, characters)
            characters = draw(key, logits, temperature, top_k)[None]
            yield vocabulary[int(characters[0])]

    return speak(characters)


@partial(jax.jit, static_argnames="network")
def _read(
    network: Network, params: ModelParams, carry: Carry, characters: Int[Array, "T"]
) -> tuple[Carry, Float[Array, "V"]]:
    """The carry after these characters, and the logits of the next one."""
    carry, logits = _text.model(network, params, carry, characters[:, None])
    return carry, logits[-1, 0]


def draw(key: Key, logits: Float[Array, "V"], temperature: float, top_k: int | None) -> Int[Array, ""]:
    """An index drawn from ``softmax(logits / temperature)`` among the `top_k` largest; the largest at temperature 0.

    >>> from jaxlstm.tasks._sample import draw
    >>> int(draw(jax.random.key(0), jnp.array([0.0, 2.0, 1.0]), 0.0, None))
    1
    """
    if top_k is not None and top_k < logits.size:
        logits = jnp.where(logits < jnp.sort(logits)[-top_k], -jnp.inf, logits)
    if temperature < jnp.finfo(logits.dtype).tiny:  # 0 in float32
        return jnp.argmax(logits).astype(jnp.int32)
    logits = logits - jnp.max(logits)  # so that an overflow gives -inf, a probability of 0
    return jax.random.categorical(key, logits / temperature).astype(jnp.int32)


def _check_options(prompt: object, length: object, temperature: object, top_k: object, seed: object) -> None:
    if not isinstance(prompt, str) or not prompt:
        _checks.reject("prompt", "at least one character", _checks.describe(prompt))
    _checks.check_size("length", length)
    _checks.check_number("temperature", temperature)
    if temperature < 0:  # pyright: ignore[reportOperatorIssue]
        _checks.reject("temperature", "a number >= 0", temperature)
    if top_k is not None:
        _checks.check_size("top_k", top_k)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
        _checks.reject("seed", "an int in 0..2147483647", _checks.describe(seed))
