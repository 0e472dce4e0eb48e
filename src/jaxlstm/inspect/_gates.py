"""Statistics of gates over a sequence: how often they are shut or open, and how long units remember.

Each function takes one gate ``[T, *batch, H]``, such as ``gates.f`` of a trace, and returns numbers for each unit. They
cover all steps that count: those within `lengths` and where `mask` is True.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from jaxlstm import _array_checks, _checks
from jaxlstm._arrays import select
from jaxlstm._dtypes import at_least_float32
from jaxlstm._unroll import valid_steps

# Karpathy et al. 2015, section 4.2: a gate is left-saturated below 0.1 and right-saturated above 0.9.
SHUT, OPEN = 0.1, 0.9


class Saturation(NamedTuple):
    """The share of steps in which each unit's gate is shut (left-saturated) and open (right-saturated): ``[H]``."""

    left: Float[Array, "H"]
    right: Float[Array, "H"]


def saturation(gate: ArrayLike, *, lengths: ArrayLike | None = None, mask: ArrayLike | None = None) -> Saturation:
    """Compute how often each unit's gate is saturated (Karpathy, Johnson & Fei-Fei 2015, figure 3).

        left = share of steps with gate_t < 0.1        right = share of steps with gate_t > 0.9

    Args:
      gate: a gate after its sigmoid, ``[T, *batch, H]``.
      lengths: integers ``[*batch]``: only the first steps count.
      mask: bool ``[T, *batch]``: False where a step does not count.

    Returns:
      The two shares, ``[H]`` each, over the steps that count in all sequences; NaN if no step counts.

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
    """Compute after how many steps a unit has forgotten half of its memory, at the geometric mean of its forget gate.

        f^n = 1/2    f = exp(mean log f_t)        n = log 2 / -mean log f_t

    Args:
      f: the factor of the old memory ``[T, *batch, H]``: f of an LSTM or an MGU, z of a GRU, 1 - z of a minGRU.
      lengths: integers ``[*batch]``: only the first steps count.
      mask: bool ``[T, *batch]``: False where a step does not count.

    Returns:
      ``[H]``, in steps that count: 0 if the gate was exactly 0 at any of them, infinity if it was always 1, NaN if no
      step counts.

    Raises:
      ValueError, TypeError: if an argument does not fit; the message names it.

    >>> from jaxlstm.inspect import half_life
    >>> half_life(jnp.full((10, 1), 0.5 ** (1 / 8))).round(3)
    Array([8.], dtype=float32)
    """
    f, counts = _gate("f", f, lengths, mask)
    rate = _mean(jnp.log(select(counts, f, jnp.ones_like(f))), counts)
    decay = jnp.abs(jnp.minimum(rate, 0))  # abs, not a minus sign: dividing by -0 would give -infinity
    return jnp.log(jnp.full_like(rate, 2)) / decay


def retention(
    f: ArrayLike,
    lags: int,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
) -> Float[Array, "lags H"]:
    """Compute the share of a unit's memory that is left after 0, 1, .. `lags` steps, according to its forget gates.

        r_n = mean over t of f_{t+1} f_{t+2} .. f_{t+n}        this product is d c_{t+n} / d c_t along the cell state

    Args:
      f: the factor of the old memory ``[T, *batch, H]``: f of an LSTM or an MGU, z of a GRU, 1 - z of a minGRU.
      lags: the longest lag, less than T.
      lengths: integers ``[*batch]``: only the first steps count.
      mask: bool ``[T, *batch]``: False where a step does not count. Such a step holds the memory, so its factor is 1,
        and no lag begins or ends there.
      reset: bool ``[T, *batch]``: True where a new sequence begins. It keeps nothing, so its factor is 0.

    Returns:
      ``[lags + 1, H]``, NaN at lags that have no pair of steps that count.

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
        reset = _array_checks.bool_array("reset", reset, f.shape[:-1])
        factors = select(reset, jnp.zeros_like(f), factors)
    return _retention(factors, counts, lags=int(lags))


@partial(jax.jit, static_argnames="lags")
def _retention(
    factors: Float[Array, "T *batch H"], counts: Bool[Array, "T *batch"], *, lags: int
) -> Float[Array, "lags H"]:
    """The means over time of the products of 0, 1, .. `lags` factors. Jitted, so that equal calls compile once."""

    def longer(now: tuple[Array, Array, Array], _: None) -> tuple[tuple[Array, Array, Array], Array]:
        products, factors, ends = now  # at t: f_{t+1} .. f_{t+n}, f_{t+n}, and whether step t + n counts
        factors, ends = _next(factors), _next(ends)
        products = products * factors
        return (products, factors, ends), _mean(products, counts & ends)

    none = jnp.ones_like(factors)
    _, means = jax.lax.scan(longer, (none, factors, counts), length=lags)
    return jnp.concatenate([_mean(none, counts)[None], means])


def _gate(name: str, gate: ArrayLike, lengths: ArrayLike | None, mask: ArrayLike | None) -> tuple[Array, Array]:
    """A gate in at least float32, and which of its steps count."""
    gate = _array_checks.float_array(name, gate, 2, "[T, *batch, H]")
    steps, *batch = gate.shape[:-1]
    counts = valid_steps(steps, tuple(batch), lengths=lengths, mask=mask)
    counts = jnp.ones(gate.shape[:-1], bool) if counts is None else counts
    return gate.astype(at_least_float32(gate.dtype)), counts


def _mean(values: Float[Array, "T *batch H"], counts: Bool[Array, "T *batch"]) -> Float[Array, "H"]:
    """The mean over the steps that count, for each unit."""
    axes = tuple(range(counts.ndim))
    return select(counts, values, jnp.zeros_like(values)).sum(axes) / counts.sum().astype(values.dtype)


def _next(values: Array) -> Array:
    """Shift by one step, so that t holds the value of t + 1; zeros at the end."""
    return jnp.concatenate([values[1:], jnp.zeros_like(values[:1])])
