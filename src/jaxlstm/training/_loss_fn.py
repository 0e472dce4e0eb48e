"""The loss function of a training step: its types, and how the step calls it and checks what it returns."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxlstm import _checks
from jaxlstm._random import Key
from jaxlstm._step import Carry, Params
from jaxlstm.training._state import TrainState

Metrics = dict[str, Any]  # arrays by name
OWN = ("loss", "grad_norm", "skipped")  # metrics that the step itself reports


@runtime_checkable
class StatelessLossFn(Protocol):
    """The loss of a batch that does not depend on the batches before it.

    Any function of three positional arguments fits, whatever their names.
    """

    def __call__(self, params: Params, batch: Any, key: Key, /) -> tuple[Array, Metrics]:
        """Compute the loss of a batch.

        Args:
          params: the params to differentiate by.
          batch: what was passed to the training step, or what `fit` drew from its batches.
          key: a PRNG key of this step alone.

        Returns:
          ``(loss, metrics)``: a floating-point scalar to minimise, and a dict of arrays to report, ``{}`` for none.
        """
        ...


@runtime_checkable
class CarriedLossFn(Protocol):
    """The loss of a batch whose sequences continue those of the batch before, for a state with a carry.

    Any function of four positional arguments fits, whatever their names.
    """

    def __call__(self, params: Params, carry: Carry, batch: Any, key: Key, /) -> tuple[Array, tuple[Carry, Metrics]]:
        """Compute the loss of a batch, starting from the carry of the step before.

        Args:
          params: the params to differentiate by.
          carry: the carry that this function returned in the step before; in the first step, that of `init_state`. It
            is a constant of the gradient.
          batch: what was passed to the training step, or what `fit` drew from its batches.
          key: a PRNG key of this step alone.

        Returns:
          ``(loss, (carry, metrics))``: a floating-point scalar to minimise, the carry for the next step, with the
          structure, shapes and dtypes of the one given, and a dict of arrays to report, ``{}`` for none.
        """
        ...


LossFn = StatelessLossFn | CarriedLossFn  # a state with a carry needs the second


def call_loss_fn(
    loss_fn: Callable[..., Any], params: Params, state: TrainState, batch: Any
) -> tuple[Array, tuple[Carry, Metrics]]:
    """Call the loss function, with the carry if the state has one, and check what it returns."""
    key = jax.random.fold_in(state.key, state.step)
    if state.carry is None:
        value, reported = _pair(loss_fn(params, batch, key), "(loss, metrics)")
        carry = None
    else:
        value, after = _pair(loss_fn(params, state.carry, batch, key), "(loss, (carry, metrics))")
        carry, reported = _pair(after, "(loss, (carry, metrics))")
        _check_carry(carry, state.carry)
    _check_report(value, reported)
    return value, (carry, reported)


def _pair(result: Any, what: str) -> tuple[Any, Any]:
    if not isinstance(result, tuple) or len(result) != 2:
        _checks.reject("loss_fn", f"to return {what}", _checks.describe(result), TypeError)
    return result


def _check_report(loss: Any, reported: Any) -> None:
    """Raise an error unless the loss is a floating-point scalar and the metrics are a dict with names of their own."""
    if not isinstance(loss, jax.Array) or not jnp.issubdtype(loss.dtype, jnp.floating):
        _checks.reject("loss_fn", "to return a floating-point loss", _checks.describe(loss), TypeError)
    if loss.ndim:
        _checks.reject("loss_fn", "to return a scalar loss (take a mean or a sum)", f"one of shape {loss.shape}")
    if not isinstance(reported, dict) or not all(isinstance(name, str) for name in reported):
        _checks.reject("loss_fn", "to return metrics as a dict with str keys", _checks.describe(reported), TypeError)
    taken = sorted(set(OWN) & set(reported))
    if taken:
        _checks.reject("loss_fn", f"metrics other than {', '.join(map(repr, OWN))}, which the step reports", taken)


def _check_carry(after: Any, before: Carry) -> None:
    """Raise an error if the carry changes its structure, shapes or dtypes: then every step would compile again."""
    got, expected = (jax.tree.map(_checks.describe, carry) for carry in (after, before))
    if got != expected:
        _checks.reject("loss_fn", f"to return a carry like the one it was given, {expected}", got, TypeError)
