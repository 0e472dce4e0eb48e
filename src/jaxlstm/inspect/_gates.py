"""What gates do over a sequence: how often they are shut or open, and how long the memory is that they leave.

All take one gate ``[T, *batch, H]``, such as ``gates.f`` of a trace, and tell of each unit, over all steps that count.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from jaxlstm import _checks
from jaxlstm._arrays import select
from jaxlstm._dtypes import at_least_float32
from jaxlstm._unroll import valid_steps

SHUT, OPEN = (
    0.1,
    0.9,
)  # Karpathy et al. 2015, section 4.2: left-saturated below the one, right-saturated above the other


class Saturation(NamedTuple):
    """The share of steps at which a unit's gate is shut (left-saturated) and open (right-saturated), each ``[H]``."""

    left: Float[Array, "H"]
    right: Float[Array, "H"]


def saturation(gate: ArrayLike, *, lengths: ArrayLike | None = None, mask: ArrayLike | None = None) -> Saturation:
    """How often each unit's gate is saturated (Karpathy, Johnson & Fei-Fei 2015, figure 3).

        left = share of steps with gate_t < 0.1        right = share of steps with gate_t > 0.9

    Args:
      gate: a gate after its sigmoid, ``[T, *batch, H]``.
      lengths: integers ``[*batch]``: only the first steps count.
      mask: bool ``[T, *batch]``: False where a step does not count.

    Returns:
      The two shares, ``[H]`` each, of the steps that count in all sequences; NaN if none does.

    Raises:
      ValueError, TypeError: if an argument does not fit; the message names it.

    >>> from jaxlstm.inspect import saturation
    >>> saturation(jnp.array([[0.05], [0.5], [0.95], [0.99]])).right
    Array([0.5], dtype=float32)
    """
    gate, counts = _gate("gate", gate, lengths, mask)
    shut, opened = (beyond.astype(gate.dtype) for beyond in (gate < SHUT, gate > OPEN))
    return Saturation(left=_mean(shut, counts), right=_mean(opened, counts))


def half_life(f: ArrayLike, *, lengths: ArrayLike | None = None, mask: ArrayLike | None = None) -> Float[Array, "H"]:
    """The steps after which half of a unit's memory is forgotten, at the geometric mean of its forget gate.

        f^n = 1/2    f = exp(mean log f_t)        n = log 2 / -mean log f_t

    Args:
      f: forget gates of an LSTM, or update gates z of a GRU, ``[T, *batch, H]``: the factor of the old memory.
      lengths: integers ``[*batch]``: only the first steps count.
      mask: bool ``[T, *batch]``: False where a step does not count.

    Returns:
      ``[H]``, in steps that count: 0 where a gate was ever shut entirely, infinity where it was never less than open,
      NaN if no step counts.

    Raises:
      ValueError, TypeError: if an argument does not fit; the message names it.

    >>> from jaxlstm.inspect import half_life
    >>> half_life(jnp.full((10, 1), 0.5 ** (1 / 8))).round(3)
    Array([8.], dtype=float32)
    """
    f, counts = _gate("f", f, lengths, mask)
    rate = _mean(jnp.log(select(counts, f, jnp.ones_like(f))), counts)
    return jnp.log(jnp.full_like(rate, 2)) / jnp.abs(
        jnp.minimum(rate, 0)
    )  # abs, since the sign of 0 would be infinity's


def retention(
    f: ArrayLike,
    lags: int,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
) -> Float[Array, "lags H"]:
    """The share of a unit's memory that its forget gates leave after 0, 1, .. `lags` steps.

        r_n = mean over t of f_{t+1} f_{t+2} .. f_{t+n}        which is d c_{t+n} / d c_t by the cell state alone

    Args:
      f: forget gates of an LSTM, or update gates z of a GRU, ``[T, *batch, H]``: the factor of the old memory.
      lags: the longest lag, less than T.
      lengths: integers ``[*batch]``: only the first steps count.
      mask: bool ``[T, *batch]``: a step that does not count holds the memory, so its factor is 1, and no lag begins or
        ends at it.
      reset: bool ``[T, *batch]``: a new sequence keeps nothing, so its factor is 0.

    Returns:
      ``[lags + 1, H]``, NaN at lags which no two steps that count have between them.

    Raises:
      ValueError, TypeError: if an argument does not fit; the message names it.

    >>> from jaxlstm.inspect import retention
    >>> retention(jnp.full((10, 1), 0.5), 3)[:, 0]
    Array([1.   , 0.5  , 0.25 , 0.125], dtype=float32)
    """
    f, counts = _gate("f", f, lengths, mask)
    _checks.check_size("lags", lags)
    if lags >= f.shape[0]:
        _checks.reject("lags", f"fewer than the {f.shape[0]} steps of f", lags)
    factors = select(counts, f, jnp.ones_like(f))
    if reset is not None:
        reset = _checks.bool_array("reset", reset, f.shape[:-1])
        factors = select(reset, jnp.zeros_like(f), factors)

    def longer(now: tuple[Array, Array, Array], _: None) -> tuple[tuple[Array, Array, Array], Array]:
        products, factors, ends = now  # at t: up to t + n, and what is at t + n
        factors, ends = _next(factors), _next(ends)
        products = products * factors
        return (products, factors, ends), _mean(products, counts & ends)

    none = jnp.ones_like(f)
    _, means = jax.lax.scan(longer, (none, factors, counts), length=lags)
    return jnp.concatenate([_mean(none, counts)[None], means])


def _gate(name: str, gate: ArrayLike, lengths: ArrayLike | None, mask: ArrayLike | None) -> tuple[Array, Array]:
    """A gate in at least float32, and which of its steps count."""
    gate = _checks.float_array(name, gate, 2, "[T, *batch, H]")
    steps, *batch = gate.shape[:-1]
    counts = valid_steps(steps, tuple(batch), lengths=lengths, mask=mask)
    counts = jnp.ones(gate.shape[:-1], bool) if counts is None else counts
    return gate.astype(at_least_float32(gate.dtype)), counts


def _mean(values: Float[Array, "T *batch H"], counts: Bool[Array, "T *batch"]) -> Float[Array, "H"]:
    """The mean of each unit over the steps that count."""
    axes = tuple(range(counts.ndim))
    return select(counts, values, jnp.zeros_like(values)).sum(axes) / counts.sum().astype(values.dtype)


def _next(values: Array) -> Array:
    """What is at t + 1 at t; zeros after the end."""
    return jnp.concatenate([values[1:], jnp.zeros_like(values[:1])])
