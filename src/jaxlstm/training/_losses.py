"""Masked losses, on top of `optax.losses`. Masked entries affect neither loss nor gradient, even if they are NaN."""

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxlstm import _array_checks, _checks
from jaxlstm._arrays import select
from jaxlstm._dtypes import at_least_float32


def masked_mean(values: ArrayLike, mask: ArrayLike | None = None) -> Float[Array, ""]:
    """The mean of the values where the mask is True.

        sum_n m_n v_n / max(sum_n m_n, 1)

    Args:
      values: ``[*batch, *rest]``.
      mask: bool ``[*batch]``, or None for all True. False leaves out the entry's whole ``rest``.

    Returns:
      A scalar, in at least float32; 0, with a gradient of 0, if all is masked. Masked NaN and infinity in `values` do
      not reach it, nor its gradient with respect to `values`. They do reach the gradient of the computation that made
      `values` (0 * NaN is NaN). So mask the *inputs* of a loss, as `cross_entropy` and `squared_error` do.

    Raises:
      ValueError, TypeError: if the mask is not bool, or its axes are not the first axes of `values`.

    >>> from jaxlstm.training import masked_mean
    >>> float(masked_mean(jnp.array([1.0, 3.0, jnp.nan]), jnp.array([True, True, False])))
    2.0
    """
    values = _array_checks.float_array("values", values, 0, "[*batch, *rest]")
    values = values.astype(at_least_float32(values.dtype))
    if mask is None:
        return jnp.sum(values) / max(values.size, 1)
    mask = _leading_mask(mask, values.shape)
    rest = values.size // max(mask.size, 1)
    count = jnp.maximum(jnp.sum(mask, dtype=jnp.int32) * rest, 1).astype(values.dtype)
    return jnp.sum(select(mask, values, jnp.zeros_like(values))) / count


def cross_entropy(logits: ArrayLike, labels: ArrayLike, mask: ArrayLike | None = None) -> Float[Array, ""]:
    """The mean negative log-likelihood of the labels under a softmax.

        mean over n of  -log p_n[labels_n]        p_n = softmax(logits_n)

    Args:
      logits: ``[*batch, C]``, unnormalised, for C classes.
      labels: integers ``[*batch]`` in 0..C-1, or any where the mask is False.
      mask: bool ``[*batch]``, or None for all True.

    Returns:
      A scalar in nats, in at least float32; 0, with a gradient of 0, if all is masked.

    Raises:
      ValueError, TypeError: if shapes or dtypes do not fit; the message names the argument.

    >>> from jaxlstm.training import cross_entropy
    >>> logits = jnp.array([[0.0, 0.0], [jnp.nan, 0.0]])
    >>> float(cross_entropy(logits, jnp.array([1, -1]), jnp.array([True, False])))  # log 2
    0.6931471824645996
    """
    logits = _array_checks.float_array("logits", logits, 1, "[*batch, C]")
    logits = logits.astype(at_least_float32(logits.dtype))
    labels = _labels(labels, logits.shape[:-1])
    if mask is not None:
        mask = _array_checks.bool_array("mask", mask, labels.shape)
        logits = select(mask, logits, jnp.zeros_like(logits))
        labels = jnp.where(mask, labels, jnp.zeros_like(labels))
    return masked_mean(optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels), mask)


def squared_error(predictions: ArrayLike, targets: ArrayLike, mask: ArrayLike | None = None) -> Float[Array, ""]:
    """The mean squared error.

        mean over n of  (predictions_n - targets_n)^2

    Args:
      predictions: ``[*batch, *rest]``.
      targets: the same shape.
      mask: bool ``[*batch]``, or None for all True. False leaves out the entry's whole ``rest``.

    Returns:
      A scalar, in at least float32; 0, with a gradient of 0, if all is masked.

    Raises:
      ValueError, TypeError: if shapes or dtypes do not fit; the message names the argument.

    >>> from jaxlstm.training import squared_error
    >>> float(squared_error(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])))
    2.0
    """
    predictions = _array_checks.float_array("predictions", predictions, 0, "[*batch, *rest]")
    targets = _array_checks.float_array("targets", targets, 0, "[*batch, *rest]")
    if predictions.shape != targets.shape:  # (n,) against (n, 1) would broadcast to (n, n) and train on nonsense
        _checks.reject("targets", f"shape {predictions.shape}, as predictions", targets.shape)
    with jax.numpy_dtype_promotion("standard"):
        dtype = at_least_float32(jnp.promote_types(predictions.dtype, targets.dtype))
    difference = predictions.astype(dtype) - targets.astype(dtype)
    if mask is not None:
        mask = _leading_mask(mask, difference.shape)
        difference = select(mask, difference, jnp.zeros_like(difference))
    return masked_mean(optax.losses.squared_error(difference), mask)


def _leading_mask(mask: ArrayLike, shape: tuple[int, ...]) -> Array:
    """`mask` as a bool array of the first axes of `shape`."""
    return _array_checks.bool_array("mask", mask, shape[: jnp.ndim(mask)])


def _labels(labels: ArrayLike, shape: tuple[int, ...]) -> Array:
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        _checks.reject("labels", f"an integer array of shape {shape}", _checks.describe(labels), TypeError)
    if labels.shape != shape:
        _checks.reject("labels", f"shape {shape}, as logits without its last axis", labels.shape)
    return labels
